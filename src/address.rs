//! The addresses of peers, in a small form, and as text.

#![forbid(unsafe_code)]

use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::unix::ffi::OsStrExt;

use socket2::SockAddr;

/// A peer's address in 24 bytes; an IPv4 address is stored as IPv4-mapped. That
/// of a unix socket does not fit: the kernel has it.
#[derive(Clone, Copy, Default)]
pub(crate) struct Peer {
    ip: [u8; 16],
    scope: u32,
    port: u16,
    kind: Kind,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Kind {
    #[default]
    Unknown,
    Ip,
    Unix,
}

impl Peer {
    pub fn new(address: &SockAddr) -> Peer {
        match address.as_socket() {
            Some(address) => Peer::of_ip(address),
            None if address.is_unix() => Peer { kind: Kind::Unix, ..Peer::default() },
            None => Peer::default(),
        }
    }

    fn of_ip(address: SocketAddr) -> Peer {
        let (ip, scope) = match address {
            SocketAddr::V4(v4) => (v4.ip().to_ipv6_mapped(), 0),
            SocketAddr::V6(v6) => (*v6.ip(), v6.scope_id()),
        };
        Peer { ip: ip.octets(), scope, port: address.port(), kind: Kind::Ip }
    }

    /// Returns the address of a peer that has a port.
    pub fn address(self) -> Option<SocketAddr> {
        let ip = Ipv6Addr::from(self.ip);
        (self.kind == Kind::Ip).then(|| match ip.to_canonical() {
            IpAddr::V4(v4) => SocketAddr::new(v4.into(), self.port),
            IpAddr::V6(v6) => SocketAddrV6::new(v6, self.port, 0, self.scope).into(),
        })
    }

    /// Returns the first bits of an IP address, as one number; `None` for other
    /// peers. `ipv4` bits of an IPv4 address and `ipv6` bits of an IPv6 address
    /// count.
    pub fn prefix(self, ipv4: u32, ipv6: u32) -> Option<u128> {
        let ip = Ipv6Addr::from(self.ip);
        let bits = if ip.to_ipv4_mapped().is_some() { 96 + ipv4 } else { ipv6 };
        let rest = u128::MAX.checked_shr(bits).unwrap_or(0);
        (self.kind == Kind::Ip).then(|| ip.to_bits() & !rest)
    }

    pub fn is_unix(self) -> bool {
        self.kind == Kind::Unix
    }
}

/// Returns an address in the form that users see: an IPv4-mapped one as IPv4.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    Peer::of_ip(address).address().unwrap_or(address)
}

/// Returns an address as text: `127.0.0.1:80`, `unix:/path`, `unix:@name`,
/// `unix:` for a unix socket without a name.
pub(crate) fn name(address: &SockAddr) -> String {
    if let Some(address) = address.as_socket() {
        return canonical(address).to_string();
    }
    match (address.as_pathname(), address.as_abstract_namespace()) {
        (Some(path), _) => format!("unix:{}", printable(path.as_os_str().as_bytes())),
        (_, Some(name)) => format!("unix:@{}", printable(name)),
        _ if address.is_unix() => "unix:".into(),
        _ => String::new(),
    }
}

/// Returns a name, which may have any bytes, as text without control characters.
fn printable(name: &[u8]) -> String {
    let text = String::from_utf8_lossy(name);
    let shown = |c: char| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
    text.chars().map(shown).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapped_peer_is_shown_as_ipv4() {
        let mapped: SocketAddr = "[::ffff:192.0.2.1]:80".parse().unwrap();
        assert_eq!(canonical(mapped).to_string(), "192.0.2.1:80");
        let six: SocketAddr = "[2001:db8::1]:80".parse().unwrap();
        assert_eq!(canonical(six), six);
    }

    #[test]
    fn names_are_text() {
        let unix = |path: &[u8]| {
            let path = std::path::Path::new(std::ffi::OsStr::from_bytes(path));
            name(&SockAddr::unix(path).unwrap())
        };
        assert_eq!(unix(b"/run/x"), "unix:/run/x");
        assert_eq!(unix(b"\0x\0\n"), "unix:@x\u{fffd}\u{fffd}");
        assert_eq!(unix(b""), "unix:");
    }
}
