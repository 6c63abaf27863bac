//! The waker of `src/sys`, and the rest of what the files take from there.

#[path = "../../src/sys/waker.rs"]
mod waker;

pub(crate) use waker::Waker;

pub use crate::kernel::{disconnect, reset_on_close, shutdown, Bits, Poller, Shutdown};
pub use crate::kernel::{BOTH, INPUT};

pub struct Reach<T>(std::marker::PhantomData<fn(T)>);

impl<T> Reach<T> {
    pub fn new() -> Reach<T> {
        Reach(std::marker::PhantomData)
    }

    pub fn forget(&self) {}

    pub fn other<R>(&self, _: u32, _: impl FnOnce(&mut T) -> R) -> Option<R> {
        None
    }
}

/// No time passes.
pub fn monotonic_millis() -> u64 {
    0
}
