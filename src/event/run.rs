//! The loop: one turn after another of events, ready connections, mail and
//! deadlines.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::Ordering;
use std::sync::Arc;

use mio::unix::SourceFd;
use mio::{Interest, Poll, Token};

use super::accept::Acceptor;
use super::slab::Slab;
use super::{dispatch, token, Loops, Shared, CONTROL, LISTENERS, WAKE};
use crate::blocking::lock;
use crate::conn::{flag, unread, Conn, ConnId, Phase};
use crate::error::{CloseReason, Error, Status};
use crate::server::Server;
use crate::sys::{Events, EVENT_ERROR, EVENT_INPUT, EVENT_OUTPUT, EVENT_SPECIAL};
use crate::timer::{self, Timers, NEVER};

const EVENTS: usize = 1024;
/// Input that is discarded is read into this.
pub(super) const SCRATCH: usize = 64 << 10;

pub(crate) struct Loop {
    pub(super) server: Server,
    pub(super) loops: Arc<Loops>,
    pub(super) shared: Arc<Shared>,
    pub(super) poll: Poll,
    pub(super) slab: Slab,
    /// Connections in use, those that linger among them.
    pub(super) live: usize,
    /// Connections whose handler is to be called again without an event.
    pub(super) ready: VecDeque<u64>,
    pub(super) timers: Timers,
    pub(super) acceptor: Option<Acceptor>,
    /// When to accept without an event: 0 for at once, or never.
    pub(super) accept_at: u64,
    pub(super) mail_left: bool,
    /// TLS handshakes in progress, how many there may be, and which
    /// connections wait for theirs.
    pub(super) handshakes: usize,
    pub(super) most_handshakes: usize,
    pub(super) handshakes_waiting: VecDeque<u64>,
    pub(super) scratch: Vec<u8>,
    /// The deadline of a stop.
    pub(super) stop_at: Option<u64>,
    /// What the control thread does when it is woken, where this loop runs on
    /// it.
    woken: Option<Box<dyn FnMut() + Send>>,
}

impl Loop {
    pub fn new(server: Server, loops: Arc<Loops>, index: usize, poll: Poll) -> Loop {
        let shared = loops.loops[index].clone();
        let config = server.config();
        let most_handshakes = match config.max_handshakes {
            0 => usize::MAX,
            most => most.div_ceil(config.max_thread) as usize,
        };
        Loop {
            server,
            slab: Slab::new(shared.env.clone()),
            loops,
            shared,
            poll,
            live: 0,
            ready: VecDeque::new(),
            timers: Timers::default(),
            acceptor: None,
            accept_at: NEVER,
            mail_left: false,
            handshakes: 0,
            most_handshakes,
            handshakes_waiting: VecDeque::new(),
            scratch: Vec::new(),
            stop_at: None,
            woken: None,
        }
    }

    /// Does the control thread's part too: `woken` runs when `wake` is
    /// signalled.
    pub fn watch_control(
        &mut self,
        wake: RawFd,
        woken: Box<dyn FnMut() + Send>,
    ) -> Result<(), Error> {
        let registry = self.poll.registry();
        registry
            .register(&mut SourceFd(&wake), Token(CONTROL as usize), Interest::READABLE)
            .map_err(|e| Error::from_os(Status::Io, "cannot wait for the stop", &e))?;
        self.woken = Some(woken);
        Ok(())
    }

    /// A thread's whole life.
    pub fn run(mut self) {
        let mut events = Events::new(EVENTS);
        while !self.finished() {
            let timeout = self.timeout();
            // The poller's own descriptor is valid and the buffer is ours:
            // there is no error but EINTR (epoll_wait(2)).
            match events.wait(self.poll.as_raw_fd(), timeout) {
                Ok(()) => self.turn(&events),
                Err(_) => std::thread::yield_now(),
            }
        }
        self.shared.wake.close();
    }

    fn finished(&self) -> bool {
        self.stop_at.is_some() && self.live == 0 && !self.shared.has_arrivals()
    }

    /// How long to wait for events, in ms, −1 for ever.
    fn timeout(&self) -> i32 {
        if self.mail_left || !self.ready.is_empty() || self.accept_at == 0 {
            return 0;
        }
        let next = self.timers.next().min(self.stop_at.unwrap_or(NEVER)).min(self.accept_at);
        timer::poll_timeout(next)
    }

    fn turn(&mut self, events: &Events) {
        // Those that are ready from before have their turn after the events.
        let again = self.ready.len();
        for (token, bits) in events.iter() {
            if token < LISTENERS {
                self.event(token, bits);
            } else if token == WAKE {
                self.mail_left = true;
            } else if token == CONTROL {
                if let Some(woken) = &mut self.woken {
                    woken();
                }
            } else {
                self.listener_ready((token - LISTENERS) as usize);
            }
        }
        for _ in 0..again {
            if let Some(id) = self.ready.pop_front() {
                self.run_again(id);
            }
        }
        if std::mem::take(&mut self.mail_left) {
            self.drain_mail();
        }
        if self.shared.has_arrivals() {
            self.install_arrivals();
        }
        if self.accept_at != NEVER {
            self.accept();
        }
        if self.timers.next() != NEVER {
            self.expire();
        }
        if self.stop_at.is_some_and(|deadline| deadline <= timer::now()) {
            self.cut();
        }
    }

    /// No handler is begun any more, even before the mail that says so.
    pub(super) fn stopping(&self) -> bool {
        self.stop_at.is_some() || self.server.is_stopping()
    }

    /// The connection of an id (or of its token), unless it is gone.
    pub(super) fn conn(&mut self, id: u64) -> Option<&mut Conn> {
        if self.slab.of(id).is_none() && self.shared.has_arrivals() {
            self.install_arrivals();
        }
        self.slab.of(id)
    }

    /// Plain input for an open connection, which is nearly every event, goes
    /// straight to the handler.
    #[inline]
    fn event(&mut self, token: u64, bits: u32) {
        let stopping = self.stopping();
        if let Some(conn) = self.slab.of(token) {
            let output = bits & EVENT_OUTPUT != 0 && conn.out.is_some();
            let other = output || bits & EVENT_SPECIAL != 0 || bits & EVENT_INPUT == 0;
            if !other && !stopping && conn.phase == Phase::Open && !conn.has(flag::UNUSUAL) {
                conn.set(flag::READY);
                let id = conn.id;
                if let Some(error) = dispatch::handle(&self.server, conn) {
                    self.after(ConnId::slot(id), error);
                }
                return;
            }
        }
        self.other_event(token, bits);
    }

    #[cold]
    #[inline(never)]
    fn other_event(&mut self, token: u64, bits: u32) {
        let Some(conn) = self.conn(token) else { return };
        let hint = bits & EVENT_SPECIAL != 0;
        let error = bits & EVENT_ERROR != 0;
        let input = hint || bits & EVENT_INPUT != 0;
        if input {
            conn.set(flag::READY);
        }
        if hint {
            conn.set(flag::HINT);
        }
        if error {
            conn.set(flag::ERR);
        }
        let slot = ConnId::slot(conn.id);
        let (phase, queued) = (conn.phase, conn.out.is_some());
        if bits & EVENT_OUTPUT != 0 && queued {
            self.flush(slot);
        }
        match phase {
            Phase::Open if input => self.input(token, slot),
            Phase::Handshake if input => self.handshake(slot),
            Phase::Flushing if error => self.finish(slot, CloseReason::Reset),
            Phase::Lingering if input => self.discard(slot),
            _ => {}
        }
    }

    /// A connection of the ready queue.
    fn run_again(&mut self, id: u64) {
        let Some(conn) = self.slab.get(ConnId::slot(id)).filter(|conn| conn.id == id) else {
            return;
        };
        conn.clear(flag::QUEUED);
        let slot = ConnId::slot(id);
        match conn.phase {
            Phase::Open => {
                // Is there input at all? The last read may have taken the
                // very last byte, and a handler is not called for nothing.
                let sure = conn.has(flag::HINT | flag::TLS);
                if conn.has(flag::READY) && !sure && !conn.fd().is_some_and(has_input) {
                    conn.clear(flag::READY);
                }
                self.input(id, slot);
            }
            Phase::Lingering => self.discard(slot),
            Phase::Handshake => self.handshake(slot),
            Phase::Flushing | Phase::Vacant => {}
        }
    }

    /// Puts what came from other threads into its slots.
    pub(super) fn install_arrivals(&mut self) {
        let arrivals = {
            let mut entrance = lock(&self.shared.entrance);
            self.shared.has_arrivals.store(false, Ordering::Release);
            std::mem::take(&mut entrance.arrivals)
        };
        // All first: the callback of one may come upon another.
        let ids: Vec<_> = arrivals.iter().map(|conn| conn.id).collect();
        for conn in arrivals {
            self.live += 1;
            let place = self.slab.place(ConnId::slot(conn.id));
            *place = conn;
        }
        for id in ids {
            self.opened(id);
        }
    }

    /// Re-reads deadlines that may have passed.
    fn expire(&mut self) {
        let now = timer::now();
        while let Some((due, slot)) = self.timers.expired(now) {
            let Some(conn) = self.slab.get(slot) else { continue };
            if conn.phase == Phase::Vacant || conn.armed != due {
                continue;
            }
            conn.armed = NEVER;
            let (deadline, reason) = conn.next_deadline();
            if deadline <= now {
                self.timed_out(slot, reason);
            }
            self.arm(slot);
        }
    }

    /// Has the loop look at the connection when its next deadline falls due.
    pub(super) fn arm(&mut self, slot: u32) {
        let Some(conn) = self.slab.get(slot) else { return };
        if conn.phase == Phase::Vacant || conn.has(flag::DETACHED) {
            return;
        }
        conn.clear(flag::ARM);
        let (deadline, _) = conn.next_deadline();
        if deadline < conn.armed {
            conn.armed = deadline;
            self.timers.arm(deadline, slot);
        }
    }

    /// Registers for writability too, once something is queued.
    pub(super) fn watch_writable(&mut self, slot: u32) {
        let Some(conn) = self.slab.get(slot) else { return };
        if conn.has(flag::WRITABLE) {
            return;
        }
        conn.set(flag::WRITABLE);
        let (raw, id) = (conn.raw_fd(), conn.id);
        let mut source = mio::unix::SourceFd(&raw);
        if self.poll.registry().reregister(&mut source, token(id), super::BOTH).is_err() {
            // Out of kernel memory: without events its bytes cannot leave.
            self.finish(slot, CloseReason::Reset);
        }
    }
}

/// Input, an end of stream or an error is there to be read.
fn has_input(fd: std::os::fd::BorrowedFd<'_>) -> bool {
    unread(fd) || crate::sys::poll(fd, libc::POLLIN | libc::POLLRDHUP, 0).is_ok_and(|e| e != 0)
}

impl Shared {
    pub(super) fn has_arrivals(&self) -> bool {
        self.has_arrivals.load(Ordering::Acquire)
    }
}
