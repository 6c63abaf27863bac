//! The same test-suite against the C ABI, and the tests that only C programs can make.

// `Ok(socket.close())` is how a handler ends.
#![allow(clippy::unit_arg)]

#[path = "support/c_backend/mod.rs"]
mod api;
#[path = "suite/mod.rs"]
mod suite;
#[path = "support/mod.rs"]
mod support;

#[path = "only_c/mod.rs"]
mod only_c;
