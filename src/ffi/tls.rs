//! `ns_tls`: certificates and what goes with them; a socket's view of TLS.

use std::ffi::{c_char, c_void, CStr, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;
use std::sync::{Arc, Mutex};

use super::error::ns_error;
use super::server::{alive, ns_server};
use super::socket::{bytes, usable};
use super::support::{
    fill, give_text, guard, lock, made, null, object, remember, reporting, status, text, Bad,
};
use super::types::{ns_socket, ns_status};
use super::version::silence_panics;
use crate::{Error, Socket, Status, TlsConfig, TlsInfo, TlsVersion};

/// TLS 1.2 (RFC 5246); 0x0303, the protocol's own number.
pub const NS_TLS_1_2: i32 = 0x0303;
/// TLS 1.3 (RFC 8446); 0x0304.
pub const NS_TLS_1_3: i32 = 0x0304;

/// More certificates than this in one chain are a mistake.
const MAX_CHAIN: usize = 100;
/// More protocols than this in one `ns_tls_set_alpn` are a mistake.
const MAX_PROTOCOLS: usize = 1024;

/// Certificates and what goes with them. Reference-counted: each config that it
/// is set in holds a share, so free yours at any time; one may serve several
/// servers. Frozen by its first use: `ns_server_new`, `ns_server_reload_tls` or
/// `ns_socket_starttls`. TLS 1.2 and 1.3, with forward secrecy and
/// authenticated encryption only; sessions resume by tickets whose keys rotate
/// every 6 hours; no early data, no renegotiation.
pub struct ns_tls {
    /// `None` where it could not be made; `bad` says why.
    config: Option<TlsConfig>,
    /// What the first failed setter said; every use says it again.
    bad: Mutex<Option<Bad>>,
}

impl ns_tls {
    fn change(&self, change: impl FnOnce(&TlsConfig) -> Result<(), Error>) -> Result<(), Error> {
        let Some(config) = &self.config else { return self.settings().map(|_| ()) };
        let result = change(config);
        if let Err(error) = &result {
            remember(&mut lock(&self.bad), error);
        }
        result
    }

    pub(super) fn config(&self) -> Option<&TlsConfig> {
        self.config.as_ref()
    }

    /// For a new server: fails if a setter did. Without that a list of client authorities that
    /// could not be read would let every client in.
    pub(super) fn settings(&self) -> Result<&TlsConfig, Error> {
        match (&*lock(&self.bad), &self.config) {
            (None, Some(config)) => Ok(config),
            (Some((status, message)), _) => {
                Err(Error::new(*status, format!("the TLS settings are not valid: {message}")))
            }
            (None, None) => Err(Error::from(Status::Panic)),
        }
    }

    /// For a connection: a setter that came too late changed nothing of what
    /// others already use, so it ends no service.
    fn settings_in_use(&self) -> Result<&TlsConfig, Error> {
        match (self.settings(), &self.config) {
            (Err(error), Some(config)) if error.status() == Status::State => Ok(config),
            (result, _) => result,
        }
    }
}

/// Another share of the object behind a handle; `None` for NULL.
///
/// # Safety
/// `tls` is NULL or valid.
pub(super) unsafe fn share(tls: *const ns_tls) -> Option<Arc<ns_tls>> {
    if tls.is_null() {
        return None;
    }
    // SAFETY: made by Arc::into_raw in `ns_tls_new`; this adds a share.
    Some(unsafe {
        Arc::increment_strong_count(tls);
        Arc::from_raw(tls)
    })
}

/// A setter without an error object.
unsafe fn set(tls: *mut ns_tls, change: impl FnOnce(&TlsConfig) -> Result<(), Error>) -> ns_status {
    // SAFETY: the caller's contract.
    status(|| unsafe { object(tls, "TLS object") }?.change(change))
}

/// A setter that says what is wrong.
unsafe fn set_reporting(
    tls: *mut ns_tls,
    err: *mut *mut ns_error,
    change: impl FnOnce(&TlsConfig) -> Result<(), Error>,
) -> ns_status {
    let body = || {
        // SAFETY: the caller's contract.
        unsafe { object(tls, "TLS object") }?.change(change)?;
        Ok(Status::Ok.code())
    };
    // SAFETY: the caller's contract.
    unsafe { reporting(err, Status::code, body) }
}

/// A flag as C has it.
fn flag(value: i32, name: &str) -> Result<bool, Error> {
    match value {
        0 | 1 => Ok(value == 1),
        _ => Err(Error::new(Status::Invalid, format!("{name} must be 0 or 1, not {value}"))),
    }
}

/// A file name may be any bytes.
///
/// # Safety
/// As `text`.
unsafe fn file<'a>(path: *const c_char, what: &str) -> Result<&'a Path, Error> {
    if path.is_null() {
        return Err(null(what));
    }
    // SAFETY: not NULL, so a string, the caller says.
    Ok(Path::new(OsStr::from_bytes(unsafe { CStr::from_ptr(path) }.to_bytes())))
}

/// PEM text in memory.
///
/// # Safety
/// `pem` is NULL or has `len` bytes.
unsafe fn memory<'a>(pem: *const c_void, len: usize, what: &str) -> Result<&'a [u8], Error> {
    // SAFETY: the caller's contract.
    unsafe { bytes(pem, len) }
        .map_err(|_| Error::new(Status::Invalid, format!("the {what} is NULL or too long")))
}

/// # Safety
/// As `text`.
unsafe fn optional_name<'a>(name: *const c_char) -> Result<Option<&'a str>, Error> {
    // SAFETY: the caller's contract.
    (!name.is_null()).then(|| unsafe { text(name, "server name") }).transpose()
}

/// A new TLS object, the caller's to free (`ns_tls_free`); never NULL: one that
/// could not be made remembers why, and every use reports it. It needs a
/// certificate before a server can use it. [any]
#[no_mangle]
pub extern "C" fn ns_tls_new() -> *mut ns_tls {
    let (config, bad) = made(|| {
        silence_panics();
        TlsConfig::new()
    });
    Arc::into_raw(Arc::new(ns_tls { config, bad: Mutex::new(bad) })).cast_mut()
}

/// Gives the caller's share back; NULL is allowed. [any]
#[no_mangle]
pub unsafe extern "C" fn ns_tls_free(tls: *mut ns_tls) {
    guard((), || {
        if !tls.is_null() {
            // SAFETY: made by Arc::into_raw in `ns_tls_new`.
            drop(unsafe { Arc::from_raw(tls) });
        }
    })
}

/// Adds a certificate chain, the server's own certificate first, and its
/// private key, from PEM files. `server_name` is the name that clients ask for
/// to get it (SNI, RFC 6066): "example.org", or "*.example.org" for any one
/// label in front. NULL makes it the default, for all other names; without one
/// that is the first certificate added. Several for the same name: the first
/// whose kind of key the client can verify. All setters return 0 or a negative
/// status; the first failure is remembered and reported by whatever uses the
/// object, so they may go unchecked. Here: NS_ERR_CERTIFICATE (the error names
/// the file, the block in it and what is wrong with it: it cannot be read, has no
/// certificate or no key, bad PEM, a certificate of the chain that is none, an
/// encrypted key, a key of an unsupported type or length, the key of another
/// certificate), NS_ERR_INVALID (NULL, not a server name),
/// NS_ERR_STATE (frozen). `err` may be NULL; else `*err` is NULL or an error
/// that is the caller's to free. [setup] [blocks]
#[no_mangle]
pub unsafe extern "C" fn ns_tls_add_cert_file(
    tls: *mut ns_tls,
    server_name: *const c_char,
    chain_file: *const c_char,
    key_file: *const c_char,
    err: *mut *mut ns_error,
) -> ns_status {
    let change = |config: &TlsConfig| {
        // SAFETY: the caller's contract.
        let (name, chain, key) = unsafe {
            (
                optional_name(server_name)?,
                file(chain_file, "chain file")?,
                file(key_file, "key file")?,
            )
        };
        config.add_cert_file(name, chain, key)
    };
    // SAFETY: the caller's contract.
    unsafe { set_reporting(tls, err, change) }
}

/// `ns_tls_add_cert_file` with PEM text in memory, `chain_len` and `key_len`
/// bytes of it, without a final NUL. Copied; wipe yours. [setup]
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
        // SAFETY: the caller's contract.
        let (name, chain, key) = unsafe {
            (
                optional_name(server_name)?,
                memory(chain, chain_len, "chain")?,
                memory(key, key_len, "key")?,
            )
        };
        config.add_cert_pem(name, chain, key)
    };
    // SAFETY: the caller's contract.
    unsafe { set_reporting(tls, err, change) }
}

/// `ns_tls_add_cert_file` with certificates and a key in DER: the chain is
/// `count` certificates, at most 100, `chain_lens[i]` bytes at `chain[i]`; the
/// key is PKCS #8, PKCS #1 or SEC 1. Copied; wipe yours. [setup]
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
        if count > MAX_CHAIN || (count > 0 && (chain.is_null() || chain_lens.is_null())) {
            return Err(Error::new(Status::Invalid, "the certificates are NULL or too many"));
        }
        // SAFETY: the caller's contract: both arrays have `count` entries.
        let certificate =
            |at| unsafe { memory(*chain.add(at), *chain_lens.add(at), "certificate") };
        let certificates = (0..count).map(certificate).collect::<Result<Vec<_>, _>>()?;
        // SAFETY: the caller's contract.
        let (name, key) = unsafe { (optional_name(server_name)?, memory(key, key_len, "key")?) };
        config.add_cert_der(name, &certificates, key)
    };
    // SAFETY: the caller's contract.
    unsafe { set_reporting(tls, err, change) }
}

/// Asks clients for a certificate that one of the authorities in a PEM file
/// vouches for, and refuses any other: a self-signed certificate of a client's
/// that is its own authority there is refused too. `required` 1: also a client
/// without one; 0: those are let in, and `ns_socket_tls_peer_certificate` tells.
/// A session is not resumed once a certificate of the client's has expired. 0,
/// NS_ERR_CERTIFICATE (the error names the file, the block in it and what is
/// wrong with it: a block that is no authority is never left out silently),
/// NS_ERR_INVALID, NS_ERR_STATE (frozen). `err` may be NULL; else `*err` is NULL
/// or an error that is the caller's to free. [setup] [blocks]
#[no_mangle]
pub unsafe extern "C" fn ns_tls_set_client_ca_file(
    tls: *mut ns_tls,
    path: *const c_char,
    required: i32,
    err: *mut *mut ns_error,
) -> ns_status {
    let change = |config: &TlsConfig| {
        // SAFETY: the caller's contract.
        let path = unsafe { file(path, "path") }?;
        config.set_client_ca_file(path, flag(required, "required")?)
    };
    // SAFETY: the caller's contract.
    unsafe { set_reporting(tls, err, change) }
}

/// `ns_tls_set_client_ca_file` with `len` bytes of PEM text in memory. Copied.
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
        // SAFETY: the caller's contract.
        let pem = unsafe { memory(pem, len, "PEM text") }?;
        config.set_client_ca_pem(pem, flag(required, "required")?)
    };
    // SAFETY: the caller's contract.
    unsafe { set_reporting(tls, err, change) }
}

/// The application protocols (ALPN, RFC 7301) that the server speaks, the
/// preferred one first: `n` of them, at most 1024, each of 1 to 255 bytes and a
/// NUL: "h2", "http/1.1". Copied. A client that offers only others is refused;
/// one that offers none is not. 0 (default): none is agreed. 0 or
/// NS_ERR_INVALID, NS_ERR_STATE (frozen). [setup]
#[no_mangle]
pub unsafe extern "C" fn ns_tls_set_alpn(
    tls: *mut ns_tls,
    protocols: *const *const c_char,
    n: usize,
) -> ns_status {
    let change = |config: &TlsConfig| {
        if n > MAX_PROTOCOLS || (n > 0 && protocols.is_null()) {
            return Err(Error::new(Status::Invalid, "the ALPN protocols are NULL or too many"));
        }
        let mut list = Vec::with_capacity(n);
        for at in 0..n {
            // SAFETY: the caller's contract: the array has `n` entries.
            let protocol = unsafe { *protocols.add(at) };
            if protocol.is_null() {
                return Err(null("ALPN protocol"));
            }
            // SAFETY: not NULL, so a string, the caller says.
            list.push(unsafe { CStr::from_ptr(protocol) }.to_bytes());
        }
        config.set_alpn(&list)
    };
    // SAFETY: the caller's contract.
    unsafe { set(tls, change) }
}

/// The oldest version that is spoken: NS_TLS_1_2 (default) or NS_TLS_1_3. 0 or
/// NS_ERR_INVALID, NS_ERR_STATE (frozen). [setup]
#[no_mangle]
pub unsafe extern "C" fn ns_tls_set_min_version(tls: *mut ns_tls, version: i32) -> ns_status {
    let change = |config: &TlsConfig| match version {
        NS_TLS_1_2 => config.set_min_version(TlsVersion::V1_2),
        NS_TLS_1_3 => config.set_min_version(TlsVersion::V1_3),
        _ => Err(Error::new(Status::Invalid, format!("not a version of TLS: {version:#x}"))),
    };
    // SAFETY: the caller's contract.
    unsafe { set(tls, change) }
}

/// 1 (default): clients get tickets, by which their sessions resume; 0: they
/// resume from the session cache, where there is one. 0 or NS_ERR_INVALID,
/// NS_ERR_STATE (frozen). [setup]
#[no_mangle]
pub unsafe extern "C" fn ns_tls_set_tickets(tls: *mut ns_tls, tickets: i32) -> ns_status {
    // SAFETY: the caller's contract.
    unsafe { set(tls, |config| config.set_tickets(flag(tickets, "tickets")?)) }
}

/// How many sessions are kept in memory, for clients that resume without
/// tickets: at most 1048576; 0 (default): none. 0 or NS_ERR_INVALID,
/// NS_ERR_STATE (frozen). [setup]
#[no_mangle]
pub unsafe extern "C" fn ns_tls_set_session_cache(tls: *mut ns_tls, sessions: usize) -> ns_status {
    // SAFETY: the caller's contract.
    unsafe { set(tls, |config| config.set_session_cache(sessions)) }
}

/// Has the handshakes that begin from now on use `tls` (another object than
/// the one in use: that is frozen); open sessions go on. On failure the one in
/// use stays: NS_ERR_CERTIFICATE (no certificate), NS_ERR_STATE (the server was
/// made without TLS), NS_ERR_TLS, NS_ERR_INVALID, or what a setter of `tls`
/// said. 0 on success. `err` may be NULL; else `*err` is NULL or an error that
/// is the caller's to free. [any]
#[no_mangle]
pub unsafe extern "C" fn ns_server_reload_tls(
    server: *mut ns_server,
    tls: *const ns_tls,
    err: *mut *mut ns_error,
) -> ns_status {
    let body = || {
        // SAFETY: the caller's contract.
        let (server, tls) = unsafe { (alive(server)?, object(tls, "TLS object")?) };
        server.server.reload_tls(tls.settings()?)?;
        Ok(Status::Ok.code())
    };
    // SAFETY: the caller's contract.
    unsafe { reporting(err, Status::code, body) }
}

/// Goes over to TLS on a plain connection (STARTTLS), after your own go-ahead
/// was sent. The `n` bytes at `ahead` are what `ns_socket_recv` gave beyond the
/// client's request: they are handed to TLS, as are all unread ones, so that
/// nothing a third party slipped in before is taken for what the client said
/// under TLS. Forget what else the client said in plain text.
///
/// Non-blocking mode: returns 0 at once, what you send is encrypted, and the
/// handler is next called with application data; a handshake that fails is
/// told to the exception handler and closes the connection. Blocking mode:
/// returns when the handshake is over: 0, NS_ERR_HANDSHAKE, NS_ERR_TIMEOUT
/// (`handshake_timeout`), NS_ERR_RESET; return it from the handler, and the
/// exception handler gets the sentence that says why. Both:
/// NS_ERR_CERTIFICATE (no certificate), NS_ERR_STATE (TLS already),
/// NS_ERR_CLOSED, NS_ERR_DETACHED, NS_ERR_NOT_IN_HANDLER, NS_ERR_INVALID, or
/// what a setter of `tls` said. [handler]; [blocks] in blocking mode.
#[no_mangle]
pub unsafe extern "C" fn ns_socket_starttls(
    socket: *mut ns_socket,
    tls: *const ns_tls,
    ahead: *const c_void,
    n: usize,
) -> ns_status {
    status(|| {
        // SAFETY: the caller's contract.
        let (conn, tls, ahead) =
            unsafe { (usable(socket)?, object(tls, "TLS object")?, bytes(ahead, n)?) };
        let result = Socket::of(conn).starttls(tls.settings_in_use()?, ahead);
        result.map_err(|error| {
            let status = error.status();
            if matches!(status, Status::Handshake | Status::Timeout | Status::Reset) {
                // There is no `err` to say it; the exception handler gets it.
                conn.set_failure(error);
            }
            status
        })?;
        Ok::<_, Error>(())
    })
}

/// What was agreed in a TLS handshake. Texts end with a NUL.
#[repr(C)]
pub struct ns_tls_info {
    /// NS_TLS_1_2 or NS_TLS_1_3.
    pub version: i32,
    /// 1: an earlier session was resumed.
    pub resumed: i32,
    /// The cipher suite by its IANA name, "TLS_AES_256_GCM_SHA384".
    pub cipher_suite: [c_char; 64],
    /// The application protocol (ALPN); "" for none.
    pub alpn: [c_char; 256],
    /// The name that the client asked for (SNI); "" for none.
    pub server_name: [c_char; 256],
}

/// Text in place; what does not fit is cut, and the last byte stays 0.
fn in_place<const N: usize>(text: &[u8]) -> [c_char; N] {
    let mut out = [0; N];
    for (to, from) in out[..N - 1].iter_mut().zip(text) {
        *to = *from as c_char;
    }
    out
}

impl From<TlsInfo> for ns_tls_info {
    fn from(info: TlsInfo) -> ns_tls_info {
        ns_tls_info {
            version: match info.version {
                TlsVersion::V1_2 => NS_TLS_1_2,
                TlsVersion::V1_3 => NS_TLS_1_3,
            },
            resumed: info.resumed.into(),
            cipher_suite: in_place(info.cipher_suite.as_bytes()),
            alpn: in_place(info.alpn.as_deref().unwrap_or_default()),
            server_name: in_place(info.server_name.unwrap_or_default().as_bytes()),
        }
    }
}

/// No padding: 2 words of 32 bits, the rest bytes.
const _: () = assert!(size_of::<ns_tls_info>() == 2 * 4 + 64 + 256 + 256);

/// What a connection agreed on, where its handshake is over.
///
/// # Safety
/// As `usable`.
unsafe fn agreed(socket: *const ns_socket) -> Result<TlsInfo, Error> {
    // SAFETY: the caller's promise.
    let conn = unsafe { usable(socket) }?;
    Socket::of(conn).tls_info().ok_or(Error::from(Status::State))
}

/// Fills `*out`, of which `size` is the `sizeof`, as `ns_server_stats` does. 0,
/// NS_ERR_STATE where there is no TLS or the handshake is not over,
/// NS_ERR_DETACHED, NS_ERR_NOT_IN_HANDLER, NS_ERR_INVALID. [handler]
#[no_mangle]
pub unsafe extern "C" fn ns_socket_tls_info(
    socket: *const ns_socket,
    out: *mut ns_tls_info,
    size: usize,
) -> ns_status {
    // SAFETY: the caller's contract; no padding, see above.
    status(|| unsafe { fill(out, size, || Ok(agreed(socket)?.into())) })
}

/// The client's own certificate in DER, verified. Writes at most `len` bytes
/// and returns the length of the whole; 0 where there is none. [handler]
#[no_mangle]
pub unsafe extern "C" fn ns_socket_tls_peer_certificate(
    socket: *const ns_socket,
    buf: *mut c_void,
    len: usize,
) -> usize {
    guard(0, || {
        // SAFETY: the caller's contract.
        let info = unsafe { agreed(socket) };
        let certificate = info.ok().and_then(|info| info.peer_certificate).unwrap_or_default();
        if !buf.is_null() {
            let count = certificate.len().min(len);
            // SAFETY: at most `len` bytes are written, which the caller has.
            unsafe { ptr::copy_nonoverlapping(certificate.as_ptr(), buf.cast(), count) };
        }
        certificate.len()
    })
}

/// The subject of that certificate as text (RFC 4514), "CN=ann,O=Example":
/// control characters are escaped, so that none ends the text early; "" where
/// there is none. As `snprintf`: writes at most `len` bytes, NUL included, and
/// returns the length of the whole text without it. [handler]
#[no_mangle]
pub unsafe extern "C" fn ns_socket_tls_peer_subject(
    socket: *const ns_socket,
    buf: *mut c_char,
    len: usize,
) -> usize {
    guard(0, || {
        // SAFETY: the caller's contract.
        let info = unsafe { agreed(socket) };
        let subject = info.ok().and_then(|info| info.peer_subject).unwrap_or_default();
        // SAFETY: the caller's contract.
        unsafe { give_text(&subject, buf, len) }
    })
}
