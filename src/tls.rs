//! TLS: certificates, names, client authentication, and the rustls
//! configuration made of them.

#![forbid(unsafe_code)]

mod cert;
#[cfg(any(test, fuzzing))]
#[path = "fuzzing/pem.rs"]
mod fuzzing;
mod key;
mod pem;
mod resume;
mod session;
mod terms;
mod tickets;

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex};

use once_cell::sync::OnceCell;
use rustls::crypto::{aws_lc_rs, CryptoProvider};
use rustls::server::{
    NoServerSessionStorage, ProducesTickets, ServerSessionMemoryCache, StoresServerSessions,
    WebPkiClientVerifier,
};
use rustls::RootCertStore;
pub(crate) use rustls::ServerConfig;

use crate::error::{Error, Status};
use crate::sync::lock;

use cert::Resolver;
#[cfg(any(test, fuzzing))]
pub use fuzzing::target as pem_fuzzing;
use resume::Valid;
#[cfg(any(test, fuzzing))]
pub use session::fuzzing::target as session_fuzzing;
pub(crate) use session::Session;
pub(crate) use terms::Plain;
pub use terms::{TlsInfo, TlsVersion, MAX_SESSIONS, MAX_TICKET_KEYS, TICKET_KEY_LEN};
use tickets::Tickets;

/// The names that errors use for a chain and a key in memory.
const CHAIN: &str = "the certificate chain";
const KEY: &str = "the key";

/// Certificates and what goes with them, for servers and for STARTTLS.
///
/// This is a handle to shared settings. The first use freezes them; changes
/// after it return [`Status::State`]. One `TlsConfig` may serve several
/// servers. There is no process-wide state: each configuration names its
/// provider.
///
/// The servers speak only TLS 1.2 and 1.3 with forward secrecy and
/// authenticated encryption. Sessions resume by tickets, whose keys are the
/// process's own and rotate every six hours, or those of
/// [`TlsConfig::set_ticket_keys`]; but not after a certificate of the client
/// has expired.
/// There is no early data and no renegotiation.
///
/// ```no_run
/// use net_server::{Config, Server, Socket, TlsConfig, TlsVersion};
///
/// let tls = TlsConfig::new();
/// tls.add_cert_file(None, "chain.pem", "key.pem")?;
/// tls.set_alpn(&[b"http/1.1".as_slice()])?;
/// tls.set_client_ca_file("clients.pem", false)?;
/// let handler = |_: &Server, socket: &mut Socket<'_>| socket.send(b"hello\n");
/// let server = Server::with_config("8443", handler, Config::new().tls(tls.clone()))?;
///
/// let strict = TlsConfig::new();
/// strict.add_cert_pem(Some("*.example.org"), CHAIN, KEY)?;
/// strict.set_client_ca_pem(CHAIN, true)?;
/// strict.set_min_version(TlsVersion::V1_3)?;
/// let second = server.add_service_tls("8444", &strict)?;
/// server.start_background()?;
///
/// // Later: those who come get the new certificate, and those who are there go on.
/// let renewed = TlsConfig::new();
/// renewed.add_cert_file(None, "chain.pem", "key.pem")?;
/// server.reload_tls(&renewed)?;
/// server.reload_service_tls(second, &renewed)?;
/// # const CHAIN: &[u8] = b"";
/// # const KEY: &[u8] = b"";
/// # Ok::<(), net_server::Error>(())
/// ```
///
/// STARTTLS:
///
/// ```no_run
/// use net_server::{Error, Server, Socket, TlsConfig};
///
/// let tls = TlsConfig::new();
/// tls.add_cert_file(None, "chain.pem", "key.pem")?;
/// let handler = move |_: &Server, socket: &mut Socket<'_>| -> Result<(), Error> {
///     let mut buf = [0; 4096];
///     let n = socket.recv(&mut buf)?;
///     if socket.tls_info().is_some() {
///         return socket.send(&buf[..n]);
///     }
///     // What came behind the client's line belongs to TLS.
///     let line = buf[..n].iter().position(|&byte| byte == b'\n').map_or(n, |at| at + 1);
///     socket.send(b"go ahead\n")?;
///     socket.starttls(&tls, &buf[line..n])
/// };
/// # let _ = Server::new("0", handler);
/// # Ok::<(), net_server::Error>(())
/// ```
#[derive(Clone)]
pub struct TlsConfig {
    shared: Arc<Shared>,
}

struct Shared {
    settings: Mutex<Settings>,
    built: OnceCell<Arc<ServerConfig>>,
    /// Not a setting: it may change at any time.
    ticket_keys: Arc<tickets::Keys>,
}

struct Settings {
    certs: Resolver,
    client_roots: Option<(RootCertStore, bool)>,
    alpn: Vec<Vec<u8>>,
    min_version: TlsVersion,
    tickets: bool,
    session_cache: usize,
}

impl Default for TlsConfig {
    fn default() -> TlsConfig {
        TlsConfig::new()
    }
}

impl fmt::Debug for TlsConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The settings include keys, so none of them is shown.
        f.write_str("TlsConfig")
    }
}

pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

impl TlsConfig {
    /// Makes settings. A build without the feature `tls` has none.
    #[cfg(feature = "capi")]
    pub(crate) fn if_built_in() -> Result<TlsConfig, Error> {
        Ok(TlsConfig::new())
    }

    /// Makes settings without a certificate; a server needs at least one.
    ///
    /// Example: [`TlsConfig`].
    pub fn new() -> TlsConfig {
        let settings = Settings {
            certs: Resolver::default(),
            client_roots: None,
            alpn: Vec::new(),
            min_version: TlsVersion::V1_2,
            tickets: true,
            session_cache: 0,
        };
        let (settings, built, ticket_keys) =
            (Mutex::new(settings), OnceCell::new(), Arc::default());
        TlsConfig { shared: Arc::new(Shared { settings, built, ticket_keys }) }
    }

    /// Adds a certificate chain, the server's own certificate first, and its
    /// key, from PEM files. A client that asks for `server_name` (a name or
    /// `*.name`) gets this chain. `None` makes it the default, for all other
    /// names; without such a chain the first one added is the default.
    ///
    /// Errors: [`Status::Certificate`] with a sentence that names the file
    /// and what is wrong with it; [`Status::Invalid`] for a bad name;
    /// [`Status::State`] when the settings are in use already.
    ///
    /// Example: [`TlsConfig`].
    pub fn add_cert_file(
        &self,
        server_name: Option<&str>,
        chain: impl AsRef<Path>,
        key: impl AsRef<Path>,
    ) -> Result<(), Error> {
        let (chain, key) = (chain.as_ref(), key.as_ref());
        let (chain_text, key_text) = (cert::path_text(chain), cert::path_text(key));
        self.add_pem(server_name, &cert::read(chain)?, &chain_text, &cert::read(key)?, &key_text)
    }

    /// Does the same as [`TlsConfig::add_cert_file`], for PEM text in memory.
    ///
    /// Example: [`TlsConfig`].
    pub fn add_cert_pem(
        &self,
        server_name: Option<&str>,
        chain: &[u8],
        key: &[u8],
    ) -> Result<(), Error> {
        self.add_pem(server_name, chain, CHAIN, key, KEY)
    }

    /// Does the same as [`TlsConfig::add_cert_file`], for a chain of
    /// certificates in DER and a key in DER (PKCS #8, PKCS #1 or SEC 1).
    ///
    /// ```
    /// use net_server::{Error, TlsConfig};
    ///
    /// fn tls(certificate: &[u8], issuer: &[u8], key: &[u8]) -> Result<TlsConfig, Error> {
    ///     let tls = TlsConfig::new();
    ///     tls.add_cert_der(None, &[certificate, issuer], key)?;
    ///     Ok(tls)
    /// }
    /// ```
    pub fn add_cert_der(
        &self,
        server_name: Option<&str>,
        chain: &[&[u8]],
        key: &[u8],
    ) -> Result<(), Error> {
        let (chain, key) = (cert::from_der(chain, CHAIN)?, key::from_der(key, KEY)?);
        let certified = cert::certified_key(chain, CHAIN, key, KEY)?;
        self.change(|settings| settings.certs.add(server_name, certified))
    }

    fn add_pem(
        &self,
        server_name: Option<&str>,
        chain: &[u8],
        chain_name: &str,
        key: &[u8],
        key_name: &str,
    ) -> Result<(), Error> {
        let (chain, key) = (cert::from_pem(chain, chain_name)?, key::from_pem(key, key_name)?);
        let certified = cert::certified_key(chain, chain_name, key, key_name)?;
        self.change(|settings| settings.certs.add(server_name, certified))
    }

    /// Makes servers ask clients for a certificate of one of the authorities
    /// in a PEM file and, if `required`, refuse clients without one.
    ///
    /// Errors as with [`TlsConfig::add_cert_file`].
    ///
    /// Example: [`TlsConfig`].
    pub fn set_client_ca_file(&self, path: impl AsRef<Path>, required: bool) -> Result<(), Error> {
        let path = path.as_ref();
        self.set_client_ca(&cert::read(path)?, &cert::path_text(path), required)
    }

    /// Does the same as [`TlsConfig::set_client_ca_file`], for PEM text in
    /// memory.
    ///
    /// Example: [`TlsConfig`].
    pub fn set_client_ca_pem(&self, pem: &[u8], required: bool) -> Result<(), Error> {
        self.set_client_ca(pem, "the authorities", required)
    }

    fn set_client_ca(&self, pem: &[u8], name: &str, required: bool) -> Result<(), Error> {
        let roots = cert::roots(pem, name)?;
        self.change(|settings| {
            settings.client_roots = Some((roots, required));
            Ok(())
        })
    }

    /// Sets the application protocols (RFC 7301) in the server's order of
    /// preference; default none. The server refuses a client that offers only
    /// other protocols.
    pub fn set_alpn(&self, protocols: &[&[u8]]) -> Result<(), Error> {
        if protocols.iter().any(|p| p.is_empty() || p.len() > 255) {
            return Err(Error::new(Status::Invalid, "an ALPN protocol has 1 to 255 bytes"));
        }
        self.change(|settings| {
            settings.alpn = protocols.iter().map(|p| p.to_vec()).collect();
            Ok(())
        })
    }

    /// Sets the oldest version that servers accept; default TLS 1.2.
    pub fn set_min_version(&self, version: TlsVersion) -> Result<(), Error> {
        self.change(|settings| {
            settings.min_version = version;
            Ok(())
        })
    }

    /// Sets whether clients get tickets to resume their sessions; default
    /// true. Without tickets a session resumes from the cache, if there is
    /// one.
    pub fn set_tickets(&self, tickets: bool) -> Result<(), Error> {
        self.change(|settings| {
            settings.tickets = tickets;
            Ok(())
        })
    }

    /// Sets the keys of tickets, so that other processes with the same keys
    /// resume the sessions of this one: 1 to [`MAX_TICKET_KEYS`] keys of
    /// [`TICKET_KEY_LEN`] random bytes, one behind the other. Without it the
    /// keys are the process's own.
    ///
    /// A key is a name (16 bytes, which every ticket shows), a key for
    /// AES-256-CBC (32) and one for HMAC-SHA256 (32), for the tickets that
    /// RFC 5077, 4, recommends. The first key seals new tickets; each opens
    /// the tickets that it sealed, for 12 hours. A ticket that no key opens
    /// leads to a full handshake.
    ///
    /// This is the one setter that a frozen `TlsConfig` takes, at any time and
    /// from any thread: handshakes that begin from now on use the new keys,
    /// wherever this `TlsConfig` is in use. To rotate without a full
    /// handshake: give all processes the new key as the second one, then as
    /// the first with the old one behind it, and 12 hours later leave the old
    /// one out. Who has a key can read and forge tickets: keep it as secret as
    /// the certificate's key, and make a new one at least weekly (RFC 9325,
    /// 3.4). The library copies the keys, and wipes its copy when no handshake
    /// uses it any more.
    ///
    /// Errors: [`Status::Invalid`] for another number of bytes; the keys stay
    /// as they were.
    pub fn set_ticket_keys(&self, keys: &[u8]) -> Result<(), Error> {
        let keys = tickets::keys(keys)?;
        // The old ones are dropped, and wiped, outside the lock.
        let _old = lock(&self.shared.ticket_keys).replace(keys);
        Ok(())
    }

    /// Sets how many sessions are kept in memory for clients that resume
    /// without tickets: at most [`MAX_SESSIONS`]; 0 (default): none.
    pub fn set_session_cache(&self, sessions: usize) -> Result<(), Error> {
        if sessions > MAX_SESSIONS {
            let text = format!("the session cache must be 0 to {MAX_SESSIONS}, not {sessions}");
            return Err(Error::new(Status::Invalid, text));
        }
        self.change(|settings| {
            settings.session_cache = sessions;
            Ok(())
        })
    }

    fn change(&self, change: impl FnOnce(&mut Settings) -> Result<(), Error>) -> Result<(), Error> {
        let mut settings = lock(&self.shared.settings);
        self.check_unused()?;
        change(&mut settings)
    }

    /// Fails from the first use on.
    pub(crate) fn check_unused(&self) -> Result<(), Error> {
        match self.shared.built.get() {
            None => Ok(()),
            Some(_) => Err(Error::new(Status::State, "the TLS settings are in use already")),
        }
    }

    /// Returns the configuration for handshakes and freezes the settings.
    pub(crate) fn server_config(&self) -> Result<Arc<ServerConfig>, Error> {
        let settings = lock(&self.shared.settings);
        self.shared.built.get_or_try_init(|| build(&settings, &self.shared.ticket_keys)).cloned()
    }
}

fn build(settings: &Settings, keys: &Arc<tickets::Keys>) -> Result<Arc<ServerConfig>, Error> {
    if settings.certs.is_empty() {
        return Err(Error::new(Status::Certificate, "TLS needs a certificate and its key"));
    }
    let failed = |e: &dyn fmt::Display| Error::new(Status::Tls, format!("cannot set TLS up: {e}"));
    let versions: &[_] = match settings.min_version {
        TlsVersion::V1_2 => &[&rustls::version::TLS13, &rustls::version::TLS12],
        TlsVersion::V1_3 => &[&rustls::version::TLS13],
    };
    let builder = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)
        .map_err(|e| failed(&e))?;
    let builder = match &settings.client_roots {
        None => builder.with_no_client_auth(),
        Some((roots, required)) => {
            let roots = Arc::new(roots.clone());
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider());
            let verifier = if *required { verifier } else { verifier.allow_unauthenticated() };
            builder.with_client_cert_verifier(verifier.build().map_err(|e| failed(&e))?)
        }
    };
    let mut config = builder.with_cert_resolver(Arc::new(settings.certs.clone()));
    config.alpn_protocols.clone_from(&settings.alpn);
    if settings.tickets {
        let own = aws_lc_rs::Ticketer::new().map_err(|e| failed(&e))?;
        let tickets = Arc::new(Tickets { own, keys: keys.clone() });
        config.ticketer = Arc::new(Valid::<dyn ProducesTickets>(tickets));
    }
    config.session_storage = match settings.session_cache {
        0 => Arc::new(NoServerSessionStorage {}),
        sessions => {
            let cache = ServerSessionMemoryCache::new(sessions);
            Arc::new(Valid::<dyn StoresServerSessions>(cache))
        }
    };
    Ok(Arc::new(config))
}
