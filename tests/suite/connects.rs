//! Connections that a server makes, and sockets whose connect is in progress.

use super::adopt::Dropped;
use super::hosted::{hosted_with, turns_until};
use crate::api::{plain_stream, CloseReason, ConnId, Hooks, Server, Status};
use crate::support::*;
use socket2::{Domain, SockAddr, Socket, Type};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;

/// What a server reports of its connections.
#[derive(Debug, PartialEq)]
pub(super) enum Seen {
    Open(ConnId),
    Wake,
    Drain,
    Close(CloseReason),
    /// The status and the code of the system of a connection with user data.
    Failed(Status, i32),
}

/// A server that reports all callbacks, and counts the user data that is dropped.
pub(super) struct Caller {
    pub(super) server: Server,
    pub(super) seen: Events<Seen>,
    pub(super) drops: Arc<AtomicUsize>,
}

pub(super) fn hooks() -> (Hooks, Events<Seen>) {
    let (log, seen) = events();
    let [opens, wakes, drains, closes, errors] = [(); 5].map(|()| log.clone());
    let hooks = Hooks::new(|_, socket| match text(socket)?.as_str() {
        "" => Ok(socket.close()),
        other => socket.send(other.as_bytes()),
    })
    .on_open(move |_, socket| {
        assert!(socket.user_data::<Dropped>().is_some());
        opens.add(Seen::Open(socket.id()));
        socket.send(b"open")
    })
    .on_wake(move |_, _| Ok(wakes.add(Seen::Wake)))
    .on_drain(move |_, _| Ok(drains.add(Seen::Drain)))
    .on_close(move |_, _, reason| closes.add(Seen::Close(reason)))
    .on_exception(move |_, socket, error| {
        let socket = socket.expect("a socket");
        assert!(socket.user_data::<Dropped>().is_some());
        assert_eq!(status(socket.send(b"x")), Status::Closed);
        assert_eq!(socket.os_error(), error.os_code());
        Ok(errors.add(Seen::Failed(error.status(), error.os_code())))
    });
    (hooks, seen)
}

impl Caller {
    pub(super) fn new() -> Caller {
        let (hooks, seen) = hooks();
        Caller { server: start(non_blocking(2), hooks), seen, drops: Arc::default() }
    }

    pub(super) fn data(&self) -> Dropped {
        Dropped(self.drops.clone())
    }

    pub(super) fn connect(&self, address: SocketAddr, millis: u64) -> ConnId {
        let timeout = (millis > 0).then(|| ms(millis));
        self.server.connect(&address.to_string(), timeout, self.data()).expect("connect")
    }

    /// All is over, and nothing else was called.
    #[track_caller]
    pub(super) fn ended(&self, count: usize) {
        wait_idle(&self.server);
        eventually("all data is dropped", || self.drops.load(Ordering::SeqCst) == count);
        assert_eq!(self.seen.drain(), []);
        assert_eq!(self.server.stats().adopted, count as u64);
    }

    pub(super) fn closed(&self, reason: CloseReason) -> u64 {
        self.server.stats().closed[reason as usize]
    }
}

/// A listener whose backlog is full: a connect is in progress until one is accepted, and then until
/// the next SYN, which the kernel sends after a second.
pub(super) struct Full {
    listener: TcpListener,
    first: TcpStream,
}

impl Full {
    pub(super) fn new() -> Full {
        Full::at(([127, 0, 0, 1], 0).into())
    }

    pub(super) fn at(address: SocketAddr) -> Full {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
        socket.set_reuse_address(true).unwrap();
        socket.bind(&address.into()).unwrap();
        socket.listen(0).unwrap();
        let listener: TcpListener = socket.into();
        let first = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        Full { listener, first }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    /// Accepts the next connection after the one that filled the backlog.
    pub(super) fn accept(&self) -> Client {
        let local = self.first.local_addr().unwrap();
        loop {
            let (stream, peer) = within(SOON, || self.listener.accept()).unwrap();
            if peer != local {
                return Client::set_up(plain_stream(stream)).unwrap();
            }
        }
    }
}

/// A port that nobody listens on.
pub(super) fn nowhere() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// A socket whose connect has begun.
pub(super) fn connecting(address: SocketAddr) -> Socket {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
    socket.set_nonblocking(true).unwrap();
    let begun = socket.connect(&SockAddr::from(address)).map_err(|e| e.raw_os_error());
    assert!(matches!(begun, Ok(()) | Err(Some(libc::EINPROGRESS))));
    socket
}

/// AD7: While a connect is in progress, bytes by id wait, and nothing is called; then `on_open`
/// runs, and the bytes leave before those of `on_open`.
#[test]
fn a_connect_in_progress() {
    isolated(|| {
        let caller = Caller::new();
        let server = &caller.server;
        for adopts in [false, true] {
            let full = Full::new();
            let id = match adopts {
                false => caller.connect(full.address(), 0),
                true => server.adopt(connecting(full.address()), caller.data()).unwrap(),
            };
            server.send(id, b"early").unwrap();
            server.wake(id).unwrap();
            caller.seen.none();
            assert_eq!(server.connections().unwrap(), []);
            assert_eq!(server.stats().open, 1);
            let mut peer = full.accept();
            peer.expect("earlyopen");
            assert_eq!(caller.seen.next(), Seen::Open(id));
            let mut rest = caller.seen.take(2);
            rest.sort_by_key(|seen| *seen == Seen::Wake);
            assert_eq!(rest, [Seen::Drain, Seen::Wake]);
            peer.echo("served");
            peer.finish_sending();
            peer.expect_end();
            assert_eq!(caller.seen.next(), Seen::Close(CloseReason::Peer));
        }
        caller.ended(2);
    });
}

/// AD7: A connect that is over immediately, and one that is over before the server looks.
#[test]
fn a_connect_to_somebody() {
    isolated(|| {
        let caller = Caller::new();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        for adopts in [false, true] {
            let id = match adopts {
                false => caller.connect(address, 8000),
                true => caller.server.adopt(connecting(address), caller.data()).unwrap(),
            };
            let peer = within(SOON, || listener.accept()).unwrap().0;
            let mut peer = Client::set_up(plain_stream(peer)).unwrap();
            peer.expect("open");
            peer.echo("served");
            assert_eq!(caller.seen.next(), Seen::Open(id));
            peer.finish_sending();
            peer.expect_end();
            assert_eq!(caller.seen.next(), Seen::Close(CloseReason::Peer));
        }
        caller.ended(2);
    });
}

/// AD8: A failure goes to the exception handler, with the code of the system and the user data;
/// neither `on_open` nor `on_close` runs.
#[test]
fn a_connect_that_is_refused() {
    isolated(|| {
        let caller = Caller::new();
        let refused = || Seen::Failed(Status::Connect, libc::ECONNREFUSED);
        let id = caller.connect(nowhere(), 0);
        assert_eq!(caller.seen.next(), refused());
        eventually("it is gone", || status(caller.server.send(id, b"x")) == Status::Closed);
        caller.server.adopt(connecting(nowhere()), caller.data()).unwrap();
        assert_eq!(caller.seen.next(), refused());
        // Later, at the next SYN.
        let full = Full::new();
        let id = caller.connect(full.address(), 0);
        caller.server.send(id, b"lost").unwrap();
        drop(full);
        assert_eq!(caller.seen.next(), refused());
        caller.ended(3);
        assert_eq!(caller.closed(CloseReason::Connect), 3);
        assert_eq!(caller.server.stats().handler_errors, 0);
    });
}

/// AD8: A socket that was reset before it is adopted is told as a connect that failed.
#[test]
fn a_socket_that_was_reset() {
    isolated(|| {
        let caller = Caller::new();
        let (ours, theirs) = super::adopt::tcp_pair();
        theirs.reset();
        eventually("the reset is there", || ours.peer_addr().is_err());
        caller.server.adopt(ours, caller.data()).unwrap();
        assert_eq!(caller.seen.next(), Seen::Failed(Status::Connect, libc::ECONNRESET));
        caller.ended(1);
    });
}

/// AD8: The time of a connect passes.
#[test]
fn a_connect_that_times_out() {
    isolated(|| {
        let caller = Caller::new();
        let full = Full::new();
        let clock = Stopwatch::start();
        let id = caller.connect(full.address(), 200);
        caller.server.send(id, b"lost").unwrap();
        assert_eq!(caller.seen.next(), Seen::Failed(Status::Connect, libc::ETIMEDOUT));
        clock.kept(ms(200));
        caller.ended(1);
    });
}

/// AD7: No deadline but its own ends a connect: the others begin when it is connected.
#[test]
fn deadlines_of_a_connect() {
    isolated(|| {
        let (hooks, seen) = hooks();
        let config = non_blocking(1).idle_timeout(ms(300)).write_timeout(ms(200));
        let server = start(config, hooks);
        let full = Full::new();
        let drops: Arc<AtomicUsize> = Arc::default();
        let address = full.address().to_string();
        let id = server.connect(&address, None, Dropped(drops.clone())).unwrap();
        server.send(id, b"early").unwrap();
        let_pass(ms(500));
        assert_eq!(seen.drain(), []);
        let mut peer = full.accept();
        let clock = Stopwatch::start();
        peer.expect("earlyopen");
        assert_eq!(seen.next(), Seen::Open(id));
        assert_eq!(seen.next(), Seen::Drain);
        peer.expect_end();
        assert!(clock.elapsed() < ms(300) + late());
        drop(peer);
        assert_eq!(seen.next(), Seen::Close(CloseReason::Idle));
        wait_idle(&server);
    });
}

/// AD8: The exception handler may connect again.
#[test]
fn a_connect_after_a_failure() {
    isolated(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (log, opens) = events();
        let hooks = Hooks::new(echo)
            .on_open(move |_, socket| Ok(log.add(socket.user_data::<u32>().copied())))
            .on_exception(move |server, socket, _| {
                let count = socket.unwrap().user_data::<u32>().unwrap();
                assert_eq!(*count, 1);
                server.connect(&address, None, count + 1).map(drop)
            });
        let server = start(non_blocking(1), hooks);
        server.connect(&nowhere().to_string(), None, 1u32).unwrap();
        assert_eq!(opens.next(), Some(2));
        drop(within(SOON, || listener.accept()).unwrap());
        wait_idle(&server);
    });
}

/// AD9: An end by id before it is connected calls nothing.
#[test]
fn an_end_of_a_connect() {
    isolated(|| {
        let caller = Caller::new();
        let full = Full::new();
        for abort in [false, true] {
            let id = caller.connect(full.address(), 0);
            match abort {
                true => caller.server.abort(id).unwrap(),
                false => caller.server.close(id).unwrap(),
            }
            idle_at_once(&caller.server);
        }
        let id = caller.connect(full.address(), 0);
        caller.server.send(id, b"lost").unwrap();
        caller.server.abort(id).unwrap();
        caller.ended(3);
        assert_eq!(caller.closed(CloseReason::Abort), 2);
        assert_eq!(caller.closed(CloseReason::Handler), 1);
    });
}

/// AD9: Bytes that were accepted before a close leave when it is connected, and then it ends; no
/// callback of it runs.
#[test]
fn bytes_and_a_close() {
    isolated(|| {
        let caller = Caller::new();
        let full = Full::new();
        let id = caller.connect(full.address(), 0);
        caller.server.send(id, b"first ").unwrap();
        caller.server.send(id, b"and last").unwrap();
        caller.server.close(id).unwrap();
        assert_eq!(status(caller.server.send(id, b"x")), Status::Closed);
        let mut peer = full.accept();
        peer.expect_last("first and last");
        drop(peer);
        caller.ended(1);
        assert_eq!(caller.closed(CloseReason::Handler), 1);
        // The same to nobody: the failure is reported.
        let full = Full::new();
        let id = caller.connect(full.address(), 0);
        caller.server.send(id, b"lost").unwrap();
        caller.server.close(id).unwrap();
        drop(full);
        assert_eq!(caller.seen.next(), Seen::Failed(Status::Connect, libc::ECONNREFUSED));
        caller.ended(2);
    });
}

/// AD7, AD9: A half-close by id before it is connected follows the bytes that were accepted, and
/// lists nothing.
#[test]
fn a_half_close_of_a_connect() {
    isolated(|| {
        let (log, seen) = events();
        let opens = log.clone();
        let (hooks, reasons) = Hooks::new(move |_, socket| {
            let text = text(socket)?;
            if text.is_empty() {
                socket.close();
            }
            Ok(log.add(text))
        })
        .telling_reasons();
        let server =
            start(non_blocking(1), hooks.on_open(move |_, _| Ok(opens.add("open".into()))));
        let full = Full::new();
        let id = server.connect(&full.address().to_string(), None, ()).unwrap();
        server.send(id, b"all that it says").unwrap();
        assert_eq!(server.queued(id).unwrap(), 16);
        server.shutdown(id, Shutdown::Write).unwrap();
        assert_eq!(status(server.send(id, b"x")), Status::Closed);
        server.shutdown(id, Shutdown::Write).unwrap();
        assert_eq!(server.connections().unwrap(), []);
        let mut peer = full.accept();
        peer.expect_last("all that it says");
        peer.send("an answer");
        assert_eq!(seen.take(2), ["open", "an answer"]);
        assert_eq!(server.connections().unwrap(), [id]);
        drop(peer);
        assert_eq!((seen.next().as_str(), reasons.next()), ("", CloseReason::Peer));
        wait_idle(&server);
    });
}

/// AD10: A stop ends a connect that has nothing to send, without a callback.
#[test]
fn a_stop_of_a_connect() {
    isolated(|| {
        let caller = Caller::new();
        let full = Full::new();
        caller.connect(full.address(), 0);
        caller.connect(full.address(), 60_000);
        let clock = Stopwatch::start();
        caller.server.stop().unwrap();
        clock.at_once();
        caller.ended(2);
        assert_eq!(caller.closed(CloseReason::Stop), 2);
    });
}

/// AD10: Bytes that were accepted before a stop leave when it is connected, until the stop's
/// deadline.
#[test]
fn bytes_and_a_stop() {
    isolated(|| {
        for comes in [false, true] {
            let caller = Caller::new();
            let full = Full::new();
            let id = caller.connect(full.address(), 0);
            caller.server.send(id, b"the last").unwrap();
            if !comes {
                caller.server.stop_within(ms(100)).unwrap();
                caller.ended(1);
                assert_eq!(caller.closed(CloseReason::Cut), 1);
                continue;
            }
            std::thread::scope(|scope| {
                let stop = scope.spawn(|| caller.server.stop_within(SOON));
                full.accept().expect_last("the last");
                stop.join().unwrap().unwrap();
            });
            caller.ended(1);
            assert_eq!(caller.closed(CloseReason::Stop), 1);
        }
    });
}

/// AD10: A server may be dropped while connects are in progress, a hosted one too.
#[test]
fn a_server_that_goes_away() {
    isolated(|| {
        let full = Full::new();
        let drops: Arc<AtomicUsize> = Arc::default();
        let address = full.address().to_string();
        let server = start(non_blocking(2), Hooks::new(echo));
        server.connect(&address, None, Dropped(drops.clone())).unwrap();
        drop(server);
        let server = hosted_with(non_blocking(1), Hooks::new(echo));
        server.connect(&address, None, Dropped(drops.clone())).unwrap();
        drop(server);
        assert_eq!(drops.load(Ordering::SeqCst), 2);
    });
}

/// AD11: A hosted server tells its host when a connect is over, and when its time is.
#[test]
fn a_connect_of_a_hosted_server() {
    isolated(|| {
        let (hooks, seen) = hooks();
        let server = hosted_with(non_blocking(1), hooks);
        let drops: Arc<AtomicUsize> = Arc::default();
        let full = Full::new();
        let next = || {
            let mut last = None;
            turns_until(&server, "a callback", || {
                last = seen.poll(ms(0));
                last.is_some()
            });
            last.unwrap()
        };
        server.connect(&full.address().to_string(), Some(ms(50)), Dropped(drops.clone())).unwrap();
        assert_eq!(next(), Seen::Failed(Status::Connect, libc::ETIMEDOUT));
        server.connect(&nowhere().to_string(), None, Dropped(drops.clone())).unwrap();
        assert_eq!(next(), Seen::Failed(Status::Connect, libc::ECONNREFUSED));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let id = server.connect(&address, None, Dropped(drops.clone())).unwrap();
        assert_eq!(next(), Seen::Open(id));
    });
}
