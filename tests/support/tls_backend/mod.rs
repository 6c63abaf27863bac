//! The Rust API over TLS: every server has a certificate, every client shakes hands.

#[path = "../rust_api.rs"]
mod rust_api;

mod excluded;
mod stream;

pub use excluded::EXCLUDED;
pub use net_server::{TlsConfig, TlsInfo, TlsVersion};
pub use rust_api::*;
pub use stream::{client_config, client_config_of, older};
pub use stream::{into_tcp, plain_stream, settle, stream, Stream};

pub const AUTHORITY: &[u8] = include_bytes!("../../data/ca.pem");
pub const CHAIN: &[u8] = include_bytes!("../../data/server.pem");
pub const KEY: &[u8] = include_bytes!("../../data/server-key.pem");

/// The servers' certificate.
pub fn tls() -> TlsConfig {
    let tls = TlsConfig::new();
    tls.add_cert_pem(None, CHAIN, KEY).expect("the certificate of the tests");
    tls
}

/// Every connection goes through TLS.
pub const TLS: bool = true;

/// Adds to a server's settings what every server of this run has.
pub fn configure(config: Config) -> Config {
    match config.tls {
        None => config.tls(tls()),
        Some(_) => config,
    }
}

/// A server that is given no settings, but for what every server gets in this run.
pub fn default_server(service: &str, hooks: Hooks) -> Server {
    Server::with_config(service, hooks, configure(Config::new())).expect("new")
}
