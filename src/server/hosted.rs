//! A hosted server: it has no thread. The program runs its turns on a thread of
//! its own, from its own event loop or in a loop of its own.

#![forbid(unsafe_code)]

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use super::lifecycle::GRACE_MS;
use super::{Guest, Running, Server, State};
use crate::callback::{self, CallbackScope};
use crate::clock::Deadline;
use crate::error::{Error, Status};
use crate::event::HostedLoop;
use crate::sys::Poller;

pub(crate) struct Hosted {
    /// Its descriptor tells the host when to run a turn. It stays as long as
    /// the server.
    poller: Poller,
    /// A turn holds the lock; `None` once the loop has ended.
    event_loop: Mutex<Option<HostedLoop>>,
    /// The thread that has run a turn last; at first the one that started the
    /// server.
    host: AtomicUsize,
}

impl Hosted {
    pub fn new(event_loop: HostedLoop) -> Hosted {
        Hosted {
            poller: event_loop.poller().clone(),
            event_loop: Mutex::new(Some(event_loop)),
            host: AtomicUsize::new(callback::this_thread()),
        }
    }

    /// Returns whether the calling thread is the host's.
    pub fn is_host(&self) -> bool {
        self.host.load(Ordering::SeqCst) == callback::this_thread()
    }

    pub fn poller(&self) -> &Poller {
        &self.poller
    }

    pub(super) fn try_turn(&self) -> Option<MutexGuard<'_, Option<HostedLoop>>> {
        match self.event_loop.try_lock() {
            Ok(turn) => Some(turn),
            Err(TryLockError::Poisoned(turn)) => Some(PoisonError::into_inner(turn)),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

impl Server {
    /// Starts the server without any thread, and returns when it accepts. The
    /// program then calls [`Server::run_once`], whenever [`Server::poll_fd`] is
    /// readable or simply in a loop; the callbacks run only inside this call,
    /// and inside [`Server::stop`] and [`Server::wait`] on the same thread.
    ///
    /// Errors: [`Status::Invalid`] where the server is not in non-blocking mode
    /// with one thread; those of [`Server::start`].
    ///
    /// ```
    /// use net_server::{Config, Server, Socket};
    /// use std::{net::TcpStream, time::Duration};
    ///
    /// let handler = |_: &Server, socket: &mut Socket<'_>| socket.recv(&mut [0; 100]).map(drop);
    /// let server = Server::with_config("127.0.0.1:0", handler, Config::new().non_blocking(true))?;
    /// server.start_hosted()?;
    /// let client = TcpStream::connect(server.address())?;
    /// // A program with a loop of its own calls run_once when this is readable, without a wait.
    /// assert!(server.poll_fd()? >= 0);
    /// while server.stats().open == 0 {
    ///     server.run_once(Some(Duration::from_secs(1)))?;
    /// }
    /// server.stop()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn start_hosted(&self) -> Result<(), Error> {
        self.check_process()?;
        let config = &self.inner.config;
        if !config.non_blocking || config.max_thread != 1 {
            let text = "a hosted server is in non-blocking mode with max_thread 1";
            return Err(Error::new(Status::Invalid, text));
        }
        callback::or_left_to_parent(|| self.start_without_thread())
    }

    fn start_without_thread(&self) -> Result<(), Error> {
        if !self.begin_start()? {
            return Ok(());
        }
        let mut timer = None;
        let prepared = self.prepare(true, |control, running| {
            timer = control.make_timer()?;
            if let Some(service) = &self.inner.shutdown_service {
                let (guest, seen) = Guest::start(self.view(), service)?;
                let _ = running.guest.set(seen);
                control.take_in(guest)?;
            }
            Ok(())
        });
        match (prepared, timer) {
            (Ok(control), Some(timer)) => {
                control.into_hosted(timer);
                self.inner.life.set(State::Running);
                Ok(())
            }
            (prepared, _) => {
                self.inner.life.set(State::New);
                prepared.map(drop)
            }
        }
    }

    /// Returns a descriptor that is readable exactly when
    /// [`Server::run_once`] has something to do: events, calls of other
    /// threads, deadlines that are due, a requested stop. After the stop it
    /// stays readable. It is the same from the start until the server is
    /// dropped, and belongs to the server. It suits poll(2), select(2) and
    /// epoll(7), level- and edge-triggered: a turn that leaves work makes a new
    /// edge.
    ///
    /// Errors: [`Status::State`] where the server is not hosted or not started.
    pub fn poll_fd(&self) -> Result<RawFd, Error> {
        self.check_process()?;
        let running = self.running().ok_or_else(not_hosted)?;
        let hosted = running.hosted.get().ok_or_else(not_hosted)?;
        Ok(hosted.poller.raw_fd())
    }

    /// Runs one turn of a hosted server: a bounded part of what is to be done.
    /// If nothing is, it waits for that, at most for `timeout` (`None`:
    /// forever; at most about 24 days). It returns earlier where a signal
    /// interrupts it. The calling thread is the host's from then on.
    ///
    /// Errors: [`Status::State`] where the server is not hosted, not started,
    /// or has stopped; [`Status::Busy`] in a callback, and while another thread
    /// runs turns, in this call, a stop or a wait.
    ///
    /// Example: [`Server::start_hosted`].
    pub fn run_once(&self, timeout: Option<Duration>) -> Result<(), Error> {
        self.turn(timeout.map_or(Deadline::NEVER, Deadline::after))
    }

    fn turn(&self, until: Deadline) -> Result<(), Error> {
        self.check_process()?;
        if self.in_callback() {
            return Err(Error::from(Status::Busy));
        }
        let running = self.running().ok_or_else(not_hosted)?;
        let hosted = running.hosted.get().ok_or_else(not_hosted)?;
        let turn = hosted.try_turn().ok_or(Status::Busy)?;
        self.run(&running, hosted, turn, until, || true)
    }

    /// Makes the calling thread the host's and runs turns on it until the
    /// server has stopped, or `is_enough` after a turn. No other thread runs
    /// one meanwhile.
    fn run(
        &self,
        running: &Running,
        hosted: &Hosted,
        turn: MutexGuard<'_, Option<HostedLoop>>,
        until: Deadline,
        is_enough: impl Fn() -> bool,
    ) -> Result<(), Error> {
        callback::or_left_to_parent(|| self.run_here(running, hosted, turn, until, is_enough))
    }

    fn run_here(
        &self,
        running: &Running,
        hosted: &Hosted,
        mut turn: MutexGuard<'_, Option<HostedLoop>>,
        until: Deadline,
        is_enough: impl Fn() -> bool,
    ) -> Result<(), Error> {
        let Some(event_loop) = turn.as_mut() else {
            return Err(Error::new(Status::State, "the server has stopped"));
        };
        hosted.host.store(callback::this_thread(), Ordering::SeqCst);
        let inside = CallbackScope::serve(event_loop.context());
        let has_ended = loop {
            match event_loop.turn(until) {
                false if !is_enough() => {}
                has_ended => break has_ended,
            }
        };
        drop(inside);
        if has_ended {
            let ended = turn.take();
            drop(turn);
            self.finish_hosted(running, ended);
        }
        Ok(())
    }

    /// Does the last steps of a stop.
    fn finish_hosted(&self, running: &Running, ended: Option<HostedLoop>) {
        self.run_stop_hook();
        // Release the descriptors first: a thread that sees the state Stopped
        // may rely on it.
        ended.into_iter().for_each(HostedLoop::end);
        self.set_stopped(running);
    }

    /// Runs turns on the host's thread until the server has stopped, or until
    /// the given time. Returns `false` on any other thread, which can only wait
    /// for the host.
    pub(super) fn run_turns(&self, until: Deadline) -> bool {
        self.run_turns_while(until, || true)
    }

    /// Does the same, as long as `goes_on` after a turn.
    pub(super) fn run_turns_while(&self, until: Deadline, goes_on: impl Fn() -> bool) -> bool {
        let Some(running) = self.running() else { return false };
        let Some(hosted) = running.hosted.get() else { return false };
        if !hosted.is_host() {
            return false;
        }
        // Another thread that runs a turn is the host's from now on.
        let Some(turn) = hosted.try_turn().filter(|_| hosted.is_host()) else { return false };
        self.run(&running, hosted, turn, until, || until.is_due() || !goes_on()).is_ok()
    }

    /// Makes the calling thread the host's and runs the turns of a requested
    /// stop on it, after those that another thread may be in: it waits for them
    /// as long as a stop until `until` may.
    pub(super) fn take_over(&self, until: Deadline) {
        let Some(running) = self.running() else { return };
        let Some(hosted) = running.hosted.get() else { return };
        if self.is_stopped() {
            return;
        }
        let give_up_at = until.later_by(GRACE_MS);
        loop {
            if let Some(turn) = hosted.try_turn() {
                // An error: another thread does the last steps of the stop.
                let _ = self.run(&running, hosted, turn, Deadline::NEVER, || false);
                return;
            }
            if self.has_stopped_soon() || give_up_at.is_due() {
                return;
            }
        }
    }
}

fn not_hosted() -> Error {
    Error::new(Status::State, "the server was not started as a hosted one")
}
