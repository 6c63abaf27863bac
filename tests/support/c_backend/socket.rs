//! `ns_socket`: the borrowed view of a callback, and the owned one of a detach.

use super::{check, text_of, ConnId, Error};
use net_server::ffi::*;
use std::any::Any;
use std::ffi::c_void;
use std::io::IoSlice;
use std::marker::PhantomData;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::null_mut;
use std::time::Duration;

/// The fields of the Rust API's struct, which only the crate can make.
pub struct PeerCredentials {
    pub pid: i32,
    pub uid: u32,
    pub gid: u32,
}

/// User data as the library carries it; emptied where the program takes it back.
type Slot = Option<Box<dyn Any + Send>>;

pub struct Socket<'a> {
    pub(super) raw: *mut ns_socket,
    life: PhantomData<&'a mut ()>,
}

pub(super) fn millis(time: Option<Duration>) -> u32 {
    time.map_or(0, |time| u32::try_from(time.as_millis()).unwrap_or(u32::MAX))
}

// SAFETY of all the calls below: `raw` is the socket of the callback that made this view, or of
// the owner that lent it; buffers are given with their lengths.
impl Socket<'_> {
    pub(super) fn of<'a>(raw: *mut ns_socket) -> Socket<'a> {
        Socket { raw, life: PhantomData }
    }

    /// The pointer, for tests of what a C program may do wrong.
    pub fn raw(&self) -> *mut ns_socket {
        self.raw
    }

    pub fn recv(&mut self, buffer: &mut [u8]) -> Result<usize, Error> {
        let n = unsafe { ns_socket_recv(self.raw, buffer.as_mut_ptr().cast(), buffer.len()) };
        usize::try_from(n).map_err(|_| Error::of(n as i32))
    }

    pub fn send(&mut self, bytes: &[u8]) -> Result<(), Error> {
        check(unsafe { ns_socket_send(self.raw, bytes.as_ptr().cast(), bytes.len()) })
    }

    pub fn sendv(&mut self, parts: &[IoSlice<'_>]) -> Result<(), Error> {
        let buffers: Vec<*const c_void> = parts.iter().map(|part| part.as_ptr().cast()).collect();
        let lens: Vec<usize> = parts.iter().map(|part| part.len()).collect();
        check(unsafe { ns_socket_sendv(self.raw, buffers.as_ptr(), lens.as_ptr(), parts.len()) })
    }

    pub fn sendfile(&mut self, file: impl AsFd, offset: u64, len: u64) -> Result<u64, Error> {
        let fd = file.as_fd().as_raw_fd();
        let n = unsafe { ns_socket_sendfile(self.raw, fd, offset, len) };
        u64::try_from(n).map_err(|_| Error::of(n as i32))
    }

    pub fn flush(&mut self) -> Result<(), Error> {
        check(unsafe { ns_socket_flush(self.raw) })
    }

    pub fn cork(&mut self) -> Result<(), Error> {
        check(unsafe { ns_socket_cork(self.raw) })
    }

    pub fn uncork(&mut self) -> Result<(), Error> {
        check(unsafe { ns_socket_uncork(self.raw) })
    }

    pub fn shutdown(&mut self, how: Shutdown) -> Result<(), Error> {
        let how = match how {
            Shutdown::Read => NS_SHUT_RD,
            Shutdown::Write => NS_SHUT_WR,
            Shutdown::Both => NS_SHUT_RDWR,
        };
        check(unsafe { ns_socket_shutdown(self.raw, how) })
    }

    pub fn close(&mut self) {
        unsafe { ns_socket_close(self.raw) };
    }

    pub fn abort(&mut self) {
        unsafe { ns_socket_abort(self.raw) };
    }

    pub fn is_closed(&self) -> bool {
        unsafe { ns_socket_is_closed(self.raw) != 0 }
    }

    pub fn id(&self) -> ConnId {
        ConnId::from_u64(unsafe { ns_socket_id(self.raw) }).expect("an id")
    }

    pub fn peer(&self) -> Option<SocketAddr> {
        text_of(|buf, len| unsafe { ns_socket_peer(self.raw, buf, len) }).parse().ok()
    }

    pub fn local(&self) -> Option<SocketAddr> {
        text_of(|buf, len| unsafe { ns_socket_local(self.raw, buf, len) }).parse().ok()
    }

    pub fn peer_name(&self) -> String {
        text_of(|buf, len| unsafe { ns_socket_peer(self.raw, buf, len) })
    }

    pub fn local_name(&self) -> String {
        text_of(|buf, len| unsafe { ns_socket_local(self.raw, buf, len) })
    }

    pub fn transport_peer_name(&self) -> String {
        text_of(|buf, len| unsafe { ns_socket_transport_peer(self.raw, buf, len) })
    }

    pub fn proxy_tlv(&self, kind: u8) -> Option<Vec<u8>> {
        let mut value = vec![0; 4096];
        let (room, len) = (value.as_mut_ptr().cast(), value.len());
        let n = unsafe { ns_socket_proxy_tlv(self.raw, kind.into(), room, len) };
        value.truncate(usize::try_from(n).ok()?);
        Some(value)
    }

    pub fn peer_credentials(&self) -> Result<PeerCredentials, Error> {
        let (mut pid, mut uid, mut gid) = (-1, 0, 0);
        check(unsafe { ns_socket_peer_credentials(self.raw, &mut pid, &mut uid, &mut gid) })?;
        Ok(PeerCredentials { pid, uid, gid })
    }

    pub fn service(&self) -> Option<usize> {
        usize::try_from(unsafe { ns_socket_service(self.raw) }).ok()
    }

    pub fn queued(&self) -> usize {
        unsafe { ns_socket_queued(self.raw) }
    }

    pub fn raw_fd(&self) -> RawFd {
        unsafe { ns_socket_fd(self.raw) }
    }

    pub fn os_error(&self) -> i32 {
        unsafe { ns_socket_os_error(self.raw) }
    }

    pub fn set_timer(&mut self, time: Option<Duration>) -> Result<(), Error> {
        check(unsafe { ns_socket_set_timer_ms(self.raw, millis(time)) })
    }

    pub fn set_io_timeout(&mut self, time: Option<Duration>) -> Result<(), Error> {
        check(unsafe { ns_socket_set_io_timeout_ms(self.raw, millis(time)) })
    }

    pub fn pause(&mut self) -> Result<(), Error> {
        check(unsafe { ns_socket_pause(self.raw) })
    }

    pub fn resume(&mut self) -> Result<(), Error> {
        check(unsafe { ns_socket_resume(self.raw) })
    }

    pub fn set_user_data<T: Any + Send>(&mut self, value: T) {
        let data = slot_with(value);
        check(unsafe { ns_socket_set_user_data(self.raw, data, Some(drop_slot)) }).unwrap();
    }

    pub fn user_data<T: Any>(&self) -> Option<&T> {
        unsafe { self.slot().as_ref() }?.as_ref()?.downcast_ref()
    }

    pub fn user_data_mut<T: Any>(&mut self) -> Option<&mut T> {
        unsafe { self.slot().as_mut() }?.as_mut()?.downcast_mut()
    }

    pub fn take_user_data<T: Any>(&mut self) -> Option<T> {
        let slot = unsafe { self.slot().as_mut() }?;
        if !slot.as_ref()?.is::<T>() {
            return None;
        }
        let value = slot.take()?.downcast().ok()?;
        check(unsafe { ns_socket_set_user_data(self.raw, null_mut(), None) }).unwrap();
        Some(*value)
    }

    fn slot(&self) -> *mut Slot {
        unsafe { ns_socket_user_data(self.raw).cast() }
    }
}

/// User data with a value, to be freed by [`drop_slot`].
pub(super) fn slot_with<T: Any + Send>(value: T) -> *mut c_void {
    let slot: Box<Slot> = Box::new(Some(Box::new(value)));
    Box::into_raw(slot).cast()
}

pub(super) unsafe extern "C-unwind" fn drop_slot(data: *mut c_void) {
    // SAFETY: made by `set_user_data`; the library calls this once.
    drop(unsafe { Box::from_raw(data.cast::<Slot>()) });
}

/// A detached socket.
pub struct OwnedSocket(*mut ns_socket);

// SAFETY: an owned socket may be used from any one thread at a time.
unsafe impl Send for OwnedSocket {}

impl OwnedSocket {
    pub(super) fn new(raw: *mut ns_socket) -> OwnedSocket {
        OwnedSocket(raw)
    }

    pub(super) fn raw(&self) -> *mut ns_socket {
        self.0
    }

    /// The socket has a new owner.
    pub(super) fn forget(mut self) {
        self.0 = null_mut();
    }

    pub fn socket(&mut self) -> Socket<'_> {
        Socket::of(self.0)
    }

    pub fn release_fd(self) -> Result<OwnedFd, (Error, OwnedSocket)> {
        // SAFETY: the socket is ours.
        let fd = unsafe { ns_socket_release_fd(self.0) };
        if fd < 0 {
            return Err((Error::of(fd), self));
        }
        self.forget();
        // SAFETY: the library gave the descriptor away.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }
}

impl Drop for OwnedSocket {
    fn drop(&mut self) {
        // SAFETY: the socket is ours, or NULL, which is harmless.
        unsafe { ns_socket_free(self.0) };
    }
}
