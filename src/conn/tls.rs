//! TLS in a connection: the session stands between the program and the
//! transfer.

#![forbid(unsafe_code)]

use std::cell::Cell;
use std::io::{self, IoSlice, Write};
use std::sync::Arc;

use super::{Conn, Flags, Phase};
use crate::clock::{self, Deadline};
use crate::error::{CloseReason, Error, Status};
use crate::sys::SendFlags;
use crate::tls::{Plain, ServerConfig, Session, TlsInfo};

/// Size of the buffer for received ciphertext. Each thread has one: an idle
/// connection holds no buffer.
const SCRATCH: usize = 128 << 10;
/// The session encrypts and sends plaintext in pieces of at most this many
/// bytes, so that ciphertext leaves while it is still in the processor's cache.
const PIECE: usize = 128 << 10;

thread_local! {
    static SCRATCH_BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

impl Conn {
    /// Sends and receives everything through TLS from now on. `ahead` holds the
    /// bytes of it that were received before. The handshake may last `millis`,
    /// in ms.
    pub fn begin_tls(
        &mut self,
        config: Arc<ServerConfig>,
        ahead: &[u8],
        millis: u64,
    ) -> Result<(), Error> {
        let mut session = Session::new(config, Deadline::after_ms(millis))?;
        if !ahead.is_empty() {
            session.heard_at = clock::now();
        }
        session.feed(ahead);
        self.tls = Some(Box::new(session));
        self.set(Flags::TLS);
        Ok(())
    }

    /// Returns the error that broke the session, with its reason.
    pub fn tls_error(&self) -> Error {
        let error = self.tls.as_ref().and_then(|tls| tls.error());
        let error = error.filter(|error| error.status() == Status::Tls);
        error.map_or(Error::from(Status::Tls), |e| Error::new(Status::Tls, e.message()))
    }

    pub fn tls_info(&self) -> Option<TlsInfo> {
        self.tls.as_ref()?.info()
    }

    pub(super) fn recv_tls(&mut self, buf: &mut [u8]) -> Result<usize, Status> {
        loop {
            let Some(tls) = &mut self.tls else { return Err(Status::Closed) };
            let plain = tls.read(buf);
            match plain {
                Ok(Plain::None) => self.pull()?,
                Ok(Plain::Bytes(n)) => {
                    self.charge_budget(n);
                    self.look_for_plain();
                    return Ok(n);
                }
                Ok(Plain::End) => {
                    self.charge_budget(0);
                    self.clear(Flags::DECRYPTED);
                    self.set(Flags::EOF);
                    return Ok(0);
                }
                Err(status) => {
                    self.clear(Flags::DECRYPTED);
                    self.set(Flags::BROKEN);
                    self.reason = CloseReason::Reset;
                    return Err(status);
                }
            }
        }
    }

    /// Sets `DECRYPTED` if there is plaintext to read, and clears it if not.
    pub fn look_for_plain(&mut self) {
        match self.tls.as_mut().is_some_and(|tls| tls.has_plain()) {
            true => self.set(Flags::DECRYPTED),
            false => self.clear(Flags::DECRYPTED),
        }
    }

    /// Takes ciphertext in until there is plaintext for the handler or until
    /// nothing more can be read now. Only a loop calls it.
    pub fn pump(&mut self) {
        for _ in 0..super::READS {
            self.look_for_plain();
            if self.has(Flags::DECRYPTED) || !self.has(Flags::READY) || self.pull().is_err() {
                break;
            }
        }
        self.look_for_plain();
        if !self.has(Flags::DECRYPTED) && self.has(Flags::READY) {
            // The peer sends fragments without end: the loop goes on after the
            // other connections had their turn.
            self.set(Flags::CALL_AGAIN);
        }
    }

    /// Receives ciphertext once, and sends the session's reply. The session
    /// keeps a failure of the transport, so that the handler reads all received
    /// input before it.
    fn pull(&mut self) -> Result<(), Status> {
        // The buffer is lent for this call. A thread that has already dropped
        // its locals, and calls this in a destructor, uses a new buffer each
        // time.
        let mut scratch = SCRATCH_BUFFER.try_with(Cell::take).unwrap_or_default();
        scratch.resize(SCRATCH, 0);
        let result = self.pull_into(&mut scratch);
        let _ = SCRATCH_BUFFER.try_with(|place| place.set(scratch));
        result
    }

    fn pull_into(&mut self, scratch: &mut [u8]) -> Result<(), Status> {
        let received = self.receive(scratch);
        let is_deferred = self.has(Flags::BROKEN);
        let os_error = self.os_error;
        let Some(tls) = &mut self.tls else { return Err(Status::Closed) };
        match received {
            Ok(0) => tls.fail(Error::from(Status::Truncated)),
            Ok(n) => tls.feed(&scratch[..n]),
            Err(Status::WouldBlock) => return Err(Status::WouldBlock),
            Err(status) if is_deferred => {
                tls.fail(Error::with_os_code(status, os_error));
                self.clear(Flags::BROKEN);
            }
            Err(status) => return Err(status),
        }
        // If the reply cannot be sent, the handler may still read the received
        // input.
        let _ = self.push_tls();
        Ok(())
    }

    /// Sends the bytes that the session has ready to send.
    pub fn push_tls(&mut self) -> Result<(), Status> {
        let Some(mut tls) = self.tls.take() else { return Ok(()) };
        let mut held = Vec::new();
        if !tls.held.is_empty() && !tls.is_handshaking() {
            // From here on these bytes count as queued, even if the kernel
            // takes all.
            held = std::mem::take(&mut tls.held);
            self.context.ids.hold(held.len());
            self.context.ids.sub(self.id, held.len());
            self.set(Flags::DRAINED);
        }
        let mut sink = Sink { conn: self, failed: None };
        tls.write_to(&mut sink);
        for piece in held.chunks(PIECE) {
            // If the session is broken, the next read reports it.
            let _ = tls.write(piece);
            tls.write_to(&mut sink);
        }
        let failed = sink.failed;
        self.context.ids.let_go(held.len());
        self.tls = Some(tls);
        failed.map_or(Ok(()), Err)
    }

    pub(super) fn send_tls(&mut self, plain: &[u8]) -> Result<(), Status> {
        plain.chunks(PIECE).try_for_each(|piece| self.send_piece(piece))
    }

    fn send_piece(&mut self, plain: &[u8]) -> Result<(), Status> {
        let Some(tls) = &mut self.tls else { return Err(Status::Closed) };
        if tls.is_handshaking() {
            if tls.error().is_none() {
                tls.held.extend_from_slice(plain);
                self.context.ids.count_queued(self.id, plain.len());
            } else if !self.has(Flags::STARTTLS) {
                // The loop reports a handshake that fails in the callback.
                return Err(Status::Tls);
            }
            return self.push_tls();
        }
        tls.write(plain).map_err(|_| Status::Tls)?;
        self.push_tls()
    }

    /// Sends close_notify, which reports to the peer that the stream ends here,
    /// once.
    pub fn send_close_notify(&mut self) {
        if !self.has(Flags::TLS)
            || self.has(Flags::BROKEN | Flags::ABORT | Flags::CLOSE_NOTIFY_SENT)
        {
            return;
        }
        self.set(Flags::CLOSE_NOTIFY_SENT);
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
        }
        // Where calls wait, they do not wait longer for a peer that does not
        // read.
        let until = self.linger_until().min(self.wait_until());
        let _ = self.with_deadline(until, Conn::push_tls);
    }

    /// Runs `body` with an earlier end of all waiting, which holds for all of
    /// its system calls together. It never waits longer than without this
    /// bound.
    pub(super) fn with_deadline<T>(
        &mut self,
        until: Deadline,
        body: impl FnOnce(&mut Conn) -> T,
    ) -> T {
        let outer = self.own_deadline;
        self.own_deadline = until.min(outer);
        let result = body(self);
        if !self.has_given_up_waiting() {
            self.own_deadline = outer;
        }
        result
    }

    /// Ends all waiting of this connection for good, also that of later calls.
    pub(super) fn give_up_waiting(&mut self) {
        self.own_deadline = Deadline::NOW;
    }

    fn has_given_up_waiting(&self) -> bool {
        self.own_deadline == Deadline::NOW
    }

    /// Does as much of the handshake as is possible now. Returns `Ok(true)`
    /// when the handshake is over.
    pub fn handshake_step(&mut self) -> Result<bool, Error> {
        loop {
            let pushed = self.push_tls();
            let Some(tls) = &mut self.tls else { return Err(Error::from(Status::Closed)) };
            if let Some(error) = tls.take_error() {
                return Err(handshake_error(error));
            }
            pushed.map_err(|status| handshake_error(Error::from(status)))?;
            if !tls.is_handshaking() {
                return Ok(true);
            }
            match self.pull() {
                Ok(()) => {}
                Err(Status::WouldBlock) => return Ok(false),
                Err(status) => return Err(handshake_error(Error::from(status))),
            }
        }
    }

    /// Does the whole handshake and waits for it.
    pub fn handshake_wait(&mut self) -> Result<(), Error> {
        let until = self.tls.as_ref().map_or(Deadline::NEVER, |tls| tls.deadline);
        let phase = self.phase();
        self.set_phase(Phase::Handshake);
        let result = self.with_deadline(until, Conn::handshake_step);
        if result.is_ok() {
            self.set_phase(phase);
        }
        result.map(drop)
    }
}

pub(crate) fn handshake_timeout() -> Error {
    Error::new(Status::Timeout, "the TLS handshake timed out")
}

/// The error that a failure of the session or of the transport is in a
/// handshake.
pub(crate) fn handshake_error(error: Error) -> Error {
    match error.status() {
        Status::Timeout => handshake_timeout(),
        Status::Truncated => Error::new(
            Status::Handshake,
            "the TLS handshake failed: the peer closed the connection",
        ),
        _ => Error::new(Status::Handshake, format!("the TLS handshake failed: {error}")),
    }
}

/// The connection as the sink of a session's ciphertext: it takes everything.
struct Sink<'a> {
    conn: &'a mut Conn,
    failed: Option<Status>,
}

impl Write for Sink<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(buf)])
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        if let Err(status) = self.conn.transmit(bufs, SendFlags::empty()) {
            self.failed = Some(status);
            if self.conn.has(Flags::SEND_FAILED) {
                return Err(io::ErrorKind::Other.into());
            }
        }
        Ok(bufs.iter().map(|b| b.len()).sum())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
