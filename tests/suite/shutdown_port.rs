//! The shutdown port.

use crate::api::{Hooks, Server, State, Status};
use crate::support::*;

fn knock(server: &Server) -> Client {
    Client::plain(("127.0.0.1", server.shutdown_port()))
}

/// P1: There is no shutdown port unless it is set.
#[test]
fn off_unless_set() {
    isolated(|| {
        for config in both_modes() {
            let server = start(config, Hooks::new(echo));
            assert_eq!(server.shutdown_port(), 0);
            assert_eq!(server.stats().shutdown_port, 0);
            assert_eq!(count_threads_named("ns-s"), 0);
            assert_eq!(listening_sockets().len(), 1);
        }
    });
}

/// P2: Without a shutdown handler a connection stops the server, through the ordinary stop path.
#[test]
fn a_connection_stops_the_server() {
    isolated(|| {
        for config in both_modes() {
            let (log, calls) = events();
            let hooks = Hooks::new(echo).on_stop(move |_| log.add("on_stop"));
            let server = start(config.shutdown_port("0"), hooks);
            Client::connect(&server).echo("hello");
            let mut knocking = knock(&server);
            server.wait(Some(SOON)).unwrap();
            knocking.expect_gone();
            assert_eq!(server.state(), State::Stopped);
            assert_eq!(calls.drain(), ["on_stop"]);
            assert_settled(&server);
        }
    });
}

/// P2: A connection ends a server in the foreground as well.
#[test]
fn it_ends_a_server_in_the_foreground() {
    isolated(|| {
        let server = unstarted(blocking(1).shutdown_port("0"), Hooks::new(echo));
        std::thread::scope(|scope| {
            let foreground = scope.spawn(|| server.start());
            eventually("it runs", || server.state() == State::Running);
            drop(knock(&server));
            foreground.join().unwrap().unwrap();
        });
    });
}

/// P3: This stop drains as any stop does.
#[test]
fn it_drains() {
    isolated(|| {
        for config in both_modes() {
            let gate = Gate::new();
            let server = start(config.shutdown_port("0"), answer_behind(&gate));
            let mut client = Client::connect(&server).saying("x");
            gate.reached_by(1);
            drop(knock(&server));
            eventually("it is stopping", || server.state() == State::Stopping);
            gate.open();
            client.expect_last("answer");
            server.wait(Some(SOON)).unwrap();
            assert_eq!((server.stats().drained, server.stats().cut), (1, 0));
        }
    });
}

/// P4: The port is bound to the loopback unless its service string names a host.
#[test]
fn bound_to_the_loopback() {
    isolated(|| {
        let server = server_at("0", blocking(1).shutdown_port("0"), Hooks::new(echo));
        server.start_background().unwrap();
        let port = server.shutdown_port();
        assert!(refused(("127.0.0.2", port)), "the wildcard address");
        drop(Client::to(("127.0.0.2", server.port())));
        drop(Client::plain(("127.0.0.1", port)));
        server.wait(Some(SOON)).unwrap();
        let config = blocking(1).shutdown_port("127.0.0.2:0");
        let server = start(config, Hooks::new(echo));
        assert!(refused(("127.0.0.1", server.shutdown_port())));
        drop(Client::plain(("127.0.0.2", server.shutdown_port())));
        server.wait(Some(SOON)).unwrap();
    });
}

/// P5: Where the handler returns zero the server goes on, and where it returns another number it
/// stops. It may talk with the peer.
#[test]
fn the_handler_decides() {
    isolated(|| {
        for config in both_modes() {
            let hooks = Hooks::new(echo).on_shutdown(|_, socket| {
                let secret = text(socket)?;
                let right = secret == "please";
                socket.send(if right { b"goodbye" } else { b"no" })?;
                Ok(right)
            });
            let server = start(config.shutdown_port("0"), hooks);
            for word in ["now", "stop it"] {
                let mut client = knock(&server);
                client.send(word);
                client.expect_last("no");
                Client::connect(&server).echo("still running");
            }
            let mut client = knock(&server);
            client.send("please");
            client.expect_last("goodbye");
            server.wait(Some(SOON)).unwrap();
        }
    });
}

/// P6: Errors and panics in the handler are contained: the server goes on.
#[test]
fn handler_errors_are_contained() {
    isolated(|| {
        let hooks = Hooks::new(echo).on_shutdown(|_, socket| match text(socket)?.as_str() {
            "fail" => Err("failed".into()),
            "panic" => panic!("on purpose"),
            "abort" => {
                socket.abort();
                Ok(false)
            }
            _ => Ok(true),
        });
        let server = start(blocking(1).shutdown_port("0"), hooks);
        for word in ["fail", "panic", "abort", "fail"] {
            let mut client = knock(&server);
            client.send(word);
            client.expect_gone();
            assert_eq!(server.state(), State::Running, "{word}");
            Client::connect(&server).echo("still running");
        }
        knock(&server).reset();
        let mut client = knock(&server);
        client.send("stop");
        server.wait(Some(SOON)).unwrap();
    });
}

/// A shutdown handler that reads: it reports its beginning, and what became of `recv`.
fn reading() -> (Hooks, Events<Option<Status>>) {
    let (log, results) = events();
    let hooks = Hooks::new(echo).on_shutdown(move |_, socket| {
        log.add(None);
        let result = status(socket.recv(&mut [0; 8]));
        log.add(Some(result));
        Ok(result == Status::Ok)
    });
    (hooks, results)
}

/// P7: A silent peer holds the port for 5 s at most, and holds up nothing else meanwhile.
#[test]
fn a_silent_peer_does_not_hold_it() {
    isolated(|| {
        let (hooks, results) = reading();
        let server = start(non_blocking(1).shutdown_port("0"), hooks);
        let clock = Stopwatch::start();
        let mut silent = knock(&server);
        Client::connect(&server).echo("the server goes on");
        assert_eq!(results.take(2), [None, Some(Status::Timeout)]);
        clock.kept(ms(5000));
        silent.expect_gone();
        knock(&server).send("x");
        assert_eq!(results.take(2), [None, Some(Status::Ok)]);
        server.wait(Some(SOON)).unwrap();
    });
}

/// A10.5: Where others wait a silent peer has 500 ms, and the one that has sent something is next.
#[test]
fn silent_peers_give_way() {
    isolated(|| {
        for config in both_modes() {
            let (hooks, results) = reading();
            let server = start(config.shutdown_port("0"), hooks);
            let clock = Stopwatch::start();
            let _silent: Vec<_> = (0..20).map(|_| knock(&server)).collect();
            assert_eq!(results.next(), None);
            let _sender = knock(&server).saying("x");
            assert_eq!(results.next(), Some(Status::Timeout));
            clock.kept(ms(500));
            assert_eq!(results.take(2), [None, Some(Status::Ok)]);
            server.wait(Some(SOON)).unwrap();
        }
    });
}

/// A21.1: The id of a socket of the shutdown port is no connection's.
#[test]
fn its_sockets_have_ids_of_their_own() {
    isolated(|| {
        for config in both_modes() {
            let (log, results) = events();
            let hooks = Hooks::new(echo).on_shutdown(move |server, socket| {
                let id = socket.id();
                log.add((id, status(server.abort(id)), status(server.close(id))));
                Ok(false)
            });
            let server = start(config.shutdown_port("0"), hooks);
            let mut client = Client::connect(&server);
            client.echo("hello");
            let ids = [(); 2].map(|()| {
                let mut peer = knock(&server);
                let (id, aborted, closed) = results.next();
                peer.expect_gone();
                assert_eq!((aborted, closed), (Status::Closed, Status::Closed));
                id
            });
            assert_ne!(ids[0], ids[1]);
            client.echo("still here");
        }
    });
}

/// A10.5: A stop does not wait for a silent peer of the shutdown port.
#[test]
fn a_stop_cuts_a_silent_peer() {
    isolated(|| {
        let (log, called) = events();
        let hooks = Hooks::new(echo).on_shutdown(move |_, socket| {
            log.add(());
            socket.recv(&mut [0; 8]).map(|_| false)
        });
        let config = blocking(1).shutdown_port("0").drain_timeout(ms(200));
        let server = start(config, hooks);
        let _silent = knock(&server);
        called.next();
        let clock = Stopwatch::start();
        server.stop().unwrap();
        assert!(clock.elapsed() < ms(200) + late(), "{:?}", clock.elapsed());
    });
}

/// P8: Connections of the shutdown port are no connections of the server.
#[test]
fn it_is_not_in_the_accounts() {
    isolated(|| {
        let (log, calls) = events();
        let closed = log.clone();
        let hooks = Hooks::new(echo)
            .on_open(move |_, _| {
                log.add("open");
                Ok(())
            })
            .on_close(move |_, _, _| closed.add("close"))
            .on_shutdown(|_, socket| {
                socket.send(b"no")?;
                Ok(false)
            });
        let server = start(non_blocking(1).shutdown_port("0"), hooks);
        for _ in 0..3 {
            knock(&server).expect_last("no");
        }
        let stats = server.stats();
        assert_eq!((stats.accepted, stats.closed_total()), (0, 0));
        server.stop().unwrap();
        assert!(calls.drain().is_empty());
    });
}

/// A10.5: However many silent peers come after it, the one that has sent something is heard.
#[test]
fn silent_peers_push_nobody_out() {
    isolated(|| {
        let hooks = Hooks::new(echo).on_shutdown(|_, socket| Ok(text(socket)? == "stop"));
        let server = start(blocking(1).shutdown_port("0"), hooks);
        let _served = knock(&server);
        let _operator = knock(&server).saying("stop");
        // They may come too late.
        let knock = || std::net::TcpStream::connect(("127.0.0.1", server.shutdown_port())).ok();
        let _silent: Vec<_> = (0..100).map(|_| knock()).collect();
        server.wait(Some(SOON)).unwrap();
    });
}

/// A5.1: Late input does not destroy the reply of the shutdown port, whether the server stops or
/// goes on.
#[test]
fn late_input_keeps_its_reply() {
    isolated(|| {
        let reply = 500_000;
        for stops in [false, true] {
            let (log, replied) = events();
            let hooks = Hooks::new(echo).on_shutdown(move |_, socket| {
                text(socket)?;
                socket.send(&pattern(reply))?;
                log.add(());
                Ok(stops)
            });
            let config = blocking(1).shutdown_port("0").linger_timeout(SOON).drain_timeout(SOON);
            let server = start(config, hooks);
            let mut client = knock(&server).saying("report");
            replied.next();
            for _ in 0..5 {
                client.send("late");
                let_pass(ms(50));
            }
            assert!(client.rest() == pattern(reply));
            drop(client);
            if stops {
                server.wait(Some(SOON)).unwrap();
            }
        }
    });
}

/// A10.5: A peer that does not take its reply holds a stop to its deadline, and no longer.
#[test]
fn a_stop_cuts_its_farewell() {
    isolated(|| {
        let (log, replied) = events();
        let hooks = Hooks::new(echo).on_shutdown(move |_, socket| {
            socket.send(&pattern(500_000))?;
            log.add(());
            Ok(false)
        });
        let config = non_blocking(1).shutdown_port("0").linger_timeout(SOON);
        let server = start(config, hooks);
        let _deaf = knock(&server);
        replied.next();
        let clock = Stopwatch::start();
        cut(&server, ms(100));
        assert!(clock.elapsed() < ms(100) + late(), "{:?}", clock.elapsed());
    });
}

/// A10.5: A peer that was answered and stays does not hold the port, whatever others do.
#[test]
fn an_answered_peer_does_not_hold_it() {
    isolated(|| {
        let (log, called) = events();
        let hooks = Hooks::new(echo).on_shutdown(move |_, socket| {
            let mut byte = [0];
            socket.recv(&mut byte)?;
            log.add(());
            Ok(&byte == b"s")
        });
        let server = start(blocking(1).shutdown_port("0").linger_timeout(SOON), hooks);
        let _stays = knock(&server).saying("not all of it is read");
        called.next();
        let_pass(ms(200));
        let clock = Stopwatch::start();
        let _operator = knock(&server).saying("stop");
        called.next();
        clock.at_once();
        server.wait(Some(SOON)).unwrap();
    });
}
