//! The end of one direction: half-close, and the input that the program does
//! not want any more.

#![forbid(unsafe_code)]

use std::net::Shutdown;
use std::os::fd::AsRawFd;

use super::{Conn, Flags, Owner, Phase};
use crate::sys;

impl Conn {
    /// Ends one direction, or both.
    pub fn shutdown(&mut self, how: Shutdown) {
        if self.is_over() {
            return;
        }
        if how != Shutdown::Read {
            self.shut_write();
        }
        if how != Shutdown::Write {
            self.shut_read();
        }
    }

    /// Shuts the sending side once the queue is empty.
    pub fn shut_write(&mut self) {
        self.context.ids.shut_sending(self.id);
        self.collect();
        if self.has(Flags::LOOP) {
            // A failure is noted in the connection.
            let _ = self.flush_gathered();
        }
        let _ = self.end_cork();
        // shutdown(2) would end a connect that is in progress.
        let ends_now = !self.is_upgrading() && self.phase() != Phase::Connecting;
        if ends_now {
            // This comes before `WR_SHUT` is set: from then on the FIN follows
            // the queue immediately.
            let until = self.linger_until().min(self.wait_until());
            self.with_deadline(until, Conn::send_last);
        }
        self.set(Flags::WR_SHUT);
        if ends_now {
            self.end_sending();
        }
    }

    /// Sends the close_notify of TLS, and, where calls wait, what is queued.
    fn send_last(&mut self) {
        let _ = self.flush_gathered();
        self.send_close_notify();
        if !self.has(Flags::LOOP) {
            let _ = self.send_queue();
        }
    }

    /// Ends sending, behind the queued bytes. During a TLS handshake the end
    /// waits, with the bytes that go out when the handshake is over.
    pub fn end_sending(&mut self) {
        self.send_close_notify();
        if !self.has(Flags::BACKLOG) {
            self.send_fin();
        }
    }

    /// Returns whether a loop's connection is changing over to TLS.
    pub fn is_upgrading(&self) -> bool {
        self.has(Flags::LOOP) && (self.has(Flags::STARTTLS) || self.phase().is_handshake())
    }

    pub(super) fn send_fin(&mut self) {
        // After a failed send a part of the message may have left: a reset follows,
        // and no orderly end.
        if self.has(Flags::FIN_SENT | Flags::SEND_FAILED) || self.is_input_shut() {
            return;
        }
        self.set(Flags::FIN_SENT);
        if let Some(fd) = self.fd() {
            let _ = socket2::SockRef::from(&fd).shutdown(Shutdown::Write);
        }
    }

    /// Returns whether another thread has ended this worker's connection and
    /// may have shut its input. Then the end is sent last, when the peer has
    /// acknowledged all ([`Remains`](crate::linger::Remains)). Otherwise no
    /// thread shuts the input any more.
    fn is_input_shut(&self) -> bool {
        self.context.owner == Owner::Worker && !self.context.note_fin()
    }

    /// Shuts the input for the program, which reads nothing more. It does not
    /// call shutdown(2): the kernel would report an end that the peer never
    /// sent, also to a later linger.
    pub fn shut_read(&mut self) {
        if !self.has(Flags::EOF) {
            self.set(Flags::EOF | Flags::RD_SHUT);
        }
    }

    /// Does a close where no loop does the rest: the peer sees the end now.
    pub fn shut_now(&mut self) {
        let _ = self.end_cork();
        self.say_goodbye(self.linger_until());
        match self.fd() {
            Some(fd) if self.has(Flags::SEND_FAILED) => sys::disconnect(fd.as_raw_fd()),
            _ if self.has(Flags::ABORT) => {}
            _ => self.send_fin(),
        }
    }
}
