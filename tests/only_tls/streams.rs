//! Application data: what is buffered counts as readable, records of all sizes, detaching.

use super::*;
use crate::api::OwnedSocket;
use std::sync::atomic::{AtomicUsize, Ordering};

/// K10, N9: A handler that reads one byte in each call gets them all: no stall, and no spin
/// afterwards.
#[test]
fn a_byte_a_call() {
    isolated(|| {
        const COUNT: usize = 20_000;
        let calls = Arc::new(AtomicUsize::new(0));
        let (counted, (log, bytes)) = (calls.clone(), events());
        let hooks = Hooks::new(move |_, socket| {
            counted.fetch_add(1, Ordering::SeqCst);
            let mut byte = [0];
            if socket.recv(&mut byte)? == 1 {
                log.add(byte[0]);
            }
            Ok(())
        });
        let server = start(non_blocking(1), hooks);
        let mut client = Client::connect(&server);
        client.send(pattern(COUNT));
        assert!(bytes.take(COUNT) == pattern(COUNT));
        let before = calls.load(Ordering::SeqCst);
        assert!(before <= COUNT + 50, "{before} calls for {COUNT} bytes");
        at_rest(|| bytes.none());
        let after = calls.load(Ordering::SeqCst);
        assert!(after - before <= 2, "{} calls for nothing", after - before);
    });
}

/// K10: The same in blocking mode, in one call.
#[test]
fn a_byte_a_read() {
    isolated(|| {
        let hooks = Hooks::new(|_, socket| {
            let mut all = Vec::new();
            let mut byte = [0];
            while socket.recv(&mut byte)? == 1 {
                all.push(byte[0]);
            }
            socket.send(&all)
        });
        let server = start(blocking(1), hooks);
        let mut client = Client::connect(&server);
        client.send(pattern(100_000));
        client.finish_sending();
        assert!(client.rest() == pattern(100_000));
    });
}

/// A22.1, N10: A handler that reads nothing is called when more arrives, and does not spin.
#[test]
fn a_handler_that_takes_nothing() {
    isolated(|| {
        let (log, calls) = events();
        let hooks = Hooks::new(move |_, _| Ok(log.add(())));
        let server = start(non_blocking(1), hooks);
        let mut client = Client::connect(&server);
        for _ in 0..3 {
            client.send("something");
            calls.next();
            calls.none();
        }
    });
}

/// K10, N14: A paused connection with decrypted bytes is called for them when it goes on.
#[test]
fn pausing_with_buffered_bytes() {
    isolated(|| {
        let (log, words) = events();
        let hooks = Hooks::new(move |_, socket| {
            let mut bytes = [0; 3];
            let n = socket.recv(&mut bytes)?;
            log.add((socket.id(), String::from_utf8_lossy(&bytes[..n]).into_owned()));
            socket.pause()
        })
        .on_wake(|_, socket| socket.resume().unwrap());
        let server = start(non_blocking(1), hooks);
        let mut client = Client::connect(&server);
        client.send("onetwosix");
        for word in ["one", "two", "six"] {
            let (id, read) = words.next();
            assert_eq!(read, word);
            words.none();
            server.wake(id).unwrap();
        }
        words.none();
    });
}

/// K11: Records of one byte and of the largest size, both ways.
#[test]
fn records_of_all_sizes() {
    isolated(|| {
        for config in both_modes() {
            let server = start(config, Hooks::new(echo));
            let mut client = Client::connect(&server);
            for size in [1, 2, 1000, 16_383, 16_384, 16_385, 60_000] {
                for part in pattern(size.min(3000)).chunks(1) {
                    client.send(part);
                }
                client.expect(pattern(size.min(3000)));
                client.send(pattern(size));
                client.expect(pattern(size));
            }
            client.finish_sending();
            client.expect_end();
        }
    });
}

/// A server that detaches on the word and hands the socket to the test.
fn detaching() -> (Server, Events<OwnedSocket>) {
    let (log, owned) = events();
    let hooks = Hooks::new(move |server: &Server, socket| {
        let mut word = [0; 6];
        match socket.recv(&mut word)? {
            0 => Ok(socket.close()),
            6 if &word == b"detach" => Ok(log.add(server.detach(socket)?)),
            n => socket.send(&word[..n]),
        }
    });
    (start(non_blocking(2), hooks), owned)
}

/// K12: Detach and attach keep the session, unread plain text included, from another thread.
#[test]
fn detach_and_attach_keep_the_session() {
    isolated(|| {
        let (server, owned) = detaching();
        let mut client = Client::connect(&server);
        for round in 0..3 {
            // One record: what follows the word is decrypted by the time of the detach.
            client.send("detach and more");
            let mut socket: OwnedSocket = owned.next();
            let mut socket = std::thread::spawn(move || {
                let mut more = vec![0; 9];
                std::io::Read::read_exact(&mut socket, &mut more).unwrap();
                assert_eq!(more, b" and more");
                assert!(socket.socket().tls_info().is_some());
                socket.socket().send(b"from another thread").unwrap();
                socket
            })
            .join()
            .unwrap();
            client.expect("from another thread");
            client.send("late");
            assert_eq!(text(&mut socket.socket()).unwrap(), "late");
            if round == 1 {
                // Unread when it goes back.
                client.send("unread");
                let fd = socket.socket().raw_fd();
                eventually("it waits", || bytes_waiting(fd) > 0);
            }
            server.attach(socket).unwrap();
            if round == 1 {
                client.expect("unread");
            }
            client.echo("served");
        }
        assert_eq!(server.stats().handshakes, 1);
        client.finish_sending();
        client.expect_end();
        drop(client);
        wait_idle(&server);
    });
}

/// D16, K10: Plain text that was decrypted before the attach brings the handler.
#[test]
fn attach_with_decrypted_bytes() {
    isolated(|| {
        let (server, owned) = detaching();
        let mut client = Client::connect(&server);
        client.send("detachagain!and");
        let mut socket: OwnedSocket = owned.next();
        let mut first = [0; 3];
        assert_eq!(socket.socket().recv(&mut first).unwrap(), 3);
        server.attach(socket).unwrap();
        client.expect("in!and");
    });
}

/// D3, A6.3: A detached socket outlives its server; freeing it ends the stream in good order.
#[test]
fn a_detached_socket_outlives_its_server() {
    isolated(|| {
        let (server, owned) = detaching();
        let mut client = Client::connect(&server);
        client.send("detach");
        let mut socket: OwnedSocket = owned.next();
        server.stop().unwrap();
        drop(server);
        client.send("still there?");
        assert_eq!(text(&mut socket.socket()).unwrap(), "still there?");
        socket.socket().send(&pattern(300_000)).unwrap();
        assert!(client.receive(300_000) == pattern(300_000));
        drop(socket);
        client.expect_end();
    });
}

/// D9: The descriptor of a connection through TLS would be of no use: the call is refused, and the
/// caller keeps the socket.
#[test]
fn no_bare_descriptor() {
    isolated(|| {
        let (server, owned) = detaching();
        let mut client = Client::connect(&server);
        client.send("detach");
        let socket: OwnedSocket = owned.next();
        let (error, mut socket) = socket.release_fd().expect_err("released");
        assert_eq!(error.status(), Status::Unsupported);
        socket.socket().send(b"still here").unwrap();
        client.expect("still here");
    });
}

/// K13: Calls by id from other threads break no record while the handler echoes.
#[test]
fn by_id_beside_the_handler() {
    isolated(|| {
        let (log, ids) = events();
        let hooks = Hooks::new(echo).on_open(move |_, socket| Ok(log.add(socket.id())));
        let server = start(non_blocking(2), hooks);
        let mut clients: Vec<_> = (0..4).map(|_| Client::connect(&server)).collect();
        let all = ids.take(4);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        assert_eq!(server.broadcast(&all, b"broadcast!").unwrap(), 4);
                        server.send(all[0], b"to the 1st").unwrap();
                    }
                });
            }
            for client in &mut clients {
                for _ in 0..100 {
                    client.send("own words.");
                }
            }
        });
        let known = [&b"broadcast!"[..], b"to the 1st", b"own words."];
        for client in &mut clients {
            let bytes = client.receive(7000);
            assert!(bytes.chunks(10).all(|word| known.contains(&word)));
        }
    });
}

/// A7, A3.2: `detach` does not wait for the client: what was accepted by id for a client that does
/// not read goes along, and leaves later in order.
#[test]
fn a_detach_does_not_wait() {
    isolated(|| {
        let (log, owned) = events();
        let (id_log, ids) = events();
        let gate = Gate::new();
        let inside = gate.clone();
        let hooks = Hooks::new(move |server, socket| {
            id_log.add(socket.id());
            inside.wait();
            if text(socket)? == "detach" {
                let clock = Stopwatch::start();
                log.add(server.detach(socket)?);
                clock.at_once();
            }
            Ok(())
        });
        let server = start(non_blocking(1), hooks);
        let mut client = Client::small(&server).saying("detach");
        server.send(ids.next(), &pattern(BULK)).unwrap();
        gate.open();
        let mut socket = owned.next();
        std::thread::scope(|scope| {
            let rest = scope.spawn(move || socket.socket().send(b"the end"));
            assert!(client.receive(BULK) == pattern(BULK));
            client.expect("the end");
            rest.join().unwrap().unwrap();
        });
    });
}

/// A6.1: After a send that timed out in the middle of a record, the stream of records goes on: the
/// client gets a part of what was sent, and no broken record.
#[test]
fn a_send_that_timed_out_leaves_the_records_whole() {
    isolated(|| {
        let (log, statuses) = events();
        let gate = Gate::new();
        let inside = gate.clone();
        let hooks = Hooks::new(move |_, socket| {
            text(socket)?;
            log.add(status(socket.send(&pattern(BULK))));
            inside.wait();
            // It goes behind the records that were begun.
            log.add(status(socket.send(b"the end")));
            Ok(())
        });
        let server = start(blocking(1).io_timeout(ms(200)).linger_timeout(ms(8000)), hooks);
        let mut client = Client::small(&server).saying("x");
        assert_eq!(statuses.next(), Status::Timeout);
        let reader = std::thread::spawn(move || client.rest());
        gate.open();
        assert_eq!(statuses.next(), Status::Ok);
        let received = reader.join().unwrap();
        let (begun, end) = received.split_at(received.len() - 7);
        assert_eq!(end, b"the end");
        assert!(begun == &pattern(BULK)[..begun.len()] && begun.len() < BULK);
    });
}

/// A12.3: A defect of the TLS library ends one connection: a bad record after our own close_notify
/// (an assertion in its debug builds) ends neither the loop nor another connection.
#[test]
fn a_bad_record_after_our_end() {
    isolated(|| {
        for config in both_modes() {
            let hooks = Hooks::new(|_, socket| loop {
                match text(socket)?.as_str() {
                    "" => return Ok(socket.close()),
                    "end" => socket.shutdown(std::net::Shutdown::Write)?,
                    other => socket.send(other.as_bytes())?,
                }
            });
            let server = start(config, hooks);
            let mut other = Client::connect(&server);
            other.echo("before");
            let tcp = raw(&server);
            let session = shake_hands(&tcp, b"end");
            raw_rest(&tcp);
            let _ = (&tcp).write_all(&[23, 3, 3, 0, 32, 7, 7, 7, 7, 7, 7, 7, 7]);
            let _ = (&tcp).write_all(&[9; 24]);
            drop((session, tcp));
            other.echo("after");
            drop(other);
            wait_idle(&server);
        }
    });
}

/// The sizes of the records of application data that come until `len` bytes of it have come.
fn records(session: &mut ClientConnection, mut tcp: &TcpStream, len: usize) -> Vec<usize> {
    let (mut raw, mut plain) = (Vec::new(), Vec::new());
    while plain.len() < len {
        let mut buffer = [0; 4096];
        let n = tcp.read(&mut buffer).unwrap();
        assert!(n > 0, "the stream ended");
        raw.extend_from_slice(&buffer[..n]);
        let mut fed = &buffer[..n];
        while !fed.is_empty() {
            session.read_tls(&mut fed).unwrap();
            session.process_new_packets().unwrap();
            let _ = session.reader().read_to_end(&mut plain);
        }
    }
    let (mut sizes, mut rest) = (Vec::new(), &raw[..]);
    while let [kind, _, _, high, low, after @ ..] = rest {
        let size = usize::from(*high) << 8 | usize::from(*low);
        assert_eq!(*kind, 23, "application data");
        sizes.push(size);
        rest = &after[size..];
    }
    sizes
}

/// GS2: What is gathered leaves in as few records as it fits into, in both modes.
#[test]
fn gathered_bytes_share_records() {
    isolated(|| {
        const PIECE: usize = 100;
        for config in both_modes() {
            let hooks = Hooks::new(|_, socket| {
                let pieces = text(socket)?.parse().unwrap();
                socket.cork()?;
                (0..pieces).try_for_each(|_| socket.send(&[7; PIECE]))?;
                // A worker's connection ends with its handler.
                socket.flush()?;
                text(socket).map(drop)
            });
            let server = start(config, hooks);
            // In TLS 1.2 no ticket comes among the data.
            for (pieces, expected) in [(16, 1), (300, 2)] {
                let name = ServerName::try_from("localhost").unwrap();
                let config = Arc::new(client_config_of(true, AUTHORITY, None));
                let mut session = ClientConnection::new(config, name).unwrap();
                let tcp = raw(&server);
                finish_by_hand(&mut session, &tcp, pieces.to_string().as_bytes());
                let sizes = records(&mut session, &tcp, pieces * PIECE);
                // On a loop the first send has a record of its own.
                let first = usize::from(sizes[0] < 2 * PIECE);
                assert_eq!(sizes.len() - first, expected, "{sizes:?}");
            }
        }
    });
}
