//! The version and the features of the library.

// SAFETY of the blocks without a comment: the caller's contract, see `mod.rs`.
#![allow(clippy::undocumented_unsafe_blocks)]

use std::ffi::{c_char, CStr};

use super::support::{guard, text};

const fn number(digits: &str) -> u32 {
    match u32::from_str_radix(digits, 10) {
        Ok(number) => number,
        Err(_) => panic!("not a number"),
    }
}

/// Returns: the version of the library in use, `"MAJOR.MINOR.PATCH"`. The text is
/// static.
/// [any]
#[no_mangle]
pub extern "C" fn ns_version_string() -> *const c_char {
    const TEXT: &str = concat!(env!("CARGO_PKG_VERSION"), "\0");
    TEXT.as_ptr().cast()
}

/// Returns: the version of the library in use as a number, 0xMMmmpp; compare it
/// with `NS_VERSION_NUMBER`, the header's.
/// [any]
#[no_mangle]
pub extern "C" fn ns_version_number() -> u32 {
    number(env!("CARGO_PKG_VERSION_MAJOR")) << 16
        | number(env!("CARGO_PKG_VERSION_MINOR")) << 8
        | number(env!("CARGO_PKG_VERSION_PATCH"))
}

/// Whether the library in use has a feature. The names are "blocking",
/// "non-blocking", "detach", "attach", "ipv6", "shutdown-port", "tls", "services",
/// "unix", "systemd", "hosted", "watch", "adopt", "logger", "metrics", "limits",
/// "proxy", "quiesce", "ticket-keys". A library built without TLS has neither "tls"
/// nor "ticket-keys".
///
/// Returns: 1 or 0; 0 for NULL and for other names.
/// [any]
#[no_mangle]
pub unsafe extern "C" fn ns_has_feature(name: *const c_char) -> i32 {
    const FEATURES: &[&str] = &[
        "blocking",
        "non-blocking",
        "detach",
        "attach",
        "ipv6",
        "shutdown-port",
        "services",
        "unix",
        "systemd",
        "hosted",
        "watch",
        "adopt",
        "logger",
        "metrics",
        "limits",
        "proxy",
        "quiesce",
    ];
    const OF_TLS: &[&str] = &["tls", "ticket-keys"];
    let name = unsafe { text(name, "name") };
    let has = |name| FEATURES.contains(&name) || (cfg!(feature = "tls") && OF_TLS.contains(&name));
    guard(0, || name.is_ok_and(has).into())
}

const _: () =
    assert!(CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()).is_ok());

/// Keeps panics of the library off the host's stderr. Only the shared and the
/// static library do this: they have a standard library of their own, and so a
/// hook of their own. In a Rust program that uses the crate, the hook is the
/// program's.
pub(super) fn silence_panics() {
    #[cfg(feature = "silent-panics")]
    {
        static ONCE: std::sync::Once = std::sync::Once::new();
        ONCE.call_once(|| std::panic::set_hook(Box::new(|_| ())));
    }
}
