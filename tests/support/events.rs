//! Events that callbacks report to a test, and gates that hold callbacks.

use super::{NEVER, SOON};
use std::fmt::Debug;
use std::sync::mpsc::{channel, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// The callbacks' end of a channel of events.
pub struct Log<T>(Sender<T>);

/// The test's end.
pub struct Events<T>(Receiver<T>);

pub fn events<T>() -> (Log<T>, Events<T>) {
    let (sender, receiver) = channel();
    (Log(sender), Events(receiver))
}

impl<T> Clone for Log<T> {
    fn clone(&self) -> Self {
        Log(self.0.clone())
    }
}

impl<T> Log<T> {
    pub fn add(&self, event: T) {
        // The test may have ended: then nobody cares.
        let _ = self.0.send(event);
    }
}

impl<T> Events<T> {
    /// The next event, which must come.
    #[track_caller]
    pub fn next(&self) -> T {
        match self.0.recv_timeout(SOON) {
            Ok(event) => event,
            Err(_) => panic!("no event came"),
        }
    }

    #[track_caller]
    pub fn take(&self, count: usize) -> Vec<T> {
        (0..count).map(|_| self.next()).collect()
    }

    /// The next event within a short while, if any.
    pub fn poll(&self, limit: Duration) -> Option<T> {
        self.0.recv_timeout(limit).ok()
    }

    /// The events that have come so far.
    pub fn drain(&self) -> Vec<T> {
        self.0.try_iter().collect()
    }
}

impl<T: Debug> Events<T> {
    /// No event comes.
    #[track_caller]
    pub fn none(&self) {
        match self.0.recv_timeout(NEVER) {
            Ok(event) => panic!("unexpected event: {event:?}"),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
        }
    }
}

/// A gate that callbacks wait at until the test opens it.
#[derive(Clone, Default)]
pub struct Gate(Arc<(Mutex<(bool, usize)>, Condvar)>);

impl Gate {
    pub fn new() -> Self {
        Gate::default()
    }

    /// Waits until the gate is open. It opens by itself after a while, so that a failed test ends.
    pub fn wait(&self) {
        let (state, change) = &*self.0;
        let mut guard = state.lock().unwrap();
        guard.1 += 1;
        change.notify_all();
        let (mut guard, _) = change.wait_timeout_while(guard, SOON * 2, |state| !state.0).unwrap();
        guard.1 -= 1;
    }

    pub fn open(&self) {
        let (state, change) = &*self.0;
        state.lock().unwrap().0 = true;
        change.notify_all();
    }

    pub fn close(&self) {
        self.0 .0.lock().unwrap().0 = false;
    }

    /// Waits until `count` callbacks stand at the gate.
    #[track_caller]
    pub fn reached_by(&self, count: usize) {
        let (state, change) = &*self.0;
        let guard = state.lock().unwrap();
        let (guard, _) = change.wait_timeout_while(guard, SOON, |state| state.1 < count).unwrap();
        let waiting = guard.1;
        drop(guard);
        assert!(waiting >= count, "{waiting} of {count} reached the gate");
    }

    /// How many callbacks stand at the gate.
    pub fn waiting(&self) -> usize {
        self.0 .0.lock().unwrap().1
    }
}

/// A gate is opened when the test ends, so that no callback is left in it.
pub struct OpenOnDrop(pub Gate);

impl Drop for OpenOnDrop {
    fn drop(&mut self) {
        self.0.open();
    }
}
