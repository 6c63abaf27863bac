//! Service strings and the addresses to listen on that they name.

#![forbid(unsafe_code)]

#[cfg(any(test, fuzzing))]
#[path = "fuzzing/service.rs"]
pub(crate) mod fuzzing;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};

use socket2::SockAddr;

use crate::address::canonical;
use crate::error::{quoted, Error, Status};
use crate::sys;

/// The largest number of services of one server.
pub const MAX_SERVICES: usize = 4096;

/// The service that a connection came by, whether that has TLS, and whether a
/// PROXY header is to come, in two bytes: each connection has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Origin(u16);

impl Origin {
    const TLS: u16 = 1 << 15;
    const PROXY: u16 = 1 << 14;
    const NO_SERVICE: u16 = 1 << 13;
    const COUNTED: u16 = 1 << 12;
    /// Of a connection that came by no service of its server.
    pub const NONE: Origin = Origin(Origin::NO_SERVICE);
    /// Of a peer of a hosted server's shutdown port.
    pub const SHUTDOWN: Origin = Origin(Origin::NO_SERVICE | 1);

    /// `number` is below [`MAX_SERVICES`](crate::MAX_SERVICES).
    pub fn new(number: usize, tls: bool, proxy: bool) -> Origin {
        let tls = if tls { Origin::TLS } else { 0 };
        let proxy = if proxy { Origin::PROXY } else { 0 };
        Origin(number as u16 | tls | proxy)
    }

    pub fn number(self) -> Option<usize> {
        let has_service = self.0 & Origin::NO_SERVICE == 0;
        has_service.then_some((self.0 & !(Origin::TLS | Origin::PROXY | Origin::COUNTED)).into())
    }

    pub fn has_tls(self) -> bool {
        self.0 & Origin::TLS != 0
    }

    /// Returns whether a PROXY header is to come, or to be refused.
    pub fn awaits_proxy(self) -> bool {
        self.0 & Origin::PROXY != 0
    }

    /// Returns the origin without the PROXY header, which has come or never does.
    pub fn without_proxy(self) -> Origin {
        Origin(self.0 & !Origin::PROXY)
    }

    /// Returns whether the connection is counted among those of its address.
    pub fn is_counted(self) -> bool {
        self.0 & Origin::COUNTED != 0
    }

    pub fn counted(self) -> Origin {
        Origin(self.0 | Origin::COUNTED)
    }

    pub fn uncounted(self) -> Origin {
        Origin(self.0 & !Origin::COUNTED)
    }
}

/// Where to listen, as the program's service string says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Service {
    text: String,
    place: Place,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Tcp(Tcp),
    /// A file of the file system.
    File(PathBuf),
    /// A name of unix(7)'s abstract namespace, without the first byte, which
    /// is 0.
    Abstract(String),
    /// A descriptor of the program's, which listens.
    Fd(RawFd),
    /// The sockets that systemd passed: all, or those with this name.
    Systemd(Option<String>),
}

/// A host (none: all of this machine's addresses) and a port number or a name
/// of services(5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tcp {
    host: Option<String>,
    port: String,
}

/// The longest path or name of a unix socket, in bytes: `sun_path` (unix(7))
/// has one more.
const MAX_UNIX_NAME: usize = 107;

impl Service {
    /// Parses a service string: `"5000"`, `"http"`, `"0"` or `""` (any free
    /// port), `"127.0.0.1:5000"`, `"[::1]:5000"`, `"localhost:http"`,
    /// `"unix:/path"`, `"unix:@name"`, `"fd:3"`, `"systemd"`, `"systemd:NAME"`.
    /// The start of the server resolves names and looks at descriptors.
    pub fn parse(text: &str) -> Result<Service, Error> {
        let place = match text.split_once(':') {
            Some(("unix", name)) => parse_unix(name),
            Some(("fd", number)) => parse_fd(number),
            Some(("systemd", name)) => parse_systemd(name),
            None if text == "systemd" => Ok(Place::Systemd(None)),
            _ => parse_tcp(text).map(Place::Tcp),
        };
        match place {
            Ok(place) => Ok(Service { text: text.to_string(), place }),
            Err(why) => {
                Err(Error::new(Status::Invalid, format!("service {}: {why}", quoted(text))))
            }
        }
    }

    /// Returns the string that the program gave.
    pub fn text(&self) -> &str {
        &self.text
    }

    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Returns the addresses that a client of the service connects to. A name is
    /// resolved; a literal address needs no resolver.
    pub fn targets(&self) -> Result<Vec<SockAddr>, Error> {
        let unfit = |why: &str| {
            let text = format!("cannot connect to {}: {why}", quoted(&self.text));
            Err(Error::new(Status::Invalid, text))
        };
        let unix = |path: &Path| match SockAddr::unix(path) {
            Ok(address) => Ok(vec![address]),
            Err(e) => Err(Error::from_os(Status::Invalid, "no unix socket", &e)),
        };
        match &self.place {
            Place::File(path) => unix(path),
            Place::Abstract(name) => unix(Path::new(&format!("\0{name}"))),
            Place::Tcp(tcp) if tcp.is_wildcard() => unfit("a host is missing"),
            Place::Tcp(tcp) => match tcp.addresses(true) {
                Ok(addresses) => Ok(addresses.into_iter().map(SockAddr::from).collect()),
                Err(why) => {
                    let text = format!("cannot resolve {}: {why}", quoted(&self.text));
                    Err(Error::new(Status::Address, text))
                }
            },
            Place::Fd(_) | Place::Systemd(_) => unfit("it is no address"),
        }
    }

    /// Makes this the service of the shutdown port: its host is the loopback
    /// address, if there is none.
    pub fn for_shutdown(mut self) -> Result<Service, Error> {
        let Place::Tcp(tcp) = &mut self.place else {
            let text = format!("the shutdown port is a port, not {}", quoted(&self.text));
            return Err(Error::new(Status::Invalid, text));
        };
        tcp.host.get_or_insert_with(|| Ipv4Addr::LOCALHOST.to_string());
        Ok(self)
    }
}

fn parse_unix(name: &str) -> Result<Place, &'static str> {
    let (kind, bytes) = match name.strip_prefix('@') {
        Some(name) => (Place::Abstract(name.into()), name),
        None if name.starts_with('/') => (Place::File(name.into()), name),
        None => return Err("a path begins with /, and an abstract name with @"),
    };
    match () {
        () if bytes.is_empty() => Err("the name is empty"),
        () if bytes.len() > MAX_UNIX_NAME => {
            Err("the path or name of a unix socket has at most 107 bytes")
        }
        () if bytes.contains('\0') => Err("the path or name has a NUL"),
        () => Ok(kind),
    }
}

fn parse_fd(number: &str) -> Result<Place, &'static str> {
    let digits = number.bytes().all(|b| b.is_ascii_digit());
    let fd = number.parse().ok().filter(|_| digits);
    fd.map(Place::Fd).ok_or("a descriptor is a number of digits alone")
}

/// systemd.socket(5) has the bounds of a name (`FileDescriptorName=`).
fn parse_systemd(name: &str) -> Result<Place, &'static str> {
    let good = |b: u8| b.is_ascii_graphic() && b != b':';
    match !name.is_empty() && name.len() <= 255 && name.bytes().all(good) {
        true => Ok(Place::Systemd(Some(name.into()))),
        false => Err("a name of systemd's has 1 to 255 characters without blanks and colons"),
    }
}

fn parse_tcp(text: &str) -> Result<Tcp, &'static str> {
    const BRACKETS: &str = "an IPv6 address stands in brackets, \"[::1]:5000\"";
    let (host, port) = match text.rsplit_once(':') {
        None => (None, text),
        Some((host, port)) => match host.strip_prefix('[') {
            Some(inner) => (Some(inner.strip_suffix(']').ok_or(BRACKETS)?), port),
            None if host.contains(':') => return Err(BRACKETS),
            None => (Some(host), port),
        },
    };
    if host.is_some_and(str::is_empty) {
        return Err("the host is empty");
    }
    if host.is_some() && port.is_empty() {
        return Err("the port is empty");
    }
    let port = if port.is_empty() { "0" } else { port };
    if !port.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.+".contains(&b)) {
        return Err("not a port number or a service name");
    }
    let digits = port.bytes().all(|b| b.is_ascii_digit());
    if digits && port.parse::<u16>().is_err() {
        return Err("a port number is at most 65535");
    }
    // The resolver would reduce a number with a sign modulo 65536. A name has a
    // letter (RFC 6335, 5.1).
    if !digits && !port.bytes().any(|b| b.is_ascii_alphabetic()) {
        return Err("a port is digits alone, and a service name has a letter");
    }
    if host.is_some_and(|h| h.bytes().any(|b| b <= b' ')) {
        return Err("the host has a blank or a control character");
    }
    Ok(Tcp { host: host.map(str::to_string), port: port.to_string() })
}

impl Tcp {
    /// Returns whether the service has no host.
    pub fn is_wildcard(&self) -> bool {
        self.host.is_none()
    }

    /// Returns whether the host is a name, which may have addresses that this
    /// machine does not have.
    pub fn is_name(&self) -> bool {
        self.host
            .as_ref()
            .is_some_and(|host| !host.contains(':') && host.parse::<IpAddr>().is_err())
    }

    /// Resolves the names. A wildcard gives one address, `[::]` with
    /// `use_ipv6`, else `0.0.0.0`. A host name gives all of its addresses, or,
    /// without `use_ipv6`, only its IPv4 ones if it has any.
    pub fn addresses(&self, use_ipv6: bool) -> Result<Vec<SocketAddr>, String> {
        let Some(host) = &self.host else {
            let port = match self.port.parse() {
                Ok(port) => port,
                Err(_) => sys::resolve(None, &self.port, libc::AF_INET)?
                    .first()
                    .map_or(0, SocketAddr::port),
            };
            let any: IpAddr = match use_ipv6 {
                true => Ipv6Addr::UNSPECIFIED.into(),
                false => Ipv4Addr::UNSPECIFIED.into(),
            };
            return Ok(vec![SocketAddr::new(any, port)]);
        };
        if let (Ok(ip), Ok(port)) = (host.parse::<IpAddr>(), self.port.parse()) {
            return Ok(vec![canonical(SocketAddr::new(ip, port))]);
        }
        // An IPv4-mapped address is a literal one: it means the IPv4 address.
        let mut all = sys::resolve(Some(host), &self.port, libc::AF_UNSPEC)?;
        all.iter_mut().for_each(|address| *address = canonical(*address));
        let v4: Vec<_> = all.iter().copied().filter(SocketAddr::is_ipv4).collect();
        match use_ipv6 || v4.is_empty() {
            true => Ok(all),
            false => Ok(v4),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_are_parsed() {
        let parts = |text: &str| {
            let tcp = parse_tcp(text).unwrap();
            (tcp.host, tcp.port)
        };
        let host = |h: &str| Some(h.to_string());
        assert_eq!(parts("5000"), (None, "5000".into()));
        assert_eq!(parts("http"), (None, "http".into()));
        assert_eq!(parts(""), (None, "0".into()));
        assert_eq!(parts("127.0.0.1:80"), (host("127.0.0.1"), "80".into()));
        assert_eq!(parts("[::1]:80"), (host("::1"), "80".into()));
        assert_eq!(parts("localhost:http"), (host("localhost"), "http".into()));
        let place = |text: &str| Service::parse(text).unwrap().place;
        assert_eq!(place("unix:/a:b"), Place::File("/a:b".into()));
        assert_eq!(place("unix:@/a"), Place::Abstract("/a".into()));
        assert_eq!(place("fd:7"), Place::Fd(7));
        assert_eq!(place("systemd"), Place::Systemd(None));
        assert_eq!(place("systemd:web"), Place::Systemd(Some("web".into())));
    }

    #[test]
    fn nonsense_is_refused() {
        let forms = [
            "fd:",
            "fd:-1",
            "fd:+3",
            "fd:2147483648",
            "systemd:",
            "systemd:a b",
            "65536",
            "::1:80",
            "[::1:80",
            ":80",
            "host:",
            "a b",
            "-1 ",
            "\n",
            "x y:1",
        ];
        let ports =
            ["+80", "-1", "+65536", "70000", "-4294962291", "8.0", "_", "18446744073709551696"];
        let with_host = ports.map(|port| format!("127.0.0.1:{port}"));
        let with_host = with_host.iter().map(String::as_str);
        for text in forms.into_iter().chain(ports).chain(with_host) {
            assert_eq!(Service::parse(text).unwrap_err().status(), Status::Invalid, "{text:?}");
        }
    }

    #[test]
    fn names_are_looked_up() {
        let wild = parse_tcp("http").unwrap();
        assert_eq!(wild.addresses(false).unwrap(), ["0.0.0.0:80".parse().unwrap()]);
        assert_eq!(wild.addresses(true).unwrap(), ["[::]:80".parse().unwrap()]);
        assert!(parse_tcp("no-such-service").unwrap().addresses(false).is_err());
    }
}
