//! The end of a connection: flush, half-close, linger, close.

#![forbid(unsafe_code)]

use std::io;

use super::driver::Driver;
use crate::callback;
use crate::clock::{self, Deadline};
use crate::conn::{Conn, Phase};
use crate::error::CloseReason;
use crate::sys::{self, RecvFlags};

/// Reads of a lingering connection before the others have their turn.
const READS: usize = 16;

impl Driver {
    /// Closes a connection in order: its queued bytes leave first.
    pub fn begin_close(&mut self, conn: &mut Conn, reason: CloseReason) {
        // The queue, or what waits for the end of a handshake, now has all bytes
        // that were ever accepted by id; no more come.
        conn.context.ids.shut(conn.id);
        conn.collect();
        if self.close_after_handshake(conn, reason) {
            return;
        }
        self.leave_handshake(conn);
        if conn.holds_plaintext() {
            self.finish_conn(conn, reason);
            return;
        }
        conn.set_phase(Phase::Flushing);
        conn.reason = reason;
        conn.own_deadline = Deadline::NEVER;
        let lost = conn.has_send_failed();
        conn.send_close_notify();
        if conn.has_send_failed() {
            let reason = if lost { reason_of_loss(reason) } else { reason };
            self.finish_conn(conn, reason);
            return;
        }
        if !conn.has_backlog() {
            self.end_flushing(conn);
            return;
        }
        self.watch_writable(conn);
        self.schedule.arm(conn);
    }

    /// Bytes that were accepted before the end of a handshake in mid-stream
    /// leave after that handshake. Returns `true` if the close waits for it.
    fn close_after_handshake(&mut self, conn: &mut Conn, reason: CloseReason) -> bool {
        if !conn.is_upgrading() || !conn.holds_plaintext() || conn.has_send_failed() {
            return false;
        }
        if !conn.is_close_requested() {
            conn.close_because(reason);
        }
        conn.own_deadline = Deadline::NEVER;
        if conn.wants_tls() {
            self.begin_starttls(conn);
        } else {
            self.schedule.arm(conn);
        }
        true
    }

    /// All bytes have left. The connection closes immediately if the peer has
    /// closed; otherwise it half-closes and discards input for a while. A close
    /// with unread input would make the kernel send a reset, which may destroy
    /// the bytes on their way.
    pub fn end_flushing(&mut self, conn: &mut Conn) {
        let linger = conn.context.limits.linger_ms;
        if conn.has_peer_ended() {
            let reason = conn.reason;
            self.finish_conn(conn, reason);
            return;
        }
        conn.set_phase(Phase::Lingering);
        if linger == 0 {
            self.end_lingering(conn);
            return;
        }
        conn.shut_write();
        conn.active_at = clock::now();
        conn.own_deadline = Deadline::after_ms(linger).min(self.drain.deadline());
        let ready = conn.is_readable();
        self.schedule.arm(conn);
        if ready {
            self.discard(conn);
        }
    }

    /// Reads and discards input until the peer has closed.
    pub fn discard(&mut self, conn: &mut Conn) {
        for _ in 0..READS {
            let Some(fd) = conn.fd() else { return };
            let scratch = &conn.context.scratch;
            match scratch.lend(|buffer| sys::recv(fd, buffer, RecvFlags::empty())) {
                Ok(n) if n > 0 => conn.active_at = clock::now(),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    conn.note_no_input();
                    return;
                }
                Ok(_) if !conn.has_send_failed() => {
                    let reason = conn.reason;
                    self.finish_conn(conn, reason);
                    return;
                }
                // A reset. An event may have consumed the error.
                _ => {
                    self.end_lingering(conn);
                    return;
                }
            }
        }
        self.schedule.queue_turn(conn);
    }

    /// The last step of every connection that was not detached.
    pub fn finish_conn(&mut self, conn: &mut Conn, reason: CloseReason) {
        if conn.phase() == Phase::Vacant {
            return;
        }
        let lingered = conn.phase() == Phase::Lingering;
        let id = conn.id;
        // From now on the id is stale, in `on_close` too.
        conn.context.ids.shut(id);
        conn.collect();
        self.leave_handshake(conn);
        // An orderly end promises the peer that all bytes have left.
        let lost = conn.has_unsent();
        if !lost && !matches!(reason, CloseReason::Abort | CloseReason::Cut | CloseReason::Reset) {
            conn.send_close_notify();
        }
        let lost = lost || conn.has_backlog();
        conn.context.ids.release(id);
        conn.set_phase(Phase::Flushing);
        if conn.is_unopened() {
            callback::drop_user_data(conn);
        } else {
            callback::run_on_close(&self.server, conn, reason);
        }
        let counters = self.counters();
        counters.closed[reason as usize].add(1);
        match reason {
            CloseReason::Cut => counters.cut.add(1),
            _ => counters.drained.add(u64::from(self.drain.is_begun())),
        }
        // A connection that lingered has given all bytes to the kernel, which
        // goes on sending them: a cut does not reset it.
        let cut_off = reason == CloseReason::Cut && !lingered;
        if lost || cut_off || conn.is_aborted() {
            conn.reset();
        }
        self.vacate(conn, id);
    }

    /// The program detached the connection: its slot is free.
    pub fn take_out(&mut self, conn: &mut Conn) {
        let id = conn.id;
        self.counters().detached.add(1);
        self.vacate(conn, id);
    }

    /// Frees the slot. Closing a descriptor removes it from the poller
    /// (epoll(7)), so that no call is needed.
    fn vacate(&mut self, conn: &mut Conn, id: u64) {
        self.schedule.forget(conn.armed);
        self.loops.note_left(conn);
        conn.vacate();
        self.counters().open.sub(1);
        self.handle.free(id);
        self.loops.note_closed();
    }

    /// Ends an open connection that the program has not closed. The queued
    /// bytes leave, and no late input destroys them. If there is nothing to
    /// wait for, the connection ends immediately.
    pub fn end_in_order(&mut self, conn: &mut Conn, reason: CloseReason) {
        // What is accepted by id from here on would be found by the end itself,
        // which can no longer wait for it.
        conn.context.ids.shut(conn.id);
        conn.collect();
        let mut is_done = !conn.has_unsent() && (conn.has_peer_ended() || conn.is_quiet());
        // `is_quiet` may have met a reset.
        let lost = conn.has_send_failed();
        if is_done && !lost {
            // The kernel may take a part of it: the rest is then queued.
            conn.send_close_notify();
            is_done = !conn.has_backlog();
        }
        if lost || is_done {
            let reason = if lost { reason_of_loss(reason) } else { reason };
            self.finish_conn(conn, reason);
        } else {
            conn.note_input();
            self.begin_close(conn, reason);
        }
    }

    /// A deadline ends an open connection: the queued bytes are lost, and the
    /// peer sees a reset.
    pub fn end_by_deadline(&mut self, conn: &mut Conn, reason: CloseReason) {
        conn.collect();
        match conn.has_backlog() || conn.holds_plaintext() {
            true => self.finish_conn(conn, reason),
            false => self.end_in_order(conn, reason),
        }
    }

    /// The linger time of a connection is over, and its peer has not closed. A
    /// stop reports "nothing was lost" only if that is true.
    pub fn end_lingering(&mut self, conn: &mut Conn) {
        let lost = conn.reason == CloseReason::Stop && !conn.is_quiet();
        let reason = if lost { CloseReason::Cut } else { conn.reason };
        self.finish_conn(conn, reason);
    }
}

/// The close reason of a connection that was to end in order and lost bytes.
fn reason_of_loss(reason: CloseReason) -> CloseReason {
    match reason {
        CloseReason::Handler | CloseReason::Peer | CloseReason::Error => CloseReason::Reset,
        // No handler runs any more that could receive the remaining input.
        CloseReason::Stop => CloseReason::Cut,
        other => other,
    }
}
