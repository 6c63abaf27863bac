//! Receiving and sending. On a loop a call never waits; elsewhere it does
//! (`wait.rs`).

#![forbid(unsafe_code)]

use std::io::{self, IoSlice};
use std::os::fd::BorrowedFd;

use super::fast::RawResult;
use super::{Conn, Flags, Phase, PASSING};
use crate::clock;
use crate::error::Status;
use crate::outbuf::OutBuf;
use crate::sys::{self, PollFlags, RecvFlags, SendFlags};

/// How many bytes, and how many times, one call of the handler may read before
/// other connections have their turn. Each read costs `READ_BUDGET` / `READS`
/// at least.
pub(crate) const READ_BUDGET: u32 = 256 << 10;
pub(crate) const READS: u32 = 16;

impl Conn {
    /// Does [`Conn::recv`] in any state.
    pub fn recv_any(&mut self, buf: &mut [u8]) -> Result<usize, Status> {
        self.check_usable()?;
        match () {
            () if self.has(Flags::OVER) => return Err(Status::Closed),
            () if buf.is_empty() => return Err(Status::Invalid),
            () if self.has(Flags::EOF) => return Ok(0),
            () => {}
        }
        if self.has(Flags::LOOP) {
            // During an upgrade the input belongs to the TLS handshake, not to
            // the program.
            return match self.is_upgrading() || !self.may_read() {
                true => Err(Status::WouldBlock),
                false => self.recv_through(buf),
            };
        }
        self.may_wait()?;
        self.with_deadline(self.wait_until(), |conn| conn.recv_through(buf))
    }

    /// Receives through TLS, if the connection has it.
    fn recv_through(&mut self, buf: &mut [u8]) -> Result<usize, Status> {
        if self.has(Flags::TLS) {
            return self.recv_tls(buf);
        }
        let n = self.receive(buf)?;
        Ok(self.finish_read(n))
    }

    /// Receives from the kernel; 0 is the end of the stream. On a loop it never
    /// waits, elsewhere it waits until the connection's own deadline.
    pub(super) fn receive(&mut self, buf: &mut [u8]) -> Result<usize, Status> {
        match self.has(Flags::LOOP) {
            true => self.read_nonblocking(buf),
            false => self.read_waiting(buf),
        }
    }

    /// Finishes a [`Conn::recv_fast`] that left the fast path.
    pub fn recv_slow(&mut self, raw: RawResult, buf: &mut [u8]) -> Result<usize, Status> {
        let Some(result) = raw.result() else { return self.recv_any(buf) };
        let n = self.note_read(result, buf.len())?;
        Ok(self.finish_read(n))
    }

    /// Charges a read. A short read has used up the input: it costs nothing of
    /// the budget, and the loop does not call the handler again for it.
    fn finish_read(&mut self, n: usize) -> usize {
        if self.has(Flags::READY) {
            self.charge_budget(n);
        }
        self.mark_eof(n)
    }

    /// Returns whether this call of the handler may read on: the budget is not
    /// spent, and the outbound queue is not above the high-water mark.
    fn may_read(&self) -> bool {
        !self.has(Flags::BUDGET_SPENT) && self.refused() <= self.context.limits.high_water
    }

    /// Notes that the handler has read: the loop calls it again if there is
    /// more.
    pub(super) fn charge_budget(&mut self, n: usize) {
        self.set(Flags::CALL_AGAIN);
        let cost = (n as u64).clamp(u64::from(READ_BUDGET / READS), u64::from(READ_BUDGET));
        self.read_budget = self.read_budget.saturating_sub(cost as u32);
        if self.read_budget == 0 {
            self.set(Flags::BUDGET_SPENT);
        }
    }

    fn mark_eof(&mut self, n: usize) -> usize {
        if n == 0 {
            self.set(Flags::EOF);
        }
        n
    }

    /// Receives the bytes that the kernel has now; 0 is the end of the stream.
    fn read_nonblocking(&mut self, buf: &mut [u8]) -> Result<usize, Status> {
        if !self.has(Flags::READY) {
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
                // As in `recv_fast`, a short read has used up the input. But
                // urgent data cuts reads short, as descriptors do that came
                // over a unix socket, and an end of stream or an error is still
                // to be read.
                if n < room && !self.has(Flags::SPECIAL) {
                    self.clear(Flags::READY);
                }
                self.count_in(n);
                Ok(n)
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                self.clear(Flags::READY | Flags::SPECIAL);
                self.expect_short_reads();
                match self.has(Flags::SEND_FAILED) {
                    true => Err(self.cut_off()),
                    false => Err(Status::WouldBlock),
                }
            }
            Err(e) => Err(self.fail(&e)),
        }
    }

    /// Returns whether the end of input is a failure that the kernel has
    /// already reported to a send: it reports a failure once. A send that got
    /// EPIPE is different: the peer's end came before the failure.
    pub(super) fn is_cut_off(&self) -> bool {
        self.has(Flags::SEND_FAILED) && self.os_error != libc::EPIPE
    }

    pub(super) fn count_in(&mut self, n: usize) {
        if n > 0 {
            self.context.counters.bytes_in.add(n as u64);
            if self.has(Flags::TIMED) {
                self.active_at = clock::now();
            }
        }
    }

    pub(super) fn count_out(&mut self, n: usize) {
        self.context.counters.bytes_out.add(n as u64);
        if self.has(Flags::TIMED) {
            self.active_at = clock::now();
            self.forget_look();
        }
    }

    /// Does [`Conn::send`] in any state.
    pub fn send_any(&mut self, buf: &[u8]) -> Result<(), Status> {
        self.check_usable()?;
        let may_send = self.may_send();
        if !self.has(Flags::LOOP) {
            may_send.and_then(|()| self.may_wait()).inspect_err(|_| self.note_unsent())?;
            return self.with_deadline(self.wait_until(), |conn| match conn.has(Flags::TLS) {
                _ if conn.gathers() => conn.gather(buf),
                true => conn.send_tls(buf),
                false => conn.send_wait(buf),
            });
        }
        may_send?;
        self.collect();
        self.ensure_room(buf.len())?;
        if self.gathers() {
            // An error is one of queued bytes.
            let _ = self.gather(buf);
            return Ok(());
        }
        if self.has(Flags::TLS) {
            self.send_tls(buf)?;
            self.note_sent();
            return Ok(());
        }
        if self.phase().is_handshake() {
            // Nothing leaves unencrypted where TLS must begin.
            return Err(Status::State);
        }
        let written = self.write_now(|fd| match buf {
            [] => Ok(0),
            _ => sys::send(fd, buf, SendFlags::empty()),
        })?;
        self.enqueue(&buf[written..]);
        self.note_sent();
        Ok(())
    }

    /// Notes that something has left, or that more comes: what this callback sends
    /// from now on is gathered.
    pub(super) fn note_sent(&mut self) {
        if self.has(Flags::IN_CALLBACK) {
            self.set(Flags::SENT);
        }
    }

    pub(super) fn may_send(&self) -> Result<(), Status> {
        match () {
            () if self.has(Flags::OVER | Flags::WR_SHUT) => Err(Status::Closed),
            () if self.has(Flags::SEND_FAILED) => Err(self.send_failure()),
            () => Ok(()),
        }
    }

    /// Finishes a [`Conn::send_fast`] that left the fast path.
    pub fn send_slow(&mut self, raw: RawResult, buf: &[u8]) -> Result<(), Status> {
        let Some(result) = raw.result() else { return self.send_any(buf) };
        let written = self.note_write(result)?;
        if written == 0 && !self.context.ids.total_has_room(buf.len()) {
            return Err(Status::BufferFull);
        }
        self.enqueue(&buf[written..]);
        Ok(())
    }

    pub(super) fn enqueue(&mut self, rest: &[u8]) {
        if rest.is_empty() {
            return;
        }
        self.context.ids.count_queued(self.id, rest.len());
        self.queue().push(rest);
    }

    /// Sends several buffers as one [`Conn::send`] would.
    pub fn sendv(&mut self, bufs: &[IoSlice<'_>]) -> Result<(), Status> {
        if let [one] = bufs {
            return self.send(one);
        }
        let total = bufs.iter().map(|b| b.len()).sum();
        let fits = bufs.len() <= sys::MAX_PIECES;
        if !self.has(Flags::LOOP) || self.has(Flags::TLS) || total <= JOINED || !fits {
            let mut joined = Vec::with_capacity(total);
            bufs.iter().for_each(|buf| joined.extend_from_slice(buf));
            return self.send(&joined);
        }
        self.may_send()?;
        self.collect();
        self.ensure_room(total)?;
        if self.gathers() {
            for buf in bufs {
                let _ = self.gather(buf);
            }
            return Ok(());
        }
        self.send_pieces_now(bufs, SendFlags::empty())?;
        self.note_sent();
        Ok(())
    }

    /// Gives the kernel the bytes that it takes now, and queues the rest.
    fn send_pieces_now(&mut self, bufs: &[IoSlice<'_>], flags: SendFlags) -> Result<(), Status> {
        let mut written = self.write_now(|fd| sys::sendv(fd, bufs, flags))?;
        for buf in bufs {
            let skip = written.min(buf.len());
            written -= skip;
            self.enqueue(&buf[skip..]);
        }
        Ok(())
    }

    /// Gives bytes, ciphertext where the connection has TLS, to the kernel. On
    /// a loop it queues the bytes that the kernel does not take. Elsewhere it
    /// waits until the connection's own deadline, and then queues the rest too,
    /// because a record that was begun has to go on.
    pub(super) fn transmit(
        &mut self,
        bufs: &[IoSlice<'_>],
        flags: SendFlags,
    ) -> Result<(), Status> {
        if self.has(Flags::SEND_FAILED) {
            return Err(self.send_failure());
        }
        if self.has(Flags::LOOP) {
            return self.send_pieces_now(bufs, flags);
        }
        let mut result = Ok(());
        for buf in bufs {
            let mut sent = 0;
            if result.is_ok() {
                result = self.send_wait_counting(buf, &mut sent);
            }
            if !self.has(Flags::SEND_FAILED) {
                self.enqueue(&buf[sent..]);
            }
        }
        result
    }

    /// Takes over the bytes that were accepted by id for a loop's connection.
    /// This comes before anything that is sent next, and before a close.
    pub fn collect(&mut self) {
        if self.context.ids.direct() != 0 {
            return;
        }
        if let Some(queue) = self.context.inbox.take(self.id) {
            self.send_accepted(queue);
        }
    }

    /// Puts bytes that were accepted by id, and are counted as pending, behind
    /// the queued bytes, and sends as many as it can. It notes a failure in the
    /// connection.
    pub fn send_accepted(&mut self, bytes: OutBuf) {
        let len = bytes.len();
        if len == 0 || self.has(Flags::UNSENDABLE) {
            self.context.ids.sub(self.id, len);
            return;
        }
        let gathers = self.gathers();
        if gathers || self.has(Flags::TLS) {
            // A send that fails takes this back.
            self.set(Flags::DRAINED);
            for piece in bytes.pieces() {
                self.context.ids.hold(piece.len());
                self.context.ids.sub(self.id, piece.len());
                let _ = match self.is_upgrading() {
                    true => self.send_tls(piece),
                    false => self.gather(piece),
                };
                self.context.ids.let_go(piece.len());
            }
            if !gathers {
                let _ = self.flush_gathered();
                self.note_sent();
            }
            return;
        }
        self.queue().append(bytes);
        if self.phase() != Phase::Connecting {
            let _ = self.flush_queue();
        }
        self.note_sent();
    }

    pub(super) fn ensure_room(&mut self, n: usize) -> Result<(), Status> {
        let ids = &self.context.ids;
        if !ids.has_room(self.id, n) || !ids.total_has_room(n) {
            let _ = self.flush_gathered();
        }
        match self.context.ids.has_room(self.id, n) && self.may_pass_total(n) {
            true => Ok(()),
            false => Err(Status::BufferFull),
        }
    }

    /// Returns whether `n` bytes fit into the bound of all queues together, or
    /// need no queue, as far as that can be known: the kernel takes bytes now.
    pub(super) fn may_pass_total(&self, n: usize) -> bool {
        let ids = &self.context.ids;
        ids.total_has_room(n)
            || (n <= PASSING
                && ids.pending(self.id) == 0
                && self.fd().is_some_and(sys::is_writable))
    }

    /// Gives the kernel the bytes that it takes now, if nothing is queued
    /// before them.
    pub(super) fn write_now(
        &mut self,
        write: impl FnOnce(BorrowedFd<'_>) -> io::Result<usize>,
    ) -> Result<usize, Status> {
        if self.refused() > 0 {
            return Ok(0);
        }
        let Some(fd) = self.fd() else { return Err(Status::Closed) };
        let result = write(fd);
        self.note_write(result)
    }

    fn note_write(&mut self, result: io::Result<usize>) -> Result<usize, Status> {
        match result {
            Ok(n) => {
                self.count_out(n);
                Ok(n)
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(0),
            Err(e) => Err(self.fail_send(&e)),
        }
    }

    /// Returns the queue, which the caller fills.
    fn queue(&mut self) -> &mut OutBuf {
        let begins = self.refused() == 0;
        if begins {
            self.set(Flags::BACKLOG | Flags::ARM);
        }
        let out = self.out.get_or_insert_default();
        if begins {
            out.progress_at = clock::now();
        }
        out.is_reported = false;
        out
    }

    /// Puts a queue back that is not empty.
    fn put_queue(&mut self, out: Box<OutBuf>) {
        self.out = Some(out);
        self.set(Flags::BACKLOG);
    }

    /// Gives the queue to the caller, which writes it or gives it up.
    pub(super) fn take_queue(&mut self) -> Option<Box<OutBuf>> {
        self.clear(Flags::BACKLOG);
        self.out.take()
    }

    /// Drops the queue: its bytes are lost.
    pub(super) fn drop_queue(&mut self) {
        if let Some(out) = self.take_queue() {
            self.context.ids.sub(self.id, out.len() + out.gathered.len());
            if out.gathered.capacity() > 0 {
                self.context.scratch.put(out.gathered);
            }
        }
    }

    /// Writes from the queue the bytes that the kernel takes now. Returns
    /// `true` when the queue is empty.
    pub fn flush_queue(&mut self) -> Result<bool, Status> {
        let Some(mut out) = self.take_queue() else { return Ok(true) };
        let Some(fd) = self.fd() else { return Err(Status::Closed) };
        match out.write_to(fd) {
            Ok(n) => {
                out.progress_at = clock::now();
                out.ack_look = None;
                self.context.ids.sub(self.id, n);
                self.count_out(n);
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) => {
                self.put_queue(out);
                return Err(self.fail_send(&e));
            }
        }
        let is_empty = out.len() == 0;
        if out.len() <= self.context.limits.low_water && !out.is_reported {
            out.is_reported = true;
            if !self.has(Flags::UNOPENED) {
                self.set(Flags::DRAINED);
            }
        }
        if !is_empty || !out.gathered.is_empty() {
            self.put_queue(out);
        }
        if !is_empty {
            return Ok(false);
        }
        if self.has(Flags::WR_SHUT) && !self.is_upgrading() {
            self.send_fin();
        }
        Ok(true)
    }

    /// Looks, without waiting, whether input is unread. The kernel reports a
    /// failure once; if it reports the failure to this look, the connection has
    /// failed.
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

    /// Returns whether input, an end of stream or a failure can be read.
    pub fn has_input(&mut self) -> bool {
        let at_end = |fd| {
            let events = sys::poll(fd, PollFlags::IN | PollFlags::RDHUP, 0);
            events.is_ok_and(|events| !events.is_empty())
        };
        self.has_unread() || self.has(Flags::SEND_FAILED) || self.fd().is_some_and(at_end)
    }
}

/// Up to this many bytes `sendv` copies its buffers into one and sends that: it
/// is cheaper than sendmsg(2).
const JOINED: usize = 16 << 10;
