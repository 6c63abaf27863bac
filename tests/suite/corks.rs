//! Corks: what they gather, and how they meet an end, a queue, a time limit or another thread.

use crate::api::{CloseReason, Config, ConnId, Error, Hooks, Server, Socket, Status};
use crate::support::*;
use std::net::Shutdown;
use std::os::fd::BorrowedFd;

/// More than the kernel takes of a narrow connection, less than what a cork gathers.
const SOME: usize = 60_000;

/// Lets the kernel take little of what is sent; the client is small too.
fn narrow(socket: &Socket<'_>) {
    // SAFETY: the connection keeps the descriptor open.
    let fd = unsafe { BorrowedFd::borrow_raw(socket.raw_fd()) };
    socket2::SockRef::from(&fd).set_send_buffer_size(4096).unwrap();
}

/// Gathers `SOME` bytes, small ones.
fn gather(socket: &mut Socket<'_>) -> Result<(), Error> {
    narrow(socket);
    socket.cork()?;
    pattern(SOME).chunks(1000).try_for_each(|piece| socket.send(piece))?;
    assert_eq!(socket.queued(), SOME);
    Ok(())
}

/// A connection whose handler has returned under a cork, and a client that does not read.
struct Waiting {
    server: Server,
    client: Client,
    id: ConnId,
    reasons: Events<CloseReason>,
    /// What the exception handler got.
    errors: Events<String>,
}

fn waiting_for_a_cork(config: Config) -> Waiting {
    let ((log, gathered), (error_log, errors)) = (events(), events());
    let (hooks, ids) = Hooks::new(move |_, socket| {
        text(socket)?;
        gather(socket)?;
        Ok(log.add(()))
    })
    .on_exception(move |_, _, error| Ok(error_log.add(error.to_string())))
    .telling_ids();
    let (hooks, reasons) = hooks.telling_reasons();
    let server = start(config, hooks);
    let client = Client::small(&server).saying("x");
    gathered.next();
    Waiting { server, client, id: ids.next(), reasons, errors }
}

type End = fn(&mut Socket<'_>) -> Result<(), Error>;

/// GS7: What is under a cork leaves at an end as a send does: after `linger_timeout` too.
#[test]
fn an_end_waits_for_a_cork() {
    isolated(|| {
        let ends: [(End, CloseReason); 4] = [
            (|_| Ok(()), CloseReason::Handler),
            (|_| Err(Error::from(Status::State)), CloseReason::Error),
            (|socket| Ok(socket.close()), CloseReason::Handler),
            (|socket| socket.shutdown(Shutdown::Write), CloseReason::Handler),
        ];
        for (end, reason) in ends {
            let (log, gathered) = events();
            let (hooks, reasons) = Hooks::new(move |_, socket| {
                text(socket)?;
                gather(socket)?;
                log.add(());
                end(socket)
            })
            .telling_reasons();
            let server = start(blocking(1).linger_timeout(ms(50)), hooks);
            let mut client = Client::small(&server).saying("x");
            gathered.next();
            let_pass(ms(200));
            assert!(client.rest() == pattern(SOME));
            drop(client);
            assert_eq!(reasons.next(), reason);
        }
    });
}

/// GS7: `io_timeout` bounds that; the exception handler gets what a send would have returned, and
/// the peer sees a reset.
#[test]
fn an_end_waits_for_a_cork_until_the_io_timeout() {
    isolated(|| {
        let (log, errors) = events();
        let (hooks, reasons) = Hooks::new(|_, socket| {
            text(socket)?;
            socket.set_io_timeout(Some(ms(100)))?;
            gather(socket)
        })
        .on_exception(move |_, _, error| Ok(log.add(error.status())))
        .telling_reasons();
        let server = start(blocking(1).linger_timeout(ms(50)), hooks);
        let mut client = Client::small(&server).saying("x");
        assert_eq!(errors.next(), Status::Timeout);
        assert_eq!(reasons.next(), CloseReason::WriteTimeout);
        client.expect_gone();
        wait_idle(&server);
    });
}

/// GS7, A1.1: The peer has gone: a reset is told as one.
#[test]
fn a_cork_for_nobody() {
    isolated(|| {
        let (log, errors) = events();
        let gate = Gate::new();
        let inside = gate.clone();
        let (hooks, reasons) = Hooks::new(move |_, socket| {
            text(socket)?;
            gather(socket)?;
            inside.wait();
            Ok(())
        })
        .on_exception(move |_, _, error| Ok(log.add(error.status())))
        .telling_reasons();
        let server = start(blocking(1), hooks);
        let client = Client::small(&server).settled().saying("x");
        gate.reached_by(1);
        client.reset();
        gate.open();
        assert_eq!(errors.next(), Status::Reset);
        assert_eq!(reasons.next(), CloseReason::Reset);
        assert_eq!(server.stats().handler_errors, 0);
    });
}

/// GS7, A3.2: A close by id, before what was gathered leaves and while it does, finds all of it
/// accepted.
#[test]
fn a_close_by_id_and_a_cork() {
    isolated(|| {
        let leaves: [End; 5] = [
            |_| Ok(()),
            |socket| Ok(drop(socket.uncork())),
            |socket| Ok(drop(socket.flush())),
            |socket| Ok(drop(socket.send(&[0; 10_000]))),
            |socket| Ok(drop(socket.shutdown(Shutdown::Write))),
        ];
        for (leave, begins) in leaves.into_iter().flat_map(|l| [(l, false), (l, true)]) {
            let gate = Gate::new();
            let inside = gate.clone();
            let (hooks, ids) = Hooks::new(move |_, socket| {
                text(socket)?;
                gather(socket)?;
                inside.wait();
                leave(socket)
            })
            .telling_ids();
            let (hooks, reasons) = hooks.telling_reasons();
            let server = start(blocking(1).linger_timeout(SOON), hooks);
            let mut client = Client::small(&server).saying("x");
            let id = ids.next();
            gate.reached_by(1);
            if begins {
                gate.open();
                let_pass(ms(100));
            }
            server.close(id).unwrap();
            gate.open();
            let_pass(ms(100));
            assert!(client.rest() == pattern(SOME));
            drop(client);
            assert_eq!(reasons.next(), CloseReason::Handler);
            wait_idle(&server);
        }
    });
}

/// GS7, A2.4: A close by id has only `linger_timeout`, also while an end waits for a cork.
#[test]
fn a_close_by_id_ends_the_wait_for_a_cork() {
    isolated(|| {
        let Waiting { server, mut client, id, reasons, errors } =
            waiting_for_a_cork(blocking(1).linger_timeout(ms(50)));
        let_pass(ms(100));
        server.close(id).unwrap();
        assert_eq!(reasons.next(), CloseReason::WriteTimeout);
        client.expect_gone();
        assert!(errors.drain().is_empty());
    });
}

/// GS7: A stop that cuts the connection, and an abort by id, end the wait, and are no failure of the
/// handler.
#[test]
fn a_cut_and_a_cork() {
    isolated(|| {
        for aborts in [true, false] {
            let Waiting { server, mut client, id, reasons, errors } =
                waiting_for_a_cork(blocking(1));
            let_pass(ms(50));
            let expected = match aborts {
                true => {
                    server.abort(id).unwrap();
                    CloseReason::Abort
                }
                false => {
                    cut(&server, ms(100));
                    CloseReason::Cut
                }
            };
            assert_eq!(reasons.next(), expected);
            client.expect_gone();
            assert!(errors.drain().is_empty());
        }
    });
}

/// GS9: A flush that has timed out says so again while its bytes are queued; one that returns 0
/// leaves nothing queued.
#[test]
fn a_flush_that_times_out() {
    isolated(|| {
        let (log, seen) = events();
        let gate = Gate::new();
        let inside = gate.clone();
        let hooks = Hooks::new(move |_, socket| {
            text(socket)?;
            gather(socket)?;
            socket.set_io_timeout(Some(ms(50)))?;
            assert_eq!(status(socket.flush()), Status::Timeout);
            assert_eq!(status(socket.flush()), Status::Timeout);
            assert_eq!(status(socket.uncork()), Status::Timeout);
            assert!(socket.queued() > 0);
            inside.wait();
            socket.set_io_timeout(None)?;
            socket.flush()?;
            Ok(log.add(socket.queued()))
        });
        let server = start(blocking(1), hooks);
        let mut client = Client::small(&server).saying("x");
        gate.reached_by(1);
        gate.open();
        assert!(client.rest() == pattern(SOME));
        assert_eq!(seen.next(), 0);
    });
}

/// GS9, D1: Behind a queue no more than 64 KiB is gathered: a send waits, and times out.
#[test]
fn a_cork_behind_a_queue() {
    isolated(|| {
        const PIECE: usize = 20_000;
        let (log, owned) = events();
        let hooks = Hooks::new(move |server: &Server, socket| {
            bulk(server, socket)?;
            Ok(log.add(server.detach(socket)?))
        });
        let server = start(non_blocking(1), hooks);
        let mut client = Client::small(&server).saying("x");
        let mut owned = owned.next();
        let mut socket = owned.socket();
        let queued = socket.queued();
        socket.set_io_timeout(Some(ms(30))).unwrap();
        socket.cork().unwrap();
        for number in 0..6 {
            let expected = if number < 3 { Status::Ok } else { Status::Timeout };
            assert_eq!(status(socket.send(&pattern(PIECE))), expected, "{number}");
        }
        assert_eq!(status(socket.send(&pattern(100_000))), Status::Timeout);
        assert!(socket.queued() <= queued + 3 * PIECE);
        socket.set_io_timeout(None).unwrap();
        std::thread::scope(|scope| {
            let sender = scope.spawn(|| {
                let mut socket = owned.socket();
                socket.send(&pattern(100_000)).unwrap();
                socket.uncork().unwrap();
                assert_eq!(socket.queued(), 0);
            });
            assert!(client.receive(BULK) == pattern(BULK));
            for _ in 0..3 {
                assert!(client.receive(PIECE) == pattern(PIECE));
            }
            assert!(client.receive(100_000) == pattern(100_000));
            sender.join().unwrap();
        });
    });
}

/// A blocking server whose handler reads a word first.
fn corking(act: impl Fn(&mut Socket<'_>) -> Result<(), Error> + Send + Sync + 'static) -> Server {
    let hooks = Hooks::new(move |_, socket| {
        text(socket)?;
        act(socket)
    });
    start(blocking(1), hooks)
}

/// GS7: In blocking mode what is sent after a cork leaves with the last uncork.
#[test]
fn an_uncork_sends_what_is_gathered() {
    isolated(|| {
        let (first, second) = (Gate::new(), Gate::new());
        let (inside, held) = (first.clone(), second.clone());
        let server = corking(move |socket| {
            socket.cork()?;
            socket.cork()?;
            socket.send(b"a")?;
            socket.sendv(&[b"b", b"c"].map(|word| std::io::IoSlice::new(word)))?;
            socket.uncork()?;
            assert_eq!(socket.queued(), 3);
            inside.wait();
            socket.uncork()?;
            assert_eq!(socket.queued(), 0);
            held.wait();
            Ok(())
        });
        let mut client = Client::connect(&server).saying("x");
        client.expect_silence();
        first.open();
        client.expect("abc");
        second.open();
        client.expect_end();
    });
}

/// GS7: It also leaves by a flush, at 64 KiB, and before a `recv` that waits.
#[test]
fn a_cork_holds_back_no_question() {
    isolated(|| {
        let server = corking(|socket| {
            socket.cork()?;
            socket.send(b"one ")?;
            socket.send(b"question")?;
            assert_eq!(text(socket)?, "answer");
            socket.send(b"more")?;
            socket.flush()?;
            assert_eq!(text(socket)?, "yes");
            let bulk = pattern(100 << 10);
            for piece in bulk.chunks(1000) {
                socket.send(piece)?;
                assert!(socket.queued() <= 64 << 10);
            }
            Ok(())
        });
        let mut client = Client::connect(&server).saying("x");
        client.expect("one question");
        client.send("answer");
        client.expect("more");
        client.send("yes");
        assert!(client.rest() == pattern(100 << 10));
    });
}

/// GS7: It leaves at every end: a return, a failure, a close, a half-close.
#[test]
fn a_cork_ends_with_its_connection() {
    isolated(|| {
        let ends: [End; 4] = [
            |_| Ok(()),
            |_| Err(Error::from(Status::State)),
            |socket| Ok(socket.close()),
            |socket| {
                socket.shutdown(Shutdown::Write)?;
                assert_eq!(socket.queued(), 0);
                Ok(())
            },
        ];
        for end in ends {
            let hooks = Hooks::new(move |_, socket| {
                text(socket)?;
                socket.cork()?;
                socket.send(b"a")?;
                socket.send(b"b")?;
                end(socket)
            });
            let server = start(blocking(1), hooks);
            Client::connect(&server).saying("x").expect_last("ab");
        }
    });
}

/// GS7: A cork of a detached socket ends with an attach, and with its end.
#[test]
fn a_cork_of_a_detached_socket() {
    isolated(|| {
        let (server, owned) = super::detach::detaching(non_blocking(1));
        for attaches in [false, true] {
            let (mut client, mut owned) = super::detach::detached(&server, &owned);
            let mut socket = owned.socket();
            socket.cork().unwrap();
            socket.send(b"a").unwrap();
            socket.send(b"b").unwrap();
            assert_eq!(socket.queued(), 2);
            if attaches {
                server.attach(owned).unwrap();
                client.expect("ab");
                client.echo("and on");
            } else {
                drop(owned);
                client.expect_last("ab");
            }
        }
    });
}

/// GS8: On a loop a cork has the first send of the callback gathered too.
#[test]
fn a_cork_on_a_loop() {
    isolated(|| {
        let (log, left) = events();
        let hooks = Hooks::new(move |server: &Server, socket| {
            let corked = text(socket)? == "cork";
            if corked {
                socket.cork()?;
            }
            let before = server.stats().bytes_out;
            socket.send(b"one")?;
            log.add(server.stats().bytes_out - before > 0);
            socket.uncork()
        });
        let server = start(non_blocking(1), hooks);
        let mut client = Client::connect(&server).settled();
        for (word, has_left) in [("x", true), ("cork", false), ("x", true)] {
            client.send(word);
            client.expect("one");
            assert_eq!(left.next(), has_left, "{word}");
        }
    });
}

/// GS8: On a loop an uncork does nothing. In blocking mode one without a cork is NS_ERR_STATE.
#[test]
fn corks_by_mode() {
    isolated(|| {
        for (config, without) in [(blocking(1), Status::State), (non_blocking(1), Status::Ok)] {
            let (log, seen) = events();
            let hooks = Hooks::new(move |_, socket| {
                text(socket)?;
                log.add(status(socket.uncork()));
                log.add(status(socket.cork()));
                log.add(status(socket.uncork()));
                socket.close();
                let closed = [socket.cork(), socket.uncork(), socket.flush()];
                assert_eq!(closed.map(status), [Status::Closed; 3]);
                Ok(())
            });
            let server = start(config, hooks);
            Client::connect(&server).saying("x").expect_end();
            assert_eq!(seen.take(3), [without, Status::Ok, Status::Ok]);
        }
    });
}
