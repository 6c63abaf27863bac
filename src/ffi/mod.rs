//! The C ABI: every `ns_*` function of `include/netserver.h`.
//!
//! This layer converts and calls; what a function *does* is in the core. Each
//! exported function (an *entry*) runs inside a boundary that no unwinding
//! crosses, checks its arguments, turns C values into Rust values, calls the
//! core, and turns the result into a status. The doc comments of the exported
//! items are the documentation of the header: cbindgen copies them, and
//! `tests/header.rs` puts them in the order of these sources.
//!
//! | file | what is in it |
//! |---|---|
//! | `support.rs` | the boundary, results, arguments and texts: each helper once |
//! | `handles.rs` | the handles, and every cast between a handle and its object |
//! | `user_data.rs` | a program's pointer with its drop function, a callback |
//! | `handler.rs` | a program's callbacks as a `Handler` of the core |
//! | `transfer.rs` | `ns_socket_recv` and `ns_socket_send`, with their fast path |
//! | the others | entries, a group of the header each |
//!
//! A handle is a pointer:
//!
//! | C              | it points to                                             |
//! |----------------|----------------------------------------------------------|
//! | `ns_config *`  | `Arc<ns_config>`: the program and each server hold a share |
//! | `ns_tls *`     | `Arc<ns_tls>`: the program and each config hold a share   |
//! | `ns_server *`  | `Box<ns_server>`: the core's `Server` and its context     |
//! | `ns_socket *`  | the core's `Conn`: borrowed in callbacks, a `Box` of the program's after a detach |
//! | `ns_error *`   | `Box<ns_error>`, or one on the stack during a callback    |
//!
//! # The caller's contract
//!
//! Every entry with a pointer is an `unsafe fn`. They have one contract, which
//! the header states for programs in C. The caller promises:
//!
//! - A handle is NULL, or this library made it, of this type, and it was not
//!   freed. A borrowed handle is used only in its callback.
//! - A `ns_socket *` is used by one thread at a time, and a borrowed one on the
//!   thread of its callback. So an entry may make a `&mut Conn` of it, which
//!   ends with the entry.
//! - A text is NULL or ends with a NUL. A buffer is NULL or has the length that
//!   the call states, and so has an array. Nothing changes them during the call.
//! - An output parameter is NULL or can be written.
//! - A function is NULL or has the declared type, and may be called with its
//!   user data on any thread.
//!
//! This contract is the SAFETY comment of each `unsafe` block that has none.
//! Such a block does nothing but pass the caller's arguments on to a function
//! whose `# Safety` section needs a part of the contract. A block that does
//! more (it reads or writes through a pointer, or frees it) has a comment with its
//! own reason. Clippy demands a comment at each block in `handles.rs`, `support.rs`
//! and `user_data.rs`. The other files turn that off in their first lines; there
//! `tests/header.rs` demands one at each block that does more.

#![allow(non_camel_case_types)]
#![deny(unsafe_op_in_unsafe_fn, clippy::undocumented_unsafe_blocks)]
// The contract is stated once, above.
#![allow(clippy::missing_safety_doc)]
// The comments are the header's: their [tags] are no links.
#![allow(rustdoc::broken_intra_doc_links)]

mod addresses;
mod adopt;
mod callbacks;
mod calls;
mod close_reason;
mod config;
mod error;
mod handler;
mod handles;
mod limits;
mod logger;
mod owned;
mod proxy;
mod quiesce;
mod raise;
mod server;
mod services;
mod settings;
mod socket;
mod stats;
mod support;
mod tasks;
mod tls;
mod tls_socket;
mod transfer;
mod user_data;
mod version;

pub use addresses::*;
pub use adopt::*;
pub use callbacks::*;
pub use calls::*;
pub use close_reason::*;
pub use config::*;
pub use error::*;
pub use handles::*;
pub use limits::*;
pub use logger::*;
pub use owned::*;
pub use proxy::*;
pub use quiesce::*;
pub use raise::*;
pub use server::*;
pub use services::*;
pub use settings::*;
pub use socket::*;
pub use stats::*;
pub use tasks::*;
pub use tls::*;
pub use tls_socket::*;
pub use transfer::*;
pub use user_data::*;
pub use version::*;
