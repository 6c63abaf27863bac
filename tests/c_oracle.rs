//! The oracle against the C ABI.

// The suite needs more of it.
#[path = "support/c_backend/mod.rs"]
#[allow(dead_code, unused_imports)]
mod api;
#[path = "oracle/mod.rs"]
mod oracle;
#[path = "support/mod.rs"]
mod support;

const API: &str = "C ABI";

/// STARTTLS with the certificate of the tests.
mod starttls {
    use crate::api::tls::with_tls;
    use crate::api::{Error, Socket, Status};
    use net_server::ffi::ns_socket_starttls;

    pub fn begin(socket: &mut Socket<'_>, ahead: &[u8]) -> Result<(), Error> {
        // SAFETY: the socket is the callback's, the object lives through the call.
        let code = with_tls(|tls| unsafe {
            ns_socket_starttls(socket.raw(), tls, ahead.as_ptr().cast(), ahead.len())
        });
        match Status::from_code(code) {
            Some(Status::Ok) => Ok(()),
            status => Err(Error::new(status.expect("a status"), "starttls")),
        }
    }
}
