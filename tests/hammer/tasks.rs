//! A thread that watches descriptors, sets timers and posts tasks at random, and calls that do not
//! behave either.

use super::random::Random;
use super::{half, pause, Shared};
use crate::api::{Error, Interest, Server, Status, TaskId};
use crate::support::*;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::sync::Arc;

/// What is watched or expires at a time.
const MOST: usize = 20;

struct Watched {
    id: TaskId,
    ours: UnixStream,
    /// Open until the watch is gone.
    _theirs: Arc<UnixStream>,
}

pub fn tasker(server: &Server, loops: usize, shared: &Arc<Shared>, mut random: Random) {
    let mut watched: Vec<Watched> = Vec::new();
    let mut timers: Vec<TaskId> = Vec::new();
    while !shared.is_over() {
        let event_loop = random.below(loops);
        let result = match random.below(10) {
            0 if watched.len() < MOST => {
                let watch = watch(server, event_loop, shared, &mut random);
                watch.map(|watch| watched.push(watch))
            }
            1 if !watched.is_empty() => {
                // The descriptors are closed after it.
                let gone = watched.swap_remove(random.below(watched.len()));
                server.unwatch(gone.id)
            }
            2 if !watched.is_empty() => {
                let id = watched[random.below(watched.len())].id;
                server.change_watch(id, interest(&mut random))
            }
            3 if !watched.is_empty() => {
                let watch = &watched[random.below(watched.len())];
                let _ = (&watch.ours).write(b"watched");
                let _ = (&watch.ours).read(&mut [0; 100]);
                Ok(())
            }
            4 | 5 if timers.len() < MOST => {
                let first = ms(random.below(10) as u64);
                let repeat = (random.below(2) == 0).then(|| ms(1 + random.below(10) as u64));
                let call = call(shared, random.below(1 << 30) as u64);
                let timer =
                    server.add_timer(event_loop, first, repeat, move |server, _| call(server));
                timer.map(|id| timers.push(id))
            }
            6 if !timers.is_empty() => {
                server.cancel_timer(timers.swap_remove(random.below(timers.len())))
            }
            _ => {
                let call = call(shared, random.below(1 << 30) as u64);
                server.post(event_loop, move |server| call(server))
            }
        };
        match result.map_err(|error| error.status()) {
            // Ids may be gone: a timer that expires once, a loop that has ended.
            Ok(()) | Err(Status::Closed) => {}
            // A stop has begun.
            Err(Status::State) => break,
            Err(status) => shared.wrong(format!("a task gave {status:?}")),
        }
        pause(&mut random);
    }
    for watch in &watched {
        let _ = server.unwatch(watch.id);
    }
    for timer in timers {
        let _ = server.cancel_timer(timer);
    }
}

fn interest(random: &mut Random) -> Interest {
    [Interest::READ, Interest::WRITE, Interest::BOTH][random.below(3)]
}

fn watch(
    server: &Server,
    event_loop: usize,
    shared: &Arc<Shared>,
    random: &mut Random,
) -> Result<Watched, Error> {
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    theirs.set_nonblocking(true).unwrap();
    let (theirs, call) = (Arc::new(theirs), call(shared, random.below(1 << 30) as u64));
    let (end, interest) = (theirs.clone(), interest(random));
    let id = server.watch(event_loop, &*theirs, interest, move |server, id, _, found| {
        if found.read {
            let _ = (&*end).read(&mut [0; 10]);
        }
        if found.write {
            // Level-triggered: else it would be called without a pause.
            let _ = (&*end).write(b"back");
            let _ = server.change_watch(id, Interest::READ);
        }
        call(server)
    })?;
    Ok(Watched { id, ours, _theirs: theirs })
}

/// A call that has a piece of user data, calls the server and fails at random.
fn call(shared: &Arc<Shared>, seed: u64) -> impl Fn(&Server) -> Result<(), Error> + Send + 'static {
    let (shared, data) = (shared.clone(), shared.data.clone());
    let random = std::sync::Mutex::new(Random::new(seed));
    move |server| {
        let _ = &data;
        let random = &mut *random.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        shared.tasks.fetch_add(1, Ordering::Relaxed);
        if let Some(id) = shared.any_id(random) {
            match random.below(16) {
                0 => drop(server.send(id, &vec![b't'; random.below(5000)])),
                1 => drop(server.close(id)),
                2 => drop(server.abort(id)),
                3 => drop(server.wake(id)),
                4 => drop(server.post(0, |_| Ok(()))),
                5 => drop(server.shutdown(id, half(random))),
                6 => drop(server.queued(id)),
                7 => drop(server.broadcast_each(&[id, id], &vec![b'e'; random.below(20_000)])),
                _ => {}
            }
        }
        match random.below(20) {
            0 => Err("a task fails".into()),
            1 => panic!("on purpose"),
            _ => Ok(()),
        }
    }
}
