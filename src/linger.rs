//! Lingering: discarding the input of half-closed connections until their
//! peers close, so that no worker waits for it.

#![forbid(unsafe_code)]

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use crate::clock::Deadline;
use crate::sys::{self, PollFlags, Poller, RecvFlags};

const BUFFER: usize = 16 << 10;
/// Reads of one connection before others have their turn.
const READS: usize = 64;

/// How often to look whether the peer has acknowledged all, in ms.
const LOOK: u64 = 5;

/// How often to ask whether to go on, in ms.
const STEP: u64 = 20;

/// A connection of which nothing is left to do but to discard its input.
pub(crate) struct Remains {
    pub fd: OwnedFd,
    /// Its input was shut in the kernel, which after the end of our side
    /// answers more input with a reset: that end waits until the peer has
    /// acknowledged all before it.
    pub ends_later: bool,
}

fn send_end(fd: &OwnedFd) {
    let _ = socket2::SockRef::from(fd).shutdown(std::net::Shutdown::Write);
}

/// What is left to do for a connection.
#[derive(PartialEq, Eq)]
enum Left {
    Wait,
    Again,
    /// The peer has ended.
    Ended,
    Failed,
}

fn discard_some(fd: &OwnedFd) -> Left {
    let mut buffer = [0; BUFFER];
    for _ in 0..READS {
        match sys::recv(fd.as_fd(), &mut buffer, RecvFlags::DONTWAIT) {
            // An end that this side made says nothing of the peer.
            Ok(0) if sys::has_peer_ended(fd.as_fd()) => return Left::Ended,
            Ok(0) => return Left::Wait,
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Left::Wait,
            Err(_) => return Left::Failed,
        }
    }
    Left::Again
}

impl Remains {
    /// Lingers on the calling thread, until the given time and while it
    /// `goes_on`; gives the descriptor back, and whether the peer has ended.
    pub fn discard(
        self,
        until: Deadline,
        goes_on: impl Fn(BorrowedFd<'_>) -> bool,
    ) -> (OwnedFd, bool) {
        let Remains { fd, ends_later } = self;
        let mut ended = !ends_later;
        while !until.is_due() && goes_on(fd.as_fd()) {
            if !ended && sys::unsent(fd.as_raw_fd()) == 0 {
                send_end(&fd);
                ended = true;
            }
            match discard_some(&fd) {
                Left::Ended => return (fd, true),
                Left::Failed => break,
                Left::Again => {}
                Left::Wait => {
                    // Of input that was shut here poll(2) tells its end alone.
                    let (events, step) = match ends_later {
                        true => (PollFlags::empty(), LOOK),
                        false => (PollFlags::IN, STEP),
                    };
                    let end = until.min(Deadline::after_ms(step));
                    let _ = sys::poll(fd.as_fd(), events, end.poll_timeout());
                }
            }
        }
        (fd, false)
    }
}

/// The lingering connections of a blocking server, on its control thread.
pub(crate) struct Lingering {
    linger: u64,
    max: usize,
    entries: HashMap<u64, OwnedFd>,
    /// Ends in order: every connection lingers for the same time.
    ends: VecDeque<(Deadline, u64)>,
    again: Vec<u64>,
    /// Those that end later.
    unended: Vec<u64>,
    next: u64,
}

impl Lingering {
    /// `linger` in ms; at most `max` connections, beyond which the oldest
    /// are closed: they had the most time.
    pub fn new(linger: u64, max: usize) -> Lingering {
        Lingering {
            linger,
            max,
            entries: HashMap::new(),
            ends: VecDeque::new(),
            again: Vec::new(),
            unended: Vec::new(),
            next: 0,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// When to look again at the latest.
    pub fn next_deadline(&self) -> Deadline {
        if !self.again.is_empty() {
            return Deadline::NOW;
        }
        let look = if self.unended.is_empty() { Deadline::NEVER } else { Deadline::after_ms(LOOK) };
        self.ends.front().map_or(Deadline::NEVER, |(end, _)| *end).min(look)
    }

    pub fn add(&mut self, poller: &Poller, Remains { fd, ends_later }: Remains) {
        while self.entries.len() >= self.max {
            let Some((_, oldest)) = self.ends.pop_front() else { break };
            self.entries.remove(&oldest);
        }
        let token = self.next;
        self.next += 1;
        // Without events its input waits unread for as long.
        let _ = poller.add(fd.as_fd(), token, sys::INPUT);
        self.entries.insert(token, fd);
        if ends_later {
            self.unended.push(token);
        }
        self.ends.push_back((Deadline::after_ms(self.linger), token));
    }

    pub fn readable(&mut self, token: u64) {
        self.again.push(token);
    }

    /// Discards what came and ends what lingered long enough. Closing a
    /// descriptor takes it out of the poller (epoll(7)).
    pub fn turn(&mut self) {
        for token in std::mem::take(&mut self.again) {
            match self.entries.get(&token).map(discard_some) {
                Some(Left::Ended | Left::Failed) => drop(self.entries.remove(&token)),
                Some(Left::Again) => self.again.push(token),
                Some(Left::Wait) | None => {}
            }
        }
        let entries = &self.entries;
        self.unended.retain(|token| {
            let Some(fd) = entries.get(token) else { return false };
            let waits = sys::unsent(fd.as_raw_fd()) > 0;
            if !waits {
                send_end(fd);
            }
            waits
        });
        let now = Deadline::passed();
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

    /// In a stop: of whom the peer has acknowledged all, nothing can be lost.
    pub fn end_acknowledged(&mut self) {
        let unended = &self.unended;
        self.entries.retain(|token, fd| {
            let end = usize::from(!unended.contains(token));
            sys::unsent(fd.as_raw_fd()) > end
        });
    }

    pub fn clear(&mut self) {
        self.entries.clear();
        self.ends.clear();
        self.again.clear();
        self.unended.clear();
    }
}
