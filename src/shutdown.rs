//! The shutdown port: a peer that connects to it may stop the server.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use crate::blocking::Seat;
use crate::callback;
use crate::clock::Deadline;
use crate::config::{Config, Limits};
use crate::conn::{Conn, ConnId, ForcedEnd, Owner, ThreadContext};
use crate::error::{CloseReason, Error, Status};
use crate::listener::{self, AcceptError, Accepted, Backoff, Listener, ListenerFd};
use crate::server::Server;
use crate::service::{Origin, Service};
use crate::sync::lock;
use crate::sys::{self, PollFlags};

/// How long one peer may take, whatever it sends.
pub(crate) const MAX_SERVE_MS: u64 = 5000;
/// How long the unread input of a served peer is discarded while others wait.
const MAX_LINGER_MS: u64 = 100;
/// How many peers may wait for their turn. Beyond it the port drops the silent
/// one that has waited longest.
const MAX_WAITING: usize = 64;

pub(crate) struct ShutdownPort {
    port: u16,
    /// A stop drops them here; the thread has its own reference.
    listeners: Mutex<Arc<[Listener]>>,
    seat: Seat,
    /// The handler has returned, and the connection of its peer ends: a stop
    /// lets it end in order, until the stop's deadline.
    handler_returned: AtomicBool,
}

impl ShutdownPort {
    pub fn bind(service: &Service, config: &Config, server: u64) -> Result<ShutdownPort, Error> {
        let limits = Limits { idle_ms: 0, ..Limits::of(config) };
        // A client must reach this server.
        let config = Config { reuse_port: false, lend_listeners: false, ..config.clone() };
        let listeners = listener::bind(service, Origin::NONE, &config)?;
        for listener in &listeners {
            let failed = |e| Error::from_os(Status::Listen, "cannot watch the shutdown port", &e);
            listener.set_nonblocking().map_err(failed)?;
        }
        Ok(ShutdownPort {
            port: listeners.first().map_or(0, Listener::port),
            listeners: Mutex::new(listeners.into()),
            seat: Seat::new(ThreadContext::new(Owner::Worker, server, 0, limits)),
            handler_returned: AtomicBool::new(false),
        })
    }

    /// The listeners' descriptors, for a child of fork(2).
    pub fn listener_fds(&self) -> Vec<Arc<ListenerFd>> {
        lock(&self.listeners).iter().map(Listener::number).collect()
    }

    pub fn addresses(&self) -> Vec<String> {
        listener::addresses(&lock(&self.listeners))
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns how many calls of the handler for the shutdown port failed.
    pub fn handler_errors(&self) -> u64 {
        self.seat.context().counters.handler_errors.get()
    }

    /// Ends [`ShutdownPort::work`], also while a handler serves a peer.
    pub fn stop(&self) {
        let listeners = std::mem::replace(&mut *lock(&self.listeners), Arc::new([]));
        listeners.iter().for_each(Listener::shut);
        if !self.handler_returned.load(Ordering::SeqCst) {
            self.cut();
        }
    }

    /// Ends the connection of the peer that is served, whatever it waits for.
    pub fn cut(&self) {
        self.seat.force_end_any(ForcedEnd::Cut);
    }

    /// Serves one peer after the other until the stop. The port's thread runs
    /// it.
    pub fn work(&self, server: &Server) {
        let listeners = lock(&self.listeners).clone();
        let (watched, any_waiting) = (listeners.clone(), Arc::new(AtomicBool::new(false)));
        let any_waiting_now = any_waiting.clone();
        let others_wait = move || {
            any_waiting_now.load(Ordering::SeqCst)
                || listener::wait_ready(&watched, Deadline::NOW).is_ok()
        };
        *lock(&self.seat.context().rivals) = Some(Box::new(others_wait));
        let mut peers = Peers { waiting: VecDeque::new(), backoff: Backoff::default() };
        let mut count = 0;
        while !server.is_stopping() && peers.accept(server, &listeners) {
            let Some(peer) = peers.next() else { continue };
            any_waiting.store(!peers.waiting.is_empty(), Ordering::SeqCst);
            self.serve(server, ConnId::of_shutdown(count), peer);
            count += 1;
        }
        *lock(&self.seat.context().rivals) = None;
    }

    fn serve(&self, server: &Server, id: u64, peer: Accepted) {
        let mut conn = self.seat.conn();
        callback::note_context(self.seat.context());
        self.seat.publish(id, peer.fd.as_raw_fd());
        if server.is_stopping() {
            self.seat.force_end_any(ForcedEnd::Cut);
        }
        let former = conn.replace(Conn::open(self.seat.context().clone(), id, peer));
        drop(former);
        conn.own_deadline = Deadline::after_ms(MAX_SERVE_MS);
        let result = callback::call(server, &mut conn, |handler, server, socket| {
            handler.on_shutdown(server, socket)
        });
        let stop = result.and_then(|stop| stop).unwrap_or_else(|error| {
            callback::report_failure(server, &mut conn, error);
            false
        });
        callback::drop_on_loop(conn.replace_user_data(None));
        self.handler_returned.store(true, Ordering::SeqCst);
        if stop {
            server.request_stop();
        }
        conn.reason = CloseReason::Handler;
        let until = conn.linger_until();
        conn.say_goodbye(until);
        if conn.check_forced_end().is_ok() {
            // In a stop no peer waits any more, although the listeners, which
            // are shut, look ready.
            let rivals = &self.seat.context().rivals;
            let others_wait = || lock(rivals).as_ref().is_some_and(|others_wait| others_wait());
            let give_way_at = Deadline::after_ms(MAX_LINGER_MS);
            conn.see_off(until, |_, _| {
                !give_way_at.is_due() || server.is_stopping() || !others_wait()
            });
        }
        self.seat.retract();
        let _ = conn.check_forced_end();
        drop(conn.close_waiting(Deadline::NOW));
        self.handler_returned.store(false, Ordering::SeqCst);
    }
}

/// The peers that wait for their turn.
struct Peers {
    waiting: VecDeque<Accepted>,
    backoff: Backoff,
}

impl Peers {
    /// Accepts all peers that wait for it; if there is no peer at all, waits
    /// for one. Returns `false` when the port is shut.
    fn accept(&mut self, server: &Server, listeners: &[Listener]) -> bool {
        loop {
            let until = if self.waiting.is_empty() { Deadline::NEVER } else { Deadline::NOW };
            let ready = listener::wait_ready(listeners, until);
            match ready.and_then(|ready| listener::accept_from(&ready, 0)) {
                Ok(peer) => {
                    self.backoff.reset();
                    if self.waiting.len() >= MAX_WAITING {
                        // Drop the oldest that has sent nothing, else the
                        // oldest.
                        let silent = self.waiting.iter().position(|peer| !is_readable(peer));
                        self.waiting.remove(silent.unwrap_or(0));
                    }
                    self.waiting.push_back(peer);
                }
                Err(AcceptError::Exhausted(e)) => {
                    let (wait, report) = self.backoff.back_off(&e);
                    let _ = callback::report_accept_failure(server, &e, report);
                    if !self.waiting.is_empty() {
                        return true;
                    }
                    let _ = sys::poll_many(&mut [], wait as i32);
                }
                Err(AcceptError::Lost(e)) if !server.is_stopping() => {
                    let _ = callback::report_lost_listener(server, &e);
                }
                Err(AcceptError::Shut | AcceptError::Lost(_)) => return false,
                Err(AcceptError::Empty) => return true,
                Err(AcceptError::Next) => {}
            }
            if server.is_stopping() {
                return true;
            }
        }
    }

    /// Takes the next peer: the oldest that has sent something or has ended,
    /// else the oldest.
    fn next(&mut self) -> Option<Accepted> {
        let first = self.waiting.iter().position(is_readable).unwrap_or(0);
        self.waiting.remove(first)
    }
}

/// Returns whether the peer has sent something or has ended.
fn is_readable(peer: &Accepted) -> bool {
    sys::poll(peer.fd.as_fd(), PollFlags::IN, 0).is_ok_and(|found| !found.is_empty())
}
