//! Headers of the PROXY protocol, good ones and bad ones.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use net_server::{Config, ProxyProtocol};

use crate::program::ms;
use crate::random::Random;
use crate::world::{World, MILLI};

/// How an episode's server takes headers.
#[derive(Clone, Copy)]
pub struct Proxies {
    versions: ProxyProtocol,
    /// The time for a header, in ns.
    pub time: u64,
}

/// What a client begins with.
pub struct Header {
    pub bytes: Vec<u8>,
    /// The server refuses it.
    pub is_bad: bool,
    /// The client's address, where the header announces one.
    pub client: Option<SocketAddr>,
}

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Has headers before all connections.
pub fn choose(w: &mut World, config: Config) -> Config {
    use ProxyProtocol::{Both, V1, V2};
    let versions = w.random.one_of(&[V1, V2, Both, Both]);
    let time = w.random.one_of(&[200, 3_000]);
    w.proxies = Some(Proxies { versions, time: time * MILLI });
    config
        .proxy_protocol(versions)
        .add_trusted_proxy("127.0.0.0/8")
        .add_trusted_proxy("unix")
        .proxy_timeout(ms(time))
}

impl Proxies {
    pub fn header(&self, random: &mut Random) -> Header {
        let is_binary = random.once_in(2);
        let mut header = match (is_binary, random.once_in(6)) {
            (false, false) => good_line(random),
            (false, true) => bad_line(random),
            (true, false) => good_binary(random),
            (true, true) => bad_binary(random),
        };
        let other = if is_binary { ProxyProtocol::V1 } else { ProxyProtocol::V2 };
        header.is_bad |= self.versions == other;
        header
    }
}

fn addresses(random: &mut Random) -> (SocketAddr, SocketAddr) {
    let mut number = || random.next() as u16;
    let (a, b, c, d, is_v4) = (number(), number(), number(), number(), number() % 2 == 0);
    let host = |n: u16| match is_v4 {
        true => Ipv4Addr::new(10, 1, (n >> 8) as u8, n as u8).into(),
        false => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, a | 1, n).into(),
    };
    ((SocketAddr::new(host(a), b)), SocketAddr::new(host(c), d))
}

fn line_of(client: SocketAddr, here: SocketAddr) -> String {
    let family = if client.is_ipv4() { "TCP4" } else { "TCP6" };
    let (from, to) = (client.ip(), here.ip());
    format!("PROXY {family} {from} {to} {} {}\r\n", client.port(), here.port())
}

fn good_line(random: &mut Random) -> Header {
    let (client, here) = addresses(random);
    let (line, client) = match random.below(4) {
        0 => (format!("PROXY UNKNOWN{}\r\n", " x".repeat(random.below(46) as usize)), None),
        _ => (line_of(client, here), Some(client)),
    };
    Header { bytes: line.into_bytes(), is_bad: false, client }
}

fn bad_line(random: &mut Random) -> Header {
    let (client, here) = addresses(random);
    let good = line_of(client, here);
    let line = match random.below(8) {
        0 => good.replace("\r\n", "\n\n"),
        1 => good.replace("PROXY", "PROXX"),
        2 => good.replace("TCP", "UDP"),
        3 => format!("PROXY TCP4 10.0.0.1 10.0.0.2 {} 80\r\n", 65_536 + random.below(1 << 20)),
        4 => "PROXY TCP4 10.0.0.1 10.0.0.2 080 80\r\n".into(),
        5 => "PROXY TCP6 10.0.0.1 2001:db8::1 80 80\r\n".into(),
        6 => format!("PROXY UNKNOWN {}\r\n", "x".repeat(100 + random.below(3_000) as usize)),
        _ => "GET / HTTP/1.1\r\nHost: simulated\r\n\r\n".into(),
    };
    Header { bytes: line.into_bytes(), is_bad: true, client: None }
}

fn binary(first: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let len = (rest.len() as u16).to_be_bytes();
    [SIGNATURE, &[first, family], &len, rest].concat()
}

/// The addresses, as a binary header has them.
fn binary_of(client: SocketAddr, here: SocketAddr) -> (u8, Vec<u8>) {
    let (family, hosts) = match (client, here) {
        (SocketAddr::V4(a), SocketAddr::V4(b)) => {
            (0x11, [a.ip().octets(), b.ip().octets()].concat())
        }
        (SocketAddr::V6(a), SocketAddr::V6(b)) => {
            (0x21, [a.ip().octets(), b.ip().octets()].concat())
        }
        _ => unreachable!("they have one family"),
    };
    let ports = [client.port().to_be_bytes(), here.port().to_be_bytes()].concat();
    (family, [hosts, ports].concat())
}

fn good_binary(random: &mut Random) -> Header {
    let (client, here) = addresses(random);
    let (family, mut rest) = binary_of(client, here);
    // An extra without a meaning (`PP2_TYPE_NOOP`).
    let most = random.one_of(&[0, 0, 20, 4_000]);
    if most > 0 {
        let len = random.below(most) as u16;
        rest.push(4);
        rest.extend(len.to_be_bytes());
        rest.resize(rest.len() + usize::from(len), 7);
    }
    let (bytes, client) = match random.below(6) {
        0 => (binary(0x20, family, &rest), None),
        1 => (binary(0x21, 0, &[]), None),
        _ => (binary(0x21, family, &rest), Some(client)),
    };
    Header { bytes, is_bad: false, client }
}

fn bad_binary(random: &mut Random) -> Header {
    let (client, here) = addresses(random);
    let (family, mut rest) = binary_of(client, here);
    let bytes = match random.below(6) {
        0 => binary(0x31, family, &rest),
        1 => binary(0x22, family, &rest),
        2 => binary(0x21, family + 1, &rest),
        3 => binary(0x21, family, &rest[..random.below(rest.len() as u64) as usize]),
        4 => {
            rest.extend([4, 0xff, 0xff, 0]);
            binary(0x21, family, &rest)
        }
        _ => {
            rest.resize(4_081 + random.below(60_000) as usize, 0);
            binary(0x21, family, &rest)
        }
    };
    Header { bytes, is_bad: true, client: None }
}
