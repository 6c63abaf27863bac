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

pub(super) fn read(mut tcp: &TcpStream, len: usize) -> Vec<u8> {
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

/// AD14: An adopted socket, which is plain, takes STARTTLS.
#[test]
fn an_upgrade_of_an_adopted_socket() {
    isolated(|| {
        let (server, seen, _) = clear(non_blocking(2));
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let tcp = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        server.adopt(listener.accept().unwrap().0, ()).unwrap();
        (&tcp).write_all(COMMAND).unwrap();
        assert_eq!(read(&tcp, 3), b"go\n");
        let (mut session, hello) = by_hand();
        (&tcp).write_all(&hello).unwrap();
        finish_by_hand(&mut session, &tcp, b"secret");
        assert_eq!(receive_by_hand(&mut session, &tcp, 6), b"secret");
        assert_eq!(seen.next(), (true, "secret".into()));
        assert_eq!(server.stats().handshakes, 1);
        drop(tcp);
        wait_idle(&server);
    });
}

/// AD7, A11.1: A wake that came before the connect was over comes after an upgrade that `on_open`
/// begins, and so do later ones.
#[test]
fn a_wake_before_a_connect_with_an_upgrade() {
    isolated(|| {
        let (tls, (log, wakes), (id_log, ids)) = (tls(), events(), events());
        let hooks = Hooks::new(move |_: &Server, socket| text(socket).map(drop))
            .on_open(move |_: &Server, socket| socket.starttls(&tls, b""))
            .on_wake(move |_, socket| Ok(log.add(socket.tls_info().is_some())));
        let server = start_plain(non_blocking(1), hooks);
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let service = listener.local_addr().unwrap().to_string();
        // The loop looks at the connect after the task.
        let task = move |server: &Server| {
            let id = server.connect(&service, Some(SOON), ())?;
            server.wake(id)?;
            Ok(id_log.add(id))
        };
        server.post(0, task).unwrap();
        let (tcp, _) = listener.accept().unwrap();
        tcp.set_read_timeout(Some(SOON)).unwrap();
        let session = shake_hands(&tcp, b"");
        assert!(wakes.next());
        server.wake(ids.next()).unwrap();
        assert!(wakes.next());
        drop((session, tcp));
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
            let clock = Stopwatch::start();
            let tcp = raw_saying(&server, COMMAND);
            assert_eq!(read(&tcp, 3), b"go\n");
            assert_eq!(errors.next(), Status::Timeout);
            clock.kept(ms(200));
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
            let tcp = raw_saying(&server, b"x");
            eventually("it was read", || was_read(&tcp));
            socket2::SockRef::from(&tcp).set_linger(Some(ms(0))).unwrap();
            drop(tcp);
            assert_eq!(closes.next(), CloseReason::Handshake);
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

/// GS4, U2: Replies that were gathered leave before the upgrade, in the clear and in order, and so
/// does what the same callback sent by id before it.
#[test]
fn behind_gathered_replies() {
    isolated(|| {
        for config in both_modes() {
            let (tls, loops) = (tls(), config.non_blocking);
            let hooks = Hooks::new(move |server: &Server, socket| {
                if socket.tls_info().is_some() {
                    return echo(server, socket);
                }
                text(socket)?;
                socket.cork()?;
                ["a", "b", "c"].iter().try_for_each(|word| socket.send(word.as_bytes()))?;
                match loops {
                    true => server.send(socket.id(), b"d")?,
                    false => socket.send(b"d")?,
                }
                socket.starttls(&tls, b"")?;
                socket.uncork()?;
                if loops {
                    Ok(())
                } else {
                    echo(server, socket)
                }
            });
            let server = start_plain(config, hooks);
            let tcp = raw_saying(&server, b"x");
            assert_eq!(read(&tcp, 4), b"abcd");
            let (mut session, hello) = by_hand();
            (&tcp).write_all(&hello).unwrap();
            finish_by_hand(&mut session, &tcp, b"secret");
            assert_eq!(receive_by_hand(&mut session, &tcp, 6), b"secret");
        }
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
