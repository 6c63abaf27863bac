//! Counters, the snapshot of them, and the textual report.

#![forbid(unsafe_code)]

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::error::CloseReason;
use crate::state::State;

/// A counter that one thread writes and all may read. To add is a load and a
/// store, without a locked instruction.
#[derive(Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A counter that several threads write, in one order with all other
/// sequentially consistent operations.
#[derive(Default)]
pub(crate) struct SharedCount(AtomicU64);

impl SharedCount {
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::SeqCst);
    }

    pub fn sub(&self, n: u64) {
        self.0.fetch_sub(n, Ordering::SeqCst);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

/// The counters of one thread.
#[derive(Default)]
pub(crate) struct Counters {
    /// Connections that this thread has now.
    pub open: SharedCount,
    pub attached: SharedCount,
    pub adopted: SharedCount,
    pub accepted: Count,
    pub refused: Count,
    pub detached: Count,
    pub drained: Count,
    pub cut: Count,
    pub bytes_in: Count,
    pub bytes_out: Count,
    pub calls: Count,
    pub handler_errors: Count,
    pub peer_resets: Count,
    pub accept_errors: Count,
    pub handshakes: Count,
    pub handshake_failures: Count,
    pub closed: [Count; CloseReason::COUNT],
}

/// A snapshot of a server's counters. Each number is exact, but all of them
/// belong to one moment only while nothing happens. At rest
/// `accepted + attached + adopted = open + waiting + closed_total() + detached`.
///
/// ```
/// use net_server::{CloseReason, Server, Socket};
/// use std::{io::Read, net::TcpStream};
///
/// let server = Server::new("127.0.0.1:0", |_: &Server, s: &mut Socket<'_>| s.send(b"hello\n"))?;
/// server.start_background()?;
/// TcpStream::connect(server.address())?.read_to_end(&mut Vec::new())?;
/// server.stop()?;
/// let stats = server.stats();
/// assert_eq!((stats.accepted, stats.bytes_out, stats.closed_total()), (1, 6, 1));
/// assert_eq!(stats.closed[CloseReason::Handler as usize], 1);
/// assert_eq!(server.thread_stats(0).map(|thread| thread.calls), Some(1));
/// assert!(server.report().contains("Total thread count: 1"));
///
/// let mut page = [0; 16_384];
/// let length = server.write_metrics(&mut page); // server.metrics() allocates
/// assert!(page[..length].starts_with(b"# "));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Stats {
    /// The state of the server.
    pub state: State,
    /// Whether the server is non-blocking.
    pub non_blocking: bool,
    /// The number of workers or loops.
    pub threads: u32,
    /// Threads that have at least one connection.
    pub active_threads: u32,
    /// The port, 0 before it is known.
    pub port: u16,
    /// The shutdown port, 0 where there is none.
    pub shutdown_port: u16,
    /// Time since the server bound its port, up to the stop.
    pub uptime: Duration,
    /// Connections accepted, including the refused ones.
    pub accepted: u64,
    /// Sockets that `attach` gave to the server.
    pub attached: u64,
    /// Sockets that `adopt` gave to the server, and connections that `connect`
    /// began.
    pub adopted: u64,
    /// Connections refused because no worker became free in time.
    pub refused: u64,
    /// Connections open now.
    pub open: u64,
    /// Connections that wait for a worker now.
    pub waiting: u64,
    /// Sockets that `detach` gave to the program.
    pub detached: u64,
    /// Connections that ended during a stop, before its deadline cut them.
    pub drained: u64,
    /// Connections that a stop ended at its deadline.
    pub cut: u64,
    /// Bytes received from the peers; over TLS the encrypted ones.
    pub bytes_in: u64,
    /// Bytes that the kernel accepted for sending; over TLS the encrypted
    /// ones.
    pub bytes_out: u64,
    /// Failed handlers, hooks and exception handlers; without the ends by
    /// peers that [`Stats::peer_resets`] counts.
    pub handler_errors: u64,
    /// Connections whose handler passed on that the peer has reset them, or, over
    /// TLS, has ended without close_notify.
    pub peer_resets: u64,
    /// Failures of accept(2), and connections for which there was no memory.
    pub accept_errors: u64,
    /// TLS handshakes completed.
    pub handshakes: u64,
    /// TLS handshakes that failed.
    pub handshake_failures: u64,
    /// Connections closed, by [`CloseReason`] number.
    pub closed: [u64; CloseReason::COUNT],
}

impl Stats {
    /// Returns the number of closed connections, over all reasons.
    pub fn closed_total(&self) -> u64 {
        self.closed.iter().sum()
    }

    /// Adds the counters of a thread, and returns those that are shown by
    /// thread. Each counter is read once: so the threads add up to the totals.
    pub(crate) fn add(&mut self, index: usize, c: &Counters) -> ThreadStats {
        let thread = ThreadStats::of(index, c);
        self.active_threads += u32::from(thread.active > 0);
        self.accepted += thread.accepted;
        self.attached += c.attached.get();
        self.adopted += c.adopted.get();
        self.refused += c.refused.get();
        self.open += thread.active;
        self.detached += c.detached.get();
        self.drained += c.drained.get();
        self.cut += c.cut.get();
        self.bytes_in += thread.bytes_in;
        self.bytes_out += thread.bytes_out;
        self.handler_errors += thread.handler_errors;
        self.peer_resets += c.peer_resets.get();
        self.accept_errors += c.accept_errors.get();
        self.handshakes += c.handshakes.get();
        self.handshake_failures += c.handshake_failures.get();
        for (sum, count) in self.closed.iter_mut().zip(&c.closed) {
            *sum += count.get();
        }
        thread
    }
}

/// A snapshot of one thread's counters.
///
/// Example: [`Stats`].
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ThreadStats {
    /// The thread's number, from 0.
    pub index: u32,
    /// Connections that it has now.
    pub active: u64,
    /// Connections that it accepted, which another loop may serve. A worker
    /// counts those that it serves or served.
    pub accepted: u64,
    /// Bytes received.
    pub bytes_in: u64,
    /// Bytes given to the kernel.
    pub bytes_out: u64,
    /// Handler calls.
    pub calls: u64,
    /// Failed handlers, hooks and exception handlers.
    pub handler_errors: u64,
}

impl ThreadStats {
    pub(crate) fn of(index: usize, c: &Counters) -> ThreadStats {
        ThreadStats {
            index: index as u32,
            active: c.open.get(),
            accepted: c.accepted.get(),
            bytes_in: c.bytes_in.get(),
            bytes_out: c.bytes_out.get(),
            calls: c.calls.get(),
            handler_errors: c.handler_errors.get(),
        }
    }
}

/// Returns the report for people. Its four lines of threads and sockets are
/// those of the framework that this one reimplements, because tools read them.
pub(crate) fn report(address: &str, stats: &Stats, threads: &[ThreadStats]) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = write_report(&mut text, address, stats, threads);
    text
}

fn write_report(
    out: &mut String,
    address: &str,
    stats: &Stats,
    threads: &[ThreadStats],
) -> std::fmt::Result {
    let mode = if stats.non_blocking { "non-blocking" } else { "blocking" };
    writeln!(out, "Server {address} ({mode}, {})", stats.state.name())?;
    if stats.shutdown_port != 0 {
        writeln!(out, "Shutdown port: {}", stats.shutdown_port)?;
    }
    writeln!(out, "Uptime: {}.{:03} s", stats.uptime.as_secs(), stats.uptime.subsec_millis())?;
    writeln!(out, "Total thread count: {}", stats.threads)?;
    writeln!(out, "Active thread count: {}", stats.active_threads)?;
    for thread in threads {
        writeln!(
            out,
            "  Thread #{} calls {}, bytes in {}, out {}",
            thread.index, thread.calls, thread.bytes_in, thread.bytes_out
        )?;
        writeln!(out, "    - active sockets {}", thread.active)?;
    }
    writeln!(
        out,
        "Connections: accepted {}, attached {}, adopted {}, open {}, waiting {}, closed {}, detached {}",
        stats.accepted,
        stats.attached,
        stats.adopted,
        stats.open,
        stats.waiting,
        stats.closed_total(),
        stats.detached
    )?;
    for (number, count) in stats.closed.iter().enumerate().filter(|(_, count)| **count > 0) {
        let name = CloseReason::from_code(number as i32).map_or("?", CloseReason::name);
        writeln!(out, "  closed ({name}): {count}")?;
    }
    writeln!(
        out,
        "Refused {}, drained {}, cut {}, handler errors {}, peer resets {}, accept errors {}",
        stats.refused,
        stats.drained,
        stats.cut,
        stats.handler_errors,
        stats.peer_resets,
        stats.accept_errors
    )?;
    if stats.handshakes + stats.handshake_failures > 0 {
        let (done, failed) = (stats.handshakes, stats.handshake_failures);
        writeln!(out, "TLS handshakes: {done}, failed {failed}")?;
    }
    writeln!(out, "Bytes: in {}, out {}", stats.bytes_in, stats.bytes_out)
}
