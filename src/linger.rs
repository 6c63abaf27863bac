//! Lingering: the library discards the input of half-closed connections until
//! their peers close, so that no worker waits for them.

#![forbid(unsafe_code)]

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use crate::clock::{self, Deadline};
use crate::fork;
use crate::sys::{self, PollFlags, Poller, RecvFlags};

const BUFFER: usize = 16 << 10;
/// Reads of one connection before the other connections have their turn.
const READS: usize = 64;

/// How often to look whether the peer has acknowledged all bytes.
const ACK_CHECK_MS: u64 = 5;

/// How long a peer must have sent nothing before a stop closes its connection
/// with all bytes acknowledged.
const MIN_SILENCE_MS: u64 = 100;
/// How often a thread that lingers asks whether to go on.
const STEP_MS: u64 = 20;

/// A closed connection whose input is still to be discarded.
pub(crate) struct Remains {
    pub fd: OwnedFd,
    /// This side has shut its input in the kernel. After a FIN of this side the
    /// kernel would reply to more input with a reset. So the FIN waits until
    /// the peer has acknowledged all bytes before it.
    pub fin_waits_for_ack: bool,
}

fn send_fin(fd: &OwnedFd) {
    let _ = socket2::SockRef::from(fd).shutdown(std::net::Shutdown::Write);
}

/// The result of discarding some input.
#[derive(PartialEq, Eq)]
enum Discarded {
    Wait,
    Again,
    /// The peer has ended its side.
    Ended,
    Failed,
}

/// Returns whether a peer that was heard at `heard_at` has been silent for so
/// long that it does not seem to be in the middle of sending.
pub(crate) fn is_silent(heard_at: u64) -> bool {
    Deadline::since(heard_at, MIN_SILENCE_MS).is_due()
}

/// Notes in `heard_at` when input came.
fn discard_some(fd: &OwnedFd, heard_at: &mut u64) -> Discarded {
    let mut buffer = [0; BUFFER];
    for _ in 0..READS {
        match sys::recv(fd.as_fd(), &mut buffer, RecvFlags::DONTWAIT) {
            // An end that this side made says nothing about the peer.
            Ok(0) if sys::has_peer_ended(fd.as_fd()) => return Discarded::Ended,
            Ok(0) => return Discarded::Wait,
            Ok(_) => *heard_at = clock::now(),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Discarded::Wait,
            Err(_) => return Discarded::Failed,
        }
    }
    Discarded::Again
}

impl Remains {
    /// Lingers on the calling thread, until `until` or until `goes_on` returns
    /// false, which gets whether the peer is silent. Returns the descriptor,
    /// and whether the peer has ended its side.
    pub fn discard(
        self,
        until: Deadline,
        goes_on: impl Fn(BorrowedFd<'_>, bool) -> bool,
    ) -> (OwnedFd, bool) {
        let Remains { fd, fin_waits_for_ack } = self;
        let mut fin_sent = !fin_waits_for_ack;
        let mut heard_at = clock::now();
        while !until.is_due() && goes_on(fd.as_fd(), is_silent(heard_at)) {
            if !fin_sent && sys::unacknowledged(fd.as_raw_fd()) == 0 {
                send_fin(&fd);
                fin_sent = true;
            }
            match discard_some(&fd, &mut heard_at) {
                Discarded::Ended => return (fd, true),
                Discarded::Failed => break,
                Discarded::Again => {}
                Discarded::Wait => {
                    // Of an input that this side has shut, poll(2) reports only
                    // that end: so this waits without input events.
                    let (events, step) = match fin_waits_for_ack {
                        true => (PollFlags::empty(), ACK_CHECK_MS),
                        false => (PollFlags::IN, STEP_MS),
                    };
                    let end = until.min(Deadline::after_ms(step));
                    let _ = sys::poll(fd.as_fd(), events, end.poll_timeout());
                }
            }
        }
        (fd, false)
    }
}

struct Entry {
    fd: OwnedFd,
    heard_at: u64,
}

/// The peer sees the end although a child made by fork(2) may still have the
/// descriptor.
impl Drop for Entry {
    fn drop(&mut self) {
        if fork::has_children() {
            sys::shutdown(self.fd.as_raw_fd(), sys::Shutdown::Both);
        }
    }
}

/// The lingering connections of a blocking server. Its control thread owns
/// them.
pub(crate) struct Lingering {
    linger_ms: u64,
    max: usize,
    entries: HashMap<u64, Entry>,
    /// The end of each connection's time, in order: all linger equally long.
    ends: VecDeque<(Deadline, u64)>,
    again: Vec<u64>,
    /// Connections whose FIN waits for the peer's acknowledgement.
    without_fin: Vec<u64>,
    next: u64,
}

impl Lingering {
    /// A connection lingers for `linger_ms`. There are at most `max`
    /// connections: one more closes the oldest, which had the most time.
    pub fn new(linger_ms: u64, max: usize) -> Lingering {
        Lingering {
            linger_ms,
            max,
            entries: HashMap::new(),
            ends: VecDeque::new(),
            again: Vec::new(),
            without_fin: Vec::new(),
            next: 0,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The latest time for the next turn.
    pub fn next_deadline(&self) -> Deadline {
        if !self.again.is_empty() {
            return Deadline::NOW;
        }
        let look = if self.without_fin.is_empty() {
            Deadline::NEVER
        } else {
            Deadline::after_ms(ACK_CHECK_MS)
        };
        self.ends.front().map_or(Deadline::NEVER, |(end, _)| *end).min(look)
    }

    pub fn add(&mut self, poller: &Poller, Remains { fd, fin_waits_for_ack }: Remains) {
        while self.entries.len() >= self.max {
            let Some((_, oldest)) = self.ends.pop_front() else { break };
            self.entries.remove(&oldest);
        }
        let token = self.next;
        self.next += 1;
        // If this fails, the input stays unread for the whole linger time.
        let _ = poller.add(fd.as_fd(), token, sys::INPUT);
        self.entries.insert(token, Entry { fd, heard_at: clock::now() });
        if fin_waits_for_ack {
            self.without_fin.push(token);
        }
        self.ends.push_back((Deadline::after_ms(self.linger_ms), token));
    }

    pub fn readable(&mut self, token: u64) {
        self.again.push(token);
    }

    /// Discards the input of readable connections and closes connections whose
    /// time is over. Closing a descriptor removes it from the poller
    /// (epoll(7)).
    pub fn turn(&mut self) {
        for token in std::mem::take(&mut self.again) {
            let entry = self.entries.get_mut(&token);
            match entry.map(|entry| discard_some(&entry.fd, &mut entry.heard_at)) {
                Some(Discarded::Ended | Discarded::Failed) => drop(self.entries.remove(&token)),
                Some(Discarded::Again) => self.again.push(token),
                Some(Discarded::Wait) | None => {}
            }
        }
        let entries = &self.entries;
        self.without_fin.retain(|token| {
            let Some(Entry { fd, .. }) = entries.get(token) else { return false };
            let waits = sys::unacknowledged(fd.as_raw_fd()) > 0;
            if !waits {
                send_fin(fd);
            }
            waits
        });
        let now = Deadline::latest_due();
        while self
            .ends
            .front()
            .is_some_and(|(end, token)| *end <= now || !self.entries.contains_key(token))
        {
            if let Some((_, token)) = self.ends.pop_front() {
                self.entries.remove(&token);
            }
        }
    }

    /// Closes, in a stop, the connections whose peers have acknowledged all
    /// bytes and are silent: nothing of theirs can be lost.
    pub fn end_acknowledged(&mut self) {
        let without_fin = &self.without_fin;
        self.entries.retain(|token, entry| {
            let fin = usize::from(!without_fin.contains(token));
            !is_silent(entry.heard_at) || sys::unacknowledged(entry.fd.as_raw_fd()) > fin
        });
    }

    pub fn clear(&mut self) {
        self.entries.clear();
        self.ends.clear();
        self.again.clear();
        self.without_fin.clear();
    }
}
