//! Bytes by id from a callback of the loop that has the connection.

use super::hosted::{host, hosted_with};
use crate::api::{ConnId, Error, Hooks, Server, Status};
use crate::support::*;
use std::sync::{Arc, Mutex};

/// The connections of a server, in the order in which they came.
type Members = Arc<Mutex<Vec<ConnId>>>;

/// A server that calls `publish` for each message, with the connections beside the one that sent
/// it.
fn publishing(
    publish: impl Fn(&Server, &[ConnId]) -> Result<(), Error> + Send + Sync + 'static,
) -> Hooks {
    let members: Members = Arc::default();
    let known = members.clone();
    Hooks::new(move |server: &Server, socket| {
        let word = text(socket)?;
        if word != "publish" {
            return socket.send(word.as_bytes());
        }
        let others: Vec<_> = {
            let members = members.lock().unwrap();
            members.iter().copied().filter(|id| *id != socket.id()).collect()
        };
        publish(server, &others)
    })
    .on_open(move |_, socket| Ok(known.lock().unwrap().push(socket.id())))
}

/// The publisher and one other client of a server.
fn two(server: &Server) -> (Client, Client) {
    let [mut first, mut second] = [(); 2].map(|()| Client::connect(server));
    first.echo("ready");
    second.echo("ready");
    (first, second)
}

/// B15: The first bytes that a callback sends to another connection of its loop leave immediately;
/// what comes after them leaves when the callback has returned.
#[test]
fn the_first_bytes_leave_in_the_callback() {
    isolated(|| {
        let gate = Gate::new();
        let inside = gate.clone();
        let hooks = publishing(move |server, others| {
            server.broadcast(others, b"first")?;
            server.send(others[0], b"second")?;
            server.send(others[0], b"third")?;
            Ok(inside.wait())
        });
        let server = start(non_blocking(1), hooks);
        let (mut publisher, mut other) = two(&server);
        publisher.send("publish");
        other.expect("first");
        other.expect_silence();
        gate.open();
        other.expect("secondthird");
        // Its own callbacks send as before, and the next callback sends immediately again.
        other.echo("own");
        gate.close();
        publisher.send("publish");
        other.expect("first");
        gate.open();
        other.expect("secondthird");
    });
}

/// B15: So it is in a timer, in a task, and in a hosted server.
#[test]
fn from_a_timer_and_a_task() {
    isolated(|| {
        let server = start(non_blocking(1), Hooks::new(echo));
        let (mut first, mut second) = two(&server);
        for round in 0..2 {
            let gate = Gate::new();
            let inside = gate.clone();
            let send = move |server: &Server| {
                server.broadcast(&server.connections()?, b"now")?;
                Ok(inside.wait())
            };
            if round == 0 {
                server.post(0, send).unwrap();
            } else {
                server.add_timer(0, ms(0), None, move |server, _| send(server)).unwrap();
            }
            first.expect("now");
            second.expect("now");
            gate.open();
        }
        let hooks = publishing(|server, others| server.send(others[0], b"hosted"));
        let server = hosted_with(non_blocking(1), hooks);
        host(&server, || {
            let (mut publisher, mut other) = two(&server);
            publisher.send("publish");
            other.expect("hosted");
        });
    });
}

/// B15, A3.1: Bytes that the kernel does not take at once are queued, in order with all others.
#[test]
fn to_a_client_that_reads_late() {
    isolated(|| {
        const PIECES: usize = 64;
        let piece = pattern(BULK / PIECES);
        let (log, sent) = events();
        let hooks = publishing(move |server, others| {
            for at in 0..PIECES {
                // Large ones are shared between the receivers, small ones copied.
                let part = &piece[..if at % 2 == 0 { piece.len() } else { 1000 }];
                server.broadcast(others, part)?;
            }
            Ok(log.add(server.queued(others[0])?))
        });
        let server = start(non_blocking(1), hooks);
        let mut publisher = Client::connect(&server);
        publisher.echo("ready");
        let mut other = Client::small(&server);
        other.echo("ready");
        publisher.send("publish");
        assert!(sent.next() > 0);
        let piece = pattern(BULK / PIECES);
        for at in 0..PIECES {
            let part = &piece[..if at % 2 == 0 { piece.len() } else { 1000 }];
            assert!(other.receive(part.len()) == part, "piece {at}");
        }
    });
}

/// B15, B2: A burst of a callback is not refused for `send_limit` as long as the kernel takes it.
#[test]
fn a_burst_above_the_limit() {
    isolated(|| {
        const PIECE: usize = 1000;
        const COUNT: usize = 100;
        let (log, results) = events();
        let hooks = publishing(move |server, others| {
            let piece = pattern(PIECE);
            let all = (0..COUNT).try_for_each(|_| server.send(others[0], &piece));
            Ok(log.add(all.err().map(|error| error.status())))
        });
        let config = non_blocking(1).send_limit(8 * PIECE).high_water_mark(8 * PIECE);
        let server = start(config, hooks);
        let (mut publisher, mut other) = two(&server);
        publisher.send("publish");
        assert_eq!(results.next(), None);
        for _ in 0..COUNT {
            assert!(other.receive(PIECE) == pattern(PIECE));
        }
    });
}

/// B2: What the kernel does not take counts: the call itself is refused.
#[test]
fn a_burst_to_a_client_that_does_not_read() {
    isolated(|| {
        const PIECE: usize = 64 << 10;
        let (log, results) = events();
        let hooks = publishing(move |server, others| {
            let piece = pattern(PIECE);
            let mut count = 0;
            loop {
                match server.send(others[0], &piece) {
                    Ok(()) => count += 1,
                    Err(error) => return Ok(log.add((count, error.status()))),
                }
            }
        });
        let config = non_blocking(1).send_limit(4 * PIECE).high_water_mark(PIECE);
        let server = start(config, hooks);
        let mut publisher = Client::connect(&server);
        publisher.echo("ready");
        let mut other = Client::small(&server);
        other.echo("ready");
        publisher.send("publish");
        let (count, status) = results.next();
        assert_eq!(status, Status::BufferFull);
        for _ in 0..count {
            assert!(other.receive(PIECE) == pattern(PIECE));
        }
        other.expect_silence();
    });
}

/// B15, A11.2: `on_drain` comes for them, also where the kernel takes them immediately.
#[test]
fn on_drain_for_them() {
    isolated(|| {
        let (log, drained) = events();
        let hooks = publishing(|server, others| server.send(others[0], b"x"))
            .on_drain(move |_, socket| Ok(log.add(socket.id())));
        let server = start(non_blocking(1), hooks);
        let (mut publisher, mut other) = two(&server);
        for _ in 0..3 {
            publisher.send("publish");
            other.expect("x");
            let id = drained.next();
            assert_eq!(server.connections().unwrap()[1], id);
        }
        drained.none();
    });
}

/// Q8: `on_drain` comes for a queue that is no longer than `low_water_mark`, before the client
/// reads.
#[test]
fn on_drain_for_a_short_queue() {
    isolated(|| {
        let piece = pattern(8 << 10);
        let (log, drained) = events();
        let hooks = publishing(move |server, others| server.send(others[0], &piece))
            .on_drain(move |_, _| Ok(log.add(())));
        let server = start(non_blocking(1).low_water_mark(64 << 10), hooks);
        let mut publisher = Client::connect(&server);
        publisher.echo("ready");
        let mut other = Client::small(&server);
        other.echo("ready");
        let id = server.connections().unwrap()[1];
        while server.queued(id).unwrap() == 0 {
            publisher.send("publish");
            drained.next();
        }
        drained.none();
    });
}

/// B15, A1.1: A failed send is one of queued bytes: the callback that sends does not see it, and the
/// handler of the connection gets it after its input.
#[test]
fn to_a_client_that_has_reset() {
    isolated(|| {
        let gate = Gate::new();
        let inside = gate.clone();
        let (log, results) = events();
        let hooks = publishing(move |server, others| {
            inside.wait();
            let results = [(); 3].map(|()| server.send(others[0], b"lost").is_ok());
            Ok(log.add(results[0]))
        });
        let (hooks, reasons) = hooks.telling_reasons();
        let server = start(non_blocking(1), hooks);
        let (mut publisher, other) = two(&server);
        publisher.send("publish");
        gate.reached_by(1);
        other.reset();
        let_pass(ms(20));
        gate.open();
        assert!(results.next());
        assert_eq!(reasons.next(), crate::api::CloseReason::Reset);
        publisher.echo("goes on");
    });
}

/// B15, A5.2: A close by id in the same callback comes behind them.
#[test]
fn a_close_behind_them() {
    isolated(|| {
        let hooks = publishing(|server, others| {
            for word in ["a", "b", "c"] {
                server.send(others[0], word.as_bytes())?;
            }
            server.close(others[0])?;
            assert_eq!(status(server.send(others[0], b"late")), Status::Closed);
            Ok(())
        });
        let server = start(non_blocking(1), hooks);
        let (mut publisher, mut other) = two(&server);
        publisher.send("publish");
        other.expect_last("abc");
        publisher.echo("goes on");
    });
}

/// B11: What another thread sends while the loop delivers bytes of a callback arrives without
/// anything else.
#[test]
fn another_thread_sends_meanwhile() {
    isolated(|| {
        let (gate, end) = (Gate::new(), Gate::new());
        let (inside, at_end) = (gate.clone(), end.clone());
        let hooks = Hooks::new(move |server, socket| match text(socket)?.as_str() {
            "fill" => {
                socket.send(&pattern(BULK))?;
                Ok(socket.pause()?)
            }
            "publish" => {
                inside.wait();
                // They have queues: these bytes wait for the loop, as those of other threads do.
                let ids = server.connections()?;
                server.broadcast(&ids[..2], b"more").map(drop)
            }
            word => socket.send(word.as_bytes()),
        })
        .on_close(move |_, _, _| at_end.wait());
        // No deadline makes a turn.
        let server = start(non_blocking(1).write_timeout(None), hooks);
        let [mut full, mut slow] = [(); 2].map(|()| Client::small(&server));
        for client in [&mut full, &mut slow] {
            client.echo("ready");
            client.send("fill");
        }
        let (mut publisher, mut other) = two(&server);
        let ids = server.connections().unwrap();
        let queued = |id| server.queued(id).unwrap();
        eventually("they are full", || ids[..2].iter().all(|id| queued(*id) > 0));
        publisher.send("publish");
        gate.reached_by(1);
        full.reset();
        let_pass(ms(20));
        gate.open();
        // The loop has lost the first of the two, and the bytes for the second come next.
        end.reached_by(1);
        server.send(ids[3], b"news").unwrap();
        end.open();
        other.expect("news");
    });
}

/// B15: What a timer sends leaves before the handlers of the next turn, too.
#[test]
fn before_the_handlers_of_the_next_turn() {
    isolated(|| {
        let (gate, hold) = (Gate::new(), Gate::new());
        let (in_timer, in_handler) = (gate.clone(), hold.clone());
        let hooks = Hooks::new(move |_, socket| match text(socket)?.as_str() {
            "hold" => Ok(in_handler.wait()),
            word => socket.send(word.as_bytes()),
        });
        let server = start(non_blocking(1), hooks);
        let (mut first, mut second) = two(&server);
        let timer = move |server: &Server| {
            let ids = server.connections()?;
            server.send(ids[1], b"one ")?;
            server.send(ids[1], b"two")?;
            Ok(in_timer.wait())
        };
        server.add_timer(0, ms(0), None, move |server, _| timer(server)).unwrap();
        gate.reached_by(1);
        first.send("hold");
        let_pass(ms(20));
        gate.open();
        hold.reached_by(1);
        second.expect("one two");
        hold.open();
    });
}
