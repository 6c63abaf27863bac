//! Threads that no signal of the host program reaches.

use std::io;
use std::mem::MaybeUninit;
use std::thread::{Builder, JoinHandle};

/// Starts a named thread with a stack of so many bytes, whatever the
/// environment's `RUST_MIN_STACK` says. It blocks every asynchronous signal. A thread
/// inherits the mask of its creator. So the caller's mask is changed before the
/// start and restored after it, and there is no moment in which the new thread
/// could receive a signal.
pub(crate) fn spawn(
    name: String,
    stack_size: usize,
    body: impl FnOnce() + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    let mut mask = MaybeUninit::<libc::sigset_t>::uninit();
    let mut before = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigfillset initialises the mask before it is used, and
    // pthread_sigmask initialises `before`.
    unsafe {
        libc::sigfillset(mask.as_mut_ptr());
        // A fault of the thread itself must still end the process.
        for fault in [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGTRAP] {
            libc::sigdelset(mask.as_mut_ptr(), fault);
        }
        libc::pthread_sigmask(libc::SIG_SETMASK, mask.as_ptr(), before.as_mut_ptr());
    }
    let result = Builder::new().name(name).stack_size(stack_size).spawn(body);
    // SAFETY: `before` was initialised above.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), std::ptr::null_mut()) };
    result
}
