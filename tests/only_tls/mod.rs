//! Tests that only a run over TLS has.

mod closing;
mod handshakes;
mod hosted;
mod logger;
mod memory;
mod proxy;
mod services;
mod settings;
mod starttls;
mod streams;
mod tickets;
mod upgrade_ends;

use crate::api::{client_config, client_config_of, older, AUTHORITY};
use crate::api::{Config, Hooks, Server, Status, Stream};
use crate::support::*;
use rustls::pki_types::{pem::PemObject, CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

fn raw(server: &Server) -> TcpStream {
    let tcp = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
    tcp.set_read_timeout(Some(SOON)).unwrap();
    tcp
}

fn raw_saying(server: &Server, bytes: impl AsRef<[u8]>) -> TcpStream {
    let mut tcp = raw(server);
    tcp.write_all(bytes.as_ref()).unwrap();
    tcp
}

/// A server of plain text, which may become more.
fn start_plain(config: Config, hooks: Hooks) -> Server {
    let server = Server::with_config("127.0.0.1:0", hooks, config).unwrap();
    server.start_background().unwrap();
    server
}

/// A client with settings of its own.
fn client_with(server: &Server, config: ClientConfig, name: &str) -> Client {
    Client::set_up(Stream::with(raw(server), config, name)).unwrap()
}

const SECOND: &[u8] = include_bytes!("../data/second.pem");
const SECOND_KEY: &[u8] = include_bytes!("../data/second-key.pem");

fn certificate(pem: &[u8]) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem).unwrap()
}

/// A session that the test moves by hand, and its first message.
fn by_hand() -> (ClientConnection, Vec<u8>) {
    let name = ServerName::try_from("localhost").unwrap();
    let mut session = ClientConnection::new(Arc::new(client_config()), name).unwrap();
    let mut hello = Vec::new();
    session.write_tls(&mut hello).unwrap();
    (session, hello)
}

/// Goes on with such a session until the handshake is over, and sends `words`.
fn finish_by_hand(session: &mut ClientConnection, tcp: &TcpStream, words: &[u8]) {
    try_by_hand(session, tcp, words).unwrap();
}

fn try_by_hand(
    session: &mut ClientConnection,
    mut tcp: &TcpStream,
    words: &[u8],
) -> std::io::Result<()> {
    while session.is_handshaking() {
        session.complete_io(&mut tcp)?;
    }
    session.writer().write_all(words)?;
    while session.wants_write() {
        session.write_tls(&mut tcp)?;
    }
    Ok(())
}

/// Waits until the server has said something: its handshake with this client has begun.
fn under_way(tcp: &TcpStream) {
    assert_eq!(tcp.peek(&mut [0]).expect("an answer"), 1);
}

/// A session whose handshake is over, with `words` sent.
fn shake_hands(mut tcp: &TcpStream, words: &[u8]) -> ClientConnection {
    let (mut session, hello) = by_hand();
    tcp.write_all(&hello).unwrap();
    finish_by_hand(&mut session, tcp, words);
    session
}

/// Receives `len` bytes of application data in a session that the test moves by hand.
fn receive_by_hand(session: &mut ClientConnection, mut tcp: &TcpStream, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    rustls::Stream::new(session, &mut tcp).read_exact(&mut bytes).unwrap();
    bytes
}

/// All that comes until the connection ends, without regard to TLS.
fn raw_rest(mut tcp: &TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    let _ = tcp.read_to_end(&mut all);
    all
}

fn contains(all: &[u8], words: &[u8]) -> bool {
    all.windows(words.len()).any(|window| window == words)
}

/// Every callback of a connection by its name, and the status that the exception handler got.
fn telling() -> (Hooks, Events<(&'static str, Status)>) {
    let (log, told) = events();
    let (opens, closes, errors) = (log.clone(), log.clone(), log.clone());
    let hooks = Hooks::new(move |server: &Server, socket| {
        log.add(("handler", Status::Ok));
        echo(server, socket)
    })
    .on_open(move |_, _| Ok(opens.add(("open", Status::Ok))))
    .on_close(move |_, _, _| closes.add(("close", Status::Ok)))
    .on_exception(move |_, socket, error| {
        assert!(socket.is_some(), "there is a socket");
        assert!(!error.message().is_empty());
        Ok(errors.add(("exception", error.status())))
    });
    (hooks, told)
}

/// The tests that this run excludes exist.
#[test]
fn the_excluded_tests_exist() {
    let list = std::process::Command::new(std::env::current_exe().unwrap()).arg("--list").output();
    let list = String::from_utf8(list.unwrap().stdout).unwrap();
    for (name, reason) in crate::api::EXCLUDED {
        assert!(list.contains(&format!("suite::{name}: test\n")), "{name}");
        assert!(!reason.is_empty());
    }
}
