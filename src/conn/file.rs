//! Sending bytes of a file. On a loop without TLS the kernel takes them from the file
//! by itself (sendfile(2)); elsewhere they are read, a piece at a time, and sent.

#![forbid(unsafe_code)]

use std::io;
use std::os::fd::BorrowedFd;

use super::{Conn, Flags};
use crate::error::{Error, Status};
use crate::sys::{self, SendFlags};

/// How many bytes are read at a time.
const PIECE: u64 = 64 << 10;
/// How many bytes a call on a loop gives the kernel, before other connections have
/// their turn.
const TURN: u64 = 1 << 20;
/// How many bytes are queued behind those, so that `on_drain` comes.
const REST: u64 = 16 << 10;

/// What is left to send of a file.
struct Part<'a> {
    file: BorrowedFd<'a>,
    at: u64,
    left: u64,
}

impl Part<'_> {
    /// Takes up to `most` bytes out. It is an error where there are none.
    fn read(&mut self, most: u64) -> Result<Vec<u8>, Error> {
        let mut piece = vec![0; most.min(self.left) as usize];
        match sys::pread(self.file, &mut piece, self.at) {
            Ok(0) => Err(too_short()),
            Ok(n) => {
                piece.truncate(n);
                self.pass(n);
                Ok(piece)
            }
            Err(e) => Err(unreadable(&e)),
        }
    }

    fn read_all(&mut self) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::with_capacity(self.left as usize);
        while self.left > 0 {
            bytes.append(&mut self.read(self.left)?);
        }
        Ok(bytes)
    }

    fn pass(&mut self, n: usize) {
        self.at += n as u64;
        self.left -= n as u64;
    }
}

impl Conn {
    /// Sends `len` bytes of a file from `offset` on, and returns how many it has
    /// accepted. Where calls wait, these are all. On a loop they may be fewer: then
    /// `on_drain` comes.
    pub fn sendfile(&mut self, file: BorrowedFd<'_>, offset: u64, len: u64) -> Result<u64, Error> {
        self.check_usable()?;
        if offset.checked_add(len).is_none_or(|end| i64::try_from(end).is_err()) {
            return Err(Error::from(Status::Invalid));
        }
        let mut part = Part { file, at: offset, left: len };
        match self.has(Flags::LOOP) {
            _ if len == 0 => self.send_any(&[])?,
            true => self.sendfile_on_loop(&mut part)?,
            false => self.sendfile_waiting(&mut part)?,
        }
        Ok(part.at - offset)
    }

    fn sendfile_waiting(&mut self, part: &mut Part<'_>) -> Result<(), Error> {
        let begin = part.at;
        while part.left > 0 {
            let is_first = part.at == begin;
            let piece = part.read(PIECE)?;
            if let Err(status) = self.send_any(&piece) {
                if !is_first && self.check_forced_end().is_err() {
                    // A part has left: no orderly end may follow.
                    self.set(Flags::ABORT);
                }
                return Err(Error::from(status));
            }
        }
        Ok(())
    }

    fn sendfile_on_loop(&mut self, part: &mut Part<'_>) -> Result<(), Error> {
        self.may_send()?;
        self.collect();
        if self.phase().is_handshake() && !self.has(Flags::TLS) {
            // Nothing leaves unencrypted where TLS must begin.
            return Err(Error::from(Status::State));
        }
        if self.is_behind() {
            return Ok(());
        }
        let ids = &self.context.ids;
        let fits = |n| ids.has_room(self.id, n) && ids.total_has_room(n);
        if self.gathers() && part.left <= REST && fits(part.left as usize) {
            // A few bytes leave together with what was gathered: that is cheaper.
            let bytes = part.read_all()?;
            return Ok(self.send_any(&bytes)?);
        }
        let _ = self.send_gathered(SendFlags::MORE);
        self.may_send()?;
        if self.is_behind() {
            return Ok(());
        }
        let result = self.take_turn(part);
        if let (Err(_), Some(fd)) = (&result, self.fd()) {
            // What has left before does not wait for more of the file.
            sys::push(fd);
        }
        result
    }

    /// Returns whether earlier bytes wait, or this connection has had its turn. Then
    /// `on_drain` comes, also if it has come before.
    fn is_behind(&mut self) -> bool {
        let held = self.holds_plaintext();
        let Some(out) = &mut self.out else { return held };
        if out.len() > 0 {
            out.is_reported = false;
            return true;
        }
        held || out.ends_turn
    }

    /// Gives the kernel the bytes that it takes now, and queues some behind them.
    fn take_turn(&mut self, part: &mut Part<'_>) -> Result<(), Error> {
        // Room for what will be queued: other threads must not take it meanwhile.
        let room = part.left.min(PIECE).min(self.context.limits.send_limit as u64);
        self.ensure_room(room as usize)?;
        self.context.ids.hold(room as usize);
        let result = self.give_file(part, room).and_then(|is_full| {
            self.note_sent();
            let is_waiting = self.refused() > 0 || self.holds_plaintext();
            if part.left > 0 && !is_waiting {
                self.queue_rest(&part.read(REST.min(room))?, is_full);
            }
            Ok(())
        });
        self.context.ids.let_go(room as usize);
        result
    }

    /// Gives the kernel bytes for a turn, and queues `room` at most. Returns whether
    /// the kernel takes no more.
    fn give_file(&mut self, part: &mut Part<'_>, room: u64) -> Result<bool, Error> {
        let end = part.at + part.left.min(TURN);
        let mut is_read = self.has(Flags::TLS);
        while part.at < end {
            let most = end - part.at;
            if is_read {
                let piece = part.read(room.min(most))?;
                self.send_through(&piece, SendFlags::empty())?;
                if self.refused() > 0 || self.holds_plaintext() {
                    return Ok(true);
                }
                continue;
            }
            let Some(fd) = self.fd() else { return Err(Error::from(Status::Closed)) };
            match sys::sendfile(fd, part.file, part.at, most as usize) {
                Ok(0) => return Err(too_short()),
                Ok(n) => {
                    self.count_out(n);
                    part.pass(n);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                Err(e) if sys::is_of_file(&e) => is_read = true,
                Err(e) => return Err(self.fail_file(part, &e)),
            }
        }
        Ok(false)
    }

    /// Returns whose error this is: that of a file that cannot be read, or the
    /// connection's.
    fn fail_file(&mut self, part: &Part<'_>, error: &io::Error) -> Error {
        match sys::pread(part.file, &mut [0], part.at) {
            Err(e) => unreadable(&e),
            Ok(_) => Error::from(self.fail_send(error)),
        }
    }

    /// Queues the bytes behind those that the kernel has, so that `on_drain` comes.
    fn queue_rest(&mut self, rest: &[u8], is_full: bool) {
        if is_full {
            return self.enqueue(rest);
        }
        // The kernel takes more: this leaves when the callback is over.
        let _ = self.gather(rest);
        self.context.ids.note_seen(self.id);
        if let Some(out) = &mut self.out {
            out.ends_turn = true;
        }
    }
}

fn unreadable(error: &io::Error) -> Error {
    Error::from_os(Status::Io, "cannot read the file", error)
}

fn too_short() -> Error {
    Error::new(Status::Io, "the file ends before the bytes that were to be sent")
}
