//! Limits, and what happens when the system is out of something.

use crate::api::{Error, Hooks, Server, Socket, Status};
use crate::support::*;
use socket2::{Domain, Type};
use std::time::Instant;

/// Echoes one word, and closes.
fn served_once(_: &Server, socket: &mut Socket<'_>) -> Result<(), Error> {
    let word = text(socket)?;
    socket.send(word.as_bytes())?;
    socket.close();
    Ok(())
}

/// M1: At `max_connections` accepting pauses; clients wait in the backlog and are served later.
#[test]
fn max_connections_pauses_accepting() {
    isolated(|| {
        for config in both_modes() {
            let server = start(config.max_connections(2), Hooks::new(echo));
            let mut two: Vec<_> = (0..2).map(|_| Client::connect(&server)).collect();
            for client in &mut two {
                client.echo("inside");
            }
            let mut third = Client::connect(&server);
            let mut fourth = Client::connect(&server);
            third.send("third");
            fourth.send("fourth");
            at_rest(|| {
                third.expect_silence();
                fourth.expect_silence();
            });
            assert_eq!((server.stats().accepted, server.stats().open), (2, 2));
            two[0].echo("still served");
            two.remove(0);
            third.expect("third");
            assert_eq!(server.stats().accepted, 3);
            drop(third);
            fourth.expect("fourth");
            drop((two, fourth));
            wait_idle(&server);
            assert_eq!((server.stats().refused, server.stats().accepted), (0, 4));
            for _ in 0..20 {
                Client::connect(&server).echo("again");
            }
        }
    });
}

/// M2: Connections that wait count as well.
#[test]
fn max_connections_counts_waiting_ones() {
    isolated(|| {
        let gate = Gate::new();
        let server = start(blocking(2).max_connections(3), answer_behind(&gate));
        let mut clients: Vec<_> = (0..5).map(|_| Client::connect(&server)).collect();
        gate.reached_by(2);
        eventually("one waits", || server.stats().waiting == 1);
        steadily("no more are accepted", || server.stats().accepted == 3);
        gate.open();
        for client in &mut clients {
            client.expect_last("answer");
        }
        assert_eq!(server.stats().accepted, 5);
    });
}

/// M1: A stop works while accepting pauses.
#[test]
fn stop_while_accepting_pauses() {
    isolated(|| {
        for config in both_modes() {
            let config = config.max_connections(1).drain_timeout(ms(100));
            let server = start(config, Hooks::new(echo));
            let mut inside = Client::connect(&server);
            inside.echo("inside");
            let mut outside = Client::connect(&server);
            let clock = Stopwatch::start();
            server.stop().unwrap();
            clock.at_once();
            inside.expect_gone();
            outside.expect_gone();
            assert_settled(&server);
        }
    });
}

/// M3: The default of `max_connections` comes from RLIMIT_NOFILE, less a reserve.
#[test]
fn max_connections_from_the_descriptor_limit() {
    isolated(|| {
        for config in both_modes() {
            set_descriptor_limit(256);
            let server = start(config.max_retry(1000), Hooks::new(served_once));
            // The server has looked; the clients of this process need room too.
            set_descriptor_limit(2000);
            let clients: Vec<_> = (0..300).map(|_| Client::connect(&server)).collect();
            let held = || server.stats().open + server.stats().waiting;
            eventually("many are open", || held() > 100);
            steadily("a reserve is left", || held() < 250);
            drop(clients);
            wait_idle(&server);
        }
    });
}

/// O6: The listener has the backlog of the config.
#[test]
fn backlog() {
    isolated(|| {
        for config in both_modes() {
            let server = start(config.backlog(7), Hooks::new(echo));
            let listeners = listening_sockets();
            assert_eq!(listeners.len(), 1);
            // Of a listening socket the kernel reports its backlog here (tcp_diag does the same).
            assert_eq!(tcp_info(listeners[0]).tcpi_sacked, 7);
            Client::connect(&server).echo("hello");
        }
    });
}

/// M4: Out of descriptors, accepting backs off: it does not spin, reports once per second without a
/// socket, serves open connections, and recovers by itself as soon as a descriptor is free.
#[test]
fn out_of_descriptors() {
    isolated(|| {
        for config in both_modes() {
            without_descriptors(config.max_retry(1000).linger_timeout(ms(20)));
        }
    });
}

fn without_descriptors(config: crate::api::Config) {
    let (log, errors) = events();
    let hooks = Hooks::new(|_, socket| loop {
        let word = text(socket)?;
        socket.send(word.as_bytes())?;
        if word != "inside" {
            socket.close();
            return Ok(());
        }
    })
    .on_exception(move |_, socket, error| {
        log.add((socket.is_some(), error.status(), error.os_code(), Instant::now()));
        Ok(())
    });
    let limits = descriptor_limit();
    let server = start(config.max_connections(10_000), hooks);
    let mut inside = Client::connect(&server);
    inside.echo("inside");
    // The clients' descriptors are made first; then none is left. A thread that waits in accept(2)
    // already has a descriptor for what comes: there are more clients than threads.
    let unconnected: Vec<_> =
        (0..12).map(|_| socket2::Socket::new(Domain::IPV4, Type::STREAM, None).unwrap()).collect();
    let fillers = fill_descriptors(0);
    let began = Instant::now();
    let mut outside: Vec<_> =
        unconnected.into_iter().map(|socket| Client::finish(socket, &server)).collect();
    let (socket, status, os_code, _) = errors.next();
    assert_eq!((socket, status, os_code), (false, Status::Accept, libc::EMFILE));
    // Over two seconds: hardly any processor time, few reports, and service as usual.
    let (clock, used) = (Stopwatch::start(), processor_time());
    while clock.elapsed() < ms(2200) {
        inside.echo("inside");
        let_pass(ms(50));
    }
    let spent = processor_time() - used;
    assert!(spent < clock.elapsed() / 4, "{spent:?} in {:?}", clock.elapsed());
    let reports = errors.drain();
    assert!(!reports.is_empty(), "the trouble goes on");
    // A busy machine may call the handler late, never early.
    for ((.., at), seconds) in reports.into_iter().zip(1..) {
        assert!(at - began >= ms(950) * seconds, "report {seconds} after {:?}", at - began);
    }
    assert!(server.stats().accept_errors >= 2);
    // It recovers by itself, as soon as there is one descriptor.
    let clock = Stopwatch::start();
    drop(inside);
    for client in &mut outside {
        client.send("waiting");
    }
    for client in &mut outside {
        client.expect("waiting");
    }
    // To look at the clock takes a descriptor: how long threads waited stands in /proc.
    drop((outside, fillers));
    clock.at_once();
    set_descriptor_limit(limits.0);
    wait_idle(&server);
}

/// M5: Accepting goes on after ECONNABORTED, EPROTO and EINTR of accept(2) as if nothing had
/// happened.
#[test]
fn harmless_accept_errors() {
    isolated(|| {
        for config in both_modes() {
            let (log, errors) = events();
            let hooks = Hooks::new(echo).on_exception(move |_, _, error| {
                log.add(error.status());
                Ok(())
            });
            let server = start(config, hooks);
            faults::fail_accept(&[libc::ECONNABORTED, libc::EPROTO, libc::EINTR].repeat(5));
            while faults::accept_failures_left() > 0 {
                Client::connect(&server).expect_gone();
            }
            let clock = Stopwatch::start();
            Client::connect(&server).echo("still served");
            clock.at_once();
            assert!(errors.drain().is_empty());
            assert_eq!((server.stats().accepted, server.stats().accept_errors), (1, 0));
        }
    });
}

/// M4, A14.1: ENFILE, ENOMEM and ENOBUFS are treated as EMFILE is, and so is every error that is
/// not one connection's own: accepting reports it, waits, and goes on.
#[test]
fn exhaustion_in_accept() {
    isolated(|| {
        for config in both_modes() {
            for error in [libc::ENFILE, libc::ENOMEM, libc::ENOBUFS, libc::EPERM, libc::ENOSYS] {
                let (log, errors) = events();
                let hooks = Hooks::new(echo).on_exception(move |_, socket, error| {
                    log.add((socket.is_some(), error.status(), error.os_code()));
                    Ok(())
                });
                let server = start(config.clone(), hooks);
                faults::fail_accept(&[error; 4]);
                let clock = Stopwatch::start();
                while faults::accept_failures_left() > 0 {
                    Client::connect(&server).expect_gone();
                }
                Client::connect(&server).echo("still served");
                clock.at_once();
                assert_eq!(errors.next(), (false, Status::Accept, error));
                eventually("all are counted", || server.stats().accept_errors == 4);
            }
        }
    });
}

/// M5: Connections that are gone before they are accepted harm nothing.
#[test]
fn connections_that_are_gone_at_once() {
    isolated(|| {
        for config in both_modes() {
            let server = start(config, Hooks::new(echo));
            for _ in 0..200 {
                Client::connect(&server).reset();
            }
            Client::connect(&server).echo("still served");
            eventually("all have come", || server.stats().accepted == 201);
            wait_idle(&server);
            assert_eq!(server.stats().accept_errors, 0);
        }
    });
}

/// M6: A client that never sends holds nothing but its own connection.
#[test]
fn silent_clients() {
    isolated(|| {
        let server = start(non_blocking(1), Hooks::new(echo));
        let silent: Vec<_> = (0..500).map(|_| Client::connect(&server)).collect();
        let mut client = Client::connect(&server);
        for i in 0..100 {
            client.echo(&format!("{i}"));
        }
        eventually("all are open", || server.stats().open == 501);
        at_rest(|| let_pass(NEVER));
        drop((silent, client));
        wait_idle(&server);
    });
}

/// M7: Several thousand connections are held, served, and stopped in time.
#[test]
fn thousands_of_connections() {
    isolated(|| {
        set_descriptor_limit(descriptor_limit().1);
        // Both ends of each are in this process.
        let count = 4000.min((descriptor_limit().0 as usize - 200) / 2);
        let server = start(non_blocking(2), Hooks::new(echo));
        let clients: Vec<_> = (0..count).map(|_| Client::connect(&server)).collect();
        let mut clients: Vec<_> = clients.into_iter().map(Client::settled).collect();
        eventually("all are open", || server.stats().open == count as u64);
        for client in clients.iter_mut().step_by(100) {
            client.echo("one of many");
        }
        eventually("all are listed", || server.connections().unwrap().len() == count);
        server.stop_within(SOON).unwrap();
        assert_eq!(server.stats().cut, 0);
        assert_settled(&server);
    });
}

/// M8: Many rounds of connect, serve and close leave memory where it was.
#[test]
fn many_rounds_leave_nothing_behind() {
    isolated(|| {
        for config in both_modes() {
            let server = start(config, Hooks::new(served_once));
            let rounds = |count| {
                for _ in 0..count {
                    let mut client = Client::connect(&server).saying("x");
                    client.expect_last("x");
                }
            };
            // A round that leaves something behind does so each time, an allocator grows once.
            let count = if TLS { 500 } else { 2000 };
            let grown: Vec<_> = (0..4)
                .map(|_| {
                    let before = resident_kib();
                    rounds(count);
                    resident_kib().saturating_sub(before)
                })
                .collect();
            assert!(grown[1..].iter().any(|kib| *kib < count / 8), "{grown:?} KiB more");
            wait_idle(&server);
        }
    });
}
