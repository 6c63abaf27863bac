//! What other threads ask of a loop.

#![forbid(unsafe_code)]

use std::sync::atomic::Ordering;
use std::sync::Arc;

use super::run::Loop;
use crate::callback;
use crate::conn::{flag, ConnId, Phase};
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

/// Mail handled before the connections have their turn again. A broadcast is
/// split into pieces of as many receivers.
const PER_TURN: usize = 256;

impl Loop {
    /// Handles what was posted; the rest waits until the next turn.
    pub(super) fn drain_mail(&mut self) {
        // First the flag, then the box: what is posted after the box was
        // seen empty signals again.
        self.shared.awake.store(false, Ordering::Release);
        std::sync::atomic::fence(Ordering::SeqCst);
        for _ in 0..PER_TURN {
            let Some((ids, bytes)) = self.broadcast.take() else {
                match self.shared.mail.1.try_recv() {
                    Ok(mail) => self.handle(mail),
                    Err(_) => return,
                }
                continue;
            };
            self.broadcast_some(ids, bytes);
            break;
        }
        self.mail_left = true;
    }

    fn handle(&mut self, mail: Mail) {
        match mail {
            Mail::Send(id, bytes) => self.deliver(id, bytes),
            Mail::Broadcast(ids, bytes) => self.broadcast = Some((ids, bytes)),
            Mail::Close(id) => self.change(id, |conn| conn.close_because(CloseReason::Handler)),
            Mail::Abort(id) => self.change(id, |conn| conn.abort()),
            Mail::Wake(id) => self.woken(id),
            Mail::Listen(listeners) => self.listen(listeners),
            Mail::Accept => self.accept_again(),
            Mail::Stop(deadline) => self.begin_stop(deadline),
        }
    }

    fn broadcast_some(&mut self, mut ids: Vec<u64>, bytes: Arc<[u8]>) {
        let rest = ids.split_off(ids.len().min(PER_TURN));
        for id in ids {
            self.deliver(id, bytes.clone());
        }
        if !rest.is_empty() {
            self.broadcast = Some((rest, bytes));
        }
    }

    fn deliver(&mut self, id: u64, bytes: Arc<[u8]>) {
        let Some(conn) = self.conn(id) else { return };
        if conn.phase != Phase::Open || conn.has(flag::OVER | flag::WR_SHUT) {
            conn.env.ids.sub(id, bytes.len());
            return;
        }
        // A failure is noted in the connection.
        let _ = conn.send_shared(bytes);
        self.settle(ConnId::slot(id));
    }

    /// Changes a connection as a callback of it might.
    pub(super) fn change(&mut self, id: u64, change: impl FnOnce(&mut crate::conn::Conn)) {
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
        if conn.phase != Phase::Open || conn.is_over() {
            return;
        }
        let Some(conn) = self.slab.get(ConnId::slot(id)) else { return };
        let result = callback::call(&self.server, conn, |handler, server, socket| {
            handler.on_wake(server, socket);
        });
        self.after(ConnId::slot(id), result.err());
    }
}
