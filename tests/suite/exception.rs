//! The exception handler.

use crate::api::{CloseReason, Error, Hooks, Server, Status};
use crate::support::*;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// The error that an exception handler got.
#[derive(Clone, Debug, PartialEq)]
struct Told {
    status: Status,
    code: i32,
    message: String,
}

fn told(error: &Error) -> Told {
    Told { status: error.status(), code: error.handler_code(), message: error.message().to_owned() }
}

/// X1, X2: The exception handler gets the status, code and message of the handler's failure.
/// `ns_raise` returns a negative number: the code where that is negative, else −1.
#[test]
fn what_the_handler_raised_arrives() {
    isolated(|| {
        for config in both_modes() {
            let (log, errors) = events();
            let hooks = Hooks::new(|_, socket| {
                let code: i32 = text(socket)?.parse().unwrap();
                Err(Error::raise(code, format!("about {code}")))
            })
            .on_exception(move |_, socket, error| {
                log.add(told(error));
                socket.unwrap().close();
                Ok(())
            });
            let server = start(config, hooks);
            for (raised, code, status) in [
                (-7, -7, Status::Handler),
                (-1, -1, Status::Handler),
                (5, -1, Status::Handler),
                (0, -1, Status::Handler),
                (i32::MIN, i32::MIN, Status::Handler),
                (-1003, -1003, Status::Timeout),
            ] {
                let mut client = Client::connect(&server).saying(raised.to_string());
                let message = format!("about {raised}");
                assert_eq!(errors.next(), Told { status, code, message });
                client.expect_end();
            }
            assert_eq!(server.stats().handler_errors, 6);
        }
    });
}

/// X3: A panic is contained and reported as NS_ERR_PANIC.
#[test]
fn a_panic_is_contained() {
    isolated(|| {
        for config in both_modes() {
            let (log, errors) = events();
            let hooks = Hooks::new(|_, socket| match text(socket)?.as_str() {
                "panic" => panic!("on purpose"),
                other => socket.send(other.as_bytes()),
            })
            .on_exception(move |_, socket, error| {
                log.add(error.status());
                socket.unwrap().send(b"sorry")
            });
            let server = start(config, hooks);
            let mut other = Client::connect(&server);
            for _ in 0..3 {
                let mut client = Client::connect(&server).saying("panic");
                // It closes although the exception handler left it open.
                client.expect_last("sorry");
                assert_eq!(errors.next(), Status::Panic);
            }
            other.echo("that connection alone");
        }
    });
}

/// X4: In non-blocking mode the socket stays open after a failure unless the exception handler
/// closes it.
#[test]
fn the_socket_stays_open_after_a_failure() {
    isolated(|| {
        let hooks = Hooks::new(|_, socket| match text(socket)?.as_str() {
            "" => Ok(socket.close()),
            other => Err(other.into()),
        })
        .on_exception(|_, socket, error| {
            let socket = socket.unwrap();
            socket.send(error.message().as_bytes())?;
            if error.message() == "close" {
                socket.close();
            }
            Ok(())
        });
        let server = start(non_blocking(1), hooks);
        let mut client = Client::connect(&server);
        client.echo("one");
        client.echo("two");
        client.send("close");
        client.expect_last("close");
        drop(client);
        wait_idle(&server);
        assert_eq!(server.stats().handler_errors, 3);
    });
}

/// X5: Without an exception handler a failure closes the socket.
#[test]
fn without_an_exception_handler_a_failure_closes() {
    isolated(|| {
        for config in both_modes() {
            let (hooks, reasons) = Hooks::new(|_, socket| {
                text(socket)?;
                Err("failed".into())
            })
            .telling_reasons();
            let server = start(config, hooks);
            let mut client = Client::connect(&server).saying("x");
            client.expect_end();
            drop(client);
            assert_eq!(reasons.next(), CloseReason::Error);
        }
    });
}

/// X6, A1.1: After a reset the handler is called once more: `recv` returns what had arrived, then
/// the error. The connection closes whatever the exception handler does.
#[test]
fn a_reset_is_told_after_what_had_arrived() {
    isolated(|| {
        let (log, seen) = events();
        let (reason_log, reasons) = events();
        let gate = Gate::new();
        let inside = gate.clone();
        let hooks = Hooks::new(move |_, socket| {
            let mut buffer = [0; 64];
            loop {
                match socket.recv(&mut buffer) {
                    Ok(0) => return Ok(socket.close()),
                    Ok(4) if &buffer[..4] == b"hold" => inside.wait(),
                    Ok(n) => log.add(Ok(String::from_utf8_lossy(&buffer[..n]).into_owned())),
                    Err(error) if error.status() == Status::WouldBlock => return Ok(()),
                    Err(error) => {
                        log.add(Err(error.status()));
                        return Err(error);
                    }
                }
            }
        })
        .on_exception(|_, _, _| Ok(()))
        .on_close(move |_, socket, reason| reason_log.add((reason, socket.os_error())));
        let server = start(non_blocking(1), hooks);
        let mut holder = Client::connect(&server).settled();
        let mut client = Client::connect(&server).settled();
        eventually("both are open", || server.stats().open == 2);
        holder.send("hold");
        gate.reached_by(1);
        client.send("last words");
        client.reset();
        gate.open();
        assert_eq!(seen.next(), Ok("last words".into()));
        assert_eq!(seen.next(), Err(Status::Reset));
        assert_eq!(reasons.next(), (CloseReason::Reset, libc::ECONNRESET));
        holder.send("still served");
        assert_eq!(seen.next(), Ok("still served".into()));
    });
}

/// A21.2: A status that the connection itself has produced and the handler returns is reported with
/// its reason and the code of the operating system.
#[test]
fn a_reset_is_told_with_its_reason() {
    isolated(|| {
        for config in both_modes() {
            let (log, told) = events();
            let hooks = Hooks::new(|_, socket| {
                let mut buffer = [0; 64];
                while socket.recv(&mut buffer)? > 0 {}
                Ok(socket.close())
            })
            .on_exception(move |_, _, error| {
                log.add((error.status(), error.os_code(), error.message().to_owned()));
                Ok(())
            });
            let server = start(config, hooks);
            Client::connect(&server).settled().saying("some words").reset();
            let (status, code, message) = told.next();
            assert_eq!((status, code), (Status::Reset, libc::ECONNRESET), "{message}");
            assert!(message.starts_with("the connection was reset: "), "{message}");
            wait_idle(&server);
        }
    });
}

/// X14: A status that the connection did not produce is the handler's own.
#[test]
fn a_status_of_the_handlers_own_has_no_reason() {
    isolated(|| {
        for config in both_modes() {
            let (log, told) = events();
            let hooks = Hooks::new(|_, socket| {
                text(socket)?;
                Err(Status::Reset.into())
            })
            .on_exception(move |_, _, error| Ok(log.add((error.status(), error.os_code()))));
            let server = start(config, hooks);
            let _client = Client::connect(&server).saying("x");
            assert_eq!(told.next(), (Status::Reset, 0));
        }
    });
}

/// X8: `ns_socket_id` is valid in the exception handler and returns the id that the handler saw.
#[test]
fn the_id_is_the_one_the_handler_saw() {
    isolated(|| {
        for config in both_modes() {
            let (log, ids) = events();
            let exception = log.clone();
            let hooks = Hooks::new(move |_, socket| {
                text(socket)?;
                log.add(socket.id());
                Err("failed".into())
            })
            .on_exception(move |_, socket, _| {
                let socket = socket.unwrap();
                exception.add(socket.id());
                socket.close();
                Ok(())
            });
            let server = start(config, hooks);
            for _ in 0..3 {
                let mut client = Client::connect(&server).saying("x");
                client.expect_end();
                assert_eq!(ids.next(), ids.next());
            }
        }
    });
}

/// X9: An exception handler that fails itself is counted and contained.
#[test]
fn a_failing_exception_handler_is_contained() {
    isolated(|| {
        for config in both_modes() {
            let hooks = Hooks::new(|_, socket| match text(socket)?.as_str() {
                "" => Ok(socket.close()),
                "fail" | "panic" => {
                    socket.set_user_data(());
                    Err("first".into())
                }
                other => socket.send(other.as_bytes()),
            })
            .on_exception(|_, socket, _| {
                let socket = socket.unwrap();
                socket.close();
                match socket.id().get() % 2 {
                    0 => Err("second".into()),
                    _ => panic!("on purpose"),
                }
            });
            let server = start(config, hooks);
            for _ in 0..4 {
                let mut client = Client::connect(&server).saying("fail");
                client.expect_gone();
            }
            wait_idle(&server);
            let errors = server.stats().handler_errors;
            assert_eq!(errors, 8, "the handler's and the exception handler's");
            Client::connect(&server).echo("still served");
        }
    });
}

/// X3, A12.3: A panic in any other callback of a connection is contained as well and closes it.
#[test]
fn a_panic_in_a_hook_is_contained() {
    isolated(|| {
        for callback in ["on_open", "on_wake", "on_timeout", "on_drain", "on_close"] {
            let (log, errors) = events();
            let here = move |name: &str| assert_ne!(name, callback, "on purpose");
            let hooks = Hooks::new(|server: &Server, socket| {
                match text(socket)?.as_str() {
                    "on_wake" => server.wake(socket.id())?,
                    "on_timeout" => socket.set_timer(Some(ms(1)))?,
                    "on_drain" => socket.send(&pattern(BULK))?,
                    _ => socket.close(),
                }
                Ok(())
            })
            .on_open(move |_, _| {
                here("on_open");
                Ok(())
            })
            .on_wake(move |_, _| here("on_wake"))
            .on_timeout(move |_, _| here("on_timeout"))
            .on_drain(move |_, _| here("on_drain"))
            .on_close(move |_, _, _| here("on_close"))
            .on_exception(move |_, _, error| {
                log.add(error.status());
                Ok(())
            });
            let server = start(non_blocking(1), hooks);
            let mut client = Client::small(&server);
            if callback != "on_open" {
                client.send(callback);
            }
            client.expect_gone();
            drop(client);
            wait_idle(&server);
            server.stop().unwrap();
            // After `on_close` nobody can be informed.
            let expected = if callback == "on_close" { vec![] } else { vec![Status::Panic] };
            assert_eq!(errors.drain(), expected, "{callback}");
            assert_eq!(server.stats().handler_errors, 1, "{callback}");
        }
    });
}

/// C12: With `NS_ERR_REJECTED` `on_open` refuses a connection: what it sent arrives, the exception
/// handler is not called, and nothing is counted as a failure.
#[test]
fn on_open_refuses_a_connection() {
    isolated(|| {
        for config in both_modes() {
            let (log, reasons) = events();
            let hooks = Hooks::new(|_, _| panic!("it was refused"))
                .on_open(|_, socket| {
                    socket.send(b"full")?;
                    Err(Status::Rejected.into())
                })
                .on_exception(|_, _, error| panic!("{}", error.message()))
                .on_close(move |_, _, reason| log.add(reason));
            let server = start(config, hooks);
            let mut client = Client::connect(&server);
            client.expect("full");
            client.expect_end();
            drop(client);
            assert_eq!(reasons.next(), CloseReason::Rejected);
            wait_idle(&server);
            server.stop().unwrap();
            let stats = server.stats();
            assert_eq!((stats.handler_errors, stats.accepted, stats.refused), (0, 1, 0));
            assert_eq!(stats.closed[CloseReason::Rejected as usize], 1);
        }
    });
}

/// X16: A reset by the peer that the handler passes on is reported, and counts as no failure of the
/// handler. A reset of the handler's own does.
#[test]
fn a_reset_is_no_failure_of_the_handler() {
    isolated(|| {
        for config in both_modes() {
            let (log, errors) = events();
            let (arrived, input) = events();
            let hooks = Hooks::new(move |_, socket| loop {
                match text(socket)?.as_str() {
                    "own" => return Err(Status::Reset.into()),
                    "" => {
                        socket.close();
                        return Ok(());
                    }
                    _ => arrived.add(()),
                }
            })
            .on_exception(move |_, socket, error| {
                log.add(error.status());
                socket.expect("a socket").close();
                Ok(())
            });
            let server = start(config, hooks);
            let client = Client::connect(&server).saying("x");
            input.next();
            client.reset();
            assert_eq!(errors.next(), Status::Reset);
            wait_idle(&server);
            assert_eq!((server.stats().handler_errors, server.stats().peer_resets), (0, 1));
            let mut client = Client::connect(&server).saying("own");
            client.expect_gone();
            drop(client);
            wait_idle(&server);
            assert_eq!((server.stats().handler_errors, server.stats().peer_resets), (1, 1));
        }
    });
}

/// X15: `on_drain`, `on_timeout` and `on_wake` fail as the handler does: the exception handler gets
/// the error, and the socket stays open; without one the connection closes. Would-block is no
/// failure.
#[test]
fn an_event_callback_fails_as_the_handler_does() {
    isolated(|| {
        for callback in ["on_wake", "on_timeout", "on_drain"] {
            for (failure, reported) in [(Status::Handler, true), (Status::WouldBlock, false)] {
                let (log, errors) = events();
                let (ran, runs) = events();
                // Once: what the exception handler sends may be queued, and drain too.
                let fail = move |name: &str, (ran, again): &(Log<()>, AtomicBool)| {
                    if name != callback || again.swap(true, Ordering::SeqCst) {
                        return Ok(());
                    }
                    ran.add(());
                    Err(if reported { "on purpose".into() } else { Error::from(failure) })
                };
                let hooks = || {
                    let [wake, timeout, drain] =
                        [(); 3].map(|()| (ran.clone(), AtomicBool::new(false)));
                    Hooks::new(|server: &Server, socket| {
                        match text(socket)?.as_str() {
                            "on_wake" => server.wake(socket.id())?,
                            "on_timeout" => socket.set_timer(Some(ms(1)))?,
                            "on_drain" => socket.send(&pattern(BULK))?,
                            "" => socket.close(),
                            other => socket.send(other.as_bytes())?,
                        }
                        Ok(())
                    })
                    .on_wake(move |_, _| fail("on_wake", &wake))
                    .on_timeout(move |_, _| fail("on_timeout", &timeout))
                    .on_drain(move |_, _| fail("on_drain", &drain))
                };
                let told = hooks().on_exception(move |_, socket, error| {
                    log.add((error.status(), error.message().to_owned()));
                    socket.expect("a socket").send(b"failed")
                });
                let server = start(non_blocking(1), told);
                let mut client = Client::small(&server).saying(callback);
                if callback == "on_drain" {
                    client.expect(pattern(BULK));
                }
                runs.next();
                if reported {
                    client.expect("failed");
                    let (status, message) = errors.next();
                    assert_eq!(status, failure);
                    assert!(message.contains("on purpose"), "{message}");
                }
                client.echo("open");
                drop(client);
                wait_idle(&server);
                server.stop().unwrap();
                errors.none();
                assert_eq!(server.stats().handler_errors, u64::from(reported));

                let server = start(non_blocking(1), hooks());
                let mut client = Client::small(&server).saying(callback);
                if callback == "on_drain" {
                    client.expect(pattern(BULK));
                }
                runs.next();
                match reported {
                    true => client.expect_gone(),
                    false => client.echo("open"),
                }
            }
        }
    });
}

/// X10: Where a handler detached its socket and then failed, the exception handler gets no socket.
#[test]
fn a_failure_after_a_detach_has_no_socket() {
    isolated(|| {
        let (log, seen) = events();
        let kept = Arc::new(Mutex::new(Vec::new()));
        let keep = kept.clone();
        let hooks = Hooks::new(move |server: &Server, socket| {
            let word = text(socket)?;
            keep.lock().unwrap().push(server.detach(socket)?);
            match word.as_str() {
                "panic" => panic!("on purpose"),
                _ => Err("failed".into()),
            }
        })
        .on_exception(move |_, socket, error| {
            log.add((socket.is_some(), error.status()));
            Ok(())
        });
        let server = start(non_blocking(1), hooks);
        for (word, status) in [("fail", Status::Handler), ("panic", Status::Panic)] {
            let mut client = Client::connect(&server).saying(word);
            assert_eq!(seen.next(), (false, status));
            let mut owned = kept.lock().unwrap().pop().unwrap();
            owned.socket().send(b"mine").unwrap();
            drop(owned);
            client.expect_last("mine");
        }
        wait_idle(&server);
    });
}

/// X11: A payload raised by the handler is read by the exception handler, and dropped once.
#[test]
fn a_payload_is_handed_over() {
    isolated(|| {
        for config in both_modes() {
            let object = Arc::new(String::from("an exception object"));
            let share = object.clone();
            let (log, seen) = events();
            let hooks = Hooks::new(move |_, socket| {
                text(socket)?;
                Err(Error::raise(-3, "raised").with_payload(Box::new(share.clone())))
            })
            .on_exception(move |_, socket, error| {
                let payload = error.payload().and_then(|p| p.downcast_ref::<Arc<String>>());
                log.add((payload.map(|text| text.to_string()), error.handler_code()));
                socket.unwrap().close();
                Ok(())
            });
            let server = start(config, hooks);
            for _ in 0..3 {
                let mut client = Client::connect(&server).saying("x");
                client.expect_end();
                assert_eq!(seen.next(), (Some("an exception object".into()), -3));
            }
            wait_idle(&server);
            server.stop().unwrap();
            eventually("dropped with the error", || Arc::strong_count(&object) == 2);
        }
    });
}

/// X12: What one call raised is in no report of the next failure.
#[test]
fn what_was_raised_is_not_kept() {
    isolated(|| {
        let (log, errors) = events();
        let hooks = Hooks::new(|_, socket| match text(socket)?.as_str() {
            "say" => Err(Error::raise(-5, "said something")),
            // A status as it came from a call, with nothing raised.
            _ => Err(Status::Timeout.into()),
        })
        .on_exception(move |_, _, error| {
            log.add(told(error));
            Ok(())
        });
        let server = start(non_blocking(1), hooks);
        let mut client = Client::connect(&server).saying("say");
        assert_eq!(errors.next().message, "said something");
        client.send("nothing");
        let second = errors.next();
        assert_eq!(second.status, Status::Timeout);
        assert!(!second.message.contains("said"), "{second:?}");
    });
}

/// X13: Waiting for input is no failure of `on_open` or the exception handler either.
#[test]
fn waiting_is_no_failure_in_any_callback() {
    isolated(|| {
        for (config, stays_open) in both_modes().into_iter().zip([false, true]) {
            let (log, told) = events();
            let hooks = Hooks::new(|_, socket| match text(socket)?.as_str() {
                "fail" => Err("failed".into()),
                other => socket.send(other.as_bytes()),
            })
            .on_open(|_, _| Err(Error::from(Status::WouldBlock)))
            .on_exception(move |_, _, error| {
                log.add(error.status());
                Err(Error::from(Status::WouldBlock))
            });
            let server = start(config, hooks);
            let mut client = Client::connect(&server).saying("fail");
            assert_eq!(told.next(), Status::Handler);
            if stays_open {
                client.echo("hello");
            } else {
                client.expect_end();
            }
            assert_eq!(server.stats().handler_errors, 1);
        }
    });
}
