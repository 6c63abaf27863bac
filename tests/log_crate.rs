//! The logger that hands its lines to the `log` crate, which has one logger for the whole process.

use net_server::{Config, Logger, Server, Socket, Status};
use std::sync::Mutex;

struct Lines(Mutex<Vec<String>>);

static LINES: Lines = Lines(Mutex::new(Vec::new()));

impl log::Log for Lines {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let line = format!("{} {} {}", record.target(), record.level(), record.args());
        self.0.lock().unwrap().push(line);
    }

    fn flush(&self) {}
}

/// LG10: The lines come with the crate's levels and the library's target.
#[test]
fn lines_go_to_the_log_crate() {
    log::set_logger(&LINES).unwrap();
    log::set_max_level(log::LevelFilter::Info);
    let config = Config::new().logger(Logger::of_log_crate());
    let handler = |_: &Server, _: &mut Socket<'_>| Ok::<(), Status>(());
    let server = Server::with_config("127.0.0.1:0", handler, config).unwrap();
    server.start_background().unwrap();
    server.stop().unwrap();
    let lines = LINES.0.lock().unwrap();
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert_eq!(lines[0], format!("net_server INFO listening on {}", server.address()));
    assert!(lines[2].starts_with("net_server INFO stopped after "), "{lines:?}");
}
