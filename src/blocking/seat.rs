//! A seat: the place of the one connection that a worker serves, through
//! which other threads can end it.

#![forbid(unsafe_code)]

use std::os::fd::RawFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard};

use super::lock;
use crate::conn::{Conn, Ended, Env};
use crate::sys::{self, Shutdown};

pub(crate) struct Seat {
    env: Arc<Env>,
    /// Held by the thread that serves; in one place as long as the server
    /// lives, since the C layer hands its address out.
    conn: Mutex<Conn>,
    /// The id (0 for none any more) and descriptor of the connection while it
    /// may be ended. The descriptor is retracted before it is closed, so that
    /// nobody shuts another one that got the same number.
    published: Mutex<Option<(u64, RawFd)>>,
}

impl Seat {
    pub fn new(env: Env) -> Seat {
        let env = Arc::new(env);
        Seat { conn: Mutex::new(Conn::vacant(env.clone())), env, published: Mutex::new(None) }
    }

    pub fn env(&self) -> &Arc<Env> {
        &self.env
    }

    pub fn conn(&self) -> MutexGuard<'_, Conn> {
        lock(&self.conn)
    }

    pub fn publish(&self, id: u64, fd: RawFd) {
        let mut published = lock(&self.published);
        self.env.ended.store(Ended::No as u8, Ordering::Release);
        self.env.secure.store(false, Ordering::SeqCst);
        *published = Some((id, fd));
    }

    /// From now on only [`Seat::end_any`] ends it.
    pub fn forget_id(&self) {
        if let Some((id, _)) = &mut *lock(&self.published) {
            *id = 0;
        }
    }

    pub fn retract(&self) {
        *lock(&self.published) = None;
    }

    /// Ends the connection if it is the one of this id.
    pub fn end(&self, id: u64, how: Ended) -> bool {
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
    pub fn end_any(&self, how: Ended) {
        let published = lock(&self.published);
        if let Some((_, fd)) = *published {
            self.shut(fd, how);
        }
    }

    fn shut(&self, fd: RawFd, how: Ended) {
        if self.env.ended.swap(how as u8, Ordering::AcqRel) == Ended::Aborted as u8 {
            self.env.ended.store(Ended::Aborted as u8, Ordering::Release);
        }
        let farewell = how == Ended::Closed && self.env.secure.load(Ordering::SeqCst);
        if how != Ended::Aborted && !farewell {
            sys::shutdown(fd, Shutdown::Both);
            return;
        }
        // The peer must see a reset, or close_notify first, and no bare end.
        // Shutting the input wakes a blocked recv; a blocked send means
        // unsent bytes, behind which the end of the stream waits until the
        // reset overtakes it.
        if how == Ended::Aborted {
            sys::reset_on_close(fd);
        }
        sys::shutdown(fd, Shutdown::Read);
        if sys::unsent(fd) > 0 && !sys::is_writable(fd) {
            sys::shutdown(fd, Shutdown::Write);
        }
    }
}
