//! What the program supplies: the handler and its hooks.

#![forbid(unsafe_code)]

use crate::error::{CloseReason, Error};
use crate::server::Server;
use crate::socket::Socket;

/// The program's side of a server. The provided methods are the default
/// behaviour; a closure `Fn(&Server, &mut Socket<'_>) -> Result<(), E>` is a
/// handler with all of them.
///
/// In blocking mode each method but the hooks runs on the worker that serves
/// the connection; in non-blocking mode on its loop, must not block, and the
/// methods of one connection never run at the same time. An API call never
/// runs one, and no lock of the library is held while one runs.
///
/// A panic is caught, is told to [`Handler::on_exception`] as
/// [`Status::Panic`](crate::Status::Panic) and closes that connection alone.
pub trait Handler: Send + Sync + 'static {
    /// Serves a connection: all of it in blocking mode, what can be read now
    /// in non-blocking mode. An error with the status
    /// [`WouldBlock`](crate::Status::WouldBlock) is none, here and in the other
    /// methods of a connection.
    fn handle(&self, server: &Server, socket: &mut Socket<'_>) -> Result<(), Error>;

    /// Runs before the first connection is accepted, on the thread that
    /// called `start`; an error makes `start` fail. A single event loop may
    /// run on the same thread afterwards: nothing that it does can be waited
    /// for here.
    fn on_start(&self, server: &Server) -> Result<(), Error> {
        let _ = server;
        Ok(())
    }

    /// Runs once, after the last connection is closed, on every route to
    /// stopped.
    fn on_stop(&self, server: &Server) {
        let _ = server;
    }

    /// Runs first for each connection; an error is told to
    /// [`Handler::on_exception`] and closes it.
    fn on_open(&self, server: &Server, socket: &mut Socket<'_>) -> Result<(), Error> {
        let _ = (server, socket);
        Ok(())
    }

    /// Runs last, exactly once for each connection that reached `on_open`
    /// and was not detached. Nothing can be sent or received any more.
    fn on_close(&self, server: &Server, socket: &mut Socket<'_>, reason: CloseReason) {
        let _ = (server, socket, reason);
    }

    /// The outbound queue is empty again. Non-blocking mode. In a stop, too:
    /// what is sent here is the rest of an answer, and the connection is
    /// closed when nothing more is.
    fn on_drain(&self, server: &Server, socket: &mut Socket<'_>) {
        let _ = (server, socket);
    }

    /// The connection's one-shot timer fired. By default it is closed.
    fn on_timeout(&self, server: &Server, socket: &mut Socket<'_>) {
        let _ = server;
        socket.close_because(CloseReason::Timer);
    }

    /// Somebody called [`Server::wake`] for this connection.
    fn on_wake(&self, server: &Server, socket: &mut Socket<'_>) {
        let _ = (server, socket);
    }

    /// Told of a failed handler (socket still open), a refused connection
    /// ([`Status::Rejected`](crate::Status::Rejected)) and failures to accept
    /// (no socket). In non-blocking mode the socket stays open unless this
    /// closes it; by default it is closed.
    fn on_exception(
        &self,
        server: &Server,
        socket: Option<&mut Socket<'_>>,
        error: &Error,
    ) -> Result<(), Error> {
        let _ = (server, error);
        if let Some(socket) = socket {
            socket.close_because(CloseReason::Error);
        }
        Ok(())
    }

    /// Somebody connected to the shutdown port: `true` (the default) stops
    /// the server. The socket is in blocking mode and bounded to 5 s.
    fn on_shutdown(&self, server: &Server, socket: &mut Socket<'_>) -> Result<bool, Error> {
        let _ = (server, socket);
        Ok(true)
    }
}

impl<F, E> Handler for F
where
    F: Fn(&Server, &mut Socket<'_>) -> Result<(), E> + Send + Sync + 'static,
    E: Into<Error>,
{
    fn handle(&self, server: &Server, socket: &mut Socket<'_>) -> Result<(), Error> {
        self(server, socket).map_err(Into::into)
    }
}
