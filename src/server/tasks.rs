//! The program's own descriptors, timers and tasks in the loops of a server.

#![forbid(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use super::{Engine, Server};
use crate::config::MAX_TIME;
use crate::conn::{ConnId, TaskKind};
use crate::error::{Error, Status};
use crate::event::{Interest, LoopHandle, TaskFn, TimerFn, WatchFn};

/// The number of a watch or a timer: never 0, never that of a connection.
/// It is given again after 2^25 others at the earliest.
///
/// Example: [`Server::watch`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskId(u64);

impl TaskId {
    /// Returns the number.
    pub fn get(self) -> u64 {
        self.0
    }

    /// Returns the id with this number; `None` for 0.
    pub fn from_u64(id: u64) -> Option<TaskId> {
        (id != 0).then_some(TaskId(id))
    }
}

impl Server {
    /// Watches a descriptor of the program's in a loop, whose thread calls
    /// `call` as long as the descriptor is ready (level-triggered; a hang-up
    /// and an error show as what is watched). Loops count from 0. The
    /// descriptor stays the program's, which unwatches it before it closes it.
    /// Any thread may call this and the other methods here, from `on_start` on
    /// and until a stop begins.
    ///
    /// The watch goes on during the drain, and after a failure of `call`, which
    /// the exception handler gets, without a socket. When the loop has ended it
    /// is dropped.
    ///
    /// Errors: [`Status::Invalid`] for a bad descriptor or loop, or no
    /// interest; [`Status::Unsupported`] for a regular file; [`Status::Busy`]
    /// for a descriptor that is in the loop already;
    /// [`Status::NotNonBlocking`]; [`Status::State`] before `on_start` and once
    /// a stop has begun; [`Status::Io`] or [`Status::NoMemory`] where the
    /// system has no room.
    ///
    /// ```
    /// use net_server::{Config, Interest, Server, Socket};
    /// use std::{io::Write, os::unix::net::UnixStream, sync::mpsc, time::Duration};
    ///
    /// let handler = |_: &Server, socket: &mut Socket<'_>| socket.recv(&mut [0; 100]).map(drop);
    /// let server = Server::with_config("127.0.0.1:0", handler, Config::new().non_blocking(true))?;
    /// server.start_background()?;
    /// let (tell, told) = mpsc::channel();
    /// let say = move |what| Ok(tell.send(what).unwrap_or_default());
    ///
    /// let (ours, mut theirs) = UnixStream::pair()?;
    /// let say_it = say.clone();
    /// let watch = server.watch(0, &ours, Interest::READ, move |server, id, _, _| {
    ///     server.unwatch(id)?;
    ///     say_it("readable")
    /// })?;
    /// server.change_watch(watch, Interest { read: true, write: false })?;
    /// theirs.write_all(b"x")?;
    /// assert_eq!(told.recv()?, "readable");
    ///
    /// let (first, every) = (Duration::from_millis(1), Duration::from_secs(60));
    /// let say_it = say.clone();
    /// let timer = server.add_timer(0, first, Some(every), move |_, _| say_it("it is time"))?;
    /// assert_eq!(told.recv()?, "it is time");
    /// server.cancel_timer(timer)?;
    ///
    /// server.post(0, move |_| say("on the loop's thread"))?;
    /// assert_eq!(told.recv()?, "on the loop's thread");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn watch(
        &self,
        event_loop: usize,
        fd: &impl AsFd,
        interest: Interest,
        mut call: impl FnMut(&Server, TaskId, RawFd, Interest) -> Result<(), Error> + Send + 'static,
    ) -> Result<TaskId, Error> {
        let call: WatchFn =
            Box::new(move |server, id, fd, found| call(server, TaskId(id), fd, found));
        self.watch_raw(event_loop, fd.as_fd().as_raw_fd(), interest, call)
    }

    pub(crate) fn watch_raw(
        &self,
        event_loop: usize,
        fd: RawFd,
        interest: Interest,
        call: WatchFn,
    ) -> Result<TaskId, Error> {
        check_interest(interest)?;
        self.with_loop(event_loop, |handle| handle.watch(fd, interest, call)).map(TaskId)
    }

    /// Changes what a watch waits for.
    ///
    /// Errors: [`Status::Invalid`] for no interest, and where the program has
    /// closed the descriptor; [`Status::Closed`] for an id that is stale or of
    /// another kind.
    ///
    /// Example: [`Server::watch`].
    pub fn change_watch(&self, id: TaskId, interest: Interest) -> Result<(), Error> {
        check_interest(interest)?;
        self.with_task(id, TaskKind::Watch, |handle| handle.change_watch(id.0, interest))
    }

    /// Ends a watch. On the loop's own thread no call begins any more; from
    /// another thread one may be under way.
    ///
    /// Errors: [`Status::Closed`] for an id that is stale or of another kind.
    ///
    /// Example: [`Server::watch`].
    pub fn unwatch(&self, id: TaskId) -> Result<(), Error> {
        self.with_task(id, TaskKind::Watch, |handle| handle.unwatch(id.0))
    }

    /// Has a loop call `call` when `first` has passed, and then every `repeat`
    /// (`None`: once). A period that was missed is not made up. A timer goes on
    /// during the drain and after a failure, as a watch does.
    ///
    /// Errors: [`Status::Invalid`] for a bad loop, a time above
    /// [`MAX_TIME`](crate::MAX_TIME) or a repeat of 0;
    /// [`Status::NotNonBlocking`]; [`Status::State`].
    ///
    /// Example: [`Server::watch`].
    pub fn add_timer(
        &self,
        event_loop: usize,
        first: Duration,
        repeat: Option<Duration>,
        mut call: impl FnMut(&Server, TaskId) -> Result<(), Error> + Send + 'static,
    ) -> Result<TaskId, Error> {
        let call: TimerFn = Box::new(move |server, id| call(server, TaskId(id)));
        let millis = |time: Duration| time.as_nanos().div_ceil(1_000_000);
        let (first, repeat_ms) = (millis(first), repeat.map_or(0, millis));
        let max = MAX_TIME.as_millis();
        if first > max || repeat_ms > max || repeat.is_some_and(|time| time.is_zero()) {
            return Err(Error::new(Status::Invalid, format!("a timer's time is at most {max} ms")));
        }
        let add = |handle: &LoopHandle| handle.add_timer(first as u64, repeat_ms as u64, call);
        self.with_loop(event_loop, add).map(TaskId)
    }

    /// Ends a timer. On the loop's own thread no call begins any more; from
    /// another thread one may be under way.
    ///
    /// Errors: [`Status::Closed`] for an id that is stale (also of a timer that
    /// has expired and does not repeat) or of another kind.
    ///
    /// Example: [`Server::watch`].
    pub fn cancel_timer(&self, id: TaskId) -> Result<(), Error> {
        self.with_task(id, TaskKind::Timer, |handle| handle.cancel_timer(id.0))
    }

    /// Has a loop run a task once. The tasks of one posting thread keep their
    /// order. A task that has not run when the loop ends is dropped.
    ///
    /// Errors: [`Status::Invalid`] for a bad loop; [`Status::NotNonBlocking`];
    /// [`Status::State`].
    ///
    /// Example: [`Server::watch`].
    pub fn post(
        &self,
        event_loop: usize,
        task: impl FnOnce(&Server) -> Result<(), Error> + Send + 'static,
    ) -> Result<(), Error> {
        let task: TaskFn = Box::new(task);
        self.with_loop(event_loop, |handle| handle.post_task(task))
    }

    fn with_loop<T>(
        &self,
        index: usize,
        body: impl FnOnce(&LoopHandle) -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.check_process()?;
        if !self.inner.config.non_blocking {
            return Err(Error::from(Status::NotNonBlocking));
        }
        if index >= self.inner.config.max_thread as usize {
            let text = format!("the server has no loop {index}");
            return Err(Error::new(Status::Invalid, text));
        }
        let handle = self.loop_handle(index).filter(|_| !self.is_stopping());
        let text = || format!("the server is {}", self.state().name());
        let handle = handle.ok_or_else(|| Error::new(Status::State, text()))?;
        body(&handle)
    }

    fn with_task(
        &self,
        id: TaskId,
        kind: TaskKind,
        body: impl FnOnce(&LoopHandle) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.check_process()?;
        let handle = self.loop_handle(ConnId::loop_index(id.0));
        let handle = handle.filter(|_| ConnId::slot(id.0) == kind as u32);
        let handle = handle.ok_or(Status::Closed)?;
        body(&handle)
    }

    fn loop_handle(&self, index: usize) -> Option<Arc<LoopHandle>> {
        match &self.running()?.engine {
            Engine::Loops(loops) => loops.handle(index).cloned(),
            Engine::Pool(_) => None,
        }
    }
}

fn check_interest(interest: Interest) -> Result<(), Error> {
    match interest.read || interest.write {
        true => Ok(()),
        false => Err(Error::new(Status::Invalid, "a watch is for reading or writing")),
    }
}
