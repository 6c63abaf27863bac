//! The ledger of one connection: what each side sent, what its calls accepted, what it received,
//! and how it saw the end. When the last who has a part in it is gone, it is judged.

use super::headers::Header;
use super::judge;
use super::wire::{client_byte, frame, Kind, Name, Received, HEADER};
use super::world::{ended, next_name, World};
use super::{lock, Random};
use crate::api::{CloseReason, Error, Socket, Status};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Where a connection that begins in the clear stands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Stage {
    /// As it will remain.
    Settled,
    /// In the clear until the client has sent so many bytes.
    Clear(u64),
    /// STARTTLS was called, and the handler has not been called since.
    Shaking,
}

/// Who comes, and with what.
pub struct Who {
    pub key: u16,
    pub quiet: bool,
    pub stage: Stage,
    pub address: SocketAddr,
    pub header: Option<Header>,
}

pub struct Story {
    pub world: Arc<World>,
    pub key: u16,
    /// Nobody sends by id, so that it may become idle.
    pub quiet: bool,
    /// The client's own address, and what it begins with.
    pub address: SocketAddr,
    pub header: Option<Header>,
    ledger: Mutex<Ledger>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fate {
    /// The call has not returned.
    Pending,
    Accepted,
    /// An unknown part of it was sent, or it may not have been sent at all.
    Unknown,
    Refused,
}

pub struct Sent {
    pub number: u32,
    pub fate: Fate,
}

/// How the client saw the end of what the server sends.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Sight {
    /// It did not look so far.
    #[default]
    None,
    /// FIN; over TLS close_notify.
    Clean,
    /// FIN without a close_notify before it.
    Truncated,
    Reset,
    /// It is no stream that a server of ours makes.
    Broken(String),
}

/// How the client ended what it sends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Ending {
    /// It said that this was all.
    Clean,
    /// It did not, or cannot know whether it came to that.
    Abrupt,
}

/// How the handler saw the end of its input.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Told {
    End,
    Error(Status, i32),
}

pub struct Ledger {
    random: Random,
    pub begun: Instant,
    /// When the client's connect had returned, and when its header had left.
    pub connected_at: Option<Instant>,
    pub whole_at: Option<Instant>,
    events: Vec<(u64, &'static str, i64)>,
    left_out: u64,
    pub stage: Stage,
    pub secured: bool,

    pub client_sent: u64,
    pub client_ending: Option<Ending>,
    /// So many of the client's bytes had reached the server's kernel when the client ended.
    pub client_arrived: u64,
    pub delivered: u64,
    pub wrong_input: Option<String>,
    pub told: Option<(Told, u64)>,
    /// Why what arrives need not be delivered.
    pub refused: Option<&'static str>,
    /// The connection was refused before its header was taken.
    pub unheard: bool,
    /// The handler was called and read nothing, last time.
    pub skipped: bool,

    pub sent: HashMap<u16, Vec<Sent>>,
    /// Bytes of the frames that were not refused, and of those that were accepted.
    pub promised_bytes: u64,
    pub accepted_bytes: u64,
    pub accepted_at: Instant,
    /// What the client has read so far.
    pub read_bytes: u64,
    /// Corks of a side that waits, and the bytes that are under them at least and at most.
    pub corks: u32,
    pub held: usize,
    pub under: usize,
    /// A call that ends sending has returned.
    pub sending_ended: bool,
    pub half_closed_at: Option<Instant>,
    pub received: Vec<Received>,
    pub received_bytes: u64,
    pub sight: Sight,
    /// The client read whatever came, and sent nothing more, when the server closed.
    pub attentive: bool,
    /// When the server's side closed it, by whatever call, and when the client saw the end.
    pub closed_at: Option<Instant>,
    pub seen_at: Option<Instant>,
    /// The server's side ended it by force.
    pub forced: bool,

    pub opened: u32,
    pub closed: u32,
    pub detached: bool,
    pub was_detached: bool,
    pub reason: Option<CloseReason>,
    pub os_error: i32,
    pub after_close: Option<&'static str>,
    pub dropped: u32,
    pub given: u32,
}

const FIRST_EVENTS: usize = 60;
const LAST_EVENTS: usize = 140;

impl Story {
    pub fn new(world: &Arc<World>, seed: u64, who: Who) -> Arc<Story> {
        let Who { key, quiet, stage, address, header } = who;
        let ledger = Ledger {
            random: Random::new(seed),
            begun: Instant::now(),
            connected_at: None,
            whole_at: None,
            events: Vec::new(),
            left_out: 0,
            stage,
            secured: world.tls,
            client_sent: 0,
            client_ending: None,
            client_arrived: 0,
            delivered: 0,
            wrong_input: None,
            told: None,
            refused: None,
            unheard: false,
            skipped: false,
            sent: HashMap::new(),
            promised_bytes: 0,
            accepted_bytes: 0,
            accepted_at: Instant::now(),
            read_bytes: 0,
            corks: 0,
            held: 0,
            under: 0,
            sending_ended: false,
            half_closed_at: None,
            received: Vec::new(),
            received_bytes: 0,
            sight: Sight::None,
            attentive: false,
            closed_at: None,
            seen_at: None,
            forced: false,
            opened: 0,
            closed: 0,
            detached: false,
            was_detached: false,
            reason: None,
            os_error: 0,
            after_close: None,
            dropped: 0,
            given: 0,
        };
        let ledger = Mutex::new(ledger);
        Arc::new(Story { world: world.clone(), key, quiet, address, header, ledger })
    }

    pub fn with<T>(&self, look: impl FnOnce(&mut Ledger) -> T) -> T {
        look(&mut lock(&self.ledger))
    }

    pub fn below(&self, n: usize) -> usize {
        self.with(|ledger| ledger.random.below(n))
    }

    /// Notes an act for the history and for the counts.
    pub fn act(&self, what: &'static str) {
        self.world.count(what);
        self.note(what, 0);
    }

    /// Notes something for the history alone.
    pub fn note(&self, what: &'static str, number: i64) {
        self.with(|ledger| ledger.note(what, number));
    }

    /// The server must refuse its header.
    pub fn is_turned_away(&self) -> bool {
        self.header.as_ref().is_some_and(|header| header.refused.is_some())
    }

    // -- what the client sends ------------------------------------------------------------

    /// The server's side received bytes.
    pub fn deliver(&self, bytes: &[u8]) {
        self.with(|ledger| {
            for &byte in bytes {
                let expected = client_byte(self.key, ledger.delivered);
                if byte != expected && ledger.wrong_input.is_none() {
                    let at = ledger.delivered;
                    ledger.wrong_input =
                        Some(format!("byte {at} is {byte:#x} and not {expected:#x}"));
                }
                ledger.delivered += 1;
            }
            if ledger.told.is_some() && ledger.wrong_input.is_none() {
                ledger.wrong_input = Some("bytes after the end".into());
            }
            ledger.skipped = false;
            ledger.note("server received", bytes.len() as i64);
        });
        self.world.add("bytes in", bytes.len() as u64);
    }

    /// The server's side knows that nothing more comes.
    pub fn told(&self, told: Told) {
        self.with(|ledger| {
            ledger.skipped = false;
            if ledger.told.is_some() {
                return;
            }
            // An end by this side itself says nothing about the peer.
            let own = matches!(told, Told::Error(Status::Closed | Status::Detached, _));
            match told {
                Told::End => ledger.note("server told of the end", 0),
                Told::Error(status, os) => {
                    ledger.note(status.name(), i64::from(os));
                }
            }
            if !own && ledger.refused.is_none() {
                ledger.told = Some((told, ledger.delivered));
            }
        });
        self.world.count(match told {
            Told::End => "told of an end",
            Told::Error(..) => "told of an error",
        });
    }

    /// The server's side will not read all that comes.
    pub fn refuse(&self, why: &'static str) {
        self.with(|ledger| {
            ledger.refused.get_or_insert(why);
            ledger.note(why, 0);
        });
    }

    // -- what the server sends ------------------------------------------------------------

    /// Whether this side may send now: not around a STARTTLS.
    pub fn may_send(&self) -> bool {
        self.with(|ledger| ledger.stage != Stage::Shaking)
    }

    /// A part of a message may have left, and its rest will not.
    pub fn is_cut_short(&self) -> bool {
        self.with(|ledger| ledger.is_cut_short())
    }

    pub fn is_settled(&self) -> bool {
        self.with(|ledger| ledger.stage == Stage::Settled)
    }

    /// A frame of this thread is about to be sent.
    pub fn frame(&self, kind: Kind, len: usize) -> (Name, Vec<u8>) {
        let name = next_name();
        let bytes = frame(kind, self.key, name, len.saturating_sub(HEADER));
        self.promise(name, bytes.len());
        (name, bytes)
    }

    pub fn promise(&self, name: Name, len: usize) {
        self.with(|ledger| {
            ledger.promised_bytes += len as u64;
            let sent = Sent { number: name.number, fate: Fate::Pending };
            ledger.sent.entry(name.sender).or_default().push(sent);
        });
    }

    /// How the call that was to send it ended, for each copy of it.
    pub fn settle(&self, name: Name, fates: &[Fate], how: &'static str, len: usize) {
        let accepted = fates.iter().filter(|fate| **fate == Fate::Accepted).count() * len;
        let refused = fates.iter().filter(|fate| **fate == Fate::Refused).count() * len;
        self.with(|ledger| {
            let sent = ledger.sent.get_mut(&name.sender).expect("promised");
            let copies = sent.iter_mut().rev().take_while(|sent| sent.number == name.number);
            // Nobody can tell the copies from each other: those that arrive come first.
            let mut fates = fates.to_vec();
            fates.sort_by_key(|fate| *fate != Fate::Refused);
            for (sent, fate) in copies.zip(fates) {
                sent.fate = fate;
            }
            ledger.promised_bytes -= refused as u64;
            ledger.note(how, if accepted > 0 { accepted as i64 } else { -(len as i64) });
            if accepted > 0 {
                ledger.accepted_bytes += accepted as u64;
                ledger.accepted_at = Instant::now();
            }
        });
        self.world.count(how);
        self.world.add("bytes out", accepted as u64);
    }

    pub fn has_ended_sending(&self) -> bool {
        self.with(|ledger| ledger.sending_ended)
    }

    /// A call answers with success or one of these statuses.
    pub fn answers<T>(&self, call: &str, result: &Result<T, Error>, allowed: &[Status]) {
        let status = result.as_ref().err().map(Error::status);
        let unexpected = status.filter(|status| !allowed.contains(status));
        if let Some(status) = unexpected {
            self.found("calls answer as promised", &format!("{call} returns {}", status.name()));
        }
    }

    /// B12, GS3: Asks how much is queued; by how much that is more than was accepted and not read.
    pub fn queued_too_many(&self, ask: impl FnOnce() -> usize) -> Option<u64> {
        let read = self.with(|ledger| ledger.read_bytes);
        let queued = ask();
        let (promised, is_clear, frames) = self.with(|ledger| {
            let is_clear = !ledger.secured && ledger.stage == Stage::Settled;
            (ledger.promised_bytes, is_clear, ledger.sent.values().map(Vec::len).sum::<usize>())
        });
        let most = promised.saturating_sub(read);
        // What TLS adds to each record, and its own messages.
        let added = if is_clear { 0 } else { 64 * frames as u64 + most / 256 + 8192 };
        (queued as u64).checked_sub(most + added + 1)
    }

    pub fn found_queued(&self, queued: usize) {
        self.note("queued", queued as i64);
        self.found("what is queued is true", "it is more than was accepted and not read");
    }

    pub fn found(&self, property: &str, kind: &str) {
        self.world.found(property, kind, Some(&self.tell()));
    }

    // -- the server's side of the end -----------------------------------------------------

    /// The server's side is about to close it in order, or by force.
    pub fn closing(&self, how: &'static str, forced: bool) {
        self.world.count(how);
        self.with(|ledger| {
            ledger.note(how, 0);
            ledger.refused.get_or_insert(how);
            ledger.closed_at.get_or_insert_with(Instant::now);
            ledger.forced |= forced;
        });
    }

    /// The handler of a worker returns, which closes it.
    pub fn returns(&self) {
        self.with(|ledger| {
            ledger.note("handler returns", 0);
            ledger.closed_at.get_or_insert_with(Instant::now);
        });
    }

    pub fn closed(&self, reason: CloseReason, os_error: i32) {
        self.world.count(ended(reason));
        if matches!(reason, CloseReason::Idle | CloseReason::WriteTimeout) {
            self.world.count("a deadline passes");
        }
        self.with(|ledger| {
            ledger.note(ended(reason), i64::from(os_error));
            ledger.closed += 1;
            ledger.reason = Some(reason);
            ledger.os_error = os_error;
        });
    }

    /// A callback runs.
    pub fn called(&self, what: &'static str) {
        self.with(|ledger| {
            ledger.note(what, 0);
            if ledger.closed > 0 {
                ledger.after_close.get_or_insert(what);
            }
        });
    }

    /// The history, for people.
    pub fn tell(&self) -> String {
        self.with(|ledger| ledger.tell(self.key))
    }
}

impl Ledger {
    /// A half-close by id has returned.
    pub fn half_closes(&mut self, ends_sending: bool) {
        if ends_sending {
            self.sending_ended = true;
            self.half_closed_at.get_or_insert_with(Instant::now);
        }
    }

    /// B13, GS1: What of the server's side must be with a client that reads all, on a loop, so
    /// long after it was said.
    pub fn is_overdue(&self, bound: Duration) -> Option<&'static str> {
        if self.stage != Stage::Settled || self.was_detached {
            return None;
        }
        let is_missing = self.read_bytes < self.accepted_bytes;
        match self.half_closed_at {
            _ if is_missing && self.accepted_at.elapsed() > bound => Some("accepted bytes"),
            Some(at) if at.elapsed() > bound => Some("the end that a half-close by id makes"),
            _ => None,
        }
    }

    /// A part of a message may have left, and its rest will not.
    pub fn is_cut_short(&self) -> bool {
        self.sent.values().flatten().any(|sent| sent.fate == Fate::Unknown)
    }

    pub fn note(&mut self, what: &'static str, number: i64) {
        let at = self.begun.elapsed().as_micros() as u64;
        if self.events.len() >= FIRST_EVENTS + LAST_EVENTS {
            self.events.remove(FIRST_EVENTS);
            self.left_out += 1;
        }
        self.events.push((at, what, number));
    }

    fn tell(&self, key: u16) -> String {
        let frames: usize = self.sent.values().map(Vec::len).sum();
        let mut text = format!(
            "connection {key}: client sent {} (arrived {} at its end, {:?}), delivered {}, told {:?}, \
             refused {:?}; server sent {frames} frames by {} threads, client received {} frames, {} \
             bytes, saw {:?}; on_open {}, on_close {} ({:?})\n",
            self.client_sent,
            self.client_arrived,
            self.client_ending,
            self.delivered,
            self.told,
            self.refused,
            self.sent.len(),
            self.received.len(),
            self.received_bytes,
            self.sight,
            self.opened,
            self.closed,
            self.reason,
        );
        for (i, (at, what, number)) in self.events.iter().enumerate() {
            if i == FIRST_EVENTS && self.left_out > 0 {
                text += &format!("  ... {} left out\n", self.left_out);
            }
            let number = if *number == 0 { String::new() } else { format!(" {number}") };
            text += &format!("  {:9.3} ms  {what}{number}\n", *at as f64 / 1000.0);
        }
        text
    }
}

impl Drop for Story {
    fn drop(&mut self) {
        judge::judge(self);
    }
}

/// A connection's user data: the library drops it once.
pub struct Part(pub Arc<Story>);

impl Drop for Part {
    fn drop(&mut self) {
        self.0.with(|ledger| {
            ledger.note("user data dropped", 0);
            ledger.dropped += 1;
        });
    }
}

/// The story of a connection, in its callbacks and for its owner.
pub fn story_of(socket: &Socket<'_>) -> Option<Arc<Story>> {
    socket.user_data::<Part>().map(|part| part.0.clone())
}

/// The fate of the bytes of a call that sends.
pub fn fate(result: &Result<(), Error>, waits: bool) -> Fate {
    match result {
        Ok(()) => Fate::Accepted,
        Err(error) => match error.status() {
            // It may have been closed by id in the middle of it.
            status if waits && status != Status::Detached => Fate::Unknown,
            _ => Fate::Refused,
        },
    }
}
