//! Accepting, in the first loop, and the beginning of a connection.

#![forbid(unsafe_code)]

use std::os::fd::AsFd;
use std::sync::atomic::Ordering;

use super::run::Loop;
use super::{INPUT, LISTENERS};
use crate::callback;
use crate::clock::Deadline;
use crate::conn::{flag, ConnId};
use crate::error::{CloseReason, Error, Status};
use crate::listener::{lost_error, AcceptError, Accepted, Backoff, Listener};
use crate::sync::lock;
use crate::sys::{self, Poller};

/// The most connections to accept before the open ones have their turn.
const PER_TURN: usize = 64;

/// The listeners of the first loop.
pub(crate) struct Acceptor {
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
}

impl Acceptor {
    /// When to accept again without an event: [`Deadline::NOW`] for
    /// immediately, [`Deadline::NEVER`] where an event comes first.
    fn next_try(&self) -> Deadline {
        if self.full || !self.ready.contains(&true) {
            return Deadline::NEVER;
        }
        self.resume_at
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
    pub(super) fn listen(&mut self, listeners: Vec<Listener>) {
        if self.stopping() {
            return;
        }
        // Connections may have waited in the backlog since before.
        let ready = vec![true; listeners.len()];
        let backoff = Backoff::default();
        self.acceptor = Some(Acceptor {
            listeners,
            ready,
            turn: 0,
            backoff,
            resume_at: Deadline::NOW,
            full: false,
        });
        self.reconsider_accepting();
    }

    pub(super) fn listener_ready(&mut self, index: usize) {
        if let Some(ready) = self.acceptor.as_mut().and_then(|a| a.ready.get_mut(index)) {
            *ready = true;
            self.reconsider_accepting();
        }
    }

    /// A connection was closed: there is room again, and a descriptor.
    pub(super) fn accept_again(&mut self) {
        if let Some(acceptor) = &mut self.acceptor {
            acceptor.full = false;
            acceptor.resume_at = Deadline::NOW;
            self.reconsider_accepting();
        }
    }

    fn reconsider_accepting(&mut self) {
        self.accept_at = self.acceptor.as_ref().map_or(Deadline::NEVER, Acceptor::next_try);
    }

    /// Accepts some of the waiting connections.
    pub(super) fn accept(&mut self) {
        if !self.accept_at.is_due() || self.stopping() {
            return;
        }
        if let Some(mut acceptor) = self.acceptor.take() {
            self.accept_some(&mut acceptor);
            self.accept_at = acceptor.next_try();
            self.acceptor = Some(acceptor);
        }
    }

    fn accept_some(&mut self, acceptor: &mut Acceptor) {
        for _ in 0..PER_TURN {
            if self.stopping() {
                // The stop's mail comes behind this.
                return;
            }
            let (from, count) = (acceptor.turn, acceptor.ready.len());
            let Some(i) = (from..from + count).map(|i| i % count).find(|i| acceptor.ready[*i])
            else {
                return;
            };
            acceptor.turn = i + 1;
            if self.loops.is_full() {
                // The flag is set first and the number is read again after it,
                // so that no connection that closes in between is missed.
                self.loops.paused.store(true, Ordering::SeqCst);
                acceptor.full = self.loops.is_full();
                if acceptor.full {
                    return;
                }
                self.loops.paused.store(false, Ordering::SeqCst);
            }
            match acceptor.listeners[i].accept(true) {
                Ok(accepted) => {
                    acceptor.backoff.recovered();
                    acceptor.resume_at = Deadline::NOW;
                    self.begin(accepted);
                }
                Err(AcceptError::Empty | AcceptError::Shut) => acceptor.ready[i] = false,
                Err(AcceptError::Next) => acceptor.ready[i] = !acceptor.listeners[i].is_lost(),
                Err(AcceptError::Lost(e)) => {
                    acceptor.ready[i] = false;
                    self.handle.context.counters.accept_errors.add(1);
                    self.report(&lost_error(&e));
                    if acceptor.listeners.iter().all(Listener::is_lost) {
                        self.server.request_stop();
                    }
                }
                Err(AcceptError::Exhausted(e)) => {
                    let (wait, report) = acceptor.backoff.exhausted(&e);
                    acceptor.resume_at = Deadline::after_ms(wait);
                    // The loop retries immediately when the next connection
                    // closes.
                    self.loops.paused.store(true, Ordering::SeqCst);
                    self.handle.context.counters.accept_errors.add(1);
                    if let Some(error) = report {
                        self.report(&error);
                    }
                    return;
                }
            }
        }
    }

    pub(super) fn report(&mut self, error: &Error) {
        if callback::report_without_socket(&self.server, error).is_some() {
            self.handle.context.counters.handler_errors.add(1);
        }
    }

    /// Gives a new connection to the loop with the fewest connections.
    fn begin(&mut self, accepted: Accepted) {
        let index = self.loops.least_busy(self.handle.context.index);
        let begun = if index == self.handle.context.index {
            self.adopt(accepted)
        } else {
            self.loops.hand_over(&self.handle, index, accepted)
        };
        // The target loop is already stopping, and this one will be too; not an
        // error.
        if let Err(error) = begun.or_else(unless_stopping) {
            self.handle.context.counters.accept_errors.add(1);
            self.report(&error);
        }
    }

    fn adopt(&mut self, accepted: Accepted) -> Result<(), Error> {
        let no_slot = || Error::new(Status::NoMemory, "no connection slot is left");
        let id = self.handle.allocate(&mut lock(&self.handle.intake)).ok_or_else(no_slot)?;
        if let Err(e) = self.poller.add(accepted.fd.as_fd(), id, INPUT) {
            self.handle.free(id);
            return Err(Error::from_os(Status::Io, "cannot watch the socket", &e));
        }
        self.slab.place(ConnId::slot(id)).begin(id, accepted);
        self.live += 1;
        self.handle.context.counters.accepted.add(1);
        self.handle.context.counters.open.add(1);
        self.on_opened(id);
        Ok(())
    }

    /// Runs the first callback of a connection, unless it was attached.
    pub(super) fn on_opened(&mut self, id: u64) {
        let slot = ConnId::slot(id);
        if self.slab.of(id).is_none() {
            return;
        }
        if self.stopping() {
            let Some(conn) = self.slab.get(slot) else { return };
            if !conn.has(flag::ATTACHED) {
                conn.set(flag::UNOPENED);
            }
            self.drain_one(slot);
            return;
        }
        let Some(conn) = self.slab.get(slot) else { return };
        if conn.has(flag::ATTACHED) {
            conn.clear(flag::ATTACHED);
            if conn.has(flag::TLS) {
                conn.look_for_plain();
                conn.set(flag::CALL_AGAIN);
            }
            if conn.has(flag::SEND_FAILED) {
                conn.set(flag::READY | flag::SPECIAL | flag::CALL_AGAIN);
            }
            self.settle(slot);
            return;
        }
        if conn.origin.has_tls() && !conn.has(flag::TLS) {
            self.expect_handshake(slot);
            return;
        }
        // The program may give the id away from now on. The list of connections
        // contains it after `on_open` has accepted the connection.
        conn.context.ids.begin(id);
        let result = callback::call(&self.server, conn, |handler, server, socket| {
            handler.on_open(server, socket)
        });
        let failure = callback::outcome(result);
        if failure.is_none() {
            self.handle.context.ids.list(id);
        }
        if self.after_callback(slot, failure) {
            // The connection closes, no matter what the exception handler did
            // with it.
            if let Some(conn) = self.slab.of(id) {
                conn.close_because(CloseReason::Error);
                self.settle(slot);
            }
        }
        if self.handle.context.limits.idle_ms != 0 {
            self.arm(slot);
        }
    }
}

fn unless_stopping(error: Error) -> Result<(), Error> {
    match error.status() {
        Status::State => Ok(()),
        _ => Err(error),
    }
}
