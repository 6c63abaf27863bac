//! Children made by fork(3), which have copies of a server.

use crate::api::{Config, Error, Hooks, Server, Socket, State, Status};
use crate::support::*;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::Arc;

use super::hosted::{host, hosted_with, turns_until};
use super::unix::Folder;

/// A child process.
pub struct Child(libc::pid_t);

impl Child {
    /// Does `body` in a child, whose status is 0 where it returns.
    pub fn doing(body: impl FnOnce()) -> Child {
        Child::forked().unwrap_or_else(|| {
            let body = std::panic::AssertUnwindSafe(body);
            exit_now(std::panic::catch_unwind(body).is_err().into())
        })
    }

    /// Forks; `None` in the child, which ends by itself where it hangs.
    pub fn forked() -> Option<Child> {
        // SAFETY: the child allocates, which the C library allows after a fork, and calls the
        // library under test.
        match unsafe { libc::fork() } {
            0 => {
                // SAFETY: it takes a number.
                unsafe { libc::alarm(SOON.as_secs() as u32) };
                None
            }
            child => {
                assert!(child > 0, "{}", std::io::Error::last_os_error());
                Some(Child(child))
            }
        }
    }

    #[track_caller]
    pub fn succeeds(self) {
        let mut status = 0;
        // SAFETY: our own child, which was not waited for.
        assert_eq!(unsafe { libc::waitpid(self.0, &mut status, 0) }, self.0);
        assert_eq!(status, 0, "the status of the child");
    }
}

pub fn exit_now(status: i32) -> ! {
    // SAFETY: it takes a number.
    unsafe { libc::_exit(status) }
}

/// The child's `ns_server_free`, or its drop of the last handle.
pub fn free(server: &Server) {
    // SAFETY: for the child alone, which ends without another drop.
    drop(unsafe { std::ptr::read(server) });
}

/// A server of each kind, started.
fn each_kind(hooks: impl Fn() -> Hooks, body: impl Fn(&Server)) {
    for config in both_modes() {
        body(&start(config, hooks()));
    }
    body(&start(non_blocking(1), hooks()));
    let server = hosted_with(non_blocking(1), hooks());
    body(&server);
}

/// Runs turns, if the server is a hosted one, while another thread does `body`.
fn served<T: Send>(server: &Server, body: impl FnOnce() -> T + Send) -> T {
    match server.poll_fd() {
        Ok(_) => host(server, body),
        Err(_) => body(),
    }
}

#[track_caller]
fn is_parents<T>(result: Result<T, Error>) {
    assert_eq!(result.err().map(|error| error.status()), Some(Status::State));
}

/// FK1: In a child every call for the parent's server fails with NS_ERR_STATE, and the server goes
/// on in the parent as if there were no child.
#[test]
fn calls_in_a_child() {
    isolated(|| {
        let (log, ids) = events();
        let hooks = || {
            let log = log.clone();
            Hooks::new(echo).on_open(move |_, socket| Ok(log.add(socket.id())))
        };
        each_kind(hooks, |server| {
            let mut client = served(server, || Client::connect(server).settled());
            served(server, || client.echo("before"));
            let id = ids.next();
            let child = Child::doing(|| {
                is_parents(server.start());
                is_parents(server.start_background());
                is_parents(server.start_hosted());
                is_parents(server.stop());
                is_parents(server.stop_within(ms(0)));
                is_parents(server.wait(None));
                is_parents(server.run_once(None));
                is_parents(server.poll_fd());
                is_parents(server.send(id, b"x"));
                is_parents(server.broadcast(&[id], b"x"));
                is_parents(server.wake(id));
                is_parents(server.close(id));
                is_parents(server.abort(id));
                is_parents(server.connections());
                is_parents(server.add_service("0"));
                is_parents(server.connect("127.0.0.1:9", None, ()));
                is_parents(server.post(0, |_| Ok(())));
                assert!(server.is_stopped());
                assert_eq!((server.port(), server.address()), (0, String::new()));
            });
            child.succeeds();
            served(server, || client.echo("after"));
            assert_eq!(server.stats().open, 1);
            drop(client);
            served(server, || Client::connect(server).echo("another"));
            server.stop().unwrap();
            ids.drain();
        });
    });
}

/// What a child of a callback can do with its socket.
fn tried_in_a_child(server: &Server, socket: &mut Socket<'_>) -> Result<(), Error> {
    let child = Child::doing(|| {
        assert_eq!(socket.recv(&mut [0; 16]).unwrap_err().status(), Status::State);
        assert_eq!(socket.send(b"from the child").unwrap_err().status(), Status::State);
        assert_eq!(socket.shutdown(std::net::Shutdown::Both).unwrap_err().status(), Status::State);
        let _ = (socket.pause(), socket.set_timer(Some(ms(1))), socket.close(), socket.abort());
        is_parents(server.detach(socket));
        is_parents(server.stop());
        free(server);
    });
    child.succeeds();
    Ok(())
}

/// FK2: The socket of a callback is the parent's: a child of the callback takes no byte of it and
/// sends none.
#[test]
fn the_socket_of_a_callback() {
    isolated(|| {
        let hooks = || {
            Hooks::new(|server, socket| {
                tried_in_a_child(server, socket)?;
                echo(server, socket)
            })
            .on_open(tried_in_a_child)
            .on_close(|server, socket, _| tried_in_a_child(server, socket).unwrap())
        };
        each_kind(hooks, |server| {
            served(server, || {
                let mut client = Client::connect(server);
                client.echo("hello");
                client.echo("again");
                client.finish_sending();
                client.expect_end();
            });
            let settled = || server.stats().open == 0;
            match server.poll_fd() {
                Ok(_) => turns_until(server, "the end", settled),
                Err(_) => eventually("the end", settled),
            }
            server.stop().unwrap();
        });
    });
}

/// A signal between the processes.
struct Signal(UnixStream, UnixStream);

impl Signal {
    fn new() -> Signal {
        let (to, from) = UnixStream::pair().unwrap();
        from.set_read_timeout(Some(SOON)).unwrap();
        Signal(to, from)
    }

    fn give(&self) {
        (&self.0).write_all(b"x").unwrap();
    }

    fn wait(&self) {
        (&self.1).read_exact(&mut [0]).unwrap();
    }
}

/// Whether somebody listens on a port of the loopback.
fn listens(port: u16) -> bool {
    TcpStream::connect(("127.0.0.1", port)).is_ok()
}

/// FK3: `ns_server_free` in a child closes the listeners, and harms none of the parent's.
#[test]
fn freeing_in_a_child() {
    isolated(|| {
        each_kind(
            || Hooks::new(echo),
            |server| {
                let port = server.port();
                let (stopped, closed) = (Signal::new(), Signal::new());
                let child = Child::doing(|| {
                    free(server);
                    closed.give();
                    stopped.wait();
                    // The child is there, and nobody listens.
                    assert!(!listens(port));
                });
                closed.wait();
                served(server, || Client::connect(server).echo("hello"));
                server.stop().unwrap();
                stopped.give();
                child.succeeds();
            },
        );
    });
}

/// FK3: `ns_server_free` of a hosted server in a child frees all descriptors and the user data, and
/// calls no `on_close`.
#[test]
fn freeing_a_hosted_server_in_a_child() {
    struct Told(Arc<Signal>);
    impl Drop for Told {
        fn drop(&mut self) {
            self.0.give();
        }
    }
    isolated(|| {
        let dropped = Arc::new(Signal::new());
        let before = descriptors().len();
        let told = Told(dropped.clone());
        let hooks = Hooks::new(move |_, socket| {
            let _ = &told;
            text(socket).map(drop)
        })
        .on_close(|_, _, _| panic!("on_close in the child"));
        let server = hosted_with(non_blocking(1), hooks);
        let _clients = [(); 3].map(|()| host(&server, || Client::connect(&server).settled()));
        turns_until(&server, "three", || server.stats().open == 3);
        server.add_timer(0, SOON, None, |_, _| Ok(())).unwrap();
        let clients = 3;
        Child::doing(|| {
            free(&server);
            dropped.wait();
            assert_eq!(descriptors().len(), before + clients);
        })
        .succeeds();
        // The parent's are not gone: the panics of `on_close` are contained.
        server.stop().unwrap();
        drop(server);
        dropped.wait();
    });
}

/// FK3: A child removes no socket file.
#[test]
fn the_file_of_a_unix_socket_stays() {
    isolated(|| {
        let folder = Folder::new();
        let path = folder.path("socket");
        for config in both_modes() {
            let server = server_at(&folder.service("socket"), config, Hooks::new(echo));
            server.start_background().unwrap();
            Child::doing(|| free(&server)).succeeds();
            assert!(path.exists());
            server.stop().unwrap();
            assert!(!path.exists());
        }
    });
}

fn serves_one(config: Config) {
    let server = start(config, Hooks::new(echo));
    Client::connect(&server).echo("in the child");
    server.stop().unwrap();
}

/// FK4: A server that the child makes works, also in a callback of the parent's.
#[test]
fn a_server_of_the_child() {
    isolated(|| {
        let in_child = || {
            for config in both_modes() {
                serves_one(config);
            }
            let server = hosted_with(non_blocking(1), Hooks::new(echo));
            host(&server, || Client::connect(&server).echo("hosted"));
            server.stop().unwrap();
        };
        let hooks = || {
            Hooks::new(move |server, socket| {
                Child::doing(in_child).succeeds();
                echo(server, socket)
            })
        };
        each_kind(hooks, |server| {
            Child::doing(in_child).succeeds();
            served(server, || Client::connect(server).echo("in the parent"));
            server.stop().unwrap();
        });
    });
}

/// A function of atexit(3), which makes the status of a child that runs it another one.
extern "C" fn at_exit() {
    if std::process::id() != PARENT.load(Ordering::SeqCst) {
        exit_now(7);
    }
}

static PARENT: AtomicU32 = AtomicU32::new(0);

/// FK5: A child that returns from a callback on one of the library's threads ends, with status 0 and
/// without functions of atexit(3).
#[test]
fn returning_on_a_thread_of_the_library() {
    isolated(|| {
        PARENT.store(std::process::id(), Ordering::SeqCst);
        // SAFETY: the function stays.
        assert_eq!(unsafe { libc::atexit(at_exit) }, 0);
        for config in [blocking(1), non_blocking(1), non_blocking(2)] {
            let hooks = Hooks::new(|server, socket| match Child::forked() {
                // Whatever it returns.
                None => Err(Error::from(Status::Io)),
                Some(child) => {
                    child.succeeds();
                    echo(server, socket)
                }
            });
            let hooks = hooks.on_stop(|_| Child::forked().into_iter().for_each(Child::succeeds));
            let server = start(config, hooks);
            Client::connect(&server).echo("hello");
            server.stop().unwrap();
            assert_eq!(server.stats().handler_errors, 0);
        }
    });
}

/// FK5: On a thread of the program the call that ran the callback fails in the child.
#[test]
fn returning_on_a_thread_of_the_program() {
    isolated(|| {
        static IN_CHILD: AtomicBool = AtomicBool::new(false);
        let forks = |server: &Server, socket: &mut Socket<'_>| match Child::forked() {
            None => {
                IN_CHILD.store(true, Ordering::SeqCst);
                Ok(())
            }
            Some(child) => {
                child.succeeds();
                echo(server, socket)
            }
        };
        let server = hosted_with(non_blocking(1), Hooks::new(forks));
        let mut client = Client::connect(&server);
        std::thread::scope(|scope| {
            let talk = scope.spawn(|| {
                client.echo("hello");
                client.echo("again");
            });
            while !talk.is_finished() {
                let turn = server.run_once(Some(ms(5)));
                if IN_CHILD.load(Ordering::SeqCst) {
                    let failed = turn.is_err_and(|error| error.status() == Status::State);
                    free(&server);
                    exit_now((!failed).into());
                }
                turn.unwrap();
            }
            talk.join().unwrap();
        });
        server.stop().unwrap();
    });
}

/// FK5: The same with `ns_server_start` and its `on_start`.
#[test]
fn returning_from_start() {
    isolated(|| {
        for (config, flavour) in [(blocking(2), 0), (non_blocking(2), 1), (non_blocking(1), 2)] {
            let parent = std::process::id();
            let hooks = Hooks::new(echo).on_start(|_| match Child::forked() {
                None => Ok(()),
                Some(child) => Ok(child.succeeds()),
            });
            let server = unstarted(config, hooks);
            let started = match flavour {
                2 => server.start_hosted(),
                _ => server.start_background(),
            };
            if std::process::id() != parent {
                let failed = started.is_err_and(|error| error.status() == Status::State);
                free(&server);
                exit_now((!failed).into());
            }
            started.unwrap();
            served(&server, || Client::connect(&server).echo("hello"));
            server.stop().unwrap();
        }
    });
}

/// FK5: The same with `ns_server_start` in the foreground, whose thread is the loop.
#[test]
fn returning_to_a_start_in_the_foreground() {
    isolated(|| {
        let parent = std::process::id();
        let hooks = Hooks::new(|server, socket| match Child::forked() {
            None => Ok(()),
            Some(child) => {
                child.succeeds();
                echo(server, socket)
            }
        });
        let server = unstarted(non_blocking(1), hooks);
        std::thread::scope(|scope| {
            let started = scope.spawn(|| {
                let started = server.start();
                if std::process::id() != parent {
                    let failed = started.is_err_and(|error| error.status() == Status::State);
                    free(&server);
                    exit_now((!failed).into());
                }
                started
            });
            eventually("it runs", || server.state() == State::Running);
            Client::connect(&server).echo("hello");
            server.stop().unwrap();
            started.join().unwrap().unwrap();
        });
    });
}

/// FK5: A drop function is a callback too.
#[test]
fn returning_from_a_drop_function() {
    struct Forks;
    impl Drop for Forks {
        fn drop(&mut self) {
            if let Some(child) = Child::forked() {
                child.succeeds();
            }
        }
    }
    isolated(|| {
        for config in [blocking(1), non_blocking(1), non_blocking(2)] {
            let (hooks, reasons) = Hooks::new(echo)
                .on_open(|_, socket| {
                    socket.set_user_data(Forks);
                    Ok(())
                })
                .telling_reasons();
            let server = start(config, hooks);
            for _ in 0..3 {
                Client::connect(&server).echo("hello");
                reasons.next();
            }
            server.stop().unwrap();
        }
    });
}

/// FK5: Through the shutdown port of a hosted server too.
#[test]
fn returning_from_the_shutdown_handler() {
    isolated(|| {
        let parent = std::process::id();
        let hooks = Hooks::new(echo).on_shutdown(|_, socket| match Child::forked() {
            None => Ok(false),
            Some(child) => {
                child.succeeds();
                Ok(text(socket)? == "stop")
            }
        });
        let server = hosted_with(non_blocking(1).shutdown_port("0"), hooks);
        let _peer = Client::plain(("127.0.0.1", server.shutdown_port())).saying("stop");
        let clock = Stopwatch::start();
        let failed = loop {
            match server.run_once(Some(ms(100))) {
                Err(error) => break error.status() == Status::State,
                Ok(()) => assert!(clock.elapsed() < SOON, "no stop"),
            }
        };
        if std::process::id() != parent {
            free(&server);
            exit_now((!failed).into());
        }
        assert_eq!(server.state(), State::Stopped);
    });
}

/// FK6: A detached socket is the program's, in a child too.
#[test]
fn a_detached_socket() {
    isolated(|| {
        let hooks = Hooks::new(|server, socket| {
            let mut owned = server.detach(socket)?;
            Child::doing(|| owned.socket().send(b"from the child").unwrap()).succeeds();
            Ok(())
        });
        let server = start(non_blocking(1), hooks);
        Client::connect(&server).saying("x").expect("from the child");
        server.stop().unwrap();
    });
}

/// FK7: No call in a child hangs, whatever the parent's other threads were doing.
#[test]
fn forks_amid_calls() {
    isolated(|| {
        for config in both_modes() {
            let (log, ids) = events();
            let hooks = Hooks::new(echo).on_open(move |_, socket| Ok(log.add(socket.id())));
            let server = start(config, hooks);
            let mut client = Client::connect(&server);
            client.echo("hello");
            let id = ids.next();
            let over = AtomicBool::new(false);
            std::thread::scope(|scope| {
                for _ in 0..2 {
                    scope.spawn(|| {
                        while !over.load(Ordering::SeqCst) {
                            let _ = (server.stats(), server.report(), server.state());
                            let _ = (server.wake(id), server.connections());
                            let _ = server.wait(Some(ms(0)));
                        }
                    });
                }
                for _ in 0..30 {
                    let child = Child::doing(|| {
                        let _ = (server.is_stopped(), server.report());
                        is_parents(server.wait(None));
                        is_parents(server.stop());
                        free(&server);
                    });
                    child.succeeds();
                    client.echo("on");
                }
                over.store(true, Ordering::SeqCst);
            });
            drop(client);
            server.stop().unwrap();
        }
    });
}
