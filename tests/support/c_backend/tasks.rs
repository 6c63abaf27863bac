//! Watches, timers and tasks: each closure is the user data of its C function.

use super::{check, Error, Server};
use net_server::ffi::*;
use std::ffi::c_void;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::ptr::null_mut;
use std::sync::Mutex;
use std::time::Duration;

pub use net_server::{Interest, TaskId};

type WatchFn = Box<dyn FnMut(&Server, TaskId, RawFd, Interest) -> Result<(), Error> + Send>;
type TimerFn = Box<dyn FnMut(&Server, TaskId) -> Result<(), Error> + Send>;
type TaskFn = Box<dyn FnOnce(&Server) -> Result<(), Error> + Send>;

fn given<T>(closure: T) -> *mut c_void {
    Box::into_raw(Box::new(closure)).cast()
}

unsafe extern "C-unwind" fn take_back<T>(closure: *mut c_void) {
    // SAFETY: made by `given`; the library calls this once.
    drop(unsafe { Box::from_raw(closure.cast::<T>()) });
}

fn code(result: Result<(), Error>) -> i32 {
    // SAFETY: NULL is what a callback without a socket passes.
    result.map_or_else(|error| unsafe { error.raised(null_mut()) }, |()| 0)
}

fn events(interest: Interest) -> u32 {
    let read = if interest.read { NS_READ } else { 0 };
    read | if interest.write { NS_WRITE } else { 0 }
}

unsafe extern "C-unwind" fn on_ready(
    server: *mut ns_server,
    id: u64,
    fd: i32,
    found: u32,
    closure: *mut c_void,
) -> i32 {
    // SAFETY: made by `given`, and called by one thread at a time.
    let call = unsafe { &mut *closure.cast::<WatchFn>() };
    let found = Interest { read: found & NS_READ != 0, write: found & NS_WRITE != 0 };
    code(call(&Server::lent(server), TaskId::from_u64(id).unwrap(), fd, found))
}

unsafe extern "C-unwind" fn on_timer(server: *mut ns_server, id: u64, closure: *mut c_void) -> i32 {
    // SAFETY: as above.
    let call = unsafe { &mut *closure.cast::<TimerFn>() };
    code(call(&Server::lent(server), TaskId::from_u64(id).unwrap()))
}

unsafe extern "C-unwind" fn on_task(server: *mut ns_server, closure: *mut c_void) -> i32 {
    // SAFETY: as above.
    let task = unsafe { &*closure.cast::<Mutex<Option<TaskFn>>>() }.lock().unwrap().take();
    code(task.expect("called once")(&Server::lent(server)))
}

fn id_or_error(id: u64, error: *mut ns_error) -> Result<TaskId, Error> {
    match TaskId::from_u64(id) {
        Some(id) => {
            assert!(error.is_null(), "success with an error");
            Ok(id)
        }
        // SAFETY: a failed call has set it.
        None => Err(unsafe { Error::taken(error) }),
    }
}

impl Server {
    pub fn watch(
        &self,
        event_loop: usize,
        fd: &impl AsFd,
        interest: Interest,
        call: impl FnMut(&Server, TaskId, RawFd, Interest) -> Result<(), Error> + Send + 'static,
    ) -> Result<TaskId, Error> {
        let (fd, interest) = (fd.as_fd().as_raw_fd(), events(interest));
        let (mut error, data) = (null_mut(), given::<WatchFn>(Box::new(call)));
        let drop = Some(take_back::<WatchFn> as _);
        // SAFETY: the closure goes with its drop function.
        let id = unsafe {
            let event_loop = event_loop as u32;
            let ready = Some(on_ready as _);
            ns_server_watch(self.raw(), event_loop, fd, interest, ready, data, drop, &mut error)
        };
        id_or_error(id, error)
    }

    pub fn change_watch(&self, id: TaskId, interest: Interest) -> Result<(), Error> {
        // SAFETY: a live server.
        check(unsafe { ns_server_watch_change(self.raw(), id.get(), events(interest)) })
    }

    pub fn unwatch(&self, id: TaskId) -> Result<(), Error> {
        // SAFETY: a live server.
        check(unsafe { ns_server_unwatch(self.raw(), id.get()) })
    }

    pub fn add_timer(
        &self,
        event_loop: usize,
        first: Duration,
        repeat: Option<Duration>,
        call: impl FnMut(&Server, TaskId) -> Result<(), Error> + Send + 'static,
    ) -> Result<TaskId, Error> {
        let first = first.as_millis() as u32;
        let repeat = repeat.map_or(0, |time| time.as_millis() as u32);
        let (mut error, data) = (null_mut(), given::<TimerFn>(Box::new(call)));
        let drop = Some(take_back::<TimerFn> as _);
        // SAFETY: the closure goes with its drop function.
        let id = unsafe {
            let event_loop = event_loop as u32;
            let due = Some(on_timer as _);
            ns_server_timer(self.raw(), event_loop, first, repeat, due, data, drop, &mut error)
        };
        id_or_error(id, error)
    }

    pub fn cancel_timer(&self, id: TaskId) -> Result<(), Error> {
        // SAFETY: a live server.
        check(unsafe { ns_server_timer_cancel(self.raw(), id.get()) })
    }

    pub fn post(
        &self,
        event_loop: usize,
        task: impl FnOnce(&Server) -> Result<(), Error> + Send + 'static,
    ) -> Result<(), Error> {
        let data = given::<Mutex<Option<TaskFn>>>(Mutex::new(Some(Box::new(task))));
        let drop = Some(take_back::<Mutex<Option<TaskFn>>> as _);
        // SAFETY: the closure goes with its drop function.
        let code = unsafe {
            ns_server_post(self.raw(), event_loop as u32, Some(on_task as _), data, drop)
        };
        check(code)
    }
}
