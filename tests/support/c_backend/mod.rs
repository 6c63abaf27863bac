//! The suite's view of the C ABI: what a careful C program would do, in the shapes of the Rust API.

#[path = "../hooks.rs"]
mod hooks;
#[path = "../plain.rs"]
mod plain;

mod adopt;
mod callbacks;
mod error;
mod server;
mod socket;
mod tasks;
pub mod tls;

pub use adopt::AdoptError;
pub use error::Error;
pub use hooks::Hooks;
pub use net_server::{
    CloseReason, Config, ConnId, LogLevel, Logger, ProxyProtocol, State, Stats, Status, ThreadKind,
    ThreadStats,
};
pub use plain::*;
pub use server::Server;
pub use socket::{OwnedSocket, Socket};
pub use tasks::{Interest, TaskId};

use std::ffi::{c_char, CString};

/// A result of what the C functions return: 0 or a negative status.
fn check(code: i32) -> Result<(), Error> {
    match code {
        0 => Ok(()),
        code => Err(Error::of(code)),
    }
}

fn c_text(text: &str) -> CString {
    CString::new(text).expect("text without NUL")
}

/// Reads text from a function that works as `snprintf`.
fn text_of(give: impl Fn(*mut c_char, usize) -> usize) -> String {
    let mut buffer = vec![0u8; give(std::ptr::null_mut(), 0) + 1];
    loop {
        let len = give(buffer.as_mut_ptr().cast(), buffer.len());
        if len < buffer.len() {
            buffer.truncate(len);
            return String::from_utf8(buffer).expect("UTF-8");
        }
        // It has grown meanwhile, as a report may.
        buffer.resize(len + 1, 0);
    }
}
