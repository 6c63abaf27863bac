//! What becomes of a connection after a callback, or after a call by id.
//! `Conn::verdict` decides it, and the loop carries it out
//! (`event/dispatch.rs`).

#![forbid(unsafe_code)]

use super::{flag, Conn, Phase};
use crate::error::CloseReason;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The program has detached it: the loop takes it out of its slot.
    TakeOut,
    /// It ends now; the queued bytes are lost.
    Finish(CloseReason),
    /// It closes in order: the queued bytes leave first.
    Close(CloseReason),
    /// A stop ends it, in order if that is possible.
    EndForStop,
    /// A TLS handshake in mid-stream begins.
    Upgrade,
    GoOn,
}

impl Conn {
    /// Returns the first verdict that applies. `stopping` says that the loop
    /// drains. `has_read_all` says that sending has failed and no input is
    /// left.
    pub fn verdict(&self, stopping: bool, has_read_all: bool) -> Verdict {
        let is_served = self.phase() == Phase::Open || self.phase().is_handshake();
        match () {
            () if self.has(flag::DETACHED) => Verdict::TakeOut,
            () if self.has(flag::ABORT | flag::BROKEN) => Verdict::Finish(self.reason),
            () if self.has(flag::CLOSE) && is_served => Verdict::Close(self.reason),
            () if stopping && is_served && !self.is_sending_out() => Verdict::EndForStop,
            () if has_read_all => Verdict::Finish(CloseReason::Reset),
            () if self.has(flag::STARTTLS) => Verdict::Upgrade,
            () => Verdict::GoOn,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::config::{Config, Limits};
    use crate::conn::{Owner, ThreadContext};

    fn verdict(flags: u32, phase: Phase, stopping: bool, has_read_all: bool) -> Verdict {
        let limits = Limits::of(&Config::new());
        let context = Arc::new(ThreadContext::new(Owner::Loop, 1, 0, limits));
        let mut conn = Conn::vacant(context);
        conn.set_phase(phase);
        conn.set(flags);
        conn.reason = CloseReason::Timer;
        conn.verdict(stopping, has_read_all)
    }

    const PHASES: [Phase; 6] = [
        Phase::Hello,
        Phase::Waiting,
        Phase::Handshake,
        Phase::Open,
        Phase::Flushing,
        Phase::Lingering,
    ];

    /// Checks each flag alone, in each phase: in a handshake, open, closing.
    #[test]
    fn one_flag() {
        use Verdict::*;
        let reason = CloseReason::Timer;
        let table = [
            (0, GoOn, GoOn, GoOn),
            (flag::DETACHED, TakeOut, TakeOut, TakeOut),
            (flag::ABORT, Finish(reason), Finish(reason), Finish(reason)),
            (flag::BROKEN, Finish(reason), Finish(reason), Finish(reason)),
            (flag::CLOSE, Close(reason), Close(reason), GoOn),
            (flag::STARTTLS, Upgrade, Upgrade, Upgrade),
            (flag::BACKLOG, GoOn, GoOn, GoOn),
            (flag::DRAINED, GoOn, GoOn, GoOn),
            (flag::SEND_FAILED, GoOn, GoOn, GoOn),
            (flag::EOF, GoOn, GoOn, GoOn),
            (flag::PAUSED, GoOn, GoOn, GoOn),
            (flag::THROTTLED, GoOn, GoOn, GoOn),
            (flag::CALL_AGAIN, GoOn, GoOn, GoOn),
            (flag::ARM, GoOn, GoOn, GoOn),
            (flag::WR_SHUT, GoOn, GoOn, GoOn),
            (flag::TLS | flag::DECRYPTED, GoOn, GoOn, GoOn),
        ];
        for (flags, upgrading, open, closing) in table {
            for phase in PHASES {
                let expected = match phase {
                    Phase::Open => open,
                    phase if phase.is_handshake() => upgrading,
                    _ => closing,
                };
                assert_eq!(verdict(flags, phase, false, false), expected, "{flags:#x} {phase:?}");
            }
        }
    }

    /// Checks the pairs of flags that an open connection can have.
    #[test]
    fn two_flags() {
        use Verdict::*;
        let reason = CloseReason::Timer;
        let table = [
            (flag::DETACHED | flag::CLOSE, TakeOut),
            (flag::DETACHED | flag::ABORT, TakeOut),
            (flag::ABORT | flag::CLOSE, Finish(reason)),
            (flag::ABORT | flag::BACKLOG, Finish(reason)),
            (flag::BROKEN | flag::CLOSE, Finish(reason)),
            (flag::BROKEN | flag::BACKLOG, Finish(reason)),
            (flag::CLOSE | flag::BACKLOG, Close(reason)),
            (flag::CLOSE | flag::STARTTLS, Close(reason)),
            (flag::CLOSE | flag::SEND_FAILED, Close(reason)),
            (flag::CLOSE | flag::EOF, Close(reason)),
            (flag::STARTTLS | flag::BACKLOG, Upgrade),
            (flag::STARTTLS | flag::SEND_FAILED, Upgrade),
            (flag::SEND_FAILED | flag::CALL_AGAIN, GoOn),
            (flag::DRAINED | flag::BACKLOG, GoOn),
        ];
        for (flags, expected) in table {
            assert_eq!(verdict(flags, Phase::Open, false, false), expected, "{flags:#x}");
        }
    }

    /// Checks a failed send whose input was read to its end, and a stop.
    #[test]
    fn the_end_of_input_and_a_stop() {
        use Verdict::*;
        let reason = CloseReason::Timer;
        let failed = flag::SEND_FAILED;
        let table = [
            (failed, Phase::Open, false, true, Finish(CloseReason::Reset)),
            (failed, Phase::Flushing, false, true, Finish(CloseReason::Reset)),
            (failed | flag::CLOSE, Phase::Open, false, true, Close(reason)),
            (failed | flag::ABORT, Phase::Open, false, true, Finish(reason)),
            (0, Phase::Open, true, false, EndForStop),
            (failed, Phase::Open, true, true, EndForStop),
            (flag::STARTTLS, Phase::Open, true, false, EndForStop),
            (flag::PAUSED, Phase::Open, true, false, EndForStop),
            (flag::BACKLOG, Phase::Open, true, false, GoOn),
            (flag::DRAINED, Phase::Open, true, false, GoOn),
            (flag::CLOSE | flag::BACKLOG, Phase::Open, true, false, Close(reason)),
            (flag::DETACHED, Phase::Open, true, false, TakeOut),
            (0, Phase::Handshake, true, false, EndForStop),
            (flag::DRAINED, Phase::Handshake, true, false, GoOn),
            (0, Phase::Flushing, true, false, GoOn),
            (0, Phase::Lingering, true, false, GoOn),
        ];
        for (flags, phase, stopping, has_read_all, expected) in table {
            let got = verdict(flags, phase, stopping, has_read_all);
            assert_eq!(got, expected, "{flags:#x} {phase:?}");
        }
    }
}
