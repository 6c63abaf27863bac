//! A client's end of a TLS connection, by rustls.

use crate::support::comes_true;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How many tickets a server sends after a handshake of TLS 1.3. They must be read, or closing
/// the socket resets the connection.
const TICKETS: u32 = 2;
/// How long a wait goes on without a look at what the other thread has done.
const SLICE: Duration = Duration::from_millis(4);
/// How long a client that is dropped still waits for its handshake.
const LAST_WAIT: Duration = Duration::from_millis(300);

/// A stream of bytes through TLS, or without it. As with a plain one the connection is there,
/// and what is sent is accepted, before the server has looked at it: a thread of the stream's own
/// does the handshake, as the kernel does that of TCP.
pub struct Stream(Option<Kind>);

enum Kind {
    Plain(TcpStream),
    Tls(Session),
}

/// `NS_TEST_TLS=1.2` in the environment has all clients speak the older version.
pub fn older() -> bool {
    std::env::var("NS_TEST_TLS").is_ok_and(|version| version == "1.2")
}

/// A client that trusts the authority of the tests.
pub fn client_config() -> ClientConfig {
    client_config_of(older(), super::AUTHORITY, None)
}

/// A client of one version, whom it trusts, and what it shows of itself.
pub fn client_config_of(older: bool, trusted: &[u8], own: Option<(&[u8], &[u8])>) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(trusted).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[if older { &TLS12 } else { &TLS13 }])
        .unwrap()
        .with_root_certificates(roots);
    match own {
        None => config.with_no_client_auth(),
        Some((chain, key)) => {
            let chain = vec![CertificateDer::from_pem_slice(chain).unwrap()];
            let key = PrivateKeyDer::from_pem_slice(key).unwrap();
            config.with_client_auth_cert(chain, key).unwrap()
        }
    }
}

pub fn stream(tcp: TcpStream) -> Stream {
    Stream::with(tcp, client_config(), "localhost")
}

pub fn plain_stream(tcp: TcpStream) -> Stream {
    Stream(Some(Kind::Plain(tcp)))
}

pub fn into_tcp(mut stream: Stream) -> TcpStream {
    match stream.0.take().unwrap() {
        Kind::Plain(tcp) => tcp,
        Kind::Tls(session) => session.into_tcp(),
    }
}

/// Waits until the handshake is over.
pub fn settle(stream: &Stream) -> io::Result<()> {
    stream.session().settle()
}

impl Stream {
    pub fn with(tcp: TcpStream, config: ClientConfig, name: &str) -> Stream {
        Stream(Some(Kind::Tls(Session::new(tcp, config, name))))
    }

    fn tcp(&self) -> &TcpStream {
        match self.0.as_ref().unwrap() {
            Kind::Plain(tcp) => tcp,
            Kind::Tls(session) => &session.shared.tcp,
        }
    }

    /// The session under it.
    pub fn session(&self) -> &Session {
        match self.0.as_ref().unwrap() {
            Kind::Plain(_) => panic!("a plain stream"),
            Kind::Tls(session) => session,
        }
    }

    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.tcp().peer_addr()
    }

    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.tcp().local_addr()
    }

    pub fn set_nodelay(&self, on: bool) -> io::Result<()> {
        self.tcp().set_nodelay(on)
    }

    pub fn set_read_timeout(&self, time: Option<Duration>) -> io::Result<()> {
        match self.0.as_ref().unwrap() {
            Kind::Plain(tcp) => tcp.set_read_timeout(time),
            Kind::Tls(session) => set(&session.read_timeout, time),
        }
    }

    pub fn set_write_timeout(&self, time: Option<Duration>) -> io::Result<()> {
        match self.0.as_ref().unwrap() {
            Kind::Plain(tcp) => tcp.set_write_timeout(time),
            Kind::Tls(session) => set(&session.write_timeout, time),
        }
    }

    /// Ends the sending side: by a close_notify, and no end of TCP's stream, so that the server
    /// must make do with that.
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        match self.0.as_ref().unwrap() {
            Kind::Plain(tcp) => tcp.shutdown(how),
            Kind::Tls(session) => {
                assert_eq!(how, Shutdown::Write);
                session.say_goodbye();
                Ok(())
            }
        }
    }
}

fn set(timeout: &AtomicU64, time: Option<Duration>) -> io::Result<()> {
    timeout.store(time.map_or(u64::MAX, |time| time.as_millis() as u64), Ordering::SeqCst);
    Ok(())
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.tcp().as_fd()
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.as_mut().unwrap() {
            Kind::Plain(tcp) => tcp.read(buffer),
            Kind::Tls(session) => session.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.0.as_mut().unwrap() {
            Kind::Plain(tcp) => tcp.write(bytes),
            Kind::Tls(session) => session.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A session of TLS, in which every transfer is non-blocking and every wait in small pieces, so
/// that the thread of the handshake and that of the test may both go on with it.
pub struct Session {
    shared: Arc<Shared>,
    handshake: Option<JoinHandle<()>>,
    read_timeout: AtomicU64,
    write_timeout: AtomicU64,
    /// Nothing more is said at the end.
    quiet: bool,
}

struct Shared {
    tcp: TcpStream,
    state: Mutex<State>,
    /// The handshake is over, or is not wanted any more.
    over: AtomicBool,
}

struct State {
    tls: ClientConnection,
    failed: Option<(ErrorKind, String)>,
    goodbye: Goodbye,
    ended: bool,
}

/// The client's close_notify. In the middle of a handshake it would break that.
#[derive(PartialEq)]
enum Goodbye {
    No,
    Wanted,
    Said,
}

/// Transfers that do not wait.
struct Now<'a>(&'a TcpStream);

impl Read for Now<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (fd, flags) = (self.0.as_raw_fd(), libc::MSG_DONTWAIT);
        // SAFETY: the buffer is valid for writing.
        let n = unsafe { libc::recv(fd, buffer.as_mut_ptr().cast(), buffer.len(), flags) };
        usize::try_from(n).map_err(|_| io::Error::last_os_error())
    }
}

impl Write for Now<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let (fd, flags) = (self.0.as_raw_fd(), libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL);
        // SAFETY: the bytes are valid for reading.
        let n = unsafe { libc::send(fd, bytes.as_ptr().cast(), bytes.len(), flags) };
        usize::try_from(n).map_err(|_| io::Error::last_os_error())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl State {
    /// Sends what is to be sent and can be now.
    fn push(&mut self, tcp: &TcpStream) {
        if self.goodbye == Goodbye::Wanted && !self.tls.is_handshaking() {
            self.tls.send_close_notify();
            self.goodbye = Goodbye::Said;
        }
        while self.tls.wants_write() && self.failed.is_none() {
            match self.tls.write_tls(&mut Now(tcp)) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => self.fail(error),
                Ok(_) => {}
            }
        }
    }

    /// Receives once; whether there was something to be received.
    fn pull(&mut self, tcp: &TcpStream) -> bool {
        // After a failure to send, what had arrived and how it ended is still to be had.
        if self.ended || !(self.tls.wants_read() || self.failed.is_some()) {
            return false;
        }
        match self.tls.read_tls(&mut Now(tcp)) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
            Err(error) => {
                self.ended = true;
                self.fail(error);
            }
            Ok(n) => {
                self.ended = n == 0;
                if let Err(error) = self.tls.process_new_packets() {
                    self.push(tcp);
                    self.ended = true;
                    self.fail(io::Error::new(ErrorKind::InvalidData, error));
                } else if n == 0 && self.tls.is_handshaking() {
                    self.fail(ErrorKind::UnexpectedEof.into());
                }
            }
        }
        self.push(tcp);
        true
    }

    fn fail(&mut self, error: io::Error) {
        self.failed.get_or_insert((error.kind(), error.to_string()));
    }

    fn error(&self) -> io::Result<()> {
        match &self.failed {
            None => Ok(()),
            Some((kind, text)) => Err(io::Error::new(*kind, text.clone())),
        }
    }

    fn is_settled(&self) -> bool {
        let older = self.tls.protocol_version() == Some(rustls::ProtocolVersion::TLSv1_2);
        let tickets = older || self.tls.tls13_tickets_received() >= TICKETS;
        self.ended || self.failed.is_some() || (!self.tls.is_handshaking() && tickets)
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Whether the thread of the handshake receives nothing any more. To be asked before the
    /// session is looked at: after that look the thread may take from the socket what a wait for
    /// the socket would wait for.
    fn alone(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    /// Waits for the socket, a little unless `alone`.
    fn wait(&self, events: i16, until: Instant, alone: bool) {
        let mut time = until.saturating_duration_since(Instant::now());
        if !alone {
            time = time.min(SLICE);
        }
        let mut poll = libc::pollfd { fd: self.tcp.as_raw_fd(), events, revents: 0 };
        // Rounded up, so that nobody spins over the last millisecond.
        let millis = time.as_micros().div_ceil(1000).min(60_000) as i32;
        // SAFETY: one structure, valid for writing.
        unsafe { libc::poll(&mut poll, 1, millis) };
    }

    fn shake_hands(&self) {
        while !self.over.load(Ordering::SeqCst) {
            {
                let mut state = self.state();
                state.push(&self.tcp);
                while !state.is_settled() && state.pull(&self.tcp) {}
                if state.is_settled() {
                    break;
                }
            }
            self.wait(libc::POLLIN, Instant::now() + SLICE, false);
        }
        self.over.store(true, Ordering::SeqCst);
    }
}

fn limit(timeout: &AtomicU64) -> Duration {
    Duration::from_millis(timeout.load(Ordering::SeqCst).min(60_000))
}

impl Session {
    fn new(tcp: TcpStream, config: ClientConfig, name: &str) -> Session {
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let mut tls = ClientConnection::new(Arc::new(config), name).unwrap();
        tls.set_buffer_limit(None);
        let mut state = State { tls, failed: None, goodbye: Goodbye::No, ended: false };
        state.push(&tcp);
        let over = AtomicBool::new(false);
        let shared = Arc::new(Shared { tcp, state: Mutex::new(state), over });
        let of_thread = shared.clone();
        let handshake = std::thread::spawn(move || of_thread.shake_hands());
        Session {
            shared,
            handshake: Some(handshake),
            read_timeout: AtomicU64::new(u64::MAX),
            write_timeout: AtomicU64::new(u64::MAX),
            quiet: false,
        }
    }

    /// Waits for the end of the handshake, and for what it failed with.
    pub fn settle(&self) -> io::Result<()> {
        comes_true(limit(&self.read_timeout), || self.shared.over.load(Ordering::SeqCst));
        let state = self.shared.state();
        state.error()?;
        match state.tls.is_handshaking() {
            true => Err(ErrorKind::TimedOut.into()),
            false => Ok(()),
        }
    }

    /// A look at rustls's own object.
    pub fn look<T>(&self, look: impl FnOnce(&ClientConnection) -> T) -> T {
        look(&self.shared.state().tls)
    }

    fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let until = Instant::now() + limit(&self.read_timeout);
        loop {
            let alone = self.shared.alone();
            let mut state = self.shared.state();
            state.push(&self.shared.tcp);
            match state.tls.reader().read(buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                // The client reports the reset, not what it looks like to TLS.
                Err(error) => return Err(state.error().err().unwrap_or(error)),
                Ok(n) => return Ok(n),
            }
            if state.ended {
                state.error()?;
            }
            if state.pull(&self.shared.tcp) {
                continue;
            }
            let sends = state.tls.wants_write() && state.failed.is_none();
            drop(state);
            if Instant::now() >= until {
                return Err(ErrorKind::WouldBlock.into());
            }
            let events = if sends { libc::POLLIN | libc::POLLOUT } else { libc::POLLIN };
            self.shared.wait(events, until, alone);
        }
    }

    fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        let until = Instant::now() + limit(&self.write_timeout);
        let mut accepted = 0;
        loop {
            let alone = self.shared.alone();
            let mut state = self.shared.state();
            state.push(&self.shared.tcp);
            if accepted == 0 {
                state.error()?;
            }
            let early = state.tls.is_handshaking();
            if accepted == 0 && (early || !state.tls.wants_write()) {
                accepted = state.tls.writer().write(&bytes[..bytes.len().min(64 << 10)])?;
                state.push(&self.shared.tcp);
            }
            if early || !state.tls.wants_write() || state.failed.is_some() {
                return Ok(accepted);
            }
            drop(state);
            if Instant::now() >= until {
                // Accepted bytes leave with the next transfer.
                return if accepted > 0 { Ok(accepted) } else { Err(ErrorKind::WouldBlock.into()) };
            }
            self.shared.wait(libc::POLLOUT, until, alone);
        }
    }

    fn say_goodbye(&self) {
        let mut state = self.shared.state();
        if state.goodbye == Goodbye::No {
            state.goodbye = Goodbye::Wanted;
        }
        state.push(&self.shared.tcp);
    }

    fn into_tcp(mut self) -> TcpStream {
        self.quiet = true;
        let shared = self.shared.clone();
        drop(self);
        Arc::into_inner(shared).expect("nobody else has it").tcp
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        comes_true(LAST_WAIT, || self.shared.over.load(Ordering::SeqCst));
        self.shared.over.store(true, Ordering::SeqCst);
        if let Some(handshake) = self.handshake.take() {
            let _ = handshake.join();
        }
        if !self.quiet {
            self.say_goodbye();
        }
    }
}
