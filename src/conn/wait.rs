//! Receiving and sending where calls wait: workers' connections and detached
//! ones.

#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::Ordering;

use super::{flag, Conn, ForcedEnd, Phase, Sending};
use crate::clock::Deadline;
use crate::error::{CloseReason, Status};
use crate::linger::Remains;
use crate::sync::lock;
use crate::sys::{self, PollFlags, RecvFlags, SendFlags};

/// How long a silent peer is waited for where others wait for their turn, in ms.
const SILENCE: u64 = 500;
/// How often a worker that has sent its end looks whether it was ended, in ms.
const LOOK: u64 = 20;

impl Conn {
    /// What arrives, 0 at the end.
    pub(super) fn read_waiting(&mut self, buf: &mut [u8]) -> Result<usize, Status> {
        self.check_whole()?;
        let until = self.wait_until();
        let bounded = self.may_give_up(until) || self.has(flag::BACKLOG | flag::FIN_SENT);
        let recv_flags = if bounded { RecvFlags::DONTWAIT } else { RecvFlags::empty() };
        loop {
            let Some(fd) = self.fd() else { return Err(Status::Closed) };
            let result = sys::recv(fd, buf, recv_flags);
            match result {
                Ok(n) if n > 0 => {
                    self.count_in(n);
                    return Ok(n);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    self.wait(PollFlags::IN, until)?;
                }
                // The end of the stream, or of a connection that another
                // thread ended under our feet.
                ended => {
                    self.check_forced_end()?;
                    return match ended {
                        Ok(_) if self.is_cut_off() => Err(self.cut_off()),
                        Ok(_) => Ok(0),
                        Err(e) => Err(self.fail(&e)),
                    };
                }
            }
        }
    }

    pub(super) fn send_wait(&mut self, buf: &[u8]) -> Result<(), Status> {
        self.send_wait_counting(buf, &mut 0)
    }

    /// As `send_wait`; `sent` is how much has left, also after a failure.
    pub(super) fn send_wait_counting(
        &mut self,
        buf: &[u8],
        sent: &mut usize,
    ) -> Result<(), Status> {
        self.check_whole()?;
        let until = self.wait_until();
        while self.has(flag::BACKLOG) && !self.flush_queue()? {
            self.wait_to_send(until)?;
        }
        while *sent < buf.len() {
            let Some(fd) = self.fd() else { return Err(Status::Closed) };
            match sys::send(fd, &buf[*sent..], SendFlags::DONTWAIT) {
                Ok(n) => {
                    self.sent(n);
                    *sent += n;
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    self.wait_to_send(until)?;
                }
                Err(e) => {
                    let ended = self.check_forced_end();
                    if ended.is_err() && *sent > 0 {
                        // A part of it has left: no clean end may follow.
                        self.set(flag::ABORT);
                    }
                    ended?;
                    return Err(self.fail_send(&e));
                }
            }
        }
        Ok(())
    }

    /// A call of the program's that may wait: not where another thread ended
    /// the connection, nor after a handshake that failed.
    pub(super) fn may_wait(&mut self) -> Result<(), Status> {
        self.check_forced_end()?;
        match self.phase() {
            Phase::Handshake => Err(Status::Closed),
            _ => Ok(()),
        }
    }

    /// The program goes on to send: where a stop's cut is why it cannot, no
    /// clean end may follow.
    pub(super) fn wants_more(&mut self) {
        if self.context.forced_end() == ForcedEnd::Cut {
            self.set(flag::ABORT);
        }
    }

    /// Another thread ended this worker's connection: it is closed, whatever
    /// the call said.
    pub fn check_forced_end(&mut self) -> Result<(), Status> {
        let ended = self.context.forced_end();
        if ended == ForcedEnd::None {
            return Ok(());
        }
        self.note_forced_end(ended);
        Err(Status::Closed)
    }

    /// Notes how another thread ended the connection. One that was closed may
    /// still be told so, by TLS's close_notify.
    pub fn note_forced_end(&mut self, ended: ForcedEnd) {
        let (asked, reason) = match ended {
            ForcedEnd::Abort => (flag::ABORT, CloseReason::Abort),
            ForcedEnd::Cut => (flag::CLOSE, CloseReason::Cut),
            _ => (flag::CLOSE, CloseReason::Handler),
        };
        self.set(asked);
        self.reason = reason;
    }

    /// When a call that begins now gives up. A handshake has a deadline of its
    /// own, which is the whole's.
    pub(super) fn wait_until(&self) -> Deadline {
        let io = match self.io_timeout() {
            0 => Deadline::NEVER,
            _ if self.phase() == Phase::Handshake => Deadline::NEVER,
            millis => Deadline::after_ms(millis),
        };
        io.min(self.own_deadline)
    }

    /// The end of all waiting has not passed: nothing goes on after it, not
    /// what could be done without waiting either.
    fn check_whole(&self) -> Result<(), Status> {
        match self.own_deadline.is_due() {
            true => Err(Status::Timeout),
            false => Ok(()),
        }
    }

    /// A call that begins now may give up: it must not wait in the kernel.
    fn may_give_up(&self, until: Deadline) -> bool {
        until != Deadline::NEVER || self.context.limits.idle != 0
    }

    fn idle_until(&self) -> Deadline {
        match self.context.limits.idle {
            0 => Deadline::NEVER,
            _ if self.phase() == Phase::Handshake => Deadline::NEVER,
            idle => Deadline::since(self.active_at, idle),
        }
    }

    /// Waits until the kernel takes bytes, and not in send(2): another thread
    /// that ends the connection then resets it, for what is not sent is lost.
    /// The mark before the look at `ended`, which the other does the other way
    /// round.
    fn wait_to_send(&mut self, until: Deadline) -> Result<(), Status> {
        let goodbye = self.has(flag::CLOSE_NOTIFY_SENT);
        let what = if goodbye { Sending::Goodbye } else { Sending::Message };
        self.context.sending.store(what as u8, Ordering::SeqCst);
        let ended = self.context.forced_end();
        let goes_on = ended == ForcedEnd::None || (goodbye && ended == ForcedEnd::Close);
        let result = match goes_on {
            true => self.wait(PollFlags::OUT, until),
            false => {
                self.note_forced_end(ended);
                self.set(flag::ABORT);
                Err(Status::Closed)
            }
        };
        self.context.sending.store(Sending::No as u8, Ordering::SeqCst);
        result
    }

    /// Waits for `events`; queued bytes leave meanwhile. Every byte puts the
    /// end of idling off.
    fn wait(&mut self, events: PollFlags, until: Deadline) -> Result<(), Status> {
        let mut look_at = match lock(&self.context.rivals).is_some() {
            true => Deadline::after_ms(SILENCE),
            false => Deadline::NEVER,
        };
        loop {
            let Some(fd) = self.fd() else { return Err(Status::Closed) };
            let writing = match self.has(flag::BACKLOG) {
                true => PollFlags::OUT,
                false => PollFlags::empty(),
            };
            // A goodbye has its own bound.
            let idle = match events == PollFlags::OUT && self.has(flag::CLOSE_NOTIFY_SENT) {
                true => Deadline::NEVER,
                false => self.idle_until(),
            };
            let end = until.min(idle);
            let step = if self.has(flag::FIN_SENT) { Deadline::after_ms(LOOK) } else { look_at };
            match sys::poll(fd, events | writing, end.min(step).poll_timeout()) {
                Ok(none) if none.is_empty() && end.is_due() => {
                    if idle.is_due() {
                        self.idle_for_too_long(events | writing);
                    }
                    #[cfg(feature = "capi")]
                    self.set_failure(Status::Timeout.into());
                    return Err(Status::Timeout);
                }
                Ok(none) if none.is_empty() && look_at.is_due() => {
                    if lock(&self.context.rivals).as_ref().is_some_and(|others_wait| others_wait())
                    {
                        // Nothing goes on after this.
                        self.own_deadline = Deadline::NOW;
                        return Err(Status::Timeout);
                    }
                    look_at = Deadline::after_ms(SILENCE / 10);
                }
                Ok(none) if none.is_empty() && events == PollFlags::IN => {
                    self.check_forced_end()?
                }
                Ok(found) => {
                    if writing.intersects(found) && self.flush_queue().is_err() {
                        // What has arrived is still to be read.
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

    /// What waits to be sent is lost: then the peer sees a reset.
    fn idle_for_too_long(&mut self, events: PollFlags) {
        if events.contains(PollFlags::OUT) {
            self.lose(CloseReason::Idle);
        } else {
            self.close_because(CloseReason::Idle);
        }
    }

    /// Ends the connection with a reset, because something was not sent.
    fn lose(&mut self, reason: CloseReason) {
        self.reason = reason;
        self.set(flag::ABORT);
        if self.has(flag::OWNED) {
            self.reset();
        }
    }

    /// What is queued leaves, and TLS's close_notify, until the given time; a
    /// queue that does not is given up.
    pub fn say_goodbye(&mut self, until: Deadline) {
        if self.has(flag::BROKEN | flag::ABORT) || self.reason == CloseReason::Abort {
            return;
        }
        // A refusal has an earlier end of its own.
        let until = self.own_deadline.min(until);
        self.own_deadline = until;
        self.send_close_notify();
        self.set(flag::CLOSE_NOTIFY_SENT);
        while self.has(flag::BACKLOG) {
            match self.flush_queue() {
                Ok(false) if self.wait_to_send(until).is_ok() => {}
                _ => break,
            }
        }
        if self.has(flag::BACKLOG) {
            let asked = self.is_over() && self.reason != CloseReason::Handler;
            self.lose(if asked { self.reason } else { CloseReason::WriteTimeout });
        }
    }

    /// When a goodbye that begins now gives up.
    pub fn linger_until(&self) -> Deadline {
        Deadline::after_ms(self.context.limits.linger)
    }

    /// The end of a connection that no loop has, until the given time: what is
    /// queued leaves, then, unless late input could harm it, `None`: the
    /// descriptor is closed. Else it is half-closed and given back, for its
    /// input is to be discarded before it is closed: close(2) with unread
    /// input makes the kernel send a reset (RFC 2525, 2.17), and so does input
    /// that comes after it; that can destroy the reply on its way.
    pub fn close_waiting(&mut self, until: Deadline) -> Option<Remains> {
        self.say_goodbye(until);
        if self.has(flag::ABORT) || self.reason == CloseReason::Abort {
            self.reset();
            return None;
        }
        drop(self.take_queue());
        match self.must_linger() {
            true => self.half_close(),
            false => {
                drop(self.take_fd());
                None
            }
        }
    }

    fn half_close(&mut self) -> Option<Remains> {
        self.send_fin();
        Some(Remains { fd: self.take_fd()?, fin_waits_for_ack: !self.has(flag::FIN_SENT) })
    }

    /// Lingers here, until the given time or a cut and while it `goes_on`,
    /// before the program is told of the end: `true` where nothing that was sent
    /// is lost.
    pub fn see_off(&mut self, until: Deadline, goes_on: impl Fn(BorrowedFd<'_>) -> bool) -> bool {
        if self.must_linger() {
            let Some(remains) = self.half_close() else { return false };
            let context = self.context.clone();
            let is_cut = || context.forced_end() == ForcedEnd::Cut;
            let (fd, ended) = remains.discard(until, |fd| !is_cut() && goes_on(fd));
            self.fd = Some(fd);
            if ended {
                self.set(flag::EOF);
            }
        }
        self.peer_ended() || self.is_quiet()
    }

    /// Input is unread, or output not acknowledged, and the peer has not ended.
    fn must_linger(&mut self) -> bool {
        if self.has(flag::ABORT | flag::BROKEN | flag::SEND_FAILED) || self.peer_ended() {
            return false;
        }
        // A stop's deadline has passed.
        if self.reason == CloseReason::Cut || self.context.limits.linger == 0 {
            return false;
        }
        let decrypted = self.tls.as_mut().is_some_and(|tls| tls.has_plain());
        // A client in its handshake is still sending, and is to read the alert.
        let refused = self.reason == CloseReason::Handshake;
        let unread = refused || decrypted || self.has_unread();
        // An end that was sent counts as a byte, and nothing comes behind it.
        let end = usize::from(self.has(flag::FIN_SENT));
        let unsent = |fd: BorrowedFd<'_>| sys::unsent(fd.as_raw_fd()) > end;
        !self.has(flag::SEND_FAILED) && (unread || self.fd().is_some_and(unsent))
    }
}
