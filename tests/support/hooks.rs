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

hooks! {
    handler(&Server, &mut Socket<'_>) -> Result;
    on_start(&Server) -> Result;
    on_stop(&Server);
    on_thread_start(&Server, ThreadKind, usize) -> Result;
    on_thread_stop(&Server, ThreadKind, usize);
    on_open(&Server, &mut Socket<'_>) -> Result;
    on_close(&Server, &mut Socket<'_>, CloseReason);
    on_drain(&Server, &mut Socket<'_>);
    on_timeout(&Server, &mut Socket<'_>);
    on_wake(&Server, &mut Socket<'_>);
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
