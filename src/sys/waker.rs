//! A wake-up that any thread, and a signal handler, may send.

use std::io;
use std::os::fd::{BorrowedFd, RawFd};

use super::{Poller, INPUT};
use crate::fork::Process;
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::yield_now;

/// The bit of `users` that says that `close` has begun.
const CLOSED: usize = 1 << (usize::BITS - 1);

/// An eventfd(2) that can be closed while other threads may still signal it.
/// Its poller is edge-triggered: each signal makes an event, and nobody reads
/// the counter.
pub(crate) struct Waker {
    fd: RawFd,
    process: Process,
    /// How many threads are inside `watch` or `signal`, and `CLOSED`. `close`
    /// waits for them before it closes the descriptor, so that its number cannot
    /// be reused under them. A thread counts itself and sees `CLOSED` in one
    /// step: either `close` sees the thread, or the thread sees `CLOSED`.
    users: AtomicUsize,
}

impl Waker {
    pub fn new() -> io::Result<Waker> {
        // SAFETY: the call takes no pointers.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Waker { fd, process: Process::current(), users: AtomicUsize::new(0) })
    }

    /// Lends the descriptor. Returns `None` from `close` on.
    #[inline(always)]
    fn with_fd<R>(&self, body: impl FnOnce(BorrowedFd<'_>) -> R) -> Option<R> {
        let result = match self.users.fetch_add(1, Ordering::Acquire) & CLOSED {
            // SAFETY: the descriptor is open, and `close` waits for its users.
            0 => Some(body(unsafe { BorrowedFd::borrow_raw(self.fd) })),
            _ => None,
        };
        self.users.fetch_sub(1, Ordering::Release);
        result
    }

    /// From now on each signal makes an event of the poller, until `close`.
    pub fn watch(&self, poller: &Poller, token: u64) -> io::Result<()> {
        self.with_fd(|fd| poller.add(fd, token, INPUT))
            .unwrap_or_else(|| Err(io::Error::from_raw_os_error(libc::EBADF)))
    }

    /// Makes the descriptor readable. Async-signal-safe: it uses atomics and a
    /// write(2) past the C library, which is no cancellation point, and keeps
    /// `errno`.
    pub fn signal(&self) {
        if !self.process.is_current() {
            // A child has the same event as its parent.
            return;
        }
        self.with_fd(|fd| {
            let one = 1u64.to_ne_bytes();
            // SAFETY: errno belongs to this thread.
            unsafe {
                let errno = libc::__errno_location();
                let kept = *errno;
                // EAGAIN: the counter is full, so the descriptor is readable
                // already.
                let _ = rustix::io::write(fd, &one);
                *errno = kept;
            }
        });
    }

    /// Releases the descriptor; later signals do nothing.
    pub fn close(&self) {
        if self.users.fetch_or(CLOSED, Ordering::Relaxed) & CLOSED != 0 {
            return;
        }
        // In a child the other users are gone.
        while self.process.is_current() && self.users.load(Ordering::Acquire) != CLOSED {
            yield_now();
        }
        // SAFETY: this object owns the descriptor, and nobody uses it any more.
        unsafe { rustix::io::close(self.fd) };
    }
}

impl Drop for Waker {
    fn drop(&mut self) {
        self.close();
    }
}
