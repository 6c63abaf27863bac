//! Headers of the PROXY protocol, good ones and bad ones, and what a connection must show of them.

use super::story::{Ending, Story};
use super::Random;
use crate::api::{ProxyProtocol, Socket, Status};
use crate::support::*;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// Clients of this network speak for others, where the server is behind a proxy.
pub const TRUSTED: &str = "127.0.1.0/28";
/// An honest client's header is whole within this.
const QUICK: Duration = ms(500);

/// How a client comes to the server.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Way {
    /// By its own connection, without a header.
    Direct,
    /// With a header of one of these versions.
    Proxied(ProxyProtocol),
    /// From a source that is not trusted where others are.
    Stranger,
    /// By a socket that the server adopts.
    Door,
    /// By a connection that the server makes.
    Asked,
}

impl Way {
    /// The way of this client's own connections.
    pub fn of(number: u8, behind: Option<(ProxyProtocol, bool)>) -> Way {
        match behind {
            Some((versions, _)) if number < 16 => Way::Proxied(versions),
            Some((_, false)) => Way::Stranger,
            _ => Way::Direct,
        }
    }
}

/// What a client begins with.
#[derive(Debug)]
pub struct Header {
    pub bytes: Vec<u8>,
    /// Why the server must refuse it.
    pub refused: Option<&'static str>,
    /// The client's address and the one that it connected to, where it announces them.
    pub ends: Option<(SocketAddr, SocketAddr)>,
    extras: Vec<(u8, Vec<u8>)>,
}

impl Header {
    pub fn of(way: Way, random: &mut Random) -> Option<Header> {
        let (versions, stranger) = match way {
            Way::Proxied(versions) => (versions, false),
            Way::Stranger => (ProxyProtocol::Both, true),
            Way::Direct | Way::Door | Way::Asked => return None,
        };
        let binary = random.below(2) == 0;
        let mut header = match random.below(5) {
            0 if binary => bad_binary(random),
            0 => bad_line(random),
            _ if binary => good_binary(random),
            _ => good_line(random),
        };
        if versions == if binary { ProxyProtocol::V1 } else { ProxyProtocol::V2 } {
            header.refused = Some("a version that is not accepted");
        }
        if random.below(20) == 0 {
            header.bytes.truncate(random.below(header.bytes.len()));
            header.refused = Some("an end in the middle");
        }
        if stranger {
            header.refused = Some("a source that is not trusted");
        }
        Some(header)
    }

    fn good(bytes: Vec<u8>, ends: Option<(SocketAddr, SocketAddr)>) -> Header {
        Header { bytes, refused: None, ends, extras: Vec::new() }
    }

    fn bad(bytes: Vec<u8>, why: &'static str) -> Header {
        Header { refused: Some(why), ..Header::good(bytes, None) }
    }
}

/// Addresses of the same family that no two connections have.
fn ends(random: &mut Random) -> (SocketAddr, SocketAddr) {
    let (four, mut port) = (random.below(2) == 0, || random.below(1 << 16) as u16);
    let [a, b, c, d] = [(); 4].map(|()| port());
    match four {
        true => {
            let [client, here] = [a, b].map(|n| Ipv4Addr::new(10, 7, (n >> 8) as u8, n as u8));
            ((client, c).into(), (here, d).into())
        }
        false => {
            let [client, here] = [a, b].map(|n| Ipv6Addr::new(0x2001, 0xdb8, 0, a & 3, b, c, d, n));
            ((client, c).into(), (here, d).into())
        }
    }
}

/// A good header of one of the groups of addresses that share the places of one.
pub fn of_group(versions: ProxyProtocol, random: &mut Random) -> Vec<u8> {
    let client = format!("[2001:db8:0:{}::1]:1", random.below(4));
    let ends = (client.parse().unwrap(), "[2001:db8::2]:2".parse().unwrap());
    match versions {
        ProxyProtocol::V2 => announcing(&client, "[2001:db8::2]:2", &[]),
        _ => line(&ends, false).into_bytes(),
    }
}

/// The text of an address, which may be IPv4-mapped.
fn host(end: &SocketAddr, mapped: bool) -> String {
    if mapped {
        format!("::ffff:{}", end.ip())
    } else {
        end.ip().to_string()
    }
}

fn line(ends: &(SocketAddr, SocketAddr), mapped: bool) -> String {
    let family = if ends.0.is_ipv4() && !mapped { 4 } else { 6 };
    let [from, to] = [ends.0, ends.1].map(|end| host(&end, mapped));
    format!("PROXY TCP{family} {from} {to} {} {}\r\n", ends.0.port(), ends.1.port())
}

fn good_line(random: &mut Random) -> Header {
    if random.below(4) == 0 {
        let rest = "any thing\0\x7f".bytes().cycle().take(random.below(92));
        let rest: Vec<u8> = rest.collect();
        let blank: &[u8] = if rest.is_empty() { b"" } else { b" " };
        return Header::good([b"PROXY UNKNOWN", blank, &rest, b"\r\n"].concat(), None);
    }
    let ends = ends(random);
    let mapped = ends.0.is_ipv4() && random.below(3) == 0;
    Header::good(line(&ends, mapped).into_bytes(), Some(ends))
}

fn bad_line(random: &mut Random) -> Header {
    let ends = ends(random);
    let good = line(&ends, false);
    let (bytes, why) = match random.below(11) {
        0 => (good.replace("\r\n", "\n"), "a bare LF"),
        1 => (good.replace("\r\n", "\r \r\n"), "a bare CR"),
        2 => (format!("PROXY UNKNOWN {}", "x".repeat(94 + random.below(20))), "no CRLF"),
        3 => (good.replace("\r\n", &format!(" 0{}\r\n", random.below(10))), "more than it has"),
        4 => (format!("PROXY TCP4 1.2.3.4 5.6.7.8 0{} 1\r\n", random.below(10)), "a leading zero"),
        5 => (format!("PROXY TCP4 1.2.3.4 5.6.7.8 1 +{}\r\n", random.below(10)), "a sign"),
        6 => (format!("PROXY TCP4 1.2.3.4 5.6.7.8 1 {}\r\n", 65_536 + random.below(9)), "a port"),
        7 => (format!("PROXY TCP6 ::{} 5.6.7.8 1 2\r\n", random.below(9)), "mixed families"),
        8 => (good.replace("TCP", "UDP"), "an unknown value"),
        9 => (good.replace("PROXY", "proxy"), "no header"),
        _ => ("GET / HTTP/1.1\r\n\r\n".into(), "no header"),
    };
    Header::bad(bytes.into_bytes(), why)
}

fn good_binary(random: &mut Random) -> Header {
    let size = [0, 40, 3000][random.below(3)];
    let filler = |len| (0..len).map(|i| i as u8).collect::<Vec<_>>();
    match random.below(8) {
        0 => {
            return Header::good(
                binary(0x20, [0, 0x12, 0xFF][random.below(3)], &filler(size)),
                None,
            )
        }
        1 => return Header::good(binary(0x21, 0, &[]), None),
        _ => {}
    }
    let ends = ends(random);
    let extras: Vec<_> = (0..random.below(4))
        .map(|_| ([1, 2, 4, 5, 0xE0][random.below(5)], filler(random.below(300))))
        .collect();
    let tail: Vec<u8> = extras.iter().flat_map(|(kind, value)| extra(*kind, value)).collect();
    let mut bytes = announcing(&ends.0.to_string(), &ends.1.to_string(), &tail);
    if random.below(3) == 0 {
        bytes = checked(bytes);
    }
    Header { extras, ..Header::good(bytes, Some(ends)) }
}

fn bad_binary(random: &mut Random) -> Header {
    let ends = ends(random);
    let (family, addresses) = addresses(&ends.0.to_string(), &ends.1.to_string());
    let with = |extras: &[u8]| binary(0x21, family, &[&addresses, extras].concat());
    let (bytes, why) = match random.below(10) {
        0 => (binary(0x11, family, &addresses), "an unknown version"),
        1 => (binary(0x22 + random.below(9) as u8, family, &addresses), "an unknown command"),
        2 => (binary(0x21, family + 0x30, &addresses), "an unknown family"),
        3 => (binary(0x21, family + 2, &addresses), "an unknown transport"),
        4 => (binary(0x21, family + 1, &addresses), "datagrams"),
        5 => {
            let len = random.below(addresses.len());
            (binary(0x21, family, &addresses[..len]), "shorter than its addresses")
        }
        6 => (with(&extra(4, &[0; 50])[..1 + random.below(50)]), "an extra that overruns"),
        7 => (with(&extra(4, &[0; 4096])), "longer than 4096 bytes"),
        8 => {
            let mut bytes = checked(with(&[]));
            *bytes.last_mut().unwrap() ^= 1 << random.below(8);
            (bytes, "a wrong checksum")
        }
        _ => (b"\r\n\r\n\0\r\nQUIT\r".to_vec(), "no header"),
    };
    Header::bad(bytes, why)
}

/// The header with its checksum (PP2_TYPE_CRC32C) behind it.
fn checked(mut header: Vec<u8>) -> Vec<u8> {
    header.extend(extra(3, &[0; 4]));
    let len = header.len() - 16;
    header[14..16].copy_from_slice(&(len as u16).to_be_bytes());
    let sum = header.iter().fold(!0u32, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| {
            (sum >> 1) ^ (0x82f6_3b78 & (sum & 1).wrapping_neg())
        })
    });
    let at = header.len() - 4;
    header[at..].copy_from_slice(&(!sum).to_be_bytes());
    header
}

// -- what the server's side shows ---------------------------------------------------------

/// PP2, PP7: The addresses and the extras of a connection are those of its header.
pub fn check(socket: &Socket<'_>, story: &Arc<Story>) {
    let differs = |what: &str, found: String| {
        story.world.found("the header is shown", what, Some(&format!("{found}\n{}", story.tell())));
    };
    let announced = story.header.as_ref().and_then(|header| header.ends);
    let real = story.address;
    // Of one that was reset, or has ended, the system may know nothing any more.
    let peer = socket.peer();
    if peer != Some(announced.map_or(real, |ends| ends.0))
        && (announced.is_some() || peer.is_some())
    {
        differs("the peer is another", format!("{peer:?}, announced {announced:?}, {real}"));
    }
    if announced.is_some_and(|ends| socket.local() != Some(ends.1)) {
        differs("the local address is another", format!("{:?}, {announced:?}", socket.local()));
    }
    let transport = socket.transport_peer_name();
    if !transport.is_empty() && transport != real.to_string() {
        differs("the proxy's address is another", format!("{transport} and not {real}"));
    }
    for kind in [1, 2, 5, 0x30] {
        let value = socket.proxy_tlv(kind).map(|value| value.to_vec());
        let sent = story.header.as_ref().map_or([].as_slice(), |header| &header.extras);
        let sent = sent.iter().find(|(other, _)| *other == kind).map(|(_, value)| value);
        if value.as_ref() != sent {
            differs("an extra is another", format!("{kind}: {value:?} and not {sent:?}"));
        }
    }
}

/// PP5, PP9: The exception handler is told of a connection that ends before its header was taken:
/// whether nothing can be said to it.
pub fn is_unheard(story: &Arc<Story>, status: Status) -> bool {
    let Some(header) = &story.header else {
        if status == Status::Proxy {
            story.found("a header is asked for where it belongs", "of a client that has none");
        }
        return false;
    };
    if status == Status::Proxy && header.refused.is_none() {
        let (whole, ending) = story.with(|ledger| (ledger.whole_at, ledger.client_ending));
        let begun = story.with(|ledger| ledger.begun);
        let is_quick = whole.is_some_and(|at| at - begun < QUICK);
        if is_quick && ending != Some(Ending::Abrupt) {
            story.found("a good header is taken", "it is refused");
        }
    }
    story.with(|ledger| {
        let unheard = ledger.opened == 0 && matches!(status, Status::Proxy | Status::Rejected);
        ledger.unheard |= unheard;
        unheard
    })
}
