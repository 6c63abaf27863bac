//! Deadlines between two things that happen at the same time, and what becomes of lost listeners.

use crate::api::{Config, Hooks, Server, State, Status};
use crate::support::*;
use std::io::Read;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering};

/// A10.1: `wait` returns within its time, also beside a start.
#[test]
fn a_wait_holds_beside_a_start() {
    isolated(|| {
        for round in 0..40 {
            let config = if round % 2 == 0 { blocking(1) } else { non_blocking(1) };
            let server = unstarted(config, Hooks::new(echo));
            let done = AtomicBool::new(false);
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| {
                        while !done.load(Ordering::SeqCst) {
                            let clock = Stopwatch::start();
                            let _ = server.wait(Some(ms(0)));
                            clock.at_once();
                        }
                    });
                }
                server.start_background().unwrap();
                done.store(true, Ordering::SeqCst);
            });
        }
    });
}

/// A10.1: A stop during a slow `on_start` is remembered, and keeps its own time.
#[test]
fn a_stop_holds_beside_a_slow_start() {
    isolated(|| {
        for config in both_modes() {
            let gate = Gate::new();
            let inside = gate.clone();
            let hooks = Hooks::new(echo).on_start(move |_| {
                inside.wait();
                Ok(())
            });
            let server = unstarted(config.drain_timeout(ms(100)), hooks);
            std::thread::scope(|scope| {
                scope.spawn(|| server.start_background().unwrap());
                gate.reached_by(1);
                let clock = Stopwatch::start();
                assert_eq!(status(server.stop_within(ms(50))), Status::Timeout);
                assert_eq!(status(server.stop()), Status::Timeout);
                clock.at_once();
                gate.open();
            });
            server.wait(Some(SOON)).unwrap();
            assert_eq!(server.state(), State::Stopped);
        }
    });
}

/// All threads of this process share one processor from now on.
fn one_processor() {
    // SAFETY: a set of processors that is ours; this process is one test's.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(libc::sched_getcpu() as usize, &mut set);
        assert_eq!(libc::sched_setaffinity(0, size_of_val(&set), &set), 0);
    }
}

/// This thread has a processor only when no other wants it.
fn give_way() {
    let param = libc::sched_param { sched_priority: 0 };
    // SAFETY: `param` is read during the call.
    let result = unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &param) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

/// L6: A start that fails returns, also where another one begins immediately after it.
#[test]
fn a_failed_start_beside_the_next() {
    isolated(|| {
        one_processor();
        for config in both_modes() {
            let gate = Gate::new();
            let inside = gate.clone();
            let failed = AtomicBool::new(false);
            let hooks =
                Hooks::new(echo).on_start(move |_| match failed.swap(true, Ordering::SeqCst) {
                    true => Ok(()),
                    false => {
                        inside.wait();
                        Err("not today".into())
                    }
                });
            let server = unstarted(config, hooks);
            let (log, result) = events();
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    give_way();
                    log.add(status(server.start_background()));
                });
                gate.reached_by(1);
                let next = scope.spawn(|| {
                    server.wait(None).unwrap();
                    server.start_background()
                });
                let_pass(ms(50));
                gate.open();
                next.join().unwrap().unwrap();
                assert_eq!(result.next(), Status::Hook);
                Client::connect(&server).echo("hello");
                server.stop().unwrap();
            });
        }
    });
}

/// A server whose connections take their time to end, and its clients.
fn ending_slowly(
    config: Config,
    on_close: impl Fn() + Send + Sync + 'static,
) -> (Server, Vec<Client>) {
    let hooks = Hooks::new(|_, socket| socket.recv(&mut [0; 8]).map(drop))
        .on_close(move |_, _, _| on_close());
    let server = start(config, hooks);
    let clients: Vec<_> = (0..10).map(|_| Client::connect(&server).settled()).collect();
    eventually("all are open", || server.stats().open == 10);
    (server, clients)
}

/// A10.2: A stop waits for as long as connections end.
#[test]
fn a_stop_waits_while_connections_end() {
    isolated(|| {
        let (server, clients) = ending_slowly(non_blocking(1), || let_pass(ms(20)));
        server.stop_within(ms(0)).unwrap();
        assert_settled(&server);
        drop(clients);
    });
}

/// A10.2: A stop does not wait for a callback that hangs.
#[test]
fn a_stop_does_not_wait_for_a_callback_that_hangs() {
    isolated(|| {
        for config in [blocking(10), non_blocking(2)] {
            let gate = Gate::new();
            let inside = gate.clone();
            let (server, clients) = ending_slowly(config, move || inside.wait());
            let clock = Stopwatch::start();
            assert_eq!(status(server.stop_within(ms(0))), Status::Timeout);
            clock.at_once();
            gate.open();
            server.stop().unwrap();
            drop(clients);
        }
    });
}

/// Ends a listener from outside, as an administrator can.
pub fn destroy(listener: i32) {
    // SAFETY: this process is one test's: the listener is open.
    let listener = unsafe { BorrowedFd::borrow_raw(listener) };
    socket2::SockRef::from(&listener).shutdown(std::net::Shutdown::Both).unwrap();
}

/// A12.4: The loss of a listener is reported; the loss of the last one stops the server.
#[test]
fn a_lost_listener_is_no_silence() {
    isolated(|| {
        for config in [blocking(1), blocking(4), non_blocking(1), non_blocking(2)] {
            let (log, errors) = events();
            let hooks = Hooks::new(echo).on_exception(move |_, socket, error| {
                log.add((socket.is_some(), error.status(), error.os_code()));
                Ok(())
            });
            let server = start(config, hooks);
            Client::connect(&server).echo("hello");
            destroy(listening_sockets()[0]);
            assert_eq!(errors.next(), (false, Status::Accept, libc::EINVAL));
            server.wait(Some(SOON)).unwrap();
            errors.none();
            assert_eq!(server.stats().accept_errors, 1);
        }
    });
}

/// A12.4, A8.4: With another listener the server goes on and does not spin. Each listener has its
/// turn.
#[test]
fn two_listeners() {
    isolated(|| {
        faults::refuse_dual_stack();
        for config in both_modes() {
            let (log, errors) = events();
            let hooks = Hooks::new(echo).on_exception(move |_, _, error| {
                log.add(error.status());
                Ok(())
            });
            let server = server_at("0", config.use_ipv6(true), hooks);
            server.start_background().unwrap();
            let listeners = listening_sockets();
            assert_eq!(listeners.len(), 2);
            let both = [("127.0.0.1", server.port()), ("::1", server.port())];
            for address in both.repeat(5) {
                Client::to(address).echo("hello");
            }
            destroy(listeners[0]);
            assert_eq!(errors.next(), Status::Accept);
            at_rest(|| errors.none());
            let left = both.into_iter().filter(|address| Client::try_to(*address).is_ok());
            assert_eq!(left.map(|address| Client::to(address).echo("still here")).count(), 1);
            server.stop().unwrap();
        }
    });
}

/// A8.4: The clients of one listener do not keep those of another waiting.
#[test]
fn listeners_take_turns() {
    isolated(|| {
        faults::refuse_dual_stack();
        // A loop accepts 64 before it looks around.
        for (config, each, most) in [(blocking(1), 20, 12), (non_blocking(1), 120, 80)] {
            let gate = Gate::new();
            let inside = gate.clone();
            let (log, order) = events();
            let hooks = Hooks::new(echo).on_open(move |_, socket| {
                inside.wait();
                log.add(socket.peer().unwrap().is_ipv4());
                socket.close();
                Ok(())
            });
            let server = server_at("0", config.use_ipv6(true), hooks);
            server.start_background().unwrap();
            let mut clients = Vec::new();
            for address in ["127.0.0.1", "::1"] {
                // TLS: each on its own thread shakes hands.
                clients.extend((0..each).map(|_| Client::to((address, server.port()))));
            }
            gate.open();
            let order = order.take(2 * each);
            let runs = order.chunk_by(|a, b| a == b).map(<[bool]>::len).max().unwrap();
            assert!(crate::api::TLS || runs <= most, "{order:?}");
            drop(clients);
        }
    });
}

/// A15: With few descriptors a client wakes one worker, and the limit holds.
#[test]
fn few_descriptors_wake_one_worker() {
    isolated(|| {
        let server = start(blocking(16).max_connections(40), Hooks::new(echo));
        Client::connect(&server).echo("hello");
        let before = context_switches("ns-w");
        for _ in 0..50 {
            Client::connect(&server).echo("hello");
            wait_idle(&server);
        }
        let each = (context_switches("ns-w") - before) / 50;
        assert!(each < 12, "{each} for each client");
    });
}

/// A12.4, L6: A start whose listener cannot be watched fails, and leaves nothing behind.
#[test]
fn a_listener_that_cannot_be_watched() {
    isolated(|| {
        for loops in [1, 2] {
            let before = Inventory::take();
            // Descriptors are given in order: the next server's listener has the same number.
            let first = start(non_blocking(loops), Hooks::new(echo));
            let [listener] = listening_sockets()[..] else { panic!("one listener") };
            first.stop().unwrap();
            drop(first);
            let server = unstarted(non_blocking(loops), Hooks::new(echo));
            std::thread::scope(|scope| {
                let start = scope.spawn(|| {
                    faults::refuse_call(libc::SYS_epoll_ctl, 2, listener, libc::ENOSPC);
                    server.start_background().expect_err("started")
                });
                let error = start.join().unwrap();
                assert_eq!((error.status(), error.os_code()), (Status::Listen, libc::ENOSPC));
            });
            assert_eq!(server.state(), State::New);
            drop(server);
            before.assert_restored();
        }
    });
}

/// T10: What the peer has read while the loop was busy for longer than the deadline is progress,
/// although the loop has not heard of the room.
#[test]
fn a_busy_loop_ends_no_peer_that_has_read() {
    isolated(|| {
        let gate = Gate::new();
        let inside = gate.clone();
        let hooks = Hooks::new(move |_, socket| match text(socket)?.as_str() {
            "much" => socket.send(&pattern(BULK)),
            _ => Ok(inside.wait()),
        });
        let server = start(non_blocking(1).write_timeout(ms(3000)), hooks);
        let mut other = Client::connect(&server).settled();
        let mut slow = Client::small(&server).saying("much");
        let mut got = slow.receive(1);
        // The loop looks what is not acknowledged.
        let_pass(ms(600));
        other.send("x");
        gate.reached_by(1);
        // All that the kernel has.
        slow.0.set_read_timeout(Some(ms(500))).unwrap();
        let mut buffer = vec![0; 64 << 10];
        while let Ok(count @ 1..) = slow.0.read(&mut buffer) {
            got.extend(&buffer[..count]);
        }
        assert!(got.len() < BULK);
        let_pass(ms(3200));
        gate.open();
        slow.0.set_read_timeout(Some(SOON)).unwrap();
        got.extend(slow.receive(BULK - got.len()));
        assert!(got == pattern(BULK));
    });
}
