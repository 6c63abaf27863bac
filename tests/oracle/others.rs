//! Threads of the program's own: those that call by id, and those that own detached sockets.

use super::by_id::*;
use super::sides::{Input, Side, NOW};
use super::story::Story;
use super::texts::Metrics;
use super::wire::HEADER;
use super::world::World;
use super::{headers, lock, quiesces, Random, Seconds};
use crate::api::{OwnedSocket, Server};
use crate::support::*;
use net_server::TlsConfig;
use std::net::Shutdown;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

/// Calls connections by their ids until the round is over.
pub fn caller(world: &Arc<World>, server: &Server, mut random: Random) {
    while !world.is_over() && !world.is_given_up() {
        let_pass(Duration::from_micros(1 << random.below(13)));
        if random.below(200) == 0 {
            quiesces::wait_idle(world, server, ms(random.below(100) as u64));
        }
        let Some((id, story)) = world.any(&mut random) else { continue };
        if !world.non_blocking {
            match random.below(40) {
                0 => close_by_id(world, server, id, &story),
                1 => abort_by_id(world, server, id, &story),
                2 => half_close_by_id(world, server, id, &story, random.below(3)),
                3 => ask_queued(world, server, id, &story),
                _ => {}
            }
            continue;
        }
        match random.below(40) {
            0 | 1 => close_by_id(world, server, id, &story),
            2 => abort_by_id(world, server, id, &story),
            3..=5 => broadcast(world, server, &mut random),
            6..=9 => {
                story.act("wake");
                let _ = world.call("wake", NOW, &story, || server.wake(id));
            }
            10..=14 => {
                // All that it accepted leaves before the close.
                for _ in 0..1 + random.below(20) {
                    let len = HEADER + random.below(3000);
                    send_by_id(world, server, id, &story, len, "send by id");
                }
                match random.below(6) {
                    0 | 1 => close_by_id(world, server, id, &story),
                    2 => half_close_by_id(world, server, id, &story, 0),
                    _ => {}
                }
            }
            15 => {
                let len = HEADER + random.below(100_000);
                send_by_id(world, server, id, &story, len, "send by id");
            }
            16 | 17 => half_close_by_id(world, server, id, &story, random.below(3)),
            18..=22 => ask_queued(world, server, id, &story),
            _ => {
                let len = HEADER + random.below(1000);
                send_by_id(world, server, id, &story, len, "send by id");
            }
        }
    }
}

/// Reads the metrics over and over, and changes the keys of the tickets.
pub fn looker(world: &Arc<World>, server: &Server, tls: Option<TlsConfig>, mut random: Random) {
    let mut metrics = Metrics::default();
    while !world.is_over() {
        let text = world.watch("metrics", NOW, Weak::new(), || server.metrics());
        if let Some(what) = metrics.read(&text) {
            world.found("the metrics are true", "a text is not", Some(&what));
        }
        world.count("metrics");
        if let Some(tls) = &tls {
            let number = 1 + random.below(3);
            let keys: Vec<u8> = (0..80 * number).map(|_| random.below(256) as u8).collect();
            let set = tls.set_ticket_keys(&keys).is_ok();
            if !set || tls.set_ticket_keys(&keys[1..]).is_ok() {
                world.found("calls answer as promised", "set_ticket_keys", None);
            }
        }
        let_pass(ms(1 << random.below(6)));
    }
}

/// Takes detached sockets, does something with each, and ends it or gives it back.
pub fn owner(
    world: &Arc<World>,
    times: &Seconds,
    server: &Server,
    owned: &Mutex<Receiver<(OwnedSocket, Arc<Story>)>>,
) {
    loop {
        let next = lock(owned).recv_timeout(ms(10));
        match next {
            Ok((socket, story)) => own(world, times, server, socket, &story),
            Err(RecvTimeoutError::Timeout) if world.has_clients() => {}
            Err(_) => return,
        }
    }
}

fn own(
    world: &Arc<World>,
    times: &Seconds,
    server: &Server,
    mut owned: OwnedSocket,
    story: &Arc<Story>,
) {
    let side = Side { world, times, waits: true };
    headers::check(&owned.socket(), story);
    let mut over = false;
    {
        let mut socket = owned.socket();
        let _ = socket.set_io_timeout(Some(ms(10 + story.below(100) as u64)));
        for _ in 0..story.below(12) {
            if story.below(4) == 0 {
                side.gather(&mut socket, story);
            }
            if story.below(2) == 0 {
                match story.below(3) {
                    0 => side.sendfile(&mut socket, story, side.size(story)),
                    _ => drop(side.send(&mut socket, story, side.size(story))),
                }
            }
            match side.receive(&mut socket, story, 1 + story.below(20_000)) {
                Ok(Input::More | Input::Secured) => {}
                Ok(Input::Nothing) if story.below(3) > 0 => {}
                Ok(Input::Nothing) => break,
                Ok(Input::End | Input::Failed(_)) | Err(_) => {
                    over = true;
                    break;
                }
            }
        }
        if story.below(6) == 0 {
            side.half_close(&mut socket, story);
        }
    }
    match story.below(10) {
        0..=4 if !over => attach(world, server, owned, story),
        5 => {
            story.closing("abort", true);
            owned.socket().abort();
            free(world, times, owned, story);
        }
        6 => {
            story.closing("shutdown of both", false);
            let _ = owned.socket().shutdown(Shutdown::Both);
            free(world, times, owned, story);
        }
        7 => {
            story.closing("release_fd", true);
            match owned.release_fd() {
                Ok(fd) => drop(fd),
                Err((_, owned)) => free(world, times, owned, story),
            }
        }
        _ => {
            story.closing("free", false);
            free(world, times, owned, story);
        }
    }
}

fn free(world: &Arc<World>, times: &Seconds, owned: OwnedSocket, story: &Arc<Story>) {
    world.call("free of a detached socket", times.linger, story, || drop(owned));
    story.note("freed", 0);
}

fn attach(world: &Arc<World>, server: &Server, owned: OwnedSocket, story: &Arc<Story>) {
    // As soon as it is attached its callbacks may run.
    story.with(|ledger| {
        ledger.detached = false;
        (ledger.corks, ledger.held, ledger.under) = (0, 0, 0);
    });
    match world.call("attach", NOW, story, || server.attach(owned)) {
        Ok(id) => {
            story.act("attach");
            if !story.quiet {
                world.opened(id, story);
            }
        }
        Err(failure) => {
            if !world.is_stopping() {
                let kind = format!("attach returns {}", failure.error.status().name());
                story.found("calls answer as promised", &kind);
            }
            story.with(|ledger| ledger.detached = true);
            story.closing("free", false);
            drop(failure.socket);
        }
    }
}
