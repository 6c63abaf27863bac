//! Service strings: what is accepted is what the documentation of
//! [`Service::parse`] says, and what it means is what it says.

use super::{Place, Service, Tcp};
use crate::error::Status;
use std::net::{IpAddr, SocketAddr};

/// Judges one input.
pub fn target(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let service = match Service::parse(text) {
        Ok(service) => service,
        Err(error) => {
            assert!(!is_good(text), "refused: {text:?}");
            assert_eq!(error.status(), Status::Invalid);
            let message = error.message();
            assert!(message.len() < 600 && !message.contains(char::is_control), "{message:?}");
            return;
        }
    };
    assert!(is_good(text), "accepted: {text:?}");
    assert_eq!(service.text(), text);
    assert!(service.clone().for_shutdown().is_ok() == matches!(service.place, Place::Tcp(_)));
    match service.place() {
        Place::Tcp(tcp) => check_tcp(&service, tcp),
        Place::File(_) | Place::Abstract(_) => {
            let targets = service.targets().unwrap();
            assert_eq!(crate::address::name(&targets[0]), shown(text));
        }
        Place::Fd(fd) => {
            assert!(*fd >= 0);
            assert_eq!(text[3..].trim_start_matches('0'), fd.to_string().trim_start_matches('0'));
            assert!(service.targets().is_err());
        }
        Place::Systemd(name) => {
            assert_eq!(name.as_deref(), text.strip_prefix("systemd:"));
            assert!(service.targets().is_err());
        }
    }
}

/// A name of a unix socket as the library shows it, in which control characters
/// do not stand.
fn shown(text: &str) -> String {
    text.replace(char::is_control, "\u{fffd}")
}

/// Only literal addresses and ports: a name would ask the resolver.
fn check_tcp(service: &Service, tcp: &Tcp) {
    let text = service.text();
    let port = text.rsplit(':').next().unwrap_or_default();
    let port: Option<u16> = if port.is_empty() { Some(0) } else { port.parse().ok() };
    let Some(port) = port else { return };
    if tcp.is_wildcard() {
        assert!(!text.contains(':') && !tcp.is_name());
        let any = |ipv6| tcp.addresses(ipv6).unwrap();
        assert_eq!(any(true), [SocketAddr::new(IpAddr::from([0u16; 8]), port)]);
        assert_eq!(any(false), [SocketAddr::new(IpAddr::from([0u8; 4]), port)]);
        assert!(service.targets().is_err());
        return;
    }
    let (host, _) = text.rsplit_once(':').unwrap();
    let bare = host.strip_prefix('[').map_or(host, |rest| rest.strip_suffix(']').unwrap());
    let Ok(ip) = bare.parse::<IpAddr>() else { return };
    assert!(!tcp.is_name());
    let address = SocketAddr::new(ip.to_canonical(), port);
    assert_eq!(tcp.addresses(true).unwrap(), [address]);
    assert_eq!(service.targets().unwrap()[0].as_socket(), Some(address));
}

/// The form of a service, read from its documentation.
fn is_good(text: &str) -> bool {
    if let Some(name) = text.strip_prefix("unix:") {
        let bytes = name.strip_prefix('@').unwrap_or(name);
        let is_short = (1..=107).contains(&bytes.len());
        return is_short && name.starts_with(['/', '@']) && !bytes.contains('\0');
    }
    if let Some(number) = text.strip_prefix("fd:") {
        let significant = number.trim_start_matches('0');
        let limit = i32::MAX.to_string();
        let is_small = significant.len() < limit.len()
            || (significant.len() == limit.len() && significant <= limit.as_str());
        return !number.is_empty() && number.chars().all(|c| c.is_ascii_digit()) && is_small;
    }
    if let Some(name) = text.strip_prefix("systemd:") {
        return (1..=255).contains(&name.len())
            && name.chars().all(|c| ('!'..='~').contains(&c) && c != ':');
    }
    if text == "systemd" {
        return true;
    }
    let Some(colon) = text.rfind(':') else { return text.is_empty() || is_port(text) };
    let (host, port) = (&text[..colon], &text[colon + 1..]);
    let inner = match host.strip_prefix('[') {
        Some(inner) => match inner.strip_suffix(']') {
            Some(inner) => inner,
            None => return false,
        },
        None if host.contains(':') || host.is_empty() => return false,
        None => host,
    };
    !inner.is_empty() && !inner.bytes().any(|b| b <= b' ') && is_port(port)
}

fn is_port(text: &str) -> bool {
    let significant = text.trim_start_matches('0');
    let is_number = !text.is_empty() && text.chars().all(|c| c.is_ascii_digit());
    let is_small = significant.len() < 5 || (significant.len() == 5 && significant <= "65535");
    let is_name = text.chars().any(|c| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.+".contains(c));
    (is_number && is_small) || is_name
}
