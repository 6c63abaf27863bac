//! The steps of a start: listeners, threads, `on_start`, accepting.

#![forbid(unsafe_code)]

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use once_cell::sync::OnceCell;

use super::control::Control;
use super::threads::{StartReport, ThreadKind};
use super::{Engine, Running, Server};
use crate::blocking::Pool;
use crate::callback::{self, CallbackScope};
use crate::error::{CloseReason, Error, Status};
use crate::event::{Loop, LoopGroup};
use crate::listener::{self, Listener};
use crate::logger::LogLevel;
use crate::service::Origin;
use crate::shutdown::ShutdownPort;
use crate::sys::{self, Poller};

/// The values that only the start needs.
struct Parts {
    pollers: Vec<Poller>,
    listeners: Vec<Listener>,
}

impl Server {
    /// Does all steps of a start. `make_host` makes what is to run the control
    /// thread's part. On failure this undoes the steps that it has done.
    pub(super) fn prepare(
        &self,
        is_hosted: bool,
        make_host: impl FnOnce(&mut Control, &Running) -> Result<(), Error>,
    ) -> Result<Control, Error> {
        let mut control = Control::new(self.view(), self.max_connections())?;
        let (running, parts) = self.bind(&control, is_hosted)?;
        let started = self
            .spawn_all(&mut control, &running, parts.pollers)
            .and_then(|()| make_host(&mut control, &running))
            .and_then(|()| control.wait_for_threads())
            .and_then(|()| {
                // Only now: nothing can be attached to a loop whose thread does
                // not start.
                self.set_running(Some(running.clone()));
                self.run_start_hook()
            });
        if let Err(error) = started {
            control.undo(&running);
            self.set_running(None);
            return Err(error);
        }
        self.log_start(&running);
        match &running.engine {
            Engine::Pool(pool) => pool.open_gate(),
            Engine::Loops(loops) => loops.start_accepting(parts.listeners),
        }
        control.open_shutdown_gate();
        Ok(control)
    }

    /// Makes the listeners: from now on clients wait in the backlog.
    fn bind(&self, control: &Control, is_hosted: bool) -> Result<(Arc<Running>, Parts), Error> {
        let inner = &self.inner;
        let config = &inner.config;
        let shutdown = match &inner.shutdown_service {
            // A hosted server has a guest for it.
            Some(service) if !is_hosted => Some(ShutdownPort::bind(service, config, inner.number)?),
            _ => None,
        };
        let (mut listeners, mut addresses) = (Vec::new(), Vec::new());
        for (service, origin) in inner.services.list() {
            // A guest has the one service.
            let origin = if inner.first_loop == 0 { origin } else { Origin::SHUTDOWN };
            let bound = listener::bind(&service, origin, config)?;
            addresses.push(listener::addresses(&bound));
            listeners.extend(bound);
        }
        let port = listeners.first().map_or(0, Listener::port);
        let max = self.max_connections();
        let mut listener_fds: Vec<_> = listeners.iter().map(Listener::number).collect();
        let lendable = listener_fds.len();
        listener_fds.extend(shutdown.iter().flat_map(ShutdownPort::listener_fds));
        let mut pollers = Vec::new();
        let engine = if config.non_blocking {
            for listener in &listeners {
                listener.set_nonblocking().map_err(|e| cannot_watch(&e))?;
            }
            let (loops, made) = LoopGroup::new(config, inner.number, inner.first_loop, max)
                .map_err(|e| cannot_watch(&e))?;
            crate::event::watch(&made[0], &listeners)?;
            pollers = made;
            Engine::Loops(Arc::new(loops))
        } else {
            let listeners = std::mem::take(&mut listeners);
            let lingering = control.lingering_sender();
            Engine::Pool(Box::new(Pool::new(config, inner.number, max, listeners, lingering)))
        };
        let running = Running {
            engine,
            shutdown,
            guest: OnceCell::new(),
            port,
            addresses,
            lendable,
            listener_fds,
            started: Instant::now(),
            hosted: OnceCell::new(),
            uptime: OnceCell::new(),
            threads: Mutex::new(Vec::with_capacity(config.max_thread as usize)),
        };
        Ok((Arc::new(running), Parts { pollers, listeners }))
    }

    fn set_running(&self, running: Option<Arc<Running>>) {
        let mut place = self.inner.running.write().unwrap_or_else(PoisonError::into_inner);
        *place = running;
    }

    /// Returns the bound on open connections: the configured one, else the
    /// process's limit on descriptors less a reserve for the program's own.
    fn max_connections(&self) -> usize {
        match self.inner.config.max_connections {
            0 => {
                let limit = sys::descriptor_limit().min(1 << 30) as usize;
                limit.saturating_sub(64 + limit / 16).max(16)
            }
            n => n as usize,
        }
    }

    fn spawn_all(
        &self,
        control: &mut Control,
        running: &Arc<Running>,
        pollers: Vec<Poller>,
    ) -> Result<(), Error> {
        match &running.engine {
            Engine::Pool(pool) => {
                for i in 0..pool.threads() {
                    let (server, running) = (self.view(), running.clone());
                    control.spawn(ThreadKind::Worker, i, move || {
                        if let Engine::Pool(pool) = &running.engine {
                            pool.work(&server);
                        }
                    })?;
                }
            }
            Engine::Loops(loops) => {
                let alone = pollers.len() == 1;
                for (i, poller) in pollers.into_iter().enumerate() {
                    let event_loop = Loop::new(self.view(), loops.clone(), i, poller);
                    if alone {
                        control.keep(event_loop, running)?;
                        continue;
                    }
                    control.spawn(ThreadKind::Loop, i, move || event_loop.run())?;
                }
            }
        }
        if running.shutdown.is_some() {
            let (server, running) = (self.view(), running.clone());
            let gate = control.shutdown_gate();
            control.spawn(ThreadKind::Shutdown, 0, move || {
                if let (Some(()), Some(port)) = (gate.take(), &running.shutdown) {
                    port.work(&server);
                }
            })?;
        }
        Ok(())
    }

    /// Makes the control thread of a server in the background, which publishes
    /// the stop at its end. If the server has one loop, it is the loop's thread
    /// too.
    pub(super) fn spawn_control(
        &self,
        report: StartReport,
        body: impl FnOnce() -> Option<Arc<Running>> + Send + 'static,
    ) -> Result<JoinHandle<()>, Error> {
        let config = &self.inner.config;
        let is_loop = config.non_blocking && config.max_thread == 1;
        let kind = if is_loop { ThreadKind::Loop } else { ThreadKind::Control };
        let server = self.view();
        self.spawn(kind, 0, report, body, move |running| {
            if let Some(running) = running.flatten() {
                server.set_stopped(&running);
            }
        })
    }

    /// Runs the last callbacks of a server: `on_stop`, then the logger.
    pub(super) fn run_stop_hook(&self) {
        {
            let _inside = CallbackScope::enter(self.inner.number);
            let view = self.view();
            let _ = callback::call_hook(|| view.handler().on_stop(&view));
        }
        self.log_stop();
    }

    fn log_start(&self, running: &Running) {
        let (log, config) = (self.log(), &self.inner.config);
        for (addresses, (_, origin)) in running.addresses.iter().zip(self.inner.services.list()) {
            for address in addresses {
                let tls = if origin.has_tls() { " with TLS" } else { "" };
                log.event(LogLevel::Info, || format!("listening on {address}{tls}"));
            }
        }
        for address in running.shutdown_addresses() {
            log.event(LogLevel::Info, || format!("shutdown port on {address}"));
        }
        log.event(LogLevel::Info, || {
            let (count, mode) = (config.max_thread, config.non_blocking);
            let threads = match (mode, count) {
                (true, 1) => "1 loop".into(),
                (true, _) => format!("{count} loops"),
                (false, 1) => "1 worker".into(),
                (false, _) => format!("{count} workers"),
            };
            format!("started with {threads}")
        });
    }

    fn log_stop(&self) {
        self.log().flush();
        self.log().event(LogLevel::Info, || {
            let stats = self.stats();
            let closed = |reason: CloseReason| stats.closed[reason as usize];
            format!(
                "stopped after {}.{:03} s: accepted {}, refused {}, beyond limits {}, \
                 refused PROXY headers {}, failed handshakes {}, drained {}, cut {}, \
                 handler errors {}, accept errors {}",
                stats.uptime.as_secs(),
                stats.uptime.subsec_millis(),
                stats.accepted,
                stats.refused,
                closed(CloseReason::Limit),
                closed(CloseReason::Proxy),
                stats.handshake_failures,
                stats.drained,
                stats.cut,
                stats.handler_errors,
                stats.accept_errors
            )
        });
    }

    fn run_start_hook(&self) -> Result<(), Error> {
        let _inside = CallbackScope::enter(self.inner.number);
        let view = self.view();
        match callback::call_hook(|| view.handler().on_start(&view)) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(error.into_hook("on_start")),
            Err(panic) => Err(panic),
        }
    }
}

fn cannot_watch(error: &io::Error) -> Error {
    Error::from_os(Status::Io, "cannot watch sockets", error)
}
