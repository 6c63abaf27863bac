//! Watched descriptors that the program closes before it unwatches them.

use super::tasks::{pair, serving};
use crate::api::{Hooks, Interest, Server, Status};
use crate::support::*;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;

/// A server with one loop, which tells the descriptors of its connections.
fn telling_sockets() -> (Server, Events<RawFd>) {
    let (log, sockets) = events();
    let hooks = Hooks::new(echo).on_open(move |_, socket| Ok(log.add(socket.raw_fd())));
    (start(non_blocking(1), hooks), sockets)
}

/// Closes a descriptor, whose number a connection then gets: the client has its own already.
fn give_number(ours: UnixStream, server: &Server, sockets: &Events<RawFd>) -> Client {
    let number = ours.as_raw_fd();
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    drop(ours);
    let mut client = Client::finish(socket, server);
    client.echo("hello");
    assert_eq!(sockets.next(), number);
    client
}

/// WT6: A descriptor that is closed too early harms its watch alone.
#[test]
fn closed_too_early() {
    isolated(|| {
        let (server, sockets) = telling_sockets();
        // A duplicate keeps the file open and ready.
        let (ours, mut theirs) = pair();
        let kept = ours.try_clone().unwrap();
        let id = server.watch(0, &ours, Interest::READ, |_, _, _, _| Ok(())).unwrap();
        let mut client = give_number(ours, &server, &sockets);
        server.unwatch(id).unwrap();
        client.echo("still served");
        theirs.write_all(b"x").unwrap();
        at_rest(|| let_pass(ms(200)));
        client.echo("still served");
        drop(kept);
    });
}

/// WT6: What such a descriptor has left spins neither where no descriptor is free, and other watches
/// go on.
#[test]
fn closed_too_early_without_descriptors() {
    isolated(|| {
        let server = start(non_blocking(1), Hooks::new(echo));
        let (other, mut peer) = pair();
        let (log, calls) = events();
        let mut reader = other.try_clone().unwrap();
        let call = move |_: &Server, _, _, _| {
            reader.read_exact(&mut [0]).unwrap();
            Ok(log.add(()))
        };
        server.watch(0, &other, Interest::READ, call).unwrap();
        let (ours, mut theirs) = pair();
        let kept = ours.try_clone().unwrap();
        let stray = server.watch(0, &ours, Interest::READ, |_, _, _, _| Ok(())).unwrap();
        drop(ours);
        server.unwatch(stray).unwrap();
        let limit = descriptor_limit().0;
        let fillers = fill_descriptors(0);
        theirs.write_all(b"x").unwrap();
        for _ in 0..2 {
            at_rest(|| let_pass(ms(400)));
            peer.write_all(b"x").unwrap();
            calls.next();
        }
        set_descriptor_limit(limit);
        drop(fillers);
        at_rest(|| let_pass(ms(400)));
        peer.write_all(b"x").unwrap();
        calls.next();
        drop(kept);
    });
}

/// WT6: The watch of a descriptor that was closed too early leaves alone a watch that has its
/// number.
#[test]
fn a_number_that_is_used_again() {
    isolated(|| {
        let server = serving();
        let (ours, theirs) = pair();
        let number = ours.as_raw_fd();
        let old = server.watch(0, &ours, Interest::READ, |_, _, _, _| Ok(())).unwrap();
        drop((ours, theirs));
        // A thread that begins may have the number for a moment: malloc(3) reads a file then.
        let (mut ours, mut theirs) = pair();
        eventually("the number is free", || {
            ours.as_raw_fd() == number || {
                (ours, theirs) = pair();
                false
            }
        });
        let (log, calls) = events();
        let mut reader = ours.try_clone().unwrap();
        let call = move |_: &Server, id, _, _| {
            reader.read_exact(&mut [0]).unwrap();
            Ok(log.add(id))
        };
        let new = server.watch(0, &ours, Interest::READ, call).unwrap();
        assert_eq!(status(server.change_watch(old, Interest::BOTH)), Status::Invalid);
        theirs.write_all(b"x").unwrap();
        assert_eq!(calls.next(), new);
        server.unwatch(old).unwrap();
        theirs.write_all(b"x").unwrap();
        assert_eq!(calls.next(), new);
        server.unwatch(new).unwrap();
    });
}

/// WT6: A descriptor that was closed too early, and whose file a duplicate keeps, can come back.
#[test]
fn a_descriptor_that_comes_back() {
    isolated(|| {
        let server = serving();
        let (ours, mut theirs) = pair();
        let (number, kept) = (ours.as_raw_fd(), ours.try_clone().unwrap());
        let old = server.watch(0, &ours, Interest::READ, |_, _, _, _| Ok(())).unwrap();
        drop(ours);
        server.unwatch(old).unwrap();
        // A thread that begins may have the number for a moment: malloc(3) reads a file then.
        let mut clone = kept.try_clone().unwrap();
        eventually("the number is free", || {
            clone.as_raw_fd() == number || {
                clone = kept.try_clone().unwrap();
                false
            }
        });
        let ours = clone;
        let (log, calls) = events();
        let call = move |server: &Server, id, _, _| {
            server.unwatch(id)?;
            Ok(log.add(id))
        };
        let new = server.watch(0, &ours, Interest::READ, call).unwrap();
        theirs.write_all(b"x").unwrap();
        assert_eq!(calls.next(), new);
        calls.none();
    });
}

/// WT6: A connection with the number of a descriptor that was closed too early stays the loop's,
/// also when the loop drops what another such descriptor has left.
#[test]
fn a_connection_with_the_number() {
    isolated(|| {
        let (server, sockets) = telling_sockets();
        let (ours, theirs) = pair();
        let (log, calls) = events();
        let call = move |_: &Server, _, fd, _| Ok(log.add(fd));
        let closed = server.watch(0, &ours, Interest::READ, call).unwrap();
        let (other, mut peer) = pair();
        let kept = other.try_clone().unwrap();
        let stray = server.watch(0, &other, Interest::READ, |_, _, _, _| Ok(())).unwrap();
        let mut client = give_number(ours, &server, &sockets);
        drop(other);
        server.unwatch(stray).unwrap();
        peer.write_all(b"x").unwrap();
        at_rest(|| let_pass(ms(200)));
        client.echo("still served");
        calls.none();
        server.unwatch(closed).unwrap();
        client.echo("still served");
        drop((theirs, kept));
    });
}
