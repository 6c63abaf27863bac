//! The driver moves a connection of a loop from one phase of its life to the
//! next. It knows the connection that it is given and no other: so a callback
//! of one connection cannot reach another one, but to send to it by id
//! (`conn/nearby.rs`). The methods are in the files of the phases: `accept.rs`,
//! `handshake.rs`, `dispatch.rs`, `close.rs`, `stop.rs`.
//!
//! A method that is given a connection may end it. Its place is vacant then
//! (`Phase::Vacant`), and stays so as long as the caller has it.

#![forbid(unsafe_code)]

use std::sync::Arc;

use super::handshake::Handshakes;
use super::schedule::Schedule;
use super::stop::Drain;
use super::{LoopGroup, LoopHandle};
use crate::callback;
use crate::conn::Conn;
use crate::error::{CloseReason, Error};
use crate::server::Server;
use crate::stats::Counters;
use crate::sys::Poller;

/// The order matters: the fields that every turn touches come first.
#[repr(C)]
pub(super) struct Driver {
    pub schedule: Schedule,
    pub drain: Drain,
    pub server: Server,
    pub handle: Arc<LoopHandle>,
    pub loops: Arc<LoopGroup>,
    pub handshakes: Handshakes,
}

impl Driver {
    pub fn new(server: Server, loops: Arc<LoopGroup>, index: usize, poller: Poller) -> Driver {
        let config = server.config();
        let max_handshakes = match config.max_handshakes {
            0 => usize::MAX,
            max => max.div_ceil(config.max_thread) as usize,
        };
        Driver {
            schedule: Schedule::new(poller),
            drain: Drain::default(),
            handle: loops.loops[index].clone(),
            server,
            loops,
            handshakes: Handshakes::new(max_handshakes),
        }
    }

    pub fn counters(&self) -> &Counters {
        &self.handle.context.counters
    }

    /// Returns the number of connections of the loop, lingering ones and
    /// arrivals included.
    pub fn open_connections(&self) -> usize {
        self.counters().open.get() as usize
    }

    /// Returns whether a stop was requested: no call of the handler begins any
    /// more, even before the loop has the mail of the stop.
    pub fn is_stopping(&self) -> bool {
        self.drain.is_begun() || self.server.is_stopping()
    }

    /// Reports a failure that belongs to no connection.
    pub fn report(&self, error: &Error) {
        self.count_report(callback::report_without_socket(&self.server, error));
    }

    /// Counts it if the exception handler failed.
    pub fn count_report(&self, failure: Option<Error>) {
        self.counters().handler_errors.add(u64::from(failure.is_some()));
    }

    /// Registers the connection for writability too, because bytes are queued.
    pub fn watch_writable(&mut self, conn: &mut Conn) {
        if self.schedule.watch_writable(conn).is_err() {
            // The kernel is out of memory: without events the bytes cannot
            // leave.
            self.finish_conn(conn, CloseReason::Reset);
        }
    }
}
