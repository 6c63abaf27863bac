//! `ns_tls`: the certificate of the tests, whichever a configuration of the Rust API has.

use net_server::ffi::*;
use std::ptr::{null, null_mut};

const CHAIN: &[u8] = include_bytes!("../../data/server.pem");
const KEY: &[u8] = include_bytes!("../../data/server-key.pem");

/// Lends a TLS object to a call.
pub fn with_tls<T>(call: impl FnOnce(*const ns_tls) -> T) -> T {
    // SAFETY: the object was just made; the buffers are given with their lengths.
    let tls = unsafe {
        let tls = ns_tls_new();
        let (chain, key) = (CHAIN.as_ptr().cast(), KEY.as_ptr().cast());
        let code = ns_tls_add_cert_pem(tls, null(), chain, CHAIN.len(), key, KEY.len(), null_mut());
        assert_eq!(code, 0, "the certificate of the tests");
        tls
    };
    let result = call(tls);
    // SAFETY: ours, and not used any more.
    unsafe { ns_tls_free(tls) };
    result
}
