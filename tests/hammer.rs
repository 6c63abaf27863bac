//! The hammer: clients, handlers and other threads do random things to one server at once. In
//! the end no connection, descriptor, thread or piece of user data may be left, and the accounts
//! of 2.8 must balance.
//!
//! `NS_HAMMER_SECONDS` (5 by default) is how long it runs in all, `NS_HAMMER_SEED` makes other
//! choices. With the feature `capi` it hammers the C ABI, without it the Rust API.

#[cfg_attr(feature = "capi", path = "support/c_backend/mod.rs")]
#[cfg_attr(not(feature = "capi"), path = "support/rust_backend.rs")]
#[allow(dead_code, unused_imports)]
mod api;
#[path = "hammer/mod.rs"]
mod hammer;
#[path = "support/mod.rs"]
mod support;

use std::time::Duration;

/// How long each of the four parts runs.
fn part() -> Duration {
    let seconds = std::env::var("NS_HAMMER_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs_f64(seconds.unwrap_or(5.0) / 4.0)
}

/// 2.8, 2.3, 2.4, 2.11: non-blocking, until all clients have gone.
#[test]
fn non_blocking_to_the_end() {
    support::isolated_for(hammer::limit(part()), || hammer::run(true, hammer::End::Quiet, part()));
}

/// 2.8, 2.1: non-blocking, stopped in the middle of it.
#[test]
fn non_blocking_stopped_midway() {
    support::isolated_for(hammer::limit(part()), || hammer::run(true, hammer::End::Stop, part()));
}

/// 2.8, 2.2: blocking, until all clients have gone.
#[test]
fn blocking_to_the_end() {
    support::isolated_for(hammer::limit(part()), || hammer::run(false, hammer::End::Quiet, part()));
}

/// 2.8, 2.1: blocking, stopped in the middle of it.
#[test]
fn blocking_stopped_midway() {
    support::isolated_for(hammer::limit(part()), || hammer::run(false, hammer::End::Stop, part()));
}
