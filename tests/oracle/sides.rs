//! Acts of every part of the server's side with a connection: receive, send, end it.

use super::by_id::{close_by_id, half_close_by_id, send_by_id};
use super::story::{fate, Fate, Stage, Story, Told};
use super::wire::{Kind, HEADER};
use super::world::World;
use super::{Owned, Seconds};
use crate::api::{Error, Server, Socket, Status};
use crate::starttls;
use crate::support::*;
use std::io::IoSlice;
use std::net::Shutdown;
use std::sync::Arc;
use std::time::Duration;

/// An act on a loop does not wait.
pub const NOW: Duration = ms(600);

/// One side of the server: who calls, and what may wait.
pub struct Side<'a> {
    pub world: &'a Arc<World>,
    pub times: &'a Seconds,
    /// Calls wait: on a worker and for an owner.
    pub waits: bool,
}

#[derive(Debug)]
pub enum Input {
    /// There may be more.
    More,
    Nothing,
    End,
    Failed(Error),
    /// TLS has begun.
    Secured,
}

impl Side<'_> {
    fn bound(&self) -> Duration {
        if self.waits {
            self.times.io
        } else {
            NOW
        }
    }

    /// Receives once.
    pub fn receive(
        &self,
        socket: &mut Socket<'_>,
        story: &Arc<Story>,
        room: usize,
    ) -> Result<Input, Error> {
        let mut buffer = vec![0; room];
        story.with(|ledger| ledger.held = 0);
        let result = self.world.call("recv", self.bound(), story, || socket.recv(&mut buffer));
        match result {
            Ok(0) => {
                story.told(Told::End);
                Ok(Input::End)
            }
            Ok(n) => self.received(socket, story, &buffer[..n]),
            Err(error) => match error.status() {
                Status::WouldBlock => {
                    story.note("nothing to receive", 0);
                    story.with(|ledger| ledger.skipped = false);
                    Ok(Input::Nothing)
                }
                // A deadline of our own, unless the connection is over.
                Status::Timeout if self.waits && !socket.is_closed() => {
                    story.note("recv timed out", 0);
                    self.world.count("recv timed out");
                    self.world.count("a deadline passes");
                    Ok(Input::Nothing)
                }
                status => {
                    story.told(Told::Error(status, error.os_code()));
                    Ok(Input::Failed(error))
                }
            },
        }
    }

    fn received(
        &self,
        socket: &mut Socket<'_>,
        story: &Arc<Story>,
        bytes: &[u8],
    ) -> Result<Input, Error> {
        let (stage, delivered) = story.with(|ledger| (ledger.stage, ledger.delivered));
        match stage {
            Stage::Clear(len) if delivered + bytes.len() as u64 >= len => {
                let (clear, ahead) = bytes.split_at((len - delivered) as usize);
                story.deliver(clear);
                self.begin_tls(socket, story, ahead)?;
                return Ok(Input::Secured);
            }
            Stage::Shaking => story.with(|ledger| ledger.stage = Stage::Settled),
            Stage::Clear(_) | Stage::Settled => {}
        }
        story.deliver(bytes);
        Ok(Input::More)
    }

    /// The client has sent its clear text.
    fn begin_tls(
        &self,
        socket: &mut Socket<'_>,
        story: &Arc<Story>,
        ahead: &[u8],
    ) -> Result<(), Error> {
        if story.is_cut_short() || !self.send_frame(socket, story, Kind::Go, 40) {
            // A message was cut short: nothing that follows it would make sense.
            story.refuse("no upgrade");
            return Err("a message was cut short".into());
        }
        story.act("starttls");
        story.with(|ledger| ledger.stage = Stage::Shaking);
        let bound = if self.waits { self.times.handshake } else { NOW };
        let result = self.world.call("starttls", bound, story, || starttls::begin(socket, ahead));
        story.with(|ledger| ledger.held = 0);
        if self.waits && result.is_ok() {
            story.with(|ledger| ledger.stage = Stage::Settled);
        }
        story.with(|ledger| ledger.secured = true);
        result
    }

    /// Sends a frame; whether it was accepted.
    pub fn send_frame(
        &self,
        socket: &mut Socket<'_>,
        story: &Arc<Story>,
        kind: Kind,
        len: usize,
    ) -> bool {
        let (name, bytes) = story.frame(kind, len);
        let waits = self.waits && !socket.is_closed();
        let result = self.world.call("send", self.bound(), story, || socket.send(&bytes));
        let fate = fate(&result, waits);
        let how = if fate == Fate::Accepted { "send" } else { "send failed" };
        story.settle(name, &[fate], how, bytes.len());
        if let Err(error) = &result {
            story.note(error.status().name(), 0);
        }
        self.hold(socket, story, fate, bytes.len());
        fate == Fate::Accepted
    }

    pub fn send(&self, socket: &mut Socket<'_>, story: &Arc<Story>, len: usize) -> bool {
        story.may_send() && self.send_frame(socket, story, Kind::Data, len)
    }

    /// The same in pieces.
    pub fn sendv(&self, socket: &mut Socket<'_>, story: &Arc<Story>, len: usize) {
        if !story.may_send() {
            return;
        }
        let (name, bytes) = story.frame(Kind::Data, len);
        let parts: Vec<_> = bytes.chunks(1 + len / 5).map(IoSlice::new).collect();
        let waits = self.waits && !socket.is_closed();
        let result = self.world.call("sendv", self.bound(), story, || socket.sendv(&parts));
        let fate = fate(&result, waits);
        let how = if fate == Fate::Accepted { "sendv" } else { "sendv failed" };
        story.settle(name, &[fate], how, bytes.len());
        self.hold(socket, story, fate, bytes.len());
    }

    /// The same out of a file. It is so short that it is accepted whole, or, while earlier bytes
    /// wait, not at all (Q10).
    pub fn sendfile(&self, socket: &mut Socket<'_>, story: &Arc<Story>, len: usize) {
        if !story.may_send() {
            return;
        }
        let (name, bytes) = story.frame(Kind::Data, len.min(16 << 10));
        let (file, len) = (file_of(&bytes), bytes.len() as u64);
        let waits = self.waits && !socket.is_closed();
        let send = || socket.sendfile(&file, BEFORE, len);
        let result = self.world.call("sendfile", self.bound(), story, send);
        let (fate, how) = match result {
            Ok(0) if !self.waits => (Fate::Refused, "sendfile: 0"),
            Ok(n) if n == len => (Fate::Accepted, "sendfile"),
            Ok(n) => {
                let what = format!("{n} of {len} bytes of a file");
                story.found("a short file is accepted whole", &what);
                (Fate::Unknown, "sendfile failed")
            }
            Err(error) => (fate(&Err(error), waits), "sendfile failed"),
        };
        story.settle(name, &[fate], how, bytes.len());
        self.hold(socket, story, fate, bytes.len());
    }

    /// Begins or ends a cork, or flushes.
    pub fn gather(&self, socket: &mut Socket<'_>, story: &Arc<Story>) {
        match story.below(4) {
            0 | 1 => self.cork(socket, story),
            2 => self.uncork(socket, story),
            _ => self.flush(socket, story),
        }
    }

    fn cork(&self, socket: &mut Socket<'_>, story: &Arc<Story>) {
        let result = self.world.call("cork", NOW, story, || socket.cork());
        story.answers("cork", &result, &[Status::Closed, Status::Detached]);
        if result.is_ok() {
            story.act("cork");
            story.with(|ledger| ledger.corks += u32::from(self.waits));
        }
    }

    /// GS8, GS9: The last uncork sends all.
    fn uncork(&self, socket: &mut Socket<'_>, story: &Arc<Story>) {
        let corks = story.with(|ledger| ledger.corks);
        let result = self.world.call("uncork", self.bound(), story, || socket.uncork());
        match (result.as_ref().map_or_else(Error::status, |()| Status::Ok), corks) {
            (Status::Closed | Status::Detached, _) => {}
            (found, 0) if self.waits => {
                if found != Status::State {
                    story.found("calls answer as promised", "an uncork without a cork");
                }
            }
            _ => {
                story.act("uncork");
                story.with(|ledger| ledger.corks = corks.saturating_sub(1));
                if corks <= 1 {
                    self.left(socket, story, &result);
                }
            }
        }
    }

    fn flush(&self, socket: &mut Socket<'_>, story: &Arc<Story>) {
        let result = self.world.call("flush", self.bound(), story, || socket.flush());
        if result.is_ok() {
            story.act("flush");
        }
        self.left(socket, story, &result);
    }

    /// GS9: Where the call waited, nothing is queued behind its success.
    fn left(&self, socket: &Socket<'_>, story: &Arc<Story>, result: &Result<(), Error>) {
        let mut allowed = vec![Status::Closed, Status::Detached];
        if self.waits {
            allowed.extend([Status::Timeout, Status::Reset, Status::Io]);
        }
        story.answers("flush", result, &allowed);
        let under = if result.is_ok() { 0 } else { usize::MAX };
        story.with(|ledger| (ledger.held, ledger.under) = (0, under));
        if let Err(error) = result {
            story.note(error.status().name(), 0);
        } else if self.waits && socket.queued() > 0 {
            story.found("a flush leaves nothing", "bytes are queued after it");
        }
    }

    /// GS3: What was sent under a cork is queued until there are 64 KiB. What is queued is
    /// never more than what was accepted and not read.
    fn hold(&self, socket: &Socket<'_>, story: &Arc<Story>, fate: Fate, len: usize) {
        let held = story.with(|ledger| {
            if ledger.corks > 0 {
                ledger.under = ledger.under.saturating_add(len);
            }
            let fits = ledger.under < 64 << 10;
            let holds = ledger.corks > 0 && fate == Fate::Accepted && fits;
            ledger.held = if holds { ledger.held + len } else { 0 };
            ledger.held
        });
        if socket.queued() < held {
            story.found("a cork gathers", "what was sent under it is not queued");
        }
        if story.queued_too_many(|| socket.queued()).is_some() {
            story.found_queued(socket.queued());
        }
    }

    /// A size as programs have them: mostly small.
    pub fn size(&self, story: &Story) -> usize {
        HEADER
            + match story.below(20) {
                0 => story.below(self.times.big),
                1..=3 => story.below(40_000),
                _ => story.below(2000),
            }
    }

    /// Ends it, or a side of it, in one of the ways that there are.
    pub fn end(&self, server: &Server, socket: &mut Socket<'_>, story: &Arc<Story>) {
        let id = socket.id();
        match story.below(10) {
            0 | 1 => self.close(socket, story),
            2 => {
                story.closing("abort", true);
                socket.abort();
            }
            3 | 4 => self.half_close(socket, story),
            5 => {
                story.refuse("shutdown of receiving");
                self.world.count("shutdown of receiving");
                let _ = socket.shutdown(Shutdown::Read);
            }
            6 => close_by_id(self.world, server, id, story),
            7 => half_close_by_id(self.world, server, id, story, story.below(3)),
            8 if !self.waits && story.is_settled() => {
                // The callback may go on to send directly; by id nothing is accepted any more.
                send_by_id(self.world, server, id, story, 100, "send by own id");
                half_close_by_id(self.world, server, id, story, 0);
                self.send(socket, story, 100);
                send_by_id(self.world, server, id, story, 100, "send by own id");
            }
            _ => {
                // The other side of a race: it is posted, and the callback goes on.
                self.send(socket, story, 100);
                close_by_id(self.world, server, id, story);
                self.send(socket, story, 100);
            }
        }
    }

    pub fn close(&self, socket: &mut Socket<'_>, story: &Arc<Story>) {
        story.closing("close", false);
        // What is under a cork leaves as a send does, and what is queued within the linger.
        let bound = if self.waits { self.times.io + self.times.linger } else { NOW };
        self.world.call("close", bound, story, || socket.close());
        // After a detach the borrowed object ends nothing.
        story.with(|ledger| ledger.sending_ended |= !ledger.was_detached);
    }

    pub fn half_close(&self, socket: &mut Socket<'_>, story: &Arc<Story>) {
        if story.may_send() {
            story.act("half-close");
            // What is under a cork leaves first, as a send does.
            let bound = if self.waits { 2 * self.times.io } else { NOW };
            let shutdown = || socket.shutdown(Shutdown::Write);
            if self.world.call("shutdown", bound, story, shutdown).is_ok() {
                story.with(|ledger| ledger.sending_ended = true);
            }
        }
    }
}

/// Takes a connection out, for an owner.
pub fn detach(
    server: &Server,
    socket: &mut Socket<'_>,
    story: &Arc<Story>,
    side: &Side<'_>,
    owned: &Owned,
) {
    if !story.is_settled() {
        return;
    }
    let result = side.world.call("detach", NOW, story, || server.detach(socket));
    match result {
        Ok(socket) => {
            story.act("detach");
            story.with(|ledger| (ledger.detached, ledger.was_detached) = (true, true));
            let _ = owned.send((socket, story.clone()));
        }
        Err(error) => story.note(error.status().name(), 0),
    }
}
