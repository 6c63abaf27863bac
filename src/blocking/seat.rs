//! A seat: the place of the one connection that a worker serves, through
//! which other threads can end it.

#![forbid(unsafe_code)]

use std::os::fd::RawFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::conn::{Conn, ForcedEnd, Sending, ThreadContext};
use crate::sync::lock;
use crate::sys::{self, Shutdown};

pub(crate) struct Seat {
    context: Arc<ThreadContext>,
    /// Held by the thread that serves; in one place as long as the server
    /// lives, since the C layer hands its address out.
    conn: Mutex<Conn>,
    /// The id (0 for none any more) and descriptor of the connection while it
    /// may be ended. The descriptor is retracted before it is closed, so that
    /// nobody shuts another one that got the same number.
    published: Mutex<Option<(u64, RawFd)>>,
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

    /// From now on only [`Seat::force_end_any`] ends it.
    pub fn forget_id(&self) {
        if let Some((id, _)) = &mut *lock(&self.published) {
            *id = 0;
        }
    }

    pub fn retract(&self) {
        *lock(&self.published) = None;
    }

    /// Ends the connection if it is the one of this id.
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

    /// Ends whatever connection there is.
    pub fn force_end_any(&self, how: ForcedEnd) {
        let published = lock(&self.published);
        if let Some((_, fd)) = *published {
            self.shut(fd, how);
        }
    }

    /// The mark before the looks at `sending` and `fin_sent`, which the worker
    /// does the other way round.
    fn shut(&self, fd: RawFd, how: ForcedEnd) {
        let how = self.context.force_end(how);
        let sending = self.context.sending.load(Ordering::SeqCst);
        match how {
            // The rest of what it sends is lost: the peer is to know.
            ForcedEnd::Close if sending == Sending::Message as u8 => reset(fd),
            ForcedEnd::Cut if sending != Sending::No as u8 => reset(fd),
            ForcedEnd::Abort => reset(fd),
            // It looks by itself.
            ForcedEnd::Close if self.context.fin_sent.load(Ordering::SeqCst) => {}
            // A `recv` that waits returns. The worker sends the end, behind
            // what is queued and TLS's close_notify.
            _ => sys::shutdown(fd, Shutdown::Read),
        }
    }
}

/// The peer sees a reset now, or, where the kernel refuses that while a
/// thread receives, which the first shutdown(2) ends, when it is closed.
fn reset(fd: RawFd) {
    sys::reset_on_close(fd);
    sys::shutdown(fd, Shutdown::Read);
    sys::disconnect(fd);
}
