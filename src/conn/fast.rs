//! The fast paths, which `recv` and `send` take in nearly every call: on a
//! loop, without TLS and with nothing else under way. A new state of a
//! connection must either not matter here, or be in the masks that decide
//! (`flags.rs`).

#![forbid(unsafe_code)]

use std::io;

use super::{Conn, Flags};
use crate::error::Status;
use crate::sys::{self, Errno, RecvFlags, SendFlags};

/// The kernel's result of a call that left the fast path: a count or a negative
/// `errno`, as a plain number that stays in a register.
#[repr(transparent)]
pub(crate) struct RawResult(isize);

impl RawResult {
    const CLOSED: RawResult = RawResult(-(libc::EBADF as isize));

    #[inline(always)]
    fn of(result: Result<usize, Errno>) -> RawResult {
        match result {
            Ok(n) => RawResult(n as isize),
            Err(errno) => RawResult(-(errno.raw_os_error() as isize)),
        }
    }

    /// Returns `None` for `EINTR`: the caller must repeat the call.
    pub fn result(self) -> Option<io::Result<usize>> {
        const INTERRUPTED: isize = -(libc::EINTR as isize);
        match self.0 {
            INTERRUPTED => None,
            n if n >= 0 => Some(Ok(n as usize)),
            n => Some(Err(io::Error::from_raw_os_error(-n as i32))),
        }
    }
}

impl Conn {
    /// Returns the number of bytes received, 0 at the end of the stream, or a
    /// status. The program makes this call, so it includes [`Conn::check_usable`].
    #[inline]
    pub fn recv(&mut self, buf: &mut [u8]) -> Result<usize, Status> {
        if !self.can_recv_fast() || buf.is_empty() {
            return self.recv_any(buf);
        }
        self.recv_fast(buf).or_else(|raw| self.recv_slow(raw, buf))
    }

    /// Returns whether `recv` may take the fast path: on a loop, without TLS,
    /// and where there is input.
    #[inline(always)]
    pub fn can_recv_fast(&self) -> bool {
        self.flags & Flags::RECV_STATE == Flags::LOOP_CALL | Flags::READY
    }

    /// Receives, where [`Conn::can_recv_fast`] returns true. The call succeeds
    /// if it gets at least one byte and all of the input; any other result goes
    /// to [`Conn::recv_slow`].
    #[inline(always)]
    pub fn recv_fast(&mut self, buf: &mut [u8]) -> Result<usize, RawResult> {
        let Some(fd) = self.fd() else { return Err(RawResult::CLOSED) };
        match sys::recv_once(fd, buf, RecvFlags::empty()) {
            // The read has used up the input; later input makes a new event.
            Ok(n) if n > 0 && n < buf.len() => {
                self.clear(Flags::READY | Flags::CALL_AGAIN);
                self.context.counters.bytes_in.add(n as u64);
                Ok(n)
            }
            result => Err(RawResult::of(result)),
        }
    }

    /// Returns whether the next `recv` will report that nothing can be read
    /// now: on a loop, after a short read.
    #[cfg(feature = "capi")]
    #[inline(always)]
    pub fn is_input_used_up(&self) -> bool {
        self.flags & Flags::RECV_STATE == Flags::LOOP_CALL
    }

    /// Sends all of `buf` or nothing; the bytes that the kernel does not take
    /// are queued. The program makes this call, so it includes
    /// [`Conn::check_usable`].
    #[inline]
    pub fn send(&mut self, buf: &[u8]) -> Result<(), Status> {
        if !self.can_send_fast(buf.len()) {
            return self.send_any(buf);
        }
        self.send_fast(buf).or_else(|raw| self.send_slow(raw, buf))
    }

    /// Returns whether `send` may take the fast path: on a loop, without TLS,
    /// where nothing is queued before it, and the callback has sent nothing else.
    #[inline(always)]
    pub fn can_send_fast(&self, len: usize) -> bool {
        self.flags & Flags::SEND_STATE == Flags::LOOP_CALL
            && (1..=self.context.ids.direct()).contains(&len)
    }

    /// Sends all of `buf`, where [`Conn::can_send_fast`] returns true; any
    /// other result goes to [`Conn::send_slow`].
    #[inline(always)]
    pub fn send_fast(&mut self, buf: &[u8]) -> Result<(), RawResult> {
        let Some(fd) = self.fd() else { return Err(RawResult::CLOSED) };
        match sys::send_once(fd, buf, SendFlags::empty()) {
            Ok(n) if n == buf.len() => {
                self.context.counters.bytes_out.add(n as u64);
                self.set(Flags::SENT);
                Ok(())
            }
            result => Err(RawResult::of(result)),
        }
    }

    /// Returns whether an input event needs no more than a call of the handler.
    #[inline(always)]
    pub fn takes_fast_event(&self) -> bool {
        !self.has(Flags::SLOW_EVENT)
    }

    /// Returns whether the callback has left nothing to do for the loop.
    #[inline]
    pub fn is_settled(&self) -> bool {
        !self.has(Flags::UNSETTLED)
    }
}
