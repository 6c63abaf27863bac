//! Deadlines: the monotonic clock and a heap of what falls due.

#![forbid(unsafe_code)]

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use crate::sys;

/// No deadline.
pub(crate) const NEVER: u64 = u64::MAX;

/// Milliseconds of the monotonic clock, rounded down, and one more: never 0,
/// which stands for "off" in a connection. The clock's own zero needs nothing
/// that is made at the first call, for which threads would wait.
pub(crate) fn now() -> u64 {
    sys::monotonic_millis() + 1
}

/// The first moment of [`now`] at which `time` has passed for certain.
pub(crate) fn after(time: Duration) -> u64 {
    after_millis(time.as_nanos().div_ceil(1_000_000) as u64)
}

/// [`after`] for milliseconds. One more than the sum, because the present
/// millisecond may be all but over: a deadline is never early.
pub(crate) fn after_millis(millis: u64) -> u64 {
    now() + millis + 1
}

/// The time until a deadline as poll(2) takes it: −1 for [`NEVER`].
pub(crate) fn poll_timeout(deadline: u64) -> i32 {
    match deadline {
        NEVER => -1,
        _ => deadline.saturating_sub(now()).min(i32::MAX as u64) as i32,
    }
}

/// What falls due when, by slot. An entry is only a hint to look: whoever
/// takes it out computes the true deadline and arms again, so that moving a
/// deadline back, as every byte does to an idle timeout, costs nothing here.
/// An entry that nobody waits for any more is stale. It stays until the stale
/// ones outnumber the others: so the heap is bounded by what is open, and each
/// entry is moved by such a cleaning once on average.
#[derive(Default)]
pub(crate) struct Timers {
    heap: BinaryHeap<Reverse<(u64, u32)>>,
    stale: usize,
}

impl Timers {
    pub fn arm(&mut self, due: u64, slot: u32) {
        self.heap.push(Reverse((due, slot)));
    }

    /// The earliest entry's time, or [`NEVER`].
    pub fn next(&self) -> u64 {
        self.heap.peek().map_or(NEVER, |Reverse((due, _))| *due)
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
    pub fn retain(&mut self, mut waits: impl FnMut(u64, u32) -> bool) {
        self.heap.retain(|Reverse((due, slot))| waits(*due, *slot));
        self.heap.shrink_to(2 * self.heap.len() + 64);
        self.stale = 0;
    }

    /// Takes out the earliest entry if it is due.
    pub fn expired(&mut self, now: u64) -> Option<(u64, u32)> {
        let due = self.heap.peek().is_some_and(|Reverse((due, _))| *due <= now);
        due.then(|| self.heap.pop()).flatten().map(|Reverse(entry)| entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn entries_come_out_in_order_and_not_early() {
        let mut timers = Timers::default();
        assert_eq!(timers.next(), NEVER);
        for (due, slot) in [(30, 1), (10, 2), (20, 3)] {
            timers.arm(due, slot);
        }
        assert_eq!(timers.next(), 10);
        assert_eq!(timers.expired(9), None);
        assert_eq!(timers.expired(25), Some((10, 2)));
        assert_eq!(timers.expired(25), Some((20, 3)));
        assert_eq!(timers.expired(25), None);
    }

    #[test]
    fn stale_entries_do_not_pile_up() {
        let mut timers = Timers::default();
        for round in 0..10_000_u64 {
            timers.arm(1_000_000 + round, 7);
            if timers.is_stale() {
                timers.retain(|due, _| due == 1_000_000 + round);
            }
            assert!(timers.heap.len() < 200);
        }
    }

    #[test]
    fn a_deadline_is_never_early() {
        let start = Instant::now();
        let due = after(Duration::from_millis(3));
        while now() < due {
            std::hint::spin_loop();
        }
        assert!(start.elapsed() >= Duration::from_millis(3));
    }
}
