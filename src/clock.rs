//! The monotonic clock.

#![forbid(unsafe_code)]

use std::time::Duration;

use crate::sys;

/// A time stamp: milliseconds of the monotonic clock, rounded down. It counts
/// from the clock's own zero. An epoch of the library would be made at the
/// first call, and other threads would wait for that.
pub(crate) fn now() -> u64 {
    sys::monotonic_millis() + 1
}

/// A moment at which something is due. No deadline is reported early.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Deadline(u64);

impl Deadline {
    pub const NEVER: Deadline = Deadline(u64::MAX);
    /// A deadline that has always passed.
    pub const NOW: Deadline = Deadline(0);

    /// The latest of the deadlines that have passed now.
    pub fn latest_due() -> Deadline {
        Deadline(now())
    }

    /// The first moment at which `time` has certainly passed.
    pub fn after(time: Duration) -> Deadline {
        let ms = time.as_nanos().div_ceil(1_000_000);
        Deadline::after_ms(u64::try_from(ms).unwrap_or(u64::MAX))
    }

    /// The same, in milliseconds.
    pub fn after_ms(ms: u64) -> Deadline {
        Deadline::since(now(), ms)
    }

    /// The first moment at which `ms` milliseconds have certainly passed since
    /// a time stamp. It is one more than the sum, because the stamp's
    /// millisecond may have been almost over.
    pub fn since(stamp: u64, ms: u64) -> Deadline {
        Deadline(stamp.saturating_add(ms).saturating_add(1))
    }

    pub fn later_by(self, ms: u64) -> Deadline {
        Deadline(self.0.saturating_add(ms))
    }

    /// The milliseconds from an earlier deadline to this one, 0 if it is later.
    pub fn ms_since(self, earlier: Deadline) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    pub fn is_due(self) -> bool {
        self.0 <= now()
    }

    /// The remaining time in milliseconds.
    pub fn ms_left(self) -> u64 {
        self.0.saturating_sub(now())
    }

    /// The remaining time as poll(2) takes it: -1 for [`Deadline::NEVER`].
    pub fn poll_timeout(self) -> i32 {
        match self {
            Deadline::NEVER => -1,
            _ => self.ms_left().min(i32::MAX as u64) as i32,
        }
    }

    /// Converts to a number that an atomic can hold; [`Deadline::from_bits`]
    /// converts back.
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

    #[test]
    fn the_longest_time_never_passes() {
        assert_eq!(Deadline::after(Duration::MAX), Deadline::NEVER);
    }
}
