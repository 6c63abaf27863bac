//! The one way into the program's code: it runs callbacks, contains their
//! failures and panics, and notes which server's callbacks a thread is in.

#![forbid(unsafe_code)]

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::io;
use std::mem::ManuallyDrop;
use std::panic::{catch_unwind, resume_unwind, AssertUnwindSafe};
use std::sync::Arc;

use crate::conn::{Conn, ThreadContext};
use crate::error::{CloseReason, Error, Status};
use crate::fork::{self, Process};
use crate::handler::Handler;
use crate::listener::{accept_error, lost_error};
use crate::logger::{Kind, LogLevel};
use crate::server::Server;
use crate::socket::Socket;
use crate::sys;

/// A server whose own thread this is, or that has one of its callbacks running
/// here.
struct Inside {
    server: u64,
    process: Process,
    /// The library made the thread.
    is_own_thread: bool,
    /// The context of the connections that are served here.
    context: Option<Arc<ThreadContext>>,
}

/// How many entries take no memory of their own. So a turn of a hosted server
/// needs none.
const FEW: usize = 4;

/// The entries of a thread. This is a list, because a callback of one server may
/// run another server. When empty it holds no memory.
struct Insides {
    few: [Option<Inside>; FEW],
    more: Vec<Inside>,
}

impl Insides {
    const fn new() -> Insides {
        Insides { few: [const { None }; FEW], more: Vec::new() }
    }

    fn push(&mut self, inside: Inside) {
        match self.few.iter_mut().find(|place| place.is_none()) {
            Some(place) => *place = Some(inside),
            None => self.more.push(inside),
        }
    }

    fn pop(&mut self) {
        if self.more.pop().is_none() {
            drop(self.few.iter_mut().rev().find_map(Option::take));
        } else if self.more.is_empty() {
            self.more = Vec::new();
        }
    }

    fn iter(&self) -> impl Iterator<Item = &Inside> {
        self.few.iter().flatten().chain(&self.more)
    }

    fn last(&self) -> Option<&Inside> {
        self.more.last().or_else(|| self.few.iter().rev().flatten().next())
    }

    fn last_mut(&mut self) -> Option<&mut Inside> {
        self.more.last_mut().or_else(|| self.few.iter_mut().rev().flatten().next())
    }
}

/// What unwinds a thread of the program in a child of fork(2), out of the loop
/// that is the parent's.
struct LeftToParent;

thread_local! {
    // It is never dropped, so that it still exists in a thread's last
    // destructors.
    static INSIDE: ManuallyDrop<RefCell<Insides>> =
        const { ManuallyDrop::new(RefCell::new(Insides::new())) };
}

thread_local! {
    /// This thread is in a logger.
    static LOGGING: Cell<bool> = const { Cell::new(false) };
}

/// While it lives, this thread is in a logger.
struct LoggingScope(());

impl LoggingScope {
    fn enter() -> LoggingScope {
        LOGGING.set(true);
        LoggingScope(())
    }
}

impl Drop for LoggingScope {
    fn drop(&mut self) {
        LOGGING.set(false);
    }
}

/// While it lives, this thread counts as inside the server's callbacks.
pub(crate) struct CallbackScope(());

impl CallbackScope {
    /// On a thread of the program.
    pub fn enter(server: u64) -> CallbackScope {
        CallbackScope::push(server, false, None)
    }

    /// On a thread of the program, which serves the connections of `context`.
    pub fn serve(context: &Arc<ThreadContext>) -> CallbackScope {
        CallbackScope::push(context.server, false, Some(context.clone()))
    }

    /// On a thread of the library.
    pub fn own_thread(server: u64) -> CallbackScope {
        CallbackScope::push(server, true, None)
    }

    fn push(
        server: u64,
        is_own_thread: bool,
        context: Option<Arc<ThreadContext>>,
    ) -> CallbackScope {
        let inside = Inside { server, process: Process::current(), is_own_thread, context };
        INSIDE.with(|list| list.borrow_mut().push(inside));
        CallbackScope(())
    }
}

impl Drop for CallbackScope {
    fn drop(&mut self) {
        INSIDE.with(|list| list.borrow_mut().pop());
    }
}

/// Notes whose connections this thread serves from now on.
pub(crate) fn note_context(context: &Arc<ThreadContext>) {
    INSIDE.with(|list| {
        if let Some(inside) = list.borrow_mut().last_mut() {
            inside.context = Some(context.clone());
        }
    });
}

/// Returns whether this thread serves the connections of `context`, and is in a
/// callback that it runs for them.
pub(crate) fn serves(context: &ThreadContext) -> bool {
    INSIDE.with(|list| {
        let list = list.borrow();
        let served = list.last().and_then(|inside| inside.context.as_deref());
        served.is_some_and(|served| std::ptr::eq(served, context))
    })
}

/// In a child of fork(2): makes the sockets stale whose callbacks are under way
/// on this thread. They are the parent's.
pub(crate) fn orphan() {
    INSIDE.with(|list| {
        // It is borrowed only where no callback runs.
        let Ok(list) = list.try_borrow() else { return };
        for context in list.iter().filter_map(|inside| inside.context.as_ref()) {
            context.reach.change_in_child(Conn::orphan);
        }
    });
}

/// To be called when a callback has returned. In a child of fork(2), which has
/// returned from a callback of the parent's, it does not return: a thread of the
/// library has nothing left to do, so the process ends as with its last thread;
/// on a thread of the program the call that ran the callback fails
/// ([`or_left_to_parent`]).
#[inline(always)]
pub(crate) fn leave_to_parent() {
    if Process::is_forked() {
        leave_if_parents();
    }
}

#[cold]
fn leave_if_parents() {
    let is_own_thread = INSIDE.with(|list| {
        let list = list.borrow();
        let parents = list.last().filter(|inside| !inside.process.is_current())?;
        // A loop that the library's thread runs has an entry of its own.
        let of_server = |inside: &&Inside| inside.server == parents.server;
        let is_own_thread = list.iter().filter(of_server).any(|inside| inside.is_own_thread);
        Some(is_own_thread)
    });
    match is_own_thread {
        None => {}
        Some(true) => sys::exit_now(0),
        Some(false) => resume_unwind(Box::new(LeftToParent)),
    }
}

/// Runs a part of the library that runs callbacks, on a thread of the program.
pub(crate) fn or_left_to_parent<T>(body: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|payload| {
        if payload.is::<LeftToParent>() {
            return Err(fork::error());
        }
        resume_unwind(payload)
    })
}

/// Returns a number that no other living thread has. The handle of the standard
/// library would need a destructor on a thread of the program.
pub(crate) fn this_thread() -> usize {
    INSIDE.with(|list| std::ptr::from_ref(list).addr())
}

/// Returns whether this thread is the server's own or in one of its callbacks.
pub(crate) fn is_inside(server: u64) -> bool {
    INSIDE.with(|list| list.borrow().iter().any(|inside| inside.server == server))
}

/// Runs the program's code and turns a panic in it into an error.
#[inline]
pub(crate) fn contain<T>(body: impl FnOnce() -> T) -> Result<T, Error> {
    // A panic can leave only the program's own data half changed: the program's
    // code does not touch the library's state.
    catch_unwind(AssertUnwindSafe(body)).map_err(panic_error)
}

#[cold]
fn panic_error(payload: Box<dyn Any + Send>) -> Error {
    if payload.is::<LeftToParent>() {
        resume_unwind(payload);
    }
    let error = Error::panic(&*payload);
    // The payload's own drop may panic too.
    let _ = catch_unwind(AssertUnwindSafe(|| drop(payload)));
    error
}

/// Drops the program's data, containing panics.
pub(crate) fn contain_drop<T>(data: T) {
    let _ = contain(|| drop(data));
}

/// Drops the program's data on a thread that serves connections, where a drop
/// function is a callback too.
pub(crate) fn drop_on_loop<T>(data: T) {
    contain_drop(data);
    leave_to_parent();
}

/// Runs one callback of a connection, and sends what it has gathered.
pub(crate) fn call<T>(
    server: &Server,
    conn: &mut Conn,
    body: impl FnOnce(&dyn Handler, &Server, &mut Socket<'_>) -> T,
) -> Result<T, Error> {
    let result = call_only(server, conn, body);
    leave_to_parent();
    conn.end_gathering();
    result
}

/// Runs one callback of a connection. Only during it may the program use its
/// `ns_socket *` of a loop's connection. A caller that finds the connection not
/// settled calls [`leave_to_parent`] next, and sends what was gathered.
#[inline]
pub(crate) fn call_only<T>(
    server: &Server,
    conn: &mut Conn,
    body: impl FnOnce(&dyn Handler, &Server, &mut Socket<'_>) -> T,
) -> Result<T, Error> {
    conn.begin_callback();
    let result = contain(|| body(server.handler(), server, &mut Socket::of(conn)));
    conn.end_callback();
    result
}

/// Runs a callback that belongs to no connection.
pub(crate) fn call_hook<T>(hook: impl FnOnce() -> T) -> Result<T, Error> {
    let result = contain(hook);
    leave_to_parent();
    result
}

/// Returns whether this thread is in a logger. What that causes is not logged.
pub(crate) fn is_logging() -> bool {
    LOGGING.get()
}

/// Runs the program's logger. It serves no connection, whatever this thread
/// does otherwise: so what it sends by id goes the way of other threads.
pub(crate) fn call_logger(server: u64, log: impl FnOnce()) {
    let _inside = CallbackScope::enter(server);
    let _logging = LoggingScope::enter();
    let _ = call_hook(log);
}

/// Returns the failure of a handler, if it failed. "Would block" is no failure.
#[inline]
pub(crate) fn outcome(result: Result<Result<(), Error>, Error>) -> Option<Error> {
    match result {
        Ok(Ok(())) => None,
        Ok(Err(error)) if error.status() == Status::WouldBlock => None,
        Ok(Err(error)) | Err(error) => Some(error),
    }
}

/// Runs `on_open`. Returns whether it took the connection: with
/// [`Status::Rejected`] it refuses it, which is no failure and closes it.
pub(crate) fn run_on_open(server: &Server, conn: &mut Conn) -> Result<bool, Error> {
    let result = call(server, conn, |handler, server, socket| handler.on_open(server, socket));
    match outcome(result) {
        None => Ok(true),
        Some(error) if error.status() == Status::Rejected => {
            drop_on_loop(error);
            if !conn.is_detached() {
                conn.close_because(CloseReason::Rejected);
            }
            Ok(false)
        }
        Some(error) => Err(error),
    }
}

/// Counts a failure of this connection's handler and reports it to the
/// exception handler. After a panic the connection closes whatever the
/// exception handler does; it also closes if the exception handler itself
/// fails.
pub(crate) fn report_failure(server: &Server, conn: &mut Conn, error: Error) {
    let count_error = |conn: &Conn| conn.context.counters.handler_errors.add(1);
    // A handler that passes on how the peer has ended has done nothing wrong.
    let is_end = matches!(error.status(), Status::Reset | Status::Truncated);
    match is_end && conn.has_failed() {
        true => conn.context.counters.peer_resets.add(1),
        false => count_error(conn),
    }
    let detached = conn.is_detached();
    let result = call(server, conn, |handler, server, socket| {
        let socket = if detached { None } else { Some(socket) };
        handler.on_exception(server, socket, &error)
    });
    let has_panicked = error.status() == Status::Panic;
    drop_on_loop(error);
    let failure = outcome(result);
    if failure.is_some() {
        count_error(conn);
    }
    if failure.is_some() || has_panicked {
        conn.close_because(CloseReason::Error);
    }
    drop_on_loop(failure);
}

/// Reports to the exception handler that a connection failed before its handler
/// got it. The caller closes the connection whatever the exception handler
/// does.
pub(crate) fn report_handshake_failure(server: &Server, conn: &mut Conn, error: Error) {
    let result = call(server, conn, |handler, server, socket| {
        handler.on_exception(server, Some(socket), &error)
    });
    let failure = outcome(result);
    conn.context.counters.handler_errors.add(u64::from(failure.is_some()));
    drop_on_loop((failure, error));
}

/// Counts and logs a TLS handshake that failed.
pub(crate) fn note_handshake_failure(server: &Server, conn: &Conn, error: &Error) {
    conn.context.counters.handshake_failures.add(1);
    server.log().warn(Kind::Handshake, conn.id, || format!("{}: {error}", conn.peer_name()));
}

/// Logs that a PROXY header was refused, or its source.
pub(crate) fn note_proxy_failure(server: &Server, conn: &Conn, error: &Error) {
    let peer = || conn.transport_peer_name();
    server.log().warn(Kind::Proxy, conn.id, || format!("{}: {error}", peer()));
}

/// Reports to the exception handler a failure that belongs to no connection.
/// Returns the exception handler's own failure, if it failed.
pub(crate) fn report_without_socket(server: &Server, error: &Error) -> Option<Error> {
    outcome(call_hook(|| server.handler().on_exception(server, None, error)))
}

/// Logs a failure to accept, and reports it if it is to be reported. Returns the
/// exception handler's own failure, if it failed.
pub(crate) fn report_accept_failure(
    server: &Server,
    failure: &io::Error,
    report: Option<Error>,
) -> Option<Error> {
    server.log().warn(Kind::Accept, 0, || accept_error(failure).message().into());
    report.and_then(|error| report_without_socket(server, &error))
}

/// Logs and reports that a connection was accepted and cannot be served. Returns
/// as [`report_accept_failure`].
#[cold]
pub(crate) fn report_unserved(server: &Server, error: &Error) -> Option<Error> {
    log_unserved(server, 0, error);
    report_without_socket(server, error)
}

/// Logs that a connection cannot be served.
pub(crate) fn log_unserved(server: &Server, id: u64, error: &Error) {
    server.log().warn(Kind::Accept, id, || format!("cannot serve a connection: {error}"));
}

/// Logs and reports that a listener was lost. Returns as
/// [`report_accept_failure`].
pub(crate) fn report_lost_listener(server: &Server, failure: &io::Error) -> Option<Error> {
    let error = lost_error(failure);
    server.log().event(LogLevel::Error, || error.message().into());
    report_without_socket(server, &error)
}

/// Runs the last callback of a connection and drops its user data.
pub(crate) fn run_on_close(server: &Server, conn: &mut Conn, reason: CloseReason) {
    conn.begin_on_close();
    let result = call(server, conn, |handler, server, socket| {
        handler.on_close(server, socket, reason);
    });
    if result.is_err() {
        conn.context.counters.handler_errors.add(1);
    }
    drop_user_data(conn);
}

/// Drops the user data of a connection that has ended.
pub(crate) fn drop_user_data(conn: &mut Conn) {
    conn.note_current();
    drop_on_loop(conn.replace_user_data(None));
}
