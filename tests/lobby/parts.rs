//! What the modelled files use and what is no part of the model.

pub mod address {
    #[derive(Clone, Copy)]
    pub struct Peer;
}

pub mod admission {
    use super::address::Peer;
    use super::error::Error;
    use crate::config::Config;
    use crate::listener::{Fd, Origin};
    use std::sync::Arc;

    /// There are no limits.
    pub struct Admission;
    #[derive(Clone, Copy)]
    pub struct Limit;

    impl Admission {
        pub fn of(_: &Config) -> Option<Arc<Admission>> {
            None
        }

        pub fn admit(&self, _: Peer, _: &mut Origin) -> Result<(), Limit> {
            Ok(())
        }

        pub fn leave(&self, _: Peer, _: &mut Origin) {}
        pub fn note_refusal(&self, _: Peer, _: Limit) {}

        pub fn report(&self, _: bool) -> Option<Error> {
            None
        }
    }

    pub fn turn_away(_: Fd) {}

    pub fn describe_refusal(_: Peer, _: Limit) -> String {
        String::new()
    }
}

pub mod config {
    use std::time::Duration;

    pub struct Config {
        pub lend_listeners: bool,
        pub max_retry: u32,
        pub retry_interval: Duration,
        pub max_thread: u32,
        pub max_waiting: u32,
    }

    #[derive(Clone)]
    pub struct Limits {
        pub send_limit: usize,
        pub idle_ms: u64,
    }

    impl Limits {
        pub fn of(_: &Config) -> Limits {
            Limits { send_limit: 0, idle_ms: 0 }
        }
    }
}

pub mod error {
    use std::fmt;

    #[derive(Clone, Copy, Debug, PartialEq)]
    pub enum Status {
        Rejected,
        Closed,
    }

    #[derive(Clone, Copy, Debug, PartialEq)]
    pub enum CloseReason {
        Handler,
        Peer,
        Error,
        Reset,
        Abort,
        Cut,
        Stop,
        Rejected,
        Limit,
    }

    #[derive(Debug)]
    pub struct Error;

    impl From<Status> for Error {
        fn from(_: Status) -> Error {
            Error
        }
    }

    impl Error {
        pub fn with_os_code(_: Status, _: i32) -> Error {
            Error
        }

        pub fn no_memory(_: std::collections::TryReserveError) -> Error {
            Error
        }
    }

    impl fmt::Display for Error {
        fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
            Ok(())
        }
    }
}

pub mod fork {
    #[derive(Clone, Copy)]
    pub struct Process;

    impl Process {
        pub fn current() -> Process {
            Process
        }
    }
}

pub mod linger {
    pub struct Remains;
}

pub mod logger {
    pub enum Kind {
        Refused,
        Limit,
    }
}

pub mod stats {
    #[derive(Default)]
    pub struct Counter;

    impl Counter {
        pub fn add(&self, _: u64) {}
        pub fn sub(&self, _: u64) {}

        pub fn get(&self) -> u64 {
            0
        }
    }

    #[derive(Default)]
    pub struct Counters {
        pub accepted: Counter,
        pub open: Counter,
        pub calls: Counter,
        pub closed: [Counter; 9],
        pub cut: Counter,
        pub drained: Counter,
        pub refused: Counter,
        pub handler_errors: Counter,
        pub accept_errors: Counter,
        pub bytes_in: Counter,
        pub bytes_out: Counter,
    }
}

pub mod sys {
    use std::io;
    use std::os::fd::{BorrowedFd, RawFd};
    use std::sync::atomic::{AtomicU64, Ordering};

    bitflags::bitflags! {
        pub struct PollFlags: u32 {
            const IN = 1;
        }
    }

    pub enum Shutdown {
        Read,
    }

    /// The time of a run. It is no part of what the threads share.
    pub static NOW: AtomicU64 = AtomicU64::new(0);

    pub fn monotonic_millis() -> u64 {
        NOW.load(Ordering::Relaxed)
    }

    pub fn shutdown(_: RawFd, _: Shutdown) {}
    pub fn reset_on_close(_: RawFd) {}
    pub fn disconnect(_: RawFd) {}

    pub fn poll(_: BorrowedFd<'_>, _: PollFlags, _: i32) -> io::Result<PollFlags> {
        Ok(PollFlags::empty())
    }

    pub fn unacknowledged(_: RawFd) -> u32 {
        0
    }

    pub struct Reach<T>(std::marker::PhantomData<fn(T)>);

    impl<T> Reach<T> {
        pub fn new() -> Reach<T> {
            Reach(std::marker::PhantomData)
        }

        pub fn forget(&self) {}
    }
}

/// `Sender` of a channel that nobody reads.
pub struct Sender<T>(pub std::marker::PhantomData<fn(T)>);

impl<T> Sender<T> {
    pub fn send(&self, _: T) -> Result<(), ()> {
        Ok(())
    }
}
