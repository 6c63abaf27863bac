//! The hammer: clients, handlers and other threads do random things to one server at the same time.
//! In the end no connection, descriptor, thread or piece of user data may be left, and the accounts
//! must balance.
//!
//! `NS_HAMMER_SECONDS` (5 by default) is how long the six rounds take in all, `NS_HAMMER_SEED`
//! makes other choices.

// `Ok(socket.close())` is how a handler ends.
#![allow(clippy::unit_arg)]

mod clients;
mod handlers;
mod random;
mod tasks;

use crate::api::{CloseReason, ConnId, OwnedSocket, Server, Status};
use crate::support::*;
use clients::client;
use handlers::{gather, hooks};
use random::Random;
use socket2::{Domain, SockRef, Socket, Type};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tasks::tasker;

/// How a round ends.
#[derive(Clone, Copy, PartialEq)]
enum End {
    /// The clients end first, and every connection by itself.
    Quiet,
    /// The server is stopped while everything goes on.
    Stop,
}

/// Who runs the server.
#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Blocking,
    NonBlocking,
    /// A thread of the test.
    Hosted,
}

const LOOPS: usize = 3;
const CLIENTS: usize = 8;
const CALLERS: usize = 2;
const OWNERS: usize = 2;
/// Ids that are called, gone ones among them.
const KNOWN: usize = 100;

/// J5, AD5: Non-blocking, until all clients have gone.
#[test]
fn non_blocking_to_the_end() {
    isolated_for(limit(), || round(Mode::NonBlocking, End::Quiet));
}

/// J5, S15: Non-blocking, stopped in the middle of it.
#[test]
fn non_blocking_stopped_midway() {
    isolated_for(limit(), || round(Mode::NonBlocking, End::Stop));
}

/// J5: Blocking, until all clients have gone.
#[test]
fn blocking_to_the_end() {
    isolated_for(limit(), || round(Mode::Blocking, End::Quiet));
}

/// J5, S15: Blocking, stopped in the middle of it.
#[test]
fn blocking_stopped_midway() {
    isolated_for(limit(), || round(Mode::Blocking, End::Stop));
}

/// J5, WT1, HS9: Hosted, until all clients have gone.
#[test]
fn hosted_to_the_end() {
    isolated_for(limit(), || round(Mode::Hosted, End::Quiet));
}

/// J5, S15, WT1, HS11: Hosted, stopped in the middle of it.
#[test]
fn hosted_stopped_midway() {
    isolated_for(limit(), || round(Mode::Hosted, End::Stop));
}

/// How long a round runs.
fn time() -> Duration {
    let seconds = std::env::var("NS_HAMMER_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs_f64(seconds.unwrap_or(5.0) / 6.0)
}

/// When a round must have ended, in seconds.
fn limit() -> u32 {
    time().as_secs() as u32 + 50
}

/// State that all threads of a round share.
pub struct Shared {
    pub done: AtomicBool,
    pub ids: Mutex<Vec<ConnId>>,
    pub opened: AtomicU64,
    pub closed: AtomicU64,
    /// Calls of watches, timers and posted tasks.
    pub tasks: AtomicU64,
    /// Every connection has one as its user data, which must be dropped once.
    pub data: Arc<()>,
    /// Events that should not have happened. A failed assertion in a callback would only close one
    /// connection.
    wrong: Mutex<Vec<String>>,
}

impl Shared {
    pub fn is_over(&self) -> bool {
        self.done.load(Ordering::SeqCst)
    }

    pub fn wrong(&self, what: String) {
        self.wrong.lock().unwrap().push(what);
    }

    pub fn remember(&self, id: ConnId, random: &mut Random) {
        let mut ids = self.ids.lock().unwrap();
        match ids.len() {
            n if n < KNOWN => ids.push(id),
            n => ids[random.below(n)] = id,
        }
    }

    pub fn any_id(&self, random: &mut Random) -> Option<ConnId> {
        let ids = self.ids.lock().unwrap();
        (!ids.is_empty()).then(|| ids[random.below(ids.len())])
    }
}

fn round(mode: Mode, end: End) {
    let non_blocking = mode != Mode::Blocking;
    // Handlers panic on purpose.
    std::panic::set_hook(Box::new(|info| {
        if !info.to_string().contains("on purpose") {
            eprintln!("{info}");
        }
    }));
    let seed = std::env::var("NS_HAMMER_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    let shared = Arc::new(Shared {
        done: AtomicBool::new(false),
        ids: Mutex::default(),
        opened: AtomicU64::new(0),
        closed: AtomicU64::new(0),
        tasks: AtomicU64::new(0),
        data: Arc::new(()),
        wrong: Mutex::default(),
    });
    let (sender, owned) = std::sync::mpsc::channel();
    let owned = Mutex::new(owned);
    let loops = if mode == Mode::NonBlocking { LOOPS } else { 1 };
    let threads = if mode == Mode::Hosted { 1 } else { LOOPS };
    let server =
        unstarted(config(non_blocking, threads), hooks(non_blocking, &shared, sender, seed));
    match mode {
        Mode::Hosted => server.start_hosted().unwrap(),
        _ => server.start_background().unwrap(),
    }
    let is_idle = AtomicBool::new(false);
    std::thread::scope(|host| {
        if mode == Mode::Hosted {
            host.spawn(|| {
                while !is_idle.load(Ordering::SeqCst) {
                    if server.run_once(Some(ms(5))).is_err() {
                        return;
                    }
                }
            });
        }
        run(&server, mode, end, loops, &shared, &owned, seed);
        if end == End::Quiet {
            wait_idle(&server);
        }
        is_idle.store(true, Ordering::SeqCst);
    });
    check(&server, &shared, end, seed);
    assert!(!non_blocking || shared.tasks.load(Ordering::SeqCst) > 20, "hardly a task ran");
    drop(server);
    // Detached sockets that nobody took. Until now handlers may have made more.
    drop(owned);
    assert_eq!(Arc::strong_count(&shared.data), 1, "user data is left");
}

/// Everything at the same time.
fn run(
    server: &Server,
    mode: Mode,
    end: End,
    loops: usize,
    shared: &Arc<Shared>,
    owned: &Mutex<Receiver<OwnedSocket>>,
    seed: u64,
) {
    let non_blocking = mode != Mode::Blocking;
    std::thread::scope(|scope| {
        for i in 0..CLIENTS as u64 {
            scope.spawn(move || client(server.port(), shared, Random::new(seed ^ (i + 1) << 32)));
        }
        for i in 0..CALLERS as u64 {
            let random = Random::new(seed ^ (i + 101) << 32);
            scope.spawn(move || caller(server, non_blocking, shared, random));
        }
        for i in 0..OWNERS as u64 {
            scope.spawn(move || owner(server, shared, owned, Random::new(seed ^ (i + 201) << 32)));
        }
        if non_blocking {
            scope.spawn(move || bringer(server, shared, Random::new(seed ^ 301 << 32)));
            scope.spawn(move || tasker(server, loops, shared, Random::new(seed ^ 401 << 32)));
        }
        let_pass(time());
        if end == End::Stop {
            cut(server, ms(300));
        }
        shared.done.store(true, Ordering::SeqCst);
    });
}

fn config(non_blocking: bool, threads: usize) -> crate::api::Config {
    let config = blocking(threads as u32).non_blocking(non_blocking);
    config
        .max_retry(2)
        .retry_interval(ms(10))
        .max_waiting(5)
        .max_connections(40)
        .io_timeout(ms(50))
        .idle_timeout(ms(400))
        .write_timeout(ms(200))
        .linger_timeout(ms(30))
        .high_water_mark(32 << 10)
        .send_limit(256 << 10)
}

/// The accounts, and what the callbacks saw.
fn check(server: &Server, shared: &Shared, end: End, seed: u64) {
    let wrong = shared.wrong.lock().unwrap();
    assert!(wrong.is_empty(), "seed {seed}: {} wrongs, first {:?}", wrong.len(), wrong.first());
    assert_settled(server);
    let stats = server.stats();
    println!("seed {seed}: {stats:?}");
    assert!(stats.accepted > 50, "hardly anything happened: {stats:?}");
    let opened = shared.opened.load(Ordering::SeqCst);
    let closed = shared.closed.load(Ordering::SeqCst);
    assert_eq!(
        opened + stats.attached,
        closed + stats.detached,
        "on_open and on_close, seed {seed}: {stats:?}"
    );
    if end == End::Quiet {
        let never = stats.refused + stats.handshake_failures;
        let came = stats.accepted - never + stats.adopted;
        let unconnected = stats.closed[CloseReason::Connect as usize];
        // A close or an abort by id may end a connect that is in progress.
        assert!(opened <= came - unconnected, "seed {seed}: {stats:?}");
        if stats.adopted == 0 {
            assert_eq!(opened, came, "seed {seed}: {stats:?}");
        }
    }
}

/// Calls by id, and looks at the server, from a thread that is none of its own.
fn caller(server: &Server, non_blocking: bool, shared: &Shared, mut random: Random) {
    let allowed = match non_blocking {
        true => vec![Status::Ok, Status::Closed, Status::BufferFull],
        false => vec![Status::Ok, Status::Closed, Status::NotNonBlocking],
    };
    while !shared.is_over() {
        let Some(id) = shared.any_id(&mut random) else { continue };
        let result = match random.below(16) {
            0..=3 => status(server.send(id, &vec![b's'; random.below(5000)])),
            4 => status(server.broadcast(&shared.ids.lock().unwrap(), b"broadcast")),
            5 => status(server.close(id)),
            6 => status(server.abort(id)),
            7 => {
                let stats = server.stats();
                drop((stats, server.report(), server.thread_stats(random.below(4))));
                Status::Ok
            }
            8 => status(server.connections()),
            9 => status(server.shutdown(id, half(&mut random))),
            10 | 11 => status(server.queued(id)),
            12 => {
                let ids = shared.ids.lock().unwrap().clone();
                match server.broadcast_each(&ids, &vec![b'e'; random.below(40_000)]) {
                    Ok(each) => {
                        let unexpected = each.iter().filter_map(|result| result.err());
                        unexpected.into_iter().find(|s| !allowed.contains(s)).unwrap_or(Status::Ok)
                    }
                    failed => status(failed),
                }
            }
            _ => status(server.wake(id)),
        };
        if !allowed.contains(&result) {
            shared.wrong(format!("a call by id gave {result:?}"));
        }
        let_pass(Duration::from_micros(random.below(500) as u64));
    }
}

/// Brings connections: sockets of its own, and connects to the server itself and to nobody.
fn bringer(server: &Server, shared: &Shared, mut random: Random) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // Bound, so that it is no other server's, and not listening.
    let refusing = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    refusing.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let nowhere = refusing.local_addr().unwrap().as_socket().unwrap().to_string();
    let own = format!("127.0.0.1:{}", server.port());
    while !shared.is_over() {
        let data = shared.data.clone();
        let brought = match random.below(8) {
            0 => server.connect(&nowhere, None, data),
            // With a timeout: at `max_connections` it waits for itself (AD5).
            1 | 2 => server.connect(&own, Some(ms(1 << random.below(10))), data),
            _ => {
                let ours = TcpStream::connect(address).unwrap();
                let (mut theirs, _) = listener.accept().unwrap();
                let brought = server.adopt(ours, data).map_err(|failed| failed.error);
                let _ = theirs.write_all(&vec![b'p'; random.below(20_000)]);
                match random.below(3) {
                    0 => {
                        let _ = theirs.set_read_timeout(Some(ms(5)));
                        let _ = theirs.read(&mut [0; 5000]);
                    }
                    1 => SockRef::from(&theirs).set_linger(Some(Duration::ZERO)).unwrap(),
                    _ => {}
                }
                brought
            }
        };
        match brought {
            Ok(id) => {
                shared.remember(id, &mut random);
                if random.below(4) == 0 {
                    let _ = server.send(id, &vec![b'e'; random.below(5000)]);
                }
                match random.below(12) {
                    0 => drop(server.close(id)),
                    1 => drop(server.abort(id)),
                    2 => drop(server.wake(id)),
                    _ => {}
                }
            }
            // A stop has begun.
            Err(error) if error.status() == Status::State => return,
            Err(error) => shared.wrong(format!("a connection that was brought gave {error:?}")),
        }
        pause(&mut random);
    }
}

/// Does things with detached sockets.
fn owner(
    server: &Server,
    shared: &Shared,
    owned: &Mutex<Receiver<OwnedSocket>>,
    mut random: Random,
) {
    loop {
        let next = owned.lock().unwrap().recv_timeout(ms(10));
        let mut socket = match next {
            Ok(socket) => socket,
            Err(RecvTimeoutError::Timeout) if !shared.is_over() => continue,
            Err(_) => return,
        };
        if random.below(2) == 0 {
            let _ = socket.socket().set_io_timeout(Some(ms(5)));
            gather(&mut socket.socket(), &mut random);
            let _ = socket.socket().recv(&mut [0; 100]);
            let _ = socket.socket().send(&vec![b'o'; random.below(20_000)]);
            gather(&mut socket.socket(), &mut random);
        }
        match random.below(5) {
            0 => drop(socket),
            1 => socket.socket().abort(),
            2 => drop(socket.release_fd()),
            _ => match server.attach(socket) {
                Ok(id) => shared.remember(id, &mut random),
                Err(failure) => drop(failure.socket),
            },
        }
    }
}

/// Where handlers put detached sockets.
pub type Owned = Sender<OwnedSocket>;

/// A direction to end, or both.
pub fn half(random: &mut Random) -> Shutdown {
    [Shutdown::Read, Shutdown::Write, Shutdown::Both][random.below(3)]
}

/// A moment of some µs to some ms.
pub fn pause(random: &mut Random) {
    let_pass(Duration::from_micros(1 << random.below(13)));
}
