//! The C ABI: every `ns_*` function of `include/netserver.h`.
//!
//! This layer converts and calls; what a function *does* is in the core. Each
//! entry goes through a panic boundary (`support.rs`), checks its pointers,
//! turns C values into Rust ones and a Rust result into a status. The doc
//! comments here are the header's documentation: cbindgen copies them.
//!
//! A handle is a pointer:
//!
//! | C              | what it points to                                     |
//! |----------------|-------------------------------------------------------|
//! | `ns_config *`  | `Arc<ns_config>`: the caller's and each server's share |
//! | `ns_tls *`     | `Arc<ns_tls>`: the caller's and each config's share     |
//! | `ns_server *`  | `Box<ns_server>`: the core's `Server` and its context  |
//! | `ns_socket *`  | the core's `Conn`, borrowed in callbacks, owned after a detach |
//! | `ns_error *`   | `Box<ns_error>`, or one on the stack during a callback |

#![allow(non_camel_case_types)]
#![deny(unsafe_op_in_unsafe_fn, clippy::undocumented_unsafe_blocks)]
// The contract of every function is the header's: handles are NULL or came
// from this library and were not freed, buffers have the length they claim.
#![allow(clippy::missing_safety_doc)]
// The comments are the header's: their [tags] are no links.
#![allow(rustdoc::broken_intra_doc_links)]

mod callbacks;
mod calls;
mod config;
mod error;
mod handler;
mod server;
mod socket;
mod stats;
mod support;
mod tls;
mod types;
mod version;

pub use callbacks::*;
pub use calls::*;
pub use config::*;
pub use error::*;
pub use server::*;
pub use socket::*;
pub use stats::*;
pub use tls::*;
pub use types::*;
pub use version::*;
