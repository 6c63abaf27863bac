//! A model of the lobby of a pool: `blocking.rs` and `blocking/worker.rs`, with the
//! quiesce and the seats. shuttle runs it in orders that it draws.
//!
//! Time passes only where the model says so. So a wait that only a deadline ends
//! is a deadlock in the models without a clock, and shuttle reports it.

#![cfg(loom)]
// The library uses the rest of its files.
#![allow(dead_code, unused_imports)]

// `blocking.rs` names it: here it is this crate.
extern crate self as crossbeam_channel;

mod blocking;
#[path = "../../src/clock.rs"]
mod clock;
mod conn;
mod listener;
mod parts;
mod server;
#[path = "../../src/sync.rs"]
mod sync;

use std::marker::PhantomData;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::{Duration, Instant};

use loom::thread::{self, JoinHandle};

use blocking::Pool;
use clock::Deadline;
use config::Config;
use listener::Listener;
pub use parts::Sender;
use parts::{address, admission, config, error, fork, linger, logger, stats, sys};
use server::{callback, Server};
use sync::atomic::AtomicBool;
use sync::lock;

const WORKERS: u32 = 2;

/// A running pool.
struct Run {
    server: Arc<Server>,
    pool: Arc<Pool>,
    listener: Listener,
    threads: Vec<JoinHandle<()>>,
}

impl Run {
    /// `wait_ms` is how long a client waits for a worker at most.
    fn begin(wait_ms: u64, max_waiting: u32, max_connections: usize) -> Run {
        sys::NOW.store(0, Ordering::Relaxed);
        let config = Config {
            lend_listeners: false,
            max_retry: 1,
            retry_interval: Duration::from_millis(wait_ms),
            max_thread: WORKERS,
            max_waiting,
        };
        let listener = Listener::default();
        let listeners = vec![listener.clone()];
        let pool = Pool::new(&config, 1, max_connections, listeners, Sender(PhantomData));
        let (server, pool) = (Server::new(config), Arc::new(pool));
        let work = |_| {
            let (server, pool) = (server.clone(), pool.clone());
            thread::spawn(move || pool.work(&server))
        };
        let threads = (0..pool.threads()).map(work).collect();
        pool.open_gate();
        Run { server, pool, listener, threads }
    }

    /// As many clients connect, each by a thread of its own.
    fn connect(&self, clients: usize) -> Vec<JoinHandle<bool>> {
        let connect = |client| {
            let listener = self.listener.clone();
            thread::spawn(move || listener.connect(client))
        };
        (0..clients).map(connect).collect()
    }

    /// Stops, and joins the workers.
    fn stop(self) -> (Arc<Server>, Listener) {
        self.server.stopping.store(true, Ordering::SeqCst);
        self.pool.begin_drain();
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
        (self.server, self.listener)
    }
}

/// Each client was served or refused once, or waits in the backlog.
fn judge(server: &Server, listener: &Listener, connected: usize) -> usize {
    let story = lock(&server.story);
    let mut clients: Vec<_> = story.served.iter().chain(&story.refused).copied().collect();
    clients.sort_unstable();
    let over = clients.len();
    clients.dedup();
    assert_eq!(clients.len(), over, "a client has two ends");
    assert!(over + listener.backlog() <= connected);
    story.served.len()
}

/// A worker serves who waits as soon as it is free, without the clock.
fn all_are_served() {
    serve(5);
}

/// Nobody comes behind who could help.
fn the_last_is_served() {
    serve(3);
}

fn serve(count: usize) {
    // Room for one that waits.
    let run = Run::begin(5, 10, WORKERS as usize + 1);
    let clients = run.connect(count);
    run.server.wait_for(count);
    clients.into_iter().for_each(|client| assert!(client.join().unwrap()));
    let (server, listener) = run.stop();
    assert_eq!(judge(&server, &listener, count), count);
}

/// Beyond the bound of the queue clients are refused at once.
fn each_has_one_end() {
    let run = Run::begin(5, 1, 100);
    let clients = run.connect(5);
    run.server.wait_for(5);
    clients.into_iter().for_each(|client| assert!(client.join().unwrap()));
    let (server, listener) = run.stop();
    judge(&server, &listener, 5);
}

/// A stop ends all threads at any moment.
fn a_stop_ends_all_threads() {
    let run = Run::begin(5, 10, WORKERS as usize + 1);
    let clients = run.connect(4);
    let (server, listener) = run.stop();
    let connected = clients.into_iter().map(|c| c.join().unwrap());
    judge(&server, &listener, connected.filter(|connected| *connected).count());
}

/// A quiesce waits for those whom it has taken, and they are served.
fn a_quiesce_serves_whom_it_has() {
    let run = Run::begin(5, 1, WORKERS as usize + 1);
    let clients = run.connect(4);
    run.pool.quiesce(&run.server);
    assert!(run.pool.wait_idle(Deadline::NEVER));
    let before = run.listener.backlog();
    let connected = clients.into_iter().map(|client| client.join().unwrap());
    let connected = connected.filter(|connected| *connected).count();
    let over = {
        let story = lock(&run.server.story);
        story.served.len() + story.refused.len()
    };
    assert_eq!(over + before, connected, "a client is neither over nor in the backlog");
    let (server, listener) = run.stop();
    judge(&server, &listener, connected);
    assert_eq!(before, listener.backlog(), "a worker has accepted after the quiesce");
}

/// With a clock: who has waited too long is refused, and nobody is forgotten.
fn time_passes() {
    let run = Run::begin(400, 10, WORKERS as usize + 2);
    let clients = run.connect(5);
    let over = Arc::new(AtomicBool::new(false));
    let ticks = {
        let (over, pool, listener) = (over.clone(), run.pool.clone(), run.listener.clone());
        thread::spawn(move || {
            while !over.load(Ordering::SeqCst) {
                sys::NOW.fetch_add(25, Ordering::Relaxed);
                // Both wake all that wait for a time.
                pool.open_gate();
                listener.tick();
                sync::yield_now();
            }
        })
    };
    run.server.wait_for(5);
    clients.into_iter().for_each(|client| assert!(client.join().unwrap()));
    let (server, listener) = run.stop();
    over.store(true, Ordering::SeqCst);
    ticks.join().unwrap();
    judge(&server, &listener, 5);
}

/// Runs the models in as many orders each.
fn main() {
    let orders = std::env::var("LOBBY_ORDERS").map_or(2000, |n| n.parse().unwrap());
    let models: [(&str, fn()); 6] = [
        ("all are served", all_are_served),
        ("the last is served", the_last_is_served),
        ("each has one end", each_has_one_end),
        ("a stop ends all threads", a_stop_ends_all_threads),
        ("a quiesce serves whom it has", a_quiesce_serves_whom_it_has),
        ("time passes", time_passes),
    ];
    for (name, model) in models {
        // A finding is a panic: this is what was not so.
        print!("lobby: {name}");
        let _ = std::io::Write::flush(&mut std::io::stdout());
        let begin = Instant::now();
        loom::check_random_with_seed(model, 1, orders);
        loom::check_pct(model, orders, 3);
        println!(": {} orders in {} ms", 2 * orders, begin.elapsed().as_millis());
    }
    println!("{} models hold, in {} orders", models.len(), 2 * orders * models.len());
}
