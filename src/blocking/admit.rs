//! Limits of each client's address, in a pool.

#![forbid(unsafe_code)]

use super::Pool;
use crate::address::Peer;
use crate::admission::{self, Limit};
use crate::callback;
use crate::conn::Conn;
use crate::error::CloseReason;
use crate::listener::Accepted;
use crate::logger::Kind;
use crate::server::Server;

/// A client that was turned away, and is not reported yet.
pub(super) struct Refusal(Peer, Limit);

impl Pool {
    /// Lets a new connection in, or turns it away beyond a limit of its address.
    /// The caller reports that, with [`Pool::note_refusal`], when it has the
    /// listeners no more.
    pub(super) fn admit(
        &self,
        server: &Server,
        mut accepted: Accepted,
    ) -> Result<Accepted, Refusal> {
        server.settle_origin(&mut accepted);
        let Some(admission) = &self.admission else { return Ok(accepted) };
        let peer = accepted.peer;
        let Err(limit) = admission.admit(peer, &mut accepted.origin) else { return Ok(accepted) };
        admission::turn_away(accepted.fd);
        {
            let _state = self.state();
            self.lobby.counters.accepted.add(1);
            self.lobby.counters.closed[CloseReason::Limit as usize].add(1);
        }
        Err(Refusal(peer, limit))
    }

    /// Judges the client of a connection whose PROXY header has come, as
    /// [`Pool::admit`] does. Returns `false` where it is turned away.
    pub(super) fn admit_client(&self, server: &Server, conn: &mut Conn) -> bool {
        let Some(admission) = &self.admission else { return true };
        let Err(limit) = conn.admit_client(admission) else { return true };
        conn.mark_unopened();
        conn.abort();
        conn.reason = CloseReason::Limit;
        self.note_refusal(server, Refusal(conn.client(), limit));
        false
    }

    /// Logs a refusal, and notes it for the report.
    pub(super) fn note_refusal(&self, server: &Server, Refusal(peer, limit): Refusal) {
        server.log().warn(Kind::Limit, 0, || admission::describe_refusal(peer, limit));
        if let Some(admission) = &self.admission {
            admission.note_refusal(peer, limit);
        }
    }

    /// Reports the refusals, if that is due or `in_any_case`. A worker does it
    /// before it accepts: it cannot wait for a time there (`wait_for_step`).
    pub(super) fn report_refusals(&self, server: &Server, in_any_case: bool) {
        let error = self.admission.as_ref().and_then(|admission| admission.report(in_any_case));
        if let Some(error) = error {
            self.count_report(callback::report_without_socket(server, &error));
        }
    }
}
