//! Limits of each client's address, in a pool.

#![forbid(unsafe_code)]

use super::Pool;
use crate::address::Peer;
use crate::admission::{self, Admission, Limit};
use crate::callback;
use crate::conn::Conn;
use crate::error::CloseReason;
use crate::listener::{AcceptError, Accepted};
use crate::logger::Kind;
use crate::server::Server;

impl Pool {
    /// Lets a new connection in, or turns it away beyond a limit of its address.
    pub(super) fn admit(
        &self,
        server: &Server,
        mut accepted: Accepted,
    ) -> Result<Accepted, AcceptError> {
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
        note_refusal(server, admission, peer, limit);
        Err(AcceptError::Next)
    }

    /// Judges the client of a connection whose PROXY header has come, as
    /// [`Pool::admit`] does. Returns `false` where it is turned away.
    pub(super) fn admit_client(&self, server: &Server, conn: &mut Conn) -> bool {
        let Some(admission) = &self.admission else { return true };
        let Err(limit) = conn.admit_client(admission) else { return true };
        conn.mark_unopened();
        conn.abort();
        conn.reason = CloseReason::Limit;
        note_refusal(server, admission, conn.client(), limit);
        false
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

fn note_refusal(server: &Server, admission: &Admission, peer: Peer, limit: Limit) {
    server.log().warn(Kind::Limit, 0, || admission::describe_refusal(peer, limit));
    admission.note_refusal(peer, limit);
}
