//! mio_echo: an echo server on mio, one receive buffer for all connections.
//!
//!   mio_echo [-b BYTES]

use std::io::{self, ErrorKind, Read, Write};

use mio::event::Event;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Registry, Token};
use slab::Slab;

use peers::{begin, say_listening, ADDRESS};

const LISTENER: Token = Token(usize::MAX);

struct Conn {
    stream: TcpStream,
    /// What the socket did not take; it is not read meanwhile.
    unsent: Vec<u8>,
}

impl Conn {
    /// As far as it goes now: whether the connection stays.
    fn serve(&mut self, buffer: &mut [u8]) -> io::Result<bool> {
        if !self.send_rest()? {
            return Ok(true);
        }
        loop {
            let received = match self.stream.read(buffer) {
                Ok(0) => return Ok(false),
                Ok(n) => &buffer[..n],
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(true),
                Err(e) => return Err(e),
            };
            let sent = send(&mut self.stream, received)?;
            if sent < received.len() {
                self.unsent.extend_from_slice(&received[sent..]);
                return Ok(true);
            }
        }
    }

    fn send_rest(&mut self) -> io::Result<bool> {
        let sent = send(&mut self.stream, &self.unsent)?;
        self.unsent.drain(..sent);
        if !self.unsent.is_empty() {
            return Ok(false);
        }
        self.unsent = Vec::new();
        Ok(true)
    }
}

/// How much of it the socket took.
fn send(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<usize> {
    let mut sent = 0;
    while sent < bytes.len() {
        match stream.write(&bytes[sent..]) {
            Ok(n) => sent += n,
            Err(e) if e.kind() == ErrorKind::WouldBlock => break,
            Err(e) => return Err(e),
        }
    }
    Ok(sent)
}

fn accept_all(
    listener: &TcpListener,
    registry: &Registry,
    conns: &mut Slab<Conn>,
) -> io::Result<()> {
    loop {
        let mut stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(e) if e.kind() == ErrorKind::ConnectionAborted => continue,
            Err(e) => return Err(e),
        };
        stream.set_nodelay(true)?;
        let entry = conns.vacant_entry();
        let interest = Interest::READABLE | Interest::WRITABLE;
        registry.register(&mut stream, Token(entry.key()), interest)?;
        entry.insert(Conn { stream, unsent: Vec::new() });
    }
}

/// Whether there may be something to do: the first event of a connection often says only that its
/// socket takes bytes.
fn concerns(event: &Event, conn: &Conn) -> bool {
    event.is_readable() || event.is_error() || !conn.unsent.is_empty()
}

fn main() -> io::Result<()> {
    let mut buffer = vec![0; begin(0).buffer_size];
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(1024);
    let mut conns = Slab::new();
    // The standard library's backlog is the greatest that the system allows, mio's is not.
    let listener = std::net::TcpListener::bind(ADDRESS)?;
    listener.set_nonblocking(true)?;
    say_listening("mio_echo", listener.local_addr()?)?;
    let mut listener = TcpListener::from_std(listener);
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    loop {
        match poll.poll(&mut events, None) {
            Err(e) if e.kind() == ErrorKind::Interrupted => continue, // stopped and continued
            result => result?,
        }
        for event in &events {
            if event.token() == LISTENER {
                accept_all(&listener, poll.registry(), &mut conns)?;
                continue;
            }
            let key = event.token().0;
            let conn: &mut Conn = &mut conns[key];
            if concerns(event, conn) && !conn.serve(&mut buffer).unwrap_or(false) {
                conns.remove(key);
            }
        }
    }
}
