//! What the examples share: say where the server listens, serve until SIGINT or SIGTERM.

use net_server::{Error, Server};
use std::sync::OnceLock;

/// The program's one server, for the signal handler.
static SERVER: OnceLock<Server> = OnceLock::new();

extern "C" fn on_signal(_signal: libc::c_int) {
    // Reads an atomic; `request_stop` is made for signal handlers.
    if let Some(server) = SERVER.get() {
        server.request_stop();
    }
}

pub fn say_listening(program: &str, server: &Server) {
    let mode = if server.config().non_blocking { "non-blocking" } else { "blocking" };
    let threads = server.config().max_thread;
    let address = server.address();
    println!("{program}: listening on {address} ({mode}, threads: {threads})");
}

/// Returns when the server has stopped.
pub fn serve(server: &Server) -> Result<(), Error> {
    let handler = on_signal as extern "C" fn(libc::c_int);
    SERVER.get_or_init(|| server.clone());
    for signal in [libc::SIGINT, libc::SIGTERM] {
        // SAFETY: the handler makes async-signal-safe calls only.
        unsafe { libc::signal(signal, handler as libc::sighandler_t) };
    }
    server.start()
}

/// Says why the program failed and gives its exit status.
pub fn exit(program: &str, result: Result<(), Error>) -> std::process::ExitCode {
    match result {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{program}: {error}");
            std::process::ExitCode::FAILURE
        }
    }
}
