//! The PROXY protocol, versions 1 and 2: what a proxy sends before the bytes of
//! its client. The specification is HAProxy's `doc/proxy-protocol.txt`; the
//! numbers of sections in this file are its.
//!
//! This is the format alone: `conn/proxy.rs` receives a header,
//! `event/proxy.rs` and `blocking/opening.rs` say when.

#![forbid(unsafe_code)]

#[cfg(any(test, fuzzing))]
#[path = "fuzzing/proxy.rs"]
pub(crate) mod fuzzing;
#[cfg(any(test, fuzzing))]
mod reference;
mod trust;

use std::ffi::OsStr;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::str::{self, FromStr};

use socket2::SockAddr;

use crate::address::{self, canonical, Peer};

pub(crate) use trust::Trusted;

/// The longest header, in bytes. The format allows 65,551.
pub(crate) const MAX_HEADER: usize = 4096;
/// The longest line of version 1 with its CRLF (2.1).
const MAX_LINE: usize = 107;
const LINE_PREFIX: &[u8] = b"PROXY ";
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// The part of version 2 that says how long the rest is (2.2).
const FIXED: usize = 16;
/// `PP2_TYPE_CRC32C` (2.2.3).
const CRC32C: u8 = 3;

/// The versions of the PROXY protocol that a service accepts.
///
/// Example: [`Server::add_service`](crate::Server::add_service).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProxyProtocol {
    /// None: the service is no proxy's, and no byte is looked at.
    #[default]
    Off,
    /// The line of text (section 2.1 of the specification).
    V1,
    /// The binary header (2.2).
    V2,
    /// Either of them.
    Both,
}

impl ProxyProtocol {
    fn has_v1(self) -> bool {
        matches!(self, ProxyProtocol::V1 | ProxyProtocol::Both)
    }

    fn has_v2(self) -> bool {
        matches!(self, ProxyProtocol::V2 | ProxyProtocol::Both)
    }
}

/// Why a header is refused: the end of a sentence.
pub(crate) type Refusal = &'static str;

/// What a header announces.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Header {
    /// The client's address and the one that it connected to; `None` where the
    /// connection's own ones are to be used.
    pub ends: Option<(Announced, Announced)>,
    /// The TLVs, which are well-formed.
    tlvs: Box<[u8]>,
}

/// An address that a header announces.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Announced {
    Ip(SocketAddr),
    Unix(Box<SockAddr>),
}

impl Announced {
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            Announced::Ip(address) => Some(*address),
            Announced::Unix(_) => None,
        }
    }

    pub fn peer(&self) -> Peer {
        match self {
            Announced::Ip(address) => Peer::new(&(*address).into()),
            Announced::Unix(address) => Peer::new(address),
        }
    }

    pub fn name(&self) -> String {
        match self {
            Announced::Ip(address) => address.to_string(),
            Announced::Unix(address) => address::name(address),
        }
    }

    #[cfg(feature = "capi")]
    pub fn structure(&self) -> SockAddr {
        match self {
            Announced::Ip(address) => (*address).into(),
            Announced::Unix(address) => (**address).clone(),
        }
    }
}

impl Header {
    /// Returns whether it says anything.
    pub fn is_empty(&self) -> bool {
        self.ends.is_none() && self.tlvs.is_empty()
    }

    /// Returns the value of the first TLV of this type.
    pub fn tlv(&self, kind: u8) -> Option<&[u8]> {
        let mut found = Tlvs(&self.tlvs).flatten();
        found.find(|(other, _)| *other == kind).map(|(_, value)| value)
    }
}

/// How many of the bytes that have come belong to a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// So many, and more is to come.
    Part(usize),
    /// So many, which are the whole header.
    Whole(usize),
}

/// Finds the extent of a header, from its first byte on. The refusal is that of
/// the shortest beginning that is no header's: more bytes do not change it.
pub(crate) fn extent(bytes: &[u8], versions: ProxyProtocol) -> Result<Extent, Refusal> {
    match bytes.first() {
        None => Ok(Extent::Part(0)),
        Some(b'P') => extent_of_line(bytes, versions),
        Some(_) => extent_of_binary(bytes, versions),
    }
}

fn starts_as(bytes: &[u8], prefix: &[u8]) -> bool {
    bytes.iter().zip(prefix).all(|(one, other)| one == other)
}

fn extent_of_line(bytes: &[u8], versions: ProxyProtocol) -> Result<Extent, Refusal> {
    const TOO_LONG: Refusal = "its first 107 bytes have no CRLF";
    if !starts_as(bytes, LINE_PREFIX) {
        return Err(NO_HEADER);
    }
    if bytes.len() >= LINE_PREFIX.len() && !versions.has_v1() {
        return Err("version 1 is not accepted here");
    }
    let line = &bytes[..bytes.len().min(MAX_LINE)];
    let Some(end) = line.iter().position(|b| matches!(b, b'\r' | b'\n')) else {
        return if line.len() < MAX_LINE { Ok(Extent::Part(line.len())) } else { Err(TOO_LONG) };
    };
    match (line[end], line.get(end + 1)) {
        (b'\n', _) => Err("its line ends with LF without CR"),
        (_, Some(b'\n')) => Ok(Extent::Whole(end + 2)),
        (_, Some(_)) => Err("its line has CR without LF"),
        (_, None) if line.len() < MAX_LINE => Ok(Extent::Part(line.len())),
        (_, None) => Err(TOO_LONG),
    }
}

const NO_HEADER: Refusal = "it begins as neither version does";
/// The values of version 2's bit fields.
const PROXY: u8 = 1;
const UNIX: u8 = 3;
const DATAGRAM: u8 = 2;

/// The command, the family and the transport of version 2.
fn fields(bytes: &[u8]) -> (u8, u8, u8) {
    (bytes[12] & 15, bytes[13] >> 4, bytes[13] & 15)
}

/// Returns how many bytes the addresses of a family take.
fn addresses_len(family: u8) -> usize {
    [0, 2 * 4 + 2 * 2, 2 * 16 + 2 * 2, 2 * 108][usize::from(family.min(UNIX))]
}

fn extent_of_binary(bytes: &[u8], versions: ProxyProtocol) -> Result<Extent, Refusal> {
    if !starts_as(bytes, SIGNATURE) {
        return Err(NO_HEADER);
    }
    let came = bytes.len();
    if came >= 12 && !versions.has_v2() {
        return Err("version 2 is not accepted here");
    }
    if came >= 13 && bytes[12] >> 4 != 2 {
        return Err("its version is unknown");
    }
    if came >= 13 && bytes[12] & 15 > PROXY {
        return Err("its command is unknown");
    }
    if came < 14 {
        return Ok(Extent::Part(came));
    }
    let (command, family, transport) = fields(bytes);
    if command == PROXY {
        match () {
            () if family > UNIX => return Err("its address family is unknown"),
            () if transport > DATAGRAM => return Err("its transport is unknown"),
            () if transport == DATAGRAM => return Err("it is of datagrams"),
            () => {}
        }
    }
    if came < FIXED {
        return Ok(Extent::Part(came));
    }
    let rest = usize::from(u16::from_be_bytes([bytes[14], bytes[15]]));
    let whole = FIXED + rest;
    match () {
        () if whole > MAX_HEADER => Err("it is longer than 4096 bytes"),
        () if command == PROXY && rest < addresses_len(family) => {
            Err("it is shorter than its addresses")
        }
        () if came < whole => Ok(Extent::Part(came)),
        () => Ok(Extent::Whole(whole)),
    }
}

/// Reads a header that [`extent`] has found whole.
pub(crate) fn decode(header: &[u8]) -> Result<Header, Refusal> {
    match header.strip_prefix(LINE_PREFIX) {
        Some(line) => decode_line(line.strip_suffix(b"\r\n").unwrap_or(line)),
        None => decode_binary(header),
    }
}

fn decode_line(line: &[u8]) -> Result<Header, Refusal> {
    const NO_PORT: Refusal = "it has no port where one belongs";
    if line == b"UNKNOWN" || line.starts_with(b"UNKNOWN ") {
        return Ok(Header::default());
    }
    let mut words = str::from_utf8(line).map_err(|_| "it is no text")?.split(' ');
    let mut next = || words.next().ok_or("it is incomplete");
    let address: fn(&str) -> Option<IpAddr> = match next()? {
        "TCP4" => |text| Ipv4Addr::from_str(text).ok().map(IpAddr::V4),
        "TCP6" => |text| Ipv6Addr::from_str(text).ok().map(IpAddr::V6),
        _ => return Err("its protocol is unknown"),
    };
    let source = address(next()?).ok_or("its source is no address of its family")?;
    let destination = address(next()?).ok_or("its destination is no address of its family")?;
    let source_port = port(next()?).ok_or(NO_PORT)?;
    let destination_port = port(next()?).ok_or(NO_PORT)?;
    if words.next().is_some() {
        return Err("it has more than two addresses and ports");
    }
    let end = |ip, port| Announced::Ip(canonical(SocketAddr::new(ip, port)));
    let ends = (end(source, source_port), end(destination, destination_port));
    Ok(Header { ends: Some(ends), ..Header::default() })
}

/// A number of digits alone, without leading zeros.
fn port(text: &str) -> Option<u16> {
    let is_plain =
        text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| is_plain)
}

fn decode_binary(header: &[u8]) -> Result<Header, Refusal> {
    let (command, family, transport) = fields(header);
    if command != PROXY {
        // The proxy's own connection: the rest is to be skipped, whatever it is.
        return Ok(Header::default());
    }
    let (addresses, tlvs) = header[FIXED..].split_at(addresses_len(family));
    for tlv in Tlvs(tlvs) {
        let (kind, value) = tlv.map_err(|()| "an extra of it is longer than the header")?;
        if kind == CRC32C {
            check_sum(header, value)?;
        }
    }
    let ends = match transport {
        0 => None,
        _ => decode_addresses(family, addresses)?,
    };
    Ok(Header { ends, tlvs: tlvs.into() })
}

fn decode_addresses(family: u8, bytes: &[u8]) -> Result<Option<(Announced, Announced)>, Refusal> {
    let ip = |source: IpAddr, destination: IpAddr, ports: &[u8]| {
        let port = |at: usize| u16::from_be_bytes([ports[at], ports[at + 1]]);
        let end = |ip, port| Announced::Ip(canonical(SocketAddr::new(ip, port)));
        Some((end(source, port(0)), end(destination, port(2))))
    };
    Ok(match family {
        1 => {
            let address = |at| IpAddr::from(array::<4>(&bytes[at..]));
            ip(address(0), address(4), &bytes[8..])
        }
        2 => {
            let address = |at| IpAddr::from(array::<16>(&bytes[at..]));
            ip(address(0), address(16), &bytes[32..])
        }
        UNIX => {
            let (source, destination) = bytes.split_at(108);
            Some((unix(source)?, unix(destination)?))
        }
        _ => None,
    })
}

fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    std::array::from_fn(|i| bytes[i])
}

/// A path, a NUL and an abstract name, or nothing; then NULs (unix(7)).
fn unix(place: &[u8]) -> Result<Announced, Refusal> {
    let end = match place[0] {
        0 => place.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1),
        _ => place.iter().position(|b| *b == 0).unwrap_or(place.len()),
    };
    let path = Path::new(OsStr::from_bytes(&place[..end]));
    let address = SockAddr::unix(path).map_err(|_| "a path of it has no end")?;
    Ok(Announced::Unix(Box::new(address)))
}

/// The TLVs in these bytes. The last one is an error where it is longer than
/// they are.
struct Tlvs<'a>(&'a [u8]);

impl<'a> Iterator for Tlvs<'a> {
    type Item = Result<(u8, &'a [u8]), ()>;

    fn next(&mut self) -> Option<Self::Item> {
        let bytes = std::mem::take(&mut self.0);
        let &[kind, high, low, ref rest @ ..] = bytes else {
            return if bytes.is_empty() { None } else { Some(Err(())) };
        };
        let len = usize::from(u16::from_be_bytes([high, low]));
        Some(match rest.split_at_checked(len) {
            Some((value, rest)) => {
                self.0 = rest;
                Ok((kind, value))
            }
            None => Err(()),
        })
    }
}

/// Compares the checksum of the header, which `value` in it is, with the sum of
/// the header with zeros there (2.2.3; RFC 9260, appendix A).
fn check_sum(header: &[u8], value: &[u8]) -> Result<(), Refusal> {
    let at = value.as_ptr().addr() - header.as_ptr().addr();
    let is_sum = |i: usize| (at..at + value.len()).contains(&i);
    let mut sum = !0u32;
    for (i, byte) in header.iter().enumerate() {
        sum ^= u32::from(if is_sum(i) { 0 } else { *byte });
        for _ in 0..8 {
            sum = sum >> 1 ^ if sum & 1 == 1 { 0x82F6_3B78 } else { 0 };
        }
    }
    match value == (!sum).to_be_bytes() {
        true => Ok(()),
        false => Err("its checksum is wrong"),
    }
}
