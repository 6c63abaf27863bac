//! The Rust API over plain TCP.

#[path = "plain.rs"]
mod plain;
#[path = "rust_api.rs"]
mod rust_api;

pub use plain::*;
pub use rust_api::*;
