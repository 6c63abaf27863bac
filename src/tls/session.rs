//! A TLS session: ciphertext in, plaintext out, and the other way.

#![forbid(unsafe_code)]

use std::io::{self, BufRead, Read, Write};
use std::sync::Arc;

use rustls::{HandshakeKind, ProtocolVersion, ServerConfig, ServerConnection};

use super::{cert, TlsVersion};
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
    /// Plaintext that waits for the end of the handshake, in bytes; a loop's.
    pub held: usize,
    /// When the handshake must be over.
    pub deadline: u64,
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
    pub fn new(config: Arc<ServerConfig>, deadline: u64) -> Result<Session, Error> {
        let mut tls = ServerConnection::new(config).map_err(|e| failed(&e))?;
        // What is queued is bounded by `send_limit`, in the connection.
        tls.set_buffer_limit(None);
        Ok(Session { tls, ahead: Vec::new(), taken: 0, error: None, held: 0, deadline })
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
            match self.tls.read_tls(&mut rest) {
                Ok(n) if n > 0 => {}
                // Its buffer of plaintext is full.
                _ => return bytes.len() - rest.len(),
            }
            if let Err(e) = self.tls.process_new_packets() {
                self.error = Some(failed(&e));
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
            match self.tls.reader().read(&mut buf[filled..]) {
                Ok(0) if filled == 0 => return Ok(Plain::End),
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(_) if self.feed_ahead() => {}
                Err(_) => break,
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
            if self.tls.reader().fill_buf().is_ok() || self.error.is_some() {
                return true;
            }
            if !self.feed_ahead() {
                return false;
            }
        }
    }

    /// Encrypts.
    pub fn write(&mut self, plain: &[u8]) -> Result<(), Error> {
        self.tls.writer().write_all(plain).map_err(Error::from)
    }

    pub fn send_close_notify(&mut self) {
        self.tls.send_close_notify();
    }

    /// Gives what is to be sent to a writer that takes everything.
    pub fn write_to(&mut self, out: &mut dyn Write) -> io::Result<()> {
        while self.tls.wants_write() {
            self.tls.write_tls(out)?;
        }
        Ok(())
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
