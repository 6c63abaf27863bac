//! echo: sends back what it receives, in either mode, until SIGINT or SIGTERM.
//!
//!   echo [-n] [-t THREADS] [-6] [-b BUFFER_BYTES] [--reuse-port] [--shutdown-port P] [SERVICE]
//!
//! The options are those of examples-c/echo.c.

mod common;

use net_server::{Config, Error, Handler, Server, Socket, Status};
use std::cell::RefCell;
use std::process::ExitCode;

const USAGE: &str =
    "usage: echo [-n] [-t THREADS] [-6] [-b BUFFER_BYTES] [--reuse-port] [--shutdown-port P] [SERVICE]";

struct Echo {
    buffer_size: usize,
}

thread_local! {
    /// One buffer for each library thread, not for each connection: a handler uses it within one
    /// call only.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Handler for Echo {
    fn handle(&self, _server: &Server, socket: &mut Socket<'_>) -> Result<(), Error> {
        BUFFER.with_borrow_mut(|buffer| {
            buffer.resize(self.buffer_size, 0);
            loop {
                match socket.recv(buffer)? {
                    0 => break socket.close(),
                    n => socket.send(&buffer[..n])?,
                }
            }
            Ok(())
        })
    }

    fn on_start(&self, server: &Server) -> Result<(), Error> {
        common::say_listening("echo", server);
        Ok(())
    }

    fn on_exception(
        &self,
        _server: &Server,
        socket: Option<&mut Socket<'_>>,
        error: &Error,
    ) -> Result<(), Error> {
        match socket {
            Some(socket) => {
                // A client that goes away is no event: any number may.
                if !matches!(error.status(), Status::Reset | Status::Truncated) {
                    eprintln!("echo: connection {}: {error}", socket.id().get());
                }
                socket.close(); // a non-blocking server leaves that to us
            }
            None => eprintln!("echo: {error}"),
        }
        Ok(())
    }
}

struct Options {
    service: String,
    config: Config,
    buffer_size: usize,
}

/// `None` where the arguments make no sense.
fn parse(mut args: impl Iterator<Item = String>) -> Option<Options> {
    let mut options =
        Options { service: "5000".into(), config: Config::new(), buffer_size: 256 * 1024 };
    let config = &mut options.config;
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "-n" => config.non_blocking = true,
            "-6" => config.use_ipv6 = true,
            "--reuse-port" => config.reuse_port = true,
            "-t" => config.max_thread = args.next()?.parse().ok()?,
            "-b" => options.buffer_size = args.next()?.parse().ok().filter(|&size| size > 0)?,
            "--shutdown-port" => config.shutdown_port = Some(args.next()?),
            flag if flag.starts_with('-') => return None,
            service => {
                options.service = service.into();
                return args.next().is_none().then_some(options);
            }
        }
    }
    Some(options)
}

fn run(options: Options) -> Result<(), Error> {
    let handler = Echo { buffer_size: options.buffer_size };
    let server = Server::with_config(&options.service, handler, options.config)?;
    common::serve(&server)?;
    print!("{}", server.report());
    Ok(())
}

fn main() -> ExitCode {
    match parse(std::env::args().skip(1)) {
        Some(options) => common::exit("echo", run(options)),
        None => {
            eprintln!("{USAGE}");
            ExitCode::from(2)
        }
    }
}
