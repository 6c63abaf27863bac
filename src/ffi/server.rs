//! `ns_server`: its life, its addresses and its context. `services.rs` has its
//! further services.

// SAFETY of the blocks without a comment: the caller's contract, see `mod.rs`.
#![allow(clippy::undocumented_unsafe_blocks)]

use std::ffi::{c_char, c_void};
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use super::config::{ns_config, InUse};
use super::error::{ns_error, ns_status};
use super::handler::CHandler;
use super::handles::{get, ns_socket, object, server_of, share};
use super::logger;
use super::raise;
use super::support::{
    contain, counted, give_text, guard, null, status, text, with_err, FirstFailure,
};
use super::user_data::{ns_drop_fn, Callback, UserData};
use super::version::silence_panics;
use crate::sync::lock;
use crate::{Error, Server, State, Status};

/// A server. The pointer is valid until `ns_server_free` has succeeded. Callbacks
/// get the same pointer that `ns_server_new` returned.
pub struct ns_server {
    // The order of the drops: connections and the handler, then the callbacks
    // of the config, then the context.
    pub(super) server: Server,
    config: InUse,
    context: Context,
    pub(super) calls: Arc<Calls>,
}

/// The program's own pointer: every callback may read it, without a lock.
struct Context {
    pointer: AtomicPtr<c_void>,
    owner: Mutex<Option<UserData>>,
}

/// Counts the calls that block in a server, so that `ns_server_free` on another
/// thread lets them return before it frees the memory.
#[derive(Default)]
pub(super) struct Calls {
    count: Mutex<usize>,
    none: Condvar,
}

impl Calls {
    pub fn enter(self: &Arc<Calls>) -> BlockingCall {
        *lock(&self.count) += 1;
        BlockingCall { calls: self.clone(), _outer: raise::outside() }
    }

    fn wait_until_none(&self) {
        let count = lock(&self.count);
        let none = self.none.wait_while(count, |count| *count > 0);
        drop(none.unwrap_or_else(PoisonError::into_inner));
    }
}

/// Callbacks may run in such a call; what they raise is not that of a callback
/// around it.
pub(super) struct BlockingCall {
    calls: Arc<Calls>,
    _outer: raise::Outer,
}

impl Drop for BlockingCall {
    fn drop(&mut self) {
        *lock(&self.calls.count) -= 1;
        self.calls.none.notify_all();
    }
}

/// Serves a connection.
///
/// Blocking mode: the library calls it once for each connection and closes the
/// socket when it returns; it may block. Non-blocking mode: the library calls it
/// whenever the socket can be read; it must not block, and closes the socket
/// itself. What it leaves unread makes the library call it again; if it reads
/// nothing, the next call comes only when more input arrives.
///
/// Returns: 0 or more for success; NS_ERR_WOULD_BLOCK is no failure. Another
/// negative number (your own, or a status) is a failure, on which the library
/// calls the exception handler.
pub type ns_handler_fn = Option<
    unsafe extern "C-unwind" fn(
        server: *mut ns_server,
        socket: *mut ns_socket,
        user_data: *mut c_void,
    ) -> i32,
>;

/// Makes a server, which does not listen yet.
///
/// `service` is where it will listen (`ns_server_add_service` adds further places):
/// "5000", "http", "0" or NULL (any free port), "127.0.0.1:5000", "[::1]:5000";
/// "unix:/path", "unix:@name" (unix(7); a path or name has at most 107 bytes);
/// "fd:3", a descriptor of yours that listens, of which the server takes a
/// duplicate; "systemd" or "systemd:NAME", the sockets that systemd passed to this
/// process (sd_listen_fds(3)). The start looks at a descriptor; it sets O_NONBLOCK
/// on the socket, and the stop does not end it. A port is digits alone, at most
/// 65535, or a name of services(5), which has a letter. `handler` serves the
/// connections; `drop` (NULL: none) frees its `user_data` with the server, or
/// immediately if this fails. `config` is NULL for the defaults; the server takes
/// its own share of it. `err`: see RESULTS.
///
/// Returns: the server, yours to free with `ns_server_free`; NULL on failure:
/// NS_ERR_INVALID (an argument, or what a setter of the config refused),
/// NS_ERR_STATE (a setter of the TLS object came too late), NS_ERR_CERTIFICATE
/// (TLS without a certificate, or what a setter of the TLS object refused),
/// NS_ERR_TLS, NS_ERR_IO (no descriptor left).
/// [any] [blocks]
#[no_mangle]
pub unsafe extern "C" fn ns_server_new(
    service: *const c_char,
    handler: ns_handler_fn,
    user_data: *mut c_void,
    drop: ns_drop_fn,
    config: *const ns_config,
    err: *mut *mut ns_error,
) -> *mut ns_server {
    let handler = Callback::new(handler, UserData::new(user_data, drop));
    let body = || {
        silence_panics();
        let service = if service.is_null() { "0" } else { unsafe { text(service, "service") }? };
        let config = unsafe { share(config) };
        let config = config.unwrap_or_else(|| Arc::new(ns_config::new(FirstFailure::default())));
        let (config, mut settings, callbacks) = InUse::take(config)?;
        settings.logger = logger::of(&callbacks);
        // The handler has the address of the server before the server exists.
        let room = Box::into_raw(Box::new(MaybeUninit::<ns_server>::uninit()));
        let place = room.cast::<ns_server>();
        let server = CHandler::new(place, handler, callbacks)
            .ok_or_else(|| null("handler"))
            .and_then(|handler| Server::with_config(service, handler, settings));
        let server = match server {
            Ok(server) => server,
            Err(error) => {
                // SAFETY: a Box made above; dropping a MaybeUninit drops no server.
                let _ = unsafe { Box::from_raw(room) };
                return Err(error);
            }
        };
        let context = Context { pointer: AtomicPtr::default(), owner: Mutex::new(None) };
        // SAFETY: the room that was made for it above.
        unsafe { place.write(ns_server { server, config, context, calls: Arc::default() }) };
        Ok(place)
    };
    unsafe { with_err(err, |_| ptr::null_mut(), body) }
}

/// `ns_server_start`: return as soon as the server accepts, instead of when it
/// has stopped.
pub const NS_START_BACKGROUND: u32 = 1;
/// `ns_server_start`: make no thread, and return as soon as the server accepts;
/// the program runs it by `ns_server_run_once`.
pub const NS_START_HOSTED: u32 = 2;

/// Starts a server: binds, makes the threads, runs `on_start`, accepts.
///
/// With `flags` 0 the call returns when the server has stopped; with
/// NS_START_BACKGROUND as soon as it accepts: its ports are final then. In
/// non-blocking mode with one loop and `flags` 0 the callbacks run on the calling
/// thread, which may also get the program's signals.
///
/// With NS_START_HOSTED the server makes no thread at all; the calling thread is
/// the host's (see `ns_server_run_once`). It needs non-blocking mode with
/// `max_thread` 1, else NS_ERR_INVALID. `err`: see RESULTS.
///
/// Returns: 0, or NS_ERR_INVALID, NS_ERR_STATE (started before), NS_ERR_ADDRESS,
/// NS_ERR_LISTEN, NS_ERR_THREAD, NS_ERR_HOOK, NS_ERR_IO. A
/// failed start leaves nothing behind and may be tried again.
/// [any] [blocks]
#[no_mangle]
pub unsafe extern "C" fn ns_server_start(
    server: *mut ns_server,
    flags: u32,
    err: *mut *mut ns_error,
) -> ns_status {
    let body = || {
        let this = unsafe { server_of(server) }?;
        let _call = this.calls.enter();
        match flags {
            0 => this.server.start(),
            NS_START_BACKGROUND => this.server.start_background(),
            NS_START_HOSTED => this.server.start_hosted(),
            _ => Err(Error::new(Status::Invalid, format!("unknown flags {flags:#x}"))),
        }?;
        Ok(Status::Ok.code())
    };
    unsafe { with_err(err, Status::code, body) }
}

/// Stops a server, and returns when it has stopped.
///
/// No handler starts any more. Running ones may finish and queued bytes may leave
/// until the config's `drain_timeout`. Then the stop cuts what is left, for as
/// long as that ends connections. `on_drain` is still called, and may send more;
/// `on_wake` and `on_timeout` are not. A connection with nothing queued looks
/// finished: where another thread or connection still has a part of its answer
/// (`ns_server_send`), abort it before, or its peer takes the beginning for all. In
/// a callback this only requests the stop, and returns 0 immediately.
///
/// Returns: 0, also if it was never started or has stopped; NS_ERR_TIMEOUT if a
/// handler or `on_start` does not return within 80 ms of the cut (the server goes
/// on stopping); NS_ERR_INVALID for NULL.
/// [any] [blocks]
#[no_mangle]
pub unsafe extern "C" fn ns_server_stop(server: *mut ns_server) -> ns_status {
    status(|| {
        let this = unsafe { server_of(server) }?;
        let _call = this.calls.enter();
        this.server.stop()
    })
}

fn millis(ms: i64) -> Result<Duration, Status> {
    u64::try_from(ms).map(Duration::from_millis).map_err(|_| Status::Invalid)
}

/// A time to wait; −1 is forever.
pub(super) fn optional_wait(ms: i64) -> Result<Option<Duration>, Status> {
    match ms {
        -1 => Ok(None),
        ms => Ok(Some(millis(ms)?)),
    }
}

/// `ns_server_stop` with another drain deadline: 0 to 2^31 - 1 milliseconds.
///
/// Returns: as `ns_server_stop`; NS_ERR_INVALID for another number.
/// [any] [blocks]
#[no_mangle]
pub unsafe extern "C" fn ns_server_stop_within(server: *mut ns_server, ms: i64) -> ns_status {
    status(|| {
        let this = unsafe { server_of(server) }?;
        let within = millis(ms)?;
        let _call = this.calls.enter();
        this.server.stop_within(within)
    })
}

/// Requests a stop and returns immediately; it keeps errno. The server remembers a
/// request before its start: then the start returns 0 immediately and runs no
/// hook.
///
/// Returns: 0 or NS_ERR_INVALID.
/// [any] [signal]
#[no_mangle]
pub unsafe extern "C" fn ns_server_request_stop(server: *mut ns_server) -> ns_status {
    // No error object here: a signal handler must not allocate.
    guard(Status::Panic.code(), || {
        // SAFETY: the caller's contract: NULL or valid.
        let Some(this) = (unsafe { server.as_ref() }) else { return Status::Invalid.code() };
        if this.server.is_parents() {
            return Status::State.code();
        }
        this.server.request_stop();
        Status::Ok.code()
    })
}

/// Waits until the server has stopped, whatever stopped it.
///
/// Returns: 0 when it has stopped, or was never started; NS_ERR_TIMEOUT after
/// `timeout_ms` milliseconds (-1: wait forever); NS_ERR_DEADLOCK in a callback;
/// NS_ERR_INVALID for NULL and for a number below -1.
/// [any] [blocks]
#[no_mangle]
pub unsafe extern "C" fn ns_server_wait(server: *mut ns_server, timeout_ms: i64) -> ns_status {
    status(|| {
        let this = unsafe { server_of(server) }?;
        let timeout = optional_wait(timeout_ms)?;
        let _call = this.calls.enter();
        this.server.wait(timeout)
    })
}

/// Returns: a descriptor that is readable (poll(2), select(2), epoll(7), level- or
/// edge-triggered) exactly when `ns_server_run_once` has something to do: events,
/// calls of other threads, due deadlines, a requested stop. It belongs to the
/// server, is the same from the start to `ns_server_free`, and stays readable after
/// the stop. NS_ERR_STATE where the server is not hosted or not started;
/// NS_ERR_INVALID for NULL.
/// [any]
#[no_mangle]
pub unsafe extern "C" fn ns_server_poll_fd(server: *mut ns_server) -> i32 {
    let fd = || Ok::<_, Error>(unsafe { server_of(server) }?.server.poll_fd()? as usize);
    counted(fd) as i32
}

/// Runs one bounded turn of a hosted server. If there is nothing to do it waits for
/// that, `timeout_ms` milliseconds at most (-1: forever); a signal ends the wait.
/// The callbacks of a hosted server run only in this call, in `ns_server_stop`,
/// `ns_server_wait`, `ns_server_quiesce`, `ns_server_wait_idle` and
/// `ns_server_free`, on the calling thread, which is the host's from then on: the
/// first four run turns on it until what they wait for has come, and on another
/// thread they wait for the host's turns.
/// `while (ns_server_run_once(server, -1) == 0) ;` serves until the stop.
///
/// Returns: 0 when a turn was done or the time has passed; NS_ERR_STATE before the
/// start, once stopped, and where the server is not hosted; NS_ERR_BUSY in a
/// callback and while another thread runs turns, in one of these calls;
/// NS_ERR_INVALID for NULL and other numbers.
/// [any] [blocks]
#[no_mangle]
pub unsafe extern "C" fn ns_server_run_once(server: *mut ns_server, timeout_ms: i64) -> ns_status {
    status(|| {
        let this = unsafe { server_of(server) }?;
        let timeout = optional_wait(timeout_ms)?;
        let _call = this.calls.enter();
        this.server.run_once(timeout)
    })
}

/// Stops as `ns_server_stop` does, then frees: the connections' data, the
/// callbacks, the context, in this order, with their drop functions. Other threads
/// may be in `ns_server_start`, `_stop`, `_wait`, `_run_once`, `_quiesce` and
/// `_wait_idle` meanwhile, which return first; they must be in no other call.
///
/// Returns: 0, also for NULL; NS_ERR_BUSY in a callback; NS_ERR_TIMEOUT if a
/// handler does not return. After a failure nothing is freed, and you may call it
/// again.
/// [any] [blocks]
#[no_mangle]
pub unsafe extern "C" fn ns_server_free(server: *mut ns_server) -> ns_status {
    if server.is_null() {
        return Status::Ok.code();
    }
    status(|| {
        let this = unsafe { object(server, "server") }?;
        if this.server.is_parents() {
            if this.server.leave_to_parent() {
                // SAFETY: as below.
                drop(unsafe { Box::from_raw(server) });
            }
            return Ok(());
        }
        if this.server.in_callback() {
            return Err(Error::from(Status::Busy));
        }
        let _outer = raise::outside();
        this.server.stop_for_good()?;
        this.calls.wait_until_none();
        // SAFETY: a Box of `ns_server_new`, and no call is inside any more.
        drop(unsafe { Box::from_raw(server) });
        Ok(())
    })
}

/// Returns: 1 before the start and after the stop, also for NULL; else 0.
/// [any]
#[no_mangle]
pub unsafe extern "C" fn ns_server_is_stopped(server: *const ns_server) -> i32 {
    unsafe { get(server, 1, |s| s.server.is_stopped().into()) }
}

/// The server was made and not yet started.
pub const NS_STATE_NEW: i32 = 0;
/// `ns_server_start` is in progress.
pub const NS_STATE_STARTING: i32 = 1;
/// The server accepts connections.
pub const NS_STATE_RUNNING: i32 = 2;
/// A stop was requested and is in progress.
pub const NS_STATE_STOPPING: i32 = 3;
/// The server has stopped: no descriptor of it is left. Its last thread is ending;
/// `ns_server_stop`, `ns_server_wait` and `ns_server_free` join it.
pub const NS_STATE_STOPPED: i32 = 4;
/// The server accepts no more and goes on to serve what it has
/// (`ns_server_quiesce`).
pub const NS_STATE_QUIESCING: i32 = 5;

/// The numbers are the core's; a mismatch does not compile.
const _: () = {
    assert!(NS_STATE_NEW == State::New as i32);
    assert!(NS_STATE_STARTING == State::Starting as i32);
    assert!(NS_STATE_RUNNING == State::Running as i32);
    assert!(NS_STATE_STOPPING == State::Stopping as i32);
    assert!(NS_STATE_STOPPED == State::Stopped as i32);
    assert!(NS_STATE_QUIESCING == State::Quiescing as i32);
};

/// Returns: an `NS_STATE_...`; NS_STATE_NEW for NULL.
/// [any]
#[no_mangle]
pub unsafe extern "C" fn ns_server_state(server: *const ns_server) -> i32 {
    unsafe { get(server, NS_STATE_NEW, |s| s.server.state() as i32) }
}

/// Returns: the port of its first service, in host byte order; 0 before the start
/// and for a unix socket.
/// [any]
#[no_mangle]
pub unsafe extern "C" fn ns_server_port(server: *const ns_server) -> u16 {
    unsafe { get(server, 0, |s| s.server.port()) }
}

/// Returns: the shutdown port, in host byte order; 0 before the start and where
/// there is none.
/// [any]
#[no_mangle]
pub unsafe extern "C" fn ns_server_shutdown_port(server: *const ns_server) -> u16 {
    unsafe { get(server, 0, |s| s.server.shutdown_port()) }
}

/// Writes the address that its first service listens on as text, "0.0.0.0:5000" or
/// "unix:/path", several joined by ", "; "" before the start. It writes as
/// `snprintf` does: at most `len` bytes with the final NUL.
///
/// Returns: the length of the whole text without the NUL.
/// [any]
#[no_mangle]
pub unsafe extern "C" fn ns_server_address(
    server: *const ns_server,
    buf: *mut c_char,
    len: usize,
) -> usize {
    guard(0, || {
        let address = unsafe { server_of(server) }.map_or(String::new(), |s| s.server.address());
        unsafe { give_text(&address, buf, len) }
    })
}

/// Returns: the config that the server was made with (one with the defaults if that
/// was NULL). Borrowed: not to be freed, valid as long as the server. NULL for
/// NULL.
/// [any]
#[no_mangle]
pub unsafe extern "C" fn ns_server_config(server: *const ns_server) -> *const ns_config {
    unsafe { get(server, ptr::null(), |s| Arc::as_ptr(&s.config)) }
}

/// Returns: the pointer that `ns_server_set_context` got; NULL if there is none.
/// [any]
#[no_mangle]
pub unsafe extern "C" fn ns_server_context(server: *const ns_server) -> *mut c_void {
    // No system call is made, so nothing in it can be cancelled.
    // SAFETY: the handle is NULL or valid.
    let context = |s: &ns_server| s.context.pointer.load(Ordering::Acquire);
    contain(ptr::null_mut(), || unsafe { server.as_ref() }.map_or(ptr::null_mut(), context))
}

/// Keeps a pointer of the program's with the server. `drop` (NULL: none) frees it:
/// last in `ns_server_free`, or when it is replaced, or immediately if this fails.
///
/// Returns: 0, NS_ERR_INVALID (NULL server) or NS_ERR_STATE (started).
/// [setup] [blocks]
#[no_mangle]
pub unsafe extern "C" fn ns_server_set_context(
    server: *mut ns_server,
    context: *mut c_void,
    drop: ns_drop_fn,
) -> ns_status {
    let context = UserData::new(context, drop);
    status(|| {
        let this = unsafe { server_of(server) }?;
        if this.server.state() != State::New {
            return Err(Error::from(Status::State));
        }
        this.context.pointer.store(context.pointer, Ordering::Release);
        let _former = lock(&this.context.owner).replace(context);
        Ok(())
    })
}
