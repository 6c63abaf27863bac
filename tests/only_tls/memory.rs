//! Handshakes for which there is no memory.

use super::*;
use crate::suite::memory::{while_served, By};

/// M9.3: A handshake for whose queue, or for whose place, there is no memory fails; the next one
/// does not.
#[test]
fn a_handshake_without_a_place() {
    isolated(|| {
        for by in [By::Itself, By::Host] {
            // The first allocation is for the queue, the second one for the place.
            for number in 0..2 {
                let (hooks, told) = telling();
                while_served(by, non_blocking(1), hooks, |server| {
                    without_a_place(number, server, &told);
                });
            }
        }
    });
}

fn without_a_place(number: usize, server: &Server, told: &Events<(&'static str, Status)>) {
    // No ClientHello: the loop has its buffer after these, and their places are used up.
    for _ in 0..4 {
        drop(raw_saying(server, "no TLS at all"));
        assert_eq!(told.next(), ("exception", Status::Handshake));
    }
    wait_idle(server);
    let mut tcp = raw(server);
    let (_, hello) = by_hand();
    eventually("the loop waits", others_sleep);
    let failed = fail_allocation(number, || {
        tcp.write_all(&hello).unwrap();
        eventually("it has failed", || server.stats().handshake_failures == 5);
    });
    assert!(failed);
    assert_eq!(told.next(), ("exception", Status::NoMemory));
    // The end, and no byte.
    assert_eq!(tcp.read(&mut [0]).unwrap_or(0), 0);
    drop(tcp);
    wait_idle(server);
    Client::connect(server).echo("served");
    wait_idle(server);
}
