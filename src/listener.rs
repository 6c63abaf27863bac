//! Listening sockets: accepting, and the meaning of accept's errors. The child
//! modules bind them.

#![forbid(unsafe_code)]

mod inherited;
mod tcp;
mod unix;

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, Mutex};

use socket2::{SockAddr, SockRef, Socket};

use crate::address::{self, Peer};
use crate::clock::{self, Deadline};
use crate::config::Config;
use crate::conn::Conn;
use crate::error::{quoted, Error, Status};
use crate::fork::Process;
use crate::service::{Origin, Place, Service};
use crate::sync::lock;
use crate::sys::{self, PollFd, PollFlags, Poller, Shutdown};
use tcp::TcpOptions;

/// A bound socket that listens. Accepted sockets inherit the options that are
/// set here (Linux), which saves the calls per connection.
pub(crate) struct Listener {
    /// `None` only in the drop.
    socket: Option<Socket>,
    number: Arc<ListenerFd>,
    process: Process,
    address: SockAddr,
    origin: Origin,
    /// The file of a unix socket, until the listener is shut.
    file: Mutex<Option<unix::SocketFile>>,
    /// The socket was made by others, who go on to accept.
    inherited: Option<Inherited>,
    /// Wakes the threads that wait for a connection when the listener is shut,
    /// where nothing else may: shutdown(2) would end the socket for all that
    /// have it. Those threads poll before they accept.
    end: Option<OwnedFd>,
    /// The socket accepts no more: it was shut, or destroyed from outside.
    lost: AtomicBool,
}

/// What a socket needs that others have made.
struct Inherited {
    /// The options of accepted sockets: the listener's are not ours to set.
    options: Option<TcpOptions>,
}

/// Why accept returned no connection.
pub(crate) enum AcceptError {
    /// No connection is waiting.
    Empty,
    /// That connection is gone already; the next one may succeed.
    Next,
    /// Descriptors or memory are used up, or accepting is forbidden: try again
    /// later.
    Exhausted(io::Error),
    /// The listener accepts no more: it was shut, or destroyed from outside.
    /// Reported once.
    Lost(io::Error),
    /// No listener is left.
    Shut,
}

impl Listener {
    /// Takes a socket that listens.
    fn new(socket: Socket) -> io::Result<Listener> {
        Ok(Listener {
            address: socket.local_addr()?,
            number: Arc::new(ListenerFd::new(socket.as_raw_fd())),
            process: Process::current(),
            socket: Some(socket),
            origin: Origin::NONE,
            file: Mutex::new(None),
            inherited: None,
            end: None,
            lost: AtomicBool::new(false),
        })
    }

    /// Takes a socket that others have made, and have too.
    fn inherited(socket: Socket, config: &Config) -> io::Result<Listener> {
        let mut listener = Listener::new(socket)?;
        let options = listener.address.as_socket().map(|_| TcpOptions::of(config));
        listener.inherited = Some(Inherited { options });
        listener.poll_first()?;
        Ok(listener)
    }

    /// Makes the threads that wait for a connection poll before they accept.
    fn poll_first(&mut self) -> io::Result<()> {
        self.end = Some(sys::new_event()?);
        Ok(())
    }

    /// Returns whether others have the socket too, and go on to accept.
    pub fn is_shared(&self) -> bool {
        self.inherited.is_some() || self.number.is_lent()
    }

    fn socket(&self) -> &Socket {
        self.socket.as_ref().expect("until the drop")
    }

    pub fn number(&self) -> Arc<ListenerFd> {
        self.number.clone()
    }

    /// Returns the port, 0 if it has none.
    pub fn port(&self) -> u16 {
        self.address.as_socket().map_or(0, |address| address.port())
    }

    /// Accepts the next waiting connection.
    pub fn accept(&self, non_blocking: bool) -> Result<Accepted, AcceptError> {
        if self.is_shared() {
            self.prepare_shared()?;
        }
        let accepted = sys::accept(self.socket().as_fd(), non_blocking);
        let complete = |(fd, peer)| {
            if let Some(Inherited { options: Some(options) }) = &self.inherited {
                options.set(SockRef::from(&fd));
            }
            Accepted { fd, peer: Peer::new(&peer), origin: self.origin }
        };
        accepted.map(complete).map_err(|e| match e.raw_os_error() {
            Some(libc::EAGAIN) => AcceptError::Empty,
            Some(libc::EINVAL | libc::EBADF | libc::ENOTSOCK) => {
                match self.lost.swap(true, Ordering::SeqCst) {
                    false => AcceptError::Lost(e),
                    true => AcceptError::Next,
                }
            }
            _ if is_transient(&e) => AcceptError::Next,
            // Any other failure may be permanent (EPERM of a packet filter).
            _ => AcceptError::Exhausted(e),
        })
    }

    /// Makes sure that accept(2) does not wait: another process may take the
    /// connection that is there, and may have cleared `O_NONBLOCK`, which all
    /// that have the socket share.
    fn prepare_shared(&self) -> Result<(), AcceptError> {
        match sys::poll(self.as_fd(), PollFlags::IN, 0) {
            Ok(found) if found.is_empty() => Err(AcceptError::Empty),
            Ok(_) => self.set_nonblocking().map_err(AcceptError::Exhausted),
            Err(_) => Err(AcceptError::Next),
        }
    }

    pub fn is_lost(&self) -> bool {
        self.lost.load(Ordering::SeqCst)
    }

    pub fn set_nonblocking(&self) -> io::Result<()> {
        self.socket().set_nonblocking(true)
    }

    /// Wakes every thread that waits in accept; no later accept succeeds. The
    /// file of a unix socket is removed first, so that its path is free when
    /// nobody listens there any more.
    pub fn shut(&self) {
        if !self.process.is_current() {
            // A child has the same socket as its parent.
            return;
        }
        self.remove_file();
        if let Some(end) = &self.end {
            self.lost.store(true, Ordering::SeqCst);
            sys::signal_event(end.as_fd());
        }
        if !self.is_shared() {
            sys::shutdown(self.socket().as_raw_fd(), Shutdown::Both);
        }
    }

    /// Makes a unix socket that nobody shares refuse new clients, and keep those
    /// that wait. TCP has nothing like that.
    pub fn refuse_more(&self) {
        self.remove_file();
        if self.address.is_unix() && !self.is_shared() {
            sys::shutdown(self.socket().as_raw_fd(), Shutdown::Both);
        }
    }

    /// Removes the file of a unix socket; it leaves that of a lent one.
    fn remove_file(&self) {
        let file = lock(&self.file).take();
        if let (true, Some(file)) = (self.number.is_lent(), file) {
            file.leave();
        }
    }

    /// Makes a poller report nothing of it any more. The poller watches a socket
    /// that others have until that, although this descriptor is closed
    /// (epoll(7)).
    pub fn unwatch(&self, poller: &Poller) {
        if self.is_shared() {
            let _ = poller.remove(self.as_fd());
        }
    }
}

/// Dropping shuts the socket, so that it listens no more, although a forked
/// child may have the descriptor until it calls execve(2).
impl Drop for Listener {
    fn drop(&mut self) {
        self.shut();
        if self.number.take() < 0 {
            // Closed already.
            std::mem::forget(self.socket.take());
        }
    }
}

/// The number of a listener's descriptor, for those that cannot use the listener
/// itself, which a thread of the server owns: for the program that lends it, and
/// for a child of fork(2).
pub(crate) struct ListenerFd {
    fd: AtomicI32,
    /// The program has the number, and perhaps gives the socket to others.
    lent: AtomicBool,
}

impl ListenerFd {
    fn new(fd: RawFd) -> ListenerFd {
        ListenerFd { fd: AtomicI32::new(fd), lent: AtomicBool::new(false) }
    }

    /// Lends the descriptor; `None` where it is closed.
    pub fn lend(&self) -> Option<RawFd> {
        self.lent.store(true, Ordering::SeqCst);
        Some(self.fd.load(Ordering::SeqCst)).filter(|fd| *fd >= 0)
    }

    fn is_lent(&self) -> bool {
        self.lent.load(Ordering::SeqCst)
    }

    /// Takes the descriptor, to close it; -1 where it was taken before.
    fn take(&self) -> RawFd {
        self.fd.swap(-1, Ordering::SeqCst)
    }

    /// Closes the child's copy of the descriptor.
    pub fn close_in_child(&self) {
        let fd = self.take();
        if fd >= 0 {
            sys::close(fd);
        }
    }
}

/// Whether one connection failed and the next one may succeed. accept(2) lists
/// these errors; it passes network errors on from the new connection.
fn is_transient(error: &io::Error) -> bool {
    use libc::{ECONNABORTED, ECONNRESET, EHOSTDOWN, EHOSTUNREACH, EINTR, ENETDOWN, ENETUNREACH};
    use libc::{ENONET, ENOPROTOOPT, EOPNOTSUPP, EPROTO, ETIMEDOUT};
    let code = error.raw_os_error().unwrap_or(0);
    matches!(code, ECONNABORTED | EPROTO | EINTR | ECONNRESET | ETIMEDOUT | ENETDOWN)
        || matches!(code, ENOPROTOOPT | EHOSTDOWN | ENONET | EHOSTUNREACH | EOPNOTSUPP)
        || code == ENETUNREACH
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket().as_fd()
    }
}

impl AsRawFd for Listener {
    fn as_raw_fd(&self) -> RawFd {
        self.socket().as_raw_fd()
    }
}

/// Makes the listeners of a service. Their connections get `origin`. Those of a
/// blocking server that may be lent are polled first.
pub(crate) fn bind(
    service: &Service,
    origin: Origin,
    config: &Config,
) -> Result<Vec<Listener>, Error> {
    let mut listeners = match service.place() {
        Place::Tcp(tcp) => tcp::bind(service, tcp, config)?,
        Place::File(path) => vec![unix::bind_file(service, path, config)?],
        Place::Fd(fd) => vec![inherited::take(service, *fd, config)?],
        Place::Systemd(name) => inherited::take_from_systemd(service, name.as_deref(), config)?,
        Place::Abstract(name) => vec![unix::bind_abstract(service, name, config)?],
    };
    for listener in &mut listeners {
        listener.origin = origin;
        if config.lend_listeners && !config.non_blocking && listener.end.is_none() {
            listener.poll_first().map_err(|e| listen_error(service, &e))?;
        }
    }
    Ok(listeners)
}

fn listen_error(service: &Service, error: &io::Error) -> Error {
    let text = format!("cannot listen on {}", quoted(service.text()));
    Error::from_os(Status::Listen, &text, error)
}

/// A new connection, its peer, and the service that it came by.
pub(crate) struct Accepted {
    pub fd: OwnedFd,
    pub peer: Peer,
    pub origin: Origin,
}

/// accept(2) with a deadline. With one listener that nobody may share and no
/// deadline it is the bare call. The caller passes a different `turn` each time.
pub(crate) fn accept_until(
    listeners: &[Listener],
    until: Deadline,
    turn: usize,
) -> Result<Accepted, AcceptError> {
    match listeners {
        [listener] if until == Deadline::NEVER && listener.end.is_none() => {
            return match listener.is_lost() {
                true => Err(AcceptError::Shut),
                false => listener.accept(false),
            };
        }
        _ => {}
    }
    accept_from(&wait_ready(listeners, until)?, turn)
}

/// Waits until listeners may have connections, or until a deadline. Returns the
/// listeners that may have connections, and never a lost one.
pub(crate) fn wait_ready(
    listeners: &[Listener],
    until: Deadline,
) -> Result<Vec<&Listener>, AcceptError> {
    let (mut usable, mut entries) = (room_for(listeners.len())?, room_for(2 * listeners.len())?);
    usable.extend(listeners.iter().filter(|l| !l.is_lost()));
    if usable.is_empty() {
        return Err(AcceptError::Shut);
    }
    entries.extend(usable.iter().map(|l| PollFd::new(*l, PollFlags::IN)));
    let ends = usable.iter().filter_map(|l| l.end.as_ref());
    entries.extend(ends.map(|end| PollFd::new(end, PollFlags::IN)));
    match sys::poll_many(&mut entries, until.poll_timeout()) {
        Ok(0) => Err(AcceptError::Empty),
        Ok(_) => {
            let mut events = entries.iter().map(|entry| !entry.revents().is_empty());
            usable.retain(|_| events.next() == Some(true));
            Ok(usable)
        }
        Err(_) => Err(AcceptError::Next),
    }
}

fn room_for<T>(count: usize) -> Result<Vec<T>, AcceptError> {
    let mut list = Vec::new();
    let no_memory = |_| AcceptError::Exhausted(io::Error::from_raw_os_error(libc::ENOMEM));
    list.try_reserve_exact(count).map_err(no_memory)?;
    Ok(list)
}

/// Accepts from one of the listeners that [`wait_ready`] returned; `turn` says
/// which, so that each has its turn.
pub(crate) fn accept_from(ready: &[&Listener], turn: usize) -> Result<Accepted, AcceptError> {
    match ready {
        [] => Err(AcceptError::Empty),
        _ => ready[turn % ready.len()].accept(false),
    }
}

/// Sets on a socket that no listener accepted what the accepted ones inherit.
pub(crate) fn set_options(config: &Config, conn: &Conn) {
    if let Some(fd) = conn.fd() {
        TcpOptions::of(config).set(SockRef::from(&fd));
    }
}

/// The error that the exception handler gets where accept(2) fails.
pub(crate) fn accept_error(error: &io::Error) -> Error {
    Error::from_os(Status::Accept, "cannot accept a connection", error)
}

/// The error that the exception handler gets for a lost listener.
pub(crate) fn lost_error(error: &io::Error) -> Error {
    Error::from_os(Status::Accept, "a listener was lost", error)
}

/// Returns the addresses of a service as text.
pub(crate) fn addresses(listeners: &[Listener]) -> Vec<String> {
    listeners.iter().map(|l| address::name(&l.address)).collect()
}

/// Retries while descriptors or memory are used up: each wait is twice as long
/// as the one before, at most 100 ms, and the error is reported at most once a
/// second.
#[derive(Default)]
pub(crate) struct Backoff {
    wait_ms: u64,
    reported_at: u64,
}

impl Backoff {
    const FIRST_MS: u64 = 5;
    const MAX_MS: u64 = 100;
    const REPORT_EVERY_MS: u64 = 1000;

    /// Returns the milliseconds to wait, and the error if it is to be reported.
    pub fn back_off(&mut self, error: &io::Error) -> (u64, Option<Error>) {
        self.wait_ms = (self.wait_ms * 2).clamp(Backoff::FIRST_MS, Backoff::MAX_MS);
        let now = clock::now();
        if self.reported_at != 0 && now < self.reported_at + Backoff::REPORT_EVERY_MS {
            return (self.wait_ms, None);
        }
        self.reported_at = now;
        (self.wait_ms, Some(accept_error(error)))
    }

    pub fn reset(&mut self) {
        self.wait_ms = 0;
    }
}

/// How much of the backlog a quiesce takes.
pub(crate) struct Quota {
    /// No more than the kernel holds, so that new clients do not keep it going.
    left: usize,
    give_up_at: Deadline,
}

impl Quota {
    /// How long it tries again while descriptors or memory are used up, in ms.
    pub const RETRY_MS: u64 = 1000;

    /// For a quiesce that was requested at a time, as [`clock::now`] has it. Who
    /// waits for it waits no longer than the drain time and the time of the tries.
    pub fn new(config: &Config, listeners: usize, asked_at: u64) -> Quota {
        // The kernel holds one more than it is told.
        let left = (config.backlog as usize + 1) * listeners;
        let drain_ms = u64::try_from(config.drain_timeout.as_millis()).unwrap_or(u64::MAX);
        let latest = Deadline::since(asked_at, drain_ms.saturating_add(Quota::RETRY_MS));
        Quota { left, give_up_at: Deadline::after_ms(Quota::RETRY_MS).min(latest) }
    }

    pub fn is_left(&self) -> bool {
        self.left > 0
    }

    pub fn use_one(&mut self) {
        self.left = self.left.saturating_sub(1);
    }

    pub fn may_retry(&self) -> bool {
        !self.give_up_at.is_due()
    }

    /// When to try again, where that is no later than the last time.
    pub fn next_try(&self, at: Deadline) -> Deadline {
        at.min(self.give_up_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn waits_double_to_a_cap_and_reports_are_rare() {
        let mut backoff = Backoff::default();
        let error = io::Error::from_raw_os_error(libc::EMFILE);
        let rounds: Vec<_> = (0..7).map(|_| backoff.back_off(&error)).collect();
        let waits: Vec<_> = rounds.iter().map(|(wait, _)| *wait).collect();
        assert_eq!(waits, [5, 10, 20, 40, 80, 100, 100]);
        assert_eq!(rounds.iter().filter(|(_, report)| report.is_some()).count(), 1);
        let report = rounds[0].1.as_ref().unwrap();
        assert_eq!((report.status(), report.os_code()), (Status::Accept, libc::EMFILE));
        backoff.reset();
        assert_eq!(backoff.back_off(&error).0, 5);
    }

    #[test]
    fn a_quiesce_tries_for_a_second_and_not_beyond_its_callers_time() {
        let config = Config::new().drain_timeout(Duration::from_secs(2));
        let asked_at = |ms: u64| Quota::new(&config, 1, clock::now().saturating_sub(ms).max(1));
        let last = |quota: &Quota| quota.next_try(Deadline::NEVER).ms_left();
        assert!((900..=1002).contains(&last(&asked_at(0))));
        assert!((900..=1002).contains(&last(&asked_at(1000))));
        assert!(last(&asked_at(2500)) <= 501);
        let late = asked_at(3500);
        assert!(!late.may_retry());
        assert_eq!(late.next_try(Deadline::NOW), Deadline::NOW);
    }
}
