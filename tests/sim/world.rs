//! The simulated world: one virtual clock, one queue of what is to happen, and all that happens in
//! one order, which the seed decides.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::client::Client;
use crate::episode::Tells;
use crate::files::Files;
use crate::local::{File, Place};
use crate::proxy::Proxies;
use crate::random::Random;
use crate::report::Report;
use crate::secure;
use crate::shrink::Without;
use crate::story::Story;
use crate::tcp::Link;
use crate::watches::Known;

pub const MICRO: u64 = 1_000;
pub const MILLI: u64 = 1_000_000;
pub const SECOND: u64 = 1_000_000_000;
/// A time that does not come.
pub const NEVER: u64 = u64::MAX;

/// What happens at a time. A link's sides are 0, the server's, and 1, the client's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Event {
    /// Bytes arrive at a side of a link.
    Segment {
        link: u32,
        to: u8,
        bytes: u32,
    },
    Fin {
        link: u32,
        to: u8,
    },
    Reset {
        link: u32,
        to: u8,
    },
    /// The peer's acknowledgement of bytes arrives at their sender.
    Ack {
        link: u32,
        to: u8,
        bytes: u32,
    },
    AckFin {
        link: u32,
        to: u8,
    },
    /// The peer has read: its window is open.
    Window {
        link: u32,
        to: u8,
    },
    /// The kernel has memory for the sender's bytes again.
    Room {
        link: u32,
        to: u8,
    },
    /// Nobody has acknowledged for so long that the kernel gives the connection up.
    Lost {
        link: u32,
        to: u8,
    },
    /// A client asks for a connection.
    Syn {
        link: u32,
    },
    /// A timer descriptor expires.
    Expire {
        file: u32,
        setting: u32,
    },
    /// A wake-up that nothing caused.
    Spurious {
        file: u32,
    },
    Client {
        client: u32,
    },
    /// A descriptor of the program's gets ready.
    Signal {
        number: u32,
    },
    /// The server's side has begun to connect: this is the answer, or there is none.
    Answer {
        link: u32,
    },
    /// The process has descriptors, or the kernel memory, again.
    Plenty,
}

/// The rates of what goes wrong: once in so many calls, 0 for never.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rates {
    pub short_send: u64,
    pub full_send: u64,
    pub interrupt: u64,
    pub accept_error: u64,
    pub exhaustion: u64,
    pub spurious: u64,
    pub split: u64,
    pub no_memory: u64,
    /// The thread does not run for some milliseconds.
    pub preempt: u64,
    /// A file cannot be read, or not by sendfile(2).
    pub unreadable: u64,
}

pub struct World {
    pub now: u64,
    pub random: Random,
    pub steps: u64,
    pub hash: u64,
    /// Grows with all that happens but with calls that do nothing.
    pub progress: u64,
    queue: BinaryHeap<Reverse<(u64, u64, Event)>>,
    queued: u64,
    pub files: Files,
    pub links: Vec<Link>,
    pub clients: Vec<Client>,
    /// The clients' side of TLS, in an episode that has it.
    pub secure: Option<secure::Clients>,
    /// They come to it by STARTTLS.
    pub upgrades: bool,
    /// How the server takes PROXY headers, if it does.
    pub proxies: Option<Proxies>,
    pub stories: Vec<Story>,
    pub rates: Rates,
    /// The file that the program sends from at this moment.
    pub file_of_program: Option<i32>,
    /// accept4(2) fails with this until `Event::Plenty`.
    pub exhausted: Option<i32>,
    /// The call that fails while the server starts, counted down.
    pub fail_in: Option<u64>,
    /// What the library's calls of getrandom(2) return.
    pub entropy: Random,
    pub report: Report,
    pub findings: Vec<String>,
    pub tells: Tells,
    /// The link whose story is told, `None` for all.
    pub told: Option<u32>,
    pub seed: u64,
    /// What this episode leaves out, and how many acts the program has done.
    pub without: Without,
    pub acts: u32,
    /// The random numbers that go on when an act, or a client's, has ended.
    pub streams: Vec<Random>,
    /// The longest time for which the thread did not run.
    pub longest_pause: u64,
    pub times: Times,
    /// When a stop was requested.
    pub stop_at: Option<u64>,
    pub watched: Vec<Known>,
    /// How many timers have expired that are not dropped.
    pub expired: u32,
    /// When a quiesce was requested, and how often it was told.
    pub quiesce_at: Option<u64>,
    pub quiesces: u32,
    /// Where the service is, its port, and what has the path of a unix socket.
    pub place: Place,
    pub port: u16,
    pub path: Option<File>,
    /// The number of the latest file, and whether another server has taken the path over.
    pub numbers: u64,
    pub was_replaced: bool,
    /// Until when another process has the lock of its folder.
    pub folder_held_until: u64,
    /// When a listener was last found empty, or gave a connection; when it failed; when a client
    /// came to it.
    pub accepted_at: u64,
    pub refused_at: Option<u64>,
    pub came_at: u64,
    /// How many were accepted since a quiesce was asked for.
    pub taken: usize,
    /// How often other threads make calls: once in so many waits, 0 for never.
    pub others: u64,
    /// How many connections the program has brought.
    pub brought: usize,
}

/// The server's deadlines in ns, `NEVER` for off.
#[derive(Clone, Copy, Debug, Default)]
pub struct Times {
    pub idle: u64,
    pub write: u64,
    pub linger: u64,
    pub drain: u64,
    pub high_water: u64,
    pub handshake: u64,
    /// How many of them may go on at the same time, 0 for all.
    pub places: u32,
}

thread_local! {
    static OTHERS: RefCell<Option<Box<dyn Fn()>>> = const { RefCell::new(None) };
    static WORLD: RefCell<Option<Box<World>>> = const { RefCell::new(None) };
}

/// Makes the world of the calling thread.
pub fn begin(world: World) {
    WORLD.with(|place| *place.borrow_mut() = Some(Box::new(world)));
}

/// Ends it. From now on all calls go to the real kernel.
pub fn end() -> Box<World> {
    WORLD.with(|place| place.borrow_mut().take().expect("there is a world"))
}

/// The program's and the driver's way to the world. No call of the library is made inside.
pub fn with<R>(body: impl FnOnce(&mut World) -> R) -> R {
    WORLD.with(|place| body(place.borrow_mut().as_mut().expect("there is a world")))
}

/// The way of system calls: `None` where the thread has no world, or is inside it.
pub fn enter<R>(body: impl FnOnce(&mut World) -> R) -> Option<R> {
    let result = WORLD.try_with(|place| match place.try_borrow_mut() {
        Ok(mut world) => world.as_mut().map(|world| body(world)),
        Err(_) => None,
    });
    result.ok().flatten()
}

/// Sets what other threads do while the library waits for events.
pub fn set_others(body: Option<Box<dyn Fn()>>) {
    let former = OTHERS.with(|place| std::mem::replace(&mut *place.borrow_mut(), body));
    drop(former);
}

/// The library is about to wait.
pub fn let_others_run() {
    let runs = enter(|w| w.random.once_in(w.others)).unwrap_or(false);
    if runs {
        OTHERS.with(|place| {
            if let Some(body) = &*place.borrow() {
                body();
            }
        });
    }
}

/// Calls go to the real kernel meanwhile.
pub fn without<R>(body: impl FnOnce() -> R) -> R {
    let world = end();
    let result = body();
    WORLD.with(|place| *place.borrow_mut() = Some(world));
    result
}

impl World {
    pub fn new(seed: u64, tells: Tells) -> World {
        World {
            now: 1000 * SECOND,
            random: Random::new(seed),
            steps: 0,
            hash: 0xcbf2_9ce4_8422_2325,
            progress: 0,
            queue: BinaryHeap::new(),
            queued: 0,
            files: Files::default(),
            links: Vec::new(),
            clients: Vec::new(),
            secure: None,
            upgrades: false,
            proxies: None,
            stories: Vec::new(),
            rates: Rates::default(),
            file_of_program: None,
            exhausted: None,
            fail_in: None,
            entropy: Random::new(!seed),
            report: Report::default(),
            findings: Vec::new(),
            tells,
            told: None,
            seed,
            without: Without::default(),
            acts: 0,
            streams: Vec::new(),
            longest_pause: 0,
            times: Times::default(),
            stop_at: None,
            watched: Vec::new(),
            expired: 0,
            quiesce_at: None,
            quiesces: 0,
            place: Place::Tcp,
            port: 0,
            path: None,
            numbers: 0,
            was_replaced: false,
            folder_held_until: 0,
            accepted_at: 0,
            refused_at: None,
            came_at: 0,
            taken: 0,
            others: 0,
            brought: 0,
        }
    }

    /// Notes an event of the run.
    pub fn step(&mut self, what: u64, a: u64, b: u64) {
        self.steps += 1;
        self.progress += 1;
        for number in [what, a, b, self.now] {
            self.hash = (self.hash ^ number).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23);
        }
    }

    pub fn find(&mut self, text: String) {
        self.say(|| format!("FOUND {text}"));
        if self.findings.len() < 8 {
            self.findings.push(format!("step {}: {text}", self.steps));
        }
    }

    pub fn note(&self, text: impl FnOnce() -> String) {
        if self.tells == Tells::All {
            eprintln!("{:>12} {}", (self.now - 1000 * SECOND) / MICRO, text());
        }
    }

    /// What a short story of the episode has.
    pub fn say(&self, text: impl FnOnce() -> String) {
        if self.tells == Tells::Nothing {
            return;
        }
        let text = text();
        // A story is that of one link, where the finding is.
        let of = match text.split_once("link ") {
            Some((_, rest)) => rest.split(|c: char| !c.is_ascii_digit()).next(),
            None => None,
        };
        let tells = |link: u32| of.is_none_or(|of| of == link.to_string());
        if self.tells == Tells::All || self.told.is_none_or(tells) {
            eprintln!("{:>12} {text}", (self.now - 1000 * SECOND) / MICRO);
        }
    }

    /// Random numbers of the seed that nothing else draws.
    pub fn stream(&self, number: u64) -> Random {
        Random::new(self.seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    pub fn at(&mut self, time: u64, event: Event) {
        self.queued += 1;
        self.queue.push(Reverse((time.max(self.now), self.queued, event)));
    }

    pub fn after(&mut self, time: u64, event: Event) {
        self.at(self.now + time, event);
    }

    pub fn next_event(&self) -> u64 {
        self.queue.peek().map_or(NEVER, |Reverse((time, ..))| *time)
    }

    /// Lets happen what is due.
    pub fn pump(&mut self) {
        while let Some(Reverse((time, _, event))) = self.queue.peek().copied() {
            if time > self.now {
                break;
            }
            self.queue.pop();
            self.happen(event);
        }
    }

    /// Lets the next thing happen, at `until` the latest. Returns whether there was one.
    pub fn advance(&mut self, until: u64) -> bool {
        let next = self.next_event();
        if next > until || next == NEVER {
            if until != NEVER {
                self.now = self.now.max(until);
            }
            return false;
        }
        self.now = self.now.max(next);
        self.pump();
        true
    }

    /// Each call takes some time, and sometimes another thread has the processor.
    pub fn tick(&mut self) {
        let mut time = self.random.between(100, 1_000);
        if self.random.once_in(self.rates.preempt) {
            time = self.random.between(MICRO, 8 * MILLI);
            self.longest_pause = self.longest_pause.max(time);
        }
        self.now += time;
        self.pump();
    }

    fn happen(&mut self, event: Event) {
        self.note(|| format!("{event:?}"));
        let (what, a, b) = match event {
            Event::Segment { link, to, bytes } => (1, u64::from(link * 2 + u32::from(to)), bytes),
            Event::Fin { link, to } => (2, u64::from(link), to.into()),
            Event::Reset { link, to } => (3, u64::from(link), to.into()),
            Event::Ack { link, to, bytes } => (4, u64::from(link * 2 + u32::from(to)), bytes),
            Event::AckFin { link, to } => (5, u64::from(link), to.into()),
            Event::Window { link, to } => (6, u64::from(link), to.into()),
            Event::Room { link, to } => (7, u64::from(link), to.into()),
            Event::Lost { link, to } => (8, u64::from(link), to.into()),
            Event::Syn { link } => (9, u64::from(link), 0),
            Event::Expire { file, setting } => (10, u64::from(file), setting),
            Event::Spurious { file } => (11, u64::from(file), 0),
            Event::Client { client } => (12, u64::from(client), 0),
            Event::Plenty => (13, 0, 0),
            Event::Answer { link } => (14, u64::from(link), 0),
            Event::Signal { number } => (15, u64::from(number), 0),
        };
        self.step(what, a, b.into());
        match event {
            Event::Segment { link, to, bytes } => self.on_segment(link, to, bytes as usize),
            Event::Fin { link, to } => self.on_fin(link, to),
            Event::Reset { link, to } => self.on_reset(link, to, libc::ECONNRESET),
            Event::Ack { link, to, bytes } => self.on_ack(link, to, bytes as usize),
            Event::AckFin { link, to } => self.on_ack_fin(link, to),
            Event::Window { link, to } => self.on_window(link, to),
            Event::Room { link, to } => self.on_room(link, to),
            Event::Lost { link, to } => self.on_reset(link, to, libc::ETIMEDOUT),
            Event::Syn { link } => self.on_syn(link),
            Event::Expire { file, setting } => self.on_expire(file, setting),
            Event::Spurious { file } => self.wake(file, libc::EPOLLIN as u32),
            Event::Client { client } => {
                // So a client that is left out changes nothing else.
                self.clients[client as usize].acts += 1;
                let acts = self.clients[client as usize].acts;
                let own = self.stream(((2 + acts) << 32) | u64::from(client));
                self.streams.push(std::mem::replace(&mut self.random, own));
                self.act_of_client(client);
                self.end_act();
            }
            Event::Plenty => self.exhausted = None,
            Event::Answer { link } => self.on_answer(link),
            Event::Signal { number } => self.on_signal(number as usize),
        }
    }
}
