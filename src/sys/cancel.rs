//! Holds thread cancellation off during the calls of C programs.

use std::ffi::c_int;
use std::marker::PhantomData;

extern "C" {
    fn pthread_setcancelstate(state: c_int, former: *mut c_int) -> c_int;
}

/// `PTHREAD_CANCEL_DISABLE` of glibc and musl.
const DISABLED: c_int = 1;

/// While this value lives, a pthread_cancel(3) of this thread stays pending.
/// Otherwise the cancellation would unwind through the library in the middle of
/// its work, and Rust then ends the process.
pub(crate) struct Uncancelled {
    former: c_int,
    /// The state belongs to this thread alone.
    _not_send: PhantomData<*const ()>,
}

impl Uncancelled {
    pub fn new() -> Uncancelled {
        let mut former = 0;
        // SAFETY: the call may write `former`, and changes this thread alone.
        unsafe { pthread_setcancelstate(DISABLED, &mut former) };
        Uncancelled { former, _not_send: PhantomData }
    }
}

impl Drop for Uncancelled {
    fn drop(&mut self) {
        let mut disabled = 0;
        // SAFETY: as above.
        unsafe { pthread_setcancelstate(self.former, &mut disabled) };
    }
}
