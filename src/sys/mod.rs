//! System calls: the only unsafe code of the core. Each function is a call
//! of the manual's section 2 or 3 with Rust types and nothing more.

mod event;
mod resolve;
mod thread;
mod wait;

pub(crate) use event::Event;
pub(crate) use resolve::resolve;
pub(crate) use thread::spawn;
pub(crate) use wait::{Events, EVENT_ERROR, EVENT_INPUT, EVENT_OUTPUT, EVENT_SPECIAL};

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use socket2::SockAddr;

/// What a call that answers −1 and `errno` means.
#[inline]
fn check(result: libc::ssize_t) -> io::Result<usize> {
    if result < 0 {
        return failed();
    }
    Ok(result as usize)
}

#[cold]
fn failed() -> io::Result<usize> {
    Err(io::Error::last_os_error())
}

/// A system call by its number: what is called for every message is no
/// cancellation point then (pthreads(7)). So a pthread_cancel of the host
/// program's cannot unwind through the library, and the call is spared what
/// the C library's wrapper does about that in a process with threads.
macro_rules! direct {
    ($number:ident $(, $argument:expr)* $(,)?) => {
        libc::syscall(libc::$number $(, $argument as libc::c_long)*) as libc::ssize_t
    };
}
use direct;

#[cold]
fn is_interrupted(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EINTR)
}

/// recv(2), again after `EINTR`. `flags` are `MSG_…`.
#[inline(always)]
pub(crate) fn recv(fd: BorrowedFd<'_>, buf: &mut [u8], flags: i32) -> io::Result<usize> {
    match recv_once(fd, buf, flags) {
        Err(e) if is_interrupted(&e) => recv_again(fd, buf, flags),
        result => result,
    }
}

#[cold]
fn recv_again(fd: BorrowedFd<'_>, buf: &mut [u8], flags: i32) -> io::Result<usize> {
    loop {
        match recv_once(fd, buf, flags) {
            Err(e) if is_interrupted(&e) => {}
            result => return result,
        }
    }
}

#[inline(always)]
fn recv_once(fd: BorrowedFd<'_>, buf: &mut [u8], flags: i32) -> io::Result<usize> {
    let (fd, start, len) = (fd.as_raw_fd(), buf.as_mut_ptr(), buf.len());
    // SAFETY: the buffer is valid for writes of its length.
    check(unsafe { direct!(SYS_recvfrom, fd, start, len, flags, 0, 0) })
}

/// send(2) without SIGPIPE, again after `EINTR`.
#[inline(always)]
pub(crate) fn send(fd: BorrowedFd<'_>, buf: &[u8], flags: i32) -> io::Result<usize> {
    match send_once(fd, buf, flags) {
        Err(e) if is_interrupted(&e) => send_again(fd, buf, flags),
        result => result,
    }
}

#[cold]
fn send_again(fd: BorrowedFd<'_>, buf: &[u8], flags: i32) -> io::Result<usize> {
    loop {
        match send_once(fd, buf, flags) {
            Err(e) if is_interrupted(&e) => {}
            result => return result,
        }
    }
}

#[inline(always)]
fn send_once(fd: BorrowedFd<'_>, buf: &[u8], flags: i32) -> io::Result<usize> {
    let (fd, start, len) = (fd.as_raw_fd(), buf.as_ptr(), buf.len());
    // SAFETY: the buffer is valid for reads of its length.
    check(unsafe { direct!(SYS_sendto, fd, start, len, flags | libc::MSG_NOSIGNAL, 0, 0) })
}

/// sendmsg(2) of several buffers without SIGPIPE, again after `EINTR`.
pub(crate) fn sendv(fd: BorrowedFd<'_>, bufs: &[IoSlice<'_>], flags: i32) -> io::Result<usize> {
    // SAFETY: msghdr is plain data for which all zeros is valid.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    // An IoSlice is guaranteed to be ABI-compatible with iovec on Unix.
    message.msg_iov = bufs.as_ptr().cast_mut().cast();
    message.msg_iovlen = bufs.len() as _;
    loop {
        // SAFETY: the message points to `bufs`, which outlive the call; the
        // kernel only reads them.
        let n = unsafe { libc::sendmsg(fd.as_raw_fd(), &message, flags | libc::MSG_NOSIGNAL) };
        match check(n) {
            Err(e) if is_interrupted(&e) => {}
            result => return result,
        }
    }
}

/// accept4(2) with close-on-exec. `EINTR` is given to the caller.
pub(crate) fn accept(
    listener: BorrowedFd<'_>,
    non_blocking: bool,
) -> io::Result<(OwnedFd, Option<SocketAddr>)> {
    let flags = libc::SOCK_CLOEXEC | if non_blocking { libc::SOCK_NONBLOCK } else { 0 };
    // SAFETY: the storage and its length are valid for the kernel to fill.
    let (fd, address) = unsafe {
        SockAddr::try_init(|storage, length| {
            let fd = listener.as_raw_fd();
            check(libc::accept4(fd, storage.cast(), length, flags) as libc::ssize_t)
        })
    }?;
    // SAFETY: accept4 gave us this descriptor, nobody else has it.
    Ok((unsafe { OwnedFd::from_raw_fd(fd as RawFd) }, address.as_socket()))
}

/// poll(2) of one descriptor. `timeout` in milliseconds, negative for ever.
/// Answers the events that are there, 0 after the timeout.
pub(crate) fn poll(fd: BorrowedFd<'_>, events: i16, timeout: i32) -> io::Result<i16> {
    let mut entry = [libc::pollfd { fd: fd.as_raw_fd(), events, revents: 0 }];
    poll_many(&mut entry, timeout)?;
    Ok(entry[0].revents)
}

/// poll(2) of several descriptors; answers how many have events.
pub(crate) fn poll_many(entries: &mut [libc::pollfd], timeout: i32) -> io::Result<usize> {
    // SAFETY: the entries are valid for reads and writes.
    let n = unsafe { libc::poll(entries.as_mut_ptr(), entries.len() as libc::nfds_t, timeout) };
    check(n as libc::ssize_t)
}

/// An entry for [`poll_many`].
pub(crate) fn poll_entry(fd: RawFd, events: i16) -> libc::pollfd {
    libc::pollfd { fd, events, revents: 0 }
}

/// Would send take bytes now? Of a descriptor known to be open.
pub(crate) fn is_writable(fd: RawFd) -> bool {
    let mut entry = [poll_entry(fd, libc::POLLOUT)];
    poll_many(&mut entry, 0).is_ok() && entry[0].revents & libc::POLLOUT != 0
}

/// How many bytes the peer has not acknowledged yet (`SIOCOUTQ`, tcp(7)).
pub(crate) fn unsent(fd: RawFd) -> usize {
    let mut count: libc::c_int = 0;
    // SAFETY: SIOCOUTQ (the same number as TIOCOUTQ) writes one int.
    let result = unsafe { libc::ioctl(fd, libc::TIOCOUTQ, &mut count) };
    if result < 0 {
        return 0;
    }
    count.max(0) as usize
}

/// How many descriptors this process may have open (`RLIMIT_NOFILE`).
pub(crate) fn descriptor_limit() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: getrlimit fills the struct.
    let result = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) };
    if result < 0 {
        return 1024;
    }
    limit.rlim_cur
}

/// shutdown(2) of a descriptor that the caller knows to be open: a listener
/// (which wakes every accept on it, accept then fails with `EINVAL`) or a
/// connection that another thread serves.
pub(crate) fn shutdown(fd: RawFd, how: std::net::Shutdown) {
    let how = match how {
        std::net::Shutdown::Read => libc::SHUT_RD,
        std::net::Shutdown::Write => libc::SHUT_WR,
        std::net::Shutdown::Both => libc::SHUT_RDWR,
    };
    // SAFETY: no pointers are passed.
    unsafe { libc::shutdown(fd, how) };
}

/// Makes close(2) of a descriptor that the caller knows to be open send a
/// reset (`SO_LINGER` with a time of zero, socket(7)).
pub(crate) fn reset_on_close(fd: RawFd) {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    // SAFETY: the option's value is a linger struct of the given size.
    unsafe {
        libc::setsockopt(
            fd,
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const linger).cast(),
            std::mem::size_of_val(&linger) as libc::socklen_t,
        )
    };
}
