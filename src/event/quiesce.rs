//! The quiesce of the first loop: it takes what waits in the backlog, and closes
//! the listeners.

#![forbid(unsafe_code)]

use super::run::Loop;

impl Loop {
    /// Leaves the listeners that others have too, and takes in turns what waits
    /// at the others.
    pub(super) fn begin_quiesce(&mut self) {
        if self.driver.is_stopping() {
            return;
        }
        self.acceptor.begin_quiesce(&self.driver.server, self.driver.schedule.poller());
        self.end_quiesce();
    }

    /// Closes the listeners when nothing waits at them any more, and runs
    /// `on_quiesce`.
    pub(super) fn end_quiesce(&mut self) {
        if self.acceptor.is_drained() && !self.driver.is_stopping() {
            self.acceptor.stop(self.driver.schedule.poller());
            self.context().reach.note_none();
            self.driver.server.end_quiesce();
        }
    }
}
