//! Failures of the transport. The kernel reports each of them once.

#![forbid(unsafe_code)]

use socket2::SockRef;

use super::{Conn, Flags};
use crate::error::{CloseReason, Status};

impl Conn {
    /// Notes that receiving failed with this error, after the last input was
    /// read. Returns the status of the error.
    pub fn fail(&mut self, error: &std::io::Error) -> Status {
        self.break_off(error.raw_os_error().unwrap_or(0));
        Status::of_transfer(error)
    }

    pub(super) fn break_off(&mut self, os_error: i32) {
        self.os_error = os_error;
        self.set(Flags::BROKEN);
        if !self.has(Flags::CLOSE | Flags::ABORT) {
            self.reason = CloseReason::Reset;
        }
    }

    /// Notes that sending failed with this error, and returns its status. The
    /// queued bytes are lost. Received input is not: the handler reads it
    /// first, and then gets the error.
    pub fn fail_send(&mut self, error: &std::io::Error) -> Status {
        if !self.has(Flags::SEND_FAILED) {
            self.os_error = error.raw_os_error().unwrap_or(0);
            self.set(Flags::SEND_FAILED | Flags::READY | Flags::SPECIAL | Flags::CALL_AGAIN);
            self.context.ids.shut_sending(self.id);
        }
        self.drop_queue();
        self.clear(Flags::THROTTLED | Flags::DRAINED);
        Status::of_transfer(error)
    }

    /// Breaks the connection off with the failure of a send, now that all input was
    /// read, and returns its status: no event need come, as after ENOMEM.
    pub(super) fn cut_off(&mut self) -> Status {
        self.break_off(self.os_error);
        self.send_failure()
    }

    /// Returns the status of a send after sending has failed.
    pub(super) fn send_failure(&self) -> Status {
        Status::of_transfer(&std::io::Error::from_raw_os_error(self.os_error))
    }

    /// Notes the error that an event reported. The kernel reports it only once.
    pub fn note_error(&mut self) {
        let error = self.fd().and_then(|fd| SockRef::from(&fd).take_error().ok().flatten());
        if let Some(error) = error {
            self.fail_send(&error);
        }
    }
}
