//! The bound of all outbound queues together.

use crate::api::{CloseReason, Config, ConnId, Hooks, Server, Status};
use crate::support::*;
use std::sync::{Arc, Mutex};

/// The bound of these tests.
const TOTAL: usize = 1 << 20;
/// What TLS adds to it.
const ADDED: usize = if TLS { TOTAL / 100 } else { 0 };

fn bounded(loops: u32) -> Config {
    non_blocking(loops).send_limit_total(TOTAL).write_timeout(SOON)
}

/// A server of clients that do not read, and one of them with its id.
struct Full {
    server: Server,
    ids: Events<ConnId>,
}

impl Full {
    fn new(config: Config, hooks: Hooks) -> Full {
        let (hooks, ids) = hooks.telling_ids();
        Full { server: start(config, hooks), ids }
    }

    /// A client that does not read, until the total is used up.
    #[track_caller]
    fn fill(&self) -> (Client, ConnId) {
        let client = Client::small(&self.server).settled();
        let id = self.ids.next();
        self.fill_by(id);
        (client, id)
    }

    /// Sends until nothing more is taken, not even a byte.
    #[track_caller]
    fn fill_by(&self, id: ConnId) {
        eventually("the total is used up", || takes_nothing(&self.server, id));
    }

    /// Nothing is queued any more, for any connection: all of the bound is free.
    #[track_caller]
    fn expect_empty(&self) {
        let mut client = Client::connect(&self.server).settled();
        let id = self.ids.next();
        let whole = pattern(TOTAL);
        eventually("the whole bound is free", || self.server.send(id, &whole).is_ok());
        assert!(client.receive(TOTAL) == whole);
        let more = self.server.send(id, &pattern(TOTAL + 1));
        assert_eq!(status(more), Status::BufferFull, "never more than the bound");
    }
}

/// Sends once, as much as is taken. Returns whether that is not even a byte.
fn takes_nothing(server: &Server, id: ConnId) -> bool {
    let mut piece = TOTAL / 4;
    while piece > 0 {
        match server.send(id, &vec![7; piece]) {
            Ok(()) => return false,
            Err(error) => assert_eq!(error.status(), Status::BufferFull),
        }
        piece /= 2;
    }
    true
}

/// QT1: By id all queues together take no more than the bound, over all loops.
#[test]
fn one_bound_for_all() {
    isolated(|| {
        for loops in [1, 3] {
            let full = Full::new(bounded(loops), Hooks::new(echo));
            let held: Vec<_> = (0..3)
                .map(|_| {
                    let client = Client::small(&full.server).settled();
                    (client, full.ids.next())
                })
                .collect();
            held.iter().for_each(|(_, id)| {
                let _ = full.server.send(*id, &vec![7; TOTAL / 3]);
            });
            full.fill_by(held[0].1);
            let queued: usize = held.iter().map(|(_, id)| full.server.queued(*id).unwrap()).sum();
            assert!(queued <= TOTAL + ADDED, "{queued}");
            let ids: Vec<_> = held.iter().map(|(_, id)| *id).collect();
            assert_eq!(full.server.broadcast(&ids, &vec![7; TOTAL]).unwrap(), 0);
            drop(held);
            full.expect_empty();
        }
    });
}

/// QT2: Each end of a queue gives back exactly what it held: it leaves, or it is lost by a close, an
/// abort, a reset.
#[test]
fn every_end_gives_back_what_it_held() {
    isolated(|| {
        for loops in [1, 2] {
            let config = bounded(loops).linger_timeout(ms(50));
            let full = Full::new(config, Hooks::new(echo));
            for end in ["reads", "closes", "resets", "is closed", "is aborted"] {
                let (mut client, id) = full.fill();
                match end {
                    "reads" => {
                        full.server.close(id).unwrap();
                        client.drain().unwrap();
                    }
                    "closes" => drop(client),
                    "resets" => client.reset(),
                    "is closed" => {
                        full.server.close(id).unwrap();
                        client.reset();
                    }
                    _ => full.server.abort(id).unwrap(),
                }
                eventually("it has ended", || full.server.queued(id).is_err());
                full.expect_empty();
            }
        }
    });
}

/// QT2: A detached queue is the program's; an attached one counts again, whatever the total.
#[test]
fn a_detached_queue_does_not_count() {
    isolated(|| {
        let (log, owned) = events();
        let hooks = Hooks::new(echo)
            .on_wake(move |server: &Server, socket| Ok(log.add(server.detach(socket)?)));
        let full = Full::new(bounded(2), hooks);
        let (mut client, id) = full.fill();
        full.server.wake(id).unwrap();
        let socket = owned.next();
        full.expect_empty();
        let (second, second_id) = full.fill();
        let id = full.server.attach(socket).unwrap();
        let queued = |id| full.server.queued(id).unwrap();
        assert!(queued(id) + queued(second_id) > TOTAL);
        assert_eq!(status(full.server.send(id, b"x")), Status::BufferFull);
        full.server.close(id).unwrap();
        client.drain().unwrap();
        drop(second);
        full.expect_empty();
    });
}

/// QT3: A peer that reads is served although others have used the total up.
#[test]
fn who_reads_is_served() {
    isolated(|| {
        for loops in [1, 2] {
            let full = Full::new(bounded(loops), Hooks::new(echo));
            let (stuck, _) = full.fill();
            let mut client = Client::connect(&full.server).settled();
            full.ids.next();
            let word = "x".repeat(1000);
            for _ in 0..100 {
                client.echo(&word);
            }
            drop(stuck);
            full.expect_empty();
        }
    });
}

/// QT3: One that does not read is refused then, in its own callback too, and no connection ends by
/// that.
#[test]
fn who_does_not_read_is_refused() {
    isolated(|| {
        let (log, refused) = events();
        let hooks = Hooks::new(echo).on_wake(move |_, socket| {
            let mut sent = 0;
            while socket.send(&[7; 16 << 10]).is_ok() {
                sent += 16 << 10;
                assert!(sent < 64 << 20, "it has no end");
            }
            Ok(log.add(status(socket.send(&[7; 16 << 10]))))
        });
        let full = Full::new(bounded(1), hooks);
        let (mut stuck, stuck_id) = full.fill();
        let mut second = Client::small(&full.server).settled();
        let second_id = full.ids.next();
        full.server.wake(second_id).unwrap();
        assert_eq!(refused.next(), Status::BufferFull);
        // The rest of one message at most is beyond the bound.
        let queued = |id| full.server.queued(id).unwrap();
        assert!(queued(stuck_id) + queued(second_id) <= TOTAL + ADDED + (17 << 10));
        full.server.close(stuck_id).unwrap();
        full.server.close(second_id).unwrap();
        stuck.drain().unwrap();
        second.drain().unwrap();
        full.expect_empty();
    });
}

/// QT3: What a callback sends by id to a neighbour without a queue passes as a direct send does.
/// What another thread sends does not.
#[test]
fn to_a_neighbour() {
    isolated(|| {
        let ids = Arc::new(Mutex::new(None));
        let (log, sent) = events();
        let gate = Gate::new();
        let (targets, at_gate) = (ids.clone(), gate.clone());
        let hooks = Hooks::new(move |server: &Server, socket| {
            text(socket)?;
            let (stuck, reader): (ConnId, ConnId) = targets.lock().unwrap().expect("their ids");
            // Nothing of a queue leaves until this returns.
            while !takes_nothing(server, stuck) {}
            at_gate.wait();
            Ok(log.add(status(server.send(reader, &[7; 1000]))))
        });
        let full = Full::new(bounded(1), hooks);
        let _open = OpenOnDrop(gate.clone());
        let (stuck, stuck_id) = full.fill();
        let mut reader = Client::connect(&full.server).settled();
        let id = full.ids.next();
        *ids.lock().unwrap() = Some((stuck_id, id));
        let mut sender = Client::connect(&full.server).settled();
        full.ids.next();
        sender.send("go");
        gate.reached_by(1);
        assert_eq!(status(full.server.send(id, &[7; 1000])), Status::BufferFull);
        gate.open();
        assert_eq!(sent.next(), Status::Ok);
        assert_eq!(reader.receive(1000), [7; 1000]);
        drop(stuck);
        full.expect_empty();
    });
}

/// QT4: `on_drain` of a connection tells when its own queue has left, after which it may send again.
#[test]
fn on_drain_says_when_to_go_on() {
    isolated(|| {
        let (log, drained) = events();
        let hooks = Hooks::new(echo).on_drain(move |_, socket| {
            socket.send(b"more")?;
            Ok(log.add(()))
        });
        let full = Full::new(bounded(1), hooks);
        let (mut client, id) = full.fill();
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| client.drain().unwrap());
            drained.next();
            full.server.close(id).unwrap();
            assert!(reader.join().unwrap() > TOTAL / 2);
        });
        full.expect_empty();
    });
}

/// QT2: A stop with full queues ends as ever.
#[test]
fn a_stop_with_full_queues() {
    isolated(|| {
        let (hooks, reasons) = Hooks::new(echo).telling_reasons();
        let full = Full::new(bounded(2), hooks);
        let (client, _) = full.fill();
        cut(&full.server, ms(50));
        assert_eq!(reasons.next(), CloseReason::Cut);
        assert_settled(&full.server);
        drop(client);
    });
}
