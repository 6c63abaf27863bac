//! `ns_socket`: what a callback, or the owner of a detached socket, does with it.
//! `ns_socket_recv` and `ns_socket_send` are in `transfer.rs`.

// SAFETY of the blocks without a comment: the caller's contract, see `mod.rs`.
#![allow(clippy::undocumented_unsafe_blocks)]

use std::ffi::{c_int, c_void};
use std::io::IoSlice;
use std::net::Shutdown;
use std::ptr;

use super::error::ns_status;
use super::handles::{ns_conn_id, ns_socket, reachable_conn, usable_conn};
use super::support::{array, bytes, contain, optional_ms, status, MAX_LEN};
use super::user_data::{ns_drop_fn, UserData};
use crate::{Error, Socket, Status};

/// More pieces than this in one `ns_socket_sendv` are a mistake, as for `writev`.
const MAX_PIECES: usize = 1024;

/// A call whose only result is its status.
///
/// # Safety
/// As `usable_conn`.
unsafe fn with<E: Into<Error>>(
    socket: *mut ns_socket,
    call: impl FnOnce(&mut Socket<'_>) -> Result<(), E>,
) -> ns_status {
    status(|| {
        let conn = unsafe { usable_conn(socket) }?;
        call(&mut Socket::of(conn)).map_err(Into::into)
    })
}

/// What `read` returns for a connection, or `none` where it cannot be used.
///
/// # Safety
/// As `usable_conn`.
unsafe fn get<T: Copy>(
    socket: *const ns_socket,
    none: T,
    read: impl FnOnce(&Socket<'_>) -> T,
) -> T {
    contain(none, || match unsafe { reachable_conn(socket) } {
        Ok(conn) => read(&Socket::of(conn)),
        Err(_) => none,
    })
}

/// `ns_socket_send` of `count` pieces in a row, at most 1024: `lens[i]` bytes at
/// `bufs[i]`. What holds for `ns_socket_send` holds for all of them together.
///
/// Returns: as `ns_socket_send`.
/// [handler] [blocks, in blocking mode]
#[no_mangle]
pub unsafe extern "C" fn ns_socket_sendv(
    socket: *mut ns_socket,
    bufs: *const *const c_void,
    lens: *const usize,
    count: usize,
) -> ns_status {
    let call = |socket: &mut Socket<'_>| {
        let (bufs, lens) = unsafe {
            (array(bufs, count, MAX_PIECES, "pieces")?, array(lens, count, MAX_PIECES, "lengths")?)
        };
        let mut total = 0_usize;
        let mut pieces = Vec::with_capacity(count);
        for (buf, len) in bufs.iter().zip(lens) {
            let piece = unsafe { bytes(*buf, *len) }?;
            total = total.saturating_add(piece.len());
            pieces.push(IoSlice::new(piece));
        }
        if total > MAX_LEN {
            return Err(Error::from(Status::Invalid));
        }
        socket.sendv(&pieces)
    };
    unsafe { with(socket, call) }
}

/// Sends immediately what was gathered. In non-blocking mode this is what the
/// callback has sent after its first send, and where the connection's last callback
/// has gathered several sends, the first one too: `ns_socket_send` copies it, and
/// it leaves together when the callback returns, when it is 64 KiB, or by this
/// call; a failure of that is one of queued bytes. Until it has left it counts in
/// `ns_socket_queued` and against `send_limit`, but not against `high_water_mark`,
/// and `on_drain` does not come for it, unless the program has seen it: in
/// `ns_socket_queued` or `ns_server_queued`, or by NS_ERR_BUFFER_FULL. In blocking
/// mode this is what was sent since `ns_socket_cork`, and the call waits as
/// `ns_socket_send` does, also for what was queued before it: after 0 nothing is
/// queued. After NS_ERR_TIMEOUT the rest stays queued, and leaves before what is
/// sent next.
///
/// Returns: 0; NS_ERR_CLOSED, NS_ERR_DETACHED, NS_ERR_NOT_IN_HANDLER or
/// NS_ERR_INVALID; in blocking mode also the errors of `ns_socket_send`.
/// [handler] [blocks, in blocking mode]
#[no_mangle]
pub unsafe extern "C" fn ns_socket_flush(socket: *mut ns_socket) -> ns_status {
    unsafe { with(socket, |s| s.flush()) }
}

/// Blocking mode, and an owned socket: gathers what is sent from now on, until
/// `ns_socket_uncork`, so that small sends leave together; over TLS in as few
/// records as possible. Corks nest. What was gathered also leaves before a
/// `ns_socket_recv` that waits, when it is 64 KiB, by `ns_socket_flush`, and at
/// every end: when the handler returns, when the connection is closed, half-closed
/// or attached, before STARTTLS. A return, a close and a half-close wait for it as
/// `ns_socket_send` does; an error that a return meets goes to the exception
/// handler. `ns_socket_free` waits for `linger_timeout`. In non-blocking mode,
/// where every callback gathers, its first send is gathered too from here on, and
/// `ns_socket_uncork` does nothing.
///
/// Returns: 0, NS_ERR_CLOSED, NS_ERR_DETACHED, NS_ERR_NOT_IN_HANDLER or
/// NS_ERR_INVALID.
/// [handler]
#[no_mangle]
pub unsafe extern "C" fn ns_socket_cork(socket: *mut ns_socket) -> ns_status {
    unsafe { with(socket, |s| s.cork()) }
}

/// Takes one `ns_socket_cork` back. The last one sends what was gathered, and waits
/// for that as `ns_socket_send` does.
///
/// Returns: 0; NS_ERR_STATE without a cork; else as `ns_socket_send`.
/// [handler] [blocks, in blocking mode]
#[no_mangle]
pub unsafe extern "C" fn ns_socket_uncork(socket: *mut ns_socket) -> ns_status {
    unsafe { with(socket, |s| s.uncork()) }
}

/// `ns_socket_shutdown`: no more reading.
pub const NS_SHUT_RD: i32 = 0;
/// `ns_socket_shutdown`: no more writing; the peer sees the end of the stream
/// after what was already sent.
pub const NS_SHUT_WR: i32 = 1;
/// `ns_socket_shutdown`: no more reading and no more writing.
pub const NS_SHUT_RDWR: i32 = 2;

/// Ends one direction or both: NS_SHUT_RD, NS_SHUT_WR, NS_SHUT_RDWR. What is
/// queued leaves first. In blocking mode this waits for `linger_timeout` at most.
///
/// Returns: 0, NS_ERR_CLOSED, NS_ERR_DETACHED, NS_ERR_NOT_IN_HANDLER or
/// NS_ERR_INVALID.
/// [handler] [blocks, in blocking mode]
#[no_mangle]
pub unsafe extern "C" fn ns_socket_shutdown(socket: *mut ns_socket, how: i32) -> ns_status {
    unsafe { with(socket, |s| s.shutdown(directions(how)?)) }
}

/// The directions that a number of the program names.
pub(super) fn directions(how: i32) -> Result<Shutdown, Error> {
    match how {
        NS_SHUT_RD => Ok(Shutdown::Read),
        NS_SHUT_WR => Ok(Shutdown::Write),
        NS_SHUT_RDWR => Ok(Shutdown::Both),
        _ => Err(Error::from(Status::Invalid)),
    }
}

/// Closes the connection. What is queued leaves first: in blocking mode this waits
/// for it, for `linger_timeout` at most. The object lives until the callback
/// returns, an owned one until `ns_socket_free`. Closing twice is harmless.
/// Receiving and sending return NS_ERR_CLOSED from then on: a handler that reads
/// in a loop leaves it.
///
/// Returns: 0, NS_ERR_DETACHED, NS_ERR_NOT_IN_HANDLER or NS_ERR_INVALID.
/// [handler] [blocks, in blocking mode]
#[no_mangle]
pub unsafe extern "C" fn ns_socket_close(socket: *mut ns_socket) -> ns_status {
    unsafe {
        with(socket, |s| {
            s.close();
            Ok::<(), Error>(())
        })
    }
}

/// Resets the connection; what is queued is lost. Otherwise as `ns_socket_close`.
///
/// Returns: as `ns_socket_close`.
/// [handler]
#[no_mangle]
pub unsafe extern "C" fn ns_socket_abort(socket: *mut ns_socket) -> ns_status {
    unsafe {
        with(socket, |s| {
            s.abort();
            Ok::<(), Error>(())
        })
    }
}

/// Returns: 1 if the connection is closed or cannot be used here (NULL, detached,
/// not in its callback), also in the exception handler after a TLS handshake or a
/// PROXY header that failed; else 0.
/// [handler]
#[no_mangle]
pub unsafe extern "C" fn ns_socket_is_closed(socket: *const ns_socket) -> i32 {
    unsafe { get(socket, 1, |s| s.is_closed().into()) }
}

/// Returns: the connection's id, after `ns_detach` too; 0 where the connection cannot
/// be used here.
/// [handler]
#[no_mangle]
pub unsafe extern "C" fn ns_socket_id(socket: *const ns_socket) -> ns_conn_id {
    unsafe { get(socket, 0, |s| s.id().get()) }
}

/// The descriptor, for getsockopt(2) and the like: not to read, write or close.
///
/// Returns: the descriptor; -1 where there is none any more.
/// [handler]
#[no_mangle]
pub unsafe extern "C" fn ns_socket_fd(socket: *const ns_socket) -> c_int {
    unsafe { get(socket, -1, |s| s.raw_fd()) }
}

/// Returns: the number of the service that the connection came by: 0 for that of
/// `ns_server_new`, else what `ns_server_add_service` returned; -1 where it came by
/// none: on the shutdown port, for a connection of `ns_server_adopt` or
/// `ns_server_connect`, for a socket of `ns_socket_from_fd`, after an attach to
/// another server; and where the connection cannot be used here.
/// [handler]
#[no_mangle]
pub unsafe extern "C" fn ns_socket_service(socket: *const ns_socket) -> i32 {
    unsafe { get(socket, -1, |s| s.service().map_or(-1, |number| number as i32)) }
}

/// Gives the process, user and group of the peer of a unix socket, as they were when
/// it connected. The process is 0 where this one cannot see it (pid_namespaces(7)).
/// Each pointer may be NULL; after a failure nothing is written.
///
/// Returns: 0; NS_ERR_UNSUPPORTED for another socket; NS_ERR_CLOSED,
/// NS_ERR_DETACHED, NS_ERR_NOT_IN_HANDLER, NS_ERR_INVALID or NS_ERR_IO.
/// [handler]
#[no_mangle]
pub unsafe extern "C" fn ns_socket_peer_credentials(
    socket: *mut ns_socket,
    pid: *mut i32,
    uid: *mut u32,
    gid: *mut u32,
) -> ns_status {
    let call = |socket: &mut Socket<'_>| {
        let found = socket.peer_credentials()?;
        // SAFETY: each is NULL or can be written, the caller says.
        unsafe {
            pid.as_mut().into_iter().for_each(|place| *place = found.pid);
            uid.as_mut().into_iter().for_each(|place| *place = found.uid);
            gid.as_mut().into_iter().for_each(|place| *place = found.gid);
        }
        Ok::<(), Error>(())
    };
    unsafe { with(socket, call) }
}

/// Returns: how many bytes are queued and not yet with the kernel, gathered ones
/// included (`ns_socket_flush`). In non-blocking mode `on_drain` comes for what this
/// shows.
/// [handler]
#[no_mangle]
pub unsafe extern "C" fn ns_socket_queued(socket: *const ns_socket) -> usize {
    unsafe { get(socket, 0, |s| s.queued()) }
}

/// Returns: the `errno` of the failure that ended the connection; 0 for none.
/// [handler]
#[no_mangle]
pub unsafe extern "C" fn ns_socket_os_error(socket: *const ns_socket) -> i32 {
    unsafe { get(socket, 0, |s| s.os_error()) }
}

/// Sets the connection's one-shot timer: the library calls `on_timeout` once, `ms`
/// milliseconds from now (up to 2^31 - 1); 0 clears the timer. Where there is no
/// `on_timeout`, the library then closes the connection.
///
/// Returns: 0, NS_ERR_NOT_NON_BLOCKING, NS_ERR_CLOSED, NS_ERR_DETACHED,
/// NS_ERR_NOT_IN_HANDLER or NS_ERR_INVALID.
/// [handler]
#[no_mangle]
pub unsafe extern "C" fn ns_socket_set_timer_ms(socket: *mut ns_socket, ms: u32) -> ns_status {
    unsafe { with(socket, |s| s.set_timer(optional_ms(ms))) }
}

/// Sets the config's `io_timeout` for this socket alone: milliseconds up to
/// 2^31 - 1; 0 is off.
///
/// Returns: 0, NS_ERR_UNSUPPORTED (on a loop, where no call waits),
/// NS_ERR_DETACHED, NS_ERR_NOT_IN_HANDLER or NS_ERR_INVALID.
/// [handler]
#[no_mangle]
pub unsafe extern "C" fn ns_socket_set_io_timeout_ms(socket: *mut ns_socket, ms: u32) -> ns_status {
    unsafe { with(socket, |s| s.set_io_timeout(optional_ms(ms))) }
}

/// Non-blocking mode: from now on the library calls the handler for no new input,
/// until `ns_socket_resume`. Only then does it report the end of the peer's
/// stream, or a reset while input is unread.
///
/// Returns: 0, NS_ERR_NOT_NON_BLOCKING, NS_ERR_CLOSED, NS_ERR_DETACHED,
/// NS_ERR_NOT_IN_HANDLER or NS_ERR_INVALID.
/// [handler]
#[no_mangle]
pub unsafe extern "C" fn ns_socket_pause(socket: *mut ns_socket) -> ns_status {
    unsafe { with(socket, |s| s.pause()) }
}

/// Ends `ns_socket_pause`. From another thread: call `ns_server_wake`, and this in
/// `on_wake`.
///
/// Returns: as `ns_socket_pause`.
/// [handler]
#[no_mangle]
pub unsafe extern "C" fn ns_socket_resume(socket: *mut ns_socket) -> ns_status {
    unsafe { with(socket, |s| s.resume()) }
}

/// Returns: the pointer that `ns_socket_set_user_data` got; NULL if there is none.
/// [handler]
#[no_mangle]
pub unsafe extern "C" fn ns_socket_user_data(socket: *const ns_socket) -> *mut c_void {
    unsafe {
        get(socket, ptr::null_mut(), |s| {
            s.user_data::<UserData>().map_or(ptr::null_mut(), |data| data.pointer)
        })
    }
}

/// Keeps a pointer of the program's with the connection, also through detach and
/// attach. `drop` (NULL: none) frees it: after `on_close`, or when it is replaced,
/// or immediately if this fails.
///
/// Returns: 0, NS_ERR_DETACHED, NS_ERR_NOT_IN_HANDLER or NS_ERR_INVALID.
/// [handler] [blocks]
#[no_mangle]
pub unsafe extern "C" fn ns_socket_set_user_data(
    socket: *mut ns_socket,
    user_data: *mut c_void,
    drop: ns_drop_fn,
) -> ns_status {
    let user_data = UserData::new(user_data, drop);
    let call = |socket: &mut Socket<'_>| {
        socket.set_user_data(user_data);
        Ok::<(), Error>(())
    };
    unsafe { with(socket, call) }
}
