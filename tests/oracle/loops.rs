//! Handlers of a non-blocking server.

use super::by_id::{ask_queued, send_by_id};
use super::sides::{detach, Input, Side};
use super::story::{story_of, Stage, Story};
use super::world::World;
use super::{headers, limits, opened, quiesces, Owned, Seconds};
use crate::api::{Error, Hooks, Server, Socket};
use crate::support::*;
use std::sync::Arc;
use std::time::Duration;

/// A timer that never fires while the run lasts.
pub const LONG: Duration = Duration::from_secs(3600);

pub fn hooks(world: &Arc<World>, times: &Seconds, owned: Owned) -> Hooks {
    let this = Arc::new(Loops { world: world.clone(), times: *times, owned });
    let [handling, opening, closing] = [(); 3].map(|()| this.clone());
    let [excepting, waking, timing, draining] = [(); 4].map(|()| this.clone());
    Hooks::new(move |server: &Server, socket| handling.handle(server, socket))
        .on_open(move |server, socket| opening.open(server, socket))
        .on_close(move |_, socket, reason| {
            let Some(story) = story_of(socket) else { return };
            story.called("on_close");
            headers::check(socket, &story);
            opening_side(&closing).send(socket, &story, 50);
            story.closed(reason, socket.os_error());
        })
        .on_exception(move |server, socket, error| excepting.exception(server, socket, error))
        .on_wake(move |server, socket| waking.wake(server, socket))
        .on_timeout(move |server, socket| timing.timeout(server, socket))
        .on_drain(move |_, socket| draining.drain(socket))
}

fn opening_side(loops: &Loops) -> Side<'_> {
    loops.side()
}

struct Loops {
    world: Arc<World>,
    times: Seconds,
    owned: Owned,
}

impl Loops {
    fn side(&self) -> Side<'_> {
        Side { world: &self.world, times: &self.times, waits: false }
    }

    fn open(&self, server: &Server, socket: &mut Socket<'_>) -> Result<(), Error> {
        let Some(story) = opened(&self.world, socket) else { return Ok(()) };
        if story.is_settled() && !story.quiet {
            self.world.opened(socket.id(), &story);
        }
        match story.below(40) {
            0 => self.side().end(server, socket, &story),
            1 => return Err("refused by on_open".into()),
            2..=9 => drop(self.side().send(socket, &story, 200)),
            _ => {}
        }
        Ok(())
    }

    fn handle(&self, server: &Server, socket: &mut Socket<'_>) -> Result<(), Error> {
        let Some(story) = story_of(socket) else { return limits::hold(&self.world, socket) };
        story.called("handler");
        headers::check(socket, &story);
        quiesces::in_callback(&self.world, server, &story);
        // Called again after STARTTLS: it is through.
        let shaken = story.with(|ledger| {
            let shaken = ledger.stage == Stage::Shaking;
            if shaken {
                ledger.stage = Stage::Settled;
            }
            shaken
        });
        if shaken && !story.quiet {
            self.world.opened(socket.id(), &story);
        }
        match self.input(socket, &story)? {
            Input::End => self.ended(server, socket, &story),
            Input::Failed(error) if story.below(2) == 0 => return Err(error),
            Input::Failed(_) | Input::Secured => {}
            Input::More | Input::Nothing => {
                for _ in 0..story.below(4) {
                    self.act(server, socket, &story)?;
                }
            }
        }
        Ok(())
    }

    fn input(&self, socket: &mut Socket<'_>, story: &Arc<Story>) -> Result<Input, Error> {
        let (room, times) = match story.below(20) {
            0 if story.is_settled() => {
                story.note("reads nothing", 0);
                story.with(|ledger| ledger.skipped = true);
                return Ok(Input::Nothing);
            }
            1..=5 => (1 + story.below(3000), 1 + story.below(3)),
            _ => (1 + story.below(20_000), 1000),
        };
        let mut last = Input::Nothing;
        for _ in 0..times {
            last = self.side().receive(socket, story, room)?;
            if !matches!(last, Input::More) {
                return Ok(last);
            }
            if story.below(10) == 0 {
                self.side().send(socket, story, 1000);
            }
        }
        Ok(last)
    }

    /// The client has said all.
    fn ended(&self, server: &Server, socket: &mut Socket<'_>, story: &Arc<Story>) {
        let side = self.side();
        for _ in 0..story.below(4) {
            self.say(server, socket, story);
        }
        match story.below(10) {
            0..=6 => side.close(socket, story),
            7 => side.end(server, socket, story),
            8 => {
                side.half_close(socket, story);
                let _ = socket.set_timer(Some(ms(20)));
            }
            // The deadlines end it.
            _ => story.note("is left to its deadlines", 0),
        }
    }

    /// Sends directly or by id, or first one and then the other.
    fn say(&self, server: &Server, socket: &mut Socket<'_>, story: &Arc<Story>) {
        let side = self.side();
        let by_id = |len| {
            if story.is_settled() {
                send_by_id(&self.world, server, socket_id(socket), story, len, "send by own id");
            }
        };
        match story.below(7) {
            0..=1 => by_id(side.size(story)),
            2 => {
                by_id(100);
                side.send(socket, story, 100);
            }
            3 => side.sendv(socket, story, side.size(story)),
            4 => side.sendfile(socket, story, side.size(story)),
            _ => drop(side.send(socket, story, side.size(story))),
        }
    }

    fn act(
        &self,
        server: &Server,
        socket: &mut Socket<'_>,
        story: &Arc<Story>,
    ) -> Result<(), Error> {
        match story.below(60) {
            0..=29 => self.say(server, socket, story),
            30..=32 => {
                story.act("pause");
                socket.pause()?;
                socket.set_timer(Some(ms(1 + story.below(60) as u64)))?;
            }
            33..=36 => {
                story.act("timer");
                socket.set_timer(Some(ms(1 + story.below(80) as u64)))?;
            }
            37..=41 => socket.set_timer(Some(LONG))?,
            42..=44 => self.side().end(server, socket, story),
            45..=48 => detach(server, socket, story, &self.side(), &self.owned),
            49..=50 => drop(server.wake(socket.id())),
            51 => return Err("a failure".into()),
            52..=54 => self.side().gather(socket, story),
            55..=56 => ask_queued(&self.world, server, socket.id(), story),
            _ => {}
        }
        Ok(())
    }

    fn exception(
        &self,
        server: &Server,
        socket: Option<&mut Socket<'_>>,
        error: &Error,
    ) -> Result<(), Error> {
        self.world.exception(error);
        let Some(socket) = socket else { return Ok(()) };
        // A failed handshake is reported before there is any story: nothing may leave in the clear.
        let story = story_of(socket).or_else(|| self.world.of_peer(socket.peer()?));
        let Some(story) = story else { return Ok(()) };
        story.called("on_exception");
        story.note(error.status().name(), i64::from(error.os_code()));
        headers::is_unheard(&story, error.status());
        match story.below(4) {
            0 => self.side().close(socket, &story),
            1 => {
                self.side().send(socket, &story, 80);
                self.side().close(socket, &story);
            }
            2 => detach(server, socket, &story, &self.side(), &self.owned),
            _ => {}
        }
        Ok(())
    }

    fn wake(&self, server: &Server, socket: &mut Socket<'_>) {
        let Some(story) = story_of(socket) else { return };
        story.called("on_wake");
        self.world.count("on_wake");
        let _ = socket.resume();
        match story.below(12) {
            0 => self.side().end(server, socket, &story),
            1..=5 => self.say(server, socket, &story),
            6 => detach(server, socket, &story, &self.side(), &self.owned),
            _ => {}
        }
    }

    fn timeout(&self, server: &Server, socket: &mut Socket<'_>) {
        let Some(story) = story_of(socket) else { return };
        story.called("on_timeout");
        self.world.count("on_timeout");
        let _ = socket.resume();
        if story.with(|ledger| ledger.told.is_some()) {
            return self.side().close(socket, &story);
        }
        match story.below(12) {
            0 => self.side().end(server, socket, &story),
            1..=5 => self.say(server, socket, &story),
            6 => drop(socket.set_timer(Some(ms(30)))),
            _ => {}
        }
    }

    fn drain(&self, socket: &mut Socket<'_>) {
        let Some(story) = story_of(socket) else { return };
        story.called("on_drain");
        self.world.count("on_drain");
        if story.below(10) == 0 {
            self.side().send(socket, &story, 500);
        }
    }
}

fn socket_id(socket: &Socket<'_>) -> crate::api::ConnId {
    socket.id()
}
