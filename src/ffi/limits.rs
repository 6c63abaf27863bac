//! The limits of each address, and of all queues together, as settings of a config.

// SAFETY of the blocks without a comment: the caller's contract, see `mod.rs`.
#![allow(clippy::undocumented_unsafe_blocks)]

use super::config::ns_config;
use super::error::ns_status;
use super::settings::{set, setting};

/// Sets how many connections one address may have open, those that wait for a
/// worker included; 0 (default) is no bound. The server closes a further one
/// immediately, by a reset and before TLS: it has no callback, `ns_stats.closed`
/// counts it under NS_CLOSE_LIMIT, and the exception handler gets NS_ERR_LIMIT
/// without a socket, at most once a second, with the number of the refused in its
/// message.
///
/// One address is all that shares a prefix (`ns_config_set_ipv4_prefix`,
/// `ns_config_set_ipv6_prefix`); the server has one count over all its threads and
/// services. A client of a unix socket does not count, nor does an adopted,
/// outgoing or attached connection, nor a detached one from its detach on.
///
/// Returns: 0, NS_ERR_INVALID or NS_ERR_STATE.
/// [setup]
#[no_mangle]
pub unsafe extern "C" fn ns_config_set_max_per_address(
    config: *mut ns_config,
    count: u32,
) -> ns_status {
    unsafe { set(config, |c| Ok(c.max_per_address(count))) }
}

/// Returns: the setting `max_per_address`.
/// [any]
#[no_mangle]
pub unsafe extern "C" fn ns_config_max_per_address(config: *const ns_config) -> u32 {
    unsafe { setting(config, |c| c.max_per_address) }
}

/// Sets how many connections one address may open in a second, on average; 0
/// (default) is no bound. A further one is refused as by `max_per_address`. A
/// connection that is refused, by whichever limit, does not count. The server
/// keeps the rates of 65536 addresses and forgets those that were used least.
///
/// Returns: 0, NS_ERR_INVALID or NS_ERR_STATE.
/// [setup]
#[no_mangle]
pub unsafe extern "C" fn ns_config_set_accept_rate_per_address(
    config: *mut ns_config,
    per_second: u32,
) -> ns_status {
    unsafe { set(config, |c| Ok(c.accept_rate_per_address(per_second))) }
}

/// Returns: the setting `accept_rate_per_address`, in connections a second.
/// [any]
#[no_mangle]
pub unsafe extern "C" fn ns_config_accept_rate_per_address(config: *const ns_config) -> u32 {
    unsafe { setting(config, |c| c.accept_rate_per_address) }
}

/// Sets how many connections one address may open at once where it has opened none
/// for long enough; 0 (default): as many as `accept_rate_per_address`.
///
/// Returns: 0, NS_ERR_INVALID or NS_ERR_STATE.
/// [setup]
#[no_mangle]
pub unsafe extern "C" fn ns_config_set_accept_burst_per_address(
    config: *mut ns_config,
    count: u32,
) -> ns_status {
    unsafe { set(config, |c| Ok(c.accept_burst_per_address(count))) }
}

/// Returns: the setting `accept_burst_per_address`.
/// [any]
#[no_mangle]
pub unsafe extern "C" fn ns_config_accept_burst_per_address(config: *const ns_config) -> u32 {
    unsafe { setting(config, |c| c.accept_burst_per_address) }
}

/// Sets how many bits of an IPv4 address make one address for the limits above: 1
/// to 32, default 32.
///
/// Returns: 0, NS_ERR_INVALID or NS_ERR_STATE.
/// [setup]
#[no_mangle]
pub unsafe extern "C" fn ns_config_set_ipv4_prefix(config: *mut ns_config, bits: u32) -> ns_status {
    unsafe { set(config, |c| Ok(c.ipv4_prefix(bits))) }
}

/// Returns: the setting `ipv4_prefix`, in bits.
/// [any]
#[no_mangle]
pub unsafe extern "C" fn ns_config_ipv4_prefix(config: *const ns_config) -> u32 {
    unsafe { setting(config, |c| c.ipv4_prefix) }
}

/// Sets how many bits of an IPv6 address make one address for the limits above: 1
/// to 128, default 64, which is the least that a site has (RFC 6177).
///
/// Returns: 0, NS_ERR_INVALID or NS_ERR_STATE.
/// [setup]
#[no_mangle]
pub unsafe extern "C" fn ns_config_set_ipv6_prefix(config: *mut ns_config, bits: u32) -> ns_status {
    unsafe { set(config, |c| Ok(c.ipv6_prefix(bits))) }
}

/// Returns: the setting `ipv6_prefix`, in bits.
/// [any]
#[no_mangle]
pub unsafe extern "C" fn ns_config_ipv6_prefix(config: *const ns_config) -> u32 {
    unsafe { setting(config, |c| c.ipv6_prefix) }
}

/// Non-blocking mode: sets how many bytes may be queued for all connections of the
/// server together, those included that were sent by id and wait for their loop; 0
/// (default) is no bound. Beyond it a send, also by id, is NS_ERR_BUFFER_FULL and
/// nothing of it is sent.
///
/// In a callback of its connection, up to 65536 bytes for a connection that has
/// nothing queued are sent at any total, if the kernel takes bytes at that moment:
/// so a peer that reads is served although others do not. The same is true by id, in
/// other callbacks of its loop. What the kernel leaves of them is queued, beyond the
/// bound; a large message of each loop and an attached queue may pass it too.
///
/// After a refusal `on_drain` tells when the connection's own queue has left; where
/// it has none, try again after a while, as with `ns_socket_set_timer_ms`.
///
/// Returns: 0, NS_ERR_INVALID or NS_ERR_STATE.
/// [setup]
#[no_mangle]
pub unsafe extern "C" fn ns_config_set_send_limit_total(
    config: *mut ns_config,
    bytes: usize,
) -> ns_status {
    unsafe { set(config, |c| Ok(c.send_limit_total(bytes))) }
}

/// Returns: the setting `send_limit_total`, in bytes.
/// [any]
#[no_mangle]
pub unsafe extern "C" fn ns_config_send_limit_total(config: *const ns_config) -> usize {
    unsafe { setting(config, |c| c.send_limit_total) }
}
