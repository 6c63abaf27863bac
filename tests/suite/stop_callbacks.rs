//! Stop from inside callbacks and from a signal handler.

use crate::api::{Config, Hooks, Server, State, Status};
use crate::support::*;
use std::io::Write;
use std::sync::OnceLock;

/// S11: `stop` in a handler or hook only requests the stop and returns immediately.
#[test]
fn stop_in_a_callback_only_requests_it() {
    isolated(|| {
        let blocking_hooks = ["on_start", "on_open", "handler", "on_close", "on_exception"];
        for callback in blocking_hooks {
            stop_in(callback, blocking(2));
        }
        let more = ["on_wake", "on_timeout", "on_drain", "on_stop", "on_shutdown"];
        for callback in blocking_hooks.iter().chain(&more) {
            stop_in(callback, non_blocking(2));
        }
    });
}

/// Stops a server in the callback of that name, which a client's command brings about.
fn stop_in(callback: &'static str, config: Config) {
    let (log, stops) = events();
    // Asks for the stop if this is the callback that should.
    let here = move |server: &Server, name: &str| {
        if name == callback {
            server.stop().unwrap();
            cut(server, ms(1));
            log.add(server.is_stopped());
        }
    };
    macro_rules! hook {
        ($name:literal) => {{
            let here = here.clone();
            move |server: &Server, _: &mut crate::api::Socket<'_>| here(server, $name)
        }};
    }
    let (at_open, at_handler) = (hook!("on_open"), hook!("handler"));
    let (at_start, at_stop, at_exception) = (here.clone(), here.clone(), here.clone());
    let (at_close, at_shutdown) = (here.clone(), here.clone());
    let hooks = Hooks::new(move |server, socket| {
        at_handler(server, socket);
        match text(socket)?.as_str() {
            "on_exception" => return Err("failed".into()),
            "on_wake" => server.wake(socket.id())?,
            "on_timeout" => socket.set_timer(Some(ms(1)))?,
            "on_drain" => socket.send(&vec![1; BULK])?,
            "on_close" => socket.close(),
            _ => {}
        }
        Ok(())
    })
    .on_start(move |server| {
        at_start(server, "on_start");
        Ok(())
    })
    .on_open(move |server, socket| {
        at_open(server, socket);
        Ok(())
    })
    .on_close(move |server, _, _| at_close(server, "on_close"))
    .on_wake(hook!("on_wake"))
    .on_timeout(hook!("on_timeout"))
    .on_drain(hook!("on_drain"))
    .on_stop(move |server| at_stop(server, "on_stop"))
    .on_shutdown(move |server, _| {
        at_shutdown(server, "on_shutdown");
        Ok(false)
    })
    .on_exception(move |server, _, _| {
        at_exception(server, "on_exception");
        Ok(())
    });
    let server = unstarted(config.shutdown_port("0"), hooks);
    server.start_background().unwrap();
    // No client where the server has stopped before anybody could connect.
    let mut client = (callback != "on_start").then(|| Client::small(&server));
    match callback {
        "on_start" => {}
        "on_stop" => server.request_stop(),
        "on_shutdown" => drop(Client::plain(("127.0.0.1", server.shutdown_port()))),
        // A stop in `on_open` may have reset the connection already.
        _ => drop(client.as_mut().unwrap().0.write_all(callback.as_bytes())),
    }
    if callback == "on_drain" {
        let _ = client.as_mut().unwrap().drain();
    }
    let result = server.wait(Some(SOON));
    assert!(result.is_ok(), "{callback}: {result:?}");
    let stopped_inside = stops.drain();
    assert!(!stopped_inside.is_empty(), "{callback} did not run");
    assert!(!stopped_inside[0], "{callback} only asks for the stop");
    assert_settled(&server);
}

/// S11: A stop that `on_start` requests takes place after the start, which succeeds.
#[test]
fn stop_in_on_start_lets_start_return() {
    isolated(|| {
        for config in both_modes() {
            let hooks = Hooks::new(echo).on_start(|server| server.stop());
            let server = unstarted(config, hooks);
            within(SOON, || server.start()).unwrap();
            assert_eq!(server.state(), State::Stopped);
        }
    });
}

/// S13: A stop request before start is remembered: start returns immediately and runs no hook.
#[test]
fn a_request_before_start_is_remembered() {
    isolated(|| {
        for config in both_modes() {
            for background in [false, true] {
                let (log, calls) = events();
                let stop_log = log.clone();
                let hooks = Hooks::new(echo)
                    .on_start(move |_| {
                        log.add("on_start");
                        Ok(())
                    })
                    .on_stop(move |_| stop_log.add("on_stop"));
                let server = unstarted(config.clone(), hooks);
                server.request_stop();
                let result = within(SOON, || match background {
                    true => server.start_background(),
                    false => server.start(),
                });
                result.unwrap();
                assert!(server.is_stopped());
                server.wait(Some(ms(0))).unwrap();
                server.stop().unwrap();
                assert!(library_threads().is_empty());
                drop(server);
                assert!(calls.drain().is_empty());
            }
        }
    });
}

static SIGNALLED: OnceLock<Server> = OnceLock::new();

extern "C" fn on_signal(_: i32) {
    if let Some(server) = SIGNALLED.get() {
        server.request_stop();
    }
}

/// S12: `request_stop` may be called in a signal handler, and keeps errno.
#[test]
fn request_stop_in_a_signal_handler() {
    isolated_for(60, || {
        let server = start(non_blocking(1), Hooks::new(echo));
        Client::connect(&server).echo("hello");
        let server = SIGNALLED.get_or_init(|| server);
        // SAFETY: the handler does nothing but what this test is about; errno is this thread's.
        unsafe {
            libc::signal(libc::SIGUSR1, on_signal as *const () as libc::sighandler_t);
            *libc::__errno_location() = libc::EXDEV;
            libc::raise(libc::SIGUSR1);
            assert_eq!(*libc::__errno_location(), libc::EXDEV);
        }
        server.wait(Some(SOON)).unwrap();
        // A signal after the stop is harmless.
        // SAFETY: as above.
        unsafe { libc::raise(libc::SIGUSR1) };
        // A stopped server holds no descriptor: the isolation checks it.
        assert_eq!(status(server.start()), Status::State);
    });
}

/// L17: A callback may stop, wait for and free another server.
#[test]
fn stop_another_server_in_a_callback() {
    isolated(|| {
        let (log, results) = events();
        let hooks = Hooks::new(move |_, socket| {
            text(socket)?;
            let other = start(non_blocking(1), Hooks::new(echo));
            Client::connect(&other).echo("hello");
            log.add((status(other.wait(Some(ms(1)))), status(other.stop()), other.state()));
            drop(other);
            socket.send(b"done")
        });
        let server = start(non_blocking(1), hooks);
        let mut client = Client::connect(&server).saying("x");
        client.expect("done");
        assert_eq!(results.next(), (Status::Timeout, Status::Ok, State::Stopped));
        assert_eq!(server.state(), State::Running);
    });
}

/// H2: Signals that interrupt the thread of a foreground start do not end it.
#[test]
fn signals_in_the_foreground() {
    extern "C" fn nothing(_: i32) {}
    isolated(|| {
        for config in both_modes() {
            // SAFETY: a handler that does nothing, without SA_RESTART.
            unsafe {
                let mut action: libc::sigaction = std::mem::zeroed();
                action.sa_sigaction = nothing as *const () as libc::sighandler_t;
                libc::sigaction(libc::SIGUSR1, &action, std::ptr::null_mut());
            }
            let server = unstarted(config, Hooks::new(echo));
            let (log, threads) = events();
            std::thread::scope(|scope| {
                let foreground = scope.spawn(|| {
                    // SAFETY: the calling thread's own number.
                    log.add(unsafe { libc::pthread_self() });
                    server.start()
                });
                let thread = threads.next();
                eventually("it runs", || server.state() == State::Running);
                for i in 0..20 {
                    // SAFETY: the thread has not ended: the server runs in it.
                    unsafe { libc::pthread_kill(thread, libc::SIGUSR1) };
                    Client::connect(&server).echo(&format!("{i}"));
                }
                assert!(!foreground.is_finished());
                server.stop().unwrap();
                foreground.join().unwrap().unwrap();
            });
        }
    });
}

/// S12: `request_stop` from anywhere, many times and on many threads at the same time.
#[test]
fn many_requests_at_once() {
    isolated(|| {
        for config in both_modes() {
            let server = start(config, Hooks::new(echo));
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| (0..100).for_each(|_| server.request_stop()));
                }
            });
            server.wait(Some(SOON)).unwrap();
        }
    });
}
