//! The server: the public object.

#![forbid(unsafe_code)]

mod control;
mod handover;
mod lifecycle;
mod start;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use once_cell::sync::OnceCell;

use crate::blocking::Pool;
use crate::callback;
use crate::config::{Config, Limits};
use crate::conn::{flag, ConnId, ForcedEnd, Owner, ThreadContext};
use crate::error::{quoted, Error, Status};
use crate::event::LoopGroup;
use crate::handler::Handler;
use crate::service::Service;
use crate::shutdown::ShutdownPort;
use crate::socket::{OwnedSocket, Socket};
use crate::state::State;
use crate::stats::{self, Stats, ThreadStats};
use crate::tls::TlsConfig;

use lifecycle::Life;

/// A server: a service, a handler and a configuration.
///
/// A handle, cheap to clone, for any thread. When the last one that came from
/// [`Server::new`] is dropped the server is stopped; the one that callbacks
/// are given, and its clones, do not count.
#[derive(Clone)]
pub struct Server {
    inner: Arc<Inner>,
    /// Only the program's own handles have it.
    _owner: Option<Arc<StopOnDrop>>,
}

struct StopOnDrop(Arc<Inner>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        let server = Server { inner: self.0.clone(), _owner: None };
        let _ = server.stop();
    }
}

pub(crate) struct Inner {
    number: u64,
    service: Service,
    shutdown_service: Option<Service>,
    config: Config,
    handler: Box<dyn Handler>,
    /// What new handshakes use.
    tls: RwLock<Option<Arc<rustls::ServerConfig>>>,
    life: Life,
    running: RwLock<Option<Arc<Running>>>,
}

/// What a started server has; its counters outlive the stop.
pub(crate) struct Running {
    engine: Engine,
    shutdown: Option<ShutdownPort>,
    port: u16,
    address: String,
    started: Instant,
    uptime: OnceCell<Duration>,
}

pub(crate) enum Engine {
    Pool(Box<Pool>),
    Loops(Arc<LoopGroup>),
}

/// [`Server::attach`] failed: why, and the socket, still the caller's.
pub struct AttachError {
    /// Why.
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
    /// A server with the default configuration. Nothing is bound yet.
    ///
    /// `service` says where to listen: `"5000"`, `"http"`, `"0"` or `""` for
    /// any free port, `"127.0.0.1:5000"`, `"[::1]:5000"`.
    ///
    /// Errors: [`Status::Invalid`] for a service string that is none.
    pub fn new(service: &str, handler: impl Handler) -> Result<Server, Error> {
        Server::with_config(service, handler, Config::new())
    }

    /// A server. Errors: [`Status::Invalid`] for a bad service string or a
    /// setting out of bounds, [`Status::Io`] where the system has no
    /// descriptor left.
    pub fn with_config(
        service: &str,
        handler: impl Handler,
        config: Config,
    ) -> Result<Server, Error> {
        static NUMBERS: AtomicU64 = AtomicU64::new(1);
        config.validate()?;
        let service = Service::parse(service)?;
        let shutdown_service = match &config.shutdown_port {
            Some(text) => Some(Service::parse(text)?.or_loopback()),
            None => None,
        };
        let tls = config.tls.as_ref().map(TlsConfig::server_config).transpose()?;
        let inner = Arc::new(Inner {
            number: NUMBERS.fetch_add(1, Ordering::Relaxed),
            service,
            shutdown_service,
            config,
            handler: Box::new(handler),
            tls: RwLock::new(tls),
            life: Life::new()
                .map_err(|e| Error::from_os(Status::Io, "cannot make an event", &e))?,
            running: RwLock::new(None),
        });
        Ok(Server { _owner: Some(Arc::new(StopOnDrop(inner.clone()))), inner })
    }

    /// The handle that the library's threads and callbacks use.
    fn view(&self) -> Server {
        Server { inner: self.inner.clone(), _owner: None }
    }

    pub(crate) fn number(&self) -> u64 {
        self.inner.number
    }

    pub(crate) fn handler(&self) -> &dyn Handler {
        &*self.inner.handler
    }

    pub(crate) fn is_tls(&self) -> bool {
        self.inner.config.tls.is_some()
    }

    pub(crate) fn tls(&self) -> Option<Arc<rustls::ServerConfig>> {
        self.inner.tls.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Gives a TLS server other certificates: new handshakes use them, open
    /// sessions go on. A failure leaves the old ones in force.
    ///
    /// Errors: [`Status::Certificate`], [`Status::Tls`]; [`Status::State`]
    /// for a server without TLS.
    pub fn reload_tls(&self, tls: &TlsConfig) -> Result<(), Error> {
        if !self.is_tls() {
            return Err(Error::new(Status::State, "the server was made without TLS"));
        }
        let new = tls.server_config()?;
        *self.inner.tls.write().unwrap_or_else(PoisonError::into_inner) = Some(new);
        Ok(())
    }

    fn running(&self) -> Option<Arc<Running>> {
        self.inner.running.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Is the calling thread one of this server's, or in one of its
    /// callbacks? There, `stop` only requests and `wait` is an error.
    pub fn in_callback(&self) -> bool {
        callback::is_inside(self.inner.number)
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.inner.config
    }

    /// The port, 0 before `start`.
    pub fn port(&self) -> u16 {
        self.running().map_or(0, |r| r.port)
    }

    /// The shutdown port, 0 before `start` or where there is none.
    pub fn shutdown_port(&self) -> u16 {
        self.running().and_then(|r| r.shutdown.as_ref().map(ShutdownPort::port)).unwrap_or(0)
    }

    /// The addresses listened on, as `127.0.0.1:5000`; several are joined by
    /// `", "`. Empty before `start`.
    pub fn address(&self) -> String {
        self.running().map_or(String::new(), |r| r.address.clone())
    }

    /// A snapshot of the counters.
    pub fn stats(&self) -> Stats {
        let mut stats = Stats {
            state: self.state(),
            non_blocking: self.inner.config.non_blocking,
            threads: self.inner.config.max_thread,
            ..Stats::default()
        };
        let Some(running) = self.running() else { return stats };
        stats.port = running.port;
        stats.shutdown_port = running.shutdown.as_ref().map_or(0, ShutdownPort::port);
        stats.uptime = *running.uptime.get().unwrap_or(&running.started.elapsed());
        for context in running.engine.contexts() {
            stats.add(&context.counters);
            stats.active_threads += u32::from(context.counters.open.get() > 0);
        }
        if let Engine::Pool(pool) = &running.engine {
            pool.lobby(|context, waiting| {
                stats.add(&context.counters);
                stats.waiting = waiting;
                // A seat counts what it serves of them.
                stats.accepted = context.counters.accepted.get();
            });
        }
        let shutdown_errors = running.shutdown.as_ref().map_or(0, ShutdownPort::handler_errors);
        stats.handler_errors += shutdown_errors;
        stats
    }

    /// A snapshot of one worker's or loop's counters; `None` for an index
    /// that is none, and before `start`.
    pub fn thread_stats(&self, index: usize) -> Option<ThreadStats> {
        let running = self.running()?;
        let context = running.engine.contexts().into_iter().nth(index)?;
        Some(ThreadStats::of(index, &context.counters))
    }

    /// The status in text, for people.
    pub fn report(&self) -> String {
        let threads: Vec<_> = match self.running() {
            Some(running) => {
                let contexts = running.engine.contexts().into_iter().enumerate();
                contexts.map(|(i, context)| ThreadStats::of(i, &context.counters)).collect()
            }
            None => Vec::new(),
        };
        let address = match self.address() {
            text if text.is_empty() => quoted(self.inner.service.text()),
            text => text,
        };
        stats::report(&address, &self.stats(), &threads)
    }

    /// Takes a connection out of a non-blocking server, in any callback of it
    /// but `on_close`. The new socket is the caller's, in blocking mode, for
    /// any thread, immediately. Its timer and a pause do not go along.
    ///
    /// Errors: [`Status::NotNonBlocking`], [`Status::NotInHandler`],
    /// [`Status::Detached`], [`Status::State`] (a TLS handshake is in
    /// progress), [`Status::Closed`], also by id, although that has not been
    /// done yet.
    pub fn detach(&self, socket: &mut Socket<'_>) -> Result<OwnedSocket, Error> {
        if !self.inner.config.non_blocking {
            return Err(Error::from(Status::NotNonBlocking));
        }
        let conn = socket.conn();
        if conn.context.owner != Owner::Loop || conn.context.server != self.inner.number {
            return Err(Error::from(Status::NotInHandler));
        }
        conn.usable()?;
        if conn.has(flag::IN_ON_CLOSE) {
            return Err(Error::from(Status::NotInHandler));
        }
        if conn.has(flag::STARTTLS) || conn.phase().is_handshake() {
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

    /// Gives a detached socket to this non-blocking server: to the loop it
    /// came from, or, of another server, to the least busy. It gets a new id
    /// and no `on_open`; its handler runs when it can be read.
    /// `max_connections` is not asked. In `on_start` its handler may run on a
    /// loop before that returns, and it is closed where that fails.
    ///
    /// Errors: [`Status::NotNonBlocking`], [`Status::State`],
    /// [`Status::Closed`]; the socket comes back with them.
    pub fn attach(&self, socket: OwnedSocket) -> Result<ConnId, AttachError> {
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

    /// Sends to a connection from any thread. Success means accepted, not
    /// delivered; order holds per calling thread.
    ///
    /// Errors: [`Status::Closed`] for a connection that is gone,
    /// [`Status::BufferFull`], [`Status::NotNonBlocking`].
    pub fn send(&self, id: ConnId, data: &[u8]) -> Result<(), Error> {
        Ok(self.loops(|loops| loops.send(id, data))?)
    }

    /// Sends to many connections and shares one copy of the bytes; answers
    /// how many accepted it.
    pub fn broadcast(&self, ids: &[ConnId], data: &[u8]) -> Result<usize, Error> {
        if self.state() == State::Stopped {
            return Err(Error::from(Status::Closed));
        }
        Ok(self.loops(|loops| Ok(loops.broadcast(ids, data)))?)
    }

    /// Has `on_wake` called for a connection; calls before it ran count once.
    pub fn wake(&self, id: ConnId) -> Result<(), Error> {
        Ok(self.loops(|loops| loops.wake(id))?)
    }

    /// The ids of the open connections, as of now.
    pub fn connections(&self) -> Result<Vec<ConnId>, Error> {
        match self.loops(|loops| Ok(loops.connections())) {
            Err(Status::Closed) => Ok(Vec::new()),
            other => Ok(other?),
        }
    }

    /// Closes a connection: queued bytes leave first. On a blocking server
    /// its `recv` and `send` answer `Closed` from now on.
    pub fn close(&self, id: ConnId) -> Result<(), Error> {
        self.force_end(id, ForcedEnd::Close)
    }

    /// Ends a connection with a reset.
    pub fn abort(&self, id: ConnId) -> Result<(), Error> {
        self.force_end(id, ForcedEnd::Abort)
    }

    fn force_end(&self, id: ConnId, how: ForcedEnd) -> Result<(), Error> {
        let running = self.running().ok_or(Status::Closed)?;
        match (&running.engine, how) {
            (Engine::Pool(pool), how) => pool.force_end(self, id.get(), how)?,
            (Engine::Loops(loops), ForcedEnd::Abort) => loops.abort(id)?,
            (Engine::Loops(loops), _) => loops.close(id)?,
        }
        Ok(())
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

impl Engine {
    /// Ends what a stop's deadline found; loops do it by themselves.
    fn cut(&self) {
        if let Engine::Pool(pool) = self {
            pool.cut();
        }
    }

    fn contexts(&self) -> Vec<&Arc<ThreadContext>> {
        match self {
            Engine::Pool(pool) => pool.contexts().collect(),
            Engine::Loops(loops) => loops.contexts().collect(),
        }
    }
}
