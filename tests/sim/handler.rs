//! The program's callbacks, with what they return counted.

use net_server::{CloseReason, Error, Handler, Server, Socket};

use crate::program::{link, Program};
use crate::world::{with, World};

type Returned = Result<(), Error>;

fn done(callback: &'static str, result: Returned) -> Returned {
    let name = match &result {
        Ok(()) => "ok",
        Err(error) => error.status().name(),
    };
    with(|w| *w.report.returns.entry((callback, name)).or_default() += 1);
    result
}

/// What a connection is doing when it ends.
fn phase(w: &World, link: u32, queued: usize) -> &'static str {
    let story = &w.stories[link as usize];
    match () {
        () if w.stop_at.is_some() => "in a stop",
        () if story.asked_abort => "aborted",
        () if story.failed => "failed",
        () if story.asked_close => "closed",
        () if story.is_paused => "paused",
        () if story.shut_write => "half-closed",
        () if story.shut_read => "not receiving",
        () if story.saw_end => "after the end",
        () if story.saw_error => "after an error",
        () if queued > 0 => "with a queue",
        () if story.was_detached => "attached",
        () => "open",
    }
}

impl Handler for Program {
    fn on_start(&self, server: &Server) -> Returned {
        done("on_start", self.on_start(server))
    }

    fn on_stop(&self, server: &Server) {
        self.on_stop(server);
    }

    fn on_quiesce(&self, _: &Server) {
        self.on_quiesce();
    }

    fn on_shutdown(&self, server: &Server, socket: &mut Socket<'_>) -> Result<bool, Error> {
        let result = self.on_shutdown(server, socket);
        let _ = done("on_shutdown", result.as_ref().map(drop).map_err(|e| Error::from(e.status())));
        result
    }

    fn on_open(&self, server: &Server, socket: &mut Socket<'_>) -> Returned {
        done("on_open", self.on_open(server, socket))
    }

    fn handle(&self, server: &Server, socket: &mut Socket<'_>) -> Returned {
        done("handle", self.handle(server, socket))
    }

    fn on_close(&self, server: &Server, socket: &mut Socket<'_>, reason: CloseReason) {
        let (link, queued) = (link(socket), socket.queued());
        with(|w| {
            let phase = phase(w, link, queued);
            *w.report.ends.entry((phase, format!("{reason:?}"))).or_default() += 1;
        });
        self.on_close(server, socket, reason);
    }

    fn on_drain(&self, server: &Server, socket: &mut Socket<'_>) -> Returned {
        done("on_drain", self.on_drain(server, socket))
    }

    fn on_timeout(&self, server: &Server, socket: &mut Socket<'_>) -> Returned {
        done("on_timeout", self.on_timeout(server, socket))
    }

    fn on_wake(&self, server: &Server, socket: &mut Socket<'_>) -> Returned {
        done("on_wake", self.on_wake(server, socket))
    }

    fn on_exception(
        &self,
        server: &Server,
        socket: Option<&mut Socket<'_>>,
        error: &Error,
    ) -> Returned {
        done("on_exception", self.on_exception(server, socket, error))
    }
}
