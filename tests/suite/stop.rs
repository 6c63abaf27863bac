//! Stop in its variants.

use super::farewell::{replying_behind, REPLY};
use crate::api::{CloseReason, Hooks, Server, State, Status};
use crate::support::*;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;

/// The fates of the connections at the end of a stop, which leaves none.
#[track_caller]
fn assert_stopped(server: &Server, drained: u64, cut: u64) {
    let stats = server.stats();
    assert_eq!((stats.drained, stats.cut), (drained, cut), "{stats:?}");
    assert_settled(server);
}

/// S1: After a stop nothing is accepted and nothing is left open.
#[test]
fn stop_ends_accepting() {
    isolated(|| {
        for config in both_modes() {
            let server = start(config.shutdown_port("0"), Hooks::new(echo));
            let (port, shutdown_port) = (server.port(), server.shutdown_port());
            Client::connect(&server).echo("hello");
            server.stop().unwrap();
            assert_eq!(server.state(), State::Stopped);
            assert!(refused(("127.0.0.1", port)));
            assert!(refused(("127.0.0.1", shutdown_port)));
            assert!(library_threads().is_empty());
            assert_settled(&server);
        }
    });
}

/// S1: While a stop waits for a handler, no connection is accepted any more.
#[test]
fn stop_refuses_new_connections_at_once() {
    isolated(|| {
        let gate = Gate::new();
        let server = start(blocking(2), answer_behind(&gate));
        let mut client = Client::connect(&server);
        gate.reached_by(1);
        while_stopping(&server, || {
            let port = server.port();
            eventually("connecting is refused", || refused(("127.0.0.1", port)));
            assert_eq!(server.state(), State::Stopping);
            gate.open();
        });
        client.expect_last("answer");
    });
}

/// S1: While a stop waits for queued bytes, none is accepted either.
#[test]
fn stop_refuses_new_connections_while_bytes_leave() {
    isolated(|| {
        let server = start(non_blocking(2), Hooks::new(bulk));
        let mut client = Client::small(&server).saying("x");
        client.receive(1);
        while_stopping(&server, || {
            let port = server.port();
            eventually("connecting is refused", || refused(("127.0.0.1", port)));
            assert_eq!(server.state(), State::Stopping);
            client.receive(BULK - 1);
            drop(client);
        });
    });
}

/// S2: Running handlers may finish, and are counted as drained.
#[test]
fn running_handlers_may_finish() {
    isolated(|| {
        for config in both_modes() {
            let gate = Gate::new();
            let server = start(config, answer_behind(&gate));
            let mut client = Client::connect(&server).saying("x");
            gate.reached_by(1);
            while_stopping(&server, || {
                assert!(!server.is_stopped());
                gate.open();
            });
            client.expect_last("answer");
            assert_stopped(&server, 1, 0);
        }
    });
}

/// S3: No new handler starts once a stop is under way: here another connection of the same loop has
/// sent something before it.
#[test]
fn no_handler_starts_while_stopping() {
    isolated(|| {
        let (log, calls) = events();
        let gate = Gate::new();
        let inside = gate.clone();
        let hooks = Hooks::new(move |_, socket| {
            let text = text(socket)?;
            log.add(text.clone());
            if text == "first" {
                inside.wait();
            }
            socket.send(b"served")?;
            socket.close();
            Ok(())
        });
        let server = start(non_blocking(1), hooks);
        let mut first = Client::connect(&server).settled();
        let mut second = Client::connect(&server).settled();
        eventually("both are open", || server.stats().open == 2);
        first.send("first");
        gate.reached_by(1);
        second.send("second");
        while_stopping(&server, || gate.open());
        first.expect_last("served");
        second.expect_gone();
        assert_eq!(calls.drain(), ["first"]);
    });
}

/// S4: Connections that wait for a worker are refused by a stop, before the deadline.
#[test]
fn waiting_connections_are_refused() {
    isolated(|| {
        let gate = Gate::new();
        let server = start(blocking(2).max_retry(100), answer_behind(&gate));
        let mut served: Vec<_> = (0..2).map(|_| Client::connect(&server)).collect();
        gate.reached_by(2);
        let mut waiting: Vec<_> = (0..3).map(|_| Client::connect(&server)).collect();
        eventually("three wait", || server.stats().waiting == 3);
        while_stopping(&server, || {
            for client in &mut waiting {
                client.expect_gone();
            }
            assert_eq!(server.state(), State::Stopping);
            gate.open();
        });
        for client in &mut served {
            client.expect_last("answer");
        }
        let stats = server.stats();
        assert_eq!((stats.refused, stats.cut), (3, 0), "{stats:?}");
        assert_settled(&server);
    });
}

/// S5: Bytes that are queued when a stop comes still leave.
#[test]
fn unsent_bytes_are_delivered() {
    isolated(|| {
        let (hooks, reasons) = Hooks::new(bulk).telling_reasons();
        let server = start(non_blocking(1), hooks);
        let mut client = Client::small(&server).saying("x");
        let bulk = pattern(BULK);
        client.expect(&bulk[..1]);
        while_stopping(&server, || {
            let rest = client.rest();
            assert!(rest == bulk[1..], "{} bytes and not {}", rest.len(), BULK - 1);
            drop(client);
        });
        assert_stopped(&server, 1, 0);
        assert_eq!(server.stats().closed[CloseReason::Stop as usize], 1);
        assert_eq!(reasons.next(), CloseReason::Stop);
    });
}

/// S7: What cannot leave until the deadline is cut then, and not earlier.
#[test]
fn unsent_bytes_are_cut_at_the_deadline() {
    isolated(|| {
        let (hooks, reasons) = Hooks::new(bulk).telling_reasons();
        let server = start(non_blocking(1), hooks);
        let mut client = Client::small(&server).saying("x");
        client.receive(1);
        let clock = Stopwatch::start();
        cut(&server, ms(250));
        clock.kept(ms(250));
        assert_eq!(reasons.next(), CloseReason::Cut);
        assert_stopped(&server, 0, 1);
        client.expect_gone();
    });
}

/// S6: A connection with nothing unsent closes immediately, whatever the deadline.
#[test]
fn idle_connections_close_at_once() {
    isolated(|| {
        let (hooks, reasons) = Hooks::new(echo).telling_reasons();
        let server = start(non_blocking(2).drain_timeout(ms(20_000)), hooks);
        let mut clients: Vec<_> = (0..20).map(|_| Client::connect(&server)).collect();
        for client in &mut clients {
            client.echo("hello");
        }
        let clock = Stopwatch::start();
        server.stop().unwrap();
        clock.at_once();
        assert_eq!(reasons.take(20), [CloseReason::Stop; 20]);
        for client in &mut clients {
            client.expect_end();
        }
    });
}

/// S6: An idle blocking server does not wait for its deadline either.
#[test]
fn an_idle_server_stops_at_once() {
    isolated(|| {
        for config in both_modes() {
            let server = start(config.drain_timeout(ms(20_000)), Hooks::new(echo));
            Client::connect(&server).echo("hello");
            let clock = Stopwatch::start();
            server.stop().unwrap();
            clock.at_once();
        }
    });
}

/// S7: At the deadline a blocked `recv` and a blocked `send` return NS_ERR_CLOSED.
#[test]
fn a_blocked_call_is_cut_at_the_deadline() {
    isolated(|| {
        let (log, results) = events();
        let hooks = Hooks::new(move |_, socket| {
            let result = match text(socket)?.as_str() {
                "recv" => status(socket.recv(&mut [0; 8])),
                _ => status(socket.send(&vec![7; BULK])),
            };
            log.add((result, status(socket.send(b"more"))));
            Ok(())
        });
        let server = start(blocking(2).drain_timeout(ms(200)), hooks);
        let _receiving = Client::connect(&server).settled().saying("recv");
        let mut sending = Client::small(&server).saying("send");
        sending.receive(1);
        eventually("both are served", || server.stats().active_threads == 2);
        let clock = Stopwatch::start();
        server.stop().unwrap();
        clock.kept(ms(200));
        assert_eq!(results.take(2), [(Status::Closed, Status::Closed); 2]);
        assert_stopped(&server, 0, 2);
        assert_eq!(server.stats().closed[CloseReason::Cut as usize], 2);
    });
}

/// S8: `stop_within` overrides the drain timeout.
#[test]
fn stop_within_overrides_the_drain_timeout() {
    isolated(|| {
        for limit in [0, 150] {
            let config = blocking(1).drain_timeout(ms(30_000));
            let server = start(config, Hooks::new(|_, socket| socket.recv(&mut [0; 8]).map(drop)));
            let mut client = Client::connect(&server).settled();
            eventually("it is served", || server.stats().active_threads == 1);
            let clock = Stopwatch::start();
            cut(&server, ms(limit));
            clock.kept(ms(limit));
            client.expect_gone();
        }
    });
}

/// S9: Where a handler does not return, `stop` times out, and the server stays STOPPING and usable.
/// When the handler has returned, a stop succeeds.
#[test]
fn a_handler_that_does_not_return() {
    isolated(|| {
        for config in both_modes() {
            let gate = Gate::new();
            let stops = Arc::new(AtomicUsize::new(0));
            let count = stops.clone();
            let hooks = answer_behind(&gate).on_stop(move |_| {
                count.fetch_add(1, Ordering::SeqCst);
            });
            let server = start(config, hooks);
            let _client = Client::connect(&server).saying("x");
            gate.reached_by(1);
            for round in 0..2 {
                let clock = Stopwatch::start();
                assert_eq!(status(server.stop_within(ms(100))), Status::Timeout);
                // The deadline of the first stop has passed when the second one comes.
                clock.kept(if round == 0 { ms(100) } else { ms(0) });
                assert_eq!(server.state(), State::Stopping);
                assert!(!server.is_stopped());
                assert_eq!(server.stats().state, State::Stopping);
                assert_eq!(stops.load(Ordering::SeqCst), 0);
            }
            assert_eq!(status(server.wait(Some(ms(20)))), Status::Timeout);
            gate.open();
            server.wait(Some(SOON)).unwrap();
            server.stop().unwrap();
            assert_eq!(server.state(), State::Stopped);
            assert_eq!(stops.load(Ordering::SeqCst), 1);
            assert_settled(&server);
        }
    });
}

/// S10: A stop may be repeated.
#[test]
fn stop_twice() {
    isolated(|| {
        for config in both_modes() {
            let server = start(config, Hooks::new(echo));
            server.stop().unwrap();
            let clock = Stopwatch::start();
            server.stop().unwrap();
            server.stop_within(ms(0)).unwrap();
            server.request_stop();
            server.wait(None).unwrap();
            clock.at_once();
        }
    });
}

/// S10: Stops on several threads all return when the server has stopped.
#[test]
fn concurrent_stops() {
    isolated(|| {
        for config in both_modes() {
            let gate = Gate::new();
            let server = start(config, answer_behind(&gate));
            let mut client = Client::connect(&server).saying("x");
            gate.reached_by(1);
            std::thread::scope(|scope| {
                let tasks: Vec<_> =
                    (0..6).map(|_| scope.spawn(|| (server.stop(), server.state()))).collect();
                eventually("it is stopping", || server.state() == State::Stopping);
                gate.open();
                for task in tasks {
                    let (result, state) = task.join().unwrap();
                    result.unwrap();
                    assert_eq!(state, State::Stopped);
                }
            });
            client.expect_last("answer");
        }
    });
}

/// S15: A stop right after the start, and in the middle of many connects, loses nothing.
#[test]
fn stop_while_clients_connect() {
    isolated(|| {
        for config in both_modes() {
            for _ in 0..5 {
                let server = start(config.clone(), Hooks::new(echo));
                let port = server.port();
                std::thread::scope(|scope| {
                    for _ in 0..3 {
                        scope.spawn(move || {
                            while let Ok(client) = Client::try_to(("127.0.0.1", port)) {
                                drop(client);
                            }
                        });
                    }
                    eventually("some are accepted", || server.stats().accepted > 20);
                    server.stop().unwrap();
                });
                assert_settled(&server);
            }
        }
    });
}

/// S14: Whatever stops a server, `on_stop` runs once, and after the last connection.
#[test]
fn on_stop_runs_once_on_every_route() {
    isolated(|| {
        for config in both_modes() {
            for route in ["stop", "request", "port", "handler", "free"] {
                on_stop_by(config.clone(), route);
            }
        }
    });
}

fn on_stop_by(config: crate::api::Config, route: &str) {
    let (log, calls) = events();
    let stop_log = log.clone();
    let hooks = Hooks::new(|server: &Server, socket| {
        match text(socket)?.as_str() {
            "stop" => server.stop().unwrap(),
            _ => socket.send(b"hello")?,
        }
        Ok(())
    })
    .on_close(move |_, _, _| log.add("on_close"))
    .on_stop(move |_| stop_log.add("on_stop"));
    let server = start(config.shutdown_port("0"), hooks);
    let mut client = Client::connect(&server).settled();
    eventually("it is open", || server.stats().open == 1);
    match route {
        "handler" => client.send("stop"),
        _ => {
            client.send("hello");
            client.expect("hello");
        }
    }
    match route {
        "stop" => server.stop().unwrap(),
        "request" => server.request_stop(),
        "port" => drop(Client::plain(("127.0.0.1", server.shutdown_port()))),
        _ => {}
    }
    if route != "free" {
        server.wait(Some(SOON)).unwrap();
        assert!(library_threads().is_empty());
    }
    drop(server);
    assert_eq!(calls.drain(), ["on_close", "on_stop"], "{route}");
}

/// A2.6: An answer that `on_drain` sends in pieces is whole after a stop in its middle. One without
/// end is cut at the deadline, and ends in a reset.
#[test]
fn an_answer_in_pieces() {
    isolated(|| {
        for whole in [true, false] {
            let pieces = if whole { 5 } else { usize::MAX };
            let (log, drains) = events();
            let hooks = Hooks::new(|_, socket| {
                text(socket)?;
                // The system takes none of the pieces whole.
                // SAFETY: the socket is open in its callback.
                let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(socket.raw_fd()) };
                socket2::SockRef::from(&fd).set_send_buffer_size(8192).unwrap();
                socket.set_user_data(1_usize);
                socket.send(&pattern(BULK))
            })
            .on_drain(move |_, socket| {
                log.add(());
                let Some(sent) = socket.user_data::<usize>().copied() else { return };
                if sent < pieces {
                    socket.set_user_data(sent + 1);
                    // Without end they are small: no callback may take long at the cut.
                    socket.send(&pattern(if whole { BULK } else { 64 << 10 })).unwrap();
                }
            });
            let (hooks, reasons) = hooks.telling_reasons();
            let drain = if whole { SOON } else { ms(300) };
            let server = start(non_blocking(1).linger_timeout(SOON).drain_timeout(drain), hooks);
            let mut client = Client::small(&server).saying("go");
            assert!(client.receive(BULK) == pattern(BULK));
            drains.next();
            std::thread::scope(|scope| {
                let stop = scope.spawn(|| server.stop());
                eventually("it is stopping", || server.state() == State::Stopping);
                if whole {
                    for _ in 1..pieces {
                        assert!(client.receive(BULK) == pattern(BULK));
                    }
                    client.expect_end();
                    drop(client);
                    assert_eq!(drains.take(pieces - 1).len(), pieces - 1);
                } else {
                    assert!(client.drain().is_err(), "a reset");
                }
                stop.join().unwrap().unwrap();
            });
            let expected = if whole { CloseReason::Stop } else { CloseReason::Cut };
            assert_eq!(reasons.next(), expected);
        }
    });
}

/// S6: A stop does not wait for peers that have acknowledged all, whatever they do then.
#[test]
fn a_stop_ends_with_the_acknowledgement() {
    isolated(|| {
        for config in both_modes() {
            let gate = Gate::new();
            let config = config.linger_timeout(SOON).drain_timeout(SOON);
            let (server, reasons) = replying_behind(config, &gate);
            let mut client = Client::connect(&server).saying("request");
            gate.reached_by(1);
            std::thread::scope(|scope| {
                let stop = scope.spawn(|| server.stop());
                eventually("it is stopping", || server.state() == State::Stopping);
                gate.open();
                let_pass(ms(50));
                assert!(client.receive(REPLY) == pattern(REPLY));
                let clock = Stopwatch::start();
                stop.join().unwrap().unwrap();
                clock.at_once();
            });
            assert_eq!(reasons.next(), CloseReason::Stop);
            drop(client);
        }
    });
}

/// A2.5: A reset by the peer in a stop is no NS_CLOSE_STOP: something was lost.
#[test]
fn a_reset_in_a_stop() {
    isolated(|| {
        for config in both_modes() {
            let gate = Gate::new();
            let config = config.linger_timeout(SOON).drain_timeout(SOON);
            let (server, reasons) = replying_behind(config, &gate);
            let client = Client::connect(&server).saying("request");
            gate.reached_by(1);
            std::thread::scope(|scope| {
                let stop = scope.spawn(|| server.stop());
                eventually("it is stopping", || server.state() == State::Stopping);
                gate.open();
                let_pass(ms(50));
                client.reset();
                stop.join().unwrap().unwrap();
            });
            assert_eq!(reasons.next(), CloseReason::Cut);
        }
    });
}

/// A2.6: No `on_drain` begins after the deadline of a stop, however many are due.
#[test]
fn no_on_drain_after_the_deadline() {
    isolated(|| {
        let (log, served) = events();
        let hooks = Hooks::new(move |_, socket| {
            text(socket)?;
            socket.send(&pattern(BULK))?;
            Ok(log.add(()))
        })
        .on_drain(|_, socket| {
            let_pass(ms(30));
            let _ = socket.send(&pattern(BULK));
        });
        let server = start(non_blocking(1), hooks);
        let mut clients: Vec<_> = (0..30).map(|_| Client::small(&server).saying("go")).collect();
        clients.iter().for_each(|_| served.next());
        std::thread::scope(|scope| {
            for client in &mut clients {
                scope.spawn(|| client.drain());
            }
            let clock = Stopwatch::start();
            cut(&server, ms(100));
            assert!(clock.elapsed() < SOON, "{:?}", clock.elapsed());
        });
    });
}

/// S1: Nobody is accepted any more once a stop is requested, however many wait.
#[test]
fn no_on_open_after_the_request() {
    isolated(|| {
        let (log, opens) = events();
        let gate = Gate::new();
        let inside = gate.clone();
        let hooks = Hooks::new(echo).on_open(move |_, _| {
            log.add(());
            Ok(inside.wait())
        });
        let server = start(non_blocking(1), hooks);
        let first = Client::connect(&server);
        gate.reached_by(1);
        let others: Vec<_> = (0..20).map(|_| Client::plain(("127.0.0.1", server.port()))).collect();
        server.request_stop();
        gate.open();
        server.wait(Some(SOON)).unwrap();
        assert_eq!(opens.drain().len(), 1);
        drop((first, others));
    });
}
