//! The program's own descriptors, timers and tasks in the loops of a server.

// SAFETY of the blocks without a comment: the caller's contract, see `mod.rs`.
#![allow(clippy::undocumented_unsafe_blocks)]

use std::ffi::c_void;
use std::time::Duration;

use super::error::{ns_error, ns_status};
use super::handles::server_of;
use super::raise::without_socket;
use super::server::ns_server;
use super::support::{null, status, with_err};
use super::user_data::{ns_drop_fn, Callback, UserData};
use crate::event::Interest;
use crate::{Error, Status, TaskId};

/// A watch: input, the end of the stream.
pub const NS_READ: u32 = 1;
/// A watch: room for output.
pub const NS_WRITE: u32 = 2;

/// Handles a descriptor of the program's that is ready. `events` has NS_READ,
/// NS_WRITE or both. It may call everything that a callback may, also for this
/// watch. [handler] calls take NULL for the socket: `ns_raise(NULL, ...)`.
///
/// Returns: 0 or more for success. A negative number goes to the exception handler,
/// with NULL for the socket; the watch stays.
pub type ns_watch_fn = Option<
    unsafe extern "C-unwind" fn(
        server: *mut ns_server,
        id: u64,
        fd: i32,
        events: u32,
        user_data: *mut c_void,
    ) -> i32,
>;

/// Handles a timer. The rest is as with `ns_watch_fn`.
///
/// Returns: as `ns_watch_fn`; the timer stays.
pub type ns_timer_fn = Option<
    unsafe extern "C-unwind" fn(server: *mut ns_server, id: u64, user_data: *mut c_void) -> i32,
>;

/// Runs a task that was posted. The rest is as with `ns_watch_fn`.
///
/// Returns: as `ns_watch_fn`.
pub type ns_task_fn =
    Option<unsafe extern "C-unwind" fn(server: *mut ns_server, user_data: *mut c_void) -> i32>;

/// A function of the program's and its first and last argument, on their way to
/// the thread of a loop.
struct Call<F> {
    server: *mut ns_server,
    callback: Callback<F>,
}

// SAFETY: the server outlives its loops; the callback may be called on any thread.
unsafe impl<F: Send> Send for Call<F> {}

impl<F: Copy> Call<F> {
    fn parts(&self) -> (F, *mut ns_server, *mut c_void) {
        (self.callback.function, self.server, self.callback.user_data)
    }
}

fn interest(events: u32) -> Result<Interest, Error> {
    match events {
        0 => Err(Error::new(Status::Invalid, "a watch is for reading or writing")),
        events if events & !(NS_READ | NS_WRITE) != 0 => {
            Err(Error::new(Status::Invalid, format!("unknown events {events:#x}")))
        }
        events => Ok(Interest { read: events & NS_READ != 0, write: events & NS_WRITE != 0 }),
    }
}

fn task_id(id: u64) -> Result<TaskId, Error> {
    TaskId::from_u64(id).ok_or(Error::from(Status::Closed))
}

/// Watches a descriptor of the program's in a loop (numbers from 0) of a server in
/// non-blocking mode. The loop calls `function` as long as the descriptor is ready:
/// level-triggered; a hang-up and an error show as what is watched. The descriptor
/// stays the program's: unwatch it before you close it. The watch goes on during the
/// drain. When the loop has ended, after the last `on_close`, it is dropped.
/// `drop` (NULL: none) frees `user_data` after the last call, or immediately if this
/// fails. `err`: see RESULTS.
///
/// Returns: the watch's id, which is no connection's; or 0, with NS_ERR_INVALID (a
/// bad descriptor, loop or number of events), NS_ERR_UNSUPPORTED (a regular file, too
/// many epoll descriptors inside each other, the host's included), NS_ERR_BUSY (the
/// descriptor is in the loop already), NS_ERR_NOT_NON_BLOCKING,
/// NS_ERR_STATE (before `on_start`, or a stop has begun), NS_ERR_IO (no descriptor is
/// left, a limit of epoll(7)) or NS_ERR_NO_MEMORY in `err`.
/// [any] [blocks]
#[no_mangle]
pub unsafe extern "C" fn ns_server_watch(
    server: *mut ns_server,
    event_loop: u32,
    fd: i32,
    events: u32,
    function: ns_watch_fn,
    user_data: *mut c_void,
    drop: ns_drop_fn,
    err: *mut *mut ns_error,
) -> u64 {
    let data = UserData::new(user_data, drop);
    let body = || {
        let this = unsafe { server_of(server) }?;
        let function = function.ok_or_else(|| null("function"))?;
        let program = Call { server, callback: Callback::new(function, data) };
        let call = move |_: &crate::Server, id, fd, found: Interest| {
            let read = if found.read { NS_READ } else { 0 };
            let events = read | if found.write { NS_WRITE } else { 0 };
            let (function, server, user_data) = program.parts();
            // SAFETY: the program gave them as a pair; the server outlives its loops.
            without_socket(|| unsafe { function(server, id, fd, events, user_data) })
        };
        let call = Box::new(call);
        this.server.watch_raw(event_loop as usize, fd, interest(events)?, call).map(TaskId::get)
    };
    unsafe { with_err(err, |_| 0, body) }
}

/// Changes the events that a watch waits for.
///
/// Returns: 0, NS_ERR_CLOSED (a stale id, or one of another kind) or NS_ERR_INVALID
/// (a bad number of events, a descriptor that was closed).
/// [any]
#[no_mangle]
pub unsafe extern "C" fn ns_server_watch_change(
    server: *mut ns_server,
    id: u64,
    events: u32,
) -> ns_status {
    status(|| {
        let this = unsafe { server_of(server) }?;
        this.server.change_watch(task_id(id)?, interest(events)?)
    })
}

/// Ends a watch. On the loop's own thread no call begins any more; on another
/// thread one call may be under way, and the drop function follows it.
///
/// Returns: 0 or NS_ERR_CLOSED (a stale id, or one of another kind).
/// [any] [blocks]
#[no_mangle]
pub unsafe extern "C" fn ns_server_unwatch(server: *mut ns_server, id: u64) -> ns_status {
    status(|| unsafe { server_of(server) }?.server.unwatch(task_id(id)?))
}

/// Sets a timer in a loop of a server in non-blocking mode: `function` is called
/// after `first_ms` milliseconds, and then every `repeat_ms` (0: once). Times are at
/// most 2^31 - 1; a missed period is not made up. The rest is as with
/// `ns_server_watch`.
///
/// Returns: the timer's id; or 0, with NS_ERR_INVALID, NS_ERR_NOT_NON_BLOCKING or
/// NS_ERR_STATE in `err`.
/// [any] [blocks]
#[no_mangle]
pub unsafe extern "C" fn ns_server_timer(
    server: *mut ns_server,
    event_loop: u32,
    first_ms: u32,
    repeat_ms: u32,
    function: ns_timer_fn,
    user_data: *mut c_void,
    drop: ns_drop_fn,
    err: *mut *mut ns_error,
) -> u64 {
    let data = UserData::new(user_data, drop);
    let body = || {
        let this = unsafe { server_of(server) }?;
        let function = function.ok_or_else(|| null("function"))?;
        let program = Call { server, callback: Callback::new(function, data) };
        let call = move |_: &crate::Server, id: TaskId| {
            let (function, server, user_data) = program.parts();
            // SAFETY: as in `ns_server_watch`.
            without_socket(|| unsafe { function(server, id.get(), user_data) })
        };
        let millis = |ms: u32| Duration::from_millis(ms.into());
        let repeat = (repeat_ms != 0).then(|| millis(repeat_ms));
        let added = this.server.add_timer(event_loop as usize, millis(first_ms), repeat, call);
        added.map(TaskId::get)
    };
    unsafe { with_err(err, |_| 0, body) }
}

/// Ends a timer. On the loop's own thread no call begins any more; on another
/// thread one call may be under way, and the drop function follows it.
///
/// Returns: 0 or NS_ERR_CLOSED (a stale id, or one of another kind).
/// [any] [blocks]
#[no_mangle]
pub unsafe extern "C" fn ns_server_timer_cancel(server: *mut ns_server, id: u64) -> ns_status {
    status(|| unsafe { server_of(server) }?.server.cancel_timer(task_id(id)?))
}

/// Has a loop of a server in non-blocking mode call `function` once. The tasks that
/// one thread posts keep their order. One that has not run when the loop ends is
/// dropped, without a call. The rest is as with `ns_server_watch`.
///
/// Returns: 0, NS_ERR_INVALID, NS_ERR_NOT_NON_BLOCKING or NS_ERR_STATE.
/// [any] [blocks]
#[no_mangle]
pub unsafe extern "C" fn ns_server_post(
    server: *mut ns_server,
    event_loop: u32,
    function: ns_task_fn,
    user_data: *mut c_void,
    drop: ns_drop_fn,
) -> ns_status {
    let data = UserData::new(user_data, drop);
    status(|| {
        let this = unsafe { server_of(server) }?;
        let function = function.ok_or_else(|| null("function"))?;
        let program = Call { server, callback: Callback::new(function, data) };
        this.server.post(event_loop as usize, move |_| {
            let (function, server, user_data) = program.parts();
            // SAFETY: as in `ns_server_watch`.
            without_socket(|| unsafe { function(server, user_data) })
        })
    })
}
