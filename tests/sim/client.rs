//! The clients: each has a plan that the seed made, and follows it in acts.

use crate::story::{self, Story};
use crate::wire::{Breach, Wire};
use crate::world::{Event, World, MICRO, MILLI, NEVER, SECOND};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reads {
    Eagerly,
    Slowly,
    /// Not before it has sent all, and not at all if it does not end in order.
    Late,
}

/// What it does when it has sent all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ending {
    /// It half-closes, and reads to the end.
    Fin,
    Close,
    Reset,
    Vanish,
    /// It waits for the server's end.
    Stay,
}

/// How the server's bytes ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    None,
    /// In order: over TLS with close_notify.
    Fin,
    Error(i32),
    /// A FIN without close_notify.
    Cut,
    /// TLS could not go on.
    Broken,
}

pub struct Client {
    pub port: u16,
    pub link: Option<u32>,
    pub total: u64,
    pub sent: u64,
    pub received: u64,
    pub reads: Reads,
    pub ending: Ending,
    pub end: End,
    pub has_ended: bool,
    pub is_over: bool,
    /// What its bytes are wrapped in.
    pub wire: Option<Box<Wire>>,
    /// How long it takes between two acts, in ns.
    pace: u64,
    wait: u64,
    pub chunk: u64,
    lives_until: u64,
    next_act: u64,
    pub acts: u64,
}

impl Client {
    pub fn is_handshaking(&self) -> bool {
        self.wire.as_ref().is_some_and(|wire| wire.is_handshaking())
    }

    /// It has broken TLS, or ended it without close_notify.
    pub fn is_cut(&self) -> bool {
        self.wire.as_ref().is_some_and(|wire| wire.is_cut || wire.is_bad())
    }

    /// How far it has come.
    fn progress(&self) -> (u64, u64, u64) {
        (self.sent, self.received, self.wire.as_ref().map_or(0, |wire| wire.moved()))
    }
}

impl World {
    /// Adds a client that comes at a time.
    pub fn add_client(&mut self, port: u16, time: u64) {
        let number = self.clients.len() as u32;
        let mut own = self.stream(1 + u64::from(number));
        let random = &mut own;
        let most = random.one_of(&[0, 10, 1_000, 20_000, 300_000]);
        let life = random.one_of(&[100 * MILLI, 2 * SECOND, 20 * SECOND, 200 * SECOND]);
        let pace = random.one_of(&[10 * MICRO, MILLI, 30 * MILLI, 400 * MILLI]);
        let client = Client {
            port,
            link: None,
            total: random.below(most + 1),
            sent: 0,
            received: 0,
            reads: random.one_of(&[Reads::Eagerly, Reads::Eagerly, Reads::Slowly, Reads::Late]),
            ending: random.one_of(&[
                Ending::Fin,
                Ending::Fin,
                Ending::Fin,
                Ending::Close,
                Ending::Reset,
                Ending::Vanish,
                Ending::Stay,
                Ending::Stay,
            ]),
            end: End::None,
            has_ended: false,
            is_over: false,
            wire: None,
            pace,
            wait: pace,
            chunk: random.one_of(&[1, 100, 3_000, 50_000]),
            lives_until: time + life / 2 + random.below(life),
            next_act: time,
            acts: 0,
        };
        self.clients.push(client);
        if self.without.clients.contains(&number) {
            self.clients[number as usize].is_over = true;
            return;
        }
        let client = self.clients.len() as u32 - 1;
        self.at(time, Event::Client { client });
    }

    /// Adds one that does nothing by itself.
    pub fn add_silent_client(&mut self) {
        let now = self.now;
        self.add_client(0, now);
        self.clients.last_mut().expect("it was added").is_over = true;
    }

    /// Something came for a client: it acts soon.
    pub fn client_hears(&mut self, at: u32) {
        let client = &self.clients[at as usize];
        let is_eager = client.reads == Reads::Eagerly || client.is_handshaking();
        if !client.is_over && is_eager {
            let time = self.now + self.random.between(5 * MICRO, 100 * MICRO);
            self.act_at(at, time);
        }
    }

    fn act_at(&mut self, at: u32, time: u64) {
        let client = &mut self.clients[at as usize];
        if time < client.next_act {
            client.next_act = time;
            self.at(time, Event::Client { client: at });
        }
    }

    pub fn act_of_client(&mut self, at: u32) {
        let client = &mut self.clients[at as usize];
        if client.is_over || client.next_act > self.now {
            // An earlier act has taken its place.
            return;
        }
        client.next_act = NEVER;
        let (lives_until, before) = (client.lives_until, client.progress());
        match client.link {
            None => self.connect_client(at),
            Some(link) => self.follow_plan(at, link),
        }
        // Who finds nothing to do waits longer the next time.
        let client = &mut self.clients[at as usize];
        client.wait = match client.progress() == before {
            true => (client.wait * 2).min(SECOND),
            false => client.pace,
        };
        let wait = client.wait;
        let time = self.now + wait / 2 + self.random.below(wait);
        if self.clients[at as usize].end == End::None {
            self.act_at(at, time.min(lives_until).max(self.now + 1));
        } else {
            self.act_at(at, time);
        }
    }

    fn connect_client(&mut self, at: u32) {
        let link = self.new_link(at);
        let story = Story::new(link, &mut self.random);
        self.stories.push(story);
        self.clients[at as usize].link = Some(link);
        // The shutdown port has neither TLS nor headers.
        let is_served = self.clients[at as usize].port == self.port;
        let total = self.clients[at as usize].total;
        self.clients[at as usize].wire = is_served.then(|| self.new_wire(total)).flatten();
        self.say(|| format!("client {at} connects: link {link}"));
        let time = self.random.between(10 * MICRO, 5 * MILLI);
        self.after(time, Event::Syn { link });
    }

    fn follow_plan(&mut self, at: u32, link: u32) {
        let is_late = self.now >= self.clients[at as usize].lives_until;
        let is_refused = self.side(link, 1).is_dead && !self.links[link as usize].is_connected;
        if is_refused || (is_late && !self.links[link as usize].is_connected) {
            self.report.count(if is_refused { "client refused" } else { "client gave up" });
            return self.leave(at, link, true);
        }
        if !self.links[link as usize].is_connected {
            return;
        }
        self.client_reads(at, link);
        self.client_writes(at, link);
        let client = &self.clients[at as usize];
        match client.end {
            End::Error(_) | End::Cut | End::Broken => return self.leave(at, link, false),
            // Some go on to send for a while.
            End::Fin if client.sent == client.total || self.random.once_in(3) => {
                self.report.count("client saw the end");
                return self.leave(at, link, false);
            }
            _ => {}
        }
        if is_late {
            self.report.count("client left late");
            let resets = self.random.once_in(2);
            return self.leave(at, link, resets);
        }
        match self.breach(at) {
            None => {}
            Some(Breach::Stall) => return,
            Some(Breach::Close) => return self.leave(at, link, false),
            Some(Breach::Reset) => return self.leave(at, link, true),
            Some(Breach::Vanish) => return self.vanish(at, link),
        }
        let client = &self.clients[at as usize];
        let has_left = client.wire.as_ref().is_none_or(|wire| wire.has_left());
        if client.sent < client.total || client.has_ended || !has_left {
            return;
        }
        match client.ending {
            Ending::Stay => {}
            Ending::Fin => {
                self.say(|| format!("link {link}: the client sends FIN"));
                self.clients[at as usize].has_ended = true;
                if !self.say_end(at, link, true) {
                    let _ = self.sock_end_sending(link, 1);
                }
            }
            // With close_notify, as far as the kernel takes it.
            Ending::Close => {
                self.say_end(at, link, false);
                self.leave(at, link, false);
            }
            Ending::Reset => self.leave(at, link, true),
            Ending::Vanish => {
                self.say(|| format!("link {link}: the client vanishes"));
                self.vanish(at, link);
            }
        }
    }

    fn vanish(&mut self, at: u32, link: u32) {
        self.sock_vanish(link);
        self.clients[at as usize].is_over = true;
    }

    /// Says the end of the stream, where TLS has its own.
    fn say_end(&mut self, at: u32, link: u32, fin: bool) -> bool {
        match &mut self.clients[at as usize].wire {
            None => return false,
            Some(wire) => wire.end(fin),
        }
        self.wire_writes(at, link);
        true
    }

    fn leave(&mut self, at: u32, link: u32, resets: bool) {
        let how = if resets { "resets" } else { "closes" };
        self.say(|| format!("link {link}: the client {how}"));
        self.clients[at as usize].is_over = true;
        self.sock_close(link, 1, resets);
    }

    fn client_reads(&mut self, at: u32, link: u32) {
        let client = &self.clients[at as usize];
        let most = match client.reads {
            Reads::Eagerly => usize::MAX,
            _ if client.is_handshaking() => usize::MAX,
            Reads::Slowly => client.chunk as usize,
            Reads::Late if client.has_ended => usize::MAX,
            Reads::Late => return,
        };
        let mut buffer = [0; 8192];
        let mut left = most;
        while left > 0 && self.clients[at as usize].end == End::None {
            let len = buffer.len().min(left);
            match self.sock_receive(link, 1, &mut buffer[..len], false) {
                Ok(0) => {
                    let is_tls = self.hears_tls(at, link);
                    self.clients[at as usize].end = if is_tls { End::Cut } else { End::Fin };
                }
                Ok(count) if self.clients[at as usize].wire.is_some() => {
                    left -= count;
                    self.wire_reads(at, link, &buffer[..count]);
                }
                Ok(count) => {
                    left -= count;
                    self.check_received(at, link, &buffer[..count]);
                }
                Err(libc::EAGAIN) => break,
                Err(error) => {
                    let client = &mut self.clients[at as usize];
                    client.end = End::Error(error);
                    self.report.count("client saw a reset");
                }
            }
        }
    }

    pub fn check_received(&mut self, at: u32, link: u32, bytes: &[u8]) {
        let client = &mut self.clients[at as usize];
        let from = client.received;
        client.received += bytes.len() as u64;
        let to = client.received;
        let story = &self.stories[link as usize];
        let tried = story.tried;
        if !story::matches(story.down, from, bytes) {
            self.find(format!("link {link}: wrong bytes at the client, at {from} to {to}"));
        } else if to > tried {
            self.find(format!("link {link}: the client got {to} bytes, {tried} were sent"));
        }
    }

    fn client_writes(&mut self, at: u32, link: u32) {
        let client = &self.clients[at as usize];
        if matches!(client.end, End::Error(_) | End::Cut | End::Broken) {
            return;
        }
        if client.wire.is_some() {
            return self.wire_writes(at, link);
        }
        if client.has_ended {
            return;
        }
        let count = client.chunk.min(client.total - client.sent);
        let bytes = story::pattern(self.stories[link as usize].up, client.sent, count as usize);
        match self.sock_send(link, 1, &[&bytes]) {
            Ok(sent) => {
                if sent > 0 {
                    self.say(|| format!("link {link}: the client sends {sent} bytes"));
                }
                self.clients[at as usize].sent += sent as u64;
            }
            Err(libc::EAGAIN) => {}
            Err(error) => self.clients[at as usize].end = End::Error(error),
        }
    }
}
