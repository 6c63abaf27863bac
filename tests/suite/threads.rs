//! The hooks of the library's threads, their names and their stacks.

use crate::api::{Config, Hooks, State, Status, ThreadKind};
use crate::support::*;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::ThreadId;

use ThreadKind::{Control, Loop, Shutdown, Worker};

/// A thread's kind and number, where it is, and whether it starts or stops.
type Call = (ThreadKind, usize, ThreadId, bool);

fn with_hooks(hooks: Hooks, log: &Log<Call>) -> Hooks {
    let (starts, stops) = (log.clone(), log.clone());
    let here = || std::thread::current().id();
    hooks
        .on_thread_start(move |_, kind, number| {
            starts.add((kind, number, here(), true));
            Ok(())
        })
        .on_thread_stop(move |_, kind, number| stops.add((kind, number, here(), false)))
}

/// Checks that each start has one stop, on the same thread, and returns who they were.
fn paired(calls: Vec<Call>) -> Vec<(ThreadKind, usize)> {
    let mut running = HashMap::new();
    let mut all = Vec::new();
    for (kind, number, thread, starts) in calls {
        if starts {
            assert_eq!(running.insert(thread, (kind, number)), None);
            all.push((kind, number));
        } else {
            assert_eq!(running.remove(&thread), Some((kind, number)));
        }
    }
    assert!(running.is_empty(), "without a stop: {running:?}");
    all.sort_by_key(|(kind, number)| (*kind as i32, *number));
    all
}

/// The threads of a server with a shutdown port.
fn expected(config: &Config, background: bool) -> Vec<(ThreadKind, usize)> {
    let threads = config.max_thread as usize;
    let mut all = Vec::new();
    match (config.non_blocking, threads) {
        (true, 1) => all.extend(background.then_some((Loop, 0))),
        (true, _) => all.extend((0..threads).map(|i| (Loop, i))),
        (false, 1) => all.push((Worker, 0)),
        (false, _) => all.extend((0..=threads).map(|i| (Worker, i))),
    }
    all.extend((background && (!config.non_blocking || threads > 1)).then_some((Control, 0)));
    all.push((Shutdown, 0));
    all
}

fn configs() -> [Config; 4] {
    [blocking(1), blocking(4), non_blocking(1), non_blocking(2)]
        .map(|config| config.shutdown_port("0"))
}

/// H8, H9: The hooks run on each thread that the library makes: the starts before `on_start`, the
/// stops after everything else on the thread, and before the state is Stopped.
#[test]
fn each_thread_has_its_hooks() {
    isolated(|| {
        for config in configs() {
            let (log, calls) = events();
            let started = Arc::new(AtomicUsize::new(0));
            let (seen, at_start) = (started.clone(), expected(&config, true).len());
            let in_state = Arc::new(Mutex::new(Vec::new()));
            let states = in_state.clone();
            let stops = log.clone();
            let hooks = with_hooks(Hooks::new(echo), &log)
                .on_start(move |_| {
                    assert_eq!(seen.load(Ordering::SeqCst), at_start);
                    Ok(())
                })
                .on_thread_start(move |server, kind, number| {
                    assert_eq!(server.state(), State::Starting);
                    // Slow threads are waited for: the time is what makes them slow.
                    let_pass(ms(5 * number as u64));
                    started.fetch_add(1, Ordering::SeqCst);
                    log.add((kind, number, std::thread::current().id(), true));
                    Ok(())
                })
                .on_thread_stop(move |server, kind, number| {
                    states.lock().unwrap().push(server.state());
                    stops.add((kind, number, std::thread::current().id(), false));
                });
            let server = start(config.clone(), hooks);
            Client::connect(&server).echo("hello");
            server.stop().unwrap();
            assert_eq!(paired(calls.drain()), expected(&config, true));
            assert!(in_state.lock().unwrap().iter().all(|state| *state == State::Stopping));
        }
    });
}

/// H8: They never run on a thread of the program's own: not on the caller of `start`.
#[test]
fn the_programs_threads_have_no_hooks() {
    isolated(|| {
        for config in configs() {
            let (log, calls) = events();
            let server = unstarted(config.clone(), with_hooks(Hooks::new(echo), &log));
            let own = std::thread::scope(|scope| {
                let foreground = scope.spawn(|| {
                    server.start().unwrap();
                    std::thread::current().id()
                });
                eventually("it runs", || server.state() == State::Running);
                Client::connect(&server).echo("hello");
                server.stop().unwrap();
                foreground.join().unwrap()
            });
            let calls = calls.drain();
            assert!(calls.iter().all(|(_, _, thread, _)| *thread != own));
            assert_eq!(paired(calls), expected(&config, false));
        }
    });
}

/// H10: An `on_thread_start` that fails or panics makes the start fail, whichever thread it is; all
/// is undone, `on_start` does not run, and the server may be started again.
#[test]
fn a_thread_that_cannot_start() {
    isolated(|| {
        for config in configs() {
            for (failing, number) in expected(&config, true) {
                let (log, calls) = events();
                let (fails, panics) = (Arc::new(AtomicBool::new(true)), number % 2 == 1);
                let (still_fails, starts) = (fails.clone(), log.clone());
                let hooks = with_hooks(Hooks::new(echo), &log)
                    .on_start(move |_| {
                        assert!(!still_fails.load(Ordering::SeqCst));
                        Ok(())
                    })
                    .on_thread_start({
                        let fails = fails.clone();
                        move |_, kind, this| {
                            starts.add((kind, this, std::thread::current().id(), true));
                            match fails.load(Ordering::SeqCst) && (kind, this) == (failing, number)
                            {
                                true if panics => panic!("no thread"),
                                true => Err("no thread".into()),
                                false => Ok(()),
                            }
                        }
                    });
                let server = unstarted(config.clone(), hooks);
                let before = Inventory::take();
                let error = server.start_background().unwrap_err();
                assert_eq!(error.status(), Status::Hook);
                assert!(error.message().contains("on_thread_start"), "{}", error.message());
                assert_eq!(server.state(), State::New);
                assert_eq!(paired(calls.drain()), expected(&config, true));
                before.assert_restored();
                fails.store(false, Ordering::SeqCst);
                server.start_background().unwrap();
                Client::connect(&server).echo("hello");
                server.stop().unwrap();
                assert_eq!(paired(calls.drain()), expected(&config, true));
            }
        }
    });
}

/// H9: The hooks are balanced where `on_start` fails, too.
#[test]
fn a_failed_start_stops_its_threads() {
    isolated(|| {
        for config in configs() {
            let (log, calls) = events();
            let hooks = with_hooks(Hooks::new(echo), &log).on_start(|_| Err("no".into()));
            let server = unstarted(config.clone(), hooks);
            assert_eq!(status(server.start_background()), Status::Hook);
            assert_eq!(paired(calls.drain()), expected(&config, true));
            assert_eq!(status(server.start()), Status::Hook);
            assert_eq!(paired(calls.drain()), expected(&config, false));
        }
    });
}

/// H8, S11: A stop in a hook of a thread only requests it: the start succeeds, and the stop follows.
/// `wait` is a deadlock there.
#[test]
fn a_stop_in_a_threads_hook() {
    isolated(|| {
        for config in configs() {
            let (log, results) = events();
            let stops = log.clone();
            let hooks = Hooks::new(echo)
                .on_thread_start(move |server, _, _| {
                    server.stop()?;
                    log.add(status(server.wait(None)));
                    Ok(())
                })
                .on_thread_stop(move |server, _, _| stops.add(status(server.wait(None))));
            let server = unstarted(config, hooks);
            server.start_background().unwrap();
            server.wait(Some(SOON)).unwrap();
            assert!(results.drain().iter().all(|status| *status == Status::Deadlock));
        }
    });
}

/// H6: The names of the threads begin with `thread_name`.
#[test]
fn threads_have_the_names_that_are_set() {
    isolated(|| {
        for config in configs() {
            let (log, names) = events();
            let hooks = Hooks::new(echo).on_thread_start(move |_, kind, number| {
                let name = std::fs::read_to_string("/proc/thread-self/comm").unwrap();
                log.add((kind, number, name.trim_end().to_owned()));
                Ok(())
            });
            let server = start(config.thread_name("nine-long"), hooks);
            for (kind, number, name) in names.drain() {
                let expected = match kind {
                    Loop => format!("nine-long-l{number}"),
                    Worker => format!("nine-long-w{number}"),
                    Control => "nine-long-c".into(),
                    _ => "nine-long-s".into(),
                };
                assert_eq!(name, expected);
            }
            server.stop().unwrap();
        }
    });
}

/// H11: `stack_size` is the size of each thread's stack. The smallest one serves.
#[test]
fn the_size_of_the_stacks() {
    isolated(|| {
        std::env::set_var("RUST_MIN_STACK", "7000000");
        for size in [128 << 10, 2 << 20] {
            for config in configs() {
                let (log, sizes) = events();
                let hooks = Hooks::new(echo).on_thread_start(move |_, _, _| {
                    log.add(own_stack_size());
                    Ok(())
                });
                let config = match size {
                    0x20_0000 => config,
                    _ => config.stack_size(size),
                };
                let server = start(config, hooks);
                Client::connect(&server).echo("hello");
                server.stop().unwrap();
                // The C library adds a guard page and its own data of a thread.
                let near = |found: &usize| (size..size + (64 << 10)).contains(found);
                assert!(sizes.drain().iter().all(near));
            }
        }
    });
}

fn own_stack_size() -> usize {
    // SAFETY: the attributes are initialised by the first call and destroyed by the last.
    unsafe {
        let mut attributes = std::mem::zeroed::<libc::pthread_attr_t>();
        assert_eq!(libc::pthread_getattr_np(libc::pthread_self(), &mut attributes), 0);
        let mut size = 0;
        assert_eq!(libc::pthread_attr_getstacksize(&attributes, &mut size), 0);
        libc::pthread_attr_destroy(&mut attributes);
        size
    }
}
