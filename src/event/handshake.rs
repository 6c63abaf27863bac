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
use std::collections::{BinaryHeap, VecDeque};
use std::io;

use super::run::{Loop, SCRATCH};
use super::slab::Slab;
use crate::callback;
use crate::clock::{self, Deadline};
use crate::conn::{flag, handshake_timeout, Conn, ConnId, Phase};
use crate::error::{CloseReason, Error, Status};
use crate::sys::{self, RecvFlags};

/// How long a handshake may be silent while others wait for a place, in ms.
const SILENCE: u64 = 2000;
/// The size of a record's header, and the most bytes that follow it (RFC 8446,
/// 5.1).
const HEADER: usize = 5;
const MOST: usize = 1 << 14;

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

    /// Whether a place can be given now.
    pub fn can_begin(&self) -> bool {
        !self.waiting.is_empty() && self.in_use < self.max
    }

    /// When to look again at the silent handshakes, while others wait.
    pub fn next_deadline(&self) -> Deadline {
        match self.silent.peek() {
            Some(Reverse((heard_at, _))) if !self.waiting.is_empty() => {
                Deadline::since(*heard_at, SILENCE)
            }
            _ => Deadline::NEVER,
        }
    }

    fn occupy(&mut self, id: u64, live: usize, slab: &mut Slab) {
        self.in_use += 1;
        self.silent.push(Reverse((clock::now(), id)));
        if self.silent.len() > 2 * live + 64 {
            self.silent.retain(|Reverse((_, id))| has_place(slab, *id));
        }
    }

    fn enqueue(&mut self, id: u64, live: usize, slab: &mut Slab) {
        self.waiting.push_back(id);
        if self.waiting.len() > 2 * live + 64 {
            self.waiting.retain(|id| is_waiting(slab, *id));
        }
    }

    /// Whether a connection still waits. Forgets the first ones that do not.
    fn has_waiting(&mut self, slab: &mut Slab) -> bool {
        while let Some(id) = self.waiting.front() {
            if is_waiting(slab, *id) {
                return true;
            }
            self.waiting.pop_front();
        }
        false
    }

    /// The handshake that has been silent for longest, if that was too long.
    fn longest_silent(&mut self, slab: &mut Slab) -> Option<u64> {
        loop {
            let Reverse((noted, id)) = *self.silent.peek()?;
            let heard_at = slab.of(id).filter(|conn| conn.phase() == Phase::Handshake);
            let heard_at = heard_at.and_then(|conn| conn.tls.as_ref()).map(|tls| tls.heard_at);
            if heard_at.is_some_and(|at| at <= noted) {
                return (noted + SILENCE < clock::now()).then_some(id);
            }
            self.silent.pop();
            if let Some(at) = heard_at {
                self.silent.push(Reverse((at, id)));
            }
        }
    }
}

fn has_place(slab: &mut Slab, id: u64) -> bool {
    slab.of(id).is_some_and(|conn| conn.phase() == Phase::Handshake)
}

fn is_waiting(slab: &mut Slab, id: u64) -> bool {
    slab.of(id).is_some_and(|conn| conn.phase() == Phase::Waiting)
}

fn is_upgrade(slab: &mut Slab, id: u64) -> bool {
    slab.of(id).is_some_and(|conn| !conn.has(flag::UNOPENED))
}

/// The peer has closed or failed: the handshake cannot be completed any more.
fn peer_has_left(conn: &Conn) -> bool {
    conn.has(flag::SPECIAL) && conn.fd().is_some_and(sys::has_ended)
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

fn look_for_hello(conn: &Conn, scratch: &mut Vec<u8>) -> Hello {
    let Some(fd) = conn.fd() else { return Hello::None };
    scratch.resize(SCRATCH, 0);
    let seen = match sys::recv(fd, &mut scratch[..HEADER + MOST], RecvFlags::PEEK) {
        Ok(n) => &scratch[..n],
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => &[],
        Err(_) => return Hello::None,
    };
    let part = || match conn.has(flag::SPECIAL) && sys::has_ended(fd) {
        true => Hello::None,
        false => Hello::Part,
    };
    // A content type, version 3.x, a length.
    let &[kind, major, _, high, low, ref rest @ ..] = seen else { return part() };
    let length = usize::from(high) << 8 | usize::from(low);
    if !(20..=23).contains(&kind) || major != 3 || length == 0 || length > MOST {
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
    /// A new connection of a TLS server. Its session is made when it gets a
    /// place: a silent client costs no more than a plain connection.
    pub(super) fn expect_handshake(&mut self, slot: u32) {
        let Some(conn) = self.slab.get(slot) else { return };
        conn.set_phase(Phase::Hello);
        conn.set(flag::UNOPENED);
        conn.own_deadline = Deadline::after(self.server.config().handshake_timeout);
        self.arm(slot);
    }

    /// Handles input in one of the phases of a handshake.
    pub(super) fn on_handshake_input(&mut self, slot: u32) {
        let stopping = self.stopping();
        let Some(conn) = self.slab.get(slot) else { return };
        if stopping && conn.has(flag::UNOPENED) {
            return;
        }
        match conn.phase() {
            Phase::Hello if conn.has(flag::READY) => {
                match look_for_hello(conn, &mut self.scratch) {
                    Hello::Part => {}
                    Hello::Whole => self.wait_for_place(slot),
                    Hello::None => self.fail_without_hello(slot),
                }
            }
            Phase::Waiting if peer_has_left(conn) => self.fail_waiting(slot),
            Phase::Handshake => self.continue_handshake(slot),
            _ => {}
        }
    }

    fn fail_waiting(&mut self, slot: u32) {
        self.fail_handshake(slot, Error::new(Status::Handshake, PEER_LEFT));
    }

    /// The first record is no ClientHello: the session sends its alert.
    fn fail_without_hello(&mut self, slot: u32) {
        self.begin_handshake(slot);
        let Some(conn) = self.slab.get(slot) else { return };
        if conn.phase() == Phase::Handshake {
            let text = "the TLS handshake failed: it begins with no ClientHello";
            self.fail_handshake(slot, Error::new(Status::Handshake, text));
        }
    }

    fn wait_for_place(&mut self, slot: u32) {
        let Some(conn) = self.slab.get(slot) else { return };
        conn.set_phase(Phase::Waiting);
        if peer_has_left(conn) {
            self.fail_waiting(slot);
            return;
        }
        let id = conn.id;
        self.handshakes.enqueue(id, self.live, &mut self.slab);
    }

    /// Gives places to the waiting connections, and takes places from silent
    /// handshakes while others wait. Runs once in each turn.
    pub(super) fn give_places(&mut self) {
        if self.stopping() {
            // Handshakes in mid-stream go on, because accepted bytes leave
            // after them.
            self.handshakes.waiting.retain(|id| is_upgrade(&mut self.slab, *id));
        }
        // A connection that begins to wait meanwhile is handled in the next
        // turn.
        let mut left = self.handshakes.waiting.len();
        while left > 0 && self.handshakes.has_waiting(&mut self.slab) {
            if self.handshakes.in_use < self.handshakes.max {
                let Some(id) = self.handshakes.waiting.pop_front() else { return };
                self.begin_handshake(ConnId::slot(id));
                left -= 1;
            } else {
                let Some(id) = self.handshakes.longest_silent(&mut self.slab) else { return };
                self.fail_handshake(ConnId::slot(id), handshake_timeout());
            }
        }
    }

    /// Begins the handshake of a connection that got a place. STARTTLS may have
    /// made its session already.
    fn begin_handshake(&mut self, slot: u32) {
        let Some(conn) = self.slab.get(slot) else { return };
        let id = conn.id;
        conn.set_phase(Phase::Handshake);
        self.handshakes.occupy(id, self.live, &mut self.slab);
        let Some(conn) = self.slab.get(slot) else { return };
        if !conn.has(flag::TLS) {
            let left = conn.own_deadline.ms_left();
            let begun = self.server.tls(conn.origin).map(|tls| conn.begin_tls(tls, &[], left));
            if let Some(Err(error)) = begun {
                self.fail_handshake(slot, error);
                return;
            }
        }
        self.continue_handshake(slot);
    }

    /// Continues the handshake as far as its input allows.
    fn continue_handshake(&mut self, slot: u32) {
        let Some(conn) = self.slab.get(slot) else { return };
        if let Some(tls) = &mut conn.tls {
            tls.heard_at = clock::now();
        }
        match conn.handshake_step() {
            Ok(false) if conn.has(flag::BACKLOG) => {
                self.watch_writable(slot);
                self.arm(slot);
            }
            Ok(false) => {}
            Ok(true) => self.finish_handshake(slot),
            Err(error) => self.fail_handshake(slot, error),
        }
    }

    /// Begins the handshake that the handler asked for (STARTTLS). The session
    /// already has the bytes that the handler had read ahead.
    pub(super) fn begin_starttls(&mut self, slot: u32) {
        let Some(conn) = self.slab.get(slot) else { return };
        conn.clear(flag::STARTTLS);
        conn.set_phase(Phase::Hello);
        let ahead = conn.tls.as_ref().is_some_and(|tls| tls.heard_at != 0);
        let failed = conn.tls.as_ref().is_some_and(|tls| tls.error().is_some());
        if conn.has(flag::BACKLOG) {
            self.watch_writable(slot);
        }
        self.arm(slot);
        match () {
            () if failed => self.fail_without_hello(slot),
            () if ahead => self.wait_for_place(slot),
            () => self.on_handshake_input(slot),
        }
    }

    fn finish_handshake(&mut self, slot: u32) {
        self.handle.context.counters.handshakes.add(1);
        self.leave_handshake(slot);
        let Some(conn) = self.slab.get(slot) else { return };
        conn.set_phase(Phase::Open);
        let (id, is_new) = (conn.id, conn.has(flag::UNOPENED));
        if is_new {
            conn.own_deadline = Deadline::NEVER;
            conn.clear(flag::UNOPENED | flag::DRAINED);
        }
        conn.look_for_plain();
        conn.set(flag::CALL_AGAIN | flag::ARM);
        if conn.has(flag::WR_SHUT) {
            conn.end_sending();
        }
        if is_new {
            self.on_opened(id);
            return;
        }
        let wake_pending =
            conn.tls.as_mut().is_some_and(|tls| std::mem::take(&mut tls.wake_pending));
        if wake_pending && !conn.is_over() {
            self.run_on_wake(slot);
        } else {
            self.settle(slot);
        }
    }

    pub(super) fn time_out_handshake(&mut self, slot: u32) {
        self.fail_handshake(slot, handshake_timeout());
    }

    pub(super) fn fail_handshake(&mut self, slot: u32, error: Error) {
        self.handle.context.counters.handshake_failures.add(1);
        self.leave_handshake(slot);
        let Some(conn) = self.slab.get(slot) else { return };
        let peer_cannot_read =
            conn.has(flag::BROKEN | flag::SEND_FAILED) || error.status() == Status::Timeout;
        // The session never began, so it sends no close_notify; its alert has
        // left or is queued. No bytes of the program are sent, above all not as
        // plain text.
        conn.set(flag::CLOSE_NOTIFY_SENT);
        conn.close_because(CloseReason::Handshake);
        callback::report_handshake_failure(&self.server, conn, error);
        if peer_cannot_read || conn.has(flag::ABORT) {
            self.finish_conn(slot, CloseReason::Handshake);
        } else {
            self.begin_close(slot, CloseReason::Handshake);
        }
    }

    /// Ends the handshake of this connection, whatever comes next, and frees
    /// its place.
    pub(super) fn leave_handshake(&mut self, slot: u32) {
        let Some(conn) = self.slab.get(slot) else { return };
        if conn.phase() == Phase::Handshake {
            self.handshakes.in_use -= 1;
        }
        if conn.phase().is_handshake() {
            conn.set_phase(Phase::Flushing);
        }
    }
}
