//! The proxies that a program trusts.

#![forbid(unsafe_code)]

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};

use crate::address::Peer;
use crate::error::{quoted, Error, Status};

/// The sources whose PROXY headers are believed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Trusted {
    networks: Vec<IpNet>,
    unix: bool,
}

impl Trusted {
    /// Reads `10.0.0.0/8`, `192.0.2.1`, `::1`, `2001:db8::/32`, `unix`.
    pub fn parse(texts: &[String]) -> Result<Trusted, Error> {
        let mut trusted = Trusted::default();
        for text in texts {
            if text == "unix" {
                trusted.unix = true;
                continue;
            }
            let network = parse_network(text).map_err(|why| {
                Error::new(Status::Invalid, format!("trusted proxy {}: {why}", quoted(text)))
            })?;
            trusted.networks.push(network);
        }
        Ok(trusted)
    }

    pub fn is_empty(&self) -> bool {
        self.networks.is_empty() && !self.unix
    }

    pub fn has(&self, peer: Peer) -> bool {
        match peer.address() {
            Some(address) => self.networks.iter().any(|network| network.contains(&address.ip())),
            None => self.unix && peer.is_unix(),
        }
    }
}

/// The parser of `IpNet` takes zeros before a number too, which others read as an
/// octal one.
fn network(address: &str, prefix: &str) -> Option<IpNet> {
    let len: u8 = prefix.parse().ok().filter(|len: &u8| len.to_string() == prefix)?;
    IpNet::new(address.parse().ok()?, len).ok()
}

fn parse_network(text: &str) -> Result<IpNet, &'static str> {
    let network = match text.split_once('/') {
        None => text.parse::<IpAddr>().ok().map(IpNet::from),
        Some((address, prefix)) => network(address, prefix),
    };
    let network = network.ok_or("not an address, a network or \"unix\"")?;
    if network != network.trunc() {
        return Err("the address has bits beyond its prefix");
    }
    // A peer with an IPv4-mapped address is one of IPv4.
    let mapped = match network {
        IpNet::V6(six) if six.prefix_len() >= 96 => six
            .addr()
            .to_ipv4_mapped()
            .and_then(|four| Ipv4Net::new(four, six.prefix_len() - 96).ok()),
        _ => None,
    };
    Ok(mapped.map_or(network, IpNet::V4))
}

#[cfg(test)]
mod tests {
    use super::*;
    use socket2::SockAddr;
    use std::net::SocketAddr;

    fn trusts(networks: &[&str], peer: &str) -> bool {
        let networks: Vec<_> = networks.iter().map(|text| text.to_string()).collect();
        let address: SocketAddr = format!("{peer}:1").parse().unwrap();
        Trusted::parse(&networks).unwrap().has(Peer::new(&SockAddr::from(address)))
    }

    #[test]
    fn a_network_has_its_addresses() {
        assert!(trusts(&["10.0.0.0/8"], "10.255.0.1"));
        assert!(!trusts(&["10.0.0.0/8"], "11.0.0.0"));
        assert!(trusts(&["192.0.2.1", "::1"], "192.0.2.1"));
        assert!(!trusts(&["192.0.2.1", "::1"], "192.0.2.2"));
        assert!(trusts(&["2001:db8::/32"], "[2001:db8:ffff::1]"));
        assert!(trusts(&["::1"], "[::1]"));
        assert!(trusts(&["0.0.0.0/0"], "192.0.2.1"));
        assert!(!trusts(&["0.0.0.0/0", "unix"], "[::1]"));
        assert!(!trusts(&["::/0", "unix"], "192.0.2.1"));
        assert!(trusts(&["192.0.2.0/24"], "[::ffff:192.0.2.9]"));
        assert!(trusts(&["::ffff:192.0.2.0/120"], "192.0.2.9"));
        assert!(!trusts(&["unix"], "127.0.0.1"));
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "",
            "10.0.0.1/8",
            "10.0.0.0/33",
            "::/129",
            "10.0.0/8",
            "localhost",
            "unix:",
            "127.0.0.1:80",
            "[::1]",
            "010.0.0.1",
            "010.0.0.0/8",
            "10.0.0.0/08",
            "10.0.0.0/+8",
            "10.0.0.0/",
            " ::1",
            "fe80::1%lo",
        ] {
            let error = Trusted::parse(&[text.to_string()]).unwrap_err();
            assert_eq!(error.status(), Status::Invalid, "{text:?}");
            assert!(error.message().starts_with("trusted proxy \""), "{error}");
        }
    }
}
