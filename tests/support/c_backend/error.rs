//! Errors: read from an `ns_error`, and raised by `ns_raise`.

use super::{c_text, Status};
use net_server::ffi::*;
use std::any::Any;
use std::ffi::{c_void, CStr};
use std::fmt;

type Object = Box<dyn Any + Send + Sync>;

pub struct Error {
    status: Status,
    message: String,
    os_code: i32,
    handler_code: i32,
    /// The number to raise, where the program made this error.
    raise: Option<i32>,
    payload: Option<Object>,
    /// The payload of an error that a callback was lent.
    lent: *const Object,
}

// SAFETY: `lent` is only read in the callback that it was lent to.
unsafe impl Send for Error {}
// SAFETY: as above.
unsafe impl Sync for Error {}

impl Error {
    pub fn new(status: Status, message: impl Into<String>) -> Error {
        Error { raise: Some(status.code()), message: message.into(), ..Error::of(status.code()) }
    }

    pub fn raise(code: i32, message: impl Into<String>) -> Error {
        let status = Status::from_code(code).unwrap_or(Status::Handler);
        Error { raise: Some(code), ..Error::new(status, message) }
    }

    pub fn with_payload(self, payload: Object) -> Error {
        Error { payload: Some(payload), ..self }
    }

    pub fn status(&self) -> Status {
        self.status
    }

    pub fn os_code(&self) -> i32 {
        self.os_code
    }

    pub fn handler_code(&self) -> i32 {
        self.handler_code
    }

    pub fn message(&self) -> &str {
        &self.message
    }

    pub fn payload(&self) -> Option<&(dyn Any + Send + Sync)> {
        match &self.payload {
            Some(payload) => Some(&**payload),
            // SAFETY: the payload lives as long as the error that was lent.
            None => unsafe { self.lent.as_ref() }.map(|payload| &**payload),
        }
    }

    /// The error of a negative status.
    pub(super) fn of(code: i32) -> Error {
        // SAFETY: the function takes any number and returns a static string.
        let message = unsafe { CStr::from_ptr(ns_status_message(code)) };
        Error {
            status: Status::from_code(code).unwrap_or_else(|| panic!("no status: {code}")),
            message: message.to_str().unwrap().to_owned(),
            os_code: 0,
            handler_code: 0,
            raise: None,
            payload: None,
            lent: std::ptr::null(),
        }
    }

    /// Reads an error that a callback was lent.
    ///
    /// # Safety
    /// `error` is valid during the callback.
    pub(super) unsafe fn lent(error: *const ns_error) -> Error {
        // SAFETY: the caller's promise; payloads come from `raised`.
        unsafe {
            Error {
                message: CStr::from_ptr(ns_error_message(error)).to_str().unwrap().to_owned(),
                os_code: ns_error_os_code(error),
                handler_code: ns_error_handler_code(error),
                lent: ns_error_payload(error).cast(),
                ..Error::of(ns_error_status(error))
            }
        }
    }

    /// Takes over an error that a call returned.
    ///
    /// # Safety
    /// `error` was returned by the library and not freed.
    pub(super) unsafe fn taken(error: *mut ns_error) -> Error {
        assert!(!error.is_null(), "a failure without an error");
        // SAFETY: the caller's promise.
        unsafe {
            let taken = Error { lent: std::ptr::null(), ..Error::lent(error) };
            ns_error_free(error);
            taken
        }
    }

    /// The number that a callback returns for this error.
    ///
    /// # Safety
    /// `socket` is NULL or the callback's.
    pub(super) unsafe fn raised(self, socket: *mut ns_socket) -> i32 {
        let Some(code) = self.raise else {
            return self.status.code();
        };
        let message = c_text(&self.message);
        // SAFETY: the caller's promise; the payload's pointer goes with its drop function.
        unsafe {
            match self.payload {
                None => ns_raise(socket, code, message.as_ptr()),
                Some(payload) => {
                    let payload = Box::into_raw(Box::new(payload)).cast();
                    ns_raise_with(socket, code, message.as_ptr(), payload, Some(drop_payload))
                }
            }
        }
    }
}

unsafe extern "C-unwind" fn drop_payload(payload: *mut c_void) {
    // SAFETY: made by `raised`; the library calls this once.
    drop(unsafe { Box::from_raw(payload.cast::<Object>()) });
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.status, self.message)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<Status> for Error {
    fn from(status: Status) -> Error {
        Error::of(status.code())
    }
}

impl From<&str> for Error {
    fn from(message: &str) -> Error {
        Error::new(Status::Handler, message)
    }
}

impl From<String> for Error {
    fn from(message: String) -> Error {
        Error::new(Status::Handler, message)
    }
}
