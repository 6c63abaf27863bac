//! Replacing a server while it serves: it accepts no more, goes on to serve what
//! it has, and lends its listening descriptors to a successor.

#![forbid(unsafe_code)]

use std::cell::Cell;
use std::os::fd::RawFd;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::lifecycle::GRACE_MS;
use super::{Engine, Server, State};
use crate::callback;
use crate::clock::{self, Deadline};
use crate::error::{Error, Status};
use crate::listener::Quota;
use crate::logger::LogLevel;

/// How far the quiesce of a server is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Quiesce {
    None,
    Begun,
    /// The listeners are closed, and `on_quiesce` has returned.
    Done,
}

impl Server {
    /// Stops accepting for good, and returns when the listening descriptors are
    /// closed and [`Handler::on_quiesce`](crate::Handler::on_quiesce) has
    /// returned. Before, the server takes what waits in the kernel's backlog, also
    /// beyond [`max_connections`](crate::Config::max_connections); but what
    /// waits at a socket that others have too (`fd:`, `systemd`, or lent by
    /// [`Server::listener_fd`]) is left to them. Open and waiting connections
    /// are served on, and the shutdown port, `attach`, `adopt` and `connect`
    /// go on, until [`Server::stop`]. In a callback of this server the call only
    /// requests that, and returns immediately.
    ///
    /// While descriptors are used up it tries for a second to take the rest of the
    /// backlog; then the kernel resets it. A client that connects just when the
    /// descriptor of an unshared TCP socket is closed may be reset too.
    ///
    /// Errors: [`Status::State`] before the start. [`Status::Timeout`] where
    /// the library's thread does not get to it within the drain time and a second,
    /// because a callback does not return, or nobody runs the turns of a hosted
    /// server; the quiesce goes on. A second call waits for the same quiesce; in
    /// a stop and after it there is nothing to do.
    ///
    /// ```
    /// use net_server::{Config, Server, Socket};
    /// use std::time::Duration;
    ///
    /// let handler = |_: &Server, socket: &mut Socket<'_>| socket.send(b"hello\n");
    /// let server = Server::with_config("0", handler, Config::new().lend_listeners(true))?;
    /// server.start_background()?;
    /// let inherited = server.listener_fd(0)?; // A successor goes on with it.
    /// server.quiesce()?; // request_quiesce() is for signal handlers.
    /// assert!(!server.is_ready());
    /// server.wait_idle(Some(Duration::from_secs(60)))?;
    /// server.stop()?;
    /// # Ok::<(), net_server::Error>(())
    /// ```
    pub fn quiesce(&self) -> Result<(), Error> {
        self.check_process()?;
        let drain = Deadline::after(self.inner.config.drain_timeout);
        let until = drain.later_by(Quota::RETRY_MS + GRACE_MS);
        {
            let life = &self.inner.life;
            let mut now = life.now();
            match now.state {
                State::New => return Err(Error::new(Status::State, "the server is not started")),
                State::Stopping | State::Stopped => return Ok(()),
                State::Running => now.state = State::Quiescing,
                State::Starting | State::Quiescing => {}
            }
            life.changed.notify_all();
        }
        self.ask_to_quiesce();
        if self.in_callback() || self.has_quiesced() {
            return Ok(());
        }
        let left = match self.run_turns_while(until, || !self.has_quiesced()) {
            true => Duration::ZERO,
            false => Duration::from_millis(until.ms_left()),
        };
        self.check_process()?;
        let is_unfinished = |now: &super::lifecycle::Now| {
            let is_up = matches!(now.state, State::Starting | State::Running | State::Quiescing);
            is_up && now.quiesce != Quiesce::Done
        };
        self.wait_while(Some(left), is_unfinished).map_err(|_| {
            let text = "the server's thread does not get to it in time; the quiesce goes on";
            Error::new(Status::Timeout, text)
        })
    }

    /// Requests a quiesce and returns immediately. Any thread, callback or signal
    /// handler may call it, as [`Server::request_stop`].
    ///
    /// Errors: [`Status::State`] before the start.
    ///
    /// Example: [`Server::quiesce`].
    pub fn request_quiesce(&self) -> Result<(), Status> {
        let life = &self.inner.life;
        if !self.inner.process.is_current() || !life.started.load(Ordering::SeqCst) {
            return Err(Status::State);
        }
        self.ask_to_quiesce();
        Ok(())
    }

    fn ask_to_quiesce(&self) {
        let life = &self.inner.life;
        let place = &life.quiesce_requested;
        if place.compare_exchange(0, clock::now(), Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            life.wake.signal();
        }
    }

    fn has_quiesced(&self) -> bool {
        self.inner.life.now().quiesce == Quiesce::Done
    }

    /// How much of the backlog of so many listeners the quiesce takes.
    pub(crate) fn quota(&self, listeners: usize) -> Quota {
        let asked_at = self.inner.life.quiesce_requested.load(Ordering::SeqCst);
        Quota::new(self.config(), listeners, asked_at)
    }

    /// Returns whether a requested quiesce begins now. From then on the state
    /// says so.
    pub(super) fn begin_quiesce(&self) -> bool {
        let life = &self.inner.life;
        if life.quiesce_requested.load(Ordering::SeqCst) == 0 {
            return false;
        }
        let mut now = life.now();
        let is_up = matches!(now.state, State::Running | State::Quiescing);
        if !is_up || now.quiesce != Quiesce::None {
            return false;
        }
        (now.state, now.quiesce) = (State::Quiescing, Quiesce::Begun);
        life.changed.notify_all();
        true
    }

    /// The listeners are closed: runs `on_quiesce`, on the first loop's thread or
    /// the control thread, and lets those that wait go on.
    pub(crate) fn end_quiesce(&self) {
        self.log().event(LogLevel::Info, || {
            let stats = self.stats();
            format!("accepts no more: open {}, waiting {}", stats.open, stats.waiting)
        });
        let view = self.view();
        let _ = callback::call_hook(|| view.handler().on_quiesce(&view));
        self.inner.life.now().quiesce = Quiesce::Done;
        self.inner.life.changed.notify_all();
    }

    /// Returns whether the server accepts: it has started, and neither a quiesce
    /// nor a stop was requested.
    pub fn is_ready(&self) -> bool {
        let is_asked = self.inner.life.quiesce_requested.load(Ordering::SeqCst) != 0;
        self.state() == State::Running && !is_asked && !self.is_stopping()
    }

    /// Waits until no connection is open or waiting, at most for `timeout`
    /// (`None`: forever). The program usually quiesces the server before and
    /// stops it then; a server that accepts may have a connection again.
    /// Connections count before `on_open` too (a PROXY header, a TLS handshake, a
    /// connect), while they are being refused, and, in non-blocking mode, while
    /// they linger. Detached sockets and the shutdown port's peers do not. Where
    /// the server was never started or has stopped it returns immediately.
    ///
    /// Errors: [`Status::Timeout`]; [`Status::Deadlock`] in a callback or on
    /// a thread of this server.
    ///
    /// Example: [`Server::quiesce`].
    pub fn wait_idle(&self, timeout: Option<Duration>) -> Result<(), Error> {
        self.check_process()?;
        if self.in_callback() {
            return Err(Error::from(Status::Deadlock));
        }
        let Some(running) = self.running() else { return Ok(()) };
        let until = timeout.map_or(Deadline::NEVER, Deadline::after);
        let idle = Cell::new(running.engine.wait_idle(Deadline::NOW));
        let is_busy = || {
            idle.set(running.engine.wait_idle(Deadline::NOW));
            !idle.get()
        };
        if !idle.get() && !self.run_turns_while(until, is_busy) {
            self.check_process()?;
            idle.set(running.engine.wait_idle(until));
        }
        match idle.get() || self.is_stopped() {
            true => Ok(()),
            false => Err(Error::from(Status::Timeout)),
        }
    }

    /// Lends a listening descriptor of the services, 0, 1, … in their order; a
    /// service with several addresses has one for each. It belongs to the server,
    /// is close-on-exec, and is valid until a quiesce or a stop begins. The
    /// program gives it to a successor, as a descriptor that execve(2) keeps
    /// (`fd:N`) or over a unix socket (`SCM_RIGHTS`, unix(7)).
    ///
    /// From now on the server regards the socket as one that others have too: a
    /// quiesce and a stop do not end it, and leave what waits in its backlog and
    /// the file of a `unix:` service to them. Where nobody has it, because no
    /// successor has started, the kernel then resets what waits.
    ///
    /// Errors: [`Status::State`] before the start and once the descriptor is
    /// closed, [`Status::Invalid`] for a number that no descriptor has,
    /// [`Status::Unsupported`] in blocking mode without
    /// [`lend_listeners`](crate::Config::lend_listeners).
    ///
    /// Example: [`Server::quiesce`].
    pub fn listener_fd(&self, number: usize) -> Result<RawFd, Error> {
        self.check_process()?;
        let config = &self.inner.config;
        if !config.non_blocking && !config.lend_listeners {
            let text = "a server in blocking mode lends with lend_listeners alone";
            return Err(Error::new(Status::Unsupported, text));
        }
        let running = self.running().ok_or(Status::State)?;
        let no_such = || Error::new(Status::Invalid, format!("there is no listener {number}"));
        let fds = &running.listener_fds[..running.lendable];
        let lent = fds.get(number).ok_or_else(no_such)?.lend();
        lent.ok_or_else(|| Error::new(Status::State, "the listener is closed"))
    }
}

impl Engine {
    /// Waits until no connection is open or waiting, at most until a deadline.
    fn wait_idle(&self, until: Deadline) -> bool {
        match self {
            Engine::Pool(pool) => pool.wait_idle(until),
            Engine::Loops(loops) => loops.wait_idle(until),
        }
    }
}
