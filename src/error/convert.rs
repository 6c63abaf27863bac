//! Errors of other types, as errors of the library, and the other way.

#![forbid(unsafe_code)]

use std::collections::TryReserveError;
use std::io;

use super::{reason, Error, Status};

impl From<Status> for Error {
    fn from(status: Status) -> Error {
        Error { status, detail: None }
    }
}

impl Error {
    /// Makes the error for memory that the library did not get.
    pub(crate) fn no_memory(_: TryReserveError) -> Error {
        Error::from(Status::NoMemory)
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Error {
        let status = Status::of_io(&error);
        match error.downcast::<Error>() {
            Ok(ours) => ours,
            Err(error) => Error::new(status, reason(&error)).edit(|d| {
                d.os_code = error.raw_os_error().unwrap_or(0);
                d.source = Some(Box::new(error));
            }),
        }
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> io::Error {
        let kind = match error.status {
            Status::WouldBlock => io::ErrorKind::WouldBlock,
            Status::Timeout => io::ErrorKind::TimedOut,
            Status::Reset => io::ErrorKind::ConnectionReset,
            Status::Closed | Status::Detached => io::ErrorKind::NotConnected,
            Status::Invalid => io::ErrorKind::InvalidInput,
            _ => io::ErrorKind::Other,
        };
        io::Error::new(kind, error)
    }
}

impl From<String> for Error {
    fn from(message: String) -> Error {
        Error::new(Status::Handler, message)
    }
}

impl From<&str> for Error {
    fn from(message: &str) -> Error {
        Error::new(Status::Handler, message)
    }
}

/// The status and the code of the operating system are those of the first
/// [`Error`], [`Status`] or [`io::Error`] behind it ([`std::error::Error::source`]).
/// An error whose text is the sentence of a status has that status: `anyhow` hides
/// the type of what it holds.
impl From<Box<dyn std::error::Error + Send + Sync>> for Error {
    fn from(source: Box<dyn std::error::Error + Send + Sync>) -> Error {
        let source = match source.downcast::<Error>() {
            Ok(ours) => return *ours,
            Err(source) => source,
        };
        let source = match source.downcast::<io::Error>() {
            Ok(error) => return Error::from(*error),
            Err(source) => source,
        };
        let message = source.to_string();
        let (status, os_code) = status_behind(&*source)
            .or_else(|| Status::from_message(&message).map(|status| (status, 0)))
            .unwrap_or((Status::Handler, 0));
        Error::new(status, message).edit(|d| {
            d.os_code = os_code;
            d.source = Some(source);
        })
    }
}

/// Returns the status and the operating system's code of the first error in the
/// chain that has some.
fn status_behind(error: &(dyn std::error::Error + 'static)) -> Option<(Status, i32)> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(ours) = error.downcast_ref::<Error>() {
            return Some((ours.status, ours.os_code()));
        }
        if let Some(status) = error.downcast_ref::<Status>() {
            return Some((*status, 0));
        }
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return Some((Status::of_io(error), error.raw_os_error().unwrap_or(0)));
        }
        next = error.source();
    }
    None
}
