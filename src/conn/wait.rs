//! Receiving and sending where calls wait: workers' connections and detached
//! ones.

#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering;

use super::{flag, unread, Conn, Ended};
use crate::error::{CloseReason, Status};
use crate::sys::{self, PollFlags, RecvFlags, SendFlags};
use crate::timer::{self, NEVER};

impl Conn {
    /// What arrives, 0 at the end.
    pub(super) fn raw_wait(&mut self, buf: &mut [u8]) -> Result<usize, Status> {
        let until = self.wait_until();
        let bounded = self.may_give_up(until) || self.has(flag::BACKLOG);
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
                    self.ended()?;
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
        let until = self.wait_until();
        while self.has(flag::BACKLOG) {
            if !self.flush_queue()? {
                self.wait(PollFlags::OUT, until)?;
            }
        }
        let flags = match self.may_give_up(until) {
            true => SendFlags::DONTWAIT,
            false => SendFlags::empty(),
        };
        while *sent < buf.len() {
            let Some(fd) = self.fd() else { return Err(Status::Closed) };
            match sys::send(fd, &buf[*sent..], flags) {
                Ok(n) => {
                    self.sent(n);
                    *sent += n;
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    self.wait(PollFlags::OUT, until)?;
                }
                Err(e) => {
                    self.ended()?;
                    return Err(self.fail_send(&e));
                }
            }
        }
        Ok(())
    }

    /// Another thread ended this worker's connection: it is closed, whatever
    /// the call said.
    pub(super) fn ended(&mut self) -> Result<(), Status> {
        let ended = self.env.ended.load(Ordering::Acquire);
        if ended == Ended::No as u8 {
            return Ok(());
        }
        self.end_as(ended);
        Err(Status::Closed)
    }

    /// Notes how another thread ended the connection. One that was closed may
    /// still be told so, by TLS's close_notify.
    pub fn end_as(&mut self, ended: u8) {
        let (asked, reason) = match ended {
            e if e == Ended::Aborted as u8 => (flag::BROKEN, CloseReason::Abort),
            e if e == Ended::Cut as u8 => (flag::BROKEN, CloseReason::Cut),
            _ => (flag::CLOSE, CloseReason::Handler),
        };
        self.set(asked);
        self.reason = reason;
    }

    /// When a call that begins now gives up.
    pub(super) fn wait_until(&self) -> u64 {
        let io = match self.io_timeout() {
            0 => NEVER,
            millis => timer::after_millis(millis),
        };
        let whole = if self.timer_at != 0 { self.timer_at } else { NEVER };
        io.min(whole)
    }

    /// A call that begins now may give up: it must not wait in the kernel.
    fn may_give_up(&self, until: u64) -> bool {
        until != NEVER || self.env.limits.idle != 0
    }

    fn idle_until(&self) -> u64 {
        match self.env.limits.idle {
            0 => NEVER,
            idle => self.active_at + idle + 1,
        }
    }

    /// Waits for `events`; queued bytes leave meanwhile. Every byte puts the
    /// end of idling off.
    fn wait(&mut self, events: PollFlags, until: u64) -> Result<(), Status> {
        loop {
            let Some(fd) = self.fd() else { return Err(Status::Closed) };
            let writing = match self.has(flag::BACKLOG) {
                true => PollFlags::OUT,
                false => PollFlags::empty(),
            };
            let end = until.min(self.idle_until());
            match sys::poll(fd, events | writing, timer::poll_timeout(end)) {
                Ok(none) if none.is_empty() && timer::now() >= end => {
                    return Err(self.waited_too_long())
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

    fn waited_too_long(&mut self) -> Status {
        if timer::now() >= self.idle_until() {
            self.send_close_notify();
            self.set(flag::BROKEN);
            self.reason = CloseReason::Idle;
        }
        Status::Timeout
    }

    /// Lets queued bytes leave for at most `millis`.
    pub(super) fn drain_queue(&mut self, millis: u64) -> Result<(), Status> {
        if !self.has(flag::BACKLOG) {
            return Ok(());
        }
        let until = timer::after_millis(millis);
        while self.has(flag::BACKLOG) && !self.flush_queue()? {
            let Some(fd) = self.fd() else { return Err(Status::Closed) };
            match sys::poll(fd, PollFlags::OUT, timer::poll_timeout(until)) {
                Ok(none) if none.is_empty() && timer::now() >= until => {
                    return Err(Status::Timeout)
                }
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Err(Status::Io),
            }
        }
        Ok(())
    }

    /// What is queued leaves, and TLS's close_notify.
    pub fn say_goodbye(&mut self) {
        if self.has(flag::BROKEN | flag::ABORT) || self.reason == CloseReason::Abort {
            return;
        }
        self.send_close_notify();
        let _ = self.drain_queue(self.env.limits.linger);
    }

    /// The end of a connection that no loop has: what is queued leaves, then,
    /// where the end of the stream was seen or nothing is unread, `None`: the
    /// descriptor is closed. Else it is half-closed and given back, for its
    /// input is to be discarded before it is closed: close(2) with unread
    /// input makes the kernel send a reset (RFC 2525, 2.17), and that can
    /// destroy the reply on its way.
    pub fn end(&mut self) -> Option<OwnedFd> {
        if self.has(flag::ABORT) || self.reason == CloseReason::Abort {
            self.reset();
            return None;
        }
        self.say_goodbye();
        drop(self.take_queue());
        let fd = self.take_fd()?;
        if self.has(flag::BROKEN) || self.peer_ended() || self.env.limits.linger == 0 {
            return None;
        }
        let decrypted = self.tls.as_mut().is_some_and(|tls| tls.has_plain());
        // A client in its handshake is still sending, and is to read the alert.
        let refused = self.reason == CloseReason::Handshake;
        if !refused && !decrypted && !unread(fd.as_fd()) {
            return None;
        }
        let _ = socket2::SockRef::from(&fd).shutdown(std::net::Shutdown::Write);
        Some(fd)
    }
}
