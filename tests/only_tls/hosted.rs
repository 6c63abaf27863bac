//! Handshakes on a hosted server, whose host watches only the descriptor.

use super::{by_hand, raw_saying, telling, under_way};
use crate::api::Status;
use crate::suite::hosted::{come_to_rest, host, hosted_with, is_readable, turns_until};
use crate::support::*;

/// HS6, A8.3: A client that waits for a place gets that of a silent one in time.
#[test]
fn the_silent_give_their_places_up() {
    isolated(|| {
        let (hooks, told) = telling();
        let server = hosted_with(non_blocking(1).max_handshakes(1), hooks);
        let clock = Stopwatch::start();
        let silent = host(&server, || {
            let silent = raw_saying(&server, &by_hand().1);
            under_way(&silent);
            silent
        });
        host(&server, || Client::connect(&server).echo("after all"));
        clock.kept(ms(1900));
        let failed = told.drain().into_iter().find(|(what, _)| *what == "exception");
        assert_eq!(failed, Some(("exception", Status::Timeout)));
        drop(silent);
        server.stop().unwrap();
    });
}

/// HS6: A handshake ends at its deadline, and nothing is to be done before.
#[test]
fn a_handshake_ends_in_time() {
    isolated(|| {
        let (hooks, told) = telling();
        let server = hosted_with(non_blocking(1).handshake_timeout(ms(2000)), hooks);
        let clock = Stopwatch::start();
        let clients = [0, 10, by_hand().1.len()].map(|n| raw_saying(&server, &by_hand().1[..n]));
        turns_until(&server, "three", || server.stats().open == 3);
        come_to_rest(&server);
        assert!(!is_readable(server.poll_fd().unwrap(), ms(50)), "nothing is to be done");
        turns_until(&server, "the deadlines", || server.stats().handshake_failures == 3);
        clock.kept(ms(2000));
        assert_eq!(told.drain(), [("exception", Status::Timeout); 3]);
        drop(clients);
        server.stop().unwrap();
    });
}

/// HS10: A stop on the host's thread ends the handshakes, also those that wait for a place.
#[test]
fn a_stop_during_handshakes() {
    isolated(|| {
        let (hooks, told) = telling();
        let server = hosted_with(non_blocking(1).max_handshakes(1), hooks);
        let hello = by_hand().1;
        let _clients = [0, 10, hello.len(), hello.len()].map(|n| raw_saying(&server, &hello[..n]));
        turns_until(&server, "four", || server.stats().open == 4);
        come_to_rest(&server);
        let clock = Stopwatch::start();
        server.stop().unwrap();
        clock.at_once();
        assert_eq!(server.stats().open, 0);
        told.none();
    });
}
