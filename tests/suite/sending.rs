//! `send`, the outbound queue and back-pressure.

use crate::api::{CloseReason, Hooks, Status};
use crate::support::*;
use std::io::IoSlice;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;

/// Q1: `send` takes everything: what the kernel does not take is queued and written as the peer
/// reads; `on_drain` runs when the queue is empty again.
#[test]
fn what_the_kernel_does_not_take_is_queued() {
    isolated(|| {
        let (log, seen) = events();
        let drained = log.clone();
        let hooks = Hooks::new(move |_, socket| {
            text(socket)?;
            socket.send(&pattern(BULK))?;
            log.add(("sent", socket.queued()));
            Ok(())
        })
        .on_drain(move |_, socket| drained.add(("drained", socket.queued())));
        let server = start(non_blocking(1), hooks);
        let mut client = Client::small(&server).saying("x");
        let (what, queued) = seen.next();
        assert_eq!(what, "sent");
        assert!(queued > 0 && queued < BULK, "{queued} bytes queued");
        seen.none();
        assert!(client.receive(BULK) == pattern(BULK));
        assert_eq!(seen.next(), ("drained", 0));
        seen.none();
        assert_bytes(server.stats().bytes_out, BULK as u64, 1);
    });
}

/// Q2: `on_drain` comes each time the queue has become empty, and never without a queue.
#[test]
fn on_drain_each_time() {
    isolated(|| {
        let (log, drained) = events();
        let hooks = Hooks::new(bulk_or_echo).on_drain(move |_, _| log.add(()));
        let server = start(non_blocking(1), hooks);
        let mut client = Client::small(&server);
        client.echo("little");
        drained.none();
        for _ in 0..2 {
            client.send("much");
            assert!(client.receive(BULK) == pattern(BULK));
            drained.next();
        }
        drained.none();
    });
}

/// Q2: A handler may keep a stream going from `on_drain`.
#[test]
fn sending_from_on_drain() {
    isolated(|| {
        const ROUNDS: usize = 4;
        let rounds = Arc::new(AtomicUsize::new(1));
        let hooks = Hooks::new(bulk).on_drain(move |_, socket| {
            match rounds.fetch_add(1, Ordering::SeqCst) {
                ROUNDS => socket.close(),
                _ => socket.send(&pattern(BULK)).unwrap(),
            }
        });
        let server = start(non_blocking(1), hooks);
        let mut client = Client::small(&server).saying("x");
        for _ in 0..ROUNDS {
            assert!(client.receive(BULK) == pattern(BULK));
        }
        client.expect_end();
    });
}

/// Q3, A2.1: A `send` that would pass `send_limit` is NS_ERR_BUFFER_FULL and sends nothing: the
/// client gets all pieces that were accepted and no part of another.
#[test]
fn send_is_all_or_nothing() {
    isolated(|| {
        const PIECE: usize = 300 << 10;
        let (log, accepted) = events();
        let hooks = Hooks::new(move |_, socket| {
            text(socket)?;
            let mut count = 0;
            for number in 0..40u8 {
                match socket.send(&vec![number; PIECE]) {
                    Ok(()) => count += 1,
                    Err(error) => {
                        assert_eq!(error.status(), Status::BufferFull);
                        assert!(socket.queued() + PIECE > 1 << 20);
                    }
                }
                assert!(socket.queued() <= 1 << 20, "{} queued", socket.queued());
            }
            // A smaller piece may still have room; the connection is not harmed.
            socket.send(b"").unwrap();
            log.add(count);
            socket.close();
            Ok(())
        });
        let config = non_blocking(1).send_limit(1 << 20).high_water_mark(64 << 10);
        let server = start(config.linger_timeout(ms(10_000)), hooks);
        let mut client = Client::small(&server).saying("x");
        let count: usize = accepted.next();
        assert!((3..40).contains(&count), "{count} pieces accepted");
        let received = client.rest();
        assert_eq!(received.len(), count * PIECE);
        for piece in received.chunks(PIECE) {
            assert!(piece.iter().all(|byte| *byte == piece[0]));
        }
    });
}

/// Q3: One piece above the limit is refused even on an empty queue, and never sent in part.
#[test]
fn a_piece_beyond_the_limit() {
    isolated(|| {
        let (log, results) = events();
        let hooks = Hooks::new(move |_, socket| {
            text(socket)?;
            let result = status(socket.send(&pattern(BULK)));
            socket.send(b"end")?;
            log.add(result);
            socket.close();
            Ok(())
        });
        let config = non_blocking(1).send_limit(1 << 20).linger_timeout(ms(10_000));
        let server = start(config, hooks);
        let mut client = Client::small(&server).saying("x");
        assert_eq!(results.next(), Status::BufferFull);
        client.expect_last("end");
    });
}

/// Q4: Several buffers go out as one, in order.
#[test]
fn sendv_sends_all_parts() {
    isolated(|| {
        for config in both_modes() {
            let hooks = Hooks::new(|_, socket| {
                text(socket)?;
                let bulk = pattern(BULK);
                let parts = [&b"head "[..], b"", &bulk, b" tail"].map(IoSlice::new);
                socket.sendv(&parts)?;
                socket.sendv(&[])?;
                socket.close();
                Ok(())
            });
            let server = start(config.linger_timeout(ms(10_000)), hooks);
            let mut client = Client::small(&server).saying("x");
            let expected = [&b"head "[..], &pattern(BULK), b" tail"].concat();
            assert!(client.rest() == expected);
        }
    });
}

/// Q5: Above the high-water mark the connection is not read and the handler is not called, until
/// the queue is below half of it.
#[test]
fn not_read_above_the_high_water_mark() {
    isolated(|| {
        const MARK: usize = 1 << 20;
        let (log, seen) = events();
        let hooks = Hooks::new(move |_, socket| {
            let queued = socket.queued();
            let text = text(socket)?;
            if text == "much" {
                socket.send(&pattern(BULK))?;
                // Above the mark `recv` would block without looking.
                eventually("more arrives", || bytes_waiting(socket.raw_fd()) > 0);
                assert_eq!(status(socket.recv(&mut [0; 64])), Status::WouldBlock);
            }
            log.add((text, queued));
            Ok(())
        });
        let server = start(non_blocking(1).high_water_mark(MARK), hooks);
        let mut client = Client::small(&server).saying("much");
        client.receive(1);
        client.send("question");
        assert_eq!(seen.next(), ("much".into(), 0));
        seen.none();
        client.receive(BULK - 1);
        let (text, queued) = seen.next();
        assert_eq!(text, "question");
        assert!(queued <= MARK / 2, "called with {queued} bytes queued");
    });
}

/// Q6: An echo handler that knows nothing of back-pressure has bounded memory, and loses nothing
/// when the peer reads at last.
#[test]
fn an_echo_handler_has_bounded_memory() {
    isolated(|| {
        let server = start(non_blocking(1), Hooks::new(echo));
        let mut client = Client::small(&server).settled();
        let before = resident_kib();
        let sent = client.send_until_blocked(1 << 30);
        assert!(sent < 1 << 30, "nothing ever blocked");
        let grown = resident_kib().saturating_sub(before);
        assert!(grown < 16 << 10, "{grown} KiB more after {sent} bytes");
        let stats = server.stats();
        let held = stats.bytes_in - stats.bytes_out;
        assert!(held <= (256 << 10) + (1 << 20), "{held} bytes held");
        client.finish_sending();
        assert_eq!(client.drain().unwrap(), sent);
        wait_idle(&server);
    });
}

/// W7: A blocking echo handler has bounded memory, because `send` waits.
#[test]
fn a_blocking_echo_handler_has_bounded_memory() {
    isolated(|| {
        let server = start(blocking(1), Hooks::new(echo));
        let mut client = Client::small(&server).settled();
        let before = resident_kib();
        let sent = client.send_until_blocked(1 << 30);
        assert!(sent < 1 << 30, "nothing ever blocked");
        let grown = resident_kib().saturating_sub(before);
        assert!(grown < 8 << 10, "{grown} KiB more after {sent} bytes");
        client.finish_sending();
        assert_eq!(client.drain().unwrap(), sent);
        wait_idle(&server);
    });
}

/// Q7: An error met in `send` closes from the loop, not inside the call.
#[test]
fn an_error_in_send_closes_from_the_loop() {
    isolated(|| {
        let (log, seen) = events();
        let closed = log.clone();
        let gate = Gate::new();
        let inside = gate.clone();
        let hooks = Hooks::new(move |_, socket| {
            inside.wait();
            // The peer is gone: one of these meets the reset.
            for _ in 0..100 {
                if socket.send(&[1; 10_000]).is_err() {
                    break;
                }
            }
            log.add(None);
            Ok(())
        })
        .on_close(move |_, _, reason| closed.add(Some(reason)));
        let server = start(non_blocking(1), hooks);
        let client = Client::connect(&server).saying("x");
        gate.reached_by(1);
        client.reset();
        gate.open();
        assert_eq!(seen.next(), None, "the handler returns first");
        // It may be called once more, to read the error.
        let last = std::iter::repeat_with(|| seen.next()).find(Option::is_some);
        assert_eq!(last, Some(Some(CloseReason::Reset)));
        wait_idle(&server);
    });
}

/// Q4: Sending nothing is allowed and sends nothing.
#[test]
fn empty_sends() {
    isolated(|| {
        for config in both_modes() {
            let hooks = Hooks::new(|_, socket| {
                text(socket)?;
                socket.send(b"")?;
                socket.send(b"x")?;
                socket.send(b"")?;
                socket.close();
                Ok(())
            });
            let server = start(config, hooks);
            let mut client = Client::connect(&server).saying("x");
            client.expect_last("x");
        }
    });
}
