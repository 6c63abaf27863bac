//! The threads that the library makes: their names, stacks and hooks.

#![forbid(unsafe_code)]

use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender};

use super::Server;
use crate::callback::{self, CallbackScope};
use crate::error::{Error, Status};
use crate::sys;

/// What a thread that the library made is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[repr(i32)]
pub enum ThreadKind {
    /// An event loop of a server in non-blocking mode.
    Loop = 0,
    /// A worker of a server in blocking mode.
    Worker = 1,
    /// The thread that stops a server that was started in the background. A
    /// server with one loop has none: its loop's thread does that.
    Control = 2,
    /// The thread of the shutdown port.
    Shutdown = 3,
}

impl ThreadKind {
    /// Returns the name of a thread: at most 15 bytes (pthread_setname_np(3)),
    /// because a prefix has at most 9.
    fn name(self, prefix: &str, number: usize) -> String {
        match self {
            ThreadKind::Loop => format!("{prefix}-l{number}"),
            ThreadKind::Worker => format!("{prefix}-w{number}"),
            ThreadKind::Control => format!("{prefix}-c"),
            ThreadKind::Shutdown => format!("{prefix}-s"),
        }
    }
}

/// Collects what `on_thread_start` returned on each thread of a start.
pub(super) struct Starts {
    report: Sender<Result<(), Error>>,
    reports: Receiver<Result<(), Error>>,
}

/// A thread's part in [`Starts`].
pub(super) struct StartReport(Sender<Result<(), Error>>);

impl Starts {
    pub fn new() -> Starts {
        let (report, reports) = crossbeam_channel::unbounded();
        Starts { report, reports }
    }

    pub fn report(&self) -> StartReport {
        StartReport(self.report.clone())
    }

    /// Waits until `on_thread_start` has returned on every thread. Returns the
    /// first failure.
    pub fn wait(self) -> Result<(), Error> {
        // Each thread drops its sender when it has reported.
        drop(self.report);
        let mut all = Ok(());
        for result in self.reports {
            all = all.and(result);
        }
        all
    }
}

impl Server {
    /// Makes a thread of the server. It runs `on_thread_start`, `body` if that
    /// did not fail, `on_thread_stop`, and at last `end`.
    pub(super) fn spawn<T>(
        &self,
        kind: ThreadKind,
        number: usize,
        report: StartReport,
        body: impl FnOnce() -> T + Send + 'static,
        end: impl FnOnce(Option<T>) + Send + 'static,
    ) -> Result<JoinHandle<()>, Error> {
        let config = self.config();
        let name = kind.name(&config.thread_name, number);
        let server = self.view();
        let thread = sys::spawn(name, config.stack_size, move || {
            let result = {
                let _inside = CallbackScope::enter(server.number());
                let result = server.run_thread(kind, number, report, body);
                let _ =
                    callback::contain(|| server.handler().on_thread_stop(&server, kind, number));
                result
            };
            end(result);
        });
        thread.map_err(|e| Error::from_os(Status::Thread, "cannot start a thread", &e))
    }

    fn run_thread<T>(
        &self,
        kind: ThreadKind,
        number: usize,
        report: StartReport,
        body: impl FnOnce() -> T,
    ) -> Option<T> {
        let hook = || self.handler().on_thread_start(self, kind, number);
        let started = callback::contain(hook).and_then(|result| result);
        let has_started = started.is_ok();
        let _ = report.0.send(started.map_err(|error| error.into_hook("on_thread_start")));
        drop(report);
        if !has_started {
            return None;
        }
        let result = callback::contain(body);
        if result.is_err() {
            // A defect of the library: the server stops in good order.
            self.request_stop();
        }
        result.ok()
    }
}
