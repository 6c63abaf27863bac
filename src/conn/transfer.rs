//! Receiving and sending: at once or not at all on a loop; elsewhere it waits
//! (`wait.rs`).

#![forbid(unsafe_code)]

use std::io::{self, IoSlice};
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use super::{flag, Conn};
use crate::error::Status;
use crate::outbuf::OutBuf;
use crate::sys;
use crate::timer;

/// Bytes that one handler call may read before other connections have their
/// turn, and reads: each of them costs a part of it at least.
pub(crate) const SHARE: u32 = 256 << 10;
pub(crate) const READS: u32 = 16;

/// The flags of a connection in a callback on its loop.
const LOOP_CALL: u32 = flag::LOOP | flag::IN_CALLBACK;
/// The flags that decide what `recv` does.
const INPUT_STATE: u32 = LOOP_CALL | flag::OVER | flag::EOF | flag::TLS | flag::READY;

impl Conn {
    /// Bytes received, 0 at end of stream, or why not. The program's call:
    /// [`Conn::usable`] is part of it.
    #[inline]
    pub fn recv(&mut self, buf: &mut [u8]) -> Result<usize, Status> {
        let usual = self.flags & INPUT_STATE == LOOP_CALL | flag::READY;
        if usual && self.out.is_none() && !buf.is_empty() && self.may_read() {
            return self.recv_now(buf);
        }
        self.recv_any(buf)
    }

    /// The next `recv` will say that nothing more can be read now: on a loop,
    /// after a short read.
    #[cfg(feature = "capi")]
    #[inline]
    pub fn is_drained(&self) -> bool {
        self.flags & INPUT_STATE == LOOP_CALL
    }

    #[inline(always)]
    fn recv_now(&mut self, buf: &mut [u8]) -> Result<usize, Status> {
        let n = self.raw_now(buf)?;
        self.used(n);
        Ok(self.received(n))
    }

    #[cold]
    #[inline(never)]
    fn recv_any(&mut self, buf: &mut [u8]) -> Result<usize, Status> {
        self.usable()?;
        if self.has(flag::OVER | flag::EOF) || buf.is_empty() {
            return match () {
                () if self.has(flag::OVER) => Err(Status::Closed),
                () if buf.is_empty() => Err(Status::Invalid),
                () => Ok(0),
            };
        }
        if self.has(flag::TLS) {
            return self.recv_tls(buf);
        }
        if !self.has(flag::LOOP) {
            let n = self.raw_wait(buf)?;
            return Ok(self.received(n));
        }
        if !self.may_read() {
            return Err(Status::WouldBlock);
        }
        self.recv_now(buf)
    }

    /// This call of the handler may read on, and its outbound queue is not
    /// above the high-water mark.
    #[inline]
    pub(super) fn may_read(&self) -> bool {
        self.share > 0 && (self.out.is_none() || self.queued() <= self.env.limits.high_water)
    }

    /// The handler read: it is called again if there is more.
    #[inline]
    pub(super) fn used(&mut self, n: usize) {
        self.set(flag::AGAIN);
        let cost = (n as u64).clamp(u64::from(SHARE / READS), u64::from(SHARE));
        self.share = self.share.saturating_sub(cost as u32);
    }

    #[inline]
    fn received(&mut self, n: usize) -> usize {
        if n == 0 {
            self.ended_stream();
        }
        n
    }

    #[cold]
    fn ended_stream(&mut self) {
        self.set(flag::EOF);
    }

    /// What the kernel has now, 0 at the end.
    #[inline(always)]
    pub(super) fn raw_now(&mut self, buf: &mut [u8]) -> Result<usize, Status> {
        if !self.has(flag::READY) {
            return Err(Status::WouldBlock);
        }
        let Some(fd) = self.fd() else { return Err(Status::Closed) };
        match sys::recv(fd, buf, 0) {
            Ok(n) => {
                // A short read used the input up, and what arrives later
                // makes a new event; but urgent data cuts reads short, and
                // an end of stream or error is still to be read.
                if n < buf.len() && !self.has(flag::HINT) {
                    self.clear(flag::READY);
                }
                self.count_in(n);
                Ok(n)
            }
            Err(e) => Err(self.not_received(&e)),
        }
    }

    #[cold]
    fn not_received(&mut self, error: &io::Error) -> Status {
        if error.kind() == io::ErrorKind::WouldBlock {
            self.clear(flag::READY | flag::HINT);
            return Status::WouldBlock;
        }
        self.fail(error)
    }

    #[inline]
    pub(super) fn count_in(&mut self, n: usize) {
        if n > 0 {
            self.env.counters.bytes_in.add(n as u64);
            self.touch();
        }
    }

    #[inline]
    pub(super) fn sent(&mut self, n: usize) {
        self.env.counters.bytes_out.add(n as u64);
        self.touch();
    }

    #[inline]
    fn touch(&mut self) {
        if self.env.limits.idle != 0 {
            self.touched();
        }
    }

    #[cold]
    fn touched(&mut self) {
        self.active_at = timer::now();
    }

    /// Sends all of it or nothing; what the kernel does not take is queued.
    /// The program's call: [`Conn::usable`] is part of it.
    #[inline(always)]
    pub fn send(&mut self, buf: &[u8]) -> Result<(), Status> {
        // What is so nearly always, on a loop: in the clear, and nothing
        // queued before it.
        const ANY: u32 = LOOP_CALL | flag::OVER | flag::WR_SHUT | flag::TLS;
        if self.flags & ANY == LOOP_CALL && self.out.is_none() && !buf.is_empty() {
            if self.env.ids.pending_by_id(self.id) + buf.len() > self.env.limits.send_limit {
                return Err(Status::BufferFull);
            }
            let written = self.write_now(buf)?;
            if written < buf.len() {
                self.enqueue(&buf[written..]);
            }
            return Ok(());
        }
        self.send_any(buf)
    }

    #[cold]
    #[inline(never)]
    fn send_any(&mut self, buf: &[u8]) -> Result<(), Status> {
        self.usable()?;
        if self.has(flag::OVER | flag::WR_SHUT) {
            return Err(Status::Closed);
        }
        if self.has(flag::LOOP) {
            self.admit(buf.len())?;
        }
        if self.has(flag::TLS) {
            return self.send_tls(buf);
        }
        if !self.has(flag::LOOP) {
            return self.send_wait(buf);
        }
        let written = self.write_now(buf)?;
        if written < buf.len() {
            self.enqueue(&buf[written..]);
        }
        Ok(())
    }

    #[cold]
    fn enqueue(&mut self, rest: &[u8]) {
        self.env.ids.queued(self.id, rest.len());
        self.queue().push(rest);
    }

    /// [`Conn::send`] of several buffers as one.
    pub fn sendv(&mut self, bufs: &[IoSlice<'_>]) -> Result<(), Status> {
        if let [one] = bufs {
            return self.send(one);
        }
        let total = bufs.iter().map(|b| b.len()).sum();
        if !self.has(flag::LOOP) || self.has(flag::TLS) || total <= GATHER {
            return self.send(&bufs.iter().flat_map(|b| b.iter().copied()).collect::<Vec<u8>>());
        }
        if self.has(flag::OVER | flag::WR_SHUT) {
            return Err(Status::Closed);
        }
        self.admit(total)?;
        self.env.ids.queued(self.id, total);
        for buf in bufs.iter().filter(|b| !b.is_empty()) {
            self.queue().push(buf);
        }
        self.flush_queue().map(drop)
    }

    /// Ciphertext; what the kernel does not take is queued.
    pub(super) fn send_raw(&mut self, bufs: &[IoSlice<'_>]) -> Result<(), Status> {
        if !self.has(flag::LOOP) {
            return bufs.iter().try_for_each(|buf| self.send_wait(buf));
        }
        let mut written = match (&self.out, self.fd()) {
            (Some(_), _) => 0,
            (None, None) => return Err(Status::Closed),
            (None, Some(fd)) => match sys::sendv(fd, bufs, 0) {
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => 0,
                Err(e) => return Err(self.fail(&e)),
            },
        };
        self.sent(written);
        for buf in bufs {
            let skip = written.min(buf.len());
            written -= skip;
            if skip < buf.len() {
                self.enqueue(&buf[skip..]);
            }
        }
        Ok(())
    }

    /// Bytes that came by id, behind what is queued.
    pub fn enqueue_shared(&mut self, bytes: Arc<[u8]>) {
        if self.has(flag::TLS) {
            let _ = self.send_tls(&bytes);
        } else {
            self.queue().push_shared(bytes, 0);
        }
    }

    /// Bytes that came by id, already counted as pending.
    pub fn send_shared(&mut self, bytes: Arc<[u8]>) -> Result<(), Status> {
        if self.has(flag::TLS) {
            self.env.ids.sub(self.id, bytes.len());
            return self.send_tls(&bytes);
        }
        let written = self.write_now(&bytes)?;
        self.env.ids.sub(self.id, written);
        if written < bytes.len() {
            self.queue().push_shared(bytes, written);
        }
        Ok(())
    }

    #[inline(always)]
    fn admit(&self, n: usize) -> Result<(), Status> {
        let pending = self.env.ids.pending(self.id);
        match pending.saturating_add(n) > self.env.limits.send_limit {
            true => Err(Status::BufferFull),
            false => Ok(()),
        }
    }

    /// Gives the kernel what it takes now, if nothing is queued before it.
    #[inline(always)]
    fn write_now(&mut self, buf: &[u8]) -> Result<usize, Status> {
        if self.out.is_some() || buf.is_empty() {
            return Ok(0);
        }
        let Some(fd) = self.fd() else { return Err(Status::Closed) };
        match sys::send(fd, buf, 0) {
            Ok(n) => {
                self.sent(n);
                Ok(n)
            }
            Err(e) => self.not_written(&e),
        }
    }

    #[cold]
    fn not_written(&mut self, error: &io::Error) -> Result<usize, Status> {
        match error.kind() {
            io::ErrorKind::WouldBlock => Ok(0),
            _ => Err(self.fail(error)),
        }
    }

    fn queue(&mut self) -> &mut OutBuf {
        if self.out.is_none() {
            self.set(flag::ARM);
        }
        self.out.get_or_insert_with(|| Box::new(OutBuf::begun_at(timer::now())))
    }

    /// Writes from the queue what the kernel takes now; `true` when the
    /// queue is empty.
    pub fn flush_queue(&mut self) -> Result<bool, Status> {
        let Some(mut out) = self.out.take() else { return Ok(true) };
        let written = match self.fd() {
            None => return Err(Status::Closed),
            Some(fd) => out.write_to(fd),
        };
        match written {
            Ok(n) => {
                out.progress_at = timer::now();
                self.env.ids.sub(self.id, n);
                self.sent(n);
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) => return Err(self.fail(&e)),
        }
        if out.len() > 0 {
            self.out = Some(out);
            return Ok(false);
        }
        if self.has(flag::WR_SHUT) {
            self.send_fin();
        }
        Ok(true)
    }

    /// Shuts the sending side once the queue is empty.
    pub fn shut_write(&mut self) {
        self.send_close_notify();
        self.set(flag::WR_SHUT);
        if self.out.is_none() {
            self.send_fin();
        }
    }

    fn send_fin(&mut self) {
        if self.has(flag::FIN_SENT) {
            return;
        }
        self.set(flag::FIN_SENT);
        if let Some(fd) = self.fd() {
            let _ = socket2::SockRef::from(&fd).shutdown(std::net::Shutdown::Write);
        }
    }

    /// The input side: nothing more is read.
    pub fn shut_read(&mut self) {
        self.set(flag::EOF);
        if let Some(fd) = self.fd() {
            let _ = socket2::SockRef::from(&fd).shutdown(std::net::Shutdown::Read);
        }
    }

    /// `close` where no loop does the rest: the peer sees the end now.
    pub fn shut_now(&mut self) {
        self.send_close_notify();
        let _ = self.drain_queue(self.env.limits.linger);
        self.send_fin();
    }
}

/// Small gathers are cheaper copied and sent at once.
const GATHER: usize = 16 << 10;

/// One look, without waiting, whether input is unread.
pub(crate) fn unread(fd: BorrowedFd<'_>) -> bool {
    let mut byte = [0];
    matches!(sys::recv(fd, &mut byte, libc::MSG_PEEK | libc::MSG_DONTWAIT), Ok(1))
}
