//! Listening on a port of TCP.

#![forbid(unsafe_code)]

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

use super::Listener;
use crate::config::Config;
use crate::error::{quoted, Error, Status};
use crate::service::{Service, Tcp};

/// Binds all addresses of a service on one port.
pub(super) fn bind(service: &Service, tcp: &Tcp, config: &Config) -> Result<Vec<Listener>, Error> {
    let addresses = tcp.addresses(config.use_ipv6).map_err(|why| {
        let text = format!("cannot resolve {}: {why}", quoted(service.text()));
        Error::new(Status::Address, text)
    })?;
    if tcp.is_wildcard() && config.use_ipv6 {
        return bind_everywhere(service, addresses[0].port(), config);
    }
    // A name may have an address of a family that this host does not support.
    let has_v4 = addresses.iter().any(SocketAddr::is_ipv4);
    bind_each(service, &addresses, tcp.is_name() && has_v4, config)
}

/// Binds IPv6 and IPv4 on one port: with one dual-stack socket where the system
/// has it (RFC 3493, 5.3), otherwise with two sockets; with IPv4 alone on a
/// host without IPv6.
fn bind_everywhere(service: &Service, port: u16, config: &Config) -> Result<Vec<Listener>, Error> {
    let v4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    let v6 = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port);
    match bind_one(v6, true, config) {
        Ok(listener) => Ok(vec![listener]),
        Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => {
            bind_each(service, &[v6, v4], false, config)
        }
        Err(e) if lacks_ipv6(&e) => bind_each(service, &[v4], false, config),
        Err(e) => Err(listen_error(service, v6, &e)),
    }
}

fn lacks_ipv6(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL))
}

/// How many times a free port is chosen.
const CHOICES: u32 = 64;

/// Binds one listener for each address, all on one port. "Any free port" is
/// chosen with one of them: the first, and after that the one that had no room
/// for the last choice, because most of its ports may be taken.
fn bind_each(
    service: &Service,
    addresses: &[SocketAddr],
    ipv6_may_be_missing: bool,
    config: &Config,
) -> Result<Vec<Listener>, Error> {
    let any_port = addresses.iter().all(|a| a.port() == 0);
    let mut choices = if any_port { CHOICES } else { 1 };
    let mut first = 0;
    loop {
        match bind_all(addresses, first, any_port, ipv6_may_be_missing, config) {
            Ok(listeners) => return Ok(listeners),
            Err((at, _, e)) if e.raw_os_error() == Some(libc::EADDRINUSE) && choices > 1 => {
                choices -= 1;
                first = at;
            }
            Err((_, address, e)) => return Err(listen_error(service, address, &e)),
        }
    }
}

/// Binds them once, the address `first` before the others, whose port the others
/// get if `any_port`. An error says at which address, and with its port.
fn bind_all(
    addresses: &[SocketAddr],
    first: usize,
    any_port: bool,
    ipv6_may_be_missing: bool,
    config: &Config,
) -> Result<Vec<Listener>, (usize, SocketAddr, io::Error)> {
    let mut listeners: Vec<Option<Listener>> = addresses.iter().map(|_| None).collect();
    let others = (0..addresses.len()).filter(|at| *at != first);
    for at in std::iter::once(first).chain(others) {
        let mut address = addresses[at];
        if let (true, Some(chosen)) = (any_port, listeners.iter().flatten().next()) {
            address.set_port(chosen.port());
        }
        match bind_one(address, false, config) {
            Ok(listener) => listeners[at] = Some(listener),
            Err(e) if ipv6_may_be_missing && address.is_ipv6() && lacks_ipv6(&e) => {}
            Err(e) => return Err((at, address, e)),
        }
    }
    Ok(listeners.into_iter().flatten().collect())
}

fn listen_error(service: &Service, address: SocketAddr, error: &io::Error) -> Error {
    super::listen_error(service, error).append(&format!(" (port {})", address.port()))
}

fn bind_one(address: SocketAddr, dual: bool, config: &Config) -> io::Result<Listener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        // A system without dual-stack sockets (OpenBSD) reports it here.
        socket.set_only_v6(!dual).map_err(|e| match dual {
            true => io::Error::from_raw_os_error(libc::EOPNOTSUPP),
            false => e,
        })?;
    }
    socket.set_reuse_address(true)?;
    if config.reuse_port {
        socket.set_reuse_port(true)?;
    }
    TcpOptions::of(config).try_set(SockRef::from(&socket))?;
    socket.bind(&address.into())?;
    socket.listen(config.backlog as i32)?;
    Listener::new(socket)
}

/// The options of a connection.
pub(super) struct TcpOptions {
    no_delay: bool,
    keep_alive: Option<Duration>,
}

impl TcpOptions {
    pub fn of(config: &Config) -> TcpOptions {
        TcpOptions { no_delay: config.no_delay, keep_alive: config.keep_alive }
    }

    fn try_set(&self, socket: SockRef<'_>) -> io::Result<()> {
        socket.set_tcp_nodelay(self.no_delay)?;
        match self.keep_alive {
            Some(idle) => socket.set_tcp_keepalive(&keep_alive(idle)),
            None => socket.set_keepalive(false),
        }
    }

    /// Sets them on an accepted socket. That fails only where the connection is
    /// gone.
    pub fn set(&self, socket: SockRef<'_>) {
        let _ = self.try_set(socket);
    }
}

fn keep_alive(idle: Duration) -> TcpKeepalive {
    let seconds = idle.as_secs() + u64::from(idle.subsec_nanos() > 0);
    let seconds = seconds.max(1);
    TcpKeepalive::new()
        .with_time(Duration::from_secs(seconds))
        .with_interval(Duration::from_secs((seconds / 4).max(1)))
        .with_retries(4)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listener::bind;
    use crate::service::Origin;

    #[test]
    fn the_error_names_a_port_in_use() {
        let config = Config::new();
        let first = bind(&Service::parse("127.0.0.1:0").unwrap(), Origin::NONE, &config).unwrap();
        let port = first[0].port();
        let again = Service::parse(&format!("127.0.0.1:{port}")).unwrap();
        let error = bind(&again, Origin::NONE, &config).err().unwrap();
        assert_eq!((error.status(), error.os_code()), (Status::Listen, libc::EADDRINUSE));
        let sentence =
            format!("cannot listen on \"127.0.0.1:{port}\": address already in use (port {port})");
        assert_eq!(error.message(), sentence);
    }
}
