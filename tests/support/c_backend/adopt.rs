//! Sockets of the program's, and connects.

use super::socket::{drop_slot, millis, slot_with, OwnedSocket};
use super::{c_text, ConnId, Error, Server};
use net_server::ffi::*;
use std::any::Any;
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};
use std::ptr::null_mut;
use std::time::Duration;

#[derive(Debug)]
pub struct AdoptError {
    pub error: Error,
    pub fd: OwnedFd,
}

fn id_or_error(id: ns_conn_id, error: *mut ns_error) -> Result<ConnId, Error> {
    match ConnId::from_u64(id) {
        Some(id) => {
            assert!(error.is_null(), "success with an error");
            Ok(id)
        }
        // SAFETY: a failed call has set it.
        None => Err(unsafe { Error::taken(error) }),
    }
}

impl Server {
    pub fn adopt(
        &self,
        socket: impl Into<OwnedFd>,
        user_data: impl Any + Send,
    ) -> Result<ConnId, AdoptError> {
        let fd = socket.into().into_raw_fd();
        let (mut error, data) = (null_mut(), slot_with(user_data));
        // SAFETY: the descriptor is given away; the data goes with its drop function.
        let id = unsafe { ns_server_adopt(self.raw(), fd, data, Some(drop_slot), &mut error) };
        // SAFETY: after a failure the descriptor is the caller's.
        id_or_error(id, error)
            .map_err(|error| AdoptError { error, fd: unsafe { OwnedFd::from_raw_fd(fd) } })
    }

    pub fn connect(
        &self,
        service: &str,
        timeout: Option<Duration>,
        user_data: impl Any + Send,
    ) -> Result<ConnId, Error> {
        let (mut error, data) = (null_mut(), slot_with(user_data));
        let (service, timeout) = (c_text(service), millis(timeout));
        // SAFETY: as above.
        let id = unsafe {
            let drop = Some(drop_slot as _);
            ns_server_connect(self.raw(), service.as_ptr(), timeout, data, drop, &mut error)
        };
        id_or_error(id, error)
    }
}

impl OwnedSocket {
    pub fn from_fd(socket: impl Into<OwnedFd>) -> Result<OwnedSocket, AdoptError> {
        let fd = socket.into().into_raw_fd();
        let mut error = null_mut();
        // SAFETY: the descriptor is given away.
        let owned = unsafe { ns_socket_from_fd(fd, &mut error) };
        if !owned.is_null() {
            return Ok(OwnedSocket::new(owned));
        }
        // SAFETY: a failed call has set the error, and the descriptor is the caller's.
        let (error, fd) = unsafe { (Error::taken(error), OwnedFd::from_raw_fd(fd)) };
        Err(AdoptError { error, fd })
    }
}
