//! A seat: the place of the one connection that a worker serves. Other threads
//! can end the connection through it.

#![forbid(unsafe_code)]

use std::os::fd::RawFd;
use std::sync::Arc;

use crate::conn::{Conn, ForcedEnd, Sending, ThreadContext};
use crate::sync::{lock, Mutex, MutexGuard};
use crate::sys::{self, Shutdown};

pub(crate) struct Seat {
    context: Arc<ThreadContext>,
    /// The thread that serves holds the lock. The connection stays in one place
    /// as long as the server lives, because the C layer hands out its address.
    conn: Mutex<Conn>,
    /// The id (0 once it is stale) and the descriptor of the connection, while
    /// other threads may end it. The worker retracts the descriptor before it
    /// closes it, so that no thread shuts another descriptor that got the same
    /// number.
    published: Mutex<Option<(u64, RawFd)>>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.context.reach.forget();
    }
}

impl Seat {
    pub fn new(context: ThreadContext) -> Seat {
        let context = Arc::new(context);
        Seat {
            conn: Mutex::new(Conn::vacant(context.clone())),
            context,
            published: Mutex::new(None),
        }
    }

    pub fn context(&self) -> &Arc<ThreadContext> {
        &self.context
    }

    pub fn conn(&self) -> MutexGuard<'_, Conn> {
        lock(&self.conn)
    }

    pub fn publish(&self, id: u64, fd: RawFd) {
        let mut published = lock(&self.published);
        self.context.forget_forced_end();
        *published = Some((id, fd));
    }

    /// Makes the id stale: from now on only [`Seat::force_end_any`] ends the
    /// connection.
    pub fn forget_id(&self) {
        if let Some((id, _)) = &mut *lock(&self.published) {
            *id = 0;
        }
    }

    pub fn retract(&self) {
        *lock(&self.published) = None;
    }

    /// Ends the connection if it has this id. Returns whether it has.
    pub fn force_end(&self, id: u64, how: ForcedEnd) -> bool {
        let published = lock(&self.published);
        match *published {
            Some((served, fd)) if served == id => {
                self.shut(fd, how);
                true
            }
            _ => false,
        }
    }

    /// Ends the connection of the seat, if there is one.
    pub fn force_end_any(&self, how: ForcedEnd) {
        let published = lock(&self.published);
        if let Some((_, fd)) = *published {
            self.shut(fd, how);
        }
    }

    /// Sets the forced end and then looks what the worker does; the worker notes
    /// what it does and then looks for the forced end.
    fn shut(&self, fd: RawFd, how: ForcedEnd) {
        let how = self.context.force_end(how);
        let sending = self.context.sending();
        match how {
            // The rest of the message is lost: the peer must see that.
            ForcedEnd::Close if sending == Sending::Message => reset(fd),
            ForcedEnd::Cut if sending != Sending::No => reset(fd),
            ForcedEnd::Abort => reset(fd),
            // The worker looks for the forced end by itself.
            ForcedEnd::Close if self.context.has_sent_fin() => {}
            // A waiting `recv` returns. The worker then sends the end, behind
            // the queued bytes and TLS's close_notify.
            _ => sys::shutdown(fd, Shutdown::Read),
        }
    }
}

/// Resets the connection now. The kernel may refuse that while a thread
/// receives, which the shutdown(2) before it ends; then the peer sees the reset
/// when the descriptor is closed.
fn reset(fd: RawFd) {
    sys::reset_on_close(fd);
    sys::shutdown(fd, Shutdown::Read);
    sys::disconnect(fd);
}
