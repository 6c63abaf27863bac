//! `ns_config`: the object. Its settings are in `settings.rs`, its callbacks in
//! `callbacks.rs`.

// SAFETY of the blocks without a comment: the caller's contract, see `mod.rs`.
#![allow(clippy::undocumented_unsafe_blocks)]

use std::ffi::CString;
use std::ops::Deref;
use std::sync::{Arc, Mutex};

use super::callbacks::Callbacks;
use super::handles::{into_handle, release};
use super::support::{guard, make, FirstFailure};
use super::tls::ns_tls;
use super::version::silence_panics;
use crate::sync::lock;
use crate::{Config, Error, Status};

/// Settings and callbacks of servers.
///
/// Reference-counted: each server made from it holds a share, so free yours at
/// any time. While a server uses it, it cannot change. Durations are in
/// milliseconds, sizes in bytes, flags are 0 or 1.
///
/// A setter returns 0, NS_ERR_INVALID, or NS_ERR_STATE (in use by a server; the
/// config stays as it is). The config remembers the first failure of a setter
/// that is not NS_ERR_STATE, and `ns_server_new` reports it: so a program may
/// leave the results of setters unchecked. A getter returns 0 (NULL) for NULL.
pub struct ns_config {
    pub(super) inner: Mutex<Inner>,
}

pub(super) struct Inner {
    pub settings: Config,
    pub callbacks: Callbacks,
    /// The text that `ns_config_shutdown_port` returns.
    pub(super) shutdown_port: Option<CString>,
    /// The text that `ns_config_thread_name` returns.
    pub(super) thread_name: Option<CString>,
    /// The object that `settings.tls` is a part of.
    pub(super) tls: Option<Arc<ns_tls>>,
    /// `ns_server_new` reports it.
    failure: FirstFailure,
    /// The number of servers that use it.
    users: usize,
}

impl ns_config {
    /// The defaults; `failure` is why it cannot be used.
    pub(super) fn new(failure: FirstFailure) -> ns_config {
        ns_config {
            inner: Mutex::new(Inner {
                settings: Config::new(),
                callbacks: Callbacks::default(),
                shutdown_port: None,
                thread_name: CString::new(Config::new().thread_name).ok(),
                tls: None,
                failure,
                users: 0,
            }),
        }
    }

    /// Changes the config if no server uses it. Passes on what `change` returns,
    /// so that the caller drops it without the lock.
    pub(super) fn change<T>(
        &self,
        change: impl FnOnce(&mut Inner) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut inner = lock(&self.inner);
        if inner.users > 0 {
            // Not remembered: the config is as good as before.
            let text = "the config is in use by a server: it cannot be changed";
            return Err(Error::new(Status::State, text));
        }
        let result = change(&mut inner);
        if let Err(error) = &result {
            inner.failure.remember(error);
        }
        result
    }
}

/// A server's share of a config.
pub(super) struct InUse(Arc<ns_config>);

impl InUse {
    /// Takes a share, with the settings and callbacks as they are now. Fails if
    /// a setter has failed.
    pub fn take(config: Arc<ns_config>) -> Result<(InUse, Config, Callbacks), Error> {
        let (settings, callbacks) = {
            let mut inner = lock(&config.inner);
            inner.failure.check("the config is not valid")?;
            if let Some(tls) = &inner.tls {
                tls.settings()?;
            }
            inner.users += 1;
            (inner.settings.clone(), inner.callbacks.clone())
        };
        Ok((InUse(config), settings, callbacks))
    }
}

impl Deref for InUse {
    type Target = Arc<ns_config>;

    fn deref(&self) -> &Arc<ns_config> {
        &self.0
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        lock(&self.0.inner).users -= 1;
    }
}

/// A new config with the defaults.
///
/// Returns: the config, yours to free with `ns_config_free`; never NULL. One that
/// could not be made remembers why, and `ns_server_new` reports it.
/// [any]
#[no_mangle]
pub extern "C" fn ns_config_new() -> *mut ns_config {
    let (_, failure) = make(|| {
        silence_panics();
        Ok(())
    });
    into_handle(ns_config::new(failure))
}

/// Gives your share back; NULL is allowed. The drop functions of its callbacks
/// run when no server uses it either.
/// [any] [blocks]
#[no_mangle]
pub unsafe extern "C" fn ns_config_free(config: *mut ns_config) {
    guard((), || unsafe { release(config) })
}
