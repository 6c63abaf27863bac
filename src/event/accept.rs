//! Accepting, in the first loop, and the beginning of a connection.

#![forbid(unsafe_code)]

use std::io;
use std::os::fd::AsFd;

use super::driver::Driver;
use super::run::Loop;
use super::schedule::Own;
use super::{LoopGroup, LISTENERS};
use crate::address::Peer;
use crate::admission::{self, Limit};
use crate::callback;
use crate::clock::Deadline;
use crate::conn::{Conn, ConnId, Phase};
use crate::error::{CloseReason, Error, Status};
use crate::listener::{self, AcceptError, Accepted, Backoff, Listener, Quota};
use crate::logger::Kind;
use crate::server::Server;
use crate::service::Origin;
use crate::sync::lock;
use crate::sys::{self, Poller};

/// The most connections to accept before the open ones have their turn.
const PER_TURN: usize = 64;

/// The listeners of the first loop; no other loop has any. Every turn reads the
/// first field, so it is the first in memory too.
#[repr(C)]
pub(super) struct Acceptor {
    /// When to accept without an event: [`Deadline::NOW`] for immediately,
    /// [`Deadline::NEVER`] where an event comes first.
    next_try: Deadline,
    listeners: Vec<Listener>,
    /// Which listeners may have waiting connections, and which is next.
    ready: Vec<bool>,
    turn: usize,
    backoff: Backoff,
    /// Descriptors or memory are used up: no accept before this time.
    /// [`Deadline::NOW`] if they are not.
    resume_at: Deadline,
    /// The server has its largest number of connections.
    full: bool,
    /// What a quiesce still takes, whatever the number of connections.
    quota: Option<Quota>,
}

/// What one attempt to accept brought.
enum Attempt {
    Client(Accepted),
    /// A client was lost, or a listener had none: another attempt may bring
    /// more.
    Miss,
    /// Accepting failed; the error is reported once in a second at most.
    Failed(io::Error, Option<Error>),
    /// A listener was lost.
    Lost(io::Error),
    /// No client can be accepted before [`Acceptor::next_try`].
    Rest,
}

impl Acceptor {
    pub fn new() -> Acceptor {
        Acceptor {
            next_try: Deadline::NEVER,
            listeners: Vec::new(),
            ready: Vec::new(),
            turn: 0,
            backoff: Backoff::default(),
            resume_at: Deadline::NOW,
            full: false,
            quota: None,
        }
    }

    pub fn next_try(&self) -> Deadline {
        self.next_try
    }

    /// Begins to accept from these listeners.
    pub fn listen(&mut self, listeners: Vec<Listener>) {
        // Connections may have waited in the backlog since before.
        self.ready = vec![true; listeners.len()];
        self.listeners = listeners;
        self.reconsider();
    }

    /// Prepares to accept what waits in the backlog now, and no more. A listener
    /// that others have too is left to them with what waits there.
    pub fn begin_quiesce(&mut self, server: &Server, poller: &Poller) {
        for (listener, ready) in self.listeners.iter().zip(&mut self.ready) {
            *ready = !listener.is_shared() && !listener.is_lost();
            listener.unwatch(poller);
            listener.refuse_more();
        }
        self.full = false;
        self.resume_at = Deadline::NOW;
        self.quota = Some(server.quota(self.listeners.len()));
        self.reconsider();
    }

    /// Returns whether a quiesce has taken what waited.
    pub fn is_drained(&self) -> bool {
        self.quota.is_some() && !self.ready.contains(&true)
    }

    /// Closes the listeners, of which the poller reports nothing any more.
    pub fn stop(&mut self, poller: &Poller) {
        self.listeners.iter().for_each(|listener| listener.unwatch(poller));
        *self = Acceptor::new();
    }

    /// Notes that an event reported connections.
    pub fn note_event(&mut self, listener: usize) {
        if let Some(ready) = self.ready.get_mut(listener).filter(|_| self.quota.is_none()) {
            *ready = true;
            self.reconsider();
        }
    }

    /// Notes that a connection was closed: there is room again, and a
    /// descriptor.
    pub fn note_room(&mut self) {
        self.full = false;
        self.resume_at = Deadline::NOW;
        self.reconsider();
    }

    fn note_taken(&mut self) {
        let Some(quota) = &mut self.quota else { return };
        quota.use_one();
        if !quota.is_left() {
            self.ready.fill(false);
        }
    }

    fn reconsider(&mut self) {
        let can_accept = !self.full && self.ready.contains(&true);
        self.next_try = if can_accept { self.resume_at } else { Deadline::NEVER };
    }

    fn are_all_lost(&self) -> bool {
        self.listeners.iter().all(Listener::is_lost)
    }

    fn attempt(&mut self, loops: &LoopGroup) -> Attempt {
        let attempt = self.try_next(loops);
        self.reconsider();
        attempt
    }

    fn try_next(&mut self, loops: &LoopGroup) -> Attempt {
        let (from, count) = (self.turn, self.ready.len());
        let Some(i) = (from..from + count).map(|i| i % count).find(|i| self.ready[*i]) else {
            return Attempt::Rest;
        };
        self.turn = i + 1;
        self.full = self.quota.is_none() && loops.must_pause();
        if self.full {
            return Attempt::Rest;
        }
        match self.listeners[i].accept(true) {
            Ok(accepted) => {
                self.backoff.reset();
                self.resume_at = Deadline::NOW;
                self.note_taken();
                Attempt::Client(accepted)
            }
            Err(AcceptError::Empty | AcceptError::Shut) => {
                self.ready[i] = false;
                Attempt::Miss
            }
            Err(AcceptError::Next) => {
                self.ready[i] = !self.listeners[i].is_lost();
                Attempt::Miss
            }
            Err(AcceptError::Lost(e)) => {
                self.ready[i] = false;
                // A quiesce has shut it.
                if self.quota.is_some() {
                    Attempt::Miss
                } else {
                    Attempt::Lost(e)
                }
            }
            Err(AcceptError::Exhausted(e)) => {
                let (wait, report) = self.backoff.back_off(&e);
                self.resume_at = Deadline::after_ms(wait);
                // The loop retries immediately when the next connection closes.
                loops.pause();
                if let Some(quota) = &self.quota {
                    self.resume_at = quota.next_try(self.resume_at);
                    if !quota.may_retry() {
                        self.ready.fill(false);
                    }
                }
                Attempt::Failed(e, report)
            }
        }
    }
}

/// Makes the first loop's poller report new connections.
pub(crate) fn watch(poller: &Poller, listeners: &[Listener]) -> Result<(), Error> {
    for (token, listener) in (LISTENERS..).zip(listeners) {
        poller
            .add(listener.as_fd(), token, sys::INPUT)
            .map_err(|e| Error::from_os(Status::Listen, "cannot watch the listener", &e))?;
    }
    Ok(())
}

impl Loop {
    /// Accepts some of the waiting connections.
    pub(super) fn accept(&mut self) {
        if self.acceptor.next_try().is_due() {
            self.accept_some();
            self.end_quiesce();
        }
    }

    fn accept_some(&mut self) {
        for _ in 0..PER_TURN {
            if self.driver.is_stopping() {
                // The stop's mail comes behind this.
                return;
            }
            match self.acceptor.attempt(&self.driver.loops) {
                Attempt::Client(accepted) => self.begin(accepted),
                Attempt::Miss => {}
                Attempt::Failed(error, report) => {
                    self.driver.counters().accept_errors.add(1);
                    let server = &self.driver.server;
                    let failed = callback::report_accept_failure(server, &error, report);
                    self.driver.count_report(failed);
                    return;
                }
                Attempt::Lost(error) => {
                    self.driver.counters().accept_errors.add(1);
                    let failed = callback::report_lost_listener(&self.driver.server, &error);
                    self.driver.count_report(failed);
                    if self.acceptor.are_all_lost() {
                        self.driver.server.request_stop();
                    }
                    return;
                }
                Attempt::Rest => return,
            }
        }
    }

    /// Gives a new connection to the loop with the fewest connections, if the
    /// limits of its address let it in.
    fn begin(&mut self, mut accepted: Accepted) {
        self.driver.server.settle_origin(&mut accepted);
        let admission = self.driver.loops.admission.clone();
        if let Some(admission) = &admission {
            if let Err(limit) = admission.admit(accepted.peer, &mut accepted.origin) {
                return self.driver.refuse(accepted, limit);
            }
        }
        let (peer, mut origin) = (accepted.peer, accepted.origin);
        let (own, loops) = (self.driver.handle.context.index, self.driver.loops.clone());
        let index = loops.least_busy(own);
        let begun = match index == own {
            true => self.keep(accepted),
            false => loops.hand_over(&self.driver.handle, index, accepted),
        };
        // The target loop is already stopping, and this one will be too; not an
        // error.
        if let (Err(_), Some(admission)) = (&begun, &admission) {
            admission.leave(peer, &mut origin);
        }
        if let Err(error) = begun.or_else(unless_stopping) {
            self.driver.counters().accept_errors.add(1);
            self.driver.count_report(callback::report_unserved(&self.driver.server, &error));
        }
    }

    fn keep(&mut self, accepted: Accepted) -> Result<(), Error> {
        let handle = &self.driver.handle;
        let id = handle.allocate(&mut lock(&handle.intake))?;
        let room = self.driver.schedule.make_room();
        let place = room.and_then(|()| self.slab.place(ConnId::slot(id)));
        let watched = place.map_err(Error::no_memory).and_then(|conn| {
            let watched = self.driver.schedule.watch(accepted.fd.as_fd(), id);
            let failed = |e| Error::from_os(Status::Io, "cannot watch the socket", &e);
            watched.map(|()| conn).map_err(failed)
        });
        let conn = match watched {
            Ok(conn) => conn,
            Err(error) => {
                handle.free(id);
                return Err(error);
            }
        };
        self.driver.counters().accepted.add(1);
        self.driver.counters().open.add(1);
        conn.begin(id, accepted);
        self.driver.on_opened(conn);
        Ok(())
    }
}

impl Driver {
    /// Turns away a connection beyond a limit of its address.
    #[cold]
    fn refuse(&mut self, accepted: Accepted, limit: Limit) {
        self.counters().accepted.add(1);
        self.counters().closed[CloseReason::Limit as usize].add(1);
        let peer = accepted.peer;
        admission::turn_away(accepted.fd);
        self.note_refusal(peer, limit);
    }

    /// Logs a refusal, and reports those that are due. A report that is not due
    /// is made in time.
    pub fn note_refusal(&mut self, peer: Peer, limit: Limit) {
        self.server.log().warn(Kind::Limit, 0, || admission::describe_refusal(peer, limit));
        if let Some(admission) = &self.loops.admission {
            admission.note_refusal(peer, limit);
        }
        self.report_refusals(false);
    }

    /// Reports the refusals, if that is due or `in_any_case`.
    #[cold]
    pub fn report_refusals(&mut self, in_any_case: bool) {
        let Some(admission) = self.loops.admission.clone() else { return };
        if let Some(error) = admission.report(in_any_case) {
            self.report(&error);
        }
        self.schedule.arm_own(Own::Refusals, admission.report_at());
    }

    /// Ends an arrival for which there is no memory. Of one that the program has
    /// brought the exception handler hears with its socket.
    #[cold]
    pub fn refuse_arrival(&mut self, mut conn: Conn, error: Error) {
        self.counters().accept_errors.add(1);
        let is_attached = conn.end_arrival();
        if conn.origin != Origin::NONE && !is_attached {
            self.count_report(callback::report_unserved(&self.server, &error));
        } else {
            callback::log_unserved(&self.server, conn.id, &error);
            conn.close_because(CloseReason::Error);
            callback::report_handshake_failure(&self.server, &mut conn, error);
        }
        self.finish_conn(&mut conn, CloseReason::Error);
        // It has no place that stays.
        self.handle.context.reach.note_none();
    }

    /// Begins with an arrival. An event that came while it waited comes again, with
    /// what has become of it.
    pub fn on_arrival(&mut self, conn: &mut Conn) {
        let (id, had_event) = (conn.id, conn.is_readable());
        conn.note_no_input();
        self.on_opened(conn);
        if had_event && conn.id == id && self.schedule.watch_again(conn).is_err() {
            self.finish_conn(conn, CloseReason::Reset);
        }
    }

    /// Runs the first callback of a connection, unless it was attached.
    pub fn on_opened(&mut self, conn: &mut Conn) {
        let is_attached = conn.end_arrival();
        if self.is_stopping() {
            if !is_attached {
                conn.mark_unopened();
            }
            self.drain_one(conn);
            return;
        }
        if is_attached {
            conn.begin_attached();
            self.settle(conn);
            return;
        }
        if conn.phase() == Phase::Connecting {
            self.schedule.arm(conn);
            return;
        }
        if conn.origin.awaits_proxy() {
            self.expect_proxy(conn);
            return;
        }
        if conn.origin.has_tls() && !conn.is_tls() {
            self.expect_handshake(conn);
            return;
        }
        conn.clear_unopened();
        let id = conn.id;
        if conn.origin == Origin::NONE {
            // It was adopted, and the program has its id.
            listener::set_options(self.server.config(), conn);
        } else {
            // The program may give the id away from now on. The list of
            // connections contains it after `on_open` has accepted the
            // connection.
            conn.context.ids.begin(id);
        }
        let opened = callback::run_on_open(&self.server, conn);
        if let Ok(true) = opened {
            self.handle.context.ids.list(id);
        }
        if self.after_callback(conn, opened.err()) && conn.phase() != Phase::Vacant {
            // The connection closes, no matter what the exception handler did
            // with it.
            conn.close_because(CloseReason::Error);
            self.settle(conn);
        }
        if self.handle.context.limits.idle_ms != 0 {
            self.schedule.arm(conn);
        }
    }
}

fn unless_stopping(error: Error) -> Result<(), Error> {
    match error.status() {
        Status::State => Ok(()),
        _ => Err(error),
    }
}
