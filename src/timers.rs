//! A heap of deadlines.

#![forbid(unsafe_code)]

use std::cmp::Reverse;
use std::collections::{BinaryHeap, TryReserveError};

use crate::clock::Deadline;

/// The deadlines of connections, by slot. An entry only says when to look: the
/// loop then removes it, computes the true deadline and arms again. So moving a
/// deadline back, as every byte does to an idle timeout, costs nothing here. An
/// entry that no connection waits for any more is stale. The stale entries stay
/// until they outnumber the others. So the number of open connections bounds
/// the heap, and such a cleaning moves each entry once on average.
#[derive(Default)]
pub(crate) struct Timers {
    heap: BinaryHeap<Reverse<(Deadline, u32)>>,
    stale: usize,
}

impl Timers {
    /// Makes room for an entry.
    pub fn make_room(&mut self) -> Result<(), TryReserveError> {
        self.heap.try_reserve(1)
    }

    pub fn arm(&mut self, due: Deadline, slot: u32) {
        self.heap.push(Reverse((due, slot)));
    }

    /// The time of the earliest entry, or [`Deadline::NEVER`].
    pub fn next(&self) -> Deadline {
        self.heap.peek().map_or(Deadline::NEVER, |Reverse((due, _))| *due)
    }

    /// Notes that an entry became stale.
    pub fn note_stale(&mut self) {
        self.stale += 1;
    }

    /// Returns whether the stale entries are too many: the caller then calls
    /// [`Timers::retain`].
    pub fn must_clean(&self) -> bool {
        self.stale > self.heap.len() / 2 + 32
    }

    /// Notes that a stale entry was removed.
    pub fn note_stale_removed(&mut self) {
        self.stale = self.stale.saturating_sub(1);
    }

    /// Drops the entries that no connection waits for.
    pub fn retain(&mut self, mut waits: impl FnMut(Deadline, u32) -> bool) {
        self.heap.retain(|Reverse((due, slot))| waits(*due, *slot));
        self.heap.shrink_to(2 * self.heap.len() + 64);
        self.stale = 0;
    }

    /// Removes and returns the earliest entry if it is due.
    pub fn pop_due(&mut self, now: Deadline) -> Option<(Deadline, u32)> {
        let due = self.heap.peek().is_some_and(|Reverse((due, _))| *due <= now);
        due.then(|| self.heap.pop()).flatten().map(|Reverse(entry)| entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(bits: u64) -> Deadline {
        Deadline::from_bits(bits)
    }

    #[test]
    fn entries_come_out_in_order_and_not_early() {
        let mut timers = Timers::default();
        assert_eq!(timers.next(), Deadline::NEVER);
        for (due, slot) in [(30, 1), (10, 2), (20, 3)] {
            timers.arm(at(due), slot);
        }
        assert_eq!(timers.next(), at(10));
        assert_eq!(timers.pop_due(at(9)), None);
        assert_eq!(timers.pop_due(at(25)), Some((at(10), 2)));
        assert_eq!(timers.pop_due(at(25)), Some((at(20), 3)));
        assert_eq!(timers.pop_due(at(25)), None);
    }

    #[test]
    fn stale_entries_do_not_pile_up() {
        let mut timers = Timers::default();
        for round in 0..10_000_u64 {
            timers.arm(at(1_000_000 + round), 7);
            timers.note_stale();
            if timers.must_clean() {
                timers.retain(|due, _| due == at(1_000_000 + round));
            }
            assert!(timers.heap.len() < 200);
        }
    }
}
