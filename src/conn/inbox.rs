//! Bytes that were accepted by id, on their way from any thread to the
//! connection's loop.
//!
//! One step under one lock accepts bytes and stores them. So a thread that
//! makes a connection refuse more (by a close, a half-close or a detach) and
//! then takes the connection's bytes has all that were ever accepted. The bytes
//! of a connection lie in one queue, in which small sends share chunks: the
//! number of sends makes no difference to the memory that they need.

#![forbid(unsafe_code)]

use std::cell::OnceCell;
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use super::{IdTable, SendError};
use crate::outbuf::{self, OutBuf};
use crate::sync::{lock, Mutex};

/// The bytes that were accepted for the connections of a loop and that no
/// connection has got yet.
#[derive(Default)]
pub(crate) struct Inbox {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The connections whose bytes are here, in the order in which the loop
    /// comes to them.
    order: VecDeque<u64>,
    /// An entry for each of these connections. It is empty where the connection
    /// took its bytes before the loop came to it.
    queues: HashMap<u64, OutBuf, BuildHasherDefault<IdHasher>>,
}

/// Ids are numbers of the library's own, which nobody can choose: they need no
/// keyed hash. The multiplication (Fibonacci hashing) spreads the slot, in the low
/// bits, over all.
#[derive(Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write_u64(&mut self, id: u64) {
        self.0 = id.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(self.0 ^ u64::from(*byte)));
    }
}

/// Bytes by id, for one connection or for many.
pub(crate) struct Message<'a> {
    pub bytes: &'a [u8],
    /// The one copy, in pieces, that all queues share; made at its first use.
    pieces: OnceCell<Vec<Arc<[u8]>>>,
}

impl<'a> Message<'a> {
    pub fn new(bytes: &'a [u8]) -> Message<'a> {
        Message { bytes, pieces: OnceCell::new() }
    }

    /// Returns whether queues share a copy. A few bytes each of them copies: that
    /// is cheaper.
    pub fn is_shared(&self) -> bool {
        self.bytes.len() >= outbuf::SHARED
    }

    fn pieces(&self) -> &[Arc<[u8]>] {
        self.pieces.get_or_init(|| match self.is_shared() {
            true => OutBuf::shared(self.bytes),
            false => Vec::new(),
        })
    }

    /// Appends the message to a queue.
    pub fn push_to(&self, queue: &mut OutBuf) {
        match self.is_shared() {
            true => self.pieces().iter().for_each(|piece| queue.push_shared(piece)),
            false => queue.push(self.bytes),
        }
    }
}

impl Inbox {
    /// Accepts bytes for a connection, or refuses all of them. Returns `true`
    /// where the caller must wake the loop.
    pub fn put(&self, ids: &IdTable, id: u64, message: &Message<'_>) -> Result<bool, SendError> {
        // Many bytes are copied before the lock.
        message.pieces();
        let mut state = lock(&self.state);
        // This comes before the bytes are accepted: a thread that then shuts
        // the connection and looks for them must wait for the lock.
        ids.set_direct(false);
        let added = ids.add(id, message.bytes.len());
        if added.is_err() || message.bytes.is_empty() {
            ids.set_direct(state.order.is_empty());
            return added.map(|()| false);
        }
        let State { order, queues } = &mut *state;
        let first = order.is_empty();
        let queue = queues.entry(id).or_insert_with(|| {
            order.push_back(id);
            OutBuf::default()
        });
        message.push_to(queue);
        Ok(first)
    }

    /// Takes the bytes that were accepted for a connection; the connection then
    /// owns them.
    pub fn take(&self, id: u64) -> Option<OutBuf> {
        let mut state = lock(&self.state);
        state.queues.get_mut(&id).map(std::mem::take).filter(|queue| queue.len() > 0)
    }

    /// Returns the next connection that the loop must look at.
    pub fn first(&self) -> Option<u64> {
        lock(&self.state).order.front().copied()
    }

    /// Returns how many connections the loop must look at.
    pub fn waiting(&self) -> usize {
        lock(&self.state).order.len()
    }

    /// Returns whether no bytes are on their way.
    pub fn is_empty(&self, ids: &IdTable) -> bool {
        ids.direct() != 0
    }

    /// Takes the next connection that the loop must look at, with its bytes.
    /// There may be none, because the connection took them before.
    pub fn next(&self, ids: &IdTable) -> Option<(u64, OutBuf)> {
        let mut state = lock(&self.state);
        let id = state.order.pop_front()?;
        let queue = state.queues.remove(&id).unwrap_or_default();
        if state.order.is_empty() {
            // The inbox does not keep the memory of a burst.
            *state = State::default();
            ids.set_direct(true);
        }
        Some((id, queue))
    }
}
