//! The object whose callback a thread runs, for a child of fork(2), which has
//! only this thread: what the callback borrows is the parent's.

use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

pub(crate) struct Current<T>(AtomicPtr<T>);

impl<T> Current<T> {
    pub fn new() -> Current<T> {
        Current(AtomicPtr::new(ptr::null_mut()))
    }

    /// Notes the object of the callback that begins. It stays in its place until
    /// [`Current::forget`].
    #[inline(always)]
    pub fn note(&self, object: *mut T) {
        self.0.store(object, Ordering::Relaxed);
    }

    /// The object may be freed or moved from now on.
    pub fn forget(&self) {
        self.note(ptr::null_mut());
    }

    /// Changes the object, in a child of fork(2), inside fork(3).
    pub fn change_in_child(&self, change: impl FnOnce(&mut T)) {
        // SAFETY: the object is in its place. A callback that runs has it as
        // the C layer's pointer has it, and this is the only thread.
        if let Some(object) = unsafe { self.0.load(Ordering::Relaxed).as_mut() } {
            change(object);
        }
    }
}
