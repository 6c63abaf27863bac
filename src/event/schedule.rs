//! When a loop looks at its connections: at an event, in a turn without an
//! event, or at a deadline.

#![forbid(unsafe_code)]

use std::collections::{TryReserveError, VecDeque};
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
    /// The entries of the loop's own deadlines in `timers`, or `NEVER`.
    own_armed: [Deadline; 2],
    poller: Poller,
}

/// What a deadline that has passed belongs to.
pub(super) enum Due<'a> {
    Conn(&'a mut Conn),
    Own(Own),
}

/// What the loop itself has to do at a time.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Own {
    /// The program's timers.
    Timers,
    /// The report of connections that were refused.
    Refusals,
}

impl Own {
    const ALL: [Own; 2] = [Own::Timers, Own::Refusals];

    /// Returns what stands in place of a connection's slot. No connection has it.
    fn slot(self) -> u32 {
        u32::MAX - self as u32
    }

    fn of_slot(slot: u32) -> Option<Own> {
        Own::ALL.into_iter().find(|own| own.slot() == slot)
    }
}

impl Schedule {
    pub fn new(poller: Poller) -> Schedule {
        Schedule {
            ready: VecDeque::new(),
            timers: Timers::default(),
            own_armed: [Deadline::NEVER; 2],
            poller,
        }
    }

    pub fn poller(&self) -> &Poller {
        &self.poller
    }

    /// Makes room for what a new connection puts here.
    pub fn make_room(&mut self) -> Result<(), TryReserveError> {
        self.ready.try_reserve(1)?;
        self.timers.make_room()
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

    /// Makes the loop look at a work of its own at this time.
    pub fn arm_own(&mut self, own: Own, due: Deadline) {
        let armed = &mut self.own_armed[own as usize];
        if due < *armed {
            let former = std::mem::replace(armed, due);
            self.timers.arm(due, own.slot());
            self.forget(former);
        }
    }

    /// Returns the next of those whose deadline may have passed, and forgets
    /// that deadline.
    pub fn pop_due<'a>(&mut self, now: Deadline, slab: &'a mut Slab) -> Option<Due<'a>> {
        loop {
            let (due, slot) = self.timers.pop_due(now)?;
            if let Some(own) = Own::of_slot(slot).filter(|own| self.own_armed[*own as usize] == due)
            {
                self.own_armed[own as usize] = Deadline::NEVER;
                return Some(Due::Own(own));
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
            let own_armed = self.own_armed;
            self.timers.retain(|due, slot| match Own::of_slot(slot) {
                Some(own) => own_armed[own as usize] == due,
                None => slab.get(slot).is_some_and(|conn| conn.armed == due),
            });
        }
    }
}
