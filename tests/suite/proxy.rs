//! The PROXY protocol: what its headers announce.

use super::hosted::{host, hosted_with};
use super::unix::{Folder, Local};
use crate::api::Status;
use crate::api::{plain_stream, CloseReason, Config, Error, Hooks, ProxyProtocol, Server, Socket};
use crate::support::*;
use std::io::Write;

/// What a handler can know of where a connection comes from.
#[derive(Clone, Debug, PartialEq)]
struct Ends {
    peer: String,
    local: String,
    transport: String,
}

fn ends(socket: &Socket<'_>) -> Ends {
    let name = socket.peer_name();
    assert_eq!(socket.peer(), name.parse().ok());
    Ends { peer: name, local: socket.local_name(), transport: socket.transport_peer_name() }
}

/// An echo that tells of each connection where it comes from.
fn telling() -> (Hooks, Events<Ends>) {
    let (log, opened) = events();
    (Hooks::new(echo).on_open(move |_, socket| Ok(log.add(ends(socket)))), opened)
}

const ONE: &[u8] = b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n";

/// PP2, PP3: From `on_open` on the addresses are those of the header, of either version and family.
/// LOCAL, UNKNOWN and AF_UNSPEC keep the real ones.
#[test]
fn the_addresses_of_the_header() {
    isolated(|| {
        let real = |header: &[u8]| (header.to_vec(), None);
        let long_line = [b"PROXY UNKNOWN ".as_slice(), &[b'x'; 91], b"\r\n"].concat();
        assert_eq!(long_line.len(), 107);
        let four = |extras: &[u8]| announcing("192.0.2.1:56324", "198.51.100.2:443", extras);
        let filler = extra(0xE0, &vec![7; 4096 - 16 - 12 - 3]);
        assert_eq!(four(&filler).len(), 4096);
        let ends = Some(("192.0.2.1:56324", "198.51.100.2:443"));
        let six = Some(("[2001:db8::1]:1", "[2001:db8::2]:65535"));
        let unix = [b"/run/client".as_slice(), &[0; 97], b"\0proxy", &[0; 102]].concat();
        let headers = [
            (ONE.to_vec(), ends),
            (b"PROXY TCP6 2001:db8::1 2001:DB8:0::2 1 65535\r\n".to_vec(), six),
            (
                b"PROXY TCP6 ::ffff:192.0.2.1 ::ffff:198.51.100.2 0 0\r\n".to_vec(),
                Some(("192.0.2.1:0", "198.51.100.2:0")),
            ),
            real(b"PROXY UNKNOWN\r\n"),
            real(b"PROXY UNKNOWN ffff::1 anything \x80 at all\r\n"),
            real(&long_line),
            (four(&[]), ends),
            (four(&filler), ends),
            (announcing("[2001:db8::1]:1", "[2001:db8::2]:65535", &extra(4, b"")), six),
            (binary(0x21, 0x31, &unix), Some(("unix:/run/client", "unix:@proxy"))),
            (binary(0x21, 0x31, &[0; 216]), Some(("unix:", "unix:"))),
            real(&binary(0x20, 0x00, b"")),
            real(&binary(0x20, 0x12, b"skipped")),
            real(&binary(0x20, 0xFF, &[9; 4080])),
            real(&binary(0x21, 0x00, b"")),
            real(&binary(0x21, 0x00, &extra(1, b"h2"))),
            real(&binary(0x21, 0x10, &[1; 12])),
        ];
        for config in both_modes() {
            let (hooks, opened) = telling();
            let server = start(behind_a_proxy(config), hooks);
            for (header, announced) in &headers {
                for connect in [Client::announced, Client::announced_with] {
                    let mut client = connect(&server, header);
                    client.echo("hello");
                    let (transport, here) = (client.local().to_string(), server.address());
                    let (peer, local) = announced.unwrap_or((&transport, &here));
                    let (peer, local) = (peer.into(), local.into());
                    assert_eq!(opened.next(), Ends { peer, local, transport }, "{header:?}");
                }
            }
            wait_idle(&server);
            assert_eq!(server.stats().closed[CloseReason::Proxy as usize], 0);
        }
    });
}

/// PP3, PP4: A header may come byte by byte, with pauses, and what follows it is not lost.
#[test]
fn a_header_byte_by_byte() {
    isolated(|| {
        let headers =
            [ONE.to_vec(), announcing("192.0.2.1:56324", "198.51.100.2:443", &extra(5, b"id"))];
        for config in both_modes() {
            let (hooks, opened) = telling();
            let server = start(behind_a_proxy(config), hooks);
            for header in &headers {
                let mut tcp = bare(server.port());
                for (i, byte) in header.iter().enumerate() {
                    tcp.write_all(&[*byte]).unwrap();
                    if i % 8 == 0 {
                        let_pass(ms(2));
                    }
                }
                let mut client = Client::set_up(crate::api::stream(tcp)).unwrap();
                client.echo("hello");
                assert_eq!(opened.next().peer, "192.0.2.1:56324");
            }
        }
    });
}

/// PP4: A peer that stops in the middle of its header makes nothing spin.
#[test]
fn a_part_of_a_header_makes_nothing_spin() {
    isolated(|| {
        for config in both_modes() {
            let (hooks, opened) = telling();
            let server = start(behind_a_proxy(config), hooks);
            let mut tcp = bare(server.port());
            tcp.write_all(&ONE[..20]).unwrap();
            eventually("it came", || server.stats().bytes_in == 20);
            at_rest(|| let_pass(ms(300)));
            tcp.write_all(&ONE[20..]).unwrap();
            Client::set_up(crate::api::stream(tcp)).unwrap().echo("hello");
            assert_eq!(opened.next().peer, "192.0.2.1:56324");
        }
    });
}

/// PP4: All that comes with the header arrives, an end of stream too, however much it is.
#[test]
fn what_comes_with_the_header() {
    isolated(|| {
        for config in both_modes() {
            let server = start(behind_a_proxy(config), Hooks::new(echo));
            let sent = pattern(100_000);
            let mut client = Client::announced_with(&server, ONE);
            client.send(&sent);
            client.finish_sending();
            assert!(client.rest() == sent);
        }
    });
}

/// PP7: The extras of a header can be asked for by their type; the first of several counts.
#[test]
fn the_extras_of_the_header() {
    isolated(|| {
        for config in both_modes() {
            let (log, extras) = events();
            let hooks = Hooks::new(echo).on_open(move |_, socket: &mut Socket<'_>| {
                let of = |kind| socket.proxy_tlv(kind).map(|value| value.to_vec());
                Ok(log.add([of(2), of(5), of(0x20), of(0xE0)]))
            });
            let server = start(behind_a_proxy(config), hooks);
            let sent =
                [extra(2, b"example.org"), extra(5, b"one"), extra(0xE0, b""), extra(5, b"two")];
            let header = announcing("192.0.2.1:1", "192.0.2.2:2", &sent.concat());
            Client::announced(&server, &header).echo("hello");
            let value = |text: &str| Some(text.as_bytes().to_vec());
            assert_eq!(extras.next(), [value("example.org"), value("one"), None, value("")]);
            Client::announced(&server, &binary(0x20, 0x00, &sent.concat())).echo("LOCAL");
            Client::announced(&server, ONE).echo("version 1");
            assert_eq!(extras.take(2), [[None, None, None, None], [None, None, None, None]]);
            let unspecified = binary(0x21, 0x00, &sent.concat());
            Client::announced(&server, &unspecified).echo("AF_UNSPEC");
            assert_eq!(extras.next()[1], value("one"));
        }
    });
}

/// PP2, PP7: A detach takes what the header announced along, and so does an attach.
#[test]
fn announced_through_a_detach() {
    isolated(|| {
        let (log, owned) = events();
        let (said, heard) = events();
        let hooks = Hooks::new(move |server: &Server, socket: &mut Socket<'_>| {
            if text(socket)? == "detach" {
                return Ok(log.add(server.detach(socket)?));
            }
            Ok(said.add((ends(socket), socket.proxy_tlv(5).map(|value| value.to_vec()))))
        });
        let server = start(behind_a_proxy(non_blocking(2)), hooks);
        let header = announcing("192.0.2.1:1", "192.0.2.2:2", &extra(5, b"id"));
        let mut client = Client::announced(&server, &header).saying("detach");
        let mut socket = owned.next();
        let transport = client.local().to_string();
        let expected = Ends { peer: "192.0.2.1:1".into(), local: "192.0.2.2:2".into(), transport };
        assert_eq!(ends(&socket.socket()), expected);
        assert_eq!(socket.socket().proxy_tlv(5).map(|v| v.to_vec()), Some(b"id".to_vec()));
        server.attach(socket).unwrap();
        client.send("here");
        assert_eq!(heard.next(), (expected, Some(b"id".to_vec())));
    });
}

/// PP1: Where it is allowed, a source that is not trusted is an ordinary client: not a byte of it is
/// looked at, even if it looks like a header.
#[test]
fn others_are_ordinary_clients() {
    isolated(|| {
        for config in both_modes() {
            let (hooks, opened) = telling();
            let config = config.proxy_protocol(ProxyProtocol::Both).proxy_others(true);
            let server = start(config.add_trusted_proxy("192.0.2.0/24"), hooks);
            let mut client = Client::connect(&server);
            client.echo(std::str::from_utf8(ONE).unwrap());
            let peer = client.local().to_string();
            let local = server.address();
            assert_eq!(opened.next(), Ends { transport: peer.clone(), peer, local });
        }
    });
}

/// PP1, PP10, PA3: Such a client has the limits of an address as others have, also while it waits
/// for a worker.
#[test]
fn others_have_limits_while_they_wait() {
    isolated(|| {
        let gate = Gate::new();
        let config = blocking(2).max_per_address(3).max_retry(1).retry_interval(SOON);
        let config = config.proxy_protocol(ProxyProtocol::Both).add_trusted_proxy("192.0.2.0/24");
        let server = start(config.proxy_others(true), answer_behind(&gate));
        let served = [(); 2].map(|()| Client::connect(&server).settled());
        gate.reached_by(2);
        let waiting = bare(server.port());
        eventually("it waits", || server.stats().waiting == 1);
        let refused = bare(server.port());
        let limited = || server.stats().closed[CloseReason::Limit as usize];
        eventually("it is refused", || limited() == 1);
        assert_eq!(server.stats().waiting, 1);
        gate.open();
        drop((served, waiting, refused));
        wait_idle(&server);
    });
}

/// PP1, PP2: The peers of a unix socket are trusted as "unix".
#[test]
fn a_proxy_on_a_unix_socket() {
    isolated(|| {
        for config in both_modes() {
            let folder = Folder::new();
            let (hooks, opened) = telling();
            let config = config.proxy_protocol(ProxyProtocol::V1);
            let server = server_at("127.0.0.1:0", config.add_trusted_proxy("unix"), hooks);
            // The first service has TLS in some runs.
            server.add_service(&folder.service("socket")).unwrap();
            server.start_background().unwrap();
            let mut client = Local::to(folder.path("socket"));
            client.0.write_all(ONE).unwrap();
            client.saying("hello").expect("hello");
            let (peer, local) = ("192.0.2.1:56324".into(), "198.51.100.2:443".into());
            assert_eq!(opened.next(), Ends { peer, local, transport: "unix:".into() });
            Client::connect(&server).expect_gone();
            server.stop().unwrap();
        }
    });
}

/// PP8: One service may accept other versions than the others, or none; the shutdown port never has
/// the protocol.
#[test]
fn each_service_has_its_own_versions() {
    isolated(|| {
        for config in both_modes() {
            let (hooks, opened) = telling();
            let server = unstarted(behind_a_proxy(config).shutdown_port("0"), hooks);
            let health = server.add_service("127.0.0.1:0").unwrap();
            let second = server.add_service("127.0.0.1:0").unwrap();
            server.set_service_proxy(health, ProxyProtocol::Off).unwrap();
            server.set_service_proxy(second, ProxyProtocol::V2).unwrap();
            assert_eq!(status(server.set_service_proxy(3, ProxyProtocol::Off)), Status::Invalid);
            server.start_background().unwrap();
            assert_eq!(status(server.set_service_proxy(0, ProxyProtocol::Off)), Status::State);
            let port = |service| {
                let address = server.service_address(service);
                address.rsplit(':').next().unwrap().parse::<u16>().unwrap()
            };
            Client::announced(&server, ONE).echo("the first");
            assert_eq!(opened.next().peer, "192.0.2.1:56324");
            let mut plain = Client::plain(("127.0.0.1", port(health)));
            plain.echo("health");
            assert_eq!(opened.next().peer, plain.local().to_string());
            let mut binary = Client::set_up(plain_stream(bare(port(second)))).unwrap();
            binary.send(announcing("192.0.2.9:9", "192.0.2.2:2", b""));
            binary.echo("version 2");
            assert_eq!(opened.next().peer, "192.0.2.9:9");
            let mut line = Client::set_up(plain_stream(bare(port(second)))).unwrap();
            line.send(ONE);
            line.expect_gone();
            Client::plain(("127.0.0.1", server.shutdown_port())).expect_gone();
            server.wait(Some(SOON)).unwrap();
            assert_settled(&server);
        }
    });
}

/// PP8, O1: Where the protocol is on and no proxy is trusted there is no server, and a bad network is
/// an error that names it.
#[test]
fn a_server_that_trusts_no_proxy() {
    isolated(|| {
        let attempt = |config: Config| -> Error {
            let made = Server::with_config("127.0.0.1:0", Hooks::new(echo), config);
            made.err().expect("a server")
        };
        for config in both_modes() {
            let error = attempt(config.clone().proxy_protocol(ProxyProtocol::V1));
            assert_eq!(error.status(), Status::Invalid);
            assert!(error.message().contains("no proxy is trusted"), "{}", error.message());
            for bad in ["10.0.0.1/8", "010.0.0.0/8", "localhost", "", "::1/129", "unix:/run"] {
                let error = attempt(config.clone().add_trusted_proxy(bad));
                assert_eq!(error.status(), Status::Invalid, "{bad:?}");
                let named = error.message().contains(&format!("trusted proxy \"{bad}\""));
                assert!(named, "{}", error.message());
            }
            let server = unstarted(config, Hooks::new(echo));
            let error = server.set_service_proxy(0, ProxyProtocol::V2).expect_err("set");
            assert_eq!(error.status(), Status::Invalid);
            server.set_service_proxy(0, ProxyProtocol::Off).unwrap();
        }
    });
}

/// PP2, HS1: A hosted server takes headers as others do.
#[test]
fn a_hosted_server_behind_a_proxy() {
    isolated(|| {
        let (hooks, opened) = telling();
        let server = hosted_with(behind_a_proxy(non_blocking(1)), hooks);
        host(&server, || {
            let mut tcp = bare(server.port());
            for byte in ONE {
                tcp.write_all(&[*byte]).unwrap();
            }
            Client::set_up(crate::api::stream(tcp)).unwrap().echo("hello");
        });
        assert_eq!(opened.next().peer, "192.0.2.1:56324");
        server.stop().unwrap();
    });
}

/// PP10: The limits of an address are those of the announced one, after the header; before it, and
/// of the proxy itself, there are none.
#[test]
fn the_limits_of_the_announced_address() {
    isolated(|| {
        for config in both_modes() {
            let (log, errors) = events();
            let (hooks, opened) = telling();
            let hooks = hooks.on_exception(move |_, socket, error| {
                assert!(socket.is_none());
                Ok(log.add(error.status()))
            });
            let server = start(behind_a_proxy(config).max_per_address(1), hooks);
            let announced =
                |from: &str| Client::announced(&server, &announcing(from, "192.0.2.2:2", b""));
            let mut first = announced("192.0.2.1:1");
            first.echo("the first");
            let mut other = announced("192.0.2.9:1");
            other.echo("of another address");
            announced("192.0.2.1:2").expect_gone();
            eventually("it is counted", || server.stats().closed[CloseReason::Limit as usize] == 1);
            let mut checks: Vec<_> =
                (0..2).map(|_| Client::announced(&server, &binary(0x20, 0, b""))).collect();
            checks.iter_mut().take(1).for_each(|check| check.echo("of the proxy itself"));
            drop(checks.remove(0));
            checks[0].echo("and another one");
            assert_eq!(opened.take(4).len(), 4);
            drop((first, checks));
            eventually("the first has left", || server.stats().open == 1);
            announced("192.0.2.1:3").echo("again");
            drop(other);
            wait_idle(&server);
            server.stop().unwrap();
            assert_eq!(errors.next(), Status::Limit);
        }
    });
}
