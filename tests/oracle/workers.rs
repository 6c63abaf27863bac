//! Handlers of a blocking server.

use super::by_id::abort_by_id;
use super::sides::{Input, Side};
use super::story::{story_of, Story};
use super::world::World;
use super::{headers, limits, opened, quiesces, Seconds};
use crate::api::{Error, Hooks, Server, Socket, Status};
use crate::support::*;
use std::sync::Arc;
use std::time::Duration;

/// How long a connection waits for a worker.
pub const PATIENT: Duration = ms(4 * 200);

pub fn hooks(world: &Arc<World>, times: &Seconds) -> Hooks {
    let this = Arc::new(Workers { world: world.clone(), times: *times });
    let [handling, opening, closing, excepting] = [(); 4].map(|()| this.clone());
    Hooks::new(move |server: &Server, socket| handling.serve(server, socket))
        .on_open(move |server, socket| opening.open(server, socket))
        .on_close(move |_, socket, reason| {
            let Some(story) = story_of(socket) else { return };
            story.called("on_close");
            headers::check(socket, &story);
            closing.side().send(socket, &story, 50);
            story.closed(reason, socket.os_error());
        })
        .on_exception(move |_, socket, error| excepting.exception(socket, error))
}

struct Workers {
    world: Arc<World>,
    times: Seconds,
}

impl Workers {
    fn side(&self) -> Side<'_> {
        Side { world: &self.world, times: &self.times, waits: true }
    }

    fn open(&self, server: &Server, socket: &mut Socket<'_>) -> Result<(), Error> {
        let Some(story) = opened(&self.world, socket) else { return Ok(()) };
        self.world.opened(socket.id(), &story);
        match story.below(40) {
            0 => self.side().end(server, socket, &story),
            1 => return Err("refused by on_open".into()),
            2..=9 => drop(self.side().send(socket, &story, 200)),
            _ => {}
        }
        Ok(())
    }

    fn serve(&self, server: &Server, socket: &mut Socket<'_>) -> Result<(), Error> {
        let Some(story) = story_of(socket) else { return limits::hold(&self.world, socket) };
        story.called("handler");
        headers::check(socket, &story);
        quiesces::in_callback(&self.world, server, &story);
        let side = self.side();
        for _ in 0..200 {
            if socket.is_closed() {
                break;
            }
            match side.receive(socket, &story, 1 + story.below(20_000))? {
                Input::End => {
                    self.say(socket, &story);
                    break;
                }
                Input::Failed(error) if story.below(2) == 0 => return Err(error),
                Input::Failed(_) => break,
                Input::Nothing if story.below(4) == 0 => break,
                Input::More | Input::Nothing | Input::Secured => {
                    self.act(server, socket, &story)?
                }
            }
        }
        // The handler does not want the unread input.
        if story.with(|ledger| ledger.told.is_none()) {
            story.refuse("the handler returns");
        }
        story.returns();
        Ok(())
    }

    fn say(&self, socket: &mut Socket<'_>, story: &Arc<Story>) {
        for _ in 0..story.below(4) {
            match story.below(5) {
                0 => self.side().sendv(socket, story, self.side().size(story)),
                1 => self.side().sendfile(socket, story, self.side().size(story)),
                _ => drop(self.side().send(socket, story, self.side().size(story))),
            }
        }
    }

    fn act(
        &self,
        server: &Server,
        socket: &mut Socket<'_>,
        story: &Arc<Story>,
    ) -> Result<(), Error> {
        match story.below(40) {
            0..=19 => self.say(socket, story),
            20..=21 => self.side().end(server, socket, story),
            22 => {
                story.refuse("a failure");
                return Err("a failure".into());
            }
            23 => abort_by_id(&self.world, server, socket.id(), story),
            24 => {
                story.act("set_io_timeout");
                socket.set_io_timeout(Some(ms(20 + story.below(200) as u64)))?;
            }
            25..=30 => self.side().gather(socket, story),
            31..=33 => let_pass(ms(story.below(20) as u64)),
            _ => {}
        }
        Ok(())
    }

    fn exception(&self, socket: Option<&mut Socket<'_>>, error: &Error) -> Result<(), Error> {
        self.world.exception(error);
        let Some(socket) = socket else { return Ok(()) };
        let story = story_of(socket).or_else(|| self.world.of_peer(socket.peer()?));
        let Some(story) = story else { return Ok(()) };
        story.called("on_exception");
        story.note(error.status().name(), i64::from(error.os_code()));
        story.refuse("an exception");
        headers::is_unheard(&story, error.status());
        // W12: It has waited for its time, if nobody else has taken its place.
        let waited = story.with(|ledger| ledger.begun.elapsed());
        let roomy = self.world.roomy.load(std::sync::atomic::Ordering::SeqCst);
        let early = error.status() == Status::Rejected && roomy && waited < PATIENT;
        if early && !self.world.is_stopping() {
            story.found("who waits for a place gets it", "it is refused before its time");
        }
        // To one that is refused too, and to one whose handshake failed: nothing in the clear.
        if story.below(2) == 0 {
            self.side().send(socket, &story, 80);
        }
        Ok(())
    }
}
