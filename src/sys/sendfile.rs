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
    without_sigpipe(len, || loop {
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
        libc::EPERM,
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

/// Sends now what `MSG_MORE` has the kernel keep for a while.
pub(crate) fn push(fd: BorrowedFd<'_>) {
    // Other sockets than those of TCP keep nothing, and refuse this.
    let _ = rustix::net::sockopt::set_tcp_cork(fd, false);
}

/// Makes a call that is to send `len` bytes, and that sends SIGPIPE to its thread
/// where it meets `EPIPE`, and takes that signal back. It reports no `EPIPE` that came
/// behind a part of the bytes. The threads of the library block all signals, those of
/// the program may not. One that was pending before stays.
fn without_sigpipe(len: usize, call: impl FnOnce() -> io::Result<usize>) -> io::Result<usize> {
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
    let may_have_come = match &result {
        Ok(n) => *n < len,
        Err(e) => e.raw_os_error() == Some(libc::EPIPE),
    };
    if may_have_come && !is_pending {
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Write;
    use std::net::Shutdown;
    use std::os::fd::{AsFd, FromRawFd};
    use std::os::unix::net::UnixStream;
    use std::sync::{Arc, Barrier};

    const LEN: usize = 1 << 20;

    fn sigpipe() -> libc::sigset_t {
        let mut set = MaybeUninit::uninit();
        // SAFETY: sigemptyset initialises the set.
        unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            libc::sigaddset(set.as_mut_ptr(), libc::SIGPIPE);
            set.assume_init()
        }
    }

    fn is_pending() -> bool {
        let mut set = sigpipe();
        // SAFETY: the set is valid.
        unsafe { libc::sigpending(&mut set) == 0 && libc::sigismember(&set, libc::SIGPIPE) == 1 }
    }

    /// The other end goes at any time of the call: before it, behind a part, after it.
    fn send_to_one_that_goes(file: &File, turn: u32) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        socket2::SockRef::from(&ours).set_send_buffer_size(LEN).unwrap();
        let begin = Arc::new(Barrier::new(2));
        let same = begin.clone();
        let ender = std::thread::spawn(move || {
            same.wait();
            (0..turn % 500 * 10).for_each(|_| std::hint::spin_loop());
            theirs.shutdown(Shutdown::Read).unwrap();
        });
        begin.wait();
        let _ = sendfile(ours.as_fd(), file.as_fd(), 0, LEN);
        ender.join().unwrap();
    }

    #[test]
    fn no_signal_stays_behind_a_part() {
        // SAFETY: the call makes the descriptor.
        let mut file = unsafe { File::from_raw_fd(libc::memfd_create(c"file".as_ptr(), 0)) };
        file.write_all(&vec![1; LEN]).unwrap();
        // A thread of its own: its mask ends with it.
        let came = std::thread::spawn(move || {
            // SAFETY: the set is valid.
            unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &sigpipe(), ptr::null_mut()) };
            (0..1000).find(|turn| {
                send_to_one_that_goes(&file, *turn);
                is_pending()
            })
        });
        assert_eq!(came.join().unwrap(), None);
    }
}
