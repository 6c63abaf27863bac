//! The hammer against the Rust API.

// The suite needs more of it.
#[path = "support/rust_backend.rs"]
#[allow(dead_code, unused_imports)]
mod api;
#[path = "hammer/mod.rs"]
mod hammer;
#[path = "support/mod.rs"]
mod support;
