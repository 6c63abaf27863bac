//! `on_close` runs exactly once, last, with the reason; closes are counted by reason.

use crate::api::{CloseReason, Config, Hooks, Server, Socket};
use crate::support::*;
use std::sync::{Arc, Mutex};

/// A server whose handler does what a client says, and whose `on_close` reports.
fn obedient(config: Config) -> (Server, Events<(CloseReason, bool)>) {
    let (log, closes) = events();
    let hooks = Hooks::new(|server: &Server, socket| obey(server, socket))
        .on_open(|_, socket| {
            socket.set_user_data(String::from("opened"));
            Ok(())
        })
        .on_close(move |_, socket, reason| {
            // The object is still valid; nothing can be sent.
            let intact = socket.user_data::<String>().is_some()
                && socket.peer().is_some()
                && socket.send(b"x").is_err();
            log.add((reason, intact));
        });
    (start(config, hooks), closes)
}

fn obey(server: &Server, socket: &mut Socket<'_>) -> Result<(), crate::api::Error> {
    match text(socket)?.as_str() {
        "close" | "" => socket.close(),
        "abort" => socket.abort(),
        "fail" => return Err("failed".into()),
        "panic" => panic!("on purpose"),
        "timer" => socket.set_timer(Some(ms(20)))?,
        "close by id" => server.close(socket.id())?,
        "abort by id" => server.abort(socket.id())?,
        "much" => socket.send(&pattern(BULK))?,
        _ => {}
    }
    Ok(())
}

/// C9: `on_close` gets the reason for which a connection of a loop ended; each reason once.
#[test]
fn on_close_tells_the_reason() {
    isolated(|| {
        let config = non_blocking(2).write_timeout(ms(150));
        let (server, closes) = obedient(config);
        let cases = [
            ("close", CloseReason::Handler),
            ("close by id", CloseReason::Handler),
            ("abort", CloseReason::Abort),
            ("abort by id", CloseReason::Abort),
            ("fail", CloseReason::Error),
            ("panic", CloseReason::Error),
            ("timer", CloseReason::Timer),
            ("much", CloseReason::WriteTimeout),
        ];
        for (command, reason) in cases {
            let mut client = Client::small(&server).saying(command);
            if command == "much" {
                assert_eq!(closes.next(), (reason, true), "{command}");
            }
            client.expect_gone();
            drop(client);
            if command != "much" {
                assert_eq!(closes.next(), (reason, true), "{command}");
            }
        }
        let mut client = Client::connect(&server);
        client.finish_sending();
        assert_eq!(closes.next(), (CloseReason::Peer, true));
        drop(client);
        let client = Client::connect(&server).settled().saying("hello");
        eventually("it is open", || server.stats().open == 1);
        client.reset();
        assert_eq!(closes.next(), (CloseReason::Reset, true));
        wait_idle(&server);
        closes.none();
        let stats = server.stats();
        let expected = [
            (CloseReason::Handler, 2),
            (CloseReason::Abort, 2),
            (CloseReason::Error, 2),
            (CloseReason::Timer, 1),
            (CloseReason::WriteTimeout, 1),
            (CloseReason::Peer, 1),
            (CloseReason::Reset, 1),
        ];
        for (reason, count) in expected {
            assert_eq!(stats.closed[reason as usize], count, "{reason:?}");
        }
        assert_eq!(stats.closed_total(), 10);
    });
}

/// C9: `on_close` gets the reason of an idle timeout.
#[test]
fn on_close_tells_idleness() {
    isolated(|| {
        let (server, closes) = obedient(non_blocking(1).idle_timeout(ms(80)));
        let mut client = Client::connect(&server);
        client.expect_gone();
        drop(client);
        assert_eq!(closes.next(), (CloseReason::Idle, true));
        wait_idle(&server);
        assert_eq!(server.stats().closed[CloseReason::Idle as usize], 1);
    });
}

/// C9: `on_close` gets the reason in blocking mode, too.
#[test]
fn on_close_in_blocking_mode() {
    isolated(|| {
        let (server, closes) = obedient(blocking(2));
        let cases = [
            ("close", CloseReason::Handler),
            ("return", CloseReason::Handler),
            ("abort", CloseReason::Abort),
            ("fail", CloseReason::Error),
            ("panic", CloseReason::Error),
            ("close by id", CloseReason::Handler),
            ("abort by id", CloseReason::Abort),
        ];
        for (command, reason) in cases {
            let mut client = Client::connect(&server).saying(command);
            client.expect_gone();
            drop(client);
            assert_eq!(closes.next(), (reason, true), "{command}");
        }
        wait_idle(&server);
        closes.none();
        assert_eq!(server.stats().closed_total(), cases.len() as u64);
    });
}

/// C10, A12.2: `on_close` is the last callback of a connection, and `on_open` the first.
#[test]
fn on_open_first_and_on_close_last() {
    isolated(|| {
        for config in both_modes() {
            let calls: Arc<Mutex<Vec<&str>>> = Arc::default();
            let add = |name: &'static str| {
                let calls = calls.clone();
                move || calls.lock().unwrap().push(name)
            };
            let (handler, open, close) = (add("handler"), add("open"), add("close"));
            let (timeout, wake) = (add("timeout"), add("wake"));
            let hooks = Hooks::new(move |server, socket| {
                handler();
                let id = socket.id();
                let _ = server.wake(id);
                let _ = socket.set_timer(Some(ms(0)));
                text(socket)?;
                socket.close();
                Ok(())
            })
            .on_open(move |_, _| {
                open();
                Ok(())
            })
            .on_wake(move |_, _| wake())
            .on_timeout(move |_, _| timeout())
            .on_close(move |_, _, _| close());
            let server = start(config, hooks);
            let mut client = Client::connect(&server).saying("x");
            client.expect_end();
            drop(client);
            wait_idle(&server);
            server.stop().unwrap();
            let calls = calls.lock().unwrap().clone();
            assert_eq!(calls.first(), Some(&"open"), "{calls:?}");
            assert_eq!(calls.last(), Some(&"close"), "{calls:?}");
            assert_eq!(calls.iter().filter(|name| **name == "close").count(), 1);
        }
    });
}

/// C11: A negative return of `on_open` closes the connection; its handler is never called.
#[test]
fn a_failing_on_open_closes() {
    isolated(|| {
        for config in both_modes() {
            let (log, calls) = events();
            let closed = log.clone();
            let hooks = Hooks::new(move |_, _| {
                log.add(None);
                Ok(())
            })
            .on_open(|_, socket| {
                socket.send(b"no")?;
                Err("not you".into())
            })
            .on_close(move |_, _, reason| closed.add(Some(reason)));
            let server = start(config, hooks);
            let mut client = Client::connect(&server);
            client.expect_last("no");
            drop(client);
            assert_eq!(calls.next(), Some(CloseReason::Error));
            wait_idle(&server);
            assert!(calls.drain().is_empty());
        }
    });
}

/// G8, A12.2: User data is dropped exactly once, after `on_close`.
#[test]
fn user_data_is_dropped_after_on_close() {
    isolated(|| {
        for config in both_modes() {
            let data = Arc::new(());
            let (first, second) = (data.clone(), data.clone());
            let hooks = Hooks::new(obey)
                .on_open(move |_, socket| {
                    socket.set_user_data(String::from("replaced at once"));
                    socket.set_user_data(first.clone());
                    assert!(socket.user_data::<String>().is_none());
                    assert!(socket.user_data_mut::<Arc<()>>().is_some());
                    Ok(())
                })
                .on_close(move |_, socket, _| {
                    assert!(Arc::ptr_eq(socket.user_data::<Arc<()>>().unwrap(), &second));
                });
            let server = start(config, hooks);
            let shared = Arc::strong_count(&data);
            for command in ["close", "abort", "panic", "fail"] {
                let mut client = Client::connect(&server);
                eventually("it is open", || Arc::strong_count(&data) == shared + 1);
                client.send(command);
                client.expect_gone();
                drop(client);
                eventually("it is dropped", || Arc::strong_count(&data) == shared);
            }
            let _open = Client::connect(&server);
            eventually("it is open", || Arc::strong_count(&data) == shared + 1);
            cut(&server, ms(50));
            assert_eq!(Arc::strong_count(&data), shared);
            drop(server);
            assert_eq!(Arc::strong_count(&data), 1, "and the callbacks with the server");
        }
    });
}

/// G9: User data can be taken back.
#[test]
fn user_data_can_be_taken() {
    isolated(|| {
        let (log, seen) = events();
        let hooks = Hooks::new(move |_, socket| {
            text(socket)?;
            assert_eq!(socket.take_user_data::<u8>(), None, "another type");
            *socket.user_data_mut::<u32>().unwrap() += 1;
            log.add((socket.take_user_data::<u32>(), socket.take_user_data::<u32>()));
            Ok(())
        })
        .on_open(|_, socket| {
            assert!(socket.user_data::<u32>().is_none());
            socket.set_user_data(41u32);
            Ok(())
        });
        let server = start(non_blocking(1), hooks);
        Client::connect(&server).send("x");
        assert_eq!(seen.next(), (Some(42), None));
    });
}
