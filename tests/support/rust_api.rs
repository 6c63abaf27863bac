//! The suite's view of the Rust API: the crate itself, and a handler made of closures.

#[path = "hooks.rs"]
mod hooks;

pub use hooks::Hooks;
use net_server::Handler;
pub use net_server::{
    AdoptError, CloseReason, Config, ConnId, Error, Interest, LogLevel, Logger, OwnedSocket,
    ProxyProtocol, Server, Socket, State, Status, TaskId, ThreadKind,
};

/// A handler that leaves everything to the trait's provided methods.
struct Defaults;

impl Handler for Defaults {
    fn handle(&self, _: &Server, _: &mut Socket<'_>) -> Result<(), Error> {
        Ok(())
    }
}

impl Handler for Hooks {
    fn handle(&self, server: &Server, socket: &mut Socket<'_>) -> Result<(), Error> {
        match &self.handler {
            Some(f) => f(server, socket),
            None => Defaults.handle(server, socket),
        }
    }

    fn on_start(&self, server: &Server) -> Result<(), Error> {
        match &self.on_start {
            Some(f) => f(server),
            None => Defaults.on_start(server),
        }
    }

    fn on_stop(&self, server: &Server) {
        match &self.on_stop {
            Some(f) => f(server),
            None => Defaults.on_stop(server),
        }
    }

    fn on_quiesce(&self, server: &Server) {
        match &self.on_quiesce {
            Some(f) => f(server),
            None => Defaults.on_quiesce(server),
        }
    }

    fn on_thread_start(
        &self,
        server: &Server,
        kind: ThreadKind,
        number: usize,
    ) -> Result<(), Error> {
        match &self.on_thread_start {
            Some(f) => f(server, kind, number),
            None => Defaults.on_thread_start(server, kind, number),
        }
    }

    fn on_thread_stop(&self, server: &Server, kind: ThreadKind, number: usize) {
        match &self.on_thread_stop {
            Some(f) => f(server, kind, number),
            None => Defaults.on_thread_stop(server, kind, number),
        }
    }

    fn on_open(&self, server: &Server, socket: &mut Socket<'_>) -> Result<(), Error> {
        match &self.on_open {
            Some(f) => f(server, socket),
            None => Defaults.on_open(server, socket),
        }
    }

    fn on_close(&self, server: &Server, socket: &mut Socket<'_>, reason: CloseReason) {
        match &self.on_close {
            Some(f) => f(server, socket, reason),
            None => Defaults.on_close(server, socket, reason),
        }
    }

    fn on_drain(&self, server: &Server, socket: &mut Socket<'_>) -> Result<(), Error> {
        match &self.drain {
            Some(f) => f(server, socket),
            None => Defaults.on_drain(server, socket),
        }
    }

    fn on_timeout(&self, server: &Server, socket: &mut Socket<'_>) -> Result<(), Error> {
        match &self.timeout {
            Some(f) => f(server, socket),
            None => Defaults.on_timeout(server, socket),
        }
    }

    fn on_wake(&self, server: &Server, socket: &mut Socket<'_>) -> Result<(), Error> {
        match &self.wake {
            Some(f) => f(server, socket),
            None => Defaults.on_wake(server, socket),
        }
    }

    fn on_exception(
        &self,
        server: &Server,
        socket: Option<&mut Socket<'_>>,
        error: &Error,
    ) -> Result<(), Error> {
        match &self.on_exception {
            Some(f) => f(server, socket, error),
            None => Defaults.on_exception(server, socket, error),
        }
    }

    fn on_shutdown(&self, server: &Server, socket: &mut Socket<'_>) -> Result<bool, Error> {
        match &self.on_shutdown {
            Some(f) => f(server, socket),
            None => Defaults.on_shutdown(server, socket),
        }
    }

    fn has_on_shutdown(&self) -> bool {
        self.on_shutdown.is_some()
    }
}
