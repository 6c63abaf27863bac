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

impl Conn {
    /// Sends `len` bytes of a file from `offset` on, and returns how many it has
    /// accepted. Where calls wait, these are all. On a loop they may be fewer: then
    /// `on_drain` comes.
    pub fn sendfile(&mut self, file: BorrowedFd<'_>, offset: u64, len: u64) -> Result<u64, Error> {
        self.check_usable()?;
        if offset.checked_add(len).is_none_or(|end| i64::try_from(end).is_err()) {
            return Err(Error::from(Status::Invalid));
        }
        match self.has(Flags::LOOP) {
            _ if len == 0 => Ok(self.send_any(&[]).map(|()| 0)?),
            true => self.sendfile_on_loop(file, offset, len),
            false => self.sendfile_waiting(file, offset, len),
        }
    }

    fn sendfile_waiting(
        &mut self,
        file: BorrowedFd<'_>,
        offset: u64,
        len: u64,
    ) -> Result<u64, Error> {
        let mut sent = 0;
        while sent < len {
            let piece = read_piece(file, offset + sent, PIECE.min(len - sent))?;
            if let Err(status) = self.send_any(&piece) {
                if sent > 0 && self.check_forced_end().is_err() {
                    // A part has left: no orderly end may follow.
                    self.set(Flags::ABORT);
                }
                return Err(Error::from(status));
            }
            sent += piece.len() as u64;
        }
        Ok(sent)
    }

    fn sendfile_on_loop(
        &mut self,
        file: BorrowedFd<'_>,
        offset: u64,
        len: u64,
    ) -> Result<u64, Error> {
        self.may_send()?;
        self.collect();
        if self.phase().is_handshake() && !self.has(Flags::TLS) {
            // Nothing leaves unencrypted where TLS must begin.
            return Err(Error::from(Status::State));
        }
        if self.is_behind() {
            return Ok(0);
        }
        let ids = &self.context.ids;
        let fits = ids.has_room(self.id, len as usize) && ids.total_has_room(len as usize);
        if self.gathers() && len <= REST && fits {
            // A few bytes leave together with what was gathered: that is cheaper.
            let bytes = read_exactly(file, offset, len as usize)?;
            return Ok(self.send_any(&bytes).map(|()| len)?);
        }
        let _ = self.send_gathered(SendFlags::MORE);
        self.may_send()?;
        if self.is_behind() {
            return Ok(0);
        }
        let result = self.give_file_in_room(file, offset, len);
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

    fn give_file_in_room(
        &mut self,
        file: BorrowedFd<'_>,
        offset: u64,
        len: u64,
    ) -> Result<u64, Error> {
        // Room for what will be queued: other threads must not take it meanwhile.
        let room = len.min(PIECE).min(self.context.limits.send_limit as u64);
        self.ensure_room(room as usize)?;
        self.context.ids.hold(room as usize);
        let result = self.give_file(file, offset, len, room);
        self.context.ids.let_go(room as usize);
        result
    }

    /// Gives the kernel the bytes that it takes now, and queues up to `room` more.
    fn give_file(
        &mut self,
        file: BorrowedFd<'_>,
        offset: u64,
        len: u64,
        room: u64,
    ) -> Result<u64, Error> {
        let turn = len.min(TURN);
        let (mut sent, mut is_full) = (0, false);
        let mut is_read = self.has(Flags::TLS);
        while sent < turn && !is_full {
            if is_read {
                let piece = read_piece(file, offset + sent, room.min(turn - sent))?;
                self.send_through(&piece, SendFlags::empty())?;
                sent += piece.len() as u64;
                is_full = self.refused() > 0 || self.holds_plaintext();
                continue;
            }
            let Some(fd) = self.fd() else { return Err(Error::from(Status::Closed)) };
            match sys::sendfile(fd, file, offset + sent, (turn - sent) as usize) {
                Ok(0) => return Err(too_short()),
                Ok(n) => {
                    self.count_out(n);
                    sent += n as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => is_full = true,
                Err(e) if sys::is_of_file(&e) => is_read = true,
                Err(e) => {
                    if let Err(e) = sys::pread(file, &mut [0], offset + sent) {
                        return Err(unreadable(&e));
                    }
                    return Err(Error::from(self.fail_send(&e)));
                }
            }
        }
        self.note_sent();
        if sent == len || self.refused() > 0 || self.holds_plaintext() {
            return Ok(sent);
        }
        let rest = read_piece(file, offset + sent, REST.min(room).min(len - sent))?;
        if is_full {
            self.enqueue(&rest);
        } else {
            // The kernel takes more: this leaves when the callback is over.
            let _ = self.gather(&rest);
            self.context.ids.note_seen(self.id);
            if let Some(out) = &mut self.out {
                out.ends_turn = true;
            }
        }
        Ok(sent + rest.len() as u64)
    }
}

/// Reads bytes of a file. It is an error where there are none.
fn read_piece(file: BorrowedFd<'_>, offset: u64, len: u64) -> Result<Vec<u8>, Error> {
    let mut piece = vec![0; len as usize];
    match sys::pread(file, &mut piece, offset) {
        Ok(0) => Err(too_short()),
        Ok(n) => {
            piece.truncate(n);
            Ok(piece)
        }
        Err(e) => Err(unreadable(&e)),
    }
}

fn unreadable(error: &io::Error) -> Error {
    Error::from_os(Status::Io, "cannot read the file", error)
}

/// Reads all of these bytes of a file.
fn read_exactly(file: BorrowedFd<'_>, offset: u64, len: usize) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::with_capacity(len);
    while bytes.len() < len {
        let at = offset + bytes.len() as u64;
        bytes.append(&mut read_piece(file, at, (len - bytes.len()) as u64)?);
    }
    Ok(bytes)
}

fn too_short() -> Error {
    Error::new(Status::Io, "the file ends before the bytes that were to be sent")
}
