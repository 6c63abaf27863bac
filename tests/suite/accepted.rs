//! What a call by id has accepted comes about, in order and within bounds.

use crate::api::{ConnId, Hooks, Status};
use crate::support::*;
use std::sync::{Arc, Mutex};

/// How a callback ends after it has sent by id and directly.
const ENDS: [&str; 5] = ["nothing", "close", "close by id", "half-close", "detach"];

/// A3.1: What one thread sends by id and directly arrives in order, and before that thread's close.
#[test]
fn by_id_and_directly_in_order() {
    isolated(|| {
        for end in ENDS {
            for size in [1, 40_000] {
                let hooks = Hooks::new(move |server, socket| {
                    text(socket)?;
                    let id = socket.id();
                    server.send(id, &vec![b'A'; size]).unwrap();
                    socket.send(&vec![b'B'; size])?;
                    server.broadcast(&[id, id], &vec![b'C'; size]).unwrap();
                    server.send(id, &vec![b'D'; size]).unwrap();
                    match end {
                        "close" => socket.close(),
                        "close by id" => server.close(id).unwrap(),
                        "half-close" => socket.shutdown(std::net::Shutdown::Write)?,
                        "detach" => drop(server.detach(socket)?),
                        _ => return Ok(()),
                    }
                    assert_eq!(status(server.send(id, b"late")), Status::Closed, "{end}");
                    Ok(())
                });
                let server = start(non_blocking(1), hooks);
                let mut client = Client::connect(&server).saying("x");
                let mut expected = Vec::new();
                for (letter, count) in [(b'A', 1), (b'B', 1), (b'C', 2), (b'D', 1)] {
                    expected.extend(vec![letter; count * size]);
                }
                assert!(client.receive(expected.len()) == expected, "{end}");
                match end {
                    "nothing" => client.expect_silence(),
                    _ => client.expect_end(),
                }
                drop(client);
                wait_idle(&server);
            }
        }
    });
}

/// A3.1: The program's own order, by a mutex here, holds for all: what callbacks of several loops
/// send by id, by broadcasts and directly arrives at each connection in that order.
#[test]
fn threads_in_the_order_of_a_mutex() {
    const EACH: usize = 60;
    isolated(|| {
        let room = Arc::new(Mutex::new((0_usize, Vec::<ConnId>::new())));
        let shared = room.clone();
        let (hooks, opened) = Hooks::new(move |server, socket| {
            // Each byte is a message to all.
            while socket.recv(&mut [0; 1])? == 1 {
                let mut room = shared.lock().unwrap();
                room.0 += 1;
                let line = format!("{:05}\n", room.0);
                if room.0 % 2 == 0 {
                    assert_eq!(server.broadcast(&room.1, line.as_bytes()).unwrap(), room.1.len());
                    continue;
                }
                for id in room.1.iter().filter(|id| **id != socket.id()) {
                    server.send(*id, line.as_bytes()).unwrap();
                }
                socket.send(line.as_bytes())?;
            }
            Ok(())
        })
        .telling_ids();
        let server = start(non_blocking(3), hooks);
        let mut clients: Vec<_> = (0..6).map(|_| Client::connect(&server)).collect();
        room.lock().unwrap().1 = clients.iter().map(|_| opened.next()).collect();
        for _ in 0..EACH {
            clients.iter_mut().for_each(|client| client.send("."));
        }
        let all: String = (1..=clients.len() * EACH).map(|n| format!("{n:05}\n")).collect();
        for mut client in clients {
            client.expect(&all);
        }
    });
}

/// A3.2, A3.3: Bytes of another thread's send that returned 0 arrive, whenever the handler closes,
/// half-closes or detaches; what comes later is refused.
#[test]
fn accepted_from_another_thread() {
    isolated(|| {
        for end in ["close", "half-close", "detach"] {
            let (log, ids) = events::<ConnId>();
            let gate = Gate::new();
            let inside = gate.clone();
            let hooks = Hooks::new(move |server, socket| {
                if text(socket)?.is_empty() {
                    return Ok(socket.close());
                }
                log.add(socket.id());
                inside.wait();
                match end {
                    "close" => socket.close(),
                    "half-close" => socket.shutdown(std::net::Shutdown::Write)?,
                    _ => drop(server.detach(socket)?),
                }
                Ok(())
            });
            let server = start(non_blocking(1).linger_timeout(ms(8000)), hooks);
            let mut client = Client::connect(&server).saying("x");
            let id = ids.next();
            let accepted = std::thread::scope(|scope| {
                let producer = scope.spawn(|| {
                    let mut accepted = 0_usize;
                    while server.send(id, &[b'x'; 100]).is_ok() {
                        accepted += 100;
                        if accepted == 100_000 {
                            gate.open();
                        }
                        if accepted > 100_000 {
                            let_pass(ms(1));
                        }
                    }
                    accepted
                });
                producer.join().unwrap()
            });
            assert_eq!(client.rest().len(), accepted, "{end}");
            drop(client);
            wait_idle(&server);
        }
    });
}

/// A3.4: Memory follows the bytes that are accepted, not the calls, also on the way to a busy loop.
#[test]
fn many_small_sends_hold_little_memory() {
    isolated(|| {
        const COUNT: usize = 2_000_000;
        let gate = Gate::new();
        let inside = gate.clone();
        let hooks = Hooks::new(move |_, socket| {
            text(socket)?;
            Ok(inside.wait())
        });
        let (hooks, ids) = hooks.telling_ids();
        let server = start(non_blocking(1), hooks);
        let mut client = Client::connect(&server).saying("x");
        let id = ids.next();
        gate.reached_by(1);
        let before = resident_kib();
        for _ in 0..COUNT {
            server.send(id, b"y").unwrap();
        }
        let grown = resident_kib().saturating_sub(before);
        assert!(grown < 2 * COUNT / 1024 + 2048, "{grown} KiB for {COUNT} bytes");
        gate.open();
        assert!(client.receive(COUNT).iter().all(|byte| *byte == b'y'));
    });
}

/// A14.2: Each connection has one abort and one wake on the way, however often they are asked for.
#[test]
fn many_aborts_hold_no_memory() {
    isolated(|| {
        let gate = Gate::new();
        let inside = gate.clone();
        let hooks = Hooks::new(move |_, socket| {
            text(socket)?;
            Ok(inside.wait())
        });
        let (hooks, ids) = hooks.telling_ids();
        let server = start(non_blocking(1), hooks);
        let mut client = Client::connect(&server).saying("x");
        let id = ids.next();
        gate.reached_by(1);
        let before = resident_kib();
        for _ in 0..200_000 {
            server.wake(id).unwrap();
        }
        for _ in 0..200_000 {
            server.abort(id).unwrap();
        }
        let grown = resident_kib().saturating_sub(before);
        assert!(grown < 1024, "{grown} KiB");
        gate.open();
        client.expect_reset();
        wait_idle(&server);
    });
}

/// A17, A3.2: `on_open` gave the id away: bytes that another thread sends while it runs arrive,
/// also where it closes.
#[test]
fn accepted_during_on_open() {
    isolated(|| {
        let (log, opened) = events();
        let hooks = Hooks::new(echo).on_open(move |_, socket| {
            log.add((socket.peer().unwrap(), socket.id()));
            std::thread::yield_now();
            Ok(socket.close())
        });
        let server = start(non_blocking(2).linger_timeout(SOON), hooks);
        // A handshake takes its time.
        let rounds = if crate::api::TLS { 100 } else { 1000 };
        // One after the other: the kernel may give a client's port again.
        let mut received = Vec::new();
        let accepted = std::thread::scope(|scope| {
            let server = &server;
            let sender = scope.spawn(move || {
                let send_all = |(from, id)| {
                    let sends = std::iter::from_fn(|| server.send(id, &[b'x'; 100]).ok());
                    (from, 100 * sends.take(50).count())
                };
                (0..rounds).map(|_| send_all(opened.next())).collect::<Vec<_>>()
            });
            for _ in 0..rounds {
                let mut client = Client::connect(server);
                received.push((client.local(), client.rest().len()));
            }
            sender.join().unwrap()
        });
        wait_idle(&server);
        for (got, sent) in received.into_iter().zip(accepted) {
            assert_eq!(got, sent, "bytes, and an end in order");
        }
    });
}
