//! Tests of those parts of the API that only Rust programs have.

use crate::api::Hooks;
use crate::support::*;
use net_server::{CloseReason, Config, Error, Handler, OwnedSocket, Server, Socket, State, Status};
use std::io::{Read, Write};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

/// R1: A closure with any error that converts is a handler; `new` takes the defaults.
#[test]
fn closures_are_handlers() {
    isolated(|| {
        let handlers: Vec<Server> = vec![
            Server::new("0", |_: &Server, socket: &mut Socket<'_>| -> Result<(), std::io::Error> {
                socket.write_all(b"io")
            })
            .unwrap(),
            Server::new("0", |_: &Server, socket: &mut Socket<'_>| -> Result<(), String> {
                socket.send(b"text").map_err(|error| error.to_string())
            })
            .unwrap(),
            Server::new("0", |_: &Server, socket: &mut Socket<'_>| -> Result<(), Error> {
                socket.send(b"own")
            })
            .unwrap(),
            Server::new("0", |_: &Server, socket: &mut Socket<'_>| -> Result<(), Status> {
                socket.send(b"status").map_err(|error| error.status())
            })
            .unwrap(),
        ];
        for (server, expected) in handlers.iter().zip(["io", "text", "own", "status"]) {
            server.start_background().unwrap();
            Client::connect(server).expect_last(expected);
        }
    });
}

/// An error of a library that hides what it holds.
#[derive(Debug)]
struct Around(Box<dyn std::error::Error + Send + Sync>);

impl std::fmt::Display for Around {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "around: {}", self.0)
    }
}

impl std::error::Error for Around {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&*self.0)
    }
}

/// R1: A closure may fail with any error that a box of errors can be made of. "Would block" is no
/// failure whatever is around it, and an error of the library's keeps its status and its codes.
#[test]
fn any_error_will_do() {
    isolated(|| {
        let (log, told) = events();
        let handler = |_: &Server, socket: &mut Socket<'_>| -> anyhow::Result<()> {
            let mut buffer = [0; 64];
            loop {
                // At the end it fails, and that is "would block".
                let n = socket.recv(&mut buffer)?;
                match &buffer[..n] {
                    b"" => return Ok(socket.close()),
                    b"anyhow" => anyhow::bail!("in words"),
                    b"own" => Err(Error::raise(-7, "its own"))?,
                    b"io" => Err(Around(std::io::Error::from_raw_os_error(libc::EACCES).into()))?,
                    b"around" => Err(Around(Status::Busy.into()))?,
                    other => socket.send(other)?,
                }
            }
        };
        let hooks = Hooks::new(move |server, socket| Ok(handler(server, socket).map_err(boxed)?))
            .on_exception(move |_, socket, error| {
                log.add((error.status(), error.os_code(), error.to_string()));
                socket.map_or(Ok(()), |socket| socket.send(b"failed"))
            });
        let server = start(non_blocking(1), hooks);
        let mut client = Client::connect(&server);
        client.echo("hello");
        for (word, status, os_code, text) in [
            ("anyhow", Status::Handler, 0, "in words"),
            ("io", Status::Io, libc::EACCES, "around: "),
            ("around", Status::Busy, 0, "around: "),
        ] {
            client.send(word);
            client.expect("failed");
            let failure = told.next();
            assert_eq!((failure.0, failure.1), (status, os_code), "{failure:?}");
            assert!(failure.2.to_lowercase().contains(text), "{failure:?}");
        }
        assert_eq!(server.stats().handler_errors, 3);
        // The closure itself.
        let server = Server::with_config("127.0.0.1:0", handler, non_blocking(1)).unwrap();
        server.start_background().unwrap();
        let mut client = Client::connect(&server);
        client.echo("hello");
        client.echo("again");
        assert_eq!(server.stats().handler_errors, 0);
        client.send("own");
        client.expect_gone();
        assert_eq!(server.stats().handler_errors, 1);
    });
}

fn boxed(error: anyhow::Error) -> Box<dyn std::error::Error + Send + Sync> {
    error.into()
}

/// R7: The user data can be held while sending; a detach must wait, and what panics loses it.
#[test]
fn user_data_in_hand() {
    isolated(|| {
        for config in both_modes() {
            let (log, results) = events();
            let hooks = Hooks::new(move |server, socket| {
                let said = text(socket)?;
                let counted = socket.with_user_data(|socket, counts: &mut Vec<usize>| {
                    counts.push(said.len());
                    if said == "panic" {
                        panic!("with the data in hand");
                    }
                    let detached = server.detach(socket).map(drop).map_err(|e| e.status());
                    log.add((detached, socket.user_data::<Vec<usize>>().is_none()));
                    if said == "replace" {
                        socket.set_user_data(vec![0_usize; 3]);
                    }
                    socket.send(format!("{};", counts.len()).as_bytes())
                });
                assert!(socket.with_user_data(|_, _: &mut u8| ()).is_none());
                counted.expect("a vector")
            })
            .on_open(|_, socket| Ok(socket.set_user_data(Vec::<usize>::new())));
            let server = start(config.clone(), hooks);
            if config.non_blocking {
                let mut client = Client::connect(&server);
                for (said, answer) in [("a", "1;"), ("b", "2;"), ("replace", "3;"), ("c", "4;")] {
                    client.send(said);
                    client.expect(answer);
                    assert_eq!(results.next(), (Err(Status::Busy), true));
                }
                client.send("panic");
                client.expect_gone();
            } else {
                Client::connect(&server).saying("a").expect("1;");
            }
        }
    });
}

/// A server by its own type: the hooks are methods.
struct Greeter {
    name: String,
    closes: Mutex<Vec<CloseReason>>,
}

struct Shared(Arc<Greeter>);

impl Handler for Shared {
    fn handle(&self, _: &Server, socket: &mut Socket<'_>) -> Result<(), Error> {
        socket.send(format!("I am {}", self.0.name).as_bytes())
    }

    fn on_close(&self, _: &Server, _: &mut Socket<'_>, reason: CloseReason) {
        self.0.closes.lock().unwrap().push(reason);
    }
}

/// R2: A type is a handler by a trait whose other methods are provided.
#[test]
fn a_type_is_a_handler() {
    isolated(|| {
        let greeter = Arc::new(Greeter { name: "a greeter".into(), closes: Mutex::default() });
        let server = Server::new("127.0.0.1:0", Shared(greeter.clone())).unwrap();
        server.start_background().unwrap();
        Client::connect(&server).expect_last("I am a greeter");
        wait_idle(&server);
        assert_eq!(*greeter.closes.lock().unwrap(), [CloseReason::Handler]);
        drop(server);
        assert_eq!(Arc::strong_count(&greeter), 1, "the handler goes with the server");
    });
}

/// P6, X1: A failure and a panic of the shutdown handler come to the exception handler. (A handler
/// in C has neither: its every number but 0 is a stop.)
#[test]
fn failures_of_the_shutdown_handler_are_reported() {
    isolated(|| {
        let (log, errors) = events();
        let hooks = crate::api::Hooks::new(echo)
            .on_exception(move |_, _, error| Ok(log.add(error.status())))
            .on_shutdown(|_, socket| match text(socket)?.as_str() {
                "fail" => Err("failed".into()),
                _ => panic!("on purpose"),
            });
        let server = start(blocking(1).shutdown_port("0"), hooks);
        for (word, status) in [("fail", Status::Handler), ("panic", Status::Panic)] {
            let mut client = Client::plain(("127.0.0.1", server.shutdown_port()));
            client.send(word);
            client.expect_gone();
            assert_eq!(errors.next(), status);
            assert_eq!(server.state(), State::Running);
        }
    });
}

/// R3: A socket implements `Read` and `Write`, with the errors of std.
#[test]
fn sockets_read_and_write() {
    isolated(|| {
        for config in both_modes() {
            let handler = |_: &Server, socket: &mut Socket<'_>| -> Result<(), std::io::Error> {
                let mut buffer = [0; 64];
                let n = socket.read(&mut buffer)?;
                if n == 0 {
                    socket.close();
                    return Ok(());
                }
                socket.write_all(&buffer[..n])?;
                socket.flush()?;
                match socket.read(&mut buffer) {
                    Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock),
                    Ok(n) => assert_eq!(n, 0),
                }
                Ok(())
            };
            let server = Server::with_config("127.0.0.1:0", handler, config).unwrap();
            server.start_background().unwrap();
            let mut client = Client::connect(&server);
            client.echo("hello");
            client.finish_sending();
            client.expect_end();
        }
    });
}

/// R3: So does an owned socket, which is `Send` and closes when dropped.
#[test]
fn owned_sockets_read_and_write() {
    isolated(|| {
        let (log, owned) = events();
        let handler = move |server: &Server, socket: &mut Socket<'_>| -> Result<(), Error> {
            log.add(server.detach(socket)?);
            Ok(())
        };
        let server = Server::with_config("127.0.0.1:0", handler, non_blocking(1)).unwrap();
        server.start_background().unwrap();
        let mut client = Client::connect(&server).saying("hello");
        let mut socket: OwnedSocket = owned.next();
        let mut buffer = [0; 5];
        socket.read_exact(&mut buffer).unwrap();
        socket.write_all(&buffer).unwrap();
        client.expect("hello");
        drop(socket);
        client.expect_end();
    });
}

/// R4: A `Server` is a handle: dropping the last one stops the server, and a callback's does not
/// count.
#[test]
fn the_last_handle_stops_the_server() {
    isolated(|| {
        let kept: Arc<OnceLock<Server>> = Arc::default();
        let keep = kept.clone();
        let handler = move |server: &Server, socket: &mut Socket<'_>| -> Result<(), Error> {
            keep.get_or_init(|| server.clone());
            echo(server, socket)
        };
        let server = Server::with_config("127.0.0.1:0", handler, non_blocking(1)).unwrap();
        server.start_background().unwrap();
        let second = server.clone();
        Client::connect(&server).echo("hello");
        drop(server);
        Client::connect(&second).echo("still running");
        drop(second);
        assert!(library_threads().is_empty());
        // A handle that a callback cloned outlives the server: its calls return, and do nothing
        // more.
        let view = kept.get().expect("cloned");
        assert!(view.is_stopped());
        assert_eq!(view.state(), State::Stopped);
    });
}

/// R4: Where a callback drops the last handle, the server does not wait for that callback.
#[test]
fn the_last_handle_dropped_in_a_callback() {
    isolated(|| {
        let last: Arc<Mutex<Option<Server>>> = Arc::default();
        let slot = last.clone();
        let handler = move |server: &Server, socket: &mut Socket<'_>| -> Result<(), Error> {
            drop(slot.lock().unwrap().take());
            echo(server, socket)
        };
        let server = Server::with_config("127.0.0.1:0", handler, non_blocking(1)).unwrap();
        server.start_background().unwrap();
        let mut client = Client::connect(&server);
        *last.lock().unwrap() = Some(server);
        client.send("x");
        client.expect_gone();
        eventually("it stops by itself", || library_threads().is_empty());
    });
}

/// R5: `in_callback` is true on the library's threads and in callbacks, and nowhere else.
#[test]
fn in_callback() {
    isolated(|| {
        struct Asks(Log<bool>);
        impl Handler for Asks {
            fn handle(&self, server: &Server, socket: &mut Socket<'_>) -> Result<(), Error> {
                self.0.add(server.in_callback());
                socket.close();
                Ok(())
            }
            fn on_start(&self, server: &Server) -> Result<(), Error> {
                self.0.add(server.in_callback());
                Ok(())
            }
            fn on_stop(&self, server: &Server) {
                self.0.add(server.in_callback());
            }
        }
        for config in both_modes() {
            let (log, answers) = events();
            let server = Server::with_config("127.0.0.1:0", Asks(log), config).unwrap();
            assert!(!server.in_callback());
            server.start_background().unwrap();
            assert!(!server.in_callback());
            let mut client = Client::connect(&server).saying("x");
            client.expect_gone();
            server.stop().unwrap();
            assert_eq!(answers.drain(), [true; 3]);
        }
    });
}

/// O1: The config has the documented defaults and public fields, and the server's can be read.
#[test]
fn config_defaults() {
    let config = Config::new();
    assert_eq!((config.max_thread, config.max_retry, config.max_waiting), (1, 10, 1024));
    assert_eq!(config.retry_interval, ms(500));
    assert!(!config.non_blocking && !config.use_ipv6 && config.no_delay);
    assert_eq!((config.reuse_port, config.unix_mode), (false, 0o600));
    assert_eq!((config.shutdown_port.as_deref(), config.max_connections), (None, 0));
    assert_eq!((config.backlog, config.handshake_timeout), (4096, Duration::from_secs(10)));
    assert_eq!((config.idle_timeout, config.io_timeout), (None, None));
    assert_eq!(config.write_timeout, Some(Duration::from_secs(30)));
    assert_eq!((config.linger_timeout, config.drain_timeout), (ms(1000), ms(5000)));
    assert_eq!(config.keep_alive, Some(Duration::from_secs(60)));
    assert_eq!((config.high_water_mark, config.send_limit), (256 << 10, 16 << 20));
    let server = Server::with_config("0", echo, config.max_thread(3)).unwrap();
    assert_eq!(server.config().max_thread, 3);
}

/// R6: Errors are those of std, with their sources.
#[test]
fn errors_are_std_errors() {
    let boxed: Box<dyn std::error::Error + Send + Sync> = "what happened".into();
    let error = Error::from(boxed);
    assert_eq!((error.status(), error.message()), (Status::Handler, "what happened"));
    let io = std::io::Error::from_raw_os_error(libc::ECONNRESET);
    let error = Error::from(io);
    assert_eq!((error.status(), error.os_code()), (Status::Reset, libc::ECONNRESET));
    let io: std::io::Error = Error::from(Status::WouldBlock).into();
    assert_eq!(io.kind(), std::io::ErrorKind::WouldBlock);
    assert_eq!(Error::from(io).status(), Status::WouldBlock);
    fn standard(_: &(dyn std::error::Error + Send)) {}
    standard(&Error::new(Status::Io, "text"));
    assert!(format!("{:?}", Error::new(Status::Io, "text")).contains("text"));
    assert_eq!(size_of::<Error>(), 16);
}

/// F1: The version is the crate's.
#[test]
fn version() {
    assert_eq!(net_server::VERSION, env!("CARGO_PKG_VERSION"));
}
