//! What other threads ask of a loop.

#![forbid(unsafe_code)]

use std::sync::atomic::Ordering;

use super::run::Loop;
use crate::callback;
use crate::clock::Deadline;
use crate::conn::{Conn, ConnId, Phase};
use crate::error::CloseReason;
use crate::listener::Listener;

/// Posted once each for a connection: what stands for it meanwhile is noted in
/// its id. Bytes come by the inbox.
pub(crate) enum Mail {
    Close(u64),
    Abort(u64),
    Wake(u64),
    /// Begin to accept on these.
    Listen(Vec<Listener>),
    /// There may be room for connections again.
    Accept,
    /// Close everything, and cut what is left at this time.
    Stop(Deadline),
    /// Stands for a defect of the library.
    #[cfg(test)]
    Panic,
}

/// Mail, and connections with bytes, handled before the connections have their
/// turn again.
const PER_TURN: usize = 256;

impl Loop {
    /// Handles what was posted; the rest waits until the next turn.
    pub(super) fn drain_mail(&mut self) {
        // First the flag, then the box: what is posted after the box was
        // seen empty signals again.
        self.handle.awake.swap(false, Ordering::SeqCst);
        for _ in 0..PER_TURN {
            let delivered = self.deliver_next();
            let mail = self.handle.mail.1.try_recv().ok();
            if mail.is_none() && !delivered {
                return;
            }
            if let Some(mail) = mail {
                self.handle(mail);
            }
        }
        self.mail_left = true;
    }

    fn handle(&mut self, mail: Mail) {
        match mail {
            Mail::Close(id) => self.with_conn(id, |conn| conn.close_because(CloseReason::Handler)),
            Mail::Abort(id) => self.with_conn(id, Conn::abort),
            Mail::Wake(id) => self.on_wake_mail(id),
            Mail::Listen(listeners) => self.listen(listeners),
            Mail::Accept => self.accept_again(),
            Mail::Stop(deadline) => self.begin_drain(deadline),
            #[cfg(test)]
            Mail::Panic => panic!("a defect"),
        }
    }

    /// Delivers what was accepted for one connection; `false` where there is
    /// nothing.
    fn deliver_next(&mut self) -> bool {
        if self.handle.context.inbox.is_empty(&self.handle.context.ids) {
            return false;
        }
        // First the callbacks of the new ones: whose bytes are taken out below
        // is there then, and nothing of the program's runs before they are
        // delivered.
        self.take_in_arrivals();
        let context = &self.handle.context;
        let Some((id, bytes)) = context.inbox.next(&context.ids) else { return false };
        if let Some(conn) = self.slab.of(id).filter(|_| bytes.len() > 0) {
            conn.send_accepted(bytes);
            self.settle(ConnId::slot(id));
        }
        true
    }

    /// Changes a connection as a callback of it might. It may have arrived
    /// without an event yet.
    fn with_conn(&mut self, id: u64, change: impl FnOnce(&mut Conn)) {
        self.take_in_arrivals();
        let Some(conn) = self.slab.of(id) else { return };
        change(conn);
        self.settle(ConnId::slot(id));
    }

    fn on_wake_mail(&mut self, id: u64) {
        self.take_in_arrivals();
        let Some(conn) = self.slab.of(id) else { return };
        match conn.phase() {
            // Its handshake in mid-stream is not over: after it.
            phase if phase.is_handshake() => {
                if let Some(tls) = &mut conn.tls {
                    tls.wake_pending = true;
                }
            }
            _ => self.run_on_wake(ConnId::slot(id)),
        }
    }

    pub(super) fn run_on_wake(&mut self, slot: u32) {
        let stopping = self.stopping();
        let Some(conn) = self.slab.get(slot) else { return };
        conn.context.ids.clear_wake(conn.id);
        if stopping || conn.phase() != Phase::Open || conn.is_over() {
            return;
        }
        let result = callback::call(&self.server, conn, |handler, server, socket| {
            handler.on_wake(server, socket);
        });
        self.after_callback(slot, result.err());
    }
}
