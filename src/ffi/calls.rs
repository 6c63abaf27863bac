//! Calls by connection id, from any thread.

// SAFETY of the blocks without a comment: the caller's contract, see `mod.rs`.
#![allow(clippy::undocumented_unsafe_blocks)]

use std::ffi::c_void;

use super::error::ns_status;
use super::handles::{ns_conn_id, server_of};
use super::server::ns_server;
use super::socket::directions;
use super::support::{array, bytes, counted, status, MAX_LEN};
use crate::{ConnId, Error, Server, Status};

/// 0 names no connection: it gives the same error as an id that is gone.
fn conn_id(id: ns_conn_id) -> Result<ConnId, Error> {
    ConnId::from_u64(id).ok_or(Error::from(Status::Closed))
}

/// One call for one connection.
///
/// # Safety
/// The caller's contract.
unsafe fn with_id(
    server: *mut ns_server,
    id: ns_conn_id,
    call: impl FnOnce(&Server, ConnId) -> Result<(), Error>,
) -> ns_status {
    status(|| call(&unsafe { server_of(server) }?.server, conn_id(id)?))
}

/// Queues `len` bytes for a connection of a non-blocking server; the bytes are
/// copied. What one thread sends stays in order. What a callback sends to another
/// connection of its own loop leaves as `ns_socket_send` there would: the first bytes
/// immediately, what comes after them together, in the same turn of the loop.
///
/// Returns: 0 when the bytes are accepted, which is not yet delivered; or
/// NS_ERR_CLOSED (the id is gone, or 0), NS_ERR_BUFFER_FULL (nothing is queued),
/// NS_ERR_NOT_NON_BLOCKING, NS_ERR_INVALID.
/// [any]
#[no_mangle]
pub unsafe extern "C" fn ns_server_send(
    server: *mut ns_server,
    id: ns_conn_id,
    buf: *const c_void,
    len: usize,
) -> ns_status {
    unsafe { with_id(server, id, |s, id| s.send(id, bytes(buf, len)?)) }
}

/// Closes a connection as `ns_socket_close` does, on a server of either mode. A
/// worker in the middle of a `send` loses the rest, which ends in a reset.
///
/// Returns: 0, NS_ERR_CLOSED or NS_ERR_INVALID.
/// [any]
#[no_mangle]
pub unsafe extern "C" fn ns_server_close(server: *mut ns_server, id: ns_conn_id) -> ns_status {
    unsafe { with_id(server, id, |s, id| s.close(id)) }
}

/// Resets a connection as `ns_socket_abort` does, on a server of either mode.
///
/// Returns: 0, NS_ERR_CLOSED or NS_ERR_INVALID.
/// [any]
#[no_mangle]
pub unsafe extern "C" fn ns_server_abort(server: *mut ns_server, id: ns_conn_id) -> ns_status {
    unsafe { with_id(server, id, |s, id| s.abort(id)) }
}

/// Has the library call `on_wake` for a connection of a non-blocking server, on
/// its loop; once for all calls before it runs.
///
/// Returns: 0, NS_ERR_CLOSED, NS_ERR_NOT_NON_BLOCKING or NS_ERR_INVALID.
/// [any]
#[no_mangle]
pub unsafe extern "C" fn ns_server_wake(server: *mut ns_server, id: ns_conn_id) -> ns_status {
    unsafe { with_id(server, id, |s, id| s.wake(id)) }
}

/// `ns_server_send` of the same bytes to `n` connections, which share one copy.
///
/// Returns: how many connections accepted the bytes: ids that are gone and full
/// queues are left out; or a negative status: NS_ERR_CLOSED (before the start
/// or after the stop), NS_ERR_NOT_NON_BLOCKING, NS_ERR_INVALID.
/// [any]
#[no_mangle]
pub unsafe extern "C" fn ns_server_broadcast(
    server: *mut ns_server,
    ids: *const ns_conn_id,
    n: usize,
    buf: *const c_void,
    len: usize,
) -> i64 {
    counted(|| {
        let (server, data, ids) =
            unsafe { (server_of(server)?, bytes(buf, len)?, array(ids, n, MAX_LEN, "ids")?) };
        let ids: Vec<ConnId> = ids.iter().filter_map(|id| ConnId::from_u64(*id)).collect();
        server.server.broadcast(&ids, data)
    })
}

/// `ns_server_broadcast` that tells how it went with each connection:
/// `statuses[i]`, of `n`, becomes what `ns_server_send` to `ids[i]` would have
/// returned. Where this call fails nothing is written.
///
/// Returns: as `ns_server_broadcast`.
/// [any]
#[no_mangle]
pub unsafe extern "C" fn ns_server_broadcast_each(
    server: *mut ns_server,
    ids: *const ns_conn_id,
    n: usize,
    buf: *const c_void,
    len: usize,
    statuses: *mut ns_status,
) -> i64 {
    counted(|| {
        let (server, data, ids) =
            unsafe { (server_of(server)?, bytes(buf, len)?, array(ids, n, MAX_LEN, "ids")?) };
        if statuses.is_null() && n > 0 {
            return Err(Error::new(Status::Invalid, "the statuses are NULL"));
        }
        // 0 names no connection.
        let named: Vec<ConnId> = ids.iter().filter_map(|id| ConnId::from_u64(*id)).collect();
        let mut results = server.server.broadcast_each(&named, data)?.into_iter();
        let mut accepted = 0;
        for (i, id) in ids.iter().enumerate() {
            let result = match id {
                0 => Err(Status::Closed),
                _ => results.next().unwrap_or(Err(Status::Closed)),
            };
            accepted += usize::from(result.is_ok());
            // SAFETY: there are `n` of them, the caller says; not NULL, see above.
            unsafe { *statuses.add(i) = result.map_or_else(Status::code, |()| 0) };
        }
        Ok::<_, Error>(accepted)
    })
}

/// Counts what was accepted for a connection of a non-blocking server, by id or
/// directly, and is not with the kernel.
///
/// Returns: the number of bytes; or a negative status: NS_ERR_CLOSED,
/// NS_ERR_NOT_NON_BLOCKING, NS_ERR_INVALID.
/// [any]
#[no_mangle]
pub unsafe extern "C" fn ns_server_queued(server: *mut ns_server, id: ns_conn_id) -> i64 {
    counted(|| unsafe { server_of(server) }?.server.queued(conn_id(id)?))
}

/// Ends one direction of a connection of a non-blocking server, or both, as
/// `ns_socket_shutdown` does: NS_SHUT_RD, NS_SHUT_WR, NS_SHUT_RDWR. What was accepted
/// before this call leaves first; from now on `ns_server_send` returns NS_ERR_CLOSED
/// where the sending side ends.
///
/// Returns: 0, NS_ERR_CLOSED, NS_ERR_NOT_NON_BLOCKING or NS_ERR_INVALID.
/// [any]
#[no_mangle]
pub unsafe extern "C" fn ns_server_shutdown(
    server: *mut ns_server,
    id: ns_conn_id,
    how: i32,
) -> ns_status {
    unsafe { with_id(server, id, |s, id| s.shutdown(id, directions(how)?)) }
}

/// Called by `ns_server_foreach` for each id.
///
/// Returns: 0 to go on; another number ends the walk.
pub type ns_foreach_fn =
    Option<unsafe extern "C-unwind" fn(id: ns_conn_id, user_data: *mut c_void) -> i32>;

/// Calls `function` with the id of each connection that is open now, on the
/// calling thread, until it returns a number that is not 0. The function may make
/// any call.
///
/// Returns: for how many ids it was called; or a negative status:
/// NS_ERR_NOT_NON_BLOCKING, NS_ERR_INVALID.
/// [any] [blocks]
#[no_mangle]
pub unsafe extern "C" fn ns_server_foreach(
    server: *mut ns_server,
    function: ns_foreach_fn,
    user_data: *mut c_void,
) -> i64 {
    counted(|| {
        let ids = unsafe { server_of(server) }?.server.connections()?;
        let function = function.ok_or(Status::Invalid)?;
        // SAFETY: the program gave function and user data as a pair.
        let last = ids.iter().position(|id| unsafe { function(id.get(), user_data) } != 0);
        Ok::<_, Error>(last.map_or(ids.len(), |at| at + 1))
    })
}
