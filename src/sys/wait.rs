//! Waiting for readiness. The poller is mio's; it is waited for here, without
//! a cancellation point (see `direct`), with the events as the kernel gives
//! them.

use std::io;
use std::os::fd::RawFd;

use super::{check, direct};

/// Bits of an event (epoll_ctl(2)): input; room for output; the transport
/// failed; and everything that is more than plain input: urgent data, the end
/// of the stream, a failure.
pub(crate) const EVENT_INPUT: u32 = libc::EPOLLIN as u32;
pub(crate) const EVENT_OUTPUT: u32 = libc::EPOLLOUT as u32;
pub(crate) const EVENT_ERROR: u32 = libc::EPOLLERR as u32;
pub(crate) const EVENT_SPECIAL: u32 =
    (libc::EPOLLPRI | libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR) as u32;

/// What one wait found.
pub(crate) struct Events {
    list: Box<[libc::epoll_event]>,
    count: usize,
}

impl Events {
    /// At most `capacity` by one wait.
    pub fn new(capacity: usize) -> Events {
        Events { list: vec![libc::epoll_event { events: 0, u64: 0 }; capacity].into(), count: 0 }
    }

    /// epoll_pwait(2). `timeout` in milliseconds, negative for ever. `EINTR`
    /// is given to the caller, with no events.
    pub fn wait(&mut self, poller: RawFd, timeout: i32) -> io::Result<()> {
        self.count = 0;
        let (start, most) = (self.list.as_mut_ptr(), self.list.len());
        // SAFETY: the list is valid for writes of its length.
        let found = unsafe { direct!(SYS_epoll_pwait, poller, start, most, timeout, 0, 0) };
        self.count = check(found)?;
        Ok(())
    }

    /// The token and the bits of each.
    #[inline]
    pub fn iter(&self) -> impl Iterator<Item = (u64, u32)> + '_ {
        self.list[..self.count].iter().map(|event| (event.u64, event.events))
    }
}
