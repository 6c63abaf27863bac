//! Detach.

use crate::api::{CloseReason, Config, Error, Hooks, OwnedSocket, Server, Socket, Status, TLS};
use crate::support::*;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;

/// A server that detaches a connection when its client says so, and gives the socket to the test.
pub(super) fn detaching(config: Config) -> (Server, Events<OwnedSocket>) {
    let (log, owned) = events();
    let hooks = Hooks::new(move |server: &Server, socket| match text(socket)?.as_str() {
        "" => Ok(socket.close()),
        "detach" => Ok(log.add(server.detach(socket)?)),
        other => socket.send(other.as_bytes()),
    });
    (start(config, hooks), owned)
}

/// A server that detaches every connection with its first bytes, after what `first` does.
fn detaching_after(
    first: impl Fn(&Server, &mut Socket<'_>) -> Result<(), Error> + Send + Sync + 'static,
) -> (Server, Events<OwnedSocket>) {
    let (log, owned) = events();
    let hooks = Hooks::new(move |server: &Server, socket| {
        first(server, socket)?;
        Ok(log.add(server.detach(socket)?))
    });
    (start(non_blocking(1), hooks), owned)
}

#[track_caller]
pub(super) fn detached(server: &Server, owned: &Events<OwnedSocket>) -> (Client, OwnedSocket) {
    (Client::connect(server).saying("detach"), owned.next())
}

#[track_caller]
pub(super) fn exchange(client: &mut Client, owned: &mut OwnedSocket, word: &str) {
    client.send(word);
    let mut socket = owned.socket();
    assert_eq!(text(&mut socket).unwrap(), word);
    socket.send(word.as_bytes()).unwrap();
    client.expect(word);
}

/// D1: The detached socket is in blocking mode and usable from another thread; freeing it closes.
#[test]
fn a_detached_socket_is_the_programs_own() {
    isolated(|| {
        let (server, owned) = detaching(non_blocking(2));
        let (mut client, mut socket) = detached(&server, &owned);
        eventually("it has left", || server.stats().detached == 1 && server.stats().open == 0);
        std::thread::scope(|scope| {
            let task = scope.spawn(|| {
                let word = text(&mut socket.socket());
                socket.socket().send(b"answer").unwrap();
                drop(socket);
                word
            });
            client.expect_silence();
            client.send("question");
            client.expect_last("answer");
            assert_eq!(task.join().unwrap().unwrap(), "question");
        });
        wait_idle(&server);
    });
}

/// D2: The owned socket is usable immediately, also while the callback that detached it still runs,
/// in which the borrowed object returns NS_ERR_DETACHED.
#[test]
fn usable_while_the_callback_still_runs() {
    isolated(|| {
        let (log, owned) = events();
        let (result_log, results) = events();
        let gate = Gate::new();
        let inside = gate.clone();
        let hooks = Hooks::new(move |server: &Server, socket| {
            text(socket)?;
            log.add(server.detach(socket)?);
            inside.wait();
            result_log.add([
                status(socket.recv(&mut [0; 10])),
                status(socket.send(b"x")),
                status(server.detach(socket)),
                status(socket.pause()),
                status(socket.set_timer(Some(ms(1)))),
            ]);
            socket.close();
            Ok(())
        })
        .on_close(|_, _, _| panic!("not after a detach"));
        let server = start(non_blocking(1), hooks);
        let (mut client, mut socket) = detached(&server, &owned);
        gate.reached_by(1);
        for word in ["one", "two", "three"] {
            exchange(&mut client, &mut socket, word);
        }
        drop(socket);
        client.expect_end();
        gate.open();
        assert_eq!(results.next(), [Status::Detached; 5]);
        // The slot is free for others.
        let (mut next, socket) = detached(&server, &owned);
        drop(socket);
        next.expect_end();
        wait_idle(&server);
        assert_eq!(server.stats().detached, 2);
    });
}

/// D3: A detached socket is usable after its server was freed.
#[test]
fn usable_after_the_server_was_freed() {
    isolated(|| {
        let (server, owned) = detaching(non_blocking(1));
        let (mut client, mut socket) = detached(&server, &owned);
        server.stop().unwrap();
        exchange(&mut client, &mut socket, "stopped");
        drop(server);
        exchange(&mut client, &mut socket, "freed");
        assert!(socket.socket().peer().is_some());
        drop(socket);
        client.expect_end();
    });
}

/// D4: Unread bytes go along with a detached socket.
#[test]
fn unread_bytes_are_included() {
    isolated(|| {
        let (server, owned) = detaching_after(|_, socket| socket.recv(&mut [0; 3]).map(drop));
        let (mut client, mut socket) = detached(&server, &owned);
        assert_eq!(text(&mut socket.socket()).unwrap(), "ach");
        client.finish_sending();
        assert_eq!(text(&mut socket.socket()).unwrap(), "");
    });
}

/// D4: Unsent bytes go along, and leave before what the owner sends.
#[test]
fn unsent_bytes_are_included() {
    isolated(|| {
        let (server, owned) = detaching_after(bulk);
        for last_words in ["", " and the end"] {
            let mut client = Client::small(&server).saying("go");
            let mut socket = owned.next();
            assert!(socket.socket().queued() > 0);
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    // Sending nothing leaves it to the end of the socket to flush.
                    if !last_words.is_empty() {
                        socket.socket().send(last_words.as_bytes()).unwrap();
                    }
                    drop(socket);
                });
                assert!(client.receive(BULK) == pattern(BULK));
                client.expect_last(last_words);
            });
        }
    });
}

/// D5: User data goes along, and is dropped once, with the socket.
#[test]
fn user_data_is_included() {
    isolated(|| {
        let data = Arc::new(5);
        let share = data.clone();
        let (log, owned) = events();
        let hooks = Hooks::new(move |server: &Server, socket| {
            socket.set_user_data(share.clone());
            log.add(server.detach(socket)?);
            assert!(socket.user_data::<Arc<i32>>().is_none());
            Ok(())
        });
        let server = start(non_blocking(1), hooks);
        let (_client, mut socket) = detached(&server, &owned);
        assert_eq!(socket.socket().user_data::<Arc<i32>>().map(|data| **data), Some(5));
        drop(server);
        assert_eq!(Arc::strong_count(&data), 2);
        drop(socket);
        assert_eq!(Arc::strong_count(&data), 1);
    });
}

/// D11: The timer and a pause do not go along.
#[test]
fn a_timer_and_a_pause_stay_behind() {
    isolated(|| {
        let (log, owned) = events();
        let (timeout_log, timeouts) = events();
        let hooks = Hooks::new(move |server: &Server, socket| match text(socket)?.as_str() {
            "detach" => {
                socket.set_timer(Some(ms(50)))?;
                socket.pause()?;
                Ok(log.add(server.detach(socket)?))
            }
            other => socket.send(other.as_bytes()),
        })
        .on_timeout(move |_, _| timeout_log.add(()));
        let server = start(non_blocking(1), hooks);
        let (mut client, socket) = detached(&server, &owned);
        timeouts.none();
        server.attach(socket).unwrap();
        client.echo("read again");
        timeouts.none();
    });
}

/// D6: Every callback of the connection but `on_close` may detach it.
#[test]
fn detach_in_every_callback_but_on_close() {
    isolated(|| {
        for callback in ["on_open", "handler", "on_wake", "on_timeout", "on_drain", "on_exception"]
        {
            detach_in(callback);
        }
    });
}

fn detach_in(callback: &'static str) {
    let (log, owned) = events();
    let here = move |name: &str, server: &Server, socket: &mut Socket<'_>| {
        if name == callback {
            log.add(server.detach(socket).expect(callback));
        }
    };
    let (open, wake, timeout) = (here.clone(), here.clone(), here.clone());
    let (drain, exception) = (here.clone(), here.clone());
    let hooks = Hooks::new(move |server: &Server, socket| {
        text(socket)?;
        here("handler", server, socket);
        match callback {
            "on_wake" => server.wake(socket.id()),
            "on_timeout" => socket.set_timer(Some(ms(1))),
            "on_drain" => socket.send(&pattern(BULK)),
            "on_exception" => Err("failed".into()),
            _ => Ok(()),
        }
    })
    .on_open(move |server, socket| {
        open("on_open", server, socket);
        Ok(())
    })
    .on_wake(move |server, socket| wake("on_wake", server, socket))
    .on_timeout(move |server, socket| timeout("on_timeout", server, socket))
    .on_drain(move |server, socket| drain("on_drain", server, socket))
    .on_exception(move |server, socket, _| {
        exception("on_exception", server, socket.unwrap());
        Ok(())
    })
    .on_close(move |_, _, reason| panic!("{callback}: not after a detach: {reason:?}"));
    let server = start(non_blocking(1), hooks);
    let mut client = Client::small(&server);
    if callback != "on_open" {
        client.send("go");
    }
    if callback == "on_drain" {
        client.receive(BULK);
    }
    let mut socket = owned.next();
    exchange(&mut client, &mut socket, callback);
    drop(socket);
    client.expect_end();
    wait_idle(&server);
}

/// D7: Elsewhere a detach is an error and no crash: in `on_close`, and of a socket that is owned
/// already.
#[test]
fn detach_anywhere_else_is_an_error() {
    isolated(|| {
        let (log, results) = events();
        let (owned_log, owned) = events();
        let hooks = Hooks::new(move |server: &Server, socket| {
            if text(socket)? == "detach" {
                owned_log.add(server.detach(socket)?);
            }
            socket.close();
            Ok(())
        })
        .on_close(move |server, socket, _| log.add(status(server.detach(socket))));
        let server = start(non_blocking(1), hooks);
        let mut client = Client::connect(&server).saying("close");
        client.expect_end();
        drop(client);
        assert_eq!(results.next(), Status::NotInHandler);
        let (mut client, mut socket) = detached(&server, &owned);
        assert_eq!(status(server.detach(&mut socket.socket())), Status::NotInHandler);
        exchange(&mut client, &mut socket, "unharmed");
    });
}

/// D7: A closed socket cannot be detached.
#[test]
fn detach_after_close_is_an_error() {
    isolated(|| {
        let (log, results) = events();
        let hooks = Hooks::new(move |server: &Server, socket| {
            text(socket)?;
            socket.close();
            log.add(status(server.detach(socket)));
            Ok(())
        });
        let server = start(non_blocking(1), hooks);
        let mut client = Client::connect(&server).saying("x");
        assert_eq!(results.next(), Status::Closed);
        client.expect_end();
        drop(client);
        wait_idle(&server);
    });
}

/// D8: The owner can have the descriptor of a plain socket without buffered bytes.
#[test]
fn the_descriptor_can_be_released() {
    isolated(|| {
        let (server, owned) = detaching(non_blocking(1));
        let (mut client, socket) = detached(&server, &owned);
        let fd = socket.release_fd().map_err(|(error, _)| error).unwrap();
        drop(server);
        let mut stream = TcpStream::from(fd);
        stream.write_all(b"raw").unwrap();
        client.expect("raw");
        client.send("reply");
        let mut buffer = [0; 5];
        stream.read_exact(&mut buffer).unwrap();
        assert_eq!(&buffer, b"reply", "and it blocks, as a detached socket does");
        drop(stream);
        client.expect_end();
    });
}

/// D9, A5.1: Where the descriptor is refused the socket is as before: late input does not destroy
/// the reply.
#[test]
fn a_refused_release_destroys_nothing() {
    isolated(|| {
        let reply = 500_000;
        let (server, owned) = detaching_after(|_, socket| text(socket).map(drop));
        let mut client = Client::connect(&server).saying("go");
        let mut socket = owned.next();
        socket.socket().send(&pattern(reply)).unwrap();
        socket.socket().close();
        client.send("late");
        let Err((error, socket)) = socket.release_fd() else { panic!("it is closed") };
        assert_eq!(error.status(), if TLS { Status::Unsupported } else { Status::Closed });
        std::thread::scope(|scope| {
            scope.spawn(|| drop(socket));
            client.send("later");
            assert!(client.rest() == pattern(reply));
            drop(client);
        });
    });
}

/// A3.5: A call by id that returned 0 is done, and not forgotten with a detach.
#[test]
fn no_detach_after_a_close_by_id() {
    isolated(|| {
        for abort in [false, true] {
            let (log, results) = events();
            let hooks = Hooks::new(move |server: &Server, socket| {
                text(socket)?;
                match abort {
                    true => server.abort(socket.id())?,
                    false => server.close(socket.id())?,
                }
                Ok(log.add(status(server.detach(socket))))
            });
            let (hooks, reasons) = hooks.telling_reasons();
            let server = start(non_blocking(1), hooks);
            let mut client = Client::connect(&server).saying("x");
            assert_eq!(results.next(), Status::Closed);
            let (reason, _) = match abort {
                true => (CloseReason::Abort, client.expect_gone()),
                false => (CloseReason::Handler, client.expect_end()),
            };
            drop(client);
            assert_eq!(reasons.next(), reason);
        }
    });
}

/// A3.2, A3.5: A half-close by id that returned 0 goes along with a detach, behind what was accepted
/// before it.
#[test]
fn a_half_close_by_id_is_included() {
    isolated(|| {
        for how in [Shutdown::Write, Shutdown::Read, Shutdown::Both] {
            let (server, owned) = detaching_after(move |server, socket| {
                text(socket)?;
                server.send(socket.id(), b"accepted")?;
                server.shutdown(socket.id(), how)?;
                let sends = status(server.send(socket.id(), b"!"));
                assert_eq!(sends == Status::Closed, how != Shutdown::Read);
                Ok(())
            });
            let (mut client, mut socket) = detached(&server, &owned);
            let mut view = socket.socket();
            if how == Shutdown::Read {
                client.expect("accepted!");
                view.send(b" and more").unwrap();
                client.expect(" and more");
            } else {
                client.expect_last("accepted");
                assert_eq!(status(view.send(b"late")), Status::Closed);
            }
            client.send("answer");
            let heard = if how == Shutdown::Write { "answer" } else { "" };
            assert_eq!(text(&mut view).unwrap(), heard);
            let id = server.attach(socket).unwrap();
            let sends = status(server.send(id, b"by id"));
            assert_eq!(sends == Status::Closed, how != Shutdown::Read);
            client.finish_sending();
            drop(client);
        }
    });
}

/// A3.2: So it does behind a queue that the owner sends on.
#[test]
fn a_half_close_by_id_and_a_queue_are_included() {
    isolated(|| {
        let (server, owned) = detaching_after(|server, socket| {
            bulk(server, socket)?;
            server.shutdown(socket.id(), Shutdown::Write)
        });
        let mut client = Client::small(&server).saying("go");
        let mut socket = owned.next();
        assert!(socket.socket().queued() > 0);
        assert_eq!(status(socket.socket().send(b"late")), Status::Closed);
        std::thread::scope(|scope| {
            let flush = scope.spawn(move || {
                socket.socket().flush().unwrap();
                assert_eq!(socket.socket().queued(), 0);
                socket
            });
            assert!(client.rest() == pattern(BULK));
            drop(flush.join().unwrap());
        });
    });
}

/// D10: A half-close of a detached socket sends what is queued, and then the end.
#[test]
fn a_half_close_behind_the_queue() {
    isolated(|| {
        let (server, owned) = detaching_after(bulk);
        let mut client = Client::small(&server).saying("go");
        let mut socket = owned.next();
        std::thread::scope(|scope| {
            let half_close = scope.spawn(move || {
                socket.socket().shutdown(Shutdown::Write).unwrap();
                socket
            });
            assert!(client.rest() == pattern(BULK));
            let mut socket = half_close.join().unwrap();
            client.send("still open");
            assert_eq!(text(&mut socket.socket()).unwrap(), "still open");
        });
    });
}

/// D9: With unsent bytes the descriptor is not given away, and the caller still owns the socket.
#[test]
fn no_release_with_buffered_bytes() {
    isolated(|| {
        let (server, owned) = detaching_after(bulk);
        let mut client = Client::small(&server).saying("go");
        let socket = owned.next();
        let Err((_, socket)) = socket.release_fd() else { panic!("bytes are lost") };
        std::thread::scope(|scope| {
            scope.spawn(|| drop(socket));
            assert!(client.rest() == pattern(BULK));
        });
    });
}

/// T8: An owned socket has an I/O timeout.
#[test]
fn an_owned_socket_has_an_io_timeout() {
    isolated(|| {
        let (server, owned) = detaching(non_blocking(1));
        let (mut client, mut socket) = detached(&server, &owned);
        let mut view = socket.socket();
        view.set_io_timeout(Some(ms(120))).unwrap();
        let clock = Stopwatch::start();
        assert_eq!(status(view.recv(&mut [0; 8])), Status::Timeout);
        clock.kept(ms(120));
        client.send("late");
        assert_eq!(text(&mut view).unwrap(), "late");
    });
}

/// A3.2, D4: Bytes that a call by id had accepted are among the unsent ones.
#[test]
fn bytes_accepted_by_id_are_included() {
    isolated(|| {
        let (server, owned) = detaching_after(|server, socket| {
            text(socket)?;
            server.send(socket.id(), b"accepted ")
        });
        let (mut client, mut socket) = detached(&server, &owned);
        socket.socket().send(b"by the owner").unwrap();
        drop(socket);
        client.expect_last("accepted by the owner");
    });
}
