//! Quiesce: a server that accepts no more and serves what it has.

use super::adopt::{adopted, tcp_pair};
use super::forks::Child;
use super::hosted::{host, hosted_with, turns_until};
use super::unix::{started, Folder, Local};
use crate::api::{Config, Hooks, Server, Socket, State, Status, TLS};
use crate::support::*;
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

pub(super) fn each_engine() -> [Config; 4] {
    [blocking(1), blocking(4), non_blocking(1), non_blocking(3)]
}

/// An echo server that reports its `on_quiesce` and `on_stop`.
pub(super) fn telling(hooks: Hooks) -> (Hooks, Events<&'static str>) {
    let (log, told) = events();
    let stops = log.clone();
    let hooks = hooks.on_quiesce(move |server| {
        assert!(server.in_callback_here());
        log.add("quiesce");
    });
    (hooks.on_stop(move |_| stops.add("stop")), told)
}

trait InCallback {
    fn in_callback_here(&self) -> bool;
}

impl InCallback for Server {
    /// In a callback a wait is an error.
    fn in_callback_here(&self) -> bool {
        status(self.wait_idle(Some(ms(0)))) == Status::Deadlock
    }
}

fn address(server: &Server) -> (&'static str, u16) {
    ("127.0.0.1", server.port())
}

/// QU1, QU9: When `quiesce` has returned nobody listens, `on_quiesce` has run, and open connections
/// are served on.
#[test]
fn it_accepts_no_more_and_serves_on() {
    isolated(|| {
        for config in each_engine() {
            let (hooks, told) = telling(Hooks::new(echo));
            let server = start(config, hooks);
            let mut client = Client::connect(&server);
            client.echo("before");
            assert_eq!((server.state(), server.is_ready()), (State::Running, true));
            let clock = Stopwatch::start();
            server.quiesce().unwrap();
            clock.at_once();
            assert_eq!((server.state(), server.is_ready()), (State::Quiescing, false));
            assert_eq!((server.stats().state, server.is_stopped()), (State::Quiescing, false));
            assert!(server.report().contains("quiescing"), "{}", server.report());
            assert_eq!(told.drain(), ["quiesce"]);
            assert!(listening_sockets().is_empty());
            assert!(refused(address(&server)));
            let port = TcpListener::bind(address(&server)).expect("the port is free");
            drop(port);
            client.echo("after");
            assert_eq!(status(server.wait_idle(Some(ms(20)))), Status::Timeout);
            drop(client);
            server.wait_idle(Some(SOON)).unwrap();
            server.stop().unwrap();
            assert_eq!(told.drain(), ["stop"]);
            assert_eq!((server.state(), server.is_ready()), (State::Stopped, false));
            assert_settled(&server);
        }
    });
}

/// QU2: What waits in the backlog is taken before, also beyond `max_connections`, and served.
#[test]
fn the_backlog_is_taken_first() {
    isolated(|| {
        for config in each_engine() {
            let server = start(config.max_connections(2).max_waiting(1), Hooks::new(echo));
            let mut inside: Vec<_> = (0..2).map(|_| Client::connect(&server)).collect();
            inside[0].echo("inside");
            let mut waiting: Vec<_> = (0..5).map(|_| Client::connect(&server)).collect();
            for client in &mut waiting {
                client.send("hello");
            }
            let_pass(ms(20));
            within(SOON, || server.quiesce().unwrap());
            assert_eq!(server.stats().accepted, 7);
            assert!(refused(address(&server)));
            inside.drain(..).for_each(drop);
            for mut client in waiting {
                client.expect("hello");
            }
            within(SOON, || server.wait_idle(None).unwrap());
            assert_eq!(server.stats().refused, 0);
            server.stop().unwrap();
            assert_settled(&server);
        }
    });
}

/// QU2, W12: Who comes from the backlog to a full pool waits as others do, and is refused as they are.
#[test]
fn who_finds_no_worker_is_refused_later() {
    isolated(|| {
        let gate = Gate::new();
        let config = blocking(2).max_connections(2).max_retry(1).retry_interval(ms(100));
        let server = start(config, answer_behind(&gate));
        let _open = OpenOnDrop(gate.clone());
        let _inside: Vec<_> = (0..2).map(|_| Client::connect(&server).saying("x")).collect();
        gate.reached_by(2);
        let mut waiting = Client::connect(&server);
        let clock = Stopwatch::start();
        server.quiesce().unwrap();
        assert_eq!((server.stats().waiting, server.stats().accepted), (1, 3));
        clock.at_once();
        waiting.expect_gone();
        eventually("it is counted", || server.stats().refused == 1);
        gate.open();
        server.wait_idle(Some(SOON)).unwrap();
    });
}

/// QU2: A stream of new clients does not keep a quiesce going.
#[test]
fn amid_new_clients() {
    isolated(|| {
        for config in each_engine() {
            let server = start(config, Hooks::new(echo));
            let answered = AtomicUsize::new(0);
            thread::scope(|scope| {
                for _ in 0..3 {
                    scope.spawn(|| {
                        while let Ok(mut client) = Client::try_to(address(&server)) {
                            let sent = std::io::Write::write_all(&mut client.0, b"hello");
                            let mut heard = [0; 5];
                            let read = std::io::Read::read_exact(&mut client.0, &mut heard);
                            if sent.is_err() || read.is_err() {
                                // At the moment when the listener closed.
                                break;
                            }
                            answered.fetch_add(1, Ordering::SeqCst);
                        }
                    });
                }
                eventually("some were answered", || answered.load(Ordering::SeqCst) > 30);
                within(SOON, || server.quiesce().unwrap());
            });
            within(SOON, || server.wait_idle(None).unwrap());
            assert_balanced(&server);
        }
    });
}

/// QU2: Nobody from the backlog is refused while a worker is free, also where clients may not wait.
#[test]
fn a_free_worker_serves_who_may_not_wait() {
    isolated(|| {
        for _ in 0..40 {
            let server = start(blocking(64).max_retry(0), Hooks::new(echo));
            thread::scope(|scope| {
                for _ in 0..3 {
                    scope.spawn(|| {
                        // The last client may be reset, when the listener closes.
                        while let Ok(mut client) = Client::try_to(address(&server)) {
                            let _ = std::io::Write::write_all(&mut client.0, b"x");
                            if std::io::Read::read_exact(&mut client.0, &mut [0]).is_err() {
                                break;
                            }
                        }
                    });
                }
                eventually("some came", || server.stats().accepted > 30);
                within(SOON, || server.quiesce().unwrap());
            });
            within(SOON, || server.wait_idle(None).unwrap());
            assert_eq!(server.stats().refused, 0);
            server.stop().unwrap();
        }
    });
}

/// QU3: A TLS handshake in progress goes on, also one of a client from the backlog.
#[test]
fn handshakes_go_on() {
    isolated(|| {
        for config in both_modes() {
            let server = start(config, Hooks::new(echo));
            // It shakes hands with its first bytes.
            let mut early = Client::connect(&server);
            eventually("it is accepted", || server.stats().accepted == 1);
            let mut late = Client::connect(&server);
            server.quiesce().unwrap();
            assert_eq!(server.stats().accepted, 2);
            early.echo("hello");
            late.echo("hello");
            assert_eq!(server.stats().handshakes, if TLS { 2 } else { 0 });
        }
    });
}

/// QU4: While descriptors are used up a quiesce tries again for a second, and does not wait longer.
#[test]
fn without_descriptors() {
    isolated(|| {
        let limit = descriptor_limit().0;
        for config in each_engine() {
            for recovers in [true, false] {
                let server = start(config.clone().max_connections(1), Hooks::new(echo));
                let mut held = Client::connect(&server);
                held.echo("inside");
                let mut client = Client::connect(&server);
                let fillers = fill_descriptors(0);
                thread::scope(|scope| {
                    let clock = Stopwatch::start();
                    let quiesce = scope.spawn(|| server.quiesce());
                    eventually("it was tried", || server.stats().accept_errors > 0);
                    if recovers {
                        set_descriptor_limit(limit);
                    }
                    quiesce.join().unwrap().unwrap();
                    if !recovers {
                        clock.kept(ms(1000));
                    }
                });
                set_descriptor_limit(limit);
                drop(fillers);
                assert!(refused(address(&server)));
                held.echo("still served");
                drop(held);
                match recovers {
                    true => client.echo("hello"),
                    false => client.expect_gone(),
                }
                assert_eq!(server.stats().accepted, if recovers { 2 } else { 1 });
            }
        }
    });
}

/// QU5: In a callback `quiesce` only asks, whichever callback it is.
#[test]
fn in_callbacks() {
    isolated(|| {
        let quiesce = |server: &Server| assert_eq!(status(server.quiesce()), Status::Ok);
        for config in each_engine() {
            for place in ["on_start", "on_open", "handler", "on_close", "on_quiesce"] {
                let (log, told) = events();
                let (first, second) =
                    (move |here: &str| here == place, move |s: &Server| quiesce(s));
                let hooks = Hooks::new(move |server: &Server, socket: &mut Socket<'_>| {
                    if first("handler") {
                        second(server);
                    }
                    echo(server, socket)
                })
                .on_start(move |server| {
                    Ok(if first("on_start") {
                        second(server)
                    })
                })
                .on_open(move |server, _| {
                    Ok(if first("on_open") {
                        second(server)
                    })
                })
                .on_close(move |server, _, _| {
                    if first("on_close") {
                        second(server)
                    }
                })
                .on_quiesce(move |server| {
                    second(server);
                    log.add(server.state());
                });
                let server = start(config.clone(), hooks);
                match place {
                    "on_start" => {}
                    "on_quiesce" => server.quiesce().unwrap(),
                    _ => Client::connect(&server).echo("hello"),
                }
                assert_eq!(told.next(), State::Quiescing, "{place}");
                server.quiesce().unwrap();
                assert!(refused(address(&server)));
                server.wait_idle(Some(SOON)).unwrap();
                assert!(told.drain().is_empty());
            }
        }
    });
}

/// QU5: `request_quiesce` does the same at once on any thread, in a signal handler too.
#[test]
fn requests() {
    static RESULT: AtomicI32 = AtomicI32::new(1);
    static SERVER: AtomicUsize = AtomicUsize::new(0);
    extern "C" fn on_signal(_: i32) {
        // SAFETY: the test keeps the server while the handler is installed.
        let server = unsafe { &*(SERVER.load(Ordering::SeqCst) as *const Server) };
        let code = server.request_quiesce().map_or_else(|status| status.code(), |()| 0);
        RESULT.store(code, Ordering::SeqCst);
    }
    isolated(|| {
        for config in each_engine() {
            let (hooks, told) = telling(Hooks::new(echo));
            let server = unstarted(config, hooks);
            assert_eq!(server.request_quiesce(), Err(Status::State));
            server.start_background().unwrap();
            SERVER.store(&raw const server as usize, Ordering::SeqCst);
            // SAFETY: the handler does what a signal handler may do.
            unsafe {
                libc::signal(libc::SIGUSR1, on_signal as *const () as libc::sighandler_t);
                libc::raise(libc::SIGUSR1);
            }
            assert_eq!((RESULT.load(Ordering::SeqCst), server.is_ready()), (0, false));
            assert_eq!(told.next(), "quiesce");
            assert_eq!((server.request_quiesce(), told.drain().len()), (Ok(()), 0));
            assert!(refused(address(&server)));
        }
    });
}

/// QU6: Before the start it is an error; several calls at the same time are one quiesce; in a stop and
/// after it there is nothing to do.
#[test]
fn when_it_may_be_called() {
    isolated(|| {
        for config in each_engine() {
            let (hooks, told) = telling(Hooks::new(echo));
            let server = unstarted(config, hooks);
            assert_eq!(status(server.quiesce()), Status::State);
            assert_eq!(status(server.wait_idle(None)), Status::Ok);
            assert!(!server.is_ready());
            server.start_background().unwrap();
            thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| {
                        server.quiesce().unwrap();
                        assert!(refused(address(&server)));
                    });
                }
            });
            server.quiesce().unwrap();
            assert_eq!(told.drain(), ["quiesce"]);
            server.stop().unwrap();
            assert_eq!(status(server.quiesce()), Status::Ok);
            assert_eq!(server.request_quiesce(), Ok(()));
            assert_eq!(status(server.wait_idle(None)), Status::Ok);
            assert_eq!((server.state(), told.drain()), (State::Stopped, vec!["stop"]));
        }
    });
}

/// QU7: A stop and a quiesce at the same time both return; the stop is the last.
#[test]
fn with_a_stop() {
    isolated(|| {
        for round in 0..20 {
            for config in each_engine() {
                let (hooks, told) = telling(Hooks::new(echo));
                let server = start(config.max_connections(2), hooks);
                let _clients: Vec<_> = (0..4).map(|_| Client::connect(&server)).collect();
                thread::scope(|scope| {
                    let quiesce = scope.spawn(|| server.quiesce());
                    if round % 2 == 0 {
                        thread::yield_now();
                    }
                    let stop = scope.spawn(|| server.stop_within(ms(100)));
                    assert_eq!(status(quiesce.join().unwrap()), Status::Ok);
                    let stopped = status(stop.join().unwrap());
                    assert!(matches!(stopped, Status::Ok | Status::Timeout));
                });
                server.wait(Some(SOON)).unwrap();
                let told = told.drain();
                assert!(told == ["quiesce", "stop"] || told == ["stop"], "{told:?}");
                assert_settled(&server);
            }
        }
    });
}

/// QU8: On a hosted server the host's thread runs the turns of it, and another thread waits for them.
#[test]
fn hosted() {
    isolated(|| {
        for by_host in [true, false] {
            let (hooks, told) = telling(Hooks::new(echo));
            let server = hosted_with(non_blocking(1).max_connections(1), hooks);
            let mut client = Client::connect(&server);
            let mut waiting = Client::connect(&server);
            waiting.send("hello");
            host(&server, || client.echo("hello"));
            match by_host {
                true => server.quiesce().unwrap(),
                false => host(&server, || server.quiesce().unwrap()),
            }
            assert_eq!((told.drain(), server.stats().accepted), (vec!["quiesce"], 2));
            assert!(refused(address(&server)));
            host(&server, || client.echo("still served"));
            assert_eq!(status(server.wait_idle(Some(ms(20)))), Status::Timeout);
            drop((client, waiting));
            match by_host {
                true => server.wait_idle(None).unwrap(),
                false => host(&server, || server.wait_idle(None).unwrap()),
            }
            assert_eq!(server.stats().open, 0);
            server.stop().unwrap();
        }
        let server = hosted_with(non_blocking(1), Hooks::new(echo));
        server.request_quiesce().unwrap();
        turns_until(&server, "the quiesce", || refused(address(&server)));
    });
}

/// QU9: The shutdown port, and the sockets that the program brings, go on.
#[test]
fn what_goes_on() {
    isolated(|| {
        for config in each_engine() {
            let is_loop = config.non_blocking;
            let server = start(config.shutdown_port("0"), Hooks::new(echo));
            server.quiesce().unwrap();
            if is_loop {
                let (ours, mut client) = tcp_pair();
                adopted(&server, ours);
                client.echo("adopted");
                let elsewhere = start(non_blocking(1), Hooks::new(echo));
                let target = format!("127.0.0.1:{}", elsewhere.port());
                server.connect(&target, Some(SOON), ()).unwrap();
                eventually("it is connected", || elsewhere.stats().accepted == 1);
                assert_eq!(server.stats().adopted, 2);
            }
            Client::plain(("127.0.0.1", server.shutdown_port())).expect_end();
            server.wait(Some(SOON)).unwrap();
        }
    });
}

/// QU10: The file of a unix socket goes first, and the path is free for a successor.
#[test]
fn the_file_of_a_unix_socket() {
    isolated(|| {
        let folder = Folder::new();
        let path = folder.path("socket");
        for config in each_engine() {
            let first = started(&folder.service("socket"), config.clone(), Hooks::new(echo));
            let mut client = Local::to(&path);
            client.echo("hello");
            first.quiesce().unwrap();
            assert!(!path.exists());
            let second = started(&folder.service("socket"), config, Hooks::new(echo));
            Local::to(&path).echo("the second");
            client.echo("the first");
            drop(client);
            first.wait_idle(Some(SOON)).unwrap();
            first.stop().unwrap();
            Local::to(&path).echo("the second");
            second.stop().unwrap();
        }
    });
}

/// QU11: Where a callback does not return, the call does, and the quiesce goes on.
#[test]
fn a_callback_that_does_not_return() {
    isolated(|| {
        let gate = Gate::new();
        let config = non_blocking(1).drain_timeout(ms(0));
        let server = start(config, answer_behind(&gate));
        let _open = OpenOnDrop(gate.clone());
        let mut client = Client::connect(&server).saying("x");
        gate.reached_by(1);
        let clock = Stopwatch::start();
        assert_eq!(status(server.quiesce()), Status::Timeout);
        clock.kept(ms(1000));
        assert_eq!((server.state(), server.is_ready()), (State::Quiescing, false));
        gate.open();
        client.expect_last("answer");
        eventually("it goes on", || refused(address(&server)));
        server.quiesce().unwrap();
    });
}

/// QU12: `wait_idle` returns with the end of the last connection, on several threads, and until its
/// time has passed.
#[test]
fn waiting_for_the_last_connection() {
    isolated(|| {
        for config in each_engine() {
            let server = start(config, Hooks::new(echo));
            let mut clients: Vec<_> = (0..3).map(|_| Client::connect(&server)).collect();
            clients[0].echo("hello");
            server.quiesce().unwrap();
            thread::scope(|scope| {
                let waits: Vec<_> =
                    (0..3).map(|_| scope.spawn(|| server.wait_idle(None))).collect();
                let clock = Stopwatch::start();
                assert_eq!(status(server.wait_idle(Some(ms(60)))), Status::Timeout);
                clock.kept(ms(60));
                at_rest(|| let_pass(ms(100)));
                assert!(waits.iter().all(|wait| !wait.is_finished()));
                clients.clear();
                waits.into_iter().for_each(|wait| wait.join().unwrap().unwrap());
            });
            assert_eq!((server.stats().open, server.stats().waiting), (0, 0));
            assert_eq!(server.state(), State::Quiescing);
        }
    });
}

/// QU12: A stop ends the wait too, and so does the time where a handler runs on.
#[test]
fn waiting_amid_a_stop() {
    isolated(|| {
        for config in each_engine() {
            let server = start(config, Hooks::new(echo));
            let mut client = Client::connect(&server);
            client.echo("hello");
            thread::scope(|scope| {
                let wait = scope.spawn(|| server.wait_idle(Some(Duration::from_secs(20))));
                cut(&server, ms(50));
                wait.join().unwrap().unwrap();
            });
        }
    });
}

/// QU13, FK1: In a child of fork(2) each of the calls is an error, and harms nothing of the parent's.
#[test]
fn in_a_child() {
    isolated(|| {
        for config in each_engine() {
            let server = start(config.lend_listeners(true), Hooks::new(echo));
            Child::doing(|| {
                assert_eq!(status(server.quiesce()), Status::State);
                assert_eq!(server.request_quiesce(), Err(Status::State));
                assert_eq!(status(server.wait_idle(None)), Status::State);
                assert_eq!(status(server.listener_fd(0)), Status::State);
                assert!(!server.is_ready());
            })
            .succeeds();
            assert!(server.is_ready());
            Client::connect(&server).echo("hello");
        }
    });
}

/// QU14, Z4: What waits at a socket that others have too is left to them.
#[test]
fn an_inherited_socket_is_left() {
    isolated(|| {
        for config in each_engine() {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let service = format!("fd:{}", listener.as_raw_fd());
            let server = server_at(&service, config.max_connections(1), Hooks::new(echo));
            server.start_background().unwrap();
            let mut inside = Client::connect(&server);
            inside.echo("hello");
            let waiting = Client::connect(&server);
            let clock = Stopwatch::start();
            server.quiesce().unwrap();
            clock.at_once();
            assert_eq!(server.stats().accepted, 1);
            listener.set_nonblocking(false).unwrap();
            assert_eq!(listener.accept().unwrap().1, waiting.local());
            inside.echo("still served");
        }
    });
}
