//! The threads that the library makes: their names, stacks and hooks.

#![forbid(unsafe_code)]

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

use super::Server;
use crate::callback::{self, CallbackScope};
use crate::error::{Error, Status};
use crate::sync::lock;
use crate::sys;

/// What a thread that the library made is for.
///
/// Example: [`Handler::on_thread_start`](crate::Handler::on_thread_start).
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
///
/// A channel would do, but its bookkeeping needs the current thread's handle,
/// which the standard library never frees on a program's main thread.
pub(super) struct Starts(Arc<(Mutex<Reports>, Condvar)>);

#[derive(Default)]
struct Reports {
    /// How many threads have not reported.
    missing: usize,
    /// The first failure.
    failure: Option<Error>,
}

/// A thread's part in [`Starts`]. The thread reports when it drops this.
pub(super) struct StartReport {
    starts: Arc<(Mutex<Reports>, Condvar)>,
    failure: Option<Error>,
}

impl Starts {
    pub fn new() -> Starts {
        Starts(Arc::default())
    }

    pub fn report(&self) -> StartReport {
        lock(&self.0 .0).missing += 1;
        StartReport { starts: self.0.clone(), failure: None }
    }

    /// Waits until `on_thread_start` has returned on every thread. Returns the
    /// first failure.
    pub fn wait(self) -> Result<(), Error> {
        let reports = lock(&self.0 .0);
        let waited = self.0 .1.wait_while(reports, |reports| reports.missing > 0);
        let mut reports = waited.unwrap_or_else(PoisonError::into_inner);
        reports.failure.take().map_or(Ok(()), Err)
    }
}

impl Drop for StartReport {
    fn drop(&mut self) {
        let mut reports = lock(&self.starts.0);
        reports.missing -= 1;
        if reports.failure.is_none() {
            reports.failure = self.failure.take();
        }
        self.starts.1.notify_one();
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
                let _inside = CallbackScope::own_thread(server.number());
                let result = server.run_thread(kind, number, report, body);
                let _ =
                    callback::call_hook(|| server.handler().on_thread_stop(&server, kind, number));
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
        mut report: StartReport,
        body: impl FnOnce() -> T,
    ) -> Option<T> {
        let hook = || self.handler().on_thread_start(self, kind, number);
        let started = callback::call_hook(hook).and_then(|result| result);
        let has_started = started.is_ok();
        report.failure = started.err().map(|error| error.into_hook("on_thread_start"));
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
