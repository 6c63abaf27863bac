//! The handles of sockets and ids, and every cast between a handle and the
//! object behind it. `mod.rs` has the table of what each handle points to.

use std::sync::Arc;

use super::server::ns_server;
use super::support::{guard, null};
use crate::conn::Conn;
use crate::{Error, OwnedSocket, Socket, Status};

/// A connection. Borrowed in callbacks: valid only there, and only for the
/// connection that the callback is about. Owned when `ns_detach` or
/// `ns_socket_from_fd` returned it: valid until `ns_socket_free`,
/// `ns_socket_release_fd` or `ns_attach`.
pub struct ns_socket {
    _opaque: [u8; 0],
}

/// Names a connection: never 0, never given to another connection, safe to
/// keep forever and to use from any thread.
pub type ns_conn_id = u64;

/// The object behind a handle. For NULL an error that names `what`.
///
/// # Safety
/// `handle` is NULL or points to a live object. While the reference is in use,
/// the object changes only through its own interior.
pub(super) unsafe fn object<'a, T>(handle: *const T, what: &str) -> Result<&'a T, Error> {
    // SAFETY: the caller's promise.
    unsafe { handle.as_ref() }.ok_or_else(|| null(what))
}

/// What `read` returns for the object behind a handle, or `none` for NULL and
/// after a panic.
///
/// # Safety
/// As `object`.
pub(super) unsafe fn get<T, V: Copy>(handle: *const T, none: V, read: impl FnOnce(&T) -> V) -> V {
    // SAFETY: the caller's promise.
    guard(none, || unsafe { handle.as_ref() }.map_or(none, read))
}

/// The server behind a handle, if it is this process's own.
///
/// # Safety
/// `server` is NULL or valid.
pub(super) unsafe fn server_of<'a>(server: *const ns_server) -> Result<&'a ns_server, Error> {
    // SAFETY: the caller's promise.
    let this = unsafe { object(server, "server") }?;
    this.server.check_process()?;
    Ok(this)
}

/// Makes a handle of the program's share of an object.
pub(super) fn into_handle<T>(object: T) -> *mut T {
    Arc::into_raw(Arc::new(object)).cast_mut()
}

/// Another share of the object behind a handle; `None` for NULL.
///
/// # Safety
/// `handle` is NULL or valid, and `into_handle` or `Arc::as_ptr` made it.
pub(super) unsafe fn share<T>(handle: *const T) -> Option<Arc<T>> {
    if handle.is_null() {
        return None;
    }
    // SAFETY: the pointer is that of an Arc, and the count is raised before
    // the second owner exists.
    Some(unsafe {
        Arc::increment_strong_count(handle);
        Arc::from_raw(handle)
    })
}

/// Drops the program's share of the object behind a handle, if not NULL.
///
/// # Safety
/// `handle` is NULL, or `into_handle` made it and this is its last use.
pub(super) unsafe fn release<T>(handle: *mut T) {
    if !handle.is_null() {
        // SAFETY: `into_handle` left one share to the program, which ends here.
        drop(unsafe { Arc::from_raw(handle) });
    }
}

/// The handle that a callback gets.
pub(super) fn borrowed_handle(socket: &mut Socket<'_>) -> *mut ns_socket {
    socket.conn_ptr().cast()
}

/// The handle of a socket that the program now owns.
pub(super) fn owned_handle(socket: OwnedSocket) -> *mut ns_socket {
    socket.into_raw().cast()
}

/// The connection of a handle, whether or not the caller may use it now.
///
/// # Safety
/// As `usable_conn`.
pub(super) unsafe fn conn_of<'a>(socket: *const ns_socket) -> Result<&'a mut Conn, Status> {
    // SAFETY: a handle is the address of its Conn.
    unsafe { socket.cast_mut().cast::<Conn>().as_mut() }.ok_or(Status::Invalid)
}

/// The connection of a handle, if the caller may use it now.
///
/// # Safety
/// `socket` is NULL or a handle that is valid on this thread, and no other
/// reference that this module made of it is in use.
pub(super) unsafe fn usable_conn<'a>(socket: *const ns_socket) -> Result<&'a mut Conn, Status> {
    // SAFETY: the caller's promise.
    let conn = unsafe { conn_of(socket) }?;
    conn.check_usable()?;
    Ok(conn)
}

/// As `usable_conn`, and also a socket that its callback has just detached: the
/// program may still ask for its id, and raise an error for it.
///
/// # Safety
/// As `usable_conn`.
pub(super) unsafe fn reachable_conn<'a>(socket: *const ns_socket) -> Result<&'a mut Conn, Status> {
    // SAFETY: the caller's promise.
    let conn = unsafe { conn_of(socket) }?;
    match conn.check_usable() {
        Ok(()) | Err(Status::Detached) => Ok(conn),
        Err(status) => Err(status),
    }
}

/// An owned handle while its connection is moved out of it. Dropping it frees
/// the handle; after `put_back` the program goes on with the same pointer.
pub(super) struct EmptyHandle(Box<Conn>);

impl EmptyHandle {
    /// Moves the connection out of an owned handle.
    ///
    /// # Safety
    /// `socket` is NULL or valid, and nobody else uses it.
    pub unsafe fn take_from(socket: *mut ns_socket) -> Result<(EmptyHandle, OwnedSocket), Error> {
        let conn = socket.cast::<Conn>();
        // SAFETY: the caller's promise; a handle is the address of its Conn.
        match unsafe { conn.as_ref() } {
            None => return Err(null("socket")),
            Some(conn) if conn.is_owned() => {}
            Some(_) => return Err(Error::new(Status::Invalid, "the socket is not an owned one")),
        }
        // SAFETY: an owned one is a Box that `owned_handle` gave to the program.
        let mut handle = unsafe { Box::from_raw(conn) };
        let vacant = Conn::vacant(handle.context.clone());
        let socket = OwnedSocket::new(handle.replace(vacant));
        Ok((EmptyHandle(handle), socket))
    }

    /// Moves the connection back: the handle is the program's again.
    pub fn put_back(mut self, socket: OwnedSocket) {
        *self.0 = socket.take();
        let _ = Box::into_raw(self.0);
    }
}
