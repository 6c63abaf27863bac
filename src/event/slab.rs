//! The connections of a loop, in slots that never move, because the C layer
//! hands out their addresses.

#![forbid(unsafe_code)]

use std::collections::TryReserveError;
use std::sync::Arc;

use crate::conn::{Conn, ConnId, ThreadContext};
use crate::sys::Slots;

pub(super) struct Slab {
    context: Arc<ThreadContext>,
    slots: Slots<Conn>,
}

impl Drop for Slab {
    fn drop(&mut self) {
        self.context.reach.forget();
    }
}

impl Slab {
    pub fn new(context: Arc<ThreadContext>) -> Slab {
        Slab { context, slots: Slots::new() }
    }

    #[inline]
    pub fn get(&mut self, slot: u32) -> Option<&mut Conn> {
        self.slots.get(slot)
    }

    /// The connection with this id; `None` if its slot is free or has another
    /// connection by now. A free slot has the id 0, which no connection has.
    #[inline]
    pub fn of(&mut self, id: u64) -> Option<&mut Conn> {
        self.get(ConnId::slot(id)).filter(|conn| conn.id == id)
    }

    /// Returns a slot that may not have been used yet.
    pub fn place(&mut self, slot: u32) -> Result<&mut Conn, TryReserveError> {
        let context = &self.context;
        let vacant = || Conn::vacant(context.clone());
        self.slots.place(slot, vacant, |slots| context.reach.note_slots(slots))
    }

    /// All places, vacant ones included.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Conn> {
        self.slots.iter_mut()
    }

    /// Returns whether callbacks have left work at other connections than theirs.
    #[inline]
    pub fn has_work_nearby(&self) -> bool {
        self.context.nearby.has_work()
    }
}
