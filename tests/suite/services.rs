//! Several services of one server.

use crate::api::{Hooks, Server, State, Status};
use crate::support::*;
use std::net::TcpListener;

/// The port of a service that listens on one address of the loopback.
fn port_of(server: &Server, service: usize) -> u16 {
    let address = server.service_address(service);
    let port = address.strip_prefix("127.0.0.1:").and_then(|port| port.parse().ok());
    port.unwrap_or_else(|| panic!("no port: {address:?}"))
}

/// A client of a service. One that was added has no TLS, in no run.
fn client_of(server: &Server, service: usize) -> Client {
    match service {
        0 => Client::connect(server),
        _ => Client::plain(("127.0.0.1", port_of(server, service))),
    }
}

/// V1, V2, V3: One handler serves the connections of all services and learns which one it was.
#[test]
fn each_service_is_served() {
    isolated(|| {
        for config in both_modes() {
            let (log, seen) = events();
            let (opened, closed, told) = (log.clone(), log.clone(), log);
            let hooks = Hooks::new(|_, socket| {
                text(socket)?;
                let service = socket.service().expect("a service");
                socket.send(format!("service {service}").as_bytes())?;
                socket.close();
                Ok(())
            })
            .on_open(move |_, socket| Ok(opened.add(socket.service())))
            .on_close(move |_, socket, _| closed.add(socket.service()))
            .on_shutdown(move |_, socket| {
                told.add(socket.service());
                Ok(false)
            });
            let server = unstarted(config.shutdown_port("0"), hooks);
            assert_eq!(server.add_service("127.0.0.1:0").unwrap(), 1);
            assert_eq!(server.add_service("127.0.0.1:0").unwrap(), 2);
            assert_eq!(server.service_address(1), "");
            server.start_background().unwrap();
            assert_eq!(server.service_address(0), server.address());
            assert_eq!(
                (port_of(&server, 0), server.service_address(3)),
                (server.port(), "".into())
            );
            for service in [0, 1, 2, 1, 0] {
                let mut client = client_of(&server, service).saying("where am I?");
                client.expect_last(&format!("service {service}"));
                drop(client);
                assert_eq!(seen.take(2), [Some(service); 2]);
            }
            Client::plain(("127.0.0.1", server.shutdown_port())).expect_gone();
            assert_eq!(seen.next(), None);
            let (stats, report) = (server.stats(), server.report());
            assert_eq!((stats.accepted, stats.port), (5, server.port()));
            for service in 0..3 {
                assert!(report.contains(&server.service_address(service)), "{report}");
            }
            server.stop().unwrap();
            assert_settled(&server);
        }
    });
}

/// V2: A detached socket keeps the number, and an attach to its own server does; for another server
/// there is none.
#[test]
fn the_number_goes_along_with_a_detach() {
    isolated(|| {
        let (log, owned) = events();
        let (said, numbers) = events();
        let hooks = Hooks::new(move |server: &Server, socket| {
            if text(socket)? == "detach" {
                log.add(server.detach(socket)?);
                return Ok(());
            }
            Ok(said.add(socket.service()))
        });
        let server = unstarted(non_blocking(1), hooks);
        let service = server.add_service("127.0.0.1:0").unwrap();
        server.start_background().unwrap();
        let mut client = client_of(&server, service).saying("detach");
        let mut socket = owned.next();
        assert_eq!(socket.socket().service(), Some(service));
        server.attach(socket).unwrap();
        client.send("here");
        assert_eq!(numbers.next(), Some(service));
        client.send("detach");
        let (said, others) = events();
        let other = Hooks::new(move |_, socket| {
            text(socket)?;
            Ok(said.add(socket.service()))
        });
        let other = start(non_blocking(1), other);
        other.attach(owned.next()).unwrap();
        client.send("there");
        assert_eq!(others.next(), None);
    });
}

/// V6, A18.1: What is wrong with a service is an error of the call that adds it, which then adds
/// nothing.
#[test]
fn a_bad_service_is_not_added() {
    isolated(|| {
        let server = unstarted(blocking(1), Hooks::new(echo));
        for bad in ["65536", "::1:80", "host:", "+80", "127.0.0.1:x y"] {
            assert_eq!(status(server.add_service(bad)), Status::Invalid, "{bad}");
        }
        assert_eq!(server.add_service("127.0.0.1:0").unwrap(), 1);
    });
}

/// V6: The start ends the adding, unless it fails.
#[test]
fn no_service_is_added_after_the_start() {
    isolated(|| {
        for config in both_modes() {
            let taken = TcpListener::bind("127.0.0.1:0").unwrap();
            let server = unstarted(config, Hooks::new(echo));
            server.add_service(&taken.local_addr().unwrap().to_string()).unwrap();
            assert_eq!(status(server.start_background()), Status::Listen);
            drop(taken);
            assert_eq!(server.add_service("127.0.0.1:0").unwrap(), 2);
            server.start_background().unwrap();
            let error = server.add_service("127.0.0.1:0").expect_err("added");
            assert_eq!(error.status(), Status::State);
            assert!(error.message().contains("running"), "{}", error.message());
            for service in 0..3 {
                client_of(&server, service).echo("hello");
            }
            server.stop().unwrap();
            assert_eq!(status(server.add_service("0")), Status::State);
        }
    });
}

/// V7, L6: Where one of the services cannot listen, none does: the start fails and leaves nothing
/// behind, and may be tried again.
#[test]
fn one_that_cannot_listen_fails_the_start() {
    isolated(|| {
        for config in both_modes() {
            let taken = TcpListener::bind("127.0.0.1:0").unwrap();
            let service = taken.local_addr().unwrap().to_string();
            let server = unstarted(config.shutdown_port("0"), Hooks::new(echo));
            server.add_service(&service).unwrap();
            server.add_service("127.0.0.1:0").unwrap();
            let before = descriptors();
            let error = server.start_background().expect_err("it listens");
            assert_eq!((error.status(), error.os_code()), (Status::Listen, libc::EADDRINUSE));
            assert!(error.message().contains(&service), "{}", error.message());
            assert_eq!((server.state(), descriptors()), (State::New, before));
            assert_eq!((server.port(), server.service_address(2)), (0, "".into()));
            drop(taken);
            server.start_background().unwrap();
            client_of(&server, 2).echo("it listens");
        }
    });
}

/// V1, A8.4: Accepting takes turns: the clients of one service do not keep those of another
/// waiting.
#[test]
fn services_take_turns() {
    isolated(|| {
        for config in [blocking(1), non_blocking(1)] {
            let non_blocking = config.non_blocking;
            let (log, seen) = events();
            let gate = Gate::new();
            let first = gate.clone();
            let hooks = Hooks::new(|_, socket| Ok(socket.close())).on_open(move |_, socket| {
                first.wait();
                Ok(log.add(socket.service().unwrap()))
            });
            let server = unstarted(config, hooks);
            for _ in 0..3 {
                server.add_service("127.0.0.1:0").unwrap();
            }
            server.start_background().unwrap();
            // One client holds the thread, so that the others are in the backlog together.
            let mut clients = vec![client_of(&server, 1)];
            gate.reached_by(1);
            let services = [1; 200].into_iter().chain([2, 3]);
            clients.extend(services.map(|service| client_of(&server, service)));
            gate.open();
            for client in &mut clients {
                client.send("x");
            }
            let order = seen.take(clients.len());
            let place = |service| order.iter().position(|s| *s == service).unwrap();
            // A loop accepts 64 before it looks for new clients.
            let most = if non_blocking { 1 + 64 + 64 } else { 4 };
            assert!(place(2) <= most && place(3) <= most, "{order:?}");
        }
    });
}

/// V1: All services of a server end with a stop, and share its limit of connections.
#[test]
fn limits_are_shared() {
    isolated(|| {
        for config in both_modes() {
            let server = unstarted(config.max_connections(2), Hooks::new(echo));
            server.add_service("127.0.0.1:0").unwrap();
            server.start_background().unwrap();
            let [mut first, mut second] = [0, 1].map(|service| client_of(&server, service));
            first.echo("one");
            second.echo("two");
            let mut third = client_of(&server, 1).saying("three");
            third.expect_silence();
            drop(first);
            third.expect("three");
            let ports = [0, 1].map(|service| port_of(&server, service));
            server.stop().unwrap();
            assert!(ports.iter().all(|port| refused(("127.0.0.1", *port))));
        }
    });
}

/// V8: Servers that all have `reuse_port` share a port, and the kernel spreads the clients.
#[test]
fn servers_on_one_port() {
    isolated(|| {
        for configs in
            [both_modes(), [blocking(1), blocking(1)], [non_blocking(1), non_blocking(1)]]
        {
            let configs = configs.map(|config| config.reuse_port(true));
            let first = start(configs[0].clone(), Hooks::new(echo));
            let service = first.address();
            let second = server_at(&service, configs[1].clone(), Hooks::new(echo));
            second.start_background().unwrap();
            assert_eq!(first.port(), second.port());
            for _ in 0..100 {
                Client::connect(&first).echo("hello");
            }
            for server in [&first, &second] {
                wait_idle(server);
            }
            let [one, two] = [&first, &second].map(|server| server.stats().accepted);
            assert!(one + two == 100 && one > 10 && two > 10, "{one} and {two}");
            first.stop().unwrap();
            for _ in 0..10 {
                Client::connect(&second).echo("hello");
            }
        }
    });
}

/// V8, L6: A port is shared only if both sides say so, and the shutdown port never is.
#[test]
fn a_port_is_not_shared_unasked() {
    isolated(|| {
        for config in both_modes() {
            for (one, two) in [(false, false), (true, false), (false, true)] {
                let first = start(config.clone().reuse_port(one), Hooks::new(echo));
                let config = config.clone().reuse_port(two);
                let second = server_at(&first.address(), config, Hooks::new(echo));
                let error = second.start_background().expect_err("it listens");
                assert_eq!((error.status(), error.os_code()), (Status::Listen, libc::EADDRINUSE));
            }
            let config = config.reuse_port(true).shutdown_port("0");
            let first = start(config.clone(), Hooks::new(echo));
            let config = config.shutdown_port(first.shutdown_port().to_string());
            let second = unstarted(config, Hooks::new(echo));
            assert_eq!(status(second.start_background()), Status::Listen);
        }
    });
}
