//! The addresses of peers, in a small form.

#![forbid(unsafe_code)]

use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};

/// A peer's address in 24 bytes; an IPv4 address is stored as IPv4-mapped.
#[derive(Clone, Copy, Default)]
pub(crate) struct Peer {
    ip: [u8; 16],
    scope: u32,
    port: u16,
    known: bool,
}

impl Peer {
    pub fn new(address: Option<SocketAddr>) -> Peer {
        let Some(address) = address else { return Peer::default() };
        let (ip, scope) = match address {
            SocketAddr::V4(v4) => (v4.ip().to_ipv6_mapped(), 0),
            SocketAddr::V6(v6) => (*v6.ip(), v6.scope_id()),
        };
        Peer { ip: ip.octets(), scope, port: address.port(), known: true }
    }

    pub fn address(self) -> Option<SocketAddr> {
        let ip = Ipv6Addr::from(self.ip);
        self.known.then(|| match ip.to_canonical() {
            IpAddr::V4(v4) => SocketAddr::new(v4.into(), self.port),
            IpAddr::V6(v6) => SocketAddrV6::new(v6, self.port, 0, self.scope).into(),
        })
    }
}

/// Returns an address in the form that users see: an IPv4-mapped one as IPv4.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    Peer::new(Some(address)).address().unwrap_or(address)
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
}
