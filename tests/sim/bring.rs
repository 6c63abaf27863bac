//! Connections that the program brings: it connects, and gives the server sockets of its own.

use std::os::fd::{FromRawFd, OwnedFd};

use net_server::{Error, OwnedSocket, Server, Status};

use crate::dial::Remote;
use crate::kernel::port_of;
use crate::program::{lock, ms, note_status, on_story, Program, Tag};
use crate::world::{with, World, MILLI, SECOND};

/// The most that a program brings in an episode.
const MOST: usize = 40;

pub fn bring(server: &Server, program: &Program) {
    let drawn = with(|w| {
        if w.stop_at.is_some() || w.brought == MOST {
            return None;
        }
        w.brought += 1;
        let link = w.add_remote();
        let time = w.random.one_of(&[None, None, Some(200), Some(20_000)]);
        Some((link, time, w.random.below(5)))
    });
    let Some((link, time, way)) = drawn else { return };
    on_story(link, |story| story.is_brought = true);
    if way == 4 {
        return own(program, link);
    }
    let adopts = way < 2;
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

/// The program owns a socket that was never the server's: AD13.
fn own(program: &Program, link: u32) {
    // SAFETY: the descriptor is new, and nobody else's.
    let fd = unsafe { OwnedFd::from_raw_fd(with(|w| w.make_socket(link))) };
    let is_connected = with(|w| w.links[link as usize].is_connected);
    match OwnedSocket::from_fd(fd) {
        Ok(mut owned) => {
            owned.socket().set_user_data(Tag(link));
            on_story(link, |story| {
                (story.opened, story.is_detached, story.was_detached) = (true, true, true);
            });
            with(|w| w.report.count("owned sockets of a descriptor"));
            lock(&program.shared.owned).push((owned, link));
        }
        Err(failed) => {
            on_story(link, |story| story.connect_failed = true);
            if is_connected || failed.error.status() != Status::Invalid {
                let error = failed.error;
                with(|w| w.find(format!("link {link}: AD13: it cannot be owned: {error}")));
            }
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
