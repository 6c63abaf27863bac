//! The program's C functions as a `Handler` of the core.

use std::ptr;

use super::callbacks::{Callback, Callbacks};
use super::error::{ns_error, NS_ERR_WOULD_BLOCK};
use super::server::ns_server;
use super::types::{ns_handler_fn, ns_socket};
use crate::{CloseReason, Error, Handler, Server, Socket};

type HandlerFn =
    unsafe extern "C-unwind" fn(*mut ns_server, *mut ns_socket, *mut std::ffi::c_void) -> i32;

pub(super) struct CHandler {
    /// What callbacks get as their server: the object that `ns_server_new`
    /// gives the program. It outlives every callback.
    server: *mut ns_server,
    function: HandlerFn,
    handler: Callback<ns_handler_fn>,
    callbacks: Callbacks,
}

// SAFETY: `server` is only handed on, to functions that take it on any thread.
unsafe impl Send for CHandler {}
// SAFETY: as above.
unsafe impl Sync for CHandler {}

/// The core's default behaviour, for callbacks that are not set: a closure has
/// all the provided methods.
fn defaults() -> impl Handler {
    |_: &Server, _: &mut Socket<'_>| Ok::<(), Error>(())
}

fn handle(socket: &mut Socket<'_>) -> *mut ns_socket {
    socket.conn_ptr().cast()
}

/// What a callback's answer means: what it raised, else the number itself.
#[inline]
fn outcome(code: i32, socket: &mut Socket<'_>) -> Result<(), Error> {
    let fine = code >= 0 || code == NS_ERR_WOULD_BLOCK;
    if fine && !socket.conn().may_have_raised() {
        return Ok(());
    }
    other_outcome(fine, code, socket)
}

#[cold]
#[inline(never)]
fn other_outcome(fine: bool, code: i32, socket: &mut Socket<'_>) -> Result<(), Error> {
    let raised = socket.conn().take_raised();
    match fine {
        true => Ok(()),
        false => Err(raised.unwrap_or_else(|| socket.returned(code))),
    }
}

/// Forgets what was raised in a callback that cannot fail, so that it is not
/// taken for the reason of a later failure.
fn forget(socket: &mut Socket<'_>) {
    if socket.conn().may_have_raised() {
        drop(socket.conn().take_raised());
    }
}

impl CHandler {
    /// `None` if there is no function.
    pub fn new(
        server: *mut ns_server,
        handler: Callback<ns_handler_fn>,
        callbacks: Callbacks,
    ) -> Option<CHandler> {
        let function = handler.function?;
        Some(CHandler { server, function, handler, callbacks })
    }
}

// SAFETY, for all calls below: the program gave function and user data as a
// pair; the handles are valid during the call, which is what is promised.
impl Handler for CHandler {
    fn handle(&self, _: &Server, socket: &mut Socket<'_>) -> Result<(), Error> {
        // SAFETY: see above.
        let code = unsafe { (self.function)(self.server, handle(socket), self.handler.user_data) };
        outcome(code, socket)
    }

    fn on_start(&self, _: &Server) -> Result<(), Error> {
        let Callback { function: Some(call), user_data, .. } = self.callbacks.start else {
            return Ok(());
        };
        // SAFETY: see above.
        match unsafe { call(self.server, user_data) } {
            code if code < 0 => Err(Error::returned(code)),
            _ => Ok(()),
        }
    }

    fn on_stop(&self, _: &Server) {
        if let Callback { function: Some(call), user_data, .. } = self.callbacks.stop {
            // SAFETY: see above.
            unsafe { call(self.server, user_data) }
        }
    }

    fn on_open(&self, _: &Server, socket: &mut Socket<'_>) -> Result<(), Error> {
        let Callback { function: Some(call), user_data, .. } = self.callbacks.open else {
            return Ok(());
        };
        // SAFETY: see above.
        outcome(unsafe { call(self.server, handle(socket), user_data) }, socket)
    }

    fn on_close(&self, _: &Server, socket: &mut Socket<'_>, reason: CloseReason) {
        if let Callback { function: Some(call), user_data, .. } = self.callbacks.close {
            // SAFETY: see above.
            unsafe { call(self.server, handle(socket), reason as i32, user_data) };
            forget(socket);
        }
    }

    fn on_drain(&self, _: &Server, socket: &mut Socket<'_>) {
        if let Callback { function: Some(call), user_data, .. } = self.callbacks.drain {
            // SAFETY: see above.
            unsafe { call(self.server, handle(socket), user_data) };
            forget(socket);
        }
    }

    fn on_timeout(&self, server: &Server, socket: &mut Socket<'_>) {
        match self.callbacks.timeout {
            Callback { function: Some(call), user_data, .. } => {
                // SAFETY: see above.
                unsafe { call(self.server, handle(socket), user_data) };
                forget(socket);
            }
            _ => defaults().on_timeout(server, socket),
        }
    }

    fn on_wake(&self, _: &Server, socket: &mut Socket<'_>) {
        if let Callback { function: Some(call), user_data, .. } = self.callbacks.wake {
            // SAFETY: see above.
            unsafe { call(self.server, handle(socket), user_data) };
            forget(socket);
        }
    }

    fn on_exception(
        &self,
        server: &Server,
        socket: Option<&mut Socket<'_>>,
        error: &Error,
    ) -> Result<(), Error> {
        let Callback { function: Some(call), user_data, .. } = self.callbacks.exception else {
            return defaults().on_exception(server, socket, error);
        };
        let error = ns_error::borrowed(error);
        match socket {
            Some(socket) => {
                // SAFETY: see above; `error` outlives the call.
                outcome(unsafe { call(self.server, handle(socket), &error, user_data) }, socket)
            }
            // SAFETY: see above; `error` outlives the call.
            None => match unsafe { call(self.server, ptr::null_mut(), &error, user_data) } {
                code if code < 0 => Err(Error::returned(code)),
                _ => Ok(()),
            },
        }
    }

    fn on_shutdown(&self, server: &Server, socket: &mut Socket<'_>) -> Result<bool, Error> {
        match self.callbacks.shutdown {
            Callback { function: Some(call), user_data, .. } => {
                // SAFETY: see above.
                let answer = unsafe { call(self.server, handle(socket), user_data) };
                forget(socket);
                Ok(answer != 0)
            }
            _ => defaults().on_shutdown(server, socket),
        }
    }
}
