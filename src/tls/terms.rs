//! What the rest of the crate names of TLS, with the feature `tls` and without:
//! data and bounds.

#![forbid(unsafe_code)]

/// The largest number of sessions in a cache, whose table alone takes some
/// 100 MB then.
pub const MAX_SESSIONS: usize = 1 << 20;

/// The length of a key of tickets in bytes: a name (16), a key for
/// AES-256-CBC (32) and one for HMAC-SHA256 (32).
pub const TICKET_KEY_LEN: usize = 80;

/// The largest number of keys of tickets.
pub const MAX_TICKET_KEYS: usize = 16;

/// A version of the protocol.
///
/// Example: [`TlsConfig`](crate::TlsConfig).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum TlsVersion {
    /// TLS 1.2 (RFC 5246).
    V1_2,
    /// TLS 1.3 (RFC 8446).
    V1_3,
}

/// The result of a handshake.
///
/// ```
/// use net_server::{Error, Server, Socket};
///
/// let handler = |_: &Server, socket: &mut Socket<'_>| -> Result<(), Error> {
///     let tls = socket.tls_info().expect("the service has TLS");
///     let who = tls.peer_subject.unwrap_or("somebody".into());
///     socket.send(format!("hello {who}, by {}\n", tls.cipher_suite).as_bytes())
/// };
/// # let _ = Server::new("0", handler);
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TlsInfo {
    /// The version.
    pub version: TlsVersion,
    /// The cipher suite by its IANA name.
    pub cipher_suite: String,
    /// The application protocol, if one was agreed (RFC 7301).
    pub alpn: Option<Vec<u8>>,
    /// The name that the client asked for (RFC 6066, section 3).
    pub server_name: Option<String>,
    /// Whether the session was resumed.
    pub resumed: bool,
    /// The verified certificate of the client in DER.
    pub peer_certificate: Option<Vec<u8>>,
    /// The subject of that certificate as RFC 4514 writes it.
    pub peer_subject: Option<String>,
}

/// What a read of a session's plaintext gives.
pub(crate) enum Plain {
    Bytes(usize),
    /// close_notify: the peer ended the stream in good order.
    End,
    /// More ciphertext is needed.
    None,
}
