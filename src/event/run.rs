//! The loop: in each turn it handles events, ready connections, mail and
//! deadlines.

#![forbid(unsafe_code)]

use std::collections::{TryReserveError, VecDeque};
use std::sync::Arc;

use super::accept::Acceptor;
use super::driver::Driver;
use super::schedule::{Due, Own};
use super::slab::Slab;
use super::{dispatch, LoopGroup, CONTROL, GUEST, LISTENERS, PROBE, TIMER, WAKE, WATCHES};
use crate::callback;
use crate::clock::Deadline;
use crate::conn::{Conn, ConnId, ThreadContext};
use crate::error::{Error, Status};
use crate::server::{Guest, Server};
use crate::sys::{Bits, Events, Poller, Timer, Waker, OUTPUT};

/// The most events of a turn.
pub(super) const EVENTS: usize = 1024;
/// The most arrivals of a turn that have their first callback.
const PER_TURN: usize = 256;

/// A loop: its connections, and what decides when each of them has its turn.
///
/// The order matters: the fields that every turn touches stand close to each
/// other, here and in the first fields of the acceptor and the driver.
#[repr(C, align(64))]
pub(crate) struct Loop {
    pub(super) slab: Slab,
    pub(super) mail_left: bool,
    pub(super) acceptor: Acceptor,
    pub(super) driver: Driver,
    /// Arrivals whose first callback may not have run yet.
    opening: VecDeque<u64>,
    /// How many arrivals have had their first callback in this turn.
    opened: usize,
    /// The events of the program's descriptors; made with the first of them.
    pub(super) watch_events: Option<Events>,
    /// The control thread's reaction to a wake-up, if this loop runs on the
    /// control thread.
    on_control: Option<Box<dyn FnMut() + Send>>,
    /// The shutdown port of a hosted server.
    pub(super) guest: Option<Guest>,
}

impl Loop {
    pub fn new(server: Server, loops: Arc<LoopGroup>, index: usize, poller: Poller) -> Loop {
        let driver = Driver::new(server, loops, index, poller);
        Loop {
            slab: Slab::new(driver.handle.context.clone()),
            acceptor: Acceptor::new(),
            driver,
            mail_left: false,
            opening: VecDeque::new(),
            opened: 0,
            watch_events: None,
            on_control: None,
            guest: None,
        }
    }

    /// Makes the loop do the control thread's part too: it calls `on_control`
    /// when `wake` is signalled.
    pub fn watch_control(
        &mut self,
        wake: &Waker,
        on_control: Box<dyn FnMut() + Send>,
    ) -> Result<(), Error> {
        wake.watch(self.poller(), CONTROL)
            .map_err(|e| Error::from_os(Status::Io, "cannot wait for the stop", &e))?;
        self.on_control = Some(on_control);
        Ok(())
    }

    /// Runs the loop until it ends: the whole life of its thread.
    pub fn run(mut self) {
        callback::note_context(self.context());
        if let Err(panic) = callback::contain(|| self.take_turns()) {
            self.die(&panic);
        }
        self.drop_tasks();
        self.driver.handle.wake.close();
    }

    fn take_turns(&mut self) {
        let (server, poller) = (self.driver.server.clone(), self.poller().clone());
        let mut events = Events::new(EVENTS);
        let mut timeout = 0;
        loop {
            if self.turn(&server, &poller, &mut events, timeout) {
                timeout = -1;
                continue;
            }
            if self.has_finished() {
                break;
            }
            timeout = self.next_deadline().poll_timeout();
        }
    }

    /// Runs one turn: waits for events, at most `timeout` ms, and handles them,
    /// which is nearly always all; then does the rest. `server` and `poller`
    /// are the loop's own. Returns whether nothing is to be done before the
    /// next event.
    #[inline(always)]
    pub(super) fn turn(
        &mut self,
        server: &Server,
        poller: &Poller,
        events: &mut Events,
        timeout: i32,
    ) -> bool {
        // The poller's own descriptor is valid and the caller owns the buffer:
        // the only error is EINTR (epoll_wait(2)), with no events.
        let _ = poller.wait(events, timeout);
        let turns = self.driver.schedule.turns();
        // A stop begins with mail, which is handled after the events.
        let stopping = self.driver.drain.is_begun();
        for (token, bits) in events.iter() {
            if stopping || !self.plain_input(server, token, bits) {
                self.on_event(token, bits);
            }
        }
        let is_idle = self.is_idle();
        if !is_idle {
            self.chores(turns);
        }
        is_idle
    }

    pub(super) fn context(&self) -> &Arc<ThreadContext> {
        &self.driver.handle.context
    }

    pub(super) fn poller(&self) -> &Poller {
        self.driver.schedule.poller()
    }

    /// Takes in the shutdown port, whose turns are a part of this loop's.
    pub fn take_in(&mut self, guest: Guest) -> Result<(), Error> {
        guest.watch(self.poller(), GUEST)?;
        self.guest = Some(guest);
        Ok(())
    }

    pub fn drop_guest(&mut self) {
        self.guest = None;
    }

    /// Makes the timer that a hosted loop needs.
    pub fn make_timer(&self) -> Result<Timer, Error> {
        let failed = |e| Error::from_os(Status::Io, "cannot make a timer", &e);
        let timer = Timer::new().map_err(failed)?;
        timer.watch(self.poller(), TIMER).map_err(failed)?;
        Ok(timer)
    }

    /// Makes the next turn begin immediately.
    pub(super) fn wake(&self) {
        self.driver.handle.wake.signal();
    }

    /// Nothing is to be done before the next event. Arrivals make an event, and
    /// a connection that waits for a handshake has a deadline.
    #[inline]
    fn is_idle(&self) -> bool {
        !self.driver.schedule.has_turns()
            && !self.mail_left
            && self.acceptor.next_try() == Deadline::NEVER
            && self.driver.schedule.next_deadline() == Deadline::NEVER
            && !self.slab.has_work_nearby()
            && !self.driver.drain.is_begun()
    }

    pub(super) fn has_finished(&self) -> bool {
        let driver = &self.driver;
        driver.drain.is_begun()
            && driver.open_connections() == 0
            && !driver.handle.has_arrivals()
            && self.guest.as_ref().is_none_or(Guest::has_stopped)
    }

    /// Returns when the next turn must begin without an event:
    /// [`Deadline::NOW`] for immediately.
    pub(super) fn next_deadline(&self) -> Deadline {
        let driver = &self.driver;
        let has_work = self.mail_left || self.slab.has_work_nearby() || driver.schedule.has_turns();
        if has_work || driver.handshakes.can_begin() {
            return Deadline::NOW;
        }
        let next = driver.schedule.next_deadline().min(driver.drain.next_deadline());
        next.min(self.acceptor.next_try()).min(driver.handshakes.next_deadline())
    }

    /// Does the work of a turn besides its events. `turns` connections had a
    /// turn coming before the events: they have it after them.
    #[inline(never)]
    fn chores(&mut self, turns: usize) {
        for _ in 0..turns {
            self.deliver_waiting();
            let next = self.driver.schedule.next_turn();
            if let Some(conn) = next.and_then(|id| self.slab.of(id)) {
                self.driver.run_turn(conn);
            }
        }
        self.deliver_waiting();
        if std::mem::take(&mut self.mail_left) {
            self.drain_mail();
        }
        self.take_in_arrivals();
        if self.acceptor.next_try() != Deadline::NEVER {
            self.accept();
        }
        if self.driver.schedule.next_deadline() != Deadline::NEVER {
            self.check_deadlines();
        }
        self.give_places();
        self.continue_drain();
        // The next turn begins with handlers.
        self.deliver_waiting();
    }

    /// Looks at the connections whose deadlines may have passed.
    fn check_deadlines(&mut self) {
        let (driver, slab) = (&mut self.driver, &mut self.slab);
        let now = Deadline::latest_due();
        let (mut has_timers, mut has_refusals) = (false, false);
        while let Some(due) = driver.schedule.pop_due(now, slab) {
            match due {
                Due::Conn(conn) => driver.check_deadline(conn),
                Due::Own(Own::Timers) => has_timers = true,
                Due::Own(Own::Refusals) => has_refusals = true,
            }
        }
        driver.schedule.clean(slab);
        if has_refusals {
            self.driver.report_refusals(false);
        }
        if has_timers {
            self.run_timers();
        }
    }

    /// Gives plain input for an open connection, which is nearly every event,
    /// straight to the handler. Returns `false` for any other event.
    #[inline(always)]
    fn plain_input(&mut self, server: &Server, token: u64, bits: Bits) -> bool {
        if bits.difference(OUTPUT) != Bits::IN || server.is_stopping() {
            return false;
        }
        match self.slab.of(token) {
            Some(conn) if conn.takes_fast_event() => {
                conn.note_input();
                let called = dispatch::handle(server, conn);
                self.driver.after_handler(conn, called);
                true
            }
            _ => false,
        }
    }

    #[cold]
    #[inline(never)]
    fn on_event(&mut self, token: u64, bits: Bits) {
        self.deliver_waiting();
        match token {
            WAKE => self.mail_left = true,
            CONTROL => {
                if let Some(on_control) = &mut self.on_control {
                    on_control();
                }
            }
            // The deadlines are looked at in any case.
            TIMER => {}
            WATCHES => self.run_watches(),
            GUEST => self.guest.iter().for_each(Guest::turn),
            PROBE => {}
            LISTENERS.. => self.acceptor.note_event((token - LISTENERS) as usize),
            id => self.on_conn_event(id, bits),
        }
    }

    fn on_conn_event(&mut self, id: u64, bits: Bits) {
        self.install_arrivals();
        let must_wait = self.opened >= PER_TURN;
        if let Some(conn) = self.slab.of(id).filter(|conn| must_wait && conn.is_arrival()) {
            conn.note_input();
            self.mail_left = true;
        } else if let Some((driver, conn)) = self.opened(id) {
            driver.on_conn_event(conn, bits);
        }
    }

    /// Runs the first callbacks of arrivals; those of too many wait until the
    /// connections have had their turn again.
    pub(super) fn take_in_arrivals(&mut self) {
        self.install_arrivals();
        while self.opened < PER_TURN {
            let Some(id) = self.opening.pop_front() else { break };
            let _ = self.opened(id);
        }
        self.mail_left |= !self.opening.is_empty();
        self.opened = 0;
    }

    /// Returns the connection with this id, after its first callback, and the
    /// driver.
    pub(super) fn opened(&mut self, id: u64) -> Option<(&mut Driver, &mut Conn)> {
        self.install_arrivals();
        let (driver, conn) = (&mut self.driver, self.slab.of(id)?);
        if conn.is_arrival() {
            self.opened += 1;
            driver.on_arrival(conn);
        }
        (conn.id == id).then_some((driver, conn))
    }

    /// Puts arrivals from other threads into their slots.
    pub(super) fn install_arrivals(&mut self) {
        for conn in self.driver.handle.take_arrivals() {
            if let Err(error) = self.make_room(conn.id) {
                self.driver.refuse_arrival(conn, Error::no_memory(error));
                continue;
            }
            self.opening.push_back(conn.id);
            if let Some(place) = self.slab.get(ConnId::slot(conn.id)) {
                *place = conn;
            }
        }
    }

    /// Makes the place of a connection, and room for what it puts into queues.
    fn make_room(&mut self, id: u64) -> Result<(), TryReserveError> {
        self.opening.try_reserve(1)?;
        self.driver.schedule.make_room()?;
        self.slab.place(ConnId::slot(id)).map(drop)
    }
}
