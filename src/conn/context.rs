//! What the connections of a thread share, and how other threads end a worker's
//! connection.

#![forbid(unsafe_code)]

use super::{Conn, Flags, IdTable, Inbox, Nearby};
use crate::config::Limits;
use crate::fork::Process;
use crate::stats::Counters;
use crate::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use crate::sync::{lock, Mutex};
use crate::sys::Reach;

/// Who owns a connection. The owner decides whether `recv` and `send` wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// An event loop: calls never wait.
    Loop,
    /// The shutdown port of a hosted server: its calls never wait either, but
    /// timers and pauses are not for the program.
    Guest,
    /// A worker, or the shutdown port: calls wait.
    Worker,
    /// The program, which has detached the connection: calls wait.
    Program,
}

impl Owner {
    /// Returns whether calls never wait.
    pub fn is_loop(self) -> bool {
        matches!(self, Owner::Loop | Owner::Guest)
    }
}

/// The context that all connections of a thread share with it and with each
/// other.
pub(crate) struct ThreadContext {
    pub owner: Owner,
    /// The number of the server in this process, and of the thread in the
    /// server. They say where a detached socket came from.
    pub server: u64,
    pub index: usize,
    pub process: Process,
    /// The connection whose callback runs, or ran last, and those beside it.
    pub reach: Reach<Conn>,
    pub limits: Limits,
    pub counters: Counters,
    /// The ids of a loop's connections, and the bytes that were accepted by id.
    pub ids: IdTable,
    pub inbox: Inbox,
    pub nearby: Nearby,
    pub scratch: Scratch,
    /// The end that another thread has forced on a worker's connection
    /// ([`ForcedEnd`]).
    forced_end: AtomicU8,
    /// A worker's connection is in its TLS handshake, which a stop does not
    /// wait for.
    pub handshaking: AtomicBool,
    /// The kind of bytes that a worker waits to send ([`Sending`]).
    sending: AtomicU8,
    /// A worker has sent its end. A thread that ends the connection must not
    /// shut its input then: the kernel would send a reset for further input.
    fin_sent: AtomicBool,
    /// The shutdown port sets this, because it serves one peer at a time: do
    /// other peers wait? If they do, it does not wait for a silent peer.
    pub rivals: Mutex<Option<Rivals>>,
}

/// The buffer of a thread: for bytes that leave together, and for input that is
/// looked at or discarded. It is allocated at its first use.
#[derive(Default)]
pub(crate) struct Scratch(Mutex<Vec<u8>>);

impl Scratch {
    /// In bytes.
    pub const SIZE: usize = 64 << 10;

    /// Takes the buffer, which is empty then. Its user puts it back.
    pub fn take(&self) -> Vec<u8> {
        let mut buffer = std::mem::take(&mut *lock(&self.0));
        buffer.clear();
        buffer.reserve_exact(Scratch::SIZE);
        buffer
    }

    pub fn put(&self, buffer: Vec<u8>) {
        *lock(&self.0) = buffer;
    }

    /// Lends the buffer, with all its room, for input.
    pub fn lend<T>(&self, body: impl FnOnce(&mut [u8]) -> T) -> T {
        let mut buffer = std::mem::take(&mut *lock(&self.0));
        buffer.resize(Scratch::SIZE, 0);
        let result = body(&mut buffer);
        self.put(buffer);
        result
    }
}

pub(crate) type Rivals = Box<dyn Fn() -> bool + Send>;

/// The kind of bytes that a worker waits to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Sending {
    No = 0,
    /// Bytes of the program, or of a TLS handshake.
    Message = 1,
    /// The last bytes of a connection that is closing.
    Goodbye = 2,
}

impl Sending {
    fn of(value: u8) -> Sending {
        match value {
            0 => Sending::No,
            1 => Sending::Message,
            _ => Sending::Goodbye,
        }
    }
}

/// The end that another thread forces on a worker's connection. A stronger end
/// replaces a weaker one.
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
            process: Process::current(),
            reach: Reach::new(),
            ids: IdTable::new(limits.send_limit),
            inbox: Inbox::default(),
            nearby: Nearby::default(),
            scratch: Scratch::default(),
            limits,
            counters: Counters::default(),
            forced_end: AtomicU8::new(ForcedEnd::None as u8),
            handshaking: AtomicBool::new(false),
            sending: AtomicU8::new(Sending::No as u8),
            fin_sent: AtomicBool::new(false),
            rivals: Mutex::new(None),
        }
    }

    /// Returns the end that another thread has forced on the worker's
    /// connection.
    pub fn forced_end(&self) -> ForcedEnd {
        ForcedEnd::of(self.forced_end.load(Ordering::SeqCst))
    }

    /// Forces an end on the worker's connection. Returns the strongest end that
    /// was asked for so far.
    pub fn force_end(&self, how: ForcedEnd) -> ForcedEnd {
        how.max(ForcedEnd::of(self.forced_end.fetch_max(how as u8, Ordering::SeqCst)))
    }

    /// Notes what kind of bytes the worker waits to send. Returns the end that
    /// was forced on the connection before: a thread that forces one later sees
    /// what is noted here.
    pub fn note_sending(&self, sending: Sending) -> ForcedEnd {
        self.sending.store(sending as u8, Ordering::SeqCst);
        self.forced_end()
    }

    /// Returns what [`ThreadContext::note_sending`] has noted, to a thread that
    /// has forced an end.
    pub fn sending(&self) -> Sending {
        Sending::of(self.sending.load(Ordering::SeqCst))
    }

    /// Notes that the worker sends its end: no thread shuts the input any more.
    /// Returns `false`, and has noted nothing, where a forced end came first.
    pub fn note_fin(&self) -> bool {
        self.fin_sent.store(true, Ordering::SeqCst);
        let is_free = self.forced_end() == ForcedEnd::None;
        if !is_free {
            self.fin_sent.store(false, Ordering::SeqCst);
        }
        is_free
    }

    /// Returns what [`ThreadContext::note_fin`] has noted, to a thread that has
    /// forced an end.
    pub fn has_sent_fin(&self) -> bool {
        self.fin_sent.load(Ordering::SeqCst)
    }

    /// Forgets the end of the last connection: the worker has another one.
    pub fn forget_forced_end(&self) {
        self.forced_end.store(ForcedEnd::None as u8, Ordering::SeqCst);
        self.fin_sent.store(false, Ordering::SeqCst);
    }

    /// Returns the flags that a connection has because it belongs to this
    /// thread.
    pub(super) fn flags(&self) -> Flags {
        let mut flags = Flags::empty();
        flags.set(Flags::LOOP, self.owner.is_loop());
        flags.set(Flags::TIMED, self.limits.idle_ms != 0);
        flags
    }
}
