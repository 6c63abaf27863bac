//! What a program puts into a loop: descriptors to watch, timers, tasks. Other
//! threads add and remove them; the loop calls them.

#![forbid(unsafe_code)]

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

use super::handle::LoopHandle;
use super::mail::Mail;
use super::run::Loop;
use super::schedule::Own;
use super::{PROBE, WATCHES};
use crate::callback;
use crate::clock::Deadline;
use crate::conn::{ConnId, TaskKind};
use crate::error::{Error, Status};
use crate::server::Server;
use crate::sync::lock;
use crate::sys::{Bits, Events, Poller};

/// What a descriptor is watched for, or is ready for.
///
/// Example: [`Server::watch`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interest {
    /// Input, the end of the stream.
    pub read: bool,
    /// Room for output.
    pub write: bool,
}

impl Interest {
    /// Input alone.
    pub const READ: Interest = Interest { read: true, write: false };
    /// Room for output alone.
    pub const WRITE: Interest = Interest { read: false, write: true };
    /// Both.
    pub const BOTH: Interest = Interest { read: true, write: true };

    const NONE: Interest = Interest { read: false, write: false };

    fn bits(self) -> Bits {
        let read = if self.read { Bits::IN | Bits::RDHUP } else { Bits::empty() };
        let write = if self.write { Bits::OUT } else { Bits::empty() };
        read | write
    }

    /// Of what is watched, that which is ready. A hang-up and an error make all
    /// of it ready.
    fn found(self, bits: Bits) -> Interest {
        let all = bits.intersects(Bits::HUP | Bits::ERR);
        Interest {
            read: self.read && (all || bits.intersects(Bits::IN | Bits::RDHUP)),
            write: self.write && (all || bits.contains(Bits::OUT)),
        }
    }
}

/// The most calls of watches, and of timers, before the connections have their
/// turn again.
const PER_TURN: usize = 64;
/// How long the watches rest where their poller cannot be made anew, in ms.
const REST_MS: u64 = 100;

pub(crate) type WatchFn = Box<dyn FnMut(&Server, u64, RawFd, Interest) -> Result<(), Error> + Send>;
pub(crate) type TimerFn = Box<dyn FnMut(&Server, u64) -> Result<(), Error> + Send>;
pub(crate) type TaskFn = Box<dyn FnOnce(&Server) -> Result<(), Error> + Send>;

struct Watch {
    fd: RawFd,
    interest: Interest,
    /// `None` during a call.
    call: Option<WatchFn>,
}

struct Timer {
    due: Deadline,
    /// 0: it expires once.
    repeat_ms: u64,
    /// `None` during a call.
    call: Option<TimerFn>,
}

/// All servers share it: an id of another server, or of a start that failed, is
/// stale.
static LAST_NUMBER: AtomicU64 = AtomicU64::new(0);

#[derive(Default)]
struct State {
    /// The loop has ended and takes nothing more.
    is_closed: bool,
    watches: HashMap<u64, Watch>,
    /// The watch of each descriptor number, the latest one: an earlier watch of
    /// the same number has lost its descriptor, which the program has closed.
    by_fd: HashMap<RawFd, u64>,
    timers: HashMap<u64, Timer>,
    due: BTreeSet<(Deadline, u64)>,
    /// A poller of the watches alone, inside the loop's: so removing a
    /// descriptor that the program has closed cannot meet a connection that got
    /// its number. Made with the first watch.
    poller: Option<Poller>,
    /// When it is watched again: it rests, because it must be made anew and
    /// there was no descriptor for that.
    rests_until: Option<Deadline>,
}

/// The tasks of a loop.
pub(super) struct Tasks {
    state: Mutex<State>,
    /// The earliest deadline of a timer, or of the watches' rest.
    next: AtomicU64,
}

impl Tasks {
    pub fn new() -> Tasks {
        let next = AtomicU64::new(Deadline::NEVER.to_bits());
        Tasks { state: Mutex::default(), next }
    }

    /// Returns the earliest deadline of a timer, or of the watches' rest, or
    /// [`Deadline::NEVER`].
    pub fn next_deadline(&self) -> Deadline {
        Deadline::from_bits(self.next.load(Ordering::SeqCst))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn open_state(&self) -> Result<MutexGuard<'_, State>, Error> {
        let state = self.state();
        match state.is_closed {
            true => Err(Error::new(Status::State, "the server is stopping")),
            false => Ok(state),
        }
    }

    fn note_next(&self, state: &State) {
        let next = state.due.first().map_or(Deadline::NEVER, |(due, _)| *due);
        let next = next.min(state.rests_until.unwrap_or(Deadline::NEVER));
        self.next.store(next.to_bits(), Ordering::SeqCst);
    }
}

impl State {
    fn new_id(&self, index: usize, kind: TaskKind) -> u64 {
        loop {
            let number = LAST_NUMBER.fetch_add(1, Ordering::Relaxed);
            let id = ConnId::of_task(index, kind, number);
            if !self.watches.contains_key(&id) && !self.timers.contains_key(&id) {
                return id;
            }
        }
    }

    fn arm(&mut self, id: u64, due: Deadline) {
        if let Some(timer) = self.timers.get_mut(&id) {
            timer.due = due;
            self.due.insert((due, id));
        }
    }
}

/// The error of a descriptor that cannot be watched.
fn cannot_watch(error: &io::Error) -> Error {
    if error.raw_os_error() == Some(libc::ELOOP) {
        let text = "cannot watch the descriptor: too many epoll descriptors inside each other, \
                    those included that the loop's is in";
        return Error::from_os(Status::Unsupported, text, error);
    }
    let status = match error.raw_os_error() {
        Some(libc::EPERM) => Status::Unsupported,
        Some(libc::EEXIST) => Status::Busy,
        Some(libc::EBADF | libc::EINVAL | libc::ENOENT) => Status::Invalid,
        Some(libc::ENOMEM) => Status::NoMemory,
        _ => Status::Io,
    };
    Error::from_os(status, "cannot watch the descriptor", error)
}

impl LoopHandle {
    /// Watches a descriptor, level-triggered. Returns the id of the watch.
    pub fn watch(&self, fd: RawFd, interest: Interest, call: WatchFn) -> Result<u64, Error> {
        let mut state = self.tasks.open_state()?;
        if let Some(poller) = &lock(&self.intake).poller {
            // A descriptor that the loop has itself is refused.
            poller.add_raw(fd, PROBE, Bits::empty()).map_err(|e| cannot_watch(&e))?;
            let _ = poller.remove_raw(fd);
            if state.poller.is_none() {
                state.poller = Some(nested(poller).map_err(|e| cannot_watch(&e))?);
            }
        }
        let id = state.new_id(self.context.index, TaskKind::Watch);
        let poller = state.poller.as_ref().ok_or(Status::State)?;
        let added = match poller.add_raw(fd, id, interest.bits()) {
            // What a watch has left whose descriptor was closed too early, and
            // is now there again.
            Err(e) if e.raw_os_error() == Some(libc::EEXIST) && !state.by_fd.contains_key(&fd) => {
                poller.change_raw(fd, id, interest.bits())
            }
            added => added,
        };
        added.map_err(|e| cannot_watch(&e))?;
        state.by_fd.insert(fd, id);
        state.watches.insert(id, Watch { fd, interest, call: Some(call) });
        Ok(id)
    }

    pub fn change_watch(&self, id: u64, interest: Interest) -> Result<(), Error> {
        let mut state = self.tasks.state();
        let State { watches, by_fd, poller, .. } = &mut *state;
        let watch = watches.get_mut(&id).ok_or(Status::Closed)?;
        if by_fd.get(&watch.fd) != Some(&id) {
            return Err(Error::new(Status::Invalid, "the descriptor was closed"));
        }
        let poller = poller.as_ref().ok_or(Status::Closed)?;
        poller.change_raw(watch.fd, id, interest.bits()).map_err(|e| cannot_watch(&e))?;
        watch.interest = interest;
        Ok(())
    }

    /// Ends a watch. On the loop's own thread no call of it begins any more; on
    /// another one a call may be under way.
    pub fn unwatch(&self, id: u64) -> Result<(), Error> {
        let mut state = self.tasks.state();
        let watch = state.watches.remove(&id).ok_or(Status::Closed)?;
        if state.by_fd.get(&watch.fd) == Some(&id) {
            state.by_fd.remove(&watch.fd);
            if let Some(poller) = &state.poller {
                // It fails where the program has closed the descriptor before.
                let _ = poller.remove_raw(watch.fd);
            }
        }
        drop(state);
        callback::contain_drop(watch);
        Ok(())
    }

    /// Sets a timer. Returns its id.
    pub fn add_timer(&self, first_ms: u64, repeat_ms: u64, call: TimerFn) -> Result<u64, Error> {
        let mut state = self.tasks.open_state()?;
        let id = state.new_id(self.context.index, TaskKind::Timer);
        let due = Deadline::after_ms(first_ms);
        state.timers.insert(id, Timer { due, repeat_ms, call: Some(call) });
        state.arm(id, due);
        let is_next = due < self.tasks.next_deadline();
        self.tasks.note_next(&state);
        drop(state);
        if is_next {
            self.wake_up();
        }
        Ok(id)
    }

    pub fn cancel_timer(&self, id: u64) -> Result<(), Error> {
        let mut state = self.tasks.state();
        let timer = state.timers.remove(&id).ok_or(Status::Closed)?;
        state.due.remove(&(timer.due, id));
        self.tasks.note_next(&state);
        drop(state);
        callback::contain_drop(timer);
        Ok(())
    }

    /// Has a task run, after those that the same thread has posted before.
    pub fn post_task(&self, task: TaskFn) -> Result<(), Error> {
        // Under the lock: no task comes after the loop has dropped the rest.
        let _open = self.tasks.open_state()?;
        self.post(Mail::Task(task));
        Ok(())
    }
}

/// Makes a poller of its own for watches, inside the loop's poller.
fn nested(outer: &Poller) -> io::Result<Poller> {
    let poller = Poller::new()?;
    outer.add_raw(poller.raw_fd(), WATCHES, Bits::IN)?;
    Ok(poller)
}

impl Loop {
    /// Calls the watches whose descriptors are ready.
    pub(super) fn run_watches(&mut self) {
        let handle = self.driver.handle.clone();
        let Some(poller) = handle.tasks.state().poller.clone() else { return };
        let mut events = self.watch_events.take().unwrap_or_else(|| Events::new(PER_TURN));
        let _ = poller.wait(&mut events, 0);
        let mut is_stray = false;
        for (id, bits) in events.iter() {
            is_stray |= !self.run_watch(&handle, id, bits);
        }
        self.watch_events = Some(events);
        if is_stray {
            self.rebuild_watches(&handle);
        }
    }

    /// Returns `false` where no watch has this id.
    fn run_watch(&mut self, handle: &LoopHandle, id: u64, bits: Bits) -> bool {
        let (mut call, fd, found) = {
            let mut state = handle.tasks.state();
            let Some(watch) = state.watches.get_mut(&id) else { return false };
            let found = watch.interest.found(bits);
            if found == Interest::NONE {
                return true;
            }
            let Some(call) = watch.call.take() else { return true };
            (call, watch.fd, found)
        };
        self.run_task(|server| call(server, id, fd, found));
        let mut state = handle.tasks.state();
        match state.watches.get_mut(&id) {
            Some(watch) => watch.call = Some(call),
            None => {
                drop(state);
                callback::drop_on_loop(call);
            }
        }
        true
    }

    /// The program has closed a descriptor of which another process, or a
    /// duplicate, keeps the file open: its events go on under an id that is
    /// gone, and only a new poller is without them.
    #[cold]
    fn rebuild_watches(&mut self, handle: &LoopHandle) {
        let mut state = handle.tasks.state();
        // An event of a watch that was removed meanwhile is no reason.
        let Some(old) = &state.poller else { return };
        let mut events = Events::new(PER_TURN);
        let _ = old.wait(&mut events, 0);
        if events.iter().all(|(id, _)| state.watches.contains_key(&id)) {
            return;
        }
        let Ok(poller) = nested(self.poller()) else {
            // Its events, which nothing ends now, must not make the loop spin.
            let _ = self.poller().change_raw(old.raw_fd(), WATCHES, Bits::empty());
            state.rests_until = Some(Deadline::after_ms(REST_MS));
            handle.tasks.note_next(&state);
            drop(state);
            return self.arm_tasks();
        };
        for (fd, id) in &state.by_fd {
            let Some(watch) = state.watches.get(id) else { continue };
            // It fails where the number is another file's by now, perhaps a
            // connection's.
            if old.change_raw(*fd, *id, watch.interest.bits()).is_ok() {
                let _ = poller.add_raw(*fd, *id, watch.interest.bits());
            }
        }
        // A child that a fork made may keep the old one open, in the loop's.
        let _ = self.poller().remove_raw(old.raw_fd());
        state.poller = Some(poller);
    }

    /// Watches the poller of the watches again when its rest is over.
    fn end_rest(&self, handle: &LoopHandle, now: Deadline) {
        let mut state = handle.tasks.state();
        if state.rests_until.take_if(|until| *until <= now).is_none() {
            return;
        }
        if let Some(poller) = &state.poller {
            let _ = self.poller().change_raw(poller.raw_fd(), WATCHES, Bits::IN);
        }
    }

    /// Makes the loop look at the timers in time.
    pub(super) fn arm_tasks(&mut self) {
        let next = self.driver.handle.tasks.next_deadline();
        self.driver.schedule.arm_own(Own::Timers, next);
    }

    /// Calls the timers that are due, each once.
    pub(super) fn run_timers(&mut self) {
        let (handle, now) = (self.driver.handle.clone(), Deadline::latest_due());
        self.end_rest(&handle, now);
        let due: Vec<(Deadline, u64)> = {
            let state = handle.tasks.state();
            state.due.iter().take_while(|(due, _)| *due <= now).take(PER_TURN).copied().collect()
        };
        for (due, id) in due {
            self.run_timer(&handle, due, id);
        }
        handle.tasks.note_next(&handle.tasks.state());
        self.arm_tasks();
    }

    fn run_timer(&mut self, handle: &LoopHandle, due: Deadline, id: u64) {
        let mut call = {
            let mut state = handle.tasks.state();
            // A call before it may have cancelled it.
            if !state.due.remove(&(due, id)) {
                return;
            }
            let Some(call) = state.timers.get_mut(&id).and_then(|t| t.call.take()) else { return };
            call
        };
        self.run_task(|server| call(server, id));
        let mut state = handle.tasks.state();
        match state.timers.get_mut(&id) {
            Some(timer) if timer.repeat_ms > 0 => {
                timer.call = Some(call);
                // Missed periods are not made up.
                let missed = Deadline::latest_due().ms_since(due) / timer.repeat_ms;
                let next = due.later_by((missed + 1) * timer.repeat_ms);
                state.arm(id, next);
            }
            _ => {
                let timer = state.timers.remove(&id);
                drop(state);
                callback::drop_on_loop((timer, call));
            }
        }
    }

    /// Runs code of the program that belongs to no connection, and reports its
    /// failure.
    pub(super) fn run_task(&mut self, task: impl FnOnce(&Server) -> Result<(), Error>) {
        self.context().reach.note_none();
        let result = callback::call_hook(|| task(&self.driver.server));
        if let Some(error) = callback::outcome(result) {
            self.driver.counters().handler_errors.add(1);
            self.driver.report(&error);
            callback::drop_on_loop(error);
        }
    }

    /// Drops all tasks: the loop has ended. None is called any more.
    pub(super) fn drop_tasks(&mut self) {
        let handle = self.driver.handle.clone();
        let (watches, timers) = {
            let mut state = handle.tasks.state();
            state.is_closed = true;
            state.poller = None;
            state.rests_until = None;
            state.due.clear();
            state.by_fd.clear();
            handle.tasks.note_next(&state);
            (std::mem::take(&mut state.watches), std::mem::take(&mut state.timers))
        };
        watches.into_values().for_each(callback::drop_on_loop);
        timers.into_values().for_each(callback::drop_on_loop);
        while let Ok(mail) = handle.mail.1.try_recv() {
            callback::drop_on_loop(mail);
        }
    }
}
