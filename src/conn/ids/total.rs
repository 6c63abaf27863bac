//! The bytes that are pending for all connections of a server, and their bound
//! (`send_limit_total`). It is the sum of the pending bytes of all entries: each
//! change of an entry changes it by as much, so nothing of an entry that has
//! ended stays in it.

#![forbid(unsafe_code)]

use std::sync::Arc;

use super::{see, IdTable, SendError, PENDING, SENDABLE};
use crate::sync::atomic::{AtomicUsize, Ordering};

/// The most bytes that a connection without a queue may send although the total
/// is used up, where the kernel takes bytes now. So a peer that reads is served
/// whatever the peers hold that do not.
pub(crate) const PASSING: usize = 64 << 10;

pub(crate) struct Total {
    limit: usize,
    pending: AtomicUsize,
}

impl Total {
    /// Returns `None` for a `limit` of 0, which is no bound.
    pub fn of(limit: usize) -> Option<Arc<Total>> {
        (limit != 0).then(|| Arc::new(Total { limit, pending: AtomicUsize::new(0) }))
    }

    fn with(&self, pending: usize, n: usize) -> Option<usize> {
        let sum = pending.saturating_add(n);
        (n == 0 || sum <= self.limit).then_some(sum)
    }

    /// Counts `n` more bytes, if there is room for them.
    fn take(&self, n: usize) -> bool {
        let change = |pending| self.with(pending, n);
        self.pending.fetch_update(Ordering::Relaxed, Ordering::Relaxed, change).is_ok()
    }

    fn add(&self, n: usize) {
        self.pending.fetch_add(n, Ordering::Relaxed);
    }

    fn sub(&self, n: usize) {
        self.pending.fetch_sub(n, Ordering::Relaxed);
    }
}

impl IdTable {
    /// Counts the pending bytes in `total` too. Before the first connection.
    pub fn count_in(&mut self, total: Arc<Total>) {
        self.total = Some(total);
        self.set_direct(true);
    }

    /// Returns the most bytes that the loop may send without a look at the entry.
    pub(super) fn largest_direct(&self) -> usize {
        self.limit.min(self.total.as_ref().map_or(usize::MAX, |_| PASSING))
    }

    /// Returns whether `n` more bytes may be pending for all connections
    /// together.
    pub fn total_has_room(&self, n: usize) -> bool {
        let room = |total: &Arc<Total>| total.with(total.pending.load(Ordering::Relaxed), n);
        self.total.as_ref().is_none_or(|total| room(total).is_some())
    }

    /// Counts `n` more pending bytes if the connection takes them.
    pub(in crate::conn) fn add(&self, id: u64, n: usize) -> Result<(), SendError> {
        // Another thread that adds too sees these bytes first, so that all
        // together stay within the bound.
        let total_takes = self.total.as_ref().is_none_or(|total| total.take(n));
        let fits = |word: u64| {
            total_takes && (word & PENDING).saturating_add(n as u64) <= self.limit as u64
        };
        let before = self.update(id, |word| match () {
            () if word & SENDABLE == 0 => Err(SendError::Gone),
            () if fits(word) => Ok(word + n as u64),
            () => Ok(see(word)),
        });
        let added = before.and_then(|word| if fits(word) { Ok(()) } else { Err(SendError::Full) });
        if added.is_err() && total_takes {
            self.note_left(n);
        }
        added
    }

    /// Keeps the room of `n` bytes in the total that are about to be counted anew,
    /// encrypted: other threads must not take it meanwhile.
    pub(in crate::conn) fn hold(&self, n: usize) {
        self.note_queued(n);
    }

    pub(in crate::conn) fn let_go(&self, n: usize) {
        self.note_left(n);
    }

    pub(super) fn note_queued(&self, n: usize) {
        if let Some(total) = &self.total {
            total.add(n);
        }
    }

    pub(super) fn note_left(&self, n: usize) {
        if let Some(total) = &self.total {
            total.sub(n);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_is_the_sum_of_all_entries() {
        let total = Total::of(100).unwrap();
        let pending = || total.pending.load(Ordering::Relaxed);
        let mut tables = [IdTable::new(80), IdTable::new(80)];
        tables.iter_mut().for_each(|table| table.count_in(total.clone()));
        tables.iter().for_each(|table| table.grow(0).unwrap());
        let ids: Vec<_> = tables.iter().map(|table| table.give(0, 0).unwrap()).collect();
        let [first, second] = &tables;
        first.open(ids[0], true);
        second.open(ids[1], true);
        assert_eq!(first.add(ids[0], 70), Ok(()));
        assert_eq!(first.add(ids[0], 11), Err(SendError::Full), "of the connection");
        assert_eq!(second.add(ids[1], 31), Err(SendError::Full), "of the total");
        assert_eq!(pending(), 70);
        assert_eq!(second.add(ids[1], 30), Ok(()));
        assert_eq!(second.add(ids[1], 0), Ok(()));
        assert!(!first.total_has_room(1) && first.total_has_room(0));
        // What a loop has queued itself counts beyond the bound too.
        second.count_queued(ids[1], 25);
        assert_eq!(pending(), 125);
        second.sub(ids[1], 1000);
        assert_eq!(pending(), 70);
        first.shut(ids[0]);
        assert_eq!(first.add(ids[0], 1), Err(SendError::Gone));
        first.release(ids[0]);
        first.sub(ids[0], 70);
        second.release(ids[1]);
        assert_eq!(pending(), 0);
    }

    #[test]
    fn direct_sends_look_at_the_total_where_they_are_large() {
        let mut table = IdTable::new(1 << 20);
        assert_eq!(table.direct(), 1 << 20);
        table.count_in(Total::of(1 << 30).unwrap());
        assert_eq!(table.direct(), PASSING);
        assert!(Total::of(0).is_none());
    }
}
