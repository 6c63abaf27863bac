//! The oracle against the Rust API.

// The suite needs more of it.
#[path = "support/rust_backend.rs"]
#[allow(dead_code, unused_imports)]
mod api;
#[path = "oracle/mod.rs"]
mod oracle;
#[path = "support/mod.rs"]
mod support;

const API: &str = "Rust API";

/// STARTTLS with the certificate of the tests.
mod starttls {
    use crate::api::{Error, Socket};
    use net_server::TlsConfig;

    pub fn begin(socket: &mut Socket<'_>, ahead: &[u8]) -> Result<(), Error> {
        let tls = TlsConfig::new();
        let (chain, key) =
            (include_bytes!("data/server.pem"), include_bytes!("data/server-key.pem"));
        tls.add_cert_pem(None, chain, key)?;
        socket.starttls(&tls, ahead)
    }
}
