//! The states of a server.

#![forbid(unsafe_code)]

/// Where a server stands. It goes through these once, in this order; a
/// failed start leads back to `New`.
#[repr(i32)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// Not started.
    #[default]
    New = 0,
    /// Binding, starting threads, in `on_start`.
    Starting = 1,
    /// Accepting.
    Running = 2,
    /// Draining.
    Stopping = 3,
    /// Over.
    Stopped = 4,
}

impl State {
    /// The state in a word.
    pub fn name(self) -> &'static str {
        match self {
            State::New => "new",
            State::Starting => "starting",
            State::Running => "running",
            State::Stopping => "stopping",
            State::Stopped => "stopped",
        }
    }
}
