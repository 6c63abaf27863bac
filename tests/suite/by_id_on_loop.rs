//! Calls by id that ask or end, those from callbacks of the same loop, and what `on_drain` says of
//! bytes by id.

use super::hosted::{host, hosted_with};
use crate::api::{ConnId, Hooks, Server, Status};
use crate::support::*;
use std::net::Shutdown;

fn stale() -> ConnId {
    ConnId::from_u64(0xdead_beef_dead_beef).unwrap()
}

/// An echo server that says when a queue has left.
fn draining(config: crate::api::Config) -> (Server, Events<ConnId>, Events<usize>) {
    let (log, drained) = events();
    let hooks = Hooks::new(echo).on_drain(move |_, socket| log.add(socket.queued()));
    let (hooks, ids) = hooks.telling_ids();
    (start(config, hooks), ids, drained)
}

/// B12: `ns_server_queued` counts what was accepted and is not with the kernel.
#[test]
fn queued_by_id() {
    isolated(|| {
        let (server, ids, drained) = draining(non_blocking(1));
        let mut client = Client::small(&server);
        let id = ids.next();
        assert_eq!(server.queued(id).unwrap(), 0);
        server.send(id, &pattern(BULK)).unwrap();
        let queued = server.queued(id).unwrap();
        assert!(queued > 0 && queued <= BULK + BULK / 16, "{queued}");
        assert!(client.receive(BULK) == pattern(BULK));
        drained.next();
        assert_eq!(server.queued(id).unwrap(), 0);
        assert_eq!(status(server.queued(stale())), Status::Closed);
        drop(client);
        eventually("it is gone", || status(server.queued(id)) == Status::Closed);
    });
}

/// B13: `ns_server_shutdown` ends the sending side after what was accepted before it, and nothing
/// is accepted after it; reading goes on.
#[test]
fn a_half_close_by_id() {
    isolated(|| {
        let (log, seen) = events();
        let hooks = Hooks::new(move |_, socket| {
            let text = text(socket)?;
            match text.is_empty() {
                true => Ok(socket.close()),
                false => Ok(log.add(text)),
            }
        });
        let (hooks, ids) = hooks.telling_ids();
        let server = start(non_blocking(1).linger_timeout(ms(10_000)), hooks);
        let mut client = Client::small(&server);
        let id = ids.next();
        server.send(id, &pattern(BULK)).unwrap();
        server.shutdown(id, Shutdown::Write).unwrap();
        assert_eq!(status(server.send(id, b"late")), Status::Closed);
        server.shutdown(id, Shutdown::Write).unwrap();
        assert!(client.rest() == pattern(BULK));
        client.send("goes on");
        assert_eq!(seen.next(), "goes on");
        assert_eq!(server.stats().open, 1);
        client.finish_sending();
        wait_idle(&server);
        assert_eq!(status(server.shutdown(id, Shutdown::Write)), Status::Closed);
    });
}

/// B13: It ends the receiving side too: the handler reads nothing more.
#[test]
fn the_end_of_reading_by_id() {
    isolated(|| {
        let (server, ids, drained) = draining(non_blocking(1));
        let mut client = Client::connect(&server);
        let id = ids.next();
        client.echo("before");
        server.shutdown(id, Shutdown::Read).unwrap();
        // Sending goes on, and what comes after it in the mail is done after it.
        server.send(id, b"by id").unwrap();
        client.expect("by id");
        drained.next();
        client.send("unread");
        client.expect_silence();
        server.shutdown(id, Shutdown::Both).unwrap();
        client.expect_end();
        server.abort(id).unwrap();
        wait_idle(&server);
    });
}

/// B10: On a blocking server they are NS_ERR_NOT_NON_BLOCKING.
#[test]
fn not_in_blocking_mode() {
    isolated(|| {
        let server = start(blocking(1), Hooks::new(echo));
        let results = [
            status(server.queued(stale())),
            status(server.shutdown(stale(), Shutdown::Both)),
            status(server.broadcast_each(&[stale()], b"x")),
        ];
        assert_eq!(results, [Status::NotNonBlocking; 3]);
    });
}

/// B14: `ns_server_broadcast_each` gives the status of each connection.
#[test]
fn a_status_for_each() {
    isolated(|| {
        let config = non_blocking(2).send_limit(1 << 20).high_water_mark(1 << 20);
        let (server, ids, _drained) = draining(config);
        let mut first = Client::small(&server);
        let full = ids.next();
        while server.send(full, &[0; 64 << 10]).is_ok() {}
        let mut second = Client::connect(&server);
        let open = ids.next();
        let results = server.broadcast_each(&[full, stale(), open, open], &[1; 64 << 10]).unwrap();
        let statuses: Vec<_> =
            results.into_iter().map(|result| result.err().unwrap_or(Status::Ok)).collect();
        // The kernel may have taken some of the first meanwhile.
        assert!([Status::BufferFull, Status::Ok].contains(&statuses[0]));
        assert_eq!(statuses[1..], [Status::Closed, Status::Ok, Status::Ok]);
        assert!(second.receive(128 << 10).iter().all(|byte| *byte == 1));
        assert!(server.broadcast_each(&[], b"x").unwrap().is_empty());
        first.receive(1);
    });
}

/// B15: What a callback sends to connections of its loop leaves before the handlers of the next
/// turn run: so a burst of messages is not queued up behind the handlers that send them.
#[test]
fn before_the_next_handlers() {
    isolated(|| {
        let (first, last) = (Gate::new(), Gate::new());
        let (held, holding) = (first.clone(), last.clone());
        let (hooks, ids) = Hooks::new(move |server: &Server, socket| {
            match text(socket)?.as_str() {
                "send" => {
                    server.broadcast(&server.connections()?, b"by id")?;
                    held.wait();
                }
                "hold" => holding.wait(),
                _ => socket.close(),
            }
            Ok(())
        })
        .telling_ids();
        let server = start(non_blocking(1), hooks);
        let mut clients: Vec<_> = (0..3).map(|_| Client::connect(&server).settled()).collect();
        ids.take(3);
        clients[0].send("send");
        first.reached_by(1);
        // When the loop looks again, the bytes by id and this one's input are there.
        clients[1].send("hold");
        first.open();
        last.reached_by(1);
        clients[2].expect("by id");
        assert_eq!(last.waiting(), 1);
        last.open();
        clients[1].expect("by id");
    });
}

/// B15, A3.1: Between two connections of a loop the order is that of the calls, in tasks too, and in
/// a hosted server.
#[test]
fn sends_of_a_callback_to_another_connection() {
    isolated(|| {
        let run = |server: &Server| {
            let (mut first, mut second) = (Client::connect(server), Client::connect(server));
            first.echo("ready");
            second.echo("ready");
            let ids = server.connections().unwrap();
            assert_eq!(ids.len(), 2);
            first.send("to all");
            for client in [&mut first, &mut second] {
                client.expect("0123456789");
            }
        };
        let hooks = || {
            Hooks::new(|server: &Server, socket| {
                let word = text(socket)?;
                if word != "to all" {
                    return socket.send(word.as_bytes());
                }
                for digit in 0..10 {
                    server.broadcast(&server.connections()?, format!("{digit}").as_bytes())?;
                }
                Ok(())
            })
        };
        run(&start(non_blocking(1), hooks()));
        let server = hosted_with(non_blocking(1), hooks());
        host(&server, || run(&server));
    });
}

/// A17: A half-close by id in the first callback does not list the connection before that callback
/// has accepted it.
#[test]
fn a_half_close_in_the_first_callback() {
    isolated(|| {
        let (log, listed) = events();
        let hooks = Hooks::new(|_, socket| {
            text(socket)?;
            Ok(())
        })
        .on_open(move |server, socket| {
            server.shutdown(socket.id(), Shutdown::Write)?;
            Ok(log.add((socket.id(), server.connections()?)))
        });
        let server = start(non_blocking(1), hooks);
        let mut client = Client::connect(&server);
        client.expect_end();
        let (id, before) = listed.next();
        assert_eq!(before, []);
        eventually("it is listed", || server.connections().unwrap() == [id]);
    });
}

/// A11.2: `on_drain` comes for bytes by id also where the kernel takes them immediately, so that a
/// producer may wait for it before it goes on.
#[test]
fn a_producer_that_waits_for_on_drain() {
    isolated(|| {
        let (server, ids, drained) = draining(non_blocking(1));
        let mut client = Client::connect(&server);
        let id = ids.next();
        for _ in 0..50 {
            server.send(id, b"little").unwrap();
            assert_eq!(drained.next(), 0);
        }
        client.expect("little".repeat(50));
        drained.none();
    });
}

/// A11.2: So it does where they were sent in the connection's own callback, behind direct sends.
#[test]
fn on_drain_for_bytes_of_the_own_callback() {
    isolated(|| {
        let (log, drained) = events();
        let hooks = Hooks::new(|server: &Server, socket| {
            text(socket)?;
            server.send(socket.id(), b"1")?;
            socket.send(b"2")?;
            socket.send(b"3")?;
            server.send(socket.id(), b"4")
        })
        .on_drain(move |_, _| log.add(()));
        let server = start(non_blocking(1), hooks);
        let mut client = Client::connect(&server).saying("x");
        client.expect("1234");
        drained.next();
    });
}

/// Q8: With a low-water mark `on_drain` comes when no more than that is queued, before the queue is
/// empty, and once for each time.
#[test]
fn on_drain_at_the_low_water_mark() {
    isolated(|| {
        const LOW: usize = 1 << 20;
        let (log, drained) = events();
        let hooks = Hooks::new(bulk).on_drain(move |_, socket| log.add(socket.queued()));
        let server = start(non_blocking(1).low_water_mark(LOW), hooks);
        let mut client = Client::small(&server);
        for _ in 0..2 {
            client.send("x");
            client.receive(1);
            drained.none();
            assert!(client.receive(BULK - 1) == pattern(BULK)[1..]);
            let queued = drained.next();
            assert!(queued <= LOW, "{queued}");
            drained.none();
        }
    });
}

/// Q8: A producer that goes on at the mark keeps the queue from running empty; a queue that is
/// never above it is reported too.
#[test]
fn a_producer_with_a_low_water_mark() {
    isolated(|| {
        const ROUNDS: usize = 5;
        let (server, ids, drained) = draining(non_blocking(1).low_water_mark(64 << 10));
        let mut client = Client::small(&server);
        let id = ids.next();
        server.send(id, b"little").unwrap();
        assert_eq!(drained.next(), 0);
        client.expect("little");
        std::thread::scope(|scope| {
            let server = &server;
            scope.spawn(move || {
                for _ in 0..ROUNDS {
                    server.send(id, &pattern(BULK)).unwrap();
                    assert!(drained.next() <= 64 << 10);
                }
            });
            for _ in 0..ROUNDS {
                assert!(client.receive(BULK) == pattern(BULK));
            }
        });
    });
}
