//! `ns_tls`: certificates and what belongs to them.

// SAFETY of the blocks without a comment: the caller's contract, see `mod.rs`.
#![allow(clippy::undocumented_unsafe_blocks)]

use std::ffi::{c_char, c_void, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Mutex;

use super::error::{ns_error, ns_status};
use super::handles::{into_handle, object, release, server_of};
use super::server::ns_server;
use super::support::{
    array, bytes, flag, guard, make, status, text, text_bytes, with_err, FirstFailure,
};
use super::version::silence_panics;
use crate::sync::lock;
use crate::tls::{TlsConfig, TlsVersion, TICKET_KEY_LEN};
use crate::{Error, Status};

/// More certificates than this in one chain are a mistake.
const MAX_CHAIN: usize = 100;
/// More protocols than this in one `ns_tls_set_alpn` are a mistake.
const MAX_PROTOCOLS: usize = 1024;

/// Certificates and what belongs to them.
///
/// Reference-counted: each config that it is set in holds a share, so free yours
/// at any time; one object may serve several servers. Its first use freezes it:
/// `ns_server_new`, `ns_server_reload_tls` or `ns_socket_starttls`.
///
/// TLS 1.2 and 1.3, with forward secrecy and authenticated encryption only.
/// Sessions resume by tickets, whose keys are the process's own and rotate every 6
/// hours, or yours: `ns_tls_set_ticket_keys`. No early data, no renegotiation.
///
/// A setter returns 0 or a negative status; NS_ERR_STATE means that the object is
/// frozen. The object remembers the first failure of a setter, and whatever uses
/// it reports that: so a program may leave the results of setters unchecked. Only
/// `ns_socket_starttls` passes over a remembered NS_ERR_STATE.
///
/// In a library that was built without TLS (`ns_has_feature`), every setter and
/// every use of the object returns NS_ERR_UNSUPPORTED.
pub struct ns_tls {
    /// `None` where it could not be made; `failure` says why.
    config: Option<TlsConfig>,
    /// Every use reports it.
    failure: Mutex<FirstFailure>,
}

impl ns_tls {
    fn change(&self, change: impl FnOnce(&TlsConfig) -> Result<(), Error>) -> Result<(), Error> {
        let config = self.made()?;
        // A call that comes too late is only that, whatever its arguments are: a
        // failure of them would end STARTTLS (`settings_in_use`).
        let result = config.check_unused().and_then(|()| change(config));
        if let Err(error) = &result {
            lock(&self.failure).remember(error);
        }
        result
    }

    /// A change that an object in use takes too: there its failure changes nothing,
    /// so it ends no service.
    fn change_any_time(
        &self,
        change: impl FnOnce(&TlsConfig) -> Result<(), Error>,
    ) -> Result<(), Error> {
        match &self.config {
            Some(config) if config.check_unused().is_err() => change(config),
            _ => self.change(change),
        }
    }

    /// Fails if the object could not be made, as in a build without TLS.
    pub(super) fn made(&self) -> Result<&TlsConfig, Error> {
        self.config.as_ref().map_or_else(|| self.settings(), Ok)
    }

    /// For a new server: fails if a setter has failed. Otherwise a list of client
    /// authorities that could not be read would let every client in.
    pub(super) fn settings(&self) -> Result<&TlsConfig, Error> {
        lock(&self.failure).check("the TLS settings are not valid")?;
        self.config.as_ref().ok_or(Error::from(Status::Panic))
    }

    /// For a connection: a setter that came too late changed nothing of what
    /// others already use, so it ends no service.
    pub(super) fn settings_in_use(&self) -> Result<&TlsConfig, Error> {
        match (self.settings(), &self.config) {
            (Err(error), Some(config)) if error.status() == Status::State => Ok(config),
            (result, _) => result,
        }
    }
}

/// A setter without an error object.
///
/// # Safety
/// The caller's contract.
unsafe fn set(tls: *mut ns_tls, change: impl FnOnce(&TlsConfig) -> Result<(), Error>) -> ns_status {
    status(|| unsafe { object(tls, "TLS object") }?.change(change))
}

/// A setter with an error object.
///
/// # Safety
/// The caller's contract.
unsafe fn set_with_err(
    tls: *mut ns_tls,
    err: *mut *mut ns_error,
    change: impl FnOnce(&TlsConfig) -> Result<(), Error>,
) -> ns_status {
    let body = || {
        unsafe { object(tls, "TLS object") }?.change(change)?;
        Ok(Status::Ok.code())
    };
    unsafe { with_err(err, Status::code, body) }
}

/// A file name, which may have any bytes.
///
/// # Safety
/// As `text`.
unsafe fn file<'a>(path: *const c_char, what: &str) -> Result<&'a Path, Error> {
    Ok(Path::new(OsStr::from_bytes(unsafe { text_bytes(path, what) }?)))
}

/// PEM or DER in memory. For NULL an error that names `what`.
///
/// # Safety
/// As `bytes`.
unsafe fn memory<'a>(buf: *const c_void, len: usize, what: &str) -> Result<&'a [u8], Error> {
    unsafe { bytes(buf, len) }
        .map_err(|_| Error::new(Status::Invalid, format!("the {what} is NULL or too long")))
}

/// # Safety
/// As `text`.
unsafe fn optional_name<'a>(name: *const c_char) -> Result<Option<&'a str>, Error> {
    (!name.is_null()).then(|| unsafe { text(name, "server name") }).transpose()
}

/// A new TLS object. It needs a certificate before a server can use it.
///
/// Returns: the object, yours to free with `ns_tls_free`; never NULL. One that
/// could not be made remembers why, and every use reports it.
/// [any]
#[no_mangle]
pub extern "C" fn ns_tls_new() -> *mut ns_tls {
    let (config, failure) = make(|| {
        silence_panics();
        TlsConfig::if_built_in()
    });
    into_handle(ns_tls { config, failure: Mutex::new(failure) })
}

/// Gives your share back; NULL is allowed.
/// [any]
#[no_mangle]
pub unsafe extern "C" fn ns_tls_free(tls: *mut ns_tls) {
    guard((), || unsafe { release(tls) })
}

/// Adds a certificate chain, the server's own certificate first, and its private
/// key, from PEM files.
///
/// A client gets it that asks for `server_name` (SNI, RFC 6066): "example.org", or
/// "*.example.org" for any one label in front. NULL makes it the default, for all
/// other names; if there is no such default, the first certificate that was added
/// is it. Among several for the same name the library takes the first whose kind
/// of key the client can verify. `err`: see RESULTS.
///
/// Returns: 0, NS_ERR_CERTIFICATE, NS_ERR_INVALID (NULL, not a server name) or
/// NS_ERR_STATE. With NS_ERR_CERTIFICATE the error names the file, the block in it
/// and what is wrong with it: it cannot be read, has no certificate or no key, is
/// bad PEM, has something in the chain that is no certificate, has an encrypted
/// key, a key of an unsupported type or length, or the key of another certificate.
/// [setup] [blocks]
#[no_mangle]
pub unsafe extern "C" fn ns_tls_add_cert_file(
    tls: *mut ns_tls,
    server_name: *const c_char,
    chain_file: *const c_char,
    key_file: *const c_char,
    err: *mut *mut ns_error,
) -> ns_status {
    let change = |config: &TlsConfig| {
        let (name, chain, key) = unsafe {
            (
                optional_name(server_name)?,
                file(chain_file, "chain file")?,
                file(key_file, "key file")?,
            )
        };
        config.add_cert_file(name, chain, key)
    };
    unsafe { set_with_err(tls, err, change) }
}

/// `ns_tls_add_cert_file` with PEM text in memory: `chain_len` and `key_len` bytes
/// of it, without a final NUL. Copied; wipe yours.
///
/// Returns: as `ns_tls_add_cert_file`.
/// [setup]
#[no_mangle]
pub unsafe extern "C" fn ns_tls_add_cert_pem(
    tls: *mut ns_tls,
    server_name: *const c_char,
    chain: *const c_void,
    chain_len: usize,
    key: *const c_void,
    key_len: usize,
    err: *mut *mut ns_error,
) -> ns_status {
    let change = |config: &TlsConfig| {
        let (name, chain, key) = unsafe {
            (
                optional_name(server_name)?,
                memory(chain, chain_len, "chain")?,
                memory(key, key_len, "key")?,
            )
        };
        config.add_cert_pem(name, chain, key)
    };
    unsafe { set_with_err(tls, err, change) }
}

/// `ns_tls_add_cert_file` with certificates and a key in DER. The chain is `count`
/// certificates, at most 100: `chain_lens[i]` bytes at `chain[i]`. The key is
/// PKCS #8, PKCS #1 or SEC 1. Copied; wipe yours.
///
/// Returns: as `ns_tls_add_cert_file`.
/// [setup]
#[no_mangle]
pub unsafe extern "C" fn ns_tls_add_cert_der(
    tls: *mut ns_tls,
    server_name: *const c_char,
    chain: *const *const c_void,
    chain_lens: *const usize,
    count: usize,
    key: *const c_void,
    key_len: usize,
    err: *mut *mut ns_error,
) -> ns_status {
    let change = |config: &TlsConfig| {
        let (chain, lens) = unsafe {
            (
                array(chain, count, MAX_CHAIN, "certificates")?,
                array(chain_lens, count, MAX_CHAIN, "certificates")?,
            )
        };
        let certificate = |(buf, len): (&_, &_)| unsafe { memory(*buf, *len, "certificate") };
        let certificates =
            chain.iter().zip(lens).map(certificate).collect::<Result<Vec<_>, _>>()?;
        let (name, key) = unsafe { (optional_name(server_name)?, memory(key, key_len, "key")?) };
        config.add_cert_der(name, &certificates, key)
    };
    unsafe { set_with_err(tls, err, change) }
}

/// Asks clients for a certificate that one of the authorities in a PEM file has
/// signed, and refuses clients with any other. A client's self-signed certificate
/// that is its own authority in the file is refused too.
///
/// `required` 1: a client without a certificate is refused as well. 0: such a
/// client may connect, and `ns_socket_tls_peer_certificate` shows which one it is.
/// No session resumes once a certificate of the client's has expired. `err`: see
/// RESULTS.
///
/// Returns: 0, NS_ERR_CERTIFICATE, NS_ERR_INVALID or NS_ERR_STATE. With
/// NS_ERR_CERTIFICATE the error names the file, the block in it and what is wrong
/// with it: the library never skips a block that is no authority.
/// [setup] [blocks]
#[no_mangle]
pub unsafe extern "C" fn ns_tls_set_client_ca_file(
    tls: *mut ns_tls,
    path: *const c_char,
    required: i32,
    err: *mut *mut ns_error,
) -> ns_status {
    let change = |config: &TlsConfig| {
        let path = unsafe { file(path, "path") }?;
        config.set_client_ca_file(path, flag(required, "required")?)
    };
    unsafe { set_with_err(tls, err, change) }
}

/// `ns_tls_set_client_ca_file` with `len` bytes of PEM text in memory. Copied.
///
/// Returns: as `ns_tls_set_client_ca_file`.
/// [setup]
#[no_mangle]
pub unsafe extern "C" fn ns_tls_set_client_ca_pem(
    tls: *mut ns_tls,
    pem: *const c_void,
    len: usize,
    required: i32,
    err: *mut *mut ns_error,
) -> ns_status {
    let change = |config: &TlsConfig| {
        let pem = unsafe { memory(pem, len, "PEM text") }?;
        config.set_client_ca_pem(pem, flag(required, "required")?)
    };
    unsafe { set_with_err(tls, err, change) }
}

/// Sets the application protocols (ALPN, RFC 7301) that the server speaks, the
/// preferred one first: `n` of them, at most 1024, each of 1 to 255 bytes and a
/// NUL: "h2", "http/1.1". Copied. A client that offers only others is refused; one
/// that offers none is not. With an `n` of 0 (default) no protocol is agreed.
///
/// Returns: 0, NS_ERR_INVALID or NS_ERR_STATE.
/// [setup]
#[no_mangle]
pub unsafe extern "C" fn ns_tls_set_alpn(
    tls: *mut ns_tls,
    protocols: *const *const c_char,
    n: usize,
) -> ns_status {
    let change = |config: &TlsConfig| {
        let protocols = unsafe { array(protocols, n, MAX_PROTOCOLS, "ALPN protocols") }?;
        let protocols = protocols.iter().map(|p| unsafe { text_bytes(*p, "ALPN protocol") });
        config.set_alpn(&protocols.collect::<Result<Vec<_>, _>>()?)
    };
    unsafe { set(tls, change) }
}

/// TLS 1.2 (RFC 5246): 0x0303, the number of the protocol.
pub const NS_TLS_1_2: i32 = 0x0303;
/// TLS 1.3 (RFC 8446): 0x0304, the number of the protocol.
pub const NS_TLS_1_3: i32 = 0x0304;

/// Sets the oldest version that the server speaks: NS_TLS_1_2 (default) or
/// NS_TLS_1_3.
///
/// Returns: 0, NS_ERR_INVALID or NS_ERR_STATE.
/// [setup]
#[no_mangle]
pub unsafe extern "C" fn ns_tls_set_min_version(tls: *mut ns_tls, version: i32) -> ns_status {
    let change = |config: &TlsConfig| match version {
        NS_TLS_1_2 => config.set_min_version(TlsVersion::V1_2),
        NS_TLS_1_3 => config.set_min_version(TlsVersion::V1_3),
        _ => Err(Error::new(Status::Invalid, format!("not a version of TLS: {version:#x}"))),
    };
    unsafe { set(tls, change) }
}

/// Sets how sessions resume. 1 (default): clients get tickets; 0: sessions resume
/// from the session cache, where there is one.
///
/// Returns: 0, NS_ERR_INVALID or NS_ERR_STATE.
/// [setup]
#[no_mangle]
pub unsafe extern "C" fn ns_tls_set_tickets(tls: *mut ns_tls, tickets: i32) -> ns_status {
    unsafe { set(tls, |config| config.set_tickets(flag(tickets, "tickets")?)) }
}

/// The length of a key of tickets in bytes: a name (16), a key for AES-256-CBC (32)
/// and one for HMAC-SHA256 (32), in this order.
pub const NS_TLS_TICKET_KEY_LEN: usize = 80;
const _: () = assert!(NS_TLS_TICKET_KEY_LEN == TICKET_KEY_LEN);

/// Sets the keys of tickets, so that other processes with the same keys resume the
/// sessions of this one: `len` bytes, which are 1 to 16 keys of
/// NS_TLS_TICKET_KEY_LEN random bytes, one behind the other. Without it the keys
/// are the process's own.
///
/// The tickets are those that RFC 5077, 4, recommends. The first key seals new
/// ones; each key opens those that it sealed, for 12 hours. A ticket that no key
/// opens leads to a full handshake. With `ns_tls_set_tickets` 0 no key is used.
///
/// The one setter that a frozen object takes, at any time: handshakes that begin
/// from now on use the new keys, in every service, reload and STARTTLS that uses
/// the object. To rotate without a full handshake: give all processes the new key
/// as the second one, then as the first with the old one behind it, and 12 hours
/// later leave the old one out. Who has a key can read and forge tickets: keep it
/// as secret as the certificate's key, and make a new one at least weekly (RFC 9325,
/// 3.4). Copied; wipe yours. The library wipes its copy when no handshake uses it
/// any more.
///
/// Returns: 0, or NS_ERR_INVALID (NULL, another length): then the keys stay as they
/// were. An object in use does not remember this failure.
/// [any]
#[no_mangle]
pub unsafe extern "C" fn ns_tls_set_ticket_keys(
    tls: *mut ns_tls,
    keys: *const c_void,
    len: usize,
) -> ns_status {
    status(|| {
        let tls = unsafe { object(tls, "TLS object") }?;
        tls.change_any_time(|config| {
            config.set_ticket_keys(unsafe { memory(keys, len, "ticket keys") }?)
        })
    })
}

/// Sets how many sessions are kept in memory, for clients that resume without
/// tickets: at most 1048576; 0 (default): none.
///
/// Returns: 0, NS_ERR_INVALID or NS_ERR_STATE.
/// [setup]
#[no_mangle]
pub unsafe extern "C" fn ns_tls_set_session_cache(tls: *mut ns_tls, sessions: usize) -> ns_status {
    unsafe { set(tls, |config| config.set_session_cache(sessions)) }
}

/// Has the handshakes of the first service that begin from now on use `tls`, which
/// must be another object than the one in use: that one is frozen. Open sessions go
/// on. After a failure the one in use stays. `err`: see RESULTS.
///
/// Returns: 0, NS_ERR_CERTIFICATE (no certificate), NS_ERR_STATE (the service was
/// made without TLS), NS_ERR_TLS, NS_ERR_INVALID, or the remembered failure of a
/// setter of `tls`.
/// [any] [blocks]
#[no_mangle]
pub unsafe extern "C" fn ns_server_reload_tls(
    server: *mut ns_server,
    tls: *const ns_tls,
    err: *mut *mut ns_error,
) -> ns_status {
    let body = || {
        let (server, tls) = unsafe { (server_of(server)?, object(tls, "TLS object")?) };
        server.server.try_reload_tls(0, tls.settings())?;
        Ok(Status::Ok.code())
    };
    unsafe { with_err(err, Status::code, body) }
}
