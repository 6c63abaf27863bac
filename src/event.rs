//! Non-blocking mode: the event loops, and the state that they share.
//!
//! The first loop also accepts. It gives each connection to the loop with the
//! fewest connections. To give one to another loop, it puts the connection
//! among that loop's arrivals and registers it with that loop's poller, both
//! under the lock of the arrivals. The registration itself makes the first
//! event. So the other loop needs no wake-up, and finds the connection
//! complete.

#![forbid(unsafe_code)]

mod accept;
mod adopt;
mod close;
mod dispatch;
mod driver;
mod handle;
mod handshake;
mod hosted;
mod idle;
mod mail;
mod proxy;
mod quiesce;
mod run;
mod schedule;
mod slab;
mod stop;
mod tasks;

pub(crate) use accept::watch;
pub(crate) use adopt::Newcomer;
pub(crate) use handle::LoopHandle;
pub(crate) use hosted::HostedLoop;
use idle::{Idle, ROOM};
pub(crate) use mail::Mail;
pub(crate) use run::Loop;
pub use tasks::Interest;
pub(crate) use tasks::{TaskFn, TimerFn, WatchFn};

use std::net::Shutdown;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::Arc;

use crate::admission::Admission;
use crate::callback;
use crate::clock::Deadline;
use crate::config::{Config, Limits};
use crate::conn::{Conn, ConnId, Message, Owner, SendError, ThreadContext, Total};
use crate::error::{Error, Status};
use crate::listener::{Accepted, Listener};
use crate::service::Origin;
use crate::sync::lock;
use crate::sys::{self, Bits, Poller};

/// A connection's token is its id. The tokens of this module's own descriptors
/// are above all ids, because the slot numbers end before their bits do.
const WAKE: u64 = u64::MAX;
const CONTROL: u64 = u64::MAX - 1;
/// The timer of a hosted loop.
const TIMER: u64 = u64::MAX - 2;
/// The poller of the program's descriptors.
const WATCHES: u64 = u64::MAX - 3;
/// A descriptor that is in the poller for a moment: it has no events.
const PROBE: u64 = u64::MAX - 4;
/// The shutdown port of a hosted loop.
const GUEST: u64 = u64::MAX - 5;
const LISTENERS: u64 = u64::MAX - (1 << 16);

/// The events that a loop's connections are registered for. Urgent data is
/// among them, because it makes reads short although more input waits.
const INPUT: Bits = sys::INPUT.union(Bits::PRI);
const BOTH: Bits = INPUT.union(sys::OUTPUT);

/// The loops of a server.
pub(crate) struct LoopGroup {
    loops: Vec<Arc<LoopHandle>>,
    max_connections: u64,
    /// What waits until a connection closes: bits of [`idle`].
    awaited: AtomicU8,
    idle: Idle,
    pub(crate) admission: Option<Arc<Admission>>,
}

impl LoopGroup {
    pub fn new(
        config: &Config,
        server: u64,
        first_loop: usize,
        max_connections: usize,
    ) -> std::io::Result<(LoopGroup, Vec<Poller>)> {
        let mut loops = Vec::new();
        let mut pollers = Vec::new();
        let total = Total::of(config.send_limit_total);
        let owner = if first_loop == 0 { Owner::Loop } else { Owner::Guest };
        for index in 0..config.max_thread as usize {
            let poller = Poller::new()?;
            let mut context =
                ThreadContext::new(owner, server, first_loop + index, Limits::of(config));
            if let Some(total) = &total {
                context.ids.count_in(total.clone());
            }
            loops.push(Arc::new(LoopHandle::new(context, &poller)?));
            pollers.push(poller);
        }
        let loops = LoopGroup {
            loops,
            max_connections: max_connections as u64,
            awaited: AtomicU8::new(0),
            idle: Idle::default(),
            admission: Admission::of(config),
        };
        Ok((loops, pollers))
    }

    pub fn contexts(&self) -> impl Iterator<Item = &Arc<ThreadContext>> {
        self.loops.iter().map(|handle| &handle.context)
    }

    #[cfg(test)]
    pub fn post_to_first(&self, mail: Mail) {
        self.loops[0].post(mail);
    }

    /// Makes the loops close their connections until `deadline`, and then cut
    /// the rest.
    pub fn begin_drain(&self, deadline: Deadline) {
        for handle in &self.loops {
            handle.post(Mail::Stop(deadline));
        }
    }

    pub fn start_accepting(&self, listeners: Vec<Listener>) {
        self.loops[0].post(Mail::Listen(listeners));
    }

    /// Makes the first loop accept what waits in the backlog, and then no more.
    pub fn quiesce(&self) {
        self.loops[0].post(Mail::Quiesce);
    }

    /// The loop with the fewest connections. `first` wins a tie.
    fn least_busy(&self, first: usize) -> usize {
        if self.loops.len() == 1 {
            return first;
        }
        let open = |i: usize| self.loops[i].context.counters.open.get();
        let mut best = (first, open(first));
        for i in 0..self.loops.len() {
            let n = if i == first { best.1 } else { open(i) };
            if n < best.1 {
                best = (i, n);
            }
        }
        best.0
    }

    /// Makes accepting wait until the next connection closes.
    fn pause(&self) {
        self.awaited.fetch_or(ROOM, Ordering::SeqCst);
    }

    /// Returns whether accepting must wait, because the server has its largest
    /// number of connections. It sets the flag first and reads the number again
    /// after it, so that no connection that closes in between is missed.
    fn must_pause(&self) -> bool {
        if !self.is_full() {
            return false;
        }
        self.pause();
        let is_full = self.is_full();
        if !is_full {
            self.awaited.fetch_and(!ROOM, Ordering::SeqCst);
        }
        is_full
    }

    fn is_full(&self) -> bool {
        self.open() >= self.max_connections
    }

    fn open(&self) -> u64 {
        self.contexts().map(|context| context.counters.open.get()).sum()
    }

    /// A connection is closed, and the counters say so: accepting may go on.
    fn note_closed(&self) {
        if self.awaited.load(Ordering::SeqCst) != 0 {
            if self.awaited.fetch_and(!ROOM, Ordering::SeqCst) & ROOM != 0 {
                self.loops[0].post(Mail::Accept);
            }
            self.note_idle();
        }
    }

    /// A connection has ended, or leaves the server.
    fn note_left(&self, conn: &mut Conn) {
        if let Some(admission) = &self.admission {
            conn.leave(admission);
        }
    }

    /// Returns a loop by its number.
    pub fn handle(&self, index: usize) -> Option<&Arc<LoopHandle>> {
        self.loops.get(index)
    }

    fn of(&self, id: ConnId) -> Result<&LoopHandle, Status> {
        let handle = self.loops.get(ConnId::loop_index(id.get()));
        handle.map(Arc::as_ref).ok_or(Status::Closed)
    }

    pub fn send(&self, id: ConnId, bytes: &[u8]) -> Result<(), Status> {
        let handle = self.of(id)?;
        let sent = match callback::serves(&handle.context) {
            true => handle.send_here(id.get(), &Message::new(bytes)),
            false => handle.send(id.get(), &Message::new(bytes)),
        };
        sent.map_err(send_status)
    }

    /// Sends one copy of the bytes to each connection, as the iterator goes on.
    pub fn broadcast<'a>(
        &'a self,
        ids: &'a [ConnId],
        bytes: &'a [u8],
    ) -> impl Iterator<Item = Result<(), Status>> + 'a {
        let message = Message::new(bytes);
        let here = self.loops.iter().position(|handle| callback::serves(&handle.context));
        ids.iter().map(move |id| {
            let handle = self.of(*id)?;
            let sent = match here == Some(ConnId::loop_index(id.get())) {
                true => handle.send_here(id.get(), &message),
                false => handle.send(id.get(), &message),
            };
            sent.map_err(send_status)
        })
    }

    pub fn queued(&self, id: ConnId) -> Result<usize, Status> {
        self.of(id)?.context.ids.queued(id.get()).map_err(send_status)
    }

    pub fn shutdown(&self, id: ConnId, how: Shutdown) -> Result<(), Status> {
        let handle = self.of(id)?;
        // From now on the id refuses bytes. A second half-close is on its way
        // or done.
        if handle.context.ids.half_close(id.get(), how).map_err(send_status)? {
            handle.post(Mail::Shutdown(id.get(), how));
        }
        Ok(())
    }

    pub fn close(&self, id: ConnId) -> Result<(), Status> {
        let handle = self.of(id)?;
        // From now on the id refuses bytes.
        if !handle.context.ids.shut(id.get()) {
            return Err(Status::Closed);
        }
        handle.post(Mail::Close(id.get()));
        Ok(())
    }

    pub fn abort(&self, id: ConnId) -> Result<(), Status> {
        let handle = self.of(id)?;
        if handle.context.ids.abort(id.get()).map_err(send_status)? {
            handle.post(Mail::Abort(id.get()));
        }
        Ok(())
    }

    pub fn wake(&self, id: ConnId) -> Result<(), Status> {
        let handle = self.of(id)?;
        if handle.context.ids.wake(id.get()).map_err(send_status)? {
            handle.post(Mail::Wake(id.get()));
        }
        Ok(())
    }

    pub fn connections(&self) -> Vec<ConnId> {
        let lists = self.loops.iter().map(|s| s.context.ids.open_ids(s.context.index));
        lists.flatten().collect()
    }

    /// Takes the connection of a running callback out of its loop. It never
    /// waits: the descriptor becomes blocking after the connection has received
    /// all bytes that were accepted by id. That is the last step that can fail.
    pub fn detach(&self, conn: &mut Conn, owner: Arc<ThreadContext>) -> Result<Conn, Error> {
        let handle = &self.loops[conn.context.index];
        let ids = &handle.context.ids;
        let Some(asked) = ids.suspend(conn.id) else {
            // A call by id has ended it; the loop does that after the callback.
            return Err(Error::from(Status::Closed));
        };
        conn.collect();
        // A failure goes along.
        let _ = conn.flush_gathered();
        // A half-close by id may still be on its way to the loop.
        if asked.ends_sending() && conn.is_sendable() {
            conn.shut_write();
        }
        if asked.ends_receiving() {
            conn.shut_read();
        }
        if let Err(e) = conn.set_nonblocking(false) {
            ids.resume(conn.id, &asked, conn.is_sendable());
            return Err(Error::from_os(Status::Io, "cannot detach the socket", &e));
        }
        if let (Some(poller), Some(fd)) = (&lock(&handle.intake).poller, conn.fd()) {
            // If this fails, the poller does not watch the descriptor.
            let _ = poller.remove(fd);
        }
        let (aborted, wake_pending) = ids.release(conn.id);
        self.note_left(conn);
        let mut detached = conn.detach(owner);
        detached.set_wake_pending(wake_pending);
        if aborted {
            // A call by id asked for it at the last moment.
            detached.abort();
        }
        Ok(detached)
    }

    /// Gives a connection of the program to a loop: to its former loop, if that
    /// belongs to the server with this number, otherwise to the loop with the
    /// fewest connections. On failure the caller gets the connection back,
    /// large as it is.
    #[allow(clippy::result_large_err)]
    pub fn attach(&self, server: u64, conn: Conn) -> Result<u64, (Error, Conn)> {
        if conn.is_over() || conn.fd().is_none() {
            return Err((Error::from(Status::Closed), conn));
        }
        let is_former = conn.context.server == server && conn.context.index < self.loops.len();
        let index = if is_former { conn.context.index } else { self.least_busy(0) };
        if let Err(e) = conn.set_nonblocking(true) {
            return Err((Error::from_os(Status::Io, "cannot attach the socket", &e), conn));
        }
        let handle = &self.loops[index];
        let mut wake_pending = false;
        let id = handle.insert_remote(conn, Conn::fd, |mut conn, id| {
            if conn.context.server != server {
                // It came by none of this server's services.
                conn.origin = Origin::NONE;
            }
            conn.take_context(handle.context.clone());
            conn.id = id;
            conn.begin_deadlines();
            wake_pending = conn.set_wake_pending(false);
            if wake_pending {
                handle.context.ids.note_wake(id);
            }
            conn.mark_attached();
            handle.context.ids.count_queued(id, conn.queued());
            conn.end_corks();
            handle.context.ids.open(id, conn.is_sendable());
            handle.context.counters.attached.add(1);
            conn
        });
        match id {
            Ok(id) => {
                // If the socket is neither readable nor writable, its
                // registration makes no event. The loop must still learn its
                // deadlines.
                handle.wake.signal();
                if wake_pending {
                    handle.post(Mail::Wake(id));
                }
                Ok(id)
            }
            Err((error, conn)) => {
                let _ = conn.set_nonblocking(false);
                Err((error, conn))
            }
        }
    }

    /// Hands a connection that the loop `from` accepted over to another loop.
    fn hand_over(&self, from: &LoopHandle, index: usize, accepted: Accepted) -> Result<(), Error> {
        let handle = &self.loops[index];
        let make = |accepted, id| {
            from.context.counters.accepted.add(1);
            let mut conn = Conn::open(handle.context.clone(), id, accepted);
            conn.mark_arrival();
            conn
        };
        let inserted = handle.insert_remote(accepted, |a| Some(a.fd.as_fd()), make);
        inserted.map(drop).map_err(|(error, _)| error)
    }
}

fn send_status(why: SendError) -> Status {
    match why {
        SendError::Gone => Status::Closed,
        SendError::Full => Status::BufferFull,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::CloseReason;
    use crate::{Handler, LogLevel, Logger, Server, Socket};
    use std::io::Read;
    use std::net::TcpStream;
    use std::sync::atomic::AtomicU64;
    use std::sync::Mutex;
    use std::time::Duration;

    #[derive(Default)]
    struct Witness {
        events: Arc<Mutex<Vec<String>>>,
        opened: Arc<AtomicU64>,
    }

    impl Handler for Witness {
        fn on_open(&self, _: &Server, _: &mut Socket<'_>) -> Result<(), Error> {
            self.opened.fetch_add(1, Ordering::SeqCst);
            Ok(())
        }

        fn handle(&self, _: &Server, _: &mut Socket<'_>) -> Result<(), Error> {
            Ok(())
        }

        fn on_close(&self, _: &Server, _: &mut Socket<'_>, reason: CloseReason) {
            lock(&self.events).push(reason.name().into());
        }

        fn on_exception(
            &self,
            _: &Server,
            socket: Option<&mut Socket<'_>>,
            error: &Error,
        ) -> Result<(), Error> {
            lock(&self.events).push(format!("{} {}", socket.is_some(), error.status().name()));
            Ok(())
        }
    }

    /// A loop that panics reports the end of each of its connections, and the
    /// server stops.
    #[test]
    fn a_dying_loop_accounts_for_its_connections() {
        for loops in [1, 2] {
            let witness = Witness::default();
            let (events, opened) = (witness.events.clone(), witness.opened.clone());
            let lines = Arc::new(Mutex::new(Vec::new()));
            let log = lines.clone();
            let logger = Logger::new(LogLevel::Error, move |_, id, text| {
                lock(&log).push((id, text.to_owned()));
            });
            let config = Config::new().non_blocking(true).max_thread(loops).logger(logger);
            let server = Server::with_config("127.0.0.1:0", witness, config).unwrap();
            server.start_background().unwrap();
            let address = ("127.0.0.1", server.port());
            let mut clients: Vec<_> =
                (0..4).map(|_| TcpStream::connect(address).unwrap()).collect();
            // A connection whose `on_open` has not run gets no `on_close`.
            while opened.load(Ordering::SeqCst) < 4 {
                std::thread::yield_now();
            }
            server.post_to_first_loop(Mail::Panic);
            server.wait(Some(Duration::from_secs(8))).unwrap();
            for client in &mut clients {
                assert!(client.read(&mut [0]).map_or(true, |n| n == 0));
            }
            let stats = server.stats();
            assert_eq!((stats.open, stats.accepted, stats.closed_total()), (0, 4, 4));
            let events = lock(&events);
            assert_eq!(events[0], "false NS_ERR_PANIC");
            let cut = events.iter().filter(|event| *event == "cut").count();
            assert_eq!((cut as u64, events.len()), (stats.cut, 5), "{events:?}");
            assert_eq!(stats.cut, 4 / u64::from(loops));
            let lines = lock(&lines);
            let (id, text) = &lines[0];
            assert_eq!((lines.len(), *id), (1, None), "{lines:?}");
            assert!(text.starts_with("an event loop ended, and the server stops: "), "{text}");
            assert!(text.contains("a defect"), "{text}");
        }
    }
}
