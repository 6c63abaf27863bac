//! Connections that the program brings: sockets that it gives to a loop, and
//! connects. They enter a loop as arrivals, as accepted ones do that are handed
//! over; the registration with the poller reports the end of a connect.

#![forbid(unsafe_code)]

use std::any::Any;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use super::driver::Driver;
use super::{LoopGroup, BOTH};
use crate::address::Peer;
use crate::callback;
use crate::conn::{Conn, Phase};
use crate::connect::Connect;
use crate::error::{CloseReason, Error, Status};
use crate::listener::Accepted;
use crate::service::Origin;
use crate::sys::{self, Bits};

/// A socket that is to become a connection.
pub(crate) struct Newcomer {
    pub fd: OwnedFd,
    pub peer: Peer,
    /// `None` where it is connected.
    pub connect: Option<Connect>,
    pub user_data: Box<dyn Any + Send>,
}

impl LoopGroup {
    /// Makes a connection of a socket: in the loop whose callback this is, else
    /// in the one with the fewest connections. On failure the socket is as it
    /// was, and the caller gets it back.
    #[allow(clippy::result_large_err)]
    pub fn adopt(&self, newcomer: Newcomer) -> Result<u64, (Error, Newcomer)> {
        let handle = &self.loops[self.own_loop().unwrap_or_else(|| self.least_busy(0))];
        let id = handle.insert_remote(
            newcomer,
            |new| Some(new.fd.as_fd()),
            |new, id| {
                sys::set_close_on_exec(new.fd.as_fd());
                let accepted = Accepted { fd: new.fd, peer: new.peer, origin: Origin::NONE };
                let mut conn = Conn::open(handle.context.clone(), id, accepted);
                conn.mark_arrival();
                // fcntl(2) has no error for this on a socket.
                let _ = conn.set_nonblocking(true);
                conn.replace_user_data(Some(new.user_data));
                if let Some(connect) = new.connect {
                    conn.expect_connect(connect);
                }
                // The program has the id before `on_open` runs.
                handle.context.ids.begin(id);
                handle.context.counters.adopted.add(1);
                conn
            },
        )?;
        // The registration may make no event: a connect takes its time.
        handle.wake.signal();
        Ok(id)
    }

    /// Returns the loop that runs on this thread.
    fn own_loop(&self) -> Option<usize> {
        self.loops.iter().position(|handle| callback::serves(&handle.context))
    }
}

impl Driver {
    /// Handles an event of a connection whose connect is in progress.
    #[cold]
    pub fn on_connect_event(&mut self, conn: &mut Conn, bits: Bits) {
        match conn.has_connected(bits) {
            Ok(true) => self.finish_connect(conn, bits),
            Ok(false) => {}
            Err(error) => self.connect_next(conn, error),
        }
    }

    pub fn on_connect_timeout(&mut self, conn: &mut Conn) {
        self.connect_next(conn, io::Error::from_raw_os_error(libc::ETIMEDOUT));
    }

    fn finish_connect(&mut self, conn: &mut Conn, bits: Bits) {
        conn.finish_connect();
        if conn.is_close_requested() {
            // Only the bytes are left that were accepted before the close.
            conn.mark_unopened();
            self.settle(conn);
        } else {
            self.on_opened(conn);
        }
        if conn.set_wake_pending(false) {
            self.wake(conn);
        }
        if conn.phase() != Phase::Vacant {
            self.on_conn_event(conn, bits);
        }
    }

    /// Goes on with the next address, or reports the failure.
    fn connect_next(&mut self, conn: &mut Conn, error: io::Error) {
        if let Some(fd) = conn.fd() {
            // A child that a fork made may keep it open, and its events too.
            let _ = self.schedule.poller().remove(fd);
        }
        let begun = conn.connect_next(error).and_then(|()| {
            let Some(fd) = conn.fd() else { return Err(Error::from(Status::Connect)) };
            let watched = self.schedule.poller().add(fd, conn.id, BOTH);
            watched.map_err(|e| Error::from_os(Status::Connect, "cannot watch the socket", &e))
        });
        match begun {
            Ok(()) => self.schedule.arm(conn),
            Err(error) => self.fail_connect(conn, error),
        }
    }

    /// The handler never got the connection: this is all that the program hears
    /// of it.
    fn fail_connect(&mut self, conn: &mut Conn, error: Error) {
        conn.close_because(CloseReason::Connect);
        callback::report_handshake_failure(&self.server, conn, error);
        self.finish_conn(conn, CloseReason::Connect);
    }
}
