//! One episode: a server from its start to its end, and its clients.

use std::sync::mpsc;
use std::sync::Arc;
use std::time::Duration;

use net_server::{Config, Error, Server, State, Status};

use crate::acts;
use crate::hang;
use crate::judge;
use crate::local::{self, LOCAL};
use crate::program::{lock, ms, note_status, send_by_id, Program, Shared};
use crate::proxy;
use crate::random::Random;
use crate::report::Report;
use crate::secure;
use crate::shrink::Without;
use crate::world::{self, with, Rates, Times, World, MILLI, NEVER, SECOND};

#[derive(Clone)]
pub struct Options {
    pub tells: Tells,
    pub without: Without,
    /// With TLS or without; else the seed decides.
    pub tls: Option<bool>,
}

pub struct Outcome {
    pub steps: u64,
    pub hash: u64,
    pub virtual_time: u64,
    pub findings: Vec<String>,
    pub clients: u32,
    pub acts: u32,
    pub report: Report,
}

/// What an episode prints while it runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tells {
    Nothing,
    /// What clients and the program do, and the calls that fail; of one link, or of all.
    Story(Option<u32>),
    All,
}

impl Options {
    /// The command that repeats an episode.
    pub fn again(&self, seed: u64) -> String {
        let tls = self.tls.map_or(String::new(), |tls| format!(" TLS={}", u8::from(tls)));
        let without = match self.without.text() {
            text if text == ";;" => String::new(),
            text => format!(" WITHOUT='{text}'"),
        };
        format!("again: make sim SEED={seed}{tls} EPISODES=1{without} TRACE=1")
    }
}

/// Runs one on a thread of its own, so that nothing of an earlier one has an influence. One that
/// does not end, because a call of the library does not return, ends the program: its thread would
/// go on.
pub fn run(seed: u64, options: Options) -> Outcome {
    let (sender, outcome) = mpsc::channel();
    let again = options.again(seed);
    let thread = std::thread::Builder::new().name("episode".into());
    let body = move || sender.send(begin(seed, options)).expect("it is waited for");
    let thread = thread.spawn(body).expect("a thread");
    match hang::wait_for(&outcome) {
        Ok(outcome) => {
            thread.join().expect("an episode catches the panics of the library");
            outcome.expect("the thread has sent it")
        }
        Err(why) => {
            println!("seed {seed}: step unknown: {why}\n{again}");
            std::process::exit(1);
        }
    }
}

fn begin(seed: u64, options: Options) -> Outcome {
    let mut world = World::new(seed, options.tells);
    world.without = options.without.clone();
    if let Tells::Story(link) = options.tells {
        world.told = link;
    }
    world::begin(world);
    // The keys of this thread's hash tables: from the seed, whatever the cryptography takes.
    drop(std::collections::HashSet::<u8>::new());
    let began = with(|w| w.now);
    let program_panics = std::panic::catch_unwind(|| live(seed, options.tls));
    let mut world = world::end();
    if program_panics.is_err() {
        world.find("a panic on the host's thread".into());
    }
    let World { steps, hash, findings, report, now, acts, clients, .. } = *world;
    let clients = clients.len() as u32;
    Outcome { steps, hash, virtual_time: now - began, findings, clients, acts, report }
}

fn rates(random: &mut Random) -> Rates {
    // A third of the episodes have a network without faults.
    if random.once_in(3) {
        return Rates::default();
    }
    Rates {
        short_send: random.one_of(&[0, 5, 100]),
        full_send: random.one_of(&[0, 10, 100]),
        interrupt: random.one_of(&[0, 30, 1_000]),
        accept_error: random.one_of(&[0, 3, 20]),
        exhaustion: random.one_of(&[0, 5, 50]),
        spurious: random.one_of(&[0, 1, 10]),
        split: random.one_of(&[0, 2, 10]),
        no_memory: random.one_of(&[0, 0, 0, 40]),
        preempt: random.one_of(&[0, 100, 5_000]),
        unreadable: random.one_of(&[0, 20, 200]),
    }
}

/// In the order of `shrink::FAULTS`.
fn leave_out(rates: Rates, without: &Without) -> Rates {
    let rate = |number: u32, rate: u64| if without.faults.contains(&number) { 0 } else { rate };
    Rates {
        short_send: rate(0, rates.short_send),
        full_send: rate(1, rates.full_send),
        interrupt: rate(2, rates.interrupt),
        accept_error: rate(3, rates.accept_error),
        exhaustion: rate(4, rates.exhaustion),
        spurious: rate(5, rates.spurious),
        split: rate(6, rates.split),
        no_memory: rate(7, rates.no_memory),
        preempt: rate(8, rates.preempt),
        unreadable: rate(9, rates.unreadable),
    }
}

/// One episode in so many is over TLS, which takes longer, one has PROXY headers, and one a unix
/// socket.
const ONE_IN: u64 = 8;

/// With TLS from the beginning, or by STARTTLS.
fn secure(w: &mut World, config: Config, shared: &Shared) -> Result<Config, Error> {
    w.secure = Some(secure::Clients::new(&mut w.random));
    let random = &mut w.random;
    let time = random.one_of(&[300, 2_500, 10_000]);
    let places = random.one_of(&[0, 1, 3, 1_000]);
    w.times.handshake = time * MILLI;
    w.times.places = places;
    let tls = secure::settings(random)?;
    let config = config.handshake_timeout(ms(time)).max_handshakes(places);
    if w.upgrades {
        let _ = shared.tls.set(tls);
        return Ok(config);
    }
    Ok(config.tls(tls))
}

fn configure(w: &mut World) -> Config {
    let random = &mut w.random;
    let idle = random.one_of(&[None, None, Some(200), Some(3_000), Some(60_000)]);
    let write = random.one_of(&[Some(400), Some(5_000), Some(30_000)]);
    let linger = random.one_of(&[0, 50, 1_000]);
    let drain = random.one_of(&[0, 100, 5_000]);
    let high = random.one_of(&[1, 5_000, 256 << 10]);
    let time = |time: Option<u64>| time.map_or(NEVER, |time| time * MILLI);
    w.times = Times {
        idle: time(idle),
        write: time(write),
        linger: linger * MILLI,
        drain: drain * MILLI,
        high_water: high as u64,
        ..Times::default()
    };
    let random = &mut w.random;
    let config = match random.once_in(6) {
        true => Config::new().shutdown_port("127.0.0.1:0"),
        false => Config::new(),
    };
    config
        .non_blocking(true)
        .max_thread(1u32)
        .max_connections(random.one_of(&[1u32, 8, 1_000]))
        .backlog(random.one_of(&[1u32, 4, 128]))
        .idle_timeout(idle.map(ms))
        .write_timeout(write.map(ms))
        .linger_timeout(ms(linger))
        .drain_timeout(ms(drain))
        .high_water_mark(high)
        .low_water_mark(random.one_of(&[0, 0, 100, 4_000]))
        .send_limit(random.one_of(&[300_000, 16 << 20]))
        .send_limit_total(random.one_of(&[0, 0, 400_000]))
        .keep_alive(random.one_of(&[None, Some(Duration::from_secs(60))]))
}

fn live(seed: u64, tls: Option<bool>) {
    let shared = Arc::new(Shared::default());
    let (config, wildness, clients, fails) = with(|w| {
        let config = configure(w);
        // By a number of their own: else without them the episode is another one.
        let mut chance = Random::new(seed.rotate_left(32));
        let (has_headers, is_secure) = (chance.once_in(ONE_IN), chance.once_in(ONE_IN));
        let is_local = chance.once_in(ONE_IN);
        let config = if is_local { local::choose(w, config) } else { config };
        let config = if has_headers { proxy::choose(w, config) } else { config };
        let is_secure = tls.unwrap_or(is_secure);
        w.upgrades = tls != Some(false) && !is_secure && !has_headers && chance.once_in(ONE_IN);
        let config = match is_secure || w.upgrades {
            true => secure(w, config, &shared),
            false => Ok(config),
        };
        let wildness = w.random.one_of(&[0, 30, 8, 3]);
        let clients = w.random.one_of(&[1, 3, 10, 40]);
        let fails = w.random.once_in(30).then(|| w.random.below(6));
        (config, wildness, clients, fails)
    });
    let program = || Program { shared: shared.clone(), wildness };
    let service = with(|w| w.place.service());
    let server = config.and_then(|c| Server::with_config(service, program(), c));
    let server = match server {
        Ok(server) => server,
        Err(error) => return with(|w| w.find(format!("no server: {error}"))),
    };
    local::try_to_start(&server);
    if fails.is_some() {
        fail_to_start(&server, fails);
    }
    if let Err(error) = server.start_hosted() {
        return with(|w| w.find(format!("L6: the start failed: {error}")));
    }
    let port = if service.starts_with("unix") { LOCAL } else { server.port() };
    let shutdown_port = server.shutdown_port();
    with(|w| {
        let drawn = rates(&mut w.random);
        w.rates = leave_out(drawn, &w.without);
        let spread = w.random.one_of(&[MILLI, SECOND, 30 * SECOND]);
        w.port = port;
        w.others = w.random.one_of(&[0, 0, 100, 2_000]);
        if shutdown_port != 0 {
            for _ in 0..w.random.below(5) {
                let time = w.now + w.random.below(60 * SECOND);
                w.add_client(shutdown_port, time);
            }
        }
        for _ in 0..1 + w.random.below(clients) {
            let time = w.now + w.random.below(spread);
            w.add_client(port, time);
        }
    });
    let (other, others) = (server.clone(), program());
    world::set_others(Some(Box::new(move || crate::threads::call(&other, &others))));
    host(&server, &program(), seed);
    world::set_others(None);
    end(server, &shared);
}

/// One of the calls that a start needs fails: nothing is left, and it may be tried again.
fn fail_to_start(server: &Server, fails: Option<u64>) {
    let before = with(|w| {
        w.fail_in = fails;
        w.files.count()
    });
    let result = server.start_hosted();
    let rest = with(|w| w.fail_in.take());
    match result {
        Err(error) => {
            note_status(&Err(error));
            let after = with(|w| w.files.count());
            if before != after {
                with(|w| w.find(format!("L6: a start that failed left {}", after - before)));
            }
            with(|w| w.look_at_path("a start that failed"));
        }
        Ok(()) if rest.is_none() => with(|w| w.find("L8: the start passed over a failure".into())),
        Ok(()) => {
            // Fewer calls than that: the server has to end.
            note_status(&server.stop());
        }
    }
}

/// How many turns in succession may find nothing to do.
const EMPTY_TURNS: u64 = 500;

fn host(server: &Server, program: &Program, seed: u64) {
    if server.state() == State::Stopped {
        return;
    }
    let (mut looked_at, mut progress, mut empty) = (0, 0, 0);
    let end_at = with(|w| match w.random.below(3) {
        0 => w.now + w.random.below(3 * SECOND),
        1 => w.now + w.random.below(60 * SECOND),
        _ => NEVER,
    });
    loop {
        let timeout = with(|w| match w.random.below(8) {
            0 => Some(Duration::ZERO),
            1 => Some(ms(w.random.below(30))),
            _ => Some(ms(1_000)),
        });
        let before = with(|w| w.now);
        match server.run_once(timeout) {
            Ok(()) => {}
            Err(error) if error.status() == Status::State => return,
            Err(error) => return with(|w| w.find(format!("HS3: a turn failed: {error}"))),
        }
        let (now, is_over, has_findings, moved) = with(|w| {
            let is_over = w.clients.iter().all(|client| client.is_over);
            (w.now, is_over, !w.findings.is_empty(), w.progress)
        });
        let is_early = timeout.is_some_and(|time| now < before + time.as_nanos() as u64);
        empty = if moved == progress && is_early { empty + 1 } else { 0 };
        progress = moved;
        if empty > EMPTY_TURNS {
            with(|w| w.find(format!("A7: {empty} turns found nothing to do")));
        }
        if has_findings {
            return;
        }
        if now > looked_at + SECOND / 2 {
            looked_at = now;
            look(server);
        }
        if with(|w| w.random.once_in(10)) {
            acts::one(|| between_turns(server, program));
        }
        if program.wildness > 0 && server.state() != State::Stopped {
            let kind = with(|w| w.random.below(600));
            let others = || {
                acts::one(|| match kind {
                    0 if with(|w| w.random.once_in(3)) => crate::quiesce::run(server),
                    1 => crate::quiesce::wait_idle(server),
                    2..12 => crate::watches::add(program, server),
                    12..20 => crate::watches::end_one(program, server),
                    20..30 => crate::threads::call(server, program),
                    30..39 => crate::quiesce::look(server),
                    39 if with(|w| w.random.once_in(5)) => with(World::replace_path),
                    _ => {}
                })
            };
            if kind < 40 {
                others();
            }
        }
        let is_idle = is_over && server.stats().open == 0 && lock(&program.shared.owned).is_empty();
        if with(|w| w.stop_at.is_none()) && (now >= end_at || is_idle) {
            return stop(server);
        }
        if now > 1000 * SECOND + 3600 * SECOND {
            return with(|w| w.find(format!("seed {seed}: the episode does not end")));
        }
    }
}

fn look(server: &Server) {
    let open: Vec<_> = with(|w| {
        let open = w.stories.iter().filter(|story| story.is_open());
        open.filter_map(|story| Some((story.link, story.id?))).collect()
    });
    let queued: Vec<_> =
        open.into_iter().map(|(link, id)| (link, server.queued(id).unwrap_or(0))).collect();
    with(|w| {
        judge::look_for_stuck(w, &queued);
        w.look_at_watches();
        if w.expired > 0 {
            w.find(format!("WT8: {} timers that have expired are not dropped", w.expired));
        }
    });
}

/// What the program does outside of callbacks, on the host's thread.
fn between_turns(server: &Server, program: &Program) {
    if program.wildness == 0 && lock(&program.shared.owned).is_empty() {
        return;
    }
    let before = with(|w| w.now);
    let owned = lock(&program.shared.owned).pop();
    if with(|w| w.random.once_in(12)) {
        crate::bring::bring(server, program);
    }
    if let Some((owned, link)) = owned {
        acts::own(program, server, owned, link);
    } else if with(|w| !w.stories.is_empty()) {
        let (link, count, kind) = with(|w| {
            let all = w.stories.len() as u64;
            (w.random.below(all) as u32, w.random.below(9_000) as usize, w.random.below(20))
        });
        let (id, is_open) = with(|w| {
            let story = &w.stories[link as usize];
            (story.id, story.is_open())
        });
        with(|w| w.say(|| format!("between the turns: {kind} with link {link}")));
        match (kind, id) {
            (0, Some(id)) => {
                let result = server.close(id);
                with(|w| w.stories[link as usize].asked_close |= result.is_ok());
                note_status(&result);
            }
            (1, Some(id)) => {
                let result = server.wake(id);
                with(|w| w.stories[link as usize].asked_wake |= result.is_ok());
                note_status(&result);
            }
            _ if is_open => send_by_id(server, link, count),
            _ => {}
        }
    }
    with(|w| w.longest_pause = w.longest_pause.max(w.now - before));
}

fn stop(server: &Server) {
    // HS5: the host is the thread that ran the last turn, and that may have been another one, for
    // whose turns a stop on this thread would wait forever: no time passes meanwhile.
    let _ = server.run_once(Some(Duration::ZERO));
    let (drain, kind) = with(|w| {
        w.stop_at = Some(w.now);
        (w.times.drain, w.random.below(4))
    });
    let (before, limit) = (with(|w| w.now), drain);
    let (result, limit) = match kind {
        0 => (server.stop_within(ms(70)), 70 * MILLI),
        1 => {
            server.request_stop();
            while server.run_once(Some(ms(50))).is_ok() {}
            (Ok(()), limit)
        }
        _ => (server.stop(), limit),
    };
    with(|w| {
        let took = w.now - before;
        // S7, A10.2.
        if took > limit + 100 * MILLI + limit / 100 + 2 * w.longest_pause {
            w.find(format!("A10: the stop took {} ms", took / MILLI));
        }
        if let Err(error) = &result {
            w.find(format!("S10: the stop failed: {error}"));
        }
    });
}

fn end(server: Server, shared: &Shared) {
    let is_sound = with(|w| w.findings.is_empty());
    with(|w| w.stop_at = w.stop_at.or(Some(w.now)));
    if is_sound && !server.is_stopped() {
        with(|w| w.find("HS4: the turns have ended, and the server has not stopped".into()));
    }
    if is_sound {
        with(|w| judge::balance(w, &server));
    }
    drop(server);
    with(|w| w.look_at_path("a stop"));
    let watches = std::mem::take(&mut *lock(&shared.watches));
    drop(watches);
    let owned = std::mem::take(&mut *lock(&shared.owned));
    drop(owned);
    let hooks = *lock(&shared.hooks);
    with(|w| {
        if is_sound && hooks.0 != hooks.1 {
            w.find(format!("S14: on_start ran {} times, on_stop {}", hooks.0, hooks.1));
        }
        while w.advance(NEVER) {}
        if w.findings.is_empty() {
            judge::at_end(w);
        }
    });
}
