//! sendfile(2), and pread(2) for what it cannot send.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

/// sendfile(2) of at most `len` bytes from `offset` on, without SIGPIPE. 0 is the
/// end of the file.
pub(crate) fn sendfile(
    fd: BorrowedFd<'_>,
    file: BorrowedFd<'_>,
    offset: u64,
    len: usize,
) -> io::Result<usize> {
    let mut offset = offset as libc::off64_t;
    without_sigpipe(|| loop {
        // SAFETY: the kernel may write `offset`.
        match unsafe { libc::sendfile64(fd.as_raw_fd(), file.as_raw_fd(), &mut offset, len) } {
            -1 if errno() == Some(libc::EINTR) => {}
            -1 => return Err(io::Error::last_os_error()),
            n => return Ok(n as usize),
        }
    })
}

/// Whether this error of [`sendfile`] is one of the file: it cannot be read, or not
/// by sendfile(2).
pub(crate) fn is_of_file(error: &io::Error) -> bool {
    let of_file = [
        libc::EACCES,
        libc::EBADF,
        libc::EINVAL,
        libc::EIO,
        libc::EISDIR,
        libc::ENOSYS,
        libc::EOVERFLOW,
        libc::ESPIPE,
        libc::ESTALE,
    ];
    error.raw_os_error().is_some_and(|code| of_file.contains(&code))
}

/// pread(2), repeated after `EINTR`. 0 is the end of the file.
pub(crate) fn pread(file: BorrowedFd<'_>, buf: &mut [u8], offset: u64) -> io::Result<usize> {
    Ok(rustix::io::retry_on_intr(|| rustix::io::pread(file, &mut *buf, offset))?)
}

fn errno() -> Option<i32> {
    io::Error::last_os_error().raw_os_error()
}

/// Makes a call that sends SIGPIPE to its thread where it fails with `EPIPE`, and
/// takes that signal back. The threads of the library block all signals, those of
/// the program may not. One that was pending before stays.
fn without_sigpipe<T>(call: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let mut pipe = MaybeUninit::<libc::sigset_t>::uninit();
    let mut before = MaybeUninit::<libc::sigset_t>::uninit();
    let mut pending = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset, pthread_sigmask and sigpending initialise the sets that
    // they get before these are read.
    let (is_blocked, is_pending) = unsafe {
        libc::sigemptyset(pipe.as_mut_ptr());
        libc::sigaddset(pipe.as_mut_ptr(), libc::SIGPIPE);
        libc::pthread_sigmask(libc::SIG_BLOCK, pipe.as_ptr(), before.as_mut_ptr());
        let is_blocked = libc::sigismember(before.as_ptr(), libc::SIGPIPE) == 1;
        // One that is not blocked cannot be pending for this thread.
        let is_pending = is_blocked
            && libc::sigpending(pending.as_mut_ptr()) == 0
            && libc::sigismember(pending.as_ptr(), libc::SIGPIPE) == 1;
        (is_blocked, is_pending)
    };
    let result = call();
    let has_come = matches!(&result, Err(e) if e.raw_os_error() == Some(libc::EPIPE));
    if has_come && !is_pending {
        let at_once = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the set is initialised; no information is asked for. By number the
        // call is no cancellation point; the kernel's set has 8 bytes.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigtimedwait,
                pipe.as_ptr(),
                ptr::null_mut::<libc::siginfo_t>(),
                &at_once,
                8_usize,
            )
        };
    }
    if !is_blocked {
        // SAFETY: `before` was initialised above.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), ptr::null_mut()) };
    }
    result
}
