//! The loop: one turn after another of events, ready connections, mail and
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
/// Input that is discarded is read into this.
pub(super) const SCRATCH: usize = 64 << 10;

/// The order matters: what every turn touches is in front, in two lines of the
/// processor's cache.
#[repr(C, align(64))]
pub(crate) struct Loop {
    pub(super) slab: Slab,
    /// The deadline of a stop.
    pub(super) stop_at: Option<Deadline>,
    /// When a stop looks again at those that linger.
    pub(super) look_at: Deadline,
    /// Connections whose handler is to be called again without an event.
    pub(super) ready: VecDeque<u64>,
    pub(super) timers: Timers,
    /// When to accept without an event: 0 for at once, or never.
    pub(super) accept_at: Deadline,
    pub(super) mail_left: bool,
    pub(super) acceptor: Option<Acceptor>,
    pub(super) server: Server,
    pub(super) loops: Arc<LoopGroup>,
    pub(super) handle: Arc<LoopHandle>,
    pub(super) poller: Poller,
    /// Connections in use, those that linger among them.
    pub(super) live: usize,
    pub(super) handshakes: Handshakes,
    /// Arrivals whose first callback is still to be called.
    opening: VecDeque<u64>,
    pub(super) scratch: Vec<u8>,
    /// What the control thread does when it is woken, where this loop runs on
    /// it.
    woken: Option<Box<dyn FnMut() + Send>>,
}

impl Loop {
    pub fn new(server: Server, loops: Arc<LoopGroup>, index: usize, poller: Poller) -> Loop {
        let handle = loops.loops[index].clone();
        let config = server.config();
        let most_handshakes = match config.max_handshakes {
            0 => usize::MAX,
            most => most.div_ceil(config.max_thread) as usize,
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
            handshakes: Handshakes::new(most_handshakes),
            opening: VecDeque::new(),
            scratch: Vec::new(),
            stop_at: None,
            look_at: Deadline::NOW,
            woken: None,
        }
    }

    /// Does the control thread's part too: `woken` runs when `wake` is
    /// signalled.
    pub fn watch_control(
        &mut self,
        wake: &Waker,
        woken: Box<dyn FnMut() + Send>,
    ) -> Result<(), Error> {
        wake.watch(&self.poller, CONTROL)
            .map_err(|e| Error::from_os(Status::Io, "cannot wait for the stop", &e))?;
        self.woken = Some(woken);
        Ok(())
    }

    /// A thread's whole life.
    pub fn run(mut self) {
        if let Err(panic) = callback::contain(|| self.take_turns()) {
            self.die(&panic);
        }
        self.handle.wake.close();
    }

    /// What is nearly always all of a turn, the wait and the events, is in
    /// here; the rest is called.
    fn take_turns(&mut self) {
        let (server, poller) = (self.server.clone(), self.poller.clone());
        let mut events = Events::new(EVENTS);
        let mut timeout = 0;
        loop {
            // The poller's own descriptor is valid and the buffer is ours:
            // there is no error but EINTR (epoll_wait(2)), with no events.
            let _ = poller.wait(&mut events, timeout);
            let again = self.ready.len();
            // A stop begins with mail, after the events.
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
            self.chores(again);
            if self.finished() {
                break;
            }
            timeout = self.timeout();
        }
    }

    /// A defect of the library ended the turns: the server stops, and nobody's
    /// connection ends in silence.
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

    /// Nothing is to be done before the next event, which arrivals make too.
    /// Who waits for a handshake has a deadline.
    #[inline]
    fn is_idle(&self) -> bool {
        self.ready.is_empty()
            && !self.mail_left
            && self.accept_at == Deadline::NEVER
            && self.timers.next() == Deadline::NEVER
            && self.stop_at.is_none()
    }

    fn finished(&self) -> bool {
        self.stop_at.is_some() && self.live == 0 && !self.handle.has_arrivals()
    }

    /// How long to wait for events, in ms, −1 for ever.
    fn timeout(&self) -> i32 {
        let work = self.mail_left || !self.ready.is_empty() || self.handshakes.can_begin();
        if work || self.accept_at == Deadline::NOW {
            return 0;
        }
        let stop = self.stop_at.map_or(Deadline::NEVER, |deadline| deadline.min(self.look_at));
        let next = self.timers.next().min(stop).min(self.accept_at);
        next.min(self.handshakes.next_deadline()).poll_timeout()
    }

    /// What is to be done besides events. `again` connections are ready from
    /// before: they have their turn after the events.
    #[inline(never)]
    fn chores(&mut self, again: usize) {
        for _ in 0..again {
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
        if self.look_at.is_due() && self.stop_at.is_some() {
            self.end_acknowledged();
        }
        if self.stop_at.is_some_and(|deadline| deadline.is_due()) {
            self.cut();
        }
    }

    /// No handler is begun any more, even before the mail that says so.
    pub(super) fn stopping(&self) -> bool {
        self.stop_at.is_some() || self.server.is_stopping()
    }

    /// Plain input for an open connection, which is nearly every event, goes
    /// straight to the handler. `false`: this is something else.
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
                if let Some(woken) = &mut self.woken {
                    woken();
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
        let hint = bits.intersects(SPECIAL);
        // Urgent data alone is no input (tcp(7)).
        let mut input = bits.intersects(Bits::IN | SPECIAL.difference(Bits::PRI));
        if bits.contains(Bits::PRI) && input && !conn.has(flag::TLS) {
            input = conn.has_input();
        }
        if input {
            conn.set(flag::READY);
        }
        if hint {
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
            phase if phase.is_handshake() && input => self.handshake(slot),
            Phase::Flushing => self.settle(slot),
            _ => {}
        }
    }

    /// A connection of the ready queue.
    fn run_again(&mut self, id: u64) {
        let Some(conn) = self.slab.of(id) else { return };
        conn.clear(flag::IN_READY_QUEUE);
        let slot = ConnId::slot(id);
        match conn.phase() {
            Phase::Open if conn.drain_is_due() => self.run_on_drain(slot),
            Phase::Open => {
                // Is there input at all? The last read may have taken the
                // very last byte, and a handler is not called for nothing. A
                // failure is told in any case.
                let sure = conn.has(flag::SEND_FAILED | flag::TLS);
                if conn.has(flag::READY) && !sure && !conn.has_input() {
                    conn.clear(flag::READY);
                }
                self.deliver_input(id, slot);
            }
            Phase::Lingering => self.discard(slot),
            Phase::Hello | Phase::Waiting | Phase::Handshake => self.handshake(slot),
            Phase::Flushing | Phase::Vacant => {}
        }
    }

    /// Puts what came from other threads into its slots, and calls their first
    /// callbacks, one after the other: what a callback leads to never comes
    /// here again.
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

    /// Re-reads deadlines that may have passed.
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

    /// Has the loop look at the connection when its next deadline falls due.
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

    /// A connection does not wait for this time any more.
    pub(super) fn disarm(&mut self, former: Deadline) {
        if former != Deadline::NEVER && self.timers.is_stale() {
            let slab = &mut self.slab;
            self.timers.retain(|due, slot| slab.get(slot).is_some_and(|conn| conn.armed == due));
        }
    }

    /// Registers for writability too, once something is queued.
    pub(super) fn watch_writable(&mut self, slot: u32) {
        let Some(conn) = self.slab.get(slot) else { return };
        if conn.has(flag::WRITABLE) {
            return;
        }
        conn.set(flag::WRITABLE);
        let Some(fd) = conn.fd() else { return };
        if self.poller.change(fd, conn.id, super::BOTH).is_err() {
            // Out of kernel memory: without events its bytes cannot leave.
            self.finish_conn(slot, CloseReason::Reset);
        }
    }
}

impl LoopHandle {
    pub(super) fn has_arrivals(&self) -> bool {
        self.has_arrivals.load(Ordering::Acquire)
    }
}
