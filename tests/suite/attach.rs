//! Attach.

use super::detach::{detached, detaching, exchange};
use crate::api::{CloseReason, Hooks, OwnedSocket, Server, Status};
use crate::support::*;

/// D14: An attached socket is served again: a new id, no second `on_open`, one `on_close`.
#[test]
fn attach_gives_it_back() {
    isolated(|| {
        let (log, owned) = events();
        let (call_log, calls) = events();
        let (opens, closes) = (call_log.clone(), call_log.clone());
        let hooks = Hooks::new(move |server: &Server, socket| match text(socket)?.as_str() {
            "" => Ok(socket.close()),
            "detach" => Ok(log.add((socket.id(), server.detach(socket)?))),
            other => {
                call_log.add(format!("{other} {}", socket.id().get()));
                socket.send(other.as_bytes())
            }
        })
        .on_open(move |_, _| {
            opens.add("open".to_owned());
            Ok(())
        })
        .on_close(move |_, _, reason| closes.add(format!("{reason:?}")));
        let server = start(non_blocking(2), hooks);
        let mut client = Client::connect(&server);
        assert_eq!(calls.next(), "open");
        let mut ids = Vec::new();
        for round in 1..=3 {
            client.send("detach");
            let (old, socket): (_, OwnedSocket) = owned.next();
            ids.push(old);
            eventually("it has left", || server.stats().open == 0);
            assert_eq!(status(server.wake(old)), Status::Closed, "its old id is stale");
            let new = server.attach(socket).unwrap();
            assert!(!ids.contains(&new));
            client.echo("hello");
            assert_eq!(calls.next(), format!("hello {}", new.get()));
            assert_eq!(server.connections().unwrap(), [new]);
            assert_eq!(server.stats().attached, round);
        }
        client.finish_sending();
        client.expect_end();
        drop(client);
        assert_eq!(calls.next(), "Peer");
        wait_idle(&server);
        assert!(calls.drain().is_empty());
        let stats = server.stats();
        assert_eq!((stats.accepted, stats.attached, stats.detached), (1, 3, 3));
        assert_eq!(stats.closed[CloseReason::Peer as usize], 1);
    });
}

/// D15: It goes back to its former loop.
#[test]
fn attach_on_the_former_loop() {
    isolated(|| {
        let (log, owned) = events();
        let (thread_log, threads) = events();
        let hooks = Hooks::new(move |server: &Server, socket| {
            thread_log.add(thread_number());
            match text(socket)?.as_str() {
                "detach" => Ok(log.add(server.detach(socket)?)),
                _ => Ok(()),
            }
        });
        let server = start(non_blocking(3), hooks);
        let mut clients: Vec<_> = (0..6).map(|_| Client::connect(&server)).collect();
        for client in &mut clients {
            client.send("detach");
            let thread = threads.next();
            server.attach(owned.next()).unwrap();
            client.send("hello");
            assert_eq!(threads.next(), thread);
        }
    });
}

/// D16: The handler runs if bytes wait at the attach, and unsent bytes go back as well.
#[test]
fn attach_with_bytes_both_ways() {
    isolated(|| {
        let (log, owned) = events();
        let hooks = Hooks::new(move |server: &Server, socket| match text(socket)?.as_str() {
            "detach" => {
                socket.send(&pattern(BULK))?;
                Ok(log.add(server.detach(socket)?))
            }
            other => socket.send(other.as_bytes()),
        });
        let server = start(non_blocking(1), hooks);
        let mut client = Client::small(&server).saying("detach");
        let socket: OwnedSocket = owned.next();
        client.send("waiting");
        server.attach(socket).unwrap();
        assert!(client.receive(BULK) == pattern(BULK));
        client.expect("waiting");
    });
}

/// D17: Unsent bytes that the program owned for a long time have the whole `write_timeout` again.
#[test]
fn attach_long_after_the_write_timeout() {
    isolated(|| {
        let (log, owned) = events();
        let place: std::sync::Mutex<Option<OwnedSocket>> = Default::default();
        let place = std::sync::Arc::new(place);
        let taken = place.clone();
        let hooks = Hooks::new(move |server: &Server, socket| match text(socket)?.as_str() {
            "detach" => {
                socket.send(&pattern(BULK))?;
                Ok(log.add(server.detach(socket)?))
            }
            // On the loop that gets it: before it can see that the socket is writable.
            _ => Ok(drop(server.attach(taken.lock().unwrap().take().unwrap()))),
        });
        let server = start(non_blocking(1).write_timeout(ms(1500)), hooks);
        let mut client = Client::small(&server).saying("detach");
        *place.lock().unwrap() = Some(owned.next());
        let_pass(ms(1700));
        let _other = Client::connect(&server).saying("attach");
        assert!(client.receive(BULK) == pattern(BULK));
    });
}

/// A3.5: A wake that was accepted comes, although the connection was detached before.
#[test]
fn a_wake_goes_along() {
    isolated(|| {
        let (log, results) = events();
        let (wake_log, wakes) = events();
        let hooks = Hooks::new(move |server: &Server, socket| {
            text(socket)?;
            server.wake(socket.id())?;
            let owned = server.detach(socket)?;
            Ok(log.add(server.attach(owned).map_err(|failed| failed.error)))
        })
        .on_wake(move |_, socket| wake_log.add(socket.id()));
        let server = start(non_blocking(1), hooks);
        let _client = Client::connect(&server).saying("x");
        let id = results.next().unwrap();
        assert_eq!(wakes.next(), id);
        wakes.none();
    });
}

/// A3.5: A wake comes after the attach, however soon the connection is detached again.
#[test]
fn a_wake_goes_along_twice() {
    isolated(|| {
        let (log, owned) = events();
        let (wake_log, wakes) = events();
        let hooks = Hooks::new(move |server: &Server, socket| {
            match text(socket)?.as_str() {
                "" => return Ok(socket.close()),
                "wake" => server.wake(socket.id())?,
                _ => {}
            }
            Ok(log.add(server.detach(socket)?))
        })
        .on_wake(move |_, _| wake_log.add(()));
        let server = start(non_blocking(1), hooks);
        for _ in 0..200 {
            let mut client = Client::connect(&server).saying("wake");
            let socket = owned.next();
            // Its handler detaches it as soon as the loop has it.
            client.send("again");
            let_pass(ms(1));
            server.attach(socket).unwrap();
            server.attach(owned.next()).unwrap();
            wakes.next();
            drop(client);
        }
        wakes.none();
    });
}

/// A3.5, A11.2: `on_drain` comes for what was accepted by id, although it left with the detach.
#[test]
fn a_queue_that_left_with_the_detach_is_told() {
    isolated(|| {
        let (log, results) = events();
        let (drain_log, drains) = events();
        let hooks = Hooks::new(move |server: &Server, socket| {
            text(socket)?;
            server.send(socket.id(), b"by id")?;
            let owned = server.detach(socket)?;
            Ok(log.add(server.attach(owned).map_err(|failed| failed.error)))
        })
        .on_drain(move |_, _| drain_log.add(()));
        let server = start(non_blocking(1), hooks);
        let mut client = Client::connect(&server).saying("x");
        client.expect("by id");
        results.next().unwrap();
        drains.next();
        drains.none();
    });
}

/// D17: The deadlines of a connection count from `attach` on, also where nothing can be read or
/// written that would wake the loop.
#[test]
fn attach_with_nothing_to_be_done() {
    isolated(|| {
        let (server, owned) = detaching(non_blocking(1));
        let (reasons, closes) = events();
        let hooks = Hooks::new(echo).on_close(move |_, _, reason| reasons.add(reason));
        let other = start(non_blocking(1).idle_timeout(ms(200)), hooks);
        let client = Client::small(&server).saying("detach");
        let mut socket = owned.next();
        socket.socket().set_io_timeout(Some(ms(100))).unwrap();
        // More than the kernel has room for.
        while socket.socket().send(&pattern(BULK)).is_ok() {}
        other.attach(socket).unwrap();
        assert_eq!(closes.next(), CloseReason::Idle);
        drop(client);
    });
}

/// D5: User data survives the way out and back.
#[test]
fn attach_keeps_user_data() {
    isolated(|| {
        let (log, owned) = events();
        let hooks = Hooks::new(move |server: &Server, socket| {
            if text(socket)? == "detach" {
                return Ok(log.add(server.detach(socket)?));
            }
            let data = socket.user_data::<String>().cloned().unwrap_or_default();
            socket.send(data.as_bytes())
        });
        let server = start(non_blocking(1), hooks);
        let (mut client, mut socket) = detached(&server, &owned);
        socket.socket().set_user_data(String::from("kept"));
        server.attach(socket).unwrap();
        client.send("what?");
        client.expect("kept");
    });
}

/// D20: What `on_start` attached to a server whose start then fails is ended in order.
#[test]
fn attached_before_a_start_that_fails() {
    isolated(|| {
        for loops in [1, 2] {
            let (log, owned) = events();
            let first = start(
                non_blocking(1),
                Hooks::new(move |server: &Server, socket| {
                    text(socket)?;
                    Ok(log.add(server.detach(socket)?))
                }),
            );
            let (mut client, socket) = detached(&first, &owned);
            let (reasons, closes) = events();
            let place = std::sync::Mutex::new(Some(socket));
            let hooks = Hooks::new(echo)
                .on_start(move |server: &Server| {
                    let socket = place.lock().unwrap().take().expect("started once");
                    assert!(server.attach(socket).is_ok());
                    Err("not today".into())
                })
                .on_close(move |_, _, reason| reasons.add(reason));
            let second = unstarted(non_blocking(loops), hooks);
            assert_eq!(status(second.start_background()), Status::Hook);
            // Whether the peer has acknowledged what it got before is not for us to say.
            assert!(matches!(closes.next(), CloseReason::Stop | CloseReason::Cut));
            client.expect_end();
        }
    });
}

/// D17: An attached connection has its idle timeout and its timer.
#[test]
fn attach_with_deadlines() {
    isolated(|| {
        let (log, owned) = events();
        let (timeout_log, timeouts) = events();
        let hooks = Hooks::new(move |server: &Server, socket| match text(socket)?.as_str() {
            "detach" => Ok(log.add(server.detach(socket)?)),
            "timer" => socket.set_timer(Some(ms(200))),
            _ => Ok(()),
        })
        .on_timeout(move |_, _| timeout_log.add(()));
        let server = start(non_blocking(1).idle_timeout(ms(1500)), hooks);
        let (mut client, socket) = detached(&server, &owned);
        server.attach(socket).unwrap();
        client.send("timer");
        timeouts.next();
        client.send("detach");
        let socket = owned.next();
        // Deadlines of its time in the server are over when it comes back.
        let_pass(ms(1600));
        let clock = Stopwatch::start();
        server.attach(socket).unwrap();
        client.expect_gone();
        clock.kept(ms(1500));
        drop(client);
        wait_idle(&server);
        assert_eq!(server.stats().closed[CloseReason::Idle as usize], 1);
    });
}

/// D15: Attaching on another server, which then serves it on its least busy loop.
#[test]
fn attach_on_another_server() {
    isolated(|| {
        let (server, owned) = detaching(non_blocking(1));
        let other = start(non_blocking(2), Hooks::new(echo));
        let mut busy = Client::connect(&other);
        busy.echo("hello");
        let (mut client, socket) = detached(&server, &owned);
        other.attach(socket).unwrap();
        drop(server);
        client.echo("served by the other");
        let active: Vec<_> = (0..2).map(|i| other.thread_stats(i).unwrap().active).collect();
        assert_eq!(active, [1, 1]);
        client.finish_sending();
        client.expect_end();
        drop((client, busy));
        wait_idle(&other);
        let stats = other.stats();
        assert_eq!((stats.accepted, stats.attached, stats.closed_total()), (1, 1, 2));
    });
}

/// D18: Where an attach fails the caller still owns the socket: on blocking, unstarted and stopped
/// servers.
#[test]
fn a_failed_attach_leaves_the_socket_to_the_caller() {
    isolated(|| {
        let (server, owned) = detaching(non_blocking(1));
        let (mut client, mut socket) = detached(&server, &owned);
        server.stop().unwrap();
        let stopped = server;
        let pool = start(blocking(1), Hooks::new(echo));
        let unstarted = unstarted(non_blocking(1), Hooks::new(echo));
        let cases = [
            (&pool, Status::NotNonBlocking),
            (&stopped, Status::State),
            (&unstarted, Status::State),
        ];
        for (server, expected) in cases {
            let failure = server.attach(socket).expect_err("attached");
            assert_eq!(failure.error.status(), expected);
            socket = failure.socket;
            exchange(&mut client, &mut socket, "still mine");
        }
    });
}

/// D21: An attach does not ask for `max_connections`.
#[test]
fn attach_beyond_max_connections() {
    isolated(|| {
        let (server, owned) = detaching(non_blocking(1).max_connections(1));
        let (mut first, socket) = detached(&server, &owned);
        let mut second = Client::connect(&server);
        second.echo("one is open");
        server.attach(socket).unwrap();
        first.echo("two are open");
        assert_eq!(server.stats().open, 2);
    });
}

/// D19: A detach and an attach take place inside one callback.
#[test]
fn detach_and_attach_inside_the_handler() {
    isolated(|| {
        let hooks = Hooks::new(move |server: &Server, socket| {
            let word = text(socket)?;
            if word.is_empty() {
                return Ok(socket.close());
            }
            let mut owned = server.detach(socket)?;
            owned.socket().send(word.as_bytes())?;
            server.attach(owned).map(drop).map_err(|failure| failure.error)
        });
        let server = start(non_blocking(2), hooks);
        let mut client = Client::connect(&server);
        for i in 0..50 {
            client.echo(&format!("round {i}"));
        }
        client.finish_sending();
        client.expect_end();
        drop(client);
        wait_idle(&server);
        assert_eq!(server.stats().attached, 50);
    });
}
