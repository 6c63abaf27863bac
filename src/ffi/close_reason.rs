//! Why a connection closed.

use std::array;
use std::ffi::c_char;
use std::sync::OnceLock;

use super::support::{guard, in_place};
use crate::CloseReason;

/// The program closed the connection.
pub const NS_CLOSE_HANDLER: i32 = 1;
/// The program closed it after the end of the peer's stream.
pub const NS_CLOSE_PEER: i32 = 2;
/// The peer reset it, or the transport failed.
pub const NS_CLOSE_RESET: i32 = 3;
/// `idle_timeout` passed.
pub const NS_CLOSE_IDLE: i32 = 4;
/// Its one-shot timer fired and there is no `on_timeout`.
pub const NS_CLOSE_TIMER: i32 = 5;
/// Queued bytes made no progress for `write_timeout`.
pub const NS_CLOSE_WRITE_TIMEOUT: i32 = 6;
/// The handler failed.
pub const NS_CLOSE_ERROR: i32 = 7;
/// The program aborted it.
pub const NS_CLOSE_ABORT: i32 = 8;
/// A stop closed it; nothing that was sent is lost.
pub const NS_CLOSE_STOP: i32 = 9;
/// A stop ended it, or its peer did not acknowledge in time all that was sent:
/// something may be lost.
pub const NS_CLOSE_CUT: i32 = 10;
/// No worker became free in time.
pub const NS_CLOSE_REJECTED: i32 = 11;
/// Its TLS handshake failed.
pub const NS_CLOSE_HANDSHAKE: i32 = 12;
/// It was never connected: the connect failed. No `on_close` gets this reason.
pub const NS_CLOSE_CONNECT: i32 = 13;
/// Its PROXY header was missing or bad, or came from no trusted proxy. No `on_close`
/// gets this reason.
pub const NS_CLOSE_PROXY: i32 = 14;
/// It was refused beyond a limit of its address. No `on_close` gets this reason.
pub const NS_CLOSE_LIMIT: i32 = 15;

/// The numbers are the core's; a mismatch does not compile.
const _: () = {
    assert!(NS_CLOSE_HANDLER == CloseReason::Handler as i32);
    assert!(NS_CLOSE_PEER == CloseReason::Peer as i32);
    assert!(NS_CLOSE_RESET == CloseReason::Reset as i32);
    assert!(NS_CLOSE_IDLE == CloseReason::Idle as i32);
    assert!(NS_CLOSE_TIMER == CloseReason::Timer as i32);
    assert!(NS_CLOSE_WRITE_TIMEOUT == CloseReason::WriteTimeout as i32);
    assert!(NS_CLOSE_ERROR == CloseReason::Error as i32);
    assert!(NS_CLOSE_ABORT == CloseReason::Abort as i32);
    assert!(NS_CLOSE_STOP == CloseReason::Stop as i32);
    assert!(NS_CLOSE_CUT == CloseReason::Cut as i32);
    assert!(NS_CLOSE_REJECTED == CloseReason::Rejected as i32);
    assert!(NS_CLOSE_HANDSHAKE == CloseReason::Handshake as i32);
    assert!(NS_CLOSE_CONNECT == CloseReason::Connect as i32);
    assert!(NS_CLOSE_PROXY == CloseReason::Proxy as i32);
    assert!(NS_CLOSE_LIMIT == CloseReason::Limit as i32);
    assert!(CloseReason::COUNT as i32 == NS_CLOSE_LIMIT + 1);
};

/// Returns: one word for an `NS_CLOSE_...` reason, for example `"peer"`;
/// `"unknown"` for another number. The text is static.
/// [any]
#[no_mangle]
pub extern "C" fn ns_close_reason_name(reason: i32) -> *const c_char {
    // In place and not on the heap: a leak checker finds nothing at the end of
    // the process.
    static NAMES: OnceLock<[[c_char; 16]; CloseReason::COUNT]> = OnceLock::new();
    guard(c"".as_ptr(), || {
        let name = |i| CloseReason::from_code(i as i32).map_or("unknown", CloseReason::name);
        let names = NAMES.get_or_init(|| array::from_fn(|i| in_place(name(i).as_bytes())));
        let name = usize::try_from(reason).ok().and_then(|at| names.get(at));
        name.map_or(c"unknown".as_ptr(), |name| name.as_ptr())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn static_names_are_whole() {
        let names = (0..).take(CloseReason::COUNT).filter_map(CloseReason::from_code);
        assert!(names.map(|reason| reason.name().len()).all(|len| len < 16));
    }
}
