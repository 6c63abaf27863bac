//! Hosted servers: the program runs the turns.

use crate::api::{Config, Error, Hooks, Server, State, Status};
use crate::support::*;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

fn hosted(hooks: Hooks) -> Server {
    hosted_with(non_blocking(1), hooks)
}

pub fn hosted_with(config: Config, hooks: Hooks) -> Server {
    let server = unstarted(config, hooks);
    server.start_hosted().expect("start");
    server
}

/// poll(2): whether the descriptor is readable within the time.
pub fn is_readable(fd: RawFd, within: Duration) -> bool {
    let mut entry = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    // SAFETY: one entry.
    unsafe { libc::poll(&mut entry, 1, within.as_millis() as i32) > 0 }
}

/// Runs turns, each when the descriptor says so and never by a time of its own, until `done`.
pub fn turns_until(server: &Server, what: &str, mut done: impl FnMut() -> bool) {
    let (fd, until) = (server.poll_fd().unwrap(), Instant::now() + SOON);
    while !done() {
        assert!(Instant::now() < until, "waited in vain: {what}");
        if is_readable(fd, ms(5)) {
            server.run_once(Some(ms(0))).unwrap();
        }
    }
}

/// Runs turns on this thread while another one does `body`.
pub fn host<T: Send>(server: &Server, body: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let body = scope.spawn(body);
        turns_until(server, "the client", || body.is_finished());
        body.join().unwrap()
    })
}

/// Runs turns until there is nothing to do.
pub fn come_to_rest(server: &Server) {
    let fd = server.poll_fd().unwrap();
    while is_readable(fd, ms(0)) {
        server.run_once(Some(ms(0))).unwrap();
    }
}

/// HS1: A hosted start returns when the server accepts, and makes no thread.
#[test]
fn it_makes_no_thread() {
    isolated(|| {
        let server = hosted(Hooks::new(echo));
        assert_eq!((server.state(), server.port() > 0), (State::Running, true));
        assert!(library_threads().is_empty());
        host(&server, || Client::connect(&server).echo("hello"));
        assert!(library_threads().is_empty());
        server.stop().unwrap();
    });
}

/// HS2: Other modes and several loops are refused, with a sentence.
#[test]
fn what_it_needs() {
    isolated(|| {
        for config in [blocking(1), non_blocking(2)] {
            let error = unstarted(config, Hooks::new(echo)).start_hosted().unwrap_err();
            assert_eq!(error.status(), Status::Invalid);
            assert!(error.to_string().contains("max_thread 1"), "{error}");
        }
    });
}

/// HS2: A start that fails leaves nothing behind; the next one may be of another kind.
#[test]
fn a_failed_start() {
    isolated(|| {
        let first = hosted(Hooks::new(echo));
        let service = format!("127.0.0.1:{}", first.port());
        let second = server_at(&service, non_blocking(1), Hooks::new(echo));
        assert_eq!(second.start_hosted().unwrap_err().status(), Status::Listen);
        assert_eq!(status(second.poll_fd()), Status::State);
        first.stop().unwrap();
        second.start_background().unwrap();
        Client::connect(&second).echo("hello");
        assert_eq!(status(second.run_once(Some(ms(0)))), Status::State);
        assert_eq!(status(second.poll_fd()), Status::State);
    });
}

/// HS2: A start that lacks a descriptor, whichever, is undone, and so is one whose `on_start` fails.
#[test]
fn starts_without_descriptors() {
    isolated(|| {
        let refuses = Arc::new(AtomicBool::new(true));
        let hooks =
            Hooks::new(echo).on_start(move |_| match refuses.swap(false, Ordering::SeqCst) {
                true => Err(Error::new(Status::Io, "not today")),
                false => Ok(()),
            });
        let server = unstarted(non_blocking(1), hooks);
        let (before, limit) = (Inventory::take(), descriptor_limit().0);
        let mut failures = 0;
        loop {
            let fillers = fill_descriptors(failures);
            let started = server.start_hosted();
            set_descriptor_limit(limit);
            drop(fillers);
            let Err(error) = started else { break };
            assert_eq!(server.state(), State::New, "{error}");
            assert_eq!(status(server.poll_fd()), Status::State);
            before.assert_restored();
            // The last one is that of `on_start`.
            let is_last = error.status() == Status::Hook;
            assert_eq!(error.os_code(), if is_last { 0 } else { libc::EMFILE }, "{error}");
            failures += usize::from(!is_last);
        }
        assert!(failures >= 4, "listener, two pollers, an eventfd and a timer: {failures}");
        host(&server, || Client::connect(&server).echo("hello"));
        server.stop().unwrap();
    });
}

/// HS3: A turn waits for its time at most; a signal ends the wait, and that is no error.
#[test]
fn a_turn_waits() {
    extern "C" fn nothing(_: i32) {}
    isolated(|| {
        let server = hosted(Hooks::new(echo));
        come_to_rest(&server);
        let clock = Stopwatch::start();
        server.run_once(Some(ms(50))).unwrap();
        clock.kept(ms(50));
        // SAFETY: a handler that does nothing, and a thread of this process.
        let this = unsafe {
            let action = nothing as *const () as libc::sighandler_t;
            let mut new: libc::sigaction = std::mem::zeroed();
            new.sa_sigaction = action;
            libc::sigaction(libc::SIGUSR1, &new, std::ptr::null_mut());
            libc::pthread_self()
        };
        let returned = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // One signal may come before the wait.
                eventually("the turn ends", || {
                    // SAFETY: the thread waits for this one.
                    unsafe { libc::pthread_kill(this, libc::SIGUSR1) };
                    returned.load(Ordering::SeqCst)
                });
            });
            server.run_once(None).unwrap();
            returned.store(true, Ordering::SeqCst);
        });
        server.stop().unwrap();
    });
}

/// HS4: A loop of turns until one fails serves until the stop.
#[test]
fn a_loop_of_turns_is_a_program() {
    isolated(|| {
        let server = unstarted(non_blocking(1), Hooks::new(echo));
        assert_eq!(status(server.run_once(Some(ms(0)))), Status::State);
        assert_eq!(status(server.poll_fd()), Status::State);
        server.start_hosted().unwrap();
        std::thread::scope(|scope| {
            let client = scope.spawn(|| {
                Client::connect(&server).echo("hello");
                server.stop()
            });
            let end = loop {
                match server.run_once(None) {
                    Ok(()) => {}
                    Err(error) => break error,
                }
            };
            assert_eq!(end.status(), Status::State);
            client.join().unwrap().unwrap();
        });
        assert_eq!(server.state(), State::Stopped);
        assert_eq!(status(server.start_hosted()), Status::State);
    });
}

/// HS5: No turn runs in a callback, or beside another one.
#[test]
fn one_turn_at_a_time() {
    isolated(|| {
        let (log, found) = events();
        let gate = Arc::new(Gate::new());
        let (entered, passed) = (gate.clone(), gate.clone());
        let hooks = Hooks::new(move |server: &Server, socket| {
            let text = text(socket)?;
            log.add(status(server.run_once(Some(ms(0)))));
            passed.wait();
            socket.send(text.as_bytes())
        });
        let server = hosted(hooks);
        std::thread::scope(|scope| {
            let host = scope.spawn(|| {
                turns_until(&server, "a stop", || server.is_stopped());
            });
            let client = scope.spawn(|| Client::connect(&server).echo("hello"));
            entered.reached_by(1);
            assert_eq!(status(server.run_once(Some(ms(0)))), Status::Busy);
            entered.open();
            client.join().unwrap();
            assert_eq!(found.next(), Status::Busy);
            server.stop().unwrap();
            let _ = host.join();
        });
    });
}

/// HS6: Events, calls of other threads, deadlines and a requested stop make it readable; without
/// them it is not.
#[test]
fn when_it_is_readable() {
    isolated(|| {
        let (log, opened) = events();
        let (wakes, woken) = events();
        let hooks = Hooks::new(echo)
            .on_open(move |_, socket| Ok(log.add(socket.id())))
            .on_wake(move |_, _| wakes.add(()));
        let config = non_blocking(1).idle_timeout(Some(ms(2000)));
        let server = hosted_with(config, hooks);
        let fd = server.poll_fd().unwrap();
        come_to_rest(&server);
        assert!(!is_readable(fd, NEVER), "nothing is to be done");
        let mut client = host(&server, || {
            let mut client = Client::connect(&server);
            client.echo("hello");
            client
        });
        let (id, clock) = (opened.next(), Stopwatch::start());
        come_to_rest(&server);
        assert!(!is_readable(fd, ms(50)), "nothing is to be done");
        client.send("x");
        assert!(is_readable(fd, SOON), "an event");
        come_to_rest(&server);
        client.expect("x");
        std::thread::scope(|scope| {
            scope.spawn(|| server.wake(id).unwrap());
        });
        assert!(is_readable(fd, SOON), "a call of another thread");
        come_to_rest(&server);
        woken.next();
        // Nothing looks at the time but the descriptor.
        while server.stats().open > 0 {
            assert!(is_readable(fd, SOON), "a deadline");
            server.run_once(Some(ms(0))).unwrap();
        }
        clock.kept(ms(1900));
        client.expect_gone();
        come_to_rest(&server);
        assert!(!is_readable(fd, ms(50)), "nothing is to be done");
        server.request_stop();
        assert!(is_readable(fd, SOON), "a stop");
        turns_until(&server, "the stop", || server.is_stopped());
    });
}

/// HS7: A turn that leaves work makes a new edge.
#[test]
fn edges() {
    isolated(|| {
        const TOTAL: usize = 4 << 20;
        let received = Arc::new(AtomicU32::new(0));
        let count = received.clone();
        let hooks = Hooks::new(move |_, socket| {
            // One small read for each call: the rest of the input makes no event.
            let n = socket.recv(&mut [0; 4096])?;
            count.fetch_add(n as u32, Ordering::SeqCst);
            Ok(())
        });
        let server = hosted(hooks);
        let fd = server.poll_fd().unwrap();
        // SAFETY: plain calls with descriptors of this test.
        let outer = unsafe {
            let outer = libc::epoll_create1(libc::EPOLL_CLOEXEC);
            let events = (libc::EPOLLIN | libc::EPOLLET) as u32;
            let mut event = libc::epoll_event { events, u64: 0 };
            assert_eq!(libc::epoll_ctl(outer, libc::EPOLL_CTL_ADD, fd, &mut event), 0);
            outer
        };
        std::thread::scope(|scope| {
            scope.spawn(|| Client::connect(&server).saying(vec![7; TOTAL]).expect_end());
            while received.load(Ordering::SeqCst) < TOTAL as u32 {
                let mut event = libc::epoll_event { events: 0, u64: 0 };
                // SAFETY: room for one event.
                let found = unsafe { libc::epoll_wait(outer, &mut event, 1, 8000) };
                assert_eq!(found, 1, "no edge after {}", received.load(Ordering::SeqCst));
                server.run_once(Some(ms(0))).unwrap();
            }
            server.stop().unwrap();
        });
        // SAFETY: made above.
        unsafe { libc::close(outer) };
    });
}

/// HS4, HS8: After the stop the descriptor is the same, and readable for good.
#[test]
fn readable_after_the_stop() {
    isolated(|| {
        let server = hosted(Hooks::new(echo));
        let fd = server.poll_fd().unwrap();
        server.stop().unwrap();
        for _ in 0..3 {
            assert!(is_readable(fd, ms(0)));
        }
        assert_eq!(server.poll_fd().unwrap(), fd);
        assert_eq!(status(server.run_once(Some(ms(0)))), Status::State);
        server.wait(None).unwrap();
        drop(server);
        assert!(!descriptors().contains(&fd));
    });
}

/// HS9: Callbacks run only in the calls that run turns, on the thread that calls.
#[test]
fn callbacks_on_the_hosts_thread() {
    isolated(|| {
        let (log, threads) = events();
        let note = move || log.add(thread_number());
        let (on_open, on_close, on_stop) = (note.clone(), note.clone(), note.clone());
        let hooks = Hooks::new(move |server, socket| {
            note();
            echo(server, socket)
        })
        .on_open(move |_, _| Ok(on_open()))
        .on_close(move |_, _, _| on_close())
        .on_stop(move |_| on_stop());
        let server = hosted(hooks);
        host(&server, || Client::connect(&server).echo("hello"));
        turns_until(&server, "the close", || server.stats().open == 0);
        server.stop().unwrap();
        let found = threads.drain();
        assert!(found.len() >= 4, "{found:?}");
        assert!(found.iter().all(|thread| *thread == thread_number()), "{found:?}");
    });
}

/// HS10: A stop and a wait on the host's thread run turns, within their time.
#[test]
fn the_host_stops() {
    isolated(|| {
        let server = hosted_with(non_blocking(1).drain_timeout(ms(300)), Hooks::new(|_, _| Ok(())));
        let client = host(&server, || {
            let mut client = Client::connect(&server);
            client.send("never read");
            client
        });
        let clock = Stopwatch::start();
        assert_eq!(status(server.wait(Some(ms(50)))), Status::Timeout);
        clock.kept(ms(50));
        server.stop().unwrap();
        assert!(clock.elapsed() < ms(300) + late());
        assert_eq!(server.state(), State::Stopped);
        drop(client);
    });
}

/// HS5, HS10: No other thread gets between the turns that a wait runs.
#[test]
fn nobody_comes_between() {
    isolated(|| {
        let server = hosted(Hooks::new(echo));
        let gate = Gate::new();
        let begins = gate.clone();
        server.post(0, move |_| Ok(begins.open())).unwrap();
        server.add_timer(0, ms(1), Some(ms(1)), |_, _| Ok(())).unwrap();
        server.add_timer(0, ms(300), None, |server: &Server, _| server.stop()).unwrap();
        std::thread::scope(|scope| {
            let other = scope.spawn(|| {
                gate.wait();
                loop {
                    match status(server.run_once(Some(ms(0)))) {
                        Status::Busy => {}
                        other => break other,
                    }
                }
            });
            server.wait(Some(SOON)).unwrap();
            assert_eq!(other.join().unwrap(), Status::State);
        });
    });
}

/// HS10: A stop that a callback asks for ends the wait of the host's thread.
#[test]
fn a_callback_stops() {
    isolated(|| {
        let hooks = Hooks::new(|server: &Server, socket| {
            text(socket)?;
            assert_eq!(status(server.wait(Some(ms(1)))), Status::Deadlock);
            server.stop()
        });
        let server = hosted(hooks);
        std::thread::scope(|scope| {
            scope.spawn(|| Client::connect(&server).saying("stop").expect_gone());
            server.wait(Some(SOON)).unwrap();
        });
        assert_eq!(server.state(), State::Stopped);
    });
}

/// HS5, HS10: A callback of one server may run the turns of another, and stop it.
#[test]
fn one_hosts_another() {
    isolated(|| {
        let (outer, inner) = (hosted(Hooks::new(echo)), Arc::new(hosted(Hooks::new(echo))));
        let ((log, found), hosts) = (events(), inner.clone());
        let log_inside = log.clone();
        let in_outer = move |outer: &Server| {
            let in_inner =
                move |inner: &Server| Ok(log_inside.add(status(inner.run_once(Some(ms(0))))));
            hosts.post(0, in_inner)?;
            log.add(status(outer.run_once(Some(ms(0)))));
            come_to_rest(&hosts);
            log.add(status(hosts.stop()));
            assert_eq!(hosts.state(), State::Stopped);
            log.add(status(outer.wait(None)));
            outer.stop()
        };
        outer.post(0, in_outer).unwrap();
        outer.wait(Some(SOON)).unwrap();
        assert_eq!(found.drain(), [Status::Busy, Status::Busy, Status::Ok, Status::Deadlock]);
        assert_eq!(outer.state(), State::Stopped);
        drop(inner);
    });
}

/// HS11: On another thread a stop waits for the host's turns, and returns when none come.
#[test]
fn another_thread_stops() {
    isolated(|| {
        let server = hosted_with(non_blocking(1).drain_timeout(ms(50)), Hooks::new(echo));
        std::thread::scope(|scope| {
            let stop = scope.spawn(|| status(server.stop()));
            assert_eq!(stop.join().unwrap(), Status::Timeout);
            let stop = scope.spawn(|| server.wait(None));
            turns_until(&server, "the stop", || server.is_stopped());
            stop.join().unwrap().unwrap();
        });
    });
}

/// HS12: Any thread may free it, also while another one waits in a turn.
#[test]
fn free_on_another_thread() {
    isolated(|| {
        let server = hosted(Hooks::new(echo));
        std::thread::spawn(move || drop(server)).join().unwrap();
        let server = hosted(Hooks::new(echo));
        let fd = server.poll_fd().unwrap();
        host(&server, || Client::connect(&server).echo("hello"));
        std::thread::spawn(move || drop(server)).join().unwrap();
        assert!(!descriptors().contains(&fd));
    });
}
