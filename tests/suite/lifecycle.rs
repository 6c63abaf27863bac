//! New, start, wait, free.

use crate::api::{Config, Hooks, Server, State, Status};
use crate::support::*;
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::Arc;

/// A port that was free a moment ago, as a service string.
fn free_service() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

/// L1, A20.1: `new` validates the service and the config.
#[test]
fn new_validates() {
    isolated(|| {
        let configs = [
            Config::new().max_thread(0),
            Config::new().max_thread(4097),
            Config::new().max_retry(1_000_001),
            Config::new().backlog(0),
            Config::new().backlog(65_536),
            Config::new().send_limit(0),
            Config::new().high_water_mark(0),
            Config::new().send_limit(1000).high_water_mark(1001),
            Config::new().idle_timeout(ms(i32::MAX as u64 + 1)),
            Config::new().retry_interval(ms(u64::from(u32::MAX))),
            Config::new().shutdown_port("70000"),
            Config::new().shutdown_port("no port"),
        ];
        for config in configs {
            let text = format!("{config:?}");
            let result = Server::with_config("0", Hooks::new(echo), config);
            assert_eq!(status(result), Status::Invalid, "{text}");
        }
        for service in ["65536", "-1 ", "::1:80", "[::1", "host:", ":80", "a b"] {
            let result = Server::new(service, Hooks::new(echo));
            assert_eq!(status(result), Status::Invalid, "{service:?}");
        }
    });
}

/// L2: `new` binds nothing, makes no thread and opens no port until `start`.
#[test]
fn new_binds_nothing() {
    isolated(|| {
        let service = free_service();
        let server = server_at(&service, blocking(3), Hooks::new(echo));
        assert!(library_threads().is_empty());
        assert!(listening_sockets().is_empty());
        assert_eq!((server.port(), server.shutdown_port()), (0, 0));
        assert_eq!(server.address(), "");
        drop(TcpListener::bind(&service).unwrap());
        drop(server);
    });
}

/// L3: `start` blocks until the server stops.
#[test]
fn start_in_the_foreground_blocks_until_stop() {
    isolated(|| {
        for config in both_modes() {
            let server = unstarted(config, Hooks::new(echo));
            std::thread::scope(|scope| {
                let foreground = scope.spawn(|| server.start());
                eventually("it runs", || server.state() == State::Running);
                Client::connect(&server).echo("hello");
                assert!(!foreground.is_finished());
                server.stop().unwrap();
                foreground.join().unwrap().unwrap();
            });
        }
    });
}

/// L4: In the background `start` returns when the server accepts; the ports are final then.
#[test]
fn start_in_the_background_is_ready_on_return() {
    isolated(|| {
        for config in both_modes() {
            let server = unstarted(config.shutdown_port("0"), Hooks::new(echo));
            server.start_background().unwrap();
            assert_eq!(server.state(), State::Running);
            let (port, shutdown_port) = (server.port(), server.shutdown_port());
            assert!(port != 0 && shutdown_port != 0 && port != shutdown_port);
            assert_eq!(server.address(), format!("127.0.0.1:{port}"));
            Client::connect(&server).echo("at once");
            assert_eq!((server.port(), server.shutdown_port()), (port, shutdown_port));
            server.stop().unwrap();
        }
    });
}

/// L5: The listeners and threads are there when `on_start` runs, and nothing is accepted before it
/// returns.
#[test]
fn on_start_runs_before_accepting() {
    isolated(|| {
        for config in both_modes() {
            let (log, calls) = events();
            let (handler_log, gate) = (log.clone(), Gate::new());
            let inside = gate.clone();
            let hooks = Hooks::new(move |server, socket| {
                handler_log.add("handler");
                echo(server, socket)
            })
            .on_start(move |server| {
                assert!(server.port() != 0 && server.shutdown_port() != 0);
                eventually("threads are there", || !library_threads().is_empty());
                log.add("on_start");
                inside.wait();
                log.add("on_start returns");
                Ok(())
            });
            let server = unstarted(config.shutdown_port("0"), hooks);
            std::thread::scope(|scope| {
                let starting = scope.spawn(|| server.start_background());
                assert_eq!(calls.next(), "on_start");
                // The kernel takes the connection; the server does not yet.
                let mut client = Client::connect(&server).saying("early");
                calls.none();
                assert_eq!(server.state(), State::Starting);
                gate.open();
                starting.join().unwrap().unwrap();
                client.expect("early");
            });
            assert_eq!(calls.take(2), ["on_start returns", "handler"]);
            server.stop().unwrap();
        }
    });
}

/// L6: A start whose port is in use is undone, and the server may be started again.
#[test]
fn start_fails_where_the_port_is_taken() {
    isolated(|| {
        for config in both_modes() {
            let taken = TcpListener::bind("127.0.0.1:0").unwrap();
            let service = taken.local_addr().unwrap().to_string();
            let server = server_at(&service, config, Hooks::new(echo));
            let before = Inventory::take();
            for _ in 0..2 {
                assert_eq!(status(server.start_background()), Status::Listen);
                assert_eq!(server.state(), State::New);
                assert!(server.is_stopped());
                before.assert_restored();
            }
            drop(taken);
            server.start_background().unwrap();
            Client::connect(&server).echo("second try");
            server.stop().unwrap();
        }
    });
}

/// L6: A start whose shutdown port is in use is undone.
#[test]
fn start_fails_where_the_shutdown_port_is_taken() {
    isolated(|| {
        for config in both_modes() {
            let taken = TcpListener::bind("127.0.0.1:0").unwrap();
            let config = config.shutdown_port(taken.local_addr().unwrap().to_string());
            let service = free_service();
            let server = server_at(&service, config, Hooks::new(echo));
            let before = Inventory::take();
            assert_eq!(status(server.start_background()), Status::Listen);
            before.assert_restored();
            drop(TcpListener::bind(&service).unwrap());
            drop(taken);
            server.start_background().unwrap();
            Client::connect(&server).echo("second try");
            server.stop().unwrap();
        }
    });
}

/// L7: An error of `on_start` fails the start, which is undone; the next one may succeed.
#[test]
fn start_fails_where_on_start_fails() {
    isolated(|| {
        for config in both_modes() {
            let healthy = Arc::new(AtomicBool::new(false));
            let stops = Arc::new(AtomicUsize::new(0));
            let (flag, count) = (healthy.clone(), stops.clone());
            let hooks = Hooks::new(echo)
                .on_start(move |_| match flag.load(Ordering::SeqCst) {
                    true => Ok(()),
                    false => Err("not today".into()),
                })
                .on_stop(move |_| {
                    count.fetch_add(1, Ordering::SeqCst);
                });
            let server = unstarted(config.shutdown_port("0"), hooks);
            let before = Inventory::take();
            assert_eq!(status(server.start_background()), Status::Hook);
            assert_eq!(status(server.start()), Status::Hook);
            before.assert_restored();
            assert_eq!(server.state(), State::New);
            assert_eq!(stops.load(Ordering::SeqCst), 0, "it never ran");
            healthy.store(true, Ordering::SeqCst);
            server.start_background().unwrap();
            Client::connect(&server).echo("today");
            server.stop().unwrap();
            assert_eq!(stops.load(Ordering::SeqCst), 1);
        }
    });
}

/// L5: The shutdown listener comes first: where both ports are taken, the error is about that one.
#[test]
fn the_shutdown_port_is_bound_first() {
    isolated(|| {
        let taken = || TcpListener::bind("127.0.0.1:0").unwrap();
        let (port, shutdown_port) = (taken(), taken());
        let service = |listener: &TcpListener| listener.local_addr().unwrap().to_string();
        let config = blocking(1).shutdown_port(service(&shutdown_port));
        let server = server_at(&service(&port), config, Hooks::new(echo));
        let error = server.start_background().expect_err("bound");
        assert!(error.message().contains(&service(&shutdown_port)), "{}", error.message());
    });
}

/// L8: A start fails where threads cannot be made, at each of them, and is undone.
#[test]
fn start_fails_without_threads() {
    isolated(|| {
        for config in both_modes() {
            let server = unstarted(config.shutdown_port("0"), Hooks::new(echo));
            let before = Inventory::take();
            let mut failures = 0;
            loop {
                faults::limit_threads(Some(failures));
                let result = server.start_background();
                faults::limit_threads(None);
                let Err(error) = result else { break };
                assert_eq!((error.status(), error.os_code()), (Status::Thread, libc::EAGAIN));
                assert_eq!(server.state(), State::New);
                before.assert_restored();
                failures += 1;
            }
            assert!(failures >= 4, "loops or workers, control and shutdown threads");
            Client::connect(&server).echo("started at last");
            server.stop().unwrap();
        }
    });
}

/// L8: A start fails where descriptors are used up, at each of them, and is undone.
#[test]
fn start_fails_without_descriptors() {
    isolated(|| {
        for config in both_modes() {
            let server = unstarted(config.shutdown_port("0"), Hooks::new(echo));
            let (before, limits) = (Inventory::take(), descriptor_limit());
            let mut failures = 0;
            loop {
                let fillers = fill_descriptors(failures);
                let result = server.start_background();
                set_descriptor_limit(limits.0);
                drop(fillers);
                let Err(error) = result else { break };
                assert_eq!(error.os_code(), libc::EMFILE, "{error:?}");
                assert_eq!(server.state(), State::New);
                before.assert_restored();
                failures += 1;
            }
            assert!(failures >= 3, "listeners and pollers");
            Client::connect(&server).echo("started at last");
            server.stop().unwrap();
        }
    });
}

/// L7: A panic in `on_start` is a failure like any other.
#[test]
fn start_fails_where_on_start_panics() {
    isolated(|| {
        let server = unstarted(blocking(2), Hooks::new(echo).on_start(|_| panic!("on purpose")));
        let before = Inventory::take();
        let result = status(server.start_background());
        assert!(matches!(result, Status::Hook | Status::Panic), "{result:?}");
        before.assert_restored();
    });
}

/// L18: In the foreground a single loop runs on the thread that called `start`.
#[test]
fn a_single_loop_in_the_foreground() {
    isolated(|| {
        let (log, threads) = events();
        let hooks = Hooks::new(move |_, socket| {
            text(socket)?;
            Ok(log.add(std::thread::current().id()))
        });
        let server = unstarted(non_blocking(1), hooks);
        std::thread::scope(|scope| {
            let starting = scope.spawn(|| server.start());
            eventually("it accepts", || server.state() == State::Running);
            let _client = Client::connect(&server).saying("x");
            assert_eq!(threads.next(), starting.thread().id());
            server.stop().unwrap();
            starting.join().unwrap().unwrap();
        });
    });
}

/// L9: A server runs once.
#[test]
fn start_on_a_running_or_stopped_server_is_an_error() {
    isolated(|| {
        for config in both_modes() {
            let server = start(config, Hooks::new(echo));
            assert_eq!(status(server.start()), Status::State);
            assert_eq!(status(server.start_background()), Status::State);
            Client::connect(&server).echo("unharmed");
            server.stop().unwrap();
            assert_eq!(status(server.start()), Status::State);
            assert_eq!(status(server.start_background()), Status::State);
        }
    });
}

/// L9: Of concurrent starts one succeeds.
#[test]
fn concurrent_starts() {
    isolated(|| {
        let server = unstarted(non_blocking(1), Hooks::new(echo));
        let results: Vec<Status> = std::thread::scope(|scope| {
            let tasks: Vec<_> =
                (0..4).map(|_| scope.spawn(|| status(server.start_background()))).collect();
            tasks.into_iter().map(|task| task.join().unwrap()).collect()
        });
        assert_eq!(results.iter().filter(|result| **result == Status::Ok).count(), 1);
        assert_eq!(results.iter().filter(|result| **result == Status::State).count(), 3);
        Client::connect(&server).echo("one server");
    });
}

/// L10: `is_stopped` is true before start and after stop.
#[test]
fn is_stopped_before_and_after() {
    isolated(|| {
        let (log, seen) = events();
        let at_stop = log.clone();
        let hooks = Hooks::new(echo)
            .on_start(move |server| {
                log.add(server.is_stopped());
                Ok(())
            })
            .on_stop(move |server| at_stop.add(server.is_stopped()));
        let server = unstarted(blocking(1), hooks);
        assert!(server.is_stopped());
        server.start_background().unwrap();
        assert!(!server.is_stopped());
        server.stop().unwrap();
        assert!(server.is_stopped());
        assert_eq!(seen.drain(), [false, false], "while it starts, and while it stops");
    });
}

/// L11: `wait` returns when the server has stopped, or reports that it has not in time.
#[test]
fn wait_with_and_without_a_deadline() {
    isolated(|| {
        for config in both_modes() {
            let server = start(config, Hooks::new(echo));
            for limit in [0, 60] {
                let clock = Stopwatch::start();
                assert_eq!(status(server.wait(Some(ms(limit)))), Status::Timeout);
                clock.kept(ms(limit));
            }
            std::thread::scope(|scope| {
                let waiters: Vec<_> = (0..3)
                    .map(|i| {
                        let limit = (i > 0).then_some(SOON);
                        let server = &server;
                        scope.spawn(move || (server.wait(limit), server.state()))
                    })
                    .collect();
                server.request_stop();
                for waiter in waiters {
                    let (result, state) = waiter.join().unwrap();
                    result.unwrap();
                    assert_eq!(state, State::Stopped);
                }
            });
        }
    });
}

/// L12: In a callback `wait` would wait for itself, and is an error.
#[test]
fn wait_in_a_callback_is_a_deadlock() {
    isolated(|| {
        for config in both_modes() {
            let (log, results) = events();
            let all: Vec<_> = (0..5).map(|_| log.clone()).collect();
            let [handler, open, close, starting, stopping]: [Log<Status>; 5] =
                all.try_into().unwrap_or_else(|_| unreachable!());
            drop(log);
            let hooks = Hooks::new(move |server, socket| {
                text(socket)?;
                handler.add(status(server.wait(None)));
                handler.add(status(server.wait(Some(ms(1)))));
                socket.close();
                Ok(())
            })
            .on_start(move |server| {
                starting.add(status(server.wait(None)));
                Ok(())
            })
            .on_open(move |server, _| {
                open.add(status(server.wait(None)));
                Ok(())
            })
            .on_close(move |server, _, _| close.add(status(server.wait(None))))
            .on_stop(move |server| stopping.add(status(server.wait(None))));
            let server = start(config, hooks);
            let mut client = Client::connect(&server).saying("go");
            client.expect_end();
            drop(client);
            wait_idle(&server);
            server.stop().unwrap();
            assert_eq!(results.drain(), [Status::Deadlock; 6]);
        }
    });
}

/// L13: On a server that was never started `stop` and `wait` return immediately, and its state is
/// NEW.
#[test]
fn never_started() {
    isolated(|| {
        for config in both_modes() {
            let (log, calls) = events();
            let hooks = Hooks::new(echo).on_stop(move |_| log.add("on_stop"));
            let server = unstarted(config, hooks);
            server.stop().unwrap();
            server.stop_within(ms(0)).unwrap();
            within(SOON, || server.wait(None)).unwrap();
            assert_eq!(server.state(), State::New);
            assert_eq!(server.stats().state, State::New);
            let report = server.report();
            assert!(report.to_uppercase().contains("NEW"), "{report}");
            drop(server);
            assert!(calls.drain().is_empty());
        }
    });
}

/// L14: After `free` the process has the threads and descriptors it had before `new`, also where
/// connections were open.
#[test]
fn free_stops_and_releases_everything() {
    isolated(|| {
        for config in both_modes() {
            let before = Inventory::take();
            let (log, calls) = events();
            let hooks = Hooks::new(echo).on_stop(move |_| log.add("on_stop"));
            let server = start(config.drain_timeout(ms(100)).shutdown_port("0"), hooks);
            let mut clients: Vec<_> = (0..8).map(|_| Client::connect(&server)).collect();
            clients[0].echo("hello");
            drop(server);
            assert_eq!(calls.drain(), ["on_stop"]);
            assert!(library_threads().is_empty());
            for client in &mut clients {
                client.expect_gone();
            }
            drop(clients);
            before.assert_restored();
        }
    });
}

/// L17: Many servers in one process are independent.
#[test]
fn several_servers_at_once() {
    isolated(|| {
        let servers: Vec<_> = both_modes()
            .into_iter()
            .chain(both_modes())
            .map(|c| start(c, Hooks::new(echo)))
            .collect();
        for server in &servers {
            Client::connect(server).echo("hello");
        }
        servers[0].stop().unwrap();
        for server in &servers[1..] {
            Client::connect(server).echo("still here");
        }
    });
}
