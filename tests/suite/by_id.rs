//! Calls by id, from any thread.

use crate::api::{CloseReason, ConnId, Hooks, Server, Status};
use crate::support::*;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// An echo server that reports the ids of opened connections.
fn telling(config: crate::api::Config) -> (Server, Events<ConnId>) {
    let (hooks, ids) = Hooks::new(echo).telling_ids();
    (start(config, hooks), ids)
}

#[track_caller]
fn connected(server: &Server, ids: &Events<ConnId>) -> (Client, ConnId) {
    (Client::connect(server), ids.next())
}

fn stale(value: u64) -> ConnId {
    ConnId::from_u64(value).unwrap()
}

/// An id that no server gives: of a loop that it does not have.
const NOBODY: u64 = 0xdead_beef_dead_beef;

/// B1: `send` works from any thread.
#[test]
fn send_from_another_thread() {
    isolated(|| {
        let (server, ids) = telling(non_blocking(2));
        let mut connections: Vec<_> = (0..4).map(|_| connected(&server, &ids)).collect();
        for (i, (client, id)) in connections.iter_mut().enumerate() {
            server.send(*id, format!("for {i}").as_bytes()).unwrap();
            client.expect(format!("for {i}"));
        }
        let bulk = pattern(BULK);
        server.send(connections[0].1, &bulk).unwrap();
        assert!(connections[0].0.receive(BULK) == bulk);
    });
}

/// A3.1: The calls of one thread keep their order.
#[test]
fn order_holds_per_calling_thread() {
    isolated(|| {
        let (server, ids) = telling(non_blocking(2));
        let (mut client, id) = connected(&server, &ids);
        const THREADS: usize = 4;
        const MESSAGES: usize = 500;
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let server = &server;
                scope.spawn(move || {
                    for number in 0..MESSAGES {
                        server.send(id, format!("{thread} {number:04}\n").as_bytes()).unwrap();
                    }
                });
            }
            let text = client.receive(THREADS * MESSAGES * 7);
            let mut next = [0; THREADS];
            for line in String::from_utf8(text).unwrap().lines() {
                let (thread, number) = line.split_once(' ').unwrap();
                let thread: usize = thread.parse().unwrap();
                assert_eq!(number.parse::<usize>().unwrap(), next[thread], "thread {thread}");
                next[thread] += 1;
            }
        });
    });
}

/// B2: Bytes are counted immediately against `send_limit`: NS_ERR_BUFFER_FULL is immediate, also
/// while the loop is busy; what was accepted arrives, and nothing else.
#[test]
fn send_is_counted_at_once() {
    isolated(|| {
        let gate = Gate::new();
        let inside = gate.clone();
        let (hooks, ids) = Hooks::new(move |_, socket| {
            text(socket)?;
            inside.wait();
            Ok(())
        })
        .telling_ids();
        let config = non_blocking(1).send_limit(1 << 20).high_water_mark(1 << 20);
        let server = start(config, hooks);
        let mut client = Client::connect(&server);
        let id = ids.next();
        client.send("hold the loop");
        gate.reached_by(1);
        let piece = vec![b'p'; 128 << 10];
        for _ in 0..8 {
            server.send(id, &piece).unwrap();
        }
        assert_eq!(status(server.send(id, &piece)), Status::BufferFull);
        assert_eq!(status(server.send(id, b"x")), Status::BufferFull);
        assert_eq!(server.broadcast(&[id], b"x").unwrap(), 0, "nor by broadcast");
        gate.open();
        assert!(client.receive(1 << 20).iter().all(|byte| *byte == b'p'));
        client.expect_silence();
        // It has room again.
        server.send(id, b"after").unwrap();
        client.expect("after");
    });
}

/// B3: `broadcast` returns how many connections accepted; those that are gone do not count.
#[test]
fn broadcast() {
    isolated(|| {
        let (server, ids) = telling(non_blocking(3));
        let mut connections: Vec<_> = (0..30).map(|_| connected(&server, &ids)).collect();
        let mut all: Vec<ConnId> = connections.iter().map(|(_, id)| *id).collect();
        assert_eq!(server.broadcast(&all, b"to all").unwrap(), 30);
        for (client, _) in &mut connections {
            client.expect("to all");
        }
        drop(connections.drain(..10));
        eventually("ten have left", || server.stats().open == 20);
        all.push(stale(NOBODY));
        all.push(stale(u64::MAX));
        assert_eq!(server.broadcast(&all, b"to the rest").unwrap(), 20);
        assert_eq!(server.broadcast(&[], b"to nobody").unwrap(), 0);
        for (client, _) in &mut connections {
            client.expect("to the rest");
        }
    });
}

/// B4: `broadcast` shares one copy of the bytes, in the mail and in the queues.
#[test]
fn broadcast_shares_one_copy() {
    isolated(|| {
        let (server, ids) = telling(non_blocking(2));
        let mut clients = Vec::new();
        let mut all = Vec::new();
        for _ in 0..50 {
            clients.push(Client::small(&server));
            all.push(ids.next());
        }
        let bulk = pattern(BULK);
        let before = resident_kib();
        assert_eq!(server.broadcast(&all, &bulk).unwrap(), 50);
        for client in &mut clients {
            client.expect(&bulk[..1000]);
        }
        let grown = resident_kib().saturating_sub(before) << 10;
        assert!(grown < 3 * BULK, "{grown} bytes for 50 times {BULK}");
        clients[7].expect(&bulk[1000..]);
    });
}

/// N17: A program publishes from one handler to many connections, under its own lock that
/// `on_close` takes too: it loses no message and does not dead-lock.
#[test]
fn publish_under_the_programs_own_lock() {
    isolated(|| {
        let members: Arc<Mutex<Vec<ConnId>>> = Arc::default();
        let (publishing, opening, closing) = (members.clone(), members.clone(), members.clone());
        let hooks = Hooks::new(move |server: &Server, socket| {
            let (bytes, ended) = available(socket)?;
            let members = publishing.lock().unwrap();
            if !bytes.is_empty() {
                // A member may have gone whose `on_close` is still to come.
                assert!(server.broadcast(&members, &bytes)? <= members.len());
            }
            drop(members);
            if ended {
                socket.close();
            }
            Ok(())
        })
        .on_open(move |_, socket| {
            opening.lock().unwrap().push(socket.id());
            Ok(())
        })
        .on_close(move |_, socket, _| closing.lock().unwrap().retain(|id| *id != socket.id()));
        let server = start(non_blocking(2), hooks);
        let mut clients: Vec<_> = (0..300).map(|_| Client::connect(&server)).collect();
        eventually("all are members", || members.lock().unwrap().len() == 300);
        let mut publisher = Client::connect(&server);
        eventually("it is a member", || members.lock().unwrap().len() == 301);
        let message = "a message to everybody. ".repeat(10);
        for _ in 0..20 {
            publisher.echo(&message);
        }
        for client in &mut clients {
            client.expect(message.repeat(20));
        }
        // Members leave while others publish.
        std::thread::scope(|scope| {
            scope.spawn(|| drop(clients));
            for _ in 0..20 {
                publisher.echo(&message);
            }
        });
        drop(publisher);
        wait_idle(&server);
        assert!(members.lock().unwrap().is_empty());
    });
}

/// B5: `close` flushes, `abort` resets.
#[test]
fn close_and_abort() {
    isolated(|| {
        let (server, ids) = telling(non_blocking(2));
        let (mut client, id) = connected(&server, &ids);
        server.send(id, &pattern(BULK)).unwrap();
        server.close(id).unwrap();
        assert!(client.rest() == pattern(BULK), "order holds between send and close");
        drop(client);
        let (mut client, id) = connected(&server, &ids);
        server.abort(id).unwrap();
        client.expect_reset();
        wait_idle(&server);
        let stats = server.stats();
        assert_eq!(stats.closed[CloseReason::Handler as usize], 1);
        assert_eq!(stats.closed[CloseReason::Abort as usize], 1);
    });
}

/// B6: `wake` calls `on_wake` on the connection's loop.
#[test]
fn wake() {
    isolated(|| {
        let (log, woken) = events();
        let (open_log, opened) = events();
        let hooks = Hooks::new(echo)
            .on_open(move |_, socket| {
                open_log.add((socket.id(), thread_number()));
                Ok(())
            })
            .on_wake(move |_, socket| log.add((socket.id(), thread_number())));
        let server = start(non_blocking(3), hooks);
        let clients: Vec<_> = (0..6).map(|_| Client::connect(&server)).collect();
        for connection in opened.take(6) {
            server.wake(connection.0).unwrap();
            assert_eq!(woken.next(), connection);
        }
        woken.none();
        drop(clients);
    });
}

/// B6: Waking without an `on_wake` is harmless.
#[test]
fn wake_without_a_hook() {
    isolated(|| {
        let (server, ids) = telling(non_blocking(1));
        let (mut client, id) = connected(&server, &ids);
        for _ in 0..100 {
            server.wake(id).unwrap();
        }
        client.echo("still served");
    });
}

/// B6: Many wakes of a busy connection are not lost: at least one comes after the last.
#[test]
fn no_wake_is_lost() {
    isolated(|| {
        let counter = Arc::new(Mutex::new((0, 0)));
        let (log, done) = events();
        let seen = counter.clone();
        let (hooks, ids) = Hooks::new(echo).telling_ids();
        let hooks = hooks.on_wake(move |_, _| {
            let mut state = seen.lock().unwrap();
            state.1 = state.0;
            if state.1 == 2000 {
                log.add(());
            }
        });
        let server = start(non_blocking(1), hooks);
        let (_client, id) = connected(&server, &ids);
        for _ in 0..2000 {
            counter.lock().unwrap().0 += 1;
            server.wake(id).unwrap();
        }
        done.next();
    });
}

/// B7: A gone connection is NS_ERR_CLOSED, for every call; an id is never given again.
#[test]
fn stale_ids_are_closed() {
    isolated(|| {
        let (server, ids) = telling(non_blocking(1));
        let mut gone = vec![stale(NOBODY), stale(u64::MAX), stale(1 << 63)];
        for _ in 0..50 {
            let (client, id) = connected(&server, &ids);
            assert!(!gone.contains(&id), "an id was given twice");
            drop(client);
            wait_idle(&server);
            gone.push(id);
        }
        let (mut client, _) = connected(&server, &ids);
        for id in gone {
            assert_eq!(status(server.send(id, b"x")), Status::Closed);
            assert_eq!(status(server.close(id)), Status::Closed);
            assert_eq!(status(server.abort(id)), Status::Closed);
            assert_eq!(status(server.wake(id)), Status::Closed);
        }
        client.echo("the one in the same slot is unharmed");
    });
}

/// B8: Ids of another server are stale here.
#[test]
fn ids_of_another_server() {
    isolated(|| {
        let (one, one_ids) = telling(non_blocking(1));
        let (two, two_ids) = telling(non_blocking(1));
        let (mut first, first_id) = connected(&one, &one_ids);
        // Each server counts for itself: here the second one has come farther.
        drop(connected(&two, &two_ids));
        wait_idle(&two);
        let (mut second, second_id) = connected(&two, &two_ids);
        assert_ne!(first_id, second_id);
        assert_eq!(status(one.abort(second_id)), Status::Closed);
        assert_eq!(status(two.abort(first_id)), Status::Closed);
        first.echo("unharmed");
        second.echo("unharmed");
    });
}

/// B8: After a stop, and before the start, every id is stale.
#[test]
fn ids_of_a_server_that_does_not_run() {
    isolated(|| {
        let (server, ids) = telling(non_blocking(1));
        let (_client, id) = connected(&server, &ids);
        server.stop().unwrap();
        assert_eq!(status(server.send(id, b"x")), Status::Closed);
        assert_eq!(status(server.wake(id)), Status::Closed);
        assert_eq!(status(server.broadcast(&[id], b"x")), Status::Closed);
        assert_eq!(status(server.close(id)), Status::Closed);
        assert_eq!(status(server.abort(id)), Status::Closed);
        assert!(server.connections().map_or(true, |all| all.is_empty()));
        let fresh = unstarted(non_blocking(1), Hooks::new(echo));
        assert_ne!(status(fresh.send(id, b"x")), Status::Ok);
    });
}

/// B9: `foreach` calls its function for each id of a snapshot, before it returns.
#[test]
fn connections_are_listed() {
    isolated(|| {
        let (server, ids) = telling(non_blocking(3));
        assert!(server.connections().unwrap().is_empty());
        let connections: Vec<_> = (0..20).map(|_| connected(&server, &ids)).collect();
        let mut expected: Vec<u64> = connections.iter().map(|(_, id)| id.get()).collect();
        let listed = || {
            let mut all: Vec<u64> =
                server.connections().unwrap().iter().map(|id| id.get()).collect();
            all.sort();
            all
        };
        expected.sort();
        eventually("on_open has taken them all", || listed() == expected);
        assert!(!expected.contains(&0));
        drop(connections);
        wait_idle(&server);
        assert!(listed().is_empty());
    });
}

/// B11: Many threads call at the same time, while connections come and go.
#[test]
fn calls_while_connections_come_and_go() {
    isolated(|| {
        let (server, _ids) = telling(non_blocking(2));
        std::thread::scope(|scope| {
            let traffic = scope.spawn(|| {
                for round in 0..150 {
                    let clients: Vec<_> = (0..4).map(|_| Client::connect(&server)).collect();
                    if round % 2 == 0 {
                        clients.into_iter().for_each(Client::reset);
                    }
                }
            });
            while !traffic.is_finished() {
                let all = server.connections().unwrap();
                let accepted = server.broadcast(&all, b"hello").unwrap();
                assert!(accepted <= all.len());
                for id in all {
                    assert!(matches!(status(server.wake(id)), Status::Ok | Status::Closed));
                    assert!(matches!(status(server.close(id)), Status::Ok | Status::Closed));
                }
            }
        });
        wait_idle(&server);
    });
}

/// B5, A3.2: A handler sends while another thread has closed its connection by id: what `send`
/// accepted leaves before the end, and the loop goes on.
#[test]
fn a_close_by_id_beside_a_send() {
    isolated(|| {
        let gate = Gate::new();
        let inside = gate.clone();
        let (hooks, ids) = Hooks::new(move |_, socket| {
            if text(socket)? == "hold" {
                inside.wait();
                socket.send(&pattern(BULK))?;
            }
            Ok(())
        })
        .telling_ids();
        let server = start(non_blocking(1), hooks);
        let mut client = Client::small(&server);
        let id = ids.next();
        client.send("hold");
        gate.reached_by(1);
        server.close(id).unwrap();
        gate.open();
        assert!(client.rest() == pattern(BULK));
        drop(client);
        wait_idle(&server);
        let _other = Client::connect(&server);
        ids.next();
    });
}

/// B10, A9.1: On a blocking server only close and abort work, and end a blocked `recv`.
#[test]
fn on_a_blocking_server() {
    isolated(|| {
        let (log, results) = events();
        let (hooks, ids) = Hooks::new(move |_, socket| {
            log.add(status(socket.recv(&mut [0; 8])));
            Ok(())
        })
        .telling_ids();
        let server = start(blocking(2), hooks);
        for call in ["close", "abort"] {
            let (mut client, id) = connected(&server, &ids);
            assert_eq!(status(server.send(id, b"x")), Status::NotNonBlocking);
            assert_eq!(status(server.wake(id)), Status::NotNonBlocking);
            assert_eq!(status(server.broadcast(&[id], b"x")), Status::NotNonBlocking);
            match call {
                "close" => server.close(id).unwrap(),
                _ => server.abort(id).unwrap(),
            }
            assert_eq!(results.next(), Status::Closed);
            match call {
                "close" => client.expect_end(),
                _ => client.expect_reset(),
            }
            drop(client);
            wait_idle(&server);
            assert_eq!(status(server.close(id)), Status::Closed);
            assert_eq!(status(server.abort(id)), Status::Closed);
        }
        let stats = server.stats();
        assert_eq!(stats.closed[CloseReason::Handler as usize], 1);
        assert_eq!(stats.closed[CloseReason::Abort as usize], 1);
    });
}

/// B9, A17: The list has those connections that `on_open` has accepted; the program may give an id
/// away before, in `on_open`.
#[test]
fn nobody_is_listed_before_on_open_has_taken_it() {
    isolated(|| {
        let gate = Gate::new();
        let inside = gate.clone();
        let (log, ids) = events();
        let refused = Arc::new(AtomicBool::new(false));
        let refuses = refused.clone();
        let hooks = Hooks::new(echo).on_open(move |_, socket| {
            log.add(socket.id());
            inside.wait();
            match refuses.load(Ordering::SeqCst) {
                true => Err("not you".into()),
                false => Ok(()),
            }
        });
        let server = start(non_blocking(2), hooks);
        let mut client = Client::connect(&server);
        let id = ids.next();
        assert_eq!(server.connections().unwrap(), []);
        server.send(id, b"by id").unwrap();
        gate.open();
        eventually("it is listed", || server.connections().unwrap() == [id]);
        client.expect("by id");
        client.echo("hello");
        drop(client);
        eventually("it is gone", || server.connections().unwrap().is_empty());
        refused.store(true, Ordering::SeqCst);
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::SeqCst) {
                    assert_eq!(server.connections().unwrap(), []);
                }
            });
            for _ in 0..50 {
                Client::connect(&server).expect_gone();
            }
            done.store(true, Ordering::SeqCst);
        });
    });
}
