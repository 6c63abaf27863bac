//! Handles, callback types and constants.

use std::ffi::c_void;

use super::error::ns_error;
use super::server::ns_server;

/// `ns_server_start`: return as soon as the server accepts, instead of when it
/// has stopped.
pub const NS_START_BACKGROUND: u32 = 1;

/// `ns_socket_shutdown`: no more reading.
pub const NS_SHUT_RD: i32 = 0;
/// `ns_socket_shutdown`: no more writing; the peer sees the end of the stream
/// after what was already sent.
pub const NS_SHUT_WR: i32 = 1;
/// `ns_socket_shutdown`: neither.
pub const NS_SHUT_RDWR: i32 = 2;

/// The server was made and not yet started.
pub const NS_STATE_NEW: i32 = 0;
/// `ns_server_start` is under way.
pub const NS_STATE_STARTING: i32 = 1;
/// The server accepts connections.
pub const NS_STATE_RUNNING: i32 = 2;
/// A stop was asked for and is under way.
pub const NS_STATE_STOPPING: i32 = 3;
/// The server has stopped: no thread and no descriptor of it is left.
pub const NS_STATE_STOPPED: i32 = 4;

/// The program closed the connection.
pub const NS_CLOSE_HANDLER: i32 = 1;
/// The program closed it after the end of the peer's stream.
pub const NS_CLOSE_PEER: i32 = 2;
/// The peer reset it, or the transport failed.
pub const NS_CLOSE_RESET: i32 = 3;
/// `idle_timeout` passed.
pub const NS_CLOSE_IDLE: i32 = 4;
/// Its one-shot timer fired and there is no `on_timeout`.
pub const NS_CLOSE_TIMER: i32 = 5;
/// Queued bytes made no progress for `write_timeout`.
pub const NS_CLOSE_WRITE_TIMEOUT: i32 = 6;
/// The handler failed.
pub const NS_CLOSE_ERROR: i32 = 7;
/// The program aborted it.
pub const NS_CLOSE_ABORT: i32 = 8;
/// A stop closed it; nothing that was sent is lost.
pub const NS_CLOSE_STOP: i32 = 9;
/// A stop ended it, or its peer did not acknowledge in time all that was sent:
/// something may be lost.
pub const NS_CLOSE_CUT: i32 = 10;
/// No worker became free in time.
pub const NS_CLOSE_REJECTED: i32 = 11;
/// Its TLS handshake failed.
pub const NS_CLOSE_HANDSHAKE: i32 = 12;

/// 0 (`NS_OK`) for success, else one of the negative `NS_ERR_...`.
pub type ns_status = i32;

/// Names a connection: never 0, never given to another connection, safe to
/// keep for ever and to use from any thread.
pub type ns_conn_id = u64;

/// A connection. Borrowed in callbacks: valid there only, and only for the
/// connection that the callback is about. Owned when it comes from `ns_detach`:
/// valid until `ns_socket_free`, `ns_socket_release_fd` or `ns_attach`.
pub struct ns_socket {
    _opaque: [u8; 0],
}

/// Frees `user_data`. Runs exactly once, after the last use, also when the
/// call that it was given to fails. The thread is any of the library's or that
/// of a call tagged `[blocks]`; it must not call the library with the object
/// that is going away.
pub type ns_drop_fn = Option<unsafe extern "C-unwind" fn(user_data: *mut c_void)>;

/// Serves a connection. Blocking mode: once per connection, may block, the
/// socket is closed when it returns. Non-blocking mode: whenever the socket is
/// readable, must not block, closes the socket itself. Returns 0 or more for
/// success; a negative number for failure (your own, or a status), on which the
/// exception handler is called. `NS_ERR_WOULD_BLOCK` is no failure. What it
/// leaves unread brings it back, in non-blocking mode; one that reads nothing is
/// called again only when more arrives.
pub type ns_handler_fn = Option<
    unsafe extern "C-unwind" fn(
        server: *mut ns_server,
        socket: *mut ns_socket,
        user_data: *mut c_void,
    ) -> i32,
>;

/// Told of what failed: a handler, a refused connection, an accept, a listener
/// that was lost, a TLS handshake (nothing can be sent or received then).
/// `socket` is NULL where there is none. Unless the connection has ended it is
/// still open, so this can send; to a refused client it has 250 ms, but over TLS
/// there is no session to send by. `error` is borrowed: valid during the call, not
/// to be freed. In non-blocking mode the socket stays open unless this closes it,
/// or fails itself: a negative return but NS_ERR_WOULD_BLOCK is counted and
/// closes.
pub type ns_exception_fn = Option<
    unsafe extern "C-unwind" fn(
        server: *mut ns_server,
        socket: *mut ns_socket,
        error: *const ns_error,
        user_data: *mut c_void,
    ) -> i32,
>;

/// Serves a connection of the shutdown port, in blocking mode. Any number but
/// 0 stops the server, a negative one too: here it is an answer.
pub type ns_shutdown_fn = Option<
    unsafe extern "C-unwind" fn(
        server: *mut ns_server,
        socket: *mut ns_socket,
        user_data: *mut c_void,
    ) -> i32,
>;

/// Runs once in `ns_server_start`, when the ports are known and before
/// anything is accepted. A negative return makes the start fail.
pub type ns_start_fn =
    Option<unsafe extern "C-unwind" fn(server: *mut ns_server, user_data: *mut c_void) -> i32>;

/// Runs once, after the last connection has gone, whatever stopped the server.
pub type ns_stop_fn =
    Option<unsafe extern "C-unwind" fn(server: *mut ns_server, user_data: *mut c_void)>;

/// A connection was accepted, and over TLS its handshake is over. A negative
/// return closes it immediately, after the exception handler; NS_ERR_WOULD_BLOCK
/// is no failure.
pub type ns_open_fn = Option<
    unsafe extern "C-unwind" fn(
        server: *mut ns_server,
        socket: *mut ns_socket,
        user_data: *mut c_void,
    ) -> i32,
>;

/// A connection ended, for an `NS_CLOSE_...` reason: the last callback of each
/// one for which `on_open` was due, unless it was detached.
pub type ns_close_fn = Option<
    unsafe extern "C-unwind" fn(
        server: *mut ns_server,
        socket: *mut ns_socket,
        reason: i32,
        user_data: *mut c_void,
    ),
>;

/// `on_drain`, `on_timeout`, `on_wake`: something happened to a connection.
pub type ns_event_fn = Option<
    unsafe extern "C-unwind" fn(
        server: *mut ns_server,
        socket: *mut ns_socket,
        user_data: *mut c_void,
    ),
>;

/// Called by `ns_server_foreach` for each id; nonzero ends the walk.
pub type ns_foreach_fn =
    Option<unsafe extern "C-unwind" fn(id: ns_conn_id, user_data: *mut c_void) -> i32>;

/// The numbers are the core's; a mismatch does not compile.
const _: () = {
    use crate::{CloseReason, State};
    assert!(NS_STATE_NEW == State::New as i32);
    assert!(NS_STATE_STARTING == State::Starting as i32);
    assert!(NS_STATE_RUNNING == State::Running as i32);
    assert!(NS_STATE_STOPPING == State::Stopping as i32);
    assert!(NS_STATE_STOPPED == State::Stopped as i32);
    assert!(NS_CLOSE_HANDLER == CloseReason::Handler as i32);
    assert!(NS_CLOSE_PEER == CloseReason::Peer as i32);
    assert!(NS_CLOSE_RESET == CloseReason::Reset as i32);
    assert!(NS_CLOSE_IDLE == CloseReason::Idle as i32);
    assert!(NS_CLOSE_TIMER == CloseReason::Timer as i32);
    assert!(NS_CLOSE_WRITE_TIMEOUT == CloseReason::WriteTimeout as i32);
    assert!(NS_CLOSE_ERROR == CloseReason::Error as i32);
    assert!(NS_CLOSE_ABORT == CloseReason::Abort as i32);
    assert!(NS_CLOSE_STOP == CloseReason::Stop as i32);
    assert!(NS_CLOSE_CUT == CloseReason::Cut as i32);
    assert!(NS_CLOSE_REJECTED == CloseReason::Rejected as i32);
    assert!(NS_CLOSE_HANDSHAKE == CloseReason::Handshake as i32);
    assert!(CloseReason::COUNT as i32 == NS_CLOSE_HANDSHAKE + 1);
};
