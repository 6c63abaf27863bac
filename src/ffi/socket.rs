//! `ns_socket`: a connection, borrowed in a callback or owned after a detach.

use std::ffi::{c_char, c_int, c_void};
use std::io::IoSlice;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::IntoRawFd;
use std::ptr;
use std::slice;
use std::time::Duration;

use super::error::ns_error;
use super::server::{alive, ns_server};
use super::support::{contain, give_text, guard, null, reporting, status, UserData};
use super::types::*;
use crate::conn::{Conn, RawResult};
use crate::{Error, OwnedSocket, Socket, Status};

/// More pieces than this in one `ns_socket_sendv` are a mistake, as for `writev`.
const MAX_PIECES: usize = 1024;
/// Nothing in memory is longer.
const MAX_LEN: usize = isize::MAX as usize;

/// The connection of a handle.
///
/// # Safety
/// As `usable`.
unsafe fn existing<'a>(socket: *const ns_socket) -> Result<&'a mut Conn, Status> {
    // SAFETY: a handle is the address of its Conn.
    unsafe { socket.cast_mut().cast::<Conn>().as_mut() }.ok_or(Status::Invalid)
}

/// The connection, where the caller may use it now.
///
/// # Safety
/// `socket` is NULL or a handle that is valid on this thread, and no other
/// reference made here is in use.
pub(super) unsafe fn usable<'a>(socket: *const ns_socket) -> Result<&'a mut Conn, Status> {
    // SAFETY: the caller's promise.
    let conn = unsafe { existing(socket) }?;
    conn.usable()?;
    Ok(conn)
}

/// As `usable`, also a socket that its callback has just detached: it may
/// still be asked who it is, and say why the handler fails.
///
/// # Safety
/// As `usable`.
pub(super) unsafe fn reachable<'a>(socket: *const ns_socket) -> Result<&'a mut Conn, Status> {
    // SAFETY: the caller's promise.
    let conn = unsafe { existing(socket) }?;
    match conn.usable() {
        Ok(()) | Err(Status::Detached) => Ok(conn),
        Err(status) => Err(status),
    }
}

/// The bytes at `buf`; NULL is allowed for none.
///
/// # Safety
/// `buf` is NULL or has `len` bytes.
pub(super) unsafe fn bytes<'a>(buf: *const c_void, len: usize) -> Result<&'a [u8], Status> {
    match len {
        0 => Ok(&[]),
        _ if buf.is_null() || len > MAX_LEN => Err(Status::Invalid),
        // SAFETY: the caller's promise, and a length that a slice may have.
        _ => Ok(unsafe { slice::from_raw_parts(buf.cast(), len) }),
    }
}

/// The `len` bytes of room at `buf`, more than none.
///
/// # Safety
/// `buf` is NULL or has `len` bytes, which are only written to.
unsafe fn room<'a>(buf: *mut c_void, len: usize) -> Result<&'a mut [u8], Status> {
    match len {
        _ if buf.is_null() => Err(Status::Invalid),
        // SAFETY: the caller's promise, and a length that a slice may have.
        1..=MAX_LEN => Ok(unsafe { slice::from_raw_parts_mut(buf.cast(), len) }),
        _ => Err(Status::Invalid),
    }
}

/// A call that has nothing to tell but its status.
///
/// # Safety
/// As `usable`.
unsafe fn with<E: Into<Error>>(
    socket: *mut ns_socket,
    call: impl FnOnce(&mut Socket<'_>) -> Result<(), E>,
) -> ns_status {
    status(|| {
        // SAFETY: the caller's promise.
        let conn = unsafe { usable(socket) }?;
        call(&mut Socket::of(conn)).map_err(Into::into)
    })
}

/// What a connection says of itself, or `none` where it cannot be asked.
///
/// # Safety
/// As `usable`.
unsafe fn ask<T: Copy>(
    socket: *const ns_socket,
    none: T,
    what: impl FnOnce(&Socket<'_>) -> T,
) -> T {
    // SAFETY: the caller's promise.
    contain(none, || match unsafe { reachable(socket) } {
        Ok(conn) => what(&Socket::of(conn)),
        Err(_) => none,
    })
}

/// Reads at most `len` bytes, 1 or more. Returns how many; 0 at the end of the
/// stream; NS_ERR_WOULD_BLOCK (non-blocking mode: nothing more now; not on the
/// first call in a handler); NS_ERR_TIMEOUT (`io_timeout`, or `idle_timeout`,
/// which closes the connection), NS_ERR_RESET,
/// NS_ERR_TRUNCATED (TLS: the stream ended without close_notify), NS_ERR_TLS,
/// NS_ERR_CLOSED, NS_ERR_DETACHED, NS_ERR_NOT_IN_HANDLER, NS_ERR_IO,
/// NS_ERR_INVALID. [handler]; [blocks] in blocking mode.
#[no_mangle]
pub unsafe extern "C" fn ns_socket_recv(
    socket: *mut ns_socket,
    buf: *mut c_void,
    len: usize,
) -> i64 {
    // SAFETY: a handle is the address of its Conn, which asks itself whether
    // it may be used now.
    let conn = unsafe { socket.cast::<Conn>().as_mut() };
    let (Some(conn), false, 1..=MAX_LEN) = (conn, buf.is_null(), len) else {
        // SAFETY: the caller's contract.
        return unsafe { recv_any(socket, buf, len) };
    };
    if !conn.can_recv_fast() {
        if conn.is_drained() {
            return Status::WouldBlock.code().into();
        }
        // SAFETY: the caller's contract.
        return unsafe { recv_any(socket, buf, len) };
    }
    // SAFETY: the caller's contract; it is only written to.
    match conn.recv_fast(unsafe { slice::from_raw_parts_mut(buf.cast(), len) }) {
        Ok(n) => n as i64,
        // SAFETY: the caller's contract.
        Err(raw) => unsafe { recv_slow(conn, buf, len, raw) },
    }
}

/// Sends all `len` bytes: 0 or a negative status. Blocking mode: returns when the
/// kernel has them; after NS_ERR_TIMEOUT (`io_timeout`) a part of them, which is
/// not known, has been sent and the rest will not be, so that the stream is of use
/// only to who can tell by other means. Non-blocking mode: all of them or none;
/// what the kernel does not take is copied and written later; NS_ERR_BUFFER_FULL
/// above `send_limit`. Also NS_ERR_RESET, NS_ERR_CLOSED, NS_ERR_DETACHED,
/// NS_ERR_NOT_IN_HANDLER, NS_ERR_IO, NS_ERR_INVALID. [handler]; [blocks] in
/// blocking mode.
#[no_mangle]
pub unsafe extern "C" fn ns_socket_send(
    socket: *mut ns_socket,
    buf: *const c_void,
    len: usize,
) -> ns_status {
    // SAFETY: as in `ns_socket_recv`.
    let conn = unsafe { socket.cast::<Conn>().as_mut() };
    let (Some(conn), false, ..=MAX_LEN) = (conn, buf.is_null(), len) else {
        // SAFETY: the caller's contract.
        return unsafe { send_any(socket, buf, len) };
    };
    if !conn.can_send_fast(len) {
        // SAFETY: the caller's contract.
        return unsafe { send_any(socket, buf, len) };
    }
    // SAFETY: the caller's contract.
    match conn.send_fast(unsafe { slice::from_raw_parts(buf.cast(), len) }) {
        Ok(()) => 0,
        // SAFETY: the caller's contract.
        Err(raw) => unsafe { send_slow(conn, buf, len, raw) },
    }
}

// What the two do where it is not the usual, with all their arguments: by
// themselves, so that the usual needs no frame. The contracts are theirs.

#[cold]
#[inline(never)]
unsafe extern "C" fn recv_any(socket: *mut ns_socket, buf: *mut c_void, len: usize) -> i64 {
    // SAFETY: the caller's promise.
    counted(|| unsafe { existing(socket) }?.recv_any(unsafe { room(buf, len) }?))
}

#[cold]
#[inline(never)]
unsafe extern "C" fn recv_slow(
    conn: &mut Conn,
    buf: *mut c_void,
    len: usize,
    raw: RawResult,
) -> i64 {
    // SAFETY: the caller's promise.
    counted(|| conn.recv_slow(raw, unsafe { room(buf, len) }?))
}

#[cold]
#[inline(never)]
unsafe extern "C" fn send_any(socket: *mut ns_socket, buf: *const c_void, len: usize) -> ns_status {
    // SAFETY: the caller's promise.
    status(|| unsafe { existing(socket) }?.send_any(unsafe { bytes(buf, len) }?))
}

#[cold]
#[inline(never)]
unsafe extern "C" fn send_slow(
    conn: &mut Conn,
    buf: *const c_void,
    len: usize,
    raw: RawResult,
) -> ns_status {
    // SAFETY: the caller's promise.
    status(|| conn.send_slow(raw, unsafe { bytes(buf, len) }?))
}

fn counted(call: impl FnOnce() -> Result<usize, Status>) -> i64 {
    guard(Status::Panic.code().into(), || match call() {
        Ok(n) => n as i64,
        Err(status) => status.code().into(),
    })
}

/// `ns_socket_send` of `count` pieces in a row, `lens[i]` bytes at `bufs[i]`, at
/// most 1024; all or none of them. [handler]; [blocks] in blocking mode.
#[no_mangle]
pub unsafe extern "C" fn ns_socket_sendv(
    socket: *mut ns_socket,
    bufs: *const *const c_void,
    lens: *const usize,
    count: usize,
) -> ns_status {
    let call = |socket: &mut Socket<'_>| {
        if count > MAX_PIECES || (count > 0 && (bufs.is_null() || lens.is_null())) {
            return Err(Error::from(Status::Invalid));
        }
        let mut total = 0_usize;
        let mut pieces = Vec::with_capacity(count);
        for at in 0..count {
            // SAFETY: the caller's contract: both arrays have `count` entries.
            let piece = unsafe { bytes(*bufs.add(at), *lens.add(at)) }?;
            total = total.saturating_add(piece.len());
            pieces.push(IoSlice::new(piece));
        }
        if total > MAX_LEN {
            return Err(Error::from(Status::Invalid));
        }
        socket.sendv(&pieces)
    };
    // SAFETY: the caller's contract.
    unsafe { with(socket, call) }
}

/// Ends one direction (NS_SHUT_RD, NS_SHUT_WR, NS_SHUT_RDWR), after what is
/// queued. 0 or NS_ERR_CLOSED, NS_ERR_DETACHED, NS_ERR_NOT_IN_HANDLER,
/// NS_ERR_INVALID. [handler]; [blocks] in blocking mode, for `linger_timeout` at
/// most
#[no_mangle]
pub unsafe extern "C" fn ns_socket_shutdown(socket: *mut ns_socket, how: i32) -> ns_status {
    let call = |socket: &mut Socket<'_>| {
        let how = match how {
            NS_SHUT_RD => Shutdown::Read,
            NS_SHUT_WR => Shutdown::Write,
            NS_SHUT_RDWR => Shutdown::Both,
            _ => return Err(Error::from(Status::Invalid)),
        };
        socket.shutdown(how)
    };
    // SAFETY: the caller's contract.
    unsafe { with(socket, call) }
}

/// Closes: what is queued leaves first. The object lives until the callback
/// returns, an owned one until `ns_socket_free`. Closing twice is harmless. 0 or
/// NS_ERR_DETACHED, NS_ERR_NOT_IN_HANDLER, NS_ERR_INVALID. [handler]; [blocks]
/// in blocking mode, for `linger_timeout` at most
#[no_mangle]
pub unsafe extern "C" fn ns_socket_close(socket: *mut ns_socket) -> ns_status {
    // SAFETY: the caller's contract.
    unsafe {
        with(socket, |s| {
            s.close();
            Ok::<(), Error>(())
        })
    }
}

/// Resets the connection; what is queued is lost. As `ns_socket_close`
/// otherwise. [handler]
#[no_mangle]
pub unsafe extern "C" fn ns_socket_abort(socket: *mut ns_socket) -> ns_status {
    // SAFETY: the caller's contract.
    unsafe {
        with(socket, |s| {
            s.abort();
            Ok::<(), Error>(())
        })
    }
}

/// 1 if it is closed or cannot be used here (NULL, detached, not in its
/// callback), else 0. [handler]
#[no_mangle]
pub unsafe extern "C" fn ns_socket_is_closed(socket: *const ns_socket) -> i32 {
    // SAFETY: the caller's contract.
    unsafe { ask(socket, 1, |s| s.is_closed().into()) }
}

/// The connection's id; 0 where it cannot be used here. [handler]
#[no_mangle]
pub unsafe extern "C" fn ns_socket_id(socket: *const ns_socket) -> ns_conn_id {
    // SAFETY: the caller's contract.
    unsafe { ask(socket, 0, |s| s.id().get()) }
}

/// The descriptor, to look at (`getsockopt`), not to read, write or close; -1
/// when it is gone. [handler]
#[no_mangle]
pub unsafe extern "C" fn ns_socket_fd(socket: *const ns_socket) -> c_int {
    // SAFETY: the caller's contract.
    unsafe { ask(socket, -1, |s| s.raw_fd()) }
}

/// An address as text, "" where it is not known.
unsafe fn give_address(
    socket: *const ns_socket,
    buf: *mut c_char,
    len: usize,
    what: impl FnOnce(&Socket<'_>) -> Option<SocketAddr>,
) -> usize {
    // SAFETY: the caller's contract.
    let address = unsafe { ask(socket, None, what) };
    guard(0, || {
        let text = address.map_or(String::new(), |address| address.to_string());
        // SAFETY: the caller's contract.
        unsafe { give_text(&text, buf, len) }
    })
}

/// The peer's address as text: "127.0.0.1:4711", "[::1]:4711", "" where it is
/// not known. As `snprintf`: writes at most `len` bytes, NUL included, and
/// returns the length of the whole text without it. [handler]
#[no_mangle]
pub unsafe extern "C" fn ns_socket_peer(
    socket: *const ns_socket,
    buf: *mut c_char,
    len: usize,
) -> usize {
    // SAFETY: the caller's contract.
    unsafe { give_address(socket, buf, len, |s| s.peer()) }
}

/// The address of this side, as `ns_socket_peer`. [handler]
#[no_mangle]
pub unsafe extern "C" fn ns_socket_local(
    socket: *const ns_socket,
    buf: *mut c_char,
    len: usize,
) -> usize {
    // SAFETY: the caller's contract.
    unsafe { give_address(socket, buf, len, |s| s.local()) }
}

/// How many bytes are queued and not yet with the kernel. [handler]
#[no_mangle]
pub unsafe extern "C" fn ns_socket_queued(socket: *const ns_socket) -> usize {
    // SAFETY: the caller's contract.
    unsafe { ask(socket, 0, |s| s.queued()) }
}

/// The `errno` of what ended the connection, 0 for none. [handler]
#[no_mangle]
pub unsafe extern "C" fn ns_socket_os_error(socket: *const ns_socket) -> i32 {
    // SAFETY: the caller's contract.
    unsafe { ask(socket, 0, |s| s.os_error()) }
}

fn optional_ms(ms: u32) -> Option<Duration> {
    (ms > 0).then(|| Duration::from_millis(ms.into()))
}

/// Has `on_timeout` called once, `ms` milliseconds from now (to 2^31 - 1; 0: not
/// any more); where none is set the connection is then closed. 0 or
/// NS_ERR_NOT_NON_BLOCKING, NS_ERR_CLOSED, NS_ERR_DETACHED,
/// NS_ERR_NOT_IN_HANDLER, NS_ERR_INVALID. [handler]
#[no_mangle]
pub unsafe extern "C" fn ns_socket_set_timer_ms(socket: *mut ns_socket, ms: u32) -> ns_status {
    // SAFETY: the caller's contract.
    unsafe { with(socket, |s| s.set_timer(optional_ms(ms))) }
}

/// The config's `io_timeout` for this socket alone: milliseconds to 2^31 - 1, 0
/// is off. 0 or NS_ERR_UNSUPPORTED (on a loop, where no call waits),
/// NS_ERR_DETACHED, NS_ERR_NOT_IN_HANDLER, NS_ERR_INVALID. [handler]
#[no_mangle]
pub unsafe extern "C" fn ns_socket_set_io_timeout_ms(socket: *mut ns_socket, ms: u32) -> ns_status {
    // SAFETY: the caller's contract.
    unsafe { with(socket, |s| s.set_io_timeout(optional_ms(ms))) }
}

/// Non-blocking mode: the handler is not called for new input until
/// `ns_socket_resume`. That the peer has ended, or reset the connection with
/// input unread, shows only then. 0 or NS_ERR_NOT_NON_BLOCKING, NS_ERR_CLOSED,
/// NS_ERR_DETACHED, NS_ERR_NOT_IN_HANDLER, NS_ERR_INVALID. [handler]
#[no_mangle]
pub unsafe extern "C" fn ns_socket_pause(socket: *mut ns_socket) -> ns_status {
    // SAFETY: the caller's contract.
    unsafe { with(socket, |s| s.pause()) }
}

/// Ends `ns_socket_pause`; the same results. From another thread:
/// `ns_server_wake`, and this in `on_wake`. [handler]
#[no_mangle]
pub unsafe extern "C" fn ns_socket_resume(socket: *mut ns_socket) -> ns_status {
    // SAFETY: the caller's contract.
    unsafe { with(socket, |s| s.resume()) }
}

/// The pointer of `ns_socket_set_user_data`; NULL if there is none. [handler]
#[no_mangle]
pub unsafe extern "C" fn ns_socket_user_data(socket: *const ns_socket) -> *mut c_void {
    // SAFETY: the caller's contract.
    unsafe {
        ask(socket, ptr::null_mut(), |s| {
            s.user_data::<UserData>().map_or(ptr::null_mut(), |data| data.pointer)
        })
    }
}

/// Keeps a pointer of the program's with the connection; it goes along through
/// detach and attach. `drop` (NULL: none) frees it after `on_close`, when it is
/// replaced, and at once if this fails. 0 or NS_ERR_DETACHED,
/// NS_ERR_NOT_IN_HANDLER, NS_ERR_INVALID. [handler] [blocks]
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
    // SAFETY: the caller's contract.
    unsafe { with(socket, call) }
}

/// Takes a connection out of a non-blocking server, in any of its callbacks but
/// `on_close`. Returns a new, owned socket in blocking mode, with user data,
/// unread and unsent bytes, without its timer and a pause: usable from any one
/// thread at a time, immediately, also after the server was freed; to be ended
/// by `ns_socket_free`, `ns_socket_release_fd` or `ns_attach`. `socket` itself
/// answers NS_ERR_DETACHED until the callback returns. NULL on failure:
/// NS_ERR_NOT_NON_BLOCKING, NS_ERR_NOT_IN_HANDLER, NS_ERR_DETACHED,
/// NS_ERR_STATE (a TLS handshake is in progress), NS_ERR_CLOSED (also by id,
/// although that has not been done yet), NS_ERR_INVALID. `err` may be NULL; else
/// `*err` is NULL or an error that is the caller's to free. [handler]
#[no_mangle]
pub unsafe extern "C" fn ns_detach(
    server: *mut ns_server,
    socket: *mut ns_socket,
    err: *mut *mut ns_error,
) -> *mut ns_socket {
    let body = || {
        // SAFETY: the caller's contract.
        let server = unsafe { alive(server) }?;
        if socket.is_null() {
            return Err(null("socket"));
        }
        // SAFETY: the caller's contract.
        let conn = unsafe { usable(socket) }?;
        // Why the handler fails stays with the callback.
        let raised = conn.take_raised();
        let owned = server.server.detach(&mut Socket::of(conn));
        if let Some(raised) = raised {
            conn.set_raised(raised);
        }
        Ok(owned?.into_raw().cast())
    };
    // SAFETY: the caller's contract.
    unsafe { reporting(err, |_| ptr::null_mut(), body) }
}

/// An owned handle while its connection is taken out, to be given away or put
/// back: then the program goes on with the same pointer.
struct Taken(Box<Conn>);

impl Taken {
    /// # Safety
    /// `socket` is NULL or valid.
    unsafe fn out_of(socket: *mut ns_socket) -> Result<(Taken, OwnedSocket), Error> {
        let conn = socket.cast::<Conn>();
        // SAFETY: the caller's promise.
        match unsafe { conn.as_ref() } {
            None => return Err(null("socket")),
            Some(conn) if conn.is_owned() => {}
            Some(_) => return Err(Error::new(Status::Invalid, "the socket is not an owned one")),
        }
        // SAFETY: an owned one is a Box, see `ns_detach`.
        let mut place = unsafe { Box::from_raw(conn) };
        let nothing = Conn::vacant(place.context.clone());
        let socket = OwnedSocket::new(place.replace(nothing));
        Ok((Taken(place), socket))
    }

    fn put_back(mut self, socket: OwnedSocket) {
        *self.0 = socket.take();
        // The program's again.
        let _ = Box::into_raw(self.0);
    }
}

/// Gives an owned socket to a non-blocking server: its former one or another.
/// Returns its new id, and `owned` is gone; no second `on_open`; the handler
/// runs if bytes wait; `max_connections` is not asked. In `on_start` the handler
/// may run on a loop before that returns, and the connection is closed where that
/// fails. 0 on failure, and the caller still owns it: NS_ERR_STATE (before
/// `on_start` or after the stop), NS_ERR_NOT_NON_BLOCKING, NS_ERR_CLOSED,
/// NS_ERR_INVALID. `err` may be NULL; else `*err` is NULL or an error that is the
/// caller's to free. [any], by the owner
#[no_mangle]
pub unsafe extern "C" fn ns_attach(
    server: *mut ns_server,
    owned: *mut ns_socket,
    err: *mut *mut ns_error,
) -> ns_conn_id {
    let body = || {
        // SAFETY: the caller's contract.
        let server = unsafe { alive(server) }?;
        // SAFETY: the caller's contract.
        let (place, socket) = unsafe { Taken::out_of(owned) }?;
        server.server.attach(socket).map(|id| id.get()).map_err(|failed| {
            place.put_back(failed.socket);
            failed.error
        })
    };
    // SAFETY: the caller's contract.
    unsafe { reporting(err, |_| 0, body) }
}

/// Closes and frees an owned socket; where bytes are unsent, unacknowledged or
/// unread it waits for the peer, at most `linger_timeout` in all. What is unsent
/// then ends in a reset. NULL and a borrowed one are left alone. [any], by the
/// owner; [blocks]
#[no_mangle]
pub unsafe extern "C" fn ns_socket_free(owned: *mut ns_socket) {
    // SAFETY: the caller's contract.
    guard((), || drop(unsafe { Taken::out_of(owned) }))
}

/// The descriptor of an owned socket that has no buffered bytes; the socket is
/// freed and the descriptor, in blocking mode, the caller's to close. Negative
/// on failure, and the caller still owns the socket: NS_ERR_BUSY (buffered
/// bytes), NS_ERR_UNSUPPORTED (a TLS socket), NS_ERR_CLOSED, NS_ERR_INVALID. [any], by the owner; [blocks]
#[no_mangle]
pub unsafe extern "C" fn ns_socket_release_fd(owned: *mut ns_socket) -> c_int {
    guard(Status::Panic.code(), || {
        // SAFETY: the caller's contract.
        let (place, socket) = match unsafe { Taken::out_of(owned) } {
            Ok(taken) => taken,
            Err(error) => return error.status().code(),
        };
        match socket.release_fd() {
            Ok(fd) => fd.into_raw_fd(),
            Err((error, socket)) => {
                place.put_back(socket);
                error.status().code()
            }
        }
    })
}
