//! A quiesce in the middle of it all, by each of the calls that ask for one.

use super::sides::NOW;
use super::story::Story;
use super::world::World;
use super::Random;
use crate::api::{Hooks, Server, State, Status};
use crate::support::*;
use socket2::SockRef;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// QU11: The call returns within `drain_timeout` and a second. That of the tests is 3 s.
const BOUND: Duration = ms(4000);
/// A connect that has returned so long before is in the backlog for certain.
pub const CERTAIN: Duration = ms(100);

/// QU1, QU7: `on_quiesce` runs once, and before `on_stop`.
pub fn hooks(world: &Arc<World>, hooks: Hooks) -> Hooks {
    let [quiescing, stopping] = [(); 2].map(|()| world.clone());
    let hooks = hooks.on_quiesce(move |_| {
        let before = quiescing.on_quiesce.fetch_add(1, Ordering::SeqCst);
        if before > 0 || quiescing.on_stop.load(Ordering::SeqCst) > 0 {
            quiescing.found("callbacks once", "on_quiesce again, or after on_stop", None);
        }
    });
    hooks.on_stop(move |_| {
        if stopping.on_stop.fetch_add(1, Ordering::SeqCst) > 0 {
            stopping.found("callbacks once", "on_stop again", None);
        }
    })
}

pub fn quiesce(world: &Arc<World>, server: &Server, port: u16, random: &mut Random) {
    world.begin_quiesce();
    world.count("quiesce");
    match random.below(4) {
        0 => call(world, server, port),
        1 => std::thread::scope(|scope| {
            (0..3).for_each(|_| drop(scope.spawn(|| call(world, server, port))));
        }),
        2 => {
            let request = || server.request_quiesce();
            if world.watch("request_quiesce", NOW, Weak::new(), request).is_err() {
                world.found("calls answer as promised", "request_quiesce fails", None);
            }
            wait(world, server, port);
        }
        _ => {
            world.wants_quiesce.store(true, Ordering::SeqCst);
            // A handler asks for it, if there is one.
            comes_true(ms(500), || !world.wants_quiesce.load(Ordering::SeqCst));
            match world.wants_quiesce.swap(false, Ordering::SeqCst) {
                true => call(world, server, port),
                false => wait(world, server, port),
            }
        }
    }
}

fn call(world: &Arc<World>, server: &Server, port: u16) {
    let result = world.watch("quiesce", BOUND, Weak::new(), || server.quiesce());
    match result {
        Ok(()) => check(world, server, port),
        Err(error) => {
            let kind = format!("quiesce returns {}", error.status().name());
            world.found("calls answer as promised", &kind, None);
        }
    }
}

fn wait(world: &Arc<World>, server: &Server, port: u16) {
    let is_done = || world.on_quiesce.load(Ordering::SeqCst) > 0 || world.is_stopping();
    match comes_true(BOUND, is_done) {
        true => check(world, server, port),
        false => world.found("a quiesce is done", "it was only requested: waited in vain", None),
    }
}

/// QU1, QU13: What holds when a quiesce is done. A stop, which may come meanwhile, has other rules.
fn check(world: &Arc<World>, server: &Server, port: u16) {
    let called = world.on_quiesce.load(Ordering::SeqCst);
    let holds = [
        (!server.is_ready(), "it is ready"),
        (called == 1, "on_quiesce has not run"),
        (server.state() == State::Quiescing, "its state is another"),
        (!listens(port), "it listens"),
    ];
    if world.is_stopping() {
        return;
    }
    for (_, what) in holds.iter().filter(|(holds, _)| !holds) {
        world.found("a quiesce is done", what, None);
    }
}

/// Whether this process listens there.
fn listens(port: u16) -> bool {
    let here = SocketAddr::from(([127, 0, 0, 1], port));
    listening_sockets().into_iter().any(|fd| {
        // SAFETY: a number alone, which may be another file's or none by this time.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        SockRef::from(&fd).local_addr().is_ok_and(|at| at.as_socket() == Some(here))
    })
}

/// QU5: In a callback a quiesce is a request, QU12: and nothing is waited for.
pub fn in_callback(world: &Arc<World>, server: &Server, story: &Arc<Story>) {
    if world.wants_quiesce.swap(false, Ordering::SeqCst) {
        story.act("quiesce in a callback");
        let result = world.call("quiesce in a callback", NOW, story, || server.quiesce());
        story.answers("quiesce in a callback", &result, &[]);
    }
    if story.below(50) == 0 {
        let waited = world.call("wait_idle", NOW, story, || server.wait_idle(Some(SOON)));
        if status(waited) != Status::Deadlock {
            story.found("calls answer as promised", "wait_idle in a callback");
        }
    }
}

/// QU12: A wait ends with success or at its time.
pub fn wait_idle(world: &Arc<World>, server: &Server, limit: Duration) -> bool {
    let waited = world.watch("wait_idle", limit, Weak::new(), || server.wait_idle(Some(limit)));
    let found = status(waited);
    if !matches!(found, Status::Ok | Status::Timeout) {
        let kind = format!("wait_idle returns {}", found.name());
        world.found("calls answer as promised", &kind, None);
    }
    world.count(if found == Status::Ok { "wait_idle: idle" } else { "wait_idle: not idle" });
    found == Status::Ok
}

/// QU6: In a stop and after it nothing is done.
pub fn after_stop(world: &Arc<World>, server: &Server) {
    let before = world.on_quiesce.load(Ordering::SeqCst);
    let result = world.watch("quiesce", NOW, Weak::new(), || server.quiesce());
    let requested = server.request_quiesce();
    if result.is_err() || requested.is_err() || !wait_idle(world, server, ms(0)) {
        world.found("calls answer as promised", "a quiesce after the stop", None);
    }
    if world.on_quiesce.load(Ordering::SeqCst) != before || server.is_ready() {
        world.found("a quiesce is done", "after the stop", None);
    }
}

/// QU2: Its connect had returned before anybody asked for a quiesce: it is served.
pub fn is_in_time(story: &Story) -> bool {
    let connected = story.with(|ledger| ledger.connected_at);
    let asked = story.world.quiesced_at();
    asked.is_none_or(|asked| connected.is_some_and(|at| at + CERTAIN < asked))
}
