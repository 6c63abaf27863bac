//! Waits for readiness: epoll(7), edge-triggered.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;

use rustix::event::{epoll, PollFlags, Timespec};

/// Event bits, to wait for and as found (epoll_ctl(2)).
pub(crate) type Bits = epoll::EventFlags;

/// Bits to wait for: input and the end of the stream; room for output.
pub(crate) const INPUT: Bits = Bits::IN.union(Bits::RDHUP);
pub(crate) const OUTPUT: Bits = Bits::OUT;
/// Bits that mean more than plain input: urgent data, the end of the stream, a
/// failure.
pub(crate) const SPECIAL: Bits = Bits::PRI.union(Bits::RDHUP).union(Bits::HUP).union(Bits::ERR);

/// An epoll instance. Its clones share it.
#[derive(Clone)]
pub(crate) struct Poller(Arc<OwnedFd>);

impl Poller {
    /// epoll_create1(2).
    pub fn new() -> io::Result<Poller> {
        Ok(Poller(Arc::new(epoll::create(epoll::CreateFlags::CLOEXEC)?)))
    }

    /// The descriptor. It is readable when there are events.
    pub fn raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// epoll_ctl(2), EPOLL_CTL_ADD. Closing the descriptor removes it again.
    pub fn add(&self, fd: BorrowedFd<'_>, token: u64, bits: Bits) -> io::Result<()> {
        let data = epoll::EventData::new_u64(token);
        Ok(epoll::add(self.0.as_fd(), fd, data, bits | Bits::ET)?)
    }

    /// Reports when another poller has events.
    pub fn add_poller(&self, other: &Poller, token: u64) -> io::Result<()> {
        self.add(other.0.as_fd(), token, Bits::IN)
    }

    /// epoll_ctl(2), EPOLL_CTL_MOD.
    pub fn change(&self, fd: BorrowedFd<'_>, token: u64, bits: Bits) -> io::Result<()> {
        let data = epoll::EventData::new_u64(token);
        Ok(epoll::modify(self.0.as_fd(), fd, data, bits | Bits::ET)?)
    }

    /// epoll_ctl(2), EPOLL_CTL_DEL.
    pub fn remove(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        Ok(epoll::delete(self.0.as_fd(), fd)?)
    }

    /// epoll_ctl(2), EPOLL_CTL_ADD, level-triggered, of a descriptor that may be
    /// closed.
    pub fn add_raw(&self, fd: RawFd, token: u64, bits: Bits) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, token, bits)
    }

    /// epoll_ctl(2), EPOLL_CTL_MOD, of what `add_raw` has added.
    pub fn change_raw(&self, fd: RawFd, token: u64, bits: Bits) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, fd, token, bits)
    }

    /// epoll_ctl(2), EPOLL_CTL_DEL, of a descriptor that may be closed.
    pub fn remove_raw(&self, fd: RawFd) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_DEL, fd, 0, Bits::empty())
    }

    fn control(&self, operation: i32, fd: RawFd, token: u64, bits: Bits) -> io::Result<()> {
        let mut event = libc::epoll_event { events: bits.bits(), u64: token };
        // SAFETY: the event is valid; a number that is no descriptor is an
        // error of the call.
        match unsafe { libc::epoll_ctl(self.0.as_raw_fd(), operation, fd, &mut event) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Returns whether a wait would find events.
    pub fn has_events(&self) -> bool {
        super::poll(self.0.as_fd(), PollFlags::IN, 0).is_ok_and(|found| !found.is_empty())
    }

    /// epoll_pwait(2). `timeout` is in milliseconds; a negative one waits
    /// forever. The caller handles `EINTR`, which comes with no events.
    ///
    /// It uses `syscall`, because rustix leaves out the last argument. The
    /// kernel ignores that argument, but valgrind reads it.
    pub fn wait(&self, events: &mut Events, timeout: i32) -> io::Result<()> {
        events.0.clear();
        let (poller, room) = (self.0.as_raw_fd(), events.0.spare_capacity_mut());
        let (start, max) = (room.as_mut_ptr(), room.len());
        let no_mask = std::ptr::null::<libc::sigset_t>();
        // SAFETY: the buffer has room for `max` events, and the kernel has
        // written the first `found` of them.
        unsafe {
            let call = libc::SYS_epoll_pwait;
            let found = libc::syscall(call, poller, start, max, timeout, no_mask, 0_usize);
            let Ok(found) = usize::try_from(found) else { return Err(io::Error::last_os_error()) };
            events.0.set_len(found);
        }
        Ok(())
    }
}

/// A time in milliseconds. A negative one means forever.
pub(super) fn time(millis: i32) -> Option<Timespec> {
    let millis = u64::try_from(millis).ok()?;
    Some(Timespec { tv_sec: (millis / 1000) as i64, tv_nsec: (millis % 1000 * 1_000_000) as _ })
}

/// The events that one wait found.
pub(crate) struct Events(Vec<epoll::Event>);

// SAFETY: an event's data is a union that may be a pointer; here it is a token,
// which nobody follows.
unsafe impl Send for Events {}

impl Events {
    /// One wait finds at most `capacity` events.
    pub fn new(capacity: usize) -> Events {
        Events(Vec::with_capacity(capacity))
    }

    /// The token and the bits of each event.
    #[inline]
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (u64, Bits)> + '_ {
        self.0.iter().map(|event| (event.data.u64(), event.flags))
    }
}
