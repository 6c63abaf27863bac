//! Bytes by id from a callback of the loop that has the connection: they need no
//! inbox. The first of a turn leave immediately, as the first send of the
//! connection's own callback does; what comes after them goes through the inbox
//! and leaves together, in the same turn.
//!
//! The callback may be that of another connection, a timer, a watch or a task. To
//! the connection whose callback it is its own sends are the direct way: bytes by
//! id for it go through the inbox.

#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Mutex;

use super::{Conn, Flags, Message};
use crate::outbuf::OutBuf;
use crate::sync::lock;
use crate::sys::{self, SendFlags};

/// What the callbacks of a loop have left for it to look at, besides the
/// connection that each of them was about.
#[derive(Default)]
pub(crate) struct Nearby {
    /// Only the loop's thread changes it.
    has_work: AtomicBool,
    touched: Mutex<Vec<u64>>,
}

impl Nearby {
    /// Returns whether callbacks have left something.
    #[inline]
    pub fn has_work(&self) -> bool {
        self.has_work.load(Ordering::Relaxed)
    }

    /// Makes the loop look at its inbox, in this turn.
    pub fn note_work(&self) {
        self.has_work.store(true, Ordering::Relaxed);
    }

    /// Makes the loop settle a connection, in this turn.
    fn touch(&self, id: u64) {
        lock(&self.touched).push(id);
        self.note_work();
    }

    /// Takes the connections that the loop must settle.
    pub fn take_touched(&self) -> Vec<u64> {
        self.has_work.store(false, Ordering::Relaxed);
        std::mem::take(&mut *lock(&self.touched))
    }
}

impl Conn {
    /// Sends bytes by id directly, in a callback that is not the connection's.
    /// Returns `false`, having done nothing, where they must go through the inbox.
    pub fn send_nearby(&mut self, id: u64, message: &Message<'_>) -> bool {
        let len = message.bytes.len();
        if self.id != id || self.has(Flags::NOT_NEARBY) || !self.may_pass_total(len) {
            return false;
        }
        // A failure is one of queued bytes.
        let bytes = message.bytes;
        if self.has(Flags::TLS) {
            let _ = self.send_tls(bytes);
        } else if message.is_shared() {
            let mut queue = OutBuf::default();
            message.push_to(&mut queue);
            self.context.ids.count_queued(id, bytes.len());
            self.send_accepted(queue);
        } else if let Ok(n) = self.write_now(|fd| sys::send(fd, bytes, SendFlags::empty())) {
            self.enqueue(&bytes[n..]);
        }
        if self.refused() <= self.context.limits.low_water && !self.has(Flags::SEND_FAILED) {
            self.set(Flags::DRAINED);
        }
        self.set(Flags::SENT);
        self.context.nearby.touch(self.id);
        true
    }

    /// Sends now what waits in the inbox, in a callback that is not the
    /// connection's, unless the kernel has refused bytes before.
    pub fn collect_nearby(&mut self, id: u64) {
        if self.id == id && !self.has(Flags::BACKLOG | Flags::ARRIVED | Flags::NOT_OPEN) {
            self.collect();
            self.context.nearby.touch(self.id);
        }
    }

    /// The loop settles the connection: what is sent to it next leaves immediately.
    pub fn end_nearby(&mut self) {
        self.clear(Flags::SENT);
    }
}
