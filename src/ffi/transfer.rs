//! `ns_socket_recv` and `ns_socket_send`.
//!
//! Both test their arguments and the connection's flags once and make the
//! system call. That is the fast path. Everything else goes the slow path, in
//! functions of its own that get all the arguments, so that the fast path needs
//! no stack frame.

// SAFETY of the blocks without a comment: the caller's contract, see `mod.rs`.
#![allow(clippy::undocumented_unsafe_blocks)]

use std::ffi::c_void;
use std::slice;

use super::error::ns_status;
use super::handles::{conn_of, ns_socket};
use super::support::{bytes, counted, room, status, MAX_LEN};
use crate::conn::{Conn, RawResult};
use crate::Status;

/// Reads at most `len` bytes into `buf`; `len` is 1 or more.
///
/// Returns: the number of bytes; 0 at the end of the stream; or a negative
/// status: NS_ERR_WOULD_BLOCK (non-blocking mode: nothing can be read now; never
/// from the first call in a handler, unless another callback took the input),
/// NS_ERR_TIMEOUT (`io_timeout`; or `idle_timeout`, which closes the connection),
/// NS_ERR_RESET, NS_ERR_TRUNCATED (TLS: the stream ended without close_notify),
/// NS_ERR_CLOSED, NS_ERR_DETACHED, NS_ERR_NOT_IN_HANDLER, NS_ERR_TLS,
/// NS_ERR_NO_MEMORY, NS_ERR_IO, NS_ERR_INVALID.
/// [handler] [blocks, in blocking mode]
#[no_mangle]
pub unsafe extern "C" fn ns_socket_recv(
    socket: *mut ns_socket,
    buf: *mut c_void,
    len: usize,
) -> i64 {
    // SAFETY: a handle is the address of its Conn; the Conn checks whether the
    // caller may use it now.
    let conn = unsafe { socket.cast::<Conn>().as_mut() };
    let (Some(conn), false, 1..=MAX_LEN) = (conn, buf.is_null(), len) else {
        return unsafe { recv_any(socket, buf, len) };
    };
    if !conn.can_recv_fast() {
        if conn.is_input_used_up() {
            return Status::WouldBlock.code().into();
        }
        return unsafe { recv_any(socket, buf, len) };
    }
    // SAFETY: the caller's contract, and a length that a slice may have; the buffer
    // is only written to.
    match conn.recv_fast(unsafe { slice::from_raw_parts_mut(buf.cast(), len) }) {
        Ok(n) => n as i64,
        Err(raw) => unsafe { recv_slow(conn, buf, len, raw) },
    }
}

/// Sends all `len` bytes at `buf`.
///
/// Blocking mode: the call returns when the kernel has them. After
/// NS_ERR_TIMEOUT (`io_timeout`) a part of them was sent and the rest will not
/// be. The size of that part is not known, so the stream is of use only to a
/// program that can find it out by other means. Non-blocking mode: the call sends
/// all of them or none; it copies what the kernel does not take, and the library
/// writes that later. There, what a callback sends after its first send is gathered,
/// see `ns_socket_flush`.
///
/// Returns: 0 or a negative status: NS_ERR_BUFFER_FULL (non-blocking mode: above
/// `send_limit`; nothing was sent), NS_ERR_TIMEOUT, NS_ERR_RESET, NS_ERR_CLOSED,
/// NS_ERR_DETACHED, NS_ERR_NOT_IN_HANDLER, NS_ERR_TLS, NS_ERR_NO_MEMORY,
/// NS_ERR_IO, NS_ERR_INVALID.
/// [handler] [blocks, in blocking mode]
#[no_mangle]
pub unsafe extern "C" fn ns_socket_send(
    socket: *mut ns_socket,
    buf: *const c_void,
    len: usize,
) -> ns_status {
    // SAFETY: as in `ns_socket_recv`.
    let conn = unsafe { socket.cast::<Conn>().as_mut() };
    let (Some(conn), false, ..=MAX_LEN) = (conn, buf.is_null(), len) else {
        return unsafe { send_any(socket, buf, len) };
    };
    if !conn.can_send_fast(len) {
        return unsafe { send_any(socket, buf, len) };
    }
    // SAFETY: the caller's contract, and a length that a slice may have.
    match conn.send_fast(unsafe { slice::from_raw_parts(buf.cast(), len) }) {
        Ok(()) => 0,
        Err(raw) => unsafe { send_slow(conn, buf, len, raw) },
    }
}

// The slow path. The contracts are those of the two functions above.

#[cold]
#[inline(never)]
unsafe extern "C" fn recv_any(socket: *mut ns_socket, buf: *mut c_void, len: usize) -> i64 {
    counted(|| unsafe { conn_of(socket) }?.recv_any(unsafe { room(buf, len) }?))
}

#[cold]
#[inline(never)]
unsafe extern "C" fn recv_slow(
    conn: &mut Conn,
    buf: *mut c_void,
    len: usize,
    raw: RawResult,
) -> i64 {
    counted(|| conn.recv_slow(raw, unsafe { room(buf, len) }?))
}

#[cold]
#[inline(never)]
unsafe extern "C" fn send_any(socket: *mut ns_socket, buf: *const c_void, len: usize) -> ns_status {
    status(|| unsafe { conn_of(socket) }?.send_any(unsafe { bytes(buf, len) }?))
}

#[cold]
#[inline(never)]
unsafe extern "C" fn send_slow(
    conn: &mut Conn,
    buf: *const c_void,
    len: usize,
    raw: RawResult,
) -> ns_status {
    status(|| conn.send_slow(raw, unsafe { bytes(buf, len) }?))
}
