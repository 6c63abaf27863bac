//! TLS handshakes on a loop: a connection's first phase, or one that the
//! handler asked for in mid-stream.

#![forbid(unsafe_code)]

use super::run::Loop;
use crate::callback;
use crate::conn::{flag, handshake_timeout, ConnId, Phase};
use crate::error::{CloseReason, Error, Status};
use crate::timer;

impl Loop {
    /// A new connection of a TLS server. The session is made when the first
    /// bytes come: who says nothing costs no more than the connection.
    pub(super) fn expect_handshake(&mut self, slot: u32) {
        let Some(conn) = self.slab.get(slot) else { return };
        conn.set_phase(Phase::Handshake);
        conn.set(flag::UNOPENED);
        conn.timer_at = timer::after(self.server.config().handshake_timeout);
        self.arm(slot);
    }

    /// As far as it goes now.
    pub(super) fn handshake(&mut self, slot: u32) {
        if self.stopping() {
            return;
        }
        let Some(conn) = self.slab.get(slot) else { return };
        if !conn.has(flag::TLS) {
            if !conn.has(flag::READY) {
                return;
            }
            if self.handshakes >= self.most_handshakes {
                self.handshakes_waiting.push_back(conn.id);
                return;
            }
            let left = conn.timer_at.saturating_sub(timer::now());
            let begun = self.server.tls().map(|tls| conn.begin_tls(tls, &[], left));
            if let Some(Err(error)) = begun {
                self.handshake_failed(slot, error);
                return;
            }
            self.handshakes += 1;
        }
        match conn.handshake_step() {
            Ok(false) if conn.has(flag::BACKLOG) => {
                self.watch_writable(slot);
                self.arm(slot);
            }
            Ok(false) => {}
            Ok(true) => self.handshake_done(slot),
            Err(error) => self.handshake_failed(slot, error),
        }
    }

    /// STARTTLS: the handler asked for it.
    pub(super) fn begin_starttls(&mut self, slot: u32) {
        let Some(conn) = self.slab.get(slot) else { return };
        conn.clear(flag::STARTTLS);
        conn.set_phase(Phase::Handshake);
        self.handshakes += 1;
        self.arm(slot);
        self.handshake(slot);
    }

    fn handshake_done(&mut self, slot: u32) {
        self.shared.env.counters.handshakes.add(1);
        let Some(conn) = self.slab.get(slot) else { return };
        conn.set_phase(Phase::Open);
        let (id, is_new) = (conn.id, conn.has(flag::UNOPENED));
        if is_new {
            conn.timer_at = 0;
            conn.clear(flag::UNOPENED);
            conn.env.ids.open(id);
        }
        conn.look_for_plain();
        conn.set(flag::AGAIN | flag::ARM);
        self.handshake_over();
        if is_new {
            self.opened(id);
        } else {
            self.settle(slot);
        }
    }

    pub(super) fn handshake_timed_out(&mut self, slot: u32) {
        self.handshake_failed(slot, handshake_timeout());
    }

    pub(super) fn handshake_failed(&mut self, slot: u32, error: Error) {
        self.shared.env.counters.handshake_failures.add(1);
        let Some(conn) = self.slab.get(slot) else { return };
        let broken = conn.has(flag::BROKEN) || matches!(error.status(), Status::Timeout);
        // No close_notify for a session that never was; the alert has left
        // or is queued.
        conn.set(flag::GOODBYE);
        callback::told(&self.server, conn, error);
        if broken || conn.has(flag::ABORT) {
            self.finish(slot, CloseReason::Handshake);
        } else {
            self.leave_handshake(slot);
            self.begin_close(slot, CloseReason::Handshake);
        }
    }

    /// Whatever comes next for this connection, its handshake is not in
    /// progress any more.
    pub(super) fn leave_handshake(&mut self, slot: u32) {
        let Some(conn) = self.slab.get(slot) else { return };
        if conn.phase() == Phase::Handshake {
            conn.set_phase(Phase::Flushing);
            if conn.has(flag::TLS) {
                self.handshake_over();
            }
        }
    }

    /// One fewer is in progress: the next that waits may begin.
    fn handshake_over(&mut self) {
        self.handshakes -= 1;
        while let Some(id) = self.handshakes_waiting.pop_front() {
            let Some(conn) = self.slab.get(ConnId::slot(id)) else { continue };
            // It may be gone, or be there twice.
            if conn.id == id && conn.phase() == Phase::Handshake && !conn.has(flag::TLS) {
                self.ready.push_back(id);
                break;
            }
        }
    }
}
