//! Limits of each address and of all queues together: each end gives back what it took.

use super::headers;
use super::link;
use super::quiesces::CERTAIN;
use super::world::World;
use super::Random;
use crate::api::{CloseReason, ConnId, Error, ProxyProtocol, Server, Socket, Status};
use crate::support::*;
use socket2::SockAddr;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::Ordering;

/// So many connections an address may have.
pub const PER_ADDRESS: u32 = 4;
/// The bound of all queues together.
pub const TOTAL: usize = 1 << 20;

/// A connection that is only to be there, on a server that has no others.
struct Probe(TcpStream);

impl Probe {
    fn new(port: u16, number: u8, header: &[u8]) -> Option<Probe> {
        let (socket, _) = link::socket([127, 0, 1, number]).ok()?;
        let server = SocketAddr::from(([127, 0, 0, 1], port));
        socket.connect_timeout(&SockAddr::from(server), SOON).ok()?;
        let mut tcp: TcpStream = socket.into();
        // A refused one may be gone by this time.
        let _ = tcp.write_all(header);
        tcp.set_nonblocking(true).ok()?;
        Some(Probe(tcp))
    }

    fn is_open(&self) -> bool {
        let read = (&self.0).read(&mut [0; 64]);
        read.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    }
}

/// PA1, PA3, PP10: Nobody is left: an address has all of its places, and no more.
pub fn gives_back(
    world: &World,
    server: &Server,
    behind: Option<(ProxyProtocol, bool)>,
    random: &mut Random,
) {
    world.probing.store(true, Ordering::SeqCst);
    for _ in 0..3 {
        // Odd ones are those of sockets that are adopted.
        let number = 2 + 2 * random.below(7) as u8;
        let header = behind.map_or(Vec::new(), |(versions, _)| headers::of_group(versions, random));
        probe(world, server, number, &header);
        is_idle(server);
    }
    if world.non_blocking && !world.tls {
        let header = behind.map_or(Vec::new(), |(versions, _)| headers::of_group(versions, random));
        fill(world, server, &header);
    }
    is_idle(server);
    world.probing.store(false, Ordering::SeqCst);
}

fn is_idle(server: &Server) -> bool {
    comes_true(SOON, || server.stats().open + server.stats().waiting == 0)
}

fn probe(world: &World, server: &Server, number: u8, header: &[u8]) {
    let limited = || server.stats().closed[CloseReason::Limit as usize];
    let (before, accepted) = (limited(), server.stats().accepted);
    let connect = || Probe::new(server.port(), number, header);
    let held: Vec<_> = (0..=PER_ADDRESS).map_while(|_| connect()).collect();
    if held.len() <= PER_ADDRESS as usize {
        return;
    }
    let all = || server.stats().accepted > accepted + u64::from(PER_ADDRESS);
    let one_is_refused = comes_true(SOON, || all() && limited() > before);
    let open = held.iter().filter(|probe| probe.is_open()).count();
    // Their deadlines may have passed on a busy machine.
    let lasted = open >= PER_ADDRESS as usize;
    world.count(if lasted { "places of an address" } else { "places did not last" });
    let refused = limited() - before;
    let kind = match (one_is_refused, refused) {
        (false, _) if lasted => "one more than the limit is served",
        (true, 2..) => "a place is not given back",
        _ => return,
    };
    let detail = format!("127.0.1.{number}, {refused} refused, {open} open");
    world.found("each end gives its place back", kind, Some(&detail));
}

/// QT1, QT2: Nothing is queued: the whole bound is free, and no more.
fn fill(world: &World, server: &Server, header: &[u8]) {
    let Some(mut client) = Probe::new(server.port(), 2, header) else { return };
    let mut id = None;
    let there = || {
        id = server.connections().ok().and_then(|ids| ids.first().copied());
        id.is_some()
    };
    if !comes_true(SOON, there) {
        return;
    }
    let id: ConnId = id.expect("it is there");
    let too_many = status(server.send(id, &vec![0; TOTAL + 1]));
    let all = status(server.send(id, &vec![0; TOTAL]));
    if all == Status::Closed {
        return world.count("places did not last");
    }
    world.count("the whole bound");
    if (too_many, all) != (Status::BufferFull, Status::Ok) {
        let detail = format!("{too_many:?} for a byte more, {all:?} for all");
        world.found("what leaves is given back", "the bound of all queues", Some(&detail));
    }
    let _ = client.0.set_nonblocking(false);
    let _ = client.0.set_read_timeout(Some(CERTAIN));
    while client.0.read(&mut [0; 64 << 10]).is_ok_and(|n| n > 0) {}
}

/// The handler of a probe: it goes when its client does.
pub fn hold(world: &World, socket: &mut Socket<'_>) -> Result<(), Error> {
    while world.probing.load(Ordering::SeqCst) {
        match socket.recv(&mut [0; 64]).map_err(|error| error.status()) {
            Ok(1..) => {}
            Err(Status::WouldBlock) => return Ok(()),
            Err(Status::Timeout) if !world.non_blocking && !socket.is_closed() => {}
            Ok(0) | Err(_) => break,
        }
    }
    Ok(socket.close())
}
