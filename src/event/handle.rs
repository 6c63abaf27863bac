//! A loop as other threads see it: its slots, its arrivals, its mailbox.

#![forbid(unsafe_code)]

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender};

use super::tasks::Tasks;
use super::{Mail, BOTH, WAKE};
use crate::conn::{Conn, ConnId, IdTable, Message, Scratch, SendError, ThreadContext};
use crate::error::{Error, Status};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{lock, Mutex};
use crate::sys::{Poller, Waker};

/// The free slots of a loop, and the connections that other threads put into
/// it.
pub(super) struct Intake {
    /// The loop's poller; `None` from the loop's stop on.
    pub poller: Option<Poller>,
    free: Vec<u32>,
    next: u32,
    pub arrivals: Vec<Conn>,
}

/// A loop as other threads see it.
pub(crate) struct LoopHandle {
    pub context: Arc<ThreadContext>,
    pub(super) intake: Mutex<Intake>,
    has_arrivals: AtomicBool,
    pub(super) mail: (Sender<Mail>, Receiver<Mail>),
    /// A wake-up is on its way: more mail needs none.
    awake: AtomicBool,
    pub(super) wake: Waker,
    pub(super) tasks: Tasks,
}

impl LoopHandle {
    pub(super) fn new(context: ThreadContext, poller: &Poller) -> std::io::Result<LoopHandle> {
        let wake = Waker::new()?;
        wake.watch(poller, WAKE)?;
        Ok(LoopHandle {
            context: Arc::new(context),
            intake: Mutex::new(Intake {
                poller: Some(poller.clone()),
                free: Vec::new(),
                next: 0,
                arrivals: Vec::new(),
            }),
            has_arrivals: AtomicBool::new(false),
            mail: crossbeam_channel::unbounded(),
            awake: AtomicBool::new(false),
            wake,
            tasks: Tasks::new(),
        })
    }

    /// Puts mail into the loop's mailbox. One wake-up serves a burst of mail.
    pub fn post(&self, mail: Mail) {
        let _ = self.mail.0.send(mail);
        self.wake_up();
    }

    /// Makes the loop look at its mail and its inbox.
    pub(super) fn wake_up(&self) {
        if !self.awake.swap(true, Ordering::SeqCst) {
            self.wake.signal();
        }
    }

    /// The loop looks at its mail and its inbox from now on: a thread that posts
    /// after it found them empty wakes it again.
    pub(super) fn note_awake(&self) {
        self.awake.swap(false, Ordering::SeqCst);
    }

    /// Accepts bytes for a connection of this loop, or refuses all of them.
    pub(super) fn send(&self, id: u64, message: &Message<'_>) -> Result<(), SendError> {
        if self.context.inbox.put(&self.context.ids, id, message)? {
            self.wake_up();
        }
        Ok(())
    }

    /// Does [`LoopHandle::send`] in a callback of this loop
    /// ([`callback::serves`](crate::callback::serves)).
    pub(super) fn send_here(&self, id: u64, message: &Message<'_>) -> Result<(), SendError> {
        let ThreadContext { ids, inbox, reach, nearby, .. } = &*self.context;
        let slot = ConnId::slot(id);
        if ids.is_clear(id, message.bytes.len())
            && reach.other(slot, |conn| conn.send_nearby(id, message)) == Some(true)
        {
            return Ok(());
        }
        let mut put = inbox.put(ids, id, message);
        if put == Err(SendError::Full) {
            // What the kernel takes now is no burst that must be refused.
            reach.other(slot, |conn| conn.collect_nearby(id));
            put = inbox.put(ids, id, message);
        }
        nearby.note_work();
        if put.is_ok() && ids.pending(id) >= Scratch::SIZE {
            reach.other(slot, |conn| conn.collect_nearby(id));
        }
        put.map(drop)
    }

    pub(super) fn has_arrivals(&self) -> bool {
        self.has_arrivals.load(Ordering::Acquire)
    }

    /// Takes the connections that other threads have put into the loop.
    pub(super) fn take_arrivals(&self) -> Vec<Conn> {
        if !self.has_arrivals() {
            return Vec::new();
        }
        let mut intake = lock(&self.intake);
        self.has_arrivals.store(false, Ordering::Release);
        std::mem::take(&mut intake.arrivals)
    }

    /// Takes a free slot and returns a new id with it.
    pub(super) fn allocate(&self, intake: &mut Intake) -> Result<u64, Error> {
        loop {
            let slot = match intake.free.pop() {
                Some(slot) => slot,
                None => self.new_slot(intake)?,
            };
            if let Some(id) = self.context.ids.give(self.context.index, slot) {
                return Ok(id);
            }
        }
    }

    /// Returns a slot that was never used. There is room for all slots in the
    /// list of the free ones, so that an end of a connection takes no memory.
    #[cold]
    fn new_slot(&self, intake: &mut Intake) -> Result<u32, Error> {
        let slot = intake.next;
        if slot >= IdTable::SLOTS {
            return Err(Error::new(Status::NoMemory, "no connection slot is left"));
        }
        self.context.ids.grow(slot).map_err(Error::no_memory)?;
        intake.free.try_reserve(slot as usize + 1).map_err(Error::no_memory)?;
        intake.next += 1;
        Ok(slot)
    }

    pub(super) fn free(&self, id: u64) {
        self.context.ids.release(id);
        lock(&self.intake).free.push(ConnId::slot(id));
    }

    /// Puts a connection into the loop from another thread. The connection is
    /// complete before the loop handles its first event, because the loop looks
    /// among the arrivals under the lock that this function holds. On failure
    /// nothing has changed, and the caller gets `source` back.
    pub(super) fn insert_remote<T>(
        &self,
        source: T,
        fd: impl Fn(&T) -> Option<BorrowedFd<'_>>,
        make: impl FnOnce(T, u64) -> Conn,
    ) -> Result<u64, (Error, T)> {
        let mut intake = lock(&self.intake);
        if intake.poller.is_none() {
            return Err((Error::new(Status::State, "the server is not running"), source));
        }
        // Set before the id can be used and before the first event: the loop
        // looks for the connection only if this is set, and then under this
        // lock.
        self.has_arrivals.store(true, Ordering::SeqCst);
        let room = intake.arrivals.try_reserve(1).map_err(Error::no_memory);
        let id = match room.and_then(|()| self.allocate(&mut intake)) {
            Ok(id) => id,
            Err(error) => return Err((error, source)),
        };
        let registered = match (&intake.poller, fd(&source)) {
            (Some(poller), Some(fd)) => poller.add(fd, id, BOTH),
            _ => Ok(()),
        };
        if let Err(e) = registered {
            self.context.ids.release(id);
            intake.free.push(ConnId::slot(id));
            let error = match e.raw_os_error() {
                Some(libc::EEXIST) => Error::from_os(Status::Busy, "the loop has it already", &e),
                _ => Error::from_os(Status::Io, "cannot watch the socket", &e),
            };
            return Err((error, source));
        }
        let mut conn = make(source, id);
        conn.note_writable_watched();
        intake.arrivals.push(conn);
        self.context.counters.open.add(1);
        Ok(id)
    }
}
