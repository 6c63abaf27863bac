//! Tools of every test: isolation, deadlines, clients, events.

// Each test binary uses a part of it.
#![allow(dead_code, unused_imports)]

mod client;
mod events;
pub mod faults;
mod file;
mod handlers;
mod isolate;
mod memory;
mod process;
mod proxy;

use crate::api::{Config, Hooks, Server, State, Status};
use std::time::{Duration, Instant};

pub use crate::api::{default_server, TLS};
pub use client::{refused, Client};
pub use events::{events, Events, Gate, Log, OpenOnDrop};
pub use file::*;
pub use handlers::*;
pub use isolate::{isolated, isolated_for};
pub use memory::fail_allocation;
pub use process::*;
pub use proxy::*;

/// How long a test waits for something that should happen immediately.
pub const SOON: Duration = Duration::from_secs(20);
/// Long enough to see that something does not happen.
pub const NEVER: Duration = Duration::from_millis(150);
/// Far more than the kernel takes of a connection to a [`Client::small`] that does not read.
pub const BULK: usize = 4 << 20;

pub const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// How late a deadline may be kept in a test: 2 s, and on a busy machine as much later as threads of
/// this process, which is one test's, have waited for a processor.
pub fn late() -> Duration {
    ms(2000) + waited_for_processor()
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
pub fn eventually(what: &str, condition: impl FnMut() -> bool) {
    assert!(comes_true(SOON, condition), "waited in vain: {what}");
}

/// Fails when `condition` ceases to hold within a short while.
#[track_caller]
pub fn steadily(what: &str, mut condition: impl FnMut() -> bool) {
    assert!(!comes_true(NEVER, || !condition()), "did not last: {what}");
}

/// Whether `condition`, which nothing announces, comes to hold within `limit`.
pub fn comes_true(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    while !condition() {
        if start.elapsed() > limit {
            return false;
        }
        let_pass(ms(1));
    }
    true
}

/// The only sleep of the tests: where it is the passing of time that something is tested with,
/// such as a peer that is slow. What can be waited for is waited for.
pub fn let_pass(time: Duration) {
    std::thread::sleep(time);
}

/// `body` waits, and this process does next to nothing meanwhile.
#[track_caller]
pub fn at_rest(body: impl FnOnce()) {
    let (clock, used) = (Stopwatch::start(), processor_time());
    body();
    let (spent, took) = (processor_time() - used, clock.elapsed());
    assert!(spent < took / 2, "it spins: {spent:?} of processor time in {took:?}");
}

/// Stops a server with a deadline that the cut comes to. A stop waits some 100 ms for each next
/// connection that the cut ends; a busy machine may need longer, and the stop, which says so, goes
/// on.
#[track_caller]
pub fn cut(server: &Server, limit: Duration) {
    let stopped = server.stop_within(limit);
    let stopped = stopped.or_else(|error| match error.status() {
        Status::Timeout => server.wait(Some(SOON)),
        _ => Err(error),
    });
    stopped.unwrap();
}

/// Does `meanwhile` while a stop is under way, which succeeds after that.
#[track_caller]
pub fn while_stopping(server: &Server, meanwhile: impl FnOnce()) {
    std::thread::scope(|scope| {
        let stop = scope.spawn(|| server.stop());
        eventually("it is stopping", || server.state() == State::Stopping);
        meanwhile();
        stop.join().unwrap().unwrap();
    });
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

    /// The event came immediately.
    #[track_caller]
    pub fn at_once(&self) {
        let took = self.elapsed();
        assert!(took < late(), "took {took:?}");
    }
}

/// `took` respects a deadline of `due`.
#[track_caller]
pub fn kept(took: Duration, due: Duration) {
    assert!(took >= due, "{took:?} is earlier than {due:?}");
    assert!(took < due + late(), "{took:?} is much later than {due:?}");
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

/// accepted + attached + adopted = open + waiting + closed + detached (J5).
#[track_caller]
pub fn assert_balanced(server: &Server) {
    let stats = server.stats();
    assert_eq!(
        stats.accepted + stats.attached + stats.adopted,
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

/// Waits until no connection is open, and none is on its way from accept to its worker.
#[track_caller]
pub fn wait_idle(server: &Server) {
    let idle = comes_true(SOON, || {
        let stats = server.stats();
        let came = stats.accepted + stats.attached + stats.adopted;
        stats.open + stats.waiting == 0 && came == stats.closed_total() + stats.detached
    });
    assert!(idle, "connections are left open: {:?}", server.stats());
    assert_balanced(server);
}

/// The same where it must be immediate.
#[track_caller]
pub fn idle_at_once(server: &Server) {
    let clock = Stopwatch::start();
    wait_idle(server);
    clock.at_once();
}

/// Runs `body` on a thread of its own with a deadline, for calls that could block forever.
#[track_caller]
pub fn within<T: Send>(limit: Duration, body: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let task = scope.spawn(body);
        if !comes_true(limit, || task.is_finished()) {
            // The thread cannot be ended: the process of this test is.
            eprintln!("a call did not return within {limit:?}");
            std::process::abort();
        }
        match task.join() {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}
