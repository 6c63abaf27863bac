//! A loop as other threads see it, and its own side of that: the order in which
//! `run.rs` and `mail.rs` do things.

#[path = "../../src/event/handle.rs"]
mod handle;

pub mod entrance;
pub mod mailbox;

pub(crate) use handle::LoopHandle;

use crate::conn::{context, Conn, Owner};
use crate::outbuf::OutBuf;
use crate::sys::{Poller, BOTH};

const WAKE: u64 = u64::MAX;

pub(crate) enum Mail {
    Close(u64),
}

mod tasks {
    pub struct Tasks;

    impl Tasks {
        pub fn new() -> Tasks {
            Tasks
        }
    }
}

pub(crate) struct Loop {
    pub handle: std::sync::Arc<LoopHandle>,
    poller: Poller,
    pub conns: Vec<Conn>,
    pub mail: Vec<Mail>,
    pub bytes: Vec<(u64, OutBuf)>,
    /// The connections that had an event.
    pub events: Vec<u64>,
}

impl Loop {
    pub fn new() -> Loop {
        let poller = Poller::new();
        let handle = LoopHandle::new(context(Owner::Loop), &poller).unwrap();
        Loop {
            handle: std::sync::Arc::new(handle),
            poller,
            conns: Vec::new(),
            mail: Vec::new(),
            bytes: Vec::new(),
            events: Vec::new(),
        }
    }

    /// Makes a connection of this loop that takes bytes by id.
    pub fn open(&self) -> u64 {
        let id = self.handle.allocate(&mut self.handle.intake.lock().unwrap()).unwrap();
        self.handle.context.ids.open(id, true);
        id
    }

    /// Runs turns until `is_enough`. Where an event is lost, it waits for ever,
    /// which loom reports.
    pub fn run_until(&mut self, is_enough: impl Fn(&Loop) -> bool) {
        while !is_enough(self) {
            for token in self.poller.wait() {
                match token {
                    WAKE => self.drain_mail(),
                    id => self.on_conn_event(id),
                }
            }
        }
    }

    fn drain_mail(&mut self) {
        self.handle.note_awake();
        loop {
            let delivered = self.deliver_next();
            let mail = self.handle.mail.1.try_recv().ok();
            if mail.is_none() && !delivered {
                return;
            }
            self.mail.extend(mail);
        }
    }

    fn deliver_next(&mut self) -> bool {
        let context = &self.handle.context;
        if context.inbox.is_empty(&context.ids) || context.inbox.first().is_none() {
            return false;
        }
        self.bytes.extend(context.inbox.next(&context.ids));
        true
    }

    pub fn install_arrivals(&mut self) {
        self.conns.extend(self.handle.take_arrivals());
    }

    fn on_conn_event(&mut self, id: u64) {
        self.install_arrivals();
        assert!(self.conns.iter().any(|conn| conn.id == id), "an event without a connection");
        self.events.push(id);
    }

    /// Begins the stop: no connection enters any more.
    pub fn shut(&mut self) {
        self.handle.intake.lock().unwrap().poller = None;
        self.install_arrivals();
    }
}
