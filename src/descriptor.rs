//! What a descriptor is that the program gives to the library.

#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use socket2::{SockAddr, SockRef, Type};

use crate::address::Peer;
use crate::error::{Error, Status};
use crate::sys::{self, PollFlags};

/// The failure of [`Server::adopt`](crate::Server::adopt) and
/// [`OwnedSocket::from_fd`](crate::OwnedSocket::from_fd). The caller still owns
/// the descriptor, which is unchanged.
///
/// ```
/// use net_server::OwnedSocket;
/// use std::net::TcpListener;
///
/// let failed = OwnedSocket::from_fd(TcpListener::bind("127.0.0.1:0")?).err().expect("it listens");
/// assert!(failed.error.message().contains("a listening socket"));
/// let listener = TcpListener::from(failed.fd);
/// # Ok::<(), net_server::Error>(())
/// ```
#[derive(Debug)]
pub struct AdoptError {
    /// The reason.
    pub error: Error,
    /// The descriptor.
    pub fd: OwnedFd,
}

impl From<AdoptError> for Error {
    fn from(failed: AdoptError) -> Error {
        failed.error
    }
}

/// What a stream socket is.
pub(crate) enum Stream {
    Listening,
    Connected(SockAddr),
    /// Its connect is in progress, or has failed and nobody has asked for the
    /// error yet.
    Connecting,
    /// Neither of them.
    Idle,
}

/// Why a descriptor is no stream socket.
pub(crate) enum Unfit {
    /// What it is instead.
    Other(&'static str),
    Failed(io::Error),
}

impl From<io::Error> for Unfit {
    fn from(error: io::Error) -> Unfit {
        Unfit::Failed(error)
    }
}

/// Looks at a descriptor, whose number may be that of no open one.
pub(crate) fn examine(fd: BorrowedFd<'_>) -> Result<Stream, Unfit> {
    let socket = SockRef::from(&fd);
    match socket.r#type() {
        Err(e) if e.raw_os_error() == Some(libc::EBADF) => return Err(Unfit::Other("not open")),
        Err(e) if e.raw_os_error() == Some(libc::ENOTSOCK) => {
            return Err(Unfit::Other("no socket"));
        }
        Err(e) => return Err(Unfit::Failed(e)),
        Ok(Type::STREAM) => {}
        Ok(Type::DGRAM) => {
            return Err(Unfit::Other("a datagram socket, not a stream socket"));
        }
        Ok(_) => return Err(Unfit::Other("no stream socket")),
    }
    if socket.is_listener()? {
        return Ok(Stream::Listening);
    }
    if let Ok(peer) = socket.peer_addr() {
        return Ok(Stream::Connected(peer));
    }
    // A socket that was never connected is a hang-up, and so is one that has
    // failed; the latter has an error too.
    let found = sys::poll(fd, PollFlags::OUT, 0)?;
    match found.contains(PollFlags::ERR) || !found.contains(PollFlags::HUP) {
        true => Ok(Stream::Connecting),
        false => Ok(Stream::Idle),
    }
}

/// Returns the peer of a socket that can become a connection, `None` where its
/// connect is in progress.
pub(crate) fn peer_of(fd: BorrowedFd<'_>) -> Result<Option<Peer>, Error> {
    let number = fd.as_raw_fd();
    let what = match examine(fd) {
        Ok(Stream::Connected(peer)) => return Ok(Some(Peer::new(&peer))),
        Ok(Stream::Connecting) => return Ok(None),
        Ok(Stream::Listening) => "a listening socket, not a connected one",
        Ok(Stream::Idle) => "a socket that is not connected",
        Err(Unfit::Other(what)) => what,
        Err(Unfit::Failed(e)) => {
            let text = format!("cannot use descriptor {number}");
            return Err(Error::from_os(Status::Io, &text, &e));
        }
    };
    Err(Error::new(Status::Invalid, format!("descriptor {number} is {what}")))
}
