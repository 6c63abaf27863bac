//! Receiving and sending. On a loop a call never waits; elsewhere it does
//! (`wait.rs`).

#![forbid(unsafe_code)]

use std::io::{self, IoSlice};
use std::os::fd::BorrowedFd;
use std::sync::atomic::Ordering;

use super::fast::RawResult;
use super::{flag, Conn, ForcedEnd};
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
            // The input belongs to the TLS handshake, not to the program.
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

    /// Finishes a [`Conn::recv_fast`] that left the fast path.
    pub fn recv_slow(&mut self, raw: RawResult, buf: &mut [u8]) -> Result<usize, Status> {
        let Some(result) = raw.result() else { return self.recv_any(buf) };
        let n = self.note_read(result, buf.len())?;
        Ok(self.finish_read(n))
    }

    /// Charges a read. A short read has used up the input: it costs nothing of
    /// the budget, and the loop does not call the handler again for it.
    fn finish_read(&mut self, n: usize) -> usize {
        if self.has(flag::READY) {
            self.charge_budget(n);
        }
        self.mark_eof(n)
    }

    /// Returns whether this call of the handler may read on: the budget is not
    /// spent, and the outbound queue is not above the high-water mark.
    pub(super) fn may_read(&self) -> bool {
        !self.has(flag::BUDGET_SPENT) && self.queued() <= self.context.limits.high_water
    }

    /// Notes that the handler has read: the loop calls it again if there is
    /// more.
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

    /// Receives the bytes that the kernel has now; 0 is the end of the stream.
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
                // As in `recv_fast`, a short read has used up the input. But
                // urgent data cuts reads short, and an end of stream or an
                // error is still to be read.
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

    /// Returns whether the end of input is a failure that the kernel has
    /// already reported to a send: it reports a failure once. A send that got
    /// EPIPE is different: the peer's end came before the failure.
    pub(super) fn is_cut_off(&self) -> bool {
        self.has(flag::SEND_FAILED) && self.os_error != libc::EPIPE
    }

    /// Breaks the connection off with that failure, now that all received input
    /// was read, and returns its status.
    pub(super) fn cut_off(&mut self) -> Status {
        self.break_off(self.os_error);
        self.send_failure()
    }

    /// Returns the status of a send after sending has failed.
    pub(super) fn send_failure(&self) -> Status {
        Status::of_transfer(&io::Error::from_raw_os_error(self.os_error))
    }

    pub(super) fn count_in(&mut self, n: usize) {
        if n > 0 {
            self.context.counters.bytes_in.add(n as u64);
            self.touch();
        }
    }

    pub(super) fn count_out(&mut self, n: usize) {
        self.context.counters.bytes_out.add(n as u64);
        self.touch();
    }

    fn touch(&mut self) {
        if self.has(flag::TIMED) {
            self.active_at = clock::now();
        }
    }

    /// Does [`Conn::send`] in any state.
    pub fn send_any(&mut self, buf: &[u8]) -> Result<(), Status> {
        self.usable()?;
        let may_send = self.may_send();
        if !self.has(flag::LOOP) {
            may_send.and_then(|()| self.may_wait()).inspect_err(|_| self.note_unsent())?;
            return match self.has(flag::TLS) {
                true => self.send_tls(buf),
                false => self.send_wait(buf),
            };
        }
        may_send?;
        self.collect();
        self.admit(buf.len())?;
        if self.has(flag::TLS) {
            return self.send_tls(buf);
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
        Ok(())
    }

    fn may_send(&self) -> Result<(), Status> {
        match () {
            () if self.has(flag::OVER | flag::WR_SHUT) => Err(Status::Closed),
            () if self.has(flag::SEND_FAILED) => Err(self.send_failure()),
            () => Ok(()),
        }
    }

    /// Finishes a [`Conn::send_fast`] that left the fast path.
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
        if !self.has(flag::LOOP) || self.has(flag::TLS) || total <= GATHER || !fits {
            let mut joined = Vec::with_capacity(total);
            bufs.iter().for_each(|buf| joined.extend_from_slice(buf));
            return self.send(&joined);
        }
        self.may_send()?;
        self.collect();
        self.admit(total)?;
        self.send_pieces_now(bufs)
    }

    /// Gives the kernel the bytes that it takes now, and queues the rest.
    fn send_pieces_now(&mut self, bufs: &[IoSlice<'_>]) -> Result<(), Status> {
        let mut written = self.write_now(|fd| sys::sendv(fd, bufs, SendFlags::empty()))?;
        for buf in bufs {
            let skip = written.min(buf.len());
            written -= skip;
            self.enqueue(&buf[skip..]);
        }
        Ok(())
    }

    /// Sends ciphertext. On a loop it queues the bytes that the kernel does not
    /// take. Elsewhere it waits; where it must not wait any longer it queues
    /// the rest too, because a record that was begun has to go on.
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

    /// Gives the kernel the bytes that it takes now, if nothing is queued
    /// before them.
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
                self.count_out(n);
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
        self.out.get_or_insert_with(|| Box::new(OutBuf::begun_at(clock::now())))
    }

    /// Gives the queue to the caller, which writes it or gives it up.
    pub(super) fn take_queue(&mut self) -> Option<Box<OutBuf>> {
        self.clear(flag::BACKLOG);
        self.out.take()
    }

    /// Drops the queue: its bytes are lost.
    pub(super) fn drop_queue(&mut self) {
        if let Some(out) = self.take_queue() {
            self.context.ids.sub(self.id, out.len());
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
                self.context.ids.sub(self.id, n);
                self.count_out(n);
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
            // This comes before `WR_SHUT` is set: from then on the FIN follows
            // the queue immediately.
            let until = self.linger_until();
            self.with_deadline(until, Conn::send_last);
        }
        self.set(flag::WR_SHUT);
        if ends_now {
            self.end_sending();
        }
    }

    /// Sends the close_notify of TLS, and, where calls wait, what is queued.
    fn send_last(&mut self) {
        self.send_close_notify();
        if self.has(flag::BACKLOG) && !self.has(flag::LOOP) {
            let _ = self.send_wait(&[]);
        }
    }

    /// Ends sending, behind the queued bytes. During a TLS handshake the end
    /// waits, with the bytes that go out when the handshake is over.
    pub fn end_sending(&mut self) {
        self.send_close_notify();
        if !self.has(flag::BACKLOG) {
            self.send_fin();
        }
    }

    /// Returns whether a loop's connection is changing over to TLS.
    pub fn is_upgrading(&self) -> bool {
        self.has(flag::LOOP) && (self.has(flag::STARTTLS) || self.phase().is_handshake())
    }

    pub(super) fn send_fin(&mut self) {
        if self.has(flag::FIN_SENT) || self.is_input_shut() {
            return;
        }
        self.set(flag::FIN_SENT);
        if let Some(fd) = self.fd() {
            let _ = socket2::SockRef::from(&fd).shutdown(std::net::Shutdown::Write);
        }
    }

    /// Returns whether another thread has ended this worker's connection and
    /// may have shut its input. Then the end is sent last, when the peer has
    /// acknowledged all ([`Remains`](crate::linger::Remains)). Otherwise no
    /// thread shuts the input any more.
    fn is_input_shut(&self) -> bool {
        if self.has(flag::LOOP | flag::OWNED) {
            return false;
        }
        self.context.fin_sent.store(true, Ordering::SeqCst);
        let is_ended = self.context.forced_end() != ForcedEnd::None;
        if is_ended {
            self.context.fin_sent.store(false, Ordering::SeqCst);
        }
        is_ended
    }

    /// Shuts the input for the program, which reads nothing more. It does not
    /// call shutdown(2): the kernel would report an end that the peer never
    /// sent, also to a later linger.
    pub fn shut_read(&mut self) {
        if !self.has(flag::EOF) {
            self.set(flag::EOF | flag::RD_SHUT);
        }
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
        self.has_unread() || self.has(flag::SEND_FAILED) || self.fd().is_some_and(at_end)
    }

    /// Does a close where no loop does the rest: the peer sees the end now.
    pub fn shut_now(&mut self) {
        self.say_goodbye(self.linger_until());
        if !self.has(flag::ABORT) {
            self.send_fin();
        }
    }
}

/// Up to this many bytes `sendv` copies its buffers into one and sends that: it
/// is cheaper than sendmsg(2).
const GATHER: usize = 16 << 10;
