//! What every test uses: isolation, deadlines, clients, events.
#![allow(dead_code, unused_imports)]

mod client;
mod events;
pub mod faults;
mod handlers;
mod isolate;
mod process;

use crate::api::{Config, Hooks, Server};
use std::time::{Duration, Instant};

pub use crate::api::{default_server, TLS};
pub use client::{refused, Client};
pub use events::{events, Events, Gate, Log, OpenOnDrop};
pub use handlers::*;
pub use isolate::{isolated, isolated_for};
pub use process::*;

/// How long a test waits for something that should happen at once.
pub const SOON: Duration = Duration::from_secs(8);
/// How late a deadline may be kept in a test, on a busy machine.
pub const LATE: Duration = Duration::from_secs(2);
/// Long enough to see that something does not happen.
pub const NEVER: Duration = Duration::from_millis(150);
/// Far more than the kernel takes of a connection to a [`Client::small`] that does not read.
pub const BULK: usize = 4 << 20;

pub const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// A blocking server's settings. Everything that could make a test slow is short.
pub fn blocking(max_thread: u32) -> Config {
    Config::new().max_thread(max_thread).linger_timeout(ms(500)).drain_timeout(ms(3000))
}

/// The same for a non-blocking server.
pub fn non_blocking(max_thread: u32) -> Config {
    blocking(max_thread).non_blocking(true)
}

/// One configuration of each mode, for what must hold in both.
pub fn both_modes() -> [Config; 2] {
    [blocking(4), non_blocking(2)]
}

/// A server that listens on a free port of the loopback and has started.
pub fn start(config: Config, hooks: Hooks) -> Server {
    let server = unstarted(config, hooks);
    server.start_background().expect("start");
    server
}

pub fn unstarted(config: Config, hooks: Hooks) -> Server {
    server_at("127.0.0.1:0", config, hooks)
}

/// A server of any service, with what this run gives every server.
#[track_caller]
pub fn server_at(service: &str, config: Config, hooks: Hooks) -> Server {
    Server::with_config(service, hooks, crate::api::configure(config)).expect("new")
}

/// Waits until `condition` holds; fails the test when it does not come to hold.
#[track_caller]
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < SOON, "waited in vain: {what}");
        std::thread::sleep(ms(2));
    }
}

/// Fails when `condition` ceases to hold within a short while.
#[track_caller]
pub fn steadily(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while start.elapsed() < NEVER {
        assert!(condition(), "did not last: {what}");
        std::thread::sleep(ms(2));
    }
}

/// Measures how long something took.
pub struct Stopwatch(Instant);

impl Stopwatch {
    pub fn start() -> Self {
        Stopwatch(Instant::now())
    }

    pub fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }

    /// A deadline of `due` was kept: never early, and late only within reason.
    #[track_caller]
    pub fn kept(&self, due: Duration) {
        kept(self.elapsed(), due);
    }

    /// What happened did so at once.
    #[track_caller]
    pub fn at_once(&self) {
        let took = self.elapsed();
        assert!(took < LATE, "took {took:?}");
    }
}

/// `took` respects a deadline of `due`.
#[track_caller]
pub fn kept(took: Duration, due: Duration) {
    assert!(took >= due, "{took:?} is earlier than {due:?}");
    assert!(took < due + LATE, "{took:?} is much later than {due:?}");
}

/// `len` bytes in which every position is recognisable.
pub fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i % 251) as u8 ^ (i / 251) as u8).collect()
}

/// Checks the accounting of a server at rest, and that nothing is left open.
#[track_caller]
pub fn assert_settled(server: &Server) {
    let stats = server.stats();
    assert_eq!((stats.open, stats.waiting), (0, 0), "left open: {stats:?}");
    assert_balanced(server);
}

/// accepted + attached = open + waiting + closed + detached (2.8).
#[track_caller]
pub fn assert_balanced(server: &Server) {
    let stats = server.stats();
    assert_eq!(
        stats.accepted + stats.attached,
        stats.open + stats.waiting + stats.closed_total() + stats.detached,
        "accounting: {stats:?}"
    );
}

/// `counted` bytes were transferred to bring `count` ones over `connections`: exactly those, or
/// with TLS what its handshakes and records add.
#[track_caller]
pub fn assert_bytes(counted: u64, count: u64, connections: u64) {
    let most = if TLS { count + count / 100 + connections * 4096 } else { count };
    assert!((count..=most).contains(&counted), "{counted} bytes counted for {count}");
}

/// Waits until no connection is open.
#[track_caller]
pub fn wait_idle(server: &Server) {
    let start = Instant::now();
    while server.stats().open + server.stats().waiting > 0 {
        assert!(start.elapsed() < SOON, "connections are left open: {:?}", server.stats());
        std::thread::sleep(ms(2));
    }
    assert_balanced(server);
}

/// Runs `body` on a thread of its own with a deadline, for calls that could block for ever.
#[track_caller]
pub fn within<T: Send>(limit: Duration, body: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let task = scope.spawn(body);
        let start = Instant::now();
        while !task.is_finished() {
            if start.elapsed() > limit {
                // The thread cannot be ended: the process of this test is.
                eprintln!("a call did not return within {limit:?}");
                std::process::abort();
            }
            std::thread::sleep(ms(1));
        }
        match task.join() {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}
