//! The program: a handler that does random things, which the seed chooses, and looks whether the
//! library keeps its rules. The letters are those of docs/BEHAVIOUR.md.

use std::io::IoSlice;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use net_server::{CloseReason, ConnId, Error, OwnedSocket, Server, Socket, Status, TlsConfig};

use crate::acts;
use crate::judge;
use crate::kernel::link_of;
use crate::local;
use crate::sendfile::send_file;
use crate::story::{self, Mode, Story};
use crate::watches::Watched;
use crate::wire::{Heard, Upgrade};
use crate::world::{with, World, MILLI};

/// What the program has besides the world: sockets, whose drop makes system calls.
#[derive(Default)]
pub struct Shared {
    pub owned: Mutex<Vec<(OwnedSocket, u32)>>,
    pub hooks: Mutex<(u32, u32)>,
    pub watches: Mutex<Vec<Watched>>,
    /// For STARTTLS.
    pub tls: OnceLock<TlsConfig>,
}

pub struct Program {
    pub shared: Arc<Shared>,
    /// Once in how many callbacks it does something else.
    pub wildness: u64,
}

/// The user data of a connection: its link.
pub struct Tag(pub u32);

pub fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Works on the story of a link.
pub fn on_story<R>(link: u32, body: impl FnOnce(&mut Story) -> R) -> R {
    with(|w| body(&mut w.stories[link as usize]))
}

pub fn link(socket: &Socket<'_>) -> u32 {
    socket.user_data::<Tag>().map_or(u32::MAX, |tag| tag.0)
}

/// The link from which a connection really comes: its port says so.
fn link_of_peer(socket: &Socket<'_>) -> u32 {
    let name = socket.transport_peer_name();
    if let Some(link) = local::link_of(&name) {
        return link;
    }
    let peer: Option<SocketAddr> = name.parse().ok();
    peer.map_or(u32::MAX, |peer| link_of(peer.port()))
}

pub fn note_status(result: &Result<(), Error>) {
    if let Err(error) = result {
        let name = error.status().name().to_owned();
        with(|w| *w.report.statuses.entry(name).or_default() += 1);
    }
}

/// Notes that a callback begins.
fn begin(what: &'static str, link: u32) {
    with(|w| {
        w.step(50, what.len() as u64, link.into());
        w.report.count(what);
        w.say(|| format!("{what} of link {link}"));
        let story = &w.stories[link as usize];
        // A12.2, C10.
        let text = match () {
            () if !story.opened => "before on_open",
            () if story.closed.is_some() => "after on_close",
            () if story.is_detached => "of a detached connection",
            () => return,
        };
        w.find(format!("link {link}: {what} {text}"));
    });
}

/// Sends the next bytes of the story, in a way that the seed chooses.
pub fn send(server: &Server, socket: &mut Socket<'_>, link: u32, count: usize) -> bool {
    let (bytes, way) = with(|w| {
        let way = w.random.below(10);
        let story = &mut w.stories[link as usize];
        story.tried = story.tried.max(story.accepted + count as u64);
        (story::pattern(story.down, story.accepted, count), way)
    });
    let result = match way {
        0 => {
            let (first, rest) = bytes.split_at(count / 3);
            socket.sendv(&[IoSlice::new(first), IoSlice::new(rest)])
        }
        // Else nobody knows whether it leaves in the clear.
        1 if with(|w| w.upgrade(link) == Upgrade::None) => server.send(socket.id(), &bytes),
        2 => {
            let result = send_file(socket, link, count);
            note_status(&result);
            return result.is_ok();
        }
        3 => socket.cork().and_then(|()| socket.send(&bytes)),
        _ => socket.send(&bytes),
    };
    note_status(&result);
    with(|w| w.say(|| format!("  link {link}: send of {count} bytes: {result:?}")));
    on_story(link, |story| match result {
        Ok(()) => story.accepted += count as u64,
        // Nothing of it leaves, but of an earlier one a part may.
        Err(_) if story.is_unknown => {}
        Err(_) => story.tried = story.accepted,
    });
    result.is_ok()
}

/// Sends by id from outside of the connection's callbacks.
pub fn send_by_id(server: &Server, link: u32, count: usize) {
    let found = with(|w| {
        if w.upgrade(link) != Upgrade::None {
            return None;
        }
        let story = &mut w.stories[link as usize];
        story.tried = story.tried.max(story.accepted + count as u64);
        Some((story.id?, story::pattern(story.down, story.accepted, count), story.takes_bytes()))
    });
    let Some((id, bytes, is_open)) = found else { return };
    let result = server.send(id, &bytes);
    note_status(&result);
    on_story(link, |story| match result {
        Ok(()) => story.accepted += count as u64,
        Err(_) if story.is_unknown => {}
        Err(_) => story.tried = story.accepted,
    });
    if result.is_ok() && !is_open {
        with(|w| {
            w.find(format!("link {link}: B7: a send to a connection that is gone returned 0"))
        });
    }
}

/// Checks what the handler has received.
pub fn received(link: u32, bytes: &[u8]) {
    with(|w| {
        let story = &mut w.stories[link as usize];
        let from = story.delivered;
        story.delivered += bytes.len() as u64;
        let count = bytes.len();
        w.say(|| format!("  link {link}: recv of {count} bytes"));
        let story = &mut w.stories[link as usize];
        let (to, key) = (story.delivered, story.up);
        let arrived = w.heard(link).most;
        if !story::matches(key, from, bytes) {
            w.find(format!("link {link}: A1: wrong bytes at the handler, at {from} to {to}"));
        } else if to > arrived {
            w.find(format!("link {link}: the handler got {to} bytes, {arrived} have arrived"));
        }
    });
}

/// Checks the end that `recv` has reported.
pub fn ended(link: u32, error: Option<&Error>) {
    with(|w| {
        let Heard { bytes: arrived, has_end, is_broken, .. } = w.heard(link);
        let story = &mut w.stories[link as usize];
        let (delivered, shut) = (story.delivered, story.shut_read);
        match error {
            None => story.saw_end = true,
            Some(_) => story.saw_error = true,
        }
        let text = match error {
            _ if shut => return,
            None if !has_end => "A1.3: the end was told, and the peer has sent none".into(),
            Some(error) if !is_broken => format!("an error without a reason: {error}"),
            _ if delivered < arrived => {
                let what = error.map_or("the end".into(), ToString::to_string);
                format!("A1.1: {what} was told after {delivered} of {arrived} bytes")
            }
            _ => return,
        };
        w.find(format!("link {link}: {text}"));
    });
}

impl Program {
    /// Reads as the seed says: mostly all.
    fn read(&self, server: &Server, socket: &mut Socket<'_>, link: u32) -> Result<(), Error> {
        let (size, most, mode) = with(|w| {
            let size = w.random.one_of(&[1, 50, 1_000, 4_096, 65_536, 65_536]);
            let most = match w.random.below(40) {
                0 => 0,
                1..4 => 1,
                _ => usize::MAX,
            };
            let arrived = w.heard(link).bytes;
            let story = &mut w.stories[link as usize];
            story.read_less = most == 0;
            story.left_at = (most == 0).then_some(arrived);
            (size, most, story.mode)
        });
        if most == 0 {
            // N10: nothing else may bring it back.
            acts::set_timer(socket, link, 1_000);
        }
        let mut buffer = vec![0; size];
        for turn in 0..most {
            let left = match with(|w| w.upgrade(link)) {
                Upgrade::Awaited(left) => left as usize,
                Upgrade::None => usize::MAX,
            };
            // Mostly it does not read beyond the command.
            if left < size && with(|w| !w.random.once_in(3)) {
                buffer.truncate(left);
            }
            match socket.recv(&mut buffer) {
                Ok(0) => {
                    ended(link, None);
                    return self.after_end(server, socket, link);
                }
                Ok(all) => {
                    let count = all.min(left);
                    received(link, &buffer[..count]);
                    match mode {
                        Mode::Echo => drop(send(server, socket, link, count)),
                        Mode::Reply => {
                            let size = with(|w| {
                                let most = w.random.one_of(&[10, 1_000, 100_000]);
                                w.random.below(most)
                            });
                            send(server, socket, link, size as usize);
                        }
                        Mode::Push | Mode::Sink => {}
                    }
                    if count == left {
                        self.start_tls(socket, link, &buffer[left..all]);
                        break;
                    }
                }
                Err(error) if error.status() == Status::WouldBlock => {
                    let odd = on_story(link, |s| turn == 0 && !s.took_elsewhere && !s.was_detached);
                    if odd {
                        with(|w| w.find(format!("link {link}: N5: the first recv has nothing")));
                    }
                    break;
                }
                Err(error) => {
                    note_status(&Err(Error::from(error.status())));
                    if error.status() != Status::Closed {
                        ended(link, Some(&error));
                    }
                    return Err(error);
                }
            }
            if socket.is_closed() {
                break;
            }
        }
        on_story(link, |story| story.took_elsewhere = false);
        Ok(())
    }

    /// STARTTLS, with what was read behind the command.
    fn start_tls(&self, socket: &mut Socket<'_>, link: u32, ahead: &[u8]) {
        let Some(tls) = self.shared.tls.get() else { return };
        if socket.is_closed() {
            return;
        }
        on_story(link, |story| story.clear_down = Some(story.accepted));
        let result = socket.starttls(tls, ahead);
        with(|w| w.say(|| format!("  link {link}: starttls: {result:?}")));
        note_status(&result);
        with(|w| w.report.count(if result.is_ok() { "STARTTLS" } else { "STARTTLS failed" }));
        if result.is_err() {
            on_story(link, |story| (story.failed, story.asked_abort) = (true, true));
            socket.abort();
        }
    }

    fn after_end(&self, server: &Server, socket: &mut Socket<'_>, link: u32) -> Result<(), Error> {
        match with(|w| w.random.below(4)) {
            0 => {
                send(server, socket, link, 100);
                acts::close(socket, link);
            }
            1 => acts::set_timer(socket, link, 50),
            _ => acts::close(socket, link),
        }
        Ok(())
    }

    fn push(&self, server: &Server, socket: &mut Socket<'_>, link: u32) {
        let count = with(|w| {
            let most = w.random.one_of(&[1_000, 20_000, 200_000]);
            let left = w.stories[link as usize].push_left;
            left.min(most) as usize
        });
        if count > 0 && send(server, socket, link, count) {
            on_story(link, |story| story.push_left -= count as u64);
        }
    }

    fn maybe_act(&self, server: &Server, socket: &mut Socket<'_>, link: u32) -> Result<(), Error> {
        match with(|w| w.random.once_in(self.wildness)) {
            true => acts::act(self, server, socket, link),
            false => Ok(()),
        }
    }
}

impl Program {
    pub fn on_start(&self, _: &Server) -> Result<(), Error> {
        lock(&self.shared.hooks).0 += 1;
        Ok(())
    }

    pub fn on_stop(&self, _: &Server) {
        lock(&self.shared.hooks).1 += 1;
    }

    pub fn on_quiesce(&self) {
        let has_stopped = lock(&self.shared.hooks).1 > 0;
        with(|w| {
            w.quiesces += 1;
            if w.quiesces > 1 || w.quiesce_at.is_none() || has_stopped {
                w.find(format!("QU1, QU7: on_quiesce runs {} times", w.quiesces));
            }
        });
    }

    /// The shutdown port: HS14.
    pub fn on_shutdown(&self, server: &Server, socket: &mut Socket<'_>) -> Result<bool, Error> {
        let link = socket.peer().map_or(u32::MAX, |peer| link_of(peer.port()));
        let choice = with(|w| {
            w.report.count("on_shutdown");
            let (now, began) = (w.now, w.links[link as usize].accepted_at);
            let side = w.side(link, 0);
            let has_input = !side.input.is_empty() || side.fin_came || side.is_dead;
            if !has_input && now < began + 5_000 * MILLI {
                w.find(format!("link {link}: HS14: the handler runs for nothing"));
            }
            w.random.below(12)
        });
        let mut buffer = [0; 500];
        match socket.recv(&mut buffer) {
            Ok(count) => received(link, &buffer[..count]),
            Err(error) if error.status() == Status::WouldBlock && choice > 5 => return Err(error),
            Err(_) => {}
        }
        match choice {
            0 => std::panic::panic_any("a panic of the program"),
            1 => return Err(Error::from(Status::Invalid)),
            2 | 3 => drop(send(server, socket, link, 300)),
            4 => with(|w| w.stop_at = w.stop_at.or(Some(w.now))),
            _ => {}
        }
        Ok(choice == 4)
    }

    pub fn on_open(&self, server: &Server, socket: &mut Socket<'_>) -> Result<(), Error> {
        let link = match link(socket) {
            u32::MAX => link_of_peer(socket),
            brought => brought,
        };
        let id: ConnId = socket.id();
        let (mode, kind) = with(|w| {
            let story = &mut w.stories[link as usize];
            if std::mem::replace(&mut story.opened, true) {
                w.find(format!("link {link}: A12.2: on_open runs again"));
            }
            if !w.links[link as usize].is_connected {
                w.find(format!("link {link}: AD7: on_open before it is connected"));
            }
            let story = &mut w.stories[link as usize];
            story.id = Some(id);
            (story.mode, w.random.below(40))
        });
        begin("on_open", link);
        with(|w| judge::on_open(w, link, socket.peer()));
        local::look_at_peer(socket, link);
        if let Some(info) = socket.tls_info() {
            with(|w| w.report.count(if info.resumed { "TLS resumed" } else { "TLS in full" }));
        }
        socket.set_user_data(Tag(link));
        match kind {
            0 => {
                on_story(link, |story| story.failed = true);
                return Err(Error::from(Status::Rejected));
            }
            1 => {
                on_story(link, |story| story.failed = true);
                return Err(Error::from(Status::Invalid));
            }
            _ => {}
        }
        if mode == Mode::Push {
            self.push(server, socket, link);
        }
        self.maybe_act(server, socket, link)
    }

    pub fn handle(&self, server: &Server, socket: &mut Socket<'_>) -> Result<(), Error> {
        let link = link(socket);
        begin("handle", link);
        with(|w| {
            let story = &w.stories[link as usize];
            let text = match () {
                () if story.is_paused => "N14: a call while it is paused",
                () if story.saw_end && !story.was_detached => "N11: a call after the end",
                () if w.stop_at.is_some() => "S3: a call in a stop",
                () => return,
            };
            w.find(format!("link {link}: {text}"));
        });
        self.read(server, socket, link)?;
        self.maybe_act(server, socket, link)
    }

    pub fn on_close(&self, _: &Server, socket: &mut Socket<'_>, reason: CloseReason) {
        let link = link(socket);
        begin("on_close", link);
        let has_tls = socket.tls_info().is_some();
        on_story(link, |story| story.has_tls = has_tls);
        with(|w| judge::on_close(w, link, reason));
    }

    pub fn on_drain(&self, server: &Server, socket: &mut Socket<'_>) -> Result<(), Error> {
        let link = link(socket);
        begin("on_drain", link);
        on_story(link, |story| story.wants_drain = false);
        self.push(server, socket, link);
        self.maybe_act(server, socket, link)
    }

    pub fn on_timeout(&self, server: &Server, socket: &mut Socket<'_>) -> Result<(), Error> {
        let link = link(socket);
        begin("on_timeout", link);
        let (is_paused, ends) = with(|w| {
            let late = w.longest_pause + MILLI;
            let now = w.now;
            let story = &mut w.stories[link as usize];
            let (paused, ends) =
                (story.is_paused, story.saw_end || story.shut_read || story.left_at.is_some());
            // T1, T4.
            let text = match story.timer.take() {
                None => "T5: a call without a timer".into(),
                Some((due, _)) if now < due => format!("T1: {} us early", (due - now) / 1000),
                Some((_, latest)) if now > latest + late => {
                    format!("T1: {} us too late", (now - latest) / 1000)
                }
                Some(_) => String::new(),
            };
            if !text.is_empty() {
                w.find(format!("link {link}: on_timeout: {text}"));
            }
            (paused, ends)
        });
        if is_paused {
            let result = socket.resume();
            note_status(&result);
            on_story(link, |story| (story.is_paused, story.input_stuck) = (false, None));
        }
        if ends {
            acts::close(socket, link);
        }
        self.maybe_act(server, socket, link)
    }

    pub fn on_wake(&self, server: &Server, socket: &mut Socket<'_>) -> Result<(), Error> {
        let link = link(socket);
        begin("on_wake", link);
        if !on_story(link, |story| std::mem::take(&mut story.asked_wake)) {
            with(|w| w.find(format!("link {link}: A12: on_wake for nothing")));
        }
        self.maybe_act(server, socket, link)
    }

    pub fn on_exception(
        &self,
        _: &Server,
        socket: Option<&mut Socket<'_>>,
        error: &Error,
    ) -> Result<(), Error> {
        let name = error.status().name().to_owned();
        with(|w: &mut World| {
            w.report.count("on_exception");
            *w.report.statuses.entry(name).or_default() += 1;
        });
        if let Some(socket) = socket {
            let link = link(socket);
            if link == u32::MAX {
                let link = link_of_peer(socket);
                with(|w| judge::on_failure(w, link, error));
                return Ok(());
            }
            if on_story(link, |story| story.is_detached) {
                return Ok(());
            }
            if error.status() == Status::Connect {
                crate::bring::failed(link);
                return Ok(());
            }
            begin("on_exception", link);
            on_story(link, |story| {
                let in_handshake = matches!(error.status(), Status::Handshake | Status::Timeout);
                story.failed |= in_handshake && story.clear_down.is_some();
            });
            if with(|w| w.random.below(3)) > 0 {
                acts::close(socket, link);
            } else {
                // It must end at some time.
                acts::set_timer(socket, link, 100);
                on_story(link, |story| story.saw_end |= story.saw_error);
            }
        }
        Ok(())
    }
}

/// A time of the API.
pub fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}
