//! A loop that has no thread: the program runs its turns, one by one, on a
//! thread of its own.

#![forbid(unsafe_code)]

use std::sync::Arc;

use super::run::{Loop, EVENTS};
use super::WATCHES;
use crate::callback;
use crate::clock::Deadline;
use crate::conn::ThreadContext;
use crate::server::Server;
use crate::sys::{Events, Poller, Timer};

pub(crate) struct HostedLoop {
    event_loop: Loop,
    server: Server,
    poller: Poller,
    events: Events,
    /// Makes the poller's descriptor readable when the loop's next deadline is
    /// due, for a host that watches only this descriptor.
    timer: Timer,
    /// What the timer is set to.
    armed: Deadline,
}

impl HostedLoop {
    pub fn new(event_loop: Loop, server: Server, timer: Timer) -> HostedLoop {
        HostedLoop {
            poller: event_loop.poller().clone(),
            event_loop,
            server,
            events: Events::new(EVENTS),
            timer,
            armed: Deadline::NEVER,
        }
    }

    pub fn poller(&self) -> &Poller {
        &self.poller
    }

    pub fn context(&self) -> &Arc<ThreadContext> {
        self.event_loop.context()
    }

    /// Runs one turn, and waits for it until `until` at most. Returns whether
    /// the loop has ended.
    pub fn turn(&mut self, until: Deadline) -> bool {
        let wait = until.min(self.event_loop.next_deadline()).poll_timeout();
        let HostedLoop { event_loop, server, poller, events, .. } = self;
        if let Err(panic) = callback::contain(|| event_loop.turn(server, poller, events, wait)) {
            event_loop.die(&panic);
        }
        if self.event_loop.has_finished() {
            self.event_loop.drop_tasks();
            return true;
        }
        self.announce();
        false
    }

    /// Makes the descriptor readable when there is something to do without an
    /// event, and makes a new edge of it where events are left.
    fn announce(&mut self) {
        let next = self.event_loop.next_deadline();
        // The timer has expired for what is due, and makes no second event.
        let is_due = next != Deadline::NEVER && next.is_due();
        if is_due || self.has_events_left() {
            self.event_loop.wake();
        } else if next != self.armed {
            self.armed = next;
            self.timer.set((next != Deadline::NEVER).then(|| next.ms_left()));
        }
    }

    /// Returns whether the descriptor is still readable by what was there before
    /// the turn: by more events than a turn handles, or by a watch, which is
    /// level-triggered.
    fn has_events_left(&self) -> bool {
        let is_full = self.events.iter().len() == EVENTS;
        let has_watches = || self.events.iter().any(|(token, _)| token == WATCHES);
        (is_full || has_watches()) && self.poller.has_events()
    }

    /// Ends the loop. From now on the descriptor of its poller is readable, as
    /// long as it lives.
    pub fn end(self) {
        self.event_loop.wake();
    }
}
