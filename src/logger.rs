//! The log of a server: what an operator is told, through a function of the
//! program's. Nothing of it is process-wide.

#![forbid(unsafe_code)]

use std::fmt;
use std::sync::{Arc, Mutex};

use crate::callback;
use crate::clock;
use crate::conn::ConnId;
use crate::fork::Process;
use crate::sync::lock;

/// How much a line of the log matters. A logger gets the lines of its level and
/// of those before it.
///
/// Example: [`Logger`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
#[repr(i32)]
pub enum LogLevel {
    /// The server, or a part of it, has ended by itself.
    Error = 1,
    /// A peer was turned away, or accepting failed.
    Warn = 2,
    /// What the program has asked for: the start, the stop, a reload.
    Info = 3,
    /// For those who look for a fault; no line has it yet.
    Debug = 4,
}

impl LogLevel {
    /// Returns the level that has a number, if there is one.
    pub fn from_code(code: i32) -> Option<LogLevel> {
        let all = [LogLevel::Error, LogLevel::Warn, LogLevel::Info, LogLevel::Debug];
        all.into_iter().find(|level| *level as i32 == code)
    }
}

/// The function that gets the lines of a server's log; see
/// [`Config::logger`](crate::Config#structfield.logger).
///
/// ```
/// use net_server::{Config, LogLevel, Logger};
/// let logger = Logger::new(LogLevel::Info, |level, id, text| {
///     eprintln!("{level:?} {:?} {text}", id.map(|id| id.get()));
/// });
/// logger.write(LogLevel::Warn, None, "the disk is nearly full"); // a line of its own
/// let config = Config::new().logger(logger);
/// ```
#[derive(Clone)]
pub struct Logger {
    level: LogLevel,
    write: Arc<Write>,
}

type Write = dyn Fn(LogLevel, Option<ConnId>, &str) + Send + Sync;

impl Logger {
    /// Makes a logger of a function, which gets each line's level, its
    /// connection (`None` where it is about none), and its text: one line
    /// without its end, never key material, never what a peer has sent.
    ///
    /// The function runs on a thread of the library, or in a call of
    /// [`Server::start`](crate::Server::start) and its relatives, `stop`,
    /// `wait`, `run_once`, the drop of the last handle,
    /// [`Server::reload_tls`](crate::Server::reload_tls) and
    /// [`Server::reload_service_tls`](crate::Server::reload_service_tls); on
    /// several threads at the same time; under no lock. It counts as a callback
    /// of the server and may call it. What it causes on its own thread is not
    /// logged, and a server that it makes has no log. The library catches a
    /// panic.
    ///
    /// Example: [`Logger`].
    pub fn new(
        level: LogLevel,
        write: impl Fn(LogLevel, Option<ConnId>, &str) + Send + Sync + 'static,
    ) -> Logger {
        Logger { level, write: Arc::new(write) }
    }

    /// Makes a logger that hands the lines to the `log` crate, with the target
    /// `net_server`. The text has the connection's number in front.
    ///
    /// ```
    /// use net_server::{Config, Logger};
    /// let config = Config::new().logger(Logger::of_log_crate());
    /// ```
    #[cfg(feature = "log")]
    pub fn of_log_crate() -> Logger {
        Logger::new(LogLevel::Debug, |level, id, text| {
            let level = match level {
                LogLevel::Error => ::log::Level::Error,
                LogLevel::Warn => ::log::Level::Warn,
                LogLevel::Info => ::log::Level::Info,
                LogLevel::Debug => ::log::Level::Debug,
            };
            match id {
                Some(id) => ::log::log!(target: "net_server", level, "#{}: {text}", id.get()),
                None => ::log::log!(target: "net_server", level, "{text}"),
            }
        })
    }

    /// Returns the last level that the logger wants.
    pub fn level(&self) -> LogLevel {
        self.level
    }

    /// Calls the function with a line of the program's own, if its level is
    /// wanted.
    ///
    /// Example: [`Logger`].
    pub fn write(&self, level: LogLevel, id: Option<ConnId>, text: &str) {
        if level <= self.level {
            (self.write)(level, id, text);
        }
    }
}

impl fmt::Debug for Logger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Logger({:?})", self.level)
    }
}

/// What peers can cause as often as they like. Of each kind there is one line a
/// second, with the number of those that were left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// accept(2) failed.
    Accept,
    /// No worker became free.
    Refused,
    /// A TLS handshake failed.
    Handshake,
    /// A connection was refused beyond a limit of its address.
    Limit,
    /// A PROXY header was refused, or its source.
    Proxy,
}

impl Kind {
    const ALL: [Kind; 5] = [Kind::Accept, Kind::Refused, Kind::Handshake, Kind::Limit, Kind::Proxy];

    /// Returns what several of them are called.
    fn plural(self) -> &'static str {
        match self {
            Kind::Accept => "failures to accept",
            Kind::Refused => "refused connections",
            Kind::Handshake => "failed TLS handshakes",
            Kind::Limit => "connections beyond the limits of an address",
            Kind::Proxy => "refused PROXY headers",
        }
    }
}

/// The log of one server. Without a logger it does nothing, and makes no text.
pub(crate) struct Log {
    logger: Option<Logger>,
    server: u64,
    process: Process,
    floods: [Mutex<Flood>; Kind::ALL.len()],
}

/// The lines of one kind.
#[derive(Default)]
struct Flood {
    /// When the last line was written.
    written_at: Option<u64>,
    left_out: u64,
}

/// The time between two lines of a kind, in ms.
const QUIET_MS: u64 = 1000;

impl Flood {
    /// Returns how many lines were left out before this one; `None` if this one
    /// is left out too.
    fn admit(&mut self, now: u64) -> Option<u64> {
        if self.written_at.is_some_and(|at| now <= at + QUIET_MS) {
            self.left_out += 1;
            return None;
        }
        self.written_at = Some(now);
        Some(std::mem::take(&mut self.left_out))
    }
}

impl Log {
    pub fn new(logger: Option<Logger>, server: u64) -> Log {
        // A server that a logger makes is of its making with all that it does.
        let logger = logger.filter(|_| !callback::is_logging());
        Log { logger, server, process: Process::current(), floods: Default::default() }
    }

    /// Logs what happens rarely, or because the program wants it: each time.
    #[inline]
    pub fn event(&self, level: LogLevel, text: impl FnOnce() -> String) {
        if let Some(logger) = self.wanted(level) {
            self.write(logger, level, 0, &text());
        }
    }

    /// Logs what peers can cause as often as they like: once in a second. `id`
    /// is 0 where there is no connection.
    #[inline]
    pub fn warn(&self, kind: Kind, id: u64, text: impl FnOnce() -> String) {
        if let Some(logger) = self.wanted(LogLevel::Warn) {
            self.write_thinned(logger, kind, id, text);
        }
    }

    /// Logs how many lines were left out since the last one of each kind. It is
    /// for the stop.
    pub fn flush(&self) {
        let Some(logger) = self.wanted(LogLevel::Warn) else { return };
        for kind in Kind::ALL {
            let left_out = std::mem::take(&mut lock(&self.floods[kind as usize]).left_out);
            if left_out > 0 {
                let text = format!("{left_out} more {}", kind.plural());
                self.write(logger, LogLevel::Warn, 0, &text);
            }
        }
    }

    fn wanted(&self, level: LogLevel) -> Option<&Logger> {
        let logger = self.logger.as_ref()?;
        // Before any lock: a thread of the parent's may hold it.
        (level <= logger.level && self.process.is_current() && !callback::is_logging())
            .then_some(logger)
    }

    #[cold]
    fn write_thinned(&self, logger: &Logger, kind: Kind, id: u64, text: impl FnOnce() -> String) {
        let admitted = lock(&self.floods[kind as usize]).admit(clock::now());
        let Some(left_out) = admitted else { return };
        let mut text = text();
        if left_out > 0 {
            text += &format!(" (and {left_out} more {} before)", kind.plural());
        }
        self.write(logger, LogLevel::Warn, id, &text);
    }

    #[cold]
    fn write(&self, logger: &Logger, level: LogLevel, id: u64, text: &str) {
        // A name of the program's or of a peer's makes no second line.
        let shown = |c: char| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
        let text: String = text.chars().map(shown).collect();
        callback::call_logger(self.server, || logger.write(level, ConnId::from_u64(id), &text));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_one_line_a_second_and_a_count() {
        let mut flood = Flood::default();
        assert_eq!(flood.admit(5000), Some(0));
        assert_eq!(flood.admit(5000), None);
        assert_eq!(flood.admit(5000 + QUIET_MS), None, "never early");
        assert_eq!(flood.admit(5001 + QUIET_MS), Some(2));
        assert_eq!(flood.admit(5002 + QUIET_MS), None);
        assert_eq!(flood.left_out, 1);
    }

    #[test]
    fn each_kind_has_its_place() {
        for (place, kind) in Kind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, place, "{}", kind.plural());
        }
    }
}
