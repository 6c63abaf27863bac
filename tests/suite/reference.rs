//! Whole scenarios, as a first program has them.

use crate::api::{Config, Error, Hooks, Server, Socket, Status};
use crate::support::*;
use std::net::TcpListener;
use std::sync::Mutex;

/// A handler of blocking mode: at most 255 bytes, the library closes the socket.
fn echo_once(_: &Server, socket: &mut Socket<'_>) -> Result<(), Error> {
    let mut buffer = [0; 255];
    let n = socket.recv(&mut buffer)?;
    socket.send(&buffer[..n])
}

/// A handler of non-blocking mode: it closes the socket itself.
fn echo_until_end(_: &Server, socket: &mut Socket<'_>) -> Result<(), Error> {
    let mut buffer = [0; 255];
    match socket.recv(&mut buffer)? {
        0 => {
            socket.close();
            Ok(())
        }
        n => socket.send(&buffer[..n]),
    }
}

/// W1: An echo server with one thread and all defaults.
#[test]
fn echo_server_with_one_thread() {
    isolated(|| {
        let server = default_server("0", Hooks::new(echo_once));
        server.start_background().unwrap();
        let mut first = Client::connect(&server);
        let mut second = Client::connect(&server);
        // The second waits until the first one is done.
        second.send("second");
        second.expect_silence();
        first.send("first");
        first.expect_last("first");
        second.expect_last("second");
        server.stop().unwrap();
        assert_settled(&server);
    });
}

/// W2: An echo server with five threads; a sixth connection waits and is served.
#[test]
fn echo_server_with_five_threads() {
    isolated(|| {
        let config = Config::new().max_thread(5);
        let server = server_at("0", config, Hooks::new(echo_once));
        server.start_background().unwrap();
        let mut five: Vec<_> = (0..5).map(|_| Client::connect(&server)).collect();
        eventually("all threads are busy", || server.stats().active_threads == 5);
        let mut sixth = Client::connect(&server).saying("six");
        eventually("the sixth waits", || server.stats().waiting == 1);
        for (i, client) in five.iter_mut().enumerate() {
            client.send(format!("{i}"));
            client.expect_last(&format!("{i}"));
        }
        sixth.expect_last("six");
        server.stop().unwrap();
        assert_eq!(server.stats().refused, 0);
        assert_settled(&server);
    });
}

/// W12: A connection that no worker serves in time is refused.
#[test]
fn a_connection_that_waits_too_long_is_refused() {
    isolated(|| {
        let config = blocking(2).max_retry(2).retry_interval(ms(50));
        let server = start(config, Hooks::new(echo_once));
        let mut two: Vec<_> = (0..2).map(|_| Client::connect(&server)).collect();
        eventually("all threads are busy", || server.stats().active_threads == 2);
        Client::connect(&server).expect_gone();
        for client in &mut two {
            client.send("still served");
            client.expect_last("still served");
        }
        server.stop().unwrap();
        assert_eq!(server.stats().refused, 1);
        assert_settled(&server);
    });
}

/// N3: A non-blocking echo server with five threads accepts all clients.
#[test]
fn non_blocking_echo_server_with_more_clients_than_threads() {
    isolated(|| {
        let config = Config::new().max_thread(5).non_blocking(true);
        let server = server_at("0", config, Hooks::new(echo_until_end));
        server.start_background().unwrap();
        let mut clients: Vec<_> = (0..40).map(|_| Client::connect(&server)).collect();
        for round in 0..3 {
            for (i, client) in clients.iter_mut().enumerate() {
                client.echo(&format!("client {i} round {round}"));
            }
        }
        assert_eq!(server.stats().open, 40);
        for client in &mut clients {
            client.finish_sending();
            client.expect_end();
        }
        wait_idle(&server);
        server.stop().unwrap();
    });
}

/// I1: A server that serves IPv4 and IPv6 at the same time.
#[test]
fn ipv4_and_ipv6_at_once() {
    isolated(|| {
        for config in both_modes() {
            let hooks = Hooks::new(echo);
            let server = server_at("0", config.use_ipv6(true), hooks);
            server.start_background().unwrap();
            let mut old = Client::to(("127.0.0.1", server.port()));
            let mut new = Client::to(("::1", server.port()));
            old.echo("over IPv4");
            new.echo("over IPv6");
            drop((old, new));
            server.stop().unwrap();
        }
    });
}

/// P2, L11: Stopping by the shutdown port, then waiting twice.
#[test]
fn stop_by_shutdown_port_then_wait_twice() {
    isolated(|| {
        for config in both_modes() {
            let server = start(config.shutdown_port("0"), Hooks::new(echo));
            Client::connect(&server).echo("hello");
            assert_eq!(status(server.wait(Some(ms(20)))), Status::Timeout);
            drop(Client::plain(("127.0.0.1", server.shutdown_port())));
            server.wait(None).unwrap();
            assert!(server.is_stopped());
            server.wait(Some(ms(1))).unwrap();
        }
    });
}

/// J4: Detaching a socket, with the status before and after.
#[test]
fn detach_with_status_before_and_after() {
    isolated(|| {
        let owned = std::sync::Arc::new(Mutex::new(None));
        let keep = owned.clone();
        let server = start(
            non_blocking(2),
            Hooks::new(move |server, socket| {
                *keep.lock().unwrap() = Some(server.detach(socket)?);
                Ok(())
            }),
        );
        let mut client = Client::connect(&server);
        eventually("it is open", || server.stats().open == 1);
        assert!(server.report().contains("- active sockets 1"), "{}", server.report());
        client.send("take me out");
        eventually("it is detached", || server.stats().detached == 1);
        eventually("nothing is left", || server.stats().open == 0);
        assert!(!server.report().contains("- active sockets 1"), "{}", server.report());
        let mut owned = owned.lock().unwrap().take().unwrap();
        assert_eq!(text(&mut owned.socket()).unwrap(), "take me out");
        owned.socket().send(b"answered by the owner").unwrap();
        drop(owned);
        client.expect_last("answered by the owner");
        server.stop().unwrap();
        assert_settled(&server);
    });
}

/// D7: Detaching is for non-blocking servers alone.
#[test]
fn detach_on_a_blocking_server_is_an_error() {
    isolated(|| {
        let (log, results) = events();
        let server = start(
            blocking(1),
            Hooks::new(move |server, socket| {
                log.add(server.detach(socket).err().map(|error| error.status()));
                socket.send(b"still here")
            }),
        );
        Client::connect(&server).expect_last("still here");
        assert_eq!(results.next(), Some(Status::NotNonBlocking));
    });
}

/// L2: A server object does nothing before it is started: its port is free.
#[test]
fn the_port_is_free_before_start() {
    isolated(|| {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let service = format!("127.0.0.1:{port}");
        let server = server_at(&service, blocking(1), Hooks::new(echo));
        drop(TcpListener::bind(&service).unwrap());
        server.start_background().unwrap();
        assert_eq!(server.port(), port);
        Client::connect(&server).echo("now it is taken");
        server.stop().unwrap();
    });
}

/// L10, L9: A server that was not started counts as stopped; once started it cannot be started
/// again.
#[test]
fn is_stopped_and_not_reusable() {
    isolated(|| {
        let server = unstarted(blocking(1), Hooks::new(echo));
        assert!(server.is_stopped());
        server.start_background().unwrap();
        assert!(!server.is_stopped());
        server.stop().unwrap();
        assert!(server.is_stopped());
        assert_eq!(status(server.start()), Status::State);
    });
}

/// X7: The socket is open in the exception handler, which can send to the client.
#[test]
fn the_exception_handler_can_answer_the_client() {
    isolated(|| {
        for config in both_modes() {
            let hooks =
                Hooks::new(|_, _| Err("out of order".into())).on_exception(|_, socket, error| {
                    let socket = socket.expect("a socket");
                    socket.send(format!("sorry: {}", error.message()).as_bytes())?;
                    socket.close();
                    Ok(())
                });
            let server = start(config, hooks);
            let mut client = Client::connect(&server).saying("hello");
            client.expect_last("sorry: out of order");
            server.stop().unwrap();
        }
    });
}
