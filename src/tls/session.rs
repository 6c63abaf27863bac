//! A TLS session: ciphertext in, plaintext out, and the other way.

#![forbid(unsafe_code)]

use std::io::{BufRead, Read, Write};
use std::sync::Arc;

use rustls::{HandshakeKind, ProtocolVersion, ServerConfig, ServerConnection};

use super::{cert, TlsVersion};
use crate::callback::contain;
use crate::clock::Deadline;
use crate::error::{Error, Status};

/// What a session has for the reader.
pub(crate) enum Plain {
    Bytes(usize),
    /// close_notify: the peer ended the stream in good order.
    End,
    /// More ciphertext is needed.
    None,
}

pub(crate) struct Session {
    tls: ServerConnection,
    /// Ciphertext that is not taken in yet, from an offset on: rustls bounds
    /// what it decrypts before somebody reads it.
    ahead: Vec<u8>,
    taken: usize,
    /// What ended the stream, told after everything that arrived before: a
    /// broken rule, a failed transport, or an end without close_notify, so
    /// that something may be missing (RFC 8446, 6.1).
    error: Option<Error>,
    /// Plaintext that waits for the end of the handshake; a loop's.
    pub held: Vec<u8>,
    /// A wake came during the handshake; a loop's.
    pub wake_pending: bool,
    /// When something was last received of the handshake; a loop's.
    pub heard_at: u64,
    /// rustls panicked: it is not called any more.
    dead: bool,
    /// When the handshake must be over.
    pub deadline: Deadline,
}

/// What was agreed in a handshake.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TlsInfo {
    /// The version.
    pub version: TlsVersion,
    /// The cipher suite by its IANA name.
    pub cipher_suite: String,
    /// The application protocol, if one was agreed (RFC 7301).
    pub alpn: Option<Vec<u8>>,
    /// The name that the client asked for (RFC 6066, section 3).
    pub server_name: Option<String>,
    /// The session was resumed.
    pub resumed: bool,
    /// The verified certificate of the client in DER.
    pub peer_certificate: Option<Vec<u8>>,
    /// Its subject as RFC 4514 writes it.
    pub peer_subject: Option<String>,
}

impl Session {
    pub fn new(config: Arc<ServerConfig>, deadline: Deadline) -> Result<Session, Error> {
        let mut tls = ServerConnection::new(config).map_err(|e| failed(&e))?;
        // What is queued is bounded by `send_limit`, in the connection.
        tls.set_buffer_limit(None);
        Ok(Session {
            tls,
            ahead: Vec::new(),
            taken: 0,
            error: None,
            held: Vec::new(),
            wake_pending: false,
            heard_at: 0,
            dead: false,
            deadline,
        })
    }

    /// Calls rustls. A panic in it is the failure of this session alone, and
    /// never of the thread that serves others too.
    fn guarded<T>(&mut self, call: impl FnOnce(&mut ServerConnection) -> T) -> Option<T> {
        if self.dead {
            self.error.get_or_insert(Error::from(Status::Tls));
            return None;
        }
        match contain(|| call(&mut self.tls)) {
            Ok(result) => Some(result),
            Err(panic) => {
                self.dead = true;
                self.error.get_or_insert(Error::new(Status::Tls, format!("TLS: {panic}")));
                None
            }
        }
    }

    pub fn is_handshaking(&self) -> bool {
        self.tls.is_handshaking()
    }

    /// Takes ciphertext in. What it makes to be sent, an alert too, is left
    /// for [`Session::write_to`].
    pub fn feed(&mut self, bytes: &[u8]) {
        if self.ahead.is_empty() {
            let taken = self.take_in(bytes);
            self.ahead.extend_from_slice(&bytes[taken..]);
        } else {
            self.ahead.drain(..std::mem::take(&mut self.taken));
            self.ahead.extend_from_slice(bytes);
            self.feed_ahead();
        }
    }

    /// Takes in what was left for later; `false` where nothing could be.
    fn feed_ahead(&mut self) -> bool {
        if self.ahead.is_empty() {
            return false;
        }
        let ahead = std::mem::take(&mut self.ahead);
        let taken = self.take_in(&ahead[self.taken..]);
        self.taken += taken;
        if self.taken < ahead.len() {
            self.ahead = ahead;
        } else {
            self.taken = 0;
        }
        taken > 0
    }

    fn take_in(&mut self, bytes: &[u8]) -> usize {
        let mut rest = bytes;
        while !rest.is_empty() && self.error.is_none() {
            let fed = self.guarded(|tls| match tls.read_tls(&mut rest) {
                Ok(n) if n > 0 => Some(tls.process_new_packets().err()),
                // Its buffer of plaintext is full.
                _ => None,
            });
            match fed {
                Some(None) => return bytes.len() - rest.len(),
                Some(Some(Some(e))) => self.error = Some(failed(&e)),
                Some(Some(None)) | None => {}
            }
        }
        // After an error nothing more is looked at.
        bytes.len()
    }

    /// The transport ended or failed; the first failure stays.
    pub fn fail(&mut self, error: Error) {
        self.error.get_or_insert(error);
    }

    /// What ended the stream, if it did.
    pub fn error(&self) -> Option<&Error> {
        self.error.as_ref()
    }

    /// The failure of a handshake.
    pub fn take_error(&mut self) -> Option<Error> {
        self.error.take()
    }

    /// Reads plaintext, taking in what was left for later as it goes.
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

    /// Plaintext, an end or a failure is there to be read.
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

    /// Encrypts.
    pub fn write(&mut self, plain: &[u8]) -> Result<(), Error> {
        let written = self.guarded(|tls| tls.writer().write_all(plain));
        written.ok_or(Error::from(Status::Tls))?.map_err(Error::from)
    }

    pub fn send_close_notify(&mut self) {
        self.guarded(|tls| tls.send_close_notify());
    }

    /// Gives what is to be sent to a writer, until that one fails.
    pub fn write_to(&mut self, out: &mut dyn Write) {
        self.guarded(|tls| while tls.wants_write() && tls.write_tls(out).is_ok() {});
    }

    /// `None` while the handshake is not over.
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
