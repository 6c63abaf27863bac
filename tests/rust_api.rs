//! The test-suite against the Rust API.

// `Ok(socket.close())` is how a handler ends.
#![allow(clippy::unit_arg)]

#[path = "support/rust_backend.rs"]
mod api;
#[path = "suite/mod.rs"]
mod suite;
#[path = "support/mod.rs"]
mod support;

#[path = "only_rust/mod.rs"]
mod only_rust;
