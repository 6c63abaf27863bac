//! Quiesce beside the other ways in which a connection begins: a PROXY header, a limited address.

use super::quiesce::each_engine;
use crate::api::{Hooks, State};
use crate::support::*;
use std::io::{Read, Write};
use std::net::TcpStream;

/// QU1, PP1: A connection whose PROXY header is read in part goes on, and is served.
#[test]
fn half_a_proxy_header_goes_on() {
    isolated(|| {
        // This client speaks no TLS. There the header ends before the handshake begins.
        if crate::api::TLS {
            return;
        }
        for config in each_engine() {
            let server = start(behind_a_proxy(config), Hooks::new(echo));
            let mut client = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
            client.set_read_timeout(Some(SOON)).unwrap();
            client.write_all(b"PROXY TCP4 192.0.2.1 198.51").unwrap();
            eventually("it is accepted", || server.stats().accepted == 1);
            server.quiesce().unwrap();
            assert_eq!(server.state(), State::Quiescing);
            client.write_all(b".100.2 56324 443\r\nhello").unwrap();
            let mut heard = [0; 5];
            client.read_exact(&mut heard).unwrap();
            assert_eq!(&heard, b"hello");
            drop(client);
            server.wait_idle(Some(SOON)).unwrap();
            server.stop().unwrap();
            assert_settled(&server);
        }
    });
}
