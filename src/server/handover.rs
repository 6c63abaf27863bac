//! A handover of one value to a thread that waits for it.

#![forbid(unsafe_code)]

use std::sync::{Arc, Condvar, Mutex, PoisonError};

use crate::sync::lock;

/// The place where the giver leaves the value.
enum Place<T> {
    Empty,
    Given(T),
    Abandoned,
}

/// The giving side. If it is dropped before it gives, the taker gets nothing.
///
/// A channel would do, but its bookkeeping needs the current thread's handle,
/// which the standard library never frees on a program's main thread.
pub(super) struct Giver<T>(Arc<(Mutex<Place<T>>, Condvar)>);

pub(super) struct Taker<T>(Arc<(Mutex<Place<T>>, Condvar)>);

pub(super) fn handover<T>() -> (Giver<T>, Taker<T>) {
    let place = Arc::new((Mutex::new(Place::Empty), Condvar::new()));
    (Giver(place.clone()), Taker(place))
}

impl<T> Giver<T> {
    pub fn give(self, value: T) {
        *lock(&self.0 .0) = Place::Given(value);
    }
}

impl<T> Drop for Giver<T> {
    fn drop(&mut self) {
        let mut place = lock(&self.0 .0);
        if let Place::Empty = *place {
            *place = Place::Abandoned;
        }
        self.0 .1.notify_one();
    }
}

impl<T> Taker<T> {
    /// Waits for the value; `None` if the giver is dropped before it gives.
    pub fn take(self) -> Option<T> {
        let place = lock(&self.0 .0);
        let waited = self.0 .1.wait_while(place, |place| matches!(place, Place::Empty));
        let mut place = waited.unwrap_or_else(PoisonError::into_inner);
        match std::mem::replace(&mut *place, Place::Abandoned) {
            Place::Given(value) => Some(value),
            Place::Empty | Place::Abandoned => None,
        }
    }
}
