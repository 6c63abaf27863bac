//! The stop of a loop: it closes what can be closed, and cuts the rest at a
//! deadline.

#![forbid(unsafe_code)]

use super::driver::Driver;
use super::run::Loop;
use crate::callback;
use crate::clock::Deadline;
use crate::conn::{Conn, Phase};
use crate::error::{CloseReason, Error, Status};
use crate::linger;
use crate::logger::LogLevel;
use crate::server::Guest;
use crate::sync::lock;

/// How often a stop looks whether peers have acknowledged all bytes.
const ACK_CHECK_MS: u64 = 20;

/// The drain of a loop that stops.
pub(super) struct Drain {
    begun: bool,
    /// When the remaining connections are cut; `NEVER` before the stop.
    deadline: Deadline,
    /// When to look again at the lingering connections; `NEVER` before the stop.
    next_ack_check: Deadline,
}

impl Default for Drain {
    fn default() -> Drain {
        Drain { begun: false, deadline: Deadline::NEVER, next_ack_check: Deadline::NEVER }
    }
}

impl Drain {
    #[inline]
    pub fn is_begun(&self) -> bool {
        self.begun
    }

    /// Returns whether the deadline of the stop has passed.
    pub fn is_over(&self) -> bool {
        self.begun && self.deadline.is_due()
    }

    pub fn deadline(&self) -> Deadline {
        self.deadline
    }

    /// Returns when the loop must do something for the stop, or `NEVER`.
    pub fn next_deadline(&self) -> Deadline {
        self.deadline.min(self.next_ack_check)
    }

    /// Begins the drain, or brings an earlier deadline. Returns whether it
    /// begins.
    fn begin(&mut self, deadline: Deadline) -> bool {
        let begins = !self.begun;
        if begins {
            self.next_ack_check = Deadline::NOW;
        }
        self.begun = true;
        self.deadline = self.deadline.min(deadline);
        begins
    }
}

impl Loop {
    /// Stops accepting and closes the connections that can be closed. A second
    /// call may bring an earlier deadline.
    pub(super) fn begin_drain(&mut self, deadline: Deadline) {
        if !self.driver.drain.begin(deadline) {
            return;
        }
        self.stop_accepting();
        self.driver.report_refusals(true);
        if let Some(guest) = &self.guest {
            guest.begin_stop(self.driver.drain.deadline());
            guest.turn();
        }
        for conn in self.slab.iter_mut() {
            self.driver.drain_one(conn);
        }
        self.take_in_arrivals();
    }

    fn stop_accepting(&mut self) {
        lock(&self.driver.handle.intake).poller = None;
        self.acceptor.stop(self.driver.schedule.poller());
    }

    /// Does the part of a turn that a stop needs.
    pub(super) fn continue_drain(&mut self) {
        if !self.driver.drain.is_begun() {
            return;
        }
        if self.driver.drain.next_ack_check.is_due() {
            self.driver.drain.next_ack_check = Deadline::after_ms(ACK_CHECK_MS);
            for conn in self.slab.iter_mut() {
                self.driver.end_if_acknowledged(conn);
            }
        }
        if self.driver.drain.is_over() {
            self.guest.iter().for_each(Guest::cut);
            for conn in self.slab.iter_mut() {
                self.driver.cut(conn);
            }
        }
    }

    /// A defect of the library ended the turns: the server stops, and the loop
    /// reports the end of each of its connections.
    #[cold]
    pub(super) fn die(&mut self, panic: &Error) {
        let text = format!("an event loop ended, and the server stops: {panic}");
        self.driver.server.log().event(LogLevel::Error, || text.clone());
        self.driver.report(&Error::new(Status::Panic, text));
        self.driver.server.request_stop();
        self.driver.drain.begin(Deadline::NOW);
        self.stop_accepting();
        self.install_arrivals();
        for conn in self.slab.iter_mut() {
            let _ = callback::contain(|| self.driver.finish_conn(conn, CloseReason::Cut));
        }
    }
}

impl Driver {
    /// Closes one connection for a stop: immediately if nothing is unsent,
    /// unread or unacknowledged; otherwise after its queue has left and
    /// `on_drain` has sent no more.
    pub fn drain_one(&mut self, conn: &mut Conn) {
        match conn.phase() {
            phase if phase.is_handshake() && conn.is_unopened() => {
                self.finish_conn(conn, CloseReason::Stop)
            }
            Phase::Open | Phase::Proxy | Phase::Hello | Phase::Waiting | Phase::Handshake => {
                // No other thread may send any more: what was accepted is either
                // found here, and `on_drain` follows it, or was refused.
                conn.context.ids.shut(conn.id);
                conn.collect();
                if !conn.is_sending_out() {
                    self.end_in_order(conn, CloseReason::Stop);
                    return;
                }
                // `on_drain` may send the rest of a reply, also after a TLS
                // handshake in mid-stream; no other callback may send.
                conn.own_deadline = Deadline::NEVER;
                self.settle(conn);
            }
            Phase::Connecting => {
                // Bytes that were accepted by id leave when it is connected.
                conn.context.ids.shut(conn.id);
                conn.collect();
                conn.close_because(CloseReason::Stop);
                self.settle(conn);
            }
            Phase::Lingering => {
                conn.own_deadline = conn.own_deadline.min(self.drain.deadline());
                self.schedule.arm(conn);
            }
            Phase::Flushing | Phase::Vacant => {}
        }
    }

    /// Ends a lingering connection whose peer has acknowledged all bytes and is
    /// silent: an acknowledgement makes no event.
    fn end_if_acknowledged(&mut self, conn: &mut Conn) {
        let lingers = conn.phase() == Phase::Lingering;
        if lingers && linger::is_silent(conn.active_at) && conn.is_quiet() {
            let reason = conn.reason;
            self.finish_conn(conn, reason);
        }
    }

    /// The deadline of the stop has passed.
    fn cut(&mut self, conn: &mut Conn) {
        match conn.phase() {
            Phase::Vacant => {}
            // The kernel has all bytes and goes on sending them.
            Phase::Lingering => self.end_lingering(conn),
            _ => self.finish_conn(conn, CloseReason::Cut),
        }
    }
}
