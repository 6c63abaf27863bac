//! TLS handshakes on a loop: the first phases of a connection, or a handshake
//! in mid-stream that the handler asked for.
//!
//! A connection waits for its first record (`Hello`), which stays in the
//! kernel. Then it waits for a place (`Waiting`), in the order in which the
//! records were complete, and has the place until its handshake is over
//! (`Handshake`). Places are given at one point of each turn, so that no
//! connection of the same turn overtakes the waiting ones.

#![forbid(unsafe_code)]

use std::cmp::Reverse;
use std::collections::{BinaryHeap, TryReserveError, VecDeque};
use std::io;

use super::driver::Driver;
use super::run::Loop;
use super::slab::Slab;
use crate::callback;
use crate::clock::{self, Deadline};
use crate::conn::{handshake_timeout, Conn, Phase};
use crate::error::{CloseReason, Error, Status};
use crate::sys::{self, RecvFlags};

/// How long a handshake may be silent while others wait for a place.
const MAX_SILENCE_MS: u64 = 2000;
/// The size of a record's header, and the most bytes that follow it (RFC 8446,
/// 5.1).
const RECORD_HEADER: usize = 5;
const MAX_RECORD: usize = 1 << 14;

/// The handshake places of a loop.
pub(super) struct Handshakes {
    in_use: usize,
    max: usize,
    waiting: VecDeque<u64>,
    /// The connections with a place, each by a time at or before which it last
    /// received bytes. Some of them have no place any more.
    silent: BinaryHeap<Reverse<(u64, u64)>>,
}

impl Handshakes {
    pub fn new(max: usize) -> Handshakes {
        Handshakes { in_use: 0, max, waiting: VecDeque::new(), silent: BinaryHeap::new() }
    }

    /// Returns whether a place can be given now.
    pub fn can_begin(&self) -> bool {
        !self.waiting.is_empty() && self.has_place()
    }

    /// Returns when to look again at the silent handshakes, while others wait.
    pub fn next_deadline(&self) -> Deadline {
        match self.silent.peek() {
            Some(Reverse((heard_at, _))) if !self.waiting.is_empty() => {
                Deadline::since(*heard_at, MAX_SILENCE_MS)
            }
            _ => Deadline::NEVER,
        }
    }

    fn has_place(&self) -> bool {
        self.in_use < self.max
    }

    /// Takes a place, also where there is no memory to look after it: then the
    /// handshake is to fail.
    fn occupy(&mut self, id: u64) -> Result<(), TryReserveError> {
        self.in_use += 1;
        self.silent.try_reserve(1)?;
        self.silent.push(Reverse((clock::now(), id)));
        Ok(())
    }

    fn release(&mut self) {
        self.in_use -= 1;
    }

    fn enqueue(&mut self, id: u64) -> Result<(), TryReserveError> {
        self.waiting.try_reserve(1)?;
        self.waiting.push_back(id);
        Ok(())
    }

    /// Forgets the connections that have ended, where they are many. So the
    /// number of open connections bounds the memory.
    fn clean(&mut self, open: usize, slab: &mut Slab) {
        let max = 2 * open + 64;
        if self.waiting.len() > max {
            self.waiting.retain(|id| is_in(Phase::Waiting, slab, *id));
        }
        if self.silent.len() > max {
            self.silent.retain(|Reverse((_, id))| is_in(Phase::Handshake, slab, *id));
        }
    }

    /// Of a server that stops, keeps only the handshakes in mid-stream, because
    /// accepted bytes leave after them.
    fn keep_upgrades(&mut self, slab: &mut Slab) {
        self.waiting.retain(|id| slab.of(*id).is_some_and(|conn| !conn.is_unopened()));
    }

    /// Returns the connection that has waited for longest. Forgets those before
    /// it that do not wait any more.
    fn first_waiting<'a>(&mut self, slab: &'a mut Slab) -> Option<&'a mut Conn> {
        while let Some(id) = self.waiting.front() {
            if is_in(Phase::Waiting, slab, *id) {
                return slab.of(*id);
            }
            self.waiting.pop_front();
        }
        None
    }

    /// Returns the handshake that has been silent for longest, if that was too
    /// long.
    fn longest_silent<'a>(&mut self, slab: &'a mut Slab) -> Option<&'a mut Conn> {
        loop {
            let Reverse((noted, id)) = *self.silent.peek()?;
            let heard_at = slab.of(id).filter(|conn| conn.phase() == Phase::Handshake);
            let heard_at = heard_at.and_then(|conn| conn.tls.as_ref()).map(|tls| tls.heard_at);
            if heard_at.is_some_and(|at| at <= noted) {
                return match noted + MAX_SILENCE_MS < clock::now() {
                    true => slab.of(id),
                    false => None,
                };
            }
            self.silent.pop();
            if let Some(at) = heard_at {
                self.silent.push(Reverse((at, id)));
            }
        }
    }
}

fn is_in(phase: Phase, slab: &mut Slab, id: u64) -> bool {
    slab.of(id).is_some_and(|conn| conn.phase() == phase)
}

const PEER_LEFT: &str = "the TLS handshake failed: the peer closed the connection";

/// The state of a client's first record.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Hello {
    Part,
    Whole,
    /// It is no ClientHello, or the stream ended before the record was
    /// complete: the handshake fails as soon as it begins.
    None,
}

fn look_for_hello(conn: &Conn) -> Hello {
    conn.context.scratch.lend(|buffer| look_for_hello_in(conn, buffer))
}

fn look_for_hello_in(conn: &Conn, buffer: &mut [u8]) -> Hello {
    let Some(fd) = conn.fd() else { return Hello::None };
    let buffer = &mut buffer[..RECORD_HEADER + MAX_RECORD];
    let seen = match sys::recv(fd, buffer, RecvFlags::PEEK) {
        Ok(n) => &buffer[..n],
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => &[],
        Err(_) => return Hello::None,
    };
    let part = || if conn.has_peer_left() { Hello::None } else { Hello::Part };
    // A content type, version 3.x, a length.
    let &[kind, major, _, high, low, ref rest @ ..] = seen else { return part() };
    let length = usize::from(high) << 8 | usize::from(low);
    if !(20..=23).contains(&kind) || major != 3 || length == 0 || length > MAX_RECORD {
        return Hello::None;
    }
    match rest.get(..length) {
        None => part(),
        // handshake (22), client_hello (1)
        Some(record) if kind == 22 && record[0] == 1 => Hello::Whole,
        Some(_) => Hello::None,
    }
}

impl Loop {
    /// Gives places to the waiting connections, and takes places from silent
    /// handshakes while others wait. Runs once in each turn.
    pub(super) fn give_places(&mut self) {
        let (driver, slab) = (&mut self.driver, &mut self.slab);
        driver.handshakes.clean(driver.open_connections(), slab);
        if driver.is_stopping() {
            driver.handshakes.keep_upgrades(slab);
        }
        // A connection that begins to wait meanwhile is handled in the next
        // turn.
        let mut left = driver.handshakes.waiting.len();
        while left > 0 {
            let Some(conn) = driver.handshakes.first_waiting(slab) else { return };
            if driver.handshakes.has_place() {
                driver.handshakes.waiting.pop_front();
                driver.begin_handshake(conn);
                left -= 1;
            } else {
                let Some(silent) = driver.handshakes.longest_silent(slab) else { return };
                driver.fail_handshake(silent, handshake_timeout());
            }
        }
    }
}

impl Driver {
    /// A new connection of a TLS server. Its session is made when it gets a
    /// place: a silent client costs no more than a plain connection.
    pub fn expect_handshake(&mut self, conn: &mut Conn) {
        conn.expect_handshake(Deadline::after(self.server.config().handshake_timeout));
        self.schedule.arm(conn);
    }

    /// Handles input in one of the phases of a handshake.
    pub fn on_handshake_input(&mut self, conn: &mut Conn) {
        if self.is_stopping() && conn.is_unopened() {
            return;
        }
        match conn.phase() {
            Phase::Proxy if conn.is_readable() => self.take_proxy(conn),
            Phase::Hello if conn.is_readable() => match look_for_hello(conn) {
                Hello::Part => {}
                Hello::Whole => self.wait_for_place(conn),
                Hello::None => self.fail_without_hello(conn),
            },
            Phase::Waiting if conn.has_peer_left() => self.fail_waiting(conn),
            Phase::Handshake => self.continue_handshake(conn),
            _ => {}
        }
    }

    fn fail_waiting(&mut self, conn: &mut Conn) {
        self.fail_handshake(conn, Error::new(Status::Handshake, PEER_LEFT));
    }

    /// The first record is no ClientHello: the session sends its alert.
    fn fail_without_hello(&mut self, conn: &mut Conn) {
        self.begin_handshake(conn);
        if conn.phase() == Phase::Handshake {
            let text = "the TLS handshake failed: it begins with no ClientHello";
            self.fail_handshake(conn, Error::new(Status::Handshake, text));
        }
    }

    fn wait_for_place(&mut self, conn: &mut Conn) {
        conn.set_phase(Phase::Waiting);
        if conn.has_peer_left() {
            self.fail_waiting(conn);
        } else if let Err(error) = self.handshakes.enqueue(conn.id) {
            self.fail_handshake(conn, Error::no_memory(error));
        }
    }

    /// Begins the handshake of a connection that got a place. STARTTLS may have
    /// made its session already.
    fn begin_handshake(&mut self, conn: &mut Conn) {
        conn.set_phase(Phase::Handshake);
        if let Err(error) = self.handshakes.occupy(conn.id) {
            self.fail_handshake(conn, Error::no_memory(error));
            return;
        }
        if !conn.is_tls() {
            let left = conn.own_deadline.ms_left();
            let begun = self.server.tls(conn.origin).map(|tls| conn.begin_tls(tls, &[], left));
            if let Some(Err(error)) = begun {
                self.fail_handshake(conn, error);
                return;
            }
        }
        self.continue_handshake(conn);
    }

    /// Continues the handshake as far as its input allows.
    fn continue_handshake(&mut self, conn: &mut Conn) {
        if let Some(tls) = &mut conn.tls {
            tls.heard_at = clock::now();
        }
        match conn.handshake_step() {
            Ok(false) if conn.has_backlog() => {
                self.watch_writable(conn);
                self.schedule.arm(conn);
            }
            Ok(false) => {}
            Ok(true) => self.finish_handshake(conn),
            Err(error) => self.fail_handshake(conn, error),
        }
    }

    /// Begins the handshake that the handler asked for (STARTTLS). The session
    /// already has the bytes that the handler had read ahead.
    pub fn begin_starttls(&mut self, conn: &mut Conn) {
        conn.begin_upgrade();
        let ahead = conn.tls.as_ref().is_some_and(|tls| tls.heard_at != 0);
        let failed = conn.tls.as_ref().is_some_and(|tls| tls.error().is_some());
        if conn.has_backlog() {
            self.watch_writable(conn);
        }
        if conn.is_drain_due() {
            // Nothing of that queue is left, so that no event comes for it.
            self.schedule.queue_turn(conn);
        }
        self.schedule.arm(conn);
        match () {
            () if conn.phase() != Phase::Hello => {}
            () if failed => self.fail_without_hello(conn),
            () if ahead => self.wait_for_place(conn),
            () => self.on_handshake_input(conn),
        }
    }

    fn finish_handshake(&mut self, conn: &mut Conn) {
        self.counters().handshakes.add(1);
        self.leave_handshake(conn);
        if conn.finish_handshake() {
            self.on_opened(conn);
            return;
        }
        let wake_pending =
            conn.tls.as_mut().is_some_and(|tls| std::mem::take(&mut tls.wake_pending));
        if wake_pending && !conn.is_over() && !self.is_stopping() {
            self.run_on_wake(conn);
        } else {
            self.settle(conn);
        }
    }

    pub fn fail_handshake(&mut self, conn: &mut Conn, error: Error) {
        callback::note_handshake_failure(&self.server, conn, &error);
        self.leave_handshake(conn);
        let peer_cannot_read = conn.has_failed() || error.status() == Status::Timeout;
        // The session never began, and its alert has left or is queued. No
        // bytes of the program are sent, above all not as plain text.
        conn.forbid_close_notify();
        conn.close_because(CloseReason::Handshake);
        callback::report_handshake_failure(&self.server, conn, error);
        if peer_cannot_read || conn.is_aborted() {
            self.finish_conn(conn, CloseReason::Handshake);
        } else {
            self.begin_close(conn, CloseReason::Handshake);
        }
    }

    /// Ends the handshake of this connection, whatever comes next, and frees
    /// its place.
    pub fn leave_handshake(&mut self, conn: &mut Conn) {
        if conn.phase() == Phase::Handshake {
            self.handshakes.release();
        }
        if conn.phase().is_handshake() {
            conn.set_phase(Phase::Flushing);
        }
        conn.withdraw_tls();
    }
}
