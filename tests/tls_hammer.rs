//! The hammer against the Rust API with every connection through TLS.

// The suite needs more of it.
#[path = "support/tls_backend/mod.rs"]
#[allow(dead_code, unused_imports)]
mod api;
#[path = "hammer/mod.rs"]
mod hammer;
#[path = "support/mod.rs"]
mod support;
