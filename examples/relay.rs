//! relay: a reverse proxy of TCP. It connects to TARGET for each client and passes on what the two
//! say, until SIGINT or SIGTERM.
//!
//!   relay [-t THREADS] [SERVICE] TARGET
//!
//!   -t THREADS  event loops (1)
//!   SERVICE     where to listen (5000); 0 takes any free port
//!   TARGET      127.0.0.1:80, [::1]:80, unix:/path. The loop waits while a name is resolved.
//!
//! It shows:
//!   - outgoing connections, whose user data tells what they are for;
//!   - two connections that know each other by their ids. The one that connects is made in a
//!     callback, so it joins the loop of the other, and their callbacks never run at the same time;
//!   - back-pressure: a side is not read while much is on its way to the other one;
//!   - half-close: an end is passed on, and the other side may go on to talk. An error of one side,
//!     and a stop, reset the other one, unless that has been told all.

#[allow(dead_code)] // It serves in a way of its own.
mod common;

use net_server::{CloseReason, Config, ConnId, Error, Handler, Server, Socket, Status};
use std::net::Shutdown;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// So many bytes may wait for a side before the other one is paused.
const WINDOW: usize = 256 << 10;
const CONNECT_TIME: Duration = Duration::from_secs(10);

struct Relay {
    target: String,
}

/// What the two connections of a pair share: the client's is number 0.
#[derive(Default)]
struct Pair {
    ids: [OnceLock<ConnId>; 2],
    has_ended: [AtomicBool; 2],
    is_paused: [AtomicBool; 2],
}

/// The user data of a connection: its pair, and its number there.
#[derive(Clone)]
struct Side(Arc<Pair>, usize);

impl Side {
    fn of(socket: &Socket<'_>) -> Option<Side> {
        socket.user_data().cloned()
    }

    fn other(&self) -> Option<ConnId> {
        self.0.ids[1 - self.1].get().copied()
    }

    /// This side has said all.
    fn pass_end_on(&self, server: &Server, socket: &mut Socket<'_>) -> Result<(), Error> {
        let Some(other) = self.other() else { return Ok(()) };
        self.0.has_ended[self.1].store(true, Relaxed);
        if self.0.has_ended[1 - self.1].load(Relaxed) {
            socket.close();
            server.close(other)
        } else {
            server.shutdown(other, Shutdown::Write)
        }
    }

    /// If all that this side said was passed on, the other one gets it all.
    fn end_other(&self, server: &Server) {
        let Some(other) = self.other() else { return };
        let _ = match self.0.has_ended[self.1].load(Relaxed) {
            true => server.close(other),
            false => server.abort(other),
        }; // It may be gone.
    }
}

impl Handler for Relay {
    /// Passes on what a side says.
    fn handle(&self, server: &Server, socket: &mut Socket<'_>) -> Result<(), Error> {
        let Some(side) = Side::of(socket) else { return Ok(()) };
        let Some(other) = side.other() else { return Ok(()) };
        let mut buffer = [0; 64 << 10];
        loop {
            let passed = match server.queued(other)? {
                WINDOW.. => {
                    side.0.is_paused[side.1].store(true, Relaxed);
                    return socket.pause();
                }
                _ => match socket.recv(&mut buffer)? {
                    0 => return side.pass_end_on(server, socket),
                    n => server.send(other, &buffer[..n]),
                },
            };
            passed?;
        }
    }

    /// A client gets its pair, and the connection to the target. What the client says before that
    /// is there waits in its queue.
    fn on_open(&self, server: &Server, socket: &mut Socket<'_>) -> Result<(), Error> {
        if socket.service().is_none() {
            return Ok(()); // to the target
        }
        let pair = Arc::new(Pair::default());
        let _ = pair.ids[0].set(socket.id());
        socket.set_user_data(Side(pair.clone(), 0));
        let target = Side(pair.clone(), 1);
        let _ = pair.ids[1].set(server.connect(&self.target, Some(CONNECT_TIME), target)?);
        Ok(())
    }

    /// The queue of a side is empty: the other one may be read again.
    fn on_drain(&self, server: &Server, socket: &mut Socket<'_>) -> Result<(), Error> {
        if let Some(Side(pair, number)) = Side::of(socket) {
            if pair.is_paused[1 - number].load(Relaxed) {
                let _ = pair.ids[1 - number].get().map(|id| server.wake(*id)); // It may be gone.
            }
        }
        Ok(())
    }

    fn on_wake(&self, _server: &Server, socket: &mut Socket<'_>) -> Result<(), Error> {
        if let Some(Side(pair, number)) = Side::of(socket) {
            pair.is_paused[number].store(false, Relaxed);
        }
        socket.resume()
    }

    fn on_close(&self, server: &Server, socket: &mut Socket<'_>, _reason: CloseReason) {
        if let Some(side) = Side::of(socket) {
            side.end_other(server);
        }
    }

    fn on_exception(
        &self,
        server: &Server,
        socket: Option<&mut Socket<'_>>,
        error: &Error,
    ) -> Result<(), Error> {
        // A peer that goes away is no event, nor is the other side's end, which ends this one.
        if !matches!(error.status(), Status::Reset | Status::Closed) {
            eprintln!("relay: {error}");
        }
        match (socket, error.status()) {
            (Some(socket), Status::Connect) => {
                // No on_close comes.
                if let Some(side) = Side::of(socket) {
                    side.end_other(server);
                }
            }
            (Some(socket), _) => socket.abort(),
            (None, _) => {}
        }
        Ok(())
    }

    fn on_start(&self, server: &Server) -> Result<(), Error> {
        common::say_listening("relay", server);
        Ok(())
    }
}

/// A stop ends in order what has nothing queued, and cannot know that the target had more to say:
/// the unfinished pairs are reset before it.
fn serve_until_signal(server: &Server) -> Result<(), Error> {
    let mut number = 0;
    // SAFETY: the set is this function's own.
    let signals = unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, libc::SIGINT);
        libc::sigaddset(&mut set, libc::SIGTERM);
        libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
        set
    };
    server.start_background()?;
    // SAFETY: as above.
    unsafe { libc::sigwait(&signals, &mut number) };
    for id in server.connections()? {
        let _ = server.abort(id); // It may be gone.
    }
    server.stop()
}

fn main() -> ExitCode {
    let mut args: Vec<String> = std::env::args().skip(1).collect();
    // A side is read while the other one takes it, however slowly it reads itself.
    let mut config = Config::new().non_blocking(true).high_water_mark(4 * WINDOW);
    if args.len() > 2 && args[0] == "-t" {
        config.max_thread = args[1].parse().unwrap_or(0);
        args.drain(..2);
    }
    if args.is_empty() || args.len() > 2 || args[0].starts_with('-') {
        eprintln!("usage: relay [-t THREADS] [SERVICE] TARGET");
        return ExitCode::from(2);
    }
    let target = args.pop().unwrap_or_default();
    let service = args.pop().unwrap_or("5000".into());
    let served = Server::with_config(&service, Relay { target }, config)
        .and_then(|server| serve_until_signal(&server));
    common::exit("relay", served)
}
