//! System calls: the only unsafe code of the core. Each function makes one call
//! of the manual's section 2 or 3, with Rust types, and does nothing more.
//!
//! The calls that each message needs go to the kernel without the C library
//! (rustix). So they are no cancellation points (pthreads(7)): a pthread_cancel
//! by the host program cannot unwind through the library, and the calls are
//! spared the work that the C library does for cancellation in a process with
//! threads.

#[cfg(feature = "capi")]
mod cancel;
mod poller;
mod resolve;
mod sendfile;
mod slots;
mod thread;
mod timer;
mod waker;

#[cfg(feature = "capi")]
pub(crate) use cancel::Uncancelled;
pub(crate) use poller::{Bits, Events, Poller, INPUT, OUTPUT, SPECIAL};
pub(crate) use resolve::resolve;
pub(crate) use rustix::event::{PollFd, PollFlags};
pub(crate) use rustix::io::Errno;
pub(crate) use rustix::net::{RecvFlags, SendFlags, Shutdown};
pub(crate) use sendfile::{is_of_file, pread, push, sendfile};
pub(crate) use slots::{Reach, Slots};
pub(crate) use thread::spawn;
pub(crate) use timer::Timer;
pub(crate) use waker::Waker;

use std::ffi::CString;
use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use rustix::io::retry_on_intr;
use rustix::net::SendAncillaryBuffer;
use socket2::SockAddr;

/// pthread_atfork(3): `before` runs before each fork(3), `in_child` in the child,
/// on its only thread.
pub(crate) fn at_fork(before: extern "C" fn(), in_child: extern "C" fn()) -> io::Result<()> {
    // SAFETY: the functions stay as long as the library, whose unloading the C
    // library notes.
    match unsafe { libc::pthread_atfork(Some(before), None, Some(in_child)) } {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(code)),
    }
}

/// _exit(2): no function of atexit(3) runs.
pub(crate) fn exit_now(status: i32) -> ! {
    // SAFETY: it takes a number.
    unsafe { libc::_exit(status) }
}

/// close(2) of a descriptor that no object owns.
pub(crate) fn close(fd: RawFd) {
    // SAFETY: the caller's, which uses the number no more.
    drop(unsafe { OwnedFd::from_raw_fd(fd) });
}

/// recv(2), repeated after `EINTR`.
pub(crate) fn recv(fd: BorrowedFd<'_>, buf: &mut [u8], flags: RecvFlags) -> io::Result<usize> {
    Ok(retry_on_intr(|| recv_once(fd, buf, flags))?)
}

/// recv(2).
#[inline(always)]
pub(crate) fn recv_once(
    fd: BorrowedFd<'_>,
    buf: &mut [u8],
    flags: RecvFlags,
) -> Result<usize, Errno> {
    rustix::net::recv(fd, buf, flags).map(|(_, n)| n)
}

/// send(2) without SIGPIPE, repeated after `EINTR`.
pub(crate) fn send(fd: BorrowedFd<'_>, buf: &[u8], flags: SendFlags) -> io::Result<usize> {
    Ok(retry_on_intr(|| send_once(fd, buf, flags))?)
}

/// send(2) without SIGPIPE.
#[inline(always)]
pub(crate) fn send_once(fd: BorrowedFd<'_>, buf: &[u8], flags: SendFlags) -> Result<usize, Errno> {
    rustix::net::send(fd, buf, flags | SendFlags::NOSIGNAL)
}

/// The largest number of buffers that one sendmsg(2) takes (`IOV_MAX`).
pub(crate) const MAX_PIECES: usize = 1024;

/// sendmsg(2) of several buffers without SIGPIPE, repeated after `EINTR`.
pub(crate) fn sendv(
    fd: BorrowedFd<'_>,
    bufs: &[IoSlice<'_>],
    flags: SendFlags,
) -> io::Result<usize> {
    let flags = flags | SendFlags::NOSIGNAL;
    let mut no_control = SendAncillaryBuffer::default();
    Ok(retry_on_intr(|| rustix::net::sendmsg(fd, bufs, &mut no_control, flags))?)
}

/// accept4(2) with close-on-exec. The caller handles `EINTR`.
pub(crate) fn accept(
    listener: BorrowedFd<'_>,
    non_blocking: bool,
) -> io::Result<(OwnedFd, SockAddr)> {
    let flags = libc::SOCK_CLOEXEC | if non_blocking { libc::SOCK_NONBLOCK } else { 0 };
    // SAFETY: the storage and its length are valid, and the kernel fills them.
    let (fd, address) = unsafe {
        SockAddr::try_init(|storage, length| {
            match libc::accept4(listener.as_raw_fd(), storage.cast(), length, flags) {
                -1 => Err(io::Error::last_os_error()),
                fd => Ok(fd),
            }
        })
    }?;
    // SAFETY: accept4 made this descriptor, and nobody else has it.
    Ok((unsafe { OwnedFd::from_raw_fd(fd) }, address))
}

/// fcntl(2), F_DUPFD_CLOEXEC. The number may be that of no open descriptor.
pub(crate) fn duplicate(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: the call takes no pointers, and checks the number.
    match unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3) } {
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: fcntl made this descriptor, and nobody else has it.
        copy => Ok(unsafe { OwnedFd::from_raw_fd(copy) }),
    }
}

/// Makes a descriptor close at execve(2) (`FD_CLOEXEC`, fcntl(2)).
pub(crate) fn set_close_on_exec(fd: BorrowedFd<'_>) {
    // The descriptor is open: there is no error.
    let _ = rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::CLOEXEC);
}

/// eventfd(2): a descriptor that can be polled, for [`signal_event`].
pub(crate) fn new_event() -> io::Result<OwnedFd> {
    let flags = rustix::event::EventfdFlags::CLOEXEC | rustix::event::EventfdFlags::NONBLOCK;
    Ok(rustix::event::eventfd(0, flags)?)
}

/// Makes such a descriptor readable, for good: nobody reads it.
pub(crate) fn signal_event(event: BorrowedFd<'_>) {
    let _ = rustix::io::write(event, &1u64.to_ne_bytes());
}

/// poll(2) of one descriptor. `timeout` is in milliseconds; a negative one
/// waits forever. Returns the events that were found, none after the timeout.
pub(crate) fn poll(fd: BorrowedFd<'_>, events: PollFlags, timeout: i32) -> io::Result<PollFlags> {
    let mut entry = [PollFd::from_borrowed_fd(fd, events)];
    poll_many(&mut entry, timeout)?;
    Ok(entry[0].revents())
}

/// poll(2) of several descriptors. Returns how many have events.
pub(crate) fn poll_many(entries: &mut [PollFd<'_>], timeout: i32) -> io::Result<usize> {
    Ok(rustix::event::poll(entries, poller::time(timeout).as_ref())?)
}

/// `CLOCK_MONOTONIC` in milliseconds, rounded down.
pub(crate) fn monotonic_millis() -> u64 {
    monotonic_nanos() / 1_000_000
}

/// `CLOCK_MONOTONIC` in nanoseconds.
pub(crate) fn monotonic_nanos() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call may write `time`; every system has this clock.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// How many descriptors this process may have open (`RLIMIT_NOFILE`).
pub(crate) fn descriptor_limit() -> u64 {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Borrows a descriptor that another thread uses. The caller knows that it is
/// open.
fn borrow<'a>(fd: RawFd) -> BorrowedFd<'a> {
    // SAFETY: each function that calls this one requires an open descriptor.
    unsafe { BorrowedFd::borrow_raw(fd) }
}

/// Resets the connection of a descriptor that is known to be open and that
/// another thread may be using: connect(2) with `AF_UNSPEC`. After it nothing
/// can be sent or received, and poll(2) returns. Some kernels refuse it while a
/// thread waits in recv(2) on the descriptor.
///
/// A unix socket has no such call: there this is shutdown(2) of both
/// directions.
pub(crate) fn disconnect(fd: RawFd) {
    if rustix::net::connect_unspec(borrow(fd)) == Err(Errno::INVAL) {
        shutdown(fd, Shutdown::Both);
    }
}

/// Whether the kernel takes bytes now.
pub(crate) fn is_writable(fd: BorrowedFd<'_>) -> bool {
    poll(fd, PollFlags::OUT, 0).is_ok_and(|found| found.contains(PollFlags::OUT))
}

/// Whether the peer has ended its side, or the connection is gone.
pub(crate) fn has_ended(fd: BorrowedFd<'_>) -> bool {
    poll(fd, PollFlags::RDHUP, 0).is_ok_and(|found| !found.is_empty())
}

/// Whether the peer has closed its sending side, or the connection is gone, no
/// matter which directions this side has shut (`TCP_INFO`, tcp(7)). A unix
/// socket does not know the latter, and there it does not matter: what it
/// received is not destroyed by an end.
pub(crate) fn has_peer_ended(fd: BorrowedFd<'_>) -> bool {
    // The first byte of tcp_info is the state of RFC 9293. ESTABLISHED (1),
    // FIN_WAIT1 (4) and FIN_WAIT2 (5) are the states without the peer's end.
    let mut state: u8 = 0;
    let mut length: libc::socklen_t = 1;
    // SAFETY: the kernel writes at most `length` bytes, which is one.
    let result = unsafe {
        let place = std::ptr::from_mut(&mut state).cast();
        libc::getsockopt(fd.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, place, &mut length)
    };
    result < 0 || !matches!(state, 1 | 4 | 5)
}

/// How many bytes the peer has not acknowledged yet: an end now could lose
/// them. A FIN that was sent counts as one. What was sent over a unix socket is
/// with the peer. The descriptor is known to be open.
pub(crate) fn unacknowledged(fd: RawFd) -> usize {
    match unread_by_peer(fd) {
        0 => 0,
        _ if is_unix(borrow(fd)) => 0,
        count => count,
    }
}

/// Whether this is a unix socket (`SO_DOMAIN`, socket(7)).
pub(crate) fn is_unix(fd: BorrowedFd<'_>) -> bool {
    rustix::net::sockopt::socket_domain(fd) == Ok(rustix::net::AddressFamily::UNIX)
}

/// `SIOCOUTQ`: how many bytes the peer has not acknowledged (tcp(7)), or, over a
/// unix socket, about how much memory the bytes take that it has not read. The
/// descriptor is known to be open.
pub(crate) fn unread_by_peer(fd: RawFd) -> usize {
    let mut count: libc::c_int = 0;
    // SAFETY: SIOCOUTQ (the same number as TIOCOUTQ) writes one int.
    let result = unsafe { libc::ioctl(fd, libc::TIOCOUTQ, &mut count) };
    if result < 0 {
        return 0;
    }
    count.max(0) as usize
}

/// The process, user and group of the peer of a unix socket, as they were at its
/// connect(2) (`SO_PEERCRED`, unix(7)).
pub(crate) fn peer_credentials(fd: BorrowedFd<'_>) -> io::Result<libc::ucred> {
    let mut credentials = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut length = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes, which is the size.
    let result = unsafe {
        let place = std::ptr::from_mut(&mut credentials).cast();
        libc::getsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_PEERCRED, place, &mut length)
    };
    match result {
        0 => Ok(credentials),
        _ => Err(io::Error::last_os_error()),
    }
}

/// fchmodat(2) of the file itself: `EOPNOTSUPP` where that is a symbolic link, or
/// where the C library cannot do it.
pub(crate) fn change_mode(path: &Path, mode: u32) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: the path ends with a zero byte.
    let result =
        unsafe { libc::fchmodat(libc::AT_FDCWD, path.as_ptr(), mode, libc::AT_SYMLINK_NOFOLLOW) };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// flock(2), exclusive and without waiting: `WouldBlock` where another one has it.
pub(crate) fn try_lock(fd: BorrowedFd<'_>) -> io::Result<()> {
    flock(fd, libc::LOCK_EX | libc::LOCK_NB)
}

/// flock(2): ends the lock, also where a child of fork(2) has the descriptor.
pub(crate) fn unlock(fd: BorrowedFd<'_>) -> io::Result<()> {
    flock(fd, libc::LOCK_UN)
}

fn flock(fd: BorrowedFd<'_>, operation: i32) -> io::Result<()> {
    // SAFETY: the descriptor is open, and the other argument is a number.
    match unsafe { libc::flock(fd.as_raw_fd(), operation) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// shutdown(2) of a descriptor that is known to be open. It is a listener (then
/// every accept on it wakes and fails with `EINVAL`) or a connection that
/// another thread serves.
pub(crate) fn shutdown(fd: RawFd, how: Shutdown) {
    let _ = rustix::net::shutdown(borrow(fd), how);
}

/// Makes a later close(2) of this descriptor send a reset (`SO_LINGER` with a
/// time of zero, socket(7)). The descriptor is known to be open.
pub(crate) fn reset_on_close(fd: RawFd) {
    let _ = rustix::net::sockopt::set_socket_linger(borrow(fd), Some(Duration::ZERO));
}
