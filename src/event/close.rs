//! The end of a connection: flush, half-close, linger, close; and the stop.

#![forbid(unsafe_code)]

use std::io;

use super::run::{Loop, SCRATCH};
use crate::callback;
use crate::clock::{self, Deadline};
use crate::conn::{flag, Phase};
use crate::error::CloseReason;
use crate::sync::lock;
use crate::sys::{self, RecvFlags};

/// How often a stop looks whether peers have acknowledged all bytes, in ms.
const LOOK: u64 = 20;
/// Reads of a lingering connection before the others have their turn.
const READS: usize = 16;

impl Loop {
    /// Closes a connection in order: its queued bytes leave first.
    pub(super) fn begin_close(&mut self, slot: u32, reason: CloseReason) {
        if self.close_after_handshake(slot, reason) {
            return;
        }
        self.leave_handshake(slot);
        let Some(conn) = self.slab.get(slot) else { return };
        if conn.holds_plaintext() {
            self.finish_conn(slot, reason);
            return;
        }
        conn.set_phase(Phase::Flushing);
        conn.reason = reason;
        conn.own_deadline = Deadline::NEVER;
        // The queue now has all bytes that were ever accepted by id; no more
        // come.
        conn.context.ids.shut(conn.id);
        conn.collect();
        let lost = conn.has(flag::SEND_FAILED);
        conn.send_close_notify();
        if conn.has(flag::SEND_FAILED) {
            let reason = if lost { reason_of_loss(reason) } else { reason };
            self.finish_conn(slot, reason);
            return;
        }
        if !conn.has(flag::BACKLOG) {
            self.flushed(slot);
            return;
        }
        self.watch_writable(slot);
        self.arm(slot);
    }

    /// Bytes that were accepted before the end of a handshake in mid-stream
    /// leave after that handshake. Returns `true` if the close waits for it.
    fn close_after_handshake(&mut self, slot: u32, reason: CloseReason) -> bool {
        let Some(conn) = self.slab.get(slot) else { return false };
        if !conn.is_upgrading() || !conn.holds_plaintext() || conn.has(flag::SEND_FAILED) {
            return false;
        }
        if !conn.has(flag::CLOSE) {
            conn.close_because(reason);
        }
        conn.own_deadline = Deadline::NEVER;
        conn.collect();
        if conn.has(flag::STARTTLS) {
            self.begin_starttls(slot);
        } else {
            self.arm(slot);
        }
        true
    }

    /// All bytes have left. The connection closes immediately if the peer has
    /// closed; otherwise it half-closes and discards input for a while. A close
    /// with unread input would make the kernel send a reset, which may destroy
    /// the bytes on their way.
    pub(super) fn flushed(&mut self, slot: u32) {
        let Some(conn) = self.slab.get(slot) else { return };
        let linger = conn.context.limits.linger_ms;
        if conn.has_peer_ended() {
            let reason = conn.reason;
            self.finish_conn(slot, reason);
            return;
        }
        conn.set_phase(Phase::Lingering);
        if linger == 0 {
            self.end_lingering(slot);
            return;
        }
        conn.shut_write();
        conn.active_at = clock::now();
        conn.own_deadline = Deadline::after_ms(linger);
        if let Some(stop_at) = self.stop_at {
            conn.own_deadline = conn.own_deadline.min(stop_at);
        }
        let ready = conn.has(flag::READY);
        self.arm(slot);
        if ready {
            self.discard(slot);
        }
    }

    /// Reads and discards input until the peer has closed.
    pub(super) fn discard(&mut self, slot: u32) {
        let Some(conn) = self.slab.get(slot) else { return };
        self.scratch.resize(SCRATCH, 0);
        for _ in 0..READS {
            let Some(fd) = conn.fd() else { return };
            match sys::recv(fd, &mut self.scratch, RecvFlags::empty()) {
                Ok(n) if n > 0 => conn.active_at = clock::now(),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    conn.clear(flag::READY);
                    return;
                }
                Ok(_) if !conn.has(flag::SEND_FAILED) => {
                    let reason = conn.reason;
                    self.finish_conn(slot, reason);
                    return;
                }
                // A reset. An event may have consumed the error.
                _ => {
                    self.end_lingering(slot);
                    return;
                }
            }
        }
        self.queue_turn(slot);
    }

    /// The last step of every connection that was not detached.
    pub(super) fn finish_conn(&mut self, slot: u32, reason: CloseReason) {
        let Some(conn) = self.slab.get(slot) else { return };
        if conn.phase() == Phase::Vacant {
            return;
        }
        self.leave_handshake(slot);
        let Some(conn) = self.slab.get(slot) else { return };
        let lingered = conn.phase() == Phase::Lingering;
        let id = conn.id;
        // From now on the id is stale, in `on_close` too.
        conn.context.ids.shut(id);
        conn.collect();
        // An orderly end promises the peer that all bytes have left.
        let lost = conn.has(flag::BACKLOG | flag::SEND_FAILED) || conn.holds_plaintext();
        if !lost && !matches!(reason, CloseReason::Abort | CloseReason::Cut | CloseReason::Reset) {
            conn.send_close_notify();
        }
        let lost = lost || conn.has(flag::BACKLOG);
        conn.context.ids.release(id);
        conn.set_phase(Phase::Flushing);
        if conn.has(flag::UNOPENED) {
            callback::contain_drop(conn.replace_user_data(None));
        } else {
            callback::run_on_close(&self.server, conn, reason);
        }
        let counters = &self.handle.context.counters;
        counters.closed[reason as usize].add(1);
        match (reason, self.stop_at) {
            (CloseReason::Cut, _) => counters.cut.add(1),
            (_, Some(_)) => counters.drained.add(1),
            (_, None) => {}
        }
        // A connection that lingered has given all bytes to the kernel, which
        // goes on sending them: a cut does not reset it.
        let Some(conn) = self.slab.get(slot) else { return };
        let cut_off = reason == CloseReason::Cut && !lingered;
        if lost || cut_off || conn.has(flag::ABORT) {
            conn.reset();
        }
        self.vacate(slot, id);
    }

    /// The program detached the connection: its slot is free.
    pub(super) fn take_out(&mut self, slot: u32) {
        let Some(conn) = self.slab.get(slot) else { return };
        let id = conn.id;
        self.handle.context.counters.detached.add(1);
        self.vacate(slot, id);
    }

    /// Frees the slot. Closing a descriptor removes it from the poller
    /// (epoll(7)), so that no call is needed.
    fn vacate(&mut self, slot: u32, id: u64) {
        let Some(conn) = self.slab.get(slot) else { return };
        let armed = conn.armed;
        conn.vacate();
        self.disarm(armed);
        self.live -= 1;
        self.handle.context.counters.open.sub(1);
        self.handle.free(id);
        self.loops.note_closed();
    }

    /// Stops accepting and closes the connections that can be closed. A second
    /// call may bring an earlier deadline.
    pub(super) fn begin_drain(&mut self, deadline: Deadline) {
        if let Some(earlier) = self.stop_at {
            self.stop_at = Some(earlier.min(deadline));
            return;
        }
        self.stop_at = Some(deadline);
        self.stop_accepting();
        for slot in 0..self.slab.end() {
            self.drain_one(slot);
        }
        self.take_in_arrivals();
    }

    pub(super) fn stop_accepting(&mut self) {
        lock(&self.handle.intake).poller = None;
        self.acceptor = None;
        self.accept_at = Deadline::NEVER;
    }

    /// Closes one connection for a stop: immediately if nothing is unsent,
    /// unread or unacknowledged; otherwise after its queue has left and
    /// `on_drain` has sent no more.
    pub(super) fn drain_one(&mut self, slot: u32) {
        let Some(conn) = self.slab.get(slot) else { return };
        match conn.phase() {
            phase if phase.is_handshake() && conn.has(flag::UNOPENED) => {
                self.finish_conn(slot, CloseReason::Stop)
            }
            Phase::Open | Phase::Hello | Phase::Waiting | Phase::Handshake => {
                conn.collect();
                if !conn.is_sending_out() {
                    self.end_in_order(slot, CloseReason::Stop);
                    return;
                }
                // `on_drain` may send the rest of a reply, also after a TLS
                // handshake in mid-stream; no other callback or thread may send.
                conn.context.ids.shut(conn.id);
                conn.own_deadline = Deadline::NEVER;
                self.settle(slot);
            }
            Phase::Lingering => {
                if let Some(stop_at) = self.stop_at {
                    conn.own_deadline = conn.own_deadline.min(stop_at);
                    self.arm(slot);
                }
            }
            Phase::Flushing | Phase::Vacant => {}
        }
    }

    /// Ends an open connection that the program has not closed. The queued
    /// bytes leave, and no late input destroys them. If there is nothing to
    /// wait for, the connection ends immediately.
    pub(super) fn end_in_order(&mut self, slot: u32, reason: CloseReason) {
        let Some(conn) = self.slab.get(slot) else { return };
        conn.collect();
        if conn.has(flag::SEND_FAILED) {
            self.finish_conn(slot, reason_of_loss(reason));
        } else if !conn.has(flag::BACKLOG) && (conn.has_peer_ended() || conn.is_quiet()) {
            // `is_quiet` may have met a reset.
            let lost = conn.has(flag::SEND_FAILED);
            let reason = if lost { reason_of_loss(reason) } else { reason };
            self.finish_conn(slot, reason);
        } else {
            conn.set(flag::READY);
            self.begin_close(slot, reason);
        }
    }

    /// A deadline ends an open connection: the queued bytes are lost, and the
    /// peer sees a reset.
    pub(super) fn end_by_deadline(&mut self, slot: u32, reason: CloseReason) {
        let Some(conn) = self.slab.get(slot) else { return };
        conn.collect();
        match conn.has(flag::BACKLOG) || conn.holds_plaintext() {
            true => self.finish_conn(slot, reason),
            false => self.end_in_order(slot, reason),
        }
    }

    /// The linger time of a connection is over, and its peer has not closed. A
    /// stop reports "nothing was lost" only if that is true.
    pub(super) fn end_lingering(&mut self, slot: u32) {
        let Some(conn) = self.slab.get(slot) else { return };
        let lost = conn.reason == CloseReason::Stop && !conn.is_quiet();
        let reason = if lost { CloseReason::Cut } else { conn.reason };
        self.finish_conn(slot, reason);
    }

    /// Ends, every few milliseconds of a stop, the lingering connections whose
    /// peers have acknowledged all bytes and are silent: an acknowledgement makes
    /// no event.
    pub(super) fn end_acknowledged(&mut self) {
        self.next_ack_check = Deadline::after_ms(LOOK);
        for slot in 0..self.slab.end() {
            let Some(conn) = self.slab.get(slot) else { continue };
            let lingers = conn.phase() == Phase::Lingering;
            if lingers && crate::linger::is_silent(conn.active_at) && conn.is_quiet() {
                let reason = conn.reason;
                self.finish_conn(slot, reason);
            }
        }
    }

    /// The deadline of the stop has passed.
    pub(super) fn cut(&mut self) {
        for slot in 0..self.slab.end() {
            let Some(conn) = self.slab.get(slot) else { continue };
            match conn.phase() {
                Phase::Vacant => {}
                // The kernel has all bytes and goes on sending them.
                Phase::Lingering => self.end_lingering(slot),
                _ => self.finish_conn(slot, CloseReason::Cut),
            }
        }
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
