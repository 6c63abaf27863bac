//! A heap of deadlines.

#![forbid(unsafe_code)]

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::clock::Deadline;

/// What falls due when, by slot. An entry is only a hint to look: whoever
/// takes it out computes the true deadline and arms again, so that moving a
/// deadline back, as every byte does to an idle timeout, costs nothing here.
/// An entry that nobody waits for any more is stale. It stays until the stale
/// ones outnumber the others: so the heap is bounded by what is open, and each
/// entry is moved by such a cleaning once on average.
#[derive(Default)]
pub(crate) struct Timers {
    heap: BinaryHeap<Reverse<(Deadline, u32)>>,
    stale: usize,
}

impl Timers {
    pub fn arm(&mut self, due: Deadline, slot: u32) {
        self.heap.push(Reverse((due, slot)));
    }

    /// The earliest entry's time, or [`Deadline::NEVER`].
    pub fn next(&self) -> Deadline {
        self.heap.peek().map_or(Deadline::NEVER, |Reverse((due, _))| *due)
    }

    /// An entry became stale. `true`: it is time for [`Timers::retain`].
    pub fn is_stale(&mut self) -> bool {
        self.stale += 1;
        self.stale > self.heap.len() / 2 + 32
    }

    /// A stale entry was taken out.
    pub fn stale_is_out(&mut self) {
        self.stale = self.stale.saturating_sub(1);
    }

    /// Drops the entries that nobody waits for.
    pub fn retain(&mut self, mut waits: impl FnMut(Deadline, u32) -> bool) {
        self.heap.retain(|Reverse((due, slot))| waits(*due, *slot));
        self.heap.shrink_to(2 * self.heap.len() + 64);
        self.stale = 0;
    }

    /// Takes out the earliest entry if it is due.
    pub fn expired(&mut self, now: Deadline) -> Option<(Deadline, u32)> {
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
        assert_eq!(timers.expired(at(9)), None);
        assert_eq!(timers.expired(at(25)), Some((at(10), 2)));
        assert_eq!(timers.expired(at(25)), Some((at(20), 3)));
        assert_eq!(timers.expired(at(25)), None);
    }

    #[test]
    fn stale_entries_do_not_pile_up() {
        let mut timers = Timers::default();
        for round in 0..10_000_u64 {
            timers.arm(at(1_000_000 + round), 7);
            if timers.is_stale() {
                timers.retain(|due, _| due == at(1_000_000 + round));
            }
            assert!(timers.heap.len() < 200);
        }
    }
}
