//! The numbers of connections: which loop, which slot, which of its connections.

#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering};

/// The number of a connection: never 0, never given to another connection of
/// the same server, safe to keep and to use from any thread.
///
/// ```
/// use net_server::ConnId;
/// let id = ConnId::from_u64(33_554_433).expect("an id is not 0");
/// assert_eq!(id.get(), 33_554_433);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(u64);

pub(super) const SLOT_BITS: u32 = 24;
const GENERATION_BITS: u32 = 25;
pub(super) const GENERATION_MAX: u64 = (1 << GENERATION_BITS) - 1;

/// What an id without a connection belongs to; the slot says which it is.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum TaskKind {
    Watch = (1 << SLOT_BITS) - 2,
    Timer = (1 << SLOT_BITS) - 3,
}

impl ConnId {
    /// Returns the number.
    pub fn get(self) -> u64 {
        self.0
    }

    /// Returns the id with this number; `None` for 0.
    pub fn from_u64(id: u64) -> Option<ConnId> {
        (id != 0).then_some(ConnId(id))
    }

    /// Returns the id of a loop's connection: the loop, the slot, and the
    /// generation, which says how often the slot was used and is never 0.
    pub(super) fn of_slot(index: usize, slot: u32, generation: u64) -> u64 {
        (index as u64) << (SLOT_BITS + GENERATION_BITS)
            | u64::from(slot) << GENERATION_BITS
            | generation
    }

    /// Returns the id of the `n`th peer of a shutdown port. No connection has
    /// it: the slots of loops end before this one, and the numbers of workers'
    /// connections do not come so far.
    pub(crate) fn of_shutdown(n: u64) -> u64 {
        ConnId::of_slot(0, (1 << SLOT_BITS) - 1, (n % GENERATION_MAX) + 1)
    }

    /// Returns the id of the `n`th watch or timer of a loop. No connection has
    /// it, as with a peer of the shutdown port.
    pub(crate) fn of_task(index: usize, kind: TaskKind, n: u64) -> u64 {
        ConnId::of_slot(index, kind as u32, (n % GENERATION_MAX) + 1)
    }

    /// Returns a new id for a socket that the program has made an owned one. No
    /// other connection has it, as with a peer of the shutdown port.
    pub(crate) fn of_owned() -> u64 {
        const SLOT: u32 = (1 << SLOT_BITS) - 4;
        static LAST: AtomicU64 = AtomicU64::new(0);
        let n = LAST.fetch_add(1, Ordering::Relaxed);
        ConnId::of_slot(0, SLOT, (n % GENERATION_MAX) + 1)
    }

    /// Returns the loop of a loop's connection.
    pub(crate) fn loop_index(id: u64) -> usize {
        (id >> (SLOT_BITS + GENERATION_BITS)) as usize
    }

    /// Returns the slot of a loop's connection.
    pub(crate) fn slot(id: u64) -> u32 {
        (id >> GENERATION_BITS) as u32 & ((1 << SLOT_BITS) - 1)
    }

    pub(super) fn generation(id: u64) -> u64 {
        id & GENERATION_MAX
    }
}
