//! STARTTLS: an upgrade in mid-stream.

use super::*;
use crate::api::{tls, CloseReason, Config, Socket};

const COMMAND: &[u8] = b"STARTTLS\n";

/// A server that starts in the clear. It reports what its handler reads: whether through TLS, and
/// the bytes.
fn clear(config: Config) -> (Server, Events<(bool, String)>, Events<Status>) {
    let (log, seen) = events();
    let (error_log, errors) = events();
    let tls = tls();
    let serve = move |socket: &mut Socket<'_>| -> Result<bool, crate::api::Error> {
        let mut buffer = [0; 4096];
        let n = socket.recv(&mut buffer)?;
        let bytes = &buffer[..n];
        let secure = socket.tls_info().is_some();
        match bytes.strip_prefix(COMMAND).filter(|_| !secure) {
            Some(ahead) => {
                socket.send(b"go\n")?;
                socket.starttls(&tls, ahead)?;
            }
            None if n > 0 => {
                log.add((secure, String::from_utf8_lossy(bytes).into_owned()));
                socket.send(bytes)?;
            }
            None => socket.close(),
        }
        Ok(n > 0)
    };
    let blocking = !config.non_blocking;
    let hooks = Hooks::new(move |_, socket| {
        while serve(socket)? && blocking {}
        Ok(())
    })
    .on_exception(move |_, _, error| Ok(error_log.add(error.status())));
    let server = start_plain(config, hooks);
    (server, seen, errors)
}

fn read(mut tcp: &TcpStream, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    tcp.read_exact(&mut bytes).unwrap();
    bytes
}

/// U1: The upgrade succeeds, whether the client's first message comes with the command or later.
#[test]
fn an_upgrade() {
    isolated(|| {
        for config in both_modes() {
            for part in [0, 1, 60, usize::MAX] {
                let (server, seen, _) = clear(config.clone());
                let tcp = raw_saying(&server, b"in the clear");
                assert_eq!(read(&tcp, 12), b"in the clear");
                assert_eq!(seen.next(), (false, "in the clear".into()));
                let (mut session, hello) = by_hand();
                let part = part.min(hello.len());
                (&tcp).write_all(&[COMMAND, &hello[..part]].concat()).unwrap();
                assert_eq!(read(&tcp, 3), b"go\n");
                seen.none();
                (&tcp).write_all(&hello[part..]).unwrap();
                finish_by_hand(&mut session, &tcp, b"secret");
                assert_eq!(receive_by_hand(&mut session, &tcp, 6), b"secret");
                assert_eq!(seen.next(), (true, "secret".into()));
                let stats = server.stats();
                assert_eq!((stats.handshakes, stats.handshake_failures), (1, 0));
                session.send_close_notify();
                session.write_tls(&mut &tcp).unwrap();
                drop(tcp);
                wait_idle(&server);
            }
        }
    });
}

/// U3: Plain text that somebody sent behind the command goes to TLS, which refuses it, and never to
/// the handler.
#[test]
fn an_injection() {
    isolated(|| {
        for config in both_modes() {
            for together in [true, false] {
                let non_blocking = config.non_blocking;
                let (server, seen, errors) = clear(config.clone());
                let tcp = raw(&server);
                let command = if together { &b"STARTTLS\nINJECTED\n"[..] } else { COMMAND };
                (&tcp).write_all(command).unwrap();
                if !together {
                    (&tcp).write_all(b"INJECTED\n").unwrap();
                }
                assert_eq!(read(&tcp, 3), b"go\n");
                assert_eq!(errors.next(), Status::Handshake);
                let answer = raw_rest(&tcp);
                assert!(!contains(&answer, b"INJECTED"));
                drop(tcp);
                wait_idle(&server);
                assert!(seen.drain().is_empty(), "the handler saw it");
                let stats = server.stats();
                assert_eq!((stats.handshakes, stats.handshake_failures), (0, 1));
                if non_blocking {
                    assert_eq!(stats.closed[CloseReason::Handshake as usize], 1);
                }
            }
        }
    });
}

/// U3: With a whole handshake behind the injection, the handshake does not go on.
#[test]
fn an_injection_before_a_handshake() {
    isolated(|| {
        for config in both_modes() {
            let (server, seen, errors) = clear(config);
            let tcp = raw(&server);
            let hello = by_hand().1;
            (&tcp).write_all(&[COMMAND, b"INJECTED\n", &hello].concat()).unwrap();
            assert_eq!(errors.next(), Status::Handshake);
            raw_rest(&tcp);
            drop(tcp);
            wait_idle(&server);
            assert!(seen.drain().is_empty());
        }
    });
}

/// U4: The handshake of an upgrade has the same deadline.
#[test]
fn the_deadline() {
    isolated(|| {
        for config in both_modes() {
            let (server, seen, errors) = clear(config.handshake_timeout(ms(200)));
            let tcp = raw_saying(&server, COMMAND);
            let clock = Stopwatch::start();
            assert_eq!(read(&tcp, 3), b"go\n");
            assert_eq!(errors.next(), Status::Timeout);
            // The clock began a moment after the handshake's.
            kept(clock.elapsed() + ms(20), ms(200));
            raw_rest(&tcp);
            drop(tcp);
            wait_idle(&server);
            assert!(seen.drain().is_empty());
        }
    });
}

/// U5: `on_close` runs once, because the connection was open.
#[test]
fn a_failed_upgrade_closes_what_was_open() {
    isolated(|| {
        for config in both_modes() {
            let (log, closes) = events();
            let tls = tls();
            let hooks = Hooks::new(move |_, socket| {
                text(socket)?;
                socket.starttls(&tls, b"")
            })
            .on_close(move |_, _, reason| log.add(reason));
            let server = start_plain(config, hooks);
            let tcp = raw_saying(&server, b"x");
            eventually("it was read", || was_read(&tcp));
            (&tcp).write_all(b"nothing like TLS").unwrap();
            assert_eq!(closes.next(), CloseReason::Handshake);
            drop(tcp);
            wait_idle(&server);
            closes.none();
        }
    });
}

/// U6: A second upgrade is an error, as is one on a server of TLS.
#[test]
fn only_once() {
    isolated(|| {
        for config in both_modes() {
            let (log, results) = events();
            let other = tls();
            let hooks = Hooks::new(move |_, socket| {
                text(socket)?;
                Ok(log.add(status(socket.starttls(&other, b""))))
            });
            let server = start(config, hooks);
            let mut client = Client::connect(&server);
            client.send("x");
            assert_eq!(results.next(), Status::State);
        }
    });
}

/// U7: Without a certificate there is no upgrade, and the connection goes on in the clear.
#[test]
fn without_a_certificate() {
    isolated(|| {
        for config in both_modes() {
            let empty = crate::api::TlsConfig::new();
            let hooks = Hooks::new(move |_, socket| {
                text(socket)?;
                assert_eq!(status(socket.starttls(&empty, b"")), Status::Certificate);
                socket.send(b"still plain")
            });
            let server = start_plain(config, hooks);
            let tcp = raw_saying(&server, b"x");
            assert_eq!(read(&tcp, 11), b"still plain");
        }
    });
}

/// U2: Replies that are queued when the upgrade begins leave before it, in the clear and in order.
#[test]
fn behind_a_queue() {
    isolated(|| {
        let tls = tls();
        let hooks = Hooks::new(move |server: &Server, socket| {
            if socket.tls_info().is_some() {
                return echo(server, socket);
            }
            text(socket)?;
            socket.send(&pattern(BULK))?;
            socket.starttls(&tls, b"")
        });
        let server = start_plain(non_blocking(1), hooks);
        let tcp = raw_saying(&server, b"x");
        eventually("it was read", || was_read(&tcp));
        let (mut session, hello) = by_hand();
        (&tcp).write_all(&hello).unwrap();
        assert!(read(&tcp, BULK) == pattern(BULK));
        finish_by_hand(&mut session, &tcp, b"secret");
        assert_eq!(receive_by_hand(&mut session, &tcp, 6), b"secret");
    });
}

/// U8: What the callback that began the handshake sends, and what another thread sends by id, waits
/// for its end and leaves encrypted and in order.
#[test]
fn sending_during_the_handshake() {
    isolated(|| {
        let (log, begun) = events();
        let tls = tls();
        let hooks = Hooks::new(move |server: &Server, socket| {
            if socket.tls_info().is_some() {
                return echo(server, socket);
            }
            text(socket)?;
            socket.send(b"go\n")?;
            socket.starttls(&tls, b"")?;
            socket.send(b"secret ")?;
            Ok(log.add(socket.id()))
        });
        let server = start_plain(non_blocking(1), hooks);
        let tcp = raw_saying(&server, b"x");
        let id = begun.next();
        server.send(id, b"by id ").unwrap();
        assert_eq!(server.broadcast(&[id], b"broadcast").unwrap(), 1);
        assert_eq!(read(&tcp, 3), b"go\n");
        tcp.set_read_timeout(Some(NEVER)).unwrap();
        assert!((&tcp).read(&mut [0]).is_err(), "something in the clear");
        tcp.set_read_timeout(Some(SOON)).unwrap();
        let mut session = shake_hands(&tcp, b"");
        assert_eq!(receive_by_hand(&mut session, &tcp, 22), b"secret by id broadcast");
        server.close(id).unwrap();
        assert_eq!(rustls::Stream::new(&mut session, &mut &tcp).read(&mut [0]).unwrap(), 0);
    });
}

/// U9: A close by id while the handshake goes on ends the connection.
#[test]
fn closing_during_the_handshake() {
    isolated(|| {
        let (log, begun) = events();
        let (close_log, closes) = events();
        let tls = tls();
        let hooks = Hooks::new(move |_, socket| {
            text(socket)?;
            socket.starttls(&tls, b"")?;
            Ok(log.add(socket.id()))
        })
        .on_close(move |_, _, reason| close_log.add(reason));
        let server = start_plain(non_blocking(1), hooks);
        for call in ["close", "abort"] {
            let tcp = raw_saying(&server, b"x");
            let id = begun.next();
            let expected = match call {
                "close" => server.close(id).map(|()| CloseReason::Handler),
                _ => server.abort(id).map(|()| CloseReason::Abort),
            };
            raw_rest(&tcp);
            drop(tcp);
            assert_eq!(closes.next(), expected.unwrap(), "{call}");
            wait_idle(&server);
        }
        assert_eq!(server.stats().closed_total(), 2);
    });
}

/// U10: The callback that asked for the upgrade cannot detach the socket, and so cannot have it in
/// the clear: the server goes on with it through TLS.
#[test]
fn detaching_with_the_handshake_to_come() {
    isolated(|| {
        let (log, results) = events();
        let tls = tls();
        let hooks = Hooks::new(move |server: &Server, socket| {
            if socket.tls_info().is_some() {
                return echo(server, socket);
            }
            text(socket)?;
            socket.starttls(&tls, b"")?;
            Ok(log.add(status(server.detach(socket))))
        });
        let server = start_plain(non_blocking(1), hooks);
        let tcp = raw_saying(&server, b"x");
        assert_eq!(results.next(), Status::State);
        let mut session = shake_hands(&tcp, b"secret");
        assert_eq!(receive_by_hand(&mut session, &tcp, 6), b"secret");
        assert_eq!(server.stats().detached, 0);
    });
}

/// A11.1: Nothing that happens during the handshake is lost: the timer, and `on_drain` of an earlier
/// queue, come in it; a wake comes after it.
#[test]
fn events_during_the_handshake() {
    isolated(|| {
        for timer in [false, true] {
            let (log, seen) = events();
            let [woken, drained, timed] = [log.clone(), log.clone(), log.clone()];
            let tls = tls();
            let hooks = Hooks::new(move |_, socket| {
                if socket.tls_info().is_some() {
                    return text(socket).map(drop);
                }
                text(socket)?;
                socket.send(&pattern(BULK))?;
                assert!(socket.queued() > 0);
                socket.starttls(&tls, b"")?;
                socket.set_timer(timer.then_some(ms(200)))?;
                Ok(log.add("upgrading"))
            })
            .on_wake(move |_, socket| {
                assert!(socket.tls_info().is_some());
                woken.add("woken");
            })
            .on_drain(move |_, socket| {
                assert!(socket.tls_info().is_none());
                drained.add("drained");
            })
            .on_timeout(move |server: &Server, socket| {
                assert!(socket.tls_info().is_none());
                assert_eq!(status(socket.recv(&mut [0])), Status::WouldBlock);
                assert_eq!(status(server.detach(socket)), Status::State);
                timed.add("timed out");
            });
            let (hooks, ids) = hooks.telling_ids();
            let server = start_plain(non_blocking(1), hooks);
            let tcp = raw_saying(&server, b"x");
            assert_eq!(seen.next(), "upgrading");
            let id = ids.next();
            server.wake(id).unwrap();
            server.wake(id).unwrap();
            if timer {
                assert_eq!(seen.next(), "timed out");
            }
            assert!(read(&tcp, BULK) == pattern(BULK));
            assert_eq!(seen.next(), "drained");
            seen.none();
            let session = shake_hands(&tcp, b"");
            assert_eq!(seen.next(), "woken");
            seen.none();
            server.wake(id).unwrap();
            assert_eq!(seen.next(), "woken");
            drop((session, tcp));
            wait_idle(&server);
        }
    });
}

/// A2.2: Where bytes wait for a handshake that does not come, a close cannot send them, and the
/// peer sees a reset.
#[test]
fn a_close_with_bytes_held_back() {
    isolated(|| {
        let tls = tls();
        let (log, ids) = events();
        let hooks = Hooks::new(move |_, socket| {
            text(socket)?;
            socket.starttls(&tls, b"")?;
            socket.send(b"for later")?;
            Ok(log.add(socket.id()))
        });
        let server = start_plain(non_blocking(1).handshake_timeout(ms(200)), hooks);
        let mut tcp = raw_saying(&server, b"x");
        server.close(ids.next()).unwrap();
        let error = tcp.read(&mut [0]).expect_err("an orderly end");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        wait_idle(&server);
    });
}

/// A6.3: After an upgrade on a worker close_notify comes before the end, whatever ends the
/// connection in good order.
#[test]
fn close_notify_after_an_upgrade_on_a_worker() {
    isolated(|| {
        for how in ["close", "stop", "cut"] {
            let (log, ids) = events();
            let tls = tls();
            let hooks = Hooks::new(move |_, socket| {
                text(socket)?;
                socket.send(b"go")?;
                socket.starttls(&tls, b"")?;
                log.add(socket.id());
                text(socket)?;
                Ok(())
            });
            let drain = if how == "cut" { ms(50) } else { SOON };
            let server = start_plain(blocking(2).drain_timeout(drain), hooks);
            let tcp = raw_saying(&server, "STARTTLS");
            assert_eq!(read(&tcp, 2), b"go");
            let mut client =
                Client::set_up(Stream::with(tcp, client_config(), "localhost")).unwrap();
            let id = ids.next();
            match how {
                "close" => server.close(id).unwrap(),
                "cut" => server.stop().unwrap(),
                _ => while_stopping(&server, || client.send("x")),
            }
            client.expect_end();
        }
    });
}

/// A2.3: Where bytes wait for the handshake's end, a half-close comes behind them.
#[test]
fn a_half_close_with_bytes_held_back() {
    isolated(|| {
        let tls = tls();
        let hooks = Hooks::new(move |_, socket| {
            text(socket)?;
            if socket.tls_info().is_some() {
                return Ok(socket.close());
            }
            socket.starttls(&tls, b"")?;
            socket.send(b"for later")?;
            socket.shutdown(std::net::Shutdown::Write)
        });
        let server = start_plain(non_blocking(1), hooks);
        let tcp = raw_saying(&server, b"x");
        let mut session = shake_hands(&tcp, b"");
        assert_eq!(receive_by_hand(&mut session, &tcp, 9), b"for later");
        let mut rest = Vec::new();
        rustls::Stream::new(&mut session, &mut &tcp).read_to_end(&mut rest).expect("a clean end");
        assert!(rest.is_empty());
        drop((session, tcp));
        wait_idle(&server);
    });
}

/// A2.5: A stop in the middle of an upgrade says that nothing was lost only where that is so.
#[test]
fn a_stop_with_bytes_held_back() {
    isolated(|| {
        for held in [false, true] {
            let tls = tls();
            let (log, asked) = events();
            let hooks = Hooks::new(move |_, socket| {
                text(socket)?;
                socket.starttls(&tls, b"")?;
                if held {
                    socket.send(b"for later")?;
                }
                Ok(log.add(()))
            });
            let (hooks, reasons) = hooks.telling_reasons();
            let server = start_plain(non_blocking(1).drain_timeout(ms(200)), hooks);
            let mut tcp = raw_saying(&server, b"x");
            asked.next();
            server.stop().unwrap();
            let expected = if held { CloseReason::Cut } else { CloseReason::Stop };
            assert_eq!(reasons.next(), expected);
            let ended = std::io::copy(&mut tcp, &mut std::io::sink());
            assert_eq!(ended.is_err(), held, "{ended:?}");
        }
    });
}

/// A9.2: The one bound of a refusal includes a close that cannot send what is queued.
#[test]
fn a_refusal_has_one_bound() {
    isolated(|| {
        let (gate, (log, took)) = (Gate::new(), events());
        let (inside, tls) = (gate.clone(), tls());
        let hooks = Hooks::new(move |_, _| Ok(inside.wait())).on_exception(move |_, socket, _| {
            let socket = socket.expect("a socket");
            socket.starttls(&tls, &[])?;
            // The bytes that the system's buffer does not take wait to be sent. SAFETY: the socket
            // is open in its callback.
            let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(socket.raw_fd()) };
            socket2::SockRef::from(&fd).set_send_buffer_size(8192).unwrap();
            socket.send(&pattern(64_000))?;
            while socket.send(&pattern(BULK)).is_ok() {}
            let clock = Stopwatch::start();
            socket.close();
            Ok(log.add(clock.elapsed()))
        });
        let config = blocking(2).max_retry(0).linger_timeout(SOON);
        let server = start_plain(config, hooks);
        let busy: Vec<_> = (0..2).map(|_| raw(&server)).collect();
        gate.reached_by(2);
        let tcp = raw(&server);
        let _session = shake_hands(&tcp, b"");
        assert!(took.next() < ms(1000));
        gate.open();
        drop((busy, tcp));
    });
}

/// A2.3: Bytes that wait for the end of an upgrade leave before a close and, until its deadline, in
/// a stop.
#[test]
fn an_end_with_bytes_held_back() {
    isolated(|| {
        for how in ["close", "by id", "stop"] {
            let tls = tls();
            let (log, asked) = events();
            let hooks = Hooks::new(move |_, socket| {
                text(socket)?;
                socket.starttls(&tls, b"")?;
                socket.send(b"for later")?;
                if how == "close" {
                    socket.close();
                }
                Ok(log.add(socket.id()))
            });
            let (hooks, reasons) = hooks.telling_reasons();
            let server = start_plain(non_blocking(1).drain_timeout(SOON), hooks);
            let tcp = raw_saying(&server, b"x");
            let id = asked.next();
            match how {
                "by id" => server.close(id).unwrap(),
                "stop" => server.request_stop(),
                _ => {}
            }
            let_pass(ms(50));
            let mut session = shake_hands(&tcp, b"");
            let mut got = Vec::new();
            rustls::Stream::new(&mut session, &mut &tcp).read_to_end(&mut got).expect("an end");
            assert_eq!(got, b"for later");
            drop((session, tcp));
            let stopped = how == "stop";
            let expected = if stopped { CloseReason::Stop } else { CloseReason::Handler };
            assert_eq!(reasons.next(), expected);
        }
    });
}

/// A11.2: `on_drain` comes after an upgrade, for what had been queued before it and for what waited
/// for its end.
#[test]
fn on_drain_comes_after_an_upgrade() {
    isolated(|| {
        for how in ["before", "by id", "direct"] {
            let tls = tls();
            let (log, drains) = events();
            let (asked, upgrading) = events();
            let hooks = Hooks::new(move |server: &Server, socket| {
                text(socket)?;
                if how == "before" {
                    socket.send(&pattern(BULK))?;
                    assert!(socket.queued() > 0);
                }
                socket.starttls(&tls, b"")?;
                asked.add(());
                match how {
                    "before" => Ok(()),
                    "by id" => server.send(socket.id(), b"later"),
                    _ => socket.send(b"later"),
                }
            })
            .on_drain(move |_, socket| log.add((socket.tls_info().is_some(), socket.queued())));
            let server = start_plain(non_blocking(1), hooks);
            let tcp = raw_saying(&server, b"x");
            upgrading.next();
            if how == "before" {
                assert!(read(&tcp, BULK) == pattern(BULK));
                // Nothing waits for the handshake.
                assert_eq!(drains.next(), (false, 0));
            }
            drains.none();
            let mut session = shake_hands(&tcp, b"");
            if how != "before" {
                assert_eq!(receive_by_hand(&mut session, &tcp, 5), b"later");
            }
            if how != "before" {
                assert_eq!(drains.next(), (true, 0));
            }
            drains.none();
        }
    });
}

/// A2.3, A2.6: A stop before the end of an upgrade leaves an answer in pieces whole, too.
#[test]
fn an_answer_in_pieces_behind_an_upgrade() {
    isolated(|| {
        for before in [false, true] {
            let tls = tls();
            let (log, asked) = events();
            let hooks = Hooks::new(move |_, socket| {
                text(socket)?;
                if before {
                    socket.send(&pattern(BULK))?;
                    assert!(socket.queued() > 0);
                    socket.starttls(&tls, b"")?;
                } else {
                    socket.starttls(&tls, b"")?;
                    socket.send(b"the first")?;
                }
                Ok(log.add(()))
            })
            .on_drain(|_, socket| {
                if socket.user_data::<()>().is_none() {
                    socket.set_user_data(());
                    socket.send(b" and the last").unwrap();
                }
            });
            let (hooks, reasons) = hooks.telling_reasons();
            let server = start_plain(non_blocking(1).drain_timeout(SOON), hooks);
            let tcp = raw_saying(&server, b"x");
            asked.next();
            server.request_stop();
            let_pass(ms(50));
            if before {
                assert!(read(&tcp, BULK) == pattern(BULK));
            }
            let mut session = shake_hands(&tcp, b"");
            let mut got = Vec::new();
            rustls::Stream::new(&mut session, &mut &tcp).read_to_end(&mut got).expect("an end");
            let first = if before { "" } else { "the first" };
            assert_eq!(String::from_utf8_lossy(&got), format!("{first} and the last"));
            drop((session, tcp));
            assert_eq!(reasons.next(), CloseReason::Stop);
        }
    });
}
