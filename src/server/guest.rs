//! The shutdown port of a hosted server, which has no thread for it: a hosted
//! server of its own, whose turns the loop of the first one runs.

#![forbid(unsafe_code)]

use std::sync::Arc;
use std::time::Duration;

use super::{Engine, Server};
use crate::callback;
use crate::clock::Deadline;
use crate::config::Config;
use crate::conn::ThreadContext;
use crate::error::{Error, Status};
use crate::handler::Handler;
use crate::listener::ListenerFd;
use crate::logger::Kind;
use crate::service::Service;
use crate::shutdown::MAX_SERVE_MS;
use crate::socket::Socket;
use crate::sys::Poller;

/// The most peers at a time; further ones wait in the backlog.
const MAX_PEERS: u32 = 64;

/// The server of the port. Its loop has another number than that of the first
/// server, whose connections thus have other ids.
pub(crate) struct Guest(Server);

/// What the first server shows of its shutdown port.
pub(super) struct Seen {
    pub port: u16,
    pub addresses: Vec<String>,
    pub listener_fds: Vec<Arc<ListenerFd>>,
    context: Arc<ThreadContext>,
}

impl Seen {
    /// Returns how many calls of the handler for the shutdown port failed.
    pub fn handler_errors(&self) -> u64 {
        self.context.counters.handler_errors.get()
    }
}

impl Guest {
    /// Makes the port of `host`. Nothing is accepted before the first turn.
    pub(super) fn start(host: Server, service: &Service) -> Result<(Guest, Seen), Error> {
        let config = Config {
            max_connections: MAX_PEERS,
            // They are those of the services.
            max_per_address: 0,
            accept_rate_per_address: 0,
            send_limit_total: 0,
            tls: None,
            shutdown_port: None,
            // A client must reach this server.
            reuse_port: false,
            idle_timeout: None,
            // The host has the one log.
            logger: None,
            ..host.config().clone()
        };
        let server = Server::make(service.clone(), None, Port(host), config, 1)?;
        server.start_hosted()?;
        let running = server.running().ok_or(Status::State)?;
        let Engine::Loops(loops) = &running.engine else { return Err(Status::State.into()) };
        let context = loops.contexts().next().ok_or(Status::State)?.clone();
        let listener_fds = running.listener_fds.clone();
        let (port, addresses) = (running.port, running.addresses.concat());
        Ok((Guest(server), Seen { port, addresses, listener_fds, context }))
    }

    /// Makes the poller of the first server report what is to be done here.
    pub fn watch(&self, poller: &Poller, token: u64) -> Result<(), Error> {
        let failed = |e| Error::from_os(Status::Listen, "cannot watch the shutdown port", &e);
        let running = self.0.running().ok_or(Status::State)?;
        let hosted = running.hosted.get().ok_or(Status::State)?;
        poller.add_poller(hosted.poller(), token).map_err(failed)
    }

    pub fn turn(&self) {
        // An error: it has stopped, or this is a child that a callback made.
        let _ = self.0.run_once(Some(Duration::ZERO));
        callback::leave_to_parent();
    }

    /// Begins the stop, which ends the peers that nothing is sent to.
    pub fn begin_stop(&self, deadline: Deadline) {
        self.0.ask_to_stop(Some(Duration::from_millis(deadline.ms_left())));
    }

    /// Ends all peers.
    pub fn cut(&self) {
        // On this thread, whichever ran the last turn.
        let _ = self.0.stop_in(Some(Duration::ZERO), true);
        callback::leave_to_parent();
    }

    pub fn has_stopped(&self) -> bool {
        self.0.is_stopped()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.0.stop_in(Some(Duration::ZERO), true);
    }
}

/// The handler of the port, by that of the server whose port it is.
struct Port(Server);

impl Port {
    fn serve(&self, socket: &mut Socket<'_>) -> Result<(), Error> {
        if self.0.handler().on_shutdown(&self.0, socket)? {
            self.0.request_stop();
        }
        socket.close();
        Ok(())
    }
}

impl Handler for Port {
    fn handle(&self, _: &Server, socket: &mut Socket<'_>) -> Result<(), Error> {
        self.serve(socket)
    }

    fn on_open(&self, _: &Server, socket: &mut Socket<'_>) -> Result<(), Error> {
        if !self.0.handler().has_on_shutdown() {
            return self.serve(socket);
        }
        socket.conn().set_timer(Deadline::after_ms(MAX_SERVE_MS));
        Ok(())
    }

    /// The peer's time is over: the handler may answer a silent one.
    fn on_timeout(&self, _: &Server, socket: &mut Socket<'_>) -> Result<(), Error> {
        let served = self.serve(socket);
        socket.close();
        served
    }

    fn on_exception(
        &self,
        _: &Server,
        socket: Option<&mut Socket<'_>>,
        error: &Error,
    ) -> Result<(), Error> {
        let Some(socket) = socket else {
            self.0.log().warn(Kind::Accept, 0, || format!("shutdown port: {error}"));
            return self.0.handler().on_exception(&self.0, None, error);
        };
        let told = self.0.handler().on_exception(&self.0, Some(socket), error);
        socket.close();
        told
    }
}
