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
    ///
    /// ```
    /// use net_server::{Config, Error, Handler, Server, Socket};
    /// use std::{io::{Read, Write}, net::TcpStream, time::Duration};
    ///
    /// /// Answers a client ten times a second, however much that sends.
    /// struct Slowly;
    /// impl Handler for Slowly {
    ///     fn handle(&self, _: &Server, socket: &mut Socket<'_>) -> Result<(), Error> {
    ///         let mut buf = [0; 100];
    ///         match socket.recv(&mut buf)? {
    ///             0 => return Ok(socket.close()),
    ///             n => socket.send(&buf[..n])?,
    ///         }
    ///         socket.pause()?;
    ///         socket.set_timer(Some(Duration::from_millis(100)))
    ///     }
    ///     fn on_timeout(&self, _: &Server, socket: &mut Socket<'_>) -> Result<(), Error> {
    ///         socket.resume()
    ///     }
    /// }
    /// let server = Server::with_config("127.0.0.1:0", Slowly, Config::new().non_blocking(true))?;
    /// server.start_background()?;
    /// let mut client = TcpStream::connect(server.address())?;
    /// for _ in 0..2 {
    ///     client.write_all(b"hello")?;
    ///     client.read_exact(&mut [0; 5])?;
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn pause(&mut self) -> Result<(), Error> {
        self.on_loop(Conn::pause)
    }

    /// Starts reading again, after [`Socket::pause`]. Non-blocking mode only.
    ///
    /// Example: [`Socket::pause`].
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
