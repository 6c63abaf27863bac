//! Sockets of the program's that become connections of a server, and connects.

// SAFETY of the blocks without a comment: the caller's contract, see `mod.rs`.
#![allow(clippy::undocumented_unsafe_blocks)]

use std::ffi::{c_char, c_int, c_void};
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};
use std::ptr;

use super::error::ns_error;
use super::handles::{ns_conn_id, ns_socket, owned_handle, server_of};
use super::server::ns_server;
use super::support::{optional_ms, text, with_err};
use super::user_data::{ns_drop_fn, UserData};
use crate::{AdoptError, Error, OwnedSocket, Status};

/// Lets `take` have the descriptor, which stays the program's where that fails.
fn give<T>(fd: c_int, take: impl FnOnce(OwnedFd) -> Result<T, AdoptError>) -> Result<T, Error> {
    if fd < 0 {
        return Err(Error::new(Status::Invalid, format!("{fd} is no descriptor")));
    }
    // SAFETY: the program gives it away. Where it is not open, `take` fails.
    take(unsafe { OwnedFd::from_raw_fd(fd) }).map_err(|failed| {
        let _ = failed.fd.into_raw_fd();
        failed.error
    })
}

/// Makes a connection of a connected stream socket, in non-blocking mode: it has the
/// server's handler, `on_open`, limits and deadlines, and `user_data` as
/// `ns_socket_user_data`. In a callback it joins the loop of that callback, else the
/// loop with the fewest connections. It goes without TLS: `ns_socket_starttls` makes
/// this side the TLS server, and the library is no TLS client. Its
/// `ns_socket_service` is -1. It counts among `max_connections`, which
/// does not refuse it. `fd` is the server's from then on: unwatch it before. It gets
/// the server's `no_delay` and `keep_alive`, O_NONBLOCK and FD_CLOEXEC.
///
/// The connect of the socket may be in progress: what is sent by id waits, and
/// `on_open` runs when it is connected. If it fails, the exception handler gets
/// NS_ERR_CONNECT, with the socket for its user data; neither `on_open` nor
/// `on_close` runs, and it counts under NS_CLOSE_CONNECT. An end that you ask for,
/// and a stop, before it is connected calls nothing; bytes that were accepted for
/// it before a close or a stop leave when it is connected, and if the connect
/// fails, so that they are lost, the exception handler gets that NS_ERR_CONNECT
/// too.
///
/// `drop` (NULL: none) frees `user_data` with the connection, or immediately if this
/// fails. `err`: see RESULTS.
///
/// Returns: the connection's id; 0 on failure, and `fd` stays yours, as it was:
/// NS_ERR_INVALID (no connected or connecting stream socket), NS_ERR_BUSY (it is in
/// that loop already; another loop does not notice it), NS_ERR_NOT_NON_BLOCKING,
/// NS_ERR_STATE (before `on_start`, or a stop has begun), NS_ERR_IO or
/// NS_ERR_NO_MEMORY (the system has no room).
/// [any] [blocks]
#[no_mangle]
pub unsafe extern "C" fn ns_server_adopt(
    server: *mut ns_server,
    fd: c_int,
    user_data: *mut c_void,
    drop: ns_drop_fn,
    err: *mut *mut ns_error,
) -> ns_conn_id {
    let data = UserData::new(user_data, drop);
    let body = || {
        let this = unsafe { server_of(server) }?;
        give(fd, |fd| this.server.adopt(fd, data)).map(|id| id.get())
    };
    unsafe { with_err(err, |_| 0, body) }
}

/// Connects to `service`, "host:port", "unix:/path" or "unix:@name", and makes a
/// connection of it, as `ns_server_adopt` does with a socket whose connect is in
/// progress. A host name is resolved by this call, which waits for that; a literal
/// address, "127.0.0.1:80" or "[::1]:80", does not wait: in a callback use one. The
/// addresses of a name are tried in turn, each with an equal share of what is left of
/// `timeout_ms`, which begins when the name is resolved (0: the kernel's time, see
/// tcp(7); at most 2^31 - 1).
///
/// `drop` (NULL: none) frees `user_data` with the connection, or immediately if this
/// fails. `err`: see RESULTS. What fails later goes to the exception handler, see
/// `ns_server_adopt`.
///
/// Returns: the connection's id; 0 on failure: NS_ERR_CONNECT (connecting fails
/// immediately; also where no descriptor is left, and for the full backlog of a unix
/// socket), NS_ERR_ADDRESS (no such host), NS_ERR_INVALID (a bad service, or one
/// without a host; a time), NS_ERR_NOT_NON_BLOCKING, NS_ERR_STATE, NS_ERR_IO,
/// NS_ERR_NO_MEMORY.
/// [any] [blocks]
#[no_mangle]
pub unsafe extern "C" fn ns_server_connect(
    server: *mut ns_server,
    service: *const c_char,
    timeout_ms: u32,
    user_data: *mut c_void,
    drop: ns_drop_fn,
    err: *mut *mut ns_error,
) -> ns_conn_id {
    let data = UserData::new(user_data, drop);
    let body = || {
        let this = unsafe { server_of(server) }?;
        let service = unsafe { text(service, "service") }?;
        this.server.connect(service, optional_ms(timeout_ms), data).map(|id| id.get())
    };
    unsafe { with_err(err, |_| 0, body) }
}

/// Makes an owned socket, in blocking mode, of a connected stream socket: the same as
/// `ns_detach` returns, with the settings of `ns_config_new`. It ends with
/// `ns_socket_free`, `ns_socket_release_fd` or `ns_attach`. `err`: see RESULTS.
///
/// Returns: the owned socket; NULL on failure, and `fd` stays yours: NS_ERR_INVALID
/// (no connected stream socket; also one whose connect is in progress) or NS_ERR_IO.
/// [any]
#[no_mangle]
pub unsafe extern "C" fn ns_socket_from_fd(fd: c_int, err: *mut *mut ns_error) -> *mut ns_socket {
    let body = || give(fd, OwnedSocket::from_fd).map(owned_handle);
    unsafe { with_err(err, |_| ptr::null_mut(), body) }
}
