//! Loops, dispatch, `recv` and when the handler is called.

use crate::api::{Hooks, Server, Status};
use crate::support::*;
use socket2::SockRef;
use std::net::Shutdown;
use std::os::fd::BorrowedFd;

/// How many handler calls all loops have made.
fn calls(server: &Server) -> u64 {
    (0..).map_while(|i| server.thread_stats(i)).map(|thread| thread.calls).sum()
}

fn active(server: &Server) -> Vec<u64> {
    (0..).map_while(|i| server.thread_stats(i)).map(|thread| thread.active).collect()
}

/// N1: There are `max_thread` loops and no acceptor thread beside them.
#[test]
fn as_many_loops_as_threads() {
    isolated(|| {
        let server = start(non_blocking(3), Hooks::new(echo));
        eventually("three loops", || count_threads_named("ns-l") == 3);
        let others = library_threads().len() - 3;
        assert!(others <= 1, "more than the control thread: {:?}", library_threads());
        let stats = server.stats();
        assert!(stats.non_blocking);
        assert_eq!(stats.threads, 3);
        assert!(server.thread_stats(2).is_some() && server.thread_stats(3).is_none());
    });
}

/// N2: Each new connection goes to the loop with the fewest open connections, of two such loops to
/// the one that accepts.
#[test]
fn dispatch_to_the_least_busy_loop() {
    isolated(|| {
        let (log, opened) = events();
        let hooks = Hooks::new(echo).on_open(move |_, _| {
            log.add(thread_number());
            Ok(())
        });
        let server = start(non_blocking(3), hooks);
        // A connection and the thread that serves it.
        let connect = || {
            let client = Client::connect(&server);
            (client, opened.next())
        };
        let mut clients = vec![connect()];
        assert_eq!(active(&server), [1, 0, 0]);
        clients.extend((0..8).map(|_| connect()));
        assert_eq!(active(&server), [3, 3, 3]);
        // One loop loses all of its connections, and gets the next ones.
        let emptied = clients[0].1;
        clients.retain(|(_, thread)| *thread != emptied);
        eventually("one loop is idle", || {
            let mut counts = active(&server);
            counts.sort();
            counts == [0, 3, 3]
        });
        for _ in 0..3 {
            clients.push(connect());
            assert_eq!(clients.last().unwrap().1, emptied);
        }
        assert_eq!(active(&server), [3, 3, 3]);
        // Then all have the same again.
        clients.extend((0..3).map(|_| connect()));
        assert_eq!(active(&server), [4, 4, 4]);
        for (client, _) in &mut clients {
            client.echo("hello");
        }
    });
}

/// N2: Many connections that come at the same time are spread as well.
#[test]
fn a_burst_is_spread() {
    isolated(|| {
        let server = start(non_blocking(4), Hooks::new(echo));
        let mut clients: Vec<_> = (0..200).map(|_| Client::connect(&server)).collect();
        eventually("all are open", || server.stats().open == 200);
        // Loops that accept at the same moment may each be off by a few.
        let counts = active(&server);
        assert!(counts.iter().all(|count| (40..=60).contains(count)), "{counts:?}");
        for client in &mut clients {
            client.echo("hello");
        }
    });
}

/// N4: `recv` returns bytes, then NS_ERR_WOULD_BLOCK, and 0 at the end of stream.
#[test]
fn what_recv_returns() {
    isolated(|| {
        let (log, results) = events();
        let server = start(
            non_blocking(1),
            Hooks::new(move |_, socket| {
                let mut seen = Vec::new();
                loop {
                    match socket.recv(&mut [0; 100]) {
                        Ok(n) => seen.push(Ok(n)),
                        Err(error) => seen.push(Err(error.status())),
                    }
                    if seen.last() == Some(&Ok(0)) {
                        socket.close();
                    }
                    if !matches!(seen.last(), Some(Ok(1..))) {
                        log.add(seen);
                        return Ok(());
                    }
                }
            }),
        );
        let mut client = Client::connect(&server);
        for text in ["hello", "a", "some more"] {
            client.send(text);
            assert_eq!(results.next(), [Ok(text.len()), Err(Status::WouldBlock)]);
        }
        client.finish_sending();
        assert_eq!(results.next(), [Ok(0)]);
        client.expect_end();
    });
}

/// N5: The first `recv` of a handler call neither blocks nor returns NS_ERR_WOULD_BLOCK.
#[test]
fn the_first_recv_has_something() {
    isolated(|| {
        let (log, bad) = events();
        let server = start(
            non_blocking(2),
            Hooks::new(move |_, socket| {
                let mut buffer = [0; 700];
                match socket.recv(&mut buffer) {
                    Ok(0) => socket.close(),
                    Ok(n) => socket.send(&buffer[..n])?,
                    Err(error) => log.add(error.status()),
                }
                Ok(())
            }),
        );
        std::thread::scope(|scope| {
            for i in 0..4 {
                let server = &server;
                scope.spawn(move || {
                    let mut client = Client::connect(server);
                    for round in 0..200 {
                        client.echo(&"ab".repeat(1 + (round * (i + 3)) % 900));
                    }
                    client.finish_sending();
                    client.expect_end();
                });
            }
        });
        wait_idle(&server);
        assert!(bad.drain().is_empty());
    });
}

/// N6: After a short read `recv` returns NS_ERR_WOULD_BLOCK without a look at the kernel: what has
/// arrived since is for the next call of the handler.
#[test]
fn would_block_after_a_short_read() {
    isolated(|| {
        let (log, reads) = events();
        let gate = Gate::new();
        let inside = gate.clone();
        let server = start(
            non_blocking(1),
            Hooks::new(move |_, socket| {
                let first = text(socket)?;
                if first == "first" {
                    inside.wait();
                    // The second message has arrived, and would be read by a system call.
                    eventually("more arrives", || bytes_waiting(socket.raw_fd()) >= 6);
                }
                log.add((first, status(socket.recv(&mut [0; 64]))));
                Ok(())
            }),
        );
        let mut client = Client::connect(&server).saying("first");
        gate.reached_by(1);
        client.send("second");
        gate.open();
        assert_eq!(reads.next(), ("first".into(), Status::WouldBlock));
        assert_eq!(reads.next(), ("second".into(), Status::WouldBlock));
    });
}

/// N7: After 16 reads in one call `recv` returns NS_ERR_WOULD_BLOCK; the handler is called again
/// without new input.
#[test]
fn would_block_after_sixteen_reads() {
    isolated(|| {
        let (log, counts) = events();
        let server = start(
            non_blocking(1),
            Hooks::new(move |_, socket| {
                let mut reads = 0;
                while let Ok(1) = socket.recv(&mut [0; 1]) {
                    reads += 1;
                }
                log.add(reads);
                Ok(())
            }),
        );
        let _client = Client::connect(&server).saying([7; 40]);
        let mut total = 0;
        while total < 40 {
            let reads = counts.next();
            assert!((1..=16).contains(&reads), "{reads} reads in one call");
            total += reads;
        }
        assert_eq!(total, 40);
        counts.none();
    });
}

/// N7: One call of the handler reads no more than 256 KiB and the read that reaches it.
#[test]
fn would_block_after_its_share() {
    isolated(|| {
        const PIECE: usize = 64 << 10;
        const SHARE: usize = 256 << 10;
        let (log, amounts) = events();
        let server = start(
            non_blocking(1),
            Hooks::new(move |_, socket| {
                let mut buffer = vec![0; PIECE];
                let mut amount = 0;
                // Full buffers, so that only the amount can end it. What is left at the end of the
                // input may be less.
                comes_true(ms(100), || bytes_waiting(socket.raw_fd()) >= 2 * PIECE);
                loop {
                    match socket.recv(&mut buffer) {
                        Ok(0) => {
                            socket.close();
                            break;
                        }
                        Ok(n) => amount += n,
                        Err(_) => break,
                    }
                    if amount < SHARE {
                        // Give the client time to keep the buffer filled, to its end at most.
                        comes_true(ms(100), || bytes_waiting(socket.raw_fd()) >= PIECE);
                    }
                }
                log.add(amount);
                Ok(())
            }),
        );
        for listener in listening_sockets() {
            // SAFETY: this process is the test's: the listener is open.
            let listener = unsafe { BorrowedFd::borrow_raw(listener) };
            // What the handler waits for has room.
            SockRef::from(&listener).set_recv_buffer_size(4 * PIECE).unwrap();
        }
        let mut client = Client::connect(&server).saying(vec![7; 8 << 20]);
        client.finish_sending();
        client.expect_end();
        let amounts = amounts.drain();
        assert!(amounts.iter().all(|amount| *amount < SHARE + PIECE), "{amounts:?}");
        assert!(amounts.iter().any(|amount| *amount >= SHARE), "no share was used: {amounts:?}");
    });
}

/// N18: Urgent data makes reads short although more input waits: nothing gets stuck behind it.
#[test]
fn urgent_data_holds_nothing_up() {
    isolated(|| {
        let server = start(non_blocking(1), Hooks::new(echo));
        let mut client = Client::connect(&server);
        client.echo("before");
        for _ in 0..20 {
            client.send("in front ");
            socket2::SockRef::from(&client.0).send_out_of_band(b"!").unwrap();
            client.send("behind");
            client.expect("in front behind");
        }
    });
}

/// N8: A handler that returns a non-negative number or NS_ERR_WOULD_BLOCK succeeded.
#[test]
fn would_block_is_no_failure() {
    isolated(|| {
        let (log, errors) = events();
        let hooks = Hooks::new(|_, socket| loop {
            let mut buffer = [0; 8];
            match socket.recv(&mut buffer)? {
                0 => {
                    socket.close();
                    return Ok(());
                }
                n => socket.send(&buffer[..n])?,
            }
        })
        .on_exception(move |_, _, error| {
            log.add(error.status());
            Ok(())
        });
        let server = start(non_blocking(1), hooks);
        let mut client = Client::connect(&server);
        for _ in 0..5 {
            client.echo("0123456789abcdef0123");
        }
        assert!(errors.drain().is_empty());
        assert_eq!(server.stats().handler_errors, 0);
    });
}

/// N9: Bytes left unread bring the handler back.
#[test]
fn unread_bytes_bring_the_handler_back() {
    isolated(|| {
        let (log, pieces) = events();
        let server = start(
            non_blocking(1),
            Hooks::new(move |_, socket| {
                let mut buffer = [0; 10];
                let n = socket.recv(&mut buffer)?;
                log.add(String::from_utf8_lossy(&buffer[..n]).into_owned());
                Ok(())
            }),
        );
        let _client = Client::connect(&server).saying("0123456789".repeat(10));
        assert_eq!(pieces.take(10), ["0123456789"; 10]);
        pieces.none();
    });
}

/// N10, A22.1: A handler that consumes nothing is called again only when more arrives, and does not
/// spin.
#[test]
fn no_spin_where_nothing_is_consumed() {
    isolated(|| {
        let (log, called) = events();
        let server = start(
            non_blocking(1),
            Hooks::new(move |_, _| {
                log.add(());
                Ok(())
            }),
        );
        let mut client = Client::connect(&server);
        for expected in 1..=3 {
            client.send("x");
            called.next();
            at_rest(|| called.none());
            assert_eq!(calls(&server), expected);
        }
    });
}

/// N10: A handler that consumes something and leaves the rest forever does not spin either.
#[test]
fn no_spin_where_the_rest_is_left() {
    isolated(|| {
        let (log, called) = events();
        let server = start(
            non_blocking(1),
            Hooks::new(move |_, socket| {
                if socket.user_data::<()>().is_none() {
                    socket.recv(&mut [0; 2])?;
                    socket.set_user_data(());
                }
                log.add(());
                Ok(())
            }),
        );
        let mut client = Client::connect(&server).saying("0123456789");
        called.take(2);
        called.none();
        client.send("more");
        called.next();
        called.none();
    });
}

/// N11: After the end of stream, or a half-close, nothing spins while the socket stays open.
#[test]
fn no_spin_after_the_end_of_stream() {
    isolated(|| {
        let server = start(
            non_blocking(1),
            Hooks::new(|_, socket| {
                socket.recv(&mut [0; 100])?;
                Ok(())
            }),
        );
        let mut clients: Vec<_> = (0..3).map(|_| Client::connect(&server)).collect();
        for client in &mut clients {
            client.send("x");
            client.finish_sending();
        }
        eventually("all were told", || calls(&server) >= 6);
        let before = calls(&server);
        assert!(before <= 6 + 3, "{before} calls");
        at_rest(|| let_pass(NEVER));
        assert_eq!(calls(&server), before);
        assert_eq!(server.stats().open, 3);
    });
}

/// N11: After `recv` has returned the end of stream the socket stays writable until the handler
/// closes it.
#[test]
fn half_closed_by_the_peer() {
    isolated(|| {
        let (log, ended) = events();
        let hooks = Hooks::new(move |_, socket| {
            if available(socket)?.1 {
                log.add(socket.id());
            }
            Ok(())
        })
        .on_wake(|_, socket| {
            socket.send(b"said after your end").unwrap();
            socket.close();
        });
        let server = start(non_blocking(1), hooks);
        let mut client = Client::connect(&server).saying("request");
        client.finish_sending();
        let id = ended.next();
        client.expect_silence();
        server.wake(id).unwrap();
        client.expect_last("said after your end");
        wait_idle(&server);
    });
}

/// N12: A server may speak first.
#[test]
fn a_greeting() {
    isolated(|| {
        for config in both_modes() {
            let hooks = Hooks::new(echo).on_open(|_, socket| socket.send(b"welcome "));
            let server = start(config, hooks);
            let mut client = Client::connect(&server);
            client.expect("welcome ");
            client.echo("hello");
        }
    });
}

/// N13: The server may end its own direction and go on reading.
#[test]
fn half_closed_by_the_server() {
    isolated(|| {
        let (log, texts) = events();
        let server = start(
            non_blocking(1),
            Hooks::new(move |_, socket| {
                let text = text(socket)?;
                match text.as_str() {
                    "" => socket.close(),
                    "first" => {
                        socket.send(&pattern(BULK / 2))?;
                        socket.shutdown(Shutdown::Write)?;
                        log.add(format!("{:?}", status(socket.send(b"x"))));
                    }
                    _ => log.add(text),
                }
                Ok(())
            }),
        );
        let mut client = Client::small(&server).saying("first");
        let refused = texts.next();
        assert_ne!(refused, "Ok", "nothing can be sent after the end");
        assert!(client.rest() == pattern(BULK / 2), "what was queued comes before the end");
        client.send("second");
        assert_eq!(texts.next(), "second");
        drop(client);
        wait_idle(&server);
    });
}

/// N14: A paused socket is not read until it is resumed.
#[test]
fn pause_and_resume() {
    isolated(|| {
        let (log, texts) = events();
        let hooks = Hooks::new(move |_, socket| {
            let text = text(socket)?;
            if text == "pause" {
                socket.pause()?;
            }
            log.add((socket.id(), text));
            Ok(())
        })
        .on_wake(|_, socket| socket.resume().unwrap());
        let server = start(non_blocking(1), hooks);
        let mut client = Client::connect(&server).saying("pause");
        let (id, _) = texts.next();
        client.send("held back");
        texts.none();
        server.wake(id).unwrap();
        assert_eq!(texts.next().1, "held back");
    });
}
