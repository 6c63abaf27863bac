//! What the threads and the program ask about a connection, and what they note
//! in it: the flags, seen from outside `conn`.

#![forbid(unsafe_code)]

use super::{Conn, Flags, Phase, READ_BUDGET};
use crate::clock::Deadline;
use crate::error::{CloseReason, Status};
use crate::sys::{self, Bits};

impl Conn {
    pub fn is_over(&self) -> bool {
        self.has(Flags::OVER)
    }

    /// Returns whether the peer's end was seen: closing then needs no
    /// lingering.
    pub fn has_peer_ended(&self) -> bool {
        self.flags & (Flags::EOF | Flags::RD_SHUT) == Flags::EOF
    }

    /// Returns an error where this object must not be used: a loop's connection
    /// outside its own callbacks or in a child of fork(2), a detached one through
    /// the old object.
    #[inline]
    pub fn check_usable(&self) -> Result<(), Status> {
        if !self.has(Flags::IN_CALLBACK) && !self.is_owned() {
            return Err(match self.context.process.is_current() {
                true => Status::NotInHandler,
                false => Status::State,
            });
        }
        match self.has(Flags::DETACHED) {
            true => Err(Status::Detached),
            false => Ok(()),
        }
    }

    /// Returns whether a queue has left, down to the low-water mark, and
    /// `on_drain` must still report it.
    #[inline]
    pub fn is_drain_due(&self) -> bool {
        self.has(Flags::DRAINED)
            && self.refused() <= self.context.limits.low_water
            && self.may_report_drain()
    }

    /// In a TLS handshake in mid-stream only what waits for its end is left.
    fn may_report_drain(&self) -> bool {
        let upgrading = self.phase.is_handshake() && !self.has(Flags::UNOPENED);
        self.phase == Phase::Open || (upgrading && !self.holds_plaintext())
    }

    /// Returns whether bytes are on their way to the kernel, also behind a TLS
    /// handshake in mid-stream, or `on_drain` must still report that they have
    /// left.
    pub fn is_sending_out(&self) -> bool {
        let sends = self.has(Flags::BACKLOG | Flags::DRAINED) || self.holds_plaintext();
        sends && !self.has(Flags::SEND_FAILED)
    }

    /// Returns whether an end destroys nothing: the kernel holds no input, and the
    /// peer has acknowledged all that was sent.
    pub fn is_quiet(&mut self) -> bool {
        !self.has_unread() && self.fd.is_some() && self.unacknowledged() == 0
    }

    /// Returns how many sent bytes the peer has not acknowledged. The kernel
    /// counts an end that was sent as a byte; nothing comes behind it.
    fn unacknowledged(&self) -> usize {
        sys::unacknowledged(self.raw_fd()).saturating_sub(usize::from(self.has(Flags::FIN_SENT)))
    }

    /// Returns whether accepted bytes wait for the end of the TLS handshake.
    pub fn holds_plaintext(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| !tls.held.is_empty())
    }

    /// Returns whether sending has failed and no input is left that the program
    /// may still read. Only after a failed send this needs a system call.
    pub fn has_failed_and_read_all(&mut self) -> bool {
        if !self.has(Flags::SEND_FAILED) {
            return false;
        }
        match self.phase {
            Phase::Open if self.has(Flags::EOF) => true,
            Phase::Open if self.has(Flags::PAUSED) => {
                !self.has(Flags::DECRYPTED) && !self.has_unread()
            }
            Phase::Flushing => true,
            _ => false,
        }
    }

    pub fn is_tls(&self) -> bool {
        self.has(Flags::TLS)
    }

    pub fn is_close_requested(&self) -> bool {
        self.has(Flags::CLOSE)
    }

    pub fn is_aborted(&self) -> bool {
        self.has(Flags::ABORT)
    }

    pub fn is_detached(&self) -> bool {
        self.has(Flags::DETACHED)
    }

    /// Returns whether the connection is in `on_close`, its last callback.
    pub fn is_in_on_close(&self) -> bool {
        self.has(Flags::IN_ON_CLOSE)
    }

    /// Returns whether the loop has not begun with the connection, which another
    /// thread or the program has given to it.
    pub fn is_arrival(&self) -> bool {
        self.has(Flags::ARRIVED)
    }

    /// Notes that the connection is among the arrivals of a loop; `on_open` comes
    /// first.
    pub fn mark_arrival(&mut self) {
        self.set(Flags::ARRIVED | Flags::UNOPENED);
    }

    /// Notes that the loop begins with the connection. Returns whether it came by
    /// attach: it gets no second `on_open`.
    pub fn end_arrival(&mut self) -> bool {
        let is_attached = self.flags & (Flags::ARRIVED | Flags::UNOPENED) == Flags::ARRIVED;
        self.clear(Flags::ARRIVED);
        is_attached
    }

    /// Notes that `on_open` runs.
    pub fn clear_unopened(&mut self) {
        self.clear(Flags::UNOPENED);
    }

    /// Returns whether `on_open` has not run yet: an end runs no `on_close`
    /// then.
    pub fn is_unopened(&self) -> bool {
        self.has(Flags::UNOPENED)
    }

    /// Returns whether the program asked for a TLS handshake that has not begun.
    pub fn wants_tls(&self) -> bool {
        self.has(Flags::STARTTLS)
    }

    pub fn has_backlog(&self) -> bool {
        self.has(Flags::BACKLOG)
    }

    /// Returns whether sending has failed: nothing is sent any more, and the
    /// handler may still read the received input.
    pub fn has_send_failed(&self) -> bool {
        self.has(Flags::SEND_FAILED)
    }

    /// Returns whether the transport takes nothing more.
    pub fn has_failed(&self) -> bool {
        self.has(Flags::BROKEN | Flags::SEND_FAILED)
    }

    /// Returns whether bytes would be lost by an end now.
    pub fn has_unsent(&self) -> bool {
        self.has(Flags::BACKLOG | Flags::SEND_FAILED) || self.holds_plaintext()
    }

    /// Returns whether bytes by id may be sent to the connection.
    pub fn is_sendable(&self) -> bool {
        !self.has(Flags::UNSENDABLE)
    }

    /// Returns whether the kernel may have input.
    pub fn is_readable(&self) -> bool {
        self.has(Flags::READY)
    }

    /// Over a unix socket a read may always be short although there is more: it
    /// ends where the peer sent descriptors along (unix(7)), which the kernel
    /// closes.
    #[inline]
    pub(super) fn expect_short_reads(&mut self) {
        if self.peer.is_unix() {
            self.set(Flags::SPECIAL);
        }
    }

    /// Returns whether the peer has ended or failed, by the last event and by
    /// what the kernel knows.
    pub fn has_peer_left(&self) -> bool {
        self.has(Flags::SPECIAL) && self.fd().is_some_and(sys::has_ended)
    }

    /// Notes that the kernel may have input.
    #[inline]
    pub fn note_input(&mut self) {
        self.set(Flags::READY);
    }

    /// Notes that the kernel has no input.
    pub fn note_no_input(&mut self) {
        self.clear(Flags::READY);
    }

    /// Notes what an event reports. Returns whether there is something to read:
    /// urgent data alone is no input (tcp(7)).
    pub fn note_event(&mut self, bits: Bits) -> bool {
        let special = bits.intersects(sys::SPECIAL);
        let mut input = bits.intersects(Bits::IN | sys::SPECIAL.difference(Bits::PRI));
        if bits.contains(Bits::PRI) && input && !self.has(Flags::TLS) {
            input = self.has_input();
        }
        if input {
            self.set(Flags::READY);
        }
        if special {
            self.set(Flags::SPECIAL);
        }
        if bits.contains(Bits::ERR) {
            self.note_error();
        }
        input
    }

    /// Begins a call of the handler, with a fresh read budget.
    #[inline(always)]
    pub fn begin_call(&mut self) {
        self.read_budget = READ_BUDGET;
        self.clear(Flags::CALL_AGAIN | Flags::BUDGET_SPENT);
    }

    /// Ends a call of the handler after which work is left. A failed send is
    /// reported after the input; a handler that has read nothing has had its
    /// chance.
    pub fn end_call(&mut self) {
        if self.has(Flags::SEND_FAILED)
            && !self.has(Flags::CALL_AGAIN | Flags::OVER | Flags::PAUSED)
        {
            self.set(Flags::BROKEN);
            self.reason = CloseReason::Reset;
        }
    }

    pub fn begin_callback(&mut self) {
        self.set(Flags::IN_CALLBACK);
        self.note_current();
    }

    /// Notes that code of the program runs while the thread has this connection in
    /// hand.
    pub fn note_current(&mut self) {
        let place = std::ptr::from_mut(self);
        self.context.reach.note(place);
    }

    pub fn end_callback(&mut self) {
        self.clear(Flags::IN_CALLBACK | Flags::SENT);
    }

    /// Makes the connection stale in a child of fork(2), if a callback of it is
    /// running: calls fail ([`Conn::check_usable`]), and the loop looks at it
    /// after the callback.
    pub fn orphan(&mut self) {
        if self.has(Flags::IN_CALLBACK) {
            self.clear(Flags::IN_CALLBACK);
            self.set(Flags::ABORT);
        }
    }

    pub fn begin_on_close(&mut self) {
        self.set(Flags::IN_ON_CLOSE);
    }

    /// Returns whether the handler may read something now. Of TLS it decrypts
    /// input first, because the handler is called for decrypted bytes and not
    /// for the first part of a record. What the session replies to it may stand
    /// above the high-water mark: then the handler may read nothing yet.
    pub fn has_input_for_handler(&mut self) -> bool {
        if self.has(Flags::HELD_BACK) {
            return false;
        }
        if self.has(Flags::TLS) {
            self.pump();
            self.check_high_water();
            return self.has(Flags::DECRYPTED) && !self.has(Flags::THROTTLED);
        }
        self.has(Flags::READY)
    }

    /// Looks for input where the last read may have consumed the very last
    /// byte: a handler is not called for nothing. A failed send is reported in
    /// any case.
    pub fn confirm_input(&mut self) {
        let must_call = self.has(Flags::SEND_FAILED | Flags::TLS);
        if self.has(Flags::READY) && !must_call && !self.has_input() {
            self.clear(Flags::READY);
        }
    }

    /// Returns whether the handler has read some input and may read more now.
    pub fn must_call_again(&self) -> bool {
        self.has(Flags::CALL_AGAIN)
            && self.has(Flags::READY | Flags::DECRYPTED)
            && !self.has(Flags::HELD_BACK)
    }

    /// Stops reading above the high-water mark, and goes on below half of it.
    pub fn check_high_water(&mut self) {
        let (queued, high) = (self.refused(), self.context.limits.high_water);
        if queued > high {
            self.set(Flags::THROTTLED);
        } else if self.has(Flags::THROTTLED) && queued * 2 < high {
            self.clear(Flags::THROTTLED);
            self.set(Flags::CALL_AGAIN);
        }
    }

    /// Stops reading for the program.
    pub fn pause(&mut self) {
        self.set(Flags::PAUSED);
    }

    pub fn resume(&mut self) {
        if self.has(Flags::PAUSED) {
            self.clear(Flags::PAUSED);
            self.set(Flags::CALL_AGAIN);
        }
    }

    /// Notes that `on_drain` reports the empty queue now.
    pub fn clear_drained(&mut self) {
        self.clear(Flags::DRAINED);
        if let Some(out) = &mut self.out {
            out.is_reported = true;
        }
    }

    /// Sets whether the connection is in the ready queue, and returns the
    /// former value.
    pub fn set_in_ready_queue(&mut self, queued: bool) -> bool {
        let former = self.has(Flags::IN_READY_QUEUE);
        self.flags.set(Flags::IN_READY_QUEUE, queued);
        former
    }

    /// Notes that the poller watches for writability too. Returns the former
    /// value.
    pub fn note_writable_watched(&mut self) -> bool {
        let former = self.has(Flags::WRITABLE);
        self.set(Flags::WRITABLE);
        former
    }

    /// Sets the connection's own deadline; its loop learns of it after the
    /// callback.
    pub fn set_timer(&mut self, due: Deadline) {
        self.own_deadline = due;
        self.set(Flags::ARM);
    }

    /// Returns whether the loop has a deadline to arm.
    pub fn must_arm(&self) -> bool {
        self.has(Flags::ARM)
    }

    /// Notes that the loop arms the deadlines now.
    pub fn clear_must_arm(&mut self) {
        self.clear(Flags::ARM);
    }

    /// Notes that the connection ends, or may end, before its `on_open`.
    pub fn mark_unopened(&mut self) {
        self.set(Flags::UNOPENED);
    }

    /// Notes that the connection came by attach.
    pub fn mark_attached(&mut self) {
        self.set(Flags::ARRIVED | Flags::ARM);
    }

    /// Begins the life of an attached connection on its loop: the handler is
    /// called for all that is left to read.
    pub fn begin_attached(&mut self) {
        if self.has(Flags::TLS) {
            self.look_for_plain();
            self.set(Flags::CALL_AGAIN);
        }
        if self.has(Flags::SEND_FAILED) {
            self.set(Flags::READY | Flags::SPECIAL | Flags::CALL_AGAIN);
        }
    }

    /// Waits for the PROXY header; `on_open`, or the TLS handshake, comes after it.
    pub fn expect_proxy(&mut self, until: Deadline) {
        self.set_phase(Phase::Proxy);
        self.set(Flags::UNOPENED);
        self.own_deadline = until;
    }

    /// The PROXY header is refused: nothing is received or sent any more.
    pub fn refuse_proxy(&mut self) {
        self.expect_proxy(Deadline::NEVER);
        self.forbid_sending();
    }

    /// The PROXY header is there: the loop goes on with what may follow it.
    pub fn end_proxy(&mut self) {
        self.set_phase(Phase::Open);
        self.own_deadline = Deadline::NEVER;
        self.set(Flags::CALL_AGAIN);
    }

    /// Waits for the first record of the TLS handshake; `on_open` runs after
    /// the handshake.
    pub fn expect_handshake(&mut self, until: Deadline) {
        self.set_phase(Phase::Hello);
        self.set(Flags::UNOPENED);
        self.own_deadline = until;
    }

    /// Asks the loop for a TLS handshake in mid-stream.
    pub fn request_tls(&mut self) {
        self.set(Flags::STARTTLS);
    }

    /// Forgets a handshake that was asked for and has not begun.
    pub fn withdraw_tls(&mut self) {
        self.clear(Flags::STARTTLS);
    }

    /// Begins the TLS handshake in mid-stream.
    pub fn begin_upgrade(&mut self) {
        self.clear(Flags::STARTTLS);
        self.set_phase(Phase::Hello);
    }

    /// Opens the connection after its TLS handshake. Returns whether it is new,
    /// so that `on_open` comes next.
    pub fn finish_handshake(&mut self) -> bool {
        let is_new = self.has(Flags::UNOPENED);
        self.set_phase(Phase::Open);
        if is_new {
            self.own_deadline = Deadline::NEVER;
            self.clear(Flags::UNOPENED | Flags::DRAINED);
        }
        self.look_for_plain();
        self.set(Flags::CALL_AGAIN | Flags::ARM);
        if self.has(Flags::WR_SHUT) {
            self.end_sending();
        }
        is_new
    }

    /// Makes the end of a connection go without close_notify.
    pub fn forbid_close_notify(&mut self) {
        self.set(Flags::CLOSE_NOTIFY_SENT);
    }

    /// Lets nothing more be sent, without an end for the peer.
    pub fn forbid_sending(&mut self) {
        self.set(Flags::WR_SHUT);
    }

    /// Takes back a reset that a cut asked for.
    pub fn forget_abort(&mut self) {
        self.clear(Flags::ABORT);
    }
}
