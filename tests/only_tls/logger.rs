//! The lines of the logger about TLS.

use super::*;
use crate::api::{configure, tls, LogLevel, Logger, TlsConfig};
use crate::suite::logger::logging;
use std::sync::{Arc, Mutex};

/// LG2: A handshake that fails has a line with the id and the address of its connection, and why;
/// nothing of what the peer has sent.
#[test]
fn failed_handshakes() {
    isolated(|| {
        for config in both_modes() {
            let (logger, lines) = logging(LogLevel::Warn);
            let (log, ids) = events();
            let hooks = Hooks::new(echo).on_exception(move |_, socket, _| {
                log.add(socket.expect("a socket").id());
                Ok(())
            });
            let server = start(config.logger(logger), hooks);
            let tcp = raw_saying(&server, "a secret in the clear\r\n");
            let line = lines.next();
            assert_eq!((line.level, line.id), (LogLevel::Warn, Some(ids.next())));
            let beginning = format!("{}: the TLS handshake failed", tcp.local_addr().unwrap());
            assert!(line.text.starts_with(&beginning), "{line:?}");
            assert!(!line.text.contains("secret"), "{line:?}");
            drop(tcp);
            wait_idle(&server);
        }
    });
}

/// LG2: A reload has a line, and so has one that changes nothing, with its reason. A reload in a
/// logger has none (LG5).
#[test]
fn reloads() {
    isolated(|| {
        let (logger, lines) = logging(LogLevel::Info);
        let server = start(non_blocking(1).logger(logger), Hooks::new(echo));
        lines.take(2);
        server.reload_tls(&tls()).unwrap();
        let line = lines.next();
        assert_eq!(line.text, "the TLS settings of service 0 were replaced");
        assert_eq!(status(server.reload_tls(&TlsConfig::new())), Status::Certificate);
        let line = lines.next();
        assert_eq!(line.level, LogLevel::Warn);
        let beginning = "the TLS settings of service 0 were not replaced: TLS needs";
        assert!(line.text.starts_with(beginning), "{line:?}");
        Client::connect(&server).echo("still served");
    });
}

/// LG5: A reload that a logger does is not logged.
#[test]
fn reload_in_a_logger() {
    isolated(|| {
        let (log, lines) = events();
        let place = Arc::new(Mutex::new(None::<Server>));
        let seen = place.clone();
        let logger = Logger::new(LogLevel::Info, move |_, _, text| {
            log.add(text.to_owned());
            let server = seen.lock().unwrap().clone();
            if let Some(server) = server {
                server.reload_tls(&tls()).unwrap();
            }
        });
        let config = configure(blocking(2).logger(logger));
        let server = Server::with_config("127.0.0.1:0", Hooks::new(echo), config).unwrap();
        *place.lock().unwrap() = Some(server.clone());
        server.start_background().unwrap();
        server.reload_tls(&tls()).unwrap();
        server.stop().unwrap();
        drop(place.lock().unwrap().take());
        assert_eq!(lines.drain().len(), 4, "an address, the start, a reload, the stop");
    });
}
