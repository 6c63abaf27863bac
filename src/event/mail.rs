//! What other threads ask of a loop.

#![forbid(unsafe_code)]

use std::sync::atomic::Ordering;
use std::sync::Arc;

use super::run::Loop;
use super::Shared;
use crate::blocking::lock;
use crate::callback;
use crate::conn::{flag, Conn, ConnId, Phase};
use crate::error::CloseReason;
use crate::listener::Listener;

pub(crate) enum Mail {
    Send(u64, Arc<[u8]>),
    Broadcast(Vec<u64>, Arc<[u8]>),
    Close(u64),
    Abort(u64),
    Wake(u64),
    /// Begin to accept on these.
    Listen(Vec<Listener>),
    /// There may be room for connections again.
    Accept,
    /// Close everything, and cut what is left at this time.
    Stop(u64),
}

/// Mail handled before the connections have their turn again; each receiver
/// of a broadcast counts.
const PER_TURN: usize = 256;

impl Loop {
    /// Handles what was posted; the rest waits until the next turn.
    pub(super) fn drain_mail(&mut self) {
        // First the flag, then the box: what is posted after the box was
        // seen empty signals again.
        self.shared.awake.store(false, Ordering::SeqCst);
        let mut left = PER_TURN;
        while left > 0 {
            let Some(mail) = self.shared.next_mail() else { return };
            left = left.saturating_sub(self.handle(mail));
        }
        self.mail_left = true;
    }

    /// Handles a mail and answers how much work that was.
    fn handle(&mut self, mail: Mail) -> usize {
        match mail {
            Mail::Send(id, bytes) => self.deliver(id, bytes),
            Mail::Broadcast(ids, bytes) => return self.broadcast(ids, bytes),
            Mail::Close(id) => self.change(id, |conn| conn.close_because(CloseReason::Handler)),
            Mail::Abort(id) => self.change(id, |conn| conn.abort()),
            Mail::Wake(id) => self.woken(id),
            Mail::Listen(listeners) => self.listen(listeners),
            Mail::Accept => self.accept_again(),
            Mail::Stop(deadline) => self.begin_stop(deadline),
        }
        1
    }

    /// The first receivers; the others are left in front of all other mail.
    fn broadcast(&mut self, mut ids: Vec<u64>, bytes: Arc<[u8]>) -> usize {
        let rest = ids.split_off(ids.len().min(PER_TURN));
        if !rest.is_empty() {
            let rest = Mail::Broadcast(rest, bytes.clone());
            lock(&self.shared.deferred).push_front(rest);
        }
        let count = ids.len();
        for id in ids {
            self.deliver(id, bytes.clone());
        }
        count
    }

    fn deliver(&mut self, id: u64, bytes: Arc<[u8]>) {
        let Some(conn) = self.conn(id) else { return };
        if !matches!(conn.phase(), Phase::Open | Phase::Handshake)
            || conn.has(flag::OVER | flag::WR_SHUT)
        {
            conn.env.ids.sub(id, bytes.len());
            return;
        }
        // A failure is noted in the connection.
        let _ = conn.send_shared(bytes);
        self.settle(ConnId::slot(id));
    }

    /// Changes a connection as a callback of it might.
    pub(super) fn change(&mut self, id: u64, change: impl FnOnce(&mut Conn)) {
        let Some(conn) = self.conn(id) else { return };
        change(conn);
        self.settle(ConnId::slot(id));
    }

    fn woken(&mut self, id: u64) {
        if self.stopping() {
            return;
        }
        let Some(conn) = self.conn(id) else { return };
        conn.env.ids.woken(id);
        if conn.phase() != Phase::Open || conn.is_over() {
            return;
        }
        let Some(conn) = self.slab.get(ConnId::slot(id)) else { return };
        let result = callback::call(&self.server, conn, |handler, server, socket| {
            handler.on_wake(server, socket);
        });
        self.after(ConnId::slot(id), result.err());
    }
}

impl Shared {
    fn next_mail(&self) -> Option<Mail> {
        let deferred = lock(&self.deferred).pop_front();
        deferred.or_else(|| self.mail.1.try_recv().ok())
    }

    /// A connection leaves the loop: bytes that were accepted for it by id
    /// and are still in the mail go with it.
    pub(super) fn deliver_now(&self, conn: &mut Conn) {
        let mut deferred = lock(&self.deferred);
        deferred.extend(self.mail.1.try_iter());
        for mail in deferred.iter_mut() {
            match mail {
                Mail::Send(id, bytes) if *id == conn.id => conn.enqueue_shared(bytes.clone()),
                Mail::Broadcast(ids, bytes) if ids.contains(&conn.id) => {
                    ids.retain(|id| *id != conn.id);
                    conn.enqueue_shared(bytes.clone());
                }
                _ => {}
            }
        }
        deferred.retain(|mail| !matches!(mail, Mail::Send(id, _) if *id == conn.id));
        if !deferred.is_empty() && !self.awake.swap(true, Ordering::AcqRel) {
            self.wake.signal();
        }
    }
}
