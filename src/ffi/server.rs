//! `ns_server`: its life, its addresses and its context.

use std::ffi::{c_char, c_void};
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use super::callbacks::Callback;
use super::config::{ns_config, InUse};
use super::error::ns_error;
use super::handler::CHandler;
use super::support::{give_text, guard, lock, null, object, reporting, status, text, UserData};
use super::types::{ns_drop_fn, ns_handler_fn, ns_status, NS_START_BACKGROUND, NS_STATE_NEW};
use super::version::silence_panics;
use crate::{Error, Server, State, Status};

/// A server. The pointer is valid until `ns_server_free` succeeded, in
/// callbacks too, where it is the one that `ns_server_new` returned.
pub struct ns_server {
    // Dropped in this order: connections and the handler, then the config's
    // callbacks, then the context.
    pub(super) server: Server,
    config: InUse,
    context: Context,
    calls: Arc<Calls>,
}

/// The program's own pointer: read without a lock in every callback.
struct Context {
    pointer: AtomicPtr<c_void>,
    owner: Mutex<Option<UserData>>,
}

/// Counts the calls that block inside a server, so that `ns_server_free` on
/// another thread lets them return before the memory goes.
#[derive(Default)]
struct Calls {
    count: Mutex<usize>,
    none: Condvar,
}

impl Calls {
    fn enter(self: &Arc<Calls>) -> Inside {
        *lock(&self.count) += 1;
        Inside(self.clone())
    }

    fn wait_until_none(&self) {
        let count = lock(&self.count);
        let none = self.none.wait_while(count, |count| *count > 0);
        drop(none.unwrap_or_else(PoisonError::into_inner));
    }
}

struct Inside(Arc<Calls>);

impl Drop for Inside {
    fn drop(&mut self) {
        *lock(&self.0.count) -= 1;
        self.0.none.notify_all();
    }
}

/// The server behind a handle.
///
/// # Safety
/// `server` is NULL or valid.
pub(super) unsafe fn alive<'a>(server: *const ns_server) -> Result<&'a ns_server, Error> {
    // SAFETY: the caller's promise.
    unsafe { object(server, "server") }
}

/// What a server says of itself, or `none` for NULL.
unsafe fn ask<T: Copy>(server: *const ns_server, none: T, what: impl FnOnce(&ns_server) -> T) -> T {
    // SAFETY: the caller's contract.
    guard(none, || unsafe { alive(server) }.map_or(none, what))
}

/// A new server that listens nowhere yet.
///
/// `service` says where: "5000", "http", "0" or NULL (any free port),
/// "127.0.0.1:5000", "[::1]:5000". A port is digits alone, at most 65535, or a
/// name of services(5), which has a letter. `handler` serves the connections; `drop`
/// (NULL: none) frees its `user_data` when the server goes, and at once if this
/// fails. `config` is NULL for the defaults; the server takes its own share of
/// it. Returns the server, the caller's to free (`ns_server_free`); NULL on
/// failure: NS_ERR_INVALID (an argument, or what a setter of the config
/// refused), NS_ERR_STATE (a setter of the TLS object came too late),
/// NS_ERR_CERTIFICATE (TLS without a certificate, or what a setter of the TLS
/// object refused), NS_ERR_TLS, NS_ERR_IO (no descriptor left). `err` may be NULL; else `*err` is
/// NULL or an error that is the caller's to free. [any] [blocks]
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
        // SAFETY: the caller's contract.
        let service = if service.is_null() { "0" } else { unsafe { text(service, "service") }? };
        let config = if config.is_null() {
            ns_config::new(None)
        } else {
            // SAFETY: made by Arc::into_raw; this adds a share for the server.
            unsafe {
                Arc::increment_strong_count(config);
                Arc::from_raw(config)
            }
        };
        let (config, settings, callbacks) = InUse::take(config)?;
        // The handler knows the server's address before the server is there.
        let room = Box::into_raw(Box::new(MaybeUninit::<ns_server>::uninit()));
        let place = room.cast::<ns_server>();
        let server = CHandler::new(place, handler, callbacks)
            .ok_or_else(|| null("handler"))
            .and_then(|handler| Server::with_config(service, handler, settings));
        let server = match server {
            Ok(server) => server,
            Err(error) => {
                // SAFETY: made above; a MaybeUninit drops nothing.
                let _ = unsafe { Box::from_raw(room) };
                return Err(error);
            }
        };
        let context = Context { pointer: AtomicPtr::default(), owner: Mutex::new(None) };
        // SAFETY: the room that was just made for it.
        unsafe { place.write(ns_server { server, config, context, calls: Arc::default() }) };
        Ok(place)
    };
    // SAFETY: the caller's contract.
    unsafe { reporting(err, |_| ptr::null_mut(), body) }
}

/// Starts: binds, makes the threads, runs `on_start`, accepts. Returns when the
/// server has stopped, or with NS_START_BACKGROUND in `flags` (else 0) as soon
/// as it accepts: its ports are final then. 0, or NS_ERR_INVALID, NS_ERR_STATE
/// (started before), NS_ERR_ADDRESS, NS_ERR_LISTEN, NS_ERR_THREAD, NS_ERR_HOOK,
/// NS_ERR_IO; a failed start leaves nothing behind and may be tried again. In
/// non-blocking mode with one loop and without NS_START_BACKGROUND the callbacks
/// run on the calling thread, where the program's signals may come too.
/// `err` may be NULL; else `*err` is NULL or an error that is the caller's to
/// free. [any] [blocks]
#[no_mangle]
pub unsafe extern "C" fn ns_server_start(
    server: *mut ns_server,
    flags: u32,
    err: *mut *mut ns_error,
) -> ns_status {
    let body = || {
        // SAFETY: the caller's contract.
        let this = unsafe { alive(server) }?;
        let _inside = this.calls.enter();
        match flags {
            0 => this.server.start(),
            NS_START_BACKGROUND => this.server.start_background(),
            _ => Err(Error::new(Status::Invalid, format!("unknown flags {flags:#x}"))),
        }?;
        Ok(Status::Ok.code())
    };
    // SAFETY: the caller's contract.
    unsafe { reporting(err, Status::code, body) }
}

/// Stops and returns when the server has stopped: no handler starts any more,
/// running ones may finish and queued bytes leave until the config's
/// `drain_timeout`, then what is left is cut, for as long as that ends
/// connections. `on_drain` is still called, and may send more; `on_wake` and
/// `on_timeout` are not. 0, also if it was never started or has stopped;
/// NS_ERR_TIMEOUT if a handler or `on_start` does not return within 80 ms of the
/// cut (it goes on stopping). In a callback it only asks for the stop and returns
/// 0 immediately. [any] [blocks]
#[no_mangle]
pub unsafe extern "C" fn ns_server_stop(server: *mut ns_server) -> ns_status {
    status(|| {
        // SAFETY: the caller's contract.
        let this = unsafe { alive(server) }?;
        let _inside = this.calls.enter();
        this.server.stop()
    })
}

/// `ns_server_stop` with another drain deadline: 0 to 2^31 - 1 milliseconds,
/// else NS_ERR_INVALID. [any] [blocks]
#[no_mangle]
pub unsafe extern "C" fn ns_server_stop_within(server: *mut ns_server, ms: i64) -> ns_status {
    status(|| {
        // SAFETY: the caller's contract.
        let this = unsafe { alive(server) }?;
        let ms = u64::try_from(ms).ok().filter(|ms| *ms <= i32::MAX as u64);
        let within = ms.map(Duration::from_millis).ok_or(Status::Invalid)?;
        let _inside = this.calls.enter();
        this.server.stop_within(within)
    })
}

/// Asks for the stop and returns at once; errno is kept. Before the start it is
/// remembered: the start then returns 0 at once and runs no hook. 0, or
/// NS_ERR_INVALID. [any] [signal]
#[no_mangle]
pub unsafe extern "C" fn ns_server_request_stop(server: *mut ns_server) -> ns_status {
    // No error object here: a signal handler must not allocate.
    guard(Status::Panic.code(), || {
        // SAFETY: the caller's contract.
        let Some(this) = (unsafe { server.as_ref() }) else { return Status::Invalid.code() };
        this.server.request_stop();
        Status::Ok.code()
    })
}

/// Returns 0 when the server has stopped, by whichever way, or was never
/// started; NS_ERR_TIMEOUT after `timeout_ms` milliseconds (-1: never);
/// NS_ERR_DEADLOCK in a callback; NS_ERR_INVALID for NULL and below -1. [any] [blocks]
#[no_mangle]
pub unsafe extern "C" fn ns_server_wait(server: *mut ns_server, timeout_ms: i64) -> ns_status {
    status(|| {
        // SAFETY: the caller's contract.
        let this = unsafe { alive(server) }?;
        let timeout = match timeout_ms {
            -1 => None,
            ms => Some(u64::try_from(ms).map(Duration::from_millis).map_err(|_| Status::Invalid)?),
        };
        let _inside = this.calls.enter();
        this.server.wait(timeout)
    })
}

/// Stops as `ns_server_stop`, then frees: connection data, callbacks, context,
/// in this order, by their drop functions. 0, also for NULL; NS_ERR_BUSY in a
/// callback, NS_ERR_TIMEOUT if a handler does not return: then nothing is freed
/// and it may be called again. Other threads may meanwhile be in
/// `ns_server_start`, `_stop` and `_wait`, which return first, and in no other
/// call. [any] [blocks]
#[no_mangle]
pub unsafe extern "C" fn ns_server_free(server: *mut ns_server) -> ns_status {
    if server.is_null() {
        return Status::Ok.code();
    }
    status(|| {
        // SAFETY: the caller's contract.
        let this = unsafe { alive(server) }?;
        if this.server.in_callback() {
            return Err(Error::from(Status::Busy));
        }
        this.server.stop()?;
        this.calls.wait_until_none();
        // SAFETY: a Box of `ns_server_new`, and nobody is inside any more.
        drop(unsafe { Box::from_raw(server) });
        Ok(())
    })
}

/// 1 before the start and after the stop, also for NULL; else 0. [any]
#[no_mangle]
pub unsafe extern "C" fn ns_server_is_stopped(server: *const ns_server) -> i32 {
    // SAFETY: the caller's contract.
    unsafe { ask(server, 1, |s| s.server.is_stopped().into()) }
}

/// An `NS_STATE_...`; NS_STATE_NEW for NULL. [any]
#[no_mangle]
pub unsafe extern "C" fn ns_server_state(server: *const ns_server) -> i32 {
    // SAFETY: the caller's contract.
    unsafe { ask(server, NS_STATE_NEW, |s| s.server.state() as i32) }
}

/// The port it listens on, in host byte order; 0 before the start. [any]
#[no_mangle]
pub unsafe extern "C" fn ns_server_port(server: *const ns_server) -> u16 {
    // SAFETY: the caller's contract.
    unsafe { ask(server, 0, |s| s.server.port()) }
}

/// The shutdown port, in host byte order; 0 before the start and without one. [any]
#[no_mangle]
pub unsafe extern "C" fn ns_server_shutdown_port(server: *const ns_server) -> u16 {
    // SAFETY: the caller's contract.
    unsafe { ask(server, 0, |s| s.server.shutdown_port()) }
}

/// The address it listens on as text, "0.0.0.0:5000", several joined by ", ";
/// "" before the start. As `snprintf`: writes at most `len` bytes, NUL included,
/// and returns the length of the whole text without it. [any]
#[no_mangle]
pub unsafe extern "C" fn ns_server_address(
    server: *const ns_server,
    buf: *mut c_char,
    len: usize,
) -> usize {
    guard(0, || {
        // SAFETY: the caller's contract.
        let address = unsafe { alive(server) }.map_or(String::new(), |s| s.server.address());
        // SAFETY: the caller's contract.
        unsafe { give_text(&address, buf, len) }
    })
}

/// The config it was made with (one with the defaults if that was NULL),
/// borrowed: not to be freed, valid as long as the server. NULL for NULL. [any]
#[no_mangle]
pub unsafe extern "C" fn ns_server_config(server: *const ns_server) -> *const ns_config {
    // SAFETY: the caller's contract.
    unsafe { ask(server, ptr::null(), |s| Arc::as_ptr(&s.config)) }
}

/// The pointer of `ns_server_set_context`; NULL if there is none. [any]
#[no_mangle]
pub unsafe extern "C" fn ns_server_context(server: *const ns_server) -> *mut c_void {
    // SAFETY: the caller's contract.
    unsafe { ask(server, ptr::null_mut(), |s| s.context.pointer.load(Ordering::Acquire)) }
}

/// Keeps a pointer of the program's with the server; `drop` (NULL: none) frees
/// it last in `ns_server_free`, when it is replaced, and at once if this fails.
/// 0, NS_ERR_INVALID (NULL server), NS_ERR_STATE (started). [setup] [blocks]
#[no_mangle]
pub unsafe extern "C" fn ns_server_set_context(
    server: *mut ns_server,
    context: *mut c_void,
    drop: ns_drop_fn,
) -> ns_status {
    let context = UserData::new(context, drop);
    status(|| {
        // SAFETY: the caller's contract.
        let this = unsafe { alive(server) }?;
        if this.server.state() != State::New {
            return Err(Error::from(Status::State));
        }
        this.context.pointer.store(context.pointer, Ordering::Release);
        let _former = lock(&this.context.owner).replace(context);
        Ok(())
    })
}
