//! The shutdown port: who connects to it may stop the server.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use crate::blocking::Seat;
use crate::callback;
use crate::clock::Deadline;
use crate::config::{Config, Limits};
use crate::conn::{Conn, ConnId, ForcedEnd, Owner, ThreadContext};
use crate::error::{CloseReason, Error, Status};
use crate::listener::{self, AcceptError, Accepted, Backoff, Listener};
use crate::server::Server;
use crate::service::Service;
use crate::sync::lock;
use crate::sys::{self, PollFlags};

/// How long one peer may take, in ms, whatever it sends.
const PATIENCE: u64 = 5000;
/// How long its unread input is discarded at the end where others wait, in ms.
const LINGER: u64 = 100;
/// Peers that wait for their turn; beyond it the one that waits longest goes.
const MOST_WAITING: usize = 64;

pub(crate) struct ShutdownPort {
    port: u16,
    /// Given up at the stop; the thread has its own reference.
    listeners: Mutex<Arc<[Listener]>>,
    seat: Seat,
    /// The handler has answered the peer that is served: a stop lets it go in
    /// order, until its deadline.
    answered: AtomicBool,
}

impl ShutdownPort {
    pub fn bind(service: &Service, config: &Config, server: u64) -> Result<ShutdownPort, Error> {
        let limits = Limits { idle: 0, ..Limits::of(config) };
        let listeners = listener::bind(service, config)?;
        for listener in &listeners {
            let failed = |e| Error::from_os(Status::Listen, "cannot watch the shutdown port", &e);
            listener.set_nonblocking().map_err(failed)?;
        }
        Ok(ShutdownPort {
            port: listeners.first().map_or(0, |l| l.address().port()),
            listeners: Mutex::new(listeners.into()),
            seat: Seat::new(ThreadContext::new(Owner::Worker, server, 0, limits)),
            answered: AtomicBool::new(false),
        })
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The handler's calls there that failed.
    pub fn handler_errors(&self) -> u64 {
        self.seat.context().counters.handler_errors.get()
    }

    /// Ends [`ShutdownPort::work`], also while a handler serves a peer.
    pub fn stop(&self) {
        let listeners = std::mem::replace(&mut *lock(&self.listeners), Arc::new([]));
        listeners.iter().for_each(Listener::shut);
        if !self.answered.load(Ordering::SeqCst) {
            self.cut();
        }
    }

    /// Ends the peer that is served, whatever it waits for.
    pub fn cut(&self) {
        self.seat.force_end_any(ForcedEnd::Cut);
    }

    /// The thread's whole life.
    pub fn work(&self, server: &Server) {
        let listeners = lock(&self.listeners).clone();
        let (watched, crowd) = (listeners.clone(), Arc::new(AtomicBool::new(false)));
        let crowded = crowd.clone();
        let others_wait = move || {
            crowded.load(Ordering::SeqCst) || listener::wait_ready(&watched, Deadline::NOW).is_ok()
        };
        *lock(&self.seat.context().rivals) = Some(Box::new(others_wait));
        let mut peers = Peers { waiting: VecDeque::new(), backoff: Backoff::default() };
        let mut count = 0;
        while !server.is_stopping() && peers.accept(server, &listeners) {
            let Some((fd, peer)) = peers.next() else { continue };
            crowd.store(!peers.waiting.is_empty(), Ordering::SeqCst);
            self.serve(server, ConnId::of_shutdown(count), fd, peer);
            count += 1;
        }
        *lock(&self.seat.context().rivals) = None;
    }

    fn serve(&self, server: &Server, id: u64, fd: OwnedFd, peer: Option<SocketAddr>) {
        let mut conn = self.seat.conn();
        self.seat.publish(id, fd.as_raw_fd());
        if server.is_stopping() {
            self.seat.force_end_any(ForcedEnd::Cut);
        }
        let former = conn.replace(Conn::open(self.seat.context().clone(), id, fd, peer));
        drop(former);
        conn.own_deadline = Deadline::after_ms(PATIENCE);
        let answer = callback::call(server, &mut conn, |handler, server, socket| {
            handler.on_shutdown(server, socket)
        });
        let stop = answer.and_then(|answer| answer).unwrap_or_else(|error| {
            callback::report_failure(server, &mut conn, error);
            false
        });
        callback::contain_drop(conn.replace_user_data(None));
        self.answered.store(true, Ordering::SeqCst);
        if stop {
            server.request_stop();
        }
        conn.reason = CloseReason::Handler;
        let until = conn.linger_until();
        conn.say_goodbye(until);
        if conn.check_forced_end().is_ok() {
            // In a stop nobody waits any more, although the listeners say so.
            let rivals = &self.seat.context().rivals;
            let others_wait = || lock(rivals).as_ref().is_some_and(|others_wait| others_wait());
            let enough = Deadline::after_ms(LINGER);
            conn.see_off(until, |_| !enough.is_due() || server.is_stopping() || !others_wait());
        }
        self.seat.retract();
        let _ = conn.check_forced_end();
        drop(conn.close_waiting(Deadline::NOW));
        self.answered.store(false, Ordering::SeqCst);
    }
}

/// The peers that wait for their turn.
struct Peers {
    waiting: VecDeque<Accepted>,
    backoff: Backoff,
}

impl Peers {
    /// Accepts all that wait, and waits for the first where there is none.
    /// `false` when the port is shut.
    fn accept(&mut self, server: &Server, listeners: &[Listener]) -> bool {
        loop {
            let until = if self.waiting.is_empty() { Deadline::NEVER } else { Deadline::NOW };
            let ready = listener::wait_ready(listeners, until);
            match ready.and_then(|ready| listener::accept_from(&ready, 0)) {
                Ok(peer) => {
                    self.backoff.recovered();
                    if self.waiting.len() >= MOST_WAITING {
                        // The oldest that said nothing.
                        let silent = self.waiting.iter().position(|peer| !has_said(peer));
                        self.waiting.remove(silent.unwrap_or(0));
                    }
                    self.waiting.push_back(peer);
                }
                Err(AcceptError::Exhausted(e)) => {
                    let (wait, report) = self.backoff.exhausted(&e);
                    if let Some(error) = report {
                        let _ = callback::report_without_socket(server, &error);
                    }
                    if !self.waiting.is_empty() {
                        return true;
                    }
                    let _ = sys::poll_many(&mut [], wait as i32);
                }
                Err(AcceptError::Lost(e)) if !server.is_stopping() => {
                    let _ = callback::report_without_socket(server, &listener::lost_error(&e));
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

    /// Who sent something, or has ended, goes first.
    fn next(&mut self) -> Option<Accepted> {
        let first = self.waiting.iter().position(has_said).unwrap_or(0);
        self.waiting.remove(first)
    }
}

/// It sent something, or has ended.
fn has_said((fd, _): &Accepted) -> bool {
    sys::poll(fd.as_fd(), PollFlags::IN, 0).is_ok_and(|found| !found.is_empty())
}
