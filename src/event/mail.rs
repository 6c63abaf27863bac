//! Requests of other threads to a loop.

#![forbid(unsafe_code)]

use std::net::Shutdown;

use super::run::Loop;
use super::tasks::TaskFn;
use crate::clock::Deadline;
use crate::conn::{Conn, Phase};
use crate::error::CloseReason;
use crate::listener::Listener;

/// A close, an abort and a wake are each posted once per connection: the id
/// notes them until the loop handles them. Bytes come through the inbox.
pub(crate) enum Mail {
    Close(u64),
    Abort(u64),
    Wake(u64),
    /// End one direction, or both.
    Shutdown(u64, Shutdown),
    /// Begin to accept from these listeners.
    Listen(Vec<Listener>),
    /// There may be room for connections again.
    Accept,
    /// Accept what waits in the backlog, and then no more.
    Quiesce,
    /// Close all connections, and cut the remaining ones at this time.
    Stop(Deadline),
    /// Run this code of the program.
    Task(TaskFn),
    /// Simulates a defect of the library.
    #[cfg(test)]
    Panic,
}

/// The most mails, and connections with bytes, to handle before the connections
/// have their turn again.
const PER_TURN: usize = 256;

impl Loop {
    /// Handles posted mail; the rest waits until the next turn.
    pub(super) fn drain_mail(&mut self) {
        self.driver.handle.note_awake();
        self.arm_tasks();
        for _ in 0..PER_TURN {
            let delivered = self.deliver_next();
            let mail = self.driver.handle.mail.1.try_recv().ok();
            if mail.is_none() && !delivered {
                return;
            }
            if let Some(mail) = mail {
                self.handle(mail);
            }
        }
        self.mail_left = true;
    }

    /// Delivers all bytes by id that wait now, and settles the connections to
    /// which a callback has sent, before the next handler runs: a burst does not
    /// pile up behind the handlers that send it. What comes meanwhile is delivered
    /// later.
    pub(super) fn deliver_waiting(&mut self) {
        if self.slab.has_work_nearby() {
            self.settle_nearby();
        }
        let context = &self.driver.handle.context;
        if context.inbox.is_empty(&context.ids) {
            return;
        }
        for _ in 0..context.inbox.waiting() {
            self.deliver_next();
        }
        // A thread that has put bytes behind those has woken nobody.
        let context = &self.driver.handle.context;
        self.mail_left |= !context.inbox.is_empty(&context.ids);
    }

    fn settle_nearby(&mut self) {
        for id in self.context().nearby.take_touched() {
            if let Some(conn) = self.slab.of(id) {
                conn.end_nearby();
                if !conn.is_settled() {
                    self.driver.settle(conn);
                }
            }
        }
    }

    fn handle(&mut self, mail: Mail) {
        match mail {
            Mail::Close(id) => self.with_conn(id, |conn| conn.close_because(CloseReason::Handler)),
            Mail::Abort(id) => self.with_conn(id, Conn::abort),
            Mail::Wake(id) => self.on_wake_mail(id),
            Mail::Shutdown(id, how) => self.with_conn(id, |conn| {
                if !matches!(conn.phase(), Phase::Flushing | Phase::Lingering) {
                    conn.shutdown(how);
                }
            }),
            Mail::Listen(_) if self.driver.is_stopping() => {}
            Mail::Listen(listeners) => self.acceptor.listen(listeners),
            Mail::Accept => self.acceptor.note_room(),
            Mail::Quiesce => self.begin_quiesce(),
            Mail::Stop(deadline) => self.begin_drain(deadline),
            Mail::Task(task) => self.run_task(task),
            #[cfg(test)]
            Mail::Panic => panic!("a defect"),
        }
    }

    /// Delivers the bytes that were accepted for one connection. Returns
    /// `false` if there are none.
    fn deliver_next(&mut self) -> bool {
        let context = &self.driver.handle.context;
        if context.inbox.is_empty(&context.ids) {
            return false;
        }
        // A new connection has its first callback first. No code of the program
        // runs between the removal of the bytes and their delivery.
        let Some(first) = context.inbox.first() else { return false };
        let _ = self.opened(first);
        let context = &self.driver.handle.context;
        let Some((id, bytes)) = context.inbox.next(&context.ids) else { return false };
        if let Some(conn) = self.slab.of(id).filter(|_| bytes.len() > 0) {
            conn.send_accepted(bytes);
            self.driver.settle(conn);
        }
        true
    }

    /// Changes a connection as one of its callbacks might. The connection may
    /// still be among the arrivals, without an event.
    fn with_conn(&mut self, id: u64, change: impl FnOnce(&mut Conn)) {
        let Some((driver, conn)) = self.opened(id) else { return };
        change(conn);
        if conn.phase() == Phase::Connecting {
            // What was accepted before a close leaves when it is connected.
            conn.collect();
        }
        driver.settle(conn);
    }

    fn on_wake_mail(&mut self, id: u64) {
        if let Some((driver, conn)) = self.opened(id) {
            driver.wake(conn);
        }
    }
}
