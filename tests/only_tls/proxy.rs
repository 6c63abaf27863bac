//! The PROXY protocol before TLS.

use super::*;
use crate::api::{CloseReason, Socket};

const HEADER: &[u8] = b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n";

/// PP4: A ClientHello that comes in one segment with the header, or with a part of it, is not lost.
#[test]
fn a_client_hello_with_the_header() {
    isolated(|| {
        for config in both_modes() {
            let server = start(behind_a_proxy(config), Hooks::new(echo));
            let (_, hello) = by_hand();
            let whole = HEADER.len() + hello.len();
            for at in [1, 20, HEADER.len() - 1, HEADER.len(), HEADER.len() + 3, whole] {
                let (mut session, hello) = by_hand();
                let bytes = [HEADER, &hello].concat();
                let at = at.min(bytes.len());
                let tcp = raw_saying(&server, &bytes[..at]);
                eventually("the first part came", || server.stats().open == 1);
                (&tcp).write_all(&bytes[at..]).unwrap();
                finish_by_hand(&mut session, &tcp, b"secret");
                assert_eq!(receive_by_hand(&mut session, &tcp, 6), b"secret");
                drop(tcp);
                wait_idle(&server);
            }
            assert_eq!(server.stats().handshake_failures, 0);
        }
    });
}

/// PP6: The time for the handshake begins after the header.
#[test]
fn the_handshake_has_its_own_time() {
    isolated(|| {
        for config in both_modes() {
            let (log, errors) = events();
            let hooks = Hooks::new(echo)
                .on_exception(move |_, _, error| Ok(log.add((error.status(), Stopwatch::start()))));
            let config = config.proxy_timeout(SOON).handshake_timeout(ms(400));
            let server = start(behind_a_proxy(config), hooks);
            let mut tcp = raw(&server);
            let_pass(ms(600));
            let clock = Stopwatch::start();
            tcp.write_all(HEADER).unwrap();
            let (status, _) = errors.next();
            clock.kept(ms(400));
            assert_eq!(status, Status::Timeout);
            wait_idle(&server);
            let stats = server.stats();
            assert_eq!(stats.closed[CloseReason::Handshake as usize], 1);
            assert_eq!((stats.handshake_failures, stats.closed_total()), (1, 1));
        }
    });
}

/// PP1: A ClientHello without a header is refused, and no alert answers it.
#[test]
fn a_client_hello_without_a_header() {
    isolated(|| {
        for config in both_modes() {
            let server = start(behind_a_proxy(config), Hooks::new(echo));
            let (_, hello) = by_hand();
            let mut tcp = raw_saying(&server, hello);
            let mut heard = Vec::new();
            let _ = tcp.read_to_end(&mut heard);
            assert!(heard.is_empty(), "{heard:?}");
            wait_idle(&server);
            assert_eq!(server.stats().closed[CloseReason::Proxy as usize], 1);
        }
    });
}

/// PP2: The announced address stays through STARTTLS.
#[test]
fn announced_through_starttls() {
    isolated(|| {
        for config in both_modes() {
            let (log, peers) = events();
            let tls = crate::api::tls();
            let blocking = !config.non_blocking;
            let serve = move |socket: &mut Socket<'_>| -> Result<bool, crate::api::Error> {
                let said = text(socket)?;
                log.add((socket.tls_info().is_some(), socket.peer_name()));
                match said.as_str() {
                    "STARTTLS" => {
                        socket.send(b"go")?;
                        socket.starttls(&tls, b"")?;
                    }
                    _ => socket.send(said.as_bytes())?,
                }
                Ok(!said.is_empty())
            };
            let hooks = Hooks::new(move |_, socket| {
                while serve(socket)? && blocking {}
                Ok(())
            });
            let server = start_plain(behind_a_proxy(config), hooks);
            let tcp = raw_saying(&server, [HEADER, b"STARTTLS"].concat());
            assert_eq!(starttls::read(&tcp, 2), b"go");
            let (mut session, hello) = by_hand();
            (&tcp).write_all(&hello).unwrap();
            finish_by_hand(&mut session, &tcp, b"secret");
            assert_eq!(receive_by_hand(&mut session, &tcp, 6), b"secret");
            let peer = || "192.0.2.1:56324".to_owned();
            assert_eq!(peers.take(2), [(false, peer()), (true, peer())]);
        }
    });
}
