//! The callbacks of a config: their types, and a setter each.

// SAFETY of the blocks without a comment: the caller's contract, see `mod.rs`.
#![allow(clippy::undocumented_unsafe_blocks)]

use std::ffi::c_void;
use std::mem;

use super::config::ns_config;
use super::error::{ns_error, ns_status};
use super::handles::{ns_socket, object};
use super::logger::LogFn;
use super::server::ns_server;
use super::support::status;
use super::user_data::{ns_drop_fn, Callback, UserData};
use crate::{LogLevel, ThreadKind};

#[derive(Clone, Default)]
pub(super) struct Callbacks {
    pub shutdown: Callback<ns_shutdown_fn>,
    pub exception: Callback<ns_exception_fn>,
    pub start: Callback<ns_start_fn>,
    pub stop: Callback<ns_stop_fn>,
    pub quiesce: Callback<ns_stop_fn>,
    pub thread_start: Callback<ns_thread_start_fn>,
    pub thread_stop: Callback<ns_thread_stop_fn>,
    pub open: Callback<ns_open_fn>,
    pub close: Callback<ns_close_fn>,
    pub drain: Callback<ns_event_fn>,
    pub timeout: Callback<ns_event_fn>,
    pub wake: Callback<ns_event_fn>,
    pub logger: Callback<Option<(LogLevel, LogFn)>>,
}

/// Sets or unsets one callback. The former one is dropped without the lock; so
/// is the new user data where there is no function or the config cannot change.
///
/// # Safety
/// The caller's contract.
pub(super) unsafe fn set<F>(
    config: *mut ns_config,
    place: fn(&mut Callbacks) -> &mut Callback<Option<F>>,
    function: Option<F>,
    user_data: *mut c_void,
    drop: ns_drop_fn,
) -> ns_status {
    let user_data = UserData::new(user_data, drop);
    status(|| {
        let callback = match function {
            Some(_) => Callback::new(function, user_data),
            None => Callback::default(),
        };
        let config = unsafe { object(config, "config") }?;
        let _former =
            config.change(|inner| Ok(mem::replace(place(&mut inner.callbacks), callback)))?;
        Ok::<_, crate::Error>(())
    })
}

/// Reports a failure: of a handler, a refused connection, an accept, a listener
/// that was lost; or of a TLS handshake, a PROXY header or a connect (then nothing
/// can be sent or received). Connections beyond a limit of their address are
/// reported together, once a second, without a socket.
///
/// `socket` is NULL where there is none. Unless the connection has ended it is
/// still open, and this function can send on it. It has 250 ms for a refused
/// client; over TLS it cannot send to one, because there is no session yet.
/// `error` is borrowed: valid during the call, not to be freed. In non-blocking
/// mode the socket stays open unless this function closes it or fails.
///
/// Returns: 0 or more for success. Any negative number but NS_ERR_WOULD_BLOCK is
/// a failure, which is counted, and which closes the connection.
pub type ns_exception_fn = Option<
    unsafe extern "C-unwind" fn(
        server: *mut ns_server,
        socket: *mut ns_socket,
        error: *const ns_error,
        user_data: *mut c_void,
    ) -> i32,
>;

/// Sets the exception handler, which the library calls on each failure. Without
/// one the library closes a connection whose handler fails.
///
/// For all callbacks: NULL for `function` unsets the callback. `drop` (NULL:
/// none) frees `user_data` after the last call; or immediately if this fails or
/// unsets.
///
/// Returns: 0, NS_ERR_INVALID (NULL config) or NS_ERR_STATE (in use by a server).
/// [setup] [blocks]
#[no_mangle]
pub unsafe extern "C" fn ns_config_set_exception_handler(
    config: *mut ns_config,
    function: ns_exception_fn,
    user_data: *mut c_void,
    drop: ns_drop_fn,
) -> ns_status {
    unsafe { set(config, |c| &mut c.exception, function, user_data, drop) }
}

/// Serves a connection of the shutdown port, in blocking mode. A hosted server
/// calls it when bytes or the end have come, and once more after 5 s; there
/// `ns_socket_recv` does not wait.
///
/// Returns: 0 to go on. Any other number stops the server, a negative one too:
/// here it is not a failure. On a hosted server NS_ERR_WOULD_BLOCK lets the library
/// call it again, with the next bytes.
pub type ns_shutdown_fn = Option<
    unsafe extern "C-unwind" fn(
        server: *mut ns_server,
        socket: *mut ns_socket,
        user_data: *mut c_void,
    ) -> i32,
>;

/// Sets the handler of the shutdown port. It serves one peer after another; peers
/// that have sent something come first. Each has 5 s, or 500 ms if it is silent and
/// another one waits. A hosted server serves 64 at a time, 5 s each. Without a
/// handler every connection to the port stops the server.
///
/// Returns: as `ns_config_set_exception_handler`.
/// [setup] [blocks]
#[no_mangle]
pub unsafe extern "C" fn ns_config_set_shutdown_handler(
    config: *mut ns_config,
    function: ns_shutdown_fn,
    user_data: *mut c_void,
    drop: ns_drop_fn,
) -> ns_status {
    unsafe { set(config, |c| &mut c.shutdown, function, user_data, drop) }
}

/// Runs once in `ns_server_start`, when the ports are known and before the server
/// accepts anything.
///
/// Returns: 0 or more for success; with a negative number the start fails.
pub type ns_start_fn =
    Option<unsafe extern "C-unwind" fn(server: *mut ns_server, user_data: *mut c_void) -> i32>;

/// Sets the hook that runs before the server accepts, on the thread that starts
/// it. If there is one event loop, it runs on that thread afterwards: so the hook
/// cannot wait for anything that the loop does.
///
/// Returns: as `ns_config_set_exception_handler`.
/// [setup] [blocks]
#[no_mangle]
pub unsafe extern "C" fn ns_config_set_on_start(
    config: *mut ns_config,
    function: ns_start_fn,
    user_data: *mut c_void,
    drop: ns_drop_fn,
) -> ns_status {
    unsafe { set(config, |c| &mut c.start, function, user_data, drop) }
}

/// Runs once, after the last connection has ended, whatever stopped the server.
pub type ns_stop_fn =
    Option<unsafe extern "C-unwind" fn(server: *mut ns_server, user_data: *mut c_void)>;

/// Sets the hook that runs when the server has stopped.
///
/// Returns: as `ns_config_set_exception_handler`.
/// [setup] [blocks]
#[no_mangle]
pub unsafe extern "C" fn ns_config_set_on_stop(
    config: *mut ns_config,
    function: ns_stop_fn,
    user_data: *mut c_void,
    drop: ns_drop_fn,
) -> ns_status {
    unsafe { set(config, |c| &mut c.stop, function, user_data, drop) }
}

/// Sets the hook that runs once after the server has stopped accepting
/// (`ns_server_quiesce`), before that call returns; not where a stop comes first. It
/// runs on the thread of the first loop; in blocking mode on the control thread.
///
/// Returns: as `ns_config_set_exception_handler`.
/// [setup] [blocks]
#[no_mangle]
pub unsafe extern "C" fn ns_config_set_on_quiesce(
    config: *mut ns_config,
    function: ns_stop_fn,
    user_data: *mut c_void,
    drop: ns_drop_fn,
) -> ns_status {
    unsafe { set(config, |c| &mut c.quiesce, function, user_data, drop) }
}

/// `on_thread_start`: an event loop. Its number is that of its loop.
pub const NS_THREAD_LOOP: i32 = 0;
/// `on_thread_start`: a worker. Its number counts the workers.
pub const NS_THREAD_WORKER: i32 = 1;
/// `on_thread_start`: the thread that stops a server in the background. A server
/// with one loop has none.
pub const NS_THREAD_CONTROL: i32 = 2;
/// `on_thread_start`: the thread of the shutdown port.
pub const NS_THREAD_SHUTDOWN: i32 = 3;

/// The numbers are the core's; a mismatch does not compile.
const _: () = {
    assert!(NS_THREAD_LOOP == ThreadKind::Loop as i32);
    assert!(NS_THREAD_WORKER == ThreadKind::Worker as i32);
    assert!(NS_THREAD_CONTROL == ThreadKind::Control as i32);
    assert!(NS_THREAD_SHUTDOWN == ThreadKind::Shutdown as i32);
};

/// Runs first on each thread that the library makes; `kind` is an
/// `NS_THREAD_...`, and `number` counts the threads of a kind from 0.
///
/// Returns: 0 or more for success; with a negative number the start fails.
pub type ns_thread_start_fn = Option<
    unsafe extern "C-unwind" fn(
        server: *mut ns_server,
        kind: i32,
        number: u32,
        user_data: *mut c_void,
    ) -> i32,
>;

/// Sets the hook that runs first on each thread that the library makes, before
/// `on_start`, on several threads at the same time. It never runs on a thread of
/// the program's own, such as one that calls `ns_server_start` and becomes a loop.
/// The server has no ports yet, and nothing can be attached to it.
///
/// Returns: as `ns_config_set_exception_handler`.
/// [setup] [blocks]
#[no_mangle]
pub unsafe extern "C" fn ns_config_set_on_thread_start(
    config: *mut ns_config,
    function: ns_thread_start_fn,
    user_data: *mut c_void,
    drop: ns_drop_fn,
) -> ns_status {
    unsafe { set(config, |c| &mut c.thread_start, function, user_data, drop) }
}

/// Runs last on each thread that the library makes, with the arguments of its
/// `on_thread_start`.
pub type ns_thread_stop_fn = Option<
    unsafe extern "C-unwind" fn(
        server: *mut ns_server,
        kind: i32,
        number: u32,
        user_data: *mut c_void,
    ),
>;

/// Sets the hook that runs last on each thread that the library makes: once for
/// each `on_thread_start`, also for one that failed, and before the state is
/// NS_STATE_STOPPED or a start that fails returns.
///
/// Returns: as `ns_config_set_exception_handler`.
/// [setup] [blocks]
#[no_mangle]
pub unsafe extern "C" fn ns_config_set_on_thread_stop(
    config: *mut ns_config,
    function: ns_thread_stop_fn,
    user_data: *mut c_void,
    drop: ns_drop_fn,
) -> ns_status {
    unsafe { set(config, |c| &mut c.thread_stop, function, user_data, drop) }
}

/// Reports a new connection: it was accepted, and over TLS its handshake is over.
///
/// Returns: 0 or more for success; NS_ERR_WOULD_BLOCK is no failure.
/// NS_ERR_REJECTED refuses the connection: the library closes it, after what this
/// has sent. With another negative number the library calls the exception handler
/// and closes the connection immediately.
pub type ns_open_fn = Option<
    unsafe extern "C-unwind" fn(
        server: *mut ns_server,
        socket: *mut ns_socket,
        user_data: *mut c_void,
    ) -> i32,
>;

/// Sets the callback that runs for each new connection, before its handler.
///
/// Returns: as `ns_config_set_exception_handler`.
/// [setup] [blocks]
#[no_mangle]
pub unsafe extern "C" fn ns_config_set_on_open(
    config: *mut ns_config,
    function: ns_open_fn,
    user_data: *mut c_void,
    drop: ns_drop_fn,
) -> ns_status {
    unsafe { set(config, |c| &mut c.open, function, user_data, drop) }
}

/// Reports the end of a connection; `reason` is an `NS_CLOSE_...`. It is the last
/// callback of each connection for which `on_open` was due, except for a
/// connection that was detached.
pub type ns_close_fn = Option<
    unsafe extern "C-unwind" fn(
        server: *mut ns_server,
        socket: *mut ns_socket,
        reason: i32,
        user_data: *mut c_void,
    ),
>;

/// Sets the callback that runs last for each connection.
///
/// Returns: as `ns_config_set_exception_handler`.
/// [setup] [blocks]
#[no_mangle]
pub unsafe extern "C" fn ns_config_set_on_close(
    config: *mut ns_config,
    function: ns_close_fn,
    user_data: *mut c_void,
    drop: ns_drop_fn,
) -> ns_status {
    unsafe { set(config, |c| &mut c.close, function, user_data, drop) }
}

/// Reports an event of a connection: `on_drain`, `on_timeout`, `on_wake`.
///
/// Returns: as the handler (`ns_handler_fn`).
pub type ns_event_fn = Option<
    unsafe extern "C-unwind" fn(
        server: *mut ns_server,
        socket: *mut ns_socket,
        user_data: *mut c_void,
    ) -> i32,
>;

/// Non-blocking mode: sets the callback that runs when all queued bytes of a
/// connection have left, or when no more than `low_water_mark` of them are left
/// (`ns_config_set_low_water_mark`). It runs during a stop too: what it then sends is
/// the rest of a reply, and the library closes the connection when it sends no more.
///
/// Returns: as `ns_config_set_exception_handler`.
/// [setup] [blocks]
#[no_mangle]
pub unsafe extern "C" fn ns_config_set_on_drain(
    config: *mut ns_config,
    function: ns_event_fn,
    user_data: *mut c_void,
    drop: ns_drop_fn,
) -> ns_status {
    unsafe { set(config, |c| &mut c.drain, function, user_data, drop) }
}

/// Non-blocking mode: sets the callback that runs when a connection's timer
/// fires. Without one the library closes the connection.
///
/// Returns: as `ns_config_set_exception_handler`.
/// [setup] [blocks]
#[no_mangle]
pub unsafe extern "C" fn ns_config_set_on_timeout(
    config: *mut ns_config,
    function: ns_event_fn,
    user_data: *mut c_void,
    drop: ns_drop_fn,
) -> ns_status {
    unsafe { set(config, |c| &mut c.timeout, function, user_data, drop) }
}

/// Non-blocking mode: sets the callback that runs on a connection's loop after
/// `ns_server_wake`.
///
/// Returns: as `ns_config_set_exception_handler`.
/// [setup] [blocks]
#[no_mangle]
pub unsafe extern "C" fn ns_config_set_on_wake(
    config: *mut ns_config,
    function: ns_event_fn,
    user_data: *mut c_void,
    drop: ns_drop_fn,
) -> ns_status {
    unsafe { set(config, |c| &mut c.wake, function, user_data, drop) }
}
