//! Small sends that leave together: on a loop those that a callback makes after
//! its first, elsewhere those between a cork and its uncork. Where a callback on a
//! loop has gathered several sends, the next one is expected to make several too,
//! and its first send is gathered as well: a send of its own costs as much as all
//! the others together.
//!
//! The bytes lie in the buffer of the thread ([`Scratch`](super::Scratch)),
//! which the queue of the connection borrows meanwhile, behind the bytes that
//! the kernel has refused. They are still plain text where the connection goes
//! through TLS, so that they leave in few records. No connection has any when
//! its callback is over, or when a call waits for input.

#![forbid(unsafe_code)]

use std::io::IoSlice;

use super::{Conn, Flags, Owner, Scratch};
use crate::clock::Deadline;
use crate::error::Status;
use crate::sync::lock;
use crate::sys::SendFlags;

impl Conn {
    /// Returns whether what is sent now is gathered.
    pub(super) fn gathers(&self) -> bool {
        match self.has(Flags::LOOP) {
            // During a TLS handshake in mid-stream the session keeps the bytes.
            true => self.has(Flags::SENT) && self.has(Flags::IN_CALLBACK) && !self.is_upgrading(),
            false => self.cork_depth() > 0,
        }
    }

    /// Adds bytes to those that leave together. They leave immediately where
    /// they would be too many.
    pub(super) fn gather(&mut self, bytes: &[u8]) -> Result<(), Status> {
        if self.gathered() + bytes.len() > Scratch::SIZE {
            self.flush_gathered()?;
        }
        if self.refused() > 0 && !self.has(Flags::TLS) && self.has(Flags::LOOP) {
            // The kernel takes no more: the bytes go behind those that it has
            // refused.
            self.enqueue(bytes);
            return Ok(());
        }
        if bytes.len() >= Scratch::SIZE {
            return match self.has(Flags::LOOP | Flags::TLS) {
                true => self.send_through(bytes, SendFlags::empty()),
                false => self.send_wait(bytes),
            };
        }
        if bytes.is_empty() {
            return Ok(());
        }
        self.context.ids.count_queued(self.id, bytes.len());
        self.set(Flags::BACKLOG);
        let out = self.out.get_or_insert_default();
        if out.gathered.capacity() == 0 {
            out.gathered = self.context.scratch.take();
        }
        out.gathered.extend_from_slice(bytes);
        out.gathered_sends += 1;
        Ok(())
    }

    /// Returns how many gathered bytes there are.
    pub(super) fn gathered(&self) -> usize {
        self.out.as_ref().map_or(0, |out| out.gathered.len())
    }

    /// Sends the gathered bytes. On a loop what the kernel does not take now is
    /// queued. Where calls wait, this waits for all that is queued, until the
    /// connection's own deadline. The gathered bytes stay where they are until
    /// what was queued before them has left: each call that fails would make the
    /// queue longer.
    ///
    /// All of it was accepted. So another thread that closes the connection
    /// meanwhile makes no reset: this returns, and the goodbye sends the rest.
    pub fn flush_gathered(&mut self) -> Result<(), Status> {
        if self.has(Flags::LOOP) {
            return self.send_gathered(SendFlags::empty());
        }
        self.check_own_deadline()?;
        self.send_queue()?;
        self.queue_gathered(false);
        match self.has(Flags::SEND_FAILED) {
            true => Err(self.send_failure()),
            false => self.send_queue(),
        }
    }

    /// Puts the gathered bytes, and close_notify if it comes behind them, into the
    /// queue, without a wait: the caller sends the queue. Only where calls wait.
    pub(super) fn queue_gathered(&mut self, close_notify: bool) {
        let outer = std::mem::replace(&mut self.own_deadline, Deadline::NOW);
        let _ = self.send_gathered(SendFlags::empty());
        if close_notify {
            self.send_close_notify();
        }
        self.own_deadline = outer;
    }

    pub(super) fn send_gathered(&mut self, flags: SendFlags) -> Result<(), Status> {
        if self.gathered() == 0 {
            return Ok(());
        }
        if self.has(Flags::ABORT | Flags::BROKEN | Flags::SEND_FAILED) {
            self.drop_queue();
            return Ok(());
        }
        let Some(out) = &mut self.out else { return Ok(()) };
        let gathered = std::mem::take(&mut out.gathered);
        out.gathered_sends = 0;
        out.ends_turn = false;
        if out.len() == 0 {
            self.take_queue();
        }
        let len = gathered.len();
        self.context.ids.hold(len);
        if self.context.ids.sub(self.id, len) {
            // A send that fails takes this back.
            self.set(Flags::DRAINED);
        }
        let result = self.send_through(&gathered, flags);
        self.context.ids.let_go(len);
        self.context.scratch.put(gathered);
        result
    }

    /// A callback is over: what it has gathered leaves. Where calls wait, only an
    /// uncork ends gathering.
    pub fn end_gathering(&mut self) {
        if self.has(Flags::BACKLOG) && self.has(Flags::LOOP) {
            let several = self.out.as_ref().is_some_and(|out| out.gathered_sends > 1);
            let _ = self.flush_gathered();
            self.flags.set(Flags::SENT, several);
        }
    }

    /// Sends through TLS, if the connection has it, and queues the rest.
    pub(super) fn send_through(&mut self, bytes: &[u8], flags: SendFlags) -> Result<(), Status> {
        match self.has(Flags::TLS) {
            true => self.send_tls(bytes),
            false => self.transmit(&[IoSlice::new(bytes)], flags),
        }
    }

    /// Sends what has been gathered so far, for the program. On a loop a failure
    /// is one of queued bytes: the handler gets it after the input.
    pub fn flush(&mut self) -> Result<(), Status> {
        if self.has(Flags::OVER) {
            return Err(Status::Closed);
        }
        if self.has(Flags::LOOP) {
            self.collect();
            let _ = self.flush_gathered();
            return Ok(());
        }
        self.may_wait()?;
        self.with_deadline(self.wait_until(), Conn::flush_gathered)
    }

    /// Sends what is under a cork that no uncork has ended, and waits for that as a
    /// send does: the handler returns, or the program ends the connection.
    pub fn end_cork(&mut self) -> Result<(), Status> {
        if self.has(Flags::LOOP) || self.gathered() == 0 {
            return Ok(());
        }
        if lock(&self.context.rivals).is_some() {
            // Other peers of the shutdown port may wait: the goodbye is enough.
            return Ok(());
        }
        self.may_wait()?;
        self.with_deadline(self.wait_until(), Conn::flush_gathered)
    }

    /// Gathers what is sent until [`Conn::uncork`]. Corks nest. On a loop each
    /// callback gathers: there its first send is gathered too from here on.
    pub fn cork(&mut self) -> Result<(), Status> {
        if self.has(Flags::OVER) {
            return Err(Status::Closed);
        }
        match self.context.owner {
            Owner::Loop => self.note_sent(),
            _ => self.extra.get_or_insert_default().corks += 1,
        }
        Ok(())
    }

    /// Takes back one cork. The last one sends what was gathered.
    pub fn uncork(&mut self) -> Result<(), Status> {
        if self.has(Flags::OVER) {
            return Err(Status::Closed);
        }
        if self.context.owner == Owner::Loop {
            return Ok(());
        }
        match &mut self.extra {
            Some(extra) if extra.corks > 0 => extra.corks -= 1,
            _ => return Err(Status::State),
        }
        match self.cork_depth() {
            0 => self.flush(),
            _ => Ok(()),
        }
    }

    /// Ends all corks, for the loop that has the connection from now on.
    pub fn end_corks(&mut self) {
        if let Some(extra) = &mut self.extra {
            extra.corks = 0;
        }
        let _ = self.flush_gathered();
    }

    fn cork_depth(&self) -> u32 {
        self.extra.as_ref().map_or(0, |extra| extra.corks)
    }
}
