//! Receiving and sending where calls wait: the connections of workers, and
//! detached ones.

#![forbid(unsafe_code)]

use std::io;
use std::os::fd::BorrowedFd;

use super::{Conn, Flags, ForcedEnd, Sending};
use crate::clock::Deadline;
use crate::error::{CloseReason, Status};
use crate::linger::Remains;
use crate::sync::lock;
use crate::sys::{self, PollFlags, RecvFlags, SendFlags};

/// How long to wait for a silent peer where others wait for their turn, in ms.
const MAX_SILENCE_MS: u64 = 500;
/// How often a worker that has sent its end looks for a forced end, in ms.
const END_CHECK_MS: u64 = 20;

impl Conn {
    /// Receives bytes and waits for them; 0 is the end of the stream.
    pub(super) fn read_waiting(&mut self, buf: &mut [u8]) -> Result<usize, Status> {
        self.check_own_deadline()?;
        let until = self.own_deadline;
        let may_give_up = self.may_give_up(until) || self.has(Flags::BACKLOG | Flags::FIN_SENT);
        let recv_flags = if may_give_up { RecvFlags::DONTWAIT } else { RecvFlags::empty() };
        loop {
            let Some(fd) = self.fd() else { return Err(Status::Closed) };
            let result = sys::recv(fd, buf, recv_flags);
            match result {
                Ok(n) if n > 0 => {
                    self.count_in(n);
                    return Ok(n);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    self.flush_before_wait()?;
                    self.wait(PollFlags::IN, until)?;
                }
                // This is the end of the stream, or of a connection that
                // another thread ended during the call.
                other => {
                    self.check_forced_end()?;
                    return match other {
                        Ok(_) if self.is_cut_off() => Err(self.cut_off()),
                        Ok(_) => Ok(0),
                        Err(e) => Err(self.fail(&e)),
                    };
                }
            }
        }
    }

    /// Sends what was gathered, because the peer may answer to it. After a failure
    /// of sending the input can still be read.
    fn flush_before_wait(&mut self) -> Result<(), Status> {
        if self.gathered() == 0 {
            return Ok(());
        }
        match self.flush_gathered() {
            Err(status) if !self.has(Flags::SEND_FAILED) => Err(status),
            _ => Ok(()),
        }
    }

    pub(super) fn send_wait(&mut self, buf: &[u8]) -> Result<(), Status> {
        self.send_wait_counting(buf, &mut 0)
    }

    /// Does as `send_wait`, and counts in `sent` the bytes that have left, also
    /// before a failure.
    pub(super) fn send_wait_counting(
        &mut self,
        buf: &[u8],
        sent: &mut usize,
    ) -> Result<(), Status> {
        self.check_own_deadline()?;
        let until = self.own_deadline;
        while self.refused() > 0 && !self.flush_queue()? {
            self.wait_to_send(until)?;
        }
        while *sent < buf.len() {
            let Some(fd) = self.fd() else { return Err(Status::Closed) };
            match sys::send(fd, &buf[*sent..], SendFlags::DONTWAIT) {
                Ok(n) => {
                    self.count_out(n);
                    *sent += n;
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    self.wait_to_send(until)?;
                }
                Err(e) => {
                    let check = self.check_forced_end();
                    if check.is_err() && *sent > 0 {
                        // A part of the message has left: no orderly end may
                        // follow.
                        self.set(Flags::ABORT);
                    }
                    check?;
                    return Err(self.fail_send(&e));
                }
            }
        }
        Ok(())
    }

    /// Returns an error where a call of the program must not wait: after
    /// another thread has ended the connection, and after a handshake or a PROXY
    /// header that failed.
    pub(super) fn may_wait(&mut self) -> Result<(), Status> {
        self.check_forced_end()?;
        match self.phase() {
            phase if phase.is_handshake() => Err(Status::Closed),
            _ => Ok(()),
        }
    }

    /// Notes that the program tries to send more. If it cannot because a stop
    /// has cut the connection, no orderly end may follow.
    pub(super) fn note_unsent(&mut self) {
        let ended_itself = self.has(Flags::WR_SHUT | Flags::FIN_SENT);
        if self.context.forced_end() == ForcedEnd::Cut && !ended_itself {
            self.set(Flags::ABORT);
        }
    }

    /// Notes the end that another thread has forced on this worker's
    /// connection, if there is one, and returns an error then: the connection
    /// is closed, and the result of the call does not matter.
    pub fn check_forced_end(&mut self) -> Result<(), Status> {
        let end = self.context.forced_end();
        if end == ForcedEnd::None {
            return Ok(());
        }
        self.note_forced_end(end);
        Err(Status::Closed)
    }

    /// Notes how another thread has ended the connection. After a close the
    /// worker may still send TLS's close_notify.
    pub fn note_forced_end(&mut self, end: ForcedEnd) {
        let (request, reason) = match end {
            ForcedEnd::Abort => (Flags::ABORT, CloseReason::Abort),
            ForcedEnd::Cut => (Flags::CLOSE, CloseReason::Cut),
            _ => (Flags::CLOSE, CloseReason::Handler),
        };
        self.set(request);
        self.reason = reason;
    }

    /// Returns when a call that begins now gives up. In a handshake only the
    /// deadline of the whole handshake counts.
    pub(super) fn wait_until(&self) -> Deadline {
        let io = match self.io_timeout() {
            0 => Deadline::NEVER,
            _ if self.phase().is_handshake() => Deadline::NEVER,
            millis => Deadline::after_ms(millis),
        };
        io.min(self.own_deadline)
    }

    /// Returns an error after the end of all waiting: nothing goes on then, not
    /// even an act that needs no waiting.
    pub(super) fn check_own_deadline(&self) -> Result<(), Status> {
        match self.own_deadline.is_due() {
            true => Err(Status::Timeout),
            false => Ok(()),
        }
    }

    /// Returns whether a call that begins now may give up: it then must not
    /// wait in the kernel.
    fn may_give_up(&self, until: Deadline) -> bool {
        until != Deadline::NEVER || self.context.limits.idle_ms != 0
    }

    fn idle_until(&self) -> Deadline {
        match self.phase() {
            phase if phase.is_handshake() => Deadline::NEVER,
            _ => self.idle_deadline(),
        }
    }

    /// Waits until the kernel takes bytes, but not in send(2): another thread
    /// that ends the connection resets it during this wait, because the unsent
    /// bytes are lost. This thread sets `sending` and then reads the forced
    /// end; the other thread sets the forced end and then reads `sending`.
    fn wait_to_send(&mut self, until: Deadline) -> Result<(), Status> {
        let goodbye = self.has(Flags::CLOSE_NOTIFY_SENT);
        self.wait_sending(if goodbye { Sending::Goodbye } else { Sending::Message }, until)
    }

    /// Waits until the queue is empty, until the connection's own deadline, or
    /// until another thread ends the connection. A close of another thread wakes
    /// no wait for room: this looks for it.
    pub(super) fn send_queue(&mut self) -> Result<(), Status> {
        loop {
            match self.flush_queue() {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                // A cut and an abort are failures of the socket too.
                Err(status) => return self.check_forced_end().and(Err(status)),
            }
            // No other thread ends a peer of the shutdown port.
            let step = match lock(&self.context.rivals).is_some() {
                true => Deadline::NEVER,
                false => Deadline::after_ms(END_CHECK_MS),
            };
            let waited = self.wait_sending(Sending::Goodbye, self.own_deadline.min(step));
            self.check_forced_end()?;
            let is_over = self.has(Flags::ABORT) || self.own_deadline.is_due();
            if waited.is_err() && (waited != Err(Status::Timeout) || is_over) {
                return waited;
            }
        }
    }

    fn wait_sending(&mut self, sending: Sending, until: Deadline) -> Result<(), Status> {
        let goodbye = sending == Sending::Goodbye;
        let forced_end = self.context.note_sending(sending);
        let goes_on = forced_end == ForcedEnd::None || (goodbye && forced_end == ForcedEnd::Close);
        let result = match goes_on {
            true => self.wait(PollFlags::OUT, until),
            false => {
                self.note_forced_end(forced_end);
                self.set(Flags::ABORT);
                Err(Status::Closed)
            }
        };
        self.context.note_sending(Sending::No);
        result
    }

    /// Waits for `events`; queued bytes leave meanwhile. Every byte moves the
    /// idle deadline on.
    pub(super) fn wait(&mut self, events: PollFlags, until: Deadline) -> Result<(), Status> {
        let mut look_at = match lock(&self.context.rivals).is_some() {
            true => Deadline::after_ms(MAX_SILENCE_MS),
            false => Deadline::NEVER,
        };
        loop {
            let Some(fd) = self.fd() else { return Err(Status::Closed) };
            let writing = match self.refused() > 0 {
                true => PollFlags::OUT,
                false => PollFlags::empty(),
            };
            // A goodbye has its own bound.
            let idle = match events == PollFlags::OUT && self.has(Flags::CLOSE_NOTIFY_SENT) {
                true => Deadline::NEVER,
                false => self.idle_until(),
            };
            let end = until.min(idle);
            let step =
                if self.has(Flags::FIN_SENT) { Deadline::after_ms(END_CHECK_MS) } else { look_at };
            match sys::poll(fd, events | writing, end.min(step).poll_timeout()) {
                Ok(found) if found.is_empty() && end.is_due() => {
                    if idle.is_due() && self.has_stalled(CloseReason::Idle) {
                        self.end_idle(events | writing);
                    } else if !until.is_due() {
                        continue;
                    }
                    #[cfg(feature = "capi")]
                    self.set_failure(Status::Timeout.into());
                    return Err(Status::Timeout);
                }
                Ok(found) if found.is_empty() && look_at.is_due() => {
                    if lock(&self.context.rivals).as_ref().is_some_and(|others_wait| others_wait())
                    {
                        // After this nothing goes on.
                        self.give_up_waiting();
                        return Err(Status::Timeout);
                    }
                    look_at = Deadline::after_ms(MAX_SILENCE_MS / 10);
                }
                Ok(found) if found.is_empty() && events == PollFlags::IN => {
                    self.check_forced_end()?
                }
                Ok(found) => {
                    if writing.intersects(found) && self.flush_queue().is_err() {
                        // The program may still read the received input.
                        return match events.contains(PollFlags::IN) {
                            true => Ok(()),
                            false => Err(self.send_failure()),
                        };
                    }
                    if found.intersects(events | PollFlags::ERR | PollFlags::HUP) {
                        return Ok(());
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(self.fail(&e)),
            }
        }
    }

    /// Ends an idle connection: with a reset if unsent bytes are lost.
    fn end_idle(&mut self, events: PollFlags) {
        if events.contains(PollFlags::OUT) {
            self.end_with_reset(CloseReason::Idle);
        } else {
            self.close_because(CloseReason::Idle);
        }
    }

    /// Ends the connection with a reset, because some bytes were not sent.
    fn end_with_reset(&mut self, reason: CloseReason) {
        self.reason = reason;
        self.set(Flags::ABORT);
        if self.is_owned() {
            self.reset();
        }
    }

    /// Sends the queued bytes and TLS's close_notify, until the given time;
    /// gives up a queue that does not leave by then.
    pub fn say_goodbye(&mut self, until: Deadline) {
        if self.has(Flags::BROKEN | Flags::ABORT) || self.reason == CloseReason::Abort {
            return;
        }
        // A rejection has an earlier end of its own.
        let until = self.own_deadline.min(until);
        self.own_deadline = until;
        // A close of another thread lets the queue leave from here on.
        self.queue_gathered(true);
        self.set(Flags::CLOSE_NOTIFY_SENT);
        while self.has(Flags::BACKLOG) {
            match self.flush_queue() {
                Ok(false) if self.wait_to_send(until).is_ok() => {}
                _ => break,
            }
        }
        if self.has(Flags::BACKLOG) {
            let has_reason = self.is_over() && self.reason != CloseReason::Handler;
            self.end_with_reset(if has_reason { self.reason } else { CloseReason::WriteTimeout });
        }
    }

    /// Returns when a goodbye that begins now gives up.
    pub fn linger_until(&self) -> Deadline {
        Deadline::after_ms(self.context.limits.linger_ms)
    }

    /// Ends a connection that no loop has, until the given time. The queued
    /// bytes leave first. If late input cannot do harm the descriptor is
    /// closed, and the result is `None`. Otherwise the connection is
    /// half-closed and returned, because its input must be discarded before the
    /// close: close(2) with unread input makes the kernel send a reset (RFC
    /// 2525, 2.17), and so does input that comes after it; a reset can destroy
    /// the reply on its way.
    pub fn close_waiting(&mut self, until: Deadline) -> Option<Remains> {
        self.say_goodbye(until);
        let is_incomplete = self.has(Flags::ABORT | Flags::SEND_FAILED);
        if is_incomplete || self.reason == CloseReason::Abort {
            self.reset();
            return None;
        }
        drop(self.take_queue());
        match self.must_linger() {
            true => self.half_close(),
            false => {
                self.close_fd();
                None
            }
        }
    }

    fn half_close(&mut self) -> Option<Remains> {
        self.send_fin();
        Some(Remains { fd: self.take_fd()?, fin_waits_for_ack: !self.has(Flags::FIN_SENT) })
    }

    /// Lingers on this thread, before the program gets `on_close`: until the
    /// given time or a cut, and while `goes_on` returns true. Returns whether
    /// nothing that was sent is lost.
    pub fn see_off(
        &mut self,
        until: Deadline,
        goes_on: impl Fn(BorrowedFd<'_>, bool) -> bool,
    ) -> bool {
        if self.must_linger() {
            let Some(remains) = self.half_close() else { return false };
            let context = self.context.clone();
            let is_cut = || context.forced_end() == ForcedEnd::Cut;
            let (fd, has_ended) =
                remains.discard(until, |fd, silent| !is_cut() && goes_on(fd, silent));
            self.fd = Some(fd);
            if has_ended {
                self.set(Flags::EOF);
            }
        }
        self.has_peer_ended() || self.is_quiet()
    }

    /// Returns whether the close must linger: input is unread, or output is not
    /// acknowledged, and the peer has not ended.
    fn must_linger(&mut self) -> bool {
        if self.has(Flags::ABORT | Flags::BROKEN | Flags::SEND_FAILED) || self.has_peer_ended() {
            return false;
        }
        // The transport failed, and a TLS session has kept the failure.
        if self.os_error != 0 {
            return false;
        }
        // The deadline of a stop has passed, the peer is refused, or lingering is off.
        let is_cut = matches!(self.reason, CloseReason::Cut | CloseReason::Proxy);
        if is_cut || self.context.limits.linger_ms == 0 {
            return false;
        }
        // A client in its handshake is still sending, and must be able to read
        // the alert.
        let may_lose = self.reason == CloseReason::Handshake || !self.is_quiet();
        // `is_quiet` may have met a reset.
        may_lose && !self.has(Flags::SEND_FAILED)
    }
}
