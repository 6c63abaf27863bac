//! Deadlines are never early, and not late.

use crate::api::{CloseReason, Config, Hooks, Server, Socket, Status};
use crate::support::*;
use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// When a callback set a deadline, for a later one to see.
struct Since(Instant);

fn mark(socket: &mut Socket<'_>) {
    socket.set_user_data(Since(Instant::now()));
}

fn since(socket: &Socket<'_>) -> std::time::Duration {
    socket.user_data::<Since>().expect("marked").0.elapsed()
}

/// T2: A connection without a byte in either direction is closed.
#[test]
fn idle_timeout() {
    isolated(|| {
        let hooks = Hooks::new(echo);
        let server = start(non_blocking(2).idle_timeout(ms(300)), hooks);
        let clock = Stopwatch::start();
        let mut silent = Client::connect(&server);
        silent.expect_gone();
        clock.kept(ms(300));
        drop(silent);
        wait_idle(&server);
        assert_eq!(server.stats().closed[CloseReason::Idle as usize], 1);
    });
}

/// T3: Bytes in either direction put the idle timeout off.
#[test]
fn activity_puts_the_idle_timeout_off() {
    isolated(|| {
        let (hooks, ids) = Hooks::new(|_, socket| text(socket).map(drop)).telling_ids();
        let hooks = hooks.on_close(|_, _, reason| assert_eq!(reason, CloseReason::Idle));
        let server = start(non_blocking(1).idle_timeout(ms(2000)), hooks);
        let mut sending = Client::connect(&server);
        ids.next();
        let mut receiving = Client::connect(&server);
        let id = ids.next();
        let clock = Stopwatch::start();
        for _ in 0..10 {
            sending.send("x");
            server.send(id, b"x").unwrap();
            receiving.expect("x");
            let_pass(ms(250));
        }
        assert_eq!(server.stats().open, 2, "after {:?}", clock.elapsed());
        let clock = Stopwatch::start();
        sending.send("x");
        server.send(id, b"last").unwrap();
        sending.expect_gone();
        clock.kept(ms(2000));
        receiving.expect_gone();
        clock.kept(ms(2000));
    });
}

/// T3, T1: The idle timeout is not early where a handler took long and then sent: it counts from
/// the last byte, not from the beginning of the turn.
#[test]
fn the_idle_timeout_counts_from_the_last_byte() {
    isolated(|| {
        let (log, times) = events();
        let hooks = Hooks::new(|_, socket| {
            text(socket)?;
            let_pass(ms(350));
            mark(socket);
            socket.send(b"after a long time")
        })
        .on_close(move |_, socket, reason| log.add((reason, since(socket))));
        let server = start(non_blocking(1).idle_timeout(ms(400)), hooks);
        let mut client = Client::connect(&server).saying("x");
        client.expect_last("after a long time");
        let (reason, time) = times.next();
        assert_eq!(reason, CloseReason::Idle);
        kept(time, ms(400));
    });
}

/// T3: A call that waits for longer than the `idle_timeout` while bytes flow is not idle.
#[test]
fn a_long_send_is_not_idle() {
    isolated(|| {
        const LEN: usize = 8 << 20;
        let (log, results) = events();
        let hooks = Hooks::new(move |_, socket| {
            text(socket)?;
            log.add(status(socket.send(&vec![1; LEN])));
            Ok(())
        });
        let server = start(blocking(1).idle_timeout(ms(1500)), hooks);
        let mut client = Client::small(&server).saying("x");
        let (clock, mut left) = (Stopwatch::start(), LEN);
        while left > 0 {
            // For much longer than the idle time, and then the rest without a pause.
            if clock.elapsed() < ms(2500) {
                let_pass(ms(20));
            }
            let piece = left.min(64 << 10);
            left -= client.receive(piece).len();
        }
        assert_eq!(results.next(), Status::Ok);
        client.expect_end();
    });
}

/// T2: The idle timeout of blocking mode ends a `recv` in which the handler waits.
#[test]
fn idle_timeout_in_blocking_mode() {
    isolated(|| {
        let (log, results) = events();
        let hooks = Hooks::new(move |_, socket| {
            text(socket)?;
            log.add(status(socket.recv(&mut [0; 8])));
            Ok(())
        });
        let server = start(blocking(1).idle_timeout(ms(250)), hooks);
        let mut client = Client::connect(&server);
        let clock = Stopwatch::start();
        client.send("x");
        client.expect_gone();
        clock.kept(ms(250));
        assert_ne!(results.next(), Status::Ok);
        drop(client);
        wait_idle(&server);
        assert_eq!(server.stats().closed[CloseReason::Idle as usize], 1);
    });
}

/// T4: The timer calls `on_timeout` once, and is not early.
#[test]
fn the_timer_calls_on_timeout_once() {
    isolated(|| {
        let (log, times) = events();
        let hooks = Hooks::new(|_, socket| {
            let time: u64 = text(socket)?.parse().unwrap();
            mark(socket);
            socket.set_timer(Some(ms(time)))
        })
        .on_timeout(move |_, socket| log.add(since(socket)));
        let server = start(non_blocking(1), hooks);
        let mut client = Client::connect(&server);
        for time in [1, 37, 250, 120] {
            client.send(time.to_string());
            kept(times.next(), ms(time));
        }
        times.none();
        assert_eq!(server.stats().open, 1);
    });
}

/// T4, T1: The timer is not early where the callback took long before it set the timer.
#[test]
fn the_timer_counts_from_its_setting() {
    isolated(|| {
        let (log, times) = events();
        let hooks = Hooks::new(|_, socket| {
            text(socket)?;
            let_pass(ms(200));
            mark(socket);
            socket.set_timer(Some(ms(150)))
        })
        .on_timeout(move |_, socket| log.add(since(socket)));
        let server = start(non_blocking(1), hooks);
        let _client = Client::connect(&server).saying("x");
        kept(times.next(), ms(150));
    });
}

/// T5: To set the timer again moves it; to set none stops it.
#[test]
fn the_timer_can_be_moved_and_stopped() {
    isolated(|| {
        let (log, times) = events();
        let hooks = Hooks::new(|_, socket| {
            socket.set_timer(Some(ms(50)))?;
            let command = text(socket)?;
            mark(socket);
            match command.as_str() {
                "later" => socket.set_timer(Some(ms(300)))?,
                "sooner" => {
                    socket.set_timer(Some(ms(30_000)))?;
                    socket.set_timer(Some(ms(20)))?;
                }
                _ => socket.set_timer(None)?,
            }
            // Two commands must not come in one turn.
            socket.send(b"set")
        })
        .on_timeout(move |_, socket| log.add(since(socket)));
        let server = start(non_blocking(1), hooks);
        let mut client = Client::connect(&server).saying("stop");
        client.expect("set");
        times.none();
        client.send("later");
        client.expect("set");
        kept(times.next(), ms(300));
        client.send("sooner");
        assert!(times.next() < late());
        times.none();
    });
}

/// T5: `on_timeout` may set the timer again, which makes it a clock for the connection.
#[test]
fn a_periodic_timer() {
    isolated(|| {
        let (log, times) = events();
        let hooks = Hooks::new(|_, socket| text(socket).map(drop))
            .on_open(|_, socket| {
                mark(socket);
                socket.set_timer(Some(ms(30)))
            })
            .on_timeout(move |_, socket| {
                log.add(since(socket));
                mark(socket);
                socket.set_timer(Some(ms(30))).unwrap();
            });
        let server = start(non_blocking(1), hooks);
        let _client = Client::connect(&server);
        for time in times.take(5) {
            kept(time, ms(30));
        }
    });
}

/// T6: Where no `on_timeout` is set the timer closes the connection.
#[test]
fn the_timer_closes_without_on_timeout() {
    isolated(|| {
        let (log, times) = events();
        let hooks = Hooks::new(|_, socket| {
            text(socket)?;
            mark(socket);
            socket.set_timer(Some(ms(120)))
        })
        .on_close(move |_, socket, reason| log.add((reason, since(socket))));
        let server = start(non_blocking(1).linger_timeout(ms(50)), hooks);
        let mut client = Client::connect(&server).saying("x");
        client.expect_end();
        drop(client);
        let (reason, time) = times.next();
        assert_eq!(reason, CloseReason::Timer);
        kept(time, ms(120));
    });
}

/// T1: Many timers at the same time are all kept.
#[test]
fn many_timers() {
    isolated(|| {
        let (log, times) = events();
        let hooks = Hooks::new(|_, socket| {
            let time: u64 = text(socket)?.parse().unwrap();
            socket.set_user_data((Instant::now(), time));
            socket.set_timer(Some(ms(time)))
        })
        .on_timeout(move |_, socket| {
            let (start, due) = socket.user_data::<(Instant, u64)>().unwrap();
            log.add((start.elapsed(), *due));
        });
        let server = start(non_blocking(2), hooks);
        let mut clients: Vec<_> = (0..100).map(|_| Client::connect(&server)).collect();
        for (i, client) in clients.iter_mut().enumerate() {
            client.send((1 + i * 37 % 400).to_string());
        }
        for (time, due) in times.take(100) {
            kept(time, ms(due));
        }
    });
}

/// T7: A blocking `recv` and a blocking `send` return NS_ERR_TIMEOUT, not earlier, and the socket
/// is usable afterwards.
#[test]
fn io_timeout() {
    isolated(|| {
        let (log, results) = events();
        let hooks = Hooks::new(move |_, socket| {
            let command = text(socket)?;
            let start = Instant::now();
            let result = match command.as_str() {
                "recv" => status(socket.recv(&mut [0; 8])),
                _ => status(socket.send(&vec![0; BULK])),
            };
            log.add((result, start.elapsed()));
            if command == "recv" {
                socket.send(b"too late")?;
            }
            Ok(())
        });
        let server = start(blocking(2).io_timeout(ms(150)), hooks);
        let mut client = Client::connect(&server).saying("recv");
        client.expect_last("too late");
        let (result, time) = results.next();
        assert_eq!(result, Status::Timeout);
        kept(time, ms(150));
        let _client = Client::small(&server).saying("send");
        let (result, time) = results.next();
        assert_eq!(result, Status::Timeout);
        kept(time, ms(150));
    });
}

/// T8: A connection's own I/O timeout goes before that of the config.
#[test]
fn io_timeout_of_one_connection() {
    isolated(|| {
        let (log, results) = events();
        let hooks = Hooks::new(move |_, socket| {
            socket.set_io_timeout(Some(ms(100)))?;
            let start = Instant::now();
            log.add((status(socket.recv(&mut [0; 8])), start.elapsed()));
            socket.set_io_timeout(None)?;
            log.add((status(socket.recv(&mut [0; 8])), start.elapsed()));
            Ok(())
        });
        let server = start(blocking(1).io_timeout(ms(30_000)), hooks);
        let mut client = Client::connect(&server);
        let (result, time) = results.next();
        assert_eq!(result, Status::Timeout);
        kept(time, ms(100));
        results.none();
        client.send("x");
        assert_eq!(results.next().0, Status::Ok);
    });
}

/// T13: On a loop, where no call waits, an I/O timeout is an error.
#[test]
fn an_io_timeout_on_a_loop() {
    isolated(|| {
        let (log, results) = events();
        let hooks = Hooks::new(move |_: &Server, socket| {
            text(socket)?;
            Ok(log.add(status(socket.set_io_timeout(Some(ms(1))))))
        });
        let server = start(non_blocking(1), hooks);
        let _client = Client::connect(&server).saying("x");
        assert_eq!(results.next(), Status::Unsupported);
    });
}

/// T9: Queued bytes that make no progress close the connection.
#[test]
fn write_timeout() {
    isolated(|| {
        let (log, times) = events();
        let hooks = Hooks::new(|_, socket| {
            text(socket)?;
            mark(socket);
            socket.send(&pattern(BULK))
        })
        .on_close(move |_, socket, reason| log.add((reason, since(socket))));
        let server = start(non_blocking(1).write_timeout(ms(250)), hooks);
        let mut client = Client::small(&server).saying("x");
        let (reason, time) = times.next();
        assert_eq!(reason, CloseReason::WriteTimeout);
        kept(time, ms(250));
        client.expect_gone();
        wait_idle(&server);
    });
}

/// T10: Progress, however slow, puts the write timeout off.
#[test]
fn progress_puts_the_write_timeout_off() {
    isolated(|| {
        let config = non_blocking(1).write_timeout(ms(2000)).linger_timeout(ms(20_000));
        let server = start(config, Hooks::new(bulk_and_close));
        let mut client = Client::small(&server).saying("x");
        let mut received = 0;
        // For longer than that in all, with a pause after each part.
        for _ in 0..10 {
            received += client.receive(BULK / 11).len();
            let_pass(ms(250));
        }
        received += client.rest().len();
        assert_eq!(received, BULK);
    });
}

/// T9: Input is no progress for the write timeout, beside an idle timeout that it puts off.
#[test]
fn input_does_not_put_the_write_timeout_off() {
    isolated(|| {
        let (log, reasons) = events();
        let hooks = Hooks::new(|_, socket| match text(socket)?.starts_with("much") {
            true => socket.send(&pattern(BULK)),
            false => Ok(()),
        })
        .on_close(move |_, _, reason| log.add(reason));
        let config = non_blocking(1).write_timeout(ms(2000)).idle_timeout(ms(4000));
        let server = start(config.high_water_mark(2 * BULK), hooks);
        let mut client = Client::small(&server).saying("much");
        // Half a second after each input the idle timeout has a look at the acknowledgements.
        let reason = (0..40).find_map(|_| {
            let reason = reasons.poll(ms(700));
            let _ = client.0.write_all(b"x");
            reason
        });
        assert_eq!(reason, Some(CloseReason::WriteTimeout));
        wait_idle(&server);
    });
}

/// T11: A queue that became empty in time leaves no deadline behind.
#[test]
fn no_write_timeout_without_queued_bytes() {
    isolated(|| {
        let (log, drained) = events();
        let hooks = Hooks::new(bulk_or_echo).on_drain(move |_, _| log.add(()));
        let server = start(non_blocking(1).write_timeout(ms(1500)), hooks);
        let mut client = Client::small(&server).saying("much");
        client.receive(BULK);
        drained.next();
        let_pass(ms(2500));
        client.echo("still there");
    });
}

/// O5: Accepted connections have keep-alive and TCP_NODELAY as the config says.
#[test]
fn socket_options() {
    isolated(|| {
        let options = |config| {
            let (log, seen) = events();
            let hooks = Hooks::new(move |_, socket| {
                let fd = socket.raw_fd();
                log.add((
                    socket_option(fd, libc::SOL_SOCKET, libc::SO_KEEPALIVE) != 0,
                    socket_option(fd, libc::IPPROTO_TCP, libc::TCP_KEEPIDLE),
                    socket_option(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY) != 0,
                ));
                socket.close();
                Ok(())
            });
            let server = start(config, hooks);
            let mut client = Client::connect(&server).saying("x");
            client.expect_gone();
            seen.next()
        };
        for config in both_modes() {
            let (alive, idle, no_delay) = options(config.clone());
            assert_eq!((alive, idle, no_delay), (true, 60, true), "the defaults");
            let (alive, idle, no_delay) =
                options(config.clone().keep_alive(ms(1500)).no_delay(false));
            assert_eq!((alive, idle, no_delay), (true, 2, false));
            assert!(!options(config.keep_alive(None)).0);
        }
    });
}

/// A13: A timer that is set again and again, each time sooner, has one deadline and holds no memory.
#[test]
fn many_settings_of_a_timer_hold_no_memory() {
    const COUNT: u64 = 100_000;
    isolated(|| {
        let (log, held) = events();
        let set = AtomicU64::new(0);
        let hooks = Hooks::new(|server, socket| {
            text(socket)?;
            server.wake(socket.id())
        })
        .on_wake(move |server, socket| {
            let n = set.fetch_add(1, Ordering::SeqCst);
            socket.set_timer(Some(ms(10 * COUNT - n))).unwrap();
            if n == 1000 || n == COUNT {
                log.add(resident_kib());
            }
            if n < COUNT {
                server.wake(socket.id()).unwrap();
            }
        });
        let server = start(non_blocking(1), hooks);
        let _client = Client::connect(&server).saying("x");
        let before = held.next();
        let grown = held.next().saturating_sub(before);
        assert!(grown < 1024, "{grown} KiB");
    });
}

/// T12: In blocking mode `set_timer` is an error.
#[test]
fn a_timer_in_blocking_mode() {
    isolated(|| {
        let (log, results) = events();
        let hooks = Hooks::new(move |_: &Server, socket| {
            log.add(status(socket.set_timer(Some(ms(1)))));
            socket.send(b"served")
        });
        let server = start(blocking(1), hooks);
        Client::connect(&server).expect_last("served");
        assert_eq!(results.next(), Status::NotNonBlocking);
    });
}

/// Reads slowly, without a pause of any length, and then the rest.
#[track_caller]
fn read_slowly(client: &mut Client, len: usize) {
    let mut got = Vec::new();
    for _ in 0..90 {
        got.extend(client.receive(8_000));
        let_pass(ms(20));
    }
    got.extend(client.receive(len - got.len()));
    assert!(got == pattern(len));
}

/// T10: A slow peer that reads all the time goes on, although the kernel, which has much of it or
/// all, takes no more for longer than the deadline.
#[test]
fn a_slow_reader_makes_progress() {
    isolated(|| {
        let idle = |config: Config| config.idle_timeout(ms(900));
        for (config, len) in [
            (non_blocking(1).write_timeout(ms(900)), BULK),
            (idle(non_blocking(1)).write_timeout(None), BULK),
            (idle(non_blocking(1)), 1_000_000),
            (idle(blocking(2)), BULK),
        ] {
            let hooks = Hooks::new(move |_, socket| {
                if text(socket)?.is_empty() {
                    return Ok(socket.close());
                }
                socket.send(&pattern(len))
            });
            let (hooks, reasons) = hooks.telling_reasons();
            let server = start(config, hooks);
            let mut client = Client::small(&server).saying("x");
            read_slowly(&mut client, len);
            drop(client);
            reasons.next();
        }
    });
}

/// T10: The same for a detached socket, which waits in `send`.
#[test]
fn a_slow_reader_of_a_detached_socket_makes_progress() {
    isolated(|| {
        let (log, owned) = events();
        let hooks = Hooks::new(move |server: &Server, socket| {
            text(socket)?;
            Ok(log.add(server.detach(socket)?))
        });
        let server = start(non_blocking(1).idle_timeout(ms(900)), hooks);
        let mut client = Client::small(&server).saying("x");
        let mut socket: crate::api::OwnedSocket = owned.next();
        std::thread::scope(|scope| {
            scope.spawn(move || socket.socket().send(&pattern(BULK)).unwrap());
            read_slowly(&mut client, BULK);
            drop(client);
        });
    });
}

/// T10: A peer that reads nothing at all has little more than the deadline.
#[test]
fn a_peer_that_reads_nothing_is_ended_in_time() {
    isolated(|| {
        for (config, reason) in [
            (non_blocking(1).write_timeout(ms(800)), CloseReason::WriteTimeout),
            (non_blocking(1).idle_timeout(ms(800)).write_timeout(None), CloseReason::Idle),
            (blocking(2).idle_timeout(ms(800)), CloseReason::Idle),
        ] {
            let (hooks, reasons) = Hooks::new(bulk).telling_reasons();
            let server = start(config, hooks);
            let client = Client::small(&server).saying("x");
            let clock = Stopwatch::start();
            assert_eq!(reasons.next(), reason);
            let took = clock.elapsed();
            assert!((ms(800)..ms(800) + late()).contains(&took), "{took:?}");
            drop(client);
        }
    });
}
