//! The one way into the program's code: how callbacks run, what becomes of
//! their failures and panics, and which server's callbacks a thread is in.

#![forbid(unsafe_code)]

use std::any::Any;
use std::cell::RefCell;
use std::mem::ManuallyDrop;
use std::panic::{catch_unwind, AssertUnwindSafe};

use crate::conn::{flag, Conn};
use crate::error::{CloseReason, Error, Status};
use crate::handler::Handler;
use crate::server::Server;
use crate::socket::Socket;

thread_local! {
    // A list, since a callback of one server may run another one. It is never
    // dropped, so that it is there in a thread's last destructors too; empty,
    // it holds no memory.
    static INSIDE: ManuallyDrop<RefCell<Vec<u64>>> =
        const { ManuallyDrop::new(RefCell::new(Vec::new())) };
}

/// While it lives, this thread counts as inside the server's callbacks.
pub(crate) struct CallbackScope(());

impl CallbackScope {
    pub fn enter(server: u64) -> CallbackScope {
        INSIDE.with(|list| list.borrow_mut().push(server));
        CallbackScope(())
    }
}

impl Drop for CallbackScope {
    fn drop(&mut self) {
        INSIDE.with(|list| {
            let mut list = list.borrow_mut();
            list.pop();
            if list.is_empty() {
                *list = Vec::new();
            }
        });
    }
}

/// Is this thread the server's own or in one of its callbacks?
pub(crate) fn is_inside(server: u64) -> bool {
    INSIDE.with(|list| list.borrow().contains(&server))
}

/// Runs the program's code; a panic in it becomes an error.
#[inline]
pub(crate) fn contain<T>(body: impl FnOnce() -> T) -> Result<T, Error> {
    // What a panic leaves half done is the program's own; the library's
    // state is not touched by its code.
    catch_unwind(AssertUnwindSafe(body)).map_err(caught)
}

#[cold]
fn caught(payload: Box<dyn Any + Send>) -> Error {
    let error = Error::panic(&*payload);
    // The payload's own drop may panic too.
    let _ = catch_unwind(AssertUnwindSafe(|| drop(payload)));
    error
}

/// Drops the program's data, containing panics.
pub(crate) fn contain_drop<T>(data: T) {
    let _ = contain(|| drop(data));
}

/// Runs one callback of a connection. During it, and only then, the
/// program's `ns_socket *` of a loop's connection may be used.
#[inline]
pub(crate) fn call<T>(
    server: &Server,
    conn: &mut Conn,
    body: impl FnOnce(&dyn Handler, &Server, &mut Socket<'_>) -> T,
) -> Result<T, Error> {
    conn.set(flag::IN_CALLBACK);
    let result = contain(|| body(server.handler(), server, &mut Socket::of(conn)));
    conn.clear(flag::IN_CALLBACK);
    result
}

/// What a handler's outcome means: waiting for input is no failure.
#[inline]
pub(crate) fn outcome(result: Result<Result<(), Error>, Error>) -> Option<Error> {
    match result {
        Ok(Ok(())) => None,
        Ok(Err(error)) if error.status() == Status::WouldBlock => None,
        Ok(Err(error)) | Err(error) => Some(error),
    }
}

/// A handler of this connection failed: counts it and tells the exception
/// handler. After a panic the connection closes whatever that one does, and
/// so it does where the exception handler itself fails.
pub(crate) fn report_failure(server: &Server, conn: &mut Conn, error: Error) {
    let errors = |conn: &Conn| conn.context.counters.handler_errors.add(1);
    errors(conn);
    let detached = conn.has(flag::DETACHED);
    let told = call(server, conn, |handler, server, socket| {
        let socket = if detached { None } else { Some(socket) };
        handler.on_exception(server, socket, &error)
    });
    let broken = error.status() == Status::Panic;
    contain_drop(error);
    let told = outcome(told);
    if told.is_some() {
        errors(conn);
    }
    if told.is_some() || broken {
        conn.close_because(CloseReason::Error);
    }
    contain_drop(told);
}

/// Tells the exception handler of a connection that failed before its handler
/// had it, and that the caller closes whatever that one does.
pub(crate) fn report_handshake_failure(server: &Server, conn: &mut Conn, error: Error) {
    let told = call(server, conn, |handler, server, socket| {
        handler.on_exception(server, Some(socket), &error)
    });
    let told = outcome(told);
    conn.context.counters.handler_errors.add(u64::from(told.is_some()));
    contain_drop((told, error));
}

/// Tells the exception handler of a failure that is no connection's; returns
/// what that one failed of.
pub(crate) fn report_without_socket(server: &Server, error: &Error) -> Option<Error> {
    outcome(contain(|| server.handler().on_exception(server, None, error)))
}

/// The last callback of a connection, and the end of its user data.
pub(crate) fn run_on_close(server: &Server, conn: &mut Conn, reason: CloseReason) {
    conn.set(flag::IN_ON_CLOSE);
    let result = call(server, conn, |handler, server, socket| {
        handler.on_close(server, socket, reason);
    });
    if result.is_err() {
        conn.context.counters.handler_errors.add(1);
    }
    contain_drop(conn.replace_user_data(None));
}
