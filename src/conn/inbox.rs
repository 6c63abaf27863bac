//! Bytes accepted by id, on their way from any thread to the connection's
//! loop.
//!
//! Accepting bytes and storing them is one step under one lock, so whoever has
//! made a connection refuse more (a close, a half-close, a detach) and then
//! takes its bytes has all that were ever accepted. The bytes of a connection
//! lie in one queue, in which small sends share chunks: how many sends there
//! were makes no difference to the memory they need.

#![forbid(unsafe_code)]

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};

use super::{IdTable, SendError};
use crate::outbuf::OutBuf;
use crate::sync::lock;

/// What is accepted for the connections of a loop and not taken yet.
#[derive(Default)]
pub(crate) struct Inbox {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Whose bytes are here, in the order in which the loop comes to them.
    order: VecDeque<u64>,
    /// An entry for each of them, empty where the bytes were taken before the
    /// loop came to it.
    queues: HashMap<u64, OutBuf>,
}

/// Bytes on their way, to be stored once or many times.
pub(crate) enum Bytes<'a> {
    Own(&'a [u8]),
    /// One copy for all receivers of a broadcast, in pieces.
    Shared(&'a [Arc<[u8]>]),
}

impl Bytes<'_> {
    fn len(&self) -> usize {
        match self {
            Bytes::Own(bytes) => bytes.len(),
            Bytes::Shared(pieces) => pieces.iter().map(|piece| piece.len()).sum(),
        }
    }
}

impl Inbox {
    /// Accepts bytes for a connection, or refuses all of them. `true` where
    /// the loop is to be woken.
    pub fn put(&self, ids: &IdTable, id: u64, bytes: &Bytes<'_>) -> Result<bool, SendError> {
        let mut state = lock(&self.state);
        // Before they are accepted: who shuts the connection behind that, and
        // then looks for them, is to wait for the lock.
        ids.set_direct(false);
        let added = ids.add(id, bytes.len());
        if added.is_err() || bytes.len() == 0 {
            ids.set_direct(state.order.is_empty());
            return added.map(|()| false);
        }
        let State { order, queues } = &mut *state;
        let first = order.is_empty();
        let queue = queues.entry(id).or_insert_with(|| {
            order.push_back(id);
            OutBuf::default()
        });
        match bytes {
            Bytes::Own(bytes) => queue.push(bytes),
            Bytes::Shared(pieces) => pieces.iter().for_each(|piece| queue.push_shared(piece)),
        }
        Ok(first)
    }

    /// What was accepted for a connection, to be taken over by it.
    pub fn take(&self, id: u64) -> Option<OutBuf> {
        let mut state = lock(&self.state);
        state.queues.get_mut(&id).map(std::mem::take).filter(|queue| queue.len() > 0)
    }

    /// Nothing is on its way that the loop was not woken for yet.
    pub fn is_empty(&self, ids: &IdTable) -> bool {
        ids.direct() != 0
    }

    /// The next connection that the loop is to look at, with its bytes, which
    /// may have been taken already.
    pub fn next(&self, ids: &IdTable) -> Option<(u64, OutBuf)> {
        let mut state = lock(&self.state);
        let id = state.order.pop_front()?;
        let queue = state.queues.remove(&id).unwrap_or_default();
        if state.order.is_empty() {
            // The memory of a burst is not kept.
            *state = State::default();
            ids.set_direct(true);
        }
        Some((id, queue))
    }
}
