//! What the library keeps of a new connection, where there is no memory for it.

use super::adopt::adopted;
use super::detach::{detached, detaching};
use super::logger::logging;
use crate::api::{CloseReason, Config, Hooks, LogLevel, Server, Status};
use crate::support::*;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;

/// More than the library makes for a connection.
const MANY: usize = 32;

/// A client that says nothing, so that nothing follows the accepting.
fn silent(server: &Server) -> TcpStream {
    let client = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
    client.set_nonblocking(true).unwrap();
    client
}

/// Whether the server has ended it.
fn has_ended(client: &TcpStream) -> bool {
    match client.peek(&mut [0]) {
        Ok(count) => count == 0,
        Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
    }
}

/// A server, what its exception handler hears (whether there is a socket), and its log.
fn telling(config: Config) -> (Server, Events<(bool, Status)>, Events<super::logger::Line>) {
    let (log, errors) = events();
    let (logger, lines) = logging(LogLevel::Warn);
    let hooks = Hooks::new(echo).on_exception(move |_, socket, error| {
        log.add((socket.is_some(), error.status()));
        Ok(())
    });
    let server = start(config.logger(logger), hooks);
    // The threads have what they need themselves.
    eventually("the threads wait", others_sleep);
    (server, errors, lines)
}

/// Two silent clients come to two loops, and one allocation fails. Returns whether it was made.
#[track_caller]
fn come_to_loops(number: usize, config: Config) -> bool {
    let (server, errors, lines) = telling(config);
    let mut clients = Vec::new();
    let failed = fail_allocation(number, || {
        for _ in 0..2 {
            clients.push(silent(&server));
            eventually("the loops are done", others_sleep);
        }
    });
    assert_eq!(clients.iter().filter(|client| has_ended(client)).count(), usize::from(failed));
    let stats = server.stats();
    if failed {
        let limited = stats.closed[CloseReason::Limit as usize];
        assert_eq!(stats.accept_errors + limited, 1, "{stats:?}");
        let status = if limited == 1 { Status::Limit } else { Status::NoMemory };
        assert_eq!(errors.next(), (false, status));
        let text = lines.next().text;
        assert!(text.contains("no memory") || text.contains("out of memory"), "{text}");
    }
    assert_eq!(stats.open, 2 - u64::from(failed));
    assert_balanced(&server);
    Client::connect(&server).echo("served");
    drop(clients);
    wait_idle(&server);
    server.stop().unwrap();
    failed
}

/// M9.1: Each allocation that a loop makes for a new connection fails in turn: the connection is
/// refused, counted, logged and reported without a socket. The next one is served.
#[test]
fn a_loop_refuses() {
    isolated(|| {
        for (config, least) in [(non_blocking(2), 10), (non_blocking(2).max_per_address(9), 11)] {
            let failed = (0..MANY).filter(|n| come_to_loops(*n, config.clone())).count();
            assert!((least..MANY).contains(&failed), "{failed} allocations failed");
        }
    });
}

/// M9.1: Where there is no memory for a connection that must wait for a worker, it is refused in the
/// same way. Those that are served go on.
#[test]
fn a_queue_refuses() {
    isolated(|| {
        let mut refusals = 0;
        // Which allocation is that of the queue depends on what the thread that accepts waits for.
        for number in (0..4).cycle().take(200) {
            if number == 0 && refusals > 0 {
                break;
            }
            let (server, errors, lines) = telling(blocking(2).max_retry(1000));
            let mut inside = [(); 2].map(|()| Client::connect(&server));
            inside.iter_mut().for_each(|client| client.echo("inside"));
            eventually("the workers wait", others_sleep);
            let mut client = None;
            let failed = fail_allocation(number, || {
                client = Some(silent(&server));
                let came = || server.stats().waiting + server.stats().accept_errors > 0;
                eventually("it has come", came);
            });
            let client = client.unwrap();
            if failed {
                // To wait for the next client takes memory too: then accepting backs off.
                let (socket, status) = errors.next();
                let refused = status == Status::NoMemory;
                assert!(!socket && (refused || status == Status::Accept), "{status:?}");
                refusals += usize::from(refused);
                eventually("it waits or is refused", || match refused {
                    true => has_ended(&client),
                    false => server.stats().waiting == 1,
                });
                assert!(lines.next().text.contains("memory"));
                assert!(server.stats().accept_errors > 0);
            } else {
                eventually("it waits", || server.stats().waiting == 1);
            }
            inside.iter_mut().for_each(|client| client.echo("still served"));
            drop(client);
            drop(inside);
            Client::connect(&server).echo("served");
            wait_idle(&server);
            server.stop().unwrap();
        }
        assert!(refusals > 0);
    });
}

/// M9.2: A connection that the program has brought is closed; the exception handler hears of it with
/// its socket.
#[test]
fn a_loop_has_no_place_for_an_adopted_one() {
    isolated(|| {
        let adopt = |number| {
            let (server, errors, _lines) = telling(non_blocking(1));
            let (ours, peer) = UnixStream::pair().unwrap();
            let mut ours = Some(ours);
            let failed = fail_allocation(number, || {
                adopted(&server, ours.take().unwrap());
                eventually("the loop is done", others_sleep);
            });
            let stats = server.stats();
            assert_eq!((stats.adopted, stats.open), (1, u64::from(!failed)));
            assert_eq!(stats.closed[CloseReason::Error as usize], u64::from(failed));
            if failed {
                assert_eq!(errors.next(), (true, Status::NoMemory));
                assert_eq!(stats.accept_errors, 1);
            }
            drop(peer);
            wait_idle(&server);
            server.stop().unwrap();
            failed
        };
        let failed = (0..MANY).filter(|number| adopt(*number)).count();
        assert!((4..MANY).contains(&failed), "{failed} allocations failed");
    });
}

/// M9.2: An attached connection, whose `on_open` has come, has its `on_close`.
#[test]
fn a_loop_has_no_place_for_an_attached_one() {
    isolated(|| {
        let (former, owned) = detaching(non_blocking(1));
        let attach = |number| {
            let (log, calls) = events();
            let at_close = log.clone();
            let hooks = Hooks::new(echo)
                .on_exception(move |_, socket, error| {
                    Ok(log.add((socket.is_some(), error.status())))
                })
                .on_close(move |_, _, reason| {
                    at_close.add((reason == CloseReason::Error, Status::Ok));
                });
            let server = start(non_blocking(1), hooks);
            eventually("the threads wait", others_sleep);
            let (mut client, socket) = detached(&former, &owned);
            eventually("the former loop is done", others_sleep);
            let mut socket = Some(socket);
            let failed = fail_allocation(number, || {
                server.attach(socket.take().unwrap()).unwrap();
                eventually("the loop is done", others_sleep);
            });
            if failed {
                assert_eq!(calls.take(2), [(true, Status::NoMemory), (true, Status::Ok)]);
                assert_eq!(server.stats().accept_errors, 1);
                client.expect_gone();
            } else {
                client.echo("served");
            }
            drop(client);
            wait_idle(&server);
            server.stop().unwrap();
            failed
        };
        let failed = (0..MANY).filter(|number| attach(*number)).count();
        assert!((4..MANY).contains(&failed), "{failed} allocations failed");
    });
}
