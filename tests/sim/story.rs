//! What is known of each link: what both sides said, heard and did. The judge compares it.

use net_server::ConnId;

use crate::random::Random;

/// How the handler serves a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    Echo,
    Reply,
    /// It sends from the beginning, and goes on when its queue has left.
    Push,
    Sink,
}

pub struct Story {
    pub link: u32,
    /// The keys of the bytes to the server and to the client.
    pub up: u64,
    pub down: u64,
    pub mode: Mode,
    /// Bytes that the library has accepted for the client; that it may have sent.
    pub accepted: u64,
    pub tried: u64,
    /// Bytes that were accepted before STARTTLS, once that was asked for.
    pub clear_down: Option<u64>,
    /// Its handshake was over when it ended.
    pub has_tls: bool,
    /// Bytes that the handler has got.
    pub delivered: u64,
    /// A blocking send failed: an unknown part of it has left.
    pub is_unknown: bool,
    /// `on_drain` must come: a file was not accepted whole.
    pub wants_drain: bool,
    pub drain_stuck: Option<u64>,
    pub push_left: u64,
    pub id: Option<ConnId>,
    pub opened: bool,
    /// The program has connected, or has given the server a socket of its own.
    pub is_brought: bool,
    pub must_connect_by: Option<u64>,
    pub connect_failed: bool,
    /// It has failed before it began.
    pub has_no_start: bool,
    /// The reason, and when it was told.
    pub closed: Option<(i32, u64)>,
    pub is_detached: bool,
    /// The program has dropped the socket that it owned.
    pub is_dropped: bool,
    pub was_detached: bool,
    pub is_paused: bool,
    pub saw_end: bool,
    pub saw_error: bool,
    pub shut_read: bool,
    pub shut_write: bool,
    pub asked_close: bool,
    pub asked_abort: bool,
    pub failed: bool,
    pub asked_wake: bool,
    /// The last call of the handler did not read all.
    pub read_less: bool,
    /// Bytes that had arrived when the handler chose to leave them.
    pub left_at: Option<u64>,
    /// Another callback may have taken the input.
    pub took_elsewhere: bool,
    /// When the timer is due, at the earliest and at the latest.
    pub timer: Option<(u64, u64)>,
    /// Since when it has seemed to be stuck.
    pub input_stuck: Option<u64>,
    pub output_stuck: Option<u64>,
    pub place_stuck: Option<u64>,
    /// The peer's FIN had come when `on_close` was called.
    pub ended_before_close: bool,
}

impl Story {
    pub fn new(link: u32, random: &mut Random) -> Story {
        Story {
            link,
            up: random.next(),
            down: random.next(),
            mode: random.one_of(&[Mode::Echo, Mode::Echo, Mode::Reply, Mode::Push, Mode::Sink]),
            accepted: 0,
            tried: 0,
            clear_down: None,
            has_tls: false,
            delivered: 0,
            is_unknown: false,
            wants_drain: false,
            drain_stuck: None,
            push_left: random.one_of(&[0, 1_000, 100_000, 1_000_000]),
            id: None,
            opened: false,
            is_brought: false,
            must_connect_by: None,
            connect_failed: false,
            has_no_start: false,
            closed: None,
            is_detached: false,
            is_dropped: false,
            was_detached: false,
            is_paused: false,
            saw_end: false,
            saw_error: false,
            shut_read: false,
            shut_write: false,
            asked_close: false,
            asked_abort: false,
            failed: false,
            asked_wake: false,
            read_less: false,
            left_at: None,
            took_elsewhere: false,
            timer: None,
            input_stuck: None,
            output_stuck: None,
            place_stuck: None,
            ended_before_close: false,
        }
    }

    /// A send by id may succeed now.
    pub fn takes_bytes(&self) -> bool {
        self.is_open() || (self.is_brought && !self.opened && !self.connect_failed)
    }

    /// It is a connection of the server now.
    pub fn is_open(&self) -> bool {
        self.opened && self.closed.is_none() && !self.is_detached
    }
}

fn byte(key: u64, at: u64) -> u8 {
    let x = (at ^ key).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (x >> 56) as u8
}

/// The bytes of a stream from a place on.
pub fn pattern(key: u64, from: u64, count: usize) -> Vec<u8> {
    (from..from + count as u64).map(|at| byte(key, at)).collect()
}

pub fn matches(key: u64, from: u64, bytes: &[u8]) -> bool {
    bytes.iter().zip(from..).all(|(found, at)| *found == byte(key, at))
}
