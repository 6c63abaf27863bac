//! TLS on one connection: STARTTLS, and what its handshake agreed.

// SAFETY of the blocks without a comment: the caller's contract, see `mod.rs`.
#![allow(clippy::undocumented_unsafe_blocks)]

use std::ffi::{c_char, c_void};

use super::error::ns_status;
use super::handles::{ns_socket, object, usable_conn};
use super::support::{bytes, fill, give_bytes, give_text, guard, in_place, status};
use super::tls::{ns_tls, NS_TLS_1_2, NS_TLS_1_3};
use crate::tls::{TlsInfo, TlsVersion};
use crate::{Error, Socket, Status};

/// Upgrades a plain connection to TLS (STARTTLS). Call it after you have sent your
/// own go-ahead. This side is the server of the handshake, on an outgoing connection
/// too: the library is never a TLS client.
///
/// The `n` bytes at `ahead` are what `ns_socket_recv` returned beyond the client's
/// request. They go to TLS, and so do all unread bytes: so the handler never gets
/// bytes that a third party inserted before the handshake as if the client had
/// sent them over TLS. Forget everything else that the client sent in plain text.
///
/// Non-blocking mode: the call returns 0 immediately. What you send is encrypted,
/// and the library calls the handler next with application data. If the handshake
/// fails, the library calls the exception handler and closes the connection.
/// Blocking mode: the call returns when the handshake is over. Return its failure
/// from the handler: then the exception handler gets the sentence that says why.
///
/// Returns: 0; in blocking mode also NS_ERR_HANDSHAKE, NS_ERR_TIMEOUT
/// (`handshake_timeout`); in both modes NS_ERR_CERTIFICATE (no certificate),
/// NS_ERR_TLS (`tls` cannot be used), NS_ERR_STATE (TLS already), NS_ERR_CLOSED,
/// NS_ERR_DETACHED, NS_ERR_NOT_IN_HANDLER, NS_ERR_INVALID, or the remembered
/// failure of a setter of `tls`.
/// [handler] [blocks, in blocking mode]
#[no_mangle]
pub unsafe extern "C" fn ns_socket_starttls(
    socket: *mut ns_socket,
    tls: *const ns_tls,
    ahead: *const c_void,
    n: usize,
) -> ns_status {
    status(|| {
        let (conn, tls, ahead) =
            unsafe { (usable_conn(socket)?, object(tls, "TLS object")?, bytes(ahead, n)?) };
        let result = Socket::of(conn).starttls(tls.settings_in_use()?, ahead);
        result.map_err(|error| {
            let status = error.status();
            if matches!(status, Status::Handshake | Status::Timeout) {
                // This function has no `err`; the exception handler gets the error.
                conn.set_failure(error);
            }
            status
        })?;
        Ok::<_, Error>(())
    })
}

/// What a TLS handshake agreed. Texts end with a NUL.
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

/// What a connection's handshake agreed, if it is over.
///
/// # Safety
/// As `usable_conn`.
unsafe fn tls_info(socket: *const ns_socket) -> Result<TlsInfo, Error> {
    let conn = unsafe { usable_conn(socket) }?;
    Socket::of(conn).tls_info().ok_or(Error::from(Status::State))
}

/// Fills `*out`, of which `size` is the `sizeof`, as `ns_server_stats` does.
///
/// Returns: 0, NS_ERR_STATE (no TLS, or the handshake is not over),
/// NS_ERR_DETACHED, NS_ERR_NOT_IN_HANDLER or NS_ERR_INVALID.
/// [handler]
#[no_mangle]
pub unsafe extern "C" fn ns_socket_tls_info(
    socket: *const ns_socket,
    out: *mut ns_tls_info,
    size: usize,
) -> ns_status {
    // No padding, see above.
    status(|| unsafe { fill(out, size, || Ok(tls_info(socket)?.into())) })
}

/// Writes the client's own certificate in DER, at most `len` bytes of it. It was
/// verified.
///
/// Returns: the length of the whole certificate; 0 where there is none.
/// [handler]
#[no_mangle]
pub unsafe extern "C" fn ns_socket_tls_peer_certificate(
    socket: *const ns_socket,
    buf: *mut c_void,
    len: usize,
) -> usize {
    guard(0, || {
        let info = unsafe { tls_info(socket) };
        let certificate = info.ok().and_then(|info| info.peer_certificate).unwrap_or_default();
        unsafe { give_bytes(&certificate, buf, len) }
    })
}

/// Writes the subject of that certificate as text (RFC 4514), "CN=ann,O=Example";
/// "" where there is none. Control characters are escaped, so that none ends the
/// text early. It writes as `snprintf` does: at most `len` bytes with the final
/// NUL.
///
/// Returns: the length of the whole text without the NUL.
/// [handler]
#[no_mangle]
pub unsafe extern "C" fn ns_socket_tls_peer_subject(
    socket: *const ns_socket,
    buf: *mut c_char,
    len: usize,
) -> usize {
    guard(0, || {
        let info = unsafe { tls_info(socket) };
        let subject = info.ok().and_then(|info| info.peer_subject).unwrap_or_default();
        unsafe { give_text(&subject, buf, len) }
    })
}
