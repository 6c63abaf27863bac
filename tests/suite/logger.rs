//! The logger: which lines come, how floods are thinned, and what a logger may do.

use crate::api::{Config, ConnId, Hooks, LogLevel, Logger, Server, State, Status};
use crate::support::*;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::deadline_races::destroy;
use super::forks::{exit_now, free, Child};
use super::hosted::{host, hosted_with};
use super::unix::Folder;

#[derive(Debug)]
pub struct Line {
    pub level: LogLevel,
    pub id: Option<ConnId>,
    pub text: String,
}

/// A logger that reports its lines to the test.
pub fn logging(level: LogLevel) -> (Logger, Events<Line>) {
    let (log, lines) = events();
    let logger = Logger::new(level, move |level, id, text| {
        log.add(Line { level, id, text: text.into() });
    });
    (logger, lines)
}

/// Checks that a line begins and is as it should be.
#[track_caller]
fn expect(line: &Line, level: LogLevel, beginning: &str) {
    assert_eq!((line.level, line.text.starts_with(beginning)), (level, true), "{line:?}");
}

/// How many events of a kind the lines tell of, those that were left out included; `name` is what
/// several of them are called.
fn total(lines: &[Line], name: &str) -> u64 {
    let count = |line: &Line| match line.text.split_once(&format!(" more {name}")) {
        None => 1,
        Some((before, _)) => {
            let number = before.rsplit([' ', '(']).next().unwrap().parse::<u64>().unwrap();
            // The last line of a kind has nothing but the number.
            number + u64::from(before.contains('('))
        }
    };
    lines.iter().map(count).sum()
}

/// A blocking server with two workers, both of which are busy, so that it refuses further clients.
struct Busy {
    server: Server,
    gate: Gate,
    _clients: Vec<Client>,
}

fn busy(config: Config, hooks: impl FnOnce(Hooks) -> Hooks) -> Busy {
    let gate = Gate::new();
    let held = gate.clone();
    let hooks = hooks(Hooks::new(move |_, _| {
        held.wait();
        Ok(())
    }));
    let server = start(config.max_retry(0), hooks);
    let clients = (0..2).map(|_| Client::connect(&server).settled()).collect();
    gate.reached_by(2);
    Busy { server, gate, _clients: clients }
}

/// LG1: The start has a line, and before it each address has one; the stop has its counts. They
/// come whatever stops the server, and a logger of another level gets none of them.
#[test]
fn start_addresses_stop() {
    isolated(|| {
        for config in both_modes() {
            let (logger, lines) = logging(LogLevel::Info);
            let config = config.shutdown_port("0");
            let server = start(config.clone().logger(logger), Hooks::new(echo));
            let tls = if TLS { " with TLS" } else { "" };
            let threads = if config.non_blocking { "2 loops" } else { "4 workers" };
            let shutdown = server.shutdown_port();
            let expected = [
                format!("listening on {}{tls}", server.address()),
                format!("shutdown port on 127.0.0.1:{shutdown}"),
                format!("started with {threads}"),
            ];
            for text in expected {
                let line = lines.next();
                assert_eq!((line.level, line.id, line.text), (LogLevel::Info, None, text));
            }
            let mut client = Client::connect(&server);
            client.echo("hello");
            client.finish_sending();
            client.expect_end();
            wait_idle(&server);
            lines.none();
            drop(Client::plain(("127.0.0.1", shutdown)));
            server.wait(Some(SOON)).unwrap();
            let line = lines.next();
            expect(&line, LogLevel::Info, "stopped after ");
            assert!(line.text.contains(": accepted 1, refused 0, "), "{line:?}");
            drop(server);
            assert!(lines.drain().is_empty());

            let (logger, lines) = logging(LogLevel::Warn);
            start(config.logger(logger), Hooks::new(echo)).stop().unwrap();
            assert!(lines.drain().is_empty());
        }
    });
}

/// LG1, LG7: A hosted server logs too, on the host's thread, and its shutdown port once.
#[test]
fn hosted() {
    isolated(|| {
        let (log, lines) = events();
        let logger = Logger::new(LogLevel::Info, move |_, _, text| {
            log.add((std::thread::current().id(), text.split(' ').next().unwrap().to_owned()));
        });
        let config = non_blocking(1).shutdown_port("0").logger(logger);
        let server = hosted_with(config, Hooks::new(echo));
        host(&server, || Client::connect(&server).echo("hello"));
        server.stop().unwrap();
        let here = std::thread::current().id();
        let lines = lines.drain();
        assert!(lines.iter().all(|(thread, _)| *thread == here), "{lines:?}");
        let words: Vec<_> = lines.iter().map(|(_, word)| word.as_str()).collect();
        assert_eq!(words, ["listening", "shutdown", "started", "stopped"]);
    });
}

/// LG1: A start that fails logs nothing, and a stop before the start neither.
#[test]
fn no_start_no_line() {
    isolated(|| {
        let (logger, lines) = logging(LogLevel::Debug);
        let taken = start(blocking(1), Hooks::new(echo));
        let server = server_at(&taken.address(), blocking(1).logger(logger), Hooks::new(echo));
        assert_eq!(status(server.start_background()), Status::Listen);
        server.stop().unwrap();
        server.request_stop();
        server.start().unwrap();
        assert_eq!(server.state(), State::Stopped);
        drop(server);
        assert!(lines.drain().is_empty());
    });
}

/// LG2: A client that is refused has a line with its id and address.
#[test]
fn refused() {
    isolated(|| {
        let (logger, lines) = logging(LogLevel::Warn);
        let (log, ids) = events();
        let busy = busy(blocking(2).logger(logger), |hooks| {
            hooks.on_exception(move |_, socket, _| {
                log.add(socket.expect("a socket").id());
                Ok(())
            })
        });
        let mut client = Client::connect(&busy.server);
        let address = client.0.local_addr().unwrap();
        client.expect_gone();
        let line = lines.next();
        expect(&line, LogLevel::Warn, &format!("{address}: refused: "));
        assert_eq!(line.id, Some(ids.next()));
        busy.gate.open();
    });
}

/// LG3: A flood is thinned to one line a second with the number of those that were left out; the
/// last number comes at the stop. Every refused client is accounted for.
#[test]
fn floods_are_thinned() {
    isolated(|| {
        let (logger, lines) = logging(LogLevel::Warn);
        let busy = busy(blocking(2).logger(logger), |hooks| hooks);
        let clock = Stopwatch::start();
        let refuse = |count: u64| {
            for _ in 0..count {
                Client::connect(&busy.server).expect_gone();
            }
        };
        refuse(20);
        // The next line after the second tells of those in between.
        let_pass(ms(1010));
        refuse(1);
        refuse(5);
        eventually("all were refused", || busy.server.stats().refused == 26);
        busy.gate.open();
        busy.server.stop().unwrap();
        let most = clock.elapsed().as_secs() + 3;
        let lines = lines.drain();
        assert!((2..=most).contains(&(lines.len() as u64)), "{lines:?}");
        assert_eq!(total(&lines, "refused connections"), 26, "{lines:?}");
        assert!(lines[1].text.contains("(and "), "{lines:?}");
    });
}

/// LG2, LG3: Failures to accept are logged, without a connection, and counted where they are many.
#[test]
fn failures_to_accept() {
    isolated(|| {
        for config in both_modes() {
            let (logger, lines) = logging(LogLevel::Warn);
            let server = start(config.logger(logger), Hooks::new(echo));
            faults::fail_accept(&[libc::EMFILE; 4]);
            while faults::accept_failures_left() > 0 {
                Client::connect(&server).expect_gone();
            }
            eventually("all are counted", || server.stats().accept_errors == 4);
            Client::connect(&server).echo("still served");
            let first = lines.next();
            assert_eq!(first.id, None);
            expect(&first, LogLevel::Warn, "cannot accept a connection: ");
            server.stop().unwrap();
            let mut all = lines.drain();
            all.insert(0, first);
            assert_eq!(total(&all, "failures to accept"), 4, "{all:?}");
        }
    });
}

/// LG2: A listener that was lost is an error, which is not thinned; the stop that follows says how
/// many there were.
#[test]
fn a_lost_listener() {
    isolated(|| {
        for config in both_modes() {
            let (logger, lines) = logging(LogLevel::Info);
            let server = start(config.logger(logger), Hooks::new(echo));
            lines.take(2);
            destroy(listening_sockets()[0]);
            let line = lines.next();
            assert_eq!(line.id, None);
            expect(&line, LogLevel::Error, "a listener was lost: ");
            server.wait(Some(SOON)).unwrap();
            let line = lines.next();
            expect(&line, LogLevel::Info, "stopped after ");
            assert!(line.text.ends_with("accept errors 1"), "{line:?}");
        }
    });
}

/// LG4: A logger may make every call, also those that cannot work in a callback: it holds no lock,
/// counts as a callback, and does not wait for itself.
#[test]
fn a_logger_calls_the_server() {
    isolated(|| {
        for config in both_modes() {
            let (log, results) = events();
            let place = Arc::new(Mutex::new(None::<Server>));
            let seen = place.clone();
            let logger = Logger::new(LogLevel::Info, move |_, _, text| {
                let server = seen.lock().unwrap().clone();
                let Some(server) = server else { return };
                let gone = ConnId::from_u64(1 << 40).unwrap();
                let waited = status(server.wait(None));
                let closed = status(server.abort(gone));
                let _ = (server.report(), server.address(), server.state());
                log.add((text.split(' ').next().unwrap().to_owned(), waited, closed));
            });
            let server = start(config.clone().logger(logger), Hooks::new(echo));
            *place.lock().unwrap() = Some(server.clone());
            Client::connect(&server).echo("hello");
            within(SOON, || server.stop()).unwrap();
            let stopped = ("stopped".into(), Status::Deadlock, Status::Closed);
            assert_eq!(results.drain(), [stopped]);
            drop(place.lock().unwrap().take());
        }
    });
}

/// LG4: A stop in the logger's first line is a request: the start succeeds and the stop follows.
#[test]
fn a_logger_stops_the_server() {
    isolated(|| {
        for config in both_modes() {
            let place = Arc::new(Mutex::new(None::<Server>));
            let seen = place.clone();
            let logger = Logger::new(LogLevel::Info, move |_, _, _| {
                if let Some(server) = seen.lock().unwrap().clone() {
                    server.stop().unwrap();
                }
            });
            let server = unstarted(config.logger(logger), Hooks::new(echo));
            *place.lock().unwrap() = Some(server.clone());
            server.start_background().unwrap();
            server.wait(Some(SOON)).unwrap();
            assert_eq!(server.state(), State::Stopped);
            drop(place.lock().unwrap().take());
        }
    });
}

/// LG5: What a logger causes is not logged: not what it does on its thread, and not what a server
/// does that it makes. So it does not recurse.
#[test]
fn no_recursion() {
    isolated(|| {
        for config in both_modes() {
            let count = Arc::new(AtomicU64::new(0));
            let seen = count.clone();
            let logger = Logger::new(LogLevel::Debug, move |_, _, _| {
                seen.fetch_add(1, Ordering::SeqCst);
                // With the same function as its logger, if it had one.
                let seen = seen.clone();
                let inner = Logger::new(LogLevel::Debug, move |_, _, _| {
                    seen.fetch_add(1000, Ordering::SeqCst);
                });
                start(blocking(2).logger(inner), Hooks::new(echo)).stop().unwrap();
            });
            start(config.logger(logger), Hooks::new(echo)).stop().unwrap();
            assert_eq!(count.load(Ordering::SeqCst), 3, "an address, the start, the stop");
        }
    });
}

/// LG6: A logger that panics harms nobody.
#[test]
fn a_panic_is_contained() {
    isolated(|| {
        for config in both_modes() {
            let logger = Logger::new(LogLevel::Info, |_, _, _| panic!("on purpose"));
            let server = start(config.logger(logger), Hooks::new(echo));
            Client::connect(&server).echo("hello");
            server.stop().unwrap();
            assert_eq!(server.stats().handler_errors, 0);
        }
    });
}

/// LG7: Lines come from the library's threads and from calls that block, and the logger is dropped
/// once, after the last line.
#[test]
fn dropped_once() {
    struct Last(Log<&'static str>);
    impl Drop for Last {
        fn drop(&mut self) {
            self.0.add("dropped");
        }
    }
    isolated(|| {
        for config in both_modes() {
            let (log, told) = events();
            let last = Last(log);
            let logger = Logger::new(LogLevel::Info, move |_, _, _| last.0.add("line"));
            let server = start(config.logger(logger), Hooks::new(echo));
            drop(server);
            eventually("it is dropped", || told.poll(ms(1)) == Some("dropped"));
            told.none();
        }
    });
}

/// LG8: A name with control characters makes no second line.
#[test]
fn a_line_is_one_line() {
    isolated(|| {
        let folder = Folder::new();
        let service = folder.service("a\nstarted\u{1b}[2J");
        let (logger, lines) = logging(LogLevel::Info);
        let config = non_blocking(1).logger(logger);
        let server = server_at(&service, config, Hooks::new(echo));
        server.start_background().unwrap();
        server.stop().unwrap();
        let lines = lines.drain();
        assert_eq!(lines.len(), 3, "{lines:?}");
        assert!(!lines.iter().any(|line| line.text.contains(char::is_control)), "{lines:?}");
    });
}

/// LG9: A child of the process that made the server is silent.
#[test]
fn silent_in_a_child() {
    isolated(|| {
        for config in both_modes() {
            let (logger, lines) = logging(LogLevel::Debug);
            let server = start(config.logger(logger), Hooks::new(echo));
            lines.drain();
            Child::doing(|| {
                assert_eq!(status(server.stop()), Status::State);
                free(&server);
                assert!(lines.drain().is_empty());
            })
            .succeeds();
            Client::connect(&server).echo("hello");
        }
    });
}

/// FK5, LG9: A child that returns from a logger ends on a thread of the library; in a start the call
/// fails in it. The parent's start and stop go on.
#[test]
fn a_child_that_returns_from_a_logger() {
    isolated(|| {
        for config in [blocking(2), non_blocking(2)] {
            let (log, lines) = events();
            let parent = std::process::id();
            let logger = Logger::new(LogLevel::Info, move |_, _, _| {
                if std::process::id() != parent {
                    exit_now(1);
                }
                if let Some(child) = Child::forked() {
                    child.succeeds();
                    log.add(());
                }
            });
            let server = unstarted(config.logger(logger), Hooks::new(echo));
            let started = server.start_background();
            if std::process::id() != parent {
                let failed = status(started) == Status::State;
                free(&server);
                exit_now((!failed).into());
            }
            started.unwrap();
            Client::connect(&server).echo("hello");
            server.stop().unwrap();
            assert_eq!(lines.drain().len(), 3, "an address, the start, the stop");
        }
    });
}
