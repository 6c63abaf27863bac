//! The loop: in each turn it handles events, ready connections, mail and
//! deadlines.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::Arc;

use super::accept::Acceptor;
use super::handshake::Handshakes;
use super::slab::Slab;
use super::{dispatch, LoopGroup, LoopHandle, CONTROL, LISTENERS, WAKE};
use crate::callback;
use crate::clock::Deadline;
use crate::conn::{flag, ConnId, Phase};
use crate::error::{CloseReason, Error, Status};
use crate::server::Server;
use crate::sync::lock;
use crate::sys::{Bits, Events, Poller, Waker, OUTPUT, SPECIAL};
use crate::timers::Timers;

const EVENTS: usize = 1024;
/// The size of the buffer for input that is discarded.
pub(super) const SCRATCH: usize = 64 << 10;

/// The order matters: the fields that every turn touches come first, in two
/// lines of the processor's cache.
#[repr(C, align(64))]
pub(crate) struct Loop {
    pub(super) slab: Slab,
    /// The deadline of a stop.
    pub(super) stop_at: Option<Deadline>,
    /// When a stop looks again at the lingering connections.
    pub(super) next_ack_check: Deadline,
    /// Connections whose handler is to be called again without an event.
    pub(super) ready: VecDeque<u64>,
    pub(super) timers: Timers,
    /// When to accept without an event: [`Deadline::NOW`] for immediately,
    /// [`Deadline::NEVER`] where an event comes first.
    pub(super) accept_at: Deadline,
    pub(super) mail_left: bool,
    pub(super) acceptor: Option<Acceptor>,
    pub(super) server: Server,
    pub(super) loops: Arc<LoopGroup>,
    pub(super) handle: Arc<LoopHandle>,
    pub(super) poller: Poller,
    /// Connections in use, lingering ones included.
    pub(super) live: usize,
    pub(super) handshakes: Handshakes,
    /// Arrivals whose first callback has not run yet.
    opening: VecDeque<u64>,
    pub(super) scratch: Vec<u8>,
    /// The control thread's reaction to a wake-up, if this loop runs on the
    /// control thread.
    on_control: Option<Box<dyn FnMut() + Send>>,
}

impl Loop {
    pub fn new(server: Server, loops: Arc<LoopGroup>, index: usize, poller: Poller) -> Loop {
        let handle = loops.loops[index].clone();
        let config = server.config();
        let max_handshakes = match config.max_handshakes {
            0 => usize::MAX,
            max => max.div_ceil(config.max_thread) as usize,
        };
        Loop {
            server,
            slab: Slab::new(handle.context.clone()),
            loops,
            handle,
            poller,
            live: 0,
            ready: VecDeque::new(),
            timers: Timers::default(),
            acceptor: None,
            accept_at: Deadline::NEVER,
            mail_left: false,
            handshakes: Handshakes::new(max_handshakes),
            opening: VecDeque::new(),
            scratch: Vec::new(),
            stop_at: None,
            next_ack_check: Deadline::NOW,
            on_control: None,
        }
    }

    /// Makes the loop do the control thread's part too: it calls `on_control`
    /// when `wake` is signalled.
    pub fn watch_control(
        &mut self,
        wake: &Waker,
        on_control: Box<dyn FnMut() + Send>,
    ) -> Result<(), Error> {
        wake.watch(&self.poller, CONTROL)
            .map_err(|e| Error::from_os(Status::Io, "cannot wait for the stop", &e))?;
        self.on_control = Some(on_control);
        Ok(())
    }

    /// Runs the loop until it ends: the whole life of its thread.
    pub fn run(mut self) {
        if let Err(panic) = callback::contain(|| self.take_turns()) {
            self.die(&panic);
        }
        self.handle.wake.close();
    }

    /// This function holds the wait and the events, which are nearly always a
    /// whole turn; it calls other functions for the rest.
    fn take_turns(&mut self) {
        let (server, poller) = (self.server.clone(), self.poller.clone());
        let mut events = Events::new(EVENTS);
        let mut timeout = 0;
        loop {
            // The poller's own descriptor is valid and this function owns the
            // buffer: the only error is EINTR (epoll_wait(2)), with no events.
            let _ = poller.wait(&mut events, timeout);
            let ready_before = self.ready.len();
            // A stop begins with mail, which is handled after the events.
            let stopping = self.stop_at.is_some();
            for (token, bits) in events.iter() {
                if stopping || !self.plain_input(&server, token, bits) {
                    self.on_event(token, bits);
                }
            }
            if self.is_idle() {
                timeout = -1;
                continue;
            }
            self.chores(ready_before);
            if self.has_finished() {
                break;
            }
            timeout = self.timeout();
        }
    }

    /// A defect of the library ended the turns: the server stops, and the loop
    /// reports the end of each of its connections.
    #[cold]
    fn die(&mut self, panic: &Error) {
        let text = format!("an event loop ended, and the server stops: {panic}");
        self.report(&Error::new(Status::Panic, text));
        self.server.request_stop();
        self.stop_at = Some(Deadline::NOW);
        self.stop_accepting();
        self.install_arrivals();
        for id in std::mem::take(&mut self.opening) {
            if let Some(conn) = self.slab.of(id).filter(|conn| !conn.has(flag::ATTACHED)) {
                conn.set(flag::UNOPENED);
            }
        }
        for slot in 0..self.slab.end() {
            let _ = callback::contain(|| self.finish_conn(slot, CloseReason::Cut));
        }
    }

    /// Nothing is to be done before the next event. Arrivals make an event, and
    /// a connection that waits for a handshake has a deadline.
    #[inline]
    fn is_idle(&self) -> bool {
        self.ready.is_empty()
            && !self.mail_left
            && self.accept_at == Deadline::NEVER
            && self.timers.next() == Deadline::NEVER
            && self.stop_at.is_none()
    }

    fn has_finished(&self) -> bool {
        self.stop_at.is_some() && self.live == 0 && !self.handle.has_arrivals()
    }

    /// How long to wait for events, in ms; −1 means forever.
    fn timeout(&self) -> i32 {
        let work = self.mail_left || !self.ready.is_empty() || self.handshakes.can_begin();
        if work || self.accept_at == Deadline::NOW {
            return 0;
        }
        let stop =
            self.stop_at.map_or(Deadline::NEVER, |deadline| deadline.min(self.next_ack_check));
        let next = self.timers.next().min(stop).min(self.accept_at);
        next.min(self.handshakes.next_deadline()).poll_timeout()
    }

    /// Does the work of a turn besides its events. `ready_before` connections
    /// were ready before the events: they have their turn after them.
    #[inline(never)]
    fn chores(&mut self, ready_before: usize) {
        for _ in 0..ready_before {
            if let Some(id) = self.ready.pop_front() {
                self.run_again(id);
            }
        }
        if std::mem::take(&mut self.mail_left) {
            self.drain_mail();
        }
        self.take_in_arrivals();
        if self.accept_at != Deadline::NEVER {
            self.accept();
        }
        if self.timers.next() != Deadline::NEVER {
            self.expire();
        }
        self.give_places();
        if self.next_ack_check.is_due() && self.stop_at.is_some() {
            self.end_acknowledged();
        }
        if self.stop_at.is_some_and(|deadline| deadline.is_due()) {
            self.cut();
        }
    }

    /// Whether a stop was requested: no call of the handler begins any more,
    /// even before the loop has the mail of the stop.
    pub(super) fn stopping(&self) -> bool {
        self.stop_at.is_some() || self.server.is_stopping()
    }

    /// Gives plain input for an open connection, which is nearly every event,
    /// straight to the handler. Returns `false` for any other event.
    #[inline(always)]
    fn plain_input(&mut self, server: &Server, token: u64, bits: Bits) -> bool {
        if bits.difference(OUTPUT) != Bits::IN || server.is_stopping() {
            return false;
        }
        match self.slab.of(token) {
            Some(conn) if !conn.has(flag::SLOW_EVENT) => {
                let called = dispatch::handle(server, conn, flag::READY);
                self.after_handler(ConnId::slot(token), called);
                true
            }
            _ => false,
        }
    }

    #[cold]
    #[inline(never)]
    fn on_event(&mut self, token: u64, bits: Bits) {
        match token {
            WAKE => self.mail_left = true,
            CONTROL => {
                if let Some(on_control) = &mut self.on_control {
                    on_control();
                }
            }
            LISTENERS.. => self.listener_ready((token - LISTENERS) as usize),
            id => self.on_conn_event(id, bits),
        }
    }

    fn on_conn_event(&mut self, id: u64, bits: Bits) {
        if self.slab.of(id).is_none() {
            self.take_in_arrivals();
        }
        let Some(conn) = self.slab.of(id) else { return };
        let special = bits.intersects(SPECIAL);
        // Urgent data alone is no input (tcp(7)).
        let mut input = bits.intersects(Bits::IN | SPECIAL.difference(Bits::PRI));
        if bits.contains(Bits::PRI) && input && !conn.has(flag::TLS) {
            input = conn.has_input();
        }
        if input {
            conn.set(flag::READY);
        }
        if special {
            conn.set(flag::SPECIAL);
        }
        if bits.contains(Bits::ERR) {
            conn.note_error();
        }
        let slot = ConnId::slot(id);
        if bits.contains(OUTPUT) && conn.has(flag::BACKLOG) {
            self.flush(slot);
        }
        let Some(conn) = self.slab.of(id) else { return };
        match conn.phase() {
            Phase::Open if input => self.deliver_input(id, slot),
            Phase::Lingering if input => self.discard(slot),
            phase if phase.is_handshake() && input => self.on_handshake_input(slot),
            Phase::Flushing => self.settle(slot),
            _ => {}
        }
    }

    /// Handles a connection of the ready queue.
    fn run_again(&mut self, id: u64) {
        let Some(conn) = self.slab.of(id) else { return };
        conn.clear(flag::IN_READY_QUEUE);
        let slot = ConnId::slot(id);
        match conn.phase() {
            Phase::Open if conn.is_drain_due() => self.run_on_drain(slot),
            Phase::Open => {
                // The last read may have consumed the very last byte, and a
                // handler is not called for nothing: so this looks for input
                // first. A failed send is reported in any case.
                let must_call = conn.has(flag::SEND_FAILED | flag::TLS);
                if conn.has(flag::READY) && !must_call && !conn.has_input() {
                    conn.clear(flag::READY);
                }
                self.deliver_input(id, slot);
            }
            Phase::Lingering => self.discard(slot),
            Phase::Hello | Phase::Waiting | Phase::Handshake => self.on_handshake_input(slot),
            Phase::Flushing | Phase::Vacant => {}
        }
    }

    /// Puts arrivals from other threads into their slots, and runs their first
    /// callbacks, one after the other. No callback leads back here.
    pub(super) fn take_in_arrivals(&mut self) {
        if !self.handle.has_arrivals() {
            return;
        }
        self.install_arrivals();
        while let Some(id) = self.opening.pop_front() {
            self.on_opened(id);
        }
    }

    fn install_arrivals(&mut self) {
        let arrivals = {
            let mut intake = lock(&self.handle.intake);
            self.handle.has_arrivals.store(false, Ordering::Release);
            std::mem::take(&mut intake.arrivals)
        };
        for conn in arrivals {
            self.live += 1;
            self.opening.push_back(conn.id);
            let place = self.slab.place(ConnId::slot(conn.id));
            *place = conn;
        }
    }

    /// Looks at the deadlines that may have passed.
    fn expire(&mut self) {
        let now = Deadline::passed();
        while let Some((due, slot)) = self.timers.pop_due(now) {
            let Some(conn) = self.slab.get(slot) else { continue };
            if conn.phase() == Phase::Vacant || conn.armed != due {
                self.timers.note_stale_removed();
                continue;
            }
            conn.armed = Deadline::NEVER;
            let (deadline, reason) = conn.next_deadline();
            if deadline.is_due() {
                self.timed_out(slot, reason);
            }
            self.arm(slot);
        }
    }

    /// Makes the loop look at the connection when its next deadline is due.
    pub(super) fn arm(&mut self, slot: u32) {
        let Some(conn) = self.slab.get(slot) else { return };
        if conn.phase() == Phase::Vacant || conn.has(flag::DETACHED) {
            return;
        }
        conn.clear(flag::ARM);
        let (deadline, _) = conn.next_deadline();
        if deadline < conn.armed {
            let former = std::mem::replace(&mut conn.armed, deadline);
            self.timers.arm(deadline, slot);
            self.disarm(former);
        }
    }

    /// A connection does not wait for this deadline any more.
    pub(super) fn disarm(&mut self, former: Deadline) {
        if former != Deadline::NEVER && self.timers.is_stale() {
            let slab = &mut self.slab;
            self.timers.retain(|due, slot| slab.get(slot).is_some_and(|conn| conn.armed == due));
        }
    }

    /// Registers the connection for writability too, because bytes are queued.
    pub(super) fn watch_writable(&mut self, slot: u32) {
        let Some(conn) = self.slab.get(slot) else { return };
        if conn.has(flag::WRITABLE) {
            return;
        }
        conn.set(flag::WRITABLE);
        let Some(fd) = conn.fd() else { return };
        if self.poller.change(fd, conn.id, super::BOTH).is_err() {
            // The kernel is out of memory: without events the bytes cannot
            // leave.
            self.finish_conn(slot, CloseReason::Reset);
        }
    }
}

impl LoopHandle {
    pub(super) fn has_arrivals(&self) -> bool {
        self.has_arrivals.load(Ordering::Acquire)
    }
}
