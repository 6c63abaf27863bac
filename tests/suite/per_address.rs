//! The limits of each client's address.

use super::hosted::{hosted_with, turns_until};
use crate::api::{
    stream, CloseReason, Config, Error, Hooks, LogLevel, Logger, Server, Socket, Status,
};
use crate::support::*;
use socket2::{Domain, SockAddr, Socket as RawSocket, Type};
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

/// A socket of 127.0.0.`last`, which Linux has without further ado.
fn socket_of(last: u8) -> RawSocket {
    let socket = RawSocket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let address: SocketAddr = (Ipv4Addr::new(127, 0, 0, last), 0).into();
    socket.bind(&SockAddr::from(address)).unwrap();
    socket
}

fn client_of(server: &Server, last: u8) -> Client {
    Client::finish(socket_of(last), server)
}

fn limited(server: &Server) -> u64 {
    server.stats().closed[CloseReason::Limit as usize]
}

/// One more connection of the address is refused.
#[track_caller]
fn expect_refused(server: &Server, last: u8) {
    let before = limited(server);
    expect_gone(&silent_client(server, last));
    eventually("it is counted", || limited(server) == before + 1);
}

/// The connection has ended. Perhaps its connect was told so.
#[track_caller]
fn expect_gone(mut socket: &RawSocket) {
    socket.set_read_timeout(Some(SOON)).unwrap();
    let read = socket.read(&mut [0]).map_err(|error| error.kind());
    assert!(read == Ok(0) || read != Err(ErrorKind::WouldBlock) && read.is_err(), "{read:?}");
}

/// A client that is served; `None` where it is refused.
fn served(server: &Server, last: u8) -> Option<Client> {
    let socket = socket_of(last);
    let address: SocketAddr = ([127, 0, 0, 1], server.port()).into();
    socket.connect(&address.into()).ok()?;
    let mut client = Client::set_up(stream(socket.into())).ok()?;
    client.0.write_all(b"hello").ok()?;
    client.0.read_exact(&mut [0; 5]).ok()?;
    Some(client)
}

/// A place of the address has become free, now or soon.
#[track_caller]
fn expect_served(server: &Server, last: u8) -> Client {
    let mut client = None;
    eventually("it is served", || {
        client = served(server, last);
        client.is_some()
    });
    client.unwrap()
}

/// Does what the first word says, and echoes any other.
fn obey(server: &Server, socket: &mut Socket<'_>) -> Result<(), Error> {
    loop {
        match text(socket)?.as_str() {
            "" | "close" => return Ok(socket.close()),
            "abort" => return Ok(socket.abort()),
            "fail" => return Err(Error::raise(-5, "as it was told")),
            "by id" => return server.close(socket.id()),
            word => socket.send(word.as_bytes())?,
        }
    }
}

/// PA1, QU1: A quiesce serves on those of an address that is full, and then the server is idle.
#[test]
fn a_full_address_is_served_on_in_a_quiesce() {
    isolated(|| {
        for config in both_modes() {
            let server = start(config.max_per_address(2), Hooks::new(echo));
            let mut two = [(); 2].map(|()| client_of(&server, 1).settled());
            eventually("they are open", || server.stats().open == 2);
            expect_refused(&server, 1);
            server.quiesce().unwrap();
            two.iter_mut().for_each(|client| client.echo("still served"));
            drop(two);
            server.wait_idle(Some(SOON)).unwrap();
            assert_eq!(limited(&server), 1);
            server.stop().unwrap();
            assert_settled(&server);
        }
    });
}

/// PA1, QU1, S9: A logger that keeps a worker while it is told of a refusal holds up no quiesce, and
/// a stop cuts the others.
#[test]
fn a_logger_that_does_not_return() {
    isolated(|| {
        let gate = Gate::new();
        let held = gate.clone();
        let logger = Logger::new(LogLevel::Warn, move |_, _, _| held.wait());
        let server = start(blocking(4).max_per_address(1).logger(logger), Hooks::new(echo));
        let _open = OpenOnDrop(gate.clone());
        let mut client = client_of(&server, 1).settled();
        eventually("it is open", || server.stats().open == 1);
        let _refused = silent_client(&server, 1);
        gate.reached_by(1);
        server.quiesce().unwrap();
        client.echo("still served");
        assert_eq!(status(server.stop_within(ms(0))), Status::Timeout);
        client.expect_gone();
        gate.open();
        server.wait(Some(SOON)).unwrap();
    });
}

/// PA1, PA2: Beyond the limit an address is refused without a callback, and others are served.
#[test]
fn one_address_has_so_many() {
    isolated(|| {
        for config in both_modes() {
            let (log, opens) = events();
            let hooks = Hooks::new(echo).on_open(move |_, _| Ok(log.add(())));
            let server = start(config.max_per_address(2), hooks);
            let mut two = [(); 2].map(|()| client_of(&server, 1).settled());
            opens.take(2);
            for _ in 0..5 {
                expect_refused(&server, 1);
            }
            client_of(&server, 2).echo("another address");
            opens.next();
            two.iter_mut().for_each(|client| client.echo("still served"));
            let stats = server.stats();
            assert_eq!((stats.accepted, stats.refused), (8, 0));
            drop(two);
            wait_idle(&server);
            assert!(opens.drain().is_empty());
            expect_served(&server, 1);
            assert!(server.report().contains("closed (limit): 5"), "{}", server.report());
            server.stop().unwrap();
            assert_settled(&server);
        }
    });
}

/// PA3: Each end of a connection gives its place back.
#[test]
fn every_end_gives_the_place_back() {
    isolated(|| {
        for config in both_modes() {
            let config = config.max_per_address(1).linger_timeout(ms(20));
            let hooks = Hooks::new(obey).on_exception(|_, socket, _| {
                socket.into_iter().for_each(|socket| socket.close());
                Ok(())
            });
            let server = start(config, hooks);
            for end in ["close", "abort", "fail", "by id"] {
                let mut client = expect_served(&server, 1);
                client.send(end);
                client.expect_gone();
            }
            drop(expect_served(&server, 1));
            expect_served(&server, 1).reset();
            let held = expect_served(&server, 1);
            expect_refused(&server, 1);
            cut(&server, ms(50));
            drop(held);
            assert_settled(&server);
        }
    });
}

/// PA3: So does a connection that `on_open` refuses, one whose time is over, and one that ends
/// before it was open.
#[test]
fn ends_at_the_beginning_give_it_back() {
    isolated(|| {
        for config in both_modes() {
            let config = config.max_per_address(1).idle_timeout(ms(50)).linger_timeout(ms(20));
            let hooks = Hooks::new(obey).on_open(|_, socket| {
                let peer = socket.peer().map(|peer| peer.ip().to_string());
                match peer.as_deref() {
                    Some("127.0.0.9") => Err(Error::new(Status::Rejected, "not this one")),
                    _ => Ok(()),
                }
            });
            let server = start(config.handshake_timeout(ms(100)), hooks);
            for last in [9, 9, 8, 8] {
                client_of(&server, last).expect_gone();
                wait_idle(&server);
            }
            for _ in 0..2 {
                // Over TLS it is no handshake.
                let before = server.stats().accepted;
                drop(silent_client(&server, 7));
                eventually("it came", || server.stats().accepted > before);
                wait_idle(&server);
            }
            assert_eq!(limited(&server), 0);
        }
    });
}

/// PA3: A worker's connection counts while it waits, and gives its place back when it is refused
/// or ended there.
#[test]
fn those_that_wait_count() {
    isolated(|| {
        let gate = Gate::new();
        let config = blocking(2).max_per_address(3).max_retry(1).retry_interval(ms(3000));
        let server = start(config, answer_behind(&gate));
        let served: Vec<_> = [1, 2].map(|last| client_of(&server, last)).into();
        gate.reached_by(2);
        let mut waiting: Vec<_> = (0..2).map(|_| client_of(&server, 1)).collect();
        eventually("they wait", || server.stats().waiting == 2);
        expect_refused(&server, 1);
        waiting.iter_mut().for_each(Client::expect_gone);
        eventually("they were refused", || server.stats().refused == 2);
        eventually("there is a place again", || {
            let before = limited(&server);
            let client = silent_client(&server, 1);
            eventually("it waits", || server.stats().waiting == 1 || limited(&server) > before);
            drop(client);
            limited(&server) == before
        });
        gate.open();
        drop(served);
        wait_idle(&server);
    });
}

/// PA4: The count is one over all loops and services; unix sockets have none.
#[test]
fn one_count_for_the_server() {
    isolated(|| {
        for config in [blocking(4), non_blocking(4)] {
            let server = unstarted(config.max_per_address(4), Hooks::new(echo));
            server.add_service("127.0.0.1:0").unwrap();
            server.add_service("unix:@netserver-per-address").unwrap();
            server.start_background().unwrap();
            let second = server.service_address(1);
            let mut held: Vec<_> = (0..3).map(|_| client_of(&server, 1).settled()).collect();
            held.push(Client::plain(second.as_str()));
            held[3].echo("the fourth");
            eventually("they are open", || server.stats().open == 4);
            expect_refused(&server, 1);
            let address: SocketAddr = second.parse().unwrap();
            let socket = socket_of(1);
            let _ = socket.connect(&address.into());
            expect_gone(&socket);
            drop(held);
            wait_idle(&server);
            let unix = SockAddr::unix("\0netserver-per-address").unwrap();
            let clients: Vec<_> = (0..4)
                .map(|_| {
                    let socket = RawSocket::new(Domain::UNIX, Type::STREAM, None).unwrap();
                    socket.connect(&unix).unwrap();
                    socket
                })
                .collect();
            eventually("they are open", || server.stats().open == 4);
            assert_eq!(limited(&server), 2);
            drop(clients);
            wait_idle(&server);
        }
    });
}

/// PA4: A detached connection counts no more, and an attached or adopted one does not.
#[test]
fn sockets_of_the_program_do_not_count() {
    isolated(|| {
        let (log, owned) = events();
        let hooks = Hooks::new(move |server: &Server, socket| match text(socket)?.as_str() {
            "detach" => Ok(log.add(server.detach(socket)?)),
            "" => Ok(socket.close()),
            word => socket.send(word.as_bytes()),
        });
        let server = start(non_blocking(2).max_per_address(1), hooks);
        let mut first = client_of(&server, 1).saying("detach");
        let socket = owned.next();
        let mut second = expect_served(&server, 1);
        expect_refused(&server, 1);
        server.attach(socket).unwrap();
        first.echo("attached");
        second.echo("counted");
        drop(second);
        eventually("the second has left", || server.stats().open == 1);
        let third = expect_served(&server, 1);
        drop(first);
        eventually("the first has left", || server.stats().open == 1);
        expect_refused(&server, 1);
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        server.adopt(ours, ()).unwrap();
        drop((third, theirs));
        wait_idle(&server);
        expect_served(&server, 1);
    });
}

/// PA5: What shares a prefix is one address.
#[test]
fn a_prefix_is_one_address() {
    isolated(|| {
        for config in both_modes() {
            let config = config.max_per_address(2).ipv4_prefix(30);
            let server = start(config, Hooks::new(echo));
            let held = [4, 7].map(|last| client_of(&server, last).settled());
            eventually("they are open", || server.stats().open == 2);
            expect_refused(&server, 5);
            client_of(&server, 8).echo("another prefix");
            drop(held);
        }
        for (ipv4, ipv6) in [(0, 64), (33, 64), (32, 0), (32, 129)] {
            let config = Config::new().ipv4_prefix(ipv4).ipv6_prefix(ipv6);
            let failed = Server::with_config("0", Hooks::new(echo), config);
            assert_eq!(failed.err().map(|error| error.status()), Some(Status::Invalid));
        }
    });
}

/// PA6: An address may open a burst, and after that so many in a second.
#[test]
fn the_rate_of_an_address() {
    isolated(|| {
        for config in both_modes() {
            let config = config.accept_rate_per_address(5).accept_burst_per_address(3);
            let server = start(config, Hooks::new(echo));
            let clock = Instant::now();
            let mut count = 0;
            while clock.elapsed() < ms(1000) {
                count += u32::from(served(&server, 1).is_some());
            }
            let allowed = 3 + (clock.elapsed().as_secs_f64() * 5.0) as u32 + 1;
            assert!((4..=allowed).contains(&count), "{count} of {allowed}");
            assert!(limited(&server) > 0);
            client_of(&server, 2).echo("another address");
            wait_idle(&server);
        }
    });
}

/// The number in the message of an error.
fn number_in(error: &Error) -> u64 {
    let message = error.message();
    let number = message.split(' ').nth(1).and_then(|number| number.parse().ok());
    assert!(message.starts_with("refused "), "{message}");
    number.expect("a number")
}

/// PA7: The exception handler gets the number of the refused, at most once a second and without a
/// socket, and the rest at the stop.
#[test]
fn reports_say_how_many() {
    isolated(|| {
        for config in both_modes() {
            let (log, reports) = events();
            let hooks = Hooks::new(echo).on_exception(move |_, socket, error| {
                assert_eq!((socket.is_some(), error.status()), (false, Status::Limit));
                log.add((Instant::now(), number_in(error)));
                Ok(())
            });
            let server = start(config.max_per_address(1), hooks);
            let held = client_of(&server, 1).settled();
            eventually("it is open", || server.stats().open == 1);
            let began = Instant::now();
            expect_refused(&server, 1);
            let (first, number) = reports.next();
            assert_eq!(number, 1);
            let (mut sum, mut seconds) = (1, 0);
            while first.elapsed() < ms(1200) {
                expect_refused(&server, 1);
                for (at, number) in reports.drain() {
                    seconds += 1;
                    assert!(at - began >= ms(1000) * seconds, "{:?}", at - began);
                    sum += number;
                }
            }
            // In any case not all of them were reported yet.
            expect_refused(&server, 1);
            drop(held);
            let refused = limited(&server);
            server.stop().unwrap();
            sum += reports.drain().into_iter().map(|(_, number)| number).sum::<u64>();
            assert_eq!(sum, refused);
            assert_eq!(server.stats().handler_errors, 0);
        }
    });
}

/// PA7: A loop reports the last of a flood by itself, a second after the report before.
#[test]
fn a_loop_reports_the_rest_in_time() {
    isolated(|| {
        for loops in [1, 2] {
            let (log, reports) = events();
            let hooks = Hooks::new(echo)
                .on_exception(move |_, _, error| Ok(log.add((Instant::now(), number_in(error)))));
            let server = start(non_blocking(loops).max_per_address(1), hooks);
            let held = client_of(&server, 1).settled();
            eventually("it is open", || server.stats().open == 1);
            let began = Instant::now();
            (0..4).for_each(|_| expect_refused(&server, 1));
            let (mut sum, mut seconds) = (reports.next().1, 0);
            while sum < 4 {
                let (at, number) = reports.next();
                seconds += 1;
                assert!(at - began >= ms(1000) * seconds, "{:?}", at - began);
                sum += number;
            }
            assert_eq!(sum, 4);
            assert!(seconds > 0);
            reports.none();
            drop(held);
        }
    });
}

/// PA7, PA8: A hosted server reports them too, and its log has lines of them.
#[test]
fn a_hosted_server_has_limits() {
    isolated(|| {
        let (log, reports) = events();
        let (line_log, lines) = events();
        let logger = Logger::new(LogLevel::Warn, move |level, id, text| {
            line_log.add((level, id.is_some(), text.to_owned()));
        });
        let hooks = Hooks::new(echo).on_exception(move |_, _, error| Ok(log.add(number_in(error))));
        let server = hosted_with(non_blocking(1).max_per_address(1).logger(logger), hooks);
        let clients = [(); 3].map(|()| client_of(&server, 1));
        let mut sum = 0;
        turns_until(&server, "the reports", || {
            sum += reports.drain().into_iter().sum::<u64>();
            sum == 2
        });
        assert_eq!((limited(&server), server.stats().open), (2, 1));
        drop(clients);
        server.stop().unwrap();
        let lines = lines.drain();
        let (level, has_id, text) = &lines[0];
        assert_eq!((*level, *has_id), (LogLevel::Warn, false));
        assert!(text.starts_with("127.0.0.1:") && text.ends_with("refused: max_per_address"));
        assert!(lines[1].2.contains("1 more connections beyond the limits"), "{lines:?}");
    });
}

/// How long each of `count` echoes of an address took.
fn latencies(server: &Server, last: u8, count: usize) -> Vec<Duration> {
    let mut client = client_of(server, last).settled();
    let mut times: Vec<_> = (0..count)
        .map(|_| {
            let clock = Instant::now();
            client.echo("quick");
            clock.elapsed()
        })
        .collect();
    times.sort();
    times
}

/// PA9: One address that opens 1,000 connections where 10 are allowed holds nobody up.
#[test]
fn a_flood_disturbs_nobody() {
    isolated(|| {
        set_descriptor_limit(2000);
        for config in [blocking(16), non_blocking(2)] {
            let server = start(config.max_per_address(10), Hooks::new(echo));
            let p99 = |times: &[Duration]| times[times.len() * 99 / 100];
            let alone = p99(&latencies(&server, 2, 300));
            wait_idle(&server);
            let beside = std::thread::scope(|scope| {
                let flood = scope.spawn(|| {
                    let open: Vec<_> = (0..1000).map(|_| silent_client(&server, 1)).collect();
                    eventually("990 are refused", || limited(&server) >= 990);
                    open
                });
                let mut times = Vec::new();
                while !flood.is_finished() {
                    times.extend(latencies(&server, 2, 100));
                }
                drop(flood.join().unwrap());
                times.sort();
                p99(&times)
            });
            // Generous: this machine may do much else. What it must not be is a wait.
            let bound = alone * 20 + ms(300);
            assert!(beside < bound, "{beside:?} beside the flood, {alone:?} alone");
            wait_idle(&server);
        }
    });
}

/// A connection that says nothing: over TLS it never begins a handshake.
fn silent_client(server: &Server, last: u8) -> RawSocket {
    let socket = socket_of(last);
    let address: SocketAddr = ([127, 0, 0, 1], server.port()).into();
    // The server may have turned it away by now.
    let _ = socket.connect(&address.into());
    socket
}
