//! Output that was accepted leaves, or the peer sees a reset; an end reaches a connection wherever
//! it is.

use crate::api::{
    CloseReason, Config, Error, Hooks, OwnedSocket, Server, Socket, State, Status, TLS,
};
use crate::support::*;
use std::io::Write;

/// The kernel takes it whole, and a client that does not read has not acknowledged it.
pub(super) const REPLY: usize = 500_000;

fn replying(_: &Server, socket: &mut Socket<'_>) -> Result<(), Error> {
    text(socket)?;
    socket.send(&pattern(REPLY))
}

/// A server whose handler replies and then stands at the gate.
pub(super) fn replying_behind(config: Config, gate: &Gate) -> (Server, Events<CloseReason>) {
    let inside = gate.clone();
    let hooks = Hooks::new(move |server: &Server, socket| {
        replying(server, socket)?;
        Ok(inside.wait())
    });
    let (hooks, reasons) = hooks.telling_reasons();
    (start(config, hooks), reasons)
}

/// The client reads only when more input has met the closed connection.
#[track_caller]
fn expect_reply_after_late_input(server: &Server, ended: impl FnOnce()) {
    let mut client = Client::connect(server).saying("request");
    ended();
    for _ in 0..3 {
        client.send("late");
        let_pass(ms(10));
    }
    assert!(client.rest() == pattern(REPLY));
}

/// A5.1: Late input does not destroy a reply that the client has not read, however the connection
/// came to its close: the handler returned, failed, or closed.
#[test]
fn late_input_keeps_the_reply() {
    isolated(|| {
        for how in ["return", "fail", "close"] {
            let (log, replied) = events();
            let hooks = Hooks::new(move |server: &Server, socket| {
                replying(server, socket)?;
                if how == "close" {
                    socket.close();
                }
                log.add(());
                match how {
                    "fail" => Err("failed".into()),
                    _ => Ok(()),
                }
            });
            let server = start(blocking(2).linger_timeout(SOON), hooks);
            expect_reply_after_late_input(&server, || {
                replied.next();
                wait_idle(&server);
            });
        }
    });
}

/// A5.2: The same for a close by id of a worker that waits for input: the end waits until the reply
/// has arrived.
#[test]
fn late_input_keeps_the_reply_of_a_close_by_id() {
    isolated(|| {
        let (hooks, ids) = Hooks::new(|server: &Server, socket| {
            replying(server, socket)?;
            assert_eq!(status(socket.recv(&mut [0])), Status::Closed);
            Ok(())
        })
        .telling_ids();
        let server = start(blocking(2).linger_timeout(SOON), hooks);
        expect_reply_after_late_input(&server, || {
            let id = ids.next();
            eventually("the worker waits", || server.stats().bytes_out >= REPLY as u64);
            server.close(id).unwrap();
            wait_idle(&server);
        });
    });
}

/// A5.2: The same where the worker ends its own side too, by a half-close or a close, before or
/// after the close by id.
#[test]
fn late_input_keeps_the_reply_of_two_ends() {
    #[derive(Clone, Copy, PartialEq)]
    enum End {
        HalfCloseFirst,
        HalfClose,
        Close,
    }
    isolated(|| {
        for end in [End::HalfCloseFirst, End::HalfClose, End::Close] {
            let gate = Gate::new();
            let inside = gate.clone();
            let (hooks, ids) = Hooks::new(move |server: &Server, socket| {
                replying(server, socket)?;
                if end == End::HalfCloseFirst {
                    socket.shutdown(std::net::Shutdown::Write)?;
                    // It is woken.
                    assert_eq!(status(socket.recv(&mut [0])), Status::Closed);
                    return Ok(());
                }
                inside.wait();
                match end {
                    End::Close => socket.close(),
                    _ => drop(socket.shutdown(std::net::Shutdown::Write)),
                }
                Ok(())
            })
            .telling_ids();
            let (hooks, reasons) = hooks.telling_reasons();
            let server = start(blocking(2).linger_timeout(SOON), hooks);
            expect_reply_after_late_input(&server, || {
                let id = ids.next();
                eventually("it has replied", || server.stats().bytes_out >= REPLY as u64);
                if end == End::HalfCloseFirst {
                    let_pass(ms(50));
                }
                server.close(id).unwrap();
                gate.open();
                assert_eq!(reasons.next(), CloseReason::Handler);
            });
        }
    });
}

/// A5.3: In a stop it does not either, until the stop's deadline.
#[test]
fn late_input_keeps_the_reply_in_a_stop() {
    isolated(|| {
        let gate = Gate::new();
        let config = blocking(2).linger_timeout(SOON).drain_timeout(SOON);
        let (server, reasons) = replying_behind(config, &gate);
        std::thread::scope(|scope| {
            expect_reply_after_late_input(&server, || {
                gate.reached_by(1);
                scope.spawn(|| server.stop().unwrap());
                eventually("it is stopping", || server.state() == State::Stopping);
                gate.open();
            });
        });
        assert_eq!(server.stats().closed[CloseReason::Stop as usize], 1);
        assert_eq!(reasons.next(), CloseReason::Stop);
    });
}

/// A2.5: Where the deadline, or the end of lingering, comes before the peer has what was sent, the
/// reason says so.
#[test]
fn a_stop_that_cannot_know() {
    isolated(|| {
        for (linger, drain) in [(SOON, ms(200)), (ms(200), SOON), (ms(0), SOON)] {
            for config in both_modes() {
                let gate = Gate::new();
                let (server, reasons) = replying_behind(config.linger_timeout(linger), &gate);
                let mut client = Client::connect(&server).saying("request");
                gate.reached_by(1);
                server.request_stop();
                std::thread::scope(|scope| {
                    let stop = scope.spawn(|| server.stop_within(drain));
                    gate.open();
                    stop.join().unwrap().unwrap();
                });
                assert_eq!(reasons.next(), CloseReason::Cut);
                assert_eq!((server.stats().cut, server.stats().drained), (1, 0));
                assert!(client.receive(REPLY) == pattern(REPLY));
            }
        }
    });
}

/// A2.5: NS_CLOSE_STOP says that nothing was lost: a client that reads late, but in time, has
/// everything before `on_close` runs.
#[test]
fn a_stop_that_knows() {
    isolated(|| {
        for config in both_modes() {
            let gate = Gate::new();
            let config = config.linger_timeout(SOON).drain_timeout(SOON);
            let (server, reasons) = replying_behind(config, &gate);
            let mut client = Client::connect(&server).saying("request");
            gate.reached_by(1);
            server.request_stop();
            gate.open();
            let_pass(ms(50));
            assert_eq!(server.stats().open, 1);
            assert!(client.receive(REPLY) == pattern(REPLY));
            drop(client);
            assert_eq!(reasons.next(), CloseReason::Stop);
        }
    });
}

/// A5.4: Where more connections linger than may, the oldest are closed, and not the new one.
#[test]
fn the_bound_on_lingering_ends_the_oldest() {
    isolated(|| {
        let hooks = Hooks::new(|_, socket| {
            socket.recv(&mut [0; 1])?;
            socket.send(&pattern(REPLY))
        });
        let config = blocking(4).max_connections(64).linger_timeout(ms(20_000));
        let server = start(config, hooks);
        let unread = "much more than is read";
        let others: Vec<_> = (0..20)
            .map(|_| {
                let mut client = Client::connect(&server).saying(unread);
                client.receive(REPLY);
                client
            })
            .collect();
        let mut client = Client::connect(&server).saying(unread);
        eventually("it is served too", || server.stats().closed_total() == 21);
        assert!(client.rest() == pattern(REPLY));
        drop(others);
    });
}

/// A4: After `shutdown(RD)` a close keeps the reply too, and `recv` returns the end.
#[test]
fn reading_shut_keeps_the_reply() {
    isolated(|| {
        for config in both_modes() {
            let (log, results) = events();
            let hooks = Hooks::new(move |_, socket| {
                socket.recv(&mut [0; 8])?;
                socket.shutdown(std::net::Shutdown::Read)?;
                log.add(socket.recv(&mut [0; 8]).unwrap());
                socket.send(&pattern(REPLY))?;
                socket.close();
                Ok(())
            });
            let server = start(config.linger_timeout(SOON), hooks);
            let mut client = Client::connect(&server).saying(vec![b'?'; 20_000]);
            assert_eq!(results.next(), 0);
            client.send("late");
            assert!(client.rest() == pattern(REPLY));
        }
    });
}

/// A detached socket with more unsent than its peer takes.
fn stuck(config: Config) -> (Server, Client, OwnedSocket) {
    let (log, owned) = events();
    let hooks = Hooks::new(move |server: &Server, socket| {
        text(socket)?;
        socket.send(&pattern(BULK))?;
        Ok(log.add(server.detach(socket)?))
    });
    let server = start(config, hooks);
    let client = Client::small(&server).saying("x");
    let owned = owned.next();
    (server, client, owned)
}

/// A2.4, A2.2: What a detached socket cannot send before it is freed or closed ends in a reset,
/// after one `linger_timeout` in all.
#[test]
fn what_a_detached_socket_drops_is_a_reset() {
    isolated(|| {
        for close in [false, true] {
            let (_server, mut client, mut owned) = stuck(non_blocking(1).linger_timeout(ms(2000)));
            client.send("not read");
            let clock = Stopwatch::start();
            if close {
                owned.socket().close();
            }
            drop(owned);
            let took = clock.elapsed();
            assert!((ms(2000)..ms(3900)).contains(&took), "{took:?}");
            client.expect_reset();
        }
    });
}

/// A2.2: An idle timeout in the middle of a `send` that waits ends in a reset.
#[test]
fn an_idle_timeout_while_sending_is_a_reset() {
    isolated(|| {
        let (log, results) = events();
        let (hooks, reasons) = Hooks::new(move |_, socket| {
            text(socket)?;
            log.add((status(socket.send(&pattern(BULK))), status(socket.send(b"x"))));
            Ok(())
        })
        .telling_reasons();
        let server = start(blocking(1).idle_timeout(ms(200)), hooks);
        let mut client = Client::small(&server).saying("x");
        assert_eq!(results.next(), (Status::Timeout, Status::Closed));
        assert_eq!(reasons.next(), CloseReason::Idle);
        client.expect_reset();
    });
}

/// A9.1: Close and abort by id, and the cut of a stop, end a handler that sends without end: one
/// whose client reads, and one whose client does not, so that its `send` waits.
#[test]
fn ending_reaches_a_worker_that_sends() {
    isolated(|| {
        for how in ["close", "abort", "cut"] {
            for reads in [true, false] {
                let (log, sending) = events();
                let (end_log, ends) = events();
                let hooks = Hooks::new(move |_, socket| {
                    let piece = pattern(1000);
                    text(socket)?;
                    log.add(socket.id());
                    let error = loop {
                        if let Err(error) = socket.send(&piece) {
                            break error;
                        }
                    };
                    end_log.add((error.status(), status(socket.recv(&mut [0; 1]))));
                    Ok(())
                });
                let server = start(blocking(2), hooks);
                let mut client = Client::small(&server).saying("x");
                let id = sending.next();
                if reads {
                    client.receive(100_000);
                } else {
                    // It waits when nothing more leaves.
                    let mut before = u64::MAX;
                    while std::mem::replace(&mut before, server.stats().bytes_out) != before {
                        let_pass(ms(50));
                    }
                }
                std::thread::scope(|scope| {
                    let reader = scope.spawn(|| (reads || how != "close").then(|| client.drain()));
                    match how {
                        "close" => server.close(id).unwrap(),
                        "abort" => server.abort(id).unwrap(),
                        _ => cut(&server, ms(0)),
                    }
                    assert_eq!(ends.next(), (Status::Closed, Status::Closed));
                    let seen = reader.join().unwrap();
                    if how == "abort" {
                        let kind = seen.unwrap().unwrap_err().kind();
                        assert_eq!(kind, std::io::ErrorKind::ConnectionReset);
                    }
                });
                idle_at_once(&server);
            }
        }
    });
}

/// A2.2: A handler that is ended in the middle of what it sends leaves no clean end behind.
#[test]
fn a_message_cut_short_is_a_reset() {
    isolated(|| {
        for how in ["close", "abort", "cut"] {
            let (log, sending) = events();
            let hooks = Hooks::new(move |_, socket| {
                text(socket)?;
                log.add(socket.id());
                socket.send(&pattern(BULK))
            });
            let server = start(blocking(2), hooks);
            let mut client = Client::small(&server).saying("x");
            let id = sending.next();
            client.receive(1000);
            match how {
                "close" => server.close(id).unwrap(),
                "abort" => server.abort(id).unwrap(),
                _ => cut(&server, ms(0)),
            }
            wait_idle(&server);
            client.expect_reset();
        }
    });
}

/// A9.2: Refused clients that send slowly, or without end, what the exception handler reads hold
/// nobody up: the next one is refused in its time, and a stop ends it.
#[test]
fn a_refused_client_holds_nobody_up() {
    if TLS {
        return;
    }
    isolated(|| {
        let gate = Gate::new();
        let inside = gate.clone();
        let (log, told) = events();
        let hooks = Hooks::new(move |_, socket| {
            inside.wait();
            socket.send(b"served")
        })
        .on_exception(move |_, socket, _| {
            let socket = socket.expect("a socket");
            let mut first = [0; 1];
            socket.recv(&mut first)?;
            log.add(first[0]);
            while first[0] != b'\n' {
                socket.recv(&mut first)?;
            }
            socket.send(b"503")
        });
        let server = start(blocking(2).max_retry(1).retry_interval(ms(50)), hooks);
        let _busy = [Client::connect(&server), Client::connect(&server)];
        gate.reached_by(2);
        for stranger in [&b"d"[..], &[b'f'; 60_000]] {
            let mut slow = Client::connect(&server);
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    use std::io::Write;
                    // Until the server has had enough.
                    while slow.0.write_all(stranger).is_ok() {
                        if stranger.len() == 1 {
                            let_pass(ms(20));
                        }
                    }
                });
                assert_eq!(told.next(), stranger[0]);
                Client::connect(&server).saying("\n").expect_last("503");
                assert_eq!(told.next(), b'\n');
            });
        }
        let silent = Client::connect(&server).saying("s");
        assert_eq!(told.next(), b's');
        let clock = Stopwatch::start();
        gate.open();
        cut(&server, ms(0));
        clock.at_once();
        drop(silent);
    });
}

/// A2.6: A cut of a handler that is still sending ends in a reset, so that nobody takes half an
/// answer for a whole one. A handler that waits for input has sent all that it had to say.
#[test]
fn a_cut_answer_is_a_reset() {
    isolated(|| {
        for sends in [true, false] {
            let (log, results) = events();
            let (begin, begins) = events();
            let hooks = Hooks::new(move |_, socket| {
                text(socket)?;
                begin.add(());
                let result = loop {
                    let result = match sends {
                        true => socket.send(b"a line\n"),
                        false => socket.recv(&mut [0]).map(drop),
                    };
                    if result.is_err() {
                        break result;
                    }
                    let_pass(ms(5));
                };
                log.add(status(result));
                Ok(())
            });
            let (hooks, reasons) = hooks.telling_reasons();
            let server = start(blocking(2), hooks);
            let mut client = Client::connect(&server).saying("go");
            begins.next();
            if sends {
                client.expect("a line\n");
            }
            std::thread::scope(|scope| {
                scope.spawn(|| cut(&server, ms(100)));
                assert_eq!(client.drain().is_err(), sends);
            });
            assert_eq!(results.next(), Status::Closed);
            assert_eq!(reasons.next(), CloseReason::Cut);
        }
    });
}

/// A5.1: a client that is still sending when a stop comes reads the short answer of a handler that
/// did not read it all: its input is discarded for as long as it comes.
#[test]
fn an_upload_survives_a_stop() {
    isolated(|| {
        for config in both_modes() {
            let gate = Gate::new();
            let inside = gate.clone();
            let hooks = Hooks::new(move |_, socket| {
                socket.recv(&mut [0; 1])?;
                inside.wait();
                socket.send(b"too large")?;
                Ok(socket.close())
            });
            let server = start(config.linger_timeout(SOON).drain_timeout(SOON), hooks);
            let mut client = Client::connect(&server).saying("x");
            gate.reached_by(1);
            client.send(pattern(60_000));
            std::thread::scope(|scope| {
                let stop = scope.spawn(|| server.stop());
                eventually("it is stopping", || server.state() == State::Stopping);
                gate.open();
                if sends_without_pause(&mut client) {
                    client.expect("too large");
                }
                drop(client);
                stop.join().unwrap().unwrap();
            });
        }
    });
}

/// Sends for a while. Returns `false` where sending failed because this machine was too busy: the
/// client paused for 100 ms, which ends its upload.
fn sends_without_pause(client: &mut Client) -> bool {
    let mut pause = ms(0);
    for _ in 0..20 {
        let clock = Stopwatch::start();
        let sent = client.0.write_all(&pattern(100_000));
        pause = pause.max(clock.elapsed());
        if let Err(error) = sent {
            // Of two pauses without a byte between them one is half of the 100 ms at least.
            assert!(pause > ms(40), "{error} after {pause:?}");
            return false;
        }
        let_pass(ms(10));
        pause = pause.max(clock.elapsed());
    }
    true
}

/// A2.6: A last word of the exception handler's, after a cut while the handler waited for input, is
/// too late and changes nothing.
#[test]
fn a_last_word_after_a_cut() {
    isolated(|| {
        let (log, told) = events();
        let (begin, begins) = events();
        let handler = move |_: &Server, socket: &mut Socket<'_>| {
            text(socket)?;
            begin.add(());
            text(socket).map(drop)
        };
        let hooks = Hooks::new(handler).on_exception(move |_, socket, error| {
            let sent = socket.expect("a socket").send(b"closing");
            Ok(log.add((error.status(), status(sent))))
        });
        let server = start(blocking(2), hooks);
        let mut client = Client::connect(&server).saying("go");
        begins.next();
        cut(&server, ms(50));
        assert_eq!(told.next(), (Status::Closed, Status::Closed));
        client.expect_end();
    });
}

/// A2.6: The same cut where the handler hears of it from `recv`, and then goes on to send.
#[test]
fn a_cut_that_recv_reports_is_a_reset() {
    isolated(|| {
        let (log, results) = events();
        let hooks = Hooks::new(move |_, socket| {
            text(socket)?;
            socket.set_io_timeout(Some(ms(10)))?;
            while socket.send(b"a line\n").is_ok() {
                // Is there a word of the client's?
                let _ = socket.recv(&mut [0; 8]);
            }
            Ok(log.add(()))
        });
        let server = start(blocking(2), hooks);
        let mut client = Client::connect(&server).saying("go");
        client.expect("a line\n");
        std::thread::scope(|scope| {
            scope.spawn(|| cut(&server, ms(100)));
            assert!(client.drain().is_err());
        });
        results.next();
    });
}
