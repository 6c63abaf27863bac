//! The one word of each connection that other threads see.

#![forbid(unsafe_code)]

// The models of tests/loom find both by these paths.
#[cfg(test)]
#[path = "ids/tests.rs"]
mod tests;
#[path = "ids/total.rs"]
mod total;

use std::collections::TryReserveError;
use std::net::Shutdown;
use std::sync::Arc;

use once_cell::sync::OnceCell;

use super::id::{ConnId, GENERATION_MAX};
use crate::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

pub(crate) use total::{Total, PASSING};

// An entry: generation (25 bits), state (8 bits), pending bytes (31 bits, as
// many as `send_limit` may be).
const ALIVE: u64 = 1 << 31;
/// The connection takes calls by id.
const CALLABLE: u64 = 1 << 32;
/// The connection takes bytes too: neither it nor a call by id has ended sending.
const SENDABLE: u64 = 1 << 33;
/// The connection is among the open ones. It is not while its connect is in
/// progress, nor in its first callback, in which the program may give the id
/// away.
const LISTED: u64 = 1 << 34;
/// A call by id has ended receiving.
const RECEIVING_ENDED: u64 = 1 << 35;
/// A wake is on its way to the loop.
const WAKE_PENDING: u64 = 1 << 36;
/// An abort is on its way to the loop.
const ABORT_PENDING: u64 = 1 << 37;
/// The program has seen that bytes are pending: it may wait for `on_drain`.
const SEEN: u64 = 1 << 38;
const OPEN: u64 = CALLABLE | SENDABLE | LISTED;
const STATE: u64 = 0xff << 31;
const PENDING: u64 = i32::MAX as u64;
const GENERATION_SHIFT: u32 = 39;

/// Notes in an entry that the program sees what is pending.
fn see(word: u64) -> u64 {
    match word & PENDING {
        0 => word,
        _ => word | SEEN,
    }
}

const FIRST_CHUNK: usize = 64;
/// Slot numbers end where the chunks do, just below 2^24.
const CHUNKS: usize = 18;

/// Why a call by id was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SendError {
    Gone,
    Full,
}

/// What the id of a connection took, and what calls by id had asked for, when it
/// was suspended.
pub(crate) struct Suspended(u64);

impl Suspended {
    /// Returns whether the connection, or a call by id, has ended sending.
    pub fn ends_sending(&self) -> bool {
        self.0 & SENDABLE == 0
    }

    /// Returns whether a call by id has ended receiving.
    pub fn ends_receiving(&self) -> bool {
        self.0 & RECEIVING_ENDED != 0
    }
}

/// One atomic word for each slot of a loop. It says which connection has the
/// slot, whether the connection takes calls, and how many bytes are accepted
/// for it but not written. Because this is one word, each call by id is one
/// atomic step: bytes are counted for that connection and for no later one.
pub(crate) struct IdTable {
    /// Chunk `k` has `64 << k` entries: no entry ever moves.
    chunks: [OnceCell<Box<[AtomicU64]>>; CHUNKS],
    /// The most bytes that may be pending for a connection.
    limit: usize,
    /// The most bytes that the loop may send without a look at the entry, where
    /// it has queued none itself. This is `limit`, `PASSING` at most where there
    /// is a total, or 0 while bytes that were accepted by id may be on their way.
    direct: AtomicUsize,
    /// What is pending in all tables of the server, if that has a bound.
    total: Option<Arc<Total>>,
}

impl IdTable {
    /// The most slots that there can be.
    pub const SLOTS: u32 = ((FIRST_CHUNK << CHUNKS) - FIRST_CHUNK) as u32;

    /// Returns an empty table; at most `limit` bytes may be pending for each
    /// connection.
    pub fn new(limit: usize) -> IdTable {
        let chunks = [const { OnceCell::new() }; CHUNKS];
        IdTable { chunks, limit, direct: AtomicUsize::new(limit), total: None }
    }

    fn place(slot: u32) -> (usize, usize) {
        let n = slot as usize + FIRST_CHUNK;
        let chunk = (n / FIRST_CHUNK).ilog2() as usize;
        (chunk, n - (FIRST_CHUNK << chunk))
    }

    fn entry(&self, slot: u32) -> Option<&AtomicU64> {
        let (chunk, index) = IdTable::place(slot);
        self.chunks.get(chunk)?.get()?.get(index)
    }

    /// Makes the entry of a slot, and the others of its chunk, if they are not
    /// there.
    pub fn grow(&self, slot: u32) -> Result<(), TryReserveError> {
        let (chunk, _) = IdTable::place(slot);
        let make = || {
            let (mut entries, len) = (Vec::new(), FIRST_CHUNK << chunk);
            entries.try_reserve_exact(len)?;
            entries.resize_with(len, || AtomicU64::new(0));
            Ok(entries.into_boxed_slice())
        };
        self.chunks[chunk].get_or_try_init(make).map(drop)
    }

    /// Gives a slot that has an entry ([`IdTable::grow`]) to a new connection
    /// and returns its id, which takes no calls yet. Returns `None` when the
    /// slot's generations are used up and it must not be used again.
    pub fn give(&self, index: usize, slot: u32) -> Option<u64> {
        let entry = self.entry(slot)?;
        let generation = (entry.load(Ordering::Relaxed) >> GENERATION_SHIFT) + 1;
        if generation > GENERATION_MAX {
            return None;
        }
        entry.store(generation << GENERATION_SHIFT | ALIVE, Ordering::Release);
        Some(ConnId::of_slot(index, slot, generation))
    }

    fn update(
        &self,
        id: u64,
        change: impl Fn(u64) -> Result<u64, SendError>,
    ) -> Result<u64, SendError> {
        let entry = self.entry(ConnId::slot(id)).ok_or(SendError::Gone)?;
        let mut word = entry.load(Ordering::Acquire);
        loop {
            if word >> GENERATION_SHIFT != ConnId::generation(id) || word & ALIVE == 0 {
                return Err(SendError::Gone);
            }
            let new = change(word)?;
            match entry.compare_exchange_weak(word, new, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Ok(word),
                Err(now) => word = now,
            }
        }
    }

    /// Returns whether the connection takes `n` bytes and none are pending. Only
    /// the owning loop calls it.
    pub fn is_clear(&self, id: u64, n: usize) -> bool {
        let Some(entry) = self.entry(ConnId::slot(id)) else { return false };
        let word = entry.load(Ordering::Acquire);
        word >> GENERATION_SHIFT == ConnId::generation(id)
            && word & (ALIVE | SENDABLE | PENDING) == ALIVE | SENDABLE
            && (1..=self.limit).contains(&n)
    }

    /// Counts `n` bytes that the owning loop has queued itself, also for a
    /// connection that takes no more by id. Bytes that TLS adds may pass the
    /// limit.
    pub fn count_queued(&self, id: u64, n: usize) {
        let sum = |word: u64| (word & PENDING).saturating_add(n as u64).min(PENDING);
        if let Ok(before) = self.update(id, |word| Ok(word & !PENDING | sum(word))) {
            self.note_queued((sum(before) - (before & PENDING)) as usize);
        }
    }

    /// Counts `n` pending bytes as written or given up. Returns whether the
    /// program has seen pending bytes since the last time. Only the owning loop
    /// calls it.
    pub fn sub(&self, id: u64, n: usize) -> bool {
        let left = |word: u64| (word & PENDING).min(n as u64);
        let Ok(before) = self.update(id, |word| Ok((word & !SEEN) - left(word))) else {
            return false;
        };
        self.note_left(left(before) as usize);
        before & SEEN != 0
    }

    /// Notes that the program sees what is pending.
    pub fn note_seen(&self, id: u64) {
        let _ = self.update(id, |word| Ok(see(word)));
    }

    /// Returns the number of bytes that were accepted and not yet written. Only
    /// the owning loop calls it.
    pub fn pending(&self, id: u64) -> usize {
        let word = self.entry(ConnId::slot(id)).map_or(0, |e| e.load(Ordering::Relaxed));
        (word & PENDING) as usize
    }

    /// Returns whether `n` more bytes may be pending. Only the owning loop
    /// calls it.
    pub fn has_room(&self, id: u64, n: usize) -> bool {
        self.pending(id).saturating_add(n) <= self.limit
    }

    /// Returns for how many bytes [`IdTable::has_room`] holds where the loop
    /// has queued none itself.
    #[inline]
    pub fn direct(&self) -> usize {
        self.direct.load(Ordering::Relaxed)
    }

    /// Sets whether the loop may send directly. It may not while bytes that
    /// were accepted by id may be on their way: a direct send must look for
    /// them first.
    pub(super) fn set_direct(&self, direct: bool) {
        self.direct.store(if direct { self.largest_direct() } else { 0 }, Ordering::Relaxed);
    }

    /// Makes the connection take no more bytes, wakes and closes. Returns
    /// whether it took them before.
    pub fn shut(&self, id: u64) -> bool {
        self.suspend(id).is_some()
    }

    /// Does as [`IdTable::shut`], for a detach: it must do what calls by id have
    /// asked for. Returns `None` if the connection took no calls before.
    pub fn suspend(&self, id: u64) -> Option<Suspended> {
        let before = self.update(id, |word| Ok(word & !OPEN)).unwrap_or(0);
        (before & CALLABLE != 0).then_some(Suspended(before))
    }

    /// Makes the connection take again what it took before, bytes only if it is
    /// `sendable`.
    pub fn resume(&self, id: u64, before: &Suspended, sendable: bool) {
        let mask = if sendable { OPEN } else { OPEN & !SENDABLE };
        let _ = self.update(id, |word| Ok(word | before.0 & mask));
    }

    /// Returns the number of pending bytes of a connection that takes calls, for
    /// the program.
    pub fn queued(&self, id: u64) -> Result<usize, SendError> {
        let word = self.update(id, |word| match word & CALLABLE {
            0 => Err(SendError::Gone),
            _ => Ok(see(word)),
        })?;
        Ok((word & PENDING) as usize)
    }

    /// Notes a half-close of a connection that takes calls: it takes no more
    /// bytes where sending ends. Returns whether it ends something that had not
    /// ended.
    pub fn half_close(&self, id: u64, how: Shutdown) -> Result<bool, SendError> {
        let change = |word| match how {
            Shutdown::Write => word & !SENDABLE,
            Shutdown::Read => word | RECEIVING_ENDED,
            Shutdown::Both => word & !SENDABLE | RECEIVING_ENDED,
        };
        let before = self.update(id, |word| match word & CALLABLE {
            0 => Err(SendError::Gone),
            _ => Ok(change(word)),
        })?;
        Ok(change(before) != before)
    }

    /// Makes the connection take no more bytes.
    pub fn shut_sending(&self, id: u64) {
        let _ = self.update(id, |word| Ok(word & !SENDABLE));
    }

    /// Makes the connection take calls: its first callback begins, or its
    /// connect.
    pub fn begin(&self, id: u64) {
        let _ = self.update(id, |word| Ok(word | CALLABLE | SENDABLE));
    }

    /// Puts the connection among the open ones after its first callback, unless
    /// the connection was ended.
    pub fn list(&self, id: u64) {
        let _ = self.update(id, |word| match word & CALLABLE {
            0 => Ok(word),
            _ => Ok(word | LISTED),
        });
    }

    /// Makes the connection take calls, and bytes if it is `sendable`.
    pub fn open(&self, id: u64, sendable: bool) {
        let state = if sendable { OPEN } else { OPEN & !SENDABLE };
        let _ = self.update(id, |word| Ok(word | state));
    }

    /// Asks for an abort. Returns `true` where none was on its way.
    pub fn abort(&self, id: u64) -> Result<bool, SendError> {
        let before = self.update(id, |word| Ok(word & !OPEN | ABORT_PENDING))?;
        Ok(before & ABORT_PENDING == 0)
    }

    /// Ends the id. Returns whether an abort and a wake were on their way.
    pub fn release(&self, id: u64) -> (bool, bool) {
        let before = self.update(id, |word| Ok(word & !(STATE | PENDING))).unwrap_or(0);
        self.note_left((before & PENDING) as usize);
        (before & ABORT_PENDING != 0, before & WAKE_PENDING != 0)
    }

    #[cfg(test)]
    fn is_alive(&self, id: u64) -> bool {
        self.update(id, Ok).is_ok()
    }

    /// Asks for a wake. Returns `true` where none was on its way.
    pub fn wake(&self, id: u64) -> Result<bool, SendError> {
        let before = self.update(id, |word| match word & CALLABLE {
            0 => Err(SendError::Gone),
            _ => Ok(word | WAKE_PENDING),
        })?;
        Ok(before & WAKE_PENDING == 0)
    }

    /// Notes a wake that came with an attached connection.
    pub fn note_wake(&self, id: u64) {
        let _ = self.update(id, |word| Ok(word | WAKE_PENDING));
    }

    /// Notes that the loop has received the wake.
    pub fn clear_wake(&self, id: u64) {
        let _ = self.update(id, |word| Ok(word & !WAKE_PENDING));
    }

    /// Returns the ids of all open connections of the loop `index`.
    pub fn open_ids(&self, index: usize) -> Vec<ConnId> {
        let mut slot = 0;
        let mut ids = Vec::new();
        for entries in self.chunks.iter().map_while(OnceCell::get) {
            for entry in entries.iter() {
                let word = entry.load(Ordering::Acquire);
                if word & LISTED != 0 {
                    ids.extend(ConnId::from_u64(ConnId::of_slot(
                        index,
                        slot,
                        word >> GENERATION_SHIFT,
                    )));
                }
                slot += 1;
            }
        }
        ids
    }
}
