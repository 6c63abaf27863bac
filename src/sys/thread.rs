//! Threads that no signal of the host program reaches.

use std::ffi::c_void;
use std::io;
use std::mem::MaybeUninit;
use std::ptr;
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
    let start = || Builder::new().name(name).stack_size(stack_size).spawn(body);
    let result = if has_storage() { start() } else { elsewhere(start).and_then(|started| started) };
    // SAFETY: `before` was initialised above.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), ptr::null_mut()) };
    result
}

/// A value of a thread that goes with the thread's storage.
struct Storage;

impl Drop for Storage {
    fn drop(&mut self) {}
}

thread_local!(static STORAGE: Storage = const { Storage });

/// Returns false in the last destructors of a thread. A `Builder` of Rust 1.85
/// panics there, because what it keeps for the thread is gone. That is made right
/// after `STORAGE` or before it, and the destructors run in the other order: where
/// `STORAGE` is, it is too.
fn has_storage() -> bool {
    STORAGE.try_with(|_| ()).is_ok()
}

/// Runs `call` on a thread of the C library, which has storage, and waits for its
/// end.
fn elsewhere<T: Send, F: FnOnce() -> T + Send>(call: F) -> io::Result<T> {
    extern "C" fn run<T, F: FnOnce() -> T>(slot: *mut c_void) -> *mut c_void {
        // SAFETY: the slot of the creator, which waits, and touches it after that.
        let (call, result) = unsafe { &mut *slot.cast::<(Option<F>, Option<T>)>() };
        *result = call.take().map(|call| call());
        ptr::null_mut()
    }
    let mut slot = (Some(call), None::<T>);
    let mut thread = MaybeUninit::uninit();
    // SAFETY: the slot lives until the thread has ended; pthread_create initialises
    // `thread` if it returns 0.
    unsafe {
        let slot = (&raw mut slot).cast();
        match libc::pthread_create(thread.as_mut_ptr(), ptr::null(), run::<T, F>, slot) {
            0 => libc::pthread_join(thread.assume_init(), ptr::null_mut()),
            code => return Err(io::Error::from_raw_os_error(code)),
        };
    }
    Ok(slot.1.expect("the thread has run the call"))
}
