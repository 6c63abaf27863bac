//! `ns_socket_recv`, `ns_socket_send` and `ns_socket_sendfile`.
//!
//! The first two test their arguments and the connection's flags once and make the
//! system call. That is the fast path. Everything else goes the slow path, in
//! functions of its own that get all the arguments, so that the fast path needs
//! no stack frame.

// SAFETY of the blocks without a comment: the caller's contract, see `mod.rs`.
#![allow(clippy::undocumented_unsafe_blocks)]

use std::ffi::{c_int, c_void};
use std::os::fd::BorrowedFd;
use std::slice;

use super::error::ns_status;
use super::handles::{conn_of, ns_socket};
use super::support::{bytes, counted, guard, room, status, MAX_LEN};
use crate::conn::{Conn, RawResult};
use crate::{Error, Status};

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

/// Sends `len` bytes of a file from `offset` on, as `ns_socket_send` would send them,
/// and returns how many it has accepted. The offset of the descriptor `fd` does not
/// count and stays as it is. `fd` is yours.
///
/// Non-blocking mode: the call accepts as many as the kernel takes now, 1 MiB at
/// most, and queues up to 64 KiB behind them. Where that is fewer than `len`,
/// `on_drain` comes when you can go on with the rest; until then the call accepts 0.
/// Without TLS the kernel takes the bytes from the file by itself (sendfile(2)): what
/// changes in the file before the peer has acknowledged it may change in what the
/// peer gets. Up to 16 KiB that come after another send are read and gathered
/// (`ns_socket_flush`); a head that `ns_socket_cork` has gathered leaves together with
/// the file. Blocking mode, and an owned socket: the call accepts all, and
/// `io_timeout` holds for each 64 KiB. Each mode waits for a slow disk.
///
/// Returns: the number of bytes, or a negative status: NS_ERR_IO where the file
/// cannot be read, or ends before these bytes do (the connection stays open, and a
/// part may have been sent); NS_ERR_INVALID for a negative `fd` and for an end beyond
/// 2^63 - 1; else those of `ns_socket_send`.
/// [handler] [blocks, in blocking mode]
#[no_mangle]
pub unsafe extern "C" fn ns_socket_sendfile(
    socket: *mut ns_socket,
    fd: c_int,
    offset: u64,
    len: u64,
) -> i64 {
    let call = || {
        let conn = unsafe { conn_of(socket) }?;
        if fd < 0 {
            return Err(Error::from(Status::Invalid));
        }
        // SAFETY: the caller's contract; one that is not open is an error of the
        // kernel's.
        conn.sendfile(unsafe { BorrowedFd::borrow_raw(fd) }, offset, len)
    };
    guard(Status::Panic.code().into(), || match call() {
        Ok(sent) => sent as i64,
        Err(error) => error.status().code().into(),
    })
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
