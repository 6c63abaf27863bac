//! Locks and atomics. The models of tests/loom compile files of the library with
//! loom's, which try every order of the threads' steps.

#![forbid(unsafe_code)]

use std::sync::PoisonError;
use std::time::Duration;

#[cfg(loom)]
pub(crate) use loom::sync::{atomic, Condvar, Mutex, MutexGuard};
#[cfg(loom)]
pub(crate) use loom::thread::yield_now;
#[cfg(not(loom))]
pub(crate) use std::sync::{atomic, Condvar, Mutex, MutexGuard};
#[cfg(not(loom))]
pub(crate) use std::thread::yield_now;

use crate::clock::Deadline;

/// Locks a mutex. The library's own code does not panic while it holds a lock,
/// and the program's code never runs under one. So the value behind a poisoned
/// lock is intact.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits for a notification, at most until a deadline.
pub(crate) fn wait_until<'a, T>(
    changed: &Condvar,
    guard: MutexGuard<'a, T>,
    until: Deadline,
) -> MutexGuard<'a, T> {
    match until {
        Deadline::NEVER => changed.wait(guard).unwrap_or_else(PoisonError::into_inner),
        _ => {
            let time = Duration::from_millis(until.ms_left());
            changed.wait_timeout(guard, time).unwrap_or_else(PoisonError::into_inner).0
        }
    }
}
