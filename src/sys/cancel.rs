//! Calls of C programs that no cancellation ends.

use std::ffi::c_int;
use std::marker::PhantomData;

extern "C" {
    fn pthread_setcancelstate(state: c_int, former: *mut c_int) -> c_int;
}

/// `PTHREAD_CANCEL_DISABLE` of glibc and musl.
const DISABLED: c_int = 1;

/// While it lives, a pthread_cancel(3) of this thread stays pending: it would
/// unwind through the library in the middle of something, and Rust ends the
/// process then.
pub(crate) struct Uncancelled {
    former: c_int,
    /// Of this thread alone.
    _not_send: PhantomData<*const ()>,
}

impl Uncancelled {
    pub fn new() -> Uncancelled {
        let mut former = 0;
        // SAFETY: `former` can be written; the call changes this thread alone.
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
