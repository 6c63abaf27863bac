//! A listener: a queue of clients.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use crate::address::Peer;
use crate::clock::Deadline;
use crate::config::Config;
use crate::sync::{lock, Condvar, Mutex};

pub struct Fd;

impl AsRawFd for Fd {
    fn as_raw_fd(&self) -> RawFd {
        -1
    }
}

#[derive(Clone, Copy)]
pub struct Origin;

impl Origin {
    pub fn awaits_proxy(self) -> bool {
        false
    }

    pub fn has_tls(self) -> bool {
        false
    }
}

pub struct Accepted {
    pub client: usize,
    pub fd: Fd,
    pub peer: Peer,
    pub origin: Origin,
}

pub enum AcceptError {
    Empty,
    Next,
    Lost(io::Error),
    Shut,
    Exhausted(io::Error),
}

#[derive(Default)]
struct State {
    backlog: VecDeque<usize>,
    shut: bool,
    nonblocking: bool,
}

#[derive(Clone, Default)]
pub struct Listener(Arc<(Mutex<State>, Condvar)>);

impl Listener {
    /// A client connects. Returns `false` where nobody listens any more.
    pub fn connect(&self, client: usize) -> bool {
        let mut state = lock(&self.0 .0);
        if !state.shut {
            state.backlog.push_back(client);
            self.0 .1.notify_one();
        }
        !state.shut
    }

    /// Returns how many clients wait.
    pub fn backlog(&self) -> usize {
        lock(&self.0 .0).backlog.len()
    }

    /// Those who wait look at the clock.
    pub fn tick(&self) {
        self.0 .1.notify_all();
    }

    pub fn shut(&self) {
        lock(&self.0 .0).shut = true;
        self.0 .1.notify_all();
    }

    pub fn set_nonblocking(&self) -> io::Result<()> {
        lock(&self.0 .0).nonblocking = true;
        Ok(())
    }

    pub fn refuse_more(&self) {}

    pub fn is_lost(&self) -> bool {
        false
    }

    pub fn is_shared(&self) -> bool {
        false
    }

    pub fn accept(&self, _: bool) -> Result<Accepted, AcceptError> {
        let client = lock(&self.0 .0).backlog.pop_front().ok_or(AcceptError::Empty)?;
        Ok(Accepted { client, fd: Fd, peer: Peer, origin: Origin })
    }

    fn wait<T>(
        &self,
        until: Deadline,
        take: impl Fn(&mut VecDeque<usize>) -> Option<T>,
    ) -> Result<T, AcceptError> {
        let mut state = lock(&self.0 .0);
        loop {
            if state.shut {
                return Err(AcceptError::Shut);
            }
            if let Some(found) = take(&mut state.backlog) {
                return Ok(found);
            }
            if until.is_due() {
                return Err(AcceptError::Empty);
            }
            state = self.0 .1.wait(state).unwrap();
        }
    }
}

pub fn accept_until(
    listeners: &[Listener],
    until: Deadline,
    _: usize,
) -> Result<Accepted, AcceptError> {
    // A pool that accepts no more has none.
    let Some(listener) = listeners.first() else { return Err(AcceptError::Shut) };
    let client = listener.wait(until, VecDeque::pop_front)?;
    Ok(Accepted { client, fd: Fd, peer: Peer, origin: Origin })
}

pub fn wait_ready(listeners: &[Listener], until: Deadline) -> Result<(), AcceptError> {
    let Some(listener) = listeners.first() else { return Err(AcceptError::Shut) };
    listener.wait(until, |backlog| backlog.front().map(drop))
}

#[derive(Default)]
pub struct Backoff;

impl Backoff {
    pub fn reset(&mut self) {}

    pub fn back_off(&mut self, _: &io::Error) -> (u64, bool) {
        (0, false)
    }
}

pub struct Quota;

impl Quota {
    pub fn is_left(&self) -> bool {
        true
    }

    pub fn use_one(&mut self) {}

    pub fn may_retry(&mut self) -> bool {
        false
    }
}
