//! A connection's state, what it shares with its thread, and ids.

#![forbid(unsafe_code)]

mod fast;
pub(crate) mod flag;
mod ids;
mod inbox;
mod tls;
mod transfer;
mod verdict;
mod wait;

use std::any::Any;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use socket2::SockRef;

use crate::address::{canonical, Peer};
use crate::clock::{self, Deadline};
use crate::config::Limits;
use crate::error::{CloseReason, Status};
use crate::outbuf::OutBuf;
use crate::stats::Counters;
use crate::sys;
use crate::tls::Session;

#[cfg(feature = "capi")]
pub(crate) use fast::RawResult;
pub use ids::ConnId;
pub(crate) use ids::{IdTable, SendError};
pub(crate) use inbox::{Bytes, Inbox};
pub(crate) use tls::handshake_timeout;
pub(crate) use transfer::{READS, READ_BUDGET};
pub(crate) use verdict::Verdict;

/// What a connection's thread does with it; decides how `recv` and `send`
/// wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// An event loop's: never waits.
    Loop,
    /// A worker's, or the shutdown port's: waits.
    Worker,
    /// Detached, the program's own: waits.
    Program,
}

/// What all connections of a thread share with it and with each other.
pub(crate) struct ThreadContext {
    pub owner: Owner,
    /// The server's number in this process and the thread's in the server:
    /// where a detached socket came from.
    pub server: u64,
    pub index: usize,
    pub limits: Limits,
    pub counters: Counters,
    /// The ids of a loop's connections, and what was accepted by id.
    pub ids: IdTable,
    pub inbox: Inbox,
    /// How another thread has ended a worker's connection ([`ForcedEnd`]).
    forced_end: AtomicU8,
    /// A worker's connection is in its TLS handshake, which a stop does not
    /// wait for.
    pub handshaking: AtomicBool,
    /// A worker waits until it can send ([`Sending`]).
    pub sending: AtomicU8,
    /// A worker has sent its end: who ends the connection must not shut its
    /// input, for the kernel would answer more of it with a reset.
    pub fin_sent: AtomicBool,
    /// Of the shutdown port, where one peer at a time is served: do others
    /// wait? A silent peer is then not waited for.
    pub rivals: Mutex<Option<Rivals>>,
}

pub(crate) type Rivals = Box<dyn Fn() -> bool + Send>;

/// What a worker waits to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Sending {
    No = 0,
    /// What the program sends, or a handshake.
    Message = 1,
    /// The last of a connection that is closing.
    Goodbye = 2,
}

/// How another thread has ended a worker's connection. A stronger end replaces a
/// weaker one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum ForcedEnd {
    None = 0,
    Close = 1,
    Cut = 2,
    Abort = 3,
}

impl ForcedEnd {
    fn of(value: u8) -> ForcedEnd {
        match value {
            0 => ForcedEnd::None,
            1 => ForcedEnd::Close,
            2 => ForcedEnd::Cut,
            _ => ForcedEnd::Abort,
        }
    }
}

impl ThreadContext {
    pub fn new(owner: Owner, server: u64, index: usize, limits: Limits) -> ThreadContext {
        ThreadContext {
            owner,
            server,
            index,
            ids: IdTable::new(limits.send_limit),
            inbox: Inbox::default(),
            limits,
            counters: Counters::default(),
            forced_end: AtomicU8::new(ForcedEnd::None as u8),
            handshaking: AtomicBool::new(false),
            sending: AtomicU8::new(Sending::No as u8),
            fin_sent: AtomicBool::new(false),
            rivals: Mutex::new(None),
        }
    }

    /// How another thread has ended the worker's connection.
    pub fn forced_end(&self) -> ForcedEnd {
        ForcedEnd::of(self.forced_end.load(Ordering::SeqCst))
    }

    /// Ends the worker's connection; returns the strongest end asked for so far.
    pub fn force_end(&self, how: ForcedEnd) -> ForcedEnd {
        how.max(ForcedEnd::of(self.forced_end.fetch_max(how as u8, Ordering::SeqCst)))
    }

    /// The worker has another connection.
    pub fn forget_forced_end(&self) {
        self.forced_end.store(ForcedEnd::None as u8, Ordering::SeqCst);
        self.fin_sent.store(false, Ordering::SeqCst);
    }

    /// What connections have for flags because they are this thread's.
    fn flags(&self) -> u32 {
        let kind = match self.owner {
            Owner::Loop => flag::LOOP,
            Owner::Worker => 0,
            Owner::Program => flag::OWNED,
        };
        kind | if self.limits.idle == 0 { 0 } else { flag::TIMED }
    }
}

/// Where a connection stands between accept and close.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The slot is free.
    Vacant,
    /// The first record of its TLS handshake is awaited.
    Hello,
    /// That record has come; waits for a place among the handshakes.
    Waiting,
    /// In its TLS handshake, with a place.
    Handshake,
    /// The handler's.
    Open,
    /// Closed by the program, queued bytes are leaving.
    Flushing,
    /// Everything has left, input is discarded until the peer closes.
    Lingering,
}

impl Phase {
    /// Before or in a TLS handshake.
    pub fn is_handshake(self) -> bool {
        matches!(self, Phase::Hello | Phase::Waiting | Phase::Handshake)
    }
}

/// What few connections have.
#[derive(Default)]
struct Extra {
    /// What `ns_raise` left for the end of the callback.
    #[cfg(feature = "capi")]
    raised: Option<crate::Error>,
    /// What a call on it failed of, where it returned a status alone.
    #[cfg(feature = "capi")]
    failure: Option<crate::Error>,
    /// This connection's own `io_timeout` in ms, 0 for off.
    io_timeout: Option<u64>,
    /// A wake was on its way when it was detached: for the loop that gets it.
    woken: bool,
}

/// A connection. A loop keeps its connections in slots that never move; a
/// worker has one that it uses again and again; a detached one is boxed.
///
/// The size matters: an idle connection is this and an id table entry. So does
/// the order: what a message touches is in the first 64 bytes, one line of the
/// processor's cache.
#[repr(C, align(64))]
pub(crate) struct Conn {
    pub id: u64,
    pub context: Arc<ThreadContext>,
    /// `flag::BACKLOG` says whether there is one.
    out: Option<Box<OutBuf>>,
    pub flags: u32,
    fd: Option<OwnedFd>,
    /// Bytes the current handler call may still read.
    pub read_budget: u32,
    /// `flag::NOT_OPEN` says whether it is another one than `Open`.
    phase: Phase,
    /// When a byte last went either way; kept only with `idle_timeout`.
    pub active_at: u64,
    extra: Option<Box<Extra>>,
    pub reason: CloseReason,
    os_error: i32,
    pub tls: Option<Box<Session>>,
    user_data: Option<Box<dyn Any + Send>>,
    /// The connection's own deadline, which is, by where it stands: on a loop the
    /// end of the first handshake, then the one-shot timer, then the end of
    /// lingering; elsewhere the end of all waiting.
    pub own_deadline: Deadline,
    /// The earliest entry in the loop's timers, or never.
    pub armed: Deadline,
    peer: Peer,
}

impl Conn {
    /// A free place for a connection of the thread of `context`.
    pub fn vacant(context: Arc<ThreadContext>) -> Conn {
        Conn {
            id: 0,
            flags: context.flags() | flag::NOT_OPEN,
            context,
            out: None,
            tls: None,
            extra: None,
            user_data: None,
            active_at: 0,
            own_deadline: Deadline::NEVER,
            armed: Deadline::NEVER,
            peer: Peer::default(),
            fd: None,
            os_error: 0,
            read_budget: 0,
            phase: Phase::Vacant,
            reason: CloseReason::Handler,
        }
    }

    /// A new connection.
    pub fn open(
        context: Arc<ThreadContext>,
        id: u64,
        fd: OwnedFd,
        peer: Option<SocketAddr>,
    ) -> Conn {
        let mut conn = Conn::vacant(context);
        conn.begin(id, fd, peer);
        conn
    }

    /// Makes a free place a new connection.
    pub fn begin(&mut self, id: u64, fd: OwnedFd, peer: Option<SocketAddr>) {
        debug_assert!(self.phase() == Phase::Vacant);
        if self.has(flag::TIMED) {
            self.active_at = clock::now();
        }
        self.id = id;
        self.read_budget = 0;
        self.set(flag::BUDGET_SPENT);
        self.peer = Peer::new(peer);
        self.fd = Some(fd);
        self.set_phase(Phase::Open);
    }

    /// Makes it a free place again. What it had is dropped: the descriptor is
    /// closed.
    pub fn vacate(&mut self) {
        self.fd = None;
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

    /// Takes the connection out and leaves `rest` in its place.
    pub fn replace(&mut self, rest: Conn) -> Conn {
        std::mem::replace(self, rest)
    }

    /// Gives the connection to another thread's, or to the program.
    pub fn move_to(&mut self, context: Arc<ThreadContext>) {
        self.clear(flag::LOOP | flag::OWNED | flag::TIMED);
        self.set(context.flags());
        self.context = context;
    }

    /// A loop has it from now on: its deadlines count anew.
    pub fn begin_deadlines(&mut self) {
        self.active_at = clock::now();
        if let Some(out) = &mut self.out {
            out.progress_at = self.active_at;
        }
    }

    #[inline]
    pub fn has(&self, flags: u32) -> bool {
        self.flags & flags != 0
    }

    #[inline]
    pub fn set(&mut self, flags: u32) {
        self.flags |= flags;
    }

    #[inline]
    pub fn clear(&mut self, flags: u32) {
        self.flags &= !flags;
    }

    pub fn phase(&self) -> Phase {
        self.phase
    }

    pub fn set_phase(&mut self, phase: Phase) {
        self.phase = phase;
        match phase {
            Phase::Open => self.clear(flag::NOT_OPEN),
            _ => self.set(flag::NOT_OPEN),
        }
    }

    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.fd.as_ref().map(AsFd::as_fd)
    }

    pub fn set_nonblocking(&self, nonblocking: bool) -> std::io::Result<()> {
        self.fd.as_ref().map_or(Ok(()), |fd| SockRef::from(fd).set_nonblocking(nonblocking))
    }

    pub fn take_fd(&mut self) -> Option<OwnedFd> {
        self.fd.take()
    }

    pub fn raw_fd(&self) -> RawFd {
        self.fd.as_ref().map_or(-1, AsRawFd::as_raw_fd)
    }

    pub fn queued(&self) -> usize {
        self.out.as_ref().map_or(0, |out| out.len())
    }

    pub fn peer(&self) -> Option<SocketAddr> {
        self.peer.address()
    }

    pub fn local(&self) -> Option<SocketAddr> {
        let address = SockRef::from(&self.fd()?).local_addr().ok()?;
        Some(canonical(address.as_socket()?))
    }

    pub fn os_error(&self) -> i32 {
        self.os_error
    }

    #[cfg(feature = "capi")]
    pub fn is_owned(&self) -> bool {
        self.has(flag::OWNED)
    }

    pub fn is_over(&self) -> bool {
        self.has(flag::OVER)
    }

    /// The peer's end was seen: closing needs no lingering.
    pub fn peer_ended(&self) -> bool {
        self.flags & (flag::EOF | flag::RD_SHUT) == flag::EOF
    }

    /// May this object be used here and now? A connection of a loop only in
    /// its own callbacks, a detached one not through the old object.
    #[inline]
    pub fn usable(&self) -> Result<(), Status> {
        if !self.has(flag::IN_CALLBACK | flag::OWNED) {
            return Err(Status::NotInHandler);
        }
        match self.has(flag::DETACHED) {
            true => Err(Status::Detached),
            false => Ok(()),
        }
    }

    /// The handler read some and there may be more.
    #[inline]
    pub fn has_more(&self) -> bool {
        self.has(flag::CALL_AGAIN) && self.has(flag::READY | flag::DECRYPTED)
    }

    /// A queue has left, and `on_drain` is still to say so.
    #[inline]
    pub fn drain_is_due(&self) -> bool {
        self.flags & (flag::DRAINED | flag::BACKLOG) == flag::DRAINED && self.phase == Phase::Open
    }

    /// Bytes are on their way to the kernel, or `on_drain` is to say that they
    /// were.
    pub fn is_sending_out(&self) -> bool {
        !self.has(flag::SEND_FAILED) && (self.has(flag::BACKLOG) || self.drain_is_due())
    }

    /// Nothing is unread, and the peer has acknowledged all that was sent: an
    /// end destroys nothing. An end that was sent counts as a byte of it.
    pub fn is_quiet(&mut self) -> bool {
        let end = usize::from(self.has(flag::FIN_SENT));
        let decrypted = self.tls.as_mut().is_some_and(|tls| tls.has_plain());
        let sent = |fd: BorrowedFd<'_>| sys::unsent(fd.as_raw_fd()) <= end;
        !decrypted && !self.has_unread() && self.fd().is_some_and(sent)
    }

    /// Bytes were accepted that the end of the TLS handshake would have sent.
    pub fn holds_plaintext(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| !tls.held.is_empty())
    }

    /// After a failed send: no input is left that the program may still read.
    pub fn nothing_is_left(&mut self) -> bool {
        match self.phase {
            Phase::Open if self.has(flag::EOF) => true,
            Phase::Open if self.has(flag::PAUSED) => {
                !self.has(flag::DECRYPTED) && !self.has_unread()
            }
            Phase::Flushing => true,
            _ => false,
        }
    }

    /// Asks the thread to close the connection when the callback is over;
    /// the first reason stays.
    pub fn close_because(&mut self, reason: CloseReason) {
        if self.is_over() {
            return;
        }
        self.reason = match reason {
            CloseReason::Handler | CloseReason::Error if self.has(flag::SEND_FAILED) => {
                CloseReason::Reset
            }
            CloseReason::Handler if self.peer_ended() => CloseReason::Peer,
            other => other,
        };
        self.set(flag::CLOSE);
        // What is sent by id from now on is refused.
        self.context.ids.shut(self.id);
        if !self.has(flag::LOOP) {
            self.shut_now();
        }
    }

    /// Asks for a reset instead of an orderly end.
    pub fn abort(&mut self) {
        if self.has(flag::DETACHED | flag::IN_ON_CLOSE | flag::ABORT) {
            return;
        }
        self.reason = CloseReason::Abort;
        self.set(flag::ABORT);
        if self.has(flag::OWNED) {
            self.reset();
        }
    }

    /// Closes the descriptor so that the peer sees a reset, now, although a
    /// forked child may still have it until it calls execve(2).
    pub fn reset(&mut self) {
        if let Some(fd) = self.fd.take() {
            let _ = SockRef::from(&fd).set_linger(Some(Duration::ZERO));
            sys::disconnect(fd.as_raw_fd());
        }
    }

    /// Receiving failed with this error, after all that had arrived; returns
    /// what it means.
    pub fn fail(&mut self, error: &std::io::Error) -> Status {
        self.break_off(error.raw_os_error().unwrap_or(0));
        Status::of_transfer(error)
    }

    pub(super) fn break_off(&mut self, os_error: i32) {
        self.os_error = os_error;
        self.set(flag::BROKEN);
        if !self.has(flag::CLOSE | flag::ABORT) {
            self.reason = CloseReason::Reset;
        }
    }

    /// Sending failed with this error; returns what it means. What is queued
    /// is lost. What had arrived is not: the handler reads it first, and then
    /// the error.
    pub fn fail_send(&mut self, error: &std::io::Error) -> Status {
        if !self.has(flag::SEND_FAILED) {
            self.os_error = error.raw_os_error().unwrap_or(0);
            self.set(flag::SEND_FAILED | flag::READY | flag::SPECIAL | flag::CALL_AGAIN);
            self.context.ids.shut_sending(self.id);
        }
        self.drop_queue();
        self.clear(flag::THROTTLED | flag::DRAINED);
        Status::of_transfer(error)
    }

    /// An event told of an error, which the kernel tells once.
    pub fn note_error(&mut self) {
        let error = self.fd().and_then(|fd| SockRef::from(&fd).take_error().ok().flatten());
        if let Some(error) = error {
            self.fail_send(&error);
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

    /// What the call failed of that returned this status.
    #[cfg(feature = "capi")]
    pub fn take_failure(&mut self, status: Status) -> Option<crate::Error> {
        let failure = &mut self.extra.as_mut()?.failure;
        failure.take_if(|error| error.status() == status)
    }

    /// Notes whether a loop is to run `on_wake`; what was noted before.
    pub fn set_woken(&mut self, woken: bool) -> bool {
        match &mut self.extra {
            None if !woken => false,
            extra => std::mem::replace(&mut extra.get_or_insert_default().woken, woken),
        }
    }

    pub fn set_io_timeout(&mut self, millis: u64) {
        self.extra.get_or_insert_default().io_timeout = Some(millis);
    }

    fn io_timeout(&self) -> u64 {
        let own = self.extra.as_ref().and_then(|e| e.io_timeout);
        own.unwrap_or(self.context.limits.io)
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

    /// What is due next by the connection's own settings, or never.
    pub fn next_deadline(&self) -> (Deadline, CloseReason) {
        let limits = &self.context.limits;
        let mut next = (Deadline::NEVER, CloseReason::Timer);
        let mut consider = |due: Deadline, reason| {
            if due < next.0 {
                next = (due, reason);
            }
        };
        let phase = self.phase();
        if self.own_deadline != Deadline::NEVER {
            // Before the first handshake it is the handshake's end.
            let opened = !self.has(flag::UNOPENED);
            let reason = if opened { CloseReason::Timer } else { CloseReason::Handshake };
            consider(self.own_deadline, reason);
        }
        if phase.is_handshake() {
            let end = self.tls.as_ref().map_or(Deadline::NEVER, |tls| tls.deadline);
            consider(end, CloseReason::Handshake);
            // No other deadline counts in a handshake.
            return next;
        }
        if matches!(phase, Phase::Open | Phase::Flushing) && limits.idle != 0 {
            consider(Deadline::since(self.active_at, limits.idle), CloseReason::Idle);
        }
        if let Some(out) = self.out.as_ref().filter(|_| limits.write != 0) {
            consider(Deadline::since(out.progress_at, limits.write), CloseReason::WriteTimeout);
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The budget of an idle connection, with the 8 bytes of its id entry.
    #[test]
    fn an_idle_connection_is_small() {
        assert!(size_of::<Conn>() <= 128, "{}", size_of::<Conn>());
        assert!(std::mem::offset_of!(Conn, tls) <= 64);
    }
}
