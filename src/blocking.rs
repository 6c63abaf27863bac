//! Blocking mode: equal threads that accept and serve by themselves.
//!
//! There are `max_thread` seats (the connections served at once) and one
//! thread more. A thread accepts; with a seat free it serves what it got
//! there and then, without a hand-off. With none free it queues it. A thread
//! that finishes takes the next from the queue, else gives its seat back and
//! accepts. So while the queue is not empty every seat is taken and exactly
//! one thread accepts, and that one also refuses what waited too long; it
//! leaves a client in the backlog for a moment, so that who finishes soon
//! takes it from there and no hand-off is paid for. With one seat there is one
//! thread, and clients wait in the kernel's backlog.

#![forbid(unsafe_code)]

mod seat;
mod worker;

pub(crate) use seat::Seat;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use crossbeam_channel::Sender;

use crate::clock::Deadline;
use crate::config::{Config, Limits};
use crate::conn::{Conn, ForcedEnd, Owner, ThreadContext};
use crate::error::{CloseReason, Status};
use crate::linger::Remains;
use crate::listener::{Backoff, Listener};
use crate::server::Server;
use crate::sync::lock;

/// A connection that was accepted and is not served yet.
struct Arrival {
    id: u64,
    fd: OwnedFd,
    peer: Option<SocketAddr>,
}

struct Waiting {
    arrival: Arrival,
    until: Deadline,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Gate {
    Shut,
    Open,
    Stopping,
}

struct State {
    gate: Gate,
    /// Free seats, by number.
    free: Vec<usize>,
    queue: VecDeque<Waiting>,
    /// Threads in accept, each with room for what it gets.
    accepting: usize,
    /// Threads that wait for room or for descriptors.
    paused: usize,
    backoff: Backoff,
}

pub(crate) struct Pool {
    seats: Vec<Arc<Seat>>,
    /// Counts what no seat does: connections accepted and refused, failures
    /// to accept. Written under the lock.
    lobby: Arc<ThreadContext>,
    state: Mutex<State>,
    changed: Condvar,
    listeners: Mutex<Arc<[Listener]>>,
    next_id: AtomicU64,
    /// The connections that are being refused.
    rejecting: Mutex<Vec<Arc<Seat>>>,
    /// When the refusals of a stop must be over.
    reject_until: AtomicU64,
    /// The stop's deadline has passed: what is still begun is cut too.
    cut: AtomicBool,
    /// How long a connection waits for a seat, in ms, and how long it may
    /// be left in the backlog before.
    max_wait_ms: u64,
    rest_ms: u64,
    max_waiting: usize,
    max_connections: usize,
    /// Whose turn it is among the listeners.
    turn: AtomicUsize,
    /// Closed connections whose input is to be discarded.
    lingering: Sender<Remains>,
}

impl Pool {
    pub fn new(
        config: &Config,
        server: u64,
        max_connections: usize,
        listeners: Vec<Listener>,
        lingering: Sender<Remains>,
    ) -> Pool {
        if listeners.len() > 1 {
            // Threads that saw the same connection must not wait for another
            // one there.
            for listener in &listeners {
                let _ = listener.set_nonblocking();
            }
        }
        let limits = Limits::of(config);
        let max_wait_ms = u64::from(config.max_retry) * config.retry_interval.as_millis() as u64;
        let seats = config.max_thread as usize;
        let lobby_limits = Limits { idle: 0, ..limits.clone() };
        let seat =
            |i| Arc::new(Seat::new(ThreadContext::new(Owner::Worker, server, i, limits.clone())));
        Pool {
            seats: (0..seats).map(seat).collect(),
            lobby: Arc::new(ThreadContext::new(Owner::Worker, server, seats, lobby_limits)),
            state: Mutex::new(State {
                gate: Gate::Shut,
                free: (0..seats.min(max_connections)).rev().collect(),
                queue: VecDeque::new(),
                accepting: 0,
                paused: 0,
                backoff: Backoff::default(),
            }),
            changed: Condvar::new(),
            listeners: Mutex::new(listeners.into()),
            next_id: AtomicU64::new(1),
            rejecting: Mutex::new(Vec::new()),
            reject_until: AtomicU64::new(Deadline::NEVER.to_bits()),
            cut: AtomicBool::new(false),
            max_wait_ms,
            rest_ms: (max_wait_ms / 8).min(MAX_REST_MS),
            max_waiting: config.max_waiting as usize,
            max_connections,
            turn: AtomicUsize::new(0),
            lingering,
        }
    }

    /// How many threads to run [`Pool::work`] on.
    pub fn threads(&self) -> usize {
        match self.seats.len() {
            1 => 1,
            n => n + 1,
        }
    }

    pub fn open_gate(&self) {
        let mut state = self.state();
        if state.gate == Gate::Shut {
            state.gate = Gate::Open;
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Nothing more is accepted or begun; what waits is refused.
    pub fn begin_drain(&self) {
        self.state().gate = Gate::Stopping;
        let until = Deadline::after_ms(REJECTION_MS);
        self.reject_until.store(until.to_bits(), Ordering::SeqCst);
        self.changed.notify_all();
        let mut listeners = lock(&self.listeners);
        listeners.iter().for_each(Listener::shut);
        *listeners = Arc::new([]);
        for seat in self.seats.iter().filter(|s| s.context().handshaking.load(Ordering::SeqCst)) {
            seat.force_end_any(ForcedEnd::Close);
        }
    }

    /// Ends every connection that is still served.
    pub fn cut(&self) {
        self.cut.store(true, Ordering::SeqCst);
        for seat in self.seats.iter().chain(lock(&self.rejecting).iter()) {
            seat.force_end_any(ForcedEnd::Cut);
        }
    }

    /// `close` and `abort` by id, from any thread. What is left of a connection
    /// that waited lingers, as of a served one.
    pub fn force_end(&self, server: &Server, id: u64, how: ForcedEnd) -> Result<(), Status> {
        let ends = |seat: &Arc<Seat>| seat.force_end(id, how);
        if self.seats.iter().any(ends) || lock(&self.rejecting).iter().any(ends) {
            return Ok(());
        }
        let mut state = self.state();
        let found = state.queue.iter().position(|w| w.arrival.id == id).ok_or(Status::Closed)?;
        let waiting = state.queue.remove(found);
        let reason = match how {
            ForcedEnd::Abort => CloseReason::Abort,
            _ => CloseReason::Handler,
        };
        self.lobby.counters.closed[reason as usize].add(1);
        self.make_room(&state);
        drop(state);
        let Some(Waiting { arrival: Arrival { id, fd, peer }, .. }) = waiting else {
            return Ok(());
        };
        let mut conn = Conn::open(self.lobby.clone(), id, fd, peer);
        if how == ForcedEnd::Abort {
            conn.abort();
        }
        let until = conn.linger_until();
        if let Some(remains) = conn.close_waiting(until) {
            self.linger(server, remains);
        }
        Ok(())
    }

    pub fn contexts(&self) -> impl Iterator<Item = &Arc<ThreadContext>> {
        self.seats.iter().map(|seat| seat.context())
    }

    /// Counters of no seat, and how many wait, at one moment.
    pub fn lobby<T>(&self, look: impl FnOnce(&ThreadContext, u64) -> T) -> T {
        let state = self.state();
        look(&self.lobby, state.queue.len() as u64)
    }

    fn next_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

/// How long a full server leaves clients in the backlog, in ms. They may wait
/// so much longer than `max_retry` times `retry_interval` says.
const MAX_REST_MS: u64 = 20;
/// How long the exception handler may talk to a refused peer, in ms, all in
/// all: it runs on the thread that accepts. In a stop, how long to all of them.
const REJECTION_MS: u64 = 250;

impl State {
    fn head_deadline(&self) -> Deadline {
        self.queue.front().map_or(Deadline::NEVER, |waiting| waiting.until)
    }
}
