//! Replacing a server while it serves.

// SAFETY of the blocks without a comment: the caller's contract, see `mod.rs`.
#![allow(clippy::undocumented_unsafe_blocks)]

use super::error::ns_status;
use super::handles::{get, server_of};
use super::server::{ns_server, optional_wait};
use super::support::{counted, guard, status};
use crate::{Error, Status};

/// Stops accepting for good, and returns when the listening descriptors are closed
/// and `on_quiesce` has returned.
///
/// Before, the server takes what waits in the kernel's backlog, also beyond
/// `max_connections`; but what waits at a socket that others have too ("fd:",
/// "systemd", or lent by `ns_server_listener_fd`) is left to them. Open and waiting
/// connections are served on, TLS handshakes too, and the shutdown port,
/// `ns_attach`, `ns_server_adopt` and `ns_server_connect` go on, until
/// `ns_server_stop`. While descriptors are used up the server tries for a second to
/// take the rest of the backlog; then the kernel resets it. A client that connects
/// just when an unshared TCP socket is closed may be reset too: lend the socket to a
/// successor, and none is.
///
/// In a callback this only requests it, and returns 0 immediately. A hosted server
/// does it in its turns: on the host's thread this call runs them, on another thread
/// it waits for them. A second call waits for the same quiesce.
///
/// Returns: 0, also in a stop and after it; NS_ERR_STATE before the start;
/// NS_ERR_TIMEOUT if a callback does not return, or nobody runs the turns of a hosted
/// server, within the drain timeout and a second (the quiesce goes on);
/// NS_ERR_INVALID for NULL.
/// [any] [blocks]
#[no_mangle]
pub unsafe extern "C" fn ns_server_quiesce(server: *mut ns_server) -> ns_status {
    status(|| {
        let this = unsafe { server_of(server) }?;
        let _call = this.calls.enter();
        this.server.quiesce()
    })
}

/// Requests a quiesce and returns immediately; it keeps errno.
///
/// Returns: 0, also in a stop and after it; NS_ERR_STATE before the start;
/// NS_ERR_INVALID for NULL.
/// [any] [signal]
#[no_mangle]
pub unsafe extern "C" fn ns_server_request_quiesce(server: *mut ns_server) -> ns_status {
    // No error object here: a signal handler must not allocate.
    guard(Status::Panic.code(), || {
        // SAFETY: the caller's contract: NULL or valid.
        let Some(this) = (unsafe { server.as_ref() }) else { return Status::Invalid.code() };
        this.server.request_quiesce().map_or_else(Status::code, |()| Status::Ok.code())
    })
}

/// Waits until no connection of the server is open or waiting, usually after
/// `ns_server_quiesce` and before `ns_server_stop`: a server that accepts may have
/// one again. A connection is open before `on_open` too (the PROXY header, the TLS
/// handshake, a connect), and in non-blocking mode while it lingers; one that is
/// being refused is waiting. Detached sockets and the shutdown port's peers do not
/// count. On a hosted server's own thread this call runs turns, on another one it
/// waits for them.
///
/// Returns: 0 when there is none, also before the start and after the stop;
/// NS_ERR_TIMEOUT after `timeout_ms` milliseconds (-1: wait forever);
/// NS_ERR_DEADLOCK in a callback; NS_ERR_INVALID for NULL and for a number below -1.
/// [any] [blocks]
#[no_mangle]
pub unsafe extern "C" fn ns_server_wait_idle(server: *mut ns_server, timeout_ms: i64) -> ns_status {
    status(|| {
        let this = unsafe { server_of(server) }?;
        let timeout = optional_wait(timeout_ms)?;
        let _call = this.calls.enter();
        this.server.wait_idle(timeout)
    })
}

/// Returns: 1 while the server accepts: from the start until a quiesce or a stop is
/// requested; else 0, also for NULL.
/// [any]
#[no_mangle]
pub unsafe extern "C" fn ns_server_is_ready(server: *const ns_server) -> i32 {
    unsafe { get(server, 0, |s| s.server.is_ready().into()) }
}

/// Lends a listening descriptor of the services: `number` is 0, 1, ... in the order
/// of the services; one with several addresses has a descriptor for each. Borrowed:
/// the server's, close-on-exec, not to be closed, valid until a quiesce or a stop
/// begins. You may give it to a successor, as a duplicate that execve(2) keeps
/// ("fd:N") or over a unix socket (SCM_RIGHTS, unix(7)).
///
/// From now on the server regards the socket as one that others have too: a quiesce
/// and a stop do not end it, and leave what waits in its backlog, and the file of a
/// "unix:" service, to them. Where nobody has it, because no successor has started,
/// the kernel then resets what waits. A blocking server needs
/// `ns_config_set_lend_listeners`.
///
/// Returns: the descriptor; NS_ERR_INVALID for NULL and for a number that no
/// descriptor has; NS_ERR_STATE before the start and once it is closed;
/// NS_ERR_UNSUPPORTED for a blocking server without that setting.
/// [any]
#[no_mangle]
pub unsafe extern "C" fn ns_server_listener_fd(server: *mut ns_server, number: u32) -> i32 {
    let fd = || {
        let server = unsafe { server_of(server) }?;
        Ok::<_, Error>(server.server.listener_fd(number as usize)? as usize)
    };
    counted(fd) as i32
}
