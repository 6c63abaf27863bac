//! A wake-up that any thread, and a signal handler, may send.

use std::io;
use std::os::fd::{BorrowedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering};

use super::{Poller, INPUT};
use crate::fork::Process;

/// An eventfd(2) that can be closed while other threads may still signal it.
/// Its poller is edge-triggered: each signal makes an event, and nobody reads
/// the counter.
pub(crate) struct Waker {
    fd: AtomicI32,
    closed: AtomicBool,
    process: Process,
    /// How many threads are inside `watch` or `signal`. `close` waits for them
    /// before it closes the descriptor, so that its number cannot be reused
    /// under them.
    users: AtomicUsize,
}

impl Waker {
    pub fn new() -> io::Result<Waker> {
        // SAFETY: the call takes no pointers.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Waker {
            fd: AtomicI32::new(fd),
            closed: AtomicBool::new(false),
            process: Process::current(),
            users: AtomicUsize::new(0),
        })
    }

    fn fd(&self) -> RawFd {
        self.fd.load(Ordering::Relaxed)
    }

    /// From now on each signal makes an event of the poller, until `close`.
    pub fn watch(&self, poller: &Poller, token: u64) -> io::Result<()> {
        self.users.fetch_add(1, Ordering::SeqCst);
        let result = match self.closed.load(Ordering::SeqCst) {
            true => Err(io::Error::from_raw_os_error(libc::EBADF)),
            // SAFETY: the descriptor is open, and `close` waits for its users.
            false => poller.add(unsafe { BorrowedFd::borrow_raw(self.fd()) }, token, INPUT),
        };
        self.users.fetch_sub(1, Ordering::SeqCst);
        result
    }

    /// Makes the descriptor readable. Async-signal-safe: it uses atomics and a
    /// write(2) past the C library, which is no cancellation point, and keeps
    /// `errno`.
    pub fn signal(&self) {
        if !self.process.is_current() {
            // A child has the same event as its parent.
            return;
        }
        self.users.fetch_add(1, Ordering::SeqCst);
        if !self.closed.load(Ordering::SeqCst) {
            let one = 1u64.to_ne_bytes();
            // SAFETY: errno belongs to this thread; the descriptor is open, and
            // `close` waits for its users.
            unsafe {
                let errno = libc::__errno_location();
                let kept = *errno;
                // EAGAIN: the counter is full, so the descriptor is readable
                // already.
                let _ = rustix::io::write(BorrowedFd::borrow_raw(self.fd()), &one);
                *errno = kept;
            }
        }
        self.users.fetch_sub(1, Ordering::SeqCst);
    }

    /// Releases the descriptor; later signals do nothing.
    pub fn close(&self) {
        if self.closed.swap(true, Ordering::SeqCst) {
            return;
        }
        // In a child the other users are gone.
        while self.process.is_current() && self.users.load(Ordering::SeqCst) != 0 {
            std::thread::yield_now();
        }
        let fd = self.fd.swap(-1, Ordering::SeqCst);
        // SAFETY: this object owns the descriptor, and nobody uses it any more.
        unsafe { rustix::io::close(fd) };
    }
}

impl Drop for Waker {
    fn drop(&mut self) {
        self.close();
    }
}
