//! A connection whose connect is in progress.

#![forbid(unsafe_code)]

use std::io;

use socket2::SockRef;

use super::{Conn, Flags, Phase};
use crate::address::Peer;
use crate::clock::Deadline;
use crate::connect::Connect;
use crate::error::Error;
use crate::sys::{self, Bits, RecvFlags};

impl Conn {
    /// Waits for the end of the connect; `on_open` runs after it.
    pub fn expect_connect(&mut self, connect: Connect) {
        self.set_phase(Phase::Connecting);
        self.set(Flags::UNOPENED | Flags::ARM);
        self.own_deadline = connect.share();
        self.extra.get_or_insert_default().connect = Some(Box::new(connect));
    }

    /// Looks, at an event, whether the connection is there.
    pub fn has_connected(&mut self, bits: Bits) -> io::Result<bool> {
        let Some(fd) = self.fd() else { return Ok(false) };
        let socket = SockRef::from(&fd);
        let Some(error) = socket.take_error()? else {
            return match socket.peer_addr() {
                Ok(peer) => {
                    self.peer = Peer::new(&peer);
                    self.expect_short_reads();
                    Ok(true)
                }
                Err(e) if bits.intersects(Bits::HUP | Bits::ERR) => Err(e),
                Err(_) => Ok(false),
            };
        };
        // It was there, and has ended by now: the handler gets what the peer had
        // sent, and then the error.
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        let has_input = sys::recv(fd, &mut [0], flags).is_ok_and(|n| n > 0);
        if !has_input {
            return Err(error);
        }
        self.fail_send(&error);
        Ok(true)
    }

    /// Goes on with the next address, in a new socket. `error` is the failure of
    /// the former one. The error is the last failure, when no address is left.
    pub fn connect_next(&mut self, error: io::Error) -> Result<(), Error> {
        // Its descriptor may be the last one.
        self.close_fd();
        let connect = self
            .extra
            .get_or_insert_default()
            .connect
            .get_or_insert_with(|| Box::new(Connect::of_program()));
        let begun = connect.begin_next(Some(error));
        let share = connect.share();
        let (fd, address) = begun.inspect_err(|error| self.os_error = error.os_code())?;
        self.peer = Peer::new(&address);
        self.own_deadline = share;
        self.fd = Some(fd);
        Ok(())
    }

    /// The connect has succeeded: `on_open` comes next.
    pub fn finish_connect(&mut self) {
        if let Some(extra) = &mut self.extra {
            extra.connect = None;
        }
        self.clear(Flags::UNOPENED);
        self.own_deadline = Deadline::NEVER;
        self.set_phase(Phase::Open);
        self.set(Flags::ARM);
        self.begin_deadlines();
        if self.has(Flags::WR_SHUT) {
            self.end_sending();
        }
    }
}
