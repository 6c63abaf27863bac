//! The files of `src/conn` that have what threads share, and a connection that is
//! only a number.

#[path = "../../src/conn/context.rs"]
mod context;
#[path = "../../src/conn/id.rs"]
mod id;
#[path = "../../src/conn/ids.rs"]
mod ids;
#[path = "../../src/conn/inbox.rs"]
mod inbox;

pub mod words;

use std::sync::Arc;

pub(crate) use context::{ForcedEnd, Owner, Scratch, Sending, ThreadContext};
pub use id::ConnId;
pub(crate) use ids::{IdTable, SendError, Total};
pub(crate) use inbox::{Inbox, Message};

pub(crate) struct Conn {
    pub id: u64,
}

impl Conn {
    pub fn vacant(_: Arc<ThreadContext>) -> Conn {
        Conn { id: 0 }
    }

    pub fn note_writable_watched(&mut self) {}

    pub fn send_nearby(&mut self, _: u64, _: &Message<'_>) -> bool {
        false
    }

    pub fn collect_nearby(&mut self, _: u64) {}
}

#[derive(Default)]
pub(crate) struct Nearby;

impl Nearby {
    pub fn note_work(&self) {}
}

bitflags::bitflags! {
    pub(crate) struct Flags: u32 {
        const LOOP = 1;
        const TIMED = 2;
    }
}

/// Returns the context of a thread.
pub(crate) fn context(owner: Owner) -> ThreadContext {
    ThreadContext::new(owner, 1, 0, crate::config::Limits { send_limit: 100, idle_ms: 0 })
}
