//! What becomes of a connection after a callback, or after a call by id.
//! `Conn::verdict` decides it, and the loop carries it out
//! (`event/dispatch.rs`).

#![forbid(unsafe_code)]

use super::{Conn, Flags, Phase};
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
    /// drains. `has_failed_and_read_all` says that sending has failed and no input is
    /// left.
    pub fn verdict(&self, stopping: bool, has_failed_and_read_all: bool) -> Verdict {
        let is_served = self.phase() == Phase::Open || self.phase().is_handshake();
        match () {
            () if self.has(Flags::DETACHED) => Verdict::TakeOut,
            () if self.has(Flags::ABORT | Flags::BROKEN) => Verdict::Finish(self.reason),
            () if self.has(Flags::CLOSE)
                && self.phase() == Phase::Connecting
                && !self.has(Flags::BACKLOG) =>
            {
                Verdict::Finish(self.reason)
            }
            () if self.has(Flags::CLOSE) && is_served => Verdict::Close(self.reason),
            () if stopping && is_served && !self.is_sending_out() => Verdict::EndForStop,
            () if has_failed_and_read_all => Verdict::Finish(CloseReason::Reset),
            () if self.has(Flags::STARTTLS) => Verdict::Upgrade,
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

    fn verdict(
        flags: Flags,
        phase: Phase,
        stopping: bool,
        has_failed_and_read_all: bool,
    ) -> Verdict {
        let limits = Limits::of(&Config::new());
        let context = Arc::new(ThreadContext::new(Owner::Loop, 1, 0, limits));
        let mut conn = Conn::vacant(context);
        conn.set_phase(phase);
        conn.set(flags);
        conn.reason = CloseReason::Timer;
        conn.verdict(stopping, has_failed_and_read_all)
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
            (Flags::empty(), GoOn, GoOn, GoOn),
            (Flags::DETACHED, TakeOut, TakeOut, TakeOut),
            (Flags::ABORT, Finish(reason), Finish(reason), Finish(reason)),
            (Flags::BROKEN, Finish(reason), Finish(reason), Finish(reason)),
            (Flags::CLOSE, Close(reason), Close(reason), GoOn),
            (Flags::STARTTLS, Upgrade, Upgrade, Upgrade),
            (Flags::BACKLOG, GoOn, GoOn, GoOn),
            (Flags::DRAINED, GoOn, GoOn, GoOn),
            (Flags::SEND_FAILED, GoOn, GoOn, GoOn),
            (Flags::EOF, GoOn, GoOn, GoOn),
            (Flags::PAUSED, GoOn, GoOn, GoOn),
            (Flags::THROTTLED, GoOn, GoOn, GoOn),
            (Flags::CALL_AGAIN, GoOn, GoOn, GoOn),
            (Flags::ARM, GoOn, GoOn, GoOn),
            (Flags::WR_SHUT, GoOn, GoOn, GoOn),
            (Flags::TLS | Flags::DECRYPTED, GoOn, GoOn, GoOn),
        ];
        for (flags, upgrading, open, closing) in table {
            for phase in PHASES {
                let expected = match phase {
                    Phase::Open => open,
                    phase if phase.is_handshake() => upgrading,
                    _ => closing,
                };
                assert_eq!(verdict(flags, phase, false, false), expected, "{flags:?} {phase:?}");
            }
        }
    }

    /// Checks the pairs of flags that an open connection can have.
    #[test]
    fn two_flags() {
        use Verdict::*;
        let reason = CloseReason::Timer;
        let table = [
            (Flags::DETACHED | Flags::CLOSE, TakeOut),
            (Flags::DETACHED | Flags::ABORT, TakeOut),
            (Flags::ABORT | Flags::CLOSE, Finish(reason)),
            (Flags::ABORT | Flags::BACKLOG, Finish(reason)),
            (Flags::BROKEN | Flags::CLOSE, Finish(reason)),
            (Flags::BROKEN | Flags::BACKLOG, Finish(reason)),
            (Flags::CLOSE | Flags::BACKLOG, Close(reason)),
            (Flags::CLOSE | Flags::STARTTLS, Close(reason)),
            (Flags::CLOSE | Flags::SEND_FAILED, Close(reason)),
            (Flags::CLOSE | Flags::EOF, Close(reason)),
            (Flags::STARTTLS | Flags::BACKLOG, Upgrade),
            (Flags::STARTTLS | Flags::SEND_FAILED, Upgrade),
            (Flags::SEND_FAILED | Flags::CALL_AGAIN, GoOn),
            (Flags::DRAINED | Flags::BACKLOG, GoOn),
        ];
        for (flags, expected) in table {
            assert_eq!(verdict(flags, Phase::Open, false, false), expected, "{flags:?}");
        }
    }

    /// Checks a failed send whose input was read to its end, and a stop.
    #[test]
    fn the_end_of_input_and_a_stop() {
        use Verdict::*;
        let reason = CloseReason::Timer;
        let failed = Flags::SEND_FAILED;
        let table = [
            (failed, Phase::Open, false, true, Finish(CloseReason::Reset)),
            (failed, Phase::Flushing, false, true, Finish(CloseReason::Reset)),
            (failed | Flags::CLOSE, Phase::Open, false, true, Close(reason)),
            (failed | Flags::ABORT, Phase::Open, false, true, Finish(reason)),
            (Flags::empty(), Phase::Open, true, false, EndForStop),
            (failed, Phase::Open, true, true, EndForStop),
            (Flags::STARTTLS, Phase::Open, true, false, EndForStop),
            (Flags::PAUSED, Phase::Open, true, false, EndForStop),
            (Flags::BACKLOG, Phase::Open, true, false, GoOn),
            (Flags::DRAINED, Phase::Open, true, false, GoOn),
            (Flags::CLOSE | Flags::BACKLOG, Phase::Open, true, false, Close(reason)),
            (Flags::DETACHED, Phase::Open, true, false, TakeOut),
            (Flags::empty(), Phase::Handshake, true, false, EndForStop),
            (Flags::DRAINED, Phase::Handshake, true, false, GoOn),
            (Flags::empty(), Phase::Flushing, true, false, GoOn),
            (Flags::empty(), Phase::Lingering, true, false, GoOn),
        ];
        for (flags, phase, stopping, has_failed_and_read_all, expected) in table {
            let got = verdict(flags, phase, stopping, has_failed_and_read_all);
            assert_eq!(got, expected, "{flags:?} {phase:?}");
        }
    }
}
