//! The settings of a config, with a setter and a getter each.
//!
//! The core's `Config::validate` decides what a setting may be.
//!
//! Why no macro makes the accessors, which are alike: cbindgen reads the source
//! as it stands. It expands macros only with a nightly compiler, so the functions
//! of a macro would be missing in the header. Each would need its comment there
//! all the same. Therefore they are written out, and for the same reason this
//! file is longer than others: it is one list.

// SAFETY of the blocks without a comment: the caller's contract, see `mod.rs`.
#![allow(clippy::undocumented_unsafe_blocks)]

use std::ffi::{c_char, CString};
use std::ptr;
use std::time::Duration;

use super::config::ns_config;
use super::error::ns_status;
use super::handles::{get, object, share};
use super::support::{flag, null, optional_ms, status, text};
use super::tls::ns_tls;
use crate::sync::lock;
use crate::{Config, Error};

/// Applies one setting if it is valid by itself. Whether the settings fit each
/// other is checked when a server is made of all of them.
///
/// # Safety
/// The caller's contract.
pub(super) unsafe fn set(
    config: *mut ns_config,
    change: impl Fn(Config) -> Result<Config, Error>,
) -> ns_status {
    status(|| {
        unsafe { object(config, "config") }?.change(|inner| {
            // The widest bounds for those that depend on each other.
            let others = Config::new().high_water_mark(1).send_limit(i32::MAX as usize);
            let others = others.add_trusted_proxy("unix");
            change(others)?.validate()?;
            inner.settings = change(inner.settings.clone())?;
            Ok(())
        })
    })
}

/// One setting, or the type's zero for NULL.
///
/// # Safety
/// The caller's contract.
pub(super) unsafe fn setting<T: Copy + Default>(
    config: *const ns_config,
    read: impl FnOnce(&Config) -> T,
) -> T {
    unsafe { get(config, T::default(), |config| read(&lock(&config.inner).settings)) }
}

pub(super) fn ms(value: u32) -> Duration {
    Duration::from_millis(value.into())
}

/// `Config::validate` bounds every duration well within 32 bits.
pub(super) fn in_ms(value: impl Into<Option<Duration>>) -> u32 {
    value.into().map_or(0, |d| d.as_millis() as u32)
}

/// Sets how many connections are served at the same time (blocking mode), or the
/// number of event loops (non-blocking mode): 1 (default) to 4096.
///
/// Returns: 0, NS_ERR_INVALID or NS_ERR_STATE.
/// [setup]
#[no_mangle]
pub unsafe extern "C" fn ns_config_set_max_thread(config: *mut ns_config, count: u32) -> ns_status {
    unsafe { set(config, |c| Ok(c.max_thread(count))) }
}

/// Returns: the setting `max_thread`.
/// [any]
#[no_mangle]
pub unsafe extern "C" fn ns_config_max_thread(config: *const ns_config) -> u32 {
    unsafe { setting(config, |c| c.max_thread) }
}

/// Blocking mode: sets how many times `retry_interval`, and up to 20 ms more, a
/// connection waits that finds no worker free: 0 to 1000000, default 10.
///
/// Then the connection is refused. Clients are refused one after another, and the
/// exception handler has 250 ms for each. With a `max_thread` of 1 no client is
/// refused: all wait, however long.
///
/// Returns: 0, NS_ERR_INVALID or NS_ERR_STATE.
/// [setup]
#[no_mangle]
pub unsafe extern "C" fn ns_config_set_max_retry(config: *mut ns_config, count: u32) -> ns_status {
    unsafe { set(config, |c| Ok(c.max_retry(count))) }
}

/// Returns: the setting `max_retry`.
/// [any]
#[no_mangle]
pub unsafe extern "C" fn ns_config_max_retry(config: *const ns_config) -> u32 {
    unsafe { setting(config, |c| c.max_retry) }
}

/// Blocking mode: sets the interval of `max_retry`: milliseconds, 0 to 2^31 - 1,
/// default 500.
///
/// Returns: 0, NS_ERR_INVALID or NS_ERR_STATE.
/// [setup]
#[no_mangle]
pub unsafe extern "C" fn ns_config_set_retry_interval_ms(
    config: *mut ns_config,
    time: u32,
) -> ns_status {
    unsafe { set(config, |c| Ok(c.retry_interval(ms(time)))) }
}

/// Returns: the setting `retry_interval`, in milliseconds.
/// [any]
#[no_mangle]
pub unsafe extern "C" fn ns_config_retry_interval_ms(config: *const ns_config) -> u32 {
    unsafe { setting(config, |c| in_ms(c.retry_interval)) }
}

/// Blocking mode: sets how many connections may wait for a worker; the next one is
/// refused immediately. Default 1024.
///
/// Returns: 0, NS_ERR_INVALID or NS_ERR_STATE.
/// [setup]
#[no_mangle]
pub unsafe extern "C" fn ns_config_set_max_waiting(
    config: *mut ns_config,
    count: u32,
) -> ns_status {
    unsafe { set(config, |c| Ok(c.max_waiting(count))) }
}

/// Returns: the setting `max_waiting`.
/// [any]
#[no_mangle]
pub unsafe extern "C" fn ns_config_max_waiting(config: *const ns_config) -> u32 {
    unsafe { setting(config, |c| c.max_waiting) }
}

/// Sets the mode. 1: event loops, and a handler that must not block; 0 (default):
/// workers, and a handler that may block.
///
/// Returns: 0, NS_ERR_INVALID or NS_ERR_STATE.
/// [setup]
#[no_mangle]
pub unsafe extern "C" fn ns_config_set_non_blocking(
    config: *mut ns_config,
    value: i32,
) -> ns_status {
    unsafe { set(config, |c| Ok(c.non_blocking(flag(value, "non_blocking")?))) }
}

/// Returns: the setting `non_blocking`, 0 or 1.
/// [any]
#[no_mangle]
pub unsafe extern "C" fn ns_config_non_blocking(config: *const ns_config) -> i32 {
    unsafe { setting(config, |c| c.non_blocking.into()) }
}

/// Sets whether a service without a host listens for IPv6 as well as IPv4, on the
/// same port, where the host has it: 1 or 0 (default).
///
/// Returns: 0, NS_ERR_INVALID or NS_ERR_STATE.
/// [setup]
#[no_mangle]
pub unsafe extern "C" fn ns_config_set_use_ipv6(config: *mut ns_config, value: i32) -> ns_status {
    unsafe { set(config, |c| Ok(c.use_ipv6(flag(value, "use_ipv6")?))) }
}

/// Returns: the setting `use_ipv6`, 0 or 1.
/// [any]
#[no_mangle]
pub unsafe extern "C" fn ns_config_use_ipv6(config: *const ns_config) -> i32 {
    unsafe { setting(config, |c| c.use_ipv6.into()) }
}

/// Sets whether other servers of the same user that have this setting may listen on
/// the same TCP ports (SO_REUSEPORT, socket(7)): 1 or 0 (default). The kernel spreads
/// the clients over them. Clients in the backlog of one that stops are reset. It is
/// not for the shutdown port.
///
/// Returns: 0, NS_ERR_INVALID or NS_ERR_STATE.
/// [setup]
#[no_mangle]
pub unsafe extern "C" fn ns_config_set_reuse_port(config: *mut ns_config, value: i32) -> ns_status {
    unsafe { set(config, |c| Ok(c.reuse_port(flag(value, "reuse_port")?))) }
}

/// Returns: the setting `reuse_port`, 0 or 1.
/// [any]
#[no_mangle]
pub unsafe extern "C" fn ns_config_reuse_port(config: *const ns_config) -> i32 {
    unsafe { setting(config, |c| c.reuse_port.into()) }
}

/// Sets whether a server in blocking mode lends its listening descriptors
/// (`ns_server_listener_fd`): 1 or 0 (default). Its workers then poll before they
/// accept, one more system call for each connection. A server in non-blocking mode
/// lends them anyway.
///
/// Returns: 0, NS_ERR_INVALID or NS_ERR_STATE.
/// [setup]
#[no_mangle]
pub unsafe extern "C" fn ns_config_set_lend_listeners(
    config: *mut ns_config,
    value: i32,
) -> ns_status {
    unsafe { set(config, |c| Ok(c.lend_listeners(flag(value, "lend_listeners")?))) }
}

/// Returns: the setting `lend_listeners`, 0 or 1.
/// [any]
#[no_mangle]
pub unsafe extern "C" fn ns_config_lend_listeners(config: *const ns_config) -> i32 {
    unsafe { setting(config, |c| c.lend_listeners.into()) }
}

/// Sets the beginning of the names of the server's threads: 1 to 9 bytes without
/// control characters; default "ns". The loops are "ns-l0", "ns-l1" and so on, the
/// workers "ns-w0" and so on, the control thread is "ns-c" and that of the shutdown
/// port "ns-s". Copied.
///
/// Returns: 0, NS_ERR_INVALID or NS_ERR_STATE.
/// [setup]
#[no_mangle]
pub unsafe extern "C" fn ns_config_set_thread_name(
    config: *mut ns_config,
    prefix: *const c_char,
) -> ns_status {
    status(|| {
        unsafe { object(config, "config") }?.change(|inner| {
            let prefix = unsafe { text(prefix, "thread name") }?;
            Config::new().thread_name(prefix).validate()?;
            inner.settings.thread_name = prefix.to_string();
            inner.thread_name = CString::new(prefix).ok();
            Ok(())
        })
    })
}

/// Returns: the setting `thread_name`. Borrowed: valid until it is set again or the
/// config is freed.
/// [any]
#[no_mangle]
pub unsafe extern "C" fn ns_config_thread_name(config: *const ns_config) -> *const c_char {
    unsafe {
        get(config, ptr::null(), |config| {
            lock(&config.inner).thread_name.as_ref().map_or(ptr::null(), |text| text.as_ptr())
        })
    }
}

/// Sets the size of the stack of each of the server's threads in bytes: 128 KiB
/// to 1 GiB; default 2 MiB. The environment variable RUST_MIN_STACK does not matter.
///
/// Returns: 0, NS_ERR_INVALID or NS_ERR_STATE.
/// [setup]
#[no_mangle]
pub unsafe extern "C" fn ns_config_set_stack_size(
    config: *mut ns_config,
    size: usize,
) -> ns_status {
    unsafe { set(config, |c| Ok(c.stack_size(size))) }
}

/// Returns: the setting `stack_size`.
/// [any]
#[no_mangle]
pub unsafe extern "C" fn ns_config_stack_size(config: *const ns_config) -> usize {
    unsafe { setting(config, |c| c.stack_size) }
}

/// Sets the permissions of the file of a "unix:/path" service, as for chmod(2): at
/// most 0777; default 0600: this user alone may connect. The process's umask does
/// not matter.
///
/// Returns: 0, NS_ERR_INVALID or NS_ERR_STATE.
/// [setup]
#[no_mangle]
pub unsafe extern "C" fn ns_config_set_unix_mode(config: *mut ns_config, mode: u32) -> ns_status {
    unsafe { set(config, |c| Ok(c.unix_mode(mode))) }
}

/// Returns: the setting `unix_mode`.
/// [any]
#[no_mangle]
pub unsafe extern "C" fn ns_config_unix_mode(config: *const ns_config) -> u32 {
    unsafe { setting(config, |c| c.unix_mode) }
}

/// Sets how many connections may be open. At that number accepting pauses, and
/// clients wait in the backlog. 0 (default): what the limit of open files allows.
///
/// Returns: 0, NS_ERR_INVALID or NS_ERR_STATE.
/// [setup]
#[no_mangle]
pub unsafe extern "C" fn ns_config_set_max_connections(
    config: *mut ns_config,
    count: u32,
) -> ns_status {
    unsafe { set(config, |c| Ok(c.max_connections(count))) }
}

/// Returns: the setting `max_connections`.
/// [any]
#[no_mangle]
pub unsafe extern "C" fn ns_config_max_connections(config: *const ns_config) -> u32 {
    unsafe { setting(config, |c| c.max_connections) }
}

/// Sets the length of the kernel's queue of connections that are not yet accepted:
/// 1 to 65535, default 4096. The kernel's own limit applies too.
///
/// Returns: 0, NS_ERR_INVALID or NS_ERR_STATE.
/// [setup]
#[no_mangle]
pub unsafe extern "C" fn ns_config_set_backlog(config: *mut ns_config, count: u32) -> ns_status {
    unsafe { set(config, |c| Ok(c.backlog(count))) }
}

/// Returns: the setting `backlog`.
/// [any]
#[no_mangle]
pub unsafe extern "C" fn ns_config_backlog(config: *const ns_config) -> u32 {
    unsafe { setting(config, |c| c.backlog) }
}

/// Sets how long a TLS handshake may take as a whole before the library ends it:
/// milliseconds, 0 to 2^31 - 1, default 10000. 0 is not off: handshakes time out.
///
/// Returns: 0, NS_ERR_INVALID or NS_ERR_STATE.
/// [setup]
#[no_mangle]
pub unsafe extern "C" fn ns_config_set_handshake_timeout_ms(
    config: *mut ns_config,
    time: u32,
) -> ns_status {
    unsafe { set(config, |c| Ok(c.handshake_timeout(ms(time)))) }
}

/// Returns: the setting `handshake_timeout`, in milliseconds.
/// [any]
#[no_mangle]
pub unsafe extern "C" fn ns_config_handshake_timeout_ms(config: *const ns_config) -> u32 {
    unsafe { setting(config, |c| in_ms(c.handshake_timeout)) }
}

/// Non-blocking mode: sets how many TLS handshakes may be in progress at the same
/// time; others wait. Default 1024; 0: no bound. Each loop has an equal part of it,
/// at least one. A client counts when its whole first record has come.
///
/// Returns: 0, NS_ERR_INVALID or NS_ERR_STATE.
/// [setup]
#[no_mangle]
pub unsafe extern "C" fn ns_config_set_max_handshakes(
    config: *mut ns_config,
    count: u32,
) -> ns_status {
    unsafe { set(config, |c| Ok(c.max_handshakes(count))) }
}

/// Returns: the setting `max_handshakes`.
/// [any]
#[no_mangle]
pub unsafe extern "C" fn ns_config_max_handshakes(config: *const ns_config) -> u32 {
    unsafe { setting(config, |c| c.max_handshakes) }
}

/// Sets how long a connection may be without a byte, or an acknowledgement, in
/// either direction before the library closes it: milliseconds, 1 to 2^31 - 1; 0
/// (default) is off. A worker checks it while its handler waits in a call: the call
/// returns NS_ERR_TIMEOUT, and the library closes the connection.
///
/// Returns: 0, NS_ERR_INVALID or NS_ERR_STATE.
/// [setup]
#[no_mangle]
pub unsafe extern "C" fn ns_config_set_idle_timeout_ms(
    config: *mut ns_config,
    time: u32,
) -> ns_status {
    unsafe { set(config, |c| Ok(c.idle_timeout(optional_ms(time)))) }
}

/// Returns: the setting `idle_timeout`, in milliseconds; 0 is off.
/// [any]
#[no_mangle]
pub unsafe extern "C" fn ns_config_idle_timeout_ms(config: *const ns_config) -> u32 {
    unsafe { setting(config, |c| in_ms(c.idle_timeout)) }
}

/// Sets how long a blocking `recv` or `send` may wait before it returns
/// NS_ERR_TIMEOUT: milliseconds, 1 to 2^31 - 1; 0 (default) is off.
///
/// Returns: 0, NS_ERR_INVALID or NS_ERR_STATE.
/// [setup]
#[no_mangle]
pub unsafe extern "C" fn ns_config_set_io_timeout_ms(
    config: *mut ns_config,
    time: u32,
) -> ns_status {
    unsafe { set(config, |c| Ok(c.io_timeout(optional_ms(time)))) }
}

/// Returns: the setting `io_timeout`, in milliseconds; 0 is off.
/// [any]
#[no_mangle]
pub unsafe extern "C" fn ns_config_io_timeout_ms(config: *const ns_config) -> u32 {
    unsafe { setting(config, |c| in_ms(c.io_timeout)) }
}

/// Sets how long the queued bytes of a connection may make no progress before the
/// library closes it: milliseconds, 1 to 2^31 - 1; 0 is off; default 30000. It is
/// progress when the kernel takes some of them, or the peer acknowledges some.
///
/// Returns: 0, NS_ERR_INVALID or NS_ERR_STATE.
/// [setup]
#[no_mangle]
pub unsafe extern "C" fn ns_config_set_write_timeout_ms(
    config: *mut ns_config,
    time: u32,
) -> ns_status {
    unsafe { set(config, |c| Ok(c.write_timeout(optional_ms(time)))) }
}

/// Returns: the setting `write_timeout`, in milliseconds; 0 is off.
/// [any]
#[no_mangle]
pub unsafe extern "C" fn ns_config_write_timeout_ms(config: *const ns_config) -> u32 {
    unsafe { setting(config, |c| in_ms(c.write_timeout)) }
}

/// Sets how long the library discards the input of a closed connection, until the
/// peer closes: milliseconds, 0 to 2^31 - 1, default 1000. In blocking mode it does
/// so only where input is unread or output is not acknowledged. For a connection of
/// a worker and for a detached one this also bounds how long the library goes on
/// sending what is unsent; on a loop `write_timeout` bounds that.
///
/// Returns: 0, NS_ERR_INVALID or NS_ERR_STATE.
/// [setup]
#[no_mangle]
pub unsafe extern "C" fn ns_config_set_linger_timeout_ms(
    config: *mut ns_config,
    time: u32,
) -> ns_status {
    unsafe { set(config, |c| Ok(c.linger_timeout(ms(time)))) }
}

/// Returns: the setting `linger_timeout`, in milliseconds.
/// [any]
#[no_mangle]
pub unsafe extern "C" fn ns_config_linger_timeout_ms(config: *const ns_config) -> u32 {
    unsafe { setting(config, |c| in_ms(c.linger_timeout)) }
}

/// Sets how long a stop lets handlers finish and bytes leave before it cuts what is
/// left: milliseconds, 0 to 2^31 - 1, default 5000.
///
/// Returns: 0, NS_ERR_INVALID or NS_ERR_STATE.
/// [setup]
#[no_mangle]
pub unsafe extern "C" fn ns_config_set_drain_timeout_ms(
    config: *mut ns_config,
    time: u32,
) -> ns_status {
    unsafe { set(config, |c| Ok(c.drain_timeout(ms(time)))) }
}

/// Returns: the setting `drain_timeout`, in milliseconds.
/// [any]
#[no_mangle]
pub unsafe extern "C" fn ns_config_drain_timeout_ms(config: *const ns_config) -> u32 {
    unsafe { setting(config, |c| in_ms(c.drain_timeout)) }
}

/// Sets the time of TCP keep-alive, which notices a peer that has vanished:
/// milliseconds, rounded up to seconds, 1 to 32767000; 0 is off; default 60000.
///
/// Returns: 0, NS_ERR_INVALID or NS_ERR_STATE.
/// [setup]
#[no_mangle]
pub unsafe extern "C" fn ns_config_set_keep_alive_ms(
    config: *mut ns_config,
    time: u32,
) -> ns_status {
    unsafe { set(config, |c| Ok(c.keep_alive(optional_ms(time)))) }
}

/// Returns: the setting `keep_alive`, in milliseconds; 0 is off.
/// [any]
#[no_mangle]
pub unsafe extern "C" fn ns_config_keep_alive_ms(config: *const ns_config) -> u32 {
    unsafe { setting(config, |c| in_ms(c.keep_alive)) }
}

/// Sets whether small pieces leave immediately (TCP_NODELAY): 1 (default) or 0.
///
/// Returns: 0, NS_ERR_INVALID or NS_ERR_STATE.
/// [setup]
#[no_mangle]
pub unsafe extern "C" fn ns_config_set_no_delay(config: *mut ns_config, value: i32) -> ns_status {
    unsafe { set(config, |c| Ok(c.no_delay(flag(value, "no_delay")?))) }
}

/// Returns: the setting `no_delay`, 0 or 1.
/// [any]
#[no_mangle]
pub unsafe extern "C" fn ns_config_no_delay(config: *const ns_config) -> i32 {
    unsafe { setting(config, |c| c.no_delay.into()) }
}

/// Non-blocking mode: sets the number of queued outbound bytes above which the
/// library stops reading a connection, until less than half of that is queued: 1
/// to `send_limit`, default 262144.
///
/// Returns: 0, NS_ERR_INVALID or NS_ERR_STATE.
/// [setup]
#[no_mangle]
pub unsafe extern "C" fn ns_config_set_high_water_mark(
    config: *mut ns_config,
    bytes: usize,
) -> ns_status {
    unsafe { set(config, |c| Ok(c.high_water_mark(bytes))) }
}

/// Returns: the setting `high_water_mark`, in bytes.
/// [any]
#[no_mangle]
pub unsafe extern "C" fn ns_config_high_water_mark(config: *const ns_config) -> usize {
    unsafe { setting(config, |c| c.high_water_mark) }
}

/// Non-blocking mode: sets the number of queued outbound bytes to which a queue has
/// shrunk when `on_drain` reports it: 0 (when it is empty) to `send_limit`, default
/// 0.
///
/// Returns: 0, NS_ERR_INVALID or NS_ERR_STATE.
/// [setup]
#[no_mangle]
pub unsafe extern "C" fn ns_config_set_low_water_mark(
    config: *mut ns_config,
    bytes: usize,
) -> ns_status {
    unsafe { set(config, |c| Ok(c.low_water_mark(bytes))) }
}

/// Returns: the setting `low_water_mark`, in bytes.
/// [any]
#[no_mangle]
pub unsafe extern "C" fn ns_config_low_water_mark(config: *const ns_config) -> usize {
    unsafe { setting(config, |c| c.low_water_mark) }
}

/// Non-blocking mode: sets how many bytes may be queued; a `send` that would pass
/// this returns NS_ERR_BUFFER_FULL: 1 to 2^31 - 1, default 16777216. Where it is less
/// than 262144, set `high_water_mark` too, which must not be more.
///
/// Returns: 0, NS_ERR_INVALID or NS_ERR_STATE.
/// [setup]
#[no_mangle]
pub unsafe extern "C" fn ns_config_set_send_limit(
    config: *mut ns_config,
    bytes: usize,
) -> ns_status {
    unsafe { set(config, |c| Ok(c.send_limit(bytes))) }
}

/// Returns: the setting `send_limit`, in bytes.
/// [any]
#[no_mangle]
pub unsafe extern "C" fn ns_config_send_limit(config: *const ns_config) -> usize {
    unsafe { setting(config, |c| c.send_limit) }
}

/// Sets the service on which a connection stops the server; "0" for any free
/// port. It has the form of the service of `ns_server_new`, but means loopback
/// unless it names a host. Copied. NULL (default): none.
///
/// Returns: 0, NS_ERR_INVALID or NS_ERR_STATE.
/// [setup]
#[no_mangle]
pub unsafe extern "C" fn ns_config_set_shutdown_port(
    config: *mut ns_config,
    service: *const c_char,
) -> ns_status {
    status(|| {
        unsafe { object(config, "config") }?.change(|inner| {
            if service.is_null() {
                inner.settings.shutdown_port = None;
                inner.shutdown_port = None;
                return Ok(());
            }
            let service = unsafe { text(service, "shutdown port") }?;
            inner.settings.shutdown_port = Some(service.to_string());
            inner.shutdown_port = CString::new(service).ok();
            Ok(())
        })
    })
}

/// Returns: the setting `shutdown_port`; NULL when unset. Borrowed: valid until it
/// is set again or the config is freed.
/// [any]
#[no_mangle]
pub unsafe extern "C" fn ns_config_shutdown_port(config: *const ns_config) -> *const c_char {
    unsafe {
        get(config, ptr::null(), |config| {
            lock(&config.inner).shutdown_port.as_ref().map_or(ptr::null(), |text| text.as_ptr())
        })
    }
}

/// Turns TLS on for every connection of the server's first service. The config
/// takes its own share of `tls`, which must have a certificate when
/// `ns_server_new` freezes it. `ns_server_add_service_tls` has the TLS of further
/// services.
///
/// Returns: 0, NS_ERR_INVALID (NULL), NS_ERR_UNSUPPORTED (a library built without
/// TLS) or NS_ERR_STATE. The first two failures are remembered like every failure of
/// a setter, so that a missing TLS object never means plain text.
/// [setup]
#[no_mangle]
pub unsafe extern "C" fn ns_config_set_tls(
    config: *mut ns_config,
    tls: *const ns_tls,
) -> ns_status {
    status(|| {
        let (config, tls) = unsafe { (object(config, "config")?, share(tls)) };
        config.change(|inner| {
            let tls = tls.ok_or_else(|| null("TLS object"))?;
            inner.settings.tls = tls.made().map(|config| Some(config.clone()))?;
            inner.tls = Some(tls);
            Ok(())
        })
    })
}

/// Turns TLS off (default): connections are plain text.
///
/// Returns: 0, NS_ERR_INVALID (NULL config) or NS_ERR_STATE.
/// [setup]
#[no_mangle]
pub unsafe extern "C" fn ns_config_clear_tls(config: *mut ns_config) -> ns_status {
    status(|| {
        unsafe { object(config, "config") }?.change(|inner| {
            inner.settings.tls = None;
            inner.tls = None;
            Ok(())
        })
    })
}
