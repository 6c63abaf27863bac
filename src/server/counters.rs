//! What a server has counted: as numbers, for people, for a monitoring system.

#![forbid(unsafe_code)]

use super::guest::Seen;
use super::{Engine, Running, Server};
use crate::metrics::{self, Bounded};
use crate::shutdown::ShutdownPort;
use crate::stats::{self, Stats, ThreadStats};
use crate::sync::lock;

impl Server {
    /// Returns a snapshot of the counters.
    pub fn stats(&self) -> Stats {
        self.snapshot(self.running().as_deref(), |_| {})
    }

    /// Returns the counters as text for a monitoring system: the format of
    /// Prometheus, with names that begin with `netserver_` and stay
    /// (docs/METRICS.md lists them). The numbers of the threads add up to the
    /// totals. Any thread may call it at any time. It is empty in a child of the
    /// process that made the server.
    pub fn metrics(&self) -> String {
        let mut text = vec![0; 8 << 10];
        loop {
            let length = self.write_metrics(&mut text);
            if length <= text.len() {
                text.truncate(length);
                return String::from_utf8(text).unwrap_or_default();
            }
            // The numbers may be longer the next time.
            text.resize(length + 64, 0);
        }
    }

    /// Writes the text of [`Server::metrics`] into a buffer, as much of it as
    /// there is room for, and returns the length of the whole text. It allocates
    /// nothing.
    ///
    /// Example: [`Stats`].
    pub fn write_metrics(&self, buffer: &mut [u8]) -> usize {
        let mut out = Bounded::new(buffer);
        if self.check_process().is_ok() {
            let running = self.running();
            let running = running.as_deref();
            let mut threads = running.map(|running| lock(&running.threads));
            let threads = threads.as_deref_mut();
            let _ = match threads {
                None => metrics::write(&mut out, &self.snapshot(None, |_| {}), &[]),
                Some(threads) => {
                    threads.clear();
                    let stats = self.snapshot(running, |thread| threads.push(thread));
                    metrics::write(&mut out, &stats, threads)
                }
            };
        }
        out.length()
    }

    /// Reads each counter once, and gives out those of each thread.
    fn snapshot(&self, running: Option<&Running>, mut each: impl FnMut(ThreadStats)) -> Stats {
        let mut stats = Stats {
            state: self.state(),
            non_blocking: self.inner.config.non_blocking,
            threads: self.inner.config.max_thread,
            ..Stats::default()
        };
        let Some(running) = running else { return stats };
        stats.port = running.port;
        stats.shutdown_port = running.shutdown_port();
        stats.uptime = *running.uptime.get().unwrap_or(&running.started.elapsed());
        for (index, context) in running.engine.contexts().enumerate() {
            each(stats.add(index, &context.counters));
        }
        if let Engine::Pool(pool) = &running.engine {
            pool.lobby(|context, waiting| {
                let _ = stats.add(context.index, &context.counters);
                stats.waiting = waiting;
                // The lobby counts all accepted connections. Each seat counts
                // those of them that it serves, so the sum would be too high.
                stats.accepted = context.counters.accepted.get();
            });
        }
        stats.handler_errors += running.shutdown.as_ref().map_or(0, ShutdownPort::handler_errors);
        stats.handler_errors += running.guest.get().map_or(0, Seen::handler_errors);
        stats
    }

    /// Returns a snapshot of the counters of one worker or loop; `None` for an
    /// index out of range and before `start`.
    pub fn thread_stats(&self, index: usize) -> Option<ThreadStats> {
        let running = self.running()?;
        let context = running.engine.contexts().nth(index)?;
        Some(ThreadStats::of(index, &context.counters))
    }

    /// Returns the status as text for people.
    pub fn report(&self) -> String {
        if let Err(error) = self.check_process() {
            return format!("{error}\n");
        }
        let running = self.running();
        let mut threads = Vec::new();
        let stats = self.snapshot(running.as_deref(), |thread| threads.push(thread));
        let addresses = match &running {
            Some(running) => running.addresses.concat(),
            None => self.inner.services.names(),
        };
        stats::report(&addresses.join(", "), &stats, &threads)
    }
}
