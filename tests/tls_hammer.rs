//! The hammer against the Rust API with every connection through TLS.

#[path = "support/tls_backend/mod.rs"]
#[allow(dead_code, unused_imports)]
mod api;
#[path = "hammer/mod.rs"]
mod hammer;
#[path = "support/mod.rs"]
mod support;
