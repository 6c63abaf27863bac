//! The flags of a connection, one bit each, and the masks of them.

#![forbid(unsafe_code)]

/// The kernel may have input: the loop remembers edge-triggered readiness.
pub const READY: u32 = 1;
/// The last event reported more than plain input (end of stream, error, urgent
/// data): a short read is then no sign that the input is used up.
pub const SPECIAL: u32 = 1 << 1;
/// Sending failed, with the `errno` that the connection keeps: nothing is sent
/// any more. The handler may still read the received input.
pub const SEND_FAILED: u32 = 1 << 2;
/// The end of the stream was read, or the program shut reading (`RD_SHUT`).
pub const EOF: u32 = 1 << 3;
/// The loop must call the handler again: it made progress, or reading was
/// resumed, while `READY`.
pub const CALL_AGAIN: u32 = 1 << 4;
/// The connection is in the loop's ready queue.
pub const IN_READY_QUEUE: u32 = 1 << 5;
/// The program paused reading.
pub const PAUSED: u32 = 1 << 6;
/// The outbound queue is above the high-water mark, so the loop does not read.
pub const THROTTLED: u32 = 1 << 7;
/// A close was asked for; `reason` says why.
pub const CLOSE: u32 = 1 << 8;
/// A close by a reset was asked for.
pub const ABORT: u32 = 1 << 9;
/// The transport failed, and all received input was read.
pub const BROKEN: u32 = 1 << 10;
/// The sending side is shut, or will be when the queue is empty.
pub const WR_SHUT: u32 = 1 << 11;
/// The sending side is shut.
pub const FIN_SENT: u32 = 1 << 12;
/// The program has detached the connection.
pub const DETACHED: u32 = 1 << 13;
/// The loop has a deadline to arm: a timer was set, or a queue began.
pub const ARM: u32 = 1 << 14;
/// The poller watches the descriptor for writability too.
pub const WRITABLE: u32 = 1 << 15;
/// The connection is in `on_close`, its last callback.
pub const IN_ON_CLOSE: u32 = 1 << 16;
/// The connection came by attach: it gets no second `on_open`.
pub const ATTACHED: u32 = 1 << 17;

/// `on_open` has not run yet: an end or a stop now runs no `on_close` either.
pub const UNOPENED: u32 = 1 << 18;

/// A callback of this connection is running.
pub const IN_CALLBACK: u32 = 1 << 19;
/// A loop owns the connection: calls never wait. This mirrors the owner in the
/// `ThreadContext`.
pub const LOOP: u32 = 1 << 20;
/// The program owns the connection, which is detached. This mirrors the owner
/// in the `ThreadContext`.
pub const OWNED: u32 = 1 << 21;

/// The connection goes through TLS.
pub const TLS: u32 = 1 << 22;
/// Decrypted bytes, an end or a failure wait for the handler to read them.
pub const DECRYPTED: u32 = 1 << 23;
/// TLS's close_notify was sent, or must not be sent any more.
pub const CLOSE_NOTIFY_SENT: u32 = 1 << 24;
/// The program asked for a TLS handshake in mid-stream.
pub const STARTTLS: u32 = 1 << 25;

/// There is an outbound queue.
pub const BACKLOG: u32 = 1 << 26;
/// This call of the handler has used up its read budget.
pub const BUDGET_SPENT: u32 = 1 << 27;
/// The connection is in another phase than `Open`.
pub const NOT_OPEN: u32 = 1 << 28;
/// The connection has an idle timeout: the time of each byte counts. This
/// mirrors the limits in the `ThreadContext`.
pub const TIMED: u32 = 1 << 29;
/// Set beside `EOF`: the program has shut reading, and the peer's end was not
/// seen.
pub const RD_SHUT: u32 = 1 << 30;

/// A queue has left: the loop must call `on_drain`.
pub const DRAINED: u32 = 1 << 31;

// Masks. A new flag belongs into each mask that it concerns.

/// Flags that a detached connection keeps.
pub const SURVIVES_DETACH: u32 =
    EOF | RD_SHUT | WR_SHUT | FIN_SENT | TLS | CLOSE_NOTIFY_SENT | BACKLOG | DRAINED | SEND_FAILED;
/// If any of these is set, an input event takes the slow path.
pub const SLOW_EVENT: u32 =
    OVER | PAUSED | THROTTLED | TLS | EOF | SPECIAL | SEND_FAILED | BACKLOG | NOT_OPEN;
/// If any of these is set, the program's part is over or nothing can be sent:
/// bytes that were accepted by id are dropped.
pub const UNSENDABLE: u32 = ABORT | BROKEN | SEND_FAILED | WR_SHUT | IN_ON_CLOSE;
/// If any of these is set, nothing can be sent or received any more.
pub const OVER: u32 = CLOSE | ABORT | BROKEN | DETACHED | IN_ON_CLOSE;
/// Flags that a connection has in a callback on its loop.
pub const LOOP_CALL: u32 = LOOP | IN_CALLBACK;
/// Flags that are almost always clear; if any is set, `recv` and `send` take
/// the slow path.
const SLOW_CALL: u32 = OVER | TLS | BACKLOG | TIMED;
/// The flags that decide whether `recv` takes the fast path: of these, exactly
/// `LOOP_CALL` and `READY` must be set.
pub const RECV_STATE: u32 = LOOP_CALL | SLOW_CALL | EOF | SPECIAL | BUDGET_SPENT | READY;
/// The flags that decide whether `send` takes the fast path: of these, exactly
/// `LOOP_CALL` must be set.
pub const SEND_STATE: u32 = LOOP_CALL | SLOW_CALL | WR_SHUT | SEND_FAILED;
/// Work that a callback leaves for its loop; if any of these is set, the loop
/// looks at the connection after the callback.
pub const UNSETTLED: u32 =
    OVER | CALL_AGAIN | BACKLOG | SEND_FAILED | ARM | THROTTLED | STARTTLS | DRAINED;
