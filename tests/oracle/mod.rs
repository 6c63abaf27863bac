//! The oracle: a test that knows only the rules of `docs/BEHAVIOUR.md`. Clients, handlers and other
//! threads do random things to one server. Every byte is numbered, each connection has a ledger
//! (`story.rs`), and when all is over with a connection it is judged (`judge.rs`).
//!
//! `make oracle` runs it. `NS_ORACLE_SECONDS` is how long each test takes (without it nothing is
//! done), `NS_ORACLE_SEED` makes other choices, with `NS_ORACLE_GO_ON` a run goes on after a finding.

// `Ok(socket.close())` is how a handler ends.
#![allow(clippy::unit_arg)]

mod by_id;
mod client;
mod headers;
mod judge;
mod limits;
mod link;
mod loops;
mod others;
mod quiesces;
#[path = "../hammer/random.rs"]
mod random;
mod sides;
mod story;
#[path = "../hammer/texts.rs"]
mod texts;
mod wire;
mod workers;
mod world;

use crate::api::{
    CloseReason, Config, LogLevel, Logger, OwnedSocket, ProxyProtocol, Server, Socket, Status,
};
use crate::support::*;
use headers::Way;
use net_server::TlsConfig;
use random::Random;
use socket2::SockRef;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::BorrowedFd;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};
use story::{Part, Story};
use world::World;

#[test]
fn non_blocking_plain() {
    isolated_for(limit(), || run("non-blocking, plain", true, false));
}

#[test]
fn non_blocking_tls() {
    isolated_for(limit(), || run("non-blocking, TLS", true, true));
}

#[test]
fn blocking_plain() {
    isolated_for(limit(), || run("blocking, plain", false, false));
}

#[test]
fn blocking_tls() {
    isolated_for(limit(), || run("blocking, TLS", false, true));
}

const CLIENTS: u8 = 24;
const CALLERS: u64 = 2;
const OWNERS: u64 = 4;
/// How long a server lives: mostly so short, sometimes long enough for all its deadlines.
const ROUNDS: [Duration; 6] = [ms(1500), ms(1500), ms(1500), ms(3000), ms(3000), ms(9000)];
/// A run of this length must have done everything that there is to do.
const COMPLETE: Duration = ms(20_000);

/// Where handlers put detached sockets.
type Owned = Sender<(OwnedSocket, Arc<Story>)>;

/// The deadlines of a round, and the largest `send`.
#[derive(Clone, Copy)]
pub struct Seconds {
    pub io: Duration,
    pub linger: Duration,
    pub handshake: Duration,
    idle: Duration,
    write: Duration,
    pub big: usize,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn time() -> Duration {
    Duration::from_secs(number("NS_ORACLE_SECONDS", 0))
}

/// When a run must have ended, in seconds.
fn limit() -> u32 {
    time().as_secs() as u32 * 3 + 90
}

fn run(title: &str, non_blocking: bool, tls: bool) {
    if time().is_zero() {
        println!("NS_ORACLE_SECONDS is not set");
        return;
    }
    let seed = number("NS_ORACLE_SEED", 1);
    let world = World::new(format!("{}, {title}", crate::API), non_blocking, tls, seed);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| world.guard(&done));
        let mut random = Random::new(seed);
        let mut rounds = 0;
        while !world.is_given_up() && (rounds == 0 || world.begun.elapsed() + ms(1000) < time()) {
            let left = time().saturating_sub(world.begun.elapsed());
            let length = ROUNDS[random.below(ROUNDS.len())].min(left);
            // A third of them are quiet, the first one too.
            let plan = Plan::of(rounds, length, &mut random);
            round(&world, &plan, &mut random);
            rounds += 1;
        }
        done.store(true, Ordering::SeqCst);
    });
    println!("\noracle: {}", world.summary());
    for kind in world.findings() {
        println!("found: {kind}");
    }
    assert!(world.findings().is_empty(), "there are findings, seed {seed}");
    if time() >= COMPLETE {
        let missing: Vec<_> = expected(non_blocking, tls)
            .into_iter()
            .filter(|what| world.counted(what) == 0)
            .collect();
        assert!(missing.is_empty(), "did not occur: {missing:?}");
    }
}

/// What is special in a round.
struct Plan {
    length: Duration,
    /// The server is stopped in the middle of it all.
    stops: bool,
    /// The versions of the PROXY protocol, and whether others are ordinary clients.
    behind: Option<(ProxyProtocol, bool)>,
    /// When it quiesces.
    quiesce: Option<Duration>,
    /// An address may have few connections, and all queues together have a bound.
    limited: bool,
    /// More may wait for a worker than ever do.
    is_roomy: bool,
}

impl Plan {
    fn of(round: u32, length: Duration, random: &mut Random) -> Plan {
        use ProxyProtocol::{Both, V1, V2};
        let versions = [Both, Both, Both, V1, V2][random.below(5)];
        let quiesce = [None, None, Some(2), Some(3), Some(4)][random.below(5)];
        let quiesce = [None, Some(3), quiesce][(round as usize).min(2)];
        Plan {
            quiesce: quiesce.map(|quarters| length * quarters / 4),
            is_roomy: quiesce.is_some() || random.below(2) == 0,
            limited: round % 3 == 0 && quiesce.is_none(),
            length,
            stops: round % 3 != 0,
            behind: (round % 2 == 1).then(|| (versions, random.below(2) == 0)),
        }
    }
}

/// The life of one server, which is stopped in the middle of it all, or ends quietly.
fn round(world: &Arc<World>, plan: &Plan, random: &mut Random) {
    world.begin();
    world.roomy.store(plan.is_roomy, Ordering::SeqCst);
    world.limited.store(plan.limited, Ordering::SeqCst);
    let times = times(random, plan.limited);
    let (sender, owned) = std::sync::mpsc::channel();
    let owned = Mutex::new(owned);
    let hooks = match world.non_blocking {
        true => loops::hooks(world, &times, sender),
        false => workers::hooks(world, &times),
    };
    let config = config(world, &times, plan);
    let tls = config.tls.clone();
    let server = start(config, quiesces::hooks(world, hooks));
    // Half of the clients come by a door of the program's, which gives the sockets to the server.
    let door = TcpListener::bind("127.0.0.1:0").unwrap();
    let has_door = world.non_blocking && !world.tls;
    let door_port = door.local_addr().unwrap().port();
    let way_of = |number: u8| match number % 4 {
        1 if has_door => (door_port, Way::Door),
        3 if has_door => (0, Way::Asked),
        _ => (server.port(), Way::of(number, plan.behind)),
    };
    if random.below(2) == 0 {
        small_buffers();
    }
    std::thread::scope(|scope| {
        let server = &server;
        let mut fork = || Random::new(random.below(1 << 30) as u64);
        if has_door {
            let door = &door;
            scope.spawn(move || porter(world, server, door));
        }
        for number in 1..=CLIENTS {
            let (random, way) = (fork(), way_of(number));
            world.clients.fetch_add(1, Ordering::SeqCst);
            scope.spawn(move || {
                let visits = || client::client(world, server, way, number, random);
                let result = std::panic::catch_unwind(AssertUnwindSafe(visits));
                world.clients.fetch_sub(1, Ordering::SeqCst);
                assert!(result.is_ok(), "a client failed");
            });
        }
        let looking = fork();
        scope.spawn(move || others::looker(world, server, tls, looking));
        for _ in 0..CALLERS {
            let random = fork();
            scope.spawn(move || others::caller(world, server, random));
        }
        for _ in 0..OWNERS {
            let (owned, times) = (&owned, &times);
            scope.spawn(move || others::owner(world, times, server, owned));
        }
        let port = server.port();
        if let Some(after) = plan.quiesce {
            let mut random = fork();
            scope.spawn(move || {
                let_pass(after);
                quiesces::quiesce(world, server, port, &mut random);
            });
        }
        let end = Instant::now() + plan.length;
        while Instant::now() < end && !world.is_given_up() {
            let_pass(ms(20));
        }
        if plan.stops {
            stop(world, server, [0, 0, 300, 2000][random.below(4)]);
        }
        world.over.store(true, Ordering::SeqCst);
    });
    if !plan.stops {
        world.count("quiet end");
        let left = || server.stats().open + server.stats().waiting;
        let idle = quiesces::wait_idle(world, &server, SOON);
        if idle && plan.quiesce.is_some() && left() > 0 {
            world.found("a server that is idle is", "it has connections", None);
        }
        if !idle || !comes_true(SOON, || left() == 0) {
            let left: Vec<_> = world.unfinished().iter().map(|story| story.tell()).collect();
            world.found("everything ends", "connections are left open", left.first().map(|s| &**s));
        }
        if world.non_blocking && !world.tls && plan.quiesce.is_none() {
            leaves_nothing(world, &server, plan.behind.is_some());
        }
        if plan.limited {
            limits::gives_back(world, &server, plan.behind, random);
        }
        stop(world, &server, 300);
    }
    quiesces::after_stop(world, &server);
    let stats = server.stats();
    let left = stats.accepted + stats.attached + stats.adopted
        - (stats.open + stats.waiting + stats.closed_total() + stats.detached);
    if left != 0 || stats.open + stats.waiting != 0 {
        world.found(
            "the accounts balance",
            "not all is accounted for",
            Some(&format!("{stats:?}")),
        );
    }
    let refused = world.headers_refused.load(Ordering::SeqCst);
    if stats.closed[CloseReason::Proxy as usize] != refused {
        let detail = format!("{refused} exceptions, {stats:?}");
        world.found("the accounts balance", "refused headers are not counted", Some(&detail));
    }
    drop(server);
    // Detached sockets that nobody took.
    drop(owned);
    let gone = comes_true(SOON, || world.unfinished().is_empty());
    if !gone {
        let left = world.unfinished();
        world.found("callbacks once", "user data is never dropped", Some(&left[0].tell()));
    }
}

/// Gives what comes by the door to the server. A stop resets what it does not take, as it does with
/// clients that wait in the backlog.
fn porter(world: &World, server: &Server, door: &TcpListener) {
    door.set_nonblocking(true).unwrap();
    while !world.over.load(Ordering::SeqCst) || world.clients.load(Ordering::SeqCst) > 0 {
        let Ok((socket, _)) = door.accept() else {
            let_pass(ms(1));
            continue;
        };
        match server.adopt(socket, ()) {
            Ok(_) => world.count("adopt"),
            Err(failed) => {
                SockRef::from(&failed.fd).set_linger(Some(Duration::ZERO)).unwrap();
                if failed.error.status() != Status::State || !world.is_stopping() {
                    let kind = format!("adopt returns {}", failed.error.status().name());
                    world.found("calls answer as promised", &kind, None);
                }
            }
        }
    }
}

/// Connections that have ended hold no memory, whatever their timers were set to.
fn leaves_nothing(world: &World, server: &Server, behind: bool) {
    let come_and_go = |times: usize| {
        for _ in 0..times {
            if let Ok(mut client) = TcpStream::connect(("127.0.0.1", server.port())) {
                let _ = client.set_read_timeout(Some(SOON));
                // A source that is refused, or says something else at least.
                let _ = client.write(if behind { b"GET / HTTP/1.1" } else { b"" });
                let _ = client.read(&mut [0]);
            }
        }
        comes_true(SOON, || server.stats().open == 0);
        // SAFETY: takes nothing, cannot fail.
        unsafe { libc::mallinfo2() }.uordblks
    };
    let before = come_and_go(200);
    let grown = come_and_go(2000).saturating_sub(before);
    if grown > 16 << 10 {
        let kind = "memory of connections that have ended";
        world.found("cost follows what is open", kind, Some(&format!("{grown} bytes of 2000")));
    }
}

/// The sockets that the server accepts hold little in the kernel.
fn small_buffers() {
    for listener in listening_sockets() {
        // SAFETY: this process is the run's: the listener is open.
        let listener = unsafe { BorrowedFd::borrow_raw(listener) };
        SockRef::from(&listener).set_send_buffer_size(16 << 10).unwrap();
    }
}

fn stop(world: &Arc<World>, server: &Server, millis: u64) {
    world.stopping.store(true, Ordering::SeqCst);
    world.count("stop");
    let stop = || {
        world.watch("stop_within", ms(millis + 100), Weak::new(), || server.stop_within(ms(millis)))
    };
    // On a busy machine no thread of the server may have run for the 80 ms of its grace.
    if let Err(error) = stop().or_else(|_| stop()) {
        let kind = format!("stop_within({millis}) returns {}", error.status().name());
        world.found("in time", &kind, None);
    }
}

fn times(random: &mut Random, patient: bool) -> Seconds {
    // Which of the two deadlines of a connection comes first; or none hides that something is stuck.
    let (idle, write) =
        [(400, 1500), (1500, 400), (3000, 3000)][if patient { 2 } else { random.below(3) }];
    Seconds {
        io: ms(100 + random.below(300) as u64),
        linger: ms(1000),
        handshake: ms(8000),
        idle: ms(idle),
        write: ms(write),
        big: [100_000, 1_000_000][random.below(2)],
    }
}

fn config(world: &Arc<World>, times: &Seconds, plan: &Plan) -> Config {
    let mut config = blocking(if world.non_blocking { 2 } else { 12 })
        .non_blocking(world.non_blocking)
        .max_retry(4)
        .retry_interval(ms(200))
        .max_waiting(if plan.is_roomy { 100 } else { 20 })
        .max_connections(60)
        .max_handshakes(3)
        .handshake_timeout(times.handshake)
        .io_timeout(times.io)
        .idle_timeout(times.idle)
        .write_timeout(times.write)
        .linger_timeout(times.linger)
        .send_limit(2 << 20)
        .high_water_mark(32 << 10);
    if plan.limited {
        config = config.max_per_address(limits::PER_ADDRESS).send_limit_total(limits::TOTAL);
    }
    let logging = world.clone();
    config = config.logger(Logger::new(LogLevel::Info, move |_, _, line| {
        logging.count("lines of the log");
        if let Some(what) = texts::unfit(line) {
            logging.found("the log is fit to read", "a line is not", Some(&what));
        }
    }));
    if let Some((versions, others)) = plan.behind {
        config = config
            .proxy_protocol(versions)
            .add_trusted_proxy(headers::TRUSTED)
            .proxy_timeout(ms(4000))
            .proxy_others(others);
    }
    if world.tls {
        let tls = TlsConfig::new();
        let (chain, key) =
            (include_bytes!("../data/server.pem"), include_bytes!("../data/server-key.pem"));
        tls.add_cert_pem(None, chain, key).expect("the certificate of the tests");
        config = config.tls(tls);
    }
    config
}

/// `on_open`: the connection gets its story.
fn opened(world: &Arc<World>, socket: &mut Socket<'_>) -> Option<Arc<Story>> {
    if world.probing.load(Ordering::SeqCst) {
        return None;
    }
    // One that was reset meanwhile has no address any more.
    let Some(story) = socket.peer().and_then(|peer| world.of_peer(peer)) else {
        world.count("came and went");
        for _ in 0..4 {
            let _ = socket.set_timer(Some(loops::LONG));
        }
        socket.abort();
        return None;
    };
    story.called("on_open");
    story.with(|ledger| {
        ledger.opened += 1;
        ledger.given += 1;
    });
    headers::check(socket, &story);
    socket.set_user_data(Part(story.clone()));
    Some(story)
}

/// The acts and the kinds of end that a complete run has had.
fn expected(non_blocking: bool, tls: bool) -> Vec<&'static str> {
    let mut all = vec![
        "client closes",
        "client resets",
        "client half-closes",
        "client is silent",
        "client reads slowly",
        "client does not read",
        "client is killed",
        "client goes on after the end",
        "client saw a clean end",
        "client saw a reset",
        "close",
        "abort",
        "half-close",
        "shutdown of receiving",
        "close by id",
        "abort by id",
        "send",
        "sendv",
        "sendfile",
        "stop",
        "quiet end",
        "cork",
        "uncork",
        "flush",
        "a deadline passes",
        "metrics",
        "lines of the log",
        "quiesce",
        "wait_idle: idle",
        "wait_idle: not idle",
        "header",
        "a header is refused",
        "client is turned away",
        "told of an end",
        "told of an error",
        "closed by the handler",
        "closed by the peer",
        "closed by a reset",
        "closed by an abort",
    ];
    if non_blocking {
        all.extend([
            "pause",
            "timer",
            "on_timeout",
            "detach",
            "attach",
            "free",
            "send by id",
            "send by own id",
            "broadcast",
            "each accepted",
            "each refused",
            "half-close by id",
            "queued, some",
            "queued, none",
            "wake",
            "on_wake",
            "on_drain",
        ]);
    } else {
        all.extend(["recv timed out", "refused without loops"]);
    }
    all.extend(match tls {
        true => ["client stalls in the handshake"].as_slice(),
        false => ["starttls", "client begins TLS unasked"].as_slice(),
    });
    if non_blocking && !tls {
        all.extend(["adopt", "asked to connect"]);
    }
    all
}
