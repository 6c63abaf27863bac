//! A session and its peer: bytes alone, or a client of rustls whose records are
//! split, changed and lost on the way.

use super::{Plain, Session};
use crate::clock::Deadline;
use crate::error::Status;
use crate::fuzzing::Input;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::Resumption;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, Error, ServerConfig, SignatureScheme,
};
use std::io::{Read, Write};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::{Arc, OnceLock};

use crate::tls::{provider, TlsConfig};

/// Judges one input.
pub fn target(data: &[u8]) {
    let mut input = Input(data);
    match input.byte() {
        kind if kind % 4 == 0 => raw(input),
        kind => Talk::new(kind).run(input),
    }
}

fn session() -> Session {
    static CONFIG: OnceLock<Arc<ServerConfig>> = OnceLock::new();
    let config = CONFIG.get_or_init(|| {
        let tls = TlsConfig::new();
        let (chain, key) = (
            include_bytes!("../../tests/data/server.pem"),
            include_bytes!("../../tests/data/server-key.pem"),
        );
        tls.add_cert_pem(None, chain, key).unwrap();
        tls.set_alpn(&[b"one", b"two"]).unwrap();
        tls.set_session_cache(16).unwrap();
        tls.set_client_ca_pem(include_bytes!("../../tests/data/ca.pem"), false).unwrap();
        tls.server_config().unwrap()
    });
    Session::new(config.clone(), Deadline::NEVER).unwrap()
}

/// What the session sends is records, each with a type of RFC 8446, 5.1.
fn check_records(mut out: &[u8]) {
    while !out.is_empty() {
        let &[kind, 3, 1..=4, high, low, ref rest @ ..] = out else { panic!("{out:?}") };
        let len = usize::from(high) << 8 | usize::from(low);
        assert!((20..=23).contains(&kind) && (1..=(1 << 14) + 2048).contains(&len));
        out = &rest[len..];
    }
}

/// Bytes of an input, in pieces whose lengths it says too.
fn raw(mut input: Input<'_>) {
    let mut session = session();
    let mut buffer = [0; 300];
    while !input.is_empty() {
        let order = input.byte();
        let n = if order < 200 { usize::from(order) } else { input.number() };
        let failed = session.error().is_some();
        session.feed(input.take(n));
        assert!(!session.panicked, "{:?}", session.error());
        assert!(!failed || session.error().is_some());
        if order & 1 == 1 {
            let readable = session.has_plain();
            let result = session.read(&mut buffer);
            assert!(!matches!(result, Ok(Plain::Bytes(_))), "plaintext before a handshake");
            assert_eq!(readable, !matches!(result, Ok(Plain::None)));
        }
    }
    let mut out = Vec::new();
    session.write_to(&mut out);
    check_records(&out);
    assert!(session.info().is_none());
    assert!(!session.panicked, "{:?}", session.error());
}

/// Takes any certificate: who the server is, is not the matter here.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

fn client(is_12: bool, alpn: bool) -> ClientConnection {
    static CONFIGS: OnceLock<[Arc<ClientConfig>; 4]> = OnceLock::new();
    let make = |number: usize| {
        let version =
            if number & 1 == 1 { &rustls::version::TLS12 } else { &rustls::version::TLS13 };
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[version])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody))
            .with_no_client_auth();
        config.resumption = Resumption::disabled();
        if number & 2 == 2 {
            config.alpn_protocols = vec![b"two".to_vec()];
        }
        Arc::new(config)
    };
    let configs = CONFIGS.get_or_init(|| [make(0), make(1), make(2), make(3)]);
    let config = &configs[usize::from(is_12) + 2 * usize::from(alpn)];
    ClientConnection::new(config.clone(), ServerName::try_from("localhost").unwrap()).unwrap()
}

/// A conversation. Plaintext is a stream of bytes, each of which says where it
/// belongs.
struct Talk {
    server: Session,
    client: ClientConnection,
    /// Ciphertext on its way.
    to_server: Vec<u8>,
    to_client: Vec<u8>,
    /// What each side has written and the other has read.
    up: (usize, usize),
    down: (usize, usize),
    /// Ciphertext was changed or lost, or an end came within the handshake.
    tampered: bool,
    client_failed: bool,
    /// It has panicked.
    client_is_broken: bool,
    key_changes: usize,
    client_closed: bool,
    server_closed: bool,
}

fn plain(from: usize, n: usize) -> Vec<u8> {
    (from..from + n).map(|i| (i % 251 + i / 251 % 7) as u8).collect()
}

impl Talk {
    fn new(kind: u8) -> Talk {
        Talk {
            server: session(),
            client: client(kind & 4 != 0, kind & 8 != 0),
            to_server: Vec::new(),
            to_client: Vec::new(),
            up: (0, 0),
            down: (0, 0),
            tampered: false,
            client_failed: false,
            client_is_broken: false,
            key_changes: 0,
            client_closed: false,
            server_closed: false,
        }
    }

    fn run(mut self, mut input: Input<'_>) {
        while !input.is_empty() {
            let order = input.byte();
            let size = match order >> 4 {
                15 => input.number() % 40_000,
                size => [0, 1, 2, 5, 6, 17, 60, 100, 200, 500, 1000, 2000, 5000, 9000, 17_000]
                    [usize::from(size)],
            };
            self.step(order & 15, size, &mut input);
            self.check_rustls();
        }
        self.finish();
    }

    /// rustls asserts, in a build with debug assertions, that no alert follows its
    /// close_notify; a bad record of the client's makes one. The session contains
    /// that panic.
    fn check_rustls(&self) {
        let is_known = self.server_closed && self.tampered;
        assert!(!self.server.panicked || is_known, "{:?}", self.server.error());
    }

    fn step(&mut self, order: u8, size: usize, input: &mut Input<'_>) {
        match order {
            0 | 1 => self.deliver_up(size),
            2 | 3 => self.deliver_down(size),
            4 => {
                self.deliver_up(usize::MAX);
                self.deliver_down(usize::MAX);
            }
            5 if !self.client_closed => {
                let bytes = plain(self.up.0, size);
                match self.client.writer().write(&bytes) {
                    Ok(n) => self.up.0 += n,
                    // The server has sent it an alert.
                    Err(error) => assert!(self.tampered, "{error}"),
                }
            }
            6 | 7 if !self.server.is_handshaking() && !self.server_closed => {
                if self.server.write(&plain(self.down.0, size)).is_ok() {
                    self.down.0 += size;
                }
            }
            8 | 9 => {
                self.read_server(size);
            }
            10 if !self.client_is_broken => {
                // Before the handshake is over this is an alert out of order.
                self.tampered |= self.client.is_handshaking() || self.server.is_handshaking();
                self.client.send_close_notify();
                self.client_closed = true;
            }
            11 => {
                self.tampered |= self.client.is_handshaking() || self.server.is_handshaking();
                self.server.send_close_notify();
                self.server_closed = true;
            }
            12 => {
                let (at, change) = (input.number(), input.byte());
                let len = self.to_server.len();
                if len > 0 && change != 0 {
                    self.to_server[at % len] ^= change;
                    self.tampered = true;
                }
            }
            13 => {
                let at = input.number() % (self.to_server.len() + 1);
                let lost = size.min(self.to_server.len() - at);
                self.to_server.drain(at..at + lost);
                self.tampered |= lost > 0;
            }
            14 => {
                let (at, n) = (input.number(), usize::from(input.byte()));
                let at = at % (self.to_server.len() + 1);
                let bytes = input.take(n);
                self.to_server.splice(at..at, bytes.iter().copied());
                self.tampered |= !bytes.is_empty();
            }
            _ if self.client_is_broken => {}
            _ => {
                if !self.client.is_handshaking() && self.client.protocol_version().is_some() {
                    // Of TLS 1.3: both sides change their keys.
                    let _ = self.client.refresh_traffic_keys();
                    // rustls bounds how many it takes.
                    self.key_changes += 1;
                    self.tampered |= self.key_changes > 30;
                }
            }
        }
    }

    /// Takes what the client has to send, and gives so much to the session.
    fn deliver_up(&mut self, most: usize) {
        while !self.client_is_broken && self.client.wants_write() {
            self.client.write_tls(&mut self.to_server).unwrap();
        }
        let n = most.min(self.to_server.len());
        let bytes: Vec<u8> = self.to_server.drain(..n).collect();
        self.server.feed(&bytes);
    }

    fn deliver_down(&mut self, most: usize) {
        let before = self.to_client.len();
        self.server.write_to(&mut self.to_client);
        check_records(&self.to_client[before..]);
        let n = most.min(self.to_client.len());
        let bytes: Vec<u8> = self.to_client.drain(..n).collect();
        let mut rest = bytes.as_slice();
        while !rest.is_empty() && !self.client_failed {
            match self.client.read_tls(&mut rest) {
                Ok(n) if n > 0 => {}
                _ => break,
            }
            let client = AssertUnwindSafe(|| self.client.process_new_packets());
            match catch_unwind(client) {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => {
                    // A client fails where it gets what no server sends.
                    assert!(self.tampered, "{error}");
                    self.client_failed = true;
                }
                // As in `check_rustls`.
                Err(_) => {
                    assert!(self.client_closed && self.tampered);
                    (self.client_failed, self.client_is_broken) = (true, true);
                    return;
                }
            }
            let mut got = [0; 4096];
            while let Ok(n @ 1..) = self.client.reader().read(&mut got) {
                assert!(got[..n] == plain(self.down.1, n), "wrong bytes from {} on", self.down.1);
                self.down.1 += n;
            }
        }
    }

    /// Reads plaintext and returns whether there was some.
    fn read_server(&mut self, size: usize) -> bool {
        let mut buffer = vec![0; size];
        let readable = self.server.has_plain();
        let result = self.server.read(&mut buffer);
        if size > 0 {
            assert_eq!(readable, !matches!(result, Ok(Plain::None)));
        }
        match result {
            Ok(Plain::Bytes(n)) => {
                assert!(!self.server.is_handshaking(), "plaintext before the handshake's end");
                assert!(buffer[..n] == plain(self.up.1, n), "wrong bytes from {} on", self.up.1);
                self.up.1 += n;
                assert!(self.up.1 <= self.up.0);
                true
            }
            Ok(Plain::End) => {
                assert!(self.client_closed || self.tampered);
                false
            }
            Ok(Plain::None) => false,
            Err(status) => {
                assert!(status == Status::Tls && self.tampered, "{:?}", self.server.error());
                false
            }
        }
    }

    /// What was not changed arrives whole.
    fn finish(mut self) {
        for _ in 0..8 {
            self.deliver_up(usize::MAX);
            self.deliver_down(usize::MAX);
            while self.read_server(10_000) {}
            self.check_rustls();
        }
        if self.tampered {
            return;
        }
        // Without ALPN, and with a protocol that the server has, it agrees.
        let early_end = self.client_closed || self.server_closed;
        assert!(early_end || self.server.info().is_some(), "{:?}", self.server.error());
        if !early_end {
            assert_eq!(self.up.0, self.up.1);
        }
        if !self.client_closed {
            assert_eq!(self.down.0, self.down.1);
        }
    }
}
