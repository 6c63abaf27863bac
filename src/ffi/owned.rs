//! Sockets that the program owns: out of a server by `ns_detach`, and into one by
//! `ns_attach`.

// SAFETY of the blocks without a comment: the caller's contract, see `mod.rs`.
#![allow(clippy::undocumented_unsafe_blocks)]

use std::ffi::c_int;
use std::os::fd::IntoRawFd;
use std::ptr;

use super::error::ns_error;
use super::handles::{ns_conn_id, ns_socket, owned_handle, server_of, usable_conn, EmptyHandle};
use super::server::ns_server;
use super::support::{guard, null, with_err};
use crate::{Socket, Status};

/// Takes a connection out of a non-blocking server, in any of its callbacks but
/// `on_close`.
///
/// The new socket is an owned one in blocking mode. It has the user data, the
/// unread and the unsent bytes; a timer and a pause are gone. Any one thread at a
/// time can use it, immediately, also after the server was freed. It ends with
/// `ns_socket_free`, `ns_socket_release_fd` or `ns_attach`. Until the callback
/// returns, calls with `socket` itself return NS_ERR_DETACHED. `err`: see RESULTS.
///
/// Returns: the owned socket; NULL on failure: NS_ERR_NOT_NON_BLOCKING,
/// NS_ERR_NOT_IN_HANDLER, NS_ERR_DETACHED, NS_ERR_STATE (a TLS handshake is in
/// progress), NS_ERR_CLOSED (also where it was closed by id and that is not yet
/// done), NS_ERR_IO, NS_ERR_INVALID.
/// [handler]
#[no_mangle]
pub unsafe extern "C" fn ns_detach(
    server: *mut ns_server,
    socket: *mut ns_socket,
    err: *mut *mut ns_error,
) -> *mut ns_socket {
    let body = || {
        let server = unsafe { server_of(server) }?;
        if socket.is_null() {
            return Err(null("socket"));
        }
        let conn = unsafe { usable_conn(socket) }?;
        // The callback keeps the error that it raised.
        let raised = conn.take_raised();
        let owned = server.server.detach(&mut Socket::of(conn));
        if let Some(raised) = raised {
            conn.set_raised(raised);
        }
        Ok(owned_handle(owned?))
    };
    unsafe { with_err(err, |_| ptr::null_mut(), body) }
}

/// Gives an owned socket to a non-blocking server: its former one or another.
///
/// The connection gets a new id, and `owned` is gone. There is no second
/// `on_open`; the handler runs if bytes wait; `max_connections` does not apply. In
/// `on_start` the handler may run on a loop before that hook returns, and the
/// connection is closed where the hook fails. `err`: see RESULTS.
///
/// Returns: the new id; 0 on failure, and you still own the socket: NS_ERR_STATE
/// (before `on_start` or after the stop), NS_ERR_NOT_NON_BLOCKING, NS_ERR_CLOSED,
/// NS_ERR_IO, NS_ERR_NO_MEMORY, NS_ERR_INVALID.
/// [any, by the owner]
#[no_mangle]
pub unsafe extern "C" fn ns_attach(
    server: *mut ns_server,
    owned: *mut ns_socket,
    err: *mut *mut ns_error,
) -> ns_conn_id {
    let body = || {
        let server = unsafe { server_of(server) }?;
        let (handle, socket) = unsafe { EmptyHandle::take_from(owned) }?;
        server.server.attach(socket).map(|id| id.get()).map_err(|failed| {
            handle.put_back(failed.socket);
            failed.error
        })
    };
    unsafe { with_err(err, |_| 0, body) }
}

/// Closes and frees an owned socket. Where bytes are unsent, unacknowledged or
/// unread it waits for the peer, for `linger_timeout` at most in all. If bytes are
/// still unsent then, the connection is reset. Does nothing to NULL and to a
/// borrowed socket.
/// [any, by the owner] [blocks]
#[no_mangle]
pub unsafe extern "C" fn ns_socket_free(owned: *mut ns_socket) {
    guard((), || drop(unsafe { EmptyHandle::take_from(owned) }))
}

/// Gives you the descriptor of an owned socket that has no buffered bytes, and
/// frees the socket. The descriptor is in blocking mode, and yours to close.
///
/// Returns: the descriptor; or a negative status, and you still own the socket:
/// NS_ERR_BUSY (buffered bytes), NS_ERR_UNSUPPORTED (a TLS socket),
/// NS_ERR_CLOSED, NS_ERR_INVALID.
/// [any, by the owner] [blocks]
#[no_mangle]
pub unsafe extern "C" fn ns_socket_release_fd(owned: *mut ns_socket) -> c_int {
    guard(Status::Panic.code(), || {
        let (handle, socket) = match unsafe { EmptyHandle::take_from(owned) } {
            Ok(both) => both,
            Err(error) => return error.status().code(),
        };
        match socket.release_fd() {
            Ok(fd) => fd.into_raw_fd(),
            Err((error, socket)) => {
                handle.put_back(socket);
                error.status().code()
            }
        }
    })
}
