//! Clients that do not behave.

use super::random::Random;
use super::{pause, Shared};
use crate::support::*;
use std::io::{Read, Write};
use std::net::Shutdown;

/// Connects, does some random things, and goes, over and over.
pub fn client(port: u16, shared: &Shared, mut random: Random) {
    while !shared.is_over() {
        // Refused or reset immediately where the server stops meanwhile.
        let Ok(client) = Client::try_to(("127.0.0.1", port)) else {
            pause(&mut random);
            continue;
        };
        visit(client, shared, &mut random);
    }
}

fn visit(mut client: Client, shared: &Shared, random: &mut Random) {
    client.0.set_read_timeout(Some(ms(10))).unwrap();
    client.0.set_write_timeout(Some(ms(10))).unwrap();
    for _ in 0..random.below(12) {
        if shared.is_over() {
            break;
        }
        // Whatever the server did to the connection is fine.
        let gone = match random.below(10) {
            0..=4 => client.0.write(&vec![b'c'; 1 + random.below(2000)]).is_err(),
            5 => client.0.write(&vec![b'C'; 100_000]).is_err(),
            6..=7 => matches!(client.0.read(&mut [0; 4096]), Ok(0)),
            8 => client.0.shutdown(Shutdown::Write).is_err(),
            _ => {
                pause(random);
                false
            }
        };
        if gone && random.below(2) == 0 {
            break;
        }
    }
    if random.below(3) == 0 {
        client.reset();
    }
}
