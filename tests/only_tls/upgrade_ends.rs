//! What waits for the end of an upgrade, when something ends the connection.

use super::starttls::read;
use super::*;
use crate::api::{tls, CloseReason};
use std::sync::Arc;

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
        let server = start_plain(non_blocking(1).handshake_timeout(ms(2000)), hooks);
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
            let server = start_plain(blocking(2).drain_timeout(SOON), hooks);
            let tcp = raw_saying(&server, "STARTTLS");
            assert_eq!(read(&tcp, 2), b"go");
            let mut client =
                Client::set_up(Stream::with(tcp, client_config(), "localhost")).unwrap();
            let id = ids.next();
            match how {
                "close" => server.close(id).unwrap(),
                "cut" => cut(&server, ms(50)),
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
            // On a busy machine the bound may be over already: the next client is asked then.
            let _ = socket.starttls(&tls, &[]);
            // The bytes that the system's buffer does not take wait to be sent. SAFETY: the socket
            // is open in its callback.
            let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(socket.raw_fd()) };
            socket2::SockRef::from(&fd).set_send_buffer_size(8192).unwrap();
            let _ = socket.send(&pattern(64_000));
            while socket.send(&pattern(BULK)).is_ok() {}
            let clock = Stopwatch::start();
            socket.close();
            Ok(log.add(clock.elapsed()))
        });
        let config = blocking(2).max_retry(0).linger_timeout(SOON);
        let server = start_plain(config, hooks);
        let busy: Vec<_> = (0..2).map(|_| raw(&server)).collect();
        gate.reached_by(2);
        eventually("the handshake comes within the bound of a refusal", || {
            let mut tcp = raw(&server);
            let (mut session, hello) = by_hand();
            let shaken = tcp.write_all(&hello).and_then(|()| try_by_hand(&mut session, &tcp, b""));
            assert!(took.next() < SOON / 2);
            shaken.is_ok()
        });
        gate.open();
        drop(busy);
    });
}

/// A2.3: Bytes that wait for the end of an upgrade leave before a close and, until its deadline, in
/// a stop.
#[test]
fn an_end_with_bytes_held_back() {
    isolated(|| {
        for how in ["close", "close after a send by id", "by id", "stop"] {
            let tls = tls();
            let (log, asked) = events();
            let hooks = Hooks::new(move |server: &Server, socket| {
                text(socket)?;
                socket.starttls(&tls, b"")?;
                match how {
                    "close after a send by id" => server.send(socket.id(), b"for later")?,
                    _ => socket.send(b"for later")?,
                }
                if how.starts_with("close") {
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

/// A3.2: A close in a callback in the middle of the handshake finds what was accepted by id before.
#[test]
fn an_end_behind_a_send_by_id() {
    isolated(|| {
        let tls = tls();
        let hooks = Hooks::new(move |_, socket| {
            text(socket)?;
            socket.set_timer(Some(ms(100)))?;
            socket.starttls(&tls, b"")
        })
        .on_timeout(|server, socket| {
            server.send(socket.id(), b"for later")?;
            Err("this ends it".into())
        });
        let (hooks, reasons) = hooks.telling_reasons();
        let (log, ends) = events();
        let hooks = hooks.on_exception(move |_, socket, _| {
            log.add(());
            Ok(socket.expect("a socket").close())
        });
        let server = start_plain(non_blocking(1), hooks);
        let tcp = raw_saying(&server, b"x");
        ends.next();
        let mut session = shake_hands(&tcp, b"");
        let mut got = Vec::new();
        rustls::Stream::new(&mut session, &mut &tcp).read_to_end(&mut got).expect("an end");
        assert_eq!(got, b"for later");
        drop((session, tcp));
        assert_eq!(reasons.next(), CloseReason::Handler);
    });
}

/// U9: A close in the callback that asked for the upgrade ends the connection: the client does not
/// wait for a handshake, nor for the end of the linger.
#[test]
fn a_close_behind_the_request() {
    isolated(|| {
        for by_id_before in [false, true] {
            let tls = tls();
            let hooks = Hooks::new(move |server: &Server, socket| {
                text(socket)?;
                if by_id_before {
                    server.close(socket.id())?;
                }
                socket.starttls(&tls, b"")?;
                Ok(socket.close())
            });
            let (hooks, reasons) = hooks.telling_reasons();
            let server = start_plain(non_blocking(1).linger_timeout(ms(600_000)), hooks);
            let mut tcp = raw_saying(&server, b"x");
            std::io::copy(&mut tcp, &mut std::io::sink()).expect("an end");
            drop(tcp);
            assert_eq!(reasons.next(), CloseReason::Handler);
        }
    });
}

/// U5: A reset in the middle of an upgrade is a failed handshake, also while bytes before it wait to
/// leave.
#[test]
fn a_reset_before_the_queue_has_left() {
    isolated(|| {
        let tls = tls();
        let ((log, errors), (asked, upgrading)) = (events(), events());
        let hooks = Hooks::new(move |_, socket| {
            text(socket)?;
            socket.send(&pattern(BULK))?;
            assert!(socket.queued() > 0);
            socket.starttls(&tls, b"")?;
            Ok(asked.add(()))
        })
        .on_exception(move |_, _, error| Ok(log.add(error.status())));
        let (hooks, reasons) = hooks.telling_reasons();
        let server = start_plain(non_blocking(1), hooks);
        let tcp = raw_saying(&server, b"x");
        upgrading.next();
        socket2::SockRef::from(&tcp).set_linger(Some(ms(0))).unwrap();
        drop(tcp);
        assert_eq!(errors.next(), Status::Handshake);
        assert_eq!(reasons.next(), CloseReason::Handshake);
        errors.none();
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

/// A11.1: `on_drain` comes during an upgrade, however the queue before it left: gathered sends, which
/// the program has seen, or down to the low-water mark. A stop does not wait for the handshake then.
#[test]
fn on_drain_comes_during_an_upgrade() {
    isolated(|| {
        for bytes in [&[7; 2][..], &pattern(3 * BULK)] {
            let (tls, whole, words) = (tls(), bytes.len() == 2, bytes.to_vec());
            let ((log, drains), (asked, upgrading)) = (events(), events());
            let hooks = Hooks::new(move |_: &Server, socket| {
                text(socket)?;
                socket.send(&words[..1])?;
                socket.send(&words[1..])?;
                assert!(socket.queued() > 0);
                socket.starttls(&tls, b"")?;
                Ok(asked.add(()))
            })
            .on_drain(move |_, socket| log.add(socket.tls_info().is_some()));
            let (hooks, reasons) = hooks.telling_reasons();
            let config = non_blocking(1).low_water_mark(1 << 20).drain_timeout(ms(600_000));
            let server = start_plain(config, hooks);
            let mut tcp = raw_saying(&server, b"x");
            upgrading.next();
            let (id, mut got) = (server.connections().unwrap()[0], vec![0; 32 << 10]);
            let mut len = 0;
            // The last bytes stay with the server: the client reads no more of them.
            while len < bytes.len() && (whole || server.queued(id).unwrap() > 1 << 20) {
                len += tcp.read(&mut got).unwrap();
            }
            assert!(!drains.next());
            let_pass(ms(20));
            assert!(drains.drain().is_empty());
            std::thread::scope(|scope| {
                scope.spawn(|| server.stop().unwrap());
                let _ = std::io::copy(&mut &tcp, &mut std::io::sink());
                assert_eq!(reasons.next(), CloseReason::Stop);
            });
        }
    });
}

/// A11.1: Where a callback has sent bytes by id to the connection, and the next one in the same turn
/// begins an upgrade.
#[test]
fn on_drain_comes_for_bytes_of_another_callback() {
    isolated(|| {
        let (tls, target) = (tls(), Arc::new(std::sync::OnceLock::new()));
        let ((log, drains), (id_log, ids)) = (events(), events());
        let (to, gate) = (target.clone(), Gate::new());
        let inside = gate.clone();
        let hooks = Hooks::new(move |server: &Server, socket| match &*text(socket)? {
            "wait" => Ok(inside.wait()),
            "send" => server.send(*to.get().expect("an id"), b"near"),
            _ => socket.starttls(&tls, b""),
        })
        .on_open(move |_, socket| Ok(id_log.add(socket.id())))
        .on_drain(move |_, socket| log.add(socket.tls_info().is_some()));
        let server = start_plain(non_blocking(1), hooks);
        let mut clients = Vec::new();
        for _ in 0..3 {
            clients.push((raw(&server), ids.next()));
        }
        target.set(clients[2].1).unwrap();
        for (at, words) in [(0, "wait"), (1, "send"), (2, "tls")] {
            clients[at].0.write_all(words.as_bytes()).unwrap();
            gate.reached_by(1);
            let_pass(ms(20));
        }
        gate.open();
        assert_eq!(read(&clients[2].0, 4), b"near");
        assert!(!drains.next());
    });
}

/// A11.1, A2.5: A wake in the middle of an upgrade does not keep a stop from its end.
#[test]
fn a_wake_before_a_stop() {
    isolated(|| {
        let (tls, (log, asked), (drained, drains)) = (tls(), events(), events());
        let hooks = Hooks::new(move |_, socket| {
            text(socket)?;
            socket.starttls(&tls, b"")?;
            socket.send(b"for later")?;
            Ok(log.add(socket.id()))
        })
        .on_wake(|_, _| -> Result<(), crate::api::Error> { panic!("in a stop") })
        .on_drain(move |_, socket| {
            drained.add(());
            socket.send(b"!")
        });
        let (hooks, reasons) = hooks.telling_reasons();
        let server = start_plain(non_blocking(1).drain_timeout(ms(600_000)), hooks);
        let tcp = raw_saying(&server, b"x");
        server.wake(asked.next()).unwrap();
        let_pass(ms(50));
        server.request_stop();
        let_pass(ms(50));
        let mut session = shake_hands(&tcp, b"");
        let mut got = Vec::new();
        rustls::Stream::new(&mut session, &mut &tcp).read_to_end(&mut got).expect("an end");
        assert_eq!(got, b"for later!");
        drop((session, tcp));
        assert_eq!(reasons.next(), CloseReason::Stop);
        assert_eq!(drains.drain().len(), 1);
    });
}

/// Q10, U1: A file that is sent while an upgrade is on its way leaves through TLS, in order. Until
/// the handshake is over the call accepts 64 KiB at most.
#[test]
fn a_file_behind_an_upgrade() {
    isolated(|| {
        let tls = tls();
        let (log, accepted) = events();
        let (file, more) = (Arc::new(file_of(&pattern(BULK))), log.clone());
        let same = file.clone();
        let hooks = Hooks::new(move |_, socket| {
            text(socket)?;
            socket.starttls(&tls, b"")?;
            let n = socket.sendfile(&*file, BEFORE, BULK as u64)?;
            socket.set_user_data(n);
            assert_eq!(socket.sendfile(&*file, BEFORE + n, BULK as u64 - n).unwrap(), 0);
            Ok(log.add(n))
        })
        .on_drain(move |_, socket| {
            let at = socket.user_data::<u64>().copied().unwrap_or(0);
            let n = socket.sendfile(&*same, BEFORE + at, BULK as u64 - at).unwrap();
            socket.set_user_data(at + n);
            more.add(n);
        });
        let server = start_plain(non_blocking(1), hooks);
        let tcp = raw_saying(&server, b"x");
        let mut sum = accepted.next();
        assert!((1..=64 << 10).contains(&sum), "{sum}");
        let mut session = shake_hands(&tcp, b"");
        assert!(receive_by_hand(&mut session, &tcp, BULK) == pattern(BULK));
        while sum < BULK as u64 {
            sum += accepted.next();
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
