//! The shutdown port: who connects to it may stop the server.

#![forbid(unsafe_code)]

use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex};

use crate::blocking::{lock, Seat};
use crate::callback;
use crate::config::{Config, Limits};
use crate::conn::{Conn, Ended, Env, Kind};
use crate::error::{CloseReason, Error};
use crate::listener::{self, Backoff, Listener, Refusal};
use crate::server::Server;
use crate::service::Service;
use crate::sys;
use crate::timer::{self, NEVER};

/// How long one peer may take, in ms, whatever it sends.
const PATIENCE: u64 = 5000;
/// How long its unread input is discarded at the end, in ms.
const LINGER: u64 = 100;

pub(crate) struct ShutdownPort {
    port: u16,
    /// Given up at the stop; the thread has its own reference.
    listeners: Mutex<Arc<[Listener]>>,
    seat: Seat,
}

impl ShutdownPort {
    pub fn bind(service: &Service, config: &Config, server: u64) -> Result<ShutdownPort, Error> {
        let limits = Limits { linger: LINGER, idle: 0, ..Limits::of(config) };
        let listeners = listener::bind(service, config)?;
        Ok(ShutdownPort {
            port: listeners.first().map_or(0, |l| l.address().port()),
            listeners: Mutex::new(listeners.into()),
            seat: Seat::new(Env::new(Kind::Worker, server, 0, limits)),
        })
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The handler's calls there that failed.
    pub fn handler_errors(&self) -> u64 {
        self.seat.env().counters.handler_errors.get()
    }

    /// Ends [`ShutdownPort::work`], also while it serves a peer.
    pub fn stop(&self) {
        let listeners = std::mem::replace(&mut *lock(&self.listeners), Arc::new([]));
        listeners.iter().for_each(Listener::shut);
        self.seat.end_any(Ended::Cut);
    }

    /// The thread's whole life.
    pub fn work(&self, server: &Server) {
        let listeners = lock(&self.listeners).clone();
        let mut backoff = Backoff::default();
        while !server.is_stopping() {
            match listener::accept_until(&listeners, NEVER) {
                Ok((fd, peer)) => {
                    backoff.recovered();
                    self.serve(server, fd, peer);
                }
                Err(Refusal::Exhausted(e)) => {
                    let (wait, _) = backoff.exhausted(&e);
                    let _ = sys::poll_many(&mut [], wait as i32);
                }
                Err(Refusal::Shut) => return,
                Err(Refusal::Empty | Refusal::Next) => {}
            }
        }
    }

    fn serve(&self, server: &Server, fd: std::os::fd::OwnedFd, peer: Option<std::net::SocketAddr>) {
        let mut conn = self.seat.conn();
        self.seat.publish(1, fd.as_raw_fd());
        if server.is_stopping() {
            self.seat.end_any(Ended::Cut);
        }
        let former = conn.replace(Conn::open(self.seat.env().clone(), 1, fd, peer));
        drop(former);
        conn.timer_at = timer::after_millis(PATIENCE);
        let answer = callback::call(server, &mut conn, |handler, server, socket| {
            handler.on_shutdown(server, socket)
        });
        match answer.and_then(|answer| answer) {
            Ok(true) => server.request_stop(),
            Ok(false) => {}
            Err(error) => callback::failed(server, &mut conn, error),
        }
        callback::contain_drop(conn.replace_user_data(None));
        conn.reason = CloseReason::Handler;
        self.seat.retract();
        if let Some(fd) = conn.end() {
            crate::blocking::discard(fd, timer::after_millis(LINGER));
        }
    }
}
