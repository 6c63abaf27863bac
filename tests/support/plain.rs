//! The streams and settings of a plain-text run.

use super::{Config, Hooks, Server};
use std::net::TcpStream;

/// A client's end of a connection to a server.
pub type Stream = TcpStream;

pub fn stream(tcp: TcpStream) -> Stream {
    tcp
}

/// A client's end of a connection that is plain text in every run.
pub fn plain_stream(tcp: TcpStream) -> Stream {
    tcp
}

/// The bare connection; nothing more is said on it.
pub fn into_tcp(stream: Stream) -> TcpStream {
    stream
}

/// Waits until the connection is ready for the program's first byte.
pub fn settle(_: &Stream) -> std::io::Result<()> {
    Ok(())
}

/// Every connection goes through TLS.
pub const TLS: bool = false;

/// Adds to a server's settings what every server of this run has.
pub fn configure(config: Config) -> Config {
    config
}

/// A server that is given no settings, but for what every server gets in this run.
pub fn default_server(service: &str, hooks: Hooks) -> Server {
    Server::new(service, hooks).expect("new")
}

/// The tests that make no sense in this run, and why.
pub const EXCLUDED: &[(&str, &str)] = &[];
