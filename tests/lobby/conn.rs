//! `conn/context.rs`, and a connection that is only a client's number.

#[path = "../../src/conn/context.rs"]
mod context;

use std::os::fd::BorrowedFd;
use std::sync::Arc;

pub(crate) use context::{ForcedEnd, Owner, Sending, ThreadContext};

use crate::address::Peer;
use crate::admission::{Admission, Limit};
use crate::clock::Deadline;
use crate::error::{CloseReason, Status};
use crate::linger::Remains;
use crate::listener::{Accepted, Origin};

pub(crate) struct Conn {
    pub context: Arc<ThreadContext>,
    pub client: usize,
    pub reason: CloseReason,
    pub origin: Origin,
    pub own_deadline: Deadline,
}

impl Conn {
    pub fn vacant(context: Arc<ThreadContext>) -> Conn {
        Conn {
            context,
            client: usize::MAX,
            reason: CloseReason::Handler,
            origin: Origin,
            own_deadline: Deadline::NEVER,
        }
    }

    pub fn open(context: Arc<ThreadContext>, id: u64, accepted: Accepted) -> Conn {
        let mut conn = Conn::vacant(context);
        conn.begin(id, accepted);
        conn
    }

    pub fn begin(&mut self, _: u64, accepted: Accepted) {
        self.client = accepted.client;
    }

    pub fn end_cork(&mut self) -> Result<(), Status> {
        Ok(())
    }

    pub fn linger_until(&self) -> Deadline {
        Deadline::NEVER
    }

    pub fn see_off(&mut self, _: Deadline, _: impl Fn(BorrowedFd<'_>, bool) -> bool) -> bool {
        true
    }

    pub fn is_unopened(&self) -> bool {
        false
    }

    pub fn replace_user_data(&mut self, _: Option<()>) -> Option<()> {
        None
    }

    pub fn close_waiting(&mut self, _: Deadline) -> Option<Remains> {
        None
    }

    pub fn is_over(&self) -> bool {
        false
    }

    pub fn has_send_failed(&self) -> bool {
        false
    }

    pub fn has_peer_ended(&self) -> bool {
        true
    }

    pub fn is_aborted(&self) -> bool {
        false
    }

    pub fn os_error(&self) -> i32 {
        0
    }

    pub fn peer_name(&self) -> String {
        String::new()
    }

    pub fn client(&self) -> Peer {
        Peer
    }

    pub fn admit_client(&mut self, _: &Admission) -> Result<(), Limit> {
        Ok(())
    }

    pub fn say_goodbye(&mut self, _: Deadline) {}
    pub fn vacate(&mut self) {}
    pub fn forbid_sending(&mut self) {}
    pub fn refuse_proxy(&mut self) {}
    pub fn note_forced_end(&mut self, _: ForcedEnd) {}
    pub fn leave(&mut self, _: &Admission) {}
    pub fn abort(&mut self) {}
    pub fn forget_abort(&mut self) {}
    pub fn mark_unopened(&mut self) {}
}

pub(crate) struct IdTable;

impl IdTable {
    pub fn new(_: usize) -> IdTable {
        IdTable
    }
}

#[derive(Default)]
pub(crate) struct Inbox;

#[derive(Default)]
pub(crate) struct Nearby;

bitflags::bitflags! {
    pub(crate) struct Flags: u32 {
        const LOOP = 1;
        const TIMED = 2;
    }
}
