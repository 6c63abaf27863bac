//! The program's C functions as a `Handler` of the core.

// SAFETY of the blocks without a comment: the caller's contract, see `mod.rs`.
#![allow(clippy::undocumented_unsafe_blocks)]

use std::ffi::c_void;
use std::ptr;

use super::callbacks::Callbacks;
use super::error::{ns_error, NS_ERR_WOULD_BLOCK};
use super::handles::{borrowed_handle, ns_socket};
use super::raise::without_socket;
use super::server::{ns_handler_fn, ns_server};
use super::user_data::Callback;
use crate::{CloseReason, Error, Handler, Server, Socket, Status, ThreadKind};

type HandlerFn = unsafe extern "C-unwind" fn(*mut ns_server, *mut ns_socket, *mut c_void) -> i32;

pub(super) struct CHandler {
    /// The argument for callbacks: the object that `ns_server_new` returns to
    /// the program. It outlives every callback.
    server: *mut ns_server,
    function: HandlerFn,
    handler: Callback<ns_handler_fn>,
    callbacks: Callbacks,
}

// SAFETY: `server` is only passed on, to functions that may get it on any thread.
unsafe impl Send for CHandler {}
// SAFETY: as for Send.
unsafe impl Sync for CHandler {}

/// The core's default behaviour, for callbacks that are not set: a closure has
/// all the provided methods of `Handler`.
fn defaults() -> impl Handler {
    |_: &Server, _: &mut Socket<'_>| Ok::<(), Error>(())
}

/// The result of a callback that returned `code`. A failure is the error that it
/// raised, else one that is made of the number.
#[inline]
fn outcome(code: i32, socket: &mut Socket<'_>) -> Result<(), Error> {
    let success = code >= 0 || code == NS_ERR_WOULD_BLOCK;
    if success && !socket.conn().may_have_raised() {
        return Ok(());
    }
    outcome_slow(success, code, socket)
}

#[cold]
#[inline(never)]
fn outcome_slow(success: bool, code: i32, socket: &mut Socket<'_>) -> Result<(), Error> {
    let raised = socket.conn().take_raised();
    match success {
        true => Ok(()),
        false => Err(raised.unwrap_or_else(|| socket.handler_error(code))),
    }
}

/// Drops what was raised in a callback that cannot fail, so that no later failure
/// is reported with it.
fn drop_raised(socket: &mut Socket<'_>) {
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

// The calls of the program's functions: the program gave function and user data as
// a pair, and the handles are valid during the call, as the header promises.
impl Handler for CHandler {
    fn handle(&self, _: &Server, socket: &mut Socket<'_>) -> Result<(), Error> {
        let code = unsafe {
            (self.function)(self.server, borrowed_handle(socket), self.handler.user_data)
        };
        outcome(code, socket)
    }

    fn on_start(&self, _: &Server) -> Result<(), Error> {
        let Callback { function: Some(call), user_data, .. } = self.callbacks.start else {
            return Ok(());
        };
        without_socket(|| unsafe { call(self.server, user_data) })
    }

    fn on_stop(&self, _: &Server) {
        if let Callback { function: Some(call), user_data, .. } = self.callbacks.stop {
            unsafe { call(self.server, user_data) }
        }
    }

    fn on_quiesce(&self, _: &Server) {
        if let Callback { function: Some(call), user_data, .. } = self.callbacks.quiesce {
            unsafe { call(self.server, user_data) }
        }
    }

    fn on_thread_start(&self, _: &Server, kind: ThreadKind, number: usize) -> Result<(), Error> {
        let Callback { function: Some(call), user_data, .. } = self.callbacks.thread_start else {
            return Ok(());
        };
        without_socket(|| unsafe { call(self.server, kind as i32, number as u32, user_data) })
    }

    fn on_thread_stop(&self, _: &Server, kind: ThreadKind, number: usize) {
        if let Callback { function: Some(call), user_data, .. } = self.callbacks.thread_stop {
            unsafe { call(self.server, kind as i32, number as u32, user_data) }
        }
    }

    fn on_open(&self, _: &Server, socket: &mut Socket<'_>) -> Result<(), Error> {
        let Callback { function: Some(call), user_data, .. } = self.callbacks.open else {
            return Ok(());
        };
        outcome(unsafe { call(self.server, borrowed_handle(socket), user_data) }, socket)
    }

    fn on_close(&self, _: &Server, socket: &mut Socket<'_>, reason: CloseReason) {
        if let Callback { function: Some(call), user_data, .. } = self.callbacks.close {
            unsafe { call(self.server, borrowed_handle(socket), reason as i32, user_data) };
            drop_raised(socket);
        }
    }

    fn on_drain(&self, _: &Server, socket: &mut Socket<'_>) -> Result<(), Error> {
        let Callback { function: Some(call), user_data, .. } = self.callbacks.drain else {
            return Ok(());
        };
        outcome(unsafe { call(self.server, borrowed_handle(socket), user_data) }, socket)
    }

    fn on_timeout(&self, server: &Server, socket: &mut Socket<'_>) -> Result<(), Error> {
        match self.callbacks.timeout {
            Callback { function: Some(call), user_data, .. } => {
                outcome(unsafe { call(self.server, borrowed_handle(socket), user_data) }, socket)
            }
            _ => defaults().on_timeout(server, socket),
        }
    }

    fn on_wake(&self, _: &Server, socket: &mut Socket<'_>) -> Result<(), Error> {
        let Callback { function: Some(call), user_data, .. } = self.callbacks.wake else {
            return Ok(());
        };
        outcome(unsafe { call(self.server, borrowed_handle(socket), user_data) }, socket)
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
                // SAFETY: the caller's contract; `error` outlives the call.
                outcome(
                    unsafe { call(self.server, borrowed_handle(socket), &error, user_data) },
                    socket,
                )
            }
            // SAFETY: the caller's contract; `error` outlives the call.
            None => {
                without_socket(|| unsafe { call(self.server, ptr::null_mut(), &error, user_data) })
            }
        }
    }

    fn on_shutdown(&self, server: &Server, socket: &mut Socket<'_>) -> Result<bool, Error> {
        match self.callbacks.shutdown {
            Callback { function: Some(call), user_data, .. } => {
                let code = unsafe { call(self.server, borrowed_handle(socket), user_data) };
                drop_raised(socket);
                if code == Status::WouldBlock.code() && socket.is_on_loop() {
                    return Err(Status::WouldBlock.into());
                }
                Ok(code != 0)
            }
            _ => defaults().on_shutdown(server, socket),
        }
    }

    fn has_on_shutdown(&self) -> bool {
        self.callbacks.shutdown.function.is_some()
    }
}
