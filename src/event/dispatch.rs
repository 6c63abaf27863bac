//! Calls the handler, looks at the flags once after each callback, and does the
//! work that they ask for.

#![forbid(unsafe_code)]

use super::run::Loop;
use crate::callback;
use crate::clock::Deadline;
use crate::conn::{flag, Conn, Phase, Verdict, READ_BUDGET};
use crate::error::{CloseReason, Error};
use crate::server::Server;

/// How a call of the handler ended.
pub(super) enum Called {
    /// Nothing is left to do.
    Settled,
    /// The loop must look at the connection.
    Unsettled,
    /// The loop must look at the connection, and the handler failed.
    Failed(Error),
}

/// Calls the handler for input; sets `flags` before the call.
#[inline]
pub(super) fn handle(server: &Server, conn: &mut Conn, flags: u32) -> Called {
    conn.context.counters.calls.add(1);
    conn.read_budget = READ_BUDGET;
    conn.clear(flag::CALL_AGAIN | flag::BUDGET_SPENT);
    conn.set(flags);
    let result =
        callback::call(server, conn, |handler, server, socket| handler.handle(server, socket));
    match result {
        Ok(Ok(())) if conn.is_settled() => Called::Settled,
        result => unsettled(conn, result),
    }
}

#[cold]
#[inline(never)]
fn unsettled(conn: &mut Conn, result: Result<Result<(), Error>, Error>) -> Called {
    // A failed send is reported after the input. A handler that reads nothing
    // has had its chance.
    if conn.has(flag::SEND_FAILED) && !conn.has(flag::CALL_AGAIN | flag::OVER | flag::PAUSED) {
        conn.set(flag::BROKEN);
        conn.reason = CloseReason::Reset;
    }
    callback::outcome(result).map_or(Called::Unsettled, Called::Failed)
}

impl Loop {
    /// There is input, or there was some: calls the handler if it may read.
    pub(super) fn deliver_input(&mut self, id: u64, slot: u32) {
        if self.stopping() {
            if self.stop_at.is_some() {
                // The input may have been a failure.
                self.settle(slot);
            }
            return;
        }
        let Some(conn) = self.slab.get(slot) else { return };
        if conn.phase() != Phase::Open || conn.id != id {
            return;
        }
        if conn.has(flag::PAUSED | flag::THROTTLED) {
            self.settle(slot);
            return;
        }
        if conn.has(flag::TLS) && !conn.has(flag::EOF) {
            // The handler is called for decrypted bytes, not for the first part
            // of a record.
            conn.pump();
            if !conn.has(flag::DECRYPTED) {
                self.settle(slot);
                return;
            }
        }
        if !conn.has(flag::READY | flag::DECRYPTED) || conn.has(flag::EOF) {
            self.settle(slot);
            return;
        }
        let called = handle(&self.server, conn, 0);
        self.after_handler(slot, called);
    }

    /// Does what a call of the handler left to do.
    #[inline(always)]
    pub(super) fn after_handler(&mut self, slot: u32, called: Called) {
        match called {
            Called::Settled => {}
            Called::Unsettled => self.settle(slot),
            Called::Failed(error) => drop(self.after_callback(slot, Some(error))),
        }
    }

    /// After a callback: reports its failure, if it failed, and settles the
    /// connection. Returns whether it failed.
    pub(super) fn after_callback(&mut self, slot: u32, error: Option<Error>) -> bool {
        let failed = error.is_some();
        if let (Some(error), Some(conn)) = (error, self.slab.get(slot)) {
            callback::report_failure(&self.server, conn, error);
        }
        self.settle(slot);
        failed
    }

    /// Does the work that callbacks and calls by id asked for. No callback of
    /// the connection is on the stack.
    pub(super) fn settle(&mut self, slot: u32) {
        let stopping = self.stop_at.is_some();
        let Some(conn) = self.slab.get(slot) else { return };
        // Only a connection whose sending has failed needs this system call.
        let has_read_all = conn.has(flag::SEND_FAILED) && conn.has_no_input_left();
        match conn.verdict(stopping, has_read_all) {
            Verdict::TakeOut => return self.take_out(slot),
            Verdict::Finish(reason) => return self.finish_conn(slot, reason),
            Verdict::Close(reason) => return self.begin_close(slot, reason),
            Verdict::EndForStop => return self.end_in_order(slot, CloseReason::Stop),
            Verdict::Upgrade => return self.begin_starttls(slot),
            Verdict::GoOn => {}
        }
        let Some(conn) = self.slab.get(slot) else { return };
        if conn.has(flag::BACKLOG) {
            self.watch_writable(slot);
        }
        self.requeue(slot);
        let must_arm = self.slab.get(slot).is_some_and(|conn| conn.has(flag::ARM));
        if must_arm {
            self.arm(slot);
        }
    }

    /// Checks the high-water mark, and queues the connection for another call
    /// of the handler if the handler left input that it may read.
    fn requeue(&mut self, slot: u32) {
        let stopping = self.stopping();
        let Some(conn) = self.slab.get(slot) else { return };
        if conn.phase() != Phase::Open {
            return;
        }
        let (queued, high) = (conn.queued(), conn.context.limits.high_water);
        if queued > high {
            conn.set(flag::THROTTLED);
        } else if conn.has(flag::THROTTLED) && queued * 2 < high {
            conn.clear(flag::THROTTLED);
            conn.set(flag::CALL_AGAIN);
        }
        // In a stop no handler is called.
        let may_read =
            !stopping && conn.has_more() && !conn.has(flag::EOF | flag::PAUSED | flag::THROTTLED);
        if may_read || conn.is_drain_due() {
            self.queue_turn(slot);
        }
    }

    /// Gives the connection a turn without an event.
    pub(super) fn queue_turn(&mut self, slot: u32) {
        let Some(conn) = self.slab.get(slot) else { return };
        if !conn.has(flag::IN_READY_QUEUE) {
            conn.set(flag::IN_READY_QUEUE);
            self.ready.push_back(conn.id);
        }
    }

    /// Writes from the outbound queue. When the queue is empty, runs `on_drain`
    /// or goes on with the close.
    pub(super) fn flush(&mut self, slot: u32) {
        let Some(conn) = self.slab.get(slot) else { return };
        let (phase, flushed) = (conn.phase(), conn.flush_queue());
        match (phase, flushed) {
            (phase, Err(status)) if phase.is_handshake() => {
                self.fail_handshake(slot, Error::from(status))
            }
            (Phase::Flushing, Ok(true)) => self.flushed(slot),
            (_, Ok(true)) if conn.is_drain_due() => self.run_on_drain(slot),
            (Phase::Open | Phase::Flushing, _) => self.settle(slot),
            _ => {}
        }
    }

    /// The queue has left. The callback may fill it again; that queue is
    /// reported in a later turn. `on_drain` runs in a stop too, because a reply
    /// that the program sends in pieces must not end in the middle as if it
    /// were complete.
    pub(super) fn run_on_drain(&mut self, slot: u32) {
        if self.stop_at.is_some_and(Deadline::is_due) {
            // The cut ends it.
            return;
        }
        let Some(conn) = self.slab.get(slot) else { return };
        conn.clear(flag::DRAINED);
        let result = callback::call(&self.server, conn, |handler, server, socket| {
            handler.on_drain(server, socket);
        });
        self.after_callback(slot, result.err());
    }

    pub(super) fn timed_out(&mut self, slot: u32, reason: CloseReason) {
        let stopping = self.stopping();
        let Some(conn) = self.slab.get(slot) else { return };
        match (conn.phase(), reason) {
            (Phase::Open | Phase::Flushing, CloseReason::WriteTimeout | CloseReason::Idle)
                if !conn.has_stalled(reason) => {}
            (
                Phase::Open | Phase::Hello | Phase::Waiting | Phase::Handshake,
                CloseReason::Timer,
            ) => {
                conn.own_deadline = Deadline::NEVER;
                if stopping {
                    return;
                }
                let result = callback::call(&self.server, conn, |handler, server, socket| {
                    handler.on_timeout(server, socket);
                });
                if conn.reason == CloseReason::Timer && conn.has(flag::CLOSE) {
                    self.end_by_deadline(slot, CloseReason::Timer);
                } else {
                    self.after_callback(slot, result.err());
                }
            }
            (Phase::Hello | Phase::Waiting | Phase::Handshake, _) => self.time_out_handshake(slot),
            (Phase::Open, CloseReason::Idle) => self.end_by_deadline(slot, CloseReason::Idle),
            (Phase::Lingering, _) => self.end_lingering(slot),
            _ => self.finish_conn(slot, reason),
        }
    }
}
