//! The fast paths: what `recv` and `send` do in nearly every call, on a loop, in
//! the clear and with nothing else under way. A new state of a connection must
//! either not matter here, or be among the masks that decide (`flag.rs`).

#![forbid(unsafe_code)]

use std::io;

use super::{flag, Conn};
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

    /// `None` for `EINTR`: the kernel is to be asked again.
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
    /// Bytes received, 0 at end of stream, or why not. The program's call:
    /// [`Conn::usable`] is part of it.
    #[inline]
    pub fn recv(&mut self, buf: &mut [u8]) -> Result<usize, Status> {
        if !self.can_recv_fast() || buf.is_empty() {
            return self.recv_any(buf);
        }
        self.recv_fast(buf).or_else(|raw| self.recv_slow(raw, buf))
    }

    /// Whether `recv` may take the fast path: on a loop, in the clear, and input is
    /// there.
    #[inline(always)]
    pub fn can_recv_fast(&self) -> bool {
        self.flags & flag::RECV_STATE == flag::LOOP_CALL | flag::READY
    }

    /// Receives, where [`Conn::can_recv_fast`], all there is and more than
    /// nothing; any other result is for [`Conn::recv_slow`].
    #[inline(always)]
    pub fn recv_fast(&mut self, buf: &mut [u8]) -> Result<usize, RawResult> {
        let Some(fd) = self.fd() else { return Err(RawResult::CLOSED) };
        match sys::recv_once(fd, buf, RecvFlags::empty()) {
            // It used the input up, and what arrives later makes a new event.
            Ok(n) if n > 0 && n < buf.len() => {
                self.clear(flag::READY | flag::CALL_AGAIN);
                self.context.counters.bytes_in.add(n as u64);
                Ok(n)
            }
            result => Err(RawResult::of(result)),
        }
    }

    /// The next `recv` will say that nothing more can be read now: on a loop,
    /// after a short read.
    #[cfg(feature = "capi")]
    #[inline(always)]
    pub fn is_drained(&self) -> bool {
        self.flags & flag::RECV_STATE == flag::LOOP_CALL
    }

    /// Sends all of it or nothing; what the kernel does not take is queued.
    /// The program's call: [`Conn::usable`] is part of it.
    #[inline]
    pub fn send(&mut self, buf: &[u8]) -> Result<(), Status> {
        if !self.can_send_fast(buf.len()) {
            return self.send_any(buf);
        }
        self.send_fast(buf).or_else(|raw| self.send_slow(raw, buf))
    }

    /// Whether `send` may take the fast path: on a loop, in the clear, and nothing
    /// is queued before it.
    #[inline(always)]
    pub fn can_send_fast(&self, len: usize) -> bool {
        self.flags & flag::SEND_STATE == flag::LOOP_CALL
            && (1..=self.context.ids.direct()).contains(&len)
    }

    /// Sends all of it, where [`Conn::can_send_fast`]; any other result is for
    /// [`Conn::send_slow`].
    #[inline(always)]
    pub fn send_fast(&mut self, buf: &[u8]) -> Result<(), RawResult> {
        let Some(fd) = self.fd() else { return Err(RawResult::CLOSED) };
        match sys::send_once(fd, buf, SendFlags::empty()) {
            Ok(n) if n == buf.len() => {
                self.context.counters.bytes_out.add(n as u64);
                Ok(())
            }
            result => Err(RawResult::of(result)),
        }
    }

    /// A callback left nothing to be done.
    #[inline]
    pub fn is_settled(&self) -> bool {
        !self.has(flag::UNSETTLED)
    }
}
