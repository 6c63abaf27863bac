//! Input that arrived is delivered, and output that was accepted leaves or the peer sees a reset.

use crate::api::{CloseReason, Error, Hooks, Server, Socket, Status};
use crate::support::*;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

/// Waits for `events` on the server's side of a connection; for its failure with none.
fn await_on(socket: &Socket<'_>, events: i16) {
    let mut entry = libc::pollfd { fd: socket.raw_fd(), events, revents: 0 };
    // SAFETY: one entry, which outlives the call.
    assert_eq!(unsafe { libc::poll(&mut entry, 1, 8000) }, 1, "nothing happened");
}

/// The bytes that a handler has read, and how often it ran.
#[derive(Default)]
struct Seen {
    bytes: Mutex<Vec<u8>>,
    calls: AtomicUsize,
}

impl Seen {
    /// Reads as far as it goes; `true` when nothing more can come.
    fn read(&self, socket: &mut Socket<'_>, size: usize) -> Result<bool, Error> {
        let mut buffer = vec![0; size];
        loop {
            match socket.recv(&mut buffer) {
                Ok(0) => return Ok(true),
                Ok(n) => self.bytes.lock().unwrap().extend_from_slice(&buffer[..n]),
                Err(error) if error.status() == Status::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
    }

    fn is(&self, expected: &[u8]) -> bool {
        *self.bytes.lock().unwrap() == expected
    }
}

const UPLOAD: usize = 60_000;

/// A1.1: A send that fails takes nothing from the input: where a client uploads, does not look at
/// what is sent back, and closes, the handler reads everything. One that reads in small steps is
/// called again.
#[test]
fn a_failed_send_keeps_the_input() {
    isolated(|| {
        for config in both_modes() {
            for step in [1000, UPLOAD] {
                let seen = Arc::new(Seen::default());
                let (reader, failing) = (seen.clone(), AtomicBool::new(true));
                let (log, statuses) = events();
                let waits = !config.non_blocking;
                let hooks = Hooks::new(move |_, socket| {
                    if failing.swap(false, SeqCst) {
                        await_on(socket, libc::POLLRDHUP);
                        let _ = socket.send(b".");
                        await_on(socket, 0);
                        // A loop gathers this one, and meets the error when it flushes.
                        let _ = socket.send(b".");
                        let _ = socket.flush();
                        log.add(status(socket.send(b".")));
                        log.add(status(socket.send(b".")));
                    }
                    let mut buffer = vec![0; step];
                    loop {
                        let n = socket.recv(&mut buffer)?;
                        reader.bytes.lock().unwrap().extend_from_slice(&buffer[..n]);
                        match n {
                            0 => return Ok(socket.close()),
                            _ if waits => {}
                            // One read in a call.
                            _ => return Ok(()),
                        }
                    }
                });
                let (hooks, reasons) = hooks.telling_reasons();
                let server = start(config.clone(), hooks);
                let mut client = Client::connect(&server);
                client.send(pattern(UPLOAD));
                drop(client);
                assert_eq!(statuses.take(2), [Status::Reset; 2]);
                assert_eq!(reasons.next(), CloseReason::Reset);
                assert!(seen.is(&pattern(UPLOAD)), "{} bytes", seen.bytes.lock().unwrap().len());
                wait_idle(&server);
            }
        }
    });
}

/// A1.1: After a reset the handler gets what had arrived, then the error with its `errno`, also
/// where bytes are queued, below the high-water mark and above it.
#[test]
fn a_reset_keeps_the_input() {
    isolated(|| {
        for high_water in [1, 8 << 20] {
            let seen = Arc::new(Seen::default());
            let reader = seen.clone();
            let (log, busy) = events();
            let (error_log, errors) = events();
            let told = error_log.clone();
            let hooks = Hooks::new(move |_, socket| {
                if reader.calls.fetch_add(1, SeqCst) == 0 {
                    reader.read(socket, 7)?;
                    socket.send(&pattern(BULK))?;
                    assert!(socket.queued() > 0);
                    log.add(());
                    await_on(socket, 0);
                }
                if let Err(error) = reader.read(socket, 7) {
                    told.add((error.status(), socket.os_error()));
                    return Err(error);
                }
                Ok(())
            })
            .on_close(move |_, socket, reason| {
                assert_eq!(reason, CloseReason::Reset);
                error_log.add((Status::Ok, socket.os_error()));
            });
            let server = start(non_blocking(1).high_water_mark(high_water), hooks);
            let mut client = Client::small(&server).saying("first");
            busy.next();
            client.send(" last words");
            client.reset();
            assert_eq!(errors.next(), (Status::Reset, libc::ECONNRESET));
            assert_eq!(errors.next(), (Status::Ok, libc::ECONNRESET));
            assert!(seen.is(b"first last words"), "{:?}", seen.bytes.lock().unwrap());
            wait_idle(&server);
        }
    });
}

/// A1.2: A reset while reading is paused closes immediately where nothing is unread. Otherwise the
/// input is handed over after `resume`, and then the error.
#[test]
fn a_reset_while_paused() {
    isolated(|| {
        for unread in [false, true] {
            let seen = Arc::new(Seen::default());
            let reader = seen.clone();
            let (log, told) = events();
            let failed = log.clone();
            let hooks = Hooks::new(move |_, socket| {
                if reader.calls.fetch_add(1, SeqCst) == 0 {
                    reader.read(socket, 100)?;
                    socket.pause()?;
                    log.add("paused");
                    return Ok(());
                }
                reader.read(socket, 3).map(drop)
            })
            .on_wake(|_, socket| socket.resume().unwrap())
            .on_exception(move |_, socket, error| {
                let os_error = socket.expect("a socket").os_error();
                assert_eq!((error.status(), os_error), (Status::Reset, libc::ECONNRESET));
                Ok(failed.add("failed"))
            });
            let (hooks, ids) = hooks.telling_ids();
            let (hooks, reasons) = hooks.telling_reasons();
            let server = start(non_blocking(1), hooks);
            let mut client = Client::connect(&server).saying("first");
            assert_eq!(told.next(), "paused");
            if unread {
                client.send(" last words");
            }
            client.reset();
            if unread {
                reasons.none();
                server.wake(ids.next()).unwrap();
                assert_eq!(told.next(), "failed");
            }
            assert_eq!(reasons.next(), CloseReason::Reset);
            let expected: &[u8] = if unread { b"first last words" } else { b"first" };
            assert!(seen.is(expected));
            told.none();
            wait_idle(&server);
        }
    });
}

/// A1.1: A send by id that fails while the peer goes on, as for want of memory, is told after the
/// input that had arrived, also where the handler reads all of that in one call: no event comes
/// from such a connection.
#[test]
fn a_failed_send_by_id_is_told_without_an_event() {
    isolated(|| {
        let seen = Arc::new(Seen::default());
        let reader = seen.clone();
        let (log, told) = events();
        let failed = log.clone();
        let hooks = Hooks::new(move |_, socket| {
            if reader.calls.fetch_add(1, SeqCst) == 0 {
                reader.read(socket, 100)?;
                log.add("read");
                await_on(socket, libc::POLLIN);
                for call in [libc::SYS_sendto, libc::SYS_sendmsg] {
                    faults::refuse_call(call, 0, socket.raw_fd(), libc::ENOMEM);
                }
                return socket.pause();
            }
            reader.read(socket, 100).map(drop)
        })
        .on_wake(|_, socket| socket.resume().unwrap())
        .on_exception(move |_, socket, error| {
            let os_error = socket.expect("a socket").os_error();
            assert_eq!((error.status(), os_error), (Status::NoMemory, libc::ENOMEM));
            Ok(failed.add("failed"))
        });
        let (hooks, ids) = hooks.telling_ids();
        let (hooks, reasons) = hooks.telling_reasons();
        let server = start(non_blocking(1), hooks);
        let mut client = Client::connect(&server).saying("first");
        assert_eq!(told.next(), "read");
        client.send(" last words");
        let id = ids.next();
        eventually("a failed send", || status(server.send(id, b"lost")) == Status::Closed);
        reasons.none();
        server.wake(id).unwrap();
        assert_eq!(told.next(), "failed");
        assert_eq!(reasons.next(), CloseReason::Reset);
        assert!(seen.is(b"first last words"));
        wait_idle(&server);
    });
}

/// A2.2, A2.1: A send that fails while the peer goes on, as for want of memory, ends in a reset, in
/// both modes: of what was sent an unknown part has left.
#[test]
fn a_failed_send_ends_in_a_reset() {
    isolated(|| {
        for config in both_modes() {
            let hooks = Hooks::new(move |_, socket| {
                socket.recv(&mut [0; 100])?;
                socket.send(b"the first half")?;
                for call in [libc::SYS_sendto, libc::SYS_sendmsg] {
                    faults::refuse_call(call, 0, socket.raw_fd(), libc::ENOMEM);
                }
                let sent = socket.send(b"the second half").and_then(|()| socket.flush());
                assert_eq!(status(sent), Status::NoMemory);
                Ok(socket.close())
            });
            let (hooks, reasons) = hooks.telling_reasons();
            let server = start(config, hooks);
            let mut client = Client::connect(&server).saying("a request");
            client.expect_reset();
            assert_eq!(reasons.next(), CloseReason::Reset);
            wait_idle(&server);
        }
    });
}

/// A1.4: What is unread when the program closes or aborts the connection, or a deadline or a stop
/// ends it, is not handed over.
#[test]
fn an_end_of_ones_own_hands_nothing_over() {
    isolated(|| {
        for end in ["close", "abort", "timer", "cut"] {
            let (log, calls) = events();
            let hooks = Hooks::new(move |_, socket| {
                socket.recv(&mut [0])?;
                log.add(());
                match end {
                    "close" => socket.close(),
                    "abort" => socket.abort(),
                    "timer" => {
                        socket.pause()?;
                        socket.set_timer(Some(ms(20)))?;
                    }
                    _ => socket.pause()?,
                }
                Ok(())
            });
            let (hooks, reasons) = hooks.telling_reasons();
            let server = start(non_blocking(1).linger_timeout(ms(20)), hooks);
            let _client = Client::connect(&server).saying("one byte is read, and these are not");
            calls.next();
            if end == "cut" {
                cut(&server, ms(0));
            }
            reasons.next();
            calls.none();
        }
    });
}

/// A1.3: A reset that the loop meets when it looks for more input by itself is reported to the
/// handler, and is no end of the stream.
#[test]
fn a_reset_met_by_a_look_for_input() {
    isolated(|| {
        let (first, second) = (Gate::new(), Gate::new());
        let (inside, then) = (first.clone(), second.clone());
        let (log, ends) = events();
        let hooks = Hooks::new(move |_, socket| {
            let mut byte = [0];
            // As much as there is room for: there may be more.
            match socket.recv(&mut byte) {
                Ok(1) if byte == *b"a" => inside.wait(),
                Ok(1) => then.wait(),
                result => {
                    log.add((status(result), socket.os_error()));
                    socket.close();
                }
            }
            Ok(())
        });
        let server = start(non_blocking(1), hooks);
        let (mut one, mut other) =
            (Client::connect(&server).settled(), Client::connect(&server).settled());
        one.send("a");
        first.reached_by(1);
        // Its event comes with the next turn, in which the first one is looked at after it.
        other.send("b");
        first.open();
        second.reached_by(1);
        one.reset();
        second.open();
        assert_eq!(ends.next(), (Status::Reset, libc::ECONNRESET));
        drop(other);
        wait_idle(&server);
    });
}

/// A1.2: A failed connection whose handler reads nothing ends; the handler is not called again and
/// again.
#[test]
fn a_handler_that_reads_nothing_after_a_reset() {
    isolated(|| {
        let (log, calls) = events();
        let hooks = Hooks::new(move |_, _| Ok(log.add(())));
        let (hooks, reasons) = hooks.telling_reasons();
        let server = start(non_blocking(1), hooks);
        let client = Client::connect(&server).saying("first");
        calls.next();
        client.reset();
        assert_eq!(reasons.next(), CloseReason::Reset);
        assert!(calls.drain().len() <= 1);
        wait_idle(&server);
    });
}

/// A2.2: A deadline that drops a queue ends with a reset, never with an end that says that
/// everything was sent. With nothing queued the end is in order.
#[test]
fn a_deadline_with_bytes_queued_resets() {
    isolated(|| {
        for by_timer in [false, true] {
            for queued in [false, true] {
                let hooks = Hooks::new(move |_, socket| {
                    if text(socket)? == "much" {
                        socket.send(&pattern(BULK))?;
                    }
                    if by_timer {
                        socket.set_timer(Some(ms(300)))?;
                    }
                    Ok(())
                });
                let (hooks, reasons) = hooks.telling_reasons();
                let idle = (!by_timer).then_some(ms(300));
                let server = start(non_blocking(1).idle_timeout(idle), hooks);
                let mut client = Client::small(&server);
                client.send(if queued { "much" } else { "some" });
                let expected = if by_timer { CloseReason::Timer } else { CloseReason::Idle };
                assert_eq!(reasons.next(), expected);
                match queued {
                    true => client.expect_reset(),
                    false => client.expect_end(),
                }
                wait_idle(&server);
            }
        }
    });
}

/// A10.3: The idle timeout holds while the queue of a closed connection leaves.
#[test]
fn the_idle_timeout_while_a_close_flushes() {
    isolated(|| {
        let (hooks, reasons) = Hooks::new(bulk_and_close).telling_reasons();
        let server = start(non_blocking(1).idle_timeout(ms(300)), hooks);
        let mut client = Client::small(&server).saying("x");
        assert_eq!(reasons.next(), CloseReason::Idle);
        client.expect_reset();
        wait_idle(&server);
    });
}

/// A11.2: `on_drain` comes once for each queue that has left, however it left. Bytes by id are a
/// queue, a `sendv` behind a queue is part of it, and a send that the kernel takes whole is none.
#[test]
fn on_drain_however_it_left() {
    isolated(|| {
        let (log, drained) = events();
        let hooks = Hooks::new(|server: &Server, socket| {
            match text(socket)?.as_str() {
                "directly" => socket.send(b"little")?,
                "by id" => server.send(socket.id(), b"little").unwrap(),
                "by id, collected" => {
                    server.send(socket.id(), b"li").unwrap();
                    socket.send(b"ttle")?;
                }
                _ => {
                    socket.send(&pattern(BULK))?;
                    let piece = pattern(20_000);
                    let pieces = [std::io::IoSlice::new(&piece), std::io::IoSlice::new(&piece)];
                    socket.sendv(&pieces)?;
                }
            }
            Ok(())
        })
        .on_drain(move |_, socket| log.add(socket.queued()));
        let server = start(non_blocking(1), hooks);
        let mut client = Client::small(&server);
        for (how, len, count) in [
            ("directly", 6, 0),
            ("by id", 6, 1),
            ("by id, collected", 6, 1),
            ("much", BULK + 40_000, 1),
        ] {
            client.send(how);
            client.receive(len);
            assert_eq!(drained.take(count), vec![0; count], "{how}");
            drained.none();
        }
    });
}

/// A7: The stack does not grow with what arrives while `on_open` fails.
#[test]
fn a_failing_on_open_does_not_nest() {
    isolated_for(30, || {
        let lowest = Arc::new(Mutex::new(std::collections::HashMap::new()));
        let addresses = lowest.clone();
        let hooks = Hooks::new(echo).on_open(move |_, _| {
            let here = 0_u8;
            let address = std::ptr::from_ref(&here) as usize;
            let mut all = addresses.lock().unwrap();
            let thread = std::thread::current().name().unwrap_or_default().to_string();
            let range = all.entry(thread).or_insert((address, address));
            *range = (range.0.min(address), range.1.max(address));
            Err(Error::from(Status::Handler))
        });
        let server = start(non_blocking(2), hooks);
        // One loop has these; the other one gets those that fail.
        let _hold: Vec<_> = (0..1).map(|_| Client::connect(&server)).collect();
        let clock = Stopwatch::start();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    while clock.elapsed() < ms(1500) {
                        if let Ok(client) = Client::try_to(("127.0.0.1", server.port())) {
                            client.reset();
                        }
                    }
                });
            }
        });
        for (thread, (least, most)) in &*lowest.lock().unwrap() {
            assert!(most - least < 64 << 10, "{} bytes apart on {thread}", most - least);
        }
    });
}

/// A12.1: Urgent data is no input: it calls no handler by itself, and input beside it is read.
#[test]
fn urgent_data_is_no_input() {
    isolated(|| {
        if crate::api::TLS {
            return;
        }
        let (log, calls) = events();
        let hooks = Hooks::new(move |_, socket| {
            let (bytes, _) = available(socket)?;
            Ok(log.add(bytes))
        });
        let server = start(non_blocking(1), hooks);
        let mut client = Client::connect(&server);
        client.send("a");
        assert_eq!(calls.next(), b"a");
        for _ in 0..3 {
            socket2::SockRef::from(&client.0).send_out_of_band(b"!").unwrap();
            calls.none();
        }
        client.send("b");
        assert_eq!(calls.next(), b"b");
        calls.none();
    });
}
