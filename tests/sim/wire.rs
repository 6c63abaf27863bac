//! What a client's bytes are wrapped in, where they do not go as they are: a PROXY header before
//! them, and TLS, with what clients do wrong in it.

use std::collections::VecDeque;
use std::io::{Read, Write};

use rustls::ClientConnection;

use crate::client::{Client, End};
use crate::proxy::Header;
use crate::random::Random;
use crate::story;
use crate::world::{World, MILLI};

/// The most plaintext in a record.
const RECORD: u64 = 16 << 10;

/// How a client breaks off, whatever it has still to send.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Breach {
    Close,
    Reset,
    Vanish,
    /// It sends no more, and goes on to read.
    Stall,
}

pub struct Wire {
    tls: Option<Box<ClientConnection>>,
    pub header: Option<Header>,
    /// How many bytes go in the clear before TLS, and how many of them are left to say.
    clear: u64,
    clear_left: u64,
    /// The first record waits until the server has read those.
    waits: bool,
    /// What the kernel has not taken.
    out: VecDeque<u8>,
    /// How many bytes were made for the kernel.
    made: u64,
    /// The records that have not arrived whole: where they end, and the plaintext up to there.
    records: VecDeque<(u64, u64)>,
    /// The plaintext of the records that have arrived, and of those before the changed byte.
    heard: u64,
    good: u64,
    /// The place behind close_notify.
    end_at: Option<u64>,
    /// A byte that is changed on its way.
    bad_at: Option<u64>,
    /// It sends no more than this before a time.
    hold: Option<(u64, u64)>,
    /// Where it breaks off.
    breach: Option<(u64, Breach)>,
    /// It leaves without close_notify.
    pub is_cut: bool,
    /// A FIN follows what is in `out`.
    fin_is_due: bool,
    /// Bytes that came from the server.
    came: u64,
}

/// What is to come of STARTTLS on a link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Upgrade {
    /// After so many bytes more in the clear.
    Awaited(u64),
    /// It has come, or will not.
    None,
}

/// What has come to the server's side of a link, in the program's terms.
#[derive(Clone, Copy, Debug)]
pub struct Heard {
    pub bytes: u64,
    /// How many it may be where a byte was changed on its way, which TLS may not notice.
    pub most: u64,
    pub is_bad: bool,
    /// Behind these bytes is an end in order.
    pub has_end: bool,
    /// There is a reason for an error behind these bytes.
    pub is_broken: bool,
}

impl Wire {
    /// For a client that says so many bytes.
    fn new(w: &mut World, total: u64) -> Option<Wire> {
        let upgrades = w.upgrades;
        let random = &mut w.random;
        if upgrades && (total == 0 || random.once_in(3)) {
            return None;
        }
        let clear = if upgrades { 1 + random.below(total.min(700)) } else { 0 };
        let tls = w.secure.as_ref().map(|clients| Box::new(clients.connect(random)));
        let header = w.proxies.map(|proxies| proxies.header(random));
        if tls.is_none() && header.is_none() {
            return None;
        }
        // A ClientHello has some 250 bytes, all of a handshake some 350.
        let place = |random: &mut Random| {
            let most = random.one_of(&[6, 60, 300, 450, 20_000]);
            random.below(most)
        };
        let out: VecDeque<u8> = header.iter().flat_map(|header| header.bytes.clone()).collect();
        let made = out.len() as u64;
        // Behind the header, and within TLS: elsewhere nobody would see it.
        let is_bad = tls.is_some() && random.once_in(12);
        let bad_at = is_bad.then(|| made + clear + place(random));
        let breach = random.once_in(8).then(|| {
            use Breach::{Close, Reset, Stall, Vanish};
            (place(random), random.one_of(&[Close, Reset, Stall, Vanish]))
        });
        let hold = random.once_in(8).then(|| {
            let time = random.one_of(&[20, 400, 4_000]);
            (place(random), w.now + random.below(time * MILLI))
        });
        Some(Wire {
            is_cut: random.once_in(8),
            clear,
            clear_left: clear,
            waits: random.once_in(2),
            tls,
            header,
            out,
            made,
            records: VecDeque::new(),
            heard: clear,
            good: clear,
            end_at: None,
            bad_at,
            hold,
            breach,
            fin_is_due: false,
            came: 0,
        })
    }

    pub fn is_handshaking(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.is_handshaking())
    }

    pub fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// The kernel has taken all that there was to send.
    pub fn has_left(&self) -> bool {
        let has_more =
            self.tls.as_ref().is_some_and(|tls| tls.is_handshaking() || tls.wants_write());
        !has_more && self.out.is_empty()
    }

    /// It has sent something else than a client does that keeps to the protocol.
    pub fn is_bad(&self) -> bool {
        self.bad_at.is_some_and(|at| at < self.made) || self.has_bad_header()
    }

    pub fn has_bad_header(&self) -> bool {
        self.header.as_ref().is_some_and(|header| header.is_bad)
    }

    pub fn header_len(&self) -> u64 {
        self.header.as_ref().map_or(0, |header| header.bytes.len() as u64)
    }

    /// It has moved so far, both ways.
    pub fn moved(&self) -> u64 {
        self.made - self.out.len() as u64 + self.came
    }

    /// How many bytes go in the clear before TLS.
    pub fn clear(&self) -> u64 {
        self.clear
    }

    /// Takes what rustls has made.
    fn collect(&mut self) {
        if self.clear_left > 0 {
            return;
        }
        let Some(tls) = &mut self.tls else { return };
        let mut made = Vec::new();
        while tls.wants_write() && tls.write_tls(&mut made).is_ok() {}
        let from = self.made;
        self.made += made.len() as u64;
        if let Some(at) = self.bad_at.filter(|at| (from..self.made).contains(at)) {
            made[(at - from) as usize] ^= 1 << (at % 8);
        }
        self.out.extend(made);
    }

    /// Says that this was all, if it does. A FIN follows, if `fin`.
    pub fn end(&mut self, fin: bool) {
        self.fin_is_due |= fin;
        let may = !self.is_cut && self.end_at.is_none() && !self.is_handshaking();
        if let Some(tls) = self.tls.as_mut().filter(|_| may) {
            tls.send_close_notify();
            self.collect();
            self.end_at = Some(self.made);
        }
    }

    fn heard(&mut self, arrived: u64, has_fin: bool, is_dead: bool, upgraded: bool) -> Heard {
        if self.clear > 0 && !upgraded {
            let bytes = arrived.min(self.clear);
            let has_end = has_fin && arrived == bytes;
            let is_broken = is_dead || (has_fin && !has_end);
            return Heard { bytes, most: bytes, is_bad: false, has_end, is_broken };
        }
        if self.tls.is_none() {
            let header = self.header_len();
            let has_end = has_fin && arrived >= header;
            // A header that is not whole is followed by nothing.
            let is_broken = is_dead || self.has_bad_header() || (has_fin && !has_end);
            let bytes = arrived.saturating_sub(header);
            return Heard { bytes, most: bytes, is_bad: self.is_bad(), has_end, is_broken };
        }
        let bad_at = self.bad_at.unwrap_or(u64::MAX);
        while let Some((end, plain)) = self.records.front().copied().filter(|(e, _)| *e <= arrived)
        {
            self.records.pop_front();
            self.heard = plain;
            self.good = if end <= bad_at { plain } else { self.good };
        }
        let has_end = self.end_at.is_some_and(|at| at <= arrived);
        let is_bad = bad_at < arrived || self.has_bad_header();
        let is_broken = is_dead || is_bad || (has_fin && !has_end);
        Heard { bytes: self.good, most: self.heard, is_bad, has_end, is_broken }
    }

    /// Gives bytes of the server to rustls, but for those up to a place in the clear.
    fn take(
        &mut self,
        bytes: &[u8],
        clear: u64,
        plain: &mut Vec<u8>,
    ) -> Result<bool, rustls::Error> {
        let clear = clear.saturating_sub(self.came).min(bytes.len() as u64);
        self.came += bytes.len() as u64;
        let (before, bytes) = bytes.split_at(clear as usize);
        plain.extend_from_slice(before);
        let Some(tls) = &mut self.tls else {
            plain.extend_from_slice(bytes);
            return Ok(false);
        };
        let mut rest = bytes;
        while !rest.is_empty() {
            // It takes nothing where its buffer of plaintext is full, which is emptied below.
            if tls.read_tls(&mut rest).is_err() {
                return Err(rustls::Error::General("the client's buffer is full".into()));
            }
            let state = tls.process_new_packets()?;
            let start = plain.len();
            plain.resize(start + state.plaintext_bytes_to_read(), 0);
            let _ = tls.reader().read(&mut plain[start..]);
            if state.peer_has_closed() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

impl World {
    /// Wraps a client's bytes, if this episode has TLS.
    pub fn new_wire(&mut self, total: u64) -> Option<Box<Wire>> {
        Wire::new(self, total).map(Box::new)
    }

    /// Whether the link is one of a client with a wire.
    pub fn has_wire(&self, link: u32) -> bool {
        let client = self.links.get(link as usize).map(|link| link.client as usize);
        client.is_some_and(|client| self.clients[client].wire.is_some())
    }

    /// Whether the client of a link goes over to TLS in mid-stream, and has not yet.
    pub fn upgrade(&self, link: u32) -> Upgrade {
        let (place, story) = (&self.links[link as usize], &self.stories[link as usize]);
        let clear = self.clients[place.client as usize].wire.as_ref().map_or(0, |w| w.clear());
        match story.clear_down {
            None if clear > 0 => Upgrade::Awaited(clear - story.delivered),
            _ => Upgrade::None,
        }
    }

    /// What the client hears is TLS.
    pub fn hears_tls(&self, at: u32, link: u32) -> bool {
        let is_tls = self.clients[at as usize].wire.as_ref().is_some_and(|wire| wire.is_tls());
        is_tls && self.upgrade(link) == Upgrade::None
    }

    /// What has come to the server's side of a link.
    pub fn heard(&mut self, link: u32) -> Heard {
        let client = self.links[link as usize].client;
        let side = self.side(link, 0);
        let (bytes, has_end, is_broken) = (side.arrived, side.fin_came, side.is_dead);
        let upgraded = self.stories[link as usize].clear_down.is_some();
        match &mut self.clients[client as usize].wire {
            Some(wire) => wire.heard(bytes, has_end, is_broken, upgraded),
            None => Heard { bytes, most: bytes, is_bad: false, has_end, is_broken },
        }
    }

    /// Runs on a client that has a wire.
    fn on_wire<R>(&mut self, at: u32, body: impl FnOnce(&mut World, &mut Wire) -> R) -> Option<R> {
        self.set_clock_of_clients();
        let mut wire = self.clients[at as usize].wire.take()?;
        let result = body(self, &mut wire);
        self.clients[at as usize].wire = Some(wire);
        Some(result)
    }

    /// Makes records of what the client has to say, and sends as much as the kernel takes.
    pub fn wire_writes(&mut self, at: u32, link: u32) {
        let result = self.on_wire(at, |w, wire| w.write_wire(at, link, wire));
        if let Some(Err(error)) = result {
            self.clients[at as usize].end = End::Error(error);
        }
    }

    fn write_wire(&mut self, at: u32, link: u32, wire: &mut Wire) -> Result<(), i32> {
        let Client { sent, total, chunk, has_ended, .. } = self.clients[at as usize];
        if wire.clear_left > 0 && wire.out.is_empty() && !has_ended {
            let count = chunk.min(wire.clear_left);
            wire.out.extend(story::pattern(self.stories[link as usize].up, sent, count as usize));
            wire.made += count;
            wire.clear_left -= count;
            self.clients[at as usize].sent += count;
        }
        if !wire.waits || self.stories[link as usize].clear_down.is_some() {
            wire.collect();
        }
        let sent = self.clients[at as usize].sent;
        if wire.has_left() && sent < total && !has_ended {
            let count = chunk.min(total - sent).min(RECORD);
            let plain = story::pattern(self.stories[link as usize].up, sent, count as usize);
            match &mut wire.tls {
                Some(tls) => tls.writer().write_all(&plain).expect("there is no bound"),
                None => {
                    wire.made += count;
                    wire.out.extend(&plain);
                }
            }
            wire.collect();
            wire.records.push_back((wire.made, sent + count));
            self.clients[at as usize].sent += count;
        }
        let taken = wire.made - wire.out.len() as u64;
        let hold = wire.hold.filter(|(_, until)| self.now < *until);
        let place = |place: Option<u64>| place.map_or(u64::MAX, |at| at.saturating_sub(taken));
        let may = place(wire.breach.map(|(at, _)| at)).min(place(hold.map(|(at, _)| at)));
        let count = may.min(wire.out.len() as u64) as usize;
        if count > 0 {
            let (front, back) = wire.out.as_slices();
            let first = count.min(front.len());
            let pieces = [&front[..first], &back[..count - first]];
            match self.sock_send(link, 1, &pieces) {
                Ok(sent) => drop(wire.out.drain(..sent)),
                Err(libc::EAGAIN) => {}
                Err(error) => return Err(error),
            }
        }
        if wire.fin_is_due && wire.out.is_empty() {
            wire.fin_is_due = false;
            let _ = self.sock_end_sending(link, 1);
        }
        Ok(())
    }

    /// How the client breaks off, if it has come so far.
    pub fn breach(&self, at: u32) -> Option<Breach> {
        let wire = self.clients[at as usize].wire.as_ref()?;
        let (place, breach) = wire.breach?;
        (wire.made - wire.out.len() as u64 >= place).then_some(breach)
    }

    /// The client got bytes.
    pub fn wire_reads(&mut self, at: u32, link: u32, bytes: &[u8]) {
        if self.clients[at as usize].wire.as_ref().is_some_and(|wire| wire.has_bad_header()) {
            self.find(format!("link {link}: PP5: bytes after a header that is bad"));
        }
        let mut plain = Vec::new();
        let clear = match self.upgrade(link) {
            Upgrade::Awaited(_) => u64::MAX,
            Upgrade::None => self.stories[link as usize].clear_down.unwrap_or(0),
        };
        let result = self.on_wire(at, |_, wire| wire.take(bytes, clear, &mut plain));
        self.check_received(at, link, &plain);
        match result {
            Some(Ok(true)) => self.clients[at as usize].end = End::Fin,
            Some(Err(error)) => {
                self.clients[at as usize].end = End::Broken;
                self.report.count("client saw an alert");
                let is_bad = self.clients[at as usize].wire.as_ref().is_some_and(|w| w.is_bad());
                if !is_bad {
                    self.find(format!("link {link}: A6: a client could not go on: {error}"));
                }
            }
            _ => {}
        }
    }
}
