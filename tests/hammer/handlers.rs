//! Callbacks that do not behave.

use super::random::Random;
use super::{half, pause, Owned, Shared};
use crate::api::{CloseReason, Error, Hooks, Server, Socket, Status};
use crate::support::*;
use std::cell::RefCell;
use std::net::Shutdown;
use std::sync::atomic::Ordering;
use std::sync::Arc;

pub fn hooks(non_blocking: bool, shared: &Arc<Shared>, owned: Owned, seed: u64) -> Hooks {
    let (opening, closing) = (shared.clone(), shared.clone());
    let (handling, excepting, waking) = (shared.clone(), shared.clone(), shared.clone());
    let exception_owned = owned.clone();
    Hooks::new(move |server: &Server, socket| {
        random(seed, |random| match non_blocking {
            true => handle(server, socket, random, &handling, &owned),
            false => serve(server, socket, random),
        })
    })
    .on_open(move |_, socket| {
        opening.opened.fetch_add(1, Ordering::SeqCst);
        socket.set_user_data(opening.data.clone());
        random(seed, |random| {
            opening.remember(socket.id(), random);
            match random.below(40) {
                0 => Err("refused by on_open".into()),
                1 => panic!("on purpose"),
                2 => Ok(socket.close()),
                _ => Ok(()),
            }
        })
    })
    .on_close(move |server, socket, _: CloseReason| {
        closing.closed.fetch_add(1, Ordering::SeqCst);
        if socket.user_data::<Arc<()>>().is_none() {
            closing.wrong("user data is gone before on_close".into());
        }
        let _ = server.wake(socket.id());
        let _ = socket.send(b"too late");
        random(seed, |random| assert_ne!(random.below(50), 0, "on purpose"));
    })
    .on_exception(move |server, socket, error| {
        let Some(socket) = socket else { return Ok(()) };
        if error.message().is_empty() {
            excepting.wrong("an error without a message".into());
        }
        random(seed, |random| match random.below(8) {
            0..=2 => Ok(socket.close()),
            3 => socket.send(b"sorry"),
            4 => Ok(socket.abort()),
            5 => panic!("on purpose"),
            6 if non_blocking => {
                detach(server, socket, &excepting, &exception_owned);
                Ok(())
            }
            _ => Err("again".into()),
        })
    })
    .on_wake(move |_, socket| {
        let _ = socket.resume();
        random(seed, |random| match random.below(20) {
            0 => socket.close(),
            1 => panic!("on purpose"),
            2 => drop(socket.set_timer(Some(ms(random.below(20) as u64)))),
            3 => drop(socket.shutdown(Shutdown::Write)),
            4 => (0..5).for_each(|_| drop(socket.send(b"gathered"))),
            _ => drop(waking.is_over()),
        });
    })
    .on_timeout(move |_, socket| {
        random(seed, |random| match random.below(4) {
            0 => socket.close(),
            1 => drop(socket.send(&vec![b't'; 10_000])),
            _ => drop(socket.set_timer(Some(ms(random.below(50) as u64)))),
        });
    })
    .on_drain(move |_, socket| {
        random(seed, |random| match random.below(6) {
            0 => socket.close(),
            1 => drop(socket.send(b"drained")),
            _ => {}
        });
    })
}

/// Echoes, in either mode; recv and send may fail in any way that is described.
fn echo_some(socket: &mut Socket<'_>, random: &mut Random) -> Result<(), Error> {
    let mut buffer = vec![0; 1 + random.below(3000)];
    for _ in 0..1 + random.below(40) {
        gather(socket, random);
        match socket.recv(&mut buffer)? {
            0 => {
                socket.close();
                break;
            }
            n => socket.send(&buffer[..n])?,
        }
    }
    Ok(())
}

/// Begins or ends a cork, or flushes; the connection may be over, and an uncork without a cork.
pub fn gather(socket: &mut Socket<'_>, random: &mut Random) {
    let _ = match random.below(20) {
        0 => socket.cork(),
        1 => socket.uncork(),
        2 => socket.flush(),
        _ => Ok(()),
    };
}

/// A call of the non-blocking handler.
fn handle(
    server: &Server,
    socket: &mut Socket<'_>,
    random: &mut Random,
    shared: &Shared,
    owned: &Owned,
) -> Result<(), Error> {
    if random.below(3) > 0 {
        return echo_some(socket, random);
    }
    match random.below(16) {
        0 => socket.close(),
        1 => socket.abort(),
        2 => return Err("a failure".into()),
        3 => panic!("on purpose"),
        4 | 5 => detach(server, socket, shared, owned),
        6 => drop(socket.send(&vec![b'b'; 100_000])),
        7 => socket.pause().and_then(|()| socket.set_timer(Some(ms(5))))?,
        8 => socket.set_timer(Some(ms(random.below(30) as u64)))?,
        9 => socket.shutdown([Shutdown::Read, Shutdown::Write][random.below(2)])?,
        10 => server.wake(socket.id())?,
        11 => server.close(socket.id())?,
        12 => socket.send(b"unread input stays")?,
        13 => server.shutdown(socket.id(), half(random))?,
        14 => {
            // Mostly this one is among them.
            let each = server.broadcast_each(&server.connections()?, b"to each")?;
            drop((each, server.queued(socket.id())?));
        }
        _ => pause(random),
    }
    Ok(())
}

fn detach(server: &Server, socket: &mut Socket<'_>, shared: &Shared, owned: &Owned) {
    match server.detach(socket) {
        Ok(socket) => drop(owned.send(socket)),
        Err(error) if matches!(error.status(), Status::Closed | Status::Detached) => {}
        Err(error) => shared.wrong(format!("detach gave {error:?}")),
    }
}

/// A call of the blocking handler.
fn serve(server: &Server, socket: &mut Socket<'_>, random: &mut Random) -> Result<(), Error> {
    loop {
        echo_some(socket, random)?;
        match random.below(12) {
            0 => return Ok(()),
            1 => return Ok(socket.close()),
            2 => return Ok(socket.abort()),
            3 => return Err("a failure".into()),
            4 => panic!("on purpose"),
            5 => socket.send(&vec![b'b'; 50_000])?,
            6 => socket.shutdown(Shutdown::Write)?,
            7 => server.close(socket.id())?,
            8 => server.abort(socket.id())?,
            _ => pause(random),
        }
        if socket.is_closed() {
            return Ok(());
        }
    }
}

/// A callback's own numbers: each of the server's threads has its own.
fn random<T>(seed: u64, body: impl FnOnce(&mut Random) -> T) -> T {
    thread_local! {
        static OWN: RefCell<Option<Random>> = const { RefCell::new(None) };
    }
    // Taken out meanwhile: the body may panic on purpose.
    let thread = crate::support::thread_number() as u64;
    let own = OWN.take();
    let mut numbers = own.unwrap_or_else(|| Random::new(seed ^ thread << 20));
    // The next numbers must not depend on whether the body panics.
    let next = Random::new(numbers.below(usize::MAX >> 1) as u64);
    OWN.set(Some(next));
    body(&mut numbers)
}
