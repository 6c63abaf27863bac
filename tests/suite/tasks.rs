//! Watches, timers and tasks of the program in the loops of a server.

use super::hosted::{hosted_with, turns_until};
use crate::api::{Error, Hooks, Interest, Server, Status, TaskId};
use crate::support::*;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub(super) fn serving() -> Server {
    start(non_blocking(2), Hooks::new(echo))
}

pub(super) fn pair() -> (UnixStream, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    (ours, theirs)
}

/// Counts how often it was dropped.
struct Dropped(Arc<AtomicUsize>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// WT1: A watch is called as long as its descriptor is ready, with what is ready.
#[test]
fn a_watch() {
    isolated(|| {
        let server = serving();
        let (log, calls) = events();
        let (ours, mut theirs) = pair();
        let mut reader = ours.try_clone().unwrap();
        let id = server
            .watch(1, &ours, Interest::READ, move |_, id, fd, found| {
                // One byte in each call: the rest is still there.
                let mut byte = [0];
                reader.read_exact(&mut byte).unwrap();
                Ok(log.add((id, fd, found, byte[0])))
            })
            .unwrap();
        calls.none();
        theirs.write_all(b"ab").unwrap();
        for byte in [b'a', b'b'] {
            assert_eq!(calls.next(), (id, ours.as_raw_fd(), Interest::READ, byte));
        }
        calls.none();
        // Both are watched, and only writing is ready.
        let (log, writes) = events();
        let (other, _peer) = pair();
        let other_id = server
            .watch(0, &other, Interest::BOTH, move |server, id, _, found| {
                server.change_watch(id, Interest::READ)?;
                Ok(log.add(found))
            })
            .unwrap();
        assert_eq!(writes.next(), Interest::WRITE);
        writes.none();
        server.unwatch(other_id).unwrap();
        server.unwatch(id).unwrap();
        theirs.write_all(b"c").unwrap();
        calls.none();
    });
}

/// WT2: A hang-up and an error show as what is watched.
#[test]
fn a_hang_up() {
    isolated(|| {
        let server = serving();
        for interest in [Interest::READ, Interest::WRITE, Interest::BOTH] {
            let (log, calls) = events();
            let (ours, theirs) = pair();
            drop(theirs);
            let id = server
                .watch(0, &ours, interest, move |server, id, _, found| {
                    server.unwatch(id)?;
                    Ok(log.add(found))
                })
                .unwrap();
            assert_eq!(calls.next(), interest);
            assert_eq!(status(server.unwatch(id)), Status::Closed);
        }
    });
}

fn epoll() -> OwnedFd {
    // SAFETY: a new descriptor, which nobody else owns.
    unsafe { OwnedFd::from_raw_fd(libc::epoll_create1(libc::EPOLL_CLOEXEC)) }
}

/// Puts a descriptor into an epoll; whether that went.
fn put(outer: &OwnedFd, inner: RawFd) -> bool {
    let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: 0 };
    // SAFETY: the event is valid.
    unsafe { libc::epoll_ctl(outer.as_raw_fd(), libc::EPOLL_CTL_ADD, inner, &mut event) == 0 }
}

/// WT3: Epoll descriptors inside each other, too many or in a circle, have a status and a sentence
/// of their own.
#[test]
fn epolls_inside_each_other() {
    isolated(|| {
        let refused = |server: &Server, epoll: &OwnedFd| {
            let error = server.watch(0, epoll, Interest::READ, |_, _, _, _| Ok(())).unwrap_err();
            assert_eq!((error.status(), error.os_code()), (Status::Unsupported, libc::ELOOP));
            assert!(error.to_string().contains("inside each other"), "{error}");
        };
        let server = hosted_with(non_blocking(1), Hooks::new(echo));
        let host = epoll();
        assert!(put(&host, server.poll_fd().unwrap()));
        refused(&server, &host);
        let mut chain = vec![epoll()];
        loop {
            let outer = epoll();
            if !put(&outer, chain.last().unwrap().as_raw_fd()) {
                break;
            }
            chain.push(outer);
        }
        refused(&server, chain.last().unwrap());
        // It is as it was.
        let (ours, _theirs) = pair();
        server.watch(0, &ours, Interest::WRITE, |_, _, _, _| Ok(())).unwrap();
    });
}

/// WT3: What cannot be watched is refused, and the user data is dropped.
#[test]
fn what_cannot_be_watched() {
    isolated(|| {
        let (log, sockets) = events();
        let hooks = Hooks::new(echo).on_open(move |_, socket| Ok(log.add(socket.raw_fd())));
        let server = start(non_blocking(1), hooks);
        let drops: Arc<AtomicUsize> = Arc::default();
        let refused = |server: &Server, event_loop, fd: &OwnedFd, interest| {
            let before = drops.load(Ordering::SeqCst);
            let data = Dropped(drops.clone());
            let call = move |_: &Server, _, _, _| {
                let _ = &data;
                Ok(())
            };
            let result = server.watch(event_loop, fd, interest, call);
            assert_eq!(drops.load(Ordering::SeqCst), before + 1);
            status(result)
        };
        let ours: OwnedFd = pair().0.into();
        let nothing = Interest { read: false, write: false };
        assert_eq!(refused(&server, 1, &ours, Interest::READ), Status::Invalid);
        assert_eq!(refused(&server, 0, &ours, nothing), Status::Invalid);
        let file: OwnedFd = File::open("/proc/self/exe").unwrap().into();
        assert_eq!(refused(&server, 0, &file, Interest::READ), Status::Unsupported);
        let id = server.watch(0, &ours, Interest::READ, |_, _, _, _| Ok(())).unwrap();
        assert_eq!(refused(&server, 0, &ours, Interest::READ), Status::Busy);
        assert_eq!(status(server.change_watch(id, nothing)), Status::Invalid);
        let mut client = Client::connect(&server);
        client.echo("hello");
        let fd = sockets.next();
        // SAFETY: only looked at, while the connection is open.
        let borrowed = unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) };
        let call = |_: &Server, _, _, _| Ok(());
        assert_eq!(status(server.watch(0, &borrowed, Interest::READ, call)), Status::Busy);
        client.echo("still served");
    });
}

/// WT4: Ids are no connection's; a stale one, and one of another kind, is closed.
#[test]
fn ids_of_tasks() {
    isolated(|| {
        let server = serving();
        let (ours, _theirs) = pair();
        let watch = server.watch(1, &ours, Interest::READ, |_, _, _, _| Ok(())).unwrap();
        let timer = server.add_timer(1, SOON * 9, None, |_, _| Ok(())).unwrap();
        assert_ne!(watch, timer);
        for id in [watch, timer] {
            let conn = crate::api::ConnId::from_u64(id.get()).unwrap();
            assert_eq!(status(server.send(conn, b"x")), Status::Closed);
            assert_eq!(status(server.close(conn)), Status::Closed);
            assert_eq!(status(server.wake(conn)), Status::Closed);
        }
        assert_eq!(status(server.unwatch(timer)), Status::Closed);
        assert_eq!(status(server.change_watch(timer, Interest::READ)), Status::Closed);
        assert_eq!(status(server.cancel_timer(watch)), Status::Closed);
        assert_eq!(status(server.cancel_timer(TaskId::from_u64(7).unwrap())), Status::Closed);
        let other = serving();
        let others = other.add_timer(1, SOON * 9, None, |_, _| Ok(())).unwrap();
        assert_eq!(status(other.cancel_timer(timer)), Status::Closed);
        assert_eq!(status(server.cancel_timer(others)), Status::Closed);
        server.unwatch(watch).unwrap();
        server.cancel_timer(timer).unwrap();
        assert_eq!(status(server.unwatch(watch)), Status::Closed);
        assert_eq!(status(server.cancel_timer(timer)), Status::Closed);
        let again = server.watch(1, &ours, Interest::READ, |_, _, _, _| Ok(())).unwrap();
        assert_ne!(again, watch);
    });
}

/// WT5: An end from another thread lets a call that is under way return first; then the user data
/// is dropped, once.
#[test]
fn an_end_during_a_call() {
    isolated(|| {
        let server = serving();
        let drops: Arc<AtomicUsize> = Arc::default();
        let gate = Arc::new(Gate::new());
        let (ours, mut theirs) = pair();
        let (data, passed) = (Dropped(drops.clone()), gate.clone());
        let (log, calls) = events();
        let id = server
            .watch(0, &ours, Interest::READ, move |_, _, _, _| {
                let _ = &data;
                log.add(());
                Ok(passed.wait())
            })
            .unwrap();
        theirs.write_all(b"x").unwrap();
        gate.reached_by(1);
        server.unwatch(id).unwrap();
        assert_eq!(drops.load(Ordering::SeqCst), 0);
        gate.open();
        eventually("it is dropped", || drops.load(Ordering::SeqCst) == 1);
        calls.next();
        calls.none();
        assert_eq!(drops.load(Ordering::SeqCst), 1);
    });
}

/// WT7: A timer is called when its time has passed, and not before; once, or again and again.
#[test]
fn timers() {
    isolated(|| {
        let server = serving();
        let (log, calls) = events();
        let clock = Stopwatch::start();
        let mut ids = Vec::new();
        for (name, first, repeat) in [(1, 120, None), (2, 40, Some(ms(60))), (3, 80, None)] {
            let log = log.clone();
            let call = move |_: &Server, id| Ok(log.add((name, id)));
            ids.push(server.add_timer(1, ms(first), repeat, call).unwrap());
        }
        let mut order = Vec::new();
        for _ in 0..4 {
            order.push(calls.next());
        }
        clock.kept(ms(100));
        let names: Vec<_> = order.iter().map(|(name, _)| *name).collect();
        assert_eq!(names.iter().filter(|name| **name == 2).count(), 2, "{names:?}");
        assert_eq!(order.iter().find(|(name, _)| *name == 2).unwrap().1, ids[1]);
        server.cancel_timer(ids[1]).unwrap();
        calls.drain();
        calls.none();
        for id in ids {
            assert_eq!(status(server.cancel_timer(id)), Status::Closed);
        }
    });
}

/// WT7: A period that was missed is not made up.
#[test]
fn missed_periods() {
    isolated(|| {
        let server = serving();
        let (log, calls) = events();
        let call = move |_: &Server, _| {
            log.add(());
            Ok(let_pass(ms(100)))
        };
        let clock = Stopwatch::start();
        let id = server.add_timer(0, ms(0), Some(ms(10)), call).unwrap();
        let first = calls.take(3).len();
        clock.kept(ms(200));
        server.cancel_timer(id).unwrap();
        // Twenty periods and more have passed. A call takes 100 ms.
        let called = first + calls.drain().len();
        assert!(called <= clock.elapsed().as_millis() as usize / 100 + 1);
    });
}

/// WT7: Bad times and loops are refused.
#[test]
fn bad_timers() {
    isolated(|| {
        let server = serving();
        let too_long = net_server::MAX_TIME + ms(1);
        for (event_loop, first, repeat) in [(2, ms(1), None), (0, too_long, None)] {
            let result = server.add_timer(event_loop, first, repeat, |_, _| Ok(()));
            assert_eq!(status(result), Status::Invalid);
        }
        let result = server.add_timer(0, ms(1), Some(too_long), |_, _| Ok(()));
        assert_eq!(status(result), Status::Invalid);
        assert_eq!(status(server.post(2, |_| Ok(()))), Status::Invalid);
    });
}

/// WT8: A timer that is cancelled, or has expired, is dropped immediately.
#[test]
fn timers_leave() {
    isolated(|| {
        let server = serving();
        let drops: Arc<AtomicUsize> = Arc::default();
        let timer = |first: Duration| {
            let data = Dropped(drops.clone());
            let call = move |server: &Server, id| {
                let _ = &data;
                // In its own call an expired timer can still be cancelled.
                let _ = server.cancel_timer(id);
                Ok(())
            };
            server.add_timer(0, first, None, call).unwrap()
        };
        for _ in 0..2000 {
            server.cancel_timer(timer(SOON * 9)).unwrap();
        }
        assert_eq!(drops.load(Ordering::SeqCst), 2000);
        timer(ms(1));
        eventually("it is dropped", || drops.load(Ordering::SeqCst) == 2001);
    });
}

/// WT9: The tasks of a thread run on the loop, in their order, once each.
#[test]
fn tasks() {
    isolated(|| {
        let server = serving();
        let order: Arc<Mutex<Vec<(usize, usize)>>> = Arc::default();
        std::thread::scope(|scope| {
            for thread in 0..3 {
                let (server, order) = (&server, order.clone());
                scope.spawn(move || {
                    for i in 0..500 {
                        let order = order.clone();
                        let task = move |server: &Server| {
                            assert_eq!(status(server.wait(None)), Status::Deadlock);
                            order.lock().unwrap().push((thread, i));
                            Ok(())
                        };
                        server.post(1, task).unwrap();
                    }
                });
            }
        });
        eventually("all have run", || order.lock().unwrap().len() == 1500);
        for thread in 0..3 {
            let order = order.lock().unwrap();
            let own: Vec<_> =
                order.iter().filter(|(of, _)| *of == thread).map(|(_, i)| i).collect();
            assert!(own.is_sorted());
        }
    });
}

/// WT10: A failure goes to the exception handler, and the watch and the timer stay.
#[test]
fn failures_of_tasks() {
    isolated(|| {
        let (log, errors) = events();
        let hooks = Hooks::new(echo).on_exception(move |_, socket, error| {
            Ok(log.add((socket.is_none(), error.status(), error.message().to_string())))
        });
        let server = start(non_blocking(1), hooks);
        let fails = |text: &str| Err(Error::raise(Status::Busy.code(), text));
        server.post(0, move |_| fails("a task")).unwrap();
        assert_eq!(errors.next(), (true, Status::Busy, "a task".into()));
        let timer = server.add_timer(0, ms(1), Some(ms(5)), move |_, _| fails("a timer")).unwrap();
        for _ in 0..2 {
            assert_eq!(errors.next(), (true, Status::Busy, "a timer".into()));
        }
        server.cancel_timer(timer).unwrap();
        errors.drain();
        let (ours, mut theirs) = pair();
        theirs.write_all(b"x").unwrap();
        let watch =
            server.watch(0, &ours, Interest::READ, move |_, _, _, _| fails("a watch")).unwrap();
        for _ in 0..2 {
            assert_eq!(errors.next().2, "a watch");
        }
        server.unwatch(watch).unwrap();
        eventually("they are counted", || server.stats().handler_errors >= 5);
    });
}

/// WT11: They go on during the drain; what is left is dropped after the last `on_close`, not called.
#[test]
fn during_the_drain() {
    isolated(|| {
        let gate = Arc::new(Gate::new());
        let passed = gate.clone();
        let (log, told) = events();
        let (closes, drops) = (log.clone(), log.clone());
        let hooks = Hooks::new(move |_, socket| {
            text(socket)?;
            Ok(passed.wait())
        })
        .on_close(move |_, _, _| closes.add("close"));
        // The second loop has the connection, so that the first one may end.
        let server = start(non_blocking(1), hooks);
        struct Last(Log<&'static str>);
        impl Drop for Last {
            fn drop(&mut self) {
                self.0.add("drop");
            }
        }
        let last = Last(drops);
        let (timers, ticks) = events();
        let call = move |server: &Server, _| {
            let _ = &last;
            Ok(timers.add(server.state()))
        };
        server.add_timer(0, ms(1), Some(ms(10)), call).unwrap();
        ticks.next();
        let mut client = Client::small(&server);
        client.send("x");
        gate.reached_by(1);
        let late = server.clone();
        std::thread::scope(|scope| {
            let stop = scope.spawn(|| server.stop());
            eventually("it stops", || late.state() == crate::api::State::Stopping);
            gate.open();
            stop.join().unwrap().unwrap();
        });
        assert_eq!(told.take(2), ["close", "drop"]);
        told.none();
        assert_eq!(status(late.post(0, |_| Ok(()))), Status::State);
    });
}

/// WT12: Where and when there are none.
#[test]
fn no_tasks() {
    isolated(|| {
        let all = |server: &Server| {
            let (ours, _theirs) = pair();
            [
                status(server.watch(0, &ours, Interest::READ, |_, _, _, _| Ok(()))),
                status(server.add_timer(0, ms(1), None, |_, _| Ok(()))),
                status(server.post(0, |_| Ok(()))),
            ]
        };
        assert_eq!(all(&start(blocking(1), Hooks::new(echo))), [Status::NotNonBlocking; 3]);
        let (log, found) = events();
        let hooks = Hooks::new(echo).on_start(move |server| Ok(log.add(all(server))));
        let server = unstarted(non_blocking(1), hooks);
        assert_eq!(all(&server), [Status::State; 3]);
        server.start_background().unwrap();
        assert_eq!(found.next(), [Status::Ok; 3]);
        server.request_stop();
        assert_eq!(all(&server), [Status::State; 3]);
        server.wait(Some(SOON)).unwrap();
        assert_eq!(all(&server), [Status::State; 3]);
    });
}

/// WT13: A call may stop the server, and not wait for it.
#[test]
fn a_task_stops() {
    isolated(|| {
        let server = serving();
        let (log, found) = events();
        let task = move |server: &Server| {
            log.add((status(server.wait(None)), status(server.stop())));
            Ok(())
        };
        server.post(1, task).unwrap();
        assert_eq!(found.next(), (Status::Deadlock, Status::Ok));
        server.wait(Some(SOON)).unwrap();
    });
}

/// HS6, WT7: Where more timers are due than a turn calls, the descriptor stays readable.
#[test]
fn many_timers_of_a_hosted_server() {
    isolated(|| {
        let server = unstarted(non_blocking(1), Hooks::new(echo));
        server.start_hosted().unwrap();
        let count: Arc<AtomicUsize> = Arc::default();
        for _ in 0..500 {
            let count = count.clone();
            let call = move |_: &Server, _| {
                count.fetch_add(1, Ordering::SeqCst);
                Ok(())
            };
            server.add_timer(0, ms(50), None, call).unwrap();
        }
        turns_until(&server, "500 calls", || count.load(Ordering::SeqCst) == 500);
        server.stop().unwrap();
    });
}

/// HS6, WT1, WT7, WT9: A host that watches only the descriptor serves them too.
#[test]
fn hosted_tasks() {
    isolated(|| {
        let server = unstarted(non_blocking(1), Hooks::new(echo));
        server.start_hosted().unwrap();
        let (log, calls) = events();
        let (ours, mut theirs) = pair();
        let (on_timer, on_task) = (log.clone(), log.clone());
        let watch = move |server: &Server, id, _, _| {
            log.add("watch");
            server.unwatch(id)
        };
        server.watch(0, &ours, Interest::READ, watch).unwrap();
        let clock = Stopwatch::start();
        server.add_timer(0, ms(1500), None, move |_, _| Ok(on_timer.add("timer"))).unwrap();
        server.post(0, move |_| Ok(on_task.add("task"))).unwrap();
        let mut seen = Vec::new();
        for expected in ["task", "watch", "timer"] {
            if expected == "watch" {
                theirs.write_all(b"x").unwrap();
            }
            turns_until(&server, expected, || {
                seen.extend(calls.drain());
                seen.last() == Some(&expected)
            });
        }
        assert_eq!(seen, ["task", "watch", "timer"]);
        clock.kept(ms(1500));
        server.stop().unwrap();
    });
}
