//! Acts of every part of the server's side with a connection: receive, send, end it.

use super::story::{fate, Fate, Stage, Story, Told};
use super::wire::{Kind, HEADER};
use super::world::World;
use super::{Owned, Seconds};
use crate::api::{ConnId, Error, Server, Socket, Status};
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
        story.settle(name, fate, if fate == Fate::Accepted { "send" } else { "send failed" }, len);
        if let Err(error) = &result {
            story.note(error.status().name(), 0);
        }
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
        story.settle(
            name,
            fate,
            if fate == Fate::Accepted { "sendv" } else { "sendv failed" },
            len,
        );
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

    /// Ends it, or a side of it, in one of the ways that both modes have; whether it did.
    pub fn end(&self, server: &Server, socket: &mut Socket<'_>, story: &Arc<Story>) {
        let id = socket.id();
        match story.below(8) {
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
        socket.close();
    }

    pub fn half_close(&self, socket: &mut Socket<'_>, story: &Arc<Story>) {
        if story.may_send() {
            story.act("half-close");
            let _ = self
                .world
                .call("shutdown", self.bound(), story, || socket.shutdown(Shutdown::Write));
        }
    }
}

/// Sends a frame by id, from any thread; whether it was accepted.
pub fn send_by_id(
    world: &Arc<World>,
    server: &Server,
    id: ConnId,
    story: &Arc<Story>,
    len: usize,
    how: &'static str,
) -> bool {
    let (name, bytes) = story.frame(Kind::Data, len);
    let result = world.call("send by id", NOW, story, || server.send(id, &bytes));
    let fate = fate(&result, false);
    let refused = "send by id refused";
    story.settle(name, fate, if fate == Fate::Accepted { how } else { refused }, len);
    fate == Fate::Accepted
}

pub fn close_by_id(world: &Arc<World>, server: &Server, id: ConnId, story: &Arc<Story>) {
    story.closing("close by id", false);
    let _ = world.call("close by id", NOW, story, || server.close(id));
}

pub fn abort_by_id(world: &Arc<World>, server: &Server, id: ConnId, story: &Arc<Story>) {
    story.closing("abort by id", true);
    let _ = world.call("abort by id", NOW, story, || server.abort(id));
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
            story.with(|ledger| ledger.detached = true);
            let _ = owned.send((socket, story.clone()));
        }
        Err(error) => story.note(error.status().name(), 0),
    }
}
