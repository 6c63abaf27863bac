//! The further services of a server.

// SAFETY of the blocks without a comment: the caller's contract, see `mod.rs`.
#![allow(clippy::undocumented_unsafe_blocks)]

use std::ffi::c_char;

use super::error::{ns_error, ns_status};
use super::handles::{object, server_of};
use super::server::ns_server;
use super::support::{give_text, guard, text, with_err};
use super::tls::ns_tls;
use crate::Status;

/// Adds a service without TLS: the server listens there too when it starts.
/// `service` is as for `ns_server_new`, but NULL is an error. The service of
/// `ns_server_new` has the number 0, and the config's TLS is for that one alone.
/// All services share the server's handler, callbacks, threads and limits;
/// accepting takes turns. If one of them cannot listen, the start fails. A server
/// has at most 4096 services. `err`: see RESULTS.
///
/// Returns: the service's number, 1 or more; or NS_ERR_INVALID, NS_ERR_STATE (the
/// server has been started).
/// [setup]
#[no_mangle]
pub unsafe extern "C" fn ns_server_add_service(
    server: *mut ns_server,
    service: *const c_char,
    err: *mut *mut ns_error,
) -> i32 {
    let body = || {
        let (server, service) = unsafe { (server_of(server)?, text(service, "service")?) };
        Ok(server.server.add_service(service)? as i32)
    };
    unsafe { with_err(err, Status::code, body) }
}

/// Adds a service as `ns_server_add_service` does, one whose connections go through
/// TLS with the certificates of `tls`. That is frozen from now on; the server takes
/// its own share of it. NULL is an error: it makes no service without TLS.
///
/// Returns: the service's number, 1 or more; or NS_ERR_INVALID, NS_ERR_STATE (the
/// server has been started, or a setter of `tls` came too late),
/// NS_ERR_CERTIFICATE (no certificate), NS_ERR_TLS, or the remembered failure of a
/// setter of `tls`.
/// [setup]
#[no_mangle]
pub unsafe extern "C" fn ns_server_add_service_tls(
    server: *mut ns_server,
    service: *const c_char,
    tls: *const ns_tls,
    err: *mut *mut ns_error,
) -> i32 {
    let body = || {
        let (server, service) = unsafe { (server_of(server)?, text(service, "service")?) };
        let tls = unsafe { object(tls, "TLS object") }?;
        Ok(server.server.add_service_tls(service, tls.settings()?)? as i32)
    };
    unsafe { with_err(err, Status::code, body) }
}

/// Does for one service what `ns_server_reload_tls` does for the first.
///
/// Returns: as `ns_server_reload_tls`; NS_ERR_INVALID also for a number that no
/// service has.
/// [any] [blocks]
#[no_mangle]
pub unsafe extern "C" fn ns_server_reload_service_tls(
    server: *mut ns_server,
    service: u32,
    tls: *const ns_tls,
    err: *mut *mut ns_error,
) -> ns_status {
    let body = || {
        let (server, tls) = unsafe { (server_of(server)?, object(tls, "TLS object")?) };
        server.server.try_reload_tls(service as usize, tls.settings())?;
        Ok(Status::Ok.code())
    };
    unsafe { with_err(err, Status::code, body) }
}

/// Writes the address that one service listens on, as `ns_server_address` does for
/// the first; "" also for a number that no service has.
///
/// Returns: the length of the whole text without the NUL.
/// [any]
#[no_mangle]
pub unsafe extern "C" fn ns_server_service_address(
    server: *const ns_server,
    service: u32,
    buf: *mut c_char,
    len: usize,
) -> usize {
    guard(0, || {
        let server = unsafe { server_of(server) };
        let address = server.map(|s| s.server.service_address(service as usize));
        unsafe { give_text(&address.unwrap_or_default(), buf, len) }
    })
}
