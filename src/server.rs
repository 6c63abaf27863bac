//! The server: the public object.

#![forbid(unsafe_code)]

mod adopt;
mod calls;
mod control;
mod counters;
mod forked;
mod guest;
mod handover;
mod hosted;
mod lifecycle;
mod quiesce;
mod services;
mod start;
mod tasks;
mod threads;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use once_cell::sync::OnceCell;

use crate::blocking::Pool;
use crate::callback;
use crate::config::{Config, Limits};
use crate::conn::{ConnId, Owner, ThreadContext};
use crate::error::{Error, Status};
use crate::event::LoopGroup;
use crate::fork::{self, Process};
use crate::handler::Handler;
use crate::listener::ListenerFd;
use crate::logger::Log;
use crate::proxy::Trusted;
use crate::service::Service;
use crate::shutdown::ShutdownPort;
use crate::socket::{is_lent, OwnedSocket, Socket};
use crate::state::State;
use crate::stats::ThreadStats;
use crate::tls::TlsConfig;

pub(crate) use guest::Guest;
use guest::Seen;
use hosted::Hosted;
use lifecycle::Life;
use services::Services;
pub use tasks::TaskId;
pub use threads::ThreadKind;

/// A server: services, a handler and a configuration.
///
/// This is a handle: cheap to clone and usable on any thread. The server stops
/// when the last handle is dropped that comes from [`Server::new`] or
/// [`Server::with_config`]. The handle that a callback gets, and the clones of
/// it, do not count.
///
/// ```
/// use net_server::{Config, Server, Socket, State};
/// use std::time::Duration;
///
/// let handler = |_: &Server, socket: &mut Socket<'_>| socket.send(b"hello\n");
/// let server = Server::with_config("127.0.0.1:0", handler, Config::new().max_thread(4))?;
/// server.start_background()?;
/// assert_eq!(server.address(), format!("127.0.0.1:{}", server.port()));
/// server.request_stop(); // A signal handler may do this.
/// server.wait(Some(Duration::from_secs(60)))?;
/// assert_eq!(server.state(), State::Stopped);
/// # Ok::<(), net_server::Error>(())
/// ```
#[derive(Clone)]
pub struct Server {
    inner: Arc<Inner>,
    /// `None` in the handles of the library's threads and callbacks.
    _owner: Option<Arc<StopOnDrop>>,
}

struct StopOnDrop(Arc<Inner>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        let server = Server { inner: self.0.clone(), _owner: None };
        match server.inner.process.is_current() {
            true => drop(server.stop_for_good()),
            false => drop(server.leave_to_parent()),
        }
    }
}

pub(crate) struct Inner {
    number: u64,
    process: Process,
    services: Services,
    trusted: Trusted,
    shutdown_service: Option<Service>,
    /// The number of the first loop.
    first_loop: usize,
    config: Config,
    log: Log,
    handler: Box<dyn Handler>,
    life: Life,
    running: RwLock<Option<Arc<Running>>>,
}

/// The parts of a started server. They stay after the stop, for the counters.
pub(crate) struct Running {
    engine: Engine,
    shutdown: Option<ShutdownPort>,
    /// The shutdown port of a hosted server.
    guest: OnceCell<Seen>,
    port: u16,
    /// The addresses of each service.
    addresses: Vec<Vec<String>>,
    /// How many of the descriptors are the services'; they come first.
    lendable: usize,
    /// The descriptors of all listeners, for the program and for a child of
    /// fork(2).
    listener_fds: Vec<Arc<ListenerFd>>,
    started: Instant,
    /// Set where the program runs the only loop.
    hosted: OnceCell<Hosted>,
    uptime: OnceCell<Duration>,
    /// Room for a snapshot of the threads, so that the metrics allocate nothing.
    threads: Mutex<Vec<ThreadStats>>,
}

pub(crate) enum Engine {
    Pool(Box<Pool>),
    Loops(Arc<LoopGroup>),
}

/// The failure of [`Server::attach`]. The caller still owns the socket.
///
/// ```
/// use net_server::{OwnedSocket, Server, Socket};
/// use std::{io::Write, os::unix::net::UnixStream};
///
/// let server = Server::new("0", |_: &Server, _: &mut Socket<'_>| Ok::<(), net_server::Error>(()))?;
/// let (ours, theirs) = UnixStream::pair()?;
/// let owned = OwnedSocket::from_fd(ours)?;
/// let mut failed = server.attach(owned).expect_err("it is not a server of loops");
/// failed.socket.write_all(b"the socket is still ours")?;
/// # Ok::<(), net_server::Error>(())
/// ```
pub struct AttachError {
    /// The reason.
    pub error: Error,
    /// The socket.
    pub socket: OwnedSocket,
}

impl std::fmt::Debug for AttachError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AttachError({:?})", self.error)
    }
}

impl From<AttachError> for Error {
    fn from(failed: AttachError) -> Error {
        failed.error
    }
}

impl Server {
    /// Makes a server with the default configuration. It binds nothing yet.
    ///
    /// `service` says where to listen: `"5000"`, `"http"`, `"0"` or `""` for
    /// any free port, `"127.0.0.1:5000"`, `"[::1]:5000"`; `"unix:/path"`,
    /// `"unix:@name"` (unix(7)); `"fd:3"`, a listening descriptor of the
    /// program's, of which the start takes a duplicate; `"systemd"` or
    /// `"systemd:NAME"`, the sockets that systemd passed (sd_listen_fds(3)). On
    /// the latter two the start sets `O_NONBLOCK`, and the stop does not end
    /// the socket.
    ///
    /// Errors: [`Status::Invalid`] for a bad service string, [`Status::Io`]
    /// where the system has no descriptor left.
    ///
    /// Example: [`Server::start`].
    pub fn new(service: &str, handler: impl Handler) -> Result<Server, Error> {
        Server::with_config(service, handler, Config::new())
    }

    /// Makes a server. It binds nothing yet.
    ///
    /// Errors: [`Status::Invalid`] for a bad service string or a setting out
    /// of bounds, [`Status::Certificate`] or [`Status::Tls`] for TLS settings
    /// that cannot be used, [`Status::Io`] where the system has no descriptor
    /// left.
    ///
    /// Example: [`Server`].
    pub fn with_config(
        service: &str,
        handler: impl Handler,
        config: Config,
    ) -> Result<Server, Error> {
        config.validate()?;
        let service = Service::parse(service)?;
        let shutdown_service = match &config.shutdown_port {
            Some(text) => Some(Service::parse(text)?.for_shutdown()?),
            None => None,
        };
        Server::make(service, shutdown_service, handler, config, 0)
    }

    /// Makes a server of valid settings, whose first loop has the number
    /// `first_loop`.
    fn make(
        service: Service,
        shutdown_service: Option<Service>,
        handler: impl Handler,
        config: Config,
        first_loop: usize,
    ) -> Result<Server, Error> {
        static NUMBERS: AtomicU64 = AtomicU64::new(1);
        let failed = |e| Error::from_os(Status::Io, "cannot watch for forks", &e);
        fork::watch().map_err(failed)?;
        let tls = config.tls.as_ref().map(TlsConfig::server_config).transpose()?;
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        let inner = Arc::new(Inner {
            number,
            log: Log::new(config.logger.clone(), number),
            process: Process::current(),
            services: Services::new(service, tls, &config),
            trusted: Trusted::parse(&config.trusted_proxies)?,
            shutdown_service,
            first_loop,
            config,
            handler: Box::new(handler),
            life: Life::new()
                .map_err(|e| Error::from_os(Status::Io, "cannot make an event", &e))?,
            running: RwLock::new(None),
        });
        Ok(Server { _owner: Some(Arc::new(StopOnDrop(inner.clone()))), inner })
    }

    /// Returns the handle that the library's threads and callbacks use.
    fn view(&self) -> Server {
        Server { inner: self.inner.clone(), _owner: None }
    }

    pub(crate) fn number(&self) -> u64 {
        self.inner.number
    }

    pub(crate) fn log(&self) -> &Log {
        &self.inner.log
    }

    pub(crate) fn handler(&self) -> &dyn Handler {
        &*self.inner.handler
    }

    /// Returns whether this is a child of the process that made the server.
    #[cfg(feature = "capi")]
    pub(crate) fn is_parents(&self) -> bool {
        !self.inner.process.is_current()
    }

    /// Returns an error in a child of the process that made the server. Every
    /// call asks this before it takes a lock, which a thread of the parent may
    /// have held.
    pub(crate) fn check_process(&self) -> Result<(), Error> {
        match self.inner.process.is_current() {
            true => Ok(()),
            false => Err(fork::error()),
        }
    }

    fn running(&self) -> Option<Arc<Running>> {
        if !self.inner.process.is_current() {
            return None;
        }
        self.inner.running.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns whether the calling thread belongs to this server or runs one
    /// of its callbacks. There, `stop` only requests the stop and `wait` is an
    /// error.
    pub fn in_callback(&self) -> bool {
        callback::is_inside(self.inner.number)
    }

    /// Returns the configuration.
    pub fn config(&self) -> &Config {
        &self.inner.config
    }

    /// Returns the port of the first service, 0 before `start` and for a unix
    /// socket.
    pub fn port(&self) -> u16 {
        self.running().map_or(0, |r| r.port)
    }

    /// Returns the shutdown port, 0 before `start` and where there is none.
    pub fn shutdown_port(&self) -> u16 {
        self.running().map_or(0, |running| running.shutdown_port())
    }

    /// Returns the addresses that the first service listens on, each in the
    /// form `127.0.0.1:5000` and with `", "` between them. Empty before
    /// `start`.
    pub fn address(&self) -> String {
        self.service_address(0)
    }

    /// Takes a connection out of a non-blocking server. Any callback of the
    /// connection but `on_close` may do that. The caller owns the new socket,
    /// which is in blocking mode and immediately usable on any thread. The
    /// timer and a pause do not go along.
    ///
    /// Errors: [`Status::NotNonBlocking`], [`Status::NotInHandler`],
    /// [`Status::Detached`], [`Status::Busy`] in [`Socket::with_user_data`],
    /// [`Status::State`] during a TLS handshake,
    /// [`Status::Closed`] after a close or an abort, also after one by id that
    /// the loop has not carried out yet.
    ///
    /// ```
    /// use net_server::{Config, Error, Server, Socket};
    /// use std::{io::{Read, Write}, net::TcpStream, thread};
    ///
    /// let handler = |server: &Server, socket: &mut Socket<'_>| -> Result<(), Error> {
    ///     if socket.recv(&mut [0; 100])? == 0 {
    ///         socket.close();
    ///         return Ok(());
    ///     }
    ///     let mut owned = server.detach(socket)?;
    ///     let server = server.clone();
    ///     thread::spawn(move || {
    ///         // Work that takes its time, in calls that wait. Then the loop has it again.
    ///         let sent = owned.socket().send(b"done\n");
    ///         if let Err(failed) = sent.and_then(|()| Ok(server.attach(owned)?)) {
    ///             eprintln!("{failed}");
    ///         }
    ///     });
    ///     Ok(())
    /// };
    /// let server = Server::with_config("127.0.0.1:0", handler, Config::new().non_blocking(true))?;
    /// server.start_background()?;
    /// let mut client = TcpStream::connect(server.address())?;
    /// for _ in 0..2 {
    ///     client.write_all(b"work")?;
    ///     client.read_exact(&mut [0; 5])?;
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn detach(&self, socket: &mut Socket<'_>) -> Result<OwnedSocket, Error> {
        self.check_process()?;
        if !self.inner.config.non_blocking {
            return Err(Error::from(Status::NotNonBlocking));
        }
        let conn = socket.conn();
        if conn.context.owner != Owner::Loop || conn.context.server != self.inner.number {
            return Err(Error::from(Status::NotInHandler));
        }
        conn.check_usable()?;
        if conn.is_in_on_close() {
            return Err(Error::from(Status::NotInHandler));
        }
        if is_lent(conn) {
            return Err(Error::new(Status::Busy, "the user data is lent"));
        }
        if conn.is_upgrading() {
            return Err(Error::new(Status::State, "a TLS handshake is in progress"));
        }
        if conn.is_over() {
            return Err(Error::from(Status::Closed));
        }
        let running = self.running().ok_or(Status::State)?;
        let Engine::Loops(loops) = &running.engine else {
            return Err(Error::from(Status::NotNonBlocking));
        };
        let limits = Limits::of(&self.inner.config);
        let context =
            ThreadContext::new(Owner::Program, self.inner.number, conn.context.index, limits);
        loops.detach(conn, Arc::new(context)).map(OwnedSocket::new)
    }

    /// Gives a detached socket to this non-blocking server: to the loop that
    /// it came from, or, if it came from another server, to the least busy
    /// loop. The connection gets a new id and no `on_open`; the handler runs
    /// when there is input. `max_connections` does not apply. If `on_start`
    /// attaches a socket, the handler may run on a loop before `on_start`
    /// returns, and the connection is closed if `on_start` fails.
    ///
    /// Errors: [`Status::NotNonBlocking`], [`Status::State`],
    /// [`Status::Closed`]. The error holds the socket.
    ///
    /// Example: [`Server::detach`].
    pub fn attach(&self, socket: OwnedSocket) -> Result<ConnId, AttachError> {
        if let Err(error) = self.check_process() {
            return Err(AttachError { error, socket });
        }
        let failed = |status, socket| Err(AttachError { error: Error::from(status), socket });
        let Some(running) = self.running() else {
            let text = format!("cannot attach the socket: the server is {}", self.state().name());
            return Err(AttachError { error: Error::new(Status::State, text), socket });
        };
        let Engine::Loops(loops) = &running.engine else {
            return failed(Status::NotNonBlocking, socket);
        };
        match loops.attach(self.inner.number, socket.take()) {
            Ok(id) => Ok(ConnId::from_u64(id).expect("an id is never 0")),
            Err((error, conn)) => Err(AttachError { error, socket: OwnedSocket::new(conn) }),
        }
    }

    #[cfg(test)]
    pub(crate) fn post_to_first_loop(&self, mail: crate::event::Mail) {
        let Some(running) = self.running() else { return };
        if let Engine::Loops(loops) = &running.engine {
            loops.post_to_first(mail);
        }
    }

    fn loops<T>(&self, call: impl FnOnce(&LoopGroup) -> Result<T, Status>) -> Result<T, Status> {
        if !self.inner.config.non_blocking {
            return Err(Status::NotNonBlocking);
        }
        match self.running().as_deref() {
            Some(Running { engine: Engine::Loops(loops), .. }) => call(loops),
            _ => Err(Status::Closed),
        }
    }
}

impl Running {
    fn shutdown_port(&self) -> u16 {
        let guest = self.guest.get().map(|guest| guest.port);
        self.shutdown.as_ref().map(ShutdownPort::port).or(guest).unwrap_or(0)
    }

    fn shutdown_addresses(&self) -> Vec<String> {
        let guest = self.guest.get().map(|guest| guest.addresses.clone());
        self.shutdown.as_ref().map(ShutdownPort::addresses).or(guest).unwrap_or_default()
    }
}

impl Engine {
    /// Ends the connections that are left at a stop's deadline. Loops do that
    /// by themselves.
    fn cut(&self) {
        if let Engine::Pool(pool) = self {
            pool.cut();
        }
    }

    fn contexts(&self) -> impl Iterator<Item = &Arc<ThreadContext>> {
        let (pool, loops) = match self {
            Engine::Pool(pool) => (Some(pool), None),
            Engine::Loops(loops) => (None, Some(loops)),
        };
        let seats = pool.into_iter().flat_map(|pool| pool.contexts());
        seats.chain(loops.into_iter().flat_map(|loops| loops.contexts()))
    }
}
