//! The shutdown port of a hosted server.

use crate::api::{Hooks, Server, State, Status};
use crate::support::*;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;

use super::hosted::{host, hosted_with, turns_until};

fn with_port(hooks: Hooks) -> Server {
    hosted_with(non_blocking(1).shutdown_port("0"), hooks)
}

fn turns_until_stopped(server: &Server) {
    turns_until_no_error(server);
    assert_eq!(server.state(), State::Stopped);
}

/// The whole program of a host.
fn turns_until_no_error(server: &Server) {
    let clock = Stopwatch::start();
    while server.run_once(Some(ms(1000))).is_ok() {
        assert!(clock.elapsed() < SOON * 2, "it does not stop");
    }
}

/// HS14: A peer that connects stops the server, if there is no handler for the port; the server
/// drains as in any stop.
#[test]
fn a_peer_stops_the_server() {
    isolated(|| {
        for says in ["stop", "", "nothing"] {
            let server = with_port(Hooks::new(bulk));
            assert_ne!((server.shutdown_port(), server.stats().shutdown_port), (0, 0));
            assert!(library_threads().is_empty());
            let mut client = Client::small(&server);
            host(&server, || {
                client.send("x");
                client.receive(1);
            });
            let mut peer = Client::plain(("127.0.0.1", server.shutdown_port()));
            let clock = Stopwatch::start();
            let _silent = match says {
                "nothing" => Some(peer),
                "" => {
                    drop(peer);
                    None
                }
                says => {
                    peer.send(says);
                    Some(peer)
                }
            };
            std::thread::scope(|scope| {
                turns_until(&server, "the stop", || server.state() != State::Running);
                assert!(clock.elapsed() < ms(4_000), "only after the handler's time");
                scope.spawn(|| assert_eq!(client.rest().len(), BULK - 1));
                turns_until_stopped(&server);
            });
        }
    });
}

/// HS14: The handler of the port never waits: "would block" brings it back with the next bytes, and
/// what it returns decides.
#[test]
fn the_handler_talks() {
    isolated(|| {
        let calls = Arc::new(AtomicUsize::new(0));
        let count = calls.clone();
        let hooks = Hooks::new(echo).on_shutdown(move |server, socket| {
            count.fetch_add(1, Ordering::SeqCst);
            assert_eq!(server.wait(None).unwrap_err().status(), Status::Deadlock);
            let mut word = String::new();
            while !word.ends_with(';') {
                word += &text(socket)?;
                socket.send(b".")?;
            }
            socket.send(b"bye")?;
            Ok(word == "stop;")
        });
        let server = with_port(hooks);
        let port = ("127.0.0.1", server.shutdown_port());
        host(&server, || {
            let mut peer = Client::plain(port);
            peer.send("no");
            peer.expect(".");
            peer.send(";");
            peer.expect_last(".bye");
            Client::connect(&server).echo("goes on");
        });
        assert_eq!((server.state(), calls.load(Ordering::SeqCst)), (State::Running, 2));
        let mut peer = Client::plain(port).saying("stop;");
        turns_until_stopped(&server);
        peer.expect_last(".bye");
        assert_eq!(server.stats().handler_errors, 0);
    });
}

/// HS14, T12: The socket of the port answers as that of a port with a thread.
#[test]
fn the_socket_is_that_of_any_port() {
    isolated(|| {
        let hooks = || {
            let (log, answers) = events();
            let hooks = Hooks::new(echo).on_shutdown(move |server, socket| {
                text(socket)?;
                let id = socket.id();
                log.add(vec![
                    status(socket.set_timer(Some(ms(1)))),
                    status(socket.pause()),
                    status(socket.resume()),
                    status(socket.uncork()),
                    status(socket.cork()),
                    status(socket.send(b"bye")),
                    status(socket.uncork()),
                    status(socket.uncork()),
                    status(socket.flush()),
                    status(server.detach(socket)),
                    status(server.wake(id)),
                    status(server.queued(id)),
                ]);
                Ok(true)
            });
            (hooks, answers)
        };
        let talk = |server: &Server| {
            let mut peer = Client::plain(("127.0.0.1", server.shutdown_port())).saying("stop");
            peer.expect_last("bye");
        };
        let (on_thread, expected) = hooks();
        talk(&start(non_blocking(1).shutdown_port("0"), on_thread));
        let (in_host, answers) = hooks();
        let server = with_port(in_host);
        std::thread::scope(|scope| {
            let peer = scope.spawn(|| talk(&server));
            turns_until_stopped(&server);
            peer.join().unwrap();
        });
        let answers = answers.next();
        assert_eq!(
            answers[..4],
            [Status::NotNonBlocking; 3].into_iter().chain([Status::State]).collect::<Vec<_>>()
        );
        assert_eq!(answers, expected.next());
    });
}

/// HS14: A peer that says nothing is given up after 5 s, and holds up neither another one nor the
/// server.
#[test]
fn a_silent_peer() {
    isolated(|| {
        let (log, told) = events();
        let hooks = Hooks::new(echo).on_shutdown(move |_, socket| {
            let said = text(socket);
            log.add(said.as_ref().map(Clone::clone).map_err(|error| error.status()));
            said.map(|_| false)
        });
        let server = with_port(hooks);
        let clock = Stopwatch::start();
        host(&server, || {
            let mut silent = Client::plain(("127.0.0.1", server.shutdown_port()));
            Client::plain(("127.0.0.1", server.shutdown_port())).saying("x").expect_end();
            Client::connect(&server).echo("hello");
            silent.expect_gone();
        });
        clock.kept(ms(5000));
        assert_eq!(told.drain(), [Ok("x".into()), Err(Status::WouldBlock)]);
        server.stop().unwrap();
    });
}

/// HS14, P6, P8: A handler that panics is reported and ends its peer alone; nothing of the peers is
/// counted but that.
#[test]
fn a_handler_that_panics() {
    isolated(|| {
        let (log, told) = events();
        let hooks = Hooks::new(echo)
            .on_shutdown(|_, _| panic!("in on_shutdown"))
            .on_exception(move |_, socket, error| Ok(log.add((socket.is_some(), error.status()))));
        let server = with_port(hooks);
        host(&server, || {
            let mut peer = Client::plain(("127.0.0.1", server.shutdown_port())).saying("x");
            peer.expect_gone();
            Client::connect(&server).echo("goes on");
        });
        assert_eq!(told.drain(), [(true, Status::Panic)]);
        turns_until(&server, "the client", || server.stats().open == 0);
        let stats = server.stats();
        assert_eq!((stats.handler_errors, stats.accepted), (1, 1));
        server.stop().unwrap();
    });
}

/// HS14: A stop ends the peers, at its deadline at the latest, on any thread; their ids are no
/// connection's of the server.
#[test]
fn a_stop_ends_the_peers() {
    isolated(|| {
        for (wait, other_thread) in [(ms(0), false), (ms(50), true)] {
            let (log, ids) = events();
            let (opened, opens) = events();
            let hooks = Hooks::new(echo)
                .on_open(move |_, socket| Ok(opened.add(socket.id())))
                .on_shutdown(move |_, socket| {
                    assert_eq!(socket.service(), None);
                    log.add(socket.id());
                    socket.send(&pattern(BULK))?;
                    text(socket).map(|_| false)
                });
            let server = with_port(hooks);
            let port = ("127.0.0.1", server.shutdown_port());
            let (mut silent, unread) = (Client::plain(port), Client::plain(port).saying("x"));
            let mut client = Client::connect(&server);
            host(&server, || client.echo("hello"));
            let mut called = Vec::new();
            turns_until(&server, "a call", || {
                called.extend(ids.drain());
                !called.is_empty()
            });
            assert_ne!(called[0], opens.next());
            std::thread::scope(|scope| {
                let stop = || server.stop_within(wait).unwrap();
                match other_thread {
                    false => stop(),
                    true => {
                        let stop = scope.spawn(stop);
                        turns_until_no_error(&server);
                        stop.join().unwrap();
                    }
                }
            });
            assert_eq!(server.state(), State::Stopped);
            silent.expect_gone();
            drop(unread);
        }
    });
}

/// HS14, L7: A start that fails leaves nothing of the port behind, and serves no peer.
#[test]
fn a_start_that_fails() {
    isolated(|| {
        let (log, calls) = events();
        let (hold, held) = events();
        let hooks = Hooks::new(echo)
            .on_start(move |server| {
                let port = ("127.0.0.1", server.shutdown_port());
                hold.add(Client::plain(port).saying("x"));
                Err("it fails".into())
            })
            .on_shutdown(move |_, _| Ok(log.add(())).map(|()| true));
        let server = unstarted(non_blocking(1).shutdown_port("0"), hooks);
        assert_eq!(server.start_hosted().unwrap_err().status(), Status::Hook);
        assert_eq!(server.state(), State::New);
        assert!(calls.drain().is_empty());
        held.next().expect_gone();
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port().to_string();
        let server = unstarted(non_blocking(1).shutdown_port(&port), Hooks::new(echo));
        assert_eq!(server.start_hosted().unwrap_err().status(), Status::Listen);
    });
}
