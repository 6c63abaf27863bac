//! The PROXY protocol: what is refused, and what an end meets.

use super::adopt::{adopted, tcp_pair};
use super::logger::logging;
use crate::api::{CloseReason, Config, Hooks, LogLevel, ProxyProtocol, Server, Status};
use crate::support::*;
use std::io::{ErrorKind, Read, Write};
use std::time::Duration;

const ONE: &[u8] = b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n";

/// A server that tells of failures. No other callback may run.
fn refusing(config: Config) -> (Server, Events<(Status, String)>) {
    let (log, errors) = events();
    let other = |name: &'static str| {
        let log = log.clone();
        move || log.add((Status::Ok, name.to_owned()))
    };
    let (opened, called, closed) = (other("on_open"), other("handler"), other("on_close"));
    let hooks = Hooks::new(move |_, _| Ok(called()))
        .on_open(move |_, _| Ok(opened()))
        .on_close(move |_, _, _| closed())
        .on_exception(move |_, socket, error| {
            let socket = socket.expect("a socket");
            // Nothing can be said to such a peer, and nothing heard.
            assert!(socket.is_closed());
            assert_eq!(status(socket.send(b"a last word")), Status::Closed);
            assert_ne!(status(socket.recv(&mut [0; 9])), Status::Ok);
            Ok(log.add((error.status(), error.message().to_owned())))
        });
    (start(config, hooks), errors)
}

/// The next error is of the header, with this reason, and the connection is counted so.
#[track_caller]
fn expect_refusal(server: &Server, errors: &Events<(Status, String)>, count: u64, why: &str) {
    assert_eq!(errors.next(), (Status::Proxy, why.to_owned()));
    wait_idle(server);
    let stats = server.stats();
    assert_eq!(stats.closed[CloseReason::Proxy as usize], count);
    assert_eq!((stats.closed_total(), stats.handshake_failures), (count, 0));
    assert_eq!((stats.handler_errors, stats.bytes_out), (0, 0));
}

fn bad_headers() -> Vec<(Vec<u8>, &'static str)> {
    let (_, four) = addresses("192.0.2.1:1", "192.0.2.2:2");
    let with = |extras: &[u8]| announcing("192.0.2.1:1", "192.0.2.2:2", extras);
    let mut too_long = binary(0x21, 0x11, &four);
    too_long[14..16].fill(0xFF);
    let mut a_byte_too_long = binary(0x20, 0x00, &[]);
    a_byte_too_long[14..16].copy_from_slice(&4081u16.to_be_bytes());
    let no_family = "its source is no address of its family";
    let no_destination = "its destination is no address of its family";
    let no_port = "it has no port where one belongs";
    let neither = "it begins as neither version does";
    let overrun = "an extra of it is longer than the header";
    let lines = [
        ("GET / HTTP/1.1\r\n\r\n", neither),
        ("PROXX", neither),
        ("\x16\x03\x01\x02\x00\x01\x00", neither),
        ("proxy TCP4 1.2.3.4 5.6.7.8 1 2\r\n", neither),
        ("PROXY TCP4 192.0.2.1 192.0.2.2 1 2\n", "its line ends with LF without CR"),
        ("PROXY UNKNOWN\n", "its line ends with LF without CR"),
        ("PROXY UNKNOWN \n\r\n", "its line ends with LF without CR"),
        ("PROXY UNKNOWN \r \r\n", "its line has CR without LF"),
        ("PROXY TCP4 192.0.2.01 192.0.2.2 1 2\r\n", no_family),
        ("PROXY TCP4 192.0.2.1 192.0.2.02 1 2\r\n", no_destination),
        ("PROXY TCP4 192.0.2.1 192.0.2.2 01 2\r\n", no_port),
        ("PROXY TCP4 192.0.2.1 192.0.2.2 1 00\r\n", no_port),
        ("PROXY TCP4 192.0.2.1 192.0.2.2 +1 2\r\n", no_port),
        ("PROXY TCP4 192.0.2.1 192.0.2.2 65536 2\r\n", no_port),
        ("PROXY TCP4 192.0.2.1 192.0.2.2 1 65536\r\n", no_port),
        ("PROXY TCP4 192.0.2.1 192.0.2.2 1 \r\n", no_port),
        ("PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n", "it is incomplete"),
        ("PROXY TCP4 192.0.2.1 192.0.2.2\r\n", "it is incomplete"),
        ("PROXY TCP4 192.0.2.1  192.0.2.2 1 2\r\n", no_destination),
        ("PROXY TCP4 192.0.2.1 192.0.2.2 1 2 \r\n", "it has more than two addresses and ports"),
        ("PROXY TCP4 2001:db8::1 192.0.2.2 1 2\r\n", no_family),
        ("PROXY TCP4 192.0.2.1 2001:db8::2 1 2\r\n", no_destination),
        ("PROXY TCP6 192.0.2.1 2001:db8::2 1 2\r\n", no_family),
        ("PROXY TCP6 2001:db8::1 192.0.2.2 1 2\r\n", no_destination),
        ("PROXY TCP6 2001:db8::1%lo 2001:db8::2 1 2\r\n", no_family),
        ("PROXY UDP4 192.0.2.1 192.0.2.2 1 2\r\n", "its protocol is unknown"),
        ("PROXY tcp4 192.0.2.1 192.0.2.2 1 2\r\n", "its protocol is unknown"),
        ("PROXY UNKNOWNX\r\n", "its protocol is unknown"),
        ("PROXY \r\n", "its protocol is unknown"),
        ("PROXY  TCP4 192.0.2.1 192.0.2.2 1 2\r\n", "its protocol is unknown"),
    ];
    let mut headers: Vec<_> = lines.map(|(line, why)| (line.as_bytes().to_vec(), why)).into();
    headers.extend([
        ([b"PROXY UNKNOWN ".as_slice(), &[b'x'; 94]].concat(), "its first 107 bytes have no CRLF"),
        (
            [b"PROXY UNKNOWN ".as_slice(), &[b'x'; 92], b"\r\n"].concat(),
            "its first 107 bytes have no CRLF",
        ),
        (b"\r\n\r\n\0\r\nQUIT\r".to_vec(), neither),
        (binary(0x11, 0x11, &four), "its version is unknown"),
        (binary(0x31, 0x11, &four), "its version is unknown"),
        (binary(0x22, 0x11, &four), "its command is unknown"),
        (binary(0x21, 0x41, &four), "its address family is unknown"),
        (binary(0x21, 0x13, &four), "its transport is unknown"),
        (binary(0x21, 0x12, &four), "it is of datagrams"),
        (binary(0x21, 0x22, &[0; 36]), "it is of datagrams"),
        (binary(0x21, 0x32, &[0; 216]), "it is of datagrams"),
        (binary(0x21, 0x02, b""), "it is of datagrams"),
        (binary(0x21, 0x11, &four[..11]), "it is shorter than its addresses"),
        (binary(0x21, 0x21, &four), "it is shorter than its addresses"),
        (binary(0x21, 0x31, &[0; 215]), "it is shorter than its addresses"),
        (binary(0x21, 0x31, &[b'/'; 216]), "a path of it has no end"),
        (too_long, "it is longer than 4096 bytes"),
        (a_byte_too_long, "it is longer than 4096 bytes"),
        (with(&[1]), overrun),
        (with(&[1, 0]), overrun),
        (with(&[1, 0, 1]), overrun),
        (with(&[1, 0, 1, 9, 2, 0xFF, 0xFF]), overrun),
        (binary(0x21, 0x00, &[1]), overrun),
        (with(&extra(3, &[1, 2, 3, 4])), "its checksum is wrong"),
        (with(&extra(3, &[1, 2, 3])), "its checksum is wrong"),
    ]);
    headers
}

/// PP5: What breaks the format is refused with a sentence that says how, counted, and no other
/// callback runs.
#[test]
fn a_bad_header_is_refused() {
    isolated(|| {
        for config in both_modes() {
            let (server, errors) = refusing(behind_a_proxy(config));
            for (count, (header, why)) in (1..).zip(bad_headers()) {
                let mut tcp = bare(server.port());
                tcp.write_all(&header).unwrap();
                Client::set_up(crate::api::plain_stream(tcp)).unwrap().expect_gone();
                let why = format!("the PROXY header is refused: {why}");
                expect_refusal(&server, &errors, count, &why);
            }
            errors.none();
        }
    });
}

/// PP5: Only the versions that are set are accepted.
#[test]
fn another_version_is_refused() {
    isolated(|| {
        for config in both_modes() {
            let binary = announcing("192.0.2.1:1", "192.0.2.2:2", b"");
            for (versions, header, number) in
                [(ProxyProtocol::V2, ONE, 1), (ProxyProtocol::V1, &binary, 2)]
            {
                let config = behind_a_proxy(config.clone()).proxy_protocol(versions);
                let (server, errors) = refusing(config);
                Client::announced(&server, header).expect_gone();
                let why =
                    format!("the PROXY header is refused: version {number} is not accepted here");
                expect_refusal(&server, &errors, 1, &why);
            }
        }
    });
}

/// PP5: A peer that ends in the middle of its header, or before it, is refused then.
#[test]
fn an_end_in_the_middle() {
    isolated(|| {
        for config in both_modes() {
            let (server, errors) = refusing(behind_a_proxy(config));
            for (count, part) in (1..).zip([0, 1, 20, ONE.len() - 1]) {
                let mut tcp = bare(server.port());
                tcp.write_all(&ONE[..part]).unwrap();
                drop(tcp);
                let why = "the peer closed the connection before the end of the PROXY header";
                expect_refusal(&server, &errors, count, why);
            }
        }
    });
}

/// PP1, PP5: A source that is not trusted is refused before a byte of it is read.
#[test]
fn a_source_that_is_not_trusted() {
    isolated(|| {
        for config in both_modes() {
            let config = config.proxy_protocol(ProxyProtocol::Both);
            let (server, errors) = refusing(config.add_trusted_proxy("192.0.2.0/24"));
            for count in 1..4 {
                let tcp = bare(server.port());
                let why = "the source is no trusted proxy";
                Client::set_up(crate::api::plain_stream(tcp)).unwrap().expect_gone();
                expect_refusal(&server, &errors, count, why);
                assert_eq!(server.stats().bytes_in, 0);
            }
        }
    });
}

/// PP6, T2: The whole header must come within `proxy_timeout`, however it trickles.
#[test]
fn a_late_header() {
    isolated(|| {
        const LIMIT: Duration = ms(300);
        for config in both_modes() {
            let (server, errors) = refusing(behind_a_proxy(config.proxy_timeout(LIMIT)));
            let why = "the PROXY header did not come in time";
            let clock = Stopwatch::start();
            let mut silent = Client::set_up(crate::api::plain_stream(bare(server.port()))).unwrap();
            silent.expect_gone();
            clock.kept(LIMIT);
            expect_refusal(&server, &errors, 1, why);
            let mut tcp = bare(server.port());
            for byte in ONE {
                if tcp.write_all(&[*byte]).is_err() {
                    break;
                }
                let_pass(ms(15));
            }
            expect_refusal(&server, &errors, 2, why);
        }
    });
}

/// PP9, W1: In blocking mode a silent peer holds its worker for `proxy_timeout` and no longer.
#[test]
fn a_silent_peer_frees_its_worker() {
    isolated(|| {
        let config = behind_a_proxy(blocking(1)).proxy_timeout(ms(200));
        let server = start(config, Hooks::new(echo));
        let _silent: Vec<_> = (0..3).map(|_| bare(server.port())).collect();
        Client::announced(&server, ONE).echo("served");
        assert_eq!(server.stats().closed[CloseReason::Proxy as usize], 3);
    });
}

/// PP5, PP9: One that finds no worker is refused as others are, but before its header not a byte of
/// it is read, and none is sent.
#[test]
fn no_worker_before_the_header() {
    isolated(|| {
        let (gate, (log, errors)) = (Gate::new(), events());
        let hooks = answer_behind(&gate).on_exception(move |_, socket, error| {
            let socket = socket.expect("a socket");
            log.add((
                error.status(),
                status(socket.send(b"busy")),
                status(socket.recv(&mut [0; 9])),
            ));
            Ok(())
        });
        let server = start(behind_a_proxy(blocking(2)).max_retry(0), hooks);
        let served = [(); 2].map(|()| Client::announced(&server, ONE).settled());
        gate.reached_by(2);
        let mut tcp = bare(server.port());
        tcp.write_all(ONE).unwrap();
        assert_eq!(errors.next(), (Status::Rejected, Status::Closed, Status::Closed));
        tcp.set_read_timeout(Some(SOON)).unwrap();
        let read = tcp.read(&mut [0; 9]).map_err(|error| error.kind());
        assert!(read == Ok(0) || read == Err(ErrorKind::ConnectionReset), "{read:?}");
        eventually("it is counted", || server.stats().refused == 1);
        gate.open();
        drop(served);
        wait_idle(&server);
    });
}

/// PP9, S1: A stop waits for no header: no callback runs, and nothing is lost.
#[test]
fn a_stop_before_the_header() {
    isolated(|| {
        for config in both_modes() {
            let (server, errors) = refusing(behind_a_proxy(config).proxy_timeout(SOON));
            let mut some: Vec<_> = (0..3).map(|_| bare(server.port())).collect();
            some[1].write_all(&ONE[..9]).unwrap();
            eventually("they are there", || server.stats().open == 3);
            eventually("a part came", || server.stats().bytes_in == 9);
            let clock = Stopwatch::start();
            server.stop().unwrap();
            clock.at_once();
            assert_settled(&server);
            assert_eq!(server.stats().closed[CloseReason::Stop as usize], 3);
            errors.none();
        }
    });
}

/// PP8, AD1: Adopted and outgoing connections have no header.
#[test]
fn connections_of_the_program_have_no_header() {
    isolated(|| {
        let (log, opened) = events();
        let hooks = Hooks::new(echo).on_open(move |_, socket| Ok(log.add(socket.peer_name())));
        let server = start(behind_a_proxy(non_blocking(1)), hooks);
        let (ours, mut client) = tcp_pair();
        let peer = ours.peer_addr().unwrap().to_string();
        adopted(&server, ours);
        assert_eq!(opened.next(), peer);
        client.echo("PROXY TCP4 is no header here\r\n");
    });
}

/// PP5, LG2, LG3: A refused header has a line in the log, with the proxy's address; of many there is
/// one a second with their number, and the line of the stop has it too.
#[test]
fn a_refused_header_is_logged() {
    isolated(|| {
        for config in both_modes() {
            let (logger, lines) = logging(LogLevel::Info);
            let server = start(behind_a_proxy(config).logger(logger), Hooks::new(echo));
            let of_the_start = [lines.next().text, lines.next().text];
            assert!(of_the_start[1].starts_with("started with "), "{of_the_start:?}");
            let mut first = Client::set_up(crate::api::plain_stream(bare(server.port()))).unwrap();
            first.send("GET / HTTP/1.1");
            let line = lines.next();
            let why = "the PROXY header is refused: it begins as neither version does";
            assert_eq!(line.text, format!("{}: {why}", first.local()));
            assert!(line.level == LogLevel::Warn && line.id.is_some(), "{line:?}");
            for _ in 0..20 {
                Client::announced(&server, b"GET /").expect_gone();
            }
            wait_idle(&server);
            server.stop().unwrap();
            let rest = lines.drain();
            assert!(
                rest.iter().any(|line| line.text.contains("refused PROXY headers")),
                "{rest:?}"
            );
            let last = &rest.last().expect("the line of the stop").text;
            assert!(last.contains(", beyond limits 0, refused PROXY headers 21, "), "{last}");
        }
    });
}
