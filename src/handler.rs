//! The handler and its hooks, which the program supplies.

#![forbid(unsafe_code)]

use crate::error::{CloseReason, Error};
use crate::server::{Server, ThreadKind};
use crate::socket::Socket;

/// The program's side of a server. The provided methods are the default
/// behaviour; a closure `Fn(&Server, &mut Socket<'_>) -> Result<(), E>` is a
/// handler with all of them.
///
/// In blocking mode the worker that serves a connection runs the methods,
/// except for the hooks of the server and of its threads. In non-blocking mode the
/// connection's loop runs them: they must not block, and the methods of one
/// connection never run at the same time. An API call never runs a method, and
/// the library holds no lock while one runs.
///
/// The library catches a panic, reports it to [`Handler::on_exception`] as
/// [`Status::Panic`](crate::Status::Panic) and closes that connection alone.
///
/// ```
/// use net_server::{CloseReason, Error, Handler, Server, Socket, Status};
/// use std::sync::atomic::{AtomicU64, Ordering};
///
/// #[derive(Default)]
/// struct Few {
///     here: AtomicU64,
/// }
///
/// impl Handler for Few {
///     fn handle(&self, _: &Server, socket: &mut Socket<'_>) -> Result<(), Error> {
///         let mut buf = [0; 4096];
///         match socket.recv(&mut buf)? {
///             0 => Ok(socket.close()),
///             n => socket.send(&buf[..n]),
///         }
///     }
///     fn on_start(&self, server: &Server) -> Result<(), Error> {
///         Ok(println!("listening on {}", server.address()))
///     }
///     fn on_open(&self, _: &Server, _: &mut Socket<'_>) -> Result<(), Error> {
///         match self.here.fetch_add(1, Ordering::Relaxed) < 100 {
///             true => Ok(()),
///             false => Err(Status::Rejected.into()),
///         }
///     }
///     fn on_close(&self, _: &Server, socket: &mut Socket<'_>, reason: CloseReason) {
///         self.here.fetch_sub(1, Ordering::Relaxed);
///         println!("{} has left: {}", socket.peer_name(), reason.name());
///     }
///     fn on_exception(
///         &self,
///         _: &Server,
///         socket: Option<&mut Socket<'_>>,
///         error: &Error,
///     ) -> Result<(), Error> {
///         eprintln!("{error}");
///         Ok(socket.map(Socket::close).unwrap_or_default())
///     }
///     fn on_stop(&self, server: &Server) {
///         println!("served {} connections", server.stats().accepted);
///     }
/// }
/// let server = Server::new("127.0.0.1:0", Few::default())?;
/// server.start_background()?;
/// server.stop()?;
/// # Ok::<(), net_server::Error>(())
/// ```
pub trait Handler: Send + Sync + 'static {
    /// Serves a connection: in blocking mode from its beginning to its end, in
    /// non-blocking mode as far as there is input now. An error with the
    /// status [`WouldBlock`](crate::Status::WouldBlock) is no failure, here and
    /// in the other methods of a connection.
    ///
    /// Example: [`Handler`].
    fn handle(&self, server: &Server, socket: &mut Socket<'_>) -> Result<(), Error>;

    /// Runs before the server accepts the first connection, on the thread that
    /// called `start`; an error makes `start` fail. A single event loop may
    /// run on the same thread afterwards, so this hook must not wait for
    /// anything that the loop does.
    ///
    /// Example: [`Handler`].
    fn on_start(&self, server: &Server) -> Result<(), Error> {
        let _ = server;
        Ok(())
    }

    /// Runs once, after the last connection is closed, whatever stopped the
    /// server.
    ///
    /// Example: [`Handler`].
    fn on_stop(&self, server: &Server) {
        let _ = server;
    }

    /// Runs once after the server has stopped accepting by
    /// [`Server::quiesce`](crate::Server::quiesce), before that returns; not
    /// where a stop comes first. It runs on the thread of the first loop, or on
    /// the control thread of a server in blocking mode.
    ///
    /// Example: [`Handler::on_thread_start`].
    fn on_quiesce(&self, server: &Server) {
        let _ = server;
    }

    /// Runs first on each thread that the library makes, before `on_start`;
    /// never on a thread of the program's own, so not on one that calls `start`
    /// and becomes a loop. `number` counts the threads of a kind from 0. An
    /// error makes `start` fail. The server has no ports yet, and nothing can be
    /// attached.
    ///
    /// ```
    /// use net_server::{Error, Handler, Server, Socket, ThreadKind};
    ///
    /// struct Watched;
    /// impl Handler for Watched {
    ///     fn handle(&self, _: &Server, socket: &mut Socket<'_>) -> Result<(), Error> {
    ///         socket.send(b"hello\n")
    ///     }
    ///     fn on_thread_start(&self, _: &Server, kind: ThreadKind, number: usize) -> Result<(), Error> {
    ///         Ok(println!("{kind:?} {number} begins"))
    ///     }
    ///     fn on_thread_stop(&self, _: &Server, kind: ThreadKind, number: usize) {
    ///         println!("{kind:?} {number} ends");
    ///     }
    ///     fn on_quiesce(&self, server: &Server) {
    ///         println!("{} connections are left", server.stats().open);
    ///     }
    ///     fn on_shutdown(&self, _: &Server, socket: &mut Socket<'_>) -> Result<bool, Error> {
    ///         let mut word = [0; 4];
    ///         Ok(socket.recv(&mut word)? == 4 && word == *b"stop")
    ///     }
    /// }
    /// let server = Server::new("127.0.0.1:0", Watched)?;
    /// server.start_background()?;
    /// server.quiesce()?;
    /// # Ok::<(), net_server::Error>(())
    /// ```
    fn on_thread_start(
        &self,
        server: &Server,
        kind: ThreadKind,
        number: usize,
    ) -> Result<(), Error> {
        let _ = (server, kind, number);
        Ok(())
    }

    /// Runs last on each thread on which `on_thread_start` ran, also where that
    /// failed, and before the state is [`State::Stopped`](crate::State::Stopped).
    /// A start that fails ends its threads with it, too.
    ///
    /// Example: [`Handler::on_thread_start`].
    fn on_thread_stop(&self, server: &Server, kind: ThreadKind, number: usize) {
        let _ = (server, kind, number);
    }

    /// Runs first for each connection. The library reports an error to
    /// [`Handler::on_exception`] and closes the connection. With the status
    /// [`Rejected`](crate::Status::Rejected) it only closes it: that is how
    /// `on_open` refuses a connection.
    ///
    /// Example: [`Handler`].
    fn on_open(&self, server: &Server, socket: &mut Socket<'_>) -> Result<(), Error> {
        let _ = (server, socket);
        Ok(())
    }

    /// Runs last, exactly once for each connection that reached `on_open`
    /// and was not detached. The socket can neither send nor receive any more.
    ///
    /// Example: [`Handler`].
    fn on_close(&self, server: &Server, socket: &mut Socket<'_>, reason: CloseReason) {
        let _ = (server, socket, reason);
    }

    /// Runs when the outbound queue has become empty, or has shrunk to
    /// [`Config::low_water_mark`](crate::Config::low_water_mark), in non-blocking
    /// mode. It runs during a stop too, so that it can send the rest of a reply; when
    /// it sends nothing more, the connection is closed. It fails as
    /// [`Handler::handle`] does.
    ///
    /// ```
    /// use net_server::{Config, Error, Handler, Server, Socket};
    /// use std::{io::Read, net::TcpStream};
    ///
    /// /// Sends 10 MB as fast as the peer reads, and holds 100 kB of it.
    /// struct Download;
    /// impl Download {
    ///     fn next(&self, socket: &mut Socket<'_>) -> Result<(), Error> {
    ///         // Where the kernel takes all of it there is no drain to wait for.
    ///         while socket.queued() == 0 {
    ///             match socket.user_data_mut::<u32>() {
    ///                 Some(0) | None => return Ok(socket.close()),
    ///                 Some(left) => *left -= 1,
    ///             }
    ///             socket.send(&[0; 100_000])?;
    ///         }
    ///         Ok(())
    ///     }
    /// }
    /// impl Handler for Download {
    ///     fn handle(&self, _: &Server, socket: &mut Socket<'_>) -> Result<(), Error> {
    ///         socket.recv(&mut [0; 100]).map(drop)
    ///     }
    ///     fn on_open(&self, _: &Server, socket: &mut Socket<'_>) -> Result<(), Error> {
    ///         socket.set_user_data(100u32);
    ///         self.next(socket)
    ///     }
    ///     fn on_drain(&self, _: &Server, socket: &mut Socket<'_>) -> Result<(), Error> {
    ///         self.next(socket)
    ///     }
    /// }
    /// let server = Server::with_config("127.0.0.1:0", Download, Config::new().non_blocking(true))?;
    /// server.start_background()?;
    /// let mut all = Vec::new();
    /// TcpStream::connect(server.address())?.read_to_end(&mut all)?;
    /// assert_eq!(all.len(), 10_000_000);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    fn on_drain(&self, server: &Server, socket: &mut Socket<'_>) -> Result<(), Error> {
        let _ = (server, socket);
        Ok(())
    }

    /// Runs when the connection's one-shot timer fires. The default closes the
    /// connection. It fails as [`Handler::handle`] does.
    ///
    /// Example: [`Socket::pause`].
    fn on_timeout(&self, server: &Server, socket: &mut Socket<'_>) -> Result<(), Error> {
        let _ = server;
        socket.close_because(CloseReason::Timer);
        Ok(())
    }

    /// Runs after a call of [`Server::wake`] for this connection. It fails as
    /// [`Handler::handle`] does.
    ///
    /// Example: [`Server::wake`].
    fn on_wake(&self, server: &Server, socket: &mut Socket<'_>) -> Result<(), Error> {
        let _ = (server, socket);
        Ok(())
    }

    /// Runs after a failed handler (the socket is still open), for a refused
    /// connection ([`Status::Rejected`](crate::Status::Rejected)), a failed TLS
    /// handshake or connect ([`Status::Connect`](crate::Status::Connect)),
    /// which end the connection, and a failure to accept (no socket). In
    /// non-blocking mode the socket stays open unless this method closes it.
    /// The default closes it.
    ///
    /// Example: [`Handler`].
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

    /// Runs when a peer connects to the shutdown port; `true` (the default)
    /// stops the server. The socket is in blocking mode and works for 5 s at
    /// most.
    ///
    /// Example: [`Handler::on_thread_start`].
    fn on_shutdown(&self, server: &Server, socket: &mut Socket<'_>) -> Result<bool, Error> {
        let _ = (server, socket);
        Ok(true)
    }

    /// Returns whether [`Handler::on_shutdown`] decides (the default). Without it a
    /// peer that connects stops the server immediately, of a hosted server too,
    /// whose `on_shutdown` runs only when the peer has sent something or has ended.
    fn has_on_shutdown(&self) -> bool {
        true
    }
}

impl<F, E> Handler for F
where
    F: Fn(&Server, &mut Socket<'_>) -> Result<(), E> + Send + Sync + 'static,
    E: Into<Box<dyn std::error::Error + Send + Sync>> + 'static,
{
    fn handle(&self, server: &Server, socket: &mut Socket<'_>) -> Result<(), Error> {
        self(server, socket).map_err(Error::of_any)
    }

    fn has_on_shutdown(&self) -> bool {
        false
    }
}
