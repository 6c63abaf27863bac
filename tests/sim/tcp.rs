//! The simulated TCP: a link is a connection, with the server's side (0) and the client's (1). It
//! has no segments that get lost: what the network does to a program is in the delays, the sizes
//! and the ends. `sock_*` are what a program may do with its side, `on_*` what arrives at a side.
//! It follows tcp(7) and Linux, whose functions the comments name.

use std::collections::VecDeque;

use crate::dial::Remote;
use crate::files::{ERR, HUP, IN, INPUT, OUT, RDHUP};
use crate::local::LOCAL;
use crate::world::{Event, World, MILLI, SECOND};

/// The end of a side's sending.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Fin {
    #[default]
    No,
    Queued,
    Sent,
    Acked,
}

#[derive(Default, Debug)]
pub struct Side {
    pub unsent: VecDeque<u8>,
    /// Sent, and not yet arrived.
    flight: VecDeque<u8>,
    /// How many bytes were sent that the peer's kernel has not acknowledged.
    pub unacked: usize,
    pub send_buffer: usize,
    /// The sender has met a full buffer (`SOCK_NOSPACE`).
    wants_room: bool,
    pub fin: Fin,
    pub input: VecDeque<u8>,
    pub receive_buffer: usize,
    /// The peer's FIN has come (`SOCK_DONE`, `RCV_SHUTDOWN`).
    pub fin_came: bool,
    /// `sk_err`: told once.
    pub error: i32,
    /// The state is CLOSE by a reset.
    pub is_dead: bool,
    /// disconnect(2) was called: nothing is shut, nothing is connected.
    pub is_unconnected: bool,
    /// No program has it any more.
    pub is_closed: bool,
    /// Nothing arrives here and nothing leaves.
    pub is_vanished: bool,
    /// It is a unix socket: `local.rs`.
    pub is_local: bool,
    pub arrived: u64,
    pub arrived_at: u64,
    /// When the program last read or sent bytes, or some were acknowledged.
    pub active_at: u64,
    /// The same without acknowledgements.
    pub used_at: u64,
    /// The same without input.
    pub progress_at: u64,
    /// When the program last read bytes.
    pub read_at: u64,
    /// How much the program last sent, and what `last_activity` was before that.
    pub last_send: (usize, u64),
    /// The kernel did not take all of it.
    is_cut_short: bool,
    delay: u64,
    last_arrival: u64,
    window_is_due: bool,
}

#[derive(Debug)]
pub struct Link {
    pub client: u32,
    pub sides: [Side; 2],
    /// The server's descriptor.
    pub file: Option<u32>,
    pub segment: usize,
    pub is_accepted: bool,
    pub accepted_at: u64,
    pub is_connected: bool,
    pub tries: u32,
    pub remote: Remote,
    /// When the server's connect was answered.
    pub decided_at: Option<u64>,
}

impl Side {
    /// Both directions have ended in order.
    fn has_ended(&self) -> bool {
        self.fin == Fin::Acked && self.fin_came
    }

    /// After its own end, or a reset, a side only discards.
    pub fn note_use(&mut self, now: u64) {
        if self.fin == Fin::No && !self.is_dead {
            (self.active_at, self.used_at) = (now, now);
        }
    }

    pub fn note_progress(&mut self, now: u64) {
        if self.fin == Fin::No {
            (self.active_at, self.progress_at) = (now, now);
        }
    }

    /// When the last acknowledgement came is not known where nothing is left to acknowledge.
    pub fn last_activity(&self) -> u64 {
        if self.used() > 0 {
            self.active_at
        } else {
            self.used_at
        }
    }

    pub fn used(&self) -> usize {
        self.unsent.len() + self.unacked
    }

    pub fn room(&self) -> usize {
        self.send_buffer.saturating_sub(self.used())
    }

    /// Of a call that sends `total` bytes the kernel takes `count`.
    pub fn note_send(&mut self, total: usize, count: usize) {
        let (earlier, before) = self.last_send;
        let goes_on = std::mem::replace(&mut self.is_cut_short, count < total) && earlier > total;
        self.last_send = (total, if goes_on { before } else { self.last_activity() });
    }

    /// `sk_stream_is_writeable`, `unix_writable`.
    pub fn is_writable(&self) -> bool {
        if self.is_local {
            return 4 * self.used() <= self.send_buffer;
        }
        self.room() >= self.used() / 2 && self.room() > 0
    }

    /// SIOCOUTQ.
    pub fn outstanding(&self) -> usize {
        self.used() + usize::from(matches!(self.fin, Fin::Queued | Fin::Sent))
    }

    /// The state of RFC 9293, as TCP_INFO has it.
    pub fn state(&self) -> u8 {
        match (self.fin, self.fin_came) {
            _ if self.is_dead || self.has_ended() => 7,
            (Fin::No, false) => 1,
            (Fin::No, true) => 8,
            (Fin::Acked, false) => 5,
            (_, false) => 4,
            // LAST_ACK and CLOSING.
            (_, true) => 9,
        }
    }
}

impl World {
    pub fn new_link(&mut self, client: u32) -> u32 {
        let buffers = [600, 2_500, 16 << 10, 64 << 10, 200 << 10];
        let is_local = self.clients[client as usize].port == LOCAL;
        let side = |world: &mut World| Side {
            send_buffer: world.random.one_of(&buffers),
            receive_buffer: world.random.one_of(&buffers),
            delay: world.random.one_of(&[20_000, 200_000, 5 * MILLI, 60 * MILLI]),
            is_local,
            ..Side::default()
        };
        let sides = [side(self), side(self)];
        let segment = self.random.one_of(&[7, 536, 1460, 1460, 16 << 10, 64 << 10]);
        let segment = segment.max(sides[0].send_buffer.max(sides[1].send_buffer) / 64);
        let (file, is_accepted, is_connected, tries) = (None, false, false, 0);
        let (remote, decided_at) = (Remote::Comes, None);
        self.links.push(Link {
            client,
            sides,
            file,
            segment,
            is_accepted,
            accepted_at: 0,
            is_connected,
            tries,
            remote,
            decided_at,
        });
        self.links.len() as u32 - 1
    }

    pub fn side(&mut self, link: u32, side: u8) -> &mut Side {
        &mut self.links[link as usize].sides[side as usize]
    }

    /// When a packet that leaves now arrives at a side, after those before it.
    fn arrival(&mut self, link: u32, to: u8) -> u64 {
        let delay = self.side(link, to).delay;
        let delay = delay + self.random.below(delay);
        let earliest = self.side(link, to).last_arrival + 1;
        let time = earliest.max(self.now + delay);
        self.side(link, to).last_arrival = time;
        time
    }

    /// Sends what the peer's window and the own queue allow.
    fn transmit(&mut self, link: u32, from: u8) {
        let segment = self.links[link as usize].segment;
        let to = 1 - from;
        loop {
            let peer = self.side(link, to);
            let full = peer.receive_buffer;
            let (taken, ignores) = (peer.input.len(), peer.is_closed || peer.is_dead);
            let side = self.side(link, from);
            if side.is_dead || side.is_vanished {
                return;
            }
            let window = if ignores { full } else { full.saturating_sub(taken) };
            let count =
                window.saturating_sub(side.flight.len()).min(segment).min(side.unsent.len());
            if count == 0 {
                break;
            }
            side.flight.extend(side.unsent.drain(..count));
            side.unacked += count;
            let time = self.arrival(link, to);
            self.at(time, Event::Segment { link, to, bytes: count as u32 });
        }
        let side = self.side(link, from);
        if side.unsent.is_empty() && side.fin == Fin::Queued {
            side.fin = Fin::Sent;
            let time = self.arrival(link, to);
            self.at(time, Event::Fin { link, to });
        }
    }

    pub fn wake_side(&mut self, link: u32, side: u8, key: u32) {
        let Link { file, client, .. } = self.links[link as usize];
        match (side, file) {
            (0, Some(file)) => self.wake(file, key),
            (0, None) => {}
            _ => self.client_hears(client),
        }
    }

    fn is_deaf(&mut self, link: u32, to: u8) -> bool {
        self.side(link, to).is_vanished || self.side(link, 1 - to).is_vanished
    }

    pub fn on_segment(&mut self, link: u32, to: u8, bytes: usize) {
        if self.is_deaf(link, to) {
            return;
        }
        let now = self.now;
        let taken: Vec<u8> = self.side(link, 1 - to).flight.drain(..bytes).collect();
        let side = self.side(link, to);
        if side.is_dead || side.has_ended() {
            return self.send_reset(link, to);
        }
        if side.is_closed {
            // Nobody is there to read it (`tcp_rcv_state_process`).
            return self.die_with_reset(link, to);
        }
        side.input.extend(taken);
        side.arrived += bytes as u64;
        side.arrived_at = now;
        let time = self.arrival(link, 1 - to);
        self.at(time, Event::Ack { link, to: 1 - to, bytes: bytes as u32 });
        self.wake_side(link, to, INPUT);
    }

    pub fn on_fin(&mut self, link: u32, to: u8) {
        if self.is_deaf(link, to) || self.side(link, to).is_dead {
            return;
        }
        let now = self.now;
        let side = self.side(link, to);
        side.fin_came = true;
        side.arrived_at = now;
        let time = self.arrival(link, 1 - to);
        self.at(time, Event::AckFin { link, to: 1 - to });
        self.wake_side(link, to, 0);
    }

    pub fn on_ack(&mut self, link: u32, to: u8, bytes: usize) {
        let now = self.now;
        let side = self.side(link, to);
        if side.is_vanished || side.is_dead {
            return;
        }
        side.unacked -= bytes;
        side.note_progress(now);
        self.transmit(link, to);
        self.offer_room(link, to);
    }

    pub fn on_ack_fin(&mut self, link: u32, to: u8) {
        let side = self.side(link, to);
        if !side.is_vanished && !side.is_dead {
            side.fin = Fin::Acked;
            self.wake_side(link, to, 0);
        }
    }

    pub fn on_window(&mut self, link: u32, to: u8) {
        self.side(link, 1 - to).window_is_due = false;
        if !self.is_deaf(link, to) {
            self.transmit(link, to);
        }
    }

    pub fn on_room(&mut self, link: u32, to: u8) {
        self.offer_room(link, to);
    }

    /// `sk_stream_write_space`.
    fn offer_room(&mut self, link: u32, to: u8) {
        let side = self.side(link, to);
        if side.wants_room && side.is_writable() && !side.is_dead {
            side.wants_room = false;
            self.wake_side(link, to, OUT);
        }
    }

    /// `tcp_reset`, `tcp_write_err`: what was received stays, what is unsent is gone.
    pub fn on_reset(&mut self, link: u32, to: u8, error: i32) {
        let is_lost = error == libc::ETIMEDOUT;
        let is_deaf = self.is_deaf(link, to) && !is_lost;
        let now = self.now;
        let side = self.side(link, to);
        if is_deaf || side.is_dead || side.is_unconnected || side.has_ended() {
            return;
        }
        side.error = if side.fin_came && !is_lost { libc::EPIPE } else { error };
        side.arrived_at = now;
        self.die(link, to);
        self.wake_side(link, to, ERR);
        self.wake_side(link, to, 0);
    }

    /// `tcp_done`. SIOCOUTQ goes on to count what was not acknowledged.
    fn die(&mut self, link: u32, at: u8) {
        let side = self.side(link, at);
        side.unacked += side.unsent.len();
        side.unsent.clear();
        side.is_dead = true;
    }

    fn send_reset(&mut self, link: u32, from: u8) {
        if !self.is_deaf(link, from) {
            let time = self.arrival(link, 1 - from);
            self.at(time, Event::Reset { link, to: 1 - from });
        }
    }

    pub fn die_with_reset(&mut self, link: u32, from: u8) {
        self.die(link, from);
        self.send_reset(link, from);
    }

    /// `tcp_poll`.
    pub fn stream_ready_for(&mut self, link: u32) -> u32 {
        if self.is_connecting(link) {
            return 0;
        }
        let side = self.side(link, 0);
        if side.is_local {
            return self.local_ready_for(link);
        }
        if side.is_unconnected {
            return OUT | HUP | (u32::from(side.error != 0) * ERR);
        }
        let may_not_send = side.fin != Fin::No || side.is_dead;
        let may_not_receive = side.fin_came || side.is_dead;
        let mut bits = 0;
        if (may_not_send && may_not_receive) || side.is_dead {
            bits |= HUP;
        }
        if may_not_receive {
            bits |= IN | RDHUP;
        }
        if !side.input.is_empty() {
            bits |= IN;
        }
        if may_not_send || (side.is_writable() && !side.wants_room) {
            bits |= OUT;
        } else {
            side.wants_room = true;
        }
        if side.error != 0 {
            bits |= ERR;
        }
        bits
    }

    pub fn sock_send(&mut self, link: u32, from: u8, bytes: &[&[u8]]) -> Result<usize, i32> {
        if self.is_connecting(link) {
            return Err(libc::EAGAIN);
        }
        if self.side(link, from).is_local {
            return self.local_send(link, from, bytes);
        }
        let (short, full) = (self.rates.short_send, self.rates.full_send);
        let (is_short, is_full) = (self.random.once_in(short), self.random.once_in(full));
        let part = self.random.next();
        let now = self.now;
        let side = self.side(link, from);
        if side.error != 0 {
            return Err(std::mem::take(&mut side.error));
        }
        if side.is_dead || side.fin != Fin::No {
            return Err(libc::EPIPE);
        }
        let total: usize = bytes.iter().map(|piece| piece.len()).sum();
        if total == 0 {
            return Ok(0);
        }
        let mut count = total.min(side.room());
        // The kernel is out of memory for a moment (`sk_stream_wait_memory`).
        if from == 0 && count > 0 && (is_short || is_full) {
            count = if is_full { 0 } else { 1 + part as usize % count };
            self.after(part % (3 * MILLI), Event::Room { link, to: from });
        }
        let side = self.side(link, from);
        side.wants_room |= count < total;
        if count == 0 {
            return Err(libc::EAGAIN);
        }
        side.note_send(total, count);
        let mut left = count;
        for piece in bytes {
            let n = left.min(piece.len());
            side.unsent.extend(&piece[..n]);
            left -= n;
        }
        side.note_use(now);
        side.note_progress(now);
        self.transmit(link, from);
        Ok(count)
    }

    /// `tcp_recvmsg`.
    pub fn sock_receive(
        &mut self,
        link: u32,
        at: u8,
        buffer: &mut [u8],
        peek: bool,
    ) -> Result<usize, i32> {
        let now = self.now;
        let side = self.side(link, at);
        if side.is_unconnected && !side.is_local {
            return Err(libc::ENOTCONN);
        }
        let count = buffer.len().min(side.input.len());
        if count == 0 && !buffer.is_empty() {
            if side.is_local {
                return self.local_end(link, at);
            }
            return match () {
                () if side.fin_came => Ok(0),
                () if side.error != 0 => Err(std::mem::take(&mut side.error)),
                () if side.is_dead => Ok(0),
                () => Err(libc::EAGAIN),
            };
        }
        let (front, back) = side.input.as_slices();
        let first = count.min(front.len());
        buffer[..first].copy_from_slice(&front[..first]);
        buffer[first..count].copy_from_slice(&back[..count - first]);
        if !peek {
            side.input.drain(..count);
            side.read_at = now;
            side.note_use(now);
            match side.is_local {
                true => self.local_free(link, 1 - at, count),
                false => self.open_window(link, at),
            }
        }
        Ok(count)
    }

    fn open_window(&mut self, link: u32, at: u8) {
        if !self.side(link, 1 - at).unsent.is_empty() && !self.side(link, at).window_is_due {
            self.side(link, at).window_is_due = true;
            let time = self.arrival(link, 1 - at);
            self.at(time, Event::Window { link, to: 1 - at });
        }
    }

    pub fn sock_end_sending(&mut self, link: u32, from: u8) -> Result<(), i32> {
        if self.side(link, from).is_local {
            self.local_shut(link, from, false);
            return Ok(());
        }
        let side = self.side(link, from);
        let is_over = side.is_dead || side.has_ended();
        if !is_over && side.fin == Fin::No {
            side.fin = Fin::Queued;
            self.transmit(link, from);
        }
        // `inet_shutdown` wakes in any case.
        self.wake_side(link, from, 0);
        if is_over {
            Err(libc::ENOTCONN)
        } else {
            Ok(())
        }
    }

    /// `tcp_close`.
    pub fn sock_close(&mut self, link: u32, from: u8, resets: bool) {
        if self.side(link, from).is_local {
            return self.local_close(link, from);
        }
        if self.is_connecting(link) {
            self.side(link, from).is_dead = true;
        }
        let side = self.side(link, from);
        side.is_closed = true;
        if side.is_dead || side.has_ended() {
            return;
        }
        let is_last = side.fin != Fin::No && side.fin_came && side.unsent.is_empty();
        if !side.input.is_empty() || (resets && !is_last) {
            side.input.clear();
            self.die_with_reset(link, from);
        } else if side.fin == Fin::No {
            side.fin = Fin::Queued;
            self.transmit(link, from);
        }
    }

    /// `tcp_disconnect`.
    pub fn sock_disconnect(&mut self, link: u32, from: u8) {
        let side = self.side(link, from);
        side.input.clear();
        let was_open = !side.is_dead && !side.has_ended();
        side.is_unconnected = true;
        if was_open {
            side.error = libc::ECONNRESET;
            self.die_with_reset(link, from);
            self.wake_side(link, from, ERR);
        }
    }

    /// The client's machine is gone: nothing of it comes, and nothing is acknowledged.
    pub fn sock_vanish(&mut self, link: u32) {
        if self.side(link, 1).is_local {
            return self.local_close(link, 1);
        }
        self.side(link, 1).is_vanished = true;
        let time = self.random.between(20, 200) * SECOND;
        self.after(time, Event::Lost { link, to: 0 });
    }
}
