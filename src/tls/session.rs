//! A TLS session: ciphertext in, plaintext out, and the other way.

#![forbid(unsafe_code)]

#[cfg(any(test, fuzzing))]
#[path = "../fuzzing/session.rs"]
pub(super) mod fuzzing;

use std::io::{BufRead, Read, Write};
use std::sync::Arc;

use rustls::{HandshakeKind, ProtocolVersion, ServerConfig, ServerConnection};

use super::{cert, Plain, TlsInfo, TlsVersion};
use crate::callback::contain;
use crate::clock::Deadline;
use crate::error::{Error, Status};

pub(crate) struct Session {
    tls: ServerConnection,
    /// Ciphertext that rustls has not accepted yet, from `ahead_start` on:
    /// rustls bounds the plaintext that waits for a reader.
    ahead: Vec<u8>,
    ahead_start: usize,
    /// The error that ended the stream, which the session reports after all
    /// bytes before it: a violation of the protocol, a failure of the
    /// transport, or an end without close_notify, after which bytes may be
    /// missing (RFC 8446, 6.1).
    error: Option<Error>,
    /// Plaintext to send when the handshake is over; used on loops.
    pub held: Vec<u8>,
    /// A wake came during the handshake; used on loops.
    pub wake_pending: bool,
    /// When bytes of the handshake last came; used on loops.
    pub heard_at: u64,
    /// rustls has panicked, so the session does not call it any more.
    panicked: bool,
    /// The time at which the handshake must be over.
    pub deadline: Deadline,
}

impl Session {
    pub fn new(config: Arc<ServerConfig>, deadline: Deadline) -> Result<Session, Error> {
        let mut tls = ServerConnection::new(config).map_err(|e| failed(&e))?;
        // The connection bounds the queue, by `send_limit`.
        tls.set_buffer_limit(None);
        Ok(Session {
            tls,
            ahead: Vec::new(),
            ahead_start: 0,
            error: None,
            held: Vec::new(),
            wake_pending: false,
            heard_at: 0,
            panicked: false,
            deadline,
        })
    }

    /// Calls rustls. A panic in it is a failure of this session alone, not of
    /// the thread, which serves other sessions too.
    fn guarded<T>(&mut self, call: impl FnOnce(&mut ServerConnection) -> T) -> Option<T> {
        if self.panicked {
            self.error.get_or_insert(Error::from(Status::Tls));
            return None;
        }
        match contain(|| call(&mut self.tls)) {
            Ok(result) => Some(result),
            Err(panic) => {
                self.panicked = true;
                self.error.get_or_insert(Error::new(Status::Tls, format!("TLS: {panic}")));
                None
            }
        }
    }

    pub fn is_handshaking(&self) -> bool {
        self.tls.is_handshaking()
    }

    /// Gives ciphertext to rustls. [`Session::write_to`] sends the reply to
    /// it, which may be an alert.
    pub fn feed(&mut self, bytes: &[u8]) {
        if self.ahead.is_empty() {
            let accepted = self.feed_rustls(bytes);
            self.ahead.extend_from_slice(&bytes[accepted..]);
        } else {
            self.ahead.drain(..std::mem::take(&mut self.ahead_start));
            self.ahead.extend_from_slice(bytes);
            self.feed_ahead();
        }
    }

    /// Gives the ciphertext in `ahead` to rustls and returns whether rustls
    /// accepted some of it.
    fn feed_ahead(&mut self) -> bool {
        if self.ahead.is_empty() {
            return false;
        }
        let ahead = std::mem::take(&mut self.ahead);
        let accepted = self.feed_rustls(&ahead[self.ahead_start..]);
        self.ahead_start += accepted;
        if self.ahead_start < ahead.len() {
            self.ahead = ahead;
        } else {
            self.ahead_start = 0;
        }
        accepted > 0
    }

    /// Returns how many of the bytes rustls accepted.
    fn feed_rustls(&mut self, bytes: &[u8]) -> usize {
        let mut rest = bytes;
        while !rest.is_empty() && self.error.is_none() {
            let fed = self.guarded(|tls| match tls.read_tls(&mut rest) {
                Ok(n) if n > 0 => Some(tls.process_new_packets().err()),
                // Its buffer for plaintext is full.
                _ => None,
            });
            match fed {
                Some(None) => return bytes.len() - rest.len(),
                Some(Some(Some(e))) => self.error = Some(failed(&e)),
                Some(Some(None)) | None => {}
            }
        }
        // After an error the rest is ignored.
        bytes.len()
    }

    /// Ends the stream with an error. An earlier error stays.
    pub fn fail(&mut self, error: Error) {
        self.error.get_or_insert(error);
    }

    /// Returns the error that ended the stream, if there is one.
    pub fn error(&self) -> Option<&Error> {
        self.error.as_ref()
    }

    /// Takes the error out, where it is the failure of a handshake.
    pub fn take_error(&mut self) -> Option<Error> {
        self.error.take()
    }

    /// Reads plaintext. In between it gives the ciphertext in `ahead` to
    /// rustls.
    pub fn read(&mut self, buf: &mut [u8]) -> Result<Plain, Status> {
        let mut filled = 0;
        while filled < buf.len() {
            match self.guarded(|tls| tls.reader().read(&mut buf[filled..])) {
                Some(Ok(0)) if filled == 0 => return Ok(Plain::End),
                Some(Ok(n)) if n > 0 => filled += n,
                Some(Err(_)) if self.feed_ahead() => {}
                _ => break,
            }
        }
        match (filled, &self.error) {
            (0, Some(error)) => Err(error.status()),
            (0, None) => Ok(Plain::None),
            (n, _) => Ok(Plain::Bytes(n)),
        }
    }

    /// Returns whether plaintext, an end or an error can be read.
    pub fn has_plain(&mut self) -> bool {
        loop {
            let readable = self.guarded(|tls| tls.reader().fill_buf().is_ok());
            if readable == Some(true) || self.error.is_some() {
                return true;
            }
            if !self.feed_ahead() {
                return false;
            }
        }
    }

    /// Encrypts plaintext, which [`Session::write_to`] then sends.
    pub fn write(&mut self, plain: &[u8]) -> Result<(), Error> {
        let written = self.guarded(|tls| tls.writer().write_all(plain));
        written.ok_or(Error::from(Status::Tls))?.map_err(Error::from)
    }

    pub fn send_close_notify(&mut self) {
        self.guarded(|tls| tls.send_close_notify());
    }

    /// Writes the pending records to a writer, until the writer fails.
    pub fn write_to(&mut self, out: &mut dyn Write) {
        self.guarded(|tls| while tls.wants_write() && tls.write_tls(out).is_ok() {});
    }

    /// Returns the result of the handshake; `None` until it is over.
    pub fn info(&self) -> Option<TlsInfo> {
        if self.tls.is_handshaking() {
            return None;
        }
        let version = match self.tls.protocol_version()? {
            ProtocolVersion::TLSv1_3 => TlsVersion::V1_3,
            _ => TlsVersion::V1_2,
        };
        let suite = self.tls.negotiated_cipher_suite()?.suite();
        let certificate = self.tls.peer_certificates().and_then(|chain| chain.first());
        Some(TlsInfo {
            version,
            cipher_suite: iana_name(&format!("{suite:?}")),
            alpn: self.tls.alpn_protocol().map(<[u8]>::to_vec),
            server_name: self.tls.server_name().map(str::to_string),
            resumed: self.tls.handshake_kind() == Some(HandshakeKind::Resumed),
            peer_certificate: certificate.map(|c| c.to_vec()),
            peer_subject: certificate.map(|c| cert::subject(c)),
        })
    }
}

/// rustls writes `TLS13_…` where IANA writes `TLS_…`.
fn iana_name(name: &str) -> String {
    name.replacen("TLS13_", "TLS_", 1)
}

fn failed(error: &rustls::Error) -> Error {
    Error::new(Status::Tls, format!("TLS: {error}"))
}
