//! Many connections that come to a loop together: those that wait for their `on_open`.

use super::adopt::adopted;
use crate::api::{ConnId, Hooks, Server};
use crate::support::*;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};

/// More than have their `on_open` in one turn, and in the next.
const COUNT: usize = 600;

/// Adopts many sockets in one task, of which the peers are gone, and then these.
fn adopt_many(server: &Server, ids: &Arc<Mutex<Vec<ConnId>>>, last: Vec<UnixStream>) {
    // Their peers are gone: the test needs no more descriptors than there may be.
    let ours = (last.len()..COUNT).map(|_| UnixStream::pair().unwrap().0);
    let all: Vec<_> = ours.chain(last).collect();
    let ids = ids.clone();
    let adopt_all = move |server: &Server| {
        let mut ids = ids.lock().unwrap();
        ids.extend(all.into_iter().map(|socket| adopted(server, socket)));
        Ok(())
    };
    server.post(0, adopt_all).unwrap();
}

/// C10, AD6, A11.2: The first callback of a connection that waits for its turn is `on_open`, also
/// where a callback of another connection has sent many bytes to it.
#[test]
fn many_bytes_for_one_that_waits() {
    isolated(|| {
        let ids: Arc<Mutex<Vec<ConnId>>> = Arc::default();
        let known = ids.clone();
        let is_last = move |id| known.lock().unwrap().iter().rev().take(2).position(|i| *i == id);
        let (log, calls) = events();
        let (on_input, on_open, on_drain) = (log.clone(), log.clone(), log);
        let (at_input, at_open, at_drain) = (is_last.clone(), is_last.clone(), is_last);
        let known = ids.clone();
        let hooks = Hooks::new(move |_, socket| {
            if let Some(which) = at_input(socket.id()) {
                on_input.add((which, "handler"));
            }
            Ok(socket.close())
        })
        .on_open(move |server, socket| {
            if let Some(which) = at_open(socket.id()) {
                on_open.add((which, "on_open"));
            }
            let ids = known.lock().unwrap();
            if socket.id() == ids[0] {
                for id in &ids[COUNT - 2..] {
                    server.send(*id, &pattern(64 << 10))?;
                }
            }
            Ok(())
        })
        .on_drain(move |_, socket| {
            if let Some(which) = at_drain(socket.id()) {
                on_drain.add((which, "on_drain"));
            }
            Ok(())
        });
        let server = start(non_blocking(1), hooks);
        let gone = UnixStream::pair().unwrap().0;
        let (ours, mut peer) = UnixStream::pair().unwrap();
        adopt_many(&server, &ids, vec![gone, ours]);
        let mut seen = calls.take(4);
        seen.sort_by_key(|(which, _)| *which);
        let expected = [(0, "on_open"), (0, "on_drain"), (1, "on_open"), (1, "handler")];
        assert_eq!(seen, expected);
        let mut bytes = vec![0; 64 << 10];
        peer.read_exact(&mut bytes).unwrap();
        assert!(bytes == pattern(64 << 10));
        drop(peer);
        wait_idle(&server);
    });
}

/// N5: An event that came before the `on_open` calls the handler for nothing that it has read
/// since.
#[test]
fn the_input_of_one_that_waits() {
    isolated(|| {
        let ids: Arc<Mutex<Vec<ConnId>>> = Arc::default();
        let (known, all) = (ids.clone(), ids.clone());
        let gate = Gate::new();
        let inside = gate.clone();
        let (log, reads) = events();
        let hooks = Hooks::new(move |_, socket| {
            let mut buffer = [0; 64];
            let read = socket.recv(&mut buffer).ok();
            if Some(&socket.id()) == all.lock().unwrap().last() {
                log.add(read);
            }
            Ok(if read == Some(0) {
                socket.close()
            })
        })
        .on_open(move |server, socket| {
            let ids = known.lock().unwrap();
            match socket.id() == ids[0] {
                true => server.wake(ids[COUNT - 1]),
                false => Ok(()),
            }
        })
        .on_wake(move |_, _| Ok(inside.wait()));
        let server = start(non_blocking(1), hooks);
        let (ours, mut peer) = UnixStream::pair().unwrap();
        peer.write_all(b"a").unwrap();
        adopt_many(&server, &ids, vec![ours]);
        gate.reached_by(1);
        peer.write_all(b"b").unwrap();
        gate.open();
        assert_eq!(reads.next(), Some(2));
        eventually("the others are gone", || server.stats().open == 1);
        reads.none();
        drop(peer);
        assert_eq!(reads.next(), Some(0));
        wait_idle(&server);
    });
}
