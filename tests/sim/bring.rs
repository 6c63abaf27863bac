//! Connections that the program brings: it connects, and gives the server sockets of its own.

use std::os::fd::{FromRawFd, OwnedFd};

use net_server::{Error, Server, Status};

use crate::dial::Remote;
use crate::kernel::port_of;
use crate::program::{ms, note_status, on_story, Tag};
use crate::world::{with, World, MILLI, SECOND};

/// The most that a program brings in an episode.
const MOST: usize = 40;

pub fn bring(server: &Server) {
    let drawn = with(|w| {
        if w.stop_at.is_some() || w.brought == MOST {
            return None;
        }
        w.brought += 1;
        let link = w.add_remote();
        let time = w.random.one_of(&[None, None, Some(200), Some(20_000)]);
        Some((link, time, w.random.once_in(2)))
    });
    let Some((link, time, adopts)) = drawn else { return };
    on_story(link, |story| story.is_brought = true);
    let result = if adopts {
        // SAFETY: the descriptor is new, and nobody else's.
        let fd = unsafe { OwnedFd::from_raw_fd(with(|w| w.make_socket(link))) };
        server.adopt(fd, Tag(link)).map_err(|failed| failed.error)
    } else {
        let since = with(|w| w.now);
        on_story(link, |story| story.must_connect_by = time.map(|time| since + time * MILLI));
        server.connect(&format!("127.0.0.1:{}", port_of(link)), time.map(ms), Tag(link))
    };
    with(|w| w.note(|| format!("  link {link}: adopts {adopts}: {result:?}")));
    match result {
        Ok(id) => on_story(link, |story| story.id = Some(id)),
        Err(error) => {
            note_status(&Err(Error::from(error.status())));
            on_story(link, |story| story.connect_failed = true);
            with(|w| {
                let unreachable = w.links[link as usize].remote == Remote::Unreachable;
                let is_right = match error.status() {
                    Status::Connect => unreachable,
                    Status::State => w.stop_at.is_some(),
                    Status::Io | Status::NoMemory => w.rates.no_memory > 0,
                    _ => false,
                };
                if !is_right {
                    w.find(format!("link {link}: AD12: it cannot be brought: {error}"));
                }
            });
        }
    }
}

/// The exception handler hears that a connect failed.
pub fn failed(link: u32) {
    with(|w| {
        let now = w.now;
        let place = &w.links[link as usize];
        let is_dead = place.sides[0].is_dead;
        let story = &mut w.stories[link as usize];
        let is_late = story.must_connect_by.is_some_and(|time| now >= time);
        let text = match () {
            () if !story.is_brought => "AD8: nobody has connected",
            () if std::mem::replace(&mut story.connect_failed, true) => "AD8: it was told before",
            () if story.opened => "AD8: on_open has run",
            // The kernel's memory may be missing for the next attempt.
            () if !is_dead && !is_late && w.rates.no_memory == 0 => "AD8: it has not failed",
            () => return,
        };
        w.find(format!("link {link}: {text}"));
    });
}

/// What a brought connection still owes when all is over.
pub fn at_end(w: &mut World, link: u32) {
    let stop_at = w.stop_at.unwrap_or(w.now);
    let patience = SECOND + w.longest_pause;
    let decided = w.links[link as usize].decided_at;
    let story = &w.stories[link as usize];
    let was_asked = story.asked_close || story.asked_abort;
    let was_told = story.opened || story.connect_failed || was_asked;
    let due = decided.into_iter().chain(story.must_connect_by).min();
    if due.is_some_and(|due| due + patience < stop_at) && !was_told {
        w.find(format!("link {link}: AD7, AD8: neither on_open nor the failure was told"));
    }
}
