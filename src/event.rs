//! Non-blocking mode: event loops, and what they share.
//!
//! The first loop also accepts. It gives each connection to the loop with
//! the fewest; to another loop than itself by putting it among that one's
//! arrivals and registering it with that one's poller while the arrivals are
//! locked. The registration itself makes the first event, so the other loop
//! needs no wake-up call, and finds the connection complete.

#![forbid(unsafe_code)]

mod accept;
mod close;
mod dispatch;
mod handshake;
mod mail;
mod run;
mod slab;

pub(crate) use accept::watch;
pub(crate) use mail::Mail;
pub(crate) use run::Loop;

use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use crossbeam_channel::{Receiver, Sender};

use crate::config::{Config, Limits};
use crate::conn::{flag, Bytes, Conn, ConnId, Env, IdTable, Kind, Refused};
use crate::error::{Error, Status};
use crate::outbuf::{self, OutBuf};
use crate::sync::lock;
use crate::sys::{self, Bits, Event, Poller};

/// A connection's token is its id. Those of this module's own descriptors are
/// above all ids, because slots end before their bits do.
const WAKE: u64 = u64::MAX;
const CONTROL: u64 = u64::MAX - 1;
const LISTENERS: u64 = u64::MAX - (1 << 16);

/// What a loop's connections are registered for. Urgent data is among it
/// because it makes reads short although more input waits.
const INPUT: Bits = sys::INPUT.union(Bits::PRI);
const BOTH: Bits = INPUT.union(sys::OUTPUT);

/// The slots of a loop that are free, and what was put into it from outside.
struct Entrance {
    /// The loop's poller; none before it runs and after it ended.
    poller: Option<Poller>,
    free: Vec<u32>,
    next: u32,
    arrivals: Vec<Conn>,
}

/// The outside of a loop.
pub(crate) struct Shared {
    pub env: Arc<Env>,
    entrance: Mutex<Entrance>,
    has_arrivals: AtomicBool,
    mail: (Sender<Mail>, Receiver<Mail>),
    /// A wake-up is on its way: further mail needs none.
    awake: AtomicBool,
    wake: Event,
}

impl Shared {
    fn new(env: Env, poller: &Poller) -> std::io::Result<Shared> {
        let wake = Event::new()?;
        wake.watch(poller, WAKE)?;
        Ok(Shared {
            env: Arc::new(env),
            entrance: Mutex::new(Entrance {
                poller: Some(poller.clone()),
                free: Vec::new(),
                next: 0,
                arrivals: Vec::new(),
            }),
            has_arrivals: AtomicBool::new(false),
            mail: crossbeam_channel::unbounded(),
            awake: AtomicBool::new(false),
            wake,
        })
    }

    /// Puts mail into the loop's box; one wake-up serves a burst of it.
    pub fn post(&self, mail: Mail) {
        let _ = self.mail.0.send(mail);
        self.wake_up();
    }

    /// Has the loop look at its mail and its inbox.
    fn wake_up(&self) {
        if !self.awake.swap(true, Ordering::SeqCst) {
            self.wake.signal();
        }
    }

    /// Accepts bytes for a connection of this loop, or refuses all of them.
    fn send(&self, id: u64, bytes: &Bytes<'_>) -> Result<(), Refused> {
        if self.env.inbox.put(&self.env.ids, id, bytes)? {
            self.wake_up();
        }
        Ok(())
    }

    /// An id with a free slot.
    fn allocate(&self, entrance: &mut Entrance) -> Option<u64> {
        loop {
            let slot = entrance.free.pop().or_else(|| {
                let slot = entrance.next;
                entrance.next += u32::from(slot < IdTable::SLOTS);
                (slot < IdTable::SLOTS).then_some(slot)
            })?;
            if let Some(id) = self.env.ids.give(self.env.index, slot) {
                return Some(id);
            }
        }
    }

    fn free(&self, id: u64) {
        self.env.ids.release(id);
        lock(&self.entrance).free.push(ConnId::slot(id));
    }

    /// Puts a connection into the loop from another thread: complete before
    /// its first event is handled, since the loop looks among the arrivals
    /// under the lock that is held here. `open`: its id takes calls immediately.
    /// On failure `source` is given back with nothing done.
    fn put<T>(
        &self,
        source: T,
        open: bool,
        fd: impl Fn(&T) -> Option<BorrowedFd<'_>>,
        make: impl FnOnce(T, u64) -> Conn,
    ) -> Result<u64, (Error, T)> {
        let mut entrance = lock(&self.entrance);
        if entrance.poller.is_none() {
            return Err((Error::new(Status::State, "the server is not running"), source));
        }
        // Said before the id can be used and the first event can come: the loop
        // looks for the connection only where there are arrivals, and then
        // under this lock.
        self.has_arrivals.store(true, Ordering::SeqCst);
        let Some(id) = self.allocate(&mut entrance) else {
            return Err((Error::new(Status::NoMemory, "no connection slot is left"), source));
        };
        let registered = match (&entrance.poller, fd(&source)) {
            (Some(poller), Some(fd)) => poller.add(fd, id, BOTH),
            _ => Ok(()),
        };
        if let Err(e) = registered {
            self.env.ids.release(id);
            entrance.free.push(ConnId::slot(id));
            return Err((Error::from_os(Status::Io, "cannot watch the socket", &e), source));
        }
        let mut conn = make(source, id);
        conn.set(flag::WRITABLE);
        if open {
            self.env.ids.open(id, !conn.has(flag::UNSENDABLE));
        }
        entrance.arrivals.push(conn);
        self.env.counters.open.add(1);
        Ok(id)
    }
}

/// The loops of a server.
pub(crate) struct Loops {
    loops: Vec<Arc<Shared>>,
    max_connections: u64,
    /// Accepting waits for a connection to close.
    paused: AtomicBool,
}

impl Loops {
    pub fn new(
        config: &Config,
        server: u64,
        max_connections: usize,
    ) -> std::io::Result<(Loops, Vec<Poller>)> {
        let mut loops = Vec::new();
        let mut pollers = Vec::new();
        for index in 0..config.max_thread as usize {
            let poller = Poller::new()?;
            let env = Env::new(Kind::Loop, server, index, Limits::of(config));
            loops.push(Arc::new(Shared::new(env, &poller)?));
            pollers.push(poller);
        }
        let loops = Loops {
            loops,
            max_connections: max_connections as u64,
            paused: AtomicBool::new(false),
        };
        Ok((loops, pollers))
    }

    pub fn envs(&self) -> impl Iterator<Item = &Arc<Env>> {
        self.loops.iter().map(|shared| &shared.env)
    }

    #[cfg(test)]
    pub fn post_to_first(&self, mail: Mail) {
        self.loops[0].post(mail);
    }

    /// Lets the loops close their connections until `deadline`, then cut.
    pub fn begin_stop(&self, deadline: u64) {
        for shared in &self.loops {
            shared.post(Mail::Stop(deadline));
        }
    }

    pub fn start_accepting(&self, listeners: Vec<crate::listener::Listener>) {
        self.loops[0].post(Mail::Listen(listeners));
    }

    /// The loop with the fewest connections; ties stay with `first`.
    fn least_busy(&self, first: usize) -> usize {
        let open = |i: usize| self.loops[i].env.counters.open.get();
        let mut best = (first, open(first));
        for i in 0..self.loops.len() {
            let n = if i == first { best.1 } else { open(i) };
            if n < best.1 {
                best = (i, n);
            }
        }
        best.0
    }

    fn is_full(&self) -> bool {
        let open: u64 = self.envs().map(|env| env.counters.open.get()).sum();
        open >= self.max_connections
    }

    /// A connection is gone, and counted so: accepting may go on.
    fn gone(&self) {
        if self.paused.load(Ordering::SeqCst) && self.paused.swap(false, Ordering::SeqCst) {
            self.loops[0].post(Mail::Accept);
        }
    }

    fn of(&self, id: ConnId) -> Result<&Shared, Status> {
        let shared = self.loops.get(ConnId::loop_index(id.get()));
        shared.map(Arc::as_ref).ok_or(Status::Closed)
    }

    pub fn send(&self, id: ConnId, bytes: &[u8]) -> Result<(), Status> {
        let shared = self.of(id)?;
        // Much is copied before the inbox is locked.
        let sent = match bytes.len() >= outbuf::SHARED {
            true => shared.send(id.get(), &Bytes::Shared(&OutBuf::shared(bytes))),
            false => shared.send(id.get(), &Bytes::Own(bytes)),
        };
        sent.map_err(refused)
    }

    /// One copy of the bytes for all; returns how many accepted it.
    pub fn broadcast(&self, ids: &[ConnId], bytes: &[u8]) -> usize {
        let pieces = OutBuf::shared(bytes);
        let bytes = Bytes::Shared(&pieces);
        let accepts = |id: &&ConnId| {
            let shared = self.of(**id);
            shared.is_ok_and(|shared| shared.send(id.get(), &bytes).is_ok())
        };
        ids.iter().filter(accepts).count()
    }

    pub fn close(&self, id: ConnId) -> Result<(), Status> {
        let shared = self.of(id)?;
        // What is sent from now on is refused.
        if !shared.env.ids.shut(id.get()) {
            return Err(Status::Closed);
        }
        shared.post(Mail::Close(id.get()));
        Ok(())
    }

    pub fn abort(&self, id: ConnId) -> Result<(), Status> {
        let shared = self.of(id)?;
        if shared.env.ids.abort(id.get()).map_err(refused)? {
            shared.post(Mail::Abort(id.get()));
        }
        Ok(())
    }

    pub fn wake(&self, id: ConnId) -> Result<(), Status> {
        let shared = self.of(id)?;
        if shared.env.ids.wake(id.get()).map_err(refused)? {
            shared.post(Mail::Wake(id.get()));
        }
        Ok(())
    }

    pub fn connections(&self) -> Vec<ConnId> {
        let lists = self.loops.iter().map(|s| s.env.ids.open_ids(s.env.index));
        lists.flatten().collect()
    }

    /// Takes the connection of a running callback out of its loop. It never
    /// waits: the descriptor becomes blocking when all that was accepted by id
    /// is taken over. That is the last step that can fail.
    pub fn detach(&self, conn: &mut Conn, owner: Arc<Env>) -> Result<Conn, Error> {
        let shared = &self.loops[conn.env.index];
        let ids = &shared.env.ids;
        if !ids.shut(conn.id) {
            // By id, what is to be done when the callback is over.
            return Err(Error::from(Status::Closed));
        }
        conn.collect();
        if let Err(e) = conn.set_nonblocking(false) {
            ids.open(conn.id, !conn.has(flag::UNSENDABLE));
            return Err(Error::from_os(Status::Io, "cannot detach the socket", &e));
        }
        if let (Some(poller), Some(fd)) = (&lock(&shared.entrance).poller, conn.fd()) {
            // Not watched any more, should it have been shut already.
            let _ = poller.remove(fd);
        }
        let (aborted, woken) = ids.release(conn.id);
        let mut stub = Conn::vacant(conn.env.clone());
        stub.id = conn.id;
        stub.set_phase(conn.phase());
        // Its slot's queue entry and timer are still there.
        stub.armed = conn.armed;
        stub.set(flag::DETACHED | flag::IN_CALLBACK | conn.flags & flag::QUEUED);
        let mut taken = conn.replace(stub);
        taken.timer_at = 0;
        taken.armed = crate::timer::NEVER;
        taken.flags &= flag::KEPT;
        taken.move_to(owner);
        taken.set_woken(woken);
        if aborted {
            // By id, in the last moment.
            taken.abort();
        }
        Ok(taken)
    }

    /// Gives a connection of the program's to the loop it came from, where
    /// that was one of the server with this number, or to the least busy.
    pub fn attach(&self, server: u64, conn: Conn) -> Result<u64, (Error, Conn)> {
        if conn.is_over() || conn.fd().is_none() {
            return Err((Error::from(Status::Closed), conn));
        }
        let former = conn.env.server == server && conn.env.index < self.loops.len();
        let index = if former { conn.env.index } else { self.least_busy(0) };
        if let Err(e) = conn.set_nonblocking(true) {
            return Err((Error::from_os(Status::Io, "cannot attach the socket", &e), conn));
        }
        let shared = &self.loops[index];
        let mut woken = false;
        let id = shared.put(conn, true, Conn::fd, |mut conn, id| {
            conn.move_to(shared.env.clone());
            conn.id = id;
            conn.begin_deadlines();
            woken = conn.set_woken(false);
            if woken {
                shared.env.ids.bring_wake(id);
            }
            conn.set(flag::ATTACHED | flag::ARM);
            shared.env.ids.queued(id, conn.queued());
            shared.env.counters.attached.add(1);
            conn
        });
        match id {
            Ok(id) => {
                // Its registration makes no event where nothing can be read
                // or written; its deadlines count all the same.
                shared.wake.signal();
                if woken {
                    shared.post(Mail::Wake(id));
                }
                Ok(id)
            }
            Err((error, conn)) => {
                let _ = conn.set_nonblocking(false);
                Err((error, conn))
            }
        }
    }

    /// Hands a connection that the loop `from` accepted to another one.
    fn pass(
        &self,
        from: &Shared,
        index: usize,
        fd: OwnedFd,
        peer: Option<SocketAddr>,
    ) -> Result<(), Error> {
        let shared = &self.loops[index];
        let make = |(fd, peer), id| {
            from.env.counters.accepted.add(1);
            Conn::open(shared.env.clone(), id, fd, peer)
        };
        let put = shared.put((fd, peer), false, |(fd, _)| Some(fd.as_fd()), make);
        put.map(drop).map_err(|(error, _)| error)
    }
}

fn refused(why: Refused) -> Status {
    match why {
        Refused::Gone => Status::Closed,
        Refused::Full => Status::BufferFull,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::CloseReason;
    use crate::{Handler, Server, Socket};
    use std::io::Read;
    use std::net::TcpStream;
    use std::time::Duration;

    #[derive(Default)]
    struct Witness {
        events: Arc<Mutex<Vec<String>>>,
    }

    impl Handler for Witness {
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

    /// A loop that dies ends no connection in silence, and the server stops.
    #[test]
    fn a_dying_loop_accounts_for_its_connections() {
        for loops in [1, 2] {
            let witness = Witness::default();
            let events = witness.events.clone();
            let config = Config::new().non_blocking(true).max_thread(loops);
            let server = Server::with_config("127.0.0.1:0", witness, config).unwrap();
            server.start_background().unwrap();
            let address = ("127.0.0.1", server.port());
            let mut clients: Vec<_> =
                (0..4).map(|_| TcpStream::connect(address).unwrap()).collect();
            while server.stats().open < 4 {
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
        }
    }
}
