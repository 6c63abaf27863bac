//! Who and where the two sides of a connection are.

#![forbid(unsafe_code)]

use std::net::SocketAddr;

#[cfg(feature = "capi")]
use socket2::SockAddr;
use socket2::SockRef;

use super::Conn;
use crate::address::{self, canonical, Peer};
use crate::admission::{Admission, Limit};
use crate::error::{Error, Status};
use crate::sys;

/// Who is behind a unix socket, as the kernel knows it (`SO_PEERCRED`, unix(7)):
/// the process that connected, as it was then.
///
/// ```
/// use net_server::OwnedSocket;
/// use std::os::unix::net::UnixStream;
///
/// let (ours, _theirs) = UnixStream::pair()?;
/// let peer = OwnedSocket::from_fd(ours)?.socket().peer_credentials()?;
/// assert_eq!(peer.pid, std::process::id() as i32);
/// # Ok::<(), net_server::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeerCredentials {
    /// The process; 0 where this process cannot see it (pid_namespaces(7)).
    pub pid: i32,
    /// Its effective user.
    pub uid: u32,
    /// Its effective group.
    pub gid: u32,
}

impl Conn {
    /// Takes a connection that has ended, or that leaves its server, off the
    /// count of its address.
    pub fn leave(&mut self, admission: &Admission) {
        admission.leave(self.client(), &mut self.origin);
    }

    /// Judges a connection by the address that its PROXY header has announced. The
    /// connections of a trusted proxy itself have no limits.
    pub fn admit_client(&mut self, admission: &Admission) -> Result<(), Limit> {
        if self.announced().is_none() {
            return Ok(());
        }
        admission.admit(self.client(), &mut self.origin)
    }

    /// Returns the address whose limits the connection has.
    pub fn client(&self) -> Peer {
        self.announced().map_or(self.peer, |(source, _)| source.peer())
    }

    /// Returns the peer's address: what a PROXY header announced, if there was one.
    pub fn peer(&self) -> Option<SocketAddr> {
        match self.announced() {
            Some((source, _)) => source.address(),
            None => self.peer.address(),
        }
    }

    pub fn local(&self) -> Option<SocketAddr> {
        if let Some((_, destination)) = self.announced() {
            return destination.address();
        }
        let address = SockRef::from(&self.fd()?).local_addr().ok()?;
        Some(canonical(address.as_socket()?))
    }

    /// Returns the peer's address as text, empty where it is not known.
    pub fn peer_name(&self) -> String {
        match self.announced() {
            Some((source, _)) => source.name(),
            None => self.transport_peer_name(),
        }
    }

    /// Returns the address that the connection itself comes from.
    pub fn transport_peer(&self) -> Peer {
        self.peer
    }

    /// Returns that address as text, empty where it is not known.
    pub fn transport_peer_name(&self) -> String {
        match self.peer.address() {
            Some(address) => address.to_string(),
            None if self.peer.is_unix() => {
                let address = self.fd().map(|fd| SockRef::from(&fd).peer_addr());
                let name = address.and_then(Result::ok).map(|address| address::name(&address));
                // After a reset nobody knows it.
                name.unwrap_or("unix:".into())
            }
            None => String::new(),
        }
    }

    /// Returns the address of this side as text, empty where it is not known.
    pub fn local_name(&self) -> String {
        if let Some((_, destination)) = self.announced() {
            return destination.name();
        }
        let address = self.fd().map(|fd| SockRef::from(&fd).local_addr());
        address.and_then(Result::ok).map_or(String::new(), |address| address::name(&address))
    }

    /// Returns the peer's address as the operating system has it, an
    /// IPv4-mapped one as IPv4.
    #[cfg(feature = "capi")]
    pub fn peer_structure(&self) -> Option<SockAddr> {
        if let Some((source, _)) = self.announced() {
            return Some(source.structure());
        }
        match self.peer() {
            Some(address) => Some(address.into()),
            None if self.peer.is_unix() => SockRef::from(&self.fd()?).peer_addr().ok(),
            None => None,
        }
    }

    /// Returns the address of this side, as [`Conn::peer_structure`] does.
    #[cfg(feature = "capi")]
    pub fn local_structure(&self) -> Option<SockAddr> {
        if let Some((_, destination)) = self.announced() {
            return Some(destination.structure());
        }
        match self.local() {
            Some(address) => Some(address.into()),
            None => SockRef::from(&self.fd()?).local_addr().ok(),
        }
    }

    pub fn peer_credentials(&self) -> Result<PeerCredentials, Error> {
        let fd = self.fd().ok_or(Status::Closed)?;
        if !sys::is_unix(fd) {
            return Err(Error::from(Status::Unsupported));
        }
        let found = sys::peer_credentials(fd)
            .map_err(|e| Error::from_os(Status::Io, "cannot ask for the peer", &e))?;
        Ok(PeerCredentials { pid: found.pid, uid: found.uid, gid: found.gid })
    }
}
