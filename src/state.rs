//! The states of a server.

#![forbid(unsafe_code)]

/// The state of a server. A server goes through the states once: `New`,
/// `Starting`, `Running`, perhaps `Quiescing`, `Stopping`, `Stopped`; a failed
/// start leads back to `New`.
///
/// ```
/// use net_server::{Server, Socket, State};
/// let server = Server::new("0", |_: &Server, socket: &mut Socket<'_>| socket.send(b"hello\n"))?;
/// assert_eq!((server.state(), State::New.name()), (State::New, "new"));
/// # Ok::<(), net_server::Error>(())
/// ```
#[repr(i32)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// Not started.
    #[default]
    New = 0,
    /// The server binds its ports, starts its threads and runs `on_start`.
    Starting = 1,
    /// The server accepts connections.
    Running = 2,
    /// The server drains.
    Stopping = 3,
    /// The server has stopped.
    Stopped = 4,
    /// The server accepts no more and goes on to serve what it has.
    Quiescing = 5,
}

impl State {
    /// Returns the state as one word.
    pub fn name(self) -> &'static str {
        match self {
            State::New => "new",
            State::Starting => "starting",
            State::Running => "running",
            State::Stopping => "stopping",
            State::Stopped => "stopped",
            State::Quiescing => "quiescing",
        }
    }
}
