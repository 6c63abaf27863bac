//! Connecting: to the addresses of a name, one after the other.

#![forbid(unsafe_code)]

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};

use crate::clock::Deadline;
use crate::error::{quoted, Error, Status};
use crate::service::Service;

/// A connection that is not there yet.
pub(crate) struct Connect {
    /// Where the program connects to; empty for a socket whose connect the
    /// program has begun.
    target: String,
    /// The addresses that are left, the next one last.
    addresses: Vec<SockAddr>,
    /// When it must be there.
    until: Deadline,
}

impl Connect {
    /// Of a socket whose connect the program has begun.
    pub fn of_program() -> Connect {
        Connect { target: String::new(), addresses: Vec::new(), until: Deadline::NEVER }
    }

    /// Resolves the names of a service string. `None` for the time is the
    /// kernel's.
    pub fn resolve(target: &str, timeout: Option<Duration>) -> Result<Connect, Error> {
        let mut addresses = Service::parse(target)?.targets()?;
        addresses.reverse();
        let until = timeout.map_or(Deadline::NEVER, Deadline::after);
        Ok(Connect { target: target.to_string(), addresses, until })
    }

    /// Begins to connect to the next address. `error` is the failure of the
    /// former one; the last failure is returned when no address is left.
    pub fn begin_next(&mut self, error: Option<io::Error>) -> Result<(OwnedFd, SockAddr), Error> {
        let mut error = error.unwrap_or(io::ErrorKind::AddrNotAvailable.into());
        while let Some(address) = self.addresses.pop() {
            match begin(&address) {
                Ok(fd) => return Ok((fd, address)),
                Err(e) => error = e,
            }
        }
        let what = match self.target.as_str() {
            "" => "cannot connect".into(),
            target => format!("cannot connect to {}", quoted(target)),
        };
        Err(Error::from_os(Status::Connect, &what, &error))
    }

    /// Returns until when the attempt may go on that begins now: it has an equal
    /// share of the time with those that are left.
    pub fn share(&self) -> Deadline {
        match self.until {
            Deadline::NEVER => Deadline::NEVER,
            until => Deadline::after_ms(until.ms_left() / (self.addresses.len() as u64 + 1)),
        }
    }
}

/// Begins to connect. The connection may be there immediately.
fn begin(address: &SockAddr) -> io::Result<OwnedFd> {
    let domain = Domain::from(i32::from(address.family()));
    let socket = Socket::new(domain, Type::STREAM.nonblocking(), None)?;
    match socket.connect(address) {
        Err(e) if e.raw_os_error() != Some(libc::EINPROGRESS) => Err(e),
        _ => Ok(socket.into()),
    }
}
