//! A worker: it accepts, waits, rejects, and serves one connection at a time.

#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use super::{opening, Arrival, Gate, Pool, Seat, State, Waiting, REJECTION_MS};
use crate::callback;
use crate::clock::Deadline;
use crate::conn::{Conn, ForcedEnd, Owner, ThreadContext};
use crate::error::{CloseReason, Error, Status};
use crate::linger::Remains;
use crate::listener::{accept_until, wait_ready, AcceptError, Accepted, Listener};
use crate::logger::Kind;
use crate::server::Server;
use crate::sync::atomic::Ordering;
use crate::sync::{lock, MutexGuard};
use crate::sys::{self, PollFlags};

/// The longest wait of a quiesce before it looks whether the server stops, in ms.
const QUIESCE_STEP_MS: u64 = 10;

/// What a thread that has no connection does next.
enum Step {
    Accept(Room),
    /// It serves a connection that waited, on this seat.
    Serve(usize, Arrival),
    /// It rejects: there is no room, and the first connection of the queue has
    /// waited too long.
    Reject,
}

/// A thread's permission to accept.
struct Room {
    listeners: Arc<[Listener]>,
    /// The thread may wait until then: the first connection of the queue has
    /// waited too long after it.
    until: Deadline,
    has_seat: bool,
}

impl Pool {
    /// Accepts and serves, for the whole life of a thread.
    pub fn work(&self, server: &Server) {
        self.wait_for_gate();
        while let Some((number, arrival)) = self.next(server) {
            let mut arrival = Some(arrival);
            while let Some(current) = arrival {
                self.serve(server, number, current);
                arrival = self.next_for_seat(server, number);
            }
        }
        // Also where a stop came before this thread: a quiesce may have queued.
        self.reject_waiting(server, |_, _| true);
        self.report_refusals(server, true);
    }

    fn wait_for_gate(&self) {
        let state = self.state();
        drop(self.changed.wait_while(state, |state| state.gate == Gate::Shut));
    }

    /// Accepts until there is a connection with a free seat. Returns `None`
    /// when the server stops.
    fn next(&self, server: &Server) -> Option<(usize, Arrival)> {
        let mut immediately = false;
        loop {
            self.report_refusals(server, false);
            let room = match self.wait_for_step()? {
                Step::Accept(room) => room,
                Step::Serve(number, arrival) => return Some((number, arrival)),
                Step::Reject => {
                    immediately = false;
                    self.reject_late(server);
                    continue;
                }
            };
            let accepted = match room.has_seat || self.rest_ms == 0 {
                true => self.accept(&room.listeners, room.until),
                false => self.accept_for_later(&room.listeners, room.until, immediately),
            };
            let accepted = accepted.map(|accepted| self.admit(server, accepted));
            immediately = false;
            let all_lost = accepted.is_err() && room.listeners.iter().all(Listener::is_lost);
            // A quiesce waits until no thread has the listeners: until here no
            // code of the program runs.
            drop(room.listeners);
            let mut state = self.state();
            state.accepting -= 1;
            // Threads that back off do not do this for the room alone: they
            // would wake each other.
            let is_room_back =
                !matches!(accepted, Ok(Ok(_))) && self.occupied(&state) + 1 == self.max_connections;
            if is_room_back || state.gate == Gate::Quiescing {
                self.make_room(&state);
            }
            match accepted {
                Ok(Ok(accepted)) => {
                    let arrival = Arrival { id: self.next_id(), accepted };
                    if let Some(seated) = self.seat_or_queue(server, state, arrival) {
                        return Some(seated);
                    }
                    immediately = true;
                }
                Ok(Err(refusal)) => {
                    drop(state);
                    self.note_refusal(server, refusal);
                    immediately = true;
                }
                Err(error) => {
                    drop(state);
                    match error {
                        AcceptError::Empty => {}
                        // A flood of them must not hold up the clients behind it.
                        AcceptError::Next => immediately = true,
                        AcceptError::Lost(e) => self.report_lost_listener(server, all_lost, &e),
                        // The pool quiesces or stops; or the server will stop.
                        AcceptError::Shut => self.wait_for_end(),
                        AcceptError::Exhausted(e) => self.back_off(server, &e),
                    }
                }
            }
            self.reject_late(server);
        }
    }

    fn accept(&self, listeners: &[Listener], until: Deadline) -> Result<Accepted, AcceptError> {
        accept_until(listeners, until, self.turn.fetch_add(1, Ordering::Relaxed))
    }

    /// Accepts while every seat is in use; `immediately` after a connection that
    /// it has queued or turned away. Otherwise it rests when a client has come. A
    /// worker that finishes meanwhile then finds the client in the backlog by
    /// itself, without a hand-off. After the rest this thread takes a client
    /// that is left.
    fn accept_for_later(
        &self,
        listeners: &[Listener],
        until: Deadline,
        immediately: bool,
    ) -> Result<Accepted, AcceptError> {
        if !immediately {
            wait_ready(listeners, until)?;
            let state = self.state();
            if state.gate == Gate::Open {
                let rest = self.rest_ms.min(until.ms_left());
                drop(self.changed.wait_timeout(state, Duration::from_millis(rest)));
            }
        }
        self.accept(listeners, Deadline::NOW)
    }

    /// Waits while the server holds as many connections as it may. A thread
    /// that may accept holds room for one connection from then on, so that it
    /// can wait in accept(2): nothing can call it back from there when another
    /// thread takes the last room.
    fn wait_for_step(&self) -> Option<Step> {
        let mut state = self.state();
        loop {
            let is_quiescing = match state.gate {
                Gate::Stopping => return None,
                gate => gate == Gate::Quiescing,
            };
            if is_quiescing && !state.free.is_empty() {
                if let Some(Waiting { arrival, .. }) = state.queue.pop_front() {
                    let number = state.free.pop()?;
                    return Some(Step::Serve(number, arrival));
                }
            }
            let until = state.head_deadline();
            if !is_quiescing && self.occupied(&state) < self.max_connections {
                state.accepting += 1;
                let (listeners, has_seat) = (state.listeners.clone(), !state.free.is_empty());
                return Some(Step::Accept(Room { listeners, until, has_seat }));
            }
            if until != Deadline::NEVER && until.is_due() {
                return Some(Step::Reject);
            }
            state = self.pause(state, until);
        }
    }

    /// Returns how many connections are served or wait, or have room held for
    /// them.
    pub(super) fn occupied(&self, state: &State) -> usize {
        let seats = self.seats.len().min(self.max_connections);
        seats - state.free.len() + state.queue.len() + state.accepting
    }

    /// Wakes the threads that wait: there is room again, or a descriptor.
    pub(super) fn make_room(&self, state: &State) {
        if state.paused > 0 {
            self.changed.notify_all();
        }
    }

    /// Reports that a listener was lost. Without any listener the server stops.
    fn report_lost_listener(&self, server: &Server, all_lost: bool, error: &io::Error) {
        {
            let state = self.state();
            if state.gate != Gate::Open {
                return;
            }
            self.lobby.counters.accept_errors.add(1);
        }
        self.count_report(callback::report_lost_listener(server, error));
        if all_lost {
            server.request_stop();
        }
    }

    /// Counts it if the exception handler failed.
    pub(super) fn count_report(&self, failure: Option<Error>) {
        if failure.is_some() {
            let _state = self.state();
            self.lobby.counters.handler_errors.add(1);
        }
    }

    fn seat_or_queue(
        &self,
        server: &Server,
        mut state: MutexGuard<'_, State>,
        mut arrival: Arrival,
    ) -> Option<(usize, Arrival)> {
        if state.gate == Gate::Stopping || server.is_stopping() {
            // The server accepts no more; the peer sees the end.
            drop(state);
            if let Some(admission) = &self.admission {
                admission.leave(arrival.accepted.peer, &mut arrival.accepted.origin);
            }
            return None;
        }
        state.backoff.reset();
        if let Some(number) = state.free.pop() {
            self.lobby.counters.accepted.add(1);
            return Some((number, arrival));
        }
        // A quiesce keeps whom it takes from the backlog, whichever thread does it.
        let may_wait = state.queue.len() < self.max_waiting || state.gate == Gate::Quiescing;
        if self.max_wait_ms > 0 && may_wait {
            let until = Deadline::after_ms(self.max_wait_ms);
            self.queue(server, state, arrival, until);
            return None;
        }
        self.lobby.counters.accepted.add(1);
        state.rejected += 1;
        drop(state);
        self.reject(server, arrival);
        None
    }

    /// Returns the seat's next connection, or frees the seat.
    fn next_for_seat(&self, server: &Server, number: usize) -> Option<Arrival> {
        let mut state = self.state();
        let stopping = state.gate == Gate::Stopping || server.is_stopping();
        let next = if stopping { None } else { state.queue.pop_front() };
        if next.is_none() {
            state.free.push(number);
        }
        self.make_room(&state);
        next.map(|waiting| waiting.arrival)
    }

    /// Waits, because descriptors or memory ran out, but no longer than until a
    /// connection is closed or the server stops.
    pub(super) fn back_off(&self, server: &Server, error: &io::Error) {
        let (wait, report) = {
            let mut state = self.state();
            self.lobby.counters.accept_errors.add(1);
            let (wait, report) = state.backoff.back_off(error);
            // Nothing calls the control thread back for a stop.
            let is_quiescing = state.gate == Gate::Quiescing;
            (if is_quiescing { wait.min(QUIESCE_STEP_MS) } else { wait }, report)
        };
        self.count_report(callback::report_accept_failure(server, error, report));
        let state = self.state();
        if state.gate != Gate::Stopping {
            drop(self.pause(state, Deadline::after_ms(wait)));
        }
    }

    /// Rejects the connections that have waited too long while no seat is free.
    /// A quiesce queues also where one is: who may not wait is served then.
    fn reject_late(&self, server: &Server) {
        self.reject_waiting(server, |state, head| state.free.is_empty() && head.until.is_due());
    }

    /// Rejects connections from the head of the queue.
    fn reject_waiting(&self, server: &Server, which: impl Fn(&State, &Waiting) -> bool) {
        loop {
            let mut state = self.state();
            if !state.queue.front().is_some_and(|head| which(&state, head)) {
                return;
            }
            let Some(waiting) = state.queue.pop_front() else { return };
            state.rejected += 1;
            drop(state);
            self.reject(server, waiting.arrival);
        }
    }

    /// Rejects a connection for which no seat became free in time: the
    /// exception handler may talk to the peer, then the connection is closed.
    /// The caller has counted it (`State::rejected`). It has a seat of its own,
    /// so that other threads can end it.
    fn reject(&self, server: &Server, arrival: Arrival) {
        let Arrival { id, accepted } = arrival;
        let lobby = &self.lobby;
        let context =
            ThreadContext::new(Owner::Worker, lobby.server, lobby.index, lobby.limits.clone());
        let seat = Arc::new(Seat::new(context));
        lock(&self.rejecting).push(seat.clone());
        let mut conn = seat.conn();
        callback::note_context(seat.context());
        seat.publish(id, accepted.fd.as_raw_fd());
        if self.cut.load(Ordering::SeqCst) {
            seat.force_end_any(ForcedEnd::Cut);
        }
        conn.begin(id, accepted);
        let stop_until = Deadline::from_bits(self.reject_until.load(Ordering::SeqCst));
        let until = stop_until.min(Deadline::after_ms(REJECTION_MS));
        if conn.origin.awaits_proxy() {
            // What comes first is for no handler, and the source may not be trusted.
            conn.refuse_proxy();
        }
        conn.own_deadline = until;
        if conn.origin.has_tls() {
            // Nothing may leave unencrypted, and there is no TLS session.
            conn.forbid_sending();
        }
        let error = Error::from(Status::Rejected);
        let result = callback::call(server, &mut conn, |handler, server, socket| {
            handler.on_exception(server, Some(socket), &error)
        });
        let failure = callback::outcome(result);
        conn.say_goodbye(until);
        seat.retract();
        lock(&self.rejecting).retain(|other| !Arc::ptr_eq(other, &seat));
        let forced_end = seat.context().forced_end();
        if forced_end != ForcedEnd::None {
            conn.note_forced_end(forced_end);
        }
        {
            let state = self.state();
            let (counters, seat_counters) = (&lobby.counters, &seat.context().counters);
            counters.refused.add(1);
            counters.handler_errors.add(u64::from(failure.is_some()));
            counters.closed[CloseReason::Rejected as usize].add(1);
            counters.bytes_in.add(seat_counters.bytes_in.get());
            counters.bytes_out.add(seat_counters.bytes_out.get());
            self.make_room(&state);
        }
        server.log().warn(Kind::Refused, id, || format!("{}: {error}", conn.peer_name()));
        callback::drop_on_loop(failure);
        callback::drop_on_loop(conn.replace_user_data(None));
        self.note_left(&mut conn);
        if let Some(remains) = conn.close_waiting(until) {
            self.linger(server, remains);
        }
        let mut state = self.state();
        state.rejected -= 1;
        self.make_room(&state);
    }

    pub(super) fn linger(&self, server: &Server, remains: Remains) {
        let _ = self.lingering.send(remains);
        server.wake_control();
    }

    /// Serves one connection, from its first callback to its last.
    fn serve(&self, server: &Server, number: usize, arrival: Arrival) {
        let Arrival { id, accepted } = arrival;
        let seat = &self.seats[number];
        let mut conn = seat.conn();
        callback::note_context(seat.context());
        seat.publish(id, accepted.fd.as_raw_fd());
        if self.cut.load(Ordering::SeqCst) {
            seat.force_end_any(ForcedEnd::Cut);
        }
        conn.begin(id, accepted);
        let counters = &seat.context().counters;
        counters.accepted.add(1);
        counters.open.add(1);

        let failed = run_handler(self, server, &mut conn);
        let _ = conn.end_cork();
        let until = conn.linger_until();
        conn.say_goodbye(until);
        // From now on the id is stale, in `on_close` too.
        seat.forget_id();
        let stopping = server.is_stopping();
        let mut reason = reason(&mut conn, seat, failed, stopping);
        // The reason `Stop` says that nothing was lost, so it must be true.
        if reason == CloseReason::Stop && !conn.see_off(until, may_lose) {
            reason = CloseReason::Cut;
            conn.reason = reason;
        }
        if conn.is_unopened() {
            callback::drop_on_loop(conn.replace_user_data(None));
        } else {
            callback::run_on_close(server, &mut conn, reason);
        }

        counters.closed[reason as usize].add(1);
        counters.cut.add(u64::from(reason == CloseReason::Cut));
        counters.drained.add(u64::from(stopping && reason != CloseReason::Cut));
        counters.open.sub(1);
        seat.retract();
        self.note_left(&mut conn);
        let remains = conn.close_waiting(until);
        conn.vacate();
        drop(conn);
        if let Some(remains) = remains {
            self.linger(server, remains);
        }
    }
}

/// Returns whether a close now could lose sent bytes: the peer has not
/// acknowledged all (the last byte may be the end), or it goes on to send.
fn may_lose(fd: BorrowedFd<'_>, silent: bool) -> bool {
    let unread = sys::poll(fd, PollFlags::IN, 0).is_ok_and(|found| !found.is_empty());
    !silent || unread || sys::unacknowledged(fd.as_raw_fd()) > 1
}

/// Returns why a served connection ends, and notes it in the connection.
fn reason(conn: &mut Conn, seat: &Seat, failed: bool, stopping: bool) -> CloseReason {
    let forced_end = seat.context().forced_end();
    let reason = match () {
        () if forced_end == ForcedEnd::Cut => CloseReason::Cut,
        () if forced_end == ForcedEnd::Abort => CloseReason::Abort,
        () if conn.is_over() => conn.reason,
        () if conn.has_send_failed() => CloseReason::Reset,
        () if failed => CloseReason::Error,
        () if stopping => CloseReason::Stop,
        () if conn.has_peer_ended() => CloseReason::Peer,
        () => CloseReason::Handler,
    };
    if forced_end != ForcedEnd::None {
        conn.note_forced_end(forced_end);
    }
    conn.reason = reason;
    reason
}

/// Runs `on_open` and the handler. Returns `true` where one of them failed.
fn run_handler(pool: &Pool, server: &Server, conn: &mut Conn) -> bool {
    if !opening::prepare(pool, server, conn) {
        return true;
    }
    if let Err(error) = callback::run_on_open(server, conn) {
        report_failure(server, conn, error);
        return true;
    }
    if conn.is_over() {
        return false;
    }
    conn.context.counters.calls.add(1);
    let result =
        callback::call(server, conn, |handler, server, socket| handler.handle(server, socket));
    // What is under a cork leaves as if the handler had sent it last.
    let failure = callback::outcome(result).or_else(|| match conn.end_cork() {
        Err(status) if !conn.is_over() => Some(Error::with_os_code(status, conn.os_error())),
        _ => None,
    });
    match failure {
        None => false,
        Some(error) => {
            report_failure(server, conn, error);
            true
        }
    }
}

/// Runs the exception handler. That one may try a last word on a connection that
/// a stop has cut while the handler waited for input: the handler had said all,
/// and the end stays in order.
fn report_failure(server: &Server, conn: &mut Conn, error: Error) {
    let was_cut_short = conn.is_aborted();
    callback::report_failure(server, conn, error);
    if !was_cut_short && conn.reason == CloseReason::Cut {
        conn.forget_abort();
    }
}
