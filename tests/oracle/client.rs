//! Clients that come, say numbered bytes, and end in every way there is.

use super::headers::{Header, Way};
use super::link::{self, End, Link, Seen};
use super::quiesces::is_in_time;
use super::sides::NOW;
use super::story::{Ending, Sight, Stage, Story, Who};
use super::wire::client_bytes;
use super::world::World;
use super::Random;
use crate::api::{Server, Status};
use crate::support::*;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How a client ends.
#[derive(Clone, Copy, PartialEq)]
enum Last {
    /// Says that this was all, and closes.
    Fin,
    /// Says that this was all, and reads to the end.
    HalfClose,
    Reset,
    /// Says nothing more, and waits.
    Silence,
    /// Its process is ended, in the middle of whatever it does.
    Kill,
}

struct Plan {
    last: Last,
    /// How many pieces it sends, and of which size at most.
    pieces: usize,
    size: usize,
    /// Reads little at a time, and rests.
    slow: bool,
    /// Reads nothing for so long.
    deaf: Duration,
    /// Begins TLS without waiting for the server's word.
    hasty: bool,
    /// How much it says in the clear, where there will be TLS later.
    clear: Option<u64>,
}

/// How long a client that has said all waits for an end while nothing comes.
const PATIENCE: Duration = ms(9000);
/// How long it waits while something comes.
const STAY: Duration = ms(3500);
/// An honest client's handshake is over within this, on a loop: others that stall lose their
/// places after 2 s, where there are no more of them than places several times over.
const SHAKEN: Duration = ms(6500);

/// What a loop has accepted is with a client that reads within this, on a busy machine.
const OVERDUE: Duration = ms(1200);

/// Visits the server over and over.
pub fn client(
    world: &Arc<World>,
    server: &Server,
    (port, way): (u16, Way),
    number: u8,
    mut random: Random,
) {
    while !world.is_over() && !world.is_given_up() {
        let Ok((socket, address)) = link::socket([127, 0, 1, number]) else {
            let_pass(ms(10));
            continue;
        };
        let seed = random.below(1 << 30);
        let key = 1 + random.below((1 << 14) - 1) as u16;
        let later = !world.tls && random.below(6) == 0;
        let stage = match later {
            true => Stage::Clear(1 + random.below(3000) as u64),
            false => Stage::Settled,
        };
        let quiet = random.below(3) == 0;
        let header = Header::of(way, &mut random);
        let who = Who { key, quiet, stage, address, header };
        let story = Story::new(world, world.seed ^ (seed as u64) << 8, who);
        world.expect(address, &story);
        if let Some((client, _)) = story.header.as_ref().and_then(|header| header.ends) {
            world.expect(client, &story);
        }
        if random.below(2) == 0 {
            let _ = socket.set_recv_buffer_size(8 << 10);
        }
        let link = match way {
            Way::Asked => asked(&story, server, socket),
            _ => Link::connect(socket, port, key).ok(),
        };
        match link {
            Some(link) => {
                world.count("clients");
                story.with(|ledger| ledger.connected_at = Some(Instant::now()));
                Visit::new(link, &story, &mut random).run();
            }
            None => {
                world.count("connect refused");
                let_pass(ms(5));
            }
        }
        let_pass(ms(random.below(20) as u64));
    }
}

/// A connection that the server makes.
fn asked(story: &Arc<Story>, server: &Server, socket: socket2::Socket) -> Option<Link> {
    socket.listen(1).ok()?;
    let to = story.address.to_string();
    let timeout = Some(SOON);
    let result = story.world.call("connect", NOW, story, || server.connect(&to, timeout, ()));
    match result {
        Ok(_) => {
            story.act("asked to connect");
            let link = Link::accept(socket, story.key).ok();
            if link.is_none() && !story.world.is_stopping() {
                story.found("the server connects", "nobody came");
            }
            link
        }
        Err(error) => {
            let in_stop = error.status() == Status::State && story.world.is_stopping();
            story.answers(
                "connect",
                &Err::<(), _>(error),
                if in_stop { &[Status::State] } else { &[] },
            );
            None
        }
    }
}

struct Visit<'a> {
    link: Link,
    story: &'a Arc<Story>,
    random: &'a mut Random,
    plan: Plan,
    begun: Instant,
    /// When something last came or left.
    moved: Instant,
    /// Since when it finds nothing to read.
    empty_since: Option<Instant>,
    /// When it began to wait for the end.
    said_all: Option<Instant>,
    pieces: usize,
    rest: usize,
    next_piece: Instant,
    deaf_until: Instant,
    rests_until: Instant,
    ended: Option<End>,
    /// Nothing more can be sent.
    dumb: bool,
}

impl<'a> Visit<'a> {
    fn new(link: Link, story: &'a Arc<Story>, random: &'a mut Random) -> Visit<'a> {
        let last = match random.below(20) {
            0..=4 => Last::Fin,
            5..=11 => Last::HalfClose,
            12..=14 => Last::Reset,
            15..=16 => Last::Silence,
            _ => Last::Kill,
        };
        let plan = Plan {
            last,
            pieces: random.below(12),
            size: [200, 3000, 20_000, 150_000][random.below(4)],
            slow: random.below(8) == 0,
            deaf: if random.below(6) == 0 { ms(random.below(2500) as u64) } else { ms(0) },
            hasty: random.below(2) == 0,
            clear: story.with(|ledger| match ledger.stage {
                Stage::Clear(len) => Some(len),
                _ => None,
            }),
        };
        let now = Instant::now();
        let deaf_until = now + plan.deaf;
        Visit {
            link,
            story,
            random,
            plan,
            begun: now,
            moved: now,
            empty_since: None,
            said_all: None,
            pieces: 0,
            rest: 0,
            next_piece: now,
            deaf_until,
            rests_until: now,
            ended: None,
            dumb: false,
        }
    }

    fn run(mut self) {
        self.story.note("client connected", 0);
        if self.story.header.is_some() {
            self.announce();
        }
        if self.story.is_turned_away() {
            return self.wait_for_refusal();
        }
        if self.story.world.tls {
            if self.random.below(10) == 0 {
                return self.stall();
            }
            self.link.begin_tls(false);
        }
        if self.plan.slow {
            self.story.act("client reads slowly");
        }
        if self.plan.deaf > ms(0) {
            self.story.act("client does not read");
        }
        loop {
            self.receive();
            if self.ended.is_some() {
                return self.saw_end();
            }
            if self.is_kept_out() {
                return self.leave(Last::Reset);
            }
            self.send();
            if self.plan.last == Last::Kill && self.random.below(40) == 0 {
                return self.leave(Last::Kill);
            }
            if self.said_all.is_none() {
                self.said_all = self.has_said_all();
            }
            if let Some(since) = self.said_all {
                match self.plan.last {
                    Last::HalfClose | Last::Silence => {}
                    last => return self.leave(last),
                }
                if self.has_waited_enough(since) {
                    return self.leave(Last::Reset);
                }
            }
            self.wait();
        }
    }

    /// The header, whole or in pieces; its end perhaps together with what follows.
    fn announce(&mut self) {
        let story = self.story;
        let mut rest = &story.header.as_ref().expect("a header").bytes[..];
        if self.random.below(2) == 0 {
            for _ in 0..self.random.below(8) {
                if rest.len() < 2 {
                    break;
                }
                let (piece, others) = rest.split_at(1 + self.random.below(rest.len() - 1));
                self.link.begin(piece, false);
                rest = others;
                let_pass(ms(self.random.below(3) as u64));
            }
        }
        self.link.begin(rest, !story.is_turned_away() && self.random.below(2) == 0);
        story.note("client announced", 0);
        story.with(|ledger| ledger.whole_at = Some(Instant::now()));
        story.world.count("header");
        self.begun = Instant::now();
    }

    /// PP5: The server ends it, and says nothing.
    fn wait_for_refusal(mut self) {
        self.story.act("client is turned away");
        match self.random.below(4) {
            0 => drop(self.link.finish(true)),
            1 if self.random.below(2) == 0 => return drop(self.link.reset()),
            1 => return,
            _ => {}
        }
        while self.begun.elapsed() < PATIENCE || self.story.world.is_stopping() {
            match self.link.read(4096) {
                Seen::End(End::Clean | End::Reset | End::Truncated) => return,
                Seen::Nothing => self.link.wait(true, false, Instant::now() + ms(50)),
                Seen::Some | Seen::End(End::Broken(_)) => {
                    return self.story.found("a bad header is refused", "it gets bytes");
                }
            }
        }
        self.story.found("a bad header is refused", "it waits for the end");
    }

    /// A handshake that does not go on, or does not begin.
    fn stall(mut self) {
        self.story.act("client stalls in the handshake");
        let bytes = self.random.below(400);
        self.link.begin_badly(bytes);
        let until = Instant::now() + ms(self.random.below(12_000) as u64);
        while Instant::now() < until && !self.story.world.is_over() {
            match self.link.read(4096) {
                Seen::End(_) => break,
                Seen::Some => {}
                Seen::Nothing => self.link.wait(true, false, until),
            }
        }
    }

    fn receive(&mut self) {
        let now = Instant::now();
        if now < self.deaf_until || now < self.rests_until {
            return;
        }
        let most = if self.plan.slow { 1 + self.random.below(3000) } else { 64 << 10 };
        for _ in 0..16 {
            match self.link.read(most) {
                Seen::Nothing => {
                    self.empty_since.get_or_insert(now);
                    return self.look_for_overdue();
                }
                Seen::Some => {
                    self.empty_since = None;
                    self.moved = Instant::now();
                    let read = self.link.reader.bytes;
                    self.story.with(|ledger| ledger.read_bytes = read);
                }
                Seen::End(end) => {
                    self.ended = Some(end);
                    return;
                }
            }
            if self.plan.slow {
                self.rests_until = now + ms(1 + self.random.below(10) as u64);
                return;
            }
        }
    }

    /// It reads all, and something that the server's side has said does not come.
    fn look_for_overdue(&mut self) {
        let world = &self.story.world;
        let reads_all = !self.plan.slow && self.plan.deaf == ms(0) && !self.link.is_shaking();
        let waits = self.empty_since.is_some_and(|since| since.elapsed() > OVERDUE);
        if !reads_all || !waits || !world.non_blocking || world.is_stopping() {
            return;
        }
        if let Some(what) = self.story.with(|ledger| ledger.is_overdue(OVERDUE)) {
            self.story.found("what was said comes", &format!("{what}: waited in vain"));
            self.empty_since = None;
        }
    }

    /// How much of the clear text is left where there will be TLS later.
    fn clear_left(&self) -> Option<u64> {
        let sent = self.story.with(|ledger| ledger.client_sent);
        self.plan.clear.filter(|_| !self.link.has_tls()).map(|len| len - sent.min(len))
    }

    fn send(&mut self) {
        if self.dumb || self.said_all.is_some() || self.link.is_shaking() {
            return;
        }
        if let Some(left) = self.clear_left() {
            if left == 0 {
                if self.plan.hasty {
                    self.story.act("client begins TLS unasked");
                    self.link.begin_tls(true);
                }
                return;
            }
            return self.write(left as usize);
        }
        if self.link.has_tls() && !self.link.was_told_to_go() {
            return;
        }
        if self.rest == 0 {
            if self.pieces >= self.plan.pieces || Instant::now() < self.next_piece {
                return;
            }
            self.pieces += 1;
            self.rest = 1 + self.random.below(self.plan.size);
            self.next_piece = Instant::now() + Duration::from_micros(1 << self.random.below(15));
        }
        let written = self.rest;
        self.write(written);
    }

    fn write(&mut self, len: usize) {
        let from = self.story.with(|ledger| ledger.client_sent);
        let bytes = client_bytes(self.story.key, from, len.min(64 << 10));
        match self.link.write(&bytes) {
            Ok(0) => {}
            Ok(n) => {
                self.story.with(|ledger| {
                    ledger.client_sent += n as u64;
                    ledger.note("client sent", n as i64);
                });
                self.rest = self.rest.saturating_sub(n);
                self.moved = Instant::now();
            }
            Err(()) => {
                self.dumb = true;
                self.story.note("client cannot send", 0);
            }
        }
    }

    /// When it has, it ends its sending side as it means to.
    fn has_said_all(&mut self) -> Option<Instant> {
        let waits = self.link.is_shaking()
            || self.clear_left().is_some()
            || (self.link.has_tls() && !self.link.was_told_to_go());
        // One that does not read stays until it does.
        let waits = waits || Instant::now() < self.deaf_until;
        if !self.dumb && (waits || self.rest > 0 || self.pieces < self.plan.pieces) {
            return None;
        }
        match self.plan.last {
            Last::HalfClose if !self.dumb => {
                let fin = self.random.below(4) > 0;
                self.ends(Ending::Clean);
                // Clear text has no end without a FIN.
                if !self.link.finish(fin || !self.link.has_tls()) {
                    self.ends(Ending::Abrupt);
                }
                self.story.act("client half-closes");
            }
            Last::Silence => self.story.act("client is silent"),
            _ => {}
        }
        Some(Instant::now())
    }

    fn ends(&mut self, ending: Ending) {
        let sent = self.story.with(|ledger| ledger.client_sent);
        let arrived = self.link.arrived(sent);
        self.story.with(|ledger| {
            ledger.client_ending = Some(ending);
            ledger.client_arrived = arrived;
            ledger.note("client ends; arrived", arrived as i64);
        });
    }

    /// Nobody serves it: that would be a finding, except in a stop.
    fn is_kept_out(&self) -> bool {
        let world = &self.story.world;
        let shaking = world.tls && self.link.is_shaking();
        if !shaking || self.begun.elapsed() < SHAKEN {
            return false;
        }
        if world.non_blocking && !world.is_stopping() && is_in_time(self.story) {
            let kind = "a handshake is not served while others stall";
            world.found("who waits for a place gets it", kind, Some(&self.story.tell()));
        }
        true
    }

    fn has_waited_enough(&self, since: Instant) -> bool {
        let world = &self.story.world;
        if self.moved.elapsed() > PATIENCE && since.elapsed() > PATIENCE {
            let kind = "a client that said all waits for an end";
            world.found("nobody waits for longer", kind, Some(&self.story.tell()));
            return true;
        }
        let still = self.moved.elapsed() > ms(200);
        let hurry = world.is_over() && since.elapsed() > ms(300) && !still;
        hurry || (since.elapsed() > STAY && !still)
    }

    /// Ends it itself, before the server did.
    fn leave(mut self, last: Last) {
        let how = match last {
            Last::Fin => "client closes",
            Last::Reset => "client resets",
            Last::Kill => "client is killed",
            Last::HalfClose | Last::Silence => unreachable!("it stays"),
        };
        self.story.act(how);
        // Whether the close makes a FIN or a reset is the kernel's choice.
        match last {
            Last::Fin if !self.dumb => {
                self.ends(Ending::Clean);
                if !self.link.finish(false) {
                    self.ends(Ending::Abrupt);
                }
            }
            // Of clear text a close is the end, whoever makes it.
            Last::Kill if !self.link.has_tls() => self.ends(Ending::Clean),
            _ if self.story.with(|ledger| ledger.client_ending) == Some(Ending::Clean) => {}
            _ => self.ends(Ending::Abrupt),
        }
        self.hand_in(Sight::None, last == Last::Reset);
    }

    fn saw_end(mut self) {
        let (what, sight) = match self.ended.take().expect("it ended") {
            End::Clean => ("client saw a clean end", Sight::Clean),
            End::Truncated if self.link.is_shaking() => ("client saw no handshake", Sight::None),
            End::Truncated => ("client saw a bare FIN", Sight::Truncated),
            End::Reset => ("client saw a reset", Sight::Reset),
            End::Broken(how) => ("client saw a broken stream", Sight::Broken(how)),
        };
        self.story.act(what);
        let early = !self.link.has_tls() || self.link.is_shaking();
        let served = self.story.world.non_blocking && !self.story.world.is_stopping();
        let limited = self.story.world.limited.load(Ordering::SeqCst);
        let expected = limited && sight == Sight::Reset;
        if early
            && served
            && !expected
            && is_in_time(self.story)
            && self.story.with(|ledger| ledger.opened == 0)
        {
            let kind = match self.story.world.tls {
                true => "an honest client's handshake is ended",
                false => "an honest client is ended before its time",
            };
            let tale = format!("after {:?}\n{}", self.begun.elapsed(), self.story.tell());
            self.story.world.found("who waits for a place gets it", kind, Some(&tale));
        }
        let attentive = !self.plan.slow && self.plan.deaf == ms(0) && self.said_all.is_some();
        self.story.with(|ledger| {
            ledger.seen_at = Some(Instant::now());
            ledger.attentive = attentive;
        });
        // Some have more to say, to a server that reads on or does not.
        if sight == Sight::Clean && !self.dumb && self.random.below(3) == 0 {
            self.story.act("client goes on after the end");
            let until = Instant::now() + ms(self.random.below(60) as u64);
            while Instant::now() < until && !self.dumb && self.said_all.is_none() {
                self.send();
                self.link.wait(false, false, Instant::now() + ms(5));
            }
        }
        if sight == Sight::Clean && self.story.with(|ledger| ledger.client_ending.is_none()) {
            self.ends(Ending::Clean);
            if !self.dumb && !self.link.finish(false) {
                self.ends(Ending::Abrupt);
            }
        }
        self.hand_in(sight, false);
    }

    fn hand_in(self, sight: Sight, reset: bool) {
        let reader = if reset { self.link.reset() } else { self.link.reader };
        let (received, bytes) = reader.end();
        if bytes > 0 && self.story.with(|ledger| ledger.unheard) {
            self.story.found("nothing before a header", "the client got bytes");
        }
        self.story.with(|ledger| {
            ledger.received = received;
            ledger.received_bytes = bytes;
            ledger.sight = sight;
        });
    }

    fn wait(&mut self) {
        let now = Instant::now();
        let wants_more = self.rest > 0 || self.clear_left().is_some_and(|left| left > 0);
        let sends = wants_more && !self.dumb && self.said_all.is_none() && !self.link.is_shaking();
        let reads = now >= self.deaf_until && now >= self.rests_until;
        let mut until = now + ms(50);
        let due = [self.deaf_until, self.rests_until, self.next_piece];
        for time in due.into_iter().filter(|time| *time > now) {
            until = until.min(time);
        }
        let more = self.pieces < self.plan.pieces && self.rest == 0 && self.next_piece <= now;
        if more
            && self.said_all.is_none()
            && !self.dumb
            && !self.link.is_shaking()
            && self.link_ready()
        {
            return;
        }
        self.link.wait(reads, sends, until);
    }

    /// Whether the next piece could be sent now.
    fn link_ready(&self) -> bool {
        self.clear_left().is_none() && (!self.link.has_tls() || self.link.was_told_to_go())
    }
}
