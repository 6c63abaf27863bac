//! Statistics and the report.

use crate::api::{CloseReason, Hooks, Server, State};
use crate::support::*;

/// J1: State, mode, threads and ports are right at each point of a server's life.
#[test]
fn state_and_ports() {
    isolated(|| {
        for config in both_modes() {
            let (mode, threads) = (config.non_blocking, config.max_thread);
            let server = unstarted(config.shutdown_port("0"), Hooks::new(echo));
            let stats = server.stats();
            assert_eq!((stats.state, stats.port, stats.accepted), (State::New, 0, 0));
            assert!(stats.uptime.is_zero());
            server.start_background().unwrap();
            let clock = Stopwatch::start();
            let stats = server.stats();
            assert_eq!((stats.state, stats.non_blocking), (State::Running, mode));
            assert_eq!((stats.threads, stats.port), (threads, server.port()));
            assert_eq!(stats.shutdown_port, server.shutdown_port());
            eventually("time passes", || server.stats().uptime > stats.uptime + ms(10));
            assert!(server.stats().uptime <= clock.elapsed() + late());
            server.stop().unwrap();
            let stats = server.stats();
            assert_eq!((stats.state, stats.active_threads), (State::Stopped, 0));
        }
    });
}

/// J2: The totals count connections and bytes.
#[test]
fn totals() {
    isolated(|| {
        for config in both_modes() {
            let server = start(config, Hooks::new(echo));
            for _ in 0..5 {
                let mut client = Client::connect(&server);
                client.echo("0123456789");
                client.echo("0123456789");
                client.finish_sending();
                client.expect_end();
            }
            wait_idle(&server);
            let stats = server.stats();
            assert_eq!(stats.accepted, 5);
            assert_bytes(stats.bytes_in, 100, 5);
            assert_bytes(stats.bytes_out, 100, 5);
            assert_eq!(stats.closed[CloseReason::Peer as usize], 5);
            assert_eq!((stats.refused, stats.handler_errors, stats.accept_errors), (0, 0, 0));
            let handshakes = if TLS { 5 } else { 0 };
            assert_eq!((stats.handshakes, stats.handshake_failures), (handshakes, 0));
        }
    });
}

/// J3: Per-thread numbers add up to the totals, in both modes.
#[test]
fn threads_add_up() {
    isolated(|| {
        for config in both_modes() {
            let server = start(config, Hooks::new(echo));
            let mut clients: Vec<_> = (0..4).map(|_| Client::connect(&server)).collect();
            for client in &mut clients {
                client.echo("hello");
            }
            let all = || (0..).map_while(|i| server.thread_stats(i)).collect::<Vec<_>>();
            eventually("four are active", || all().iter().map(|t| t.active).sum::<u64>() == 4);
            assert_eq!(server.stats().open, 4);
            for (i, thread) in all().iter().enumerate() {
                assert_eq!(thread.index as usize, i);
            }
            for client in &mut clients {
                client.finish_sending();
                client.expect_end();
            }
            wait_idle(&server);
            let (all, stats) = (all(), server.stats());
            assert_eq!(all.iter().map(|t| t.active).sum::<u64>(), 0);
            assert_eq!(all.iter().map(|t| t.accepted).sum::<u64>(), stats.accepted);
            assert_eq!(all.iter().map(|t| t.bytes_in).sum::<u64>(), stats.bytes_in);
            assert_eq!(all.iter().map(|t| t.bytes_out).sum::<u64>(), stats.bytes_out);
            assert!(all.iter().map(|t| t.calls).sum::<u64>() >= 4);
        }
    });
}

/// J4: The report has its fixed lines, in both modes.
#[test]
fn the_report_has_the_known_lines() {
    isolated(|| {
        for config in both_modes() {
            let threads = config.max_thread;
            let server = start(config, Hooks::new(echo));
            let mut client = Client::connect(&server);
            client.echo("hello");
            let report = server.report();
            let has = |line: &str| report.lines().any(|l| l == line);
            assert!(has(&format!("Total thread count: {threads}")), "{report}");
            assert!(has("Active thread count: 1"), "{report}");
            let shown = report.lines().filter(|l| l.starts_with("  Thread #")).count();
            assert!(shown >= 1 && shown <= threads as usize, "{report}");
            assert!(has("    - active sockets 1"), "{report}");
        }
    });
}

/// J5: At rest accepted + attached + adopted = open + waiting + closed + detached, whatever
/// happened.
#[test]
fn the_accounts_balance() {
    isolated(|| {
        for config in both_modes() {
            let non_blocking = config.non_blocking;
            let hooks = Hooks::new(move |server: &Server, socket| {
                match text(socket)?.as_str() {
                    "" | "close" => socket.close(),
                    "abort" => socket.abort(),
                    "fail" => return Err("failed".into()),
                    "panic" => panic!("on purpose"),
                    "detach" if non_blocking => drop(server.detach(socket)?),
                    "back" if non_blocking => {
                        let owned = server.detach(socket)?;
                        server.attach(owned).map_err(|failure| failure.error)?;
                    }
                    _ => {}
                }
                Ok(())
            });
            let server = start(config.drain_timeout(ms(50)), hooks);
            let mut open = Vec::new();
            for word in ["close", "abort", "fail", "panic", "detach", "back", "stay", "reset"] {
                for _ in 0..3 {
                    let mut client = Client::connect(&server).saying(word);
                    match word {
                        "stay" | "back" if non_blocking => open.push(client),
                        "reset" => client.reset(),
                        _ => client.expect_gone(),
                    }
                }
            }
            eventually("all have come", || server.stats().accepted == 24);
            eventually("at rest", || server.stats().open == open.len() as u64);
            assert_balanced(&server);
            server.stop().unwrap();
            assert_settled(&server);
        }
    });
}

/// J6: Refused connections are in the statistics.
#[test]
fn refused_connections_are_counted() {
    isolated(|| {
        let gate = Gate::new();
        let config = blocking(2).max_retry(1).retry_interval(ms(30));
        let server = start(config, answer_behind(&gate));
        let mut clients: Vec<_> = (0..5).map(|_| Client::connect(&server)).collect();
        eventually("three are refused", || server.stats().refused == 3);
        gate.open();
        for client in &mut clients {
            client.expect_gone();
        }
        wait_idle(&server);
        let stats = server.stats();
        assert_eq!((stats.accepted, stats.closed_total()), (5, 5));
        assert_eq!(stats.closed[CloseReason::Rejected as usize], 3);
    });
}

/// J6: Totals never go back: a refused connection stays counted while its exception handler runs.
#[test]
fn a_refused_connection_stays_counted() {
    isolated(|| {
        let (busy, refusing) = (Gate::new(), Gate::new());
        let (inside, at_exception) = (busy.clone(), refusing.clone());
        let hooks = Hooks::new(move |_, _| {
            inside.wait();
            Ok(())
        })
        .on_exception(move |_, _, _| {
            at_exception.wait();
            Ok(())
        });
        let server = start(blocking(2).max_retry(1).retry_interval(ms(50)), hooks);
        let _clients: Vec<_> = (0..3).map(|_| Client::connect(&server)).collect();
        eventually("one waits", || server.stats().waiting == 1);
        assert_eq!(server.stats().accepted, 3);
        refusing.reached_by(1);
        assert_eq!(server.stats().accepted, 3, "{:?}", server.stats());
        refusing.open();
        eventually("it is counted", || server.stats().refused == 1);
        busy.open();
        wait_idle(&server);
        assert_eq!(server.stats().accepted, 3);
    });
}

/// J7: The snapshot may be taken at any moment, from any thread.
#[test]
fn snapshots_while_things_happen() {
    isolated(|| {
        for config in both_modes() {
            let server = start(config, Hooks::new(echo));
            std::thread::scope(|scope| {
                let traffic = scope.spawn(|| {
                    for _ in 0..100 {
                        Client::connect(&server).echo("hello");
                    }
                });
                let mut last = 0;
                while !traffic.is_finished() {
                    let stats = server.stats();
                    assert!(stats.accepted >= last, "a total went back");
                    last = stats.accepted;
                    assert!(server.report().contains("Total thread count:"));
                    assert!((0..8).any(|i| server.thread_stats(i).is_some()));
                }
            });
        }
    });
}
