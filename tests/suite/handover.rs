//! Listening descriptors that a server lends to its successor.

use super::quiesce::each_engine;
use super::unix::{started, Folder, Local};
use crate::api::{Config, Hooks, Server, Status};
use crate::support::*;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

fn lending(config: Config) -> Config {
    config.lend_listeners(true)
}

/// A successor on a duplicate of a lent descriptor, as a process gets it.
fn successor(former: &Server, config: Config) -> (Server, OwnedFd) {
    let fd = former.listener_fd(0).expect("lent");
    // SAFETY: the descriptor is the server's, which has not stopped.
    let own = unsafe { BorrowedFd::borrow_raw(fd) }.try_clone_to_owned().unwrap();
    let service = format!("fd:{}", std::os::fd::AsRawFd::as_raw_fd(&own));
    let server = server_at(&service, config, Hooks::new(echo));
    server.start_background().expect("start");
    (server, own)
}

/// HO1: The descriptors are lent in the order of the services, are close-on-exec, and stay the
/// server's. Other numbers, and other times, are errors.
#[test]
fn the_numbers() {
    isolated(|| {
        for config in each_engine() {
            let server = unstarted(lending(config).shutdown_port("0"), Hooks::new(echo));
            let name = format!("unix:@ns-lent-{}", std::process::id());
            server.add_service(&name).unwrap();
            assert_eq!(status(server.listener_fd(0)), Status::State);
            server.start_background().unwrap();
            let fds: Vec<_> = (0..2).map(|i| server.listener_fd(i).unwrap()).collect();
            assert!(fds.iter().all(|fd| is_close_on_exec(*fd) && listening_sockets().contains(fd)));
            let domain = |fd| socket_option(fd, libc::SOL_SOCKET, libc::SO_DOMAIN);
            assert_eq!((domain(fds[0]), domain(fds[1])), (libc::AF_INET, libc::AF_UNIX));
            assert_eq!(server.listener_fd(0).unwrap(), fds[0]);
            assert_eq!(status(server.listener_fd(2)), Status::Invalid);
            Client::connect(&server).echo("hello");
            server.quiesce().unwrap();
            assert_eq!(status(server.listener_fd(0)), Status::State);
            server.stop().unwrap();
            assert_eq!(status(server.listener_fd(1)), Status::State);
        }
    });
}

/// HO2: A blocking server lends only where its configuration says so.
#[test]
fn a_blocking_server_must_be_told() {
    isolated(|| {
        for threads in [1, 3] {
            let server = start(blocking(threads), Hooks::new(echo));
            assert_eq!(status(server.listener_fd(0)), Status::Unsupported);
        }
        let server = start(non_blocking(1), Hooks::new(echo));
        server.listener_fd(0).unwrap();
    });
}

/// HO3: Neither a quiesce nor a stop ends a lent socket: who waits there, and who comes later, is the
/// successor's.
#[test]
fn what_waits_is_the_successors() {
    isolated(|| {
        for config in each_engine() {
            for quiesces in [true, false] {
                let config = lending(config.clone());
                let former = start(config.clone().max_connections(1), Hooks::new(echo));
                let mut inside = Client::connect(&former);
                inside.echo("hello");
                let port = former.port();
                let mut waiting = Client::connect(&former);
                let (server, _fd) = successor(&former, config);
                let clock = Stopwatch::start();
                match quiesces {
                    true => former.quiesce().unwrap(),
                    false => cut(&former, ms(0)),
                }
                clock.at_once();
                waiting.echo("the successor");
                // The successor may have one worker.
                drop(waiting);
                Client::to(("127.0.0.1", port)).echo("again");
                if quiesces {
                    inside.echo("still served");
                    drop(inside);
                    former.wait_idle(Some(SOON)).unwrap();
                    former.stop().unwrap();
                }
                Client::connect(&server).echo("after the stop");
                assert_eq!((former.stats().accepted, server.stats().accepted), (1, 3));
            }
        }
    });
}

/// HO3: Clients that connect all the time meet no refusal and no reset through replacements.
#[test]
fn nobody_is_refused_or_reset() {
    isolated(|| {
        for config in each_engine() {
            let config = lending(config);
            let mut server = start(config.clone(), Hooks::new(echo));
            let port = server.port();
            let (over, served) = (AtomicBool::new(false), AtomicUsize::new(0));
            thread::scope(|scope| {
                let _end = SetOnDrop(&over);
                for _ in 0..2 {
                    scope.spawn(|| {
                        while !over.load(Ordering::SeqCst) {
                            Client::to(("127.0.0.1", port)).echo("hello");
                            served.fetch_add(1, Ordering::SeqCst);
                        }
                    });
                }
                let mut fds = Vec::new();
                for _ in 0..3 {
                    let (next, fd) = successor(&server, config.clone());
                    fds.push(fd);
                    let former = std::mem::replace(&mut server, next);
                    former.quiesce().unwrap();
                    former.wait_idle(Some(SOON)).unwrap();
                    former.stop().unwrap();
                    let so_far = served.load(Ordering::SeqCst);
                    eventually("it goes on", || served.load(Ordering::SeqCst) > so_far + 10);
                }
            });
        }
    });
}

struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// HO4: The file of a lent unix socket stays; a server that lends nothing removes it.
#[test]
fn the_file_of_a_lent_socket_stays() {
    isolated(|| {
        let folder = Folder::new();
        let path = folder.path("socket");
        for config in each_engine() {
            let config = lending(config);
            let former = started(&folder.service("socket"), config.clone(), Hooks::new(echo));
            let (server, fd) = {
                let fd = former.listener_fd(0).unwrap();
                // SAFETY: as above.
                let own = unsafe { BorrowedFd::borrow_raw(fd) }.try_clone_to_owned().unwrap();
                let service = format!("fd:{}", std::os::fd::AsRawFd::as_raw_fd(&own));
                (started(&service, config.clone(), Hooks::new(echo)), own)
            };
            former.quiesce().unwrap();
            former.stop().unwrap();
            Local::to(&path).echo("the successor");
            server.stop().unwrap();
            drop(fd);
            assert!(path.exists());
            let unlent = started(&folder.service("socket"), config, Hooks::new(echo));
            Local::to(&path).echo("hello");
            unlent.stop().unwrap();
            assert!(!path.exists());
        }
    });
}
