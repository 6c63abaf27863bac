//! The callbacks of a server as optional closures; the same text for both backends.

use super::{CloseReason, ConnId, Error, Server, Socket, ThreadKind};
use crate::support::{events, Events};

type Result<T = ()> = std::result::Result<T, Error>;

macro_rules! hooks {
    ($($name:ident($($arg:ty),*) $(-> $result:ty)?;)*) => {
        /// A handler and the hooks that a test wants; what is not given is the library's default.
        #[derive(Default)]
        pub struct Hooks {
            $(pub(super) $name: Option<Box<dyn Fn($($arg),*) $(-> $result)? + Send + Sync>>,)*
        }

        impl Hooks {
            $(pub fn $name(
                mut self,
                f: impl Fn($($arg),*) $(-> $result)? + Send + Sync + 'static,
            ) -> Self {
                self.$name = Some(Box::new(f));
                self
            })*
        }
    };
}

/// What `on_drain`, `on_timeout` and `on_wake` of a test return: nothing where they succeed.
pub trait Outcome {
    fn outcome(self) -> Result;
}

impl Outcome for () {
    fn outcome(self) -> Result {
        Ok(())
    }
}

impl Outcome for Result {
    fn outcome(self) -> Result {
        self
    }
}

macro_rules! events {
    ($($name:ident: $place:ident;)*) => {
        impl Hooks {
            $(pub fn $name<R: Outcome>(
                self,
                f: impl Fn(&Server, &mut Socket<'_>) -> R + Send + Sync + 'static,
            ) -> Self {
                self.$place(move |server, socket| f(server, socket).outcome())
            })*
        }
    };
}

events! {
    on_drain: drain;
    on_timeout: timeout;
    on_wake: wake;
}

hooks! {
    handler(&Server, &mut Socket<'_>) -> Result;
    on_start(&Server) -> Result;
    on_stop(&Server);
    on_quiesce(&Server);
    on_thread_start(&Server, ThreadKind, usize) -> Result;
    on_thread_stop(&Server, ThreadKind, usize);
    on_open(&Server, &mut Socket<'_>) -> Result;
    on_close(&Server, &mut Socket<'_>, CloseReason);
    drain(&Server, &mut Socket<'_>) -> Result;
    timeout(&Server, &mut Socket<'_>) -> Result;
    wake(&Server, &mut Socket<'_>) -> Result;
    on_exception(&Server, Option<&mut Socket<'_>>, &Error) -> Result;
    on_shutdown(&Server, &mut Socket<'_>) -> Result<bool>;
}

impl Hooks {
    pub fn new(
        handler: impl Fn(&Server, &mut Socket<'_>) -> Result + Send + Sync + 'static,
    ) -> Self {
        Hooks::default().handler(handler)
    }

    /// With an `on_open` that reports who came.
    pub fn telling_ids(self) -> (Self, Events<ConnId>) {
        let (log, ids) = events();
        let hooks = self.on_open(move |_, socket| {
            log.add(socket.id());
            Ok(())
        });
        (hooks, ids)
    }

    /// With an `on_close` that reports the reasons.
    pub fn telling_reasons(self) -> (Self, Events<CloseReason>) {
        let (log, reasons) = events();
        (self.on_close(move |_, _, reason| log.add(reason)), reasons)
    }
}
