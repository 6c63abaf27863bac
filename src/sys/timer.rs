//! A timer that a poller can watch.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::time::{
    timerfd_create, timerfd_settime, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags,
    Timespec,
};

use super::{Poller, INPUT};

/// A timerfd(2) of the monotonic clock. Its poller is edge-triggered: each
/// expiry makes an event, and nobody reads the counter.
pub(crate) struct Timer(OwnedFd);

impl Timer {
    pub fn new() -> io::Result<Timer> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        Ok(Timer(timerfd_create(TimerfdClockId::Monotonic, flags)?))
    }

    /// Makes each expiry an event of the poller.
    pub fn watch(&self, poller: &Poller, token: u64) -> io::Result<()> {
        poller.add(self.0.as_fd(), token, INPUT)
    }

    /// Expires once, after so many milliseconds, in place of an earlier
    /// setting; `None`: never.
    pub fn set(&self, millis: Option<u64>) {
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        let it_value = match millis {
            None => zero,
            // Zero would turn the timer off.
            Some(0) => Timespec { tv_sec: 0, tv_nsec: 1 },
            Some(ms) => {
                Timespec { tv_sec: (ms / 1000) as i64, tv_nsec: (ms % 1000 * 1_000_000) as i64 }
            }
        };
        let value = Itimerspec { it_interval: zero, it_value };
        // The descriptor and the value are valid: there is no error
        // (timerfd_create(2)).
        let _ = timerfd_settime(&self.0, TimerfdTimerFlags::empty(), &value);
    }
}
