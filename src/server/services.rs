//! The services of a server: where it listens, with which TLS settings, and for
//! whose PROXY headers.

#![forbid(unsafe_code)]

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::Server;
use crate::callback;
use crate::config::Config;
use crate::conn::Conn;
use crate::error::{quoted, Error, Status};
use crate::listener::Accepted;
use crate::logger::LogLevel;
use crate::proxy::ProxyProtocol;
use crate::service::{Origin, Service, MAX_SERVICES};
use crate::state::State;
use crate::tls::{ServerConfig, TlsConfig};

/// A service has the number of its place in the list. The list grows only
/// before the start.
pub(super) struct Services(RwLock<Vec<Entry>>);

struct Entry {
    service: Service,
    /// The configuration of new handshakes. A service without one never gets
    /// one, and one with it keeps having one.
    tls: Option<Arc<ServerConfig>>,
    proxy: ProxyProtocol,
}

impl Services {
    pub fn new(service: Service, tls: Option<Arc<ServerConfig>>, config: &Config) -> Services {
        Services(RwLock::new(vec![Entry { service, tls, proxy: config.proxy_protocol }]))
    }

    /// Returns each service with the origin of its connections.
    pub fn list(&self) -> Vec<(Service, Origin)> {
        let origin = |number, entry: &Entry| {
            Origin::new(number, entry.tls.is_some(), entry.proxy != ProxyProtocol::Off)
        };
        let list = self.read();
        let numbered = list.iter().enumerate();
        numbered.map(|(number, entry)| (entry.service.clone(), origin(number, entry))).collect()
    }

    /// Returns the quoted service strings.
    pub fn names(&self) -> Vec<String> {
        self.read().iter().map(|entry| quoted(entry.service.text())).collect()
    }

    fn read(&self) -> RwLockReadGuard<'_, Vec<Entry>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Vec<Entry>> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Server {
    /// Adds a service without TLS: the server listens there too when it
    /// starts. Returns the service's number; that of [`Server::new`] has number
    /// 0, and the TLS of the configuration is its alone.
    ///
    /// Errors: [`Status::Invalid`] for a bad service string and beyond
    /// [`MAX_SERVICES`](crate::MAX_SERVICES), [`Status::State`] after the
    /// beginning of a start that did not fail.
    ///
    /// ```
    /// use net_server::{Config, ProxyProtocol, Server, Socket};
    /// use std::{io::{Read, Write}, net::TcpStream};
    ///
    /// let handler = |_: &Server, socket: &mut Socket<'_>| socket.send(socket.peer_name().as_bytes());
    /// let config = Config::new().add_trusted_proxy("127.0.0.1");
    /// let server = Server::with_config("127.0.0.1:0", handler, config)?;
    /// let behind_proxy = server.add_service("127.0.0.1:0")?;
    /// server.set_service_proxy(behind_proxy, ProxyProtocol::Both)?;
    /// server.start_background()?;
    ///
    /// let mut client = TcpStream::connect(server.service_address(behind_proxy))?;
    /// client.write_all(b"PROXY TCP4 192.0.2.7 192.0.2.1 4000 443\r\n")?;
    /// let mut text = String::new();
    /// client.read_to_string(&mut text)?;
    /// assert_eq!(text, "192.0.2.7:4000");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn add_service(&self, service: &str) -> Result<usize, Error> {
        self.add(service, None)
    }

    /// Adds a service whose connections go through TLS.
    ///
    /// Errors: those of [`Server::add_service`], and [`Status::Certificate`]
    /// or [`Status::Tls`] for TLS settings that cannot be used.
    ///
    /// Example: [`TlsConfig`].
    pub fn add_service_tls(&self, service: &str, tls: &TlsConfig) -> Result<usize, Error> {
        self.add(service, Some(tls.server_config()?))
    }

    fn add(&self, service: &str, tls: Option<Arc<ServerConfig>>) -> Result<usize, Error> {
        self.check_process()?;
        let proxy = self.inner.config.proxy_protocol;
        let entry = Entry { service: Service::parse(service)?, tls, proxy };
        let mut list = self.inner.services.write();
        // The start changes the state first and reads the list then.
        let state = self.state();
        if state != State::New {
            let service = quoted(service);
            let text = format!("cannot add service {service}: the server is {}", state.name());
            return Err(Error::new(Status::State, text));
        }
        if list.len() >= MAX_SERVICES {
            let text = format!("a server has at most {MAX_SERVICES} services");
            return Err(Error::new(Status::Invalid, text));
        }
        list.push(entry);
        Ok(list.len() - 1)
    }

    /// Sets the versions of the PROXY protocol that one service accepts, in place of
    /// those of the configuration. All services share the trusted proxies.
    ///
    /// Errors: [`Status::Invalid`] for a number that no service has, and where no
    /// proxy is trusted; [`Status::State`] after the beginning of a start that did
    /// not fail.
    pub fn set_service_proxy(&self, service: usize, versions: ProxyProtocol) -> Result<(), Error> {
        self.check_process()?;
        self.inner.config.check_proxy(versions)?;
        let mut list = self.inner.services.write();
        // As in `add`.
        let state = self.state();
        if state != State::New {
            let text = format!("cannot change service {service}: the server is {}", state.name());
            return Err(Error::new(Status::State, text));
        }
        let no_service = || Error::new(Status::Invalid, format!("there is no service {service}"));
        list.get_mut(service).ok_or_else(no_service)?.proxy = versions;
        Ok(())
    }

    /// Looks whether a new connection of a service with the PROXY protocol is an
    /// ordinary client, which sends no header.
    pub(crate) fn settle_origin(&self, accepted: &mut Accepted) {
        let awaits = accepted.origin.awaits_proxy() && self.inner.config.proxy_others;
        if awaits && !self.inner.trusted.has(accepted.peer) {
            accepted.origin = accepted.origin.without_proxy();
        }
    }

    /// Returns the versions of the header that a new connection must send. An error
    /// refuses the connection.
    pub(crate) fn awaited_proxy(&self, conn: &Conn) -> Result<ProxyProtocol, Error> {
        match self.inner.trusted.has(conn.transport_peer()) {
            true => Ok(self.proxy_of(conn.origin)),
            false => Err(Error::new(Status::Proxy, "the source is no trusted proxy")),
        }
    }

    /// Returns the versions of the PROXY protocol that a service accepts.
    pub(crate) fn proxy_of(&self, origin: Origin) -> ProxyProtocol {
        let number = origin.number().unwrap_or(usize::MAX);
        self.inner.services.read().get(number).map_or(ProxyProtocol::Off, |entry| entry.proxy)
    }

    /// Returns the addresses that a service listens on, as
    /// [`Server::address`] does. Empty before `start`, and for a number that no
    /// service has.
    pub fn service_address(&self, service: usize) -> String {
        let running = self.running();
        let address = running.as_ref().and_then(|running| running.addresses.get(service));
        address.map_or(String::new(), |addresses| addresses.join(", "))
    }

    /// Replaces the TLS settings of the first service: new handshakes use the
    /// new ones, open sessions go on. On failure the server keeps the old ones.
    ///
    /// Errors: [`Status::Certificate`], [`Status::Tls`]; [`Status::State`]
    /// for a service without TLS.
    ///
    /// Example: [`TlsConfig`].
    pub fn reload_tls(&self, tls: &TlsConfig) -> Result<(), Error> {
        self.reload_service_tls(0, tls)
    }

    /// Replaces the TLS settings of a service, as [`Server::reload_tls`] does.
    ///
    /// Errors: those of [`Server::reload_tls`], and [`Status::Invalid`] for a
    /// number that no service has.
    ///
    /// Example: [`TlsConfig`].
    pub fn reload_service_tls(&self, service: usize, tls: &TlsConfig) -> Result<(), Error> {
        self.try_reload_tls(service, Ok(tls))
    }

    /// Replaces the TLS settings, if there are any, and logs what comes of it.
    pub(crate) fn try_reload_tls(
        &self,
        service: usize,
        tls: Result<&TlsConfig, Error>,
    ) -> Result<(), Error> {
        self.check_process()?;
        callback::or_left_to_parent(|| {
            let replaced = tls.and_then(|tls| self.replace_tls(service, tls));
            let what = format!("the TLS settings of service {service}");
            match &replaced {
                Ok(()) => self.log().event(LogLevel::Info, || format!("{what} were replaced")),
                Err(error) => self
                    .log()
                    .event(LogLevel::Warn, || format!("{what} were not replaced: {error}")),
            }
            replaced
        })
    }

    fn replace_tls(&self, service: usize, tls: &TlsConfig) -> Result<(), Error> {
        let no_service = || Error::new(Status::Invalid, format!("there is no service {service}"));
        match self.inner.services.read().get(service) {
            None => return Err(no_service()),
            Some(Entry { tls: None, .. }) => {
                let text = format!("service {service} was made without TLS");
                return Err(Error::new(Status::State, text));
            }
            Some(_) => {}
        }
        let new = tls.server_config()?;
        let mut list = self.inner.services.write();
        let former = list.get_mut(service).ok_or_else(no_service)?.tls.replace(new);
        drop(list);
        drop(former);
        Ok(())
    }

    /// Returns the configuration of a handshake that begins now.
    pub(crate) fn tls(&self, origin: Origin) -> Option<Arc<ServerConfig>> {
        if !origin.has_tls() {
            return None;
        }
        self.inner.services.read().get(origin.number()?)?.tls.clone()
    }
}
