//! The life of a server: start, stop, wait.

#![forbid(unsafe_code)]

use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::control::Control;
use super::handover::handover;
use super::{Running, Server, State};
use crate::clock::{self, Deadline};
use crate::error::{Error, Status};
use crate::sync::lock;
use crate::sys::Waker;

/// How long `stop` waits beyond the deadline for the next connection to end, in
/// ms: as long as the cut ends some, no handler hangs. And how often it looks.
const GRACE: u64 = 80;
const LOOK: u64 = 10;

pub(super) struct Life {
    now: Mutex<Now>,
    changed: Condvar,
    /// A stop was requested, perhaps by a signal handler.
    requested: AtomicBool,
    pub wake: Waker,
    /// Threads of the engine and the shutdown port that have not ended.
    pub alive: AtomicUsize,
    /// The control thread of a server in the background. Its own lock: who
    /// joins it holds it.
    pub control: Mutex<Option<JoinHandle<()>>>,
}

struct Now {
    state: State,
    /// The drain time of the stop to come, where it is not the configured.
    drain: Option<Duration>,
    /// When what is left will be cut.
    deadline: Deadline,
    /// Not later than this, by a stop that came while the server was starting.
    latest: Deadline,
}

impl Life {
    pub fn new() -> io::Result<Life> {
        Ok(Life {
            now: Mutex::new(Now {
                state: State::New,
                drain: None,
                deadline: Deadline::NEVER,
                latest: Deadline::NEVER,
            }),
            changed: Condvar::new(),
            requested: AtomicBool::new(false),
            wake: Waker::new()?,
            alive: AtomicUsize::new(0),
            control: Mutex::new(None),
        })
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        lock(&self.now)
    }

    fn set(&self, state: State) {
        self.now().state = state;
        self.changed.notify_all();
    }
}

impl Server {
    /// Starts and serves until the server stops; the calling thread waits
    /// for that. In non-blocking mode with one loop it is the loop's thread:
    /// callbacks run on it.
    ///
    /// Errors, with everything undone, so that it may be tried again:
    /// [`Status::Address`], [`Status::Listen`], [`Status::Thread`],
    /// [`Status::Io`], and [`Status::Hook`] where `on_start` failed.
    /// [`Status::State`] for a server that runs or has run.
    pub fn start(&self) -> Result<(), Error> {
        if !self.begin_start()? {
            return Ok(());
        }
        let prepared = self.prepare(|| Ok(()));
        self.inner.life.set(if prepared.is_ok() { State::Running } else { State::New });
        prepared?.run();
        Ok(())
    }

    /// Starts and returns when the server is accepting: its ports are final
    /// then. Errors as with [`Server::start`].
    pub fn start_background(&self) -> Result<(), Error> {
        if !self.begin_start()? {
            return Ok(());
        }
        let life = &self.inner.life;
        let (giver, taker) = handover::<Control>();
        let prepared = self.prepare(|| {
            let handle = self.spawn_control(move || {
                if let Some(control) = taker.take() {
                    control.run();
                }
            })?;
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
                // Its thread ends before somebody else may start.
                drop(giver);
                self.join_control();
                life.set(State::New);
                Err(error)
            }
        }
    }

    /// The server is starting, or, where a stop was requested before, stopped:
    /// `false`.
    fn begin_start(&self) -> Result<bool, Error> {
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
        Ok(true)
    }

    /// Stops: accepting ends, running handlers may finish and bytes may
    /// leave for the `drain_timeout`, then the rest is cut; returns when the
    /// server has stopped. In a callback of this server it only requests the
    /// stop and returns at once. On a server that was never started it does
    /// nothing.
    ///
    /// Errors: [`Status::Timeout`] where a handler does not return; the stop
    /// goes on, and may be waited for again.
    pub fn stop(&self) -> Result<(), Error> {
        self.stop_in(None)
    }

    /// [`Server::stop`] with another drain time; of concurrent stops the
    /// earliest deadline counts.
    pub fn stop_within(&self, drain: Duration) -> Result<(), Error> {
        if drain > crate::config::MAX_TIME {
            return Err(Error::new(Status::Invalid, "the drain time is too long"));
        }
        self.stop_in(Some(drain))
    }

    fn stop_in(&self, drain: Option<Duration>) -> Result<(), Error> {
        let life = &self.inner.life;
        let until = {
            let mut now = life.now();
            if now.state == State::New {
                return Ok(());
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
        if self.in_callback() {
            return Ok(());
        }
        self.wait_for_stop(until).map_err(|_| {
            Error::new(Status::Timeout, "a handler does not return; the server is still stopping")
        })?;
        self.join_stopped();
        Ok(())
    }

    /// Waits for the stop until the given time, and then for as long as the
    /// cut ends connections.
    fn wait_for_stop(&self, until: Deadline) -> Result<(), Error> {
        // A start that is under way sees the request when it has finished.
        let limit = until.later_by(GRACE).ms_left();
        self.wait_while(Some(Duration::from_millis(limit)), |state| state == State::Starting)?;
        if self.state() == State::Running {
            // Not only when the control thread comes to it, which may be in a
            // handler.
            self.begin_stopping();
        }
        let mut last = (self.progress(), clock::now());
        loop {
            let cut_at = until.min(self.inner.life.now().deadline);
            let was_cut = cut_at.is_due();
            let time = Duration::from_millis(cut_at.ms_left().max(LOOK));
            let goes_on = |state| matches!(state, State::Running | State::Stopping);
            let stopped = self.wait_while(Some(time), goes_on);
            let (progress, now) = (self.progress(), clock::now());
            match stopped {
                Ok(()) => return Ok(()),
                Err(_) if !was_cut || progress != last.0 => last = (progress, now),
                Err(timeout) if now >= last.1 + GRACE => return Err(timeout),
                Err(_) => {}
            }
        }
    }

    /// What a stop is seen to go on by: ended connections and threads.
    fn progress(&self) -> (u64, usize) {
        let stats = self.stats();
        let alive = self.inner.life.alive.load(Ordering::SeqCst);
        (stats.closed.iter().sum::<u64>() + stats.detached, alive)
    }

    /// Requests a stop and returns at once; for any thread, callbacks, and
    /// signal handlers (it is async-signal-safe: an atomic store and one
    /// write(2), and `errno` is kept). Before `start` it is remembered:
    /// `start` then returns at once.
    pub fn request_stop(&self) {
        let life = &self.inner.life;
        life.requested.store(true, Ordering::SeqCst);
        life.wake.signal();
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.inner.life.requested.load(Ordering::SeqCst)
    }

    /// Waits until the server has stopped, by whatever route, at most for
    /// `timeout` (`None`: for ever). On a server that was never started it
    /// returns at once.
    ///
    /// Errors: [`Status::Timeout`]; [`Status::Deadlock`] in a callback or on
    /// a thread of this server.
    pub fn wait(&self, timeout: Option<Duration>) -> Result<(), Error> {
        if self.in_callback() {
            return Err(Error::from(Status::Deadlock));
        }
        self.wait_while(timeout, |state| !matches!(state, State::New | State::Stopped))?;
        self.join_stopped();
        Ok(())
    }

    fn wait_while(
        &self,
        timeout: Option<Duration>,
        goes_on: impl Fn(State) -> bool,
    ) -> Result<(), Error> {
        let life = &self.inner.life;
        let until = timeout.and_then(|time| Instant::now().checked_add(time));
        let mut now = life.now();
        while goes_on(now.state) {
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

    /// The control thread has published the stop and is about to end:
    /// everybody who waited for the stop waits for its end too. Not where a
    /// start has just made it.
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

    /// True before the start and after the stop.
    pub fn is_stopped(&self) -> bool {
        matches!(self.state(), State::New | State::Stopped)
    }

    /// Where the server stands.
    pub fn state(&self) -> State {
        self.inner.life.now().state
    }

    /// For threads of this server: something for the control thread.
    pub(crate) fn wake_control(&self) {
        self.inner.life.wake.signal();
    }

    /// The stop's deadline, which a more urgent stop may bring forward. The
    /// stop begins now if it has not yet.
    pub(super) fn begin_stopping(&self) -> Deadline {
        let life = &self.inner.life;
        let mut now = life.now();
        if now.deadline == Deadline::NEVER && matches!(now.state, State::Running | State::Starting)
        {
            let drain = now.drain.unwrap_or(self.inner.config.drain_timeout);
            now.state = State::Stopping;
            now.deadline = Deadline::after(drain).min(now.latest);
            life.changed.notify_all();
        }
        now.deadline
    }

    /// The very last step.
    pub(super) fn set_stopped(&self, running: &Running) {
        let _ = running.uptime.set(running.started.elapsed());
        self.inner.life.wake.close();
        self.inner.life.set(State::Stopped);
    }
}
