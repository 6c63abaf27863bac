//! Counters and the report.

// SAFETY of the blocks without a comment: the caller's contract, see `mod.rs`.
#![allow(clippy::undocumented_unsafe_blocks)]

use std::ffi::c_char;
use std::mem;

use super::error::ns_status;
use super::handles::server_of;
use super::server::ns_server;
use super::support::{fill, give_text, guard, status, write_text};
use crate::{Error, Stats, Status, ThreadStats};

/// A snapshot of a server. When nothing changes: accepted + attached +
/// adopted = open + waiting + all of closed + detached.
#[repr(C)]
pub struct ns_stats {
    /// An NS_STATE_....
    pub state: u32,
    /// 1 in non-blocking mode.
    pub non_blocking: u32,
    /// Workers or loops.
    pub threads: u32,
    /// How many of them have a connection.
    pub active_threads: u32,
    /// As `ns_server_port` returns it.
    pub port: u32,
    /// As `ns_server_shutdown_port` returns it.
    pub shutdown_port: u32,
    /// Milliseconds since the start, up to the stop.
    pub uptime_ms: u64,
    /// Connections accepted.
    pub accepted: u64,
    /// Sockets that `ns_attach` gave to the server.
    pub attached: u64,
    /// Sockets that `ns_server_adopt` gave to the server, and connections that
    /// `ns_server_connect` began.
    pub adopted: u64,
    /// Connections refused because no worker became free.
    pub refused: u64,
    /// Connections open now.
    pub open: u64,
    /// Connections that wait for a worker now.
    pub waiting: u64,
    /// Connections that `ns_detach` took out.
    pub detached: u64,
    /// Connections that ended during a stop, before its deadline cut them.
    pub drained: u64,
    /// Connections that a stop cut.
    pub cut: u64,
    /// Bytes received; over TLS the encrypted bytes.
    pub bytes_in: u64,
    /// Bytes that the kernel took; over TLS the encrypted bytes.
    pub bytes_out: u64,
    /// Failures of callbacks, the exception handler included.
    pub handler_errors: u64,
    /// Failures of accept(2), and connections for which there was no memory.
    pub accept_errors: u64,
    /// TLS handshakes completed.
    pub handshakes: u64,
    /// TLS handshakes failed.
    pub handshake_failures: u64,
    /// Connections closed, for each NS_CLOSE_... reason.
    pub closed: [u64; 32],
    /// Ends by peers that handlers passed on: a handler returned NS_ERR_RESET after
    /// a reset, or NS_ERR_TRUNCATED after an end without TLS's close_notify; not
    /// among `handler_errors`.
    pub peer_resets: u64,
}

/// A snapshot of one worker or loop.
#[repr(C)]
pub struct ns_thread_stats {
    /// 0 to threads - 1.
    pub index: u32,
    /// Always 0; for alignment.
    pub reserved: u32,
    /// Its connections now.
    pub active: u64,
    /// Connections it accepted.
    pub accepted: u64,
    /// Bytes received.
    pub bytes_in: u64,
    /// Bytes sent.
    pub bytes_out: u64,
    /// Calls of the handler.
    pub calls: u64,
    /// Failures of callbacks, the exception handler included.
    pub handler_errors: u64,
}

impl From<Stats> for ns_stats {
    fn from(s: Stats) -> ns_stats {
        let mut closed = [0; 32];
        closed[..s.closed.len()].copy_from_slice(&s.closed);
        ns_stats {
            state: s.state as u32,
            non_blocking: s.non_blocking.into(),
            threads: s.threads,
            active_threads: s.active_threads,
            port: s.port.into(),
            shutdown_port: s.shutdown_port.into(),
            uptime_ms: s.uptime.as_millis() as u64,
            accepted: s.accepted,
            attached: s.attached,
            adopted: s.adopted,
            refused: s.refused,
            open: s.open,
            waiting: s.waiting,
            detached: s.detached,
            drained: s.drained,
            cut: s.cut,
            bytes_in: s.bytes_in,
            bytes_out: s.bytes_out,
            handler_errors: s.handler_errors,
            accept_errors: s.accept_errors,
            handshakes: s.handshakes,
            handshake_failures: s.handshake_failures,
            closed,
            peer_resets: s.peer_resets,
        }
    }
}

impl From<ThreadStats> for ns_thread_stats {
    fn from(s: ThreadStats) -> ns_thread_stats {
        ns_thread_stats {
            index: s.index,
            reserved: 0,
            active: s.active,
            accepted: s.accepted,
            bytes_in: s.bytes_in,
            bytes_out: s.bytes_out,
            calls: s.calls,
            handler_errors: s.handler_errors,
        }
    }
}

/// Fills `*out`; `size` is its `sizeof`. A library that knows more members than
/// the program leaves them out; one that knows fewer fills the rest with zeros.
///
/// Returns: 0 or NS_ERR_INVALID.
/// [any]
#[no_mangle]
pub unsafe extern "C" fn ns_server_stats(
    server: *const ns_server,
    out: *mut ns_stats,
    size: usize,
) -> ns_status {
    // No padding, see below.
    status(|| unsafe { fill(out, size, || Ok(server_of(server)?.server.stats().into())) })
}

/// `ns_server_stats` for one thread: `index` is 0 to threads - 1.
///
/// Returns: 0 or NS_ERR_INVALID (before the start too).
/// [any]
#[no_mangle]
pub unsafe extern "C" fn ns_server_thread_stats(
    server: *const ns_server,
    index: u32,
    out: *mut ns_thread_stats,
    size: usize,
) -> ns_status {
    let value = || {
        let stats = unsafe { server_of(server) }?.server.thread_stats(index as usize);
        stats.map(Into::into).ok_or(Error::from(Status::Invalid))
    };
    // No padding, see below.
    status(|| unsafe { fill(out, size, value) })
}

/// Writes a report for people: state, threads, connections, counters. It writes as
/// `snprintf` does: at most `len` bytes with the final NUL.
///
/// Returns: the length of the whole text without the NUL. It may differ at the
/// next call.
/// [any]
#[no_mangle]
pub unsafe extern "C" fn ns_server_report(
    server: *const ns_server,
    buf: *mut c_char,
    len: usize,
) -> usize {
    guard(0, || {
        let report = unsafe { server_of(server) }.map_or(String::new(), |s| s.server.report());
        unsafe { give_text(&report, buf, len) }
    })
}

/// Writes the counters as text for a monitoring system, in the format of
/// Prometheus. The names begin with `netserver_` and stay; docs/METRICS.md lists
/// them. The numbers of the threads add up to the totals. It allocates nothing, and
/// writes as `snprintf` does: at most `len` bytes with the final NUL.
///
/// Returns: the length of the whole text without the NUL. It may differ at the
/// next call: leave some room. 0 for NULL, and in a child of fork(2).
/// [any]
#[no_mangle]
pub unsafe extern "C" fn ns_server_metrics(
    server: *const ns_server,
    buf: *mut c_char,
    len: usize,
) -> usize {
    guard(0, || {
        let server = unsafe { server_of(server) };
        let write = |room: &mut [u8]| server.map_or(0, |s| s.server.write_metrics(room));
        unsafe { write_text(buf, len, write) }
    })
}

/// No padding: 6 and 2 words of 32 bits, the rest of 64.
const _: () = {
    assert!(mem::size_of::<ns_stats>() == 6 * 4 + (16 + 32 + 1) * 8);
    assert!(mem::size_of::<ns_thread_stats>() == 2 * 4 + 6 * 8);
};
