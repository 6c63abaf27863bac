//! Sockets of the program that become connections.

use super::hosted::{host, hosted_with, turns_until};
use crate::api::{plain_stream, AdoptError, CloseReason, Hooks, Interest, OwnedSocket, Server};
use crate::api::{Socket, Status};
use crate::support::*;
use std::fs::File;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// Counts how often it was dropped.
pub(super) struct Dropped(pub Arc<AtomicUsize>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// A connection of two sockets, of which the server may get the first one. It is plain text in
/// every run.
pub(super) fn tcp_pair() -> (TcpStream, Client) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let theirs = listener.accept().unwrap().0;
    (ours, Client::set_up(plain_stream(theirs)).unwrap())
}

pub(super) fn adopted(server: &Server, socket: impl Into<OwnedFd>) -> crate::api::ConnId {
    server.adopt(socket, ()).expect("adopt")
}

/// AD1: A socket of the program is served as an accepted one is, with its user data, without a
/// service and without TLS.
#[test]
fn an_adopted_socket() {
    isolated(|| {
        let (log, opens) = events();
        let drops: Arc<AtomicUsize> = Arc::default();
        let (hooks, reasons) = Hooks::new(echo).telling_reasons();
        let hooks = hooks.on_open(move |_, socket| {
            let name = socket.user_data::<(Dropped, &str)>().unwrap().1;
            Ok(log.add((socket.id(), name, socket.service(), socket.peer_name())))
        });
        let server = start(non_blocking(2), hooks);
        let (ours, mut client) = tcp_pair();
        let peer = ours.peer_addr().unwrap().to_string();
        let fd = ours.as_raw_fd();
        let id = server.adopt(ours, (Dropped(drops.clone()), "first")).unwrap();
        assert_eq!(opens.next(), (id, "first", None, peer));
        client.echo("hello");
        assert!(is_close_on_exec(fd));
        assert_eq!(server.connections().unwrap(), [id]);
        client.finish_sending();
        client.expect_end();
        assert_eq!(reasons.next(), CloseReason::Peer);
        eventually("its data is dropped", || drops.load(Ordering::SeqCst) == 1);
        let (ours, theirs) = UnixStream::pair().unwrap();
        let id = server.adopt(ours, (Dropped(drops.clone()), "second")).unwrap();
        assert_eq!(opens.next(), (id, "second", None, "unix:".into()));
        drop(theirs);
        assert_eq!(reasons.next(), CloseReason::Peer);
        wait_idle(&server);
        let stats = server.stats();
        assert_eq!((stats.accepted, stats.attached, stats.adopted), (0, 0, 2));
        assert_eq!(stats.closed[CloseReason::Peer as usize], 2);
        assert!(server.report().contains("adopted 2"));
    });
}

/// AD1: Limits and deadlines are those of every connection: the idle timeout, the timer, the
/// options of the socket.
#[test]
fn its_settings() {
    isolated(|| {
        let (log, options) = events();
        let (hooks, reasons) = Hooks::new(echo).telling_reasons();
        let hooks = hooks.on_open(move |_, socket| {
            let no_delay = socket_option(socket.raw_fd(), libc::IPPROTO_TCP, libc::TCP_NODELAY);
            log.add(no_delay != 0);
            if socket.user_data::<&str>() == Some(&"timer") {
                socket.set_timer(Some(ms(50)))?;
            }
            Ok(())
        });
        let server = start(non_blocking(1).idle_timeout(ms(300)).no_delay(true), hooks);
        for (data, due, reason) in
            [("idle", 300, CloseReason::Idle), ("timer", 50, CloseReason::Timer)]
        {
            let clock = Stopwatch::start();
            let (ours, mut client) = tcp_pair();
            server.adopt(ours, data).unwrap();
            assert!(options.next());
            client.expect_end();
            clock.kept(ms(due));
            drop(client);
            assert_eq!(reasons.next(), reason);
        }
    });
}

/// AD1: A hosted server takes sockets from any thread, and its descriptor says so.
#[test]
fn on_a_hosted_server() {
    isolated(|| {
        let server = hosted_with(non_blocking(1), Hooks::new(echo));
        let (ours, mut client) = tcp_pair();
        adopted(&server, ours);
        host(&server, || {
            client.echo("from its own thread");
            let (ours, mut other) = tcp_pair();
            adopted(&server, ours);
            other.echo("from another one");
        });
        drop(client);
        turns_until(&server, "the ends", || server.stats().open == 0);
        assert_balanced(&server);
    });
}

/// The error of a socket that is refused, which is unchanged and whose user data is dropped.
#[track_caller]
fn refused(server: &Server, socket: impl Into<OwnedFd>) -> (Status, String) {
    let drops: Arc<AtomicUsize> = Arc::default();
    let socket = socket.into();
    let number = socket.as_raw_fd();
    // SAFETY: an open descriptor.
    let flags = |fd| unsafe { libc::fcntl(fd, libc::F_GETFL) };
    let before = flags(number);
    let AdoptError { error, fd } = server.adopt(socket, Dropped(drops.clone())).unwrap_err();
    assert_eq!((fd.as_raw_fd(), flags(number)), (number, before));
    assert_eq!(drops.load(Ordering::SeqCst), 1);
    (error.status(), error.message().to_string())
}

/// AD2: What is no connected stream socket is refused with a sentence, and stays as it was.
#[test]
fn what_cannot_be_adopted() {
    isolated(|| {
        let server = start(non_blocking(1), Hooks::new(echo));
        let unconnected = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
        // SAFETY: a new descriptor, or -1, which is looked at.
        let packets = unsafe {
            let fd = libc::socket(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC, 0);
            assert!(fd >= 0);
            OwnedFd::from_raw_fd(fd)
        };
        let cases: [(OwnedFd, &str); 5] = [
            (UdpSocket::bind("127.0.0.1:0").unwrap().into(), "a datagram socket"),
            (TcpListener::bind("127.0.0.1:0").unwrap().into(), "a listening socket"),
            (unconnected.unwrap().into(), "not connected"),
            (File::open("/proc/self/exe").unwrap().into(), "no socket"),
            (packets, "no stream socket"),
        ];
        for (fd, why) in cases {
            let (status, message) = refused(&server, fd);
            assert_eq!(status, Status::Invalid, "{message}");
            assert!(message.contains(why), "{message}");
        }
        assert_eq!(server.stats().adopted, 0);
    });
}

/// AD2: A connection of the loop cannot be adopted a second time.
#[test]
fn a_socket_that_is_there() {
    isolated(|| {
        let (log, sockets) = events();
        let hooks = Hooks::new(echo).on_open(move |_, socket| Ok(log.add(socket.raw_fd())));
        let server = start(non_blocking(1), hooks);
        let mut client = Client::connect(&server);
        client.echo("hello");
        // SAFETY: the server's, to which it goes back.
        let fd = unsafe { OwnedFd::from_raw_fd(sockets.next()) };
        let failed = server.adopt(fd, ()).unwrap_err();
        assert_eq!(failed.error.status(), Status::Busy);
        let sentence = failed.error.to_string();
        assert!(sentence.contains("the loop has it already"), "{sentence}");
        let _ = failed.fd.into_raw_fd();
        client.echo("still served");
    });
}

/// AD3: Not on a blocking server, not before `on_start`, and not once a stop has begun.
#[test]
fn when_it_can_be_adopted() {
    isolated(|| {
        let server = start(blocking(1), Hooks::new(echo));
        assert_eq!(refused(&server, tcp_pair().0).0, Status::NotNonBlocking);
        let (ours, mut client) = tcp_pair();
        let place = Mutex::new(Some(ours));
        let gate = Gate::new();
        let (opened, passed) = (OpenOnDrop(gate.clone()), gate.clone());
        let hooks = Hooks::new(move |_, socket| match text(socket)?.as_str() {
            "wait" => Ok(passed.wait()),
            other => socket.send(other.as_bytes()),
        })
        .on_start(move |server| {
            adopted(server, place.lock().unwrap().take().unwrap());
            Ok(())
        });
        let server = unstarted(non_blocking(1), hooks);
        assert_eq!(refused(&server, tcp_pair().0).0, Status::State);
        server.start_background().unwrap();
        client.echo("adopted in on_start");
        client.send("wait");
        gate.reached_by(1);
        while_stopping(&server, || {
            assert_eq!(refused(&server, tcp_pair().0).0, Status::State);
            opened.0.open();
        });
        assert_eq!(refused(&server, tcp_pair().0).0, Status::State);
        assert_settled(&server);
    });
}

/// AD3: A socket that a stop meets before its `on_open` is closed, without a callback.
#[test]
fn a_stop_before_on_open() {
    isolated(|| {
        let drops: Arc<AtomicUsize> = Arc::default();
        let gate = Gate::new();
        let passed = gate.clone();
        let (log, calls) = events();
        let (closes, drains) = (log.clone(), log.clone());
        let hooks = Hooks::new(move |_, socket| {
            text(socket)?;
            Ok(passed.wait())
        })
        .on_open(move |_, socket| Ok(log.add(socket.user_data::<Dropped>().is_some())))
        .on_drain(move |_, _| Ok(drains.add(true)))
        .on_close(move |_, socket, _| closes.add(socket.user_data::<Dropped>().is_some()));
        let server = start(non_blocking(1), hooks);
        let _busy = Client::connect(&server).saying("x");
        gate.reached_by(1);
        let (ours, mut client) = tcp_pair();
        let id = server.adopt(ours, Dropped(drops.clone())).unwrap();
        server.send(id, &pattern(BULK)).unwrap();
        server.request_stop();
        gate.open();
        assert!(client.rest() == pattern(BULK));
        drop(client);
        server.stop().unwrap();
        assert_settled(&server);
        assert_eq!(drops.load(Ordering::SeqCst), 1);
        // Those of the accepted connection alone.
        assert!(calls.drain().iter().all(|has_data| !has_data));
        assert_eq!(server.stats().closed[CloseReason::Stop as usize], 2);
    });
}

/// AD4: In a callback it joins the loop of that callback; elsewhere it joins the loop with the
/// fewest connections.
#[test]
fn the_loop_that_it_joins() {
    isolated(|| {
        let (log, threads) = events();
        let place: Arc<Mutex<Option<TcpStream>>> = Arc::default();
        let next = place.clone();
        let opens = log.clone();
        let hooks = Hooks::new(move |server, socket| match text(socket)?.as_str() {
            "adopt" => {
                log.add(thread_number());
                adopted(server, next.lock().unwrap().take().unwrap());
                Ok(())
            }
            other => socket.send(other.as_bytes()),
        })
        .on_open(move |_, _| Ok(opens.add(thread_number())));
        let server = start(non_blocking(3), hooks);
        let mut clients = Vec::new();
        for _ in 0..3 {
            let (ours, mut client) = tcp_pair();
            adopted(&server, ours);
            client.echo("served");
            clients.push(client);
        }
        let mut loops = threads.take(3);
        loops.sort();
        loops.dedup();
        assert_eq!(loops.len(), 3, "one connection on each loop");
        let mut more = Vec::new();
        for client in &mut clients {
            let (ours, mut new) = tcp_pair();
            *place.lock().unwrap() = Some(ours);
            client.send("adopt");
            let (caller, joined) = (threads.next(), threads.next());
            assert_eq!(joined, caller);
            new.echo("served");
            more.push(new);
        }
    });
}

/// AD4: A watch of the program may give its descriptor to the loop that has called it.
#[test]
fn a_watched_socket() {
    isolated(|| {
        let (log, threads) = events();
        let opens = log.clone();
        let hooks = Hooks::new(echo).on_open(move |_, _| Ok(opens.add(thread_number())));
        let server = start(non_blocking(2), hooks);
        let (ours, mut client) = tcp_pair();
        let place = Mutex::new(Some(ours.try_clone().unwrap()));
        let watched = ours;
        let number = watched.as_raw_fd();
        let place_of_watched = Mutex::new(Some(watched));
        let call = move |server: &Server, id, fd, _| {
            assert_eq!(fd, number);
            server.unwatch(id)?;
            drop(place.lock().unwrap().take());
            log.add(thread_number());
            adopted(server, place_of_watched.lock().unwrap().take().unwrap());
            Ok(())
        };
        // SAFETY: open until the call below.
        let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(number) };
        server.watch(1, &fd, Interest::READ, call).unwrap();
        client.echo("the first bytes");
        assert_eq!(threads.next(), threads.next());
        drop(client);
        wait_idle(&server);
    });
}

/// AD5: It counts among `max_connections` and is never refused by it, and it is in the balance of
/// the statistics.
#[test]
fn beside_max_connections() {
    isolated(|| {
        let server = start(non_blocking(2).max_connections(2), Hooks::new(echo));
        let mut clients: Vec<_> = (0..3)
            .map(|_| {
                let (ours, mut client) = tcp_pair();
                adopted(&server, ours);
                client.echo("adopted");
                client
            })
            .collect();
        assert_balanced(&server);
        let waiting = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
        steadily("no room", || server.stats().accepted == 0);
        clients.pop();
        clients.pop();
        eventually("there is room", || server.stats().accepted == 1);
        drop((waiting, clients));
        wait_idle(&server);
        assert_eq!((server.stats().accepted, server.stats().adopted), (1, 3));
    });
}

/// A server with one loop, whose `on_open` sends "open", and the gate in which its loop stands.
fn held() -> (Server, Client, OpenOnDrop, Events<CloseReason>) {
    let gate = Gate::new();
    let passed = gate.clone();
    let (hooks, reasons) =
        Hooks::new(move |_, socket: &mut Socket<'_>| match text(socket)?.as_str() {
            "wait" => Ok(passed.wait()),
            "" => Ok(socket.close()),
            other => socket.send(other.as_bytes()),
        })
        .telling_reasons();
    let hooks = hooks.on_open(|_, socket| match socket.service() {
        None => socket.send(b"open"),
        Some(_) => Ok(()),
    });
    let server = start(non_blocking(1), hooks);
    let client = Client::connect(&server).saying("wait");
    gate.reached_by(1);
    (server, client, OpenOnDrop(gate), reasons)
}

/// AD6: The id takes calls from the return of the call on: bytes leave in their order, before
/// those of `on_open`.
#[test]
fn bytes_before_on_open() {
    isolated(|| {
        let (server, _busy, gate, reasons) = held();
        let (ours, mut client) = tcp_pair();
        let id = adopted(&server, ours);
        server.send(id, b"1").unwrap();
        server.send(id, b"2").unwrap();
        assert!(server.connections().unwrap().iter().all(|listed| *listed != id));
        gate.0.open();
        client.expect("12open");
        client.echo("and so on");
        server.send(id, b"3").unwrap();
        server.close(id).unwrap();
        client.expect_last("3");
        drop(client);
        assert_eq!(reasons.next(), CloseReason::Handler);
    });
}

/// AD6: A close and an abort by id that come before `on_open` end the connection after it.
#[test]
fn an_end_before_on_open() {
    isolated(|| {
        for abort in [false, true] {
            let (server, _busy, gate, reasons) = held();
            let (ours, mut client) = tcp_pair();
            let id = adopted(&server, ours);
            server.send(id, b"1").unwrap();
            match abort {
                true => server.abort(id).unwrap(),
                false => server.close(id).unwrap(),
            }
            assert_eq!(status(server.send(id, b"2")), Status::Closed);
            gate.0.open();
            match abort {
                true => client.expect_reset(),
                false => client.expect_last("1open"),
            }
            drop(client);
            let expected = if abort { CloseReason::Abort } else { CloseReason::Handler };
            assert_eq!(reasons.next(), expected);
        }
    });
}

/// AD6: A queue that waits for a slow peer leaves during a stop.
#[test]
fn a_queue_in_a_stop() {
    isolated(|| {
        let server = start(non_blocking(1), Hooks::new(echo));
        let (ours, mut client) = tcp_pair();
        let id = adopted(&server, ours);
        server.send(id, &pattern(BULK)).unwrap();
        while_stopping(&server, || {
            assert!(client.rest() == pattern(BULK));
            drop(client);
        });
        assert_settled(&server);
    });
}

/// AD14: `on_open` may detach it, and it can be attached again.
#[test]
fn detached_in_on_open() {
    isolated(|| {
        let (log, owned) = events();
        let hooks = Hooks::new(echo).on_open(move |server, socket| {
            let owned = server.detach(socket)?;
            Ok(log.add(owned))
        });
        let server = start(non_blocking(2), hooks);
        let (ours, mut client) = tcp_pair();
        let id = server.adopt(ours, 7).unwrap();
        client.send("early");
        let mut socket: OwnedSocket = owned.next();
        assert_eq!(socket.socket().user_data::<i32>(), Some(&7));
        eventually("it has left", || server.stats().open == 0);
        assert_eq!(status(server.send(id, b"x")), Status::Closed);
        assert_ne!(server.attach(socket).unwrap(), id);
        client.expect("early");
        client.echo("served");
        drop(client);
        wait_idle(&server);
        let stats = server.stats();
        assert_eq!((stats.adopted, stats.detached, stats.attached), (1, 1, 1));
    });
}

/// AD13: An owned socket of a descriptor waits in its calls, can be attached, and gives the
/// descriptor back.
#[test]
fn an_owned_socket_of_a_descriptor() {
    isolated(|| {
        let (ours, mut client) = tcp_pair();
        ours.set_nonblocking(true).unwrap();
        let peer = ours.peer_addr().unwrap();
        let mut socket = OwnedSocket::from_fd(ours).unwrap();
        assert_eq!(socket.socket().peer(), Some(peer));
        socket.socket().send(b"hello").unwrap();
        client.expect("hello");
        std::thread::scope(|scope| {
            let received = scope.spawn(|| text(&mut socket.socket()).unwrap());
            let_pass(ms(30));
            client.send("later");
            assert_eq!(received.join().unwrap(), "later");
        });
        let fd = socket.release_fd().map_err(|failed| failed.0).unwrap();
        let socket = OwnedSocket::from_fd(fd).unwrap();
        let server = start(non_blocking(1), Hooks::new(echo));
        server.attach(socket).unwrap();
        client.echo("served");
        drop(client);
        wait_idle(&server);
        assert_eq!((server.stats().adopted, server.stats().attached), (0, 1));
        // Two of them have two ids.
        let (first, second) = UnixStream::pair().unwrap();
        let [mut first, mut second] = [first, second].map(|s| OwnedSocket::from_fd(s).unwrap());
        assert_ne!(first.socket().id(), second.socket().id());
    });
}

/// AD13: Nothing but a connected stream socket becomes an owned one.
#[test]
fn no_owned_socket() {
    isolated(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let number = listener.as_raw_fd();
        let failed = OwnedSocket::from_fd(listener).err().unwrap();
        assert_eq!((failed.error.status(), failed.fd.as_raw_fd()), (Status::Invalid, number));
        let file = File::open("/proc/self/exe").unwrap();
        assert_eq!(OwnedSocket::from_fd(file).err().unwrap().error.status(), Status::Invalid);
    });
}
