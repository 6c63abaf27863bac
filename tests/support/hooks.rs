//! The callbacks of a server as optional closures; the same text for both backends.

#![allow(clippy::type_complexity)]

use super::{CloseReason, Error, Server, Socket};

type Result<T = ()> = std::result::Result<T, Error>;
type Boxed<T> = Option<Box<T>>;
type EventFn = dyn Fn(&Server, &mut Socket<'_>) + Send + Sync;

/// A handler and the hooks that a test wants; what is not given is the library's default.
#[derive(Default)]
pub struct Hooks {
    pub(super) handler: Boxed<dyn Fn(&Server, &mut Socket<'_>) -> Result + Send + Sync>,
    pub(super) on_start: Boxed<dyn Fn(&Server) -> Result + Send + Sync>,
    pub(super) on_stop: Boxed<dyn Fn(&Server) + Send + Sync>,
    pub(super) on_open: Boxed<dyn Fn(&Server, &mut Socket<'_>) -> Result + Send + Sync>,
    pub(super) on_close: Boxed<dyn Fn(&Server, &mut Socket<'_>, CloseReason) + Send + Sync>,
    pub(super) on_drain: Boxed<EventFn>,
    pub(super) on_timeout: Boxed<EventFn>,
    pub(super) on_wake: Boxed<EventFn>,
    pub(super) on_exception:
        Boxed<dyn Fn(&Server, Option<&mut Socket<'_>>, &Error) -> Result + Send + Sync>,
    pub(super) on_shutdown: Boxed<dyn Fn(&Server, &mut Socket<'_>) -> Result<bool> + Send + Sync>,
}

macro_rules! setters {
    ($($name:ident($($arg:ty),*) $(-> $result:ty)?;)*) => {
        $(pub fn $name(mut self, f: impl Fn($($arg),*) $(-> $result)? + Send + Sync + 'static) -> Self {
            self.$name = Some(Box::new(f));
            self
        })*
    };
}

impl Hooks {
    pub fn new(
        handler: impl Fn(&Server, &mut Socket<'_>) -> Result + Send + Sync + 'static,
    ) -> Self {
        Hooks { handler: Some(Box::new(handler)), ..Hooks::default() }
    }

    setters! {
        on_start(&Server) -> Result;
        on_stop(&Server);
        on_open(&Server, &mut Socket<'_>) -> Result;
        on_close(&Server, &mut Socket<'_>, CloseReason);
        on_drain(&Server, &mut Socket<'_>);
        on_timeout(&Server, &mut Socket<'_>);
        on_wake(&Server, &mut Socket<'_>);
        on_exception(&Server, Option<&mut Socket<'_>>, &Error) -> Result;
        on_shutdown(&Server, &mut Socket<'_>) -> Result<bool>;
    }
}
