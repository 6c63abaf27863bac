//! Connections of one loop take turns; callbacks of one connection never overlap.

use super::adopt::adopted;
use crate::api::{CloseReason, ConnId, Hooks, Server, Socket};
use crate::support::*;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// N9: Bytes left unread bring the handler back after the other ready connections had their turn.
#[test]
fn ready_connections_take_turns() {
    isolated(|| {
        let (log, turns) = events();
        let gate = Gate::new();
        let inside = gate.clone();
        let server = start(
            non_blocking(1),
            Hooks::new(move |_, socket| {
                let mut buffer = [0; 4];
                let n = socket.recv(&mut buffer)?;
                match &buffer[..n] {
                    b"hold" => inside.wait(),
                    _ => log.add(socket.peer().unwrap().port()),
                }
                Ok(())
            }),
        );
        let mut holder = Client::connect(&server).settled();
        let mut clients: Vec<_> = (0..3).map(|_| Client::connect(&server).settled()).collect();
        eventually("all are open", || server.stats().open == 4);
        holder.send("hold");
        gate.reached_by(1);
        for client in &mut clients {
            client.send("word".repeat(10));
        }
        gate.open();
        let order = turns.take(30);
        // In each round every connection had one turn.
        for round in order.chunks(3) {
            let mut round = round.to_vec();
            round.sort();
            round.dedup();
            assert_eq!(round.len(), 3, "{order:?}");
        }
    });
}

/// N15: A connection that floods the server does not starve another one of the same loop.
#[test]
fn a_flood_does_not_starve_others() {
    isolated(|| {
        let server = start(
            non_blocking(1),
            Hooks::new(|_, socket| {
                let mut buffer = [0; 8192];
                loop {
                    let n = socket.recv(&mut buffer)?;
                    match buffer[0] {
                        _ if n == 0 => return Ok(socket.close()),
                        b'x' => {}
                        _ => socket.send(&buffer[..n])?,
                    }
                }
            }),
        );
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut flood = Client::connect(&server);
                let chunk = vec![b'x'; 1 << 20];
                while !done.load(Ordering::SeqCst) {
                    flood.send(&chunk);
                }
            });
            let mut client = Client::connect(&server);
            for i in 0..100 {
                let clock = Stopwatch::start();
                client.echo(&format!("{i}"));
                clock.at_once();
            }
            done.store(true, Ordering::SeqCst);
        });
    });
}

/// Shared by the callbacks of a connection, to see each other.
#[derive(Default)]
struct Watch {
    inside: AtomicBool,
    thread: AtomicUsize,
    overlaps: AtomicUsize,
    strangers: AtomicUsize,
}

impl Watch {
    fn enter(&self) {
        if self.inside.swap(true, Ordering::SeqCst) {
            self.overlaps.fetch_add(1, Ordering::SeqCst);
        }
        let thread = thread_number() as usize;
        let first = self.thread.swap(thread, Ordering::SeqCst);
        if first != 0 && first != thread {
            self.strangers.fetch_add(1, Ordering::SeqCst);
        }
        std::thread::yield_now();
        self.inside.store(false, Ordering::SeqCst);
    }
}

/// N16: Callbacks of one connection never run at the same time, and always on its loop's thread,
/// whichever threads send, wake and close.
#[test]
fn callbacks_never_overlap() {
    isolated(|| {
        let watches = Arc::new(Mutex::new(Vec::<(ConnId, Arc<Watch>)>::new()));
        let all = watches.clone();
        let enter = |socket: &mut Socket<'_>| {
            socket.user_data::<Arc<Watch>>().expect("set in on_open").enter();
        };
        let (log, closed) = events::<CloseReason>();
        let hooks = Hooks::new(move |server, socket| {
            enter(socket);
            socket.set_timer(Some(ms(1)))?;
            echo(server, socket)
        })
        .on_open(move |_, socket| {
            let watch = Arc::new(Watch::default());
            all.lock().unwrap().push((socket.id(), watch.clone()));
            socket.set_user_data(watch);
            enter(socket);
            Ok(())
        })
        .on_wake(move |_, socket| enter(socket))
        .on_timeout(move |_, socket| enter(socket))
        .on_drain(move |_, socket| enter(socket))
        .on_close(move |_, socket, reason| {
            enter(socket);
            log.add(reason);
        });
        let server = start(non_blocking(3), hooks);
        let mut clients: Vec<_> = (0..12).map(|_| Client::connect(&server)).collect();
        eventually("all are open", || watches.lock().unwrap().len() == 12);
        let ids: Vec<ConnId> = watches.lock().unwrap().iter().map(|(id, _)| *id).collect();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| poke(&server, &ids, &done));
            }
            for round in 0..40 {
                for client in &mut clients {
                    client.send(format!("round {round}"));
                }
            }
            done.store(true, Ordering::SeqCst);
            for client in &mut clients {
                client.finish_sending();
            }
            closed.take(12);
        });
        for (id, watch) in watches.lock().unwrap().iter() {
            assert_eq!(watch.overlaps.load(Ordering::SeqCst), 0, "{id:?} overlapped");
            assert_eq!(watch.strangers.load(Ordering::SeqCst), 0, "{id:?} changed threads");
        }
    });
}

fn poke(server: &Server, ids: &[ConnId], done: &AtomicBool) {
    while !done.load(Ordering::SeqCst) {
        for id in ids {
            let _ = server.wake(*id);
            let _ = server.send(*id, b"from elsewhere");
        }
        // Leaves the loops time for it.
        let_pass(ms(1));
    }
}

/// N17: No callback ever runs inside an API call, and no lock is held while user code runs: every
/// call is allowed in a callback, also under the program's own lock.
#[test]
fn every_call_under_the_programs_own_lock() {
    isolated(|| {
        let lock = Arc::new(Mutex::new(Vec::<ConnId>::new()));
        let (log, closed) = events();
        let (in_handler, in_open, in_close, in_wake) =
            (lock.clone(), lock.clone(), lock.clone(), lock.clone());
        let hooks = Hooks::new(move |server, socket| {
            let own = socket.id();
            let text = text(socket)?;
            // A callback inside one of these calls would wait for this lock forever.
            let ids = in_handler.lock().unwrap();
            server.broadcast(&ids, b"news ")?;
            server.send(own, b"by id ")?;
            server.wake(own)?;
            assert!(server.connections()?.contains(&own));
            server.report();
            server.stats();
            socket.send(b"direct ")?;
            match text.as_str() {
                "close all" => {
                    for id in ids.iter() {
                        server.close(*id)?;
                    }
                }
                "abort all" => {
                    for id in ids.iter() {
                        server.abort(*id)?;
                    }
                    socket.abort();
                }
                _ => {}
            }
            Ok(())
        })
        .on_open(move |_, socket| {
            in_open.lock().unwrap().push(socket.id());
            Ok(())
        })
        .on_wake(move |server, socket| {
            let ids = in_wake.lock().unwrap();
            server.broadcast(&ids, b"woken ").unwrap();
            let _ = socket.send(b"x");
        })
        .on_close(move |_, socket, reason| {
            in_close.lock().unwrap().retain(|id| *id != socket.id());
            log.add(reason);
        });
        let server = start(non_blocking(2), hooks);
        for command in ["close all", "abort all"] {
            let mut clients: Vec<_> = (0..6).map(|_| Client::connect(&server)).collect();
            eventually("all are open", || lock.lock().unwrap().len() == 6);
            clients[0].send("hello");
            clients[1].receive(5);
            clients[0].send(command);
            for client in &mut clients {
                client.expect_gone();
            }
            drop(clients);
            closed.take(6);
            assert!(lock.lock().unwrap().is_empty());
        }
        wait_idle(&server);
    });
}

/// AD16: Many connections that come together do not keep the others of their loop waiting until all
/// have had their `on_open`.
#[test]
fn many_arrivals_have_their_turns() {
    isolated(|| {
        const COUNT: usize = 600;
        let gate = Gate::new();
        let inside = gate.clone();
        let opened = Arc::new(AtomicUsize::new(0));
        let (counter, before) = (opened.clone(), opened.clone());
        let (log, seen) = events();
        let hooks = Hooks::new(move |_, socket| {
            if text(socket)? == "x" {
                log.add(before.load(Ordering::SeqCst));
            }
            Ok(socket.close())
        })
        .on_open(move |_, socket| {
            if socket.service().is_none() {
                inside.wait();
                counter.fetch_add(1, Ordering::SeqCst);
            }
            Ok(())
        });
        let server = start(non_blocking(1), hooks);
        let mut client = Client::connect(&server).settled();
        // Their peers are gone: the test needs no more descriptors than there may be.
        let ours: Vec<_> = (0..COUNT).map(|_| UnixStream::pair().unwrap().0).collect();
        let adopt_all = move |server: &Server| {
            for socket in ours {
                adopted(server, socket);
            }
            Ok(())
        };
        server.post(0, adopt_all).unwrap();
        gate.reached_by(1);
        client.send("x");
        gate.open();
        let before = seen.next();
        assert!(0 < before && before < COUNT, "{before}");
        wait_idle(&server);
        assert_eq!(opened.load(Ordering::SeqCst), COUNT);
    });
}
