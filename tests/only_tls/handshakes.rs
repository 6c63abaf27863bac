//! Handshakes: deadline, failures, the cap.

use super::*;
use crate::api::{configure, CloseReason, Config};
use std::os::fd::AsRawFd;
use std::sync::Mutex;

/// Nothing but the failure was reported, and it was counted.
#[track_caller]
fn failed_once(server: &Server, told: &Events<(&'static str, Status)>, status: Status) {
    assert_eq!(told.next(), ("exception", status));
    wait_idle(server);
    told.none();
    let stats = server.stats();
    assert_eq!((stats.handshakes, stats.handshake_failures), (0, 1));
    assert_eq!(stats.closed[CloseReason::Handshake as usize], 1);
    assert_settled(server);
}

/// K2: `on_open` comes after the handshake, and the handler when application data is there.
#[test]
fn no_callback_before_its_time() {
    isolated(|| {
        let (hooks, told) = telling();
        let server = start(non_blocking(1), hooks);
        let tcp = raw(&server);
        told.none();
        let (mut session, hello) = by_hand();
        (&tcp).write_all(&hello).unwrap();
        told.none();
        finish_by_hand(&mut session, &tcp, b"");
        assert_eq!(told.next().0, "open");
        told.none();
        finish_by_hand(&mut session, &tcp, b"words");
        assert_eq!(told.next().0, "handler");
        assert_eq!(receive_by_hand(&mut session, &tcp, 5), b"words");
        told.none();
    });
}

/// K3, A6.2: A connection takes no calls by id before its handshake, so that nothing leaves
/// unencrypted. Here it waits among the arrivals of a loop that is busy.
#[test]
fn no_id_before_the_handshake() {
    isolated(|| {
        let gate = Gate::new();
        let (log, handled) = events();
        let hooks = Hooks::new({
            let gate = gate.clone();
            move |server: &Server, socket| {
                log.add(());
                gate.wait();
                echo(server, socket)
            }
        });
        let server = start(non_blocking(2), hooks);
        let mut clients: Vec<_> = (0..3).map(|_| Client::connect(&server).settled()).collect();
        eventually("three are open", || server.connections().unwrap().len() == 3);
        clients[1].send("words");
        handled.next();
        let arrival = raw(&server);
        eventually("it is there", || server.stats().open == 4);
        let ids = server.connections().unwrap();
        assert_eq!(ids.len(), 3, "{ids:?}");
        drop(clients.remove(0));
        gate.open();
        clients[0].expect("words");
        let (mut session, hello) = by_hand();
        (&arrival).write_all(&hello).unwrap();
        finish_by_hand(&mut session, &arrival, b"more");
        assert_eq!(receive_by_hand(&mut session, &arrival, 4), b"more");
        eventually("it takes calls", || server.connections().unwrap().len() == 3);
    });
}

/// K2: In blocking mode the handler runs as soon as the handshake is over, because it may speak
/// first.
#[test]
fn no_callback_before_its_time_on_a_worker() {
    isolated(|| {
        let (hooks, told) = telling();
        let server = start(blocking(2), hooks);
        let tcp = raw(&server);
        let (mut session, hello) = by_hand();
        (&tcp).write_all(&hello).unwrap();
        told.none();
        finish_by_hand(&mut session, &tcp, b"words");
        assert_eq!((told.next().0, told.next().0), ("open", "handler"));
        assert_eq!(receive_by_hand(&mut session, &tcp, 5), b"words");
    });
}

/// K4: `handshake_timeout` covers the whole handshake, however slowly its bytes come.
#[test]
fn the_deadline_of_dribbled_bytes() {
    isolated(|| {
        for config in both_modes() {
            let (hooks, told) = telling();
            let server = start(config.handshake_timeout(ms(400)), hooks);
            let (_, hello) = by_hand();
            let clock = Stopwatch::start();
            let tcp = raw(&server);
            for byte in &hello {
                let_pass(ms(20));
                if (&tcp).write_all(&[*byte]).is_err() || told_ended(&tcp) {
                    break;
                }
            }
            clock.kept(ms(400));
            drop(tcp);
            failed_once(&server, &told, Status::Timeout);
        }
    });
}

fn told_ended(tcp: &TcpStream) -> bool {
    tcp.set_nonblocking(true).unwrap();
    let ended =
        !matches!(tcp.peek(&mut [0]), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock);
    tcp.set_nonblocking(false).unwrap();
    ended
}

/// K4: The same for a client that says nothing, and one that stops in the middle. A deadline of 0
/// is one, too.
#[test]
fn the_deadline_of_silence() {
    isolated(|| {
        for (part, limit) in [(0, ms(200)), (1, ms(200)), (100, ms(200)), (0, ms(0))] {
            for config in both_modes() {
                let (hooks, told) = telling();
                let server = start(config.handshake_timeout(limit), hooks);
                let clock = Stopwatch::start();
                let tcp = raw_saying(&server, &by_hand().1[..part]);
                raw_rest(&tcp);
                clock.kept(limit);
                drop(tcp);
                failed_once(&server, &told, Status::Timeout);
            }
        }
    });
}

/// K5: A handshake that fails is reported to the exception handler, counted and closed, and no
/// other callback runs.
#[test]
fn a_failed_handshake() {
    isolated(|| {
        for case in ["plain", "random", "leaves", "resets", "distrusts", "misled"] {
            for config in both_modes() {
                let (hooks, told) = telling();
                let server = start(config, hooks);
                let tcp = raw(&server);
                match case {
                    "plain" => {
                        (&tcp).write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap()
                    }
                    "random" => (&tcp).write_all(&pattern(3000)).unwrap(),
                    "leaves" => (&tcp).write_all(&by_hand().1).unwrap(),
                    "distrusts" | "misled" => {
                        let stream = match case {
                            // The authority is not one that it knows; the name is not the server's.
                            "distrusts" => {
                                let config = client_config_of(older(), SECOND, None);
                                Stream::with(tcp, config, "localhost")
                            }
                            _ => Stream::with(tcp, client_config(), "another.example"),
                        };
                        let error = stream.session().settle().expect_err("trusted");
                        assert!(error.to_string().contains("certificate"), "{error}");
                        drop(stream);
                        failed_once(&server, &told, Status::Handshake);
                        continue;
                    }
                    _ => {
                        (&tcp).write_all(&by_hand().1).unwrap();
                        under_way(&tcp);
                        socket2::SockRef::from(&tcp).set_linger(Some(ms(0))).unwrap();
                        drop(tcp);
                        let (what, status) = told.next();
                        assert_eq!(what, "exception");
                        assert!(matches!(status, Status::Reset | Status::Handshake), "{status:?}");
                        wait_idle(&server);
                        told.none();
                        assert_eq!(server.stats().handshake_failures, 1);
                        continue;
                    }
                }
                tcp.shutdown(std::net::Shutdown::Write).unwrap();
                let answer = raw_rest(&tcp);
                drop(tcp);
                if case != "leaves" {
                    assert_eq!(answer.first(), Some(&21), "an alert, and nothing else: {answer:?}");
                }
                failed_once(&server, &told, Status::Handshake);
            }
        }
    });
}

/// K6: Clients that reset their connection in the handshake leave nothing that lingers, and so push
/// out nobody who does.
#[test]
fn resets_push_out_no_lingering_connection() {
    isolated_for(60, || {
        // Few connections may linger at the same time.
        let config = blocking(64).max_connections(80).linger_timeout(SOON);
        let server = start(config, Hooks::new(echo));
        let lingering = raw(&server);
        (&lingering).write_all(b"nothing like TLS").unwrap();
        raw_rest(&lingering);
        for round in 1..=8 {
            let clients: Vec<_> = (0..60).map(|_| raw(&server)).collect();
            for tcp in &clients {
                (&*tcp).write_all(&by_hand().1[..20]).unwrap();
                socket2::SockRef::from(tcp).set_linger(Some(ms(0))).unwrap();
            }
            eventually("they were read", || clients.iter().all(was_read));
            drop(clients);
            eventually("they ended", || server.stats().handshake_failures == 60 * round + 1);
        }
        // A reset would follow the first byte to a closed socket.
        for _ in 0..3 {
            (&lingering).write_all(b"x").unwrap();
            eventually("it was read", || was_read(&lingering));
        }
        drop(lingering);
        cut(&server, ms(0));
    });
}

/// A6.2: What the exception handler sends after a failed handshake does not leave in the clear:
/// there is no plain text on a port that speaks TLS.
#[test]
fn a_failure_is_no_plain_text() {
    isolated(|| {
        for config in both_modes() {
            let (log, errors) = events();
            let hooks = Hooks::new(echo).on_exception(move |_, socket, _| {
                let socket = socket.expect("a socket");
                assert_eq!(status(socket.send(b"not for everybody")), Status::Closed);
                assert_eq!(status(socket.recv(&mut [0])), Status::Closed);
                Ok(log.add(()))
            });
            let server = start(config.handshake_timeout(ms(300)), hooks);
            let hello = by_hand().1;
            for words in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"", &hello[..50], &hello[..]] {
                let tcp = raw_saying(&server, words);
                errors.next();
                let answer = raw_rest(&tcp);
                assert!(!contains(&answer, b"not for everybody"), "{answer:?}");
                drop(tcp);
                wait_idle(&server);
            }
        }
    });
}

/// A6.2: The same for a connection that is refused because no worker came free.
#[test]
fn a_refusal_is_no_plain_text() {
    isolated(|| {
        let (gate, (log, errors)) = (Gate::new(), events());
        let inside = gate.clone();
        let hooks =
            Hooks::new(move |_, _| Ok(inside.wait())).on_exception(move |_, socket, error| {
                let _ = socket.expect("a socket").send(b"too busy");
                Ok(log.add(error.status()))
            });
        let server = start(blocking(2).max_retry(1).retry_interval(ms(50)), hooks);
        let busy: Vec<_> = (0..2).map(|_| Client::connect(&server)).collect();
        gate.reached_by(2);
        let tcp = raw_saying(&server, &by_hand().1);
        let answer = raw_rest(&tcp);
        assert_eq!(errors.next(), Status::Rejected);
        assert!(!contains(&answer, b"too busy"), "{:?}", String::from_utf8_lossy(&answer));
        gate.open();
        drop((busy, tcp));
        wait_idle(&server);
    });
}

/// K6: A handshake never holds up another connection, nor accepting.
#[test]
fn a_slow_handshake_holds_nobody_up() {
    isolated(|| {
        for config in both_modes() {
            let server = start(config, Hooks::new(echo));
            let (_, hello) = by_hand();
            let slow = raw(&server);
            (&slow).write_all(&hello[..10]).unwrap();
            let silent = raw(&server);
            let clock = Stopwatch::start();
            for _ in 0..20 {
                Client::connect(&server).echo("hello");
            }
            // Held up, they would wait for the deadline of a handshake, 10 s.
            assert!(clock.elapsed() < SOON / 2, "took {:?}", clock.elapsed());
            drop((slow, silent));
            wait_idle(&server);
        }
    });
}

fn capped(most: u32) -> Config {
    configure(non_blocking(1).max_handshakes(most).handshake_timeout(ms(20_000)))
}

/// A8.2: Slow handshakes count against the cap; silent clients, and those whose first record is not
/// whole, do not. Below the cap handshakes go on; beyond it they wait until one is over, however it
/// ends.
#[test]
fn the_cap_on_handshakes() {
    isolated(|| {
        for how in ["finishes", "leaves", "resets"] {
            let server = start(capped(2), Hooks::new(echo));
            let said = [0, 1, 10, 100].into_iter().cycle();
            let silent: Vec<_> =
                said.map(|part| raw_saying(&server, &by_hand().1[..part])).take(20).collect();
            let slow = |server: &Server| {
                let (session, hello) = by_hand();
                let tcp = raw_saying(server, &hello);
                under_way(&tcp);
                (tcp, session)
            };
            let (first, mut session) = slow(&server);
            for _ in 0..5 {
                Client::connect(&server).echo("below the cap");
            }
            let second = slow(&server);
            let mut waiting: Vec<_> = (0..5).map(|_| Client::connect(&server)).collect();
            steadily("five wait", || server.stats().handshakes == 5);
            // One of those that wait gives up: its place is not taken for another's.
            drop(waiting.remove(0));
            match how {
                "finishes" => {
                    finish_by_hand(&mut session, &first, b"at last");
                    assert_eq!(receive_by_hand(&mut session, &first, 7), b"at last");
                }
                "leaves" => first.shutdown(std::net::Shutdown::Both).unwrap(),
                _ => socket2::SockRef::from(&first).set_linger(Some(ms(0))).unwrap(),
            }
            drop(first);
            for client in &mut waiting {
                client.echo("after all");
            }
            drop((waiting, silent, second));
            wait_idle(&server);
        }
    });
}

/// A8.3: A client that says nothing more loses its place while others wait, and keeps it while
/// nobody waits.
#[test]
fn the_silent_give_their_places_up() {
    isolated(|| {
        let (hooks, told) = telling();
        let server = start(capped(3), hooks);
        let clock = Stopwatch::start();
        let stalled: Vec<_> = (0..3)
            .map(|_| {
                let tcp = raw_saying(&server, &by_hand().1);
                under_way(&tcp);
                tcp
            })
            .collect();
        told.none();
        let mut waiting: Vec<_> = (0..5).map(|_| Client::connect(&server)).collect();
        for client in &mut waiting {
            client.echo("after all");
        }
        assert!(clock.elapsed() > ms(1500), "after {:?}", clock.elapsed());
        let failed = told.drain();
        assert!(failed.iter().filter(|(what, _)| *what == "exception").count() >= 1, "{failed:?}");
        assert!(failed
            .iter()
            .all(|(what, status)| *what != "exception" || *status == Status::Timeout));
        drop((waiting, stalled));
        wait_idle(&server);
    });
}

/// A8.3: Clients that waited and left end nobody's handshake.
#[test]
fn the_gone_end_nobodys_handshake() {
    isolated(|| {
        let (hooks, told) = telling();
        let server = start(capped(1), hooks);
        let (mut session, hello) = by_hand();
        let slow = raw_saying(&server, &hello);
        under_way(&slow);
        for reset in [false, true].into_iter().cycle().take(20) {
            let gone = raw_saying(&server, &hello);
            if reset {
                socket2::SockRef::from(&gone).set_linger(Some(ms(0))).unwrap();
            }
        }
        eventually("they have gone", || server.stats().open == 1);
        // Longer than the silent may keep a place while others wait.
        let_pass(ms(2300));
        assert!(told.drain().iter().all(|(_, status)| *status != Status::Timeout));
        finish_by_hand(&mut session, &slow, b"at last");
        assert_eq!(receive_by_hand(&mut session, &slow, 7), b"at last");
        drop(slow);
        wait_idle(&server);
    });
}

/// A8.1: The client that has waited longest is next, also where others come in the same turn of the
/// loop.
#[test]
fn places_go_to_those_who_waited_longest() {
    isolated(|| {
        let gate = Gate::new();
        let (inside, (log, order)) = (gate.clone(), events());
        let hooks = Hooks::new(move |_, socket| {
            let word = text(socket)?;
            match word.as_str() {
                "" => return Ok(socket.close()),
                "hold" => inside.wait(),
                _ => {}
            }
            Ok(log.add(word))
        });
        let server = start(capped(1), hooks);
        let mut holder = Client::connect(&server).settled();
        let (mut session, hello) = by_hand();
        let first = raw_saying(&server, &hello);
        under_way(&first);
        // The sessions of those who wait, by the order in which their hellos came.
        let mut waiting: Vec<_> = (0..3)
            .map(|_| {
                let (session, hello) = by_hand();
                let tcp = raw(&server);
                (&tcp).write_all(&hello).unwrap();
                eventually("it arrived", || bytes_under_way(tcp.as_raw_fd()) == 0);
                (tcp, session)
            })
            .collect();
        // While the loop is busy the place becomes free, and one more comes.
        holder.send("hold");
        gate.reached_by(1);
        finish_by_hand(&mut session, &first, b"0");
        let (late_session, hello) = by_hand();
        let late = raw_saying(&server, &hello);
        waiting.push((late, late_session));
        gate.open();
        for (number, (tcp, session)) in waiting.iter_mut().enumerate() {
            under_way(tcp);
            finish_by_hand(session, tcp, format!("{}", number + 1).as_bytes());
        }
        assert_eq!(order.take(6), ["hold", "0", "1", "2", "3", "4"]);
        drop((waiting, first, holder));
        wait_idle(&server);
    });
}

/// A8.1: Many handshakes at the same time under a small cap all come to their end.
#[test]
fn many_under_a_small_cap() {
    isolated(|| {
        let server = start(configure(non_blocking(2).max_handshakes(2)), Hooks::new(echo));
        let mut clients: Vec<_> = (0..200).map(|_| Client::connect(&server)).collect();
        for client in &mut clients {
            client.echo("hello");
        }
        drop(clients);
        wait_idle(&server);
        assert_eq!(server.stats().handshakes, 200);
    });
}

/// K5: Clients fail, leave, reset and succeed side by side, and each is in the statistics.
#[test]
fn a_mixed_crowd() {
    isolated(|| {
        for config in both_modes() {
            let opens = Arc::new(Mutex::new((0, 0)));
            let (opening, closing) = (opens.clone(), opens.clone());
            let hooks = Hooks::new(echo)
                .on_open(move |_, _| Ok(opening.lock().unwrap().0 += 1))
                .on_close(move |_, _, _| closing.lock().unwrap().1 += 1);
            let server = start(config.handshake_timeout(ms(8000)), hooks);
            std::thread::scope(|scope| {
                for thread in 0..4 {
                    let server = &server;
                    scope.spawn(move || {
                        for i in 0..15 {
                            let tcp = raw(server);
                            match (thread + i) % 4 {
                                0 => drop((&tcp).write_all(b"no TLS at all, nothing like it")),
                                1 => drop((&tcp).write_all(&by_hand().1)),
                                2 => socket2::SockRef::from(&tcp).set_linger(Some(ms(0))).unwrap(),
                                _ => Client::connect(server).echo("hello"),
                            }
                        }
                    });
                }
            });
            wait_idle(&server);
            let stats = server.stats();
            let (opened, closed) = *opens.lock().unwrap();
            assert_eq!((opened, closed, stats.handshakes), (15, 15, 15));
            // On a machine that is busy enough a worker may not come free in time.
            let accounted = stats.handshakes + stats.handshake_failures + stats.refused;
            assert_eq!(accounted, stats.accepted);
            assert_settled(&server);
        }
    });
}

/// A10.4: A handshake has its own deadline and no other: not that of a `recv`, nor of an idle
/// connection.
#[test]
fn no_other_deadline_for_a_handshake() {
    isolated(|| {
        for config in both_modes() {
            let server = start(config.io_timeout(ms(800)).idle_timeout(ms(800)), Hooks::new(echo));
            let tcp = raw(&server);
            let_pass(ms(1000));
            let (mut session, hello) = by_hand();
            (&tcp).write_all(&hello[..50]).unwrap();
            let_pass(ms(1000));
            (&tcp).write_all(&hello[50..]).unwrap();
            finish_by_hand(&mut session, &tcp, b"words");
            assert_eq!(receive_by_hand(&mut session, &tcp, 5), b"words");
        }
    });
}

/// K5: The exception handler finds a connection closed whose handshake has failed, in both modes, and
/// sends nothing.
#[test]
fn a_failed_handshake_leaves_a_closed_socket() {
    isolated(|| {
        for config in both_modes() {
            for said in ["", "GET / HTTP/1.0\r\n\r\n"] {
                let (log, results) = events();
                let hooks = Hooks::new(echo).on_exception(move |_, socket, _| {
                    let socket = socket.expect("a socket");
                    Ok(log.add((socket.is_closed(), status(socket.send(b"plain text")))))
                });
                let server = start(config.clone().handshake_timeout(ms(200)), hooks);
                let client = raw_saying(&server, said);
                assert_eq!(results.next(), (true, Status::Closed));
                let heard = raw_rest(&client);
                assert!(!heard.windows(5).any(|part| part == b"plain"), "{heard:?}");
            }
        }
    });
}

/// A10.4: After a handshake that failed on a worker there is nothing to receive: `recv` does not
/// wait.
#[test]
fn nothing_is_received_after_a_failed_handshake() {
    isolated(|| {
        for silent in [false, true] {
            let (log, results) = events();
            let hooks = Hooks::new(echo).on_exception(move |_, socket, _| {
                let clock = Stopwatch::start();
                let socket = socket.expect("a socket");
                let result = status(socket.recv(&mut [0; 8]));
                clock.at_once();
                Ok(log.add(result))
            });
            let server = start(blocking(2).handshake_timeout(ms(200)), hooks);
            let _stays = raw_saying(&server, if silent { "" } else { "GET / HTTP/1.0\r\n\r\n" });
            assert_eq!(results.next(), Status::Closed);
        }
    });
}
