//! Headers of the PROXY protocol, and clients behind a proxy that sends them.

use super::{Client, SOON};
use crate::api::{stream, Config, ProxyProtocol, Server};
use socket2::SockRef;
use std::io::Write;
use std::net::{IpAddr, SocketAddr, TcpStream};

/// A server's settings that take both versions from the loopback.
pub fn behind_a_proxy(config: Config) -> Config {
    config.proxy_protocol(ProxyProtocol::Both).add_trusted_proxy("127.0.0.0/8")
}

/// A header of version 2: `command` with the version, `family` with the transport.
pub fn binary(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    header.extend([command, family]);
    header.extend((rest.len() as u16).to_be_bytes());
    header.extend(rest);
    header
}

/// The addresses of a header of version 2, and its family.
pub fn addresses(source: &str, destination: &str) -> (u8, Vec<u8>) {
    let ends = [source, destination].map(|text| text.parse::<SocketAddr>().unwrap());
    let ips = ends.iter().flat_map(|end| match end.ip() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    });
    let ports = ends.iter().flat_map(|end| end.port().to_be_bytes());
    (if ends[0].is_ipv4() { 0x11 } else { 0x21 }, ips.chain(ports).collect())
}

/// A header of version 2 with these extras.
pub fn announcing(source: &str, destination: &str, extras: &[u8]) -> Vec<u8> {
    let (family, mut rest) = addresses(source, destination);
    rest.extend(extras);
    binary(0x21, family, &rest)
}

/// An extra of version 2.
pub fn extra(kind: u8, value: &[u8]) -> Vec<u8> {
    let mut tlv = vec![kind];
    tlv.extend((value.len() as u16).to_be_bytes());
    tlv.extend(value);
    tlv
}

/// A connection that nothing was said on.
pub fn bare(port: u16) -> TcpStream {
    let tcp = TcpStream::connect_timeout(&([127, 0, 0, 1], port).into(), SOON).expect("connect");
    tcp.set_nodelay(true).unwrap();
    tcp
}

impl Client {
    /// A client whose proxy has sent this header.
    #[track_caller]
    pub fn announced(server: &Server, header: &[u8]) -> Client {
        let mut tcp = bare(server.port());
        tcp.write_all(header).expect("the header");
        Client::set_up(stream(tcp)).unwrap()
    }

    /// The same, where the client's first bytes leave together with the header.
    #[track_caller]
    pub fn announced_with(server: &Server, header: &[u8]) -> Client {
        let tcp = bare(server.port());
        SockRef::from(&tcp).send_with_flags(header, libc::MSG_MORE).expect("the header");
        let stream = stream(tcp);
        stream.set_read_timeout(Some(SOON)).unwrap();
        Client(stream)
    }
}
