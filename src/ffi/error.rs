//! Status numbers and the error object.

// SAFETY of the blocks without a comment: the caller's contract, see `mod.rs`.
#![allow(clippy::undocumented_unsafe_blocks)]

use std::array;
use std::ffi::{c_char, c_void, CString};
use std::ptr;
use std::sync::OnceLock;

use super::handles::get;
use super::raise::Payload;
use super::support::{guard, in_place};
use crate::{Error, Status};

/// 0 (`NS_OK`) for success, else one of the negative `NS_ERR_...`. The numbers
/// are stable.
pub type ns_status = i32;

// The table of status numbers is in `src/error.rs`. The constants are written
// out once more because cbindgen sees no constant that a macro makes;
// `tests/header.rs` compares each number and comment with the table.

/// Success.
pub const NS_OK: i32 = 0;
/// An argument is not valid: NULL, not UTF-8, out of its bounds.
pub const NS_ERR_INVALID: i32 = -1001;
/// The server, config, TLS object or socket is in the wrong state for this
/// call.
pub const NS_ERR_STATE: i32 = -1002;
/// A deadline passed.
pub const NS_ERR_TIMEOUT: i32 = -1003;
/// The connection is closed, or its id is stale.
pub const NS_ERR_CLOSED: i32 = -1004;
/// The peer reset the connection, or the transport failed.
pub const NS_ERR_RESET: i32 = -1005;
/// Nothing can be read now; no failure in a handler.
pub const NS_ERR_WOULD_BLOCK: i32 = -1006;
/// The outbound queue would pass `send_limit`, or all queues together
/// `send_limit_total`; nothing was sent.
pub const NS_ERR_BUFFER_FULL: i32 = -1007;
/// No worker became free in time.
pub const NS_ERR_REJECTED: i32 = -1008;
/// The socket is detached from the server.
pub const NS_ERR_DETACHED: i32 = -1009;
/// Only a non-blocking server can do this.
pub const NS_ERR_NOT_NON_BLOCKING: i32 = -1010;
/// Only a callback of this connection can do this.
pub const NS_ERR_NOT_IN_HANDLER: i32 = -1011;
/// A callback of the same server cannot do this; or the socket has buffered
/// bytes.
pub const NS_ERR_BUSY: i32 = -1012;
/// The call would wait for its own thread.
pub const NS_ERR_DEADLOCK: i32 = -1013;
/// A panic was caught: a bug in the library.
pub const NS_ERR_PANIC: i32 = -1014;
/// The handler returned a negative number of its own.
pub const NS_ERR_HANDLER: i32 = -1015;
/// The service or host cannot be resolved.
pub const NS_ERR_ADDRESS: i32 = -1016;
/// Binding or listening failed.
pub const NS_ERR_LISTEN: i32 = -1017;
/// Another failure of the operating system.
pub const NS_ERR_IO: i32 = -1018;
/// No slot is left for a connection, or the kernel has no memory for it
/// (`ENOMEM`, `ENOBUFS`), or the process has none for what the library keeps
/// of a new connection. If the process gets no other memory, it is aborted.
pub const NS_ERR_NO_MEMORY: i32 = -1019;
/// A thread cannot be created.
pub const NS_ERR_THREAD: i32 = -1020;
/// This system or build cannot do it.
pub const NS_ERR_UNSUPPORTED: i32 = -1021;
/// Accepting a connection failed.
pub const NS_ERR_ACCEPT: i32 = -1022;
/// The `on_start` hook failed.
pub const NS_ERR_HOOK: i32 = -1023;
/// TLS failed, or the peer broke its rules.
pub const NS_ERR_TLS: i32 = -1024;
/// The stream ended without the close_notify of TLS: it may be cut short (RFC
/// 8446, 6.1).
pub const NS_ERR_TRUNCATED: i32 = -1025;
/// The TLS handshake failed.
pub const NS_ERR_HANDSHAKE: i32 = -1026;
/// A certificate or key cannot be used.
pub const NS_ERR_CERTIFICATE: i32 = -1027;
/// Connecting failed.
pub const NS_ERR_CONNECT: i32 = -1028;
/// The PROXY header is missing or bad, or comes from no trusted proxy.
pub const NS_ERR_PROXY: i32 = -1030;
/// Connections were refused beyond a limit of their address.
pub const NS_ERR_LIMIT: i32 = -1031;

/// What failed: a status, a sentence, and the code of the operating system or
/// of the handler. Owned where a call returned it through `err`
/// (`ns_error_free`); borrowed in an exception handler.
pub struct ns_error {
    error: Source,
    message: CString,
}

enum Source {
    Owned(Error),
    /// In a callback: the error outlives the object, which is on the stack.
    Borrowed(*const Error),
}

impl ns_error {
    pub(super) fn owned(error: Error) -> ns_error {
        ns_error { message: c_string(error.message()), error: Source::Owned(error) }
    }

    /// The caller keeps `error` in place while the result is used.
    pub(super) fn borrowed(error: &Error) -> ns_error {
        ns_error { message: c_string(error.message()), error: Source::Borrowed(error) }
    }

    fn get(&self) -> &Error {
        match &self.error {
            Source::Owned(error) => error,
            // SAFETY: `borrowed` demands that the error outlives this object.
            Source::Borrowed(error) => unsafe { &**error },
        }
    }
}

/// A NUL inside would cut the text short for a C reader.
fn c_string(text: &str) -> CString {
    CString::new(text.replace('\0', "\u{fffd}")).unwrap_or_default()
}

/// Returns: the status, a negative `NS_ERR_...`; 0 for NULL.
/// [any]
#[no_mangle]
pub unsafe extern "C" fn ns_error_status(error: *const ns_error) -> ns_status {
    unsafe { get(error, NS_OK, |e| e.get().status().code()) }
}

/// Returns: the code of the operating system (`errno`); 0 where there is none.
/// [any]
#[no_mangle]
pub unsafe extern "C" fn ns_error_os_code(error: *const ns_error) -> i32 {
    unsafe { get(error, 0, |e| e.get().os_code()) }
}

/// Returns: the negative number that the handler returned or raised; 0 where the
/// failure is not a handler's.
/// [any]
#[no_mangle]
pub unsafe extern "C" fn ns_error_handler_code(error: *const ns_error) -> i32 {
    unsafe { get(error, 0, |e| e.get().handler_code()) }
}

/// A sentence that says what failed, on what, and why, for example
/// `cannot listen on "http": permission denied (port 80)`.
///
/// Returns: the text in UTF-8, borrowed from the error; "" for NULL, never NULL.
/// [any]
#[no_mangle]
pub unsafe extern "C" fn ns_error_message(error: *const ns_error) -> *const c_char {
    unsafe { get(error, c"".as_ptr(), |e| e.message.as_ptr()) }
}

/// Returns: the payload that `ns_raise_with` got, borrowed from the error; NULL
/// where there is none.
/// [any]
#[no_mangle]
pub unsafe extern "C" fn ns_error_payload(error: *const ns_error) -> *mut c_void {
    unsafe {
        get(error, ptr::null_mut(), |e| {
            let payload = e.get().payload().and_then(|p| p.downcast_ref::<Payload>());
            payload.map_or(ptr::null_mut(), |p| p.0.pointer)
        })
    }
}

/// Frees an error that a call returned through `err`. Does nothing to NULL and to
/// the borrowed error of a callback.
/// [any]
#[no_mangle]
pub unsafe extern "C" fn ns_error_free(error: *mut ns_error) {
    // SAFETY: the caller's contract; an owned one was made by Box::into_raw.
    guard((), || unsafe {
        if error.as_ref().is_some_and(|e| matches!(e.error, Source::Owned(_))) {
            drop(Box::from_raw(error));
        }
    })
}

/// Returns: the name of a status, `"NS_ERR_CLOSED"`; `"NS_ERR_UNKNOWN"` for
/// another number. The text is static.
/// [any]
#[no_mangle]
pub extern "C" fn ns_status_name(status: ns_status) -> *const c_char {
    static NAMES: OnceLock<Texts> = OnceLock::new();
    text_of(status, &NAMES, Status::name).unwrap_or(c"NS_ERR_UNKNOWN".as_ptr())
}

/// Returns: what a status means, in a few words; `"unknown status"` for another
/// number. The text is static.
/// [any]
#[no_mangle]
pub extern "C" fn ns_status_message(status: ns_status) -> *const c_char {
    static TEXTS: OnceLock<Texts> = OnceLock::new();
    text_of(status, &TEXTS, Status::message).unwrap_or(c"unknown status".as_ptr())
}

/// A text for each status. In place and not on the heap: a leak checker finds
/// nothing at the end of the process.
type Texts = [[c_char; 64]; Status::ALL.len()];

/// The text of a status; `None` for another number.
fn text_of(
    status: ns_status,
    texts: &'static OnceLock<Texts>,
    text: fn(Status) -> &'static str,
) -> Option<*const c_char> {
    guard(Some(c"".as_ptr()), || {
        let at = Status::ALL.iter().position(|s| s.code() == status)?;
        let texts =
            texts.get_or_init(|| array::from_fn(|i| in_place(text(Status::ALL[i]).as_bytes())));
        Some(texts[at].as_ptr())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn static_texts_are_whole() {
        let texts = Status::ALL.iter().flat_map(|s| [s.name(), s.message()]);
        assert!(texts.map(str::len).all(|len| len < 64));
    }
}
