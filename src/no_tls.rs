//! What stands in for `tls` in a build without the feature of that name: the
//! same names, whose values cannot be made. So the code that uses TLS compiles
//! in both builds, and is never reached in this one.

#![forbid(unsafe_code)]
// Nothing makes a value, and few of the functions have a caller without the C ABI.
#![allow(dead_code)]

#[path = "tls/terms.rs"]
mod terms;

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use crate::clock::Deadline;
use crate::error::{Error, Status};

pub use terms::*;

/// The configuration of a handshake.
pub(crate) enum ServerConfig {}

/// The settings.
#[derive(Clone, Debug)]
pub enum TlsConfig {}

#[allow(missing_docs)]
impl TlsConfig {
    pub(crate) fn if_built_in() -> Result<TlsConfig, Error> {
        Err(Error::new(Status::Unsupported, "this build of the library has no TLS"))
    }

    pub(crate) fn add_cert_file(
        &self,
        _: Option<&str>,
        _: impl AsRef<Path>,
        _: impl AsRef<Path>,
    ) -> Result<(), Error> {
        match *self {}
    }

    pub(crate) fn add_cert_pem(&self, _: Option<&str>, _: &[u8], _: &[u8]) -> Result<(), Error> {
        match *self {}
    }

    pub(crate) fn add_cert_der(&self, _: Option<&str>, _: &[&[u8]], _: &[u8]) -> Result<(), Error> {
        match *self {}
    }

    pub(crate) fn set_client_ca_file(&self, _: impl AsRef<Path>, _: bool) -> Result<(), Error> {
        match *self {}
    }

    pub(crate) fn set_client_ca_pem(&self, _: &[u8], _: bool) -> Result<(), Error> {
        match *self {}
    }

    pub(crate) fn set_alpn(&self, _: &[&[u8]]) -> Result<(), Error> {
        match *self {}
    }

    pub(crate) fn set_min_version(&self, _: TlsVersion) -> Result<(), Error> {
        match *self {}
    }

    pub(crate) fn set_tickets(&self, _: bool) -> Result<(), Error> {
        match *self {}
    }

    pub(crate) fn set_ticket_keys(&self, _: &[u8]) -> Result<(), Error> {
        match *self {}
    }

    pub(crate) fn set_session_cache(&self, _: usize) -> Result<(), Error> {
        match *self {}
    }

    pub(crate) fn check_unused(&self) -> Result<(), Error> {
        match *self {}
    }

    pub(crate) fn server_config(&self) -> Result<Arc<ServerConfig>, Error> {
        match *self {}
    }
}

/// A session. The fields are those that connections and loops use.
pub(crate) struct Session {
    none: ServerConfig,
    pub held: Vec<u8>,
    pub wake_pending: bool,
    pub heard_at: u64,
    pub deadline: Deadline,
}

impl Session {
    pub fn new(config: Arc<ServerConfig>, _: Deadline) -> Result<Session, Error> {
        match *config {}
    }

    pub fn is_handshaking(&self) -> bool {
        match self.none {}
    }

    pub fn feed(&mut self, _: &[u8]) {
        match self.none {}
    }

    pub fn fail(&mut self, _: Error) {
        match self.none {}
    }

    pub fn error(&self) -> Option<&Error> {
        match self.none {}
    }

    pub fn take_error(&mut self) -> Option<Error> {
        match self.none {}
    }

    pub fn read(&mut self, _: &mut [u8]) -> Result<Plain, Status> {
        match self.none {}
    }

    pub fn has_plain(&mut self) -> bool {
        match self.none {}
    }

    pub fn write(&mut self, _: &[u8]) -> Result<(), Error> {
        match self.none {}
    }

    pub fn send_close_notify(&mut self) {
        match self.none {}
    }

    pub fn write_to(&mut self, _: &mut dyn Write) {
        match self.none {}
    }

    pub fn info(&self) -> Option<TlsInfo> {
        match self.none {}
    }
}
