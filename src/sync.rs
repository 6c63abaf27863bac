//! Locking.

#![forbid(unsafe_code)]

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks a mutex. The library's own code does not panic while it holds a lock,
/// and the program's code never runs under one. So the value behind a poisoned
/// lock is intact.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
