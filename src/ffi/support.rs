//! What the entries need, each helper once: the boundary, results, remembered
//! failures, arguments, and texts in both directions.

use std::ffi::{c_char, c_void, CStr};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::time::Duration;
use std::{ptr, slice};

use super::error::{ns_error, ns_status};
use crate::callback;
use crate::sys::Uncancelled;
use crate::{Error, Status};

// The boundary.

/// The panic boundary: no Rust unwinding crosses the ABI. After a panic the
/// caller gets `on_panic`. It is enough for a body that makes no system call,
/// or none that is a cancellation point.
#[inline(always)]
pub(super) fn contain<T>(on_panic: T, body: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or(on_panic)
}

/// The boundary: no unwinding crosses the ABI, neither that of a panic nor that
/// of pthread_cancel(3). Almost every body can meet the latter, because
/// close(2) is a cancellation point.
#[inline(always)]
pub(super) fn guard<T>(on_panic: T, body: impl FnOnce() -> T) -> T {
    let _uncancelled = Uncancelled::new();
    contain(on_panic, body)
}

// Results.

/// The boundary of a function that returns a status and no error object.
#[inline(always)]
pub(super) fn status<E: Into<Error>>(body: impl FnOnce() -> Result<(), E>) -> ns_status {
    guard(Status::Panic.code(), || match body() {
        Ok(()) => Status::Ok.code(),
        Err(error) => error.into().status().code(),
    })
}

/// The boundary of a function that returns a count or a negative status.
#[inline(always)]
pub(super) fn counted<E: Into<Error>>(body: impl FnOnce() -> Result<usize, E>) -> i64 {
    guard(Status::Panic.code().into(), || match body() {
        Ok(count) => count as i64,
        Err(error) => error.into().status().code().into(),
    })
}

/// The boundary of a function with an `err` parameter. On failure the error
/// goes to `*err`, where the caller wants it, and the function returns
/// `failed(status)`.
///
/// # Safety
/// `err` is NULL or can be written.
pub(super) unsafe fn with_err<T>(
    err: *mut *mut ns_error,
    failed: impl FnOnce(Status) -> T,
    body: impl FnOnce() -> Result<T, Error>,
) -> T {
    let _uncancelled = Uncancelled::new();
    let (value, error) = match callback::contain(body).and_then(|result| result) {
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

// Remembered failures.

/// The first failure of an object's setters. Whatever uses the object reports
/// it again, so a program may leave the results of its setters unchecked.
#[derive(Default)]
pub(super) struct FirstFailure(Option<(Status, String)>);

impl FirstFailure {
    pub fn of(error: &Error) -> FirstFailure {
        FirstFailure(Some((error.status(), error.message().to_string())))
    }

    /// Remembers a failure if it is the first.
    pub fn remember(&mut self, error: &Error) {
        if self.0.is_none() {
            *self = FirstFailure::of(error);
        }
    }

    /// Fails with the failure that is remembered: its message after `what`.
    pub fn check(&self, what: &str) -> Result<(), Error> {
        match &self.0 {
            None => Ok(()),
            Some((status, message)) => Err(Error::new(*status, format!("{what}: {message}"))),
        }
    }
}

/// Makes the inside of an object. After a failure there is an object too, one
/// that remembers the failure, which may be a panic: so a program that goes on
/// with it gets an error and not a server without its settings.
pub(super) fn make<T>(make: impl FnOnce() -> Result<T, Error>) -> (Option<T>, FirstFailure) {
    let _uncancelled = Uncancelled::new();
    match callback::contain(make).and_then(|made| made) {
        Ok(value) => (Some(value), FirstFailure::default()),
        Err(error) => (None, FirstFailure::of(&error)),
    }
}

// Arguments.

/// Nothing in memory is longer.
pub(super) const MAX_LEN: usize = isize::MAX as usize;

/// The error for an argument that is NULL and must not be.
pub(super) fn null(what: &str) -> Error {
    Error::new(Status::Invalid, format!("the {what} is NULL"))
}

/// A flag as C has it: 0 or 1. For another number an error that names it.
pub(super) fn flag(value: i32, name: &str) -> Result<bool, Error> {
    match value {
        0 | 1 => Ok(value == 1),
        _ => Err(Error::new(Status::Invalid, format!("{name} must be 0 or 1, not {value}"))),
    }
}

/// A duration, where 0 means "off".
pub(super) fn optional_ms(ms: u32) -> Option<Duration> {
    (ms > 0).then(|| Duration::from_millis(ms.into()))
}

/// The text at `text`. For NULL and bad UTF-8 an error that names `what`.
///
/// # Safety
/// `text` is NULL or a NUL-terminated string that lives as long as `'a`.
pub(super) unsafe fn text<'a>(text: *const c_char, what: &str) -> Result<&'a str, Error> {
    // SAFETY: the caller's promise.
    std::str::from_utf8(unsafe { text_bytes(text, what) }?)
        .map_err(|_| Error::new(Status::Invalid, format!("the {what} is not valid UTF-8")))
}

/// As `text`, for a text that may have any bytes, such as a file name.
///
/// # Safety
/// As `text`.
pub(super) unsafe fn text_bytes<'a>(text: *const c_char, what: &str) -> Result<&'a [u8], Error> {
    if text.is_null() {
        return Err(null(what));
    }
    // SAFETY: it is not NULL, so the caller says that it is a string.
    Ok(unsafe { CStr::from_ptr(text) }.to_bytes())
}

/// The bytes at `buf`; NULL is allowed where `len` is 0.
///
/// # Safety
/// `buf` is NULL or has `len` bytes.
pub(super) unsafe fn bytes<'a>(buf: *const c_void, len: usize) -> Result<&'a [u8], Status> {
    match len {
        0 => Ok(&[]),
        _ if buf.is_null() || len > MAX_LEN => Err(Status::Invalid),
        // SAFETY: the caller's promise, and a length that a slice may have.
        _ => Ok(unsafe { slice::from_raw_parts(buf.cast(), len) }),
    }
}

/// The room of `len` bytes at `buf`, at least one.
///
/// # Safety
/// `buf` is NULL or has `len` bytes, which are only written to.
pub(super) unsafe fn room<'a>(buf: *mut c_void, len: usize) -> Result<&'a mut [u8], Status> {
    match len {
        _ if buf.is_null() => Err(Status::Invalid),
        // SAFETY: the caller's promise, and a length that a slice may have.
        1..=MAX_LEN => Ok(unsafe { slice::from_raw_parts_mut(buf.cast(), len) }),
        _ => Err(Status::Invalid),
    }
}

/// The array of `count` values at `array`, at most `max`. For NULL and more
/// than `max` an error that names `what`.
///
/// # Safety
/// `array` is NULL or has `count` entries.
pub(super) unsafe fn array<'a, T>(
    array: *const T,
    count: usize,
    max: usize,
    what: &str,
) -> Result<&'a [T], Error> {
    let max = max.min(MAX_LEN / size_of::<T>());
    match count {
        0 => Ok(&[]),
        _ if array.is_null() || count > max => {
            Err(Error::new(Status::Invalid, format!("the {what} are NULL or too many")))
        }
        // SAFETY: the caller's promise, and a length that a slice may have.
        _ => Ok(unsafe { slice::from_raw_parts(array, count) }),
    }
}

// Output.

/// Copies text to the program as `snprintf` does: at most `len` bytes with the
/// final NUL. Returns the length of the whole text without the NUL.
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

/// Has `write` make a text in the program's buffer, as `give_text` copies one.
/// `write` gets the room without that of the NUL, and returns the length of the
/// whole text.
///
/// # Safety
/// `buf` is NULL or has `len` bytes that can be written.
pub(super) unsafe fn write_text(
    buf: *mut c_char,
    len: usize,
    write: impl FnOnce(&mut [u8]) -> usize,
) -> usize {
    if buf.is_null() || len == 0 {
        return write(&mut []);
    }
    let room = (len - 1).min(MAX_LEN);
    // SAFETY: the caller has them, and they are only written to.
    let length = write(unsafe { slice::from_raw_parts_mut(buf.cast(), room) });
    // SAFETY: room < len.
    unsafe { buf.add(length.min(room)).write(0) };
    length
}

/// Copies bytes to the program, at most `len`. Returns how many there are.
///
/// # Safety
/// `buf` is NULL or has `len` bytes that can be written.
pub(super) unsafe fn give_bytes(bytes: &[u8], buf: *mut c_void, len: usize) -> usize {
    if !buf.is_null() {
        // SAFETY: at most `len` bytes are written, which the caller has.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), buf.cast(), bytes.len().min(len)) };
    }
    bytes.len()
}

/// A text in an array. What does not fit is cut off, and the last byte is 0.
pub(super) fn in_place<const N: usize>(text: &[u8]) -> [c_char; N] {
    let mut out = [0; N];
    for (to, from) in out[..N - 1].iter_mut().zip(text) {
        *to = *from as c_char;
    }
    out
}

/// The size of an output struct outside of these bounds is a mistake. The upper
/// bound leaves room for programs that were built with a later header.
const SIZES: std::ops::RangeInclusive<usize> = 8..=65536;

/// Fills an output struct of `size` bytes: as much of the value as the
/// program's struct has, and zeros where the program's struct is longer.
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
    // SAFETY: known + (size - known) = size bytes, which the caller has.
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
        let (value, failure) = make(|| -> Result<u32, Error> { panic!("no random numbers") });
        let error = failure.check("not valid").expect_err("remembered");
        assert_eq!((value, error.status()), (None, Status::Panic));
        assert!(error.message().contains("no random numbers"), "{}", error.message());

        let (value, failure) = make(|| Ok(5));
        assert_eq!(value, Some(5));
        failure.check("not valid").expect("no failure");
    }

    #[test]
    fn the_first_failure_is_remembered() {
        let mut failure = FirstFailure::default();
        failure.remember(&Error::new(Status::Invalid, "one"));
        failure.remember(&Error::new(Status::State, "two"));
        let error = failure.check("not valid").expect_err("remembered");
        assert_eq!((error.status(), error.message()), (Status::Invalid, "not valid: one"));
    }
}
