//! Blocking mode: equal threads, each of which accepts and serves.
//!
//! There are `max_thread` seats (the connections that are served at the same
//! time) and one thread more. A thread accepts; if a seat is free the thread
//! takes the seat and serves the connection itself, without a hand-off. If none
//! is free it queues the connection. A thread that has served takes the next
//! connection from the queue; if the queue is empty it gives its seat back and
//! accepts. So while the queue is not empty every seat is in use and exactly
//! one thread accepts. That thread also rejects connections that have waited
//! too long. It leaves a client in the backlog for a moment, so that a worker
//! that finishes soon takes the client from there and no hand-off is paid for.
//! With one seat there is one thread, and clients wait in the kernel's backlog.

#![forbid(unsafe_code)]

mod admit;
mod opening;
mod quiesce;
mod seat;
mod worker;

pub(crate) use seat::Seat;

use std::collections::VecDeque;
use std::sync::Arc;

use crossbeam_channel::Sender;

use crate::admission::Admission;
use crate::callback;
use crate::clock::Deadline;
use crate::config::{Config, Limits};
use crate::conn::{Conn, ForcedEnd, Owner, ThreadContext};
use crate::error::{CloseReason, Error, Status};
use crate::linger::Remains;
use crate::listener::{Accepted, Backoff, Listener};
use crate::server::Server;
use crate::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use crate::sync::{lock, wait_until, Condvar, Mutex, MutexGuard};

/// A connection that was accepted and is not yet served.
struct Arrival {
    id: u64,
    accepted: Accepted,
}

struct Waiting {
    arrival: Arrival,
    until: Deadline,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Gate {
    Shut,
    Open,
    /// No thread accepts any more; what was accepted is served.
    Quiescing,
    Stopping,
}

struct State {
    gate: Gate,
    /// Empty once the pool accepts no more. A thread has it only while it
    /// accepts.
    listeners: Arc<[Listener]>,
    /// The numbers of the free seats.
    free: Vec<usize>,
    queue: VecDeque<Waiting>,
    /// How many threads are in accept(2); each holds room for the connection
    /// that it will get.
    accepting: usize,
    /// How many connections are being rejected. They have left the queue.
    rejected: usize,
    /// How many threads wait for room, for descriptors, or until the pool is
    /// idle.
    paused: usize,
    backoff: Backoff,
}

pub(crate) struct Pool {
    seats: Vec<Arc<Seat>>,
    /// Counts events that belong to no seat: connections accepted and rejected,
    /// failures to accept. Threads write these counters under the lock of
    /// `state`.
    lobby: Arc<ThreadContext>,
    state: Mutex<State>,
    changed: Condvar,
    next_id: AtomicU64,
    /// The seats of connections that are being rejected.
    rejecting: Mutex<Vec<Arc<Seat>>>,
    /// When the rejections of a stop must be over.
    reject_until: AtomicU64,
    /// The stop's deadline has passed: a connection that begins later is cut
    /// too.
    cut: AtomicBool,
    /// How long a connection waits for a seat, in ms, and before that for how
    /// long a thread may leave it in the backlog.
    max_wait_ms: u64,
    rest_ms: u64,
    max_waiting: usize,
    max_connections: usize,
    /// Chooses the listener whose turn it is.
    turn: AtomicUsize,
    /// Closed connections whose input the control thread must discard.
    lingering: Sender<Remains>,
    admission: Option<Arc<Admission>>,
}

impl Pool {
    pub fn new(
        config: &Config,
        server: u64,
        max_connections: usize,
        listeners: Vec<Listener>,
        lingering: Sender<Remains>,
    ) -> Pool {
        if listeners.len() > 1 || config.lend_listeners {
            // Several threads may see the same connection; one that does not
            // get it must not wait on this listener for another one.
            for listener in &listeners {
                let _ = listener.set_nonblocking();
            }
        }
        let limits = Limits::of(config);
        let max_wait_ms = u64::from(config.max_retry) * config.retry_interval.as_millis() as u64;
        let seats = config.max_thread as usize;
        let lobby_limits = Limits { idle_ms: 0, ..limits.clone() };
        let seat =
            |i| Arc::new(Seat::new(ThreadContext::new(Owner::Worker, server, i, limits.clone())));
        Pool {
            seats: (0..seats).map(seat).collect(),
            lobby: Arc::new(ThreadContext::new(Owner::Worker, server, seats, lobby_limits)),
            state: Mutex::new(State {
                gate: Gate::Shut,
                listeners: listeners.into(),
                free: (0..seats.min(max_connections)).rev().collect(),
                queue: VecDeque::new(),
                accepting: 0,
                rejected: 0,
                paused: 0,
                backoff: Backoff::default(),
            }),
            changed: Condvar::new(),
            next_id: AtomicU64::new(1),
            // All threads may reject at the same time.
            rejecting: Mutex::new(Vec::with_capacity(seats + 1)),
            reject_until: AtomicU64::new(Deadline::NEVER.to_bits()),
            cut: AtomicBool::new(false),
            max_wait_ms,
            rest_ms: (max_wait_ms / 8).min(MAX_REST_MS),
            max_waiting: config.max_waiting as usize,
            max_connections,
            turn: AtomicUsize::new(0),
            lingering,
            admission: Admission::of(config),
        }
    }

    /// Returns how many threads must run [`Pool::work`].
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

    /// Begins the drain: no thread accepts or begins any more, and connections
    /// that wait are rejected.
    pub fn begin_drain(&self) {
        let listeners = self.take_listeners(Gate::Stopping);
        let until = Deadline::after_ms(REJECTION_MS);
        self.reject_until.store(until.to_bits(), Ordering::SeqCst);
        self.changed.notify_all();
        listeners.iter().for_each(Listener::shut);
        drop(listeners);
        for seat in self.seats.iter().filter(|s| s.context().handshaking.load(Ordering::SeqCst)) {
            seat.force_end_any(ForcedEnd::Close);
        }
    }

    /// Ends every connection that a worker still serves or rejects.
    pub fn cut(&self) {
        self.cut.store(true, Ordering::SeqCst);
        for seat in self.seats.iter().chain(lock(&self.rejecting).iter()) {
            seat.force_end_any(ForcedEnd::Cut);
        }
    }

    /// Does `close` and `abort` by id, from any thread. A connection that
    /// waited lingers like one that was served.
    pub fn force_end(&self, server: &Server, id: u64, how: ForcedEnd) -> Result<(), Status> {
        let force_end = |seat: &Arc<Seat>| seat.force_end(id, how);
        if self.seats.iter().any(force_end) || lock(&self.rejecting).iter().any(force_end) {
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
        let Some(Waiting { arrival: Arrival { id, accepted }, .. }) = waiting else {
            return Ok(());
        };
        let mut conn = Conn::open(self.lobby.clone(), id, accepted);
        self.note_left(&mut conn);
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

    /// Reads the counters that belong to no seat and the number of waiting
    /// connections, at one moment.
    pub fn lobby<T>(&self, look: impl FnOnce(&ThreadContext, u64) -> T) -> T {
        let state = self.state();
        look(&self.lobby, state.queue.len() as u64)
    }

    /// A connection has ended.
    fn note_left(&self, conn: &mut Conn) {
        if let Some(admission) = &self.admission {
            conn.leave(admission);
        }
    }

    /// Makes a connection wait for a seat. Where there is no memory for it, it is
    /// closed, as if it had not been accepted.
    fn queue(
        &self,
        server: &Server,
        mut state: MutexGuard<'_, State>,
        mut arrival: Arrival,
        until: Deadline,
    ) {
        let Err(error) = state.queue.try_reserve(1) else {
            self.lobby.counters.accepted.add(1);
            state.queue.push_back(Waiting { arrival, until });
            return;
        };
        self.lobby.counters.accept_errors.add(1);
        drop(state);
        if let Some(admission) = &self.admission {
            admission.leave(arrival.accepted.peer, &mut arrival.accepted.origin);
        }
        drop(arrival);
        self.count_report(callback::report_unserved(server, &Error::no_memory(error)));
    }

    fn take_listeners(&self, gate: Gate) -> Arc<[Listener]> {
        let mut state = self.state();
        state.gate = gate;
        std::mem::replace(&mut state.listeners, Arc::new([]))
    }

    /// Waits until something changes, at most until a deadline.
    fn pause<'a>(
        &self,
        mut state: MutexGuard<'a, State>,
        until: Deadline,
    ) -> MutexGuard<'a, State> {
        state.paused += 1;
        let mut state = wait_until(&self.changed, state, until);
        state.paused -= 1;
        state
    }

    fn next_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

/// How long a full server leaves clients in the backlog, in ms. They may wait
/// this much longer than `max_retry` times `retry_interval`.
const MAX_REST_MS: u64 = 20;
/// How long the exception handler may talk to a rejected peer, in ms, for all
/// its I/O together: it runs on the thread that accepts. In a stop this is the
/// time for all rejected peers together.
const REJECTION_MS: u64 = 250;

impl State {
    fn head_deadline(&self) -> Deadline {
        self.queue.front().map_or(Deadline::NEVER, |waiting| waiting.until)
    }
}
