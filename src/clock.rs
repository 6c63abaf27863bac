//! The monotonic clock.

#![forbid(unsafe_code)]

use std::time::Duration;

use crate::sys;

/// Milliseconds of the monotonic clock, rounded down, for time stamps. The
/// clock's own zero needs nothing that is made at the first call, for which
/// threads would wait.
pub(crate) fn now() -> u64 {
    sys::monotonic_millis() + 1
}

/// A moment at which something is due. A deadline is never early.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Deadline(u64);

impl Deadline {
    pub const NEVER: Deadline = Deadline(u64::MAX);
    /// It has always passed.
    pub const NOW: Deadline = Deadline(0);

    /// The latest deadline that has passed now.
    pub fn passed() -> Deadline {
        Deadline(now())
    }

    /// The first moment at which `time` has passed for certain.
    pub fn after(time: Duration) -> Deadline {
        Deadline::after_ms(time.as_nanos().div_ceil(1_000_000) as u64)
    }

    /// The same in milliseconds.
    pub fn after_ms(ms: u64) -> Deadline {
        Deadline::since(now(), ms)
    }

    /// The first moment at which `ms` milliseconds have passed since a time
    /// stamp. One more than the sum, because the stamp's millisecond may have been
    /// all but over.
    pub fn since(stamp: u64, ms: u64) -> Deadline {
        Deadline(stamp.saturating_add(ms).saturating_add(1))
    }

    pub fn later_by(self, ms: u64) -> Deadline {
        Deadline(self.0.saturating_add(ms))
    }

    pub fn is_due(self) -> bool {
        self.0 <= now()
    }

    /// The time that is left, in milliseconds.
    pub fn ms_left(self) -> u64 {
        self.0.saturating_sub(now())
    }

    /// The time that is left as poll(2) takes it: -1 for [`Deadline::NEVER`].
    pub fn poll_timeout(self) -> i32 {
        match self {
            Deadline::NEVER => -1,
            _ => self.ms_left().min(i32::MAX as u64) as i32,
        }
    }

    /// A number for an atomic, and back.
    pub fn to_bits(self) -> u64 {
        self.0
    }

    pub fn from_bits(bits: u64) -> Deadline {
        Deadline(bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn a_deadline_is_never_early() {
        let start = Instant::now();
        let due = Deadline::after(Duration::from_millis(3));
        while !due.is_due() {
            std::hint::spin_loop();
        }
        assert!(start.elapsed() >= Duration::from_millis(3));
    }
}
