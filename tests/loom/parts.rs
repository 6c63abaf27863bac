//! What the modelled files use and what is no part of a model.

pub mod config {
    #[derive(Clone)]
    pub struct Limits {
        pub send_limit: usize,
        pub idle_ms: u64,
    }
}

pub mod error {
    use std::io;

    #[derive(Debug, PartialEq)]
    pub enum Status {
        State,
        NoMemory,
        Busy,
        Io,
    }

    #[derive(Debug)]
    pub struct Error(pub Status);

    impl Error {
        pub fn new(status: Status, _: &str) -> Error {
            Error(status)
        }

        pub fn from_os(status: Status, _: &str, _: &io::Error) -> Error {
            Error(status)
        }

        pub fn no_memory(_: std::collections::TryReserveError) -> Error {
            Error(Status::NoMemory)
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

        pub fn is_current(self) -> bool {
            true
        }
    }
}

pub mod outbuf {
    use std::sync::Arc;

    pub const SHARED: usize = 16 << 10;

    #[derive(Default)]
    pub struct OutBuf(pub Vec<u8>);

    impl OutBuf {
        pub fn len(&self) -> usize {
            self.0.len()
        }

        pub fn push(&mut self, bytes: &[u8]) {
            self.0.extend_from_slice(bytes);
        }

        pub fn push_shared(&mut self, bytes: &Arc<[u8]>) {
            self.push(bytes);
        }

        pub fn shared(bytes: &[u8]) -> Vec<Arc<[u8]>> {
            vec![bytes.into()]
        }
    }
}

pub mod stats {
    #[derive(Default)]
    pub struct Counters {
        pub open: Counter,
    }

    #[derive(Default)]
    pub struct Counter;

    impl Counter {
        pub fn add(&self, _: u64) {}
    }
}
