//! A client with a deadline on everything it does.

use super::{listening_sockets, Stopwatch, SOON};
use crate::api::{into_tcp, plain_stream, settle, stream, Server, Stream};
use socket2::{Domain, SockAddr, SockRef, Socket, Type};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::BorrowedFd;
use std::time::Duration;

pub struct Client(pub Stream);

impl Client {
    /// Connects to a server's port on 127.0.0.1.
    #[track_caller]
    pub fn connect(server: &Server) -> Client {
        Client::to(("127.0.0.1", server.port()))
    }

    #[track_caller]
    pub fn to(address: impl ToSocketAddrs) -> Client {
        Client::try_to(address).expect("connect")
    }

    pub fn try_to(address: impl ToSocketAddrs) -> std::io::Result<Client> {
        Client::set_up(stream(connect(address)?))
    }

    /// Connects to a port that speaks plain text in every run: the shutdown port.
    #[track_caller]
    pub fn plain(address: impl ToSocketAddrs) -> Client {
        Client::set_up(plain_stream(connect(address).expect("connect"))).unwrap()
    }

    /// A client that holds little in the kernel before it reads, on either side.
    #[track_caller]
    pub fn small(server: &Server) -> Client {
        for listener in listening_sockets() {
            // SAFETY: this process is one test's: the listener is open. What it accepts inherits
            // the size.
            let listener = unsafe { BorrowedFd::borrow_raw(listener) };
            SockRef::from(&listener).set_send_buffer_size(32 << 10).unwrap();
        }
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_recv_buffer_size(16 << 10).unwrap();
        Client::finish(socket, server)
    }

    /// Connects a socket that exists already (for tests that run out of descriptors).
    #[track_caller]
    pub fn finish(socket: Socket, server: &Server) -> Client {
        let address: SocketAddr = ([127, 0, 0, 1], server.port()).into();
        socket.connect(&SockAddr::from(address)).expect("connect");
        Client::set_up(stream(socket.into())).unwrap()
    }

    pub fn set_up(stream: Stream) -> std::io::Result<Client> {
        stream.set_read_timeout(Some(SOON))?;
        stream.set_write_timeout(Some(SOON))?;
        stream.set_nodelay(true)?;
        Ok(Client(stream))
    }

    /// Waits until the server has the connection ready: over TLS until the handshake is over.
    #[track_caller]
    pub fn settled(self) -> Client {
        settle(&self.0).expect("settle");
        self
    }

    #[track_caller]
    pub fn saying(mut self, bytes: impl AsRef<[u8]>) -> Client {
        self.send(bytes);
        self
    }

    #[track_caller]
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.write_all(bytes.as_ref()).expect("client send");
    }

    /// Sends until nothing more is taken; the number of bytes that were.
    pub fn send_until_blocked(&mut self, limit: usize) -> usize {
        self.0.set_write_timeout(Some(super::ms(300))).unwrap();
        let chunk = vec![b'x'; 64 << 10];
        let mut sent = 0;
        while sent < limit {
            match self.0.write(&chunk) {
                Ok(n) => sent += n,
                Err(_) => break,
            }
        }
        self.0.set_write_timeout(Some(SOON)).unwrap();
        sent
    }

    #[track_caller]
    pub fn receive(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.0.read_exact(&mut bytes).expect("client receive");
        bytes
    }

    #[track_caller]
    pub fn expect(&mut self, expected: impl AsRef<[u8]>) {
        let expected = expected.as_ref();
        let received = self.receive(expected.len());
        assert!(
            received == expected,
            "received {:?} and not {:?}",
            String::from_utf8_lossy(&received[..received.len().min(80)]),
            String::from_utf8_lossy(&expected[..expected.len().min(80)])
        );
    }

    /// One round trip with an echo server.
    #[track_caller]
    pub fn echo(&mut self, text: &str) {
        self.send(text);
        self.expect(text);
    }

    /// Everything up to the end of stream.
    #[track_caller]
    pub fn rest(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.0.read_to_end(&mut bytes).expect("client receive");
        bytes
    }

    /// The end of stream is next.
    #[track_caller]
    pub fn expect_end(&mut self) {
        let rest = self.rest();
        assert!(rest.is_empty(), "unexpected: {:?}", String::from_utf8_lossy(&rest));
    }

    /// `text` and the end of stream are next.
    #[track_caller]
    pub fn expect_last(&mut self, text: &str) {
        assert_eq!(String::from_utf8_lossy(&self.rest()), text);
    }

    /// The connection is reset, whatever is received before.
    #[track_caller]
    pub fn expect_reset(&mut self) {
        let error = self.drain().expect_err("end of stream and no reset");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
    }

    /// The connection ends, one way or another.
    #[track_caller]
    pub fn expect_gone(&mut self) {
        if let Err(error) = self.drain() {
            use ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
            let gone = matches!(error.kind(), ConnectionReset | BrokenPipe | UnexpectedEof);
            assert!(gone, "{error}");
        }
    }

    /// Nothing arrives for a short while.
    #[track_caller]
    pub fn expect_silence(&mut self) {
        self.0.set_read_timeout(Some(super::NEVER)).unwrap();
        let result = self.0.read(&mut [0; 64]);
        self.0.set_read_timeout(Some(SOON)).unwrap();
        let kind = result.map_err(|error| error.kind());
        assert_eq!(kind, Err(ErrorKind::WouldBlock));
    }

    /// Reads until the end: how many bytes came, or the error.
    pub fn drain(&mut self) -> std::io::Result<usize> {
        std::io::copy(&mut self.0, &mut std::io::sink()).map(|n| n as usize)
    }

    pub fn finish_sending(&mut self) {
        self.0.shutdown(Shutdown::Write).expect("client shutdown");
    }

    /// Ends the connection with a reset.
    pub fn reset(self) {
        SockRef::from(&into_tcp(self.0)).set_linger(Some(Duration::ZERO)).unwrap();
    }

    pub fn local(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }

    /// The time until the connection ends.
    pub fn time_to_end(&mut self, clock: &Stopwatch) -> Duration {
        self.expect_gone();
        clock.elapsed()
    }
}

fn connect(address: impl ToSocketAddrs) -> std::io::Result<TcpStream> {
    let address = address.to_socket_addrs()?.next().expect("an address");
    TcpStream::connect_timeout(&address, SOON)
}

fn listens_here(port: u16) -> bool {
    listening_sockets().into_iter().any(|fd| {
        // SAFETY: the descriptor is this process', which closes nothing meanwhile.
        let socket = unsafe { BorrowedFd::borrow_raw(fd) };
        let address = SockRef::from(&socket).local_addr();
        address.ok().and_then(|address| address.as_socket()).is_some_and(|a| a.port() == port)
    })
}

/// Whether a connection to `address` is refused: by this process, for another one may have got the
/// port since. One that the listener took down with it as it closed is reset and says nothing of the
/// next.
pub fn refused(address: impl ToSocketAddrs) -> bool {
    match connect(address) {
        Ok(stream) => stream.peer_addr().is_ok_and(|peer| !listens_here(peer.port())),
        Err(error) if error.kind() == ErrorKind::ConnectionReset => false,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}");
            true
        }
    }
}
