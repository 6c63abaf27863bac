//! The hammer against the C ABI.

// The suite needs more of it.
#[path = "support/c_backend/mod.rs"]
#[allow(dead_code, unused_imports)]
mod api;
#[path = "hammer/mod.rs"]
mod hammer;
#[path = "support/mod.rs"]
mod support;
