//! A worker: accepting, waiting, refusing, and serving one connection.

#![forbid(unsafe_code)]

use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::Ordering;
use std::sync::MutexGuard;
use std::time::Duration;

use super::{lock, Arrival, Gate, Pool, Seat, State, Waiting};
use crate::callback;
use crate::conn::{flag, Conn, Ended};
use crate::error::{CloseReason, Error, Status};
use crate::listener::{accept_from, accept_until, wait_ready, Accepted, Listener, Refusal};
use crate::server::Server;
use crate::timer::{self, NEVER};

impl Pool {
    /// A thread's whole life.
    pub fn work(&self, server: &Server) {
        if !self.wait_for_gate() {
            return;
        }
        let listeners = lock(&self.listeners).clone();
        while let Some((number, arrival)) = self.next(server, &listeners) {
            let mut arrival = Some(arrival);
            while let Some(a) = arrival {
                self.serve(server, number, a);
                arrival = self.finished(server, number);
            }
        }
        self.refuse_waiting(server, |_| true);
    }

    fn wait_for_gate(&self) -> bool {
        let state = self.state();
        let state = self.changed.wait_while(state, |state| state.gate == Gate::Shut);
        state.is_ok_and(|state| state.gate == Gate::Open)
    }

    /// Accepts until there is a connection with a free seat; `None` when the
    /// server stops.
    fn next(&self, server: &Server, listeners: &[Listener]) -> Option<(usize, Arrival)> {
        let mut queued = false;
        loop {
            let (until, has_seat) = self.wait_for_room()?;
            let accepted = match has_seat || self.rest == 0 {
                true => self.accept(listeners, until),
                false => self.accept_for_later(listeners, until, queued),
            };
            queued = false;
            match accepted {
                Ok(((fd, peer), state)) => {
                    let arrival = Arrival { id: self.next_id(), fd, peer };
                    if let Some(seated) = self.seat_or_queue(server, state, arrival) {
                        return Some(seated);
                    }
                    queued = true;
                }
                Err(Refusal::Empty | Refusal::Next) => {}
                Err(Refusal::Shut) => return None,
                Err(Refusal::Exhausted(e)) => self.back_off(server, &e),
            }
            self.refuse_waiting(server, |waiting| waiting.until <= timer::now());
        }
    }

    /// A new connection, and the lock under which it finds its place.
    fn accept(
        &self,
        listeners: &[Listener],
        until: u64,
    ) -> Result<(Accepted, MutexGuard<'_, State>), Refusal> {
        if !self.tight {
            let accepted = accept_until(listeners, until)?;
            return Ok((accepted, self.state()));
        }
        // A thread that waits in accept(2) cannot be called back when the
        // last room is taken. So here accepting itself is under the lock.
        let ready = wait_ready(listeners, until)?;
        let state = self.state();
        if self.held(&state) >= self.max_connections {
            return Err(Refusal::Empty);
        }
        Ok((accept_from(listeners, &ready)?, state))
    }

    /// Accepts while every seat is taken, at once only after one that it
    /// `queued`. Else it rests when a client has come, so that a worker that
    /// finishes meanwhile finds it in the backlog by itself, at no cost of a
    /// hand-off, and then takes what is left.
    fn accept_for_later(
        &self,
        listeners: &[Listener],
        until: u64,
        queued: bool,
    ) -> Result<(Accepted, MutexGuard<'_, State>), Refusal> {
        if !queued {
            wait_ready(listeners, until)?;
            let state = self.state();
            if state.gate == Gate::Open {
                let rest = self.rest.min(until.saturating_sub(timer::now()));
                drop(self.changed.wait_timeout(state, Duration::from_millis(rest)));
            }
        }
        self.accept(listeners, 0)
    }

    /// Waits while as many connections are held as may be; answers until
    /// when to accept, until the first of the queue has waited too long, and
    /// whether there is a seat.
    fn wait_for_room(&self) -> Option<(u64, bool)> {
        let mut state = self.state();
        loop {
            if state.gate == Gate::Stopping {
                return None;
            }
            let until = state.head_deadline();
            let full = self.held(&state) >= self.max_connections;
            if !full || (until != NEVER && until <= timer::now()) {
                return Some((until, !state.free.is_empty()));
            }
            state.paused += 1;
            state = match until {
                NEVER => self.changed.wait(state).ok()?,
                _ => {
                    let time = Duration::from_millis(until.saturating_sub(timer::now()));
                    self.changed.wait_timeout(state, time).ok()?.0
                }
            };
            state.paused -= 1;
        }
    }

    /// Connections served and waiting.
    fn held(&self, state: &State) -> usize {
        let seats = self.seats.len().min(self.max_connections);
        seats - state.free.len() + state.queue.len()
    }

    fn seat_or_queue(
        &self,
        server: &Server,
        mut state: MutexGuard<'_, State>,
        arrival: Arrival,
    ) -> Option<(usize, Arrival)> {
        if state.gate == Gate::Stopping || server.is_stopping() {
            // Not accepted any more; the peer sees the end.
            return None;
        }
        state.backoff.recovered();
        self.lobby.counters.accepted.add(1);
        if let Some(number) = state.free.pop() {
            return Some((number, arrival));
        }
        if self.patience > 0 && state.queue.len() < self.max_waiting {
            let until = timer::after_millis(self.patience);
            state.queue.push_back(Waiting { arrival, until });
            return None;
        }
        drop(state);
        self.refuse(server, arrival);
        None
    }

    /// The seat's next connection, or the seat is free again.
    fn finished(&self, server: &Server, number: usize) -> Option<Arrival> {
        let mut state = self.state();
        let stopping = state.gate == Gate::Stopping || server.is_stopping();
        let next = if stopping { None } else { state.queue.pop_front() };
        if next.is_none() {
            state.free.push(number);
        }
        if state.paused > 0 {
            self.changed.notify_all();
        }
        next.map(|waiting| waiting.arrival)
    }

    /// Out of descriptors or memory: waits, but no longer than until a
    /// connection is closed or the server stops.
    fn back_off(&self, server: &Server, error: &io::Error) {
        let (wait, report) = {
            let mut state = self.state();
            self.lobby.counters.accept_errors.add(1);
            state.backoff.exhausted(error)
        };
        if let Some(error) = report {
            if callback::failed_without_socket(server, &error).is_err() {
                let _state = self.state();
                self.lobby.counters.handler_errors.add(1);
            }
        }
        let mut state = self.state();
        if state.gate == Gate::Open {
            state.paused += 1;
            if let Ok((mut state, _)) =
                self.changed.wait_timeout(state, Duration::from_millis(wait))
            {
                state.paused -= 1;
            }
        }
    }

    /// Refuses connections from the head of the queue.
    fn refuse_waiting(&self, server: &Server, which: impl Fn(&Waiting) -> bool) {
        loop {
            let mut state = self.state();
            if !state.queue.front().is_some_and(&which) {
                return;
            }
            let Some(waiting) = state.queue.pop_front() else { return };
            drop(state);
            self.refuse(server, waiting.arrival);
        }
    }

    /// No seat came free in time: the exception handler may talk to the
    /// peer, then it is closed.
    fn refuse(&self, server: &Server, arrival: Arrival) {
        let Arrival { id, fd, peer } = arrival;
        let mut conn = Box::new(Conn::open(self.lobby.clone(), id, fd, peer));
        if server.is_tls() {
            // Nothing is said in the clear, and there is no session.
            conn.set(flag::WR_SHUT);
        }
        let error = Error::from(Status::Rejected);
        let told = callback::call(server, &mut conn, |handler, server, socket| {
            handler.on_exception(server, Some(socket), &error)
        });
        let told = callback::outcome(told);
        {
            let _state = self.state();
            let counters = &self.lobby.counters;
            counters.refused.add(1);
            counters.handler_errors.add(u64::from(told.is_some()));
            counters.closed[CloseReason::Rejected as usize].add(1);
        }
        callback::contain_drop(told);
        callback::contain_drop(conn.replace_user_data(None));
        if let Some(fd) = conn.end() {
            self.linger(server, fd);
        }
    }

    fn linger(&self, server: &Server, fd: std::os::fd::OwnedFd) {
        let _ = self.lingering.send(fd);
        server.wake_control();
    }

    /// One connection, from its first callback to its last.
    fn serve(&self, server: &Server, number: usize, arrival: Arrival) {
        let Arrival { id, fd, peer } = arrival;
        let seat = &self.seats[number];
        let mut conn = seat.conn();
        seat.publish(id, fd.as_raw_fd());
        if self.cut.load(Ordering::SeqCst) {
            seat.end_any(Ended::Cut);
        }
        conn.begin(id, fd, peer);
        let counters = &seat.env().counters;
        counters.accepted.add(1);
        counters.open.add(1);

        let failed = run_handler(server, &mut conn);
        // From now on the id is stale, in `on_close` too.
        seat.forget_id();
        let stopping = server.is_stopping();
        let reason = reason(&mut conn, seat, failed, stopping);
        if conn.has(flag::UNOPENED) {
            callback::contain_drop(conn.replace_user_data(None));
        } else {
            callback::closed(server, &mut conn, reason);
        }

        counters.closed[reason as usize].add(1);
        counters.cut.add(u64::from(reason == CloseReason::Cut));
        counters.drained.add(u64::from(stopping && reason != CloseReason::Cut));
        counters.open.sub(1);
        // A stop's deadline ends that too.
        conn.say_goodbye();
        seat.retract();
        let rest = conn.end();
        conn.vacate();
        drop(conn);
        if let Some(fd) = rest {
            self.linger(server, fd);
        }
    }
}

/// Why a served connection ends, noted in it too.
fn reason(conn: &mut Conn, seat: &Seat, failed: bool, stopping: bool) -> CloseReason {
    let ended = seat.env().ended.load(Ordering::Acquire);
    let reason = match () {
        () if ended == Ended::Cut as u8 => CloseReason::Cut,
        () if ended == Ended::Aborted as u8 => CloseReason::Abort,
        () if conn.is_over() => conn.reason,
        () if failed => CloseReason::Error,
        () if stopping => CloseReason::Stop,
        () if conn.peer_ended() => CloseReason::Peer,
        () => CloseReason::Handler,
    };
    if ended != Ended::No as u8 {
        conn.end_as(ended);
    }
    conn.reason = reason;
    reason
}

/// The TLS handshake, if there is to be one; `false` where it failed.
fn shake_hands(server: &Server, conn: &mut Conn) -> bool {
    let Some(tls) = server.tls() else { return true };
    let millis = server.config().handshake_timeout.as_millis() as u64;
    // Said before the look at the stop, which looks the other way round.
    conn.env.handshaking.store(true, Ordering::SeqCst);
    let result = match server.is_stopping() {
        true => Err(Error::from(Status::Closed)),
        false => conn.begin_tls(tls, &[], millis).and_then(|()| conn.handshake_wait()),
    };
    conn.env.handshaking.store(false, Ordering::SeqCst);
    if server.is_stopping() {
        conn.set(flag::UNOPENED);
        conn.close_because(CloseReason::Stop);
        return false;
    }
    let Err(error) = result else {
        conn.env.counters.handshakes.add(1);
        conn.env.secure.store(true, Ordering::SeqCst);
        return true;
    };
    conn.env.counters.handshake_failures.add(1);
    conn.set(flag::UNOPENED | flag::GOODBYE);
    callback::told(server, conn, error);
    conn.close_because(CloseReason::Handshake);
    if conn.reason != CloseReason::Abort {
        conn.reason = CloseReason::Handshake;
    }
    false
}

/// `on_open` and the handler; `true` where one of them failed.
fn run_handler(server: &Server, conn: &mut Conn) -> bool {
    if !shake_hands(server, conn) {
        return true;
    }
    let opened =
        callback::call(server, conn, |handler, server, socket| handler.on_open(server, socket));
    if let Some(error) = callback::outcome(opened) {
        callback::failed(server, conn, error);
        return true;
    }
    if conn.is_over() {
        return false;
    }
    conn.env.counters.calls.add(1);
    let handled =
        callback::call(server, conn, |handler, server, socket| handler.handle(server, socket));
    match callback::outcome(handled) {
        None => false,
        Some(error) => {
            callback::failed(server, conn, error);
            true
        }
    }
}
