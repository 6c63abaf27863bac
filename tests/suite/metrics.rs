//! The metrics: the text format, the numbers, and when they may be asked for.

use crate::api::{CloseReason, Hooks, Server, State, Status};
use crate::support::*;
use std::collections::HashMap;

use super::forks::Child;
use super::hosted::{host, hosted_with};

/// Checks the form of each line, and returns the values by their names with labels.
#[track_caller]
fn parsed(text: &str) -> HashMap<String, f64> {
    assert!(text.ends_with('\n'), "{text}");
    let mut lines = text.lines().peekable();
    let mut values = HashMap::new();
    while let Some(line) = lines.next() {
        let (name, help) = line.strip_prefix("# HELP ").unwrap().split_once(' ').unwrap();
        assert!(name.starts_with("netserver_") && help.ends_with('.'), "{line}");
        let kind = lines.next().unwrap().strip_prefix(&format!("# TYPE {name} ")).unwrap();
        assert_eq!(kind == "counter", name.ends_with("_total"), "{name} is a {kind}");
        while let Some(sample) = lines.next_if(|line| !line.starts_with('#')) {
            let (of, value) = sample.rsplit_once(' ').unwrap();
            assert_eq!(of.split('{').next(), Some(name), "{sample}");
            let value = value.parse().unwrap();
            assert_eq!(values.insert(of.to_owned(), value), None, "{sample} stands twice");
        }
    }
    values
}

fn of_threads(values: &HashMap<String, f64>, name: &str, threads: u32) -> f64 {
    (0..threads).map(|i| values[&format!("netserver_thread_{name}{{thread=\"{i}\"}}")]).sum()
}

/// MT1: The text has every counter of the statistics and of the threads, with those of closed
/// connections by their reasons.
#[test]
fn all_counters() {
    isolated(|| {
        for config in both_modes() {
            let (non_blocking, threads) = (config.non_blocking, config.max_thread);
            let hooks = Hooks::new(|server: &Server, socket| match text(socket)?.as_str() {
                "fail" => Err("on purpose".into()),
                _ => echo(server, socket),
            });
            let server = start(config, hooks);
            Client::connect(&server).saying("fail").expect_gone();
            let mut client = Client::connect(&server).settled();
            client.send("other");
            eventually("it is open", || server.stats().open == 1);
            eventually("one has ended", || server.stats().closed_total() == 1);
            let steady = || {
                let stats = server.stats();
                (stats.bytes_in, stats.bytes_out, stats.handler_errors)
            };
            // It is at rest when nothing has changed for a while.
            eventually("at rest", || {
                let before = steady();
                let_pass(ms(20));
                before == steady()
            });
            let (values, stats) = (parsed(&server.metrics()), server.stats());
            let expected = [
                ("state", State::Running as u64),
                ("threads", threads.into()),
                ("active_threads", 1),
                ("open_connections", 1),
                ("waiting_connections", 0),
                ("accepted_connections_total", 2),
                ("attached_connections_total", 0),
                ("adopted_connections_total", 0),
                ("refused_connections_total", 0),
                ("detached_connections_total", 0),
                ("drained_connections_total", 0),
                ("cut_connections_total", 0),
                ("received_bytes_total", stats.bytes_in),
                ("sent_bytes_total", stats.bytes_out),
                ("handler_errors_total", 1),
                ("peer_resets_total", 0),
                ("accept_errors_total", 0),
                ("tls_handshakes_total", if TLS { 2 } else { 0 }),
                ("tls_handshake_failures_total", 0),
                ("closed_connections_total{reason=\"error\"}", 1),
            ];
            for (name, value) in expected {
                assert_eq!(values[&format!("netserver_{name}")], value as f64, "{name}");
            }
            let reasons = (0..32).filter_map(CloseReason::from_code);
            for reason in reasons.filter(|reason| *reason != CloseReason::Error) {
                let name = reason.name();
                let of = format!("netserver_closed_connections_total{{reason=\"{name}\"}}");
                assert_eq!(values[&of], 0.0, "{name}");
            }
            assert_eq!(of_threads(&values, "accepted_connections_total", threads), 2.0);
            assert_eq!(of_threads(&values, "handler_errors_total", threads), 1.0);
            assert!(of_threads(&values, "handler_calls_total", threads) >= 2.0);
            let mode = if non_blocking { "non-blocking" } else { "blocking" };
            let version = net_server::VERSION;
            let info = format!("netserver_info{{mode=\"{mode}\",version=\"{version}\"}}");
            assert_eq!(values[&info], 1.0);
            assert!(values["netserver_uptime_seconds"] > 0.0);
        }
    });
}

/// MT2: In one text the open connections and the bytes of the threads add up to those of the
/// server, and no total goes back, while connections come and go.
#[test]
fn one_text_is_consistent() {
    isolated(|| {
        for config in both_modes() {
            let threads = config.max_thread;
            let server = start(config, Hooks::new(echo));
            std::thread::scope(|scope| {
                let traffic = scope.spawn(|| {
                    for _ in 0..100 {
                        Client::connect(&server).echo("hello");
                    }
                });
                let mut last = HashMap::new();
                while !traffic.is_finished() {
                    let values = parsed(&server.metrics());
                    for name in ["open_connections", "received_bytes_total", "sent_bytes_total"] {
                        let total = values[&format!("netserver_{name}")];
                        assert_eq!(of_threads(&values, name, threads), total, "{name}");
                    }
                    for (name, value) in &values {
                        let before = last.get(name).copied().unwrap_or(0.0);
                        assert!(!name.contains("_total") || *value >= before, "{name} went back");
                    }
                    last = values;
                }
            });
        }
    });
}

/// MT3: The text may be asked for before the start, in a callback, while the server stops and after
/// it; the counters stay.
#[test]
fn at_any_time() {
    isolated(|| {
        for config in both_modes() {
            let gate = Gate::new();
            let _open = OpenOnDrop(gate.clone());
            let (log, texts) = events();
            let inside = gate.clone();
            let hooks = Hooks::new(move |server: &Server, socket| {
                log.add(server.metrics());
                inside.wait();
                socket.close();
                Ok(())
            });
            let server = unstarted(config, hooks);
            let state = |text: &str| parsed(text)["netserver_state"];
            assert_eq!(state(&server.metrics()), State::New as i32 as f64);
            assert!(!server.metrics().contains("{thread="));
            server.start_background().unwrap();
            let mut client = Client::connect(&server).saying("x");
            assert_eq!(state(&texts.next()), State::Running as i32 as f64);
            while_stopping(&server, || {
                assert_eq!(state(&server.metrics()), State::Stopping as i32 as f64);
                gate.open();
                client.expect_gone();
            });
            let values = parsed(&server.metrics());
            assert_eq!(values["netserver_state"], State::Stopped as i32 as f64);
            assert_eq!(values["netserver_accepted_connections_total"], 1.0);
        }
    });
}

/// MT3: So may that of a hosted server. In a child of fork(3) it is empty.
#[test]
fn hosted_and_forked() {
    isolated(|| {
        let server = hosted_with(non_blocking(1), Hooks::new(echo));
        host(&server, || Client::connect(&server).echo("hello"));
        assert_eq!(parsed(&server.metrics())["netserver_accepted_connections_total"], 1.0);
        Child::doing(|| assert_eq!(server.metrics(), "")).succeeds();
        server.stop().unwrap();
    });
}

/// MT6: A peer's reset that a handler passes on is counted by itself, in both modes, and not among
/// the failures of handlers (X16).
#[test]
fn peer_resets() {
    isolated(|| {
        for config in both_modes() {
            let (arrived, input) = events();
            let hooks = Hooks::new(move |_, socket| loop {
                match text(socket)?.as_str() {
                    "own" => return Err(Status::Reset.into()),
                    "" => return Ok(socket.close()),
                    _ => arrived.add(()),
                }
            });
            let server = start(config, hooks);
            for _ in 0..3 {
                let client = Client::connect(&server).saying("x");
                input.next();
                client.reset();
                wait_idle(&server);
            }
            Client::connect(&server).saying("own").expect_gone();
            wait_idle(&server);
            let (values, stats) = (parsed(&server.metrics()), server.stats());
            assert_eq!((stats.peer_resets, stats.handler_errors), (3, 1));
            assert_eq!(values["netserver_peer_resets_total"], 3.0);
            assert!(server.report().contains("handler errors 1, peer resets 3, "));
        }
    });
}
