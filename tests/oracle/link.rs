//! A client's end of a connection: in the clear, through TLS, or first one and then the other. No
//! call waits.

use super::wire::Reader;
use crate::support::*;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use socket2::{Domain, SockAddr, SockRef, Socket, Type};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// A client that trusts the authority of the tests.
fn config() -> Arc<ClientConfig> {
    static CONFIG: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    let make = || {
        let mut roots = RootCertStore::empty();
        let authority = include_bytes!("../data/ca.pem");
        roots.add(CertificateDer::from_pem_slice(authority).unwrap()).unwrap();
        let older = std::env::var("NS_TEST_TLS").is_ok_and(|version| version == "1.2");
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[if older { &TLS12 } else { &TLS13 }])
            .unwrap()
            .with_root_certificates(roots);
        Arc::new(config.with_no_client_auth())
    };
    CONFIG.get_or_init(make).clone()
}

/// A socket that is bound, so that its address is known before the server sees it.
pub fn socket(host: [u8; 4]) -> io::Result<(Socket, SocketAddr)> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SockAddr::from(SocketAddr::from((host, 0))))?;
    let address = socket.local_addr()?.as_socket().expect("an address");
    Ok((socket, address))
}

pub enum Seen {
    /// Nothing more now.
    Nothing,
    /// Something was read; there may be more.
    Some,
    End(End),
}

#[derive(Debug, PartialEq)]
pub enum End {
    Clean,
    Truncated,
    Reset,
    Broken(String),
}

pub struct Link {
    tcp: TcpStream,
    tls: Option<Box<ClientConnection>>,
    /// Input is still clear text.
    clear: bool,
    pub reader: Reader,
    /// Leaves together with what is sent first.
    ahead: Vec<u8>,
    /// The sending side has failed, or is closed.
    broken: bool,
    /// The kernel has reported a reset, which it does once: what looks like an end is none.
    was_reset: bool,
}

impl Link {
    pub fn connect(socket: Socket, port: u16, key: u16) -> io::Result<Link> {
        let server = SocketAddr::from(([127, 0, 0, 1], port));
        socket.connect_timeout(&SockAddr::from(server), SOON)?;
        Link::new(socket, key)
    }

    /// Waits until the server has connected to this socket.
    pub fn accept(socket: Socket, key: u16) -> io::Result<Link> {
        let mut poll = libc::pollfd { fd: socket.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one structure, valid for writing.
        match unsafe { libc::poll(&mut poll, 1, SOON.as_millis() as i32) } {
            1 => Link::new(socket.accept()?.0, key),
            _ => Err(ErrorKind::TimedOut.into()),
        }
    }

    fn new(socket: Socket, key: u16) -> io::Result<Link> {
        let tcp: TcpStream = socket.into();
        tcp.set_nodelay(true)?;
        tcp.set_nonblocking(true)?;
        Ok(Link {
            tcp,
            tls: None,
            clear: true,
            reader: Reader::new(key),
            ahead: Vec::new(),
            broken: false,
            was_reset: false,
        })
    }

    /// Begins the handshake. Until a frame says otherwise what arrives is clear text (`mid_stream`).
    pub fn begin_tls(&mut self, mid_stream: bool) {
        let name = ServerName::try_from("localhost").unwrap();
        let mut tls = ClientConnection::new(config(), name).unwrap();
        tls.set_buffer_limit(None);
        self.tls = Some(Box::new(tls));
        self.clear = mid_stream && self.clear;
        self.push();
    }

    /// The first bytes of a handshake, and no more of it.
    pub fn begin_badly(&mut self, bytes: usize) {
        let name = ServerName::try_from("localhost").unwrap();
        let mut tls = ClientConnection::new(config(), name).unwrap();
        let mut hello = Vec::new();
        let _ = tls.write_tls(&mut hello);
        let _ = self.out().write(&hello[..hello.len().min(bytes)]);
        self.push_ahead();
        self.broken = true;
    }

    pub fn has_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// The clear text has come to its end.
    pub fn was_told_to_go(&self) -> bool {
        !self.clear
    }

    pub fn is_shaking(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.is_handshaking())
    }

    /// Gives the kernel what it takes of the records that were made; whether all has left.
    fn push(&mut self) -> bool {
        let Some(tls) = &mut self.tls else { return true };
        while tls.wants_write() && !self.broken {
            match tls.write_tls(&mut Out { tcp: &self.tcp, ahead: &mut self.ahead }) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
                Err(error) => {
                    self.broken = true;
                    self.was_reset |= error.kind() != ErrorKind::BrokenPipe;
                }
            }
        }
        !tls.wants_write()
    }

    /// Sends what can be sent now of `bytes`: how much, or that nothing can be sent any more.
    pub fn write(&mut self, bytes: &[u8]) -> Result<usize, ()> {
        if !self.push() {
            return if self.broken { Err(()) } else { Ok(0) };
        }
        if self.broken {
            return Err(());
        }
        let sent = match &mut self.tls {
            Some(tls) if tls.is_handshaking() => Ok(0),
            Some(tls) => tls.writer().write(&bytes[..bytes.len().min(16 << 10)]),
            None => self.out().write(bytes),
        };
        self.push();
        match sent {
            Ok(n) => Ok(n),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
            Err(error) => {
                self.broken = true;
                // The other error comes after a FIN.
                self.was_reset |= error.kind() != ErrorKind::BrokenPipe;
                Err(())
            }
        }
    }

    fn out(&mut self) -> Out<'_> {
        Out { tcp: &self.tcp, ahead: &mut self.ahead }
    }

    /// Sends bytes before everything else; `glued` ones wait for what follows them.
    pub fn begin(&mut self, bytes: &[u8], glued: bool) {
        self.ahead.extend(bytes);
        if !glued {
            self.push_ahead();
        }
    }

    fn push_ahead(&mut self) {
        if !self.ahead.is_empty() && !self.broken {
            if let Err(error) = self.out().write(&[]) {
                self.broken = true;
                self.was_reset |= error.kind() != ErrorKind::BrokenPipe;
            }
        }
    }

    /// Reads at most `most` bytes of the connection.
    pub fn read(&mut self, most: usize) -> Seen {
        let mut buffer = vec![0; most];
        let n = match (&self.tcp).read(&mut buffer) {
            Ok(0) if self.was_reset => return Seen::End(End::Reset),
            Ok(n) => n,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Seen::Nothing,
            Err(_) => return Seen::End(End::Reset),
        };
        let bytes = &buffer[..n];
        if self.clear || self.tls.is_none() {
            if n == 0 {
                return Seen::End(if self.tls.is_some() { End::Truncated } else { End::Clean });
            }
            return match self.reader.take(bytes) {
                Err(how) => Seen::End(End::Broken(how)),
                Ok(None) => Seen::Some,
                Ok(Some(used)) => {
                    self.clear = false;
                    if self.tls.is_none() {
                        self.begin_tls(true);
                    }
                    match used < n {
                        true => self.decrypt(&bytes[used..]),
                        false => Seen::Some,
                    }
                }
            };
        }
        self.decrypt(bytes)
    }

    /// Takes ciphertext; none is the end of it.
    fn decrypt(&mut self, bytes: &[u8]) -> Seen {
        // A debug assertion of rustls fails on what is wrong after our own close_notify.
        let decrypt = AssertUnwindSafe(|| self.decrypt_all(bytes));
        let result = std::panic::catch_unwind(decrypt);
        result.unwrap_or_else(|_| Seen::End(End::Broken("TLS: no record is expected".into())))
    }

    fn decrypt_all(&mut self, bytes: &[u8]) -> Seen {
        let tls = self.tls.as_mut().unwrap();
        let mut rest = bytes;
        loop {
            let fed = tls.read_tls(&mut rest);
            let failed = fed.map(drop).and_then(|()| {
                let processed = tls.process_new_packets();
                processed.map(drop).map_err(|error| io::Error::new(ErrorKind::InvalidData, error))
            });
            let mut plain = Vec::new();
            let end = tls.reader().read_to_end(&mut plain);
            if let Err(how) = self.reader.take(&plain) {
                return Seen::End(End::Broken(how));
            }
            if let Err(error) = failed {
                return Seen::End(End::Broken(format!("TLS: {error}")));
            }
            match end {
                Ok(_) => return Seen::End(End::Clean),
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
                    return Seen::End(End::Truncated);
                }
                Err(_) => {}
            }
            if rest.is_empty() {
                if bytes.is_empty() {
                    return Seen::End(End::Truncated);
                }
                self.push();
                return Seen::Some;
            }
        }
    }

    /// Ends the sending side in order. Whether that could be said.
    pub fn finish(&mut self, fin: bool) -> bool {
        self.push_ahead();
        if let Some(tls) = &mut self.tls {
            if tls.is_handshaking() {
                return false;
            }
            tls.send_close_notify();
        }
        let said = self.push() && !self.broken;
        if !fin || !said {
            return said;
        }
        // With close_notify all is said.
        self.tcp.shutdown(Shutdown::Write).is_ok() || self.tls.is_some()
    }

    /// How many of `sent` bytes the server's kernel has for certain.
    pub fn arrived(&mut self, sent: u64) -> u64 {
        self.push_ahead();
        let all_left = self.push();
        let mut under_way = 0i32;
        // SAFETY: TIOCOUTQ writes one int.
        let failed =
            unsafe { libc::ioctl(self.tcp.as_raw_fd(), libc::TIOCOUTQ, &mut under_way) } != 0;
        match (&self.tls, failed) {
            (_, true) => 0,
            (None, _) => sent.saturating_sub(under_way as u64),
            (Some(_), _) if all_left && under_way == 0 => sent,
            _ => 0,
        }
    }

    /// The end of it is a reset.
    pub fn reset(self) -> Reader {
        let _ = SockRef::from(&self.tcp).set_linger(Some(Duration::ZERO));
        self.reader
    }

    /// Waits for the socket, a little at most.
    pub fn wait(&mut self, read: bool, write: bool, until: Instant) {
        self.push_ahead();
        let write =
            write || (self.tls.as_ref().is_some_and(|tls| tls.wants_write()) && !self.broken);
        let mut events = if read { libc::POLLIN } else { 0 };
        if write {
            events |= libc::POLLOUT;
        }
        let time = until.saturating_duration_since(Instant::now()).min(ms(50));
        if events == 0 {
            return let_pass(time);
        }
        let mut poll = libc::pollfd { fd: self.tcp.as_raw_fd(), events, revents: 0 };
        // SAFETY: one structure, valid for writing.
        unsafe { libc::poll(&mut poll, 1, time.as_micros().div_ceil(1000) as i32) };
        // poll(2) reports a hang-up and an error without being asked, until somebody reads them.
        if !read && poll.revents & (libc::POLLHUP | libc::POLLERR) != 0 {
            let_pass(time.min(ms(5)));
        }
    }
}

/// The connection, where some bytes go ahead of the next ones.
struct Out<'a> {
    tcp: &'a TcpStream,
    ahead: &'a mut Vec<u8>,
}

impl Write for Out<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut tcp = self.tcp;
        if self.ahead.is_empty() {
            return tcp.write(bytes);
        }
        // A header and so little more always fit.
        self.ahead.extend(bytes);
        let sent = tcp.write(self.ahead)?;
        let before = self.ahead.len() - bytes.len();
        self.ahead.clear();
        assert!(sent >= before, "the header of a fresh connection fits");
        Ok(sent - before)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
