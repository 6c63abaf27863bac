//! What the program does to its connections, in callbacks and between the turns.

use std::net::Shutdown;

use net_server::{Error, OwnedSocket, Server, Socket, Status};

use crate::program::{lock, ms, note_status, on_story, received, send, send_by_id, Program};
use crate::sendfile::send_file;
use crate::story;
use crate::wire::Upgrade;
use crate::world::{with, World, MILLI};

pub fn close(socket: &mut Socket<'_>, link: u32) {
    on_story(link, |story| story.asked_close = true);
    socket.close();
}

pub fn set_timer(socket: &mut Socket<'_>, link: u32, most: u64) {
    let millis = with(|w| w.random.below(most) + 1);
    let before = with(|w| w.now);
    let result = socket.set_timer(Some(ms(millis)));
    note_status(&result);
    if result.is_ok() {
        with(|w| {
            let late = (100 + millis / 100) * MILLI;
            let due = (before + millis * MILLI, w.now + millis * MILLI + late);
            w.stories[link as usize].timer = Some(due);
        });
    }
}

fn pause(socket: &mut Socket<'_>, link: u32) {
    let result = socket.pause();
    note_status(&result);
    if result.is_ok() {
        on_story(link, |story| story.is_paused = true);
        set_timer(socket, link, 3_000);
    }
}

fn detach(program: &Program, server: &Server, socket: &mut Socket<'_>, link: u32) {
    // Outside of the server it would go on in the clear.
    if with(|w| w.upgrade(link) != Upgrade::None) {
        return;
    }
    let result = server.detach(socket);
    match result {
        Ok(owned) => {
            on_story(link, |story| {
                (story.is_detached, story.was_detached) = (true, true);
                (story.is_paused, story.timer) = (false, None);
            });
            if with(|w| w.random.once_in(3)) {
                attach(program, server, owned, link);
            } else {
                lock(&program.shared.owned).push((owned, link));
            }
        }
        Err(error) => note_status(&Err(error)),
    }
}

pub fn attach(program: &Program, server: &Server, owned: OwnedSocket, link: u32) {
    match server.attach(owned) {
        Ok(id) => {
            let has_ended = on_story(link, |story| {
                story.is_detached = false;
                story.id = Some(id);
                // It may stand before an end that was told already.
                (story.took_elsewhere, story.left_at) = (true, None);
                story.saw_end || story.saw_error || story.shut_read
            });
            if has_ended {
                on_story(link, |story| story.asked_close = true);
                note_status(&server.close(id));
            }
        }
        Err(failed) => {
            note_status(&Err(failed.error));
            lock(&program.shared.owned).push((failed.socket, link));
        }
    }
}

/// Ends an act, also where it panics.
struct InAct;

impl Drop for InAct {
    fn drop(&mut self) {
        with(World::end_act);
    }
}

/// Does an act, unless the episode leaves it out.
pub fn one<R: Default>(body: impl FnOnce() -> R) -> R {
    if !with(World::begin_act) {
        return R::default();
    }
    let _act = InAct;
    body()
}

/// The acts by their numbers.
const NAMES: [&str; 25] = [
    "close",
    "abort",
    "shutdown(Write)",
    "shutdown(Read)",
    "pause",
    "pause",
    "set_timer",
    "wake",
    "detach",
    "detach",
    "detach",
    "send, send, flush",
    "post",
    "add_timer",
    "an error",
    "a panic",
    "close by id",
    "abort by id",
    "send by id",
    "send by id",
    "shutdown(Write) by id",
    "request_stop or send",
    "connect or adopt",
    "watch",
    "quiesce or unwatch",
];

/// Something that few programs do, in a callback of the connection.
pub fn act(
    program: &Program,
    server: &Server,
    socket: &mut Socket<'_>,
    link: u32,
) -> Result<(), Error> {
    let mut result = Ok(());
    one(|| result = do_act(program, server, socket, link));
    result
}

fn do_act(
    program: &Program,
    server: &Server,
    socket: &mut Socket<'_>,
    link: u32,
) -> Result<(), Error> {
    let id = socket.id();
    let kind = with(|w| w.random.below(25));
    with(|w| w.say(|| format!("  link {link}: {}", NAMES[kind as usize])));
    match kind {
        0 => close(socket, link),
        1 => {
            on_story(link, |story| story.asked_abort = true);
            socket.abort();
        }
        2 => {
            on_story(link, |story| story.shut_write = true);
            note_status(&socket.shutdown(Shutdown::Write));
        }
        3 => {
            on_story(link, |story| story.shut_read = true);
            note_status(&socket.shutdown(Shutdown::Read));
            set_timer(socket, link, 1_000);
        }
        4 | 5 => pause(socket, link),
        6 => set_timer(socket, link, 2_000),
        7 => {
            let result = server.wake(id);
            note_status(&result);
            on_story(link, |story| story.asked_wake |= result.is_ok());
        }
        8..11 => detach(program, server, socket, link),
        11 => {
            send(server, socket, link, 10);
            send(server, socket, link, 20_000);
            note_status(&socket.flush());
        }
        12 => {
            let count = with(|w| w.random.below(5_000)) as usize;
            let result = server.post(0, move |server| {
                send_by_id(server, link, count);
                Ok(())
            });
            note_status(&result);
        }
        13 => add_timer(server, link),
        14 => {
            on_story(link, |story| story.failed = true);
            return Err(Error::from(Status::Invalid));
        }
        15 => {
            on_story(link, |story| story.failed = true);
            std::panic::panic_any("a panic of the program");
        }
        16 => {
            on_story(link, |story| story.asked_close = true);
            note_status(&server.close(id));
        }
        17 => {
            on_story(link, |story| story.asked_abort = true);
            note_status(&server.abort(id));
        }
        18 | 19 => {
            let other = with(|w| {
                let all = w.stories.len() as u64;
                w.random.below(all) as u32
            });
            let count = with(|w| w.random.below(30_000)) as usize;
            send_by_id(server, other, count);
        }
        23 => crate::watches::add(program, server),
        24 if with(|w| w.random.once_in(30)) => crate::quiesce::request(server),
        24 => crate::watches::end_one(program, server),
        22 => crate::bring::bring(server, program),
        20 => {
            on_story(link, |story| story.shut_write = true);
            note_status(&server.shutdown(id, Shutdown::Write));
        }
        _ => {
            if with(|w| w.random.once_in(8)) {
                with(|w| w.stop_at = w.stop_at.or(Some(w.now)));
                server.request_stop();
            } else {
                let size = with(|w| w.random.one_of(&[100_000, 3_000_000]));
                send(server, socket, link, size);
            }
        }
    }
    Ok(())
}

/// What a timer's closure owns: whether it has expired.
struct Goes(bool);

impl Goes {
    fn first_time(&mut self) -> u32 {
        u32::from(!std::mem::replace(&mut self.0, true))
    }
}

impl Drop for Goes {
    fn drop(&mut self) {
        if self.0 {
            with(|w| w.expired -= 1);
        }
    }
}

/// A timer of the program's, which ends or feeds the connection.
fn add_timer(server: &Server, link: u32) {
    let (millis, kind) = with(|w| (w.random.below(500), w.random.below(3)));
    let due = with(|w| w.now) + millis * MILLI;
    let mut goes = Goes(false);
    let result = server.add_timer(0, ms(millis), None, move |server, _| {
        with(|w| {
            w.expired += goes.first_time();
            let latest = due + (101 + millis / 100) * MILLI + w.longest_pause;
            let now = w.now;
            w.step(60, link.into(), kind);
            if now < due || now > latest {
                w.find(format!("WT7: a timer of {millis} ms at {now} ns, due at {due} ns"));
            }
        });
        let id = on_story(link, |story| story.id);
        match (kind, id) {
            (0, Some(id)) => {
                let result = server.close(id);
                on_story(link, |story| story.asked_close |= result.is_ok());
                note_status(&result);
            }
            _ => send_by_id(server, link, 700),
        }
        Ok(())
    });
    note_status(&result.map(drop));
}

/// What the program does with a socket that it owns. Returns it, unless it is gone.
pub fn own(program: &Program, server: &Server, mut owned: OwnedSocket, link: u32) {
    match with(|w| w.random.below(6)) {
        0 | 1 => return attach(program, server, owned, link),
        2 => {
            on_story(link, |story| story.is_dropped = true);
            return drop(owned);
        }
        3 => {
            let mut socket = owned.socket();
            note_status(&socket.set_io_timeout(Some(ms(20))));
            let mut buffer = [0; 3_000];
            match socket.recv(&mut buffer) {
                Ok(0) => on_story(link, |story| story.saw_end = true),
                Ok(count) => received(link, &buffer[..count]),
                Err(error) => note_status(&Err(error)),
            }
        }
        4 => {
            let mut socket = owned.socket();
            note_status(&socket.set_io_timeout(Some(ms(30))));
            let (count, is_file) = with(|w| (w.random.below(20_000), w.random.once_in(3)));
            let (bytes, is_unknown) = on_story(link, |story| {
                story.tried = story.tried.max(story.accepted + count);
                let bytes = story::pattern(story.down, story.accepted, count as usize);
                (bytes, story.is_unknown)
            });
            if !is_unknown {
                let result = match is_file {
                    true => send_file(&mut socket, link, count as usize),
                    false => socket.send(&bytes),
                };
                note_status(&result);
                on_story(link, |story| match result {
                    Ok(()) if is_file => {}
                    Ok(()) => story.accepted += count,
                    Err(_) => {
                        story.is_unknown = true;
                        story.tried = story.tried.max(story.accepted + count);
                    }
                });
            }
            if on_story(link, |story| story.is_unknown) {
                // Nothing can follow.
                on_story(link, |story| story.is_dropped = true);
                return drop(owned);
            }
        }
        _ => {}
    }
    lock(&program.shared.owned).push((owned, link));
}
