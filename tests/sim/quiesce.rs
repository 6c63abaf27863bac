//! The program quiesces, and waits until the server is idle.

use net_server::{Server, State, Status};

use crate::files::Listener;
use crate::program::{ms, note_status};
use crate::world::{with, World, MILLI, SECOND};

impl World {
    /// Clients that wait at a listener which closes: QU2, QU10.
    pub fn look_at_backlog(&mut self, listener: &Listener, is_local: bool) {
        let waiting = listener.queue.len();
        let Some(since) = self.quiesce_at.filter(|_| self.stop_at.is_none()) else { return };
        let may_lose = self.exhausted.is_some() || self.refused_at.is_some_and(|at| at >= since);
        // They came behind the last accept(2), or behind as many as the kernel holds.
        let came_late = self.accepted_at < self.came_at || self.taken > listener.backlog;
        if waiting > 0 && !may_lose && !is_local && came_late {
            return self.report.count("came into a quiesce");
        }
        if waiting > 0 && !may_lose {
            self.find(format!("QU2: a quiesce resets {waiting} clients"));
        }
    }
}

pub fn request(server: &Server) {
    let result = server.request_quiesce();
    with(|w| {
        let now = w.now;
        w.quiesce_at = w.quiesce_at.or(Some(now));
        if let Err(status) = result {
            w.find(format!("QU6: a request to quiesce: {}", status.name()));
        }
    });
}

/// On the host's thread, between the turns.
pub fn run(server: &Server) {
    let before = with(|w| {
        let now = w.now;
        w.quiesce_at = w.quiesce_at.or(Some(now));
        now
    });
    let result = server.quiesce();
    note_status(&result);
    let state = server.state();
    with(|w| {
        let took = w.now - before;
        let is_over = w.stop_at.is_some();
        // The grace of the call, and no callback takes time here. A stop that came meanwhile
        // drains in the same turns (QU7).
        let drain = if is_over { w.times.drain } else { 0 };
        if took > SECOND + 80 * MILLI + drain + w.longest_pause * 8 {
            w.find(format!("QU4: the quiesce took {} ms", took / MILLI));
        }
        match result {
            Err(error) => w.find(format!("QU8: the quiesce failed: {error}")),
            Ok(()) if !is_over && (state != State::Quiescing || w.quiesces != 1) => {
                w.find(format!("QU1: {state:?} after it, on_quiesce ran {} times", w.quiesces));
            }
            Ok(()) if !is_over && w.files.listener(w.port).is_some() => {
                w.find("QU1: it listens after the quiesce".into());
            }
            Ok(()) if !is_over && w.has_own_file() => {
                w.find("QU10: the file is there after the quiesce".into());
            }
            Ok(()) => w.report.count("quiesce"),
        }
    });
}

/// On the host's thread, between the turns.
pub fn wait_idle(server: &Server) {
    let (before, millis) = with(|w| (w.now, w.random.one_of(&[0, 20, 700])));
    let result = server.wait_idle(Some(ms(millis)));
    let stats = server.stats();
    let (busy, is_stopped) = (stats.open + stats.waiting, server.is_stopped());
    with(|w| {
        let took = w.now - before;
        let text = match &result {
            Ok(()) if busy > 0 && !is_stopped => format!("{busy} are left"),
            Err(error) if error.status() != Status::Timeout => error.to_string(),
            Err(_) if took < millis * MILLI => format!("it gave up after {} us", took / 1000),
            _ if took > (millis + 100) * MILLI + 8 * w.longest_pause => {
                format!("it took {} ms", took / MILLI)
            }
            _ => return w.report.count(if result.is_ok() { "idle" } else { "not idle" }),
        };
        w.find(format!("QU12: wait_idle({millis}): {text}"));
    });
}

/// QU13.
pub fn look(server: &Server) {
    let is_ready = server.is_ready();
    with(|w| {
        let is_asked = w.quiesce_at.is_some() || w.stop_at.is_some();
        if is_ready == is_asked {
            w.find(format!("QU13: is_ready is {is_ready}"));
        }
    });
}
