//! The quiesce of a pool: it accepts no more, and serves what it has.

#![forbid(unsafe_code)]

use super::{Arrival, Gate, Pool, State};
use crate::clock::Deadline;
use crate::listener::{AcceptError, Listener};
use crate::server::Server;

impl Pool {
    /// Takes the clients that wait in the backlog into the queue, also beyond
    /// the limits, and closes the listeners. When this returns no thread has one
    /// any more. The control thread runs it.
    pub fn quiesce(&self, server: &Server) {
        if self.state().gate != Gate::Open {
            return;
        }
        let listeners = self.take_listeners(Gate::Quiescing);
        self.changed.notify_all();
        let (shared, own): (Vec<_>, Vec<_>) = listeners.iter().partition(|l| l.is_shared());
        shared.iter().for_each(|listener| listener.shut());
        for listener in &own {
            // This thread must not wait for another client. A worker that waits
            // goes on to wait.
            let _ = listener.set_nonblocking();
            listener.refuse_more();
        }
        self.take_backlog(server, &own);
        own.iter().for_each(|listener| listener.shut());
        let mut state = self.state();
        while state.accepting > 0 {
            state = self.pause(state, Deadline::NEVER);
        }
        drop(state);
        drop(listeners);
    }

    /// Accepts until no client waits. While descriptors are used up it tries
    /// again for a while.
    fn take_backlog(&self, server: &Server, listeners: &[&Listener]) {
        let mut quota = server.quota(listeners.len());
        for listener in listeners {
            while quota.is_left() && !server.is_stopping() {
                let accepted = listener.accept(false);
                if accepted.is_ok() {
                    quota.use_one();
                }
                match accepted.map(|accepted| self.admit(server, accepted)) {
                    Ok(Ok(accepted)) => {
                        let arrival = Arrival { id: self.next_id(), accepted };
                        self.queue_late(server, arrival);
                    }
                    Ok(Err(refusal)) => self.note_refusal(server, refusal),
                    Err(AcceptError::Next) if !listener.is_lost() => {}
                    Err(AcceptError::Exhausted(e)) if quota.may_retry() => {
                        self.back_off(server, &e)
                    }
                    Err(_) => break,
                }
            }
        }
    }

    fn queue_late(&self, server: &Server, arrival: Arrival) {
        let mut state = self.state();
        state.backoff.reset();
        // With one worker clients wait for it however long, as in the backlog.
        let until = match server.config().max_thread {
            1 => Deadline::NEVER,
            _ => Deadline::after_ms(self.max_wait_ms),
        };
        self.queue(server, state, arrival, until);
        self.make_room(&self.state());
    }

    /// Waits until no connection is served, waits, or is being rejected, at most
    /// until a deadline. Returns whether none is.
    pub fn wait_idle(&self, until: Deadline) -> bool {
        let mut state = self.state();
        loop {
            if self.is_idle(&state) {
                return true;
            }
            if until.is_due() {
                return false;
            }
            state = self.pause(state, until);
        }
    }

    /// No listener is left: waits until the gate says why.
    pub(super) fn wait_for_end(&self) {
        let mut state = self.state();
        while state.gate == Gate::Open {
            state = self.pause(state, Deadline::NEVER);
        }
    }

    fn is_idle(&self, state: &State) -> bool {
        let served = self.occupied(state) - state.queue.len() - state.accepting;
        served == 0 && state.queue.is_empty() && state.rejected == 0
    }
}
