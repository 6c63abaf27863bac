//! Sockets that the program owns.

#![forbid(unsafe_code)]

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use super::Socket;
use crate::config::{Config, Limits};
use crate::conn::{Conn, ConnId, Owner, ThreadContext};
use crate::descriptor::{self, AdoptError};
use crate::error::{Error, Status};
use crate::listener::Accepted;
use crate::service::Origin;
use crate::sys;

/// A detached socket, or one of a descriptor. The program owns it; it is in
/// blocking mode and for one thread at a time. A drop closes the connection:
/// queued bytes leave, and unread input is discarded, both bounded by the
/// server's `linger_timeout`.
///
/// ```
/// use net_server::OwnedSocket;
/// use std::{io::{Read, Write}, os::unix::net::UnixStream};
///
/// let (ours, mut theirs) = UnixStream::pair()?;
/// let mut owned = OwnedSocket::from_fd(ours)?;
/// owned.write_all(b"hello")?;
/// theirs.read_exact(&mut [0; 5])?;
///
/// let bare = UnixStream::from(owned.release_fd().map_err(|(error, _)| error)?);
/// assert!(bare.peer_addr().is_ok());
/// # Ok::<(), net_server::Error>(())
/// ```
pub struct OwnedSocket {
    conn: Box<Conn>,
}

impl OwnedSocket {
    pub(crate) fn new(conn: Conn) -> OwnedSocket {
        OwnedSocket { conn: Box::new(conn) }
    }

    /// Makes an owned socket, in blocking mode, of a connected stream socket,
    /// with the default settings of [`Config`].
    ///
    /// Errors, with the descriptor: [`Status::Invalid`] for what is no connected
    /// stream socket, also where its connect is in progress; [`Status::Io`].
    ///
    /// Example: [`OwnedSocket`].
    pub fn from_fd(socket: impl Into<OwnedFd>) -> Result<OwnedSocket, AdoptError> {
        let fd = socket.into();
        let connecting = || Error::new(Status::Invalid, "the connect is in progress");
        let peer = descriptor::peer_of(fd.as_fd()).and_then(|peer| peer.ok_or_else(connecting));
        let peer = match peer {
            Ok(peer) => peer,
            Err(error) => return Err(AdoptError { error, fd }),
        };
        sys::set_close_on_exec(fd.as_fd());
        // No server has this number.
        let limits = Limits::of(&Config::new());
        let context = Arc::new(ThreadContext::new(Owner::Program, 0, 0, limits));
        let accepted = Accepted { fd, peer, origin: Origin::NONE };
        let conn = Conn::open(context, ConnId::of_owned(), accepted);
        // fcntl(2) has no error for this on a socket.
        let _ = conn.set_nonblocking(false);
        Ok(OwnedSocket::new(conn))
    }

    /// Returns the socket, to use it.
    pub fn socket(&mut self) -> Socket<'_> {
        Socket::of(&mut self.conn)
    }

    /// Returns the bare descriptor, in blocking mode. Returns an error, with
    /// the socket, where bytes are still queued ([`Status::Busy`]), where the
    /// connection goes through TLS ([`Status::Unsupported`]), or where it is
    /// closed.
    ///
    /// Example: [`OwnedSocket`].
    pub fn release_fd(mut self) -> Result<OwnedFd, (Error, OwnedSocket)> {
        if self.conn.is_tls() {
            return Err((Error::from(Status::Unsupported), self));
        }
        if self.conn.queued() > 0 {
            return Err((Error::from(Status::Busy), self));
        }
        if self.conn.is_over() {
            return Err((Error::from(Status::Closed), self));
        }
        self.conn.take_fd().ok_or_else(|| (Error::from(Status::Closed), self))
    }

    /// Returns the connection itself, for the C layer: its address is the
    /// `ns_socket *` of a detached socket.
    #[cfg(feature = "capi")]
    pub(crate) fn into_raw(self) -> *mut Conn {
        Box::into_raw(Box::new(self.take()))
    }

    pub(crate) fn take(mut self) -> Conn {
        let replacement = Conn::vacant(self.conn.context.clone());
        self.conn.replace(replacement)
    }
}

impl Drop for OwnedSocket {
    fn drop(&mut self) {
        if self.conn.raw_fd() < 0 {
            return;
        }
        let until = self.conn.linger_until();
        if let Some(remains) = self.conn.close_waiting(until) {
            let (fd, _) = remains.discard(until, |_, _| true);
            self.conn.put_fd(fd);
            self.conn.close_fd();
        }
    }
}

impl Read for OwnedSocket {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.socket().read(buf)
    }
}

impl Write for OwnedSocket {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.socket().write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.socket().flush().map_err(io::Error::from)
    }
}
