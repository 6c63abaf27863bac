//! Calls the handler, looks at the flags once after each callback, and does the
//! work that they ask for.

#![forbid(unsafe_code)]

use super::driver::Driver;
use crate::callback;
use crate::clock::Deadline;
use crate::conn::{handshake_error, handshake_timeout, proxy_timeout, Conn, Phase, Verdict};
use crate::error::{CloseReason, Error};
use crate::server::Server;
use crate::sys::{Bits, OUTPUT};

/// How a call of the handler ended.
pub(super) enum Called {
    /// Nothing is left to do.
    Settled,
    /// The loop must look at the connection.
    Unsettled,
    /// The loop must look at the connection, and the handler failed.
    Failed(Error),
}

/// Calls the handler for input.
#[inline]
pub(super) fn handle(server: &Server, conn: &mut Conn) -> Called {
    conn.context.counters.calls.add(1);
    conn.begin_call();
    let result =
        callback::call_only(server, conn, |handler, server, socket| handler.handle(server, socket));
    match result {
        Ok(Ok(())) if conn.is_settled() => Called::Settled,
        result => finish_call(conn, result),
    }
}

#[cold]
#[inline(never)]
fn finish_call(conn: &mut Conn, result: Result<Result<(), Error>, Error>) -> Called {
    callback::leave_to_parent();
    conn.end_gathering();
    conn.end_call();
    callback::outcome(result).map_or(Called::Unsettled, Called::Failed)
}

impl Driver {
    /// There is input, or there was some: calls the handler if it may read.
    pub fn deliver_input(&mut self, conn: &mut Conn) {
        if self.is_stopping() {
            if self.drain.is_begun() {
                // The input may have been a failure.
                self.settle(conn);
            }
            return;
        }
        if !conn.has_input_for_handler() {
            self.settle(conn);
            return;
        }
        let called = handle(&self.server, conn);
        self.after_handler(conn, called);
    }

    /// Does what a call of the handler left to do.
    #[inline(always)]
    pub fn after_handler(&mut self, conn: &mut Conn, called: Called) {
        match called {
            Called::Settled => {}
            Called::Unsettled => self.settle(conn),
            Called::Failed(error) => drop(self.after_callback(conn, Some(error))),
        }
    }

    /// After a callback: reports its failure, if it failed, and settles the
    /// connection. Returns whether it failed.
    pub fn after_callback(&mut self, conn: &mut Conn, error: Option<Error>) -> bool {
        let failed = error.is_some();
        if let Some(error) = error {
            callback::report_failure(&self.server, conn, error);
        }
        self.settle(conn);
        failed
    }

    /// Does the work that callbacks and calls by id asked for. No callback of
    /// the connection is on the stack.
    pub fn settle(&mut self, conn: &mut Conn) {
        let has_failed_and_read_all = conn.has_failed_and_read_all();
        match conn.verdict(self.drain.is_begun(), has_failed_and_read_all) {
            Verdict::TakeOut => return self.take_out(conn),
            Verdict::Finish(reason) => return self.finish_conn(conn, reason),
            Verdict::Close(reason) => return self.begin_close(conn, reason),
            Verdict::EndForStop => return self.end_in_order(conn, CloseReason::Stop),
            Verdict::Upgrade => return self.begin_starttls(conn),
            Verdict::GoOn => {}
        }
        if conn.has_backlog() {
            self.watch_writable(conn);
        }
        if conn.phase() == Phase::Open {
            self.requeue(conn);
        }
        if conn.must_arm() {
            self.schedule.arm(conn);
        }
    }

    /// Checks the high-water mark, and queues the open connection for another
    /// call of the handler if the handler left input that it may read.
    fn requeue(&mut self, conn: &mut Conn) {
        conn.check_high_water();
        // In a stop no handler is called.
        let must_call = conn.must_call_again() && !self.is_stopping();
        if must_call || conn.is_drain_due() {
            self.schedule.queue_turn(conn);
        }
    }

    /// Handles a connection of the ready queue.
    pub fn run_turn(&mut self, conn: &mut Conn) {
        conn.set_in_ready_queue(false);
        match conn.phase() {
            // During a handshake in mid-stream too, whose input makes its events.
            _ if conn.is_drain_due() => self.run_on_drain(conn),
            Phase::Open => {
                conn.confirm_input();
                self.deliver_input(conn);
            }
            Phase::Lingering => self.discard(conn),
            Phase::Proxy | Phase::Hello | Phase::Waiting | Phase::Handshake => {
                self.on_handshake_input(conn)
            }
            Phase::Connecting | Phase::Flushing | Phase::Vacant => {}
        }
    }

    /// Handles an event of a connection.
    pub fn on_conn_event(&mut self, conn: &mut Conn, bits: Bits) {
        if conn.phase() == Phase::Connecting {
            self.on_connect_event(conn, bits);
            return;
        }
        let input = conn.note_event(bits);
        if bits.contains(OUTPUT) && conn.has_backlog() {
            self.flush(conn);
        }
        match conn.phase() {
            Phase::Open if input => self.deliver_input(conn),
            Phase::Lingering if input => self.discard(conn),
            phase if phase.is_handshake() && input => self.on_handshake_input(conn),
            Phase::Flushing => self.settle(conn),
            _ => {}
        }
    }

    /// Writes from the outbound queue. When the queue is empty, runs `on_drain`
    /// or goes on with the close.
    fn flush(&mut self, conn: &mut Conn) {
        let (phase, flushed) = (conn.phase(), conn.flush_queue());
        match (phase, flushed) {
            (phase, Err(status)) if phase.is_handshake() => {
                self.fail_handshake(conn, handshake_error(Error::from(status)))
            }
            (Phase::Flushing, Ok(true)) => self.end_flushing(conn),
            // Down to the low-water mark.
            (_, Ok(_)) if conn.is_drain_due() => self.run_on_drain(conn),
            (Phase::Open | Phase::Flushing, _) => self.settle(conn),
            _ => {}
        }
    }

    /// The queue has left. The callback may fill it again; that queue is
    /// reported in a later turn. `on_drain` runs in a stop too, because a reply
    /// that the program sends in pieces must not end in the middle as if it
    /// were complete.
    fn run_on_drain(&mut self, conn: &mut Conn) {
        if self.drain.is_over() {
            // The cut ends it.
            return;
        }
        conn.clear_drained();
        let result = callback::call(&self.server, conn, |handler, server, socket| {
            handler.on_drain(server, socket)
        });
        self.after_callback(conn, callback::outcome(result));
    }

    /// Runs `on_wake`, after the end of a connect or of a handshake in mid-stream
    /// that is in progress.
    pub fn wake(&mut self, conn: &mut Conn) {
        match conn.phase() {
            phase if phase.is_handshake() => {
                if let Some(tls) = &mut conn.tls {
                    tls.wake_pending = true;
                }
            }
            Phase::Connecting => {
                conn.set_wake_pending(true);
            }
            _ => self.run_on_wake(conn),
        }
    }

    /// Runs `on_wake`, unless the connection ends.
    pub fn run_on_wake(&mut self, conn: &mut Conn) {
        conn.context.ids.clear_wake(conn.id);
        if self.is_stopping() || conn.phase() != Phase::Open || conn.is_over() {
            return;
        }
        let result = callback::call(&self.server, conn, |handler, server, socket| {
            handler.on_wake(server, socket)
        });
        self.after_callback(conn, callback::outcome(result));
    }

    /// Looks at a connection whose deadline may have passed.
    pub fn check_deadline(&mut self, conn: &mut Conn) {
        let (deadline, reason) = conn.next_deadline();
        if deadline.is_due() {
            self.on_deadline(conn, reason);
        }
        self.schedule.arm(conn);
    }

    fn on_deadline(&mut self, conn: &mut Conn, reason: CloseReason) {
        match (conn.phase(), reason) {
            (Phase::Proxy, _) => self.fail_proxy(conn, proxy_timeout()),
            (Phase::Open | Phase::Flushing, CloseReason::WriteTimeout | CloseReason::Idle)
                if !conn.has_stalled(reason) => {}
            (
                Phase::Open | Phase::Hello | Phase::Waiting | Phase::Handshake,
                CloseReason::Timer,
            ) => self.run_on_timeout(conn),
            (Phase::Hello | Phase::Waiting | Phase::Handshake, _) => {
                self.fail_handshake(conn, handshake_timeout())
            }
            (Phase::Open, CloseReason::Idle) => self.end_by_deadline(conn, CloseReason::Idle),
            (Phase::Lingering, _) => self.end_lingering(conn),
            (Phase::Connecting, _) => self.on_connect_timeout(conn),
            _ => self.finish_conn(conn, reason),
        }
    }

    fn run_on_timeout(&mut self, conn: &mut Conn) {
        conn.own_deadline = Deadline::NEVER;
        if self.is_stopping() {
            return;
        }
        let result = callback::call(&self.server, conn, |handler, server, socket| {
            handler.on_timeout(server, socket)
        });
        if conn.reason == CloseReason::Timer && conn.is_close_requested() {
            self.end_by_deadline(conn, CloseReason::Timer);
        } else {
            self.after_callback(conn, callback::outcome(result));
        }
    }
}
