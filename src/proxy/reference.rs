//! A second parser, slow and plain, from the text of the specification alone, and
//! a comparison of the parser with it on headers that are random or mutated.

use std::net::{IpAddr, SocketAddr};

#[cfg(test)]
use super::Announced;
use super::{decode, extent, Extent, Header, ProxyProtocol};

/// What a receiver of these bytes does.
#[derive(Debug, PartialEq)]
enum Outcome {
    /// It waits for more.
    Waits,
    Refuses,
    /// It takes so many bytes; these are the ends, as text, and the extras.
    Takes(usize, Option<(String, String)>, Vec<(u8, Vec<u8>)>),
}
use Outcome::{Refuses, Takes, Waits};

fn reference(bytes: &[u8], versions: ProxyProtocol) -> Outcome {
    let (v1, v2) = match versions {
        ProxyProtocol::Off => (false, false),
        ProxyProtocol::V1 => (true, false),
        ProxyProtocol::V2 => (false, true),
        ProxyProtocol::Both => (true, true),
    };
    if bytes.is_empty() {
        return Waits;
    }
    if bytes[0] == 0x50 {
        return reference_line(bytes, v1);
    }
    reference_binary(bytes, v2)
}

fn reference_line(bytes: &[u8], allowed: bool) -> Outcome {
    // Byte by byte, as a receiver that reads one at a time sees it.
    for size in 1..=bytes.len() {
        let line = &bytes[..size];
        if !b"PROXY ".starts_with(&line[..size.min(6)]) || (size >= 6 && !allowed) {
            return Refuses;
        }
        if line.ends_with(b"\r\n") {
            return match size > 107 {
                true => Refuses,
                false => reference_words(&line.iter().map(|b| char::from(*b)).collect::<String>()),
            };
        }
        if line[size - 1] == b'\n' || line[size.max(2) - 2..].starts_with(b"\r") || size == 107 {
            return Refuses;
        }
    }
    Waits
}

fn reference_words(line: &str) -> Outcome {
    let size = line.chars().count();
    let words: Vec<&str> = line[..line.len() - 2].split(' ').collect();
    if words[1] == "UNKNOWN" {
        return Takes(size, None, vec![]);
    }
    if words.len() != 6 || !line.is_ascii() {
        return Refuses;
    }
    let port = |word: &str| word.parse().ok().filter(|number: &u16| number.to_string() == word);
    let address = |word: &str| match words[1] {
        "TCP4" => four(word).map(IpAddr::from),
        "TCP6" => six(word).map(IpAddr::from),
        _ => None,
    };
    let (Some(source), Some(target)) = (address(words[2]), address(words[3])) else {
        return Refuses;
    };
    let (Some(from), Some(to)) = (port(words[4]), port(words[5])) else { return Refuses };
    let end = |ip: IpAddr, port| SocketAddr::new(ip.to_canonical(), port).to_string();
    Takes(size, Some((end(source, from), end(target, to))), vec![])
}

fn four(word: &str) -> Option<[u8; 4]> {
    let number = |part: &str| part.parse().ok().filter(|n: &u8| n.to_string() == part);
    let parts: Option<Vec<u8>> = word.split('.').map(number).collect();
    parts?.try_into().ok()
}

/// At most one "::", which stands for a group or more, and an IPv4 address in
/// place of the last two groups (RFC 4291, 2.2).
fn six(word: &str) -> Option<[u16; 8]> {
    let groups = |text: &str, may_end_as_four: bool| -> Option<Vec<u16>> {
        let parts: Vec<&str> = if text.is_empty() { vec![] } else { text.split(':').collect() };
        let mut found = vec![];
        for (i, part) in parts.iter().enumerate() {
            if may_end_as_four && i + 1 == parts.len() && part.contains('.') {
                let [a, b, c, d] = four(part)?.map(u16::from);
                found.extend([a * 256 + b, c * 256 + d]);
                continue;
            }
            if part.is_empty() || part.len() > 4 || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
                return None;
            }
            found.push(part.chars().fold(0, |n, c| n * 16 + c.to_digit(16).unwrap() as u16));
        }
        Some(found)
    };
    let Some((before, after)) = word.split_once("::") else {
        return groups(word, true)?.try_into().ok();
    };
    let (before, after) = (groups(before, false)?, groups(after, true)?);
    if before.len() + after.len() > 7 {
        return None;
    }
    let zeros = vec![0; 8 - before.len() - after.len()];
    [before, zeros, after].concat().try_into().ok()
}

fn reference_binary(bytes: &[u8], allowed: bool) -> Outcome {
    let signature = [0x0D, 0x0A, 0x0D, 0x0A, 0x00, 0x0D, 0x0A, 0x51, 0x55, 0x49, 0x54, 0x0A];
    for i in 0..bytes.len().min(12) {
        if bytes[i] != signature[i] {
            return Refuses;
        }
    }
    if bytes.len() >= 12 && !allowed {
        return Refuses;
    }
    let at = |i: usize| bytes.get(i).copied().map(usize::from);
    let local = at(12) == Some(0x20);
    if at(12).is_some_and(|b| b != 0x20 && b != 0x21) {
        return Refuses;
    }
    let families = [0x00, 0x01, 0x10, 0x11, 0x20, 0x21, 0x30, 0x31];
    if at(13).is_some_and(|b| !local && !families.contains(&b)) {
        return Refuses;
    }
    let (Some(family), Some(high), Some(low)) = (at(13), at(14), at(15)) else { return Waits };
    let rest = high * 256 + low;
    let needed = match family / 16 {
        _ if local => 0,
        0 => 0,
        1 => 12,
        2 => 36,
        _ => 216,
    };
    if rest + 16 > 4096 || rest < needed {
        return Refuses;
    }
    if bytes.len() < 16 + rest {
        return Waits;
    }
    if local {
        return Takes(16 + rest, None, vec![]);
    }
    let mut extras = vec![];
    let mut i = 16 + needed;
    while i < 16 + rest {
        if i + 3 > 16 + rest {
            return Refuses;
        }
        let len = usize::from(bytes[i + 1]) * 256 + usize::from(bytes[i + 2]);
        if i + 3 + len > 16 + rest {
            return Refuses;
        }
        let value = &bytes[i + 3..i + 3 + len];
        if bytes[i] == 3 {
            let mut zeroed = bytes[..16 + rest].to_vec();
            zeroed[i + 3..i + 3 + len].fill(0);
            if value != crc32c(&zeroed).to_be_bytes() {
                return Refuses;
            }
        }
        extras.push((bytes[i], value.to_vec()));
        i += 3 + len;
    }
    let number = |i: usize| u16::from_be_bytes([bytes[i], bytes[i + 1]]);
    let ends = match family {
        0x11 => {
            let ip = |i: usize| IpAddr::from([bytes[i], bytes[i + 1], bytes[i + 2], bytes[i + 3]]);
            Some((SocketAddr::new(ip(16), number(24)), SocketAddr::new(ip(20), number(26))))
        }
        0x21 => {
            let ip = |i: usize| {
                let octets: [u8; 16] = bytes[i..i + 16].try_into().unwrap();
                IpAddr::from(octets).to_canonical()
            };
            Some((SocketAddr::new(ip(16), number(48)), SocketAddr::new(ip(32), number(50))))
        }
        _ => None,
    };
    let mut ends = ends.map(|(from, to)| (from.to_string(), to.to_string()));
    if family == 0x31 {
        let name = |place: &[u8]| match place.iter().position(|b| *b == 0) {
            // unix(7): at most 107 bytes and a NUL.
            None => None,
            Some(0) => Some(match String::from_utf8_lossy(&place[1..]).trim_end_matches('\0') {
                "" => "unix:".to_string(),
                name => format!("unix:@{name}"),
            }),
            Some(end) => Some(format!("unix:{}", String::from_utf8_lossy(&place[..end]))),
        };
        let (Some(from), Some(to)) = (name(&bytes[16..124]), name(&bytes[124..232])) else {
            return Refuses;
        };
        let shown = |name: String| name.replace(char::is_control, "\u{fffd}");
        ends = Some((shown(from), shown(to)));
    }
    Takes(16 + rest, ends, extras)
}

/// By the polynomial of RFC 9260, appendix A, from the most significant bit on.
fn crc32c(bytes: &[u8]) -> u32 {
    let mut sum = u32::MAX;
    for byte in bytes {
        sum ^= u32::from(byte.reverse_bits()) << 24;
        for _ in 0..8 {
            sum = if sum >> 31 == 1 { sum << 1 ^ 0x1EDC_6F41 } else { sum << 1 };
        }
    }
    !sum.reverse_bits()
}

fn judged(found: Result<Header, &str>, taken: usize) -> Outcome {
    let Ok(header) = found else { return Refuses };
    let ends = header.ends.as_ref().map(|(from, to)| (from.name(), to.name()));
    let extras = super::Tlvs(&header.tlvs).map(|tlv| tlv.unwrap());
    Takes(taken, ends, extras.map(|(kind, value)| (kind, value.to_vec())).collect())
}

/// The parser on bytes that come together.
fn whole(bytes: &[u8], versions: ProxyProtocol) -> Outcome {
    match extent(bytes, versions) {
        Err(_) => Refuses,
        Ok(Extent::Part(_)) => Waits,
        Ok(Extent::Whole(end)) => judged(decode(&bytes[..end]), end),
    }
}

/// The parser as the connection uses it, on bytes that come in two pieces.
fn split(bytes: &[u8], at: usize, versions: ProxyProtocol) -> Outcome {
    let mut taken = 0;
    for came in [at, bytes.len()] {
        match extent(&bytes[..came], versions) {
            Err(_) => return Refuses,
            Ok(Extent::Part(end)) => {
                assert!(end >= taken && end <= came, "{end} of {came} after {taken}");
                taken = end;
            }
            Ok(Extent::Whole(end)) => {
                assert!(end >= taken, "{end} after {taken}");
                return judged(decode(&bytes[..end]), end);
            }
        }
    }
    Waits
}

/// Compares the parser with the reference, on bytes that come together and in two
/// pieces.
pub(super) fn compare(bytes: &[u8], at: usize, versions: ProxyProtocol) {
    let expected = reference(bytes, versions);
    assert_eq!(whole(bytes, versions), expected, "{bytes:?}");
    assert_eq!(split(bytes, at, versions), expected, "{bytes:?} at {at}");
}

/// A generator of numbers (xorshift).
#[cfg(test)]
struct Random(u64);

#[cfg(test)]
impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn of<'a>(&mut self, choices: &[&'a str]) -> &'a str {
        choices[self.below(choices.len())]
    }

    fn bytes(&mut self, n: usize) -> Vec<u8> {
        (0..n).map(|_| self.next() as u8).collect()
    }

    fn line(&mut self) -> Vec<u8> {
        let family = self.of(&["TCP4", "TCP4", "TCP6", "TCP6", "UNKNOWN", "UDP4"]);
        let addresses = match family {
            "TCP6" => {
                ["::1", "2001:db8::9", "::ffff:10.1.2.3", "1:2:3:4:5:6:7:8", "fe80::", "1.2.3.4"]
            }
            _ => ["1.2.3.4", "255.255.255.255", "0.0.0.0", "10.0.0.1", "192.168.1.1", "::1"],
        };
        let mut word = |of: &[&str]| self.of(of).to_string();
        let ports = ["0", "1", "80", "65535", "65536", "080"];
        let words = [word(&addresses), word(&addresses), word(&ports), word(&ports)];
        format!("PROXY {family} {}\r\n", words.join(" ")).into_bytes()
    }

    fn binary(&mut self) -> Vec<u8> {
        let mut rest = match self.below(8) {
            0 => vec![],
            1 | 2 => self.bytes(12),
            3 | 4 => self.bytes(36),
            5 => {
                let mut place = vec![0; 216];
                place[..9].copy_from_slice(b"/run/some");
                place[108..113].copy_from_slice(b"\0name");
                place
            }
            6 => [vec![0; 10], vec![255, 255, 10, 0, 0, 1], self.bytes(20)].concat(),
            _ => {
                let n = self.below(60);
                self.bytes(n)
            }
        };
        let family = match rest.len() {
            0 => 0x00,
            12 => 0x11,
            36 => 0x21,
            216 => 0x31,
            _ => self.next() as u8 & 0x33,
        };
        for _ in 0..self.below(3) {
            let len = self.below(9);
            rest.extend([self.next() as u8, 0, len as u8]);
            rest.extend(self.bytes(len));
        }
        let summed = self.below(4) == 0;
        if summed {
            rest.extend([3, 0, 4, 0, 0, 0, 0]);
        }
        let command = if self.below(6) == 0 { 0x20 } else { 0x21 };
        let mut header = super::SIGNATURE.to_vec();
        header.extend([command, family]);
        header.extend((rest.len() as u16).to_be_bytes());
        header.extend(rest);
        if summed {
            let (sum, end) = (crc32c(&header), header.len());
            header[end - 4..].copy_from_slice(&sum.to_be_bytes());
        }
        header
    }

    fn mutate(&mut self, bytes: &mut Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        let at = self.below(bytes.len());
        match self.below(7) {
            0 => bytes[at] = self.next() as u8,
            1 => bytes[at] ^= 1 << self.below(8),
            2 => drop(bytes.remove(at)),
            3 => bytes.insert(at, self.next() as u8),
            4 => bytes.insert(at, b" 0\r\n:."[self.below(6)]),
            5 => bytes.truncate(at),
            _ => {
                let (from, len) = (self.below(bytes.len()), self.below(20));
                let piece = bytes[from..bytes.len().min(from + len)].to_vec();
                bytes.splice(at..at, piece);
            }
        }
    }
}

/// The parser and the reference agree on every input, however it is split.
#[test]
fn the_parser_is_as_the_specification() {
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    let (mut took, mut refused, mut waited) = (0, 0, 0);
    for round in 0..6_000 {
        let mut bytes = match random.below(20) {
            0 => {
                let n = random.below(40);
                random.bytes(n)
            }
            1..=9 => random.line(),
            _ => random.binary(),
        };
        for _ in 0..random.below(4) {
            random.mutate(&mut bytes);
        }
        if random.below(2) == 0 {
            let n = random.below(30);
            bytes.extend(random.bytes(n));
        }
        let versions = match round % 8 {
            0 => ProxyProtocol::V1,
            1 => ProxyProtocol::V2,
            _ => ProxyProtocol::Both,
        };
        let expected = reference(&bytes, versions);
        assert_eq!(whole(&bytes, versions), expected, "{bytes:?}");
        for at in 0..bytes.len() {
            assert_eq!(split(&bytes, at, versions), expected, "{bytes:?} at {at}");
        }
        match expected {
            Takes(..) => took += 1,
            Refuses => refused += 1,
            Waits => waited += 1,
        }
    }
    assert!(took > 500 && refused > 500 && waited > 200, "{took} {refused} {waited}");
}

/// The sentence does not depend on how the bytes come.
#[test]
fn a_refusal_is_that_of_the_first_bad_byte() {
    let mut random = Random(7);
    for _ in 0..5_000 {
        let mut bytes = if random.below(2) == 0 { random.line() } else { random.binary() };
        random.mutate(&mut bytes);
        let whole = extent(&bytes, ProxyProtocol::Both);
        let first = (1..=bytes.len()).find_map(|n| extent(&bytes[..n], ProxyProtocol::Both).err());
        if !matches!(whole, Ok(Extent::Whole(_))) {
            assert_eq!(whole.err(), first, "{bytes:?}");
        }
    }
}

#[test]
fn the_sum_of_the_specification() {
    // RFC 3720, B.4.
    assert_eq!(crc32c(&[0; 32]), 0x8A91_36AA);
    assert_eq!(crc32c(b"123456789"), 0xE306_9283);
}

#[test]
fn an_announced_address_is_small() {
    assert!(size_of::<Announced>() <= 32);
}
