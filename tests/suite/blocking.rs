//! Workers, the end of a handler, and the close after it.

use crate::api::{CloseReason, Config, ConnId, Error, Hooks, Server, Socket, Status, TLS};
use crate::support::*;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;

/// Counts how many callbacks are inside at the same time.
#[derive(Clone, Default)]
struct Crowd(Arc<(AtomicUsize, AtomicUsize)>);

impl Crowd {
    fn visit(&self, stay: impl FnOnce()) {
        let now = self.0 .0.fetch_add(1, Ordering::SeqCst) + 1;
        self.0 .1.fetch_max(now, Ordering::SeqCst);
        stay();
        self.0 .0.fetch_sub(1, Ordering::SeqCst);
    }

    fn most(&self) -> usize {
        self.0 .1.load(Ordering::SeqCst)
    }
}

/// Replies to the first byte, and does not read what comes then. Only what the kernel holds is sure
/// to be unread: a TLS session reads ahead.
fn hasty(_: &Server, socket: &mut Socket<'_>) -> Result<(), Error> {
    socket.recv(&mut [0; 1])?;
    socket.send(b"reply")?;
    eventually("more arrives", || bytes_waiting(socket.raw_fd()) > 0);
    Ok(())
}

/// A client of `hasty` whose connection lingers.
fn lingering(server: &Server) -> Client {
    let mut client = Client::connect(server).saying("x");
    client.expect("reply");
    client.send("unread input");
    client.expect_end();
    client
}

/// W1: The default is one worker in blocking mode.
#[test]
fn the_default_is_one_worker() {
    isolated(|| {
        let server = start(Config::new(), Hooks::new(echo));
        assert_eq!(server.stats().threads, 1);
        assert!(!server.stats().non_blocking);
        Client::connect(&server).echo("hello");
        assert_eq!(count_threads_named("ns-w"), 1);
    });
}

/// A22.2: With one worker one connection is served at a time; the others wait, longer than any
/// retry takes, and none is refused.
#[test]
fn one_worker_never_refuses() {
    isolated(|| {
        let (crowd, gate) = (Crowd::default(), Gate::new());
        let (counted, inside) = (crowd.clone(), gate.clone());
        let config = blocking(1).max_retry(1).retry_interval(ms(20)).max_waiting(1);
        let server = start(
            config,
            Hooks::new(move |_, socket| {
                counted.visit(|| inside.wait());
                socket.send(b"served")
            }),
        );
        let mut clients: Vec<_> = (0..8).map(|_| Client::connect(&server)).collect();
        gate.reached_by(1);
        steadily("one at a time, none refused", || {
            gate.waiting() == 1 && server.stats().refused == 0
        });
        gate.open();
        for client in &mut clients {
            client.expect_last("served");
        }
        wait_idle(&server);
        assert_eq!(crowd.most(), 1);
        assert_eq!((server.stats().refused, server.stats().accepted), (0, 8));
    });
}

/// W2: At most `max_thread` handlers run at the same time, and that many do.
#[test]
fn at_most_max_thread_handlers_at_once() {
    isolated(|| {
        let (crowd, gate) = (Crowd::default(), Gate::new());
        let (counted, inside) = (crowd.clone(), gate.clone());
        let server = start(
            blocking(3),
            Hooks::new(move |_, socket| {
                counted.visit(|| inside.wait());
                socket.send(b"served")
            }),
        );
        let mut clients: Vec<_> = (0..12).map(|_| Client::connect(&server)).collect();
        gate.reached_by(3);
        eventually("nine wait", || server.stats().waiting == 9);
        assert_eq!(server.stats().active_threads, 3);
        assert_eq!(gate.waiting(), 3);
        gate.open();
        for client in &mut clients {
            client.expect_last("served");
        }
        wait_idle(&server);
        assert_eq!(crowd.most(), 3);
        assert_eq!(server.stats().accepted, 12);
    });
}

/// W2: A slow client holds its own worker and no other.
#[test]
fn idle_workers_serve_beside_a_busy_one() {
    isolated(|| {
        let server = start(blocking(2), Hooks::new(echo));
        let mut slow = Client::connect(&server);
        slow.echo("first word");
        for i in 0..50 {
            Client::connect(&server).echo(&format!("quick {i}"));
        }
        slow.echo("last word");
    });
}

/// W3: The handler runs once per connection, may block, and the socket is closed after it.
#[test]
fn the_handler_runs_once_and_the_socket_is_closed() {
    isolated(|| {
        let (log, calls) = events();
        let server = start(
            blocking(2),
            Hooks::new(move |_, socket| {
                let first = text(socket)?;
                let second = text(socket)?;
                log.add((first, second));
                socket.send(b"bye")
            }),
        );
        let mut client = Client::connect(&server).saying("one");
        calls.none();
        client.send("two");
        client.expect_last("bye");
        assert_eq!(calls.next(), ("one".into(), "two".into()));
        calls.none();
        drop(client);
        wait_idle(&server);
        assert_eq!(server.stats().closed[CloseReason::Handler as usize], 1);
    });
}

/// W4: A handler may close the socket itself; what follows is an error, not a crash.
#[test]
fn the_handler_may_close_by_itself() {
    isolated(|| {
        let (log, results) = events();
        let server = start(
            blocking(1),
            Hooks::new(move |_, socket| {
                socket.send(b"bye")?;
                socket.close();
                socket.close();
                log.add((
                    socket.is_closed(),
                    status(socket.send(b"x")),
                    status(socket.recv(&mut [0; 1])),
                ));
                Ok(())
            }),
        );
        Client::connect(&server).expect_last("bye");
        assert_eq!(results.next(), (true, Status::Closed, Status::Closed));
        wait_idle(&server);
    });
}

/// W5: Where a handler fails, the exception handler runs while the socket is open, and may send;
/// then the socket is closed.
#[test]
fn a_failing_handler_closes_after_the_exception_handler() {
    isolated(|| {
        let (log, errors) = events();
        let server = start(
            blocking(2),
            Hooks::new(|_, socket| {
                text(socket)?;
                Err("broken".into())
            })
            .on_exception(move |_, socket, error| {
                let socket = socket.expect("a socket");
                log.add((socket.is_closed(), error.message().to_owned()));
                socket.send(b"sorry")
            }),
        );
        let mut client = Client::connect(&server).saying("x");
        client.expect_last("sorry");
        drop(client);
        assert_eq!(errors.next(), (false, "broken".into()));
        wait_idle(&server);
        assert_eq!(server.stats().handler_errors, 1);
        assert_eq!(server.stats().closed[CloseReason::Error as usize], 1);
    });
}

/// W6: No path leaks a socket: success, failure, panic, the handler's own close, abort, and the
/// same in the exception handler.
#[test]
fn no_path_leaks_a_socket() {
    isolated(|| {
        let act = |socket: &mut Socket<'_>, what: &str| match what {
            "fail" => Err("failed".into()),
            "panic" => panic!("on purpose"),
            "close" => Ok(socket.close()),
            "abort" => Ok(socket.abort()),
            _ => Ok(()),
        };
        let server = start(
            blocking(2),
            Hooks::new(move |_, socket| {
                let command = text(socket)?;
                let (first, second) = command.split_once(' ').unwrap_or((&command, ""));
                socket.set_user_data(second.to_owned());
                act(socket, first)
            })
            .on_exception(move |_, socket, _| {
                let socket = socket.expect("a socket");
                let then = socket.user_data::<String>().cloned().unwrap_or_default();
                act(socket, &then)
            }),
        );
        let sockets = count_sockets();
        let mut count = 0;
        for first in ["ok", "close", "abort", "fail", "panic"] {
            for second in ["ok", "close", "abort", "fail", "panic"] {
                let mut client = Client::connect(&server).saying(format!("{first} {second}"));
                client.expect_gone();
                count += 1;
            }
        }
        wait_idle(&server);
        assert_eq!(server.stats().accepted, count);
        eventually("the descriptors are closed", || count_sockets() == sockets);
    });
}

/// A5.1: Where input is unread, no reset destroys the reply.
#[test]
fn the_reply_survives_unread_input() {
    isolated(|| {
        let reply = pattern(200_000);
        let copy = reply.clone();
        let server = start(
            blocking(2),
            Hooks::new(move |_, socket| {
                socket.recv(&mut [0; 1])?;
                socket.send(&copy)
            }),
        );
        for _ in 0..10 {
            let mut client = Client::connect(&server).saying(vec![b'?'; 300_000]);
            assert!(client.rest() == reply);
        }
    });
}

/// A5.1: Input that comes after the close is discarded as well, and the peer's close ends it.
#[test]
fn late_input_is_discarded() {
    isolated(|| {
        let server = start(blocking(1).linger_timeout(ms(10_000)), Hooks::new(hasty));
        let sockets = count_sockets();
        let mut client = lingering(&server);
        for _ in 0..20 {
            client.send(vec![b'x'; 30_000]);
        }
        let clock = Stopwatch::start();
        drop(client);
        eventually("it is closed", || count_sockets() == sockets);
        clock.at_once();
        wait_idle(&server);
    });
}

/// W9: No worker waits for a lingering close.
#[test]
fn no_worker_lingers() {
    isolated(|| {
        let server = start(blocking(1).linger_timeout(ms(20_000)), Hooks::new(hasty));
        let clock = Stopwatch::start();
        let _clients: Vec<_> = (0..5).map(|_| lingering(&server)).collect();
        clock.at_once();
    });
}

/// C2: The wait for the peer takes `linger_timeout`, not less and not more.
#[test]
fn lingering_is_bounded() {
    isolated(|| {
        let server = start(blocking(2).linger_timeout(ms(1500)), Hooks::new(hasty));
        let sockets = count_sockets();
        let clock = Stopwatch::start();
        let _client = lingering(&server);
        assert_eq!(count_sockets(), sockets + 2, "client and lingering server side");
        eventually("it is closed", || count_sockets() == sockets + 1);
        clock.kept(ms(1500));
        wait_idle(&server);
    });
}

/// C4: Where nothing is unread the descriptor is closed immediately, whatever the linger timeout.
#[test]
fn nothing_unread_closes_at_once() {
    isolated(|| {
        let server = start(
            blocking(2).linger_timeout(ms(30_000)),
            Hooks::new(|_, socket| {
                text(socket)?;
                socket.send(b"reply")
            }),
        );
        let sockets = count_sockets();
        let mut client = Client::connect(&server).saying("x");
        let clock = Stopwatch::start();
        client.expect_last("reply");
        if TLS {
            // The last records may not be acknowledged yet, and late input could harm them.
            drop(client);
            eventually("it is closed", || count_sockets() == sockets);
        } else {
            eventually("it is closed", || count_sockets() == sockets + 1);
        }
        clock.at_once();
    });
}

/// C3: Where the end of the stream was seen, the close is immediate and has its own reason.
#[test]
fn end_of_stream_closes_at_once() {
    isolated(|| {
        let server = start(
            blocking(2).linger_timeout(ms(30_000)),
            Hooks::new(|_, socket| {
                while socket.recv(&mut [0; 100])? > 0 {}
                socket.send(b"reply")
            }),
        );
        let sockets = count_sockets();
        let mut client = Client::connect(&server).saying("x");
        client.finish_sending();
        client.expect_last("reply");
        eventually("it is closed", || count_sockets() == sockets + 1);
        wait_idle(&server);
        assert_eq!(server.stats().closed[CloseReason::Peer as usize], 1);
    });
}

/// W7: `send` sends everything or fails, also where the peer reads slowly.
#[test]
fn send_waits_for_a_slow_reader() {
    isolated(|| {
        let bulk = pattern(BULK);
        let copy = bulk.clone();
        let server = start(blocking(1), Hooks::new(move |_, socket| socket.send(&copy)));
        let mut client = Client::small(&server);
        assert!(client.rest() == bulk);
    });
}

/// C5: An abort resets the connection, whatever is queued.
#[test]
fn abort_resets() {
    isolated(|| {
        let server = start(
            blocking(1),
            Hooks::new(|_, socket| {
                text(socket)?;
                socket.abort();
                Ok(())
            }),
        );
        let mut client = Client::connect(&server).saying("x");
        client.expect_reset();
        wait_idle(&server);
        assert_eq!(server.stats().closed[CloseReason::Abort as usize], 1);
    });
}

/// W8: The pool has `max_thread` + 1 equal threads at most.
#[test]
fn the_pool_is_small() {
    isolated(|| {
        let server = start(blocking(4), Hooks::new(echo));
        assert_eq!(server.stats().threads, 4);
        // A thread gives itself its name.
        eventually("workers", || (4..=5).contains(&count_threads_named("ns-w")));
    });
}

/// W17: A connection that waits and is closed by id makes room for the next.
#[test]
fn a_close_by_id_makes_room() {
    isolated(|| {
        let gate = Gate::new();
        let inside = gate.clone();
        let hooks = Hooks::new(move |_, socket| {
            inside.wait();
            socket.send(b"served")
        });
        let (hooks, ids) = hooks.telling_ids();
        let server = start(blocking(2).max_connections(3).retry_interval(SOON), hooks);
        let busy = [Client::connect(&server), Client::connect(&server)];
        let last = ids.take(2).into_iter().map(ConnId::get).max().unwrap();
        gate.reached_by(2);
        let mut waiting = Client::connect(&server).saying("not read");
        eventually("one waits", || server.stats().waiting == 1);
        let mut next = Client::connect(&server);
        steadily("it is not accepted", || server.stats().accepted == 3);
        server.close(ConnId::from_u64(last + 1).unwrap()).unwrap();
        eventually("the next one is accepted", || server.stats().accepted == 4);
        waiting.expect_gone();
        gate.open();
        next.expect_last("served");
        drop((busy, waiting));
    });
}

/// A5.2: Such a close is in order, although nobody reads what the client has sent.
#[test]
fn a_close_by_id_of_one_that_waits_is_in_order() {
    isolated(|| {
        let gate = Gate::new();
        let inside = gate.clone();
        let (hooks, ids) = Hooks::new(move |_, _| Ok(inside.wait())).telling_ids();
        let server = start(blocking(2).retry_interval(SOON), hooks);
        let busy = [Client::connect(&server), Client::connect(&server)];
        let last = ids.take(2).into_iter().map(ConnId::get).max().unwrap();
        for (id, abort) in [(last + 1, false), (last + 2, true)] {
            let mut waiting = Client::plain(("127.0.0.1", server.port())).saying("not read");
            eventually("one waits", || server.stats().waiting == 1);
            let id = ConnId::from_u64(id).unwrap();
            match abort {
                true => server.abort(id).unwrap(),
                false => server.close(id).unwrap(),
            }
            match abort {
                true => waiting.expect_reset(),
                false => waiting.expect_end(),
            }
        }
        gate.open();
        drop(busy);
    });
}
