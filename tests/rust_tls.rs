//! The test-suite against the Rust API with every connection through TLS, and what there is with
//! TLS alone.

// `Ok(socket.close())` is how a handler ends.
#![allow(clippy::unit_arg)]

#[path = "support/tls_backend/mod.rs"]
mod api;
#[path = "suite/mod.rs"]
mod suite;
#[path = "support/mod.rs"]
mod support;

#[path = "only_tls/mod.rs"]
mod only_tls;
