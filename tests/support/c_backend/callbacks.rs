//! The C callbacks: each calls the closure of the same name.

use super::{
    check, CloseReason, ConnId, Error, Hooks, LogLevel, Logger, Server, Socket, ThreadKind,
};
use net_server::ffi::*;
use std::ffi::{c_char, c_void, CStr};
use std::sync::Arc;

/// Gives a callback its share of the hooks. `release` takes it back.
pub(super) fn share(hooks: &Arc<Hooks>) -> *mut c_void {
    Arc::into_raw(hooks.clone()).cast_mut().cast()
}

pub(super) unsafe extern "C-unwind" fn release(hooks: *mut c_void) {
    // SAFETY: made by `share`; the library calls this once.
    drop(unsafe { Arc::from_raw(hooks.cast_const().cast::<Hooks>()) });
}

/// The hooks of a callback's user data.
unsafe fn hooks<'a>(user_data: *mut c_void) -> &'a Hooks {
    // SAFETY: made by `share` and not released before the last callback.
    unsafe { &*user_data.cast_const().cast() }
}

/// Registers the callbacks of the closures that were given; the handler goes to `ns_server_new`.
pub(super) fn register(config: *mut ns_config, hooks: &Arc<Hooks>) -> Result<(), Error> {
    macro_rules! register {
        ($($field:ident: $setter:ident($callback:ident);)*) => {
            $(if hooks.$field.is_some() {
                // SAFETY: the config is ours, the user data goes with its drop function.
                check(unsafe { $setter(config, Some($callback), share(hooks), Some(release)) })?;
            })*
        };
    }
    register! {
        on_start: ns_config_set_on_start(on_start);
        on_stop: ns_config_set_on_stop(on_stop);
        on_quiesce: ns_config_set_on_quiesce(on_quiesce);
        on_thread_start: ns_config_set_on_thread_start(on_thread_start);
        on_thread_stop: ns_config_set_on_thread_stop(on_thread_stop);
        on_open: ns_config_set_on_open(on_open);
        on_close: ns_config_set_on_close(on_close);
        drain: ns_config_set_on_drain(on_drain);
        timeout: ns_config_set_on_timeout(on_timeout);
        wake: ns_config_set_on_wake(on_wake);
        on_exception: ns_config_set_exception_handler(on_exception);
        on_shutdown: ns_config_set_shutdown_handler(on_shutdown);
    }
    Ok(())
}

/// Calls a closure with the views of a callback's arguments, and returns its status.
macro_rules! call {
    ($hook:ident, $user_data:ident, $server:ident, $socket:ident $(, $more:expr)*) => {{
        // SAFETY: the library calls with what it was given and with live objects.
        let (hooks, mut socket) = unsafe { (hooks($user_data), Socket::of($socket)) };
        let server = Server::lent($server);
        hooks.$hook.as_ref().expect("registered")(&server, &mut socket $(, $more)*)
    }};
}

fn status(socket: *mut ns_socket, result: Result<(), Error>) -> i32 {
    match result {
        Ok(()) => 0,
        // SAFETY: the socket is the callback's.
        Err(error) => unsafe { error.raised(socket) },
    }
}

pub(super) unsafe extern "C-unwind" fn handle(
    server: *mut ns_server,
    socket: *mut ns_socket,
    user_data: *mut c_void,
) -> i32 {
    let result = call!(handler, user_data, server, socket);
    status(socket, result)
}

unsafe extern "C-unwind" fn on_open(
    server: *mut ns_server,
    socket: *mut ns_socket,
    user_data: *mut c_void,
) -> i32 {
    let result = call!(on_open, user_data, server, socket);
    status(socket, result)
}

unsafe extern "C-unwind" fn on_close(
    server: *mut ns_server,
    socket: *mut ns_socket,
    reason: i32,
    user_data: *mut c_void,
) {
    let reason = CloseReason::from_code(reason).expect("a reason");
    call!(on_close, user_data, server, socket, reason);
}

unsafe extern "C-unwind" fn on_drain(
    server: *mut ns_server,
    socket: *mut ns_socket,
    user_data: *mut c_void,
) -> i32 {
    let result = call!(drain, user_data, server, socket);
    status(socket, result)
}

unsafe extern "C-unwind" fn on_timeout(
    server: *mut ns_server,
    socket: *mut ns_socket,
    user_data: *mut c_void,
) -> i32 {
    let result = call!(timeout, user_data, server, socket);
    status(socket, result)
}

unsafe extern "C-unwind" fn on_wake(
    server: *mut ns_server,
    socket: *mut ns_socket,
    user_data: *mut c_void,
) -> i32 {
    let result = call!(wake, user_data, server, socket);
    status(socket, result)
}

unsafe extern "C-unwind" fn on_shutdown(
    server: *mut ns_server,
    socket: *mut ns_socket,
    user_data: *mut c_void,
) -> i32 {
    // Every number but 0 is a yes: a failure must be said to be none.
    match call!(on_shutdown, user_data, server, socket) {
        Ok(stops) => stops.into(),
        Err(error) if error.status().code() == NS_ERR_WOULD_BLOCK => NS_ERR_WOULD_BLOCK,
        Err(_) => 0,
    }
}

unsafe extern "C-unwind" fn on_exception(
    server: *mut ns_server,
    socket: *mut ns_socket,
    error: *const ns_error,
    user_data: *mut c_void,
) -> i32 {
    // SAFETY: the library calls with what it was given and with live objects.
    let (hooks, error) = unsafe { (hooks(user_data), Error::lent(error)) };
    let mut view = Socket::of(socket);
    let view = (!socket.is_null()).then_some(&mut view);
    let handler = hooks.on_exception.as_ref().expect("registered");
    status(socket, handler(&Server::lent(server), view, &error))
}

unsafe extern "C-unwind" fn on_start(server: *mut ns_server, user_data: *mut c_void) -> i32 {
    // SAFETY: the library calls with what it was given.
    let hooks = unsafe { hooks(user_data) };
    let hook = hooks.on_start.as_ref().expect("registered");
    status(std::ptr::null_mut(), hook(&Server::lent(server)))
}

unsafe extern "C-unwind" fn on_stop(server: *mut ns_server, user_data: *mut c_void) {
    // SAFETY: the library calls with what it was given.
    let hooks = unsafe { hooks(user_data) };
    hooks.on_stop.as_ref().expect("registered")(&Server::lent(server));
}

unsafe extern "C-unwind" fn on_quiesce(server: *mut ns_server, user_data: *mut c_void) {
    // SAFETY: the library calls with what it was given.
    let hooks = unsafe { hooks(user_data) };
    hooks.on_quiesce.as_ref().expect("registered")(&Server::lent(server));
}

fn thread_kind(number: i32) -> ThreadKind {
    use ThreadKind::{Control, Loop, Shutdown, Worker};
    let kinds = [Loop, Worker, Control, Shutdown];
    kinds.into_iter().find(|kind| *kind as i32 == number).expect("a kind of thread")
}

unsafe extern "C-unwind" fn on_thread_start(
    server: *mut ns_server,
    kind: i32,
    number: u32,
    user_data: *mut c_void,
) -> i32 {
    // SAFETY: the library calls with what it was given.
    let hooks = unsafe { hooks(user_data) };
    let hook = hooks.on_thread_start.as_ref().expect("registered");
    let result = hook(&Server::lent(server), thread_kind(kind), number as usize);
    status(std::ptr::null_mut(), result)
}

unsafe extern "C-unwind" fn on_thread_stop(
    server: *mut ns_server,
    kind: i32,
    number: u32,
    user_data: *mut c_void,
) {
    // SAFETY: the library calls with what it was given.
    let hooks = unsafe { hooks(user_data) };
    let hook = hooks.on_thread_stop.as_ref().expect("registered");
    hook(&Server::lent(server), thread_kind(kind), number as usize);
}

pub(super) unsafe extern "C-unwind" fn log_line(
    level: i32,
    id: ns_conn_id,
    text: *const c_char,
    logger: *mut c_void,
) {
    // SAFETY: a logger in a box, until `release_logger`; the text lives during the call.
    let (logger, text) = unsafe { (&*logger.cast::<Logger>(), CStr::from_ptr(text)) };
    let level = LogLevel::from_code(level).expect("a level");
    logger.write(level, ConnId::from_u64(id), text.to_str().expect("UTF-8"));
}

pub(super) unsafe extern "C-unwind" fn release_logger(logger: *mut c_void) {
    // SAFETY: the box that was given; the library calls this once.
    drop(unsafe { Box::from_raw(logger.cast::<Logger>()) });
}
