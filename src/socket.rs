//! The handler's view of a connection, and detached sockets.

#![forbid(unsafe_code)]

mod data;
mod file;
mod owned;
mod pace;

use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::RawFd;

use crate::conn::{Conn, ConnId, PeerCredentials};
use crate::error::{CloseReason, Error, Status};
use crate::tls::{TlsConfig, TlsInfo};

pub(crate) use data::is_lent;
pub use owned::OwnedSocket;

/// A connection as its callbacks see it, or an [`OwnedSocket`] in use.
///
/// On a worker, and on an owned socket, calls wait; in a callback of a loop
/// they never do. After [`Server::detach`](crate::Server::detach) every call
/// returns [`Status::Detached`].
///
/// ```
/// use net_server::{Config, Error, Server, Socket};
/// use std::{io::{Read, Write}, net::{Shutdown, TcpStream}};
///
/// // An echo for both modes: on a loop, the error that ends it may be WouldBlock.
/// let echo = |_: &Server, socket: &mut Socket<'_>| -> Result<(), Error> {
///     let mut buf = [0; 4096];
///     loop {
///         match socket.recv(&mut buf)? {
///             0 => return Ok(socket.close()),
///             n => socket.send(&buf[..n])?,
///         }
///     }
/// };
/// for non_blocking in [false, true] {
///     let config = Config::new().non_blocking(non_blocking);
///     let server = Server::with_config("127.0.0.1:0", echo, config)?;
///     server.start_background()?;
///     let mut client = TcpStream::connect(server.address())?;
///     client.write_all(b"hello")?;
///     client.shutdown(Shutdown::Write)?;
///     let mut text = String::new();
///     client.read_to_string(&mut text)?;
///     assert_eq!(text, "hello");
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Socket<'a> {
    conn: &'a mut Conn,
}

impl<'a> Socket<'a> {
    pub(crate) fn of(conn: &'a mut Conn) -> Socket<'a> {
        Socket { conn }
    }

    pub(crate) fn conn(&mut self) -> &mut Conn {
        self.conn
    }

    /// Returns whether calls never wait.
    #[cfg(feature = "capi")]
    pub(crate) fn is_on_loop(&self) -> bool {
        self.conn.context.owner.is_loop()
    }

    /// Returns the address of the connection, which is the C layer's `ns_socket
    /// *`.
    #[cfg(feature = "capi")]
    pub(crate) fn conn_ptr(&mut self) -> *mut Conn {
        self.conn
    }

    fn error_of(&self, status: Status) -> Error {
        match status {
            Status::Reset | Status::Io | Status::Timeout | Status::NoMemory => {
                Error::with_os_code(status, self.conn.os_error())
            }
            Status::Tls => self.conn.tls_error(),
            other => Error::from(other),
        }
    }

    /// Returns the error of a C handler that returned `code`, with the reason
    /// if the connection itself has produced that status.
    #[cfg(feature = "capi")]
    pub(crate) fn handler_error(&mut self, code: i32) -> Error {
        let Some(status) = Status::from_code(code) else { return Error::of_code(code) };
        if let Some(failure) = self.conn.take_failure(status) {
            return failure.of_handler(code);
        }
        let os_error = self.conn.os_error();
        let is_own = match status {
            Status::Tls | Status::Truncated => self.conn.tls.is_some(),
            _ => {
                os_error != 0
                    && Status::of_transfer(&io::Error::from_raw_os_error(os_error)) == status
            }
        };
        if is_own {
            return self.error_of(status).of_handler(code);
        }
        Error::of_code(code)
    }

    fn try_call<T>(
        &mut self,
        call: impl FnOnce(&mut Conn) -> Result<T, Status>,
    ) -> Result<T, Error> {
        self.conn.check_usable()?;
        call(self.conn).map_err(|status| self.error_of(status))
    }

    /// Receives into `buf`. Returns the number of bytes, 0 at the end of the
    /// stream.
    ///
    /// On a loop it returns [`Status::WouldBlock`] when nothing can be read
    /// now. It also does, without a system call, after a short read, above the
    /// high-water mark, and after 256 KiB in one call of the handler; the loop
    /// then calls the handler again after the other ready connections (a read
    /// counts as 16 KiB at least). Elsewhere it waits, at most for the
    /// `io_timeout`.
    ///
    /// Errors: `WouldBlock`, `Timeout`, `Closed` (also when a stop ended the
    /// connection), `Reset`, `Io`, `Detached`, `Invalid` for an empty buffer.
    ///
    /// Example: [`Socket`].
    pub fn recv(&mut self, buf: &mut [u8]) -> Result<usize, Error> {
        self.conn.recv(buf).map_err(|status| self.error_of(status))
    }

    /// Sends all of `buf`, or returns an error and sends nothing of it.
    ///
    /// On a loop, the bytes that the kernel does not take are queued and leave
    /// as the peer reads; where the queue would exceed `send_limit` the error
    /// is [`Status::BufferFull`]. What a callback sends after its first send leaves
    /// together ([`Socket::flush`]). Elsewhere it waits, at most for the
    /// `io_timeout`; after that timeout an unknown part has been sent.
    ///
    /// Example: [`Socket`].
    pub fn send(&mut self, buf: &[u8]) -> Result<(), Error> {
        self.conn.send(buf).map_err(|status| self.error_of(status))
    }

    /// Sends several buffers as one [`Socket::send`] would.
    ///
    /// Example: [`Socket::cork`].
    pub fn sendv(&mut self, bufs: &[IoSlice<'_>]) -> Result<(), Error> {
        self.try_call(|conn| conn.sendv(bufs))
    }

    /// Sends immediately what was gathered. On a loop this is what the callback
    /// has sent after its first send, and where the callback before it has gathered
    /// several, the first one too: it leaves together when the callback returns, or
    /// when it is 64 KiB. Elsewhere it is what was sent since
    /// [`Socket::cork`]; the call waits as [`Socket::send`] does, also for what
    /// was queued before it. After [`Status::Timeout`] the rest stays queued, and
    /// leaves before what is sent next.
    ///
    /// Example: [`Socket::cork`].
    pub fn flush(&mut self) -> Result<(), Error> {
        self.try_call(Conn::flush)
    }

    /// Gathers what is sent until [`Socket::uncork`], so that small pieces leave
    /// together; over TLS in few records. Corks nest. What was gathered leaves
    /// before a `recv` that waits, when it is 64 KiB, and when the connection is
    /// closed or the handler returns; these two wait for it as [`Socket::send`]
    /// does. On a loop, where each callback gathers, its first send is gathered too
    /// from here on, and `uncork` does nothing.
    ///
    /// ```
    /// use net_server::OwnedSocket;
    /// use std::{io::{IoSlice, Read}, net::Shutdown, os::unix::net::UnixStream};
    ///
    /// let (ours, mut theirs) = UnixStream::pair()?;
    /// let mut owned = OwnedSocket::from_fd(ours)?;
    /// let mut socket = owned.socket();
    /// socket.cork()?;
    /// socket.send(b"HTTP/1.1 200 OK\r\n")?;
    /// socket.sendv(&[IoSlice::new(b"Content-Length: 5\r\n\r\n"), IoSlice::new(b"hel")])?;
    /// socket.flush()?; // All of this leaves together,
    /// socket.send(b"lo")?;
    /// socket.uncork()?; // and then this.
    /// socket.shutdown(Shutdown::Write)?;
    /// let mut text = String::new();
    /// theirs.read_to_string(&mut text)?;
    /// assert_eq!(text, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello");
    /// # Ok::<(), net_server::Error>(())
    /// ```
    pub fn cork(&mut self) -> Result<(), Error> {
        self.try_call(Conn::cork)
    }

    /// Takes one [`Socket::cork`] back; with the last one what was gathered is
    /// sent, as [`Socket::send`] does it.
    ///
    /// Errors: those of `send`; [`Status::State`] without a cork.
    ///
    /// Example: [`Socket::cork`].
    pub fn uncork(&mut self) -> Result<(), Error> {
        self.try_call(Conn::uncork)
    }

    /// Shuts one direction or both, as shutdown(2) does; the sending side after
    /// the queued bytes have left. Receiving then returns 0, and sending
    /// returns `Closed`.
    ///
    /// Example: [`Socket::cork`].
    pub fn shutdown(&mut self, how: Shutdown) -> Result<(), Error> {
        self.try_call(|conn| {
            if conn.is_over() {
                return Err(Status::Closed);
            }
            conn.shutdown(how);
            Ok(())
        })
    }

    /// Closes the connection: on a loop after the callback, when the queued
    /// bytes have left. Another close does nothing. Receiving and sending return
    /// [`Status::Closed`] from then on: a handler that reads in a loop leaves it.
    ///
    /// Example: [`Socket`].
    pub fn close(&mut self) {
        self.close_because(CloseReason::Handler);
    }

    pub(crate) fn close_because(&mut self, reason: CloseReason) {
        if self.conn.check_usable().is_ok() {
            self.conn.close_because(reason);
        }
    }

    /// Ends the connection with a reset and drops the queued bytes.
    ///
    /// ```
    /// use net_server::{Error, Server, Socket};
    ///
    /// let handler = |_: &Server, socket: &mut Socket<'_>| -> Result<(), Error> {
    ///     let mut word = [0; 5];
    ///     match socket.recv(&mut word)? {
    ///         5 if word == *b"hello" => socket.send(b"welcome\n"),
    ///         _ => Ok(socket.abort()), // It is not worth a reply.
    ///     }
    /// };
    /// # let _ = Server::new("0", handler);
    /// ```
    pub fn abort(&mut self) {
        if self.conn.check_usable().is_ok() {
            self.conn.abort();
        }
    }

    /// Returns whether the connection was closed, aborted or detached, or its
    /// transport failed; so it is in the exception handler after a TLS handshake
    /// or a PROXY header that failed.
    pub fn is_closed(&self) -> bool {
        self.conn.is_over()
    }

    /// Returns the connection's number; a detached socket keeps its last.
    pub fn id(&self) -> ConnId {
        // A connection always has an id.
        ConnId::from_u64(self.conn.id.max(1)).expect("not zero")
    }

    /// Returns the peer's address, an IPv4-mapped one as IPv4; `None` for a unix
    /// socket. A PROXY header may have announced it
    /// ([`Config::proxy_protocol`](crate::Config#structfield.proxy_protocol)).
    pub fn peer(&self) -> Option<SocketAddr> {
        self.conn.peer()
    }

    /// Returns the local address, an IPv4-mapped one as IPv4; `None` for a unix
    /// socket. It is the one that the client connected to, where a PROXY header has
    /// announced that.
    pub fn local(&self) -> Option<SocketAddr> {
        self.conn.local()
    }

    /// Returns the peer's address as text: `127.0.0.1:4711`, or `unix:` and the
    /// peer's own path or `@` name, which few have. Empty where it is not known.
    pub fn peer_name(&self) -> String {
        self.conn.peer_name()
    }

    /// Returns the local address as text, as [`Socket::peer_name`] does.
    pub fn local_name(&self) -> String {
        self.conn.local_name()
    }

    /// Returns the address that the connection itself comes from, as
    /// [`Socket::peer_name`] does: behind a PROXY header that of the proxy.
    pub fn transport_peer_name(&self) -> String {
        self.conn.transport_peer_name()
    }

    /// Returns the first extra (TLV) of this type in the PROXY header, for example
    /// 2 for the name that the client asked for, 5 for a unique id, 0x20 for the
    /// proxy's TLS; `None` where there is none. Section 2.2 of the protocol's
    /// specification has the types and their formats. Version 1 has no extras, and
    /// those of a connection of the proxy's own (LOCAL) are ignored.
    pub fn proxy_tlv(&self, kind: u8) -> Option<&[u8]> {
        self.conn.proxy_tlv(kind)
    }

    /// Returns the process, user and group of the peer of a unix socket: behind a
    /// PROXY header those of the proxy.
    ///
    /// Errors: [`Status::Unsupported`] for another socket, [`Status::Closed`],
    /// [`Status::Detached`].
    pub fn peer_credentials(&self) -> Result<PeerCredentials, Error> {
        self.conn.check_usable()?;
        self.conn.peer_credentials()
    }

    /// Returns the number of the service that the connection came by: 0 for
    /// that of [`Server::new`](crate::Server::new), otherwise what
    /// [`Server::add_service`](crate::Server::add_service) returned. `None`
    /// where it came by none: on the shutdown port, for an adopted or outgoing
    /// connection, for a socket of
    /// [`OwnedSocket::from_fd`](crate::OwnedSocket::from_fd), and after an
    /// attach to another server.
    pub fn service(&self) -> Option<usize> {
        self.conn.origin.number()
    }

    /// Returns the number of bytes in the outbound queue, gathered ones included.
    /// On a loop [`on_drain`](crate::Handler::on_drain) comes for what this shows.
    pub fn queued(&self) -> usize {
        if self.conn.has_backlog() {
            self.conn.context.ids.note_seen(self.conn.id);
        }
        self.conn.queued() + self.conn.tls.as_ref().map_or(0, |tls| tls.held.len())
    }

    /// Returns the descriptor, or −1 when there is none any more. The library
    /// still owns it.
    pub fn raw_fd(&self) -> RawFd {
        self.conn.raw_fd()
    }

    /// Returns the operating system's code of the transport's failure, or 0.
    pub fn os_error(&self) -> i32 {
        self.conn.os_error()
    }

    /// Returns the parameters that both sides agreed on in the TLS handshake;
    /// `None` without TLS and before the handshake is over.
    pub fn tls_info(&self) -> Option<TlsInfo> {
        self.conn.tls_info()
    }

    /// Changes over to TLS in mid-stream, as the server of the handshake, on an
    /// outgoing connection too. `ahead` holds the bytes that the
    /// handler has already read after the plain-text dialogue: these bytes and
    /// all unread ones go to TLS and never to the handler.
    ///
    /// In blocking mode the call does the handshake, within the
    /// `handshake_timeout`. On a loop the handshake begins when the callback
    /// returns, and the loop calls the handler again with application data.
    ///
    /// Errors: [`Status::State`] when TLS is on already,
    /// [`Status::Certificate`], [`Status::Handshake`], [`Status::Timeout`],
    /// [`Status::Closed`].
    ///
    /// Example: [`TlsConfig`].
    pub fn starttls(&mut self, tls: &TlsConfig, ahead: &[u8]) -> Result<(), Error> {
        self.conn.check_usable()?;
        if self.conn.is_tls() {
            return Err(Error::new(Status::State, "the connection goes through TLS already"));
        }
        if self.conn.is_over() {
            return Err(Error::from(Status::Closed));
        }
        // What was sent before leaves before, in the clear.
        self.conn.flush().map_err(|status| self.error_of(status))?;
        let millis = self.conn.context.limits.handshake_ms;
        self.conn.begin_tls(tls.server_config()?, ahead, millis)?;
        if self.conn.context.owner.is_loop() {
            self.conn.request_tls();
            return Ok(());
        }
        let result = self.conn.handshake_wait();
        if result.is_ok() {
            self.conn.context.counters.handshakes.add(1);
        } else {
            self.conn.context.counters.handshake_failures.add(1);
            self.conn.forbid_close_notify();
            self.conn.close_because(CloseReason::Handshake);
        }
        result
    }
}

impl Read for Socket<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        Ok(self.recv(buf)?)
    }
}

impl Write for Socket<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.send(buf)?;
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Socket::flush(self).map_err(io::Error::from)
    }
}
