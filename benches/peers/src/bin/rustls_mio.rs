//! rustls_mio: a TLS 1.3 echo server on rustls and mio by themselves: one thread, sessions on
//! non-blocking sockets, one buffer for all connections.
//!
//!   rustls_mio [-b BYTES] CERT KEY
//!
//! -b bounds what one read of a session gives.

use std::error::Error;
use std::io::{self, ErrorKind, Read, Write};
use std::sync::Arc;

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Registry, Token};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection};
use slab::Slab;

use peers::{begin, say_listening, ADDRESS};

const LISTENER: Token = Token(usize::MAX);

struct Conn {
    stream: TcpStream,
    tls: ServerConnection,
    /// It ends when what waits to be sent is sent.
    ending: bool,
}

impl Conn {
    /// As far as it goes now: whether the connection stays. Nothing is read while something waits
    /// to be sent.
    fn serve(&mut self, buffer: &mut [u8]) -> io::Result<bool> {
        loop {
            while self.tls.wants_write() {
                match self.tls.write_tls(&mut self.stream) {
                    Ok(_) => {}
                    Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(true),
                    Err(e) => return Err(e),
                }
            }
            if self.ending {
                return Ok(false);
            }
            match self.tls.read_tls(&mut self.stream) {
                Ok(0) => return Ok(false),
                Ok(_) => self.process(buffer)?,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(true),
                Err(e) => return Err(e),
            }
        }
    }

    fn process(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        let Ok(state) = self.tls.process_new_packets() else {
            self.ending = true; // after its alert
            return Ok(());
        };
        let mut plaintext = state.plaintext_bytes_to_read();
        while plaintext > 0 {
            let n = self.tls.reader().read(buffer)?;
            self.tls.writer().write_all(&buffer[..n])?;
            plaintext -= n;
        }
        if state.peer_has_closed() {
            self.tls.send_close_notify();
            self.ending = true;
        }
        Ok(())
    }
}

fn config(cert: &str, key: &str) -> Result<ServerConfig, Box<dyn Error>> {
    let chain = CertificateDer::pem_file_iter(cert)?.collect::<Result<_, _>>()?;
    let key = PrivateKeyDer::from_pem_file(key)?;
    let mut config = ServerConfig::builder_with_protocol_versions(&[&rustls::version::TLS13])
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new()?;
    Ok(config)
}

fn accept_all(
    listener: &TcpListener,
    registry: &Registry,
    config: &Arc<ServerConfig>,
    conns: &mut Slab<Conn>,
) -> Result<(), Box<dyn Error>> {
    loop {
        let mut stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(e) if e.kind() == ErrorKind::ConnectionAborted => continue,
            Err(e) => return Err(e.into()),
        };
        stream.set_nodelay(true)?;
        let entry = conns.vacant_entry();
        let interest = Interest::READABLE | Interest::WRITABLE;
        registry.register(&mut stream, Token(entry.key()), interest)?;
        let tls = ServerConnection::new(config.clone())?;
        entry.insert(Conn { stream, tls, ending: false });
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let options = begin(2);
    let config = Arc::new(config(&options.operands[0], &options.operands[1])?);
    let mut buffer = vec![0; options.buffer_size];
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(1024);
    let mut conns = Slab::new();
    // The standard library's backlog is the greatest that the system allows, mio's is not.
    let listener = std::net::TcpListener::bind(ADDRESS)?;
    listener.set_nonblocking(true)?;
    say_listening("rustls_mio", listener.local_addr()?)?;
    let mut listener = TcpListener::from_std(listener);
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    loop {
        match poll.poll(&mut events, None) {
            Err(e) if e.kind() == ErrorKind::Interrupted => continue, // stopped and continued
            result => result?,
        }
        for event in &events {
            if event.token() == LISTENER {
                accept_all(&listener, poll.registry(), &config, &mut conns)?;
                continue;
            }
            let key = event.token().0;
            let conn: &mut Conn = &mut conns[key];
            let concerns = event.is_readable() || event.is_error() || conn.tls.wants_write();
            if concerns && !conn.serve(&mut buffer).unwrap_or(false) {
                conns.remove(key);
            }
        }
    }
}
