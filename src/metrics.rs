//! The counters in the text format of Prometheus, version 0.0.4, written without
//! an allocation.
//!
//! The names stay: what reads them is not built with this library. docs/METRICS.md
//! lists them.

#![forbid(unsafe_code)]

use std::fmt::{self, Display, Write};

use crate::error::CloseReason;
use crate::stats::{Stats, ThreadStats};

/// A buffer that takes what fits into it and counts the rest.
pub(crate) struct Bounded<'a> {
    buffer: &'a mut [u8],
    length: usize,
}

impl<'a> Bounded<'a> {
    pub fn new(buffer: &'a mut [u8]) -> Bounded<'a> {
        Bounded { buffer, length: 0 }
    }

    /// Returns the length of the whole text.
    pub fn length(&self) -> usize {
        self.length
    }
}

impl Write for Bounded<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = self.buffer.get_mut(self.length..).unwrap_or_default();
        let count = room.len().min(text.len());
        room[..count].copy_from_slice(&text.as_bytes()[..count]);
        self.length += text.len();
        Ok(())
    }
}

/// Writes one family of samples after the other.
struct Families<'a, W>(&'a mut W);

impl<W: Write> Families<'_, W> {
    fn begin(&mut self, name: &str, kind: &str, help: &str) -> fmt::Result {
        writeln!(self.0, "# HELP netserver_{name} {help}\n# TYPE netserver_{name} {kind}")
    }

    fn single(&mut self, name: &str, kind: &str, help: &str, value: impl Display) -> fmt::Result {
        self.begin(name, kind, help)?;
        writeln!(self.0, "netserver_{name} {value}")
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl Display) -> fmt::Result {
        self.single(name, "gauge", help, value)
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.single(name, "counter", help, value)
    }

    /// A family with a sample for each value of a label. No value needs an
    /// escape.
    fn labelled<L: Display>(
        &mut self,
        (name, kind, label): (&str, &str, &str),
        help: &str,
        samples: impl Iterator<Item = (L, u64)>,
    ) -> fmt::Result {
        self.begin(name, kind, help)?;
        for (of, value) in samples {
            writeln!(self.0, "netserver_{name}{{{label}=\"{of}\"}} {value}")?;
        }
        Ok(())
    }
}

/// Writes the metrics of one snapshot.
pub(crate) fn write(out: &mut impl Write, stats: &Stats, threads: &[ThreadStats]) -> fmt::Result {
    let mut out = Families(out);
    write_server(&mut out, stats)?;
    write_connections(&mut out, stats)?;
    write_transfer(&mut out, stats)?;
    write_threads(&mut out, threads)
}

fn write_server<W: Write>(out: &mut Families<'_, W>, stats: &Stats) -> fmt::Result {
    out.begin("info", "gauge", "What serves; the value is 1.")?;
    let mode = if stats.non_blocking { "non-blocking" } else { "blocking" };
    let version = crate::VERSION;
    writeln!(out.0, "netserver_info{{mode=\"{mode}\",version=\"{version}\"}} 1")?;
    let states = "0 new, 1 starting, 2 running, 3 stopping, 4 stopped, 5 quiescing.";
    out.gauge("state", states, stats.state as i32)?;
    let (seconds, ms) = (stats.uptime.as_secs(), stats.uptime.subsec_millis());
    let help = "Time since the server bound its port, up to the stop.";
    out.gauge("uptime_seconds", help, format_args!("{seconds}.{ms:03}"))?;
    out.gauge("threads", "Workers or event loops.", stats.threads)?;
    let help = "Workers or event loops that have a connection.";
    out.gauge("active_threads", help, stats.active_threads)
}

fn write_connections<W: Write>(out: &mut Families<'_, W>, stats: &Stats) -> fmt::Result {
    out.gauge("open_connections", "Connections open now.", stats.open)?;
    let help = "Connections that wait for a worker now.";
    out.gauge("waiting_connections", help, stats.waiting)?;
    let counters = [
        ("accepted", "Connections accepted, the refused ones too.", stats.accepted),
        ("attached", "Detached sockets that were given to the server.", stats.attached),
        ("adopted", "Sockets of the program that became connections.", stats.adopted),
        ("refused", "Connections refused because no worker became free.", stats.refused),
        ("detached", "Connections that were taken out of the server.", stats.detached),
        ("drained", "Connections that ended in a stop before its deadline.", stats.drained),
        ("cut", "Connections that a stop ended at its deadline.", stats.cut),
    ];
    for (name, help, value) in counters {
        out.begin_connections(name, help, value)?;
    }
    let samples = stats.closed.iter().enumerate().filter_map(|(number, count)| {
        let reason = CloseReason::from_code(number as i32)?;
        Some((reason.name(), *count))
    });
    let family = ("closed_connections_total", "counter", "reason");
    out.labelled(family, "Connections closed, by the reason.", samples)
}

impl<W: Write> Families<'_, W> {
    /// A counter of connections: the name between `netserver_` and the rest.
    fn begin_connections(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        writeln!(self.0, "# HELP netserver_{name}_connections_total {help}")?;
        writeln!(self.0, "# TYPE netserver_{name}_connections_total counter")?;
        writeln!(self.0, "netserver_{name}_connections_total {value}")
    }
}

fn write_transfer<W: Write>(out: &mut Families<'_, W>, stats: &Stats) -> fmt::Result {
    let counters = [
        ("received_bytes_total", "Bytes received; over TLS the encrypted ones.", stats.bytes_in),
        (
            "sent_bytes_total",
            "Bytes that the kernel took; over TLS the encrypted ones.",
            stats.bytes_out,
        ),
        ("handler_errors_total", "Callbacks that failed.", stats.handler_errors),
        (
            "peer_resets_total",
            "Resets, and ends without close_notify, that handlers passed on.",
            stats.peer_resets,
        ),
        ("accept_errors_total", "Failures to accept.", stats.accept_errors),
        ("tls_handshakes_total", "TLS handshakes completed.", stats.handshakes),
        ("tls_handshake_failures_total", "TLS handshakes that failed.", stats.handshake_failures),
    ];
    for (name, help, value) in counters {
        out.counter(name, help, value)?;
    }
    Ok(())
}

fn write_threads<W: Write>(out: &mut Families<'_, W>, threads: &[ThreadStats]) -> fmt::Result {
    type Read = fn(&ThreadStats) -> u64;
    let families: [(&str, &str, &str, Read); 6] = [
        ("thread_open_connections", "gauge", "Connections of a thread now.", |t| t.active),
        (
            "thread_accepted_connections_total",
            "counter",
            "Connections that a thread accepted.",
            |t| t.accepted,
        ),
        ("thread_received_bytes_total", "counter", "Bytes that a thread received.", |t| t.bytes_in),
        ("thread_sent_bytes_total", "counter", "Bytes that a thread sent.", |t| t.bytes_out),
        ("thread_handler_calls_total", "counter", "Calls of the handler on a thread.", |t| t.calls),
        ("thread_handler_errors_total", "counter", "Callbacks that failed on a thread.", |t| {
            t.handler_errors
        }),
    ];
    for (name, kind, help, read) in families {
        let samples = threads.iter().map(|thread| (thread.index, read(thread)));
        out.labelled((name, kind, "thread"), help, samples)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bounded_buffer_counts_what_does_not_fit() {
        let mut buffer = [b'.'; 6];
        let mut out = Bounded::new(&mut buffer);
        write!(out, "{}-abc", 12).unwrap();
        assert_eq!(out.length(), 6);
        write!(out, "more").unwrap();
        assert_eq!(out.length(), 10);
        assert_eq!(&buffer, b"12-abc");
    }
}
