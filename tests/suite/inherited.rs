//! Sockets that were handed over: descriptors of the program's, and those of systemd.

use crate::api::{Config, Hooks, Server, State, Status};
use crate::support::*;
use std::fs::File;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

fn listening() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

fn started(listener: &impl AsRawFd, config: Config) -> Server {
    let server = server_at(&format!("fd:{}", listener.as_raw_fd()), config, Hooks::new(echo));
    server.start_background().expect("start");
    server
}

/// The flag O_NONBLOCK, which all that have the socket share.
fn set_nonblocking(fd: RawFd, nonblocking: bool) {
    // SAFETY: it only changes a flag.
    let result = unsafe {
        let flags = libc::fcntl(fd, libc::F_GETFL) & !libc::O_NONBLOCK;
        libc::fcntl(fd, libc::F_SETFL, flags | if nonblocking { libc::O_NONBLOCK } else { 0 })
    };
    assert_eq!(result, 0);
}

/// Z1, Z4: A listening descriptor is served; after the stop it is the program's as before, and what
/// it accepts is not lost.
#[test]
fn a_descriptor_of_the_program() {
    isolated(|| {
        for config in [blocking(1), blocking(4), non_blocking(1), non_blocking(2)] {
            let listener = listening();
            let port = listener.local_addr().unwrap().port();
            let before = descriptors();
            let server = started(&listener, config);
            assert_eq!((server.port(), server.address()), (port, format!("127.0.0.1:{port}")));
            let new: Vec<_> = descriptors().into_iter().filter(|fd| !before.contains(fd)).collect();
            assert!(new.into_iter().all(is_close_on_exec));
            for _ in 0..3 {
                Client::connect(&server).echo("hello");
            }
            wait_idle(&server);
            let clock = Stopwatch::start();
            server.stop().unwrap();
            clock.at_once();
            assert_settled(&server);
            let client = TcpStream::connect(("127.0.0.1", port)).unwrap();
            listener.set_nonblocking(false).unwrap();
            let (_, peer) = listener.accept().unwrap();
            assert_eq!(peer, client.local_addr().unwrap());
        }
    });
}

/// Z1, Y1: So is a unix socket; the server removes no file that it did not make.
#[test]
fn a_unix_descriptor() {
    isolated(|| {
        let path = std::env::temp_dir().join(format!("ns-fd-{}", std::process::id()));
        let listener = UnixListener::bind(&path).unwrap();
        for config in both_modes() {
            let server = unstarted(config, Hooks::new(echo));
            server.add_service(&format!("fd:{}", listener.as_raw_fd())).unwrap();
            server.start_background().unwrap();
            assert_eq!(server.service_address(1), format!("unix:{}", path.display()));
            let mut client = std::os::unix::net::UnixStream::connect(&path).unwrap();
            std::io::Write::write_all(&mut client, b"hello").unwrap();
            let mut heard = [0; 5];
            std::io::Read::read_exact(&mut client, &mut heard).unwrap();
            drop(client);
            server.stop().unwrap();
            assert!(path.exists());
        }
        std::fs::remove_file(&path).unwrap();
    });
}

/// Z2, L6: What is no listening stream socket fails the start, which says why and leaves nothing
/// behind.
#[test]
fn unfit_descriptors() {
    isolated(|| {
        let listener = listening();
        let connected = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let datagram = UdpSocket::bind("127.0.0.1:0").unwrap();
        let file = File::open("/dev/null").unwrap();
        let idle =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        let fds = [
            (1000, "is not open"),
            (file.as_raw_fd(), "is no socket"),
            (datagram.as_raw_fd(), "is a datagram socket"),
            (connected.as_raw_fd(), "is a connected socket"),
            (idle.as_raw_fd(), "does not listen"),
        ];
        for config in both_modes() {
            for (fd, why) in fds {
                let service = format!("fd:{fd}");
                let server = unstarted(config.clone(), Hooks::new(echo));
                server.add_service(&service).unwrap();
                let before = descriptors();
                let error = server.start_background().expect_err("it listens");
                assert_eq!((error.status(), server.state()), (Status::Listen, State::New));
                let message = error.message();
                assert!(message.contains(why) && message.contains(&service), "{message}");
                assert_eq!(descriptors(), before);
            }
            for bad in ["fd:", "fd:-1", "fd:3x", "fd:99999999999", "systemd:"] {
                let server = unstarted(config.clone(), Hooks::new(echo));
                assert_eq!(status(server.add_service(bad)), Status::Invalid, "{bad}");
            }
        }
    });
}

/// Z4: Two servers share a socket, and the stop of one does not end the other.
#[test]
fn a_stop_ends_no_other_server() {
    isolated(|| {
        for first_config in both_modes() {
            for second_config in both_modes() {
                let listener = listening();
                let [first, second] =
                    [first_config.clone(), second_config].map(|config| started(&listener, config));
                for _ in 0..20 {
                    Client::connect(&first).echo("served by one of them");
                }
                let clock = Stopwatch::start();
                first.stop().unwrap();
                clock.at_once();
                for _ in 0..5 {
                    Client::connect(&second).echo("served by the second");
                }
                second.stop().unwrap();
                let accepted = first.stats().accepted + second.stats().accepted;
                assert_eq!(accepted, 25);
            }
        }
    });
}

/// Z5: The program clears O_NONBLOCK and takes connections away: neither a loop nor a stop is stuck
/// in accept(2).
#[test]
fn others_accept_and_set_flags() {
    isolated(|| {
        for config in [blocking(1), blocking(3), non_blocking(1), non_blocking(2)] {
            let listener = listening();
            let port = listener.local_addr().unwrap().port();
            let server = started(&listener, config);
            let mut open = Client::connect(&server);
            open.echo("open");
            let (end, taken) = (AtomicBool::new(false), AtomicU64::new(0));
            std::thread::scope(|scope| {
                let thief = listener.try_clone().unwrap();
                let (end, taken) = (&end, &taken);
                scope.spawn(move || {
                    let mut ready =
                        libc::pollfd { fd: thief.as_raw_fd(), events: libc::POLLIN, revents: 0 };
                    while !end.load(Ordering::SeqCst) {
                        // SAFETY: it is one entry.
                        if unsafe { libc::poll(&mut ready, 1, 20) } < 1 {
                            continue;
                        }
                        set_nonblocking(thief.as_raw_fd(), true);
                        if thief.accept().is_ok() {
                            taken.fetch_add(1, Ordering::SeqCst);
                        }
                    }
                });
                let mut sent = 1;
                eventually("the test takes some away", || {
                    // Nobody is inside accept(2) now.
                    set_nonblocking(listener.as_raw_fd(), sent % 40 == 1);
                    for _ in 0..20 {
                        drop(TcpStream::connect(("127.0.0.1", port)).unwrap());
                        sent += 1;
                    }
                    eventually("each is accepted by one of both", || {
                        server.stats().accepted + taken.load(Ordering::SeqCst) == sent
                    });
                    let_pass(ms(5));
                    sent > 200 && taken.load(Ordering::SeqCst) > 0
                });
                end.store(true, Ordering::SeqCst);
            });
            drop(open);
            set_nonblocking(listener.as_raw_fd(), false);
            Client::connect(&server).echo("hello");
            let clock = Stopwatch::start();
            server.stop().unwrap();
            clock.at_once();
        }
    });
}

/// Z6, O5: The options of the configuration are those of the connections; the socket keeps its own.
#[test]
fn options_of_accepted_connections() {
    isolated(|| {
        for config in both_modes() {
            for on in [false, true] {
                let listener = listening();
                let fd = listener.as_raw_fd();
                let (log, told) = events();
                let hooks = Hooks::new(move |_, socket| {
                    text(socket)?;
                    let fd = socket.raw_fd();
                    let no_delay = socket_option(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY);
                    let keep_alive = socket_option(fd, libc::SOL_SOCKET, libc::SO_KEEPALIVE);
                    log.add((no_delay != 0, keep_alive != 0));
                    Ok(socket.close())
                });
                let keep_alive = on.then(|| ms(60_000));
                let config = config.clone().no_delay(on).keep_alive(keep_alive);
                let server = server_at(&format!("fd:{fd}"), config, hooks);
                server.start_background().unwrap();
                let _client = Client::connect(&server).saying("x");
                assert_eq!(told.next(), (on, on));
                assert_eq!(socket_option(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY), 0);
                assert_eq!(socket_option(fd, libc::SOL_SOCKET, libc::SO_KEEPALIVE), 0);
            }
        }
    });
}

/// Z4, M4: Accepting recovers from a lack of descriptors on a shared socket too.
#[test]
fn out_of_descriptors() {
    isolated(|| {
        for config in both_modes() {
            let listener = listening();
            let (log, errors) = events();
            let hooks =
                Hooks::new(echo).on_exception(move |_, _, error| Ok(log.add(error.os_code())));
            let server = server_at(&format!("fd:{}", listener.as_raw_fd()), config, hooks);
            server.start_background().unwrap();
            faults::fail_accept(&[libc::EMFILE; 2]);
            for _ in 0..2 {
                Client::connect(&server).expect_gone();
            }
            Client::connect(&server).echo("hello");
            assert_eq!((errors.next(), faults::accept_failures_left()), (libc::EMFILE, 0));
        }
    });
}

/// Has `sockets` as the descriptors from 3 on, as systemd passes them, while `body` runs.
fn passed(sockets: &[&dyn AsRawFd], names: Option<&str>, pid: u32, body: impl FnOnce()) {
    // SAFETY: the descriptors are put back; this process has no thread that uses them, or the
    // environment, meanwhile.
    unsafe {
        let kept = |i| match libc::fcntl(i, libc::F_DUPFD_CLOEXEC, 100) {
            -1 => None,
            fd => Some(OwnedFd::from_raw_fd(fd)),
        };
        let kept: Vec<_> = (3..).take(sockets.len()).map(kept).collect();
        // Each may have one of these numbers itself.
        let high = |socket: &&dyn AsRawFd| libc::fcntl(socket.as_raw_fd(), libc::F_DUPFD, 50);
        let copies: Vec<_> = sockets.iter().map(high).collect();
        for (i, copy) in (3..).zip(copies) {
            assert_eq!(libc::dup2(copy, i), i);
            libc::close(copy);
        }
        std::env::set_var("LISTEN_PID", pid.to_string());
        std::env::set_var("LISTEN_FDS", sockets.len().to_string());
        match names {
            Some(names) => std::env::set_var("LISTEN_FDNAMES", names),
            None => std::env::remove_var("LISTEN_FDNAMES"),
        }
        body();
        assert_eq!(std::env::var("LISTEN_FDS").unwrap(), sockets.len().to_string());
        for (i, kept) in (3..).zip(kept) {
            match kept {
                Some(kept) => libc::dup2(kept.as_raw_fd(), i),
                None => libc::close(i),
            };
        }
    }
}

/// Z3: All sockets that systemd passed, or those with a name.
#[test]
fn the_sockets_of_systemd() {
    isolated(|| {
        let [first, second] = [(); 2].map(|()| listening());
        let addresses = [&first, &second].map(|l| l.local_addr().unwrap().to_string());
        let own = std::process::id();
        for config in both_modes() {
            passed(&[&first, &second], Some("web:admin"), own, || {
                let server = server_at("systemd", config.clone(), Hooks::new(echo));
                server.start_background().unwrap();
                assert_eq!(server.address(), addresses.join(", "));
                for address in &addresses {
                    Client::to(address).echo("hello");
                }
                server.stop().unwrap();

                let server = server_at("systemd:admin", config.clone(), Hooks::new(echo));
                server.start_background().unwrap();
                assert_eq!(server.address(), addresses[1]);
                Client::connect(&server).echo("hello");
            });
        }
    });
}

/// Z3, L6: Where systemd passed nothing, or nothing that fits, the start fails and says what is
/// missing.
#[test]
fn nothing_from_systemd() {
    isolated(|| {
        let fails = |service: &str, why: &str| {
            for config in both_modes() {
                let server = server_at(service, config, Hooks::new(echo));
                let before = descriptors();
                let error = server.start_background().expect_err("it listens");
                assert_eq!((error.status(), server.port()), (Status::Listen, 0));
                let message = error.message();
                assert!(message.contains(why) && message.contains(service), "{message}");
                assert_eq!(descriptors(), before);
            }
        };
        fails("systemd", "passed no socket to this process");
        let (listener, own) = (listening(), std::process::id());
        let file = File::open("/dev/null").unwrap();
        passed(&[&listener], None, own + 1, || fails("systemd", "passed no socket"));
        passed(&[&listener], Some("web"), own, || fails("systemd:admin", "admin"));
        passed(&[&listener], Some("web:admin"), own, || fails("systemd", "LISTEN_FDNAMES"));
        passed(&[&listener, &file], None, own, || fails("systemd", "is no socket"));
    });
}

/// Z4, S1: While a stop waits for bytes to leave, the clients of the shared socket are not this
/// server's: it does not accept them, and they do not wake it.
#[test]
fn a_stop_leaves_the_clients_to_others() {
    isolated(|| {
        let listener = listening();
        let address = listener.local_addr().unwrap();
        let service = format!("fd:{}", listener.as_raw_fd());
        let server = server_at(&service, non_blocking(2), Hooks::new(bulk));
        server.start_background().unwrap();
        let mut slow = Client::small(&server).saying("x");
        slow.receive(1);
        while_stopping(&server, || {
            let switches = || context_switches("ns-loop");
            // The connection that is left is looked at until it has settled.
            let_pass(ms(100));
            let before = switches();
            let clients: Vec<_> = (0..100)
                .map(|_| {
                    let client = TcpStream::connect(address).unwrap();
                    let_pass(ms(1));
                    client
                })
                .collect();
            let woken = switches() - before;
            assert!(woken < 50, "{woken} times");
            listener.set_nonblocking(false).unwrap();
            for _ in &clients {
                listener.accept().unwrap();
            }
            slow.drain().unwrap();
        });
        assert_eq!(server.stats().accepted, 1);
    });
}
