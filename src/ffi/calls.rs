//! Calls by connection id, from any thread.

use std::ffi::c_void;
use std::slice;

use super::server::{alive, ns_server};
use super::socket::bytes;
use super::support::{guard, status};
use super::types::{ns_conn_id, ns_foreach_fn, ns_status};
use crate::{ConnId, Error, Server, Status};

/// 0 names no connection, so it is answered as one that is gone.
fn known(id: ns_conn_id) -> Result<ConnId, Error> {
    ConnId::from_u64(id).ok_or(Error::from(Status::Closed))
}

/// One call on one connection.
unsafe fn on(
    server: *mut ns_server,
    id: ns_conn_id,
    call: impl FnOnce(&Server, ConnId) -> Result<(), Error>,
) -> ns_status {
    // SAFETY: the caller's contract.
    status(|| call(&unsafe { alive(server) }?.server, known(id)?))
}

/// A count, or the negative status.
fn counted(body: impl FnOnce() -> Result<usize, Error>) -> i64 {
    guard(Status::Panic.code().into(), || match body() {
        Ok(count) => count as i64,
        Err(error) => error.status().code().into(),
    })
}

/// Queues `len` bytes for a connection of a non-blocking server; they are
/// copied. 0 means accepted, not delivered; what one thread sends stays in
/// order. NS_ERR_CLOSED for an id that is gone (and 0), NS_ERR_BUFFER_FULL
/// (nothing is queued), NS_ERR_NOT_NON_BLOCKING, NS_ERR_INVALID. [any]
#[no_mangle]
pub unsafe extern "C" fn ns_server_send(
    server: *mut ns_server,
    id: ns_conn_id,
    buf: *const c_void,
    len: usize,
) -> ns_status {
    // SAFETY: the caller's contract.
    unsafe { on(server, id, |s, id| s.send(id, bytes(buf, len)?)) }
}

/// Closes a connection as `ns_socket_close`, of a server of either mode; a worker
/// in the middle of a `send` loses the rest, which ends in a reset. 0 or
/// NS_ERR_CLOSED, NS_ERR_INVALID. [any]
#[no_mangle]
pub unsafe extern "C" fn ns_server_close(server: *mut ns_server, id: ns_conn_id) -> ns_status {
    // SAFETY: the caller's contract.
    unsafe { on(server, id, |s, id| s.close(id)) }
}

/// Resets a connection as `ns_socket_abort`, of a server of either mode. 0 or
/// NS_ERR_CLOSED, NS_ERR_INVALID. [any]
#[no_mangle]
pub unsafe extern "C" fn ns_server_abort(server: *mut ns_server, id: ns_conn_id) -> ns_status {
    // SAFETY: the caller's contract.
    unsafe { on(server, id, |s, id| s.abort(id)) }
}

/// Has `on_wake` called for a connection of a non-blocking server, on its loop;
/// once for all calls before it runs.
/// 0 or NS_ERR_CLOSED, NS_ERR_NOT_NON_BLOCKING, NS_ERR_INVALID. [any]
#[no_mangle]
pub unsafe extern "C" fn ns_server_wake(server: *mut ns_server, id: ns_conn_id) -> ns_status {
    // SAFETY: the caller's contract.
    unsafe { on(server, id, |s, id| s.wake(id)) }
}

/// `ns_server_send` of the same bytes to `n` connections; one copy is made for
/// all. Returns how many accepted it: ids that are gone and full queues are
/// left out. Or a negative status: NS_ERR_CLOSED (not running),
/// NS_ERR_NOT_NON_BLOCKING, NS_ERR_INVALID. [any]
#[no_mangle]
pub unsafe extern "C" fn ns_server_broadcast(
    server: *mut ns_server,
    ids: *const ns_conn_id,
    n: usize,
    buf: *const c_void,
    len: usize,
) -> i64 {
    counted(|| {
        // SAFETY: the caller's contract.
        let (server, data) = unsafe { (alive(server)?, bytes(buf, len)?) };
        if n > isize::MAX as usize / size_of::<ns_conn_id>() || (ids.is_null() && n > 0) {
            return Err(Error::from(Status::Invalid));
        }
        // SAFETY: the caller's contract; n ids fit in memory.
        let ids = if n == 0 { &[] } else { unsafe { slice::from_raw_parts(ids, n) } };
        let ids: Vec<ConnId> = ids.iter().filter_map(|id| ConnId::from_u64(*id)).collect();
        server.server.broadcast(&ids, data)
    })
}

/// Calls `function` with the id of each connection that is open now, on the
/// calling thread, until it returns nonzero. It may call anything. Returns how
/// many ids it saw, or a negative status: NS_ERR_NOT_NON_BLOCKING,
/// NS_ERR_INVALID. [any] [blocks]
#[no_mangle]
pub unsafe extern "C" fn ns_server_foreach(
    server: *mut ns_server,
    function: ns_foreach_fn,
    user_data: *mut c_void,
) -> i64 {
    counted(|| {
        // SAFETY: the caller's contract.
        let ids = unsafe { alive(server) }?.server.connections()?;
        let function = function.ok_or(Status::Invalid)?;
        // SAFETY: the program gave function and user data as a pair.
        let last = ids.iter().position(|id| unsafe { function(id.get(), user_data) } != 0);
        Ok(last.map_or(ids.len(), |at| at + 1))
    })
}
