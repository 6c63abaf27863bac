//! Resolves names to addresses with getaddrinfo(3), because the resolver of std
//! takes no service names.

use std::ffi::{CStr, CString};
use std::net::SocketAddr;
use std::ptr;

use socket2::SockAddr;

/// The stream addresses of a service (`"http"` or a number) on a host, or the
/// wildcard addresses where no host is given. `family` is `AF_INET`, `AF_INET6`
/// or `AF_UNSPEC`. The error is getaddrinfo's reason.
pub(crate) fn resolve(
    host: Option<&str>,
    service: &str,
    family: i32,
) -> Result<Vec<SocketAddr>, String> {
    let text = |s: &str| CString::new(s).map_err(|_| "it has a NUL byte".to_string());
    let host = host.map(text).transpose()?;
    let service = text(service)?;
    // SAFETY: addrinfo is plain data for which all zeros is valid.
    let mut hints: libc::addrinfo = unsafe { std::mem::zeroed() };
    hints.ai_family = family;
    hints.ai_socktype = libc::SOCK_STREAM;
    hints.ai_flags = libc::AI_PASSIVE;
    let mut list = ptr::null_mut();
    // SAFETY: the strings end in NUL; the hints and the result are valid.
    let code = unsafe {
        let host = host.as_ref().map_or(ptr::null(), |h| h.as_ptr());
        libc::getaddrinfo(host, service.as_ptr(), &hints, &mut list)
    };
    if code != 0 {
        // SAFETY: gai_strerror returns a static string that ends in NUL.
        let reason = unsafe { CStr::from_ptr(libc::gai_strerror(code)) };
        return Err(reason.to_string_lossy().into_owned());
    }
    let mut addresses = Vec::new();
    let mut entry = list;
    while !entry.is_null() {
        // SAFETY: getaddrinfo made this list; each entry holds an address of
        // `ai_addrlen` bytes.
        let address = unsafe {
            let info = &*entry;
            entry = info.ai_next;
            SockAddr::try_init(|storage, length| {
                ptr::copy_nonoverlapping(
                    info.ai_addr.cast::<u8>(),
                    storage.cast::<u8>(),
                    info.ai_addrlen as usize,
                );
                *length = info.ai_addrlen;
                Ok(())
            })
        };
        if let Some(address) = address.ok().and_then(|(_, a)| a.as_socket()) {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
    }
    // SAFETY: getaddrinfo made this list, and it is freed once.
    unsafe { libc::freeaddrinfo(list) };
    Ok(addresses)
}
