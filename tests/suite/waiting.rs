//! Connections that wait for a worker.

use crate::api::{CloseReason, Hooks, Server, Status};
use crate::support::*;

/// A handler that stands at a gate and says who was served.
fn served_behind(gate: &Gate) -> (Hooks, Events<String>) {
    let (log, order) = events();
    let gate = gate.clone();
    let hooks = Hooks::new(move |_, socket| {
        let name = text(socket)?;
        log.add(name);
        gate.wait();
        socket.send(b"served")
    });
    (hooks, order)
}

fn named(server: &Server, name: &str) -> Client {
    Client::connect(server).saying(name)
}

/// Has both workers stand at the gate: whoever comes next must wait.
#[track_caller]
fn keep_busy(server: &Server, gate: &Gate) -> Vec<Client> {
    let busy = ["0", "1"].map(|name| named(server, name)).into();
    gate.reached_by(2);
    busy
}

#[track_caller]
fn let_finish(gate: &Gate, clients: Vec<Client>) {
    gate.open();
    for mut client in clients {
        client.expect_last("served");
    }
}

/// W10: Connections that wait are served in the order in which they came.
#[test]
fn first_in_first_out() {
    isolated(|| {
        let (log, order) = events();
        let (held, gate) = (Gate::new(), Gate::new());
        let (held_inside, inside) = (held.clone(), gate.clone());
        let hooks = Hooks::new(move |_, socket| {
            let name = text(socket)?;
            match name.as_str() {
                "held" => held_inside.wait(),
                _ => inside.wait(),
            }
            log.add(name);
            socket.send(b"served")
        });
        let server = start(blocking(2), hooks);
        // One worker is held, so that the other goes through the queue alone.
        let mut clients = vec![named(&server, "held"), named(&server, "busy")];
        held.reached_by(1);
        gate.reached_by(1);
        for i in 0..8 {
            clients.push(named(&server, &format!("{i}")));
            eventually("it waits", || server.stats().waiting == i + 1);
        }
        gate.open();
        assert_eq!(order.take(9), ["busy", "0", "1", "2", "3", "4", "5", "6", "7"]);
        held.open();
        for client in &mut clients {
            client.expect_last("served");
        }
        wait_idle(&server);
    });
}

/// W11: A connection that waits is served as soon as a worker is free, because nothing polls.
#[test]
fn served_the_moment_a_worker_is_free() {
    isolated(|| {
        let gate = Gate::new();
        let (hooks, _order) = served_behind(&gate);
        let config = blocking(2).max_retry(10).retry_interval(ms(10_000));
        let server = start(config, hooks);
        let clients = (0..3).map(|i| named(&server, &format!("{i}"))).collect();
        gate.reached_by(2);
        eventually("one waits", || server.stats().waiting == 1);
        let clock = Stopwatch::start();
        let_finish(&gate, clients);
        clock.at_once();
        assert_eq!(server.stats().refused, 0);
    });
}

/// W12: After `max_retry` × `retry_interval`, and not earlier, a connection is refused: the
/// exception handler gets NS_ERR_REJECTED and a socket that is still open.
#[test]
fn refused_after_the_retries() {
    isolated(|| {
        let gate = Gate::new();
        let (hooks, order) = served_behind(&gate);
        let (log, errors) = events();
        let (close_log, closes) = events();
        let hooks = hooks
            .on_exception(move |_, socket, error| {
                let socket = socket.expect("a socket");
                socket.send(b"too busy")?;
                log.add((error.status(), socket.is_closed(), socket.peer().is_some()));
                Ok(())
            })
            .on_close(move |_, _, reason| close_log.add(reason));
        let server = start(blocking(2).max_retry(3).retry_interval(ms(100)), hooks);
        let busy = keep_busy(&server, &gate);
        let clock = Stopwatch::start();
        let mut client = Client::connect(&server);
        client.expect_last("too busy");
        clock.kept(ms(300));
        assert_eq!(errors.next(), (Status::Rejected, false, true));
        eventually("it is counted", || server.stats().refused == 1);
        let stats = server.stats();
        assert_eq!((stats.waiting, stats.closed[CloseReason::Rejected as usize]), (0, 1));
        assert_balanced(&server);
        let_finish(&gate, busy);
        assert_eq!(order.drain().len(), 2, "it was never served");
        wait_idle(&server);
        // A refused connection never reached on_open.
        assert_eq!(closes.drain().len(), 2);
    });
}

/// W13: A refused client that has already sent something gets the answer.
#[test]
fn a_refusal_is_not_lost_to_a_reset() {
    isolated(|| {
        let gate = Gate::new();
        let (hooks, _order) = served_behind(&gate);
        let hooks = hooks.on_exception(|_, socket, _| socket.unwrap().send(b"too busy"));
        let server = start(blocking(2).max_retry(1).retry_interval(ms(50)), hooks);
        let busy = keep_busy(&server, &gate);
        for _ in 0..5 {
            let mut client = named(&server, &"a request ".repeat(1000));
            client.expect_last("too busy");
        }
        let_finish(&gate, busy);
    });
}

/// W14: Without an exception handler a refused connection is just closed.
#[test]
fn refused_without_an_exception_handler() {
    isolated(|| {
        let gate = Gate::new();
        let (hooks, _order) = served_behind(&gate);
        let server = start(blocking(2).max_retry(1).retry_interval(ms(50)), hooks);
        let _busy = keep_busy(&server, &gate);
        Client::connect(&server).expect_end();
        eventually("it is counted", || server.stats().refused == 1);
        gate.open();
    });
}

/// W14: An exception handler that fails or panics on a refusal is contained.
#[test]
fn a_failing_exception_handler_on_a_refusal() {
    isolated(|| {
        let gate = Gate::new();
        let (hooks, _order) = served_behind(&gate);
        let hooks =
            hooks.on_exception(|_, socket, _| match socket.expect("a socket").id().get() % 2 {
                0 => Err("failed".into()),
                _ => panic!("on purpose"),
            });
        let server = start(blocking(2).max_retry(1).retry_interval(ms(30)), hooks);
        let busy = keep_busy(&server, &gate);
        for _ in 0..4 {
            Client::connect(&server).expect_gone();
        }
        let_finish(&gate, busy);
        wait_idle(&server);
        assert_eq!(server.stats().refused, 4);
    });
}

/// W15: With `max_retry` 0 nobody waits.
#[test]
fn no_retries_refuse_at_once() {
    isolated(|| {
        let gate = Gate::new();
        let (hooks, _order) = served_behind(&gate);
        let server = start(blocking(2).max_retry(0).retry_interval(ms(20_000)), hooks);
        let _busy = keep_busy(&server, &gate);
        let clock = Stopwatch::start();
        Client::connect(&server).expect_gone();
        clock.at_once();
        gate.open();
    });
}

/// W16: Accepting goes on while connections wait; beyond `max_waiting` they are refused
/// immediately.
#[test]
fn beyond_max_waiting_refused_at_once() {
    isolated(|| {
        let gate = Gate::new();
        let (hooks, _order) = served_behind(&gate);
        let (log, errors) = events();
        let hooks = hooks.on_exception(move |_, socket, error| {
            log.add(error.status());
            socket.unwrap().send(b"queue is full")
        });
        let config = blocking(2).max_retry(10).retry_interval(ms(10_000)).max_waiting(2);
        let server = start(config, hooks);
        let mut served = keep_busy(&server, &gate);
        served.extend((2..4).map(|i| named(&server, &format!("{i}"))));
        eventually("two wait", || server.stats().waiting == 2);
        let clock = Stopwatch::start();
        for _ in 0..3 {
            Client::connect(&server).expect_last("queue is full");
        }
        clock.at_once();
        assert_eq!(errors.take(3), [Status::Rejected; 3]);
        assert_eq!(server.stats().waiting, 2);
        let_finish(&gate, served);
        wait_idle(&server);
        assert_eq!(server.stats().refused, 3);
    });
}

/// W12: Each connection that waits is refused at its own deadline.
#[test]
fn several_deadlines_are_kept() {
    isolated(|| {
        let gate = Gate::new();
        let (hooks, _order) = served_behind(&gate);
        let server = start(blocking(2).max_retry(1).retry_interval(ms(250)), hooks);
        let _busy = keep_busy(&server, &gate);
        std::thread::scope(|scope| {
            for i in 0..4 {
                let server = &server;
                scope.spawn(move || {
                    // Spread over one interval.
                    let_pass(ms(60 * i));
                    let clock = Stopwatch::start();
                    Client::connect(server).expect_gone();
                    clock.kept(ms(250));
                });
            }
        });
        eventually("they are counted", || server.stats().refused == 4);
        gate.open();
    });
}

/// W17: A client that goes away while it waits costs nothing but its place.
#[test]
fn a_waiting_client_may_leave() {
    isolated(|| {
        let gate = Gate::new();
        let (hooks, _order) = served_behind(&gate);
        let server = start(blocking(2), hooks);
        let busy = keep_busy(&server, &gate);
        Client::connect(&server).reset();
        drop(Client::connect(&server));
        eventually("two wait", || server.stats().waiting == 2);
        let_finish(&gate, busy);
        wait_idle(&server);
        named(&server, "later").expect_last("served");
    });
}
