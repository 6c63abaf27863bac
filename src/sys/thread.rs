//! Threads that no signal of the host reaches.

use std::io;
use std::mem::MaybeUninit;
use std::thread::{Builder, JoinHandle};

/// Starts a named thread that blocks every asynchronous signal. The mask is
/// inherited, so it is set around the start and the caller's put back: there
/// is no moment in which the new thread could take a signal.
pub(crate) fn spawn(
    name: String,
    body: impl FnOnce() + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    let mut mask = MaybeUninit::<libc::sigset_t>::uninit();
    let mut before = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigfillset initialises the mask before it is used, and
    // pthread_sigmask initialises `before`.
    unsafe {
        libc::sigfillset(mask.as_mut_ptr());
        // A fault of the thread's own must still end the process.
        for fault in [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGTRAP] {
            libc::sigdelset(mask.as_mut_ptr(), fault);
        }
        libc::pthread_sigmask(libc::SIG_SETMASK, mask.as_ptr(), before.as_mut_ptr());
    }
    let result = Builder::new().name(name).spawn(body);
    // SAFETY: `before` was initialised above.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), std::ptr::null_mut()) };
    result
}
