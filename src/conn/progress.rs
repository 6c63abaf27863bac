//! Does a slow peer go on? The kernel takes no more bytes for a long time while
//! the peer reads what its buffers hold. Its acknowledgements are the only sign.

#![forbid(unsafe_code)]

use super::{flag, Conn};
use crate::clock::{self, Deadline};
use crate::error::CloseReason;
use crate::sys;

/// Of a deadline that seems to be reached this part is waited for once more
/// before the peer is judged: 1 / 8.
const LOOK_PART: u64 = 8;

/// What was not acknowledged yet, and when that was looked at.
#[derive(Clone, Copy)]
pub(super) struct AckLook {
    unacknowledged: usize,
    at: u64,
}

impl Conn {
    /// Returns when `idle_timeout` ends the connection.
    pub fn idle_deadline(&self) -> Deadline {
        self.stall_deadline(self.active_at, self.context.limits.idle_ms)
    }

    /// Returns when `write_timeout` ends the connection.
    pub fn write_deadline(&self) -> Deadline {
        let Some(out) = &self.out else { return Deadline::NEVER };
        self.stall_deadline(out.progress_at, self.context.limits.write_ms)
    }

    /// The time limit `limit_ms`, 0 for none, for progress since `progress_at`;
    /// later after a first look at the acknowledgements.
    fn stall_deadline(&self, progress_at: u64, limit_ms: u64) -> Deadline {
        if limit_ms == 0 {
            return Deadline::NEVER;
        }
        let due = Deadline::since(progress_at, limit_ms);
        match self.ack_look_since(progress_at) {
            Some(look) => due.max(Deadline::since(look.at, limit_ms / LOOK_PART)),
            None => due,
        }
    }

    fn ack_look_since(&self, progress_at: u64) -> Option<AckLook> {
        let look = self.extra.as_ref()?.ack_look?;
        (look.at >= progress_at).then_some(look)
    }

    /// One of the two deadlines has passed. Returns whether the connection has
    /// stalled: the peer has acknowledged all bytes, or no more of them since the
    /// last look.
    pub fn has_stalled(&mut self, reason: CloseReason) -> bool {
        let progress_at = match (&self.out, reason) {
            (Some(out), CloseReason::WriteTimeout) => out.progress_at,
            _ => self.active_at,
        };
        let end_bytes = usize::from(self.has(flag::FIN_SENT));
        let unacknowledged = sys::unsent(self.raw_fd());
        if unacknowledged <= end_bytes {
            return true;
        }
        let former = self.ack_look_since(progress_at).map(|look| look.unacknowledged);
        let now = clock::now();
        let look = AckLook { unacknowledged, at: now };
        self.extra.get_or_insert_default().ack_look = Some(look);
        match former {
            None => false,
            Some(former) if unacknowledged < former => {
                self.active_at = now;
                if let Some(out) = &mut self.out {
                    out.progress_at = now;
                }
                false
            }
            Some(_) => true,
        }
    }
}
