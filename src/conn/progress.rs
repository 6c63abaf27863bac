//! Does a slow peer go on? The kernel takes no more bytes for a long time while
//! the peer reads what its buffers hold. Its acknowledgements are the only sign,
//! and they make no event.

#![forbid(unsafe_code)]

use super::{Conn, Flags};
use crate::clock::{self, Deadline};
use crate::error::CloseReason;
use crate::outbuf::AckLook;
use crate::sys;

/// A time limit is cut into so many looks at the acknowledgements: a stalled peer
/// is ended at most this part of the limit late.
const LOOKS: u64 = 8;

impl Conn {
    /// Returns when to ask whether `idle_timeout` ends the connection.
    pub fn idle_deadline(&self) -> Deadline {
        self.stall_deadline(self.active_at, self.context.limits.idle_ms)
    }

    /// Returns when to ask whether `write_timeout` ends the connection.
    pub fn write_deadline(&self) -> Deadline {
        let Some(out) = &self.out else { return Deadline::NEVER };
        self.stall_deadline(out.progress_at, self.context.limits.write_ms)
    }

    /// Of a time limit, 0 for none, for progress since `progress_at`: the next
    /// look. A connection on a loop without a queue, which most are, is looked at
    /// only when its limit is reached.
    fn stall_deadline(&self, progress_at: u64, limit_ms: u64) -> Deadline {
        if limit_ms == 0 {
            return Deadline::NEVER;
        }
        let part = limit_ms.div_ceil(LOOKS);
        match self.ack_look() {
            Some(look) => {
                let since = look.since.max(progress_at);
                Deadline::since(look.at, part).min(Deadline::since(since, limit_ms))
            }
            None if self.out.is_some() || !self.has(Flags::LOOP) => {
                Deadline::since(progress_at, part)
            }
            None => Deadline::since(progress_at, limit_ms),
        }
    }

    /// Returns the last look since the kernel took bytes. Both limits share it,
    /// and each has its own progress: input is none for `write_timeout`. So a
    /// limit counts from its progress where that is later than the look's count.
    fn ack_look(&self) -> Option<AckLook> {
        match &self.out {
            Some(out) => out.ack_look,
            None => {
                let look = self.extra.as_ref().and_then(|extra| extra.ack_look);
                look.filter(|look| look.at >= self.active_at)
            }
        }
    }

    /// The kernel has taken bytes, perhaps in the millisecond of the last look.
    pub(super) fn forget_look(&mut self) {
        if let Some(extra) = &mut self.extra {
            extra.ack_look = None;
        }
    }

    fn set_ack_look(&mut self, look: AckLook) {
        match &mut self.out {
            Some(out) => out.ack_look = Some(look),
            None => self.extra.get_or_insert_default().ack_look = Some(look),
        }
    }

    /// Looks, when one of the two deadlines has passed. Returns whether the
    /// connection has stalled: nothing was sent, received or acknowledged for the
    /// whole limit.
    pub fn has_stalled(&mut self, reason: CloseReason) -> bool {
        let limits = &self.context.limits;
        let (progress_at, limit_ms) = match (&self.out, reason) {
            (Some(out), CloseReason::WriteTimeout) => (out.progress_at, limits.write_ms),
            _ => (self.active_at, limits.idle_ms),
        };
        let fin = usize::from(self.has(Flags::FIN_SENT));
        let unacknowledged = sys::unread_by_peer(self.raw_fd()).saturating_sub(fin);
        let now = clock::now();
        let since = match self.ack_look() {
            // Beside a queue it says that the kernel has room, of which this loop has not heard.
            _ if unacknowledged == 0 && self.out.is_none() => progress_at,
            Some(former) if unacknowledged < former.unacknowledged => {
                self.active_at = now;
                if let Some(out) = &mut self.out {
                    out.progress_at = now;
                }
                now
            }
            Some(former) => former.since,
            None => now,
        };
        let has_stalled = Deadline::since(since.max(progress_at), limit_ms).is_due();
        if !has_stalled {
            self.set_ack_look(AckLook { unacknowledged, since, at: now });
        }
        has_stalled
    }
}
