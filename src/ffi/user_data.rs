//! What a program gives to be called back: functions with their user data.

use std::ffi::c_void;
use std::ptr;
use std::sync::Arc;

use super::support::guard;

/// Frees `user_data`. The library calls it exactly once, after the last use,
/// also when the call fails that `user_data` was passed to. It runs on a thread
/// of the library, or on the thread of a call with the tag `[blocks]`. It must
/// not call the library with the object that is going away.
pub type ns_drop_fn = Option<unsafe extern "C-unwind" fn(user_data: *mut c_void)>;

/// A pointer of the program's and the function that frees it. Dropping this
/// calls the function, so it is called once on every path.
pub(super) struct UserData {
    pub pointer: *mut c_void,
    drop: ns_drop_fn,
}

// SAFETY: the library only passes the pointer to the program's own functions,
// which may be called on any thread (the caller's contract).
unsafe impl Send for UserData {}
// SAFETY: as for Send; a shared UserData gives out copies of the pointer alone.
unsafe impl Sync for UserData {}

impl UserData {
    pub fn new(pointer: *mut c_void, drop: ns_drop_fn) -> UserData {
        UserData { pointer, drop }
    }
}

impl Drop for UserData {
    fn drop(&mut self) {
        if let Some(drop) = self.drop {
            // SAFETY: the program gave function and pointer as a pair, and
            // this runs once. A panic in it must not leave a destructor.
            guard((), || unsafe { drop(self.pointer) });
        }
    }
}

/// A function of the program's with its user data. The config and the servers
/// that were made from it share it.
#[derive(Clone)]
pub(super) struct Callback<F> {
    pub function: F,
    /// The argument for the function; `_owner` frees it.
    pub user_data: *mut c_void,
    _owner: Option<Arc<UserData>>,
}

// SAFETY: as for UserData; the function is a plain pointer.
unsafe impl<F: Send> Send for Callback<F> {}
// SAFETY: as for UserData; the function is a plain pointer.
unsafe impl<F: Sync> Sync for Callback<F> {}

impl<F> Callback<F> {
    pub fn new(function: F, user_data: UserData) -> Callback<F> {
        Callback { function, user_data: user_data.pointer, _owner: Some(Arc::new(user_data)) }
    }
}

/// Not set.
impl<F> Default for Callback<Option<F>> {
    fn default() -> Self {
        Callback { function: None, user_data: ptr::null_mut(), _owner: None }
    }
}
