//! What the library keeps of a new connection, where there is no memory for it.

use super::adopt::adopted;
use super::detach::{detached, detaching};
use super::hosted::hosted_with;
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

/// Who runs the server.
#[derive(Clone, Copy, PartialEq)]
pub enum By {
    Itself,
    /// A thread of the test.
    Host,
}

/// Starts a server, does `body`, and stops the server.
pub fn while_served<T>(by: By, config: Config, hooks: Hooks, body: impl FnOnce(&Server) -> T) -> T {
    let server = match by {
        By::Itself => start(config, hooks),
        By::Host => hosted_with(config, hooks),
    };
    let begun = Gate::new();
    std::thread::scope(|scope| {
        if by == By::Host {
            scope.spawn(|| {
                server.run_once(Some(ms(0))).unwrap();
                begun.open();
                while server.run_once(None).is_ok() {}
            });
            begun.wait();
        }
        // The threads have what they need themselves.
        eventually("the threads wait", others_sleep);
        let result = body(&server);
        server.stop().unwrap();
        result
    })
}

/// What an exception handler hears (whether there is a socket), and the log.
struct Told {
    errors: Events<(bool, Status)>,
    lines: Events<super::logger::Line>,
}

fn telling<T>(by: By, config: Config, body: impl FnOnce(&Server, &Told) -> T) -> T {
    let (log, errors) = events();
    let (logger, lines) = logging(LogLevel::Warn);
    let told = Told { errors, lines };
    let hooks = Hooks::new(echo).on_exception(move |_, socket, error| {
        log.add((socket.is_some(), error.status()));
        Ok(())
    });
    while_served(by, config.logger(logger), hooks, |server| body(server, &told))
}

/// Two silent clients come to a server with loops, and one allocation fails. Returns whether it was
/// made.
#[track_caller]
fn come_to_loops(number: usize, server: &Server, told: &Told) -> bool {
    let mut clients = Vec::new();
    let failed = fail_allocation(number, || {
        for _ in 0..2 {
            clients.push(silent(server));
            eventually("the loops are done", others_sleep);
        }
    });
    assert_eq!(clients.iter().filter(|client| has_ended(client)).count(), usize::from(failed));
    let stats = server.stats();
    if failed {
        let limited = stats.closed[CloseReason::Limit as usize];
        assert_eq!(stats.accept_errors + limited, 1, "{stats:?}");
        let status = if limited == 1 { Status::Limit } else { Status::NoMemory };
        assert_eq!(told.errors.next(), (false, status));
        let text = told.lines.next().text;
        assert!(text.contains("no memory") || text.contains("out of memory"), "{text}");
    }
    assert_eq!(stats.open, 2 - u64::from(failed));
    assert_balanced(server);
    Client::connect(server).echo("served");
    drop(clients);
    wait_idle(server);
    failed
}

/// M9.1: Each allocation that a loop makes for a new connection fails in turn: the connection is
/// refused, counted, logged and reported without a socket. The next one is served.
#[test]
fn a_loop_refuses() {
    isolated(|| {
        for (by, config, least) in [
            (By::Itself, non_blocking(2), 10),
            (By::Itself, non_blocking(2).max_per_address(9), 11),
            (By::Host, non_blocking(1), 5),
            (By::Host, non_blocking(1).max_per_address(9), 6),
        ] {
            let fails =
                |n| telling(by, config.clone(), |server, told| come_to_loops(n, server, told));
            let failed = (0..MANY).filter(|n| fails(*n)).count();
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
            telling(By::Itself, blocking(2).max_retry(1000), |server, told| {
                refusals += usize::from(queue_refuses(number, server, told));
            });
        }
        assert!(refusals > 0);
    });
}

/// One comes to a server whose two workers are busy, and one allocation fails. Returns whether the
/// connection was refused.
fn queue_refuses(number: usize, server: &Server, told: &Told) -> bool {
    let mut inside = [(); 2].map(|()| Client::connect(server));
    inside.iter_mut().for_each(|client| client.echo("inside"));
    eventually("the workers wait", others_sleep);
    let mut client = None;
    let failed = fail_allocation(number, || {
        client = Some(silent(server));
        let came = || server.stats().waiting + server.stats().accept_errors > 0;
        eventually("it has come", came);
    });
    let client = client.unwrap();
    let mut refused = false;
    if failed {
        // To wait for the next client takes memory too: then accepting backs off.
        let (socket, status) = told.errors.next();
        refused = status == Status::NoMemory;
        assert!(!socket && (refused || status == Status::Accept), "{status:?}");
        eventually("it waits or is refused", || match refused {
            true => has_ended(&client),
            false => server.stats().waiting == 1,
        });
        assert!(told.lines.next().text.contains("memory"));
        assert!(server.stats().accept_errors > 0);
    } else {
        eventually("it waits", || server.stats().waiting == 1);
    }
    inside.iter_mut().for_each(|client| client.echo("still served"));
    drop(client);
    drop(inside);
    Client::connect(server).echo("served");
    wait_idle(server);
    refused
}

/// How many allocations fail, in a server of each kind.
#[track_caller]
fn each_fails(fails: impl Fn(By, usize) -> bool) {
    for by in [By::Itself, By::Host] {
        let failed = (0..MANY).filter(|number| fails(by, *number)).count();
        assert!((4..MANY).contains(&failed), "{failed} allocations failed");
    }
}

/// M9.2: A connection that the program has brought is closed; the exception handler hears of it with
/// its socket.
#[test]
fn a_loop_has_no_place_for_an_adopted_one() {
    let adopt = |number, server: &Server, told: &Told| {
        let (ours, peer) = UnixStream::pair().unwrap();
        let mut ours = Some(ours);
        let failed = fail_allocation(number, || {
            adopted(server, ours.take().unwrap());
            eventually("the loop is done", others_sleep);
        });
        let stats = server.stats();
        assert_eq!((stats.adopted, stats.open), (1, u64::from(!failed)));
        assert_eq!(stats.closed[CloseReason::Error as usize], u64::from(failed));
        if failed {
            assert_eq!(told.errors.next(), (true, Status::NoMemory));
            assert_eq!(stats.accept_errors, 1);
        }
        drop(peer);
        wait_idle(server);
        failed
    };
    isolated(|| {
        each_fails(|by, number| {
            telling(by, non_blocking(1), |server, told| adopt(number, server, told))
        });
    });
}

/// M9.2: An attached connection, whose `on_open` has come, has its `on_close`.
#[test]
fn a_loop_has_no_place_for_an_attached_one() {
    isolated(|| {
        let (former, owned) = detaching(non_blocking(1));
        each_fails(|by, number| {
            let (log, calls) = events();
            let at_close = log.clone();
            let hooks = Hooks::new(echo)
                .on_exception(move |_, socket, error| {
                    Ok(log.add((socket.is_some(), error.status())))
                })
                .on_close(move |_, _, reason| {
                    at_close.add((reason == CloseReason::Error, Status::Ok));
                });
            while_served(by, non_blocking(1), hooks, |server| {
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
                wait_idle(server);
                failed
            })
        });
    });
}
