//! `ns_raise`: how a handler reports why it fails.

// SAFETY of the blocks without a comment: the caller's contract, see `mod.rs`.
#![allow(clippy::undocumented_unsafe_blocks)]

use std::ffi::{c_char, c_void};
use std::ptr;

use super::handles::{ns_socket, reachable_conn};
use super::support::{guard, text};
use super::user_data::{ns_drop_fn, UserData};
use crate::Error;

/// A payload of `ns_raise_with`, as the core keeps it.
pub(super) struct Payload(pub UserData);

/// Reports to the exception handler why a handler fails:
/// `return ns_raise(socket, code, "why");`
///
/// `code` is a number of your own or an `NS_ERR_...`. `message` is copied; NULL
/// is allowed. The library forgets what was raised in a callback that does not
/// fail, or that returns nothing. A second call in the same callback
/// replaces the first, and drops its payload.
///
/// Returns: `code` if it is negative, else -1, whatever else is wrong.
/// [handler] [blocks]
#[no_mangle]
pub unsafe extern "C" fn ns_raise(
    socket: *mut ns_socket,
    code: i32,
    message: *const c_char,
) -> i32 {
    unsafe { ns_raise_with(socket, code, message, ptr::null_mut(), None) }
}

/// `ns_raise` with an object that the exception handler reads with
/// `ns_error_payload`. `drop` (NULL: none) frees it after that; or immediately if
/// it cannot be passed on.
///
/// Returns: as `ns_raise`.
/// [handler] [blocks]
#[no_mangle]
pub unsafe extern "C" fn ns_raise_with(
    socket: *mut ns_socket,
    code: i32,
    message: *const c_char,
    payload: *mut c_void,
    drop: ns_drop_fn,
) -> i32 {
    let code = if code < 0 { code } else { -1 };
    let payload = Payload(UserData::new(payload, drop));
    guard(code, || {
        let (conn, message) = unsafe { (reachable_conn(socket), text(message, "message")) };
        // An owned socket is in no callback whose failure could be reported.
        if let Some(conn) = conn.ok().filter(|conn| !conn.is_owned()) {
            let error = match message {
                Ok(message) => Error::raise(code, message),
                Err(_) => Error::of_code(code),
            };
            conn.set_raised(error.with_payload(Box::new(payload)));
        }
        code
    })
}
