//! The life of a server: start, stop, wait.

#![forbid(unsafe_code)]

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::control::Control;
use super::handover::handover;
use super::quiesce::Quiesce;
use super::{Running, Server, State};
use crate::callback;
use crate::clock::{self, Deadline};
use crate::error::{Error, Status};
use crate::sync::lock;
use crate::sys::Waker;

/// How long `stop` waits beyond the deadline for the next connection to end: as
/// long as the cut ends connections, no handler hangs.
pub(super) const GRACE_MS: u64 = 80;
/// How often `stop` checks for that.
const PROGRESS_CHECK_MS: u64 = 10;

pub(super) struct Life {
    now: Mutex<Now>,
    pub(super) changed: Condvar,
    /// The start has begun, and has not failed: for signal handlers.
    pub(super) started: AtomicBool,
    /// A stop was requested, perhaps by a signal handler.
    requested: AtomicBool,
    /// When a quiesce was requested, as [`clock::now`] has it; 0 if it was not.
    pub(super) quiesce_requested: AtomicU64,
    pub wake: Waker,
    /// Threads of the engine and the shutdown port that have not ended.
    pub alive: AtomicUsize,
    /// The control thread of a server in the background. It has its own lock
    /// because the joining thread holds the lock while it waits.
    pub control: Mutex<Option<JoinHandle<()>>>,
}

pub(super) struct Now {
    pub(super) state: State,
    pub(super) quiesce: Quiesce,
    /// The drain time of the next stop, if it is not the configured one.
    drain: Option<Duration>,
    /// The time at which the stop cuts the connections that are left.
    deadline: Deadline,
    /// The latest `deadline` that a stop during the start allows.
    latest: Deadline,
}

impl Life {
    pub fn new() -> io::Result<Life> {
        Ok(Life {
            now: Mutex::new(Now {
                state: State::New,
                quiesce: Quiesce::None,
                drain: None,
                deadline: Deadline::NEVER,
                latest: Deadline::NEVER,
            }),
            changed: Condvar::new(),
            started: AtomicBool::new(false),
            requested: AtomicBool::new(false),
            quiesce_requested: AtomicU64::new(0),
            wake: Waker::new()?,
            alive: AtomicUsize::new(0),
            control: Mutex::new(None),
        })
    }

    pub(super) fn now(&self) -> MutexGuard<'_, Now> {
        lock(&self.now)
    }

    /// Returns whether the server was not started, or has stopped. For a child
    /// of fork(2): `false` where a thread of the parent held the lock.
    pub(super) fn is_at_rest(&self) -> bool {
        let now = self.now.try_lock();
        now.is_ok_and(|now| matches!(now.state, State::New | State::Stopped))
    }

    pub(super) fn set(&self, state: State) {
        if state == State::New {
            self.started.store(false, Ordering::SeqCst);
            self.quiesce_requested.store(0, Ordering::SeqCst);
        }
        self.now().state = state;
        self.changed.notify_all();
    }
}

impl Server {
    /// Starts the server and returns when it has stopped. In non-blocking mode
    /// with one loop the calling thread is the loop's thread: it runs the
    /// callbacks.
    ///
    /// Errors: [`Status::Address`], [`Status::Listen`], [`Status::Thread`],
    /// [`Status::Io`], and [`Status::Hook`] where `on_start` or `on_thread_start`
    /// failed. After
    /// these the call has undone everything and may be tried again.
    /// [`Status::State`] for a server that runs or has run.
    ///
    /// ```no_run
    /// use net_server::{Server, Socket};
    /// let server = Server::new("5000", |_: &Server, socket: &mut Socket<'_>| socket.send(b"hello\n"))?;
    /// server.start()?; // It serves until it is stopped.
    /// # Ok::<(), net_server::Error>(())
    /// ```
    pub fn start(&self) -> Result<(), Error> {
        callback::or_left_to_parent(|| self.start_here())
    }

    fn start_here(&self) -> Result<(), Error> {
        if !self.begin_start()? {
            return Ok(());
        }
        let prepared = self.prepare(false, |_, _| Ok(()));
        self.inner.life.set(if prepared.is_ok() { State::Running } else { State::New });
        if let Some(running) = prepared?.run() {
            self.set_stopped(&running);
        }
        Ok(())
    }

    /// Starts the server and returns when it accepts; its ports are final
    /// then. Errors as with [`Server::start`].
    ///
    /// Example: [`Server`].
    pub fn start_background(&self) -> Result<(), Error> {
        callback::or_left_to_parent(|| self.start_elsewhere())
    }

    fn start_elsewhere(&self) -> Result<(), Error> {
        if !self.begin_start()? {
            return Ok(());
        }
        let life = &self.inner.life;
        let (giver, taker) = handover::<Control>();
        let prepared = self.prepare(false, |control, _| {
            let body = move || taker.take().and_then(Control::run);
            let handle = self.spawn_control(control.report(), body)?;
            *lock(&life.control) = Some(handle);
            Ok(())
        });
        match prepared {
            Ok(control) => {
                life.set(State::Running);
                giver.give(control);
                Ok(())
            }
            Err(error) => {
                // The control thread ends before the next start is possible.
                drop(giver);
                self.join_control();
                life.set(State::New);
                Err(error)
            }
        }
    }

    /// Makes the state Starting and returns `true`; if a stop was requested
    /// before, makes it Stopped and returns `false`.
    pub(super) fn begin_start(&self) -> Result<bool, Error> {
        self.check_process()?;
        let life = &self.inner.life;
        let mut now = life.now();
        if now.state != State::New {
            let text = format!("cannot start: the server is {}", now.state.name());
            return Err(Error::new(Status::State, text));
        }
        if life.requested.load(Ordering::SeqCst) {
            now.state = State::Stopped;
            drop(now);
            life.wake.close();
            life.changed.notify_all();
            return Ok(false);
        }
        now.state = State::Starting;
        life.started.store(true, Ordering::SeqCst);
        Ok(true)
    }

    /// Stops the server and returns when it has stopped. Accepting ends.
    /// Running handlers may finish and queued bytes may leave for the
    /// `drain_timeout`, then the stop cuts the rest. In a callback of this
    /// server the call only requests the stop and returns immediately. On a
    /// server that was never started it does nothing.
    ///
    /// Errors: [`Status::Timeout`] where a handler does not return; the stop
    /// goes on, and the program may wait for it again.
    ///
    /// Example: [`Server::stop_within`].
    pub fn stop(&self) -> Result<(), Error> {
        self.stop_in(None, false)
    }

    /// Stops the server before it is dropped: a hosted one on this thread,
    /// whichever that is.
    pub(crate) fn stop_for_good(&self) -> Result<(), Error> {
        self.stop_in(None, true)
    }

    /// Does the same as [`Server::stop`] with another drain time. Of
    /// concurrent stops the earliest deadline counts.
    ///
    /// Errors: those of [`Server::stop`], and [`Status::Invalid`] for a time
    /// above [`MAX_TIME`](crate::MAX_TIME).
    ///
    /// ```
    /// use net_server::{Server, Socket};
    /// use std::time::Duration;
    ///
    /// let server = Server::new("0", |_: &Server, socket: &mut Socket<'_>| socket.send(b"hello\n"))?;
    /// server.start_background()?;
    /// // Handlers may finish for a second; `stop` gives them the `drain_timeout`.
    /// server.stop_within(Duration::from_secs(1))?;
    /// server.stop()?; // It has stopped: nothing to do.
    /// # Ok::<(), net_server::Error>(())
    /// ```
    pub fn stop_within(&self, drain: Duration) -> Result<(), Error> {
        if drain > crate::config::MAX_TIME {
            return Err(Error::new(Status::Invalid, "the drain time is too long"));
        }
        self.stop_in(Some(drain), false)
    }

    pub(super) fn stop_in(&self, drain: Option<Duration>, for_good: bool) -> Result<(), Error> {
        self.check_process()?;
        let Some(until) = self.ask_to_stop(drain) else { return Ok(()) };
        if self.in_callback() {
            return Ok(());
        }
        if for_good && self.wait_for_start(until).is_ok() {
            self.take_over(until);
        }
        if !self.run_turns(Deadline::NEVER) {
            self.check_process()?;
            self.wait_for_stop(until).map_err(|_| {
                let text = "a handler does not return; the server is still stopping";
                Error::new(Status::Timeout, text)
            })?;
        }
        self.join_stopped();
        Ok(())
    }

    /// Requests a stop with a drain time. Returns its deadline; `None` for a
    /// server that was never started.
    pub(super) fn ask_to_stop(&self, drain: Option<Duration>) -> Option<Deadline> {
        let until = {
            let mut now = self.inner.life.now();
            if now.state == State::New {
                return None;
            }
            if let Some(drain) = drain {
                now.drain = Some(now.drain.map_or(drain, |earlier| earlier.min(drain)));
                if now.state == State::Stopping {
                    now.deadline = now.deadline.min(Deadline::after(drain));
                }
            }
            let drain = drain.or(now.drain).unwrap_or(self.inner.config.drain_timeout);
            let until = Deadline::after(drain).min(now.deadline);
            if now.state == State::Starting {
                now.latest = now.latest.min(until);
            }
            until
        };
        self.request_stop();
        Some(until)
    }

    /// Waits until the server has stopped: to the given time, and then for as
    /// long as the cut ends connections.
    fn wait_for_stop(&self, until: Deadline) -> Result<(), Error> {
        self.wait_for_start(until)?;
        if matches!(self.state(), State::Running | State::Quiescing) {
            // The stop begins now: the control thread may be in a handler and
            // would begin it late.
            self.begin_stopping();
        }
        let mut last = (self.progress(), clock::now());
        loop {
            let cut_at = until.min(self.inner.life.now().deadline);
            let was_cut = cut_at.is_due();
            let time = Duration::from_millis(cut_at.ms_left().max(PROGRESS_CHECK_MS));
            let is_unfinished = |now: &Now| !matches!(now.state, State::New | State::Stopped);
            let stopped = self.wait_while(Some(time), is_unfinished);
            let (progress, now) = (self.progress(), clock::now());
            match stopped {
                Ok(()) => return Ok(()),
                Err(_) if !was_cut || progress != last.0 => last = (progress, now),
                Err(timeout) if now >= last.1 + GRACE_MS => return Err(timeout),
                Err(_) => {}
            }
        }
    }

    /// Waits for the end of a running start, which sees the request then.
    fn wait_for_start(&self, until: Deadline) -> Result<(), Error> {
        let limit = until.later_by(GRACE_MS).ms_left();
        self.wait_while(Some(Duration::from_millis(limit)), |now| now.state == State::Starting)
    }

    /// Returns two numbers that change while a stop goes on: that of the ended
    /// connections and that of the living threads.
    fn progress(&self) -> (u64, usize) {
        let stats = self.stats();
        let alive = self.inner.life.alive.load(Ordering::SeqCst);
        (stats.closed.iter().sum::<u64>() + stats.detached, alive)
    }

    /// Requests a stop and returns immediately. Any thread, callback or signal
    /// handler may call it: it is async-signal-safe (an atomic store and one
    /// write(2), and it keeps `errno`). The server remembers a request before
    /// `start`, which then returns immediately.
    ///
    /// Example: [`Server`].
    pub fn request_stop(&self) {
        if !self.inner.process.is_current() {
            return;
        }
        let life = &self.inner.life;
        life.requested.store(true, Ordering::SeqCst);
        life.wake.signal();
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.inner.life.requested.load(Ordering::SeqCst)
    }

    /// Waits until the server has stopped, whatever stopped it, at most for
    /// `timeout` (`None`: forever). On a server that was never started it
    /// returns immediately.
    ///
    /// Errors: [`Status::Timeout`]; [`Status::Deadlock`] in a callback or on
    /// a thread of this server.
    ///
    /// Example: [`Server`].
    pub fn wait(&self, timeout: Option<Duration>) -> Result<(), Error> {
        self.check_process()?;
        if self.in_callback() {
            return Err(Error::from(Status::Deadlock));
        }
        let until = timeout.map_or(Deadline::NEVER, Deadline::after);
        let left = if self.run_turns(until) { Some(Duration::ZERO) } else { timeout };
        self.check_process()?;
        self.wait_while(left, |now| !matches!(now.state, State::New | State::Stopped))?;
        self.join_stopped();
        Ok(())
    }

    /// Waits a moment, or until the server has stopped. Returns whether it has.
    pub(super) fn has_stopped_soon(&self) -> bool {
        let time = Duration::from_millis(PROGRESS_CHECK_MS);
        self.wait_while(Some(time), |now| now.state != State::Stopped).is_ok()
    }

    pub(super) fn wait_while(
        &self,
        timeout: Option<Duration>,
        is_unfinished: impl Fn(&Now) -> bool,
    ) -> Result<(), Error> {
        let life = &self.inner.life;
        let until = timeout.and_then(|time| Instant::now().checked_add(time));
        let mut now = life.now();
        while is_unfinished(&now) {
            now = match until {
                None => life.changed.wait(now).unwrap_or_else(|e| e.into_inner()),
                Some(until) => {
                    let left = until.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Err(Error::from(Status::Timeout));
                    }
                    let waited = life.changed.wait_timeout(now, left);
                    waited.unwrap_or_else(|e| e.into_inner()).0
                }
            };
        }
        Ok(())
    }

    /// Waits for the end of the control thread, which publishes the stop just
    /// before it ends. In any other state the thread may be one that a start
    /// has just made, so there is nothing to wait for.
    fn join_stopped(&self) {
        if self.state() == State::Stopped {
            self.join_control();
        }
    }

    fn join_control(&self) {
        let mut control = lock(&self.inner.life.control);
        if let Some(handle) = control.take() {
            let _ = handle.join();
        }
    }

    /// Returns `true` before the start and after the stop.
    pub fn is_stopped(&self) -> bool {
        matches!(self.state(), State::New | State::Stopped)
    }

    /// Returns the state of the server. In a child of the process that made it,
    /// it has stopped.
    pub fn state(&self) -> State {
        if !self.inner.process.is_current() {
            return State::Stopped;
        }
        self.inner.life.now().state
    }

    /// Wakes the control thread.
    pub(crate) fn wake_control(&self) {
        self.inner.life.wake.signal();
    }

    /// Begins the stop, if it has not begun, and returns its deadline, which a
    /// more urgent stop may bring forward.
    pub(super) fn begin_stopping(&self) -> Deadline {
        let life = &self.inner.life;
        let mut now = life.now();
        let is_up = matches!(now.state, State::Running | State::Quiescing | State::Starting);
        if now.deadline == Deadline::NEVER && is_up {
            let drain = now.drain.unwrap_or(self.inner.config.drain_timeout);
            now.state = State::Stopping;
            now.deadline = Deadline::after(drain).min(now.latest);
            life.changed.notify_all();
        }
        now.deadline
    }

    /// Publishes the stop. It is the last step.
    pub(super) fn set_stopped(&self, running: &Running) {
        let _ = running.uptime.set(running.started.elapsed());
        self.inner.life.wake.close();
        self.inner.life.set(State::Stopped);
    }
}
