//! PROXY headers: the parser and the reference agree on every input, however it
//! is split. The list of trusted proxies takes any text.

use super::{extent, reference, Extent, ProxyProtocol, Trusted};
use crate::address::Peer;
use crate::error::Status;
use crate::fuzzing::Input;
use std::net::{IpAddr, SocketAddr};

/// Judges one input.
pub fn target(data: &[u8]) {
    let mut input = Input(data);
    let (kind, at) = (input.byte(), usize::from(input.byte()));
    let bytes = input.0;
    if kind & 15 == 15 {
        return check_trusted(bytes);
    }
    let versions = match kind & 3 {
        0 => ProxyProtocol::V1,
        1 => ProxyProtocol::V2,
        _ => ProxyProtocol::Both,
    };
    reference::compare(bytes, at * (bytes.len() + 1) / 256, versions);
    // The sentence is that of the first bad byte.
    let whole = extent(bytes, versions);
    if let Err(why) = whole {
        let first = (1..=bytes.len()).find_map(|n| extent(&bytes[..n], versions).err());
        assert_eq!(first, Some(why));
    } else if let Ok(Extent::Whole(end)) = whole {
        assert_eq!(extent(&bytes[..end], versions), Ok(Extent::Whole(end)));
        assert!(matches!(extent(&bytes[..end - 1], versions), Ok(Extent::Part(n)) if n < end));
    }
}

/// Of an accepted network: its own address is in it, one that differs in a later
/// bit too, and one that differs in the last bit of the prefix is not.
fn check_trusted(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let trusted = match Trusted::parse(&[text.to_string()]) {
        Ok(trusted) => trusted,
        Err(error) => {
            assert_eq!(error.status(), Status::Invalid);
            return;
        }
    };
    assert!(!trusted.is_empty());
    if text == "unix" {
        return;
    }
    let (address, prefix) = text.split_once('/').unwrap_or((text, "128"));
    let address: IpAddr = address.parse().unwrap();
    let size = if address.is_ipv4() { 32 } else { 128 };
    let prefix = prefix.parse::<usize>().unwrap().min(size);
    let is_mapped = |ip: IpAddr| ip.is_ipv6() && ip.to_canonical().is_ipv4();
    let has = |ip: IpAddr| trusted.has(Peer::new(&SocketAddr::new(ip, 1).into()));
    let other = |bit: usize| match address {
        IpAddr::V4(ip) => IpAddr::V4((u32::from(ip) ^ 1 << (31 - bit)).into()),
        IpAddr::V6(ip) => IpAddr::V6((u128::from(ip) ^ 1 << (127 - bit)).into()),
    };
    // A shorter prefix has no peers of IPv4, which a mapped address is.
    let says = |ip: IpAddr, expected: bool| {
        if prefix >= 96 || size == 32 || !is_mapped(ip) {
            assert_eq!(has(ip), expected, "{ip} in {text:?}");
        }
    };
    says(address, true);
    if prefix < size {
        says(other(size - 1), true);
        says(other(prefix), true);
    }
    if prefix > 0 {
        says(other(prefix - 1), false);
    }
}
