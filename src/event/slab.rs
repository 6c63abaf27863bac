//! The connections of a loop, in slots that never move, because the C layer
//! hands out their addresses.

#![forbid(unsafe_code)]

use std::sync::Arc;

use crate::conn::{Conn, ConnId, ThreadContext};

const CHUNK: usize = 256;

pub(super) struct Slab {
    context: Arc<ThreadContext>,
    chunks: Vec<Box<[Conn; CHUNK]>>,
}

impl Drop for Slab {
    fn drop(&mut self) {
        self.context.current.forget();
    }
}

impl Slab {
    pub fn new(context: Arc<ThreadContext>) -> Slab {
        Slab { context, chunks: Vec::new() }
    }

    #[inline]
    pub fn get(&mut self, slot: u32) -> Option<&mut Conn> {
        let slot = slot as usize;
        Some(&mut self.chunks.get_mut(slot / CHUNK)?[slot % CHUNK])
    }

    /// The connection with this id; `None` if its slot is free or has another
    /// connection by now. A free slot has the id 0, which no connection has.
    #[inline]
    pub fn of(&mut self, id: u64) -> Option<&mut Conn> {
        self.get(ConnId::slot(id)).filter(|conn| conn.id == id)
    }

    /// Returns a slot that may not have been used yet.
    pub fn place(&mut self, slot: u32) -> &mut Conn {
        while self.chunks.len() <= slot as usize / CHUNK {
            let vacant = || Conn::vacant(self.context.clone());
            let chunk: Box<[Conn]> = (0..CHUNK).map(|_| vacant()).collect();
            self.chunks.extend(chunk.try_into());
        }
        &mut self.chunks[slot as usize / CHUNK][slot as usize % CHUNK]
    }

    /// All places, vacant ones included.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Conn> {
        self.chunks.iter_mut().flat_map(|chunk| chunk.iter_mut())
    }
}
