//! The connections of a loop, in slots that never move: the C layer hands
//! their addresses out.

#![forbid(unsafe_code)]

use std::sync::Arc;

use crate::conn::{Conn, Env};

const CHUNK: usize = 256;

pub(super) struct Slab {
    env: Arc<Env>,
    chunks: Vec<Box<[Conn]>>,
}

impl Slab {
    pub fn new(env: Arc<Env>) -> Slab {
        Slab { env, chunks: Vec::new() }
    }

    #[inline]
    pub fn get(&mut self, slot: u32) -> Option<&mut Conn> {
        let slot = slot as usize;
        self.chunks.get_mut(slot / CHUNK)?.get_mut(slot % CHUNK)
    }

    pub fn install(&mut self, slot: u32, conn: Conn) {
        while self.chunks.len() <= slot as usize / CHUNK {
            let vacant = || Conn::vacant(self.env.clone());
            self.chunks.push((0..CHUNK).map(|_| vacant()).collect());
        }
        if let Some(place) = self.get(slot) {
            *place = conn;
        }
    }

    /// One past the largest slot there has been.
    pub fn end(&self) -> u32 {
        (self.chunks.len() * CHUNK) as u32
    }
}
