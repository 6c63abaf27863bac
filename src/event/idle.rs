//! Waiting until the loops have no connection. A close pays for it only while
//! somebody waits.

#![forbid(unsafe_code)]

use std::sync::atomic::Ordering;
use std::sync::{Condvar, Mutex};

use super::LoopGroup;
use crate::clock::Deadline;
use crate::sync::{lock, wait_until};

/// Accepting waits until a connection closes.
pub(super) const ROOM: u8 = 1;
/// Threads wait until no connection is open.
const IDLE: u8 = 1 << 1;

/// The threads that wait.
#[derive(Default)]
pub(super) struct Idle {
    count: Mutex<usize>,
    changed: Condvar,
}

impl LoopGroup {
    /// Waits until no connection is open, at most until a deadline. Returns
    /// whether none is.
    pub fn wait_idle(&self, until: Deadline) -> bool {
        let mut count = lock(&self.idle.count);
        *count += 1;
        // A close counts down and then looks at the bit.
        self.awaited.fetch_or(IDLE, Ordering::SeqCst);
        let is_idle = loop {
            if self.is_idle() {
                break true;
            }
            if until.is_due() {
                break false;
            }
            count = wait_until(&self.idle.changed, count, until);
        };
        *count -= 1;
        if *count == 0 {
            self.awaited.fetch_and(!IDLE, Ordering::SeqCst);
        }
        is_idle
    }

    /// Wakes the threads that wait, if no connection is open.
    pub(super) fn note_idle(&self) {
        if self.awaited.load(Ordering::SeqCst) & IDLE != 0 && self.open() == 0 {
            // A thread that has just found a connection waits by now.
            drop(lock(&self.idle.count));
            self.idle.changed.notify_all();
        }
    }

    /// Returns whether no connection is open, at one moment: while all intakes
    /// are locked a connection cannot bring another one to another loop.
    pub fn is_idle(&self) -> bool {
        if self.open() > 0 {
            return false;
        }
        let _locked: Vec<_> = self.loops.iter().map(|handle| lock(&handle.intake)).collect();
        self.open() == 0
    }
}
