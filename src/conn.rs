//! The state of a connection and the context that it shares with its thread.
//! The child modules receive, send, wait, encrypt and give ids.

#![forbid(unsafe_code)]

mod connect;
mod context;
mod failure;
mod fast;
mod file;
mod flags;
mod gather;
mod id;
mod ids;
mod inbox;
mod nearby;
mod peer;
mod progress;
mod proxy;
mod shut;
mod state;
mod tls;
mod transfer;
mod verdict;
mod wait;

use std::any::Any;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use socket2::SockRef;

use crate::address::Peer;
use crate::clock::{self, Deadline};
use crate::connect::Connect;
use crate::error::CloseReason;
#[cfg(feature = "capi")]
use crate::error::Status;
use crate::fork;
use crate::listener::Accepted;
use crate::outbuf::{AckLook, OutBuf};
use crate::proxy::Header;
use crate::service::Origin;
use crate::sys;
use crate::tls::Session;

use flags::Flags;

pub(crate) use context::{ForcedEnd, Owner, Scratch, Sending, ThreadContext};
#[cfg(feature = "capi")]
pub(crate) use fast::RawResult;
pub use id::ConnId;
pub(crate) use id::TaskKind;
use ids::PASSING;
pub(crate) use ids::{IdTable, SendError, Total};
pub(crate) use inbox::{Inbox, Message};
pub(crate) use nearby::Nearby;
pub use peer::PeerCredentials;
pub(crate) use proxy::proxy_timeout;
pub(crate) use tls::{handshake_error, handshake_timeout};
pub(crate) use transfer::{READS, READ_BUDGET};
pub(crate) use verdict::Verdict;

/// Where a connection stands between accept and close.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The slot is free.
    Vacant,
    /// Its connect is in progress.
    Connecting,
    /// The thread waits for the PROXY header.
    Proxy,
    /// The loop waits for the first record of the TLS handshake.
    Hello,
    /// That record is complete; the connection waits for a place among the
    /// handshakes.
    Waiting,
    /// The connection has a place and is in its TLS handshake.
    Handshake,
    /// The handler has the connection.
    Open,
    /// The program has closed the connection; queued bytes are leaving.
    Flushing,
    /// All bytes have left; the thread discards input until the peer closes.
    Lingering,
}

impl Phase {
    /// Returns whether the connection is before or in a TLS handshake, or before its
    /// PROXY header.
    pub fn is_handshake(self) -> bool {
        matches!(self, Phase::Proxy | Phase::Hello | Phase::Waiting | Phase::Handshake)
    }
}

/// Rarely used fields, boxed to keep `Conn` small.
#[derive(Default)]
struct Extra {
    /// The error that `ns_raise` left for the end of the callback.
    #[cfg(feature = "capi")]
    raised: Option<crate::Error>,
    /// The error of a call that returned only its status.
    #[cfg(feature = "capi")]
    failure: Option<crate::Error>,
    /// This connection's own `io_timeout` in ms, 0 for off.
    io_timeout: Option<u64>,
    /// A wake was pending at the detach; the loop that gets the connection runs
    /// `on_wake`.
    wake_pending: bool,
    /// What is left to do for a connect that is in progress.
    connect: Option<Box<Connect>>,
    /// What the PROXY header announced, or the part of it that has come.
    proxy: Option<Box<Proxied>>,
    /// How many corks of the program hold back what is sent.
    corks: u32,
    /// The last look at what the peer has acknowledged; with a queue that is there.
    ack_look: Option<AckLook>,
}

/// A connection's PROXY header.
enum Proxied {
    Part(Vec<u8>),
    Whole(Header),
}

/// A connection. A loop keeps its connections in slots that never move; a
/// worker has one that it uses again and again; a detached connection is boxed.
///
/// The size matters: an idle connection costs this struct and an entry in the
/// id table. The order matters too: a message touches only fields in the first
/// 64 bytes, which are one line of the processor's cache.
#[repr(C, align(64))]
pub(crate) struct Conn {
    pub id: u64,
    pub context: Arc<ThreadContext>,
    /// The outbound queue, gathered bytes included; `BACKLOG` mirrors whether
    /// there is one.
    out: Option<Box<OutBuf>>,
    flags: Flags,
    fd: Option<OwnedFd>,
    /// Bytes that the current call of the handler may still read.
    pub read_budget: u32,
    /// `NOT_OPEN` mirrors whether this is another phase than `Open`.
    phase: Phase,
    pub origin: Origin,
    /// The time of the last byte in either direction; kept only with
    /// `idle_timeout`.
    pub active_at: u64,
    extra: Option<Box<Extra>>,
    pub reason: CloseReason,
    os_error: i32,
    pub tls: Option<Box<Session>>,
    user_data: Option<Box<dyn Any + Send>>,
    /// The connection's own deadline. On a loop it is first the end of the PROXY
    /// header or the first handshake, then the one-shot timer, then the end of lingering;
    /// elsewhere it is the end of all waiting.
    pub own_deadline: Deadline,
    /// The connection's earliest entry in the loop's timers, or `NEVER`.
    pub armed: Deadline,
    peer: Peer,
}

impl Conn {
    /// Returns a free place for a connection of the thread of `context`.
    pub fn vacant(context: Arc<ThreadContext>) -> Conn {
        Conn {
            id: 0,
            flags: context.flags() | Flags::NOT_OPEN,
            context,
            out: None,
            tls: None,
            extra: None,
            user_data: None,
            active_at: 0,
            own_deadline: Deadline::NEVER,
            armed: Deadline::NEVER,
            peer: Peer::default(),
            origin: Origin::NONE,
            fd: None,
            os_error: 0,
            read_budget: 0,
            phase: Phase::Vacant,
            reason: CloseReason::Handler,
        }
    }

    /// Returns a new connection, which is open.
    pub fn open(context: Arc<ThreadContext>, id: u64, accepted: Accepted) -> Conn {
        let mut conn = Conn::vacant(context);
        conn.begin(id, accepted);
        conn
    }

    /// Turns a free place into a new connection.
    pub fn begin(&mut self, id: u64, accepted: Accepted) {
        debug_assert!(self.phase() == Phase::Vacant);
        if self.has(Flags::TIMED) {
            self.active_at = clock::now();
        }
        self.id = id;
        self.read_budget = 0;
        self.set(Flags::BUDGET_SPENT);
        self.peer = accepted.peer;
        self.origin = accepted.origin;
        self.fd = Some(accepted.fd);
        self.expect_short_reads();
        self.set_phase(Phase::Open);
    }

    /// Turns the connection into a free place again. This drops all that it had
    /// and closes the descriptor.
    pub fn vacate(&mut self) {
        self.close_fd();
        self.out = None;
        self.tls = None;
        self.extra = None;
        self.user_data = None;
        self.id = 0;
        self.flags = self.context.flags();
        self.set_phase(Phase::Vacant);
        self.active_at = 0;
        self.own_deadline = Deadline::NEVER;
        self.armed = Deadline::NEVER;
        self.os_error = 0;
        self.reason = CloseReason::Handler;
    }

    /// Takes the connection out of its loop, for the program. What stays is a
    /// stub, until the running callback is over; the entries of its slot in the
    /// ready queue and in the timers remain.
    pub fn detach(&mut self, owner: Arc<ThreadContext>) -> Conn {
        let mut stub = Conn::vacant(self.context.clone());
        stub.id = self.id;
        stub.set_phase(self.phase);
        stub.armed = self.armed;
        stub.set(Flags::DETACHED | Flags::IN_CALLBACK | self.flags & Flags::IN_READY_QUEUE);
        let mut detached = self.replace(stub);
        detached.own_deadline = Deadline::NEVER;
        detached.armed = Deadline::NEVER;
        detached.flags &= Flags::SURVIVES_DETACH;
        detached.take_context(owner);
        detached
    }

    /// Returns the connection and leaves `replacement` in its place.
    pub fn replace(&mut self, replacement: Conn) -> Conn {
        std::mem::replace(self, replacement)
    }

    /// Gives the connection to another thread, or to the program.
    pub fn take_context(&mut self, context: Arc<ThreadContext>) {
        self.clear(Flags::LOOP | Flags::TIMED);
        self.set(context.flags());
        self.context = context;
        self.expect_short_reads();
    }

    /// Starts the connection's deadlines anew, for the loop that has it from
    /// now on.
    pub fn begin_deadlines(&mut self) {
        self.active_at = clock::now();
        if let Some(out) = &mut self.out {
            out.progress_at = self.active_at;
        }
    }

    /// Returns whether any of these flags is set.
    #[inline]
    fn has(&self, flags: Flags) -> bool {
        self.flags.intersects(flags)
    }

    #[inline]
    fn set(&mut self, flags: Flags) {
        self.flags.insert(flags);
    }

    #[inline]
    fn clear(&mut self, flags: Flags) {
        self.flags.remove(flags);
    }

    pub fn phase(&self) -> Phase {
        self.phase
    }

    pub fn set_phase(&mut self, phase: Phase) {
        self.phase = phase;
        match phase {
            Phase::Open => self.clear(Flags::NOT_OPEN),
            _ => self.set(Flags::NOT_OPEN),
        }
    }

    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.fd.as_ref().map(AsFd::as_fd)
    }

    pub fn set_nonblocking(&self, nonblocking: bool) -> std::io::Result<()> {
        self.fd.as_ref().map_or(Ok(()), |fd| SockRef::from(fd).set_nonblocking(nonblocking))
    }

    /// Closes the descriptor. The peer sees the end although a child made by
    /// fork(2) may still have the descriptor; a child ends nothing that is its
    /// parent's.
    pub fn close_fd(&mut self) {
        if let Some(fd) = self.fd.take().filter(|_| fork::has_children()) {
            if self.context.process.is_current() {
                sys::shutdown(fd.as_raw_fd(), sys::Shutdown::Both);
            }
        }
    }

    /// Puts back what [`Conn::take_fd`] took.
    pub fn put_fd(&mut self, fd: OwnedFd) {
        self.fd = Some(fd);
    }

    pub fn take_fd(&mut self) -> Option<OwnedFd> {
        self.fd.take()
    }

    pub fn raw_fd(&self) -> RawFd {
        self.fd.as_ref().map_or(-1, AsRawFd::as_raw_fd)
    }

    /// Returns how many bytes were accepted and are not with the kernel.
    pub fn queued(&self) -> usize {
        self.refused() + self.gathered()
    }

    /// Returns how many bytes the kernel has refused so far.
    fn refused(&self) -> usize {
        self.out.as_ref().map_or(0, |out| out.len())
    }

    pub fn os_error(&self) -> i32 {
        self.os_error
    }

    pub fn is_owned(&self) -> bool {
        self.context.owner == Owner::Program
    }

    /// Asks the thread to close the connection when the callback is over. The
    /// first reason stays.
    pub fn close_because(&mut self, reason: CloseReason) {
        if self.is_over() {
            return;
        }
        self.reason = match reason {
            CloseReason::Handler | CloseReason::Error if self.has(Flags::SEND_FAILED) => {
                CloseReason::Reset
            }
            CloseReason::Handler if self.has_peer_ended() => CloseReason::Peer,
            other => other,
        };
        self.set(Flags::CLOSE);
        // From now on a send by id is refused.
        self.context.ids.shut(self.id);
        if !self.has(Flags::LOOP) {
            self.shut_now();
        }
    }

    /// Asks the thread for a reset instead of an orderly end.
    pub fn abort(&mut self) {
        if self.has(Flags::DETACHED | Flags::IN_ON_CLOSE | Flags::ABORT) {
            return;
        }
        self.reason = CloseReason::Abort;
        self.set(Flags::ABORT);
        if self.is_owned() {
            self.reset();
        }
    }

    /// Closes the descriptor so that the peer sees a reset immediately,
    /// although a forked child may still have the descriptor until it calls
    /// execve(2).
    pub fn reset(&mut self) {
        if let Some(fd) = self.fd.take() {
            let _ = SockRef::from(&fd).set_linger(Some(Duration::ZERO));
            sys::disconnect(fd.as_raw_fd());
        }
    }

    #[cfg(feature = "capi")]
    pub fn set_raised(&mut self, error: crate::Error) {
        self.extra.get_or_insert_default().raised = Some(error);
    }

    #[cfg(feature = "capi")]
    #[inline]
    pub fn may_have_raised(&self) -> bool {
        self.extra.is_some()
    }

    #[cfg(feature = "capi")]
    pub fn take_raised(&mut self) -> Option<crate::Error> {
        self.extra.as_mut()?.raised.take()
    }

    #[cfg(feature = "capi")]
    pub fn set_failure(&mut self, error: crate::Error) {
        self.extra.get_or_insert_default().failure = Some(error);
    }

    /// Returns the error of the call that returned this status.
    #[cfg(feature = "capi")]
    pub fn take_failure(&mut self, status: Status) -> Option<crate::Error> {
        let failure = &mut self.extra.as_mut()?.failure;
        failure.take_if(|error| error.status() == status)
    }

    /// Sets whether a loop must run `on_wake`, and returns the former value.
    pub fn set_wake_pending(&mut self, pending: bool) -> bool {
        match &mut self.extra {
            None if !pending => false,
            extra => std::mem::replace(&mut extra.get_or_insert_default().wake_pending, pending),
        }
    }

    pub fn set_io_timeout(&mut self, millis: u64) {
        self.extra.get_or_insert_default().io_timeout = Some(millis);
    }

    fn io_timeout(&self) -> u64 {
        let own_timeout = self.extra.as_ref().and_then(|extra| extra.io_timeout);
        own_timeout.unwrap_or(self.context.limits.io_ms)
    }

    pub fn user_data(&self) -> Option<&(dyn Any + Send)> {
        self.user_data.as_deref()
    }

    pub fn user_data_mut(&mut self) -> Option<&mut (dyn Any + Send)> {
        self.user_data.as_deref_mut()
    }

    pub fn replace_user_data(
        &mut self,
        data: Option<Box<dyn Any + Send>>,
    ) -> Option<Box<dyn Any + Send>> {
        std::mem::replace(&mut self.user_data, data)
    }

    /// Returns the deadline that comes next by the connection's own settings,
    /// or `NEVER`, and the reason for the close then.
    pub fn next_deadline(&self) -> (Deadline, CloseReason) {
        let mut next = (Deadline::NEVER, CloseReason::Timer);
        let mut consider = |due: Deadline, reason| {
            if due < next.0 {
                next = (due, reason);
            }
        };
        let phase = self.phase();
        if phase == Phase::Connecting {
            // No other deadline counts.
            return (self.own_deadline, CloseReason::Connect);
        }
        if self.own_deadline != Deadline::NEVER {
            // Until the connection is open, this is the end of its PROXY header or
            // of its first handshake.
            let is_open = !self.has(Flags::UNOPENED);
            let reason = if is_open { CloseReason::Timer } else { CloseReason::Handshake };
            consider(self.own_deadline, reason);
        }
        if phase.is_handshake() {
            let end = self.tls.as_ref().map_or(Deadline::NEVER, |tls| tls.deadline);
            consider(end, CloseReason::Handshake);
            // No other deadline counts in a handshake.
            return next;
        }
        if matches!(phase, Phase::Open | Phase::Flushing) {
            consider(self.idle_deadline(), CloseReason::Idle);
        }
        consider(self.write_deadline(), CloseReason::WriteTimeout);
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With the 8 bytes of its id entry this is the budget of an idle
    /// connection.
    #[test]
    fn an_idle_connection_is_small() {
        assert!(size_of::<Conn>() <= 128, "{}", size_of::<Conn>());
        assert!(std::mem::offset_of!(Conn, tls) <= 64);
    }
}
