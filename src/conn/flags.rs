//! The flags of a connection, and the masks of them. Only the modules of
//! `conn` see them; the threads ask and change them through the methods of
//! `state.rs`.

#![forbid(unsafe_code)]

use bitflags::bitflags;

bitflags! {
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) struct Flags: u32 {
        // Readiness.

        /// The kernel may have input: the loop remembers edge-triggered
        /// readiness.
        const READY = 1;
        /// The last event reported more than plain input (end of stream, error,
        /// urgent data), or this is a unix socket: a short read is then no sign
        /// that the input is used up.
        const SPECIAL = 1 << 1;
        /// Decrypted bytes, an end or a failure wait for the handler to read
        /// them.
        const DECRYPTED = 1 << 2;
        /// The end of the stream was read, or the program shut reading
        /// (`RD_SHUT`).
        const EOF = 1 << 3;
        /// Set beside `EOF`: the program has shut reading, and the peer's end
        /// was not seen.
        const RD_SHUT = 1 << 4;

        // Scheduling: what the loop must do, or has done.

        /// The loop must call the handler again: it made progress, or reading
        /// was resumed, while `READY`.
        const CALL_AGAIN = 1 << 5;
        /// This call of the handler has used up its read budget.
        const BUDGET_SPENT = 1 << 6;
        /// The connection is in the loop's ready queue.
        const IN_READY_QUEUE = 1 << 7;
        /// The loop has a deadline to arm: a timer was set, or a queue began.
        const ARM = 1 << 8;
        /// The poller watches the descriptor for writability too.
        const WRITABLE = 1 << 9;
        /// The outbound queue is above the high-water mark, so the loop does
        /// not read.
        const THROTTLED = 1 << 10;
        /// A queue has left: the loop must call `on_drain`.
        const DRAINED = 1 << 11;
        /// The connection came from another thread or from the program, and the
        /// loop has not begun with it. If `UNOPENED` is not set beside it, it came
        /// by attach: it gets no second `on_open`.
        const ARRIVED = 1 << 12;
        /// `on_open` has not run yet: an end or a stop now runs no `on_close`
        /// either.
        const UNOPENED = 1 << 13;
        /// A callback of this connection is running.
        const IN_CALLBACK = 1 << 14;
        /// The connection is in `on_close`, its last callback.
        const IN_ON_CLOSE = 1 << 15;

        // What the program asked for.

        /// The program paused reading.
        const PAUSED = 1 << 16;
        /// The program asked for a TLS handshake in mid-stream.
        const STARTTLS = 1 << 17;
        /// A close was asked for; `reason` says why.
        const CLOSE = 1 << 18;
        /// A close by a reset was asked for.
        const ABORT = 1 << 19;
        /// The program has detached the connection.
        const DETACHED = 1 << 20;

        // Ending.

        /// The sending side is shut, or will be when the queue is empty.
        const WR_SHUT = 1 << 21;
        /// The sending side is shut.
        const FIN_SENT = 1 << 22;
        /// TLS's close_notify was sent, or must not be sent any more.
        const CLOSE_NOTIFY_SENT = 1 << 23;
        /// Sending failed, with the `errno` that the connection keeps: nothing
        /// is sent any more. The handler may still read the received input.
        const SEND_FAILED = 1 << 24;
        /// The transport failed, and all received input was read.
        const BROKEN = 1 << 25;

        // Mirrors of other fields, so that one test of the flags decides. Each
        // changes only where its field does; `Conn::vacant` and `Conn::vacate`
        // set all of them anew.

        /// A loop owns the connection: calls never wait. Mirrors the owner in
        /// the `ThreadContext` (`Conn::take_context`).
        const LOOP = 1 << 26;
        /// The connection has an idle timeout: the time of each byte counts.
        /// Mirrors the limits in the `ThreadContext` (`Conn::take_context`).
        const TIMED = 1 << 27;
        /// The connection is in another phase than `Open` (`Conn::set_phase`).
        const NOT_OPEN = 1 << 28;
        /// There is an outbound queue, or gathered bytes (`Conn::queue`,
        /// `Conn::put_queue`, `Conn::take_queue`, `Conn::gather`).
        const BACKLOG = 1 << 29;
        /// The connection goes through TLS (`Conn::begin_tls`).
        const TLS = 1 << 30;

        /// A send of this callback has left, or the callback before it has
        /// gathered several: what the callback sends now is gathered.
        const SENT = 1 << 31;

        // Masks. A new flag belongs into each mask that it concerns.

        /// Flags that a detached connection keeps.
        const SURVIVES_DETACH = Self::EOF.bits()
            | Self::RD_SHUT.bits()
            | Self::WR_SHUT.bits()
            | Self::FIN_SENT.bits()
            | Self::TLS.bits()
            | Self::CLOSE_NOTIFY_SENT.bits()
            | Self::BACKLOG.bits()
            | Self::DRAINED.bits()
            | Self::SEND_FAILED.bits();
        /// If any of these is set, an input event takes the slow path.
        const SLOW_EVENT = Self::OVER.bits()
            | Self::PAUSED.bits()
            | Self::THROTTLED.bits()
            | Self::TLS.bits()
            | Self::EOF.bits()
            | Self::SPECIAL.bits()
            | Self::SEND_FAILED.bits()
            | Self::BACKLOG.bits()
            | Self::ARRIVED.bits()
            | Self::NOT_OPEN.bits();
        /// If any of these is set, the program's part is over or nothing can be
        /// sent: bytes that were accepted by id are dropped.
        const UNSENDABLE = Self::ABORT.bits()
            | Self::BROKEN.bits()
            | Self::SEND_FAILED.bits()
            | Self::WR_SHUT.bits()
            | Self::IN_ON_CLOSE.bits();
        /// If any of these is set, nothing can be sent or received any more.
        const OVER = Self::CLOSE.bits()
            | Self::ABORT.bits()
            | Self::BROKEN.bits()
            | Self::DETACHED.bits()
            | Self::IN_ON_CLOSE.bits();
        /// If any of these is set, the loop does not read.
        const HELD_BACK = Self::EOF.bits() | Self::PAUSED.bits() | Self::THROTTLED.bits();
        /// Flags that a connection has in a callback on its loop.
        const LOOP_CALL = Self::LOOP.bits() | Self::IN_CALLBACK.bits();
        /// If any of these is set, bytes by id that another callback of the loop
        /// sends go through the inbox.
        const NOT_NEARBY = Self::OVER.bits()
            | Self::ARRIVED.bits()
            | Self::NOT_OPEN.bits()
            | Self::IN_CALLBACK.bits()
            | Self::STARTTLS.bits()
            | Self::WR_SHUT.bits()
            | Self::SEND_FAILED.bits()
            | Self::BACKLOG.bits()
            | Self::SENT.bits();
        /// Flags that are almost always clear; if any is set, `recv` and `send`
        /// take the slow path.
        const SLOW_CALL =
            Self::OVER.bits() | Self::TLS.bits() | Self::BACKLOG.bits() | Self::TIMED.bits();
        /// The flags that decide whether `recv` takes the fast path: of these,
        /// exactly `LOOP_CALL` and `READY` must be set.
        const RECV_STATE = Self::LOOP_CALL.bits()
            | Self::SLOW_CALL.bits()
            | Self::EOF.bits()
            | Self::SPECIAL.bits()
            | Self::BUDGET_SPENT.bits()
            | Self::READY.bits();
        /// The flags that decide whether `send` takes the fast path: of these,
        /// exactly `LOOP_CALL` must be set.
        const SEND_STATE = Self::LOOP_CALL.bits()
            | Self::SLOW_CALL.bits()
            | Self::WR_SHUT.bits()
            | Self::SEND_FAILED.bits()
            | Self::SENT.bits();
        /// Work that a callback leaves for its loop; if any of these is set,
        /// the loop looks at the connection after the callback.
        const UNSETTLED = Self::OVER.bits()
            | Self::CALL_AGAIN.bits()
            | Self::BACKLOG.bits()
            | Self::SEND_FAILED.bits()
            | Self::ARM.bits()
            | Self::THROTTLED.bits()
            | Self::STARTTLS.bits()
            | Self::DRAINED.bits();
    }
}
