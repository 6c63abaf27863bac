//! Small sends of a callback on a loop that leave together.

use super::hosted::{host, hosted_with};
use crate::api::{CloseReason, ConnId, Error, Hooks, Server, Socket, Status};
use crate::support::*;
use std::net::Shutdown;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::Arc;

/// A server whose handler sends these one by one, tells what is queued, and waits at the gate.
fn sending(pieces: &'static [&'static str]) -> (Server, Events<usize>, Gate) {
    let (log, queued) = events();
    let gate = Gate::new();
    let inside = gate.clone();
    let hooks = Hooks::new(move |_, socket| {
        text(socket)?;
        pieces.iter().try_for_each(|piece| socket.send(piece.as_bytes()))?;
        log.add(socket.queued());
        inside.wait();
        Ok(())
    });
    (start(non_blocking(1), hooks), queued, gate)
}

/// GS1: The first send of a callback leaves immediately, the others together when it returns.
#[test]
fn what_comes_after_the_first_send_waits_for_the_return() {
    isolated(|| {
        let (server, queued, gate) = sending(&["first", "second", "third"]);
        let mut client = Client::connect(&server).saying("x");
        assert_eq!(queued.next(), "secondthird".len());
        client.expect("first");
        client.expect_silence();
        gate.open();
        client.expect("secondthird");
    });
}

/// GS1: After a callback that has gathered several sends the next one gathers its first too; after
/// one that has not, it leaves immediately again.
#[test]
fn a_callback_expects_what_the_last_one_did() {
    isolated(|| {
        let (log, gathered) = events();
        let hooks = Hooks::new(move |server: &Server, socket| {
            let mut count = 0;
            for word in text(socket)?.chars() {
                // To ask for the queue would make an `on_drain`.
                let before = server.stats().bytes_out;
                socket.send(word.to_string().as_bytes())?;
                count += usize::from(server.stats().bytes_out == before);
            }
            Ok(log.add(count))
        });
        let server = start(non_blocking(1), hooks);
        let mut client = Client::connect(&server).settled();
        for (words, expected) in [("a", 0), ("abc", 2), ("abc", 3), ("a", 1), ("a", 0), ("ab", 1)] {
            client.echo(words);
            assert_eq!(gathered.next(), expected, "{words}");
        }
    });
}

/// GS1: `ns_socket_flush` sends what has been gathered; what comes after it is gathered again.
#[test]
fn a_flush_sends_what_is_gathered() {
    isolated(|| {
        let gate = Gate::new();
        let inside = gate.clone();
        let (log, queued) = events();
        let hooks = Hooks::new(move |_, socket| {
            text(socket)?;
            socket.flush()?;
            for word in ["a", "b", "c"] {
                socket.send(word.as_bytes())?;
            }
            socket.flush()?;
            log.add(socket.queued());
            socket.send(b"d")?;
            log.add(socket.queued());
            inside.wait();
            Ok(())
        });
        let server = start(non_blocking(1), hooks);
        let mut client = Client::connect(&server).saying("x");
        client.expect("abc");
        client.expect_silence();
        assert_eq!(queued.take(2), [0, 1]);
        gate.open();
        client.expect("d");
    });
}

/// GS1, GS2: At 64 KiB the gathered bytes leave, so that no more than these are ever gathered, and
/// a longer piece leaves immediately behind them.
#[test]
fn gathered_bytes_have_a_bound() {
    isolated(|| {
        const PIECE: usize = 1000;
        let gate = Gate::new();
        let inside = gate.clone();
        let hooks = Hooks::new(move |_, socket| {
            text(socket)?;
            let bulk = pattern(200 * PIECE);
            for piece in bulk.chunks(PIECE) {
                socket.send(piece)?;
                assert!(socket.queued() <= 64 << 10);
            }
            socket.send(&bulk)?;
            inside.wait();
            Ok(())
        });
        let server = start(non_blocking(1), hooks);
        let mut client = Client::connect(&server).saying("x");
        assert!(client.receive(200 * PIECE) == pattern(200 * PIECE));
        assert!(client.receive(200 * PIECE) == pattern(200 * PIECE));
        gate.open();
    });
}

/// GS3: Gathered bytes count against `send_limit`: the client gets what was accepted.
#[test]
fn gathered_bytes_count_against_the_limit() {
    isolated(|| {
        const PIECE: usize = 1000;
        const LIMIT: usize = 256 << 10;
        let (log, accepted) = events();
        let hooks = Hooks::new(move |_, socket| {
            text(socket)?;
            let mut count = 0;
            for number in 0..4000 {
                match socket.send(&[number as u8; PIECE]) {
                    Ok(()) => count += 1,
                    Err(error) => {
                        assert_eq!(error.status(), Status::BufferFull);
                        break;
                    }
                }
            }
            assert!(socket.queued() <= LIMIT + (LIMIT >> 4), "{} queued", socket.queued());
            log.add(count);
            socket.close();
            Ok(())
        });
        let config = non_blocking(1).send_limit(LIMIT).high_water_mark(64 << 10);
        let server = start(config.linger_timeout(ms(10_000)), hooks);
        let mut client = Client::small(&server).saying("x");
        let count: usize = accepted.next();
        assert!((250..4000).contains(&count), "{count} accepted");
        let received = client.rest();
        assert_eq!(received.len(), count * PIECE);
        for (number, piece) in received.chunks(PIECE).enumerate() {
            assert!(piece.iter().all(|byte| *byte == number as u8));
        }
    });
}

/// GS3: What the kernel would take is refused for no limit: the gathered bytes leave first.
#[test]
fn a_limit_counts_what_the_kernel_refuses() {
    isolated(|| {
        const PIECE: usize = 3000;
        let hooks = Hooks::new(move |_, socket| {
            text(socket)?;
            pattern(20 * PIECE).chunks(PIECE).try_for_each(|piece| socket.send(piece))
        });
        let server = start(non_blocking(1).send_limit(4000).high_water_mark(1000), hooks);
        let mut client = Client::connect(&server).saying("x");
        assert!(client.receive(20 * PIECE) == pattern(20 * PIECE));
    });
}

/// GS3: Gathered bytes do not count against the high-water mark: the handler reads on.
#[test]
fn gathered_bytes_hold_nothing_up() {
    isolated(|| {
        let (log, seen) = events();
        let hooks = Hooks::new(move |_, socket| {
            let mut byte = [0];
            socket.recv(&mut byte)?;
            if byte == *b"1" {
                eventually("more arrives", || {
                    for _ in 0..20 {
                        socket.send(&[b'.'; 100]).unwrap();
                    }
                    matches!(socket.recv(&mut byte), Ok(1))
                });
                log.add((byte, socket.queued() > 1000));
            }
            Ok(())
        });
        let server = start(non_blocking(1).high_water_mark(1000), hooks);
        let client = Client::connect(&server).saying("12");
        assert_eq!(seen.next(), (*b"2", true));
        drop(client);
    });
}

/// GS3: Where the gathered bytes cannot be sent, the handler learns it as with queued bytes: after
/// the callback, from `recv`, and the connection ends as reset.
#[test]
fn an_error_is_one_of_queued_bytes() {
    isolated(|| {
        let gate = Gate::new();
        let (inside, (log, seen)) = (gate.clone(), events());
        let read = log.clone();
        let hooks = Hooks::new(move |_, socket| {
            if let Err(error) = text(socket) {
                read.add(error.status().name().to_string());
                return Err(error);
            }
            socket.send(b"first")?;
            inside.wait();
            socket.send(b"second")?;
            read.add(status(socket.send(b"third")).name().to_string());
            Ok(())
        })
        .on_close(move |_, _, reason| log.add(reason.name().to_string()));
        let server = start(non_blocking(1), hooks);
        let mut client = Client::connect(&server).settled().saying("x");
        client.expect("first");
        client.reset();
        gate.open();
        assert_eq!(seen.next(), Status::Ok.name());
        assert_eq!(seen.next(), Status::Reset.name());
        assert_eq!(seen.next(), CloseReason::Reset.name());
    });
}

type End = fn(&Server, &mut Socket<'_>) -> Result<(), Error>;

/// GS4: A close and a half-close, in every callback, come after what was gathered.
#[test]
fn an_end_comes_after_what_is_gathered() {
    isolated(|| {
        let ends: [End; 4] = [
            |_, socket| Ok(socket.close()),
            |_, socket| socket.shutdown(Shutdown::Write),
            |_, socket| socket.shutdown(Shutdown::Both),
            |server, socket| server.close(socket.id()),
        ];
        for end in ends {
            let (hooks, _ids) = Hooks::new(move |server, socket| {
                if text(socket)?.is_empty() {
                    return Ok(socket.close());
                }
                ["a", "b", "c"].iter().try_for_each(|word| socket.send(word.as_bytes()))?;
                end(server, socket)
            })
            .telling_ids();
            let server = start(non_blocking(1), hooks);
            Client::connect(&server).saying("x").expect_last("abc");
        }
    });
}

/// GS4: A detach sends what was gathered first; what the owner sends comes after it.
#[test]
fn a_detach_comes_after_what_is_gathered() {
    isolated(|| {
        let (log, owned) = events();
        let hooks = Hooks::new(move |server: &Server, socket| {
            text(socket)?;
            ["a", "b"].iter().try_for_each(|word| socket.send(word.as_bytes()))?;
            log.add(server.detach(socket)?);
            Ok(())
        });
        let server = start(non_blocking(1), hooks);
        let mut client = Client::connect(&server).saying("x");
        let mut owned = owned.next();
        assert_eq!(owned.socket().queued(), 0);
        owned.socket().send(b"c").unwrap();
        client.expect("abc");
        drop(owned);
        client.expect_end();
    });
}

/// GS4: An abort drops what was gathered.
#[test]
fn an_abort_drops_what_is_gathered() {
    isolated(|| {
        let hooks = Hooks::new(|_, socket| {
            text(socket)?;
            ["a", "b"].iter().try_for_each(|word| socket.send(word.as_bytes()))?;
            socket.abort();
            Ok(())
        });
        let server = start(non_blocking(1), hooks);
        let mut client = Client::connect(&server).saying("x");
        assert!(client.drain().is_err() || TLS);
        eventually("it has ended", || server.stats().open == 0);
        assert!(TLS || server.stats().bytes_out == 1);
    });
}

/// GS5, A3.1: What a callback sends directly and by id arrives in the order of the calls.
#[test]
fn direct_sends_and_those_by_id_have_one_order() {
    isolated(|| {
        let hooks = Hooks::new(|server: &Server, socket| {
            text(socket)?;
            let id = socket.id();
            server.send(id, b"0")?;
            for word in ["1", "2", "3"] {
                socket.send(word.as_bytes())?;
                server.send(id, word.to_uppercase().as_bytes())?;
            }
            socket.flush()?;
            server.send(id, b"4")?;
            socket.send(b"5")?;
            server.send(id, b"6")
        });
        let server = start(non_blocking(1), hooks);
        Client::connect(&server).saying("x").expect("0112233456");
    });
}

/// GS6: `on_drain` does not come for gathered bytes that the kernel takes whole.
#[test]
fn gathered_bytes_are_no_queue() {
    isolated(|| {
        let (log, drained) = events();
        let hooks = Hooks::new(|_, socket| {
            text(socket)?;
            (0..16).try_for_each(|_| socket.send(b"reply"))
        })
        .on_drain(move |_, _| log.add(()));
        let server = start(non_blocking(1), hooks);
        Client::connect(&server).saying("x").expect("reply".repeat(16));
        drained.none();
    });
}

/// GS6, Q2: A sender that fills a window by what is queued, and goes on in `on_drain`, ends.
#[test]
fn a_window_of_queued_bytes() {
    isolated(|| {
        const PIECE: usize = 4096;
        let left = Arc::new(AtomicUsize::new(BULK));
        let fill = move |socket: &mut Socket<'_>| {
            while left.load(SeqCst) > 0 && socket.queued() < 8 * PIECE {
                socket.send(&[b'.'; PIECE])?;
                left.fetch_sub(PIECE, SeqCst);
            }
            if left.load(SeqCst) == 0 {
                socket.close();
            }
            Ok(())
        };
        let on_drain = fill.clone();
        let hooks = Hooks::new(|_, _| Ok(()))
            .on_open(move |_, socket| fill(socket))
            .on_drain(move |_, socket| on_drain(socket));
        let server = start(non_blocking(1), hooks);
        assert_eq!(Client::connect(&server).rest().len(), BULK);
    });
}

/// GS6: `on_drain` also comes where a send by id was refused for them, or `ns_server_queued` has
/// shown them, to another thread too; once.
#[test]
fn gathered_bytes_that_were_seen_drain() {
    type Look = fn(&Server, ConnId);
    isolated(|| {
        let looks: [Look; 3] = [
            |server, id| assert_eq!(status(server.send(id, &[0; 40_000])), Status::BufferFull),
            |server, id| assert!(server.queued(id).unwrap() >= 40_000),
            |server, id| {
                std::thread::scope(|scope| {
                    scope.spawn(|| assert!(server.queued(id).unwrap() >= 40_000));
                });
            },
        ];
        for look in looks {
            let (log, drained) = events();
            let hooks = Hooks::new(move |server: &Server, socket| {
                text(socket)?;
                socket.send(b"x")?;
                socket.send(&[b'x'; 40_000])?;
                look(server, socket.id());
                Ok(())
            })
            .on_drain(move |_, socket| log.add(socket.queued()));
            let config = non_blocking(1).send_limit(64 << 10).high_water_mark(32 << 10);
            let server = start(config, hooks);
            let mut client = Client::connect(&server).saying("x");
            client.receive(40_001);
            assert_eq!(drained.next(), 0);
            drained.none();
        }
    });
}

/// GS6, Q2: It comes once where the kernel has refused a part of them.
#[test]
fn gathered_bytes_that_the_kernel_refuses_drain() {
    isolated(|| {
        let (log, drained) = events();
        let (sent_log, sent) = events();
        let hooks = Hooks::new(move |_, socket| {
            text(socket)?;
            pattern(BULK).chunks(1000).try_for_each(|piece| socket.send(piece))?;
            Ok(sent_log.add(()))
        })
        .on_drain(move |_, socket| log.add(socket.queued()));
        let server = start(non_blocking(1), hooks);
        let mut client = Client::small(&server).saying("x");
        // A client that reads meanwhile may be as fast, and nothing is refused.
        sent.next();
        assert!(client.receive(BULK) == pattern(BULK));
        assert_eq!(drained.next(), 0);
        drained.none();
    });
}

/// GS1: Each callback gathers for itself.
#[test]
fn every_callback_gathers() {
    isolated(|| {
        fn say(socket: &mut Socket<'_>, words: &str) -> Result<(), Error> {
            words.chars().try_for_each(|word| socket.send(word.to_string().as_bytes()))
        }
        let hooks = Hooks::new(|server: &Server, socket| {
            text(socket)?;
            say(socket, "handler ")?;
            server.wake(socket.id())
        })
        .on_open(|_, socket| say(socket, "open "))
        .on_wake(|_, socket| {
            say(socket, "wake ")?;
            socket.set_timer(Some(ms(1)))
        })
        .on_exception(|_, socket, _| {
            if let Some(socket) = socket {
                say(socket, "exception")?;
                socket.close();
            }
            Ok(())
        })
        .on_timeout(|_, socket| {
            say(socket, "timeout ")?;
            Err(Error::from(Status::State))
        });
        let server = start(non_blocking(1), hooks);
        Client::connect(&server).saying("x").expect_last("open handler wake timeout exception");
    });
}

/// GS1, HS9: In a hosted server too.
#[test]
fn a_hosted_server_gathers() {
    isolated(|| {
        let (log, queued) = events();
        let hooks = Hooks::new(move |_, socket| {
            text(socket)?;
            ["a", "b", "c"].iter().try_for_each(|word| socket.send(word.as_bytes()))?;
            log.add(socket.queued());
            Ok(())
        });
        let server = hosted_with(non_blocking(1), hooks);
        host(&server, || Client::connect(&server).saying("x").expect("abc"));
        assert_eq!(queued.next(), 2);
    });
}
