//! Calls by the number of a connection, from any thread.

#![forbid(unsafe_code)]

use std::net::Shutdown;

use super::{Engine, Server};
use crate::conn::{ConnId, ForcedEnd};
use crate::error::{Error, Status};
use crate::state::State;

impl Server {
    /// Sends to a connection from any thread. Success means that the bytes are
    /// accepted, not that they are delivered. The bytes of one calling thread
    /// keep their order.
    ///
    /// Errors: [`Status::Closed`] for a connection that is gone,
    /// [`Status::BufferFull`], [`Status::NotNonBlocking`].
    ///
    /// ```
    /// use net_server::{Config, Error, Server, Socket};
    /// use std::{io::{Read, Write}, net::{Shutdown, TcpStream}, sync::mpsc};
    ///
    /// let (tell, told) = mpsc::channel();
    /// let handler = move |_: &Server, socket: &mut Socket<'_>| -> Result<(), Error> {
    ///     socket.recv(&mut [0; 100])?;
    ///     let _ = tell.send(socket.id());
    ///     Ok(())
    /// };
    /// let server = Server::with_config("127.0.0.1:0", handler, Config::new().non_blocking(true))?;
    /// server.start_background()?;
    /// let mut client = TcpStream::connect(server.address())?;
    /// client.write_all(b"I am here")?;
    /// let id = told.recv()?;
    /// server.send(id, b"one, ")?;
    /// assert_eq!(server.broadcast(&[id], b"two, ")?, 1);
    /// assert_eq!(server.broadcast_each(&[id], b"three")?, [Ok(())]);
    /// server.shutdown(id, Shutdown::Write)?;
    /// let mut text = String::new();
    /// client.read_to_string(&mut text)?;
    /// assert_eq!(text, "one, two, three");
    /// server.close(id)?; // `abort` would not wait for what was sent.
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn send(&self, id: ConnId, data: &[u8]) -> Result<(), Error> {
        self.check_process()?;
        Ok(self.loops(|loops| loops.send(id, data))?)
    }

    /// Sends to many connections, which share one copy of the bytes, and
    /// returns how many accepted them.
    ///
    /// Example: [`Server::send`].
    pub fn broadcast(&self, ids: &[ConnId], data: &[u8]) -> Result<usize, Error> {
        self.check_process()?;
        if self.state() == State::Stopped {
            return Err(Error::from(Status::Closed));
        }
        Ok(self.loops(|loops| Ok(loops.broadcast(ids, data).flatten().count()))?)
    }

    /// Does as [`Server::broadcast`], and returns for each id, in their order,
    /// whether its connection has accepted the bytes, or which status
    /// [`Server::send`] would have returned.
    ///
    /// Example: [`Server::send`].
    pub fn broadcast_each(
        &self,
        ids: &[ConnId],
        data: &[u8],
    ) -> Result<Vec<Result<(), Status>>, Error> {
        self.check_process()?;
        if self.state() == State::Stopped {
            return Err(Error::from(Status::Closed));
        }
        Ok(self.loops(|loops| Ok(loops.broadcast(ids, data).collect()))?)
    }

    /// Returns the number of bytes that were accepted for a connection and are
    /// not with the kernel.
    pub fn queued(&self, id: ConnId) -> Result<usize, Error> {
        self.check_process()?;
        Ok(self.loops(|loops| loops.queued(id))?)
    }

    /// Ends one direction of a connection, or both, as
    /// [`Socket::shutdown`](crate::Socket::shutdown) does: the sending side
    /// after what was accepted before this call. From now on
    /// [`Server::send`] returns [`Status::Closed`].
    ///
    /// Example: [`Server::send`].
    pub fn shutdown(&self, id: ConnId, how: Shutdown) -> Result<(), Error> {
        self.check_process()?;
        Ok(self.loops(|loops| loops.shutdown(id, how))?)
    }

    /// Makes the loop call `on_wake` for a connection. Several calls before
    /// `on_wake` runs count as one.
    ///
    /// ```
    /// use net_server::{Config, Error, Handler, Server, Socket};
    /// use std::{io::Read, net::TcpStream};
    ///
    /// struct Slow;
    /// impl Handler for Slow {
    ///     fn handle(&self, _: &Server, socket: &mut Socket<'_>) -> Result<(), Error> {
    ///         socket.recv(&mut [0; 100]).map(drop)
    ///     }
    ///     fn on_open(&self, server: &Server, socket: &mut Socket<'_>) -> Result<(), Error> {
    ///         let (server, id) = (server.clone(), socket.id());
    ///         // Another thread has the result, and lets the loop send it.
    ///         std::thread::spawn(move || server.wake(id));
    ///         Ok(())
    ///     }
    ///     fn on_wake(&self, _: &Server, socket: &mut Socket<'_>) -> Result<(), Error> {
    ///         socket.send(b"42\n")
    ///     }
    /// }
    /// let server = Server::with_config("127.0.0.1:0", Slow, Config::new().non_blocking(true))?;
    /// server.start_background()?;
    /// let mut client = TcpStream::connect(server.address())?;
    /// client.read_exact(&mut [0; 3])?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn wake(&self, id: ConnId) -> Result<(), Error> {
        self.check_process()?;
        Ok(self.loops(|loops| loops.wake(id))?)
    }

    /// Returns the ids of the connections that are open now.
    pub fn connections(&self) -> Result<Vec<ConnId>, Error> {
        self.check_process()?;
        match self.loops(|loops| Ok(loops.connections())) {
            Err(Status::Closed) => Ok(Vec::new()),
            other => Ok(other?),
        }
    }

    /// Closes a connection after its queued bytes have left. On a blocking
    /// server its `recv` and `send` return [`Status::Closed`] from now on.
    ///
    /// Example: [`Server::send`].
    pub fn close(&self, id: ConnId) -> Result<(), Error> {
        self.force_end(id, ForcedEnd::Close)
    }

    /// Ends a connection with a reset.
    ///
    /// ```
    /// use net_server::{ConnId, Error, Server, Status};
    ///
    /// /// It is well that a connection is gone already.
    /// fn drop_client(server: &Server, id: ConnId) -> Result<(), Error> {
    ///     server.abort(id).or_else(|error| match error.status() {
    ///         Status::Closed => Ok(()),
    ///         _ => Err(error),
    ///     })
    /// }
    /// ```
    pub fn abort(&self, id: ConnId) -> Result<(), Error> {
        self.force_end(id, ForcedEnd::Abort)
    }

    fn force_end(&self, id: ConnId, how: ForcedEnd) -> Result<(), Error> {
        self.check_process()?;
        let running = self.running().ok_or(Status::Closed)?;
        match (&running.engine, how) {
            (Engine::Pool(pool), how) => pool.force_end(self, id.get(), how)?,
            (Engine::Loops(loops), ForcedEnd::Abort) => loops.abort(id)?,
            (Engine::Loops(loops), _) => loops.close(id)?,
        }
        Ok(())
    }
}
