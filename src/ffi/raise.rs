//! `ns_raise`: how a handler reports why it fails.

// SAFETY of the blocks without a comment: the caller's contract, see `mod.rs`.
#![allow(clippy::undocumented_unsafe_blocks)]

use std::cell::RefCell;
use std::ffi::{c_char, c_void};
use std::mem::ManuallyDrop;
use std::ptr;

use super::handles::{ns_socket, reachable_conn};
use super::support::{guard, text};
use super::user_data::{ns_drop_fn, UserData};
use crate::Error;

/// A payload of `ns_raise_with`, as the core keeps it.
pub(super) struct Payload(pub UserData);

/// What `ns_raise` with NULL left in a callback that has no socket.
enum Raised {
    /// No such callback runs on this thread.
    Outside,
    Nothing,
    Error(Box<Error>),
}

thread_local! {
    // It is never dropped, so that no destructor runs on a thread of the
    // program; outside a callback it holds nothing.
    static RAISED: ManuallyDrop<RefCell<Raised>> =
        const { ManuallyDrop::new(RefCell::new(Raised::Outside)) };
}

/// What the callback around this one left; it comes back when this is dropped, also
/// by an exception that passes.
pub(super) struct Outer(Raised);

impl Drop for Outer {
    fn drop(&mut self) {
        let outer = std::mem::replace(&mut self.0, Raised::Outside);
        drop(RAISED.with(|raised| raised.replace(outer)));
    }
}

/// Puts aside what the callback around this one has, for a call in which other
/// callbacks may run.
pub(super) fn outside() -> Outer {
    enter(Raised::Outside)
}

fn enter(place: Raised) -> Outer {
    Outer(RAISED.with(|raised| raised.replace(place)))
}

/// Runs a callback that has no socket. Its failure is what it raised with NULL, or
/// else the number that it returned.
pub(super) fn without_socket(call: impl FnOnce() -> i32) -> Result<(), Error> {
    let _outer = enter(Raised::Nothing);
    let code = call();
    match (code, RAISED.with(|raised| raised.replace(Raised::Nothing))) {
        (0.., _) => Ok(()),
        (_, Raised::Error(error)) => Err(*error),
        (code, _) => Err(Error::of_code(code)),
    }
}

/// Reports to the exception handler why a handler fails:
/// `return ns_raise(socket, code, "why");`
///
/// `code` is a number of your own or an `NS_ERR_...`. `message` is copied; NULL
/// is allowed. The library forgets what was raised in a callback that does not
/// fail, or that returns nothing. A second call in the same callback
/// replaces the first, and drops its payload. In a callback without a socket (a
/// watch, a timer, a task, `on_start`, `on_thread_start`) `socket` is NULL.
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
        let error = match unsafe { text(message, "message") } {
            Ok(message) => Error::raise(code, message),
            Err(_) => Error::of_code(code),
        };
        let error = error.with_payload(Box::new(payload));
        if socket.is_null() {
            keep_without_socket(error);
            return code;
        }
        let conn = unsafe { reachable_conn(socket) };
        // An owned socket is in no callback whose failure could be reported.
        if let Some(conn) = conn.ok().filter(|conn| !conn.is_owned()) {
            conn.set_raised(error);
        }
        code
    })
}

fn keep_without_socket(error: Error) {
    RAISED.with(|raised| {
        let former = match &mut *raised.borrow_mut() {
            Raised::Outside => return,
            place => std::mem::replace(place, Raised::Error(Box::new(error))),
        };
        // Its drop function may raise, too.
        drop(former);
    });
}
