//! When a loop looks at its connections: at an event, in a turn without an
//! event, or at a deadline.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::io;
use std::os::fd::BorrowedFd;

use super::slab::Slab;
use super::{BOTH, INPUT};
use crate::clock::Deadline;
use crate::conn::{Conn, ConnId, Phase};
use crate::sys::Poller;
use crate::timers::Timers;

pub(super) struct Schedule {
    /// The connections that get a turn without an event.
    ready: VecDeque<u64>,
    timers: Timers,
    /// The entry of the program's timers in `timers`, or `NEVER`.
    tasks_armed: Deadline,
    poller: Poller,
}

/// What a deadline that has passed belongs to.
pub(super) enum Due<'a> {
    Conn(&'a mut Conn),
    /// The program's timers.
    Timers,
}

/// In place of a connection's slot: the program's timers. No connection has it.
const TASKS: u32 = u32::MAX;

impl Schedule {
    pub fn new(poller: Poller) -> Schedule {
        Schedule {
            ready: VecDeque::new(),
            timers: Timers::default(),
            tasks_armed: Deadline::NEVER,
            poller,
        }
    }

    pub fn poller(&self) -> &Poller {
        &self.poller
    }

    /// Makes the poller report input of a new connection.
    pub fn watch(&self, fd: BorrowedFd<'_>, id: u64) -> io::Result<()> {
        self.poller.add(fd, id, INPUT)
    }

    /// Makes the poller report writability too, because bytes are queued.
    pub fn watch_writable(&self, conn: &mut Conn) -> io::Result<()> {
        if conn.note_writable_watched() {
            return Ok(());
        }
        self.watch_again(conn)
    }

    /// Makes the poller report anew what the connection is ready for.
    pub fn watch_again(&self, conn: &Conn) -> io::Result<()> {
        conn.fd().map_or(Ok(()), |fd| self.poller.change(fd, conn.id, BOTH))
    }

    /// Gives the connection a turn without an event.
    pub fn queue_turn(&mut self, conn: &mut Conn) {
        if !conn.set_in_ready_queue(true) {
            self.ready.push_back(conn.id);
        }
    }

    pub fn has_turns(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Returns how many connections have a turn.
    pub fn turns(&self) -> usize {
        self.ready.len()
    }

    /// Returns the next connection that has a turn. It may be gone by now.
    pub fn next_turn(&mut self) -> Option<u64> {
        self.ready.pop_front()
    }

    /// Makes the loop look at the connection when its next deadline is due.
    pub fn arm(&mut self, conn: &mut Conn) {
        if conn.phase() == Phase::Vacant || conn.is_detached() {
            return;
        }
        conn.clear_must_arm();
        let (deadline, _) = conn.next_deadline();
        if deadline < conn.armed {
            let former = std::mem::replace(&mut conn.armed, deadline);
            self.timers.arm(deadline, ConnId::slot(conn.id));
            self.forget(former);
        }
    }

    /// Notes that a connection does not wait for this deadline any more.
    pub fn forget(&mut self, former: Deadline) {
        if former != Deadline::NEVER {
            self.timers.note_stale();
        }
    }

    /// Returns the earliest deadline, or [`Deadline::NEVER`].
    pub fn next_deadline(&self) -> Deadline {
        self.timers.next()
    }

    /// Makes the loop look at the program's timers at this time.
    pub fn arm_tasks(&mut self, due: Deadline) {
        if due < self.tasks_armed {
            let former = std::mem::replace(&mut self.tasks_armed, due);
            self.timers.arm(due, TASKS);
            self.forget(former);
        }
    }

    /// Returns the next of those whose deadline may have passed, and forgets
    /// that deadline.
    pub fn pop_due<'a>(&mut self, now: Deadline, slab: &'a mut Slab) -> Option<Due<'a>> {
        loop {
            let (due, slot) = self.timers.pop_due(now)?;
            if slot == TASKS && self.tasks_armed == due {
                self.tasks_armed = Deadline::NEVER;
                return Some(Due::Timers);
            }
            if slab.get(slot).is_some_and(|conn| conn.armed == due) {
                let conn = slab.get(slot)?;
                conn.armed = Deadline::NEVER;
                return Some(Due::Conn(conn));
            }
            self.timers.note_stale_removed();
        }
    }

    /// Drops the stale deadlines, if they are too many.
    pub fn clean(&mut self, slab: &mut Slab) {
        if self.timers.must_clean() {
            let tasks_armed = self.tasks_armed;
            self.timers.retain(|due, slot| match slot {
                TASKS => tasks_armed == due,
                slot => slab.get(slot).is_some_and(|conn| conn.armed == due),
            });
        }
    }
}
