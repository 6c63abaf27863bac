//! The PROXY header on a loop: the first phase of a connection, where its
//! service has it.

#![forbid(unsafe_code)]

use super::driver::Driver;
use crate::callback;
use crate::clock::Deadline;
use crate::conn::{Conn, Phase};
use crate::error::{CloseReason, Error};

impl Driver {
    /// A new connection of a service with the PROXY protocol.
    #[cold]
    pub fn expect_proxy(&mut self, conn: &mut Conn) {
        match self.server.awaited_proxy(conn) {
            Ok(_) => {
                conn.expect_proxy(Deadline::after(self.server.config().proxy_timeout));
                self.schedule.arm(conn);
            }
            Err(error) => self.fail_proxy(conn, error),
        }
    }

    /// There is input in the phase of the header.
    pub fn take_proxy(&mut self, conn: &mut Conn) {
        match conn.take_proxy(self.server.proxy_of(conn.origin)) {
            Ok(false) => {}
            Ok(true) => {
                conn.end_proxy();
                if self.admit(conn) {
                    self.on_opened(conn);
                }
                if conn.phase() == Phase::Hello {
                    // The ClientHello may have come with the header.
                    self.on_handshake_input(conn);
                }
            }
            Err(error) => self.fail_proxy(conn, error),
        }
    }

    /// Judges the client by the limits of its address. Returns `false` where that
    /// turned it away.
    fn admit(&mut self, conn: &mut Conn) -> bool {
        let Some(admission) = self.loops.admission.clone() else { return true };
        let Err(limit) = conn.admit_client(&admission) else { return true };
        let client = conn.client();
        conn.mark_unopened();
        conn.abort();
        self.finish_conn(conn, CloseReason::Limit);
        self.note_refusal(client, limit);
        false
    }

    /// Ends a connection whose source or header is refused: immediately, and without a
    /// byte to the peer.
    pub fn fail_proxy(&mut self, conn: &mut Conn, error: Error) {
        conn.refuse_proxy();
        callback::note_proxy_failure(&self.server, conn, &error);
        conn.close_because(CloseReason::Proxy);
        callback::report_handshake_failure(&self.server, conn, error);
        self.finish_conn(conn, CloseReason::Proxy);
    }
}
