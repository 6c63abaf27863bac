//! What every entry needs: the panic boundary, user data with its drop
//! function, and strings in both directions.

use std::ffi::{c_char, c_void, CStr};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::ptr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::error::ns_error;
use super::types::{ns_drop_fn, ns_status};
use crate::sys::Uncancelled;
use crate::{Error, Status};

/// The panic boundary: no Rust unwinding crosses the ABI. `on_panic` is what
/// the caller gets instead. For what makes no system call, or none that is a
/// cancellation point.
#[inline(always)]
pub(super) fn contain<T>(on_panic: T, body: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or(on_panic)
}

/// The boundary: no unwinding crosses the ABI, neither a panic nor a
/// pthread_cancel(3), which nearly everything may meet, since close(2) is a
/// cancellation point.
#[inline(always)]
pub(super) fn guard<T>(on_panic: T, body: impl FnOnce() -> T) -> T {
    let _uncancelled = Uncancelled::new();
    contain(on_panic, body)
}

/// The boundary of a function that returns a status and no error object.
#[inline(always)]
pub(super) fn status<E: Into<Error>>(body: impl FnOnce() -> Result<(), E>) -> ns_status {
    guard(Status::Panic.code(), || match body() {
        Ok(()) => Status::Ok.code(),
        Err(error) => error.into().status().code(),
    })
}

/// The boundary of a function with an `err` parameter: a failure goes to
/// `*err` if the caller wants it, and becomes `failed(status)`.
///
/// # Safety
/// `err` is NULL or can be written.
pub(super) unsafe fn reporting<T>(
    err: *mut *mut ns_error,
    failed: impl FnOnce(Status) -> T,
    body: impl FnOnce() -> Result<T, Error>,
) -> T {
    let _uncancelled = Uncancelled::new();
    let result = catch_unwind(AssertUnwindSafe(body))
        .unwrap_or_else(|payload| Err(Error::panic(payload.as_ref())));
    let (value, error) = match result {
        Ok(value) => (value, None),
        Err(error) => (failed(error.status()), Some(error)),
    };
    if !err.is_null() {
        let error = error.map_or(ptr::null_mut(), |e| Box::into_raw(Box::new(ns_error::owned(e))));
        // SAFETY: the caller says that it can be written.
        unsafe { err.write(error) };
    }
    value
}

/// Locks; a panic while locked cannot have left these small values half done.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the first failed setter of an object said.
pub(super) type Bad = (Status, String);

/// Keeps the first failure.
pub(super) fn remember(bad: &mut Option<Bad>, error: &Error) {
    bad.get_or_insert_with(|| (error.status(), error.message().to_string()));
}

/// Makes what an object is about. A panic, too, gives an object: one that
/// remembers why it is of no use, so that nobody takes it for "not set".
pub(super) fn made<T>(make: impl FnOnce() -> T) -> (Option<T>, Option<Bad>) {
    let _uncancelled = Uncancelled::new();
    match catch_unwind(AssertUnwindSafe(make)) {
        Ok(value) => (Some(value), None),
        Err(payload) => {
            let error = Error::panic(payload.as_ref());
            (None, Some((error.status(), error.message().to_string())))
        }
    }
}

/// A pointer of the program's and the function that frees it, run when this
/// is dropped: so it runs once on every path.
pub(super) struct UserData {
    pub pointer: *mut c_void,
    drop: ns_drop_fn,
}

// SAFETY: the library only carries the pointer to the program's own
// functions; that they run on the library's threads is the documented contract.
unsafe impl Send for UserData {}
// SAFETY: as above; a shared UserData gives the pointer away by copy alone.
unsafe impl Sync for UserData {}

impl UserData {
    pub fn new(pointer: *mut c_void, drop: ns_drop_fn) -> UserData {
        UserData { pointer, drop }
    }
}

impl Drop for UserData {
    fn drop(&mut self) {
        if let Some(drop) = self.drop {
            // SAFETY: the program paired function and pointer, and dropping
            // happens once. A panic of its own must not end a destructor.
            guard((), || unsafe { drop(self.pointer) });
        }
    }
}

/// The text at `text`; an error that names `what` for NULL and bad UTF-8.
///
/// # Safety
/// `text` is NULL or a NUL-terminated string that lives as long as `'a`.
pub(super) unsafe fn text<'a>(text: *const c_char, what: &str) -> Result<&'a str, Error> {
    if text.is_null() {
        return Err(null(what));
    }
    // SAFETY: not NULL, so a string, the caller says.
    unsafe { CStr::from_ptr(text) }
        .to_str()
        .map_err(|_| Error::new(Status::Invalid, format!("the {what} is not valid UTF-8")))
}

/// The object behind a handle; an error that names `what` for NULL.
///
/// # Safety
/// `handle` is NULL or points to a live object that nothing changes meanwhile
/// but through its own interior.
pub(super) unsafe fn object<'a, T>(handle: *const T, what: &str) -> Result<&'a T, Error> {
    // SAFETY: the caller's promise.
    unsafe { handle.as_ref() }.ok_or_else(|| null(what))
}

pub(super) fn null(what: &str) -> Error {
    Error::new(Status::Invalid, format!("the {what} is NULL"))
}

/// Gives text as `snprintf` does: at most `len` bytes with the final NUL, and
/// the length that the whole text has without it.
///
/// # Safety
/// `buf` is NULL or has `len` bytes that can be written.
pub(super) unsafe fn give_text(text: &str, buf: *mut c_char, len: usize) -> usize {
    if !buf.is_null() && len > 0 {
        let count = text.len().min(len - 1);
        // SAFETY: count + 1 <= len bytes are written.
        unsafe {
            ptr::copy_nonoverlapping(text.as_ptr().cast(), buf, count);
            buf.add(count).write(0);
        }
    }
    text.len()
}

/// Sizes of output structs outside of these bounds are a mistake. The room
/// above lets a program be built with a later header.
const SIZES: std::ops::RangeInclusive<usize> = 8..=65536;

/// Fills as much of `out` as the program's struct has, zeros where it has more.
///
/// # Safety
/// `out` is NULL or has `size` bytes; `T` has no padding.
pub(super) unsafe fn fill<T>(
    out: *mut T,
    size: usize,
    value: impl FnOnce() -> Result<T, Error>,
) -> Result<(), Error> {
    if out.is_null() || !SIZES.contains(&size) {
        return Err(Error::from(Status::Invalid));
    }
    let value = value()?;
    let known = size.min(size_of::<T>());
    // SAFETY: known + the rest = size bytes, which the caller has.
    unsafe {
        ptr::copy_nonoverlapping(ptr::from_ref(&value).cast::<u8>(), out.cast::<u8>(), known);
        out.cast::<u8>().add(known).write_bytes(0, size - known);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_made_remembers_why() {
        let (value, bad) = made(|| -> u32 { panic!("no random numbers") });
        let (status, message) = bad.expect("remembered");
        assert_eq!((value, status), (None, Status::Panic));
        assert!(message.contains("no random numbers"), "{message}");
        assert_eq!(made(|| 5), (Some(5), None));
    }
}
