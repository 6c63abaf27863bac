//! What the descriptor of a hosted server says to a host that watches nothing else.

use super::hosted::{come_to_rest, host, hosted_with, is_readable, turns_until};
use crate::api::{Hooks, Interest, OwnedSocket, Server, Status};
use crate::support::*;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A host that polls edge-triggered: it runs one turn for each edge.
struct EdgeHost<'a> {
    server: &'a Server,
    outer: OwnedFd,
}

impl EdgeHost<'_> {
    fn new(server: &Server) -> EdgeHost<'_> {
        // SAFETY: plain calls with descriptors of this test.
        let outer = unsafe {
            let outer = OwnedFd::from_raw_fd(libc::epoll_create1(libc::EPOLL_CLOEXEC));
            let events = (libc::EPOLLIN | libc::EPOLLET) as u32;
            let mut event = libc::epoll_event { events, u64: 0 };
            let (set, fd) = (outer.as_raw_fd(), server.poll_fd().unwrap());
            assert_eq!(libc::epoll_ctl(set, libc::EPOLL_CTL_ADD, fd, &mut event), 0);
            outer
        };
        EdgeHost { server, outer }
    }

    fn turns_until(&self, what: &str, mut done: impl FnMut() -> bool) {
        while !done() {
            let mut event = libc::epoll_event { events: 0, u64: 0 };
            // SAFETY: room for one event.
            let found = unsafe { libc::epoll_wait(self.outer.as_raw_fd(), &mut event, 1, 5000) };
            assert_eq!(found, 1, "no edge: {what}");
            self.server.run_once(Some(ms(0))).unwrap();
        }
    }
}

/// Counts the turns for which the descriptor asks until `done`.
fn count_turns(server: &Server, what: &str, mut done: impl FnMut() -> bool) -> usize {
    let (fd, until) = (server.poll_fd().unwrap(), Instant::now() + SOON);
    let mut turns = 0;
    while !done() {
        assert!(Instant::now() < until, "waited in vain: {what}");
        if is_readable(fd, ms(5)) {
            server.run_once(Some(ms(0))).unwrap();
            turns += 1;
        }
    }
    turns
}

/// HS7: More events than a turn handles make a new edge.
#[test]
fn edges_for_many_events() {
    const COUNT: usize = 1100;
    isolated(|| {
        set_descriptor_limit(4096);
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = calls.clone();
        let hooks = Hooks::new(move |server: &Server, socket| {
            counted.fetch_add(1, Ordering::SeqCst);
            echo(server, socket)
        });
        let server = hosted_with(non_blocking(1).max_connections(2000), hooks);
        let some = || (0..20).map(|_| Client::connect(&server).settled()).collect::<Vec<_>>();
        let mut clients = Vec::new();
        while clients.len() < COUNT {
            clients.extend(host(&server, some));
        }
        come_to_rest(&server);
        let edges = EdgeHost::new(&server);
        clients.iter_mut().for_each(|client| client.send("x"));
        edges.turns_until("all are called", || calls.load(Ordering::SeqCst) >= COUNT);
        clients.iter_mut().for_each(|client| client.expect("x"));
        server.stop().unwrap();
    });
}

/// HS7, WT1: A watch whose descriptor is still ready makes a new edge.
#[test]
fn edges_for_a_watch() {
    isolated(|| {
        let server = hosted_with(non_blocking(1), Hooks::new(echo));
        let edges = EdgeHost::new(&server);
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        let fd = ours.try_clone().unwrap();
        let (log, bytes) = events();
        let read_one = move |_: &Server, _, _, _| {
            let mut byte = [0];
            ours.read_exact(&mut byte).unwrap();
            Ok(log.add(byte[0]))
        };
        server.watch(0, &fd, Interest::READ, read_one).unwrap();
        theirs.write_all(b"edges").unwrap();
        let mut seen = Vec::new();
        edges.turns_until("each byte", || {
            seen.extend(bytes.drain());
            seen == b"edges"
        });
        server.stop().unwrap();
    });
}

/// HS6, HS13: Accepting goes on after its rest, and nothing spins meanwhile.
#[test]
fn out_of_descriptors() {
    isolated(|| {
        let (log, errors) = events();
        let hooks = Hooks::new(echo).on_exception(move |_, _, error| Ok(log.add(error.status())));
        let server = hosted_with(non_blocking(1), hooks);
        come_to_rest(&server);
        faults::fail_accept(&[libc::EMFILE; 7]);
        std::thread::scope(|scope| {
            let clients = scope.spawn(|| {
                // All wait in the backlog before the first accept.
                let lost: Vec<_> = (0..7).map(|_| Client::plain(address(&server))).collect();
                lost.into_iter().for_each(|mut client| client.expect_gone());
                Client::connect(&server).echo("hello");
            });
            let turns = count_turns(&server, "the client", || clients.is_finished());
            assert!(turns < 60, "{turns} turns");
            clients.join().unwrap();
        });
        assert_eq!((errors.next(), faults::accept_failures_left()), (Status::Accept, 0));
        server.stop().unwrap();
    });
}

fn address(server: &Server) -> (&'static str, u16) {
    ("127.0.0.1", server.port())
}

/// HS13: Clients beyond `max_connections` make nothing to do, and one that leaves does.
#[test]
fn full() {
    isolated(|| {
        let config = non_blocking(1).max_connections(2);
        let server = hosted_with(config, Hooks::new(echo));
        let (first, second) = host(&server, || {
            (Client::connect(&server).settled(), Client::connect(&server).settled())
        });
        let fd = server.poll_fd().unwrap();
        let waiting: Vec<_> = (0..3).map(|_| Client::plain(address(&server))).collect();
        come_to_rest(&server);
        assert!(!is_readable(fd, ms(50)), "nothing is to be done");
        assert_eq!(server.stats().accepted, 2);
        drop(first);
        turns_until(&server, "the third", || server.stats().accepted == 3);
        drop((waiting, second));
        turns_until(&server, "the others", || server.stats().accepted == 5);
        host(&server, || Client::connect(&server).echo("hello"));
        server.stop().unwrap();
    });
}

/// HS13: Input that no handler reads, and a client that does not read, make nothing to do.
#[test]
fn nothing_to_do() {
    isolated(|| {
        let (log, called) = events();
        let hooks = Hooks::new(move |_, socket| {
            log.add(());
            match socket.send(&pattern(1 << 20)) {
                Err(error) if error.status() == Status::BufferFull => socket.pause(),
                other => other,
            }
        });
        let config = non_blocking(1).send_limit(1 << 22).idle_timeout(Some(ms(60_000)));
        let server = hosted_with(config, hooks);
        let mut client = host(&server, || Client::connect(&server).saying("never read"));
        turns_until(&server, "a call", || !called.drain().is_empty());
        come_to_rest(&server);
        let fd = server.poll_fd().unwrap();
        assert!(!is_readable(fd, ms(50)), "nothing is to be done");
        client.finish_sending();
        let turns = count_turns_for(&server, ms(200));
        assert!(turns < 20, "{turns} turns");
        drop(client);
        server.stop().unwrap();
    });
}

fn count_turns_for(server: &Server, time: Duration) -> usize {
    let until = Instant::now() + time;
    count_turns(server, "the time", || Instant::now() >= until)
}

/// HS8, HS13: A stop waits for a client that does not read without spinning; what is kept then is
/// the descriptor and an eventfd.
#[test]
fn a_stop_that_waits() {
    isolated(|| {
        let before = descriptors().len();
        let hooks = Hooks::new(|_, socket| {
            text(socket)?;
            socket.send(&pattern(1 << 23))
        });
        let config = non_blocking(1).send_limit(1 << 24).drain_timeout(ms(400));
        let server = hosted_with(config, hooks);
        let client = host(&server, || Client::connect(&server).saying("go"));
        turns_until(&server, "bytes", || server.stats().bytes_out > 1 << 16);
        come_to_rest(&server);
        let clock = Stopwatch::start();
        server.request_stop();
        let turns = count_turns(&server, "the stop", || server.is_stopped());
        clock.kept(ms(400));
        assert!(turns < 60, "{turns} turns");
        drop(client);
        assert_eq!(descriptors().len(), before + 2);
    });
}

/// HS6, HS9: A connection leaves a hosted server and comes back from another thread.
#[test]
fn detached_and_attached() {
    isolated(|| {
        let (log, sockets) = events();
        let hooks = Hooks::new(move |server: &Server, socket| match text(socket)?.as_str() {
            "" => Ok(socket.close()),
            "leave" => Ok(log.add(server.detach(socket)?)),
            text => socket.send(text.as_bytes()),
        });
        let server = hosted_with(non_blocking(1).max_connections(1), hooks);
        let mut client = host(&server, || Client::connect(&server).saying("leave"));
        turns_until(&server, "the detach", || server.stats().detached == 1);
        // There is room for another one.
        host(&server, || Client::connect(&server).echo("meanwhile"));
        turns_until(&server, "its end", || server.stats().open == 0);
        come_to_rest(&server);
        let fd = server.poll_fd().unwrap();
        std::thread::scope(|scope| {
            let (mut socket, server): (OwnedSocket, _) = (sockets.next(), &server);
            scope.spawn(move || {
                socket.socket().send(b"owned").unwrap();
                server.attach(socket).unwrap();
            });
        });
        assert!(is_readable(fd, SOON), "a call of another thread");
        host(&server, || {
            client.expect("owned");
            client.echo("attached");
        });
        come_to_rest(&server);
        assert!(!is_readable(fd, ms(50)), "nothing is to be done");
        drop(client);
        turns_until(&server, "its end", || server.stats().open == 0);
        server.stop().unwrap();
    });
}

/// HS7, WT1: A watch of another server may be the host: it learns of the end too.
#[test]
fn watched_by_another_server() {
    isolated(|| {
        let inner = hosted_with(non_blocking(1), Hooks::new(echo));
        let outer = start(non_blocking(1), Hooks::new(echo));
        // SAFETY: the descriptor lives as long as the inner server.
        let fd = unsafe { BorrowedFd::borrow_raw(inner.poll_fd().unwrap()) };
        let hosted = Arc::new(inner);
        let (inner, (log, ended)) = (hosted.clone(), events());
        let run = move |outer: &Server, id, _, _| match status(hosted.run_once(Some(ms(0)))) {
            Status::Ok => Ok(()),
            other => {
                log.add(other);
                outer.unwatch(id)
            }
        };
        outer.watch(0, &fd, Interest::READ, run).unwrap();
        for _ in 0..3 {
            Client::connect(&inner).echo("hosted by another");
        }
        Client::connect(&outer).echo("its host");
        inner.request_stop();
        assert_eq!(ended.next(), Status::State);
        inner.wait(Some(SOON)).unwrap();
        outer.stop().unwrap();
    });
}
