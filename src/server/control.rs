//! The control thread; in the foreground it is the caller of `start`. It waits
//! for the stop and lets closed connections linger meanwhile; then it drains,
//! cuts and joins. The only loop of a server runs on this thread too and waits
//! for the stop among its events: system calls are cheaper in a process
//! without another thread.

#![forbid(unsafe_code)]

use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender};

use super::handover::{handover, Giver, Taker};
use super::hosted::Hosted;
use super::threads::{StartReport, Starts, ThreadKind};
use super::{Engine, Guest, Running, Server};
use crate::callback::{self, CallbackScope};
use crate::clock::Deadline;
use crate::error::{Error, Status};
use crate::event::{HostedLoop, Loop};
use crate::linger::{Lingering, Remains};
use crate::shutdown::ShutdownPort;
use crate::sys::{Events, Poller, Timer};

const WAKE: u64 = u64::MAX;
const EVENTS: usize = 256;
/// How often a stop checks whether the peers have acknowledged all output.
const ACK_CHECK_MS: u64 = 20;

pub(super) struct Control {
    server: Server,
    poller: Poller,
    threads: Vec<JoinHandle<()>>,
    /// The loop of a server that has one loop, until it runs.
    event_loop: Option<Loop>,
    lingering: Lingering,
    arrivals: (Sender<Remains>, Receiver<Remains>),
    shutdown_gate: Option<Giver<()>>,
    /// What the threads report, until all of them were made.
    starts: Option<Starts>,
}

impl Control {
    pub fn new(server: Server, max_connections: usize) -> Result<Control, Error> {
        let failed = |e| Error::from_os(Status::Io, "cannot wait for the stop", &e);
        let poller = Poller::new().map_err(failed)?;
        server.inner.life.wake.watch(&poller, WAKE).map_err(failed)?;
        let linger = server.config().linger_timeout.as_millis() as u64;
        Ok(Control {
            server,
            poller,
            threads: Vec::new(),
            event_loop: None,
            lingering: Lingering::new(linger, (max_connections / 16).clamp(16, 1024)),
            arrivals: crossbeam_channel::unbounded(),
            shutdown_gate: None,
            starts: Some(Starts::new()),
        })
    }

    pub fn lingering_sender(&self) -> Sender<Remains> {
        self.arrivals.0.clone()
    }

    /// Returns the gate at which the shutdown port's thread waits before it
    /// accepts.
    pub fn shutdown_gate(&mut self) -> Taker<()> {
        let (giver, taker) = handover();
        self.shutdown_gate = Some(giver);
        taker
    }

    pub fn open_shutdown_gate(&mut self) {
        if let Some(gate) = self.shutdown_gate.take() {
            gate.give(());
        }
    }

    /// Makes a thread of the server.
    pub fn spawn(
        &mut self,
        kind: ThreadKind,
        number: usize,
        body: impl FnOnce() + Send + 'static,
    ) -> Result<(), Error> {
        self.server.inner.life.alive.fetch_add(1, Ordering::SeqCst);
        let end = ThreadEnd(self.server.clone());
        let thread = self.server.spawn(kind, number, self.report(), body, move |_| drop(end))?;
        self.threads.push(thread);
        Ok(())
    }

    /// Returns the part of the next thread in what the threads report.
    pub fn report(&self) -> StartReport {
        self.starts.as_ref().expect("all threads are made before the wait").report()
    }

    /// Waits until `on_thread_start` has returned on every thread.
    pub fn wait_for_threads(&mut self) -> Result<(), Error> {
        self.starts.take().map_or(Ok(()), Starts::wait)
    }

    /// Takes the only loop over, to run it on this thread.
    pub fn keep(&mut self, mut event_loop: Loop, running: &Arc<Running>) -> Result<(), Error> {
        let (server, running) = (self.server.clone(), running.clone());
        let on_wake = move || {
            if server.is_stopping() {
                begin_drain(&running, server.begin_stopping());
            } else {
                quiesce_if_requested(&server, &running);
            }
        };
        event_loop.watch_control(&self.server.inner.life.wake, Box::new(on_wake))?;
        self.event_loop = Some(event_loop);
        Ok(())
    }

    /// Gives the only loop to the program, which runs its turns.
    pub fn into_hosted(self, timer: Timer) {
        if let (Some(running), Some(event_loop)) = (self.server.running(), self.event_loop) {
            let event_loop = HostedLoop::new(event_loop, self.server.clone(), timer);
            let _ = running.hosted.set(Hosted::new(event_loop));
        }
    }

    /// Gives the shutdown port to the only loop.
    pub fn take_in(&mut self, guest: Guest) -> Result<(), Error> {
        self.event_loop.as_mut().map_or(Ok(()), |event_loop| event_loop.take_in(guest))
    }

    /// Makes the timer that the only loop needs where the program runs it.
    pub fn make_timer(&self) -> Result<Option<Timer>, Error> {
        self.event_loop.as_ref().map(Loop::make_timer).transpose()
    }

    /// Ends everything that a failed start has begun.
    pub fn undo(mut self, running: &Running) {
        if let Some(event_loop) = &mut self.event_loop {
            // No peer is served.
            event_loop.drop_guest();
        }
        begin_drain(running, Deadline::NOW);
        self.shutdown_gate = None;
        self.run_loop();
        self.join();
    }

    /// Serves until a stop is requested, then stops the server. The caller
    /// publishes the stop, by [`Server::set_stopped`].
    pub fn run(mut self) -> Option<Arc<Running>> {
        let running = self.server.running()?;
        self.run_loop();
        let mut events = Events::new(EVENTS);
        while !self.server.is_stopping() {
            self.turn(&mut events, Deadline::NEVER);
            quiesce_if_requested(&self.server, &running);
        }
        self.drain(&running, &mut events);
        self.join();
        self.server.run_stop_hook();
        // This releases the descriptors before the stop is published: a thread
        // that sees the state Stopped may rely on it.
        drop(self);
        Some(running)
    }

    /// Runs the only loop, if there is one, until it ends.
    fn run_loop(&mut self) {
        let Some(event_loop) = self.event_loop.take() else { return };
        let _inside = CallbackScope::enter(self.server.number());
        if callback::contain(|| event_loop.run()).is_err() {
            // A defect of the library: the server stops in good order.
            self.server.request_stop();
        }
    }

    /// Carries a requested stop out until all threads have ended.
    fn drain(&mut self, running: &Running, events: &mut Events) {
        let mut deadline = self.server.begin_stopping();
        begin_drain(running, deadline);
        let mut cut = false;
        // Connections that linger may outlast the last worker.
        while self.any_alive() || !self.arrivals.1.is_empty() || !self.lingering.is_empty() {
            let check_at = match self.lingering.is_empty() {
                true => Deadline::NEVER,
                false => Deadline::after_ms(ACK_CHECK_MS),
            };
            self.turn(events, check_at.min(if cut { Deadline::NEVER } else { deadline }));
            self.lingering.end_acknowledged();
            let sooner = self.server.begin_stopping();
            if sooner < deadline {
                deadline = sooner;
                if let Engine::Loops(loops) = &running.engine {
                    loops.begin_drain(deadline);
                }
            }
            if deadline.is_due() {
                self.lingering.clear();
                if !cut {
                    cut = true;
                    running.engine.cut();
                    running.shutdown.iter().for_each(ShutdownPort::cut);
                }
            }
        }
    }

    fn any_alive(&self) -> bool {
        self.server.inner.life.alive.load(Ordering::SeqCst) > 0
    }

    /// Waits for events, at most until a deadline, and serves the connections
    /// that linger.
    fn turn(&mut self, events: &mut Events, deadline: Deadline) {
        let until = deadline.min(self.lingering.next_deadline());
        if self.poller.wait(events, until.poll_timeout()).is_err() {
            // Interrupted: in the foreground this thread receives the
            // program's signals.
            return;
        }
        for (token, _) in events.iter().filter(|(token, _)| *token != WAKE) {
            self.lingering.readable(token);
        }
        while let Ok(remains) = self.arrivals.1.try_recv() {
            self.lingering.add(&self.poller, remains);
        }
        self.lingering.turn();
    }

    fn join(&mut self) {
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Makes the engine quiesce, the first time after it was requested.
fn quiesce_if_requested(server: &Server, running: &Running) {
    if !server.begin_quiesce() {
        return;
    }
    match &running.engine {
        Engine::Pool(pool) => {
            let _inside = CallbackScope::enter(server.number());
            pool.quiesce(server);
            server.end_quiesce();
        }
        // The first loop calls `end_quiesce`.
        Engine::Loops(loops) => loops.quiesce(),
    }
}

/// Makes the engine and the shutdown port drain. A later call may bring the
/// deadline forward.
fn begin_drain(running: &Running, deadline: Deadline) {
    match &running.engine {
        Engine::Pool(pool) => pool.begin_drain(),
        Engine::Loops(loops) => loops.begin_drain(deadline),
    }
    if let Some(port) = &running.shutdown {
        port.stop();
    }
}

/// Reports the end of a thread to the control thread, when it is dropped.
struct ThreadEnd(Server);

impl Drop for ThreadEnd {
    fn drop(&mut self) {
        self.0.inner.life.alive.fetch_sub(1, Ordering::SeqCst);
        self.0.wake_control();
    }
}
