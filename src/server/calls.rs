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
    pub fn send(&self, id: ConnId, data: &[u8]) -> Result<(), Error> {
        self.check_process()?;
        Ok(self.loops(|loops| loops.send(id, data))?)
    }

    /// Sends to many connections, which share one copy of the bytes, and
    /// returns how many accepted them.
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
    pub fn shutdown(&self, id: ConnId, how: Shutdown) -> Result<(), Error> {
        self.check_process()?;
        Ok(self.loops(|loops| loops.shutdown(id, how))?)
    }

    /// Makes the loop call `on_wake` for a connection. Several calls before
    /// `on_wake` runs count as one.
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
    pub fn close(&self, id: ConnId) -> Result<(), Error> {
        self.force_end(id, ForcedEnd::Close)
    }

    /// Ends a connection with a reset.
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
