//! The library leaves its host alone.

use crate::api::{CloseReason, Hooks, Server, State};
use crate::support::*;
use std::io::Seek;
use std::os::fd::{AsRawFd, FromRawFd};

/// Signals that come from outside, at any time.
const ASYNCHRONOUS: [i32; 15] = [
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGPIPE,
    libc::SIGALRM,
    libc::SIGTERM,
    libc::SIGCHLD,
    libc::SIGTSTP,
    libc::SIGTTIN,
    libc::SIGTTOU,
    libc::SIGURG,
    libc::SIGWINCH,
    libc::SIGIO,
];

fn signal_actions() -> Vec<usize> {
    (1..32)
        .map(|signal| {
            // SAFETY: a plain structure; a NULL action only asks.
            unsafe {
                let mut action: libc::sigaction = std::mem::zeroed();
                libc::sigaction(signal, std::ptr::null(), &mut action);
                action.sa_sigaction
            }
        })
        .collect()
}

/// H1: The library touches no signal handler, no environment and no resource limit.
#[test]
fn the_process_stays_as_it_is() {
    isolated(|| {
        let look = || {
            let environment: Vec<_> = std::env::vars_os().collect();
            (signal_actions(), environment, descriptor_limit())
        };
        let before = look();
        for config in both_modes() {
            let server = start(config.shutdown_port("0"), Hooks::new(echo));
            Client::connect(&server).echo("hello");
            assert!(look() == before);
            server.stop().unwrap();
            assert!(look() == before);
        }
    });
}

/// H2: Library threads block all asynchronous signals; the caller's mask is unchanged.
#[test]
fn signal_masks() {
    isolated(|| {
        for config in both_modes() {
            let caller = thread_number().to_string();
            let mask = blocked_signals(&caller);
            let server = start(config.shutdown_port("0"), Hooks::new(echo));
            assert_eq!(blocked_signals(&caller), mask);
            // A thread gives itself its name: before that it cannot be distinguished from others.
            eventually("named threads", || library_threads().len() >= 3);
            Client::connect(&server).echo("hello");
            for (thread, name) in &library_threads() {
                let blocked = blocked_signals(thread);
                for signal in ASYNCHRONOUS {
                    assert!(blocked & (1 << (signal - 1)) != 0, "{name}: signal {signal}");
                }
            }
            server.stop().unwrap();
            assert_eq!(blocked_signals(&caller), mask);
            assert_eq!(mask & (1 << (libc::SIGINT - 1)), 0, "the test would not see it");
        }
    });
}

/// H3: Every descriptor is close-on-exec.
#[test]
fn descriptors_are_close_on_exec() {
    isolated(|| {
        let before = descriptors();
        for config in both_modes() {
            for ipv6 in [false, true] {
                let config = config.clone().use_ipv6(ipv6).shutdown_port("0");
                let server = server_at("0", config, Hooks::new(echo));
                server.start_background().unwrap();
                let clients: Vec<_> = (0..3).map(|_| Client::connect(&server)).collect();
                eventually("they are open", || server.stats().open == 3);
                let own: Vec<_> =
                    descriptors().into_iter().filter(|fd| !before.contains(fd)).collect();
                assert!(own.len() >= 3 * 2 + 2, "{own:?}");
                for fd in own {
                    assert!(is_close_on_exec(fd), "descriptor {fd}");
                }
                drop(clients);
                server.stop().unwrap();
            }
        }
    });
}

/// H4: SIGPIPE cannot happen: here it would end the process.
#[test]
fn no_sigpipe() {
    isolated(|| {
        // SAFETY: the default action is what a C program has.
        unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
        for config in both_modes() {
            let (log, results) = events();
            let gate = Gate::new();
            let inside = gate.clone();
            let hooks = Hooks::new(move |_, socket| {
                inside.wait();
                // The library's calls must prevent the signal, not the worker's mask.
                allow_sigpipe();
                let sent = (0..50).map(|_| status(socket.send(&[1; 70_000]))).collect::<Vec<_>>();
                log.add(sent.len());
                socket.close();
                Ok(())
            });
            let server = start(config, hooks);
            let client = Client::connect(&server).saying("x");
            gate.reached_by(1);
            client.reset();
            gate.open();
            assert_eq!(results.next(), 50);
            wait_idle(&server);
        }
    });
}

fn allow_sigpipe() {
    // SAFETY: changes this thread's mask alone.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, libc::SIGPIPE);
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &set, std::ptr::null_mut());
    }
}

/// H5: Nothing is written to stdout or stderr, whatever goes wrong.
#[test]
fn no_output() {
    isolated(|| {
        let written = captured_output(|| {
            for config in both_modes() {
                let hooks = Hooks::new(|_, socket| match text(socket)?.as_str() {
                    "wait" => socket.recv(&mut [0; 1]).map(drop),
                    _ => Err("failed".into()),
                })
                .on_exception(|_, _, _| Err("failed again".into()));
                let config = config.drain_timeout(ms(50)).shutdown_port("0");
                let server = start(config, hooks);
                let _client = Client::connect(&server).saying("fail");
                Client::connect(&server).reset();
                let _waiting = Client::connect(&server).saying("wait");
                let clash = unstarted(blocking(1), Hooks::new(echo));
                let service = server.address();
                let taken = crate::api::Server::new(&service, Hooks::new(echo)).unwrap();
                assert!(taken.start_background().is_err());
                clash.start_background().unwrap();
                eventually("all have come", || server.stats().accepted >= 3);
                server.stop().unwrap();
                assert_eq!(server.state(), State::Stopped);
            }
        });
        assert_eq!(written, 0, "bytes on stdout or stderr");
    });
}

/// How many bytes `body` writes to descriptors 1 and 2.
fn captured_output(body: impl FnOnce()) -> u64 {
    // SAFETY: descriptors made here are closed here; 1 and 2 are put back.
    unsafe {
        let mut file = std::fs::File::from_raw_fd(libc::memfd_create(c"output".as_ptr(), 0));
        let saved = [libc::dup(1), libc::dup(2)];
        libc::dup2(file.as_raw_fd(), 1);
        libc::dup2(file.as_raw_fd(), 2);
        // A failure must be seen: it goes to the real stderr.
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body));
        for (fd, number) in saved.into_iter().zip([1, 2]) {
            libc::dup2(fd, number);
            libc::close(fd);
        }
        if let Err(panic) = result {
            std::panic::resume_unwind(panic);
        }
        file.seek(std::io::SeekFrom::End(0)).unwrap()
    }
}

/// H6: The threads have names, so that a program's own tools can recognise them.
#[test]
fn threads_are_named() {
    isolated(|| {
        let server = start(non_blocking(3).shutdown_port("0"), Hooks::new(echo));
        eventually("three loops", || count_threads_named("ns-l") == 3);
        eventually("one shutdown thread", || count_threads_named("ns-s") == 1);
        server.stop().unwrap();
        let server = start(blocking(3), Hooks::new(echo));
        eventually("workers", || count_threads_named("ns-w") >= 3);
        server.stop().unwrap();
    });
}

/// A child that has this process's descriptors, as every child has before execve(2) closes them;
/// ended with this object.
struct Child(libc::pid_t);

impl Child {
    fn fork() -> Child {
        // SAFETY: the child calls nothing but pause(2), which is async-signal-safe.
        match unsafe { libc::fork() } {
            0 => loop {
                unsafe { libc::pause() };
            },
            child => {
                assert!(child > 0, "{}", std::io::Error::last_os_error());
                Child(child)
            }
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // SAFETY: our own child, which was not waited for.
        unsafe {
            libc::kill(self.0, libc::SIGKILL);
            libc::waitpid(self.0, std::ptr::null_mut(), 0);
        }
    }
}

/// H7: What ends here ends for the peers, whatever descriptors a child still holds: connections
/// that are closed or aborted, and the ports.
#[test]
fn a_child_before_its_exec_keeps_nothing_alive() {
    isolated(|| {
        for config in both_modes() {
            let (hooks, ids) = Hooks::new(|_, socket| match text(socket)?.as_str() {
                "close" => Ok(socket.close()),
                "abort" => Ok(socket.abort()),
                other => socket.send(other.as_bytes()),
            })
            .telling_ids();
            let server = start(config.shutdown_port("0"), hooks);
            let ports = [server.port(), server.shutdown_port()];
            let [mut closed, mut aborted] = [(); 2].map(|()| {
                let client = Client::connect(&server);
                ids.next();
                client
            });
            let mut ended = Client::connect(&server);
            let last = ids.next();
            let _child = Child::fork();
            closed.send("close");
            closed.expect_end();
            aborted.send("abort");
            aborted.expect_reset();
            server.abort(last).unwrap();
            ended.expect_reset();
            drop(Client::connect(&server));
            server.stop().unwrap();
            for port in ports {
                let refused = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap_err();
                assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
            }
        }
    });
}

/// H7: The same where nothing but close(2) would end the connection: after the peer's end, at a
/// deadline, in a stop, and where a detached socket is freed.
#[test]
fn every_end_comes_beside_a_child() {
    isolated(|| {
        let (log, owned) = events();
        let hooks = Hooks::new(move |server: &Server, socket| match text(socket)?.as_str() {
            "detach" => Ok(log.add(server.detach(socket)?)),
            "timer" => socket.set_timer(Some(ms(1))),
            "" => Ok(socket.close()),
            other => socket.send(other.as_bytes()),
        });
        let server = start(non_blocking(1), hooks);
        let mut clients = ["ended", "timer", "detach", "stopped"].map(|says| {
            let mut client = Client::connect(&server);
            client.echo(&says.to_uppercase());
            client
        });
        clients[2].send("detach");
        let detached: crate::api::OwnedSocket = owned.next();
        let _child = Child::fork();
        clients[0].finish_sending();
        clients[1].send("timer");
        clients[0].expect_end();
        clients[1].expect_gone();
        drop(detached);
        clients[2].expect_gone();
        server.stop().unwrap();
        clients[3].expect_gone();
    });
}

/// H7, S15: A worker's connections end for the peers too, at a stop and by its idle timeout.
#[test]
fn a_workers_ends_come_beside_a_child() {
    isolated(|| {
        for (config, reason) in [
            (blocking(1), CloseReason::Stop),
            (blocking(1).idle_timeout(ms(1500)), CloseReason::Idle),
        ] {
            let (hooks, reasons) = Hooks::new(echo).telling_reasons();
            let server = start(config.drain_timeout(ms(100)), hooks);
            let mut client = Client::connect(&server);
            client.echo("hello");
            let _child = Child::fork();
            if reason == CloseReason::Stop {
                let _ = server.stop();
            }
            client.expect_gone();
            reasons.next();
        }
    });
}
