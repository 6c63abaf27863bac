//! Quiesce beside the other ways in which a connection begins and ends: a PROXY header, a refusal, a
//! unix socket, a want of descriptors.

use super::quiesce::{each_engine, telling};
use super::unix::{started, Folder, Local};
use crate::api::{Hooks, State, Status};
use crate::support::*;
use socket2::{Domain, SockAddr, Socket, Type};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};

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

/// Data whose drop waits for the gate.
struct Held(Gate);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.wait();
    }
}

/// QU12: A connection that is being refused counts as waiting until its last code has run.
#[test]
fn a_refusal_is_waited_for() {
    isolated(|| {
        for max_retry in [0, 1] {
            let (gate, held) = (Gate::new(), Gate::new());
            let (_open, _release) = (OpenOnDrop(gate.clone()), OpenOnDrop(held.clone()));
            let data = held.clone();
            let hooks = answer_behind(&gate).on_exception(move |_, socket, error| {
                if error.status() == Status::Rejected {
                    socket.expect("a socket").set_user_data(Held(data.clone()));
                }
                Ok(())
            });
            let server = start(blocking(2).max_retry(max_retry).retry_interval(ms(50)), hooks);
            let clients: Vec<_> = (0..2).map(|_| Client::connect(&server).saying("x")).collect();
            gate.reached_by(2);
            let _refused = Client::connect(&server);
            held.reached_by(1);
            gate.open();
            clients.into_iter().for_each(|mut client| client.expect_last("answer"));
            eventually("none is open", || server.stats().open == 0);
            assert_eq!(status(server.wait_idle(Some(ms(20)))), Status::Timeout);
            held.open();
            server.wait_idle(Some(SOON)).unwrap();
        }
    });
}

/// QU2, QU10: No client of a unix socket is reset, neither one of a path nor one of an abstract name:
/// it is refused, or served.
#[test]
fn clients_of_a_unix_socket() {
    isolated(|| {
        let folder = Folder::new();
        for config in each_engine() {
            for (number, name) in ["path", "abstract"].into_iter().cycle().take(10).enumerate() {
                let abstract_name = format!("ns-quiesced-{}-{number}", std::process::id());
                let (service, address) = match name {
                    "path" => (folder.service("socket"), SockAddr::unix(folder.path("socket"))),
                    _ => {
                        let address = SockAddr::unix(format!("\0{abstract_name}"));
                        (format!("unix:@{abstract_name}"), address)
                    }
                };
                let address = address.unwrap();
                let server = started(&service, config.clone(), Hooks::new(echo));
                let served = AtomicUsize::new(0);
                std::thread::scope(|scope| {
                    for _ in 0..3 {
                        scope.spawn(|| loop {
                            let socket = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
                            if socket.connect(&address).is_err() {
                                break;
                            }
                            Local::of(socket.into()).echo("hello");
                            served.fetch_add(1, Ordering::SeqCst);
                        });
                    }
                    eventually("some were served", || served.load(Ordering::SeqCst) > 20);
                    within(SOON, || server.quiesce().unwrap());
                });
                assert_eq!(server.state(), State::Quiescing);
                server.wait_idle(Some(SOON)).unwrap();
                server.stop().unwrap();
            }
        }
    });
}

/// QU4: Where a callback holds up a quiesce for most of the caller's time, it tries no longer than that.
#[test]
fn without_descriptors_behind_a_callback() {
    isolated(|| {
        let limit = descriptor_limit().0;
        for loops in [1, 3] {
            let gate = Gate::new();
            let (hooks, told) = telling(answer_behind(&gate));
            let server = start(non_blocking(loops).drain_timeout(ms(0)), hooks);
            let _open = OpenOnDrop(gate.clone());
            // The first loop accepts; with several, it has the first connection.
            let mut held = Client::connect(&server).saying("x");
            gate.reached_by(1);
            let mut late = Client::connect(&server);
            let fillers = fill_descriptors(0);
            let clock = Stopwatch::start();
            std::thread::scope(|scope| {
                // It may give up just before the tries end, on a busy machine.
                let quiesce = scope.spawn(|| drop(server.quiesce()));
                let_pass(ms(900));
                gate.open();
                assert_eq!(told.next(), "quiesce");
                let took = clock.elapsed().saturating_sub(waited_for_processor());
                assert!(took < ms(1800), "{took:?}");
                quiesce.join().unwrap();
            });
            set_descriptor_limit(limit);
            drop(fillers);
            held.expect_last("answer");
            late.expect_gone();
            server.stop().unwrap();
        }
    });
}
