//! `ns_config`: the settings, one setter and one getter each.
//!
//! What a setting may be is decided by the core's `Config::validate`.

use std::ffi::{c_char, CString};
use std::ops::Deref;
use std::ptr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::callbacks::Callbacks;
use super::support::{guard, lock, made, null, object, remember, status, text, Bad};
use super::tls::{ns_tls, share};
use super::types::ns_status;
use super::version::silence_panics;
use crate::{Config, Error, Status};

/// Settings and callbacks of servers. Reference-counted: each server made from
/// it holds a share, so free yours at any time. While a server uses it it
/// cannot be changed. Durations are milliseconds, sizes bytes, flags 0 or 1.
/// A getter answers 0 (NULL) for NULL.
pub struct ns_config {
    inner: Mutex<Inner>,
}

pub(super) struct Inner {
    pub settings: Config,
    pub callbacks: Callbacks,
    /// The text behind `ns_config_shutdown_port`.
    shutdown_port: Option<CString>,
    /// What `settings.tls` is part of.
    tls: Option<Arc<ns_tls>>,
    /// What the first failed setter said; `ns_server_new` says it again.
    bad: Option<Bad>,
    /// Servers that use it.
    users: usize,
}

impl ns_config {
    /// The defaults; `bad` is why it cannot be used.
    pub(super) fn new(bad: Option<Bad>) -> Arc<ns_config> {
        Arc::new(ns_config {
            inner: Mutex::new(Inner {
                settings: Config::new(),
                callbacks: Callbacks::default(),
                shutdown_port: None,
                tls: None,
                bad,
                users: 0,
            }),
        })
    }

    /// Changes it if no server uses it. What the change returns is handed on,
    /// so that what is dropped is dropped unlocked.
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
            remember(&mut inner.bad, error);
        }
        result
    }
}

/// A server's share of a config.
pub(super) struct InUse(Arc<ns_config>);

impl InUse {
    /// Takes a share with the settings and callbacks as they are; fails if a
    /// setter did.
    pub fn take(config: Arc<ns_config>) -> Result<(InUse, Config, Callbacks), Error> {
        let (settings, callbacks) = {
            let mut inner = lock(&config.inner);
            if let Some((status, message)) = &inner.bad {
                return Err(Error::new(*status, format!("the config is not valid: {message}")));
            }
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

/// Applies one setting if it is valid by itself; whether the settings suit
/// each other is seen when a server is made of them all.
unsafe fn set(config: *mut ns_config, change: impl Fn(Config) -> Config) -> ns_status {
    status(|| {
        // SAFETY: the caller's contract.
        unsafe { object(config, "config") }?.change(|inner| {
            // The widest bounds for the two that depend on each other.
            let others = Config::new().high_water_mark(1).send_limit(i32::MAX as usize);
            change(others).validate()?;
            inner.settings = change(inner.settings.clone());
            Ok(())
        })
    })
}

/// As `set`, for a flag.
unsafe fn set_flag(
    config: *mut ns_config,
    name: &str,
    value: i32,
    change: impl Fn(Config, bool) -> Config,
) -> ns_status {
    match value {
        // SAFETY: the caller's contract.
        0 | 1 => unsafe { set(config, |c| change(c, value == 1)) },
        _ => status(|| {
            // SAFETY: the caller's contract.
            unsafe { object(config, "config") }?.change(|_| {
                Err(Error::new(Status::Invalid, format!("{name} must be 0 or 1, not {value}")))
            })
        }),
    }
}

/// One setting, or the type's zero for NULL.
unsafe fn get<T: Default>(config: *const ns_config, read: impl FnOnce(&Config) -> T) -> T {
    guard(T::default(), || {
        // SAFETY: the caller's contract.
        let config = unsafe { object(config, "config") };
        config.map_or_else(|_| T::default(), |config| read(&lock(&config.inner).settings))
    })
}

fn ms(value: u32) -> Duration {
    Duration::from_millis(value.into())
}

/// 0 is "off".
fn optional_ms(value: u32) -> Option<Duration> {
    (value > 0).then(|| ms(value))
}

/// `Config::validate` bounds every duration well within 32 bits.
fn in_ms(value: impl Into<Option<Duration>>) -> u32 {
    value.into().map_or(0, |d| d.as_millis() as u32)
}

/// A new config with the defaults, the caller's to free (`ns_config_free`);
/// never NULL: one that could not be made remembers why, and `ns_server_new`
/// reports it. [any]
#[no_mangle]
pub extern "C" fn ns_config_new() -> *mut ns_config {
    let (_, bad) = made(silence_panics);
    Arc::into_raw(ns_config::new(bad)).cast_mut()
}

/// Gives the caller's share back; NULL is allowed. Its callbacks' drop
/// functions run when no server uses it either. [any] [blocks]
#[no_mangle]
pub unsafe extern "C" fn ns_config_free(config: *mut ns_config) {
    guard((), || {
        if !config.is_null() {
            // SAFETY: made by Arc::into_raw in `ns_config_new`.
            drop(unsafe { Arc::from_raw(config) });
        }
    })
}

/// How many connections are served at once (blocking mode), or the number of
/// event loops (non-blocking mode): 1 (default) to 4096. All setters return 0,
/// NS_ERR_INVALID or NS_ERR_STATE (in use by a server: it stays as it is); the
/// first failure but NS_ERR_STATE is remembered and reported by `ns_server_new`,
/// so they may go unchecked. [setup]
#[no_mangle]
pub unsafe extern "C" fn ns_config_set_max_thread(config: *mut ns_config, count: u32) -> ns_status {
    // SAFETY: the caller's contract.
    unsafe { set(config, |c| c.max_thread(count)) }
}

/// The setting. [any]
#[no_mangle]
pub unsafe extern "C" fn ns_config_max_thread(config: *const ns_config) -> u32 {
    // SAFETY: the caller's contract.
    unsafe { get(config, |c| c.max_thread) }
}

/// Blocking mode: a connection that finds no worker free waits this many times
/// `retry_interval`, up to 20 ms more, and is then refused, one client after
/// another, for each of which the exception handler has 250 ms: 0 to 1000000,
/// default 10. With a `max_thread` of 1 nobody is refused: all wait, however
/// long. [setup]
#[no_mangle]
pub unsafe extern "C" fn ns_config_set_max_retry(config: *mut ns_config, count: u32) -> ns_status {
    // SAFETY: the caller's contract.
    unsafe { set(config, |c| c.max_retry(count)) }
}

/// The setting. [any]
#[no_mangle]
pub unsafe extern "C" fn ns_config_max_retry(config: *const ns_config) -> u32 {
    // SAFETY: the caller's contract.
    unsafe { get(config, |c| c.max_retry) }
}

/// See `max_retry`. Milliseconds, 0 to 2^31 - 1, default 500. [setup]
#[no_mangle]
pub unsafe extern "C" fn ns_config_set_retry_interval_ms(
    config: *mut ns_config,
    time: u32,
) -> ns_status {
    // SAFETY: the caller's contract.
    unsafe { set(config, |c| c.retry_interval(ms(time))) }
}

/// The setting, in milliseconds. [any]
#[no_mangle]
pub unsafe extern "C" fn ns_config_retry_interval_ms(config: *const ns_config) -> u32 {
    // SAFETY: the caller's contract.
    unsafe { get(config, |c| in_ms(c.retry_interval)) }
}

/// Blocking mode: how many connections may wait for a worker, the next one is
/// refused at once. Default 1024. [setup]
#[no_mangle]
pub unsafe extern "C" fn ns_config_set_max_waiting(
    config: *mut ns_config,
    count: u32,
) -> ns_status {
    // SAFETY: the caller's contract.
    unsafe { set(config, |c| c.max_waiting(count)) }
}

/// The setting. [any]
#[no_mangle]
pub unsafe extern "C" fn ns_config_max_waiting(config: *const ns_config) -> u32 {
    // SAFETY: the caller's contract.
    unsafe { get(config, |c| c.max_waiting) }
}

/// 1: event loops and a handler that must not block; 0 (default): workers and a
/// handler that may. [setup]
#[no_mangle]
pub unsafe extern "C" fn ns_config_set_non_blocking(
    config: *mut ns_config,
    value: i32,
) -> ns_status {
    // SAFETY: the caller's contract.
    unsafe { set_flag(config, "non_blocking", value, Config::non_blocking) }
}

/// The setting, 0 or 1. [any]
#[no_mangle]
pub unsafe extern "C" fn ns_config_non_blocking(config: *const ns_config) -> i32 {
    // SAFETY: the caller's contract.
    unsafe { get(config, |c| c.non_blocking.into()) }
}

/// 1: a service without a host listens for IPv6 as well as IPv4, on the same
/// port, where the host has it. Default 0. [setup]
#[no_mangle]
pub unsafe extern "C" fn ns_config_set_use_ipv6(config: *mut ns_config, value: i32) -> ns_status {
    // SAFETY: the caller's contract.
    unsafe { set_flag(config, "use_ipv6", value, Config::use_ipv6) }
}

/// The setting, 0 or 1. [any]
#[no_mangle]
pub unsafe extern "C" fn ns_config_use_ipv6(config: *const ns_config) -> i32 {
    // SAFETY: the caller's contract.
    unsafe { get(config, |c| c.use_ipv6.into()) }
}

/// How many connections may be open; accepting pauses there and clients wait in
/// the backlog. 0 (default): what the limit of open files allows. [setup]
#[no_mangle]
pub unsafe extern "C" fn ns_config_set_max_connections(
    config: *mut ns_config,
    count: u32,
) -> ns_status {
    // SAFETY: the caller's contract.
    unsafe { set(config, |c| c.max_connections(count)) }
}

/// The setting. [any]
#[no_mangle]
pub unsafe extern "C" fn ns_config_max_connections(config: *const ns_config) -> u32 {
    // SAFETY: the caller's contract.
    unsafe { get(config, |c| c.max_connections) }
}

/// Length of the kernel's queue of connections not yet accepted: 1 to 65535,
/// default 4096; the kernel's own cap applies. [setup]
#[no_mangle]
pub unsafe extern "C" fn ns_config_set_backlog(config: *mut ns_config, count: u32) -> ns_status {
    // SAFETY: the caller's contract.
    unsafe { set(config, |c| c.backlog(count)) }
}

/// The setting. [any]
#[no_mangle]
pub unsafe extern "C" fn ns_config_backlog(config: *const ns_config) -> u32 {
    // SAFETY: the caller's contract.
    unsafe { get(config, |c| c.backlog) }
}

/// A TLS handshake that takes longer as a whole is given up: milliseconds, 0 to
/// 2^31 - 1, default 10000. [setup]
#[no_mangle]
pub unsafe extern "C" fn ns_config_set_handshake_timeout_ms(
    config: *mut ns_config,
    time: u32,
) -> ns_status {
    // SAFETY: the caller's contract.
    unsafe { set(config, |c| c.handshake_timeout(ms(time))) }
}

/// The setting, in milliseconds. [any]
#[no_mangle]
pub unsafe extern "C" fn ns_config_handshake_timeout_ms(config: *const ns_config) -> u32 {
    // SAFETY: the caller's contract.
    unsafe { get(config, |c| in_ms(c.handshake_timeout)) }
}

/// Non-blocking mode: how many TLS handshakes may be in progress at once; beyond
/// it new ones wait. Each loop has its equal part, at least one. A client counts
/// when its whole first record has come. Default 1024, 0: no bound. [setup]
#[no_mangle]
pub unsafe extern "C" fn ns_config_set_max_handshakes(
    config: *mut ns_config,
    count: u32,
) -> ns_status {
    // SAFETY: the caller's contract.
    unsafe { set(config, |c| c.max_handshakes(count)) }
}

/// The setting. [any]
#[no_mangle]
pub unsafe extern "C" fn ns_config_max_handshakes(config: *const ns_config) -> u32 {
    // SAFETY: the caller's contract.
    unsafe { get(config, |c| c.max_handshakes) }
}

/// A connection with no byte either way for so long is closed: milliseconds, 1
/// to 2^31 - 1, 0 (default) is off. A worker looks while its handler waits in a
/// call: that returns NS_ERR_TIMEOUT, and the connection is closed. [setup]
#[no_mangle]
pub unsafe extern "C" fn ns_config_set_idle_timeout_ms(
    config: *mut ns_config,
    time: u32,
) -> ns_status {
    // SAFETY: the caller's contract.
    unsafe { set(config, |c| c.idle_timeout(optional_ms(time))) }
}

/// The setting, in milliseconds; 0 is off. [any]
#[no_mangle]
pub unsafe extern "C" fn ns_config_idle_timeout_ms(config: *const ns_config) -> u32 {
    // SAFETY: the caller's contract.
    unsafe { get(config, |c| in_ms(c.idle_timeout)) }
}

/// A blocking `recv` or `send` gives up after so long with NS_ERR_TIMEOUT:
/// milliseconds, 1 to 2^31 - 1, 0 (default) is off. [setup]
#[no_mangle]
pub unsafe extern "C" fn ns_config_set_io_timeout_ms(
    config: *mut ns_config,
    time: u32,
) -> ns_status {
    // SAFETY: the caller's contract.
    unsafe { set(config, |c| c.io_timeout(optional_ms(time))) }
}

/// The setting, in milliseconds; 0 is off. [any]
#[no_mangle]
pub unsafe extern "C" fn ns_config_io_timeout_ms(config: *const ns_config) -> u32 {
    // SAFETY: the caller's contract.
    unsafe { get(config, |c| in_ms(c.io_timeout)) }
}

/// A connection whose queued bytes make no progress for so long is closed; it is
/// progress when the kernel takes some, or the peer acknowledges some: milliseconds, 1 to 2^31 - 1, 0 is off, default 30000. [setup]
#[no_mangle]
pub unsafe extern "C" fn ns_config_set_write_timeout_ms(
    config: *mut ns_config,
    time: u32,
) -> ns_status {
    // SAFETY: the caller's contract.
    unsafe { set(config, |c| c.write_timeout(optional_ms(time))) }
}

/// The setting, in milliseconds; 0 is off. [any]
#[no_mangle]
pub unsafe extern "C" fn ns_config_write_timeout_ms(config: *const ns_config) -> u32 {
    // SAFETY: the caller's contract.
    unsafe { get(config, |c| in_ms(c.write_timeout)) }
}

/// How long the input of a closed connection is discarded until the peer closes,
/// in blocking mode where some is unread or output not acknowledged; and how long
/// a worker's or a detached one goes on to send what is unsent (on a loop
/// `write_timeout` bounds that): milliseconds, 0 to 2^31 - 1, default 1000. [setup]
#[no_mangle]
pub unsafe extern "C" fn ns_config_set_linger_timeout_ms(
    config: *mut ns_config,
    time: u32,
) -> ns_status {
    // SAFETY: the caller's contract.
    unsafe { set(config, |c| c.linger_timeout(ms(time))) }
}

/// The setting, in milliseconds. [any]
#[no_mangle]
pub unsafe extern "C" fn ns_config_linger_timeout_ms(config: *const ns_config) -> u32 {
    // SAFETY: the caller's contract.
    unsafe { get(config, |c| in_ms(c.linger_timeout)) }
}

/// How long a stop lets handlers finish and bytes leave before it cuts:
/// milliseconds, 0 to 2^31 - 1, default 5000. [setup]
#[no_mangle]
pub unsafe extern "C" fn ns_config_set_drain_timeout_ms(
    config: *mut ns_config,
    time: u32,
) -> ns_status {
    // SAFETY: the caller's contract.
    unsafe { set(config, |c| c.drain_timeout(ms(time))) }
}

/// The setting, in milliseconds. [any]
#[no_mangle]
pub unsafe extern "C" fn ns_config_drain_timeout_ms(config: *const ns_config) -> u32 {
    // SAFETY: the caller's contract.
    unsafe { get(config, |c| in_ms(c.drain_timeout)) }
}

/// TCP keep-alive, so that a vanished peer is noticed: milliseconds, rounded up
/// to seconds, 1 to 32767000, 0 is off, default 60000. [setup]
#[no_mangle]
pub unsafe extern "C" fn ns_config_set_keep_alive_ms(
    config: *mut ns_config,
    time: u32,
) -> ns_status {
    // SAFETY: the caller's contract.
    unsafe { set(config, |c| c.keep_alive(optional_ms(time))) }
}

/// The setting, in milliseconds; 0 is off. [any]
#[no_mangle]
pub unsafe extern "C" fn ns_config_keep_alive_ms(config: *const ns_config) -> u32 {
    // SAFETY: the caller's contract.
    unsafe { get(config, |c| in_ms(c.keep_alive)) }
}

/// 1 (default): small pieces are sent at once (TCP_NODELAY). [setup]
#[no_mangle]
pub unsafe extern "C" fn ns_config_set_no_delay(config: *mut ns_config, value: i32) -> ns_status {
    // SAFETY: the caller's contract.
    unsafe { set_flag(config, "no_delay", value, Config::no_delay) }
}

/// The setting, 0 or 1. [any]
#[no_mangle]
pub unsafe extern "C" fn ns_config_no_delay(config: *const ns_config) -> i32 {
    // SAFETY: the caller's contract.
    unsafe { get(config, |c| c.no_delay.into()) }
}

/// Non-blocking mode: a connection with more queued outbound bytes than this is
/// not read until half of them left: 1 to `send_limit`, default 262144. [setup]
#[no_mangle]
pub unsafe extern "C" fn ns_config_set_high_water_mark(
    config: *mut ns_config,
    bytes: usize,
) -> ns_status {
    // SAFETY: the caller's contract.
    unsafe { set(config, |c| c.high_water_mark(bytes)) }
}

/// The setting, in bytes. [any]
#[no_mangle]
pub unsafe extern "C" fn ns_config_high_water_mark(config: *const ns_config) -> usize {
    // SAFETY: the caller's contract.
    unsafe { get(config, |c| c.high_water_mark) }
}

/// Non-blocking mode: a `send` that would queue more than this is refused with
/// NS_ERR_BUFFER_FULL: 1 to 2^31 - 1, default 16777216. [setup]
#[no_mangle]
pub unsafe extern "C" fn ns_config_set_send_limit(
    config: *mut ns_config,
    bytes: usize,
) -> ns_status {
    // SAFETY: the caller's contract.
    unsafe { set(config, |c| c.send_limit(bytes)) }
}

/// The setting, in bytes. [any]
#[no_mangle]
pub unsafe extern "C" fn ns_config_send_limit(config: *const ns_config) -> usize {
    // SAFETY: the caller's contract.
    unsafe { get(config, |c| c.send_limit) }
}

/// A service (as of `ns_server_new`; loopback unless it names a host) on which
/// a connection stops the server; "0" for any free port. Copied. NULL (default):
/// none. [setup]
#[no_mangle]
pub unsafe extern "C" fn ns_config_set_shutdown_port(
    config: *mut ns_config,
    service: *const c_char,
) -> ns_status {
    status(|| {
        // SAFETY: the caller's contract.
        unsafe { object(config, "config") }?.change(|inner| {
            if service.is_null() {
                inner.settings.shutdown_port = None;
                inner.shutdown_port = None;
                return Ok(());
            }
            // SAFETY: the caller's contract.
            let service = unsafe { text(service, "shutdown port") }?;
            Config::new().shutdown_port(service).validate()?;
            inner.settings.shutdown_port = Some(service.to_string());
            inner.shutdown_port = CString::new(service).ok();
            Ok(())
        })
    })
}

/// The setting, NULL when unset. Borrowed: valid until it is set again or the
/// config goes away. [any]
#[no_mangle]
pub unsafe extern "C" fn ns_config_shutdown_port(config: *const ns_config) -> *const c_char {
    guard(ptr::null(), || {
        // SAFETY: the caller's contract.
        let config = unsafe { object(config, "config") };
        config.map_or(ptr::null(), |config| {
            lock(&config.inner).shutdown_port.as_ref().map_or(ptr::null(), |text| text.as_ptr())
        })
    })
}

/// TLS on every connection but those of the shutdown port. The config takes its
/// own share of `tls`, which must have a certificate when `ns_server_new` freezes
/// it. 0, NS_ERR_INVALID (NULL: remembered as every failure of a setter, so that
/// a TLS object that is missing never means plain text) or NS_ERR_STATE (in use
/// by a server). [setup]
#[no_mangle]
pub unsafe extern "C" fn ns_config_set_tls(
    config: *mut ns_config,
    tls: *const ns_tls,
) -> ns_status {
    status(|| {
        // SAFETY: the caller's contract.
        let (config, tls) = unsafe { (object(config, "config")?, share(tls)) };
        config.change(|inner| {
            let tls = tls.ok_or_else(|| null("TLS object"))?;
            inner.settings.tls = tls.config().cloned();
            inner.tls = Some(tls);
            Ok(())
        })
    })
}

/// Takes TLS out of the config (default): its connections are plain text. 0,
/// NS_ERR_INVALID (NULL config) or NS_ERR_STATE (in use by a server). [setup]
#[no_mangle]
pub unsafe extern "C" fn ns_config_clear_tls(config: *mut ns_config) -> ns_status {
    status(|| {
        // SAFETY: the caller's contract.
        unsafe { object(config, "config") }?.change(|inner| {
            inner.settings.tls = None;
            inner.tls = None;
            Ok(())
        })
    })
}
