//! What a worker does before `on_open`: the PROXY header, then the TLS handshake.

#![forbid(unsafe_code)]

use std::sync::atomic::Ordering;

use super::Pool;
use crate::callback;
use crate::clock::Deadline;
use crate::conn::Conn;
use crate::error::{CloseReason, Error, Status};
use crate::server::Server;

/// Takes the PROXY header and does the TLS handshake, if the service has them.
/// Returns `false` where one of them failed.
pub(super) fn prepare(pool: &Pool, server: &Server, conn: &mut Conn) -> bool {
    (!conn.origin.awaits_proxy() || take_proxy(pool, server, conn)) && shake_hands(server, conn)
}

/// Does a part of this that no stop waits for. Returns `None` where a stop or
/// another thread has ended the connection.
fn unless_ended<T>(
    server: &Server,
    conn: &mut Conn,
    body: impl FnOnce(&mut Conn) -> Result<T, Error>,
) -> Option<Result<T, Error>> {
    // This thread sets `handshaking` and then looks for the stop; the stop
    // begins and then looks at `handshaking`.
    conn.context.handshaking.store(true, Ordering::SeqCst);
    let result = match server.is_stopping() {
        true => Err(Error::from(Status::Closed)),
        false => body(conn),
    };
    conn.context.handshaking.store(false, Ordering::SeqCst);
    if server.is_stopping() || conn.check_forced_end().is_err() {
        conn.mark_unopened();
        conn.close_because(CloseReason::Stop);
        if server.is_stopping() {
            conn.reason = CloseReason::Stop;
        }
        return None;
    }
    Some(result)
}

/// Reports why the connection ends before `on_open`.
fn fail(server: &Server, conn: &mut Conn, error: Error, reason: CloseReason) {
    conn.mark_unopened();
    conn.forbid_close_notify();
    // The exception handler finds it closed, as on a loop.
    conn.close_because(reason);
    callback::report_handshake_failure(server, conn, error);
    if conn.reason != CloseReason::Abort {
        conn.reason = reason;
    }
}

#[cold]
fn take_proxy(pool: &Pool, server: &Server, conn: &mut Conn) -> bool {
    let result = unless_ended(server, conn, |conn| {
        let versions = server.awaited_proxy(conn)?;
        conn.wait_for_proxy(versions, Deadline::after(server.config().proxy_timeout))
    });
    match result {
        None => false,
        Some(Ok(())) => pool.admit_client(server, conn),
        Some(Err(error)) => {
            // The peer gets no byte, and the exception handler waits for none.
            conn.refuse_proxy();
            callback::note_proxy_failure(server, conn, &error);
            fail(server, conn, error, CloseReason::Proxy);
            false
        }
    }
}

fn shake_hands(server: &Server, conn: &mut Conn) -> bool {
    let Some(tls) = server.tls(conn.origin) else { return true };
    let millis = server.config().handshake_timeout.as_millis() as u64;
    let result = unless_ended(server, conn, |conn| {
        conn.begin_tls(tls, &[], millis)?;
        conn.handshake_wait()
    });
    match result {
        None => false,
        Some(Ok(())) => {
            conn.context.counters.handshakes.add(1);
            true
        }
        Some(Err(error)) => {
            callback::note_handshake_failure(server, conn, &error);
            fail(server, conn, error, CloseReason::Handshake);
            false
        }
    }
}
