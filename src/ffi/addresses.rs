//! The addresses of the two sides of a connection, as text and as structures.

// SAFETY of the blocks without a comment: the caller's contract, see `mod.rs`.
#![allow(clippy::undocumented_unsafe_blocks)]

use std::ffi::{c_char, c_void};
use std::ptr;

use socket2::SockAddr;

use super::handles::{ns_socket, reachable_conn};
use super::support::{give_text, guard};
use crate::conn::Conn;
use crate::Socket;

/// Gives an address as text, "" where it is not known.
///
/// # Safety
/// The caller's contract.
pub(super) unsafe fn give_address(
    socket: *const ns_socket,
    buf: *mut c_char,
    len: usize,
    address: impl FnOnce(&Socket<'_>) -> String,
) -> usize {
    guard(0, || {
        let conn = unsafe { reachable_conn(socket) };
        let text = conn.map_or(String::new(), |conn| address(&Socket::of(conn)));
        unsafe { give_text(&text, buf, len) }
    })
}

/// Writes the peer's address as text: "127.0.0.1:4711", "[::1]:4711"; for a unix
/// socket "unix:" and the peer's own path or "@" and abstract name, which few have;
/// "" where it is not known. A PROXY header may have announced it
/// (`ns_config_set_proxy_protocol`). It writes as `snprintf` does: at most `len`
/// bytes with the final NUL.
///
/// Returns: the length of the whole text without the NUL.
/// [handler]
#[no_mangle]
pub unsafe extern "C" fn ns_socket_peer(
    socket: *const ns_socket,
    buf: *mut c_char,
    len: usize,
) -> usize {
    unsafe { give_address(socket, buf, len, |s| s.peer_name()) }
}

/// Writes the address of this side, as `ns_socket_peer` does.
///
/// Returns: the length of the whole text without the NUL.
/// [handler]
#[no_mangle]
pub unsafe extern "C" fn ns_socket_local(
    socket: *const ns_socket,
    buf: *mut c_char,
    len: usize,
) -> usize {
    unsafe { give_address(socket, buf, len, |s| s.local_name()) }
}

/// Gives an address as its structure.
///
/// # Safety
/// The caller's contract.
unsafe fn give_structure(
    socket: *const ns_socket,
    addr: *mut c_void,
    len: usize,
    address: impl FnOnce(&Conn) -> Option<SockAddr>,
) -> usize {
    guard(0, || {
        let Ok(conn) = (unsafe { reachable_conn(socket) }) else { return 0 };
        let Some(address) = address(conn) else { return 0 };
        let whole = address.len() as usize;
        if !addr.is_null() {
            // SAFETY: the caller says that `len` bytes can be written; the
            // address has `whole` bytes.
            unsafe { ptr::copy_nonoverlapping(address.as_ptr().cast(), addr, whole.min(len)) };
        }
        whole
    })
}

/// Writes the peer's address as getpeername(2) does: a `struct sockaddr_in`, `_in6`
/// or `_un` of the system, at most `len` bytes of it (NULL: none). An IPv4-mapped
/// address is written as IPv4. A `struct sockaddr_storage` holds each of them.
///
/// Returns: the length of the whole address; 0 where it is not known, and for NULL.
/// [handler]
#[no_mangle]
pub unsafe extern "C" fn ns_socket_peer_addr(
    socket: *const ns_socket,
    addr: *mut c_void,
    len: usize,
) -> usize {
    unsafe { give_structure(socket, addr, len, Conn::peer_structure) }
}

/// Writes the address of this side, as `ns_socket_peer_addr` does.
///
/// Returns: the length of the whole address; 0 where it is not known, and for NULL.
/// [handler]
#[no_mangle]
pub unsafe extern "C" fn ns_socket_local_addr(
    socket: *const ns_socket,
    addr: *mut c_void,
    len: usize,
) -> usize {
    unsafe { give_structure(socket, addr, len, Conn::local_structure) }
}
