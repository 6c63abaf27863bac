//! Receiving and sending: at once or not at all on a loop; elsewhere it waits
//! (`wait.rs`).

#![forbid(unsafe_code)]

use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::Ordering;

use super::fast::RawResult;
use super::{flag, Conn, ForcedEnd};
use crate::clock;
use crate::error::Status;
use crate::outbuf::OutBuf;
use crate::sys::{self, PollFlags, RecvFlags, SendFlags};

/// Bytes that one handler call may read before other connections have their
/// turn, and reads: each of them costs a part of it at least.
pub(crate) const READ_BUDGET: u32 = 256 << 10;
pub(crate) const READS: u32 = 16;

impl Conn {
    /// [`Conn::recv`] in any state.
    pub fn recv_any(&mut self, buf: &mut [u8]) -> Result<usize, Status> {
        self.usable()?;
        if self.has(flag::OVER | flag::EOF) || buf.is_empty() {
            return match () {
                () if self.has(flag::OVER) => Err(Status::Closed),
                () if buf.is_empty() => Err(Status::Invalid),
                () => Ok(0),
            };
        }
        if !self.has(flag::LOOP) {
            self.may_wait()?;
        }
        if self.is_upgrading() {
            // Nothing of it is the program's.
            return Err(Status::WouldBlock);
        }
        if self.has(flag::TLS) {
            return self.recv_tls(buf);
        }
        if !self.has(flag::LOOP) {
            let n = self.read_waiting(buf)?;
            return Ok(self.mark_eof(n));
        }
        if !self.may_read() {
            return Err(Status::WouldBlock);
        }
        let n = self.read_nonblocking(buf)?;
        Ok(self.finish_read(n))
    }

    /// The rest of [`Conn::recv_fast`].
    pub fn recv_slow(&mut self, raw: RawResult, buf: &mut [u8]) -> Result<usize, Status> {
        let Some(result) = raw.result() else { return self.recv_any(buf) };
        let n = self.note_read(result, buf.len())?;
        Ok(self.finish_read(n))
    }

    /// A short read has used the input up: it costs nothing of the share, and
    /// the handler is not called again for it.
    fn finish_read(&mut self, n: usize) -> usize {
        if self.has(flag::READY) {
            self.charge_budget(n);
        }
        self.mark_eof(n)
    }

    /// This call of the handler may read on, and its outbound queue is not
    /// above the high-water mark.
    pub(super) fn may_read(&self) -> bool {
        !self.has(flag::BUDGET_SPENT) && self.queued() <= self.context.limits.high_water
    }

    /// The handler read: it is called again if there is more.
    pub(super) fn charge_budget(&mut self, n: usize) {
        self.set(flag::CALL_AGAIN);
        let cost = (n as u64).clamp(u64::from(READ_BUDGET / READS), u64::from(READ_BUDGET));
        self.read_budget = self.read_budget.saturating_sub(cost as u32);
        if self.read_budget == 0 {
            self.set(flag::BUDGET_SPENT);
        }
    }

    fn mark_eof(&mut self, n: usize) -> usize {
        if n == 0 {
            self.set(flag::EOF);
        }
        n
    }

    /// What the kernel has now, 0 at the end.
    pub(super) fn read_nonblocking(&mut self, buf: &mut [u8]) -> Result<usize, Status> {
        if !self.has(flag::READY) {
            return Err(Status::WouldBlock);
        }
        let Some(fd) = self.fd() else { return Err(Status::Closed) };
        let result = sys::recv(fd, buf, RecvFlags::empty());
        self.note_read(result, buf.len())
    }

    fn note_read(&mut self, result: io::Result<usize>, room: usize) -> Result<usize, Status> {
        match result {
            Ok(0) if self.is_cut_off() => Err(self.cut_off()),
            Ok(n) => {
                // As in `recv_fast`; but urgent data cuts reads short, and an
                // end of stream or an error is still to be read.
                if n < room && !self.has(flag::SPECIAL) {
                    self.clear(flag::READY);
                }
                self.count_in(n);
                Ok(n)
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                self.clear(flag::READY | flag::SPECIAL);
                Err(Status::WouldBlock)
            }
            Err(e) => Err(self.fail(&e)),
        }
    }

    /// Is the end of input the failure that a send was told of? The kernel tells
    /// a failure once. With EPIPE the peer's end had come before it.
    pub(super) fn is_cut_off(&self) -> bool {
        self.has(flag::SEND_FAILED) && self.os_error != libc::EPIPE
    }

    /// All that had arrived was read: now that failure is told.
    pub(super) fn cut_off(&mut self) -> Status {
        self.break_off(self.os_error);
        self.send_failure()
    }

    /// What a send returns once sending has failed.
    pub(super) fn send_failure(&self) -> Status {
        Status::of_transfer(&io::Error::from_raw_os_error(self.os_error))
    }

    pub(super) fn count_in(&mut self, n: usize) {
        if n > 0 {
            self.context.counters.bytes_in.add(n as u64);
            self.touch();
        }
    }

    pub(super) fn sent(&mut self, n: usize) {
        self.context.counters.bytes_out.add(n as u64);
        self.touch();
    }

    fn touch(&mut self) {
        if self.has(flag::TIMED) {
            self.active_at = clock::now();
        }
    }

    /// [`Conn::send`] in any state.
    pub fn send_any(&mut self, buf: &[u8]) -> Result<(), Status> {
        self.usable()?;
        self.may_send()?;
        if !self.has(flag::LOOP) {
            self.may_wait().inspect_err(|_| self.wants_more())?;
            return match self.has(flag::TLS) {
                true => self.send_tls(buf),
                false => self.send_wait(buf),
            };
        }
        self.collect();
        self.admit(buf.len())?;
        if self.has(flag::TLS) {
            return self.send_tls(buf);
        }
        if self.phase().is_handshake() {
            // Nothing leaves in the clear where TLS is to begin.
            return Err(Status::State);
        }
        let written = self.write_now(|fd| match buf {
            [] => Ok(0),
            _ => sys::send(fd, buf, SendFlags::empty()),
        })?;
        self.enqueue(&buf[written..]);
        Ok(())
    }

    fn may_send(&self) -> Result<(), Status> {
        match () {
            () if self.has(flag::OVER | flag::WR_SHUT) => Err(Status::Closed),
            () if self.has(flag::SEND_FAILED) => Err(self.send_failure()),
            () => Ok(()),
        }
    }

    /// The rest of [`Conn::send_fast`].
    pub fn send_slow(&mut self, raw: RawResult, buf: &[u8]) -> Result<(), Status> {
        let Some(result) = raw.result() else { return self.send_any(buf) };
        let written = self.note_write(result)?;
        self.enqueue(&buf[written..]);
        Ok(())
    }

    fn enqueue(&mut self, rest: &[u8]) {
        if rest.is_empty() {
            return;
        }
        self.context.ids.queued(self.id, rest.len());
        self.queue().push(rest);
    }

    /// [`Conn::send`] of several buffers as one.
    pub fn sendv(&mut self, bufs: &[IoSlice<'_>]) -> Result<(), Status> {
        if let [one] = bufs {
            return self.send(one);
        }
        let total = bufs.iter().map(|b| b.len()).sum();
        let few = bufs.len() <= sys::MAX_PIECES;
        if !self.has(flag::LOOP) || self.has(flag::TLS) || total <= GATHER || !few {
            return self.send(&bufs.iter().flat_map(|b| b.iter().copied()).collect::<Vec<u8>>());
        }
        self.may_send()?;
        self.collect();
        self.admit(total)?;
        self.send_pieces_now(bufs)
    }

    /// Gives the kernel what it takes now, and queues the rest.
    fn send_pieces_now(&mut self, bufs: &[IoSlice<'_>]) -> Result<(), Status> {
        let mut written = self.write_now(|fd| sys::sendv(fd, bufs, SendFlags::empty()))?;
        for buf in bufs {
            let skip = written.min(buf.len());
            written -= skip;
            self.enqueue(&buf[skip..]);
        }
        Ok(())
    }

    /// Ciphertext. On a loop, what the kernel does not take is queued.
    /// Elsewhere the call waits; where it must not wait any longer the rest is
    /// queued too, since a record that was begun has to go on.
    pub(super) fn send_raw(&mut self, bufs: &[IoSlice<'_>]) -> Result<(), Status> {
        if self.has(flag::SEND_FAILED) {
            return Err(self.send_failure());
        }
        if self.has(flag::LOOP) {
            return self.send_pieces_now(bufs);
        }
        let mut result = Ok(());
        for buf in bufs {
            let mut sent = 0;
            if result.is_ok() {
                result = self.send_wait_counting(buf, &mut sent);
            }
            if !self.has(flag::SEND_FAILED) {
                self.enqueue(&buf[sent..]);
            }
        }
        result
    }

    /// A loop's connection takes over what was accepted for it by id. This
    /// comes before whatever is sent next, and before a close.
    pub fn collect(&mut self) {
        if self.context.ids.direct() != 0 {
            return;
        }
        if let Some(queue) = self.context.inbox.take(self.id) {
            self.send_accepted(queue);
        }
    }

    /// Bytes that were accepted by id and are counted as pending go behind what
    /// is queued, and leave as far as they can. A failure is noted in the
    /// connection.
    pub fn send_accepted(&mut self, bytes: OutBuf) {
        let len = bytes.len();
        if len == 0 || self.has(flag::UNSENDABLE) {
            self.context.ids.sub(self.id, len);
            return;
        }
        if self.has(flag::TLS) {
            self.context.ids.sub(self.id, len);
            for piece in bytes.pieces() {
                let _ = self.send_tls(piece);
            }
            self.set(flag::DRAINED);
            return;
        }
        self.queue().append(bytes);
        let _ = self.flush_queue();
    }

    fn admit(&self, n: usize) -> Result<(), Status> {
        match self.context.ids.has_room(self.id, n) {
            true => Ok(()),
            false => Err(Status::BufferFull),
        }
    }

    /// Gives the kernel what it takes now, if nothing is queued before it.
    fn write_now(
        &mut self,
        write: impl FnOnce(BorrowedFd<'_>) -> io::Result<usize>,
    ) -> Result<usize, Status> {
        if self.has(flag::BACKLOG) {
            return Ok(0);
        }
        let Some(fd) = self.fd() else { return Err(Status::Closed) };
        let result = write(fd);
        self.note_write(result)
    }

    fn note_write(&mut self, result: io::Result<usize>) -> Result<usize, Status> {
        match result {
            Ok(n) => {
                self.sent(n);
                Ok(n)
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(0),
            Err(e) => Err(self.fail_send(&e)),
        }
    }

    fn queue(&mut self) -> &mut OutBuf {
        if !self.has(flag::BACKLOG) {
            self.set(flag::BACKLOG | flag::ARM);
        }
        let fd = self.fd.as_ref().map(AsRawFd::as_raw_fd);
        self.out.get_or_insert_with(|| {
            Box::new(OutBuf::begun_at(clock::now(), fd.map_or(0, sys::unsent)))
        })
    }

    /// The peer has acknowledged some, although the kernel takes no more: that
    /// is progress too.
    pub fn peer_goes_on(&mut self) -> bool {
        let unacknowledged = sys::unsent(self.raw_fd());
        let Some(out) = &mut self.out else { return false };
        let goes_on = unacknowledged < out.unacknowledged;
        if goes_on {
            out.unacknowledged = unacknowledged;
            out.progress_at = clock::now();
            self.active_at = out.progress_at;
        }
        goes_on
    }

    /// What is queued is the caller's, to be written or given up.
    pub(super) fn take_queue(&mut self) -> Option<Box<OutBuf>> {
        self.clear(flag::BACKLOG);
        self.out.take()
    }

    /// What is queued is lost.
    pub(super) fn drop_queue(&mut self) {
        if let Some(out) = self.take_queue() {
            self.context.ids.sub(self.id, out.len());
        }
    }

    /// Writes from the queue what the kernel takes now; `true` when the
    /// queue is empty.
    pub fn flush_queue(&mut self) -> Result<bool, Status> {
        let Some(mut out) = self.take_queue() else { return Ok(true) };
        let Some(fd) = self.fd() else { return Err(Status::Closed) };
        let raw = fd.as_raw_fd();
        match out.write_to(fd) {
            Ok(n) => {
                out.progress_at = clock::now();
                out.unacknowledged = sys::unsent(raw);
                self.context.ids.sub(self.id, n);
                self.sent(n);
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) => {
                self.context.ids.sub(self.id, out.len());
                return Err(self.fail_send(&e));
            }
        }
        if out.len() > 0 {
            self.out = Some(out);
            self.set(flag::BACKLOG);
            return Ok(false);
        }
        self.set(flag::DRAINED);
        if self.has(flag::WR_SHUT) && !self.is_upgrading() {
            self.send_fin();
        }
        Ok(true)
    }

    /// Shuts the sending side once the queue is empty.
    pub fn shut_write(&mut self) {
        self.context.ids.shut_sending(self.id);
        self.collect();
        let ends_now = !self.is_upgrading();
        if ends_now {
            // Before the mark: the FIN leaves as soon as the queue has.
            self.send_close_notify();
        }
        if self.has(flag::BACKLOG) && !self.has(flag::LOOP) {
            let until = self.linger_until();
            let _ = self.bounded(until, |conn| conn.send_wait(&[]));
        }
        self.set(flag::WR_SHUT);
        if ends_now {
            self.end_sending();
        }
    }

    /// The end of what is sent, behind what is queued. In a TLS handshake it
    /// waits, with what the handshake's end will send.
    pub fn end_sending(&mut self) {
        self.send_close_notify();
        if !self.has(flag::BACKLOG) {
            self.send_fin();
        }
    }

    /// A loop's connection is going over to TLS.
    fn is_upgrading(&self) -> bool {
        self.has(flag::LOOP) && (self.has(flag::STARTTLS) || self.phase().is_handshake())
    }

    pub(super) fn send_fin(&mut self) {
        if self.has(flag::FIN_SENT) || self.input_was_shut() {
            return;
        }
        self.set(flag::FIN_SENT);
        if let Some(fd) = self.fd() {
            let _ = socket2::SockRef::from(&fd).shutdown(std::net::Shutdown::Write);
        }
    }

    /// Another thread ended this worker's connection and may have shut its
    /// input: then the end is sent last, when the peer has acknowledged all
    /// ([`Remains`](crate::linger::Remains)). Else nobody shuts it any more.
    fn input_was_shut(&self) -> bool {
        if self.has(flag::LOOP | flag::OWNED) {
            return false;
        }
        self.context.fin_sent.store(true, Ordering::SeqCst);
        let ended = self.context.forced_end() != ForcedEnd::None;
        if ended {
            self.context.fin_sent.store(false, Ordering::SeqCst);
        }
        ended
    }

    /// The input side: nothing more is read. The kernel is not told: it would
    /// report an end that the peer never sent, to those who linger too.
    pub fn shut_read(&mut self) {
        if !self.has(flag::EOF) {
            self.set(flag::EOF | flag::RD_SHUT);
        }
    }

    /// One look, without waiting, whether input is unread. The kernel tells a
    /// failure once; if this look is told it, the connection has failed.
    pub fn has_unread(&mut self) -> bool {
        let Some(fd) = self.fd() else { return false };
        match sys::recv(fd, &mut [0], RecvFlags::PEEK | RecvFlags::DONTWAIT) {
            Ok(n) => n > 0,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => false,
            Err(e) => {
                self.fail_send(&e);
                false
            }
        }
    }

    /// Input, an end of stream or a failure is there to be read.
    pub fn has_input(&mut self) -> bool {
        let ends = |fd| {
            let found = sys::poll(fd, PollFlags::IN | PollFlags::RDHUP, 0);
            found.is_ok_and(|found| !found.is_empty())
        };
        self.has_unread() || self.has(flag::SEND_FAILED) || self.fd().is_some_and(ends)
    }

    /// `close` where no loop does the rest: the peer sees the end now.
    pub fn shut_now(&mut self) {
        self.say_goodbye(self.linger_until());
        if !self.has(flag::ABORT) {
            self.send_fin();
        }
    }
}

/// Small gathers are cheaper copied and sent at once.
const GATHER: usize = 16 << 10;
