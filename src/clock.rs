//! The monotonic clock.

#![forbid(unsafe_code)]

use std::time::Duration;

use crate::sys;

/// No deadline.
pub(crate) const NEVER: u64 = u64::MAX;

/// Milliseconds of the monotonic clock, rounded down, and one more: never 0,
/// which stands for "off" in a connection. The clock's own zero needs nothing
/// that is made at the first call, for which threads would wait.
pub(crate) fn now() -> u64 {
    sys::monotonic_millis() + 1
}

/// The first moment of [`now`] at which `time` has passed for certain.
pub(crate) fn after(time: Duration) -> u64 {
    after_millis(time.as_nanos().div_ceil(1_000_000) as u64)
}

/// [`after`] for milliseconds. One more than the sum, because the present
/// millisecond may be all but over: a deadline is never early.
pub(crate) fn after_millis(millis: u64) -> u64 {
    now() + millis + 1
}

/// The time until a deadline as poll(2) takes it: −1 for [`NEVER`].
pub(crate) fn poll_timeout(deadline: u64) -> i32 {
    match deadline {
        NEVER => -1,
        _ => deadline.saturating_sub(now()).min(i32::MAX as u64) as i32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn a_deadline_is_never_early() {
        let start = Instant::now();
        let due = after(Duration::from_millis(3));
        while now() < due {
            std::hint::spin_loop();
        }
        assert!(start.elapsed() >= Duration::from_millis(3));
    }
}
