//! The ways in which a stream ends, as the server and as the client sees them.

use super::*;
use crate::api::{into_tcp, CloseReason, OwnedSocket};

/// A handler that reports the end of the stream, after everything before it.
fn ends() -> (Hooks, Events<(String, Status)>) {
    let (log, ends) = events();
    let hooks = Hooks::new(move |_, socket| {
        let mut buffer = [0; 64];
        loop {
            match socket.recv(&mut buffer) {
                Ok(0) => {
                    log.add((String::new(), Status::Ok));
                    return Ok(socket.close());
                }
                Ok(n) => log.add((String::from_utf8_lossy(&buffer[..n]).into_owned(), Status::Ok)),
                Err(error) if error.status() == Status::WouldBlock => return Ok(()),
                Err(error) => {
                    log.add((String::new(), error.status()));
                    return Err(error);
                }
            }
        }
    });
    (hooks, ends)
}

/// K8, A1.3: A clean close, a truncation and a reset are three results, each after what had
/// arrived.
#[test]
fn three_ends() {
    isolated(|| {
        for config in both_modes() {
            let (hooks, ends) = ends();
            let server = start(config, hooks);
            for (how, status) in
                [("clean", Status::Ok), ("truncated", Status::Truncated), ("reset", Status::Reset)]
            {
                let mut client = Client::connect(&server).settled();
                client.send("words");
                assert_eq!(ends.next(), ("words".into(), Status::Ok));
                match how {
                    "clean" => client.finish_sending(),
                    "truncated" => drop(into_tcp(client.0)),
                    _ => client.reset(),
                }
                assert_eq!(ends.next(), (String::new(), status), "{how}");
                wait_idle(&server);
            }
            let stats = server.stats();
            assert_eq!(stats.closed[CloseReason::Peer as usize], 1, "{stats:?}");
            assert_eq!(stats.handshake_failures, 0);
        }
    });
}

/// X16, MT6: An end without close_notify that a handler passes on is the peer's doing and no failure
/// of the handler; the same status of the handler's own is.
#[test]
fn a_truncation_that_a_handler_passes_on() {
    isolated(|| {
        for config in both_modes() {
            let (log, errors) = events();
            let hooks = Hooks::new(|_, socket| loop {
                match text(socket)?.as_str() {
                    "own" => return Err(Status::Truncated.into()),
                    "" => return Ok(socket.close()),
                    said => socket.send(said.as_bytes())?,
                }
            })
            .on_exception(move |_, socket, error| {
                log.add(error.status());
                Ok(socket.expect("a socket").close())
            });
            let server = start(config, hooks);
            for count in 1..=3 {
                let mut client = Client::connect(&server);
                client.echo("hello");
                drop(into_tcp(client.0));
                assert_eq!(errors.next(), Status::Truncated);
                wait_idle(&server);
                let stats = server.stats();
                assert_eq!((stats.handler_errors, stats.peer_resets), (0, count));
            }
            let mut client = Client::connect(&server).saying("own");
            client.expect_gone();
            drop(client);
            wait_idle(&server);
            let stats = server.stats();
            assert_eq!((stats.handler_errors, stats.peer_resets), (1, 3));
        }
    });
}

/// K8, T7: A `recv` of blocking mode that takes too long is the fourth result, also in the middle
/// of a record.
#[test]
fn a_timeout_is_another_end() {
    isolated(|| {
        for part in [0, 20] {
            let (hooks, ends) = ends();
            let server = start(blocking(2).io_timeout(ms(200)), hooks);
            let tcp = raw(&server);
            let mut session = shake_hands(&tcp, b"words");
            assert_eq!(ends.next(), ("words".into(), Status::Ok));
            session.writer().write_all(b"half a record").unwrap();
            let mut record = Vec::new();
            session.write_tls(&mut record).unwrap();
            (&tcp).write_all(&record[..part]).unwrap();
            let clock = Stopwatch::start();
            assert_eq!(ends.next(), (String::new(), Status::Timeout));
            clock.at_once();
        }
    });
}

/// T7: `io_timeout` covers the whole call, however slowly the bytes of a record come.
#[test]
fn a_dribbled_record_times_out() {
    isolated(|| {
        let (hooks, ends) = ends();
        let server = start(blocking(2).io_timeout(ms(300)), hooks);
        let tcp = raw(&server);
        // The call begins somewhat later.
        let clock = Stopwatch::start();
        let mut session = shake_hands(&tcp, b"words");
        assert_eq!(ends.next(), ("words".into(), Status::Ok));
        session.writer().write_all(&[0; 1000]).unwrap();
        let mut record = Vec::new();
        session.write_tls(&mut record).unwrap();
        let end = record.iter().find_map(|byte| {
            let _ = (&tcp).write_all(&[*byte]);
            ends.poll(ms(20))
        });
        assert_eq!(end, Some((String::new(), Status::Timeout)));
        clock.kept(ms(300));
    });
}

/// T3: The same bytes keep a connection from being idle.
#[test]
fn a_dribbled_record_is_not_idle() {
    isolated(|| {
        let (hooks, ends) = ends();
        let server = start(blocking(2).idle_timeout(ms(1500)), hooks);
        let tcp = raw(&server);
        let (mut session, hello) = by_hand();
        (&tcp).write_all(&hello).unwrap();
        finish_by_hand(&mut session, &tcp, b"words");
        assert_eq!(ends.next(), ("words".into(), Status::Ok));
        session.writer().write_all(b"more").unwrap();
        let mut record = Vec::new();
        session.write_tls(&mut record).unwrap();
        for byte in &record {
            let_pass(ms(80));
            (&tcp).write_all(&[*byte]).unwrap();
        }
        assert_eq!(ends.next(), ("more".into(), Status::Ok));
    });
}

/// K8, A1.3: A stream is truncated in the middle of a record, and after a whole record that the
/// handler has not read.
#[test]
fn truncated_records() {
    isolated(|| {
        for config in both_modes() {
            for whole in [true, false] {
                let (hooks, ends) = ends();
                let server = start(config.clone(), hooks);
                let tcp = raw(&server);
                let mut session = shake_hands(&tcp, b"");
                session.writer().write_all(b"last words").unwrap();
                let mut record = Vec::new();
                session.write_tls(&mut record).unwrap();
                let len = if whole { record.len() } else { record.len() - 1 };
                (&tcp).write_all(&record[..len]).unwrap();
                tcp.shutdown(std::net::Shutdown::Write).unwrap();
                if whole {
                    assert_eq!(ends.next(), ("last words".into(), Status::Ok));
                }
                assert_eq!(ends.next(), (String::new(), Status::Truncated));
                raw_rest(&tcp);
                drop(tcp);
                wait_idle(&server);
            }
        }
    });
}

/// K9: A broken record is NS_ERR_TLS with the reason, and the client gets an alert.
#[test]
fn a_broken_record() {
    isolated(|| {
        for config in both_modes() {
            let (hooks, ends) = ends();
            let (log, reasons) = events();
            let hooks = hooks.on_exception(move |_, _, e| Ok(log.add(e.message().to_string())));
            let server = start(config, hooks);
            let tcp = raw(&server);
            let mut session = shake_hands(&tcp, b"words");
            assert_eq!(ends.next(), ("words".into(), Status::Ok));
            session.writer().write_all(b"changed on its way").unwrap();
            let mut record = Vec::new();
            session.write_tls(&mut record).unwrap();
            *record.last_mut().unwrap() ^= 1;
            (&tcp).write_all(&record).unwrap();
            assert_eq!(ends.next(), (String::new(), Status::Tls));
            assert!(reasons.next().contains("decrypt"));
            assert!(!raw_rest(&tcp).is_empty());
            drop(tcp);
            wait_idle(&server);
        }
    });
}

/// N5, Q5: Where its alert stands above the high-water mark, the handler is called when the queue has
/// shrunk, and its first `recv` has the failure.
#[test]
fn a_broken_record_above_the_high_water_mark() {
    isolated(|| {
        const MARK: usize = 64 << 10;
        /// What TLS adds to a record at most.
        const ADDED: usize = 29;
        let (log, results) = events();
        let (filled_log, filled) = events();
        let hooks = Hooks::new(move |_, socket| {
            let result = socket.recv(&mut [0; 64]);
            log.add(result.as_ref().map_or_else(|error| error.status(), |_| Status::Ok));
            result.map(drop)
        });
        let (hooks, ids) = hooks.telling_ids();
        let hooks = hooks.on_wake(move |_, socket| {
            // An alert fits no more below the mark.
            while MARK - socket.queued() > ADDED {
                let room = MARK - socket.queued() - ADDED;
                socket.send(&vec![7; room.min(16 << 10)])?;
                socket.flush()?;
            }
            Ok(filled_log.add(()))
        });
        let server = start(non_blocking(1).high_water_mark(MARK), hooks);
        let mut client = Client::small(&server).settled();
        let id = ids.next();
        client.send("words");
        assert_eq!(results.next(), Status::Ok);
        server.wake(id).unwrap();
        filled.next();
        let tcp = into_tcp(client.0);
        tcp.set_read_timeout(Some(SOON)).unwrap();
        let received = server.stats().bytes_in;
        (&tcp).write_all(&[&[23, 3, 3, 0, 32][..], &[0; 32]].concat()).unwrap();
        eventually("the record is received", || server.stats().bytes_in > received);
        raw_rest(&tcp);
        assert_eq!(results.next(), Status::Tls);
        wait_idle(&server);
        assert_eq!(results.drain(), []);
    });
}

/// A6.3: Whatever closes the connection in good order sends close_notify.
#[test]
fn close_notify_on_every_close() {
    isolated(|| {
        for config in both_modes() {
            let non_blocking = config.non_blocking;
            let hooks = Hooks::new(|_, socket| match text(socket)?.as_str() {
                "close" => Ok(socket.close()),
                "shut" => socket.shutdown(std::net::Shutdown::Write),
                "timer" => socket.set_timer(Some(ms(30))),
                "fail" => Err("failed".into()),
                "panic" => panic!("on purpose"),
                _ => Ok(()),
            });
            let server = start(config.idle_timeout(ms(1500)), hooks);
            let mut words = vec!["close", "shut", "fail", "panic"];
            words.extend(if non_blocking { ["timer", "idle"] } else { ["return", "close"] });
            for word in words {
                let mut client = Client::connect(&server);
                client.send(word);
                let mut rest = Vec::new();
                let end = client.0.read_to_end(&mut rest);
                assert!(end.is_ok(), "{word}, non-blocking {non_blocking}: {end:?}");
            }
        }
    });
}

/// A6.3: A close by id sends it too, in both modes.
#[test]
fn close_notify_on_a_close_by_id() {
    isolated(|| {
        for config in both_modes() {
            let (log, ids) = events();
            let hooks = Hooks::new(echo).on_open(move |_, socket| Ok(log.add(socket.id())));
            let server = start(config, hooks);
            let mut client = Client::connect(&server);
            client.echo("hello");
            server.close(ids.next()).unwrap();
            client.expect_end();
        }
    });
}

/// A6.3: In a stop, clients of open connections see a clean end and no truncation.
#[test]
fn close_notify_on_a_stop() {
    isolated(|| {
        let server = start(non_blocking(2), Hooks::new(echo));
        let mut clients: Vec<_> = (0..20).map(|_| Client::connect(&server)).collect();
        for client in &mut clients {
            client.echo("hello");
        }
        let handshaking = raw(&server);
        (&handshaking).write_all(&by_hand().1[..50]).unwrap();
        let clock = Stopwatch::start();
        server.stop().unwrap();
        clock.at_once();
        for client in &mut clients {
            client.expect_end();
        }
        assert_eq!(server.stats().cut, 0);
    });
}

/// S3: A stop waits for no handshake, because no handler would be called after it.
#[test]
fn a_stop_during_a_handshake() {
    isolated(|| {
        for config in both_modes() {
            let (hooks, told) = telling();
            let server = start(config, hooks);
            let tcp = raw_saying(&server, &by_hand().1);
            under_way(&tcp);
            let clock = Stopwatch::start();
            server.stop().unwrap();
            clock.at_once();
            raw_rest(&tcp);
            assert!(told.drain().iter().all(|(what, _)| *what == "exception"));
            assert_settled(&server);
        }
    });
}

/// S3: A handshake that is over after the stop began leads to no handler.
#[test]
fn no_handler_after_a_stop_began() {
    isolated(|| {
        for config in both_modes() {
            let gate = Gate::new();
            let inside = gate.clone();
            let (log, calls) = events();
            let hooks = Hooks::new(move |_, socket| {
                let word = text(socket)?;
                if word == "hold" {
                    inside.wait();
                }
                Ok(log.add(word))
            });
            let server = start(config, hooks);
            let tcp = raw(&server);
            let (mut session, hello) = by_hand();
            (&tcp).write_all(&hello[..50]).unwrap();
            let mut holder = Client::connect(&server).settled();
            holder.send("hold");
            gate.reached_by(1);
            while_stopping(&server, || {
                let _ = (&tcp).write_all(&hello[50..]);
                let _ = session.complete_io(&mut &tcp);
                let _ = session.writer().write_all(b"too late");
                let _ = session.write_tls(&mut &tcp);
                calls.none();
                gate.open();
            });
            assert_eq!(calls.drain(), ["hold"]);
        }
    });
}

/// S5, A6.3: In a stop the queue leaves, and then the clean end.
#[test]
fn queued_bytes_and_close_notify_on_a_stop() {
    isolated(|| {
        let (log, sent) = events();
        let hooks = Hooks::new(move |_, socket| {
            text(socket)?;
            socket.send(&pattern(BULK))?;
            Ok(log.add(()))
        });
        let server = start(non_blocking(1), hooks);
        let mut client = Client::small(&server);
        client.send("x");
        sent.next();
        while_stopping(&server, || assert!(client.rest() == pattern(BULK)));
        assert_eq!(server.stats().cut, 0);
    });
}

/// S2, A6.3: In blocking mode a handler that finishes during the stop ends its connection in good
/// order.
#[test]
fn close_notify_of_a_worker_on_a_stop() {
    isolated(|| {
        let gate = Gate::new();
        let inside = gate.clone();
        let hooks = Hooks::new(move |_, socket| {
            text(socket)?;
            inside.wait();
            socket.send(b"done")
        });
        let server = start(blocking(2), hooks);
        let mut client = Client::connect(&server);
        client.send("x");
        gate.reached_by(1);
        while_stopping(&server, || {
            gate.open();
            client.expect_last("done");
        });
    });
}

/// S7: The deadline of a stop ends a worker's wait to send close_notify to a client that does not
/// read.
#[test]
fn a_farewell_at_the_deadline_of_a_stop() {
    isolated(|| {
        let (log, sent) = events();
        let hooks = Hooks::new(move |_, socket| {
            text(socket)?;
            // More than the kernel has room for.
            socket.set_io_timeout(Some(ms(100)))?;
            while socket.send(&pattern(BULK)).is_ok() {}
            log.add(());
            socket.set_io_timeout(None)
        });
        let server = start(blocking(1).linger_timeout(ms(20_000)), hooks);
        let mut client = Client::small(&server);
        client.send("x");
        sent.next();
        let clock = Stopwatch::start();
        cut(&server, ms(100));
        clock.at_once();
        drop(client);
    });
}

/// A5.1: The reply is not lost where the handler leaves plain text unread and the client goes on
/// sending, in both modes.
#[test]
fn the_reply_survives_unread_plain_text() {
    isolated(|| {
        const REPLY: usize = 200_000;
        for config in both_modes() {
            let (log, done) = events();
            let hooks = Hooks::new(move |_, socket| {
                socket.recv(&mut [0; 1])?;
                socket.send(&pattern(REPLY))?;
                socket.close();
                Ok(log.add(()))
            });
            let server = start(config.linger_timeout(SOON), hooks);
            let mut client = Client::connect(&server).settled();
            client.send(vec![b'?'; 1000]);
            let first = client.receive(1);
            done.next();
            client.send(vec![b'?'; 1000]);
            eventually("it was read", || was_read(&client.0));
            assert!([first, client.rest()].concat() == pattern(REPLY));
        }
    });
}

/// D10, A6.3: A half-close of a detached socket, and of a worker's whose `send` timed out: the
/// queue leaves first, then close_notify, then the FIN.
#[test]
fn a_half_close_behind_a_queue() {
    isolated(|| {
        for (config, on_loop) in both_modes().into_iter().zip([false, true]) {
            let (log, owned) = events();
            let (end_log, ends) = events();
            let hooks = Hooks::new(move |server: &Server, socket| {
                text(socket)?;
                let sent = socket.send(&pattern(BULK));
                if status(sent) == Status::Ok {
                    return Ok(log.add(server.detach(socket)?));
                }
                end_log.add(());
                socket.shutdown(std::net::Shutdown::Write)
            });
            let config = config.io_timeout(ms(100)).linger_timeout(SOON);
            let server = start(config, hooks);
            let mut client = Client::small(&server).saying("go");
            std::thread::scope(|scope| {
                if on_loop {
                    let mut socket: OwnedSocket = owned.next();
                    scope.spawn(move || {
                        socket.socket().shutdown(std::net::Shutdown::Write).unwrap();
                        drop(socket);
                    });
                } else {
                    ends.next();
                }
                let got = client.rest();
                assert!(pattern(BULK).starts_with(&got));
                assert!(!on_loop || got.len() == BULK);
                drop(client);
            });
        }
    });
}
