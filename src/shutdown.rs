//! The shutdown port: who connects to it may stop the server.

#![forbid(unsafe_code)]

use std::os::fd::AsRawFd;

use crate::blocking::Seat;
use crate::callback;
use crate::config::{Config, Limits};
use crate::conn::{Conn, Ended, Env, Kind};
use crate::error::{CloseReason, Error, Status};
use crate::listener::{self, Backoff, Listener, Refusal};
use crate::server::Server;
use crate::service::Service;
use crate::timer;

/// How long one peer may take, in ms, whatever it sends.
const PATIENCE: u64 = 5000;
/// How long its unread input is discarded at the end, in ms.
const LINGER: u64 = 100;

pub(crate) struct ShutdownPort {
    listeners: Vec<Listener>,
    seat: Seat,
}

impl ShutdownPort {
    pub fn bind(service: &Service, config: &Config, server: u64) -> Result<ShutdownPort, Error> {
        let limits = Limits { linger: LINGER, idle: 0, ..Limits::of(config) };
        let listeners = listener::bind(service, config)?;
        for listener in &listeners {
            listener
                .set_nonblocking()
                .map_err(|e| Error::from_os(Status::Listen, "cannot listen for a shutdown", &e))?;
        }
        Ok(ShutdownPort { listeners, seat: Seat::new(Env::new(Kind::Worker, server, 0, limits)) })
    }

    pub fn port(&self) -> u16 {
        self.listeners.first().map_or(0, |l| l.address().port())
    }

    /// The handler's calls there that failed.
    pub fn handler_errors(&self) -> u64 {
        self.seat.env().counters.handler_errors.get()
    }

    /// Ends [`ShutdownPort::work`], also while it serves a peer.
    pub fn stop(&self) {
        self.listeners.iter().for_each(Listener::shut);
        self.seat.end_any(Ended::Cut);
    }

    /// The thread's whole life.
    pub fn work(&self, server: &Server) {
        let mut backoff = Backoff::default();
        while !server.is_stopping() {
            let mut entries: Vec<_> = self
                .listeners
                .iter()
                .map(|l| crate::sys::poll_entry(l.as_raw_fd(), libc::POLLIN))
                .collect();
            if crate::sys::poll_many(&mut entries, -1).is_err() {
                continue;
            }
            let ready = entries.iter().position(|entry| entry.revents != 0);
            match ready.map(|i| self.listeners[i].accept(false)) {
                Some(Ok((fd, peer))) => {
                    backoff.recovered();
                    self.serve(server, fd, peer);
                }
                Some(Err(Refusal::Exhausted(e))) => {
                    let (wait, _) = backoff.exhausted(&e);
                    let _ = crate::sys::poll_many(&mut [], wait as i32);
                }
                Some(Err(Refusal::Shut)) => return,
                Some(Err(Refusal::Empty | Refusal::Next)) | None => {}
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
