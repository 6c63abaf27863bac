//! The program's own descriptors, which the server watches for it: counters (eventfd(2)).

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use net_server::{Error, Interest, Server, Status, TaskId};

use crate::files::FIRST;
use crate::program::{lock, note_status, Program};
use crate::world::{with, Event, World, MILLI, SECOND};

/// What the program has of one.
pub struct Watched {
    /// `None` where it has closed it.
    pub fd: Option<OwnedFd>,
    pub id: TaskId,
    pub number: usize,
}

/// What is known of one.
#[derive(Clone, Copy)]
pub struct Known {
    fd: RawFd,
    is_open: bool,
    is_watched: bool,
    /// Since when it has seemed to be forgotten.
    since: Option<u64>,
}

impl World {
    pub fn on_signal(&mut self, number: usize) {
        let known = self.watched[number];
        if known.is_open {
            let _ = self.write(known.fd, &1_u64.to_ne_bytes());
            let time = self.random.one_of(&[MILLI / 10, 30 * MILLI, 4 * SECOND]);
            let time = self.random.below(time);
            if self.stop_at.is_none() && !self.random.once_in(20) {
                self.after(time, Event::Signal { number: number as u32 });
            }
        }
    }

    /// WT1.
    pub fn look_at_watches(&mut self) {
        let (now, patience) = (self.now, SECOND + self.longest_pause);
        for number in 0..self.watched.len() {
            let known = self.watched[number];
            let waits = known.is_open && known.is_watched && self.files.count_of(known.fd) > 0;
            let since = if waits { known.since.or(Some(now)) } else { None };
            self.watched[number].since = since;
            if since.is_some_and(|since| now - since > patience) && self.stop_at.is_none() {
                self.find(format!("watch {number}: WT1: it is not called"));
            }
        }
    }
}

pub fn add(program: &Program, server: &Server) {
    if with(|w| w.watched.len() >= 12 || w.stop_at.is_some()) {
        return;
    }
    // SAFETY: the descriptor is new, and nobody else's.
    let fd =
        unsafe { OwnedFd::from_raw_fd(libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)) };
    let raw = fd.as_raw_fd();
    let number = with(|w| {
        let (is_open, is_watched, since) = (raw >= FIRST, true, None);
        w.watched.push(Known { fd: raw, is_open, is_watched, since });
        w.on_signal(w.watched.len() - 1);
        w.watched.len() - 1
    });
    let shared = program.shared.clone();
    let call = move |server: &Server, id: TaskId, fd: RawFd, found: Interest| {
        let (count, choice) = with(|w| {
            w.step(70, number as u64, u64::from(found.read));
            w.report.count("watch");
            let (known, count) = (w.watched[number], w.files.count_of(fd));
            w.watched[number].since = None;
            let text = match () {
                () if !known.is_watched => "WT5: a call after its end",
                () if !known.is_open => "WT6: a call of a descriptor that is closed",
                () if !found.read || count == 0 => "WT1: a call for nothing",
                () => "",
            };
            if !text.is_empty() {
                w.find(format!("watch {number}: {text}"));
            }
            (count, w.random.below(24))
        });
        if choice > 4 && count > 0 {
            let mut room = [0_u8; 8];
            // SAFETY: the room is valid.
            unsafe { libc::read(fd, room.as_mut_ptr().cast(), 8) };
        }
        match choice {
            0 => {
                with(|w| w.watched[number].is_watched = false);
                lock(&shared.watches).retain(|watched| {
                    watched.number != number || {
                        with(|w| w.watched[number].is_open = false);
                        false
                    }
                });
                let result = server.unwatch(id);
                note_status(&result);
                if result.is_err() {
                    with(|w| w.find(format!("watch {number}: WT4: it cannot be ended")));
                }
            }
            5 => return Err(Error::from(Status::Invalid)),
            6 => std::panic::panic_any("a panic of the program"),
            7 => note_status(&server.change_watch(id, Interest::READ)),
            _ => {}
        }
        Ok(())
    };
    match server.watch(0, &fd, Interest::READ, call) {
        Ok(id) => lock(&program.shared.watches).push(Watched { fd: Some(fd), id, number }),
        Err(error) => {
            with(|w| {
                let place = &mut w.watched[number];
                (place.is_open, place.is_watched) = (false, false);
                if error.status() != Status::State && w.rates.no_memory == 0 {
                    w.find(format!("watch {number}: WT3: it cannot be made: {error}"));
                }
            });
            note_status(&Err(error));
        }
    }
}

/// Ends one, or closes its descriptor before that.
pub fn end_one(program: &Program, server: &Server) {
    let watched = lock(&program.shared.watches).pop();
    let Some(mut watched) = watched else { return };
    let number = watched.number;
    if watched.fd.is_some() && with(|w| w.random.once_in(2)) {
        with(|w| w.watched[number].is_open = false);
        drop(watched.fd.take());
        lock(&program.shared.watches).insert(0, watched);
        return;
    }
    with(|w| {
        w.watched[number].is_watched = false;
        w.watched[number].is_open = false;
    });
    let result = server.unwatch(watched.id);
    note_status(&result);
    if result.is_err() && with(|w| w.stop_at.is_none()) {
        with(|w| w.find(format!("watch {number}: WT4: it cannot be ended")));
    }
}
