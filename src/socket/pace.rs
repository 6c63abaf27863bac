//! When a connection is read, and until when calls and callbacks wait.

#![forbid(unsafe_code)]

use std::time::Duration;

use super::Socket;
use crate::clock::Deadline;
use crate::config::MAX_TIME;
use crate::conn::{Conn, Owner};
use crate::error::{Error, Status};

impl Socket<'_> {
    /// Sets the one-shot timer, in place of a former one, or turns it off.
    /// `on_timeout` runs when the time has passed. Non-blocking mode only.
    pub fn set_timer(&mut self, time: Option<Duration>) -> Result<(), Error> {
        check_time(time)?;
        self.on_loop(|conn| {
            conn.set_timer(time.map_or(Deadline::NEVER, Deadline::after));
        })
    }

    /// Sets this connection's own `io_timeout`. On a loop, where no call waits,
    /// the error is [`Status::Unsupported`].
    pub fn set_io_timeout(&mut self, time: Option<Duration>) -> Result<(), Error> {
        check_time(time)?;
        self.try_call(|conn| {
            if conn.context.owner.is_loop() {
                return Err(Status::Unsupported);
            }
            conn.set_io_timeout(time.map_or(0, |t| t.as_millis().max(1) as u64));
            Ok(())
        })
    }

    /// Stops reading: the loop does not call the handler until
    /// [`Socket::resume`]. Non-blocking mode only.
    pub fn pause(&mut self) -> Result<(), Error> {
        self.on_loop(Conn::pause)
    }

    /// Starts reading again, after [`Socket::pause`]. Non-blocking mode only.
    pub fn resume(&mut self) -> Result<(), Error> {
        self.on_loop(Conn::resume)
    }

    fn on_loop(&mut self, change: impl FnOnce(&mut Conn)) -> Result<(), Error> {
        self.try_call(|conn| {
            if conn.context.owner != Owner::Loop {
                return Err(Status::NotNonBlocking);
            }
            if conn.is_over() {
                return Err(Status::Closed);
            }
            change(conn);
            Ok(())
        })
    }
}

fn check_time(time: Option<Duration>) -> Result<(), Error> {
    match time {
        Some(time) if time > MAX_TIME => {
            let max = MAX_TIME.as_millis();
            Err(Error::new(Status::Invalid, format!("a time is at most {max} ms")))
        }
        _ => Ok(()),
    }
}
