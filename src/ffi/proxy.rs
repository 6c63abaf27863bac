//! The PROXY protocol: who may send a header, and what one announced.

// SAFETY of the blocks without a comment: the caller's contract, see `mod.rs`.
#![allow(clippy::undocumented_unsafe_blocks)]

use std::ffi::{c_char, c_void};

use super::addresses::give_address;
use super::config::ns_config;
use super::error::{ns_error, ns_status};
use super::handles::{ns_socket, object, server_of, usable_conn};
use super::server::ns_server;
use super::settings::{in_ms, ms, set, setting};
use super::support::{counted, flag, give_bytes, give_text, guard, text, with_err};
use crate::sync::lock;
use crate::{Error, ProxyProtocol, Status};

/// Version 1 of the PROXY protocol: a line of text.
pub const NS_PROXY_V1: i32 = 1;
/// Version 2: a binary header, which may have extras.
pub const NS_PROXY_V2: i32 = 2;

/// An extra of a PROXY header: the protocol above (ALPN).
pub const NS_PROXY_TLV_ALPN: i32 = 0x01;
/// The name that the client asked for (SNI), in UTF-8.
pub const NS_PROXY_TLV_AUTHORITY: i32 = 0x02;
/// The connection's unique id: at most 128 bytes.
pub const NS_PROXY_TLV_UNIQUE_ID: i32 = 0x05;
/// The client's TLS, in a structure of its own with extras of its own.
pub const NS_PROXY_TLV_SSL: i32 = 0x20;
/// The name of the network namespace.
pub const NS_PROXY_TLV_NETNS: i32 = 0x30;

/// The versions that a number has as its bits.
fn versions_of(versions: i32) -> Result<ProxyProtocol, Error> {
    match versions {
        0 => Ok(ProxyProtocol::Off),
        NS_PROXY_V1 => Ok(ProxyProtocol::V1),
        NS_PROXY_V2 => Ok(ProxyProtocol::V2),
        3 => Ok(ProxyProtocol::Both),
        _ => {
            let text = format!("the versions of the PROXY protocol are 0 to 3, not {versions}");
            Err(Error::new(Status::Invalid, text))
        }
    }
}

/// Sets which versions of the PROXY protocol every service accepts: NS_PROXY_V1,
/// NS_PROXY_V2, both (1 | 2), or 0 (default). `ns_server_set_service_proxy` changes
/// it for one service; the shutdown port never has it, nor have adopted and outgoing
/// connections.
///
/// Nothing is detected, as the protocol demands
/// (<https://www.haproxy.org/download/2.9/doc/proxy-protocol.txt>): a trusted source
/// (`ns_config_add_trusted_proxy`) must send a header, before TLS and within
/// `proxy_timeout`; any other source is refused, or let in without a look at its
/// bytes (`ns_config_set_proxy_others`). Without a trusted source `ns_server_new`
/// fails.
///
/// From `on_open` on the addresses of the connection are those that the header
/// announced, also after STARTTLS and a detach; LOCAL, UNKNOWN and AF_UNSPEC keep the
/// real ones. A source that is refused, and a header that is bad, longer than 4096
/// bytes, of datagrams, incomplete or late, end the connection without a byte to the
/// peer: the exception handler gets NS_ERR_PROXY, the connection counts as
/// NS_CLOSE_PROXY, and no other callback runs.
///
/// Returns: 0, NS_ERR_INVALID or NS_ERR_STATE.
/// [setup]
#[no_mangle]
pub unsafe extern "C" fn ns_config_set_proxy_protocol(
    config: *mut ns_config,
    versions: i32,
) -> ns_status {
    unsafe { set(config, |c| Ok(c.proxy_protocol(versions_of(versions)?))) }
}

/// Returns: the setting `proxy_protocol`, 0 to 3.
/// [any]
#[no_mangle]
pub unsafe extern "C" fn ns_config_proxy_protocol(config: *const ns_config) -> i32 {
    unsafe {
        setting(config, |c| match c.proxy_protocol {
            ProxyProtocol::Off => 0,
            ProxyProtocol::V1 => NS_PROXY_V1,
            ProxyProtocol::V2 => NS_PROXY_V2,
            ProxyProtocol::Both => NS_PROXY_V1 | NS_PROXY_V2,
        })
    }
}

/// Adds a source whose PROXY headers are believed: an address or a network
/// ("192.0.2.1", "10.0.0.0/8", "::1", "2001:db8::/32"), or "unix" for all peers of
/// unix sockets. Copied. The default is none.
///
/// Returns: 0, NS_ERR_INVALID (also for a network whose address has bits beyond its
/// prefix) or NS_ERR_STATE.
/// [setup]
#[no_mangle]
pub unsafe extern "C" fn ns_config_add_trusted_proxy(
    config: *mut ns_config,
    network: *const c_char,
) -> ns_status {
    unsafe { set(config, |c| Ok(c.add_trusted_proxy(text(network, "trusted proxy")?))) }
}

/// Writes the trusted sources as they were added, with ", " between them; "" for
/// none. It writes as `snprintf` does: at most `len` bytes with the final NUL.
///
/// Returns: the length of the whole text without the NUL.
/// [any]
#[no_mangle]
pub unsafe extern "C" fn ns_config_trusted_proxies(
    config: *const ns_config,
    buf: *mut c_char,
    len: usize,
) -> usize {
    guard(0, || {
        let list = |config: &ns_config| lock(&config.inner).settings.trusted_proxies.join(", ");
        let text = unsafe { object(config, "config") }.map(list).unwrap_or_default();
        unsafe { give_text(&text, buf, len) }
    })
}

/// Sets the time that a whole PROXY header may take: milliseconds, 0 to 2^31 - 1,
/// default 3000. That of a TLS handshake begins after it.
///
/// Returns: 0, NS_ERR_INVALID or NS_ERR_STATE.
/// [setup]
#[no_mangle]
pub unsafe extern "C" fn ns_config_set_proxy_timeout_ms(
    config: *mut ns_config,
    time: u32,
) -> ns_status {
    unsafe { set(config, |c| Ok(c.proxy_timeout(ms(time)))) }
}

/// Returns: the setting `proxy_timeout`, in milliseconds.
/// [any]
#[no_mangle]
pub unsafe extern "C" fn ns_config_proxy_timeout_ms(config: *const ns_config) -> u32 {
    unsafe { setting(config, |c| in_ms(c.proxy_timeout)) }
}

/// Sets whether a service with the PROXY protocol serves a source that is not
/// trusted as an ordinary client, whose bytes are not looked at: 1, or 0 (default)
/// to refuse it.
///
/// Returns: 0, NS_ERR_INVALID or NS_ERR_STATE.
/// [setup]
#[no_mangle]
pub unsafe extern "C" fn ns_config_set_proxy_others(
    config: *mut ns_config,
    value: i32,
) -> ns_status {
    unsafe { set(config, |c| Ok(c.proxy_others(flag(value, "proxy_others")?))) }
}

/// Returns: the setting `proxy_others`, 0 or 1.
/// [any]
#[no_mangle]
pub unsafe extern "C" fn ns_config_proxy_others(config: *const ns_config) -> i32 {
    unsafe { setting(config, |c| c.proxy_others.into()) }
}

/// Sets which versions of the PROXY protocol one service accepts, in place of those
/// of `ns_config_set_proxy_protocol`; 0 for none: a port for health checks takes none.
/// `service` is 0 for that of `ns_server_new`, else what `ns_server_add_service`
/// returned. `err`: see RESULTS.
///
/// Returns: 0, NS_ERR_INVALID (also where no proxy is trusted) or NS_ERR_STATE (the
/// server has been started).
/// [setup]
#[no_mangle]
pub unsafe extern "C" fn ns_server_set_service_proxy(
    server: *mut ns_server,
    service: u32,
    versions: i32,
    err: *mut *mut ns_error,
) -> ns_status {
    let body = || {
        let server = unsafe { server_of(server) }?;
        server.server.set_service_proxy(service as usize, versions_of(versions)?)?;
        Ok(Status::Ok.code())
    };
    unsafe { with_err(err, Status::code, body) }
}

/// Writes the address that the connection itself comes from, as `ns_socket_peer`
/// does: behind a PROXY header that of the proxy.
///
/// Returns: the length of the whole text without the NUL.
/// [handler]
#[no_mangle]
pub unsafe extern "C" fn ns_socket_transport_peer(
    socket: *const ns_socket,
    buf: *mut c_char,
    len: usize,
) -> usize {
    unsafe { give_address(socket, buf, len, |s| s.transport_peer_name()) }
}

/// Writes the value of the first extra (TLV) of this type in the PROXY header, at
/// most `len` bytes of it. `kind` is an NS_PROXY_TLV_... or another of 0 to 255;
/// section 2.2 of the protocol's specification has the formats. Version 1 has no
/// extras, and those of a connection of the proxy's own (LOCAL) are ignored.
///
/// Returns: the length of the whole value; NS_ERR_STATE where there is none,
/// NS_ERR_INVALID, NS_ERR_DETACHED or NS_ERR_NOT_IN_HANDLER.
/// [handler]
#[no_mangle]
pub unsafe extern "C" fn ns_socket_proxy_tlv(
    socket: *const ns_socket,
    kind: i32,
    buf: *mut c_void,
    len: usize,
) -> i64 {
    counted(|| {
        let conn = unsafe { usable_conn(socket) }?;
        let kind = u8::try_from(kind).map_err(|_| Status::Invalid)?;
        let value = conn.proxy_tlv(kind).ok_or(Status::State)?;
        Ok::<_, Status>(unsafe { give_bytes(value, buf, len) })
    })
}
