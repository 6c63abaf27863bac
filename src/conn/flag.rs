//! What a connection is going through, one bit each, and the masks of them.

#![forbid(unsafe_code)]

/// The kernel may have input (edge-triggered readiness, remembered).
pub const READY: u32 = 1;
/// The last event told more than plain input (end of stream, error,
/// urgent data): a short read is then no sign that the input is used up.
pub const SPECIAL: u32 = 1 << 1;
/// Sending failed, with the `errno` that the connection keeps: nothing is
/// sent any more. What has arrived is still to be read.
pub const SEND_FAILED: u32 = 1 << 2;
/// End of stream was read, or reading was shut (`RD_SHUT`).
pub const EOF: u32 = 1 << 3;
/// The handler is to be called again: it made progress, or reading was
/// resumed, while `READY`.
pub const CALL_AGAIN: u32 = 1 << 4;
/// In the loop's queue of ready connections.
pub const IN_READY_QUEUE: u32 = 1 << 5;
/// The program paused reading.
pub const PAUSED: u32 = 1 << 6;
/// Above the high-water mark, not read.
pub const THROTTLED: u32 = 1 << 7;
/// Closing was asked for; `reason` says why.
pub const CLOSE: u32 = 1 << 8;
/// Closing by a reset was asked for.
pub const ABORT: u32 = 1 << 9;
/// The transport failed, and all that had arrived was read.
pub const BROKEN: u32 = 1 << 10;
/// The sending side is shut, or to be shut when the queue is empty.
pub const WR_SHUT: u32 = 1 << 11;
/// The sending side is shut.
pub const FIN_SENT: u32 = 1 << 12;
/// Taken out by the program.
pub const DETACHED: u32 = 1 << 13;
/// The loop has something to arm: a timer, a queue that began.
pub const ARM: u32 = 1 << 14;
/// Registered for writability too.
pub const WRITABLE: u32 = 1 << 15;
/// In the last, `on_close` callback.
pub const IN_ON_CLOSE: u32 = 1 << 16;
/// Came by attach: no second `on_open`.
pub const ATTACHED: u32 = 1 << 17;

/// A stop came before `on_open`: no `on_close` either.
pub const UNOPENED: u32 = 1 << 18;

/// A callback of this connection is running.
pub const IN_CALLBACK: u32 = 1 << 19;
/// A loop's: calls never wait. The kind of the `ThreadContext`, where it is at hand.
pub const LOOP: u32 = 1 << 20;
/// Detached, the program's own; likewise.
pub const OWNED: u32 = 1 << 21;

/// Goes through TLS.
pub const TLS: u32 = 1 << 22;
/// Decrypted bytes, or an end, wait to be read.
pub const DECRYPTED: u32 = 1 << 23;
/// TLS's close_notify was sent.
pub const CLOSE_NOTIFY_SENT: u32 = 1 << 24;
/// A TLS handshake was asked for in mid-stream.
pub const STARTTLS: u32 = 1 << 25;

/// Bytes are queued to be sent.
pub const BACKLOG: u32 = 1 << 26;
/// This call of the handler has read its share.
pub const BUDGET_SPENT: u32 = 1 << 27;
/// In another phase than `Open`.
pub const NOT_OPEN: u32 = 1 << 28;
/// Has an idle timeout: the time of each byte counts. Of the `ThreadContext`.
pub const TIMED: u32 = 1 << 29;
/// Beside `EOF`: the program reads no more, the peer's end was not seen.
pub const RD_SHUT: u32 = 1 << 30;

/// A queue has left: `on_drain` is to be called.
pub const DRAINED: u32 = 1 << 31;

// Masks. A new state belongs into each of them that it concerns.

/// Goes along where the program takes the connection out.
pub const SURVIVES_DETACH: u32 =
    EOF | RD_SHUT | WR_SHUT | FIN_SENT | TLS | CLOSE_NOTIFY_SENT | BACKLOG | DRAINED | SEND_FAILED;
/// If any of these is set, an input event takes the slow path.
pub const SLOW_EVENT: u32 =
    OVER | PAUSED | THROTTLED | TLS | EOF | SPECIAL | SEND_FAILED | BACKLOG | NOT_OPEN;
/// The program's part is over or nothing can be sent: what was accepted by
/// id is dropped.
pub const UNSENDABLE: u32 = ABORT | BROKEN | SEND_FAILED | WR_SHUT | IN_ON_CLOSE;
/// Nothing can be sent or received any more.
pub const OVER: u32 = CLOSE | ABORT | BROKEN | DETACHED | IN_ON_CLOSE;
/// Flags that a connection has in a callback on its loop.
pub const LOOP_CALL: u32 = LOOP | IN_CALLBACK;
/// Flags that are almost always clear; if any is set, `recv` and `send` take the
/// slow path.
const SLOW_CALL: u32 = OVER | TLS | BACKLOG | TIMED;
/// What decides whether `recv` takes the fast path: exactly `LOOP_CALL` and
/// `READY` of these.
pub const RECV_STATE: u32 = LOOP_CALL | SLOW_CALL | EOF | SPECIAL | BUDGET_SPENT | READY;
/// What decides whether `send` takes the fast path: exactly `LOOP_CALL` of these.
pub const SEND_STATE: u32 = LOOP_CALL | SLOW_CALL | WR_SHUT | SEND_FAILED;
/// What a callback leaves for its loop to do; if any is set, the loop looks at
/// the connection after it.
pub const UNSETTLED: u32 =
    OVER | CALL_AGAIN | BACKLOG | SEND_FAILED | ARM | THROTTLED | STARTTLS | DRAINED;
