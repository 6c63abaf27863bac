//! Close and abort in non-blocking mode.

use crate::api::{CloseReason, Hooks, Status};
use crate::support::*;

/// C1: `close` flushes what is queued, then ends the stream.
#[test]
fn close_flushes() {
    isolated(|| {
        let server = start(non_blocking(1), Hooks::new(bulk_and_close));
        let mut client = Client::small(&server).saying("x");
        assert!(client.rest() == pattern(BULK));
        drop(client);
        wait_idle(&server);
        assert_eq!(server.stats().closed[CloseReason::Handler as usize], 1);
    });
}

/// A5.1: A close discards input until the peer closes, so that no reset destroys what was sent.
#[test]
fn close_discards_input() {
    isolated(|| {
        let (log, called) = events();
        let hooks = Hooks::new(move |_, socket| {
            socket.recv(&mut [0; 1])?;
            socket.send(&pattern(BULK))?;
            socket.close();
            log.add(());
            Ok(())
        });
        let server = start(non_blocking(1).linger_timeout(ms(20_000)), hooks);
        let mut client = Client::small(&server).saying(vec![b'?'; 100_000]);
        called.next();
        client.receive(100);
        client.send(vec![b'!'; 300_000]);
        let rest = client.rest();
        assert!(rest == pattern(BULK)[100..], "{} bytes", rest.len());
        client.send(vec![b'.'; 300_000]);
        drop(client);
        idle_at_once(&server);
        assert!(called.drain().is_empty(), "the handler is not called any more");
    });
}

/// C2: The wait for the peer takes `linger_timeout`, not less and not more.
#[test]
fn lingering_is_bounded() {
    isolated(|| {
        let hooks = Hooks::new(|_, socket| {
            text(socket)?;
            socket.send(b"bye")?;
            socket.close();
            Ok(())
        });
        let server = start(non_blocking(1).linger_timeout(ms(300)), hooks);
        let sockets = count_sockets();
        let mut client = Client::connect(&server);
        let clock = Stopwatch::start();
        client.send("x");
        client.expect_last("bye");
        assert!(clock.elapsed() < ms(300) + late());
        eventually("it is closed", || count_sockets() == sockets + 1);
        clock.kept(ms(300));
        wait_idle(&server);
    });
}

/// C3: Where the end of stream was seen the close is immediate.
#[test]
fn close_after_the_end_of_stream_is_at_once() {
    isolated(|| {
        let (hooks, reasons) = Hooks::new(|_, socket| {
            if available(socket)?.1 {
                socket.send(b"bye")?;
                socket.close();
            }
            Ok(())
        })
        .telling_reasons();
        let server = start(non_blocking(1).linger_timeout(ms(20_000)), hooks);
        let mut client = Client::connect(&server).saying("x");
        client.finish_sending();
        client.expect_last("bye");
        idle_at_once(&server);
        assert_eq!(reasons.next(), CloseReason::Peer);
    });
}

/// C5: An abort resets the connection, whatever is queued.
#[test]
fn abort_resets() {
    isolated(|| {
        let (hooks, reasons) = Hooks::new(|_, socket| {
            if text(socket)? == "queued" {
                socket.send(&pattern(BULK))?;
            }
            socket.abort();
            Ok(())
        })
        .telling_reasons();
        let server = start(non_blocking(1).linger_timeout(ms(20_000)), hooks);
        for command in ["nothing", "queued"] {
            let mut client = Client::small(&server).saying(command);
            client.expect_reset();
            assert_eq!(reasons.next(), CloseReason::Abort);
        }
        idle_at_once(&server);
    });
}

/// C6: Closing twice is harmless; the object lives until the callback returns.
#[test]
fn closing_twice_is_harmless() {
    isolated(|| {
        let (log, results) = events();
        let (hooks, reasons) = Hooks::new(move |_, socket| {
            let id = socket.id();
            match text(socket)?.as_str() {
                "close" => socket.close(),
                _ => socket.abort(),
            }
            socket.close();
            socket.close();
            log.add((
                socket.is_closed(),
                socket.id() == id,
                status(socket.recv(&mut [0; 1])),
                status(socket.send(b"x")),
            ));
            Ok(())
        })
        .telling_reasons();
        let server = start(non_blocking(1), hooks);
        for (command, reason) in [("close", CloseReason::Handler), ("abort", CloseReason::Abort)] {
            let mut client = Client::connect(&server).saying(command);
            client.expect_gone();
            drop(client);
            assert_eq!(results.next(), (true, true, Status::Closed, Status::Closed));
            assert_eq!(reasons.next(), reason);
        }
        reasons.none();
    });
}

/// C5: An abort overtakes a close that still flushes.
#[test]
fn abort_after_close() {
    isolated(|| {
        let hooks = Hooks::new(|server, socket| {
            bulk_and_close(server, socket)?;
            socket.abort();
            Ok(())
        });
        let server = start(non_blocking(1).linger_timeout(ms(20_000)), hooks);
        let mut client = Client::small(&server).saying("x");
        client.expect_reset();
        idle_at_once(&server);
    });
}

/// C7: A peer that resets while the close still flushes ends it.
#[test]
fn reset_during_a_close() {
    isolated(|| {
        let config = non_blocking(1).linger_timeout(ms(20_000));
        let server = start(config, Hooks::new(bulk_and_close));
        let mut client = Client::small(&server).saying("x");
        client.receive(1);
        client.reset();
        idle_at_once(&server);
    });
}

/// C8: A close in `on_open` works as any other.
#[test]
fn close_in_on_open() {
    isolated(|| {
        let (log, calls) = events();
        let closed = log.clone();
        let hooks = Hooks::new(move |_, _| {
            log.add("handler".to_owned());
            Ok(())
        })
        .on_open(|_, socket| {
            socket.send(b"go away")?;
            socket.close();
            Ok(())
        })
        .on_close(move |_, _, reason| closed.add(format!("{reason:?}")));
        let server = start(non_blocking(1), hooks);
        let mut client = Client::connect(&server).saying("hello?");
        client.expect_last("go away");
        drop(client);
        assert_eq!(calls.next(), "Handler");
        wait_idle(&server);
        assert!(calls.drain().is_empty());
    });
}

/// C4, S6: Where all is acknowledged and nothing unread, a close keeps nothing, and a stop need not
/// wait, although the peer does not close.
#[test]
fn a_close_with_nothing_to_wait_for() {
    isolated(|| {
        for closes in [true, false] {
            let hooks = Hooks::new(move |_, socket| {
                text(socket)?;
                socket.send(b"answer")?;
                let_pass(ms(60));
                if closes {
                    socket.close();
                }
                Ok(())
            });
            let server = start(blocking(2).linger_timeout(SOON).drain_timeout(SOON), hooks);
            let mut client = Client::connect(&server).saying("x");
            client.expect_last("answer");
            let clock = Stopwatch::start();
            server.stop().unwrap();
            clock.at_once();
            drop(client);
        }
    });
}
