//! Tests of those parts of the API that only Rust programs have.

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
        ];
        for (server, expected) in handlers.iter().zip(["io", "text", "own"]) {
            server.start_background().unwrap();
            Client::connect(server).expect_last(expected);
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
