//! Failures of the operating system on demand. These functions stand before those of libc of the
//! same names, in this binary; each test that uses them has the process for itself.

use std::collections::VecDeque;
use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicBool, AtomicIsize, Ordering};
use std::sync::Mutex;

/// The errors that accept(2) will give next.
static ACCEPT_ERRORS: Mutex<VecDeque<i32>> = Mutex::new(VecDeque::new());
/// Sockets cannot be made dual-stack.
static NO_DUAL_STACK: AtomicBool = AtomicBool::new(false);
/// How many more threads can be made; negative for any number.
static THREADS_LEFT: AtomicIsize = AtomicIsize::new(-1);

pub fn fail_accept(errors: &[i32]) {
    ACCEPT_ERRORS.lock().unwrap().extend(errors);
}

pub fn accept_failures_left() -> usize {
    ACCEPT_ERRORS.lock().unwrap().len()
}

pub fn refuse_dual_stack() {
    NO_DUAL_STACK.store(true, Ordering::SeqCst);
}

pub fn limit_threads(count: Option<usize>) {
    THREADS_LEFT.store(count.map_or(-1, |count| count as isize), Ordering::SeqCst);
}

fn failed(error: i32) -> c_int {
    // SAFETY: errno is this thread's.
    unsafe { *libc::__errno_location() = error };
    -1
}

/// # Safety
/// As accept4(2).
#[no_mangle]
unsafe extern "C" fn accept4(
    fd: c_int,
    address: *mut libc::sockaddr,
    len: *mut libc::socklen_t,
    flags: c_int,
) -> c_int {
    // A connection is there: the failure takes the place of a success. A descriptor that is
    // waited on by poll does not wait here.
    // SAFETY: the caller's promise.
    let accepted = unsafe { libc::syscall(libc::SYS_accept4, fd, address, len, flags) } as c_int;
    if accepted < 0 {
        return accepted;
    }
    let error = ACCEPT_ERRORS.lock().unwrap().pop_front();
    match error {
        None => accepted,
        Some(error) => {
            // SAFETY: nobody else has it.
            unsafe { libc::close(accepted) };
            failed(error)
        }
    }
}

/// # Safety
/// As setsockopt(2).
#[no_mangle]
unsafe extern "C" fn setsockopt(
    fd: c_int,
    level: c_int,
    name: c_int,
    value: *const c_void,
    len: libc::socklen_t,
) -> c_int {
    let only_v6 = level == libc::IPPROTO_IPV6 && name == libc::IPV6_V6ONLY;
    // SAFETY: the value of this option is an int.
    if only_v6 && NO_DUAL_STACK.load(Ordering::SeqCst) && unsafe { *value.cast::<c_int>() } == 0 {
        return failed(libc::EINVAL);
    }
    // SAFETY: the caller's promise.
    unsafe { libc::syscall(libc::SYS_setsockopt, fd, level, name, value, len) as c_int }
}

type Start = extern "C" fn(*mut c_void) -> *mut c_void;
type Create = unsafe extern "C" fn(
    *mut libc::pthread_t,
    *const libc::pthread_attr_t,
    Start,
    *mut c_void,
) -> c_int;

/// # Safety
/// As pthread_create(3).
#[no_mangle]
unsafe extern "C" fn pthread_create(
    thread: *mut libc::pthread_t,
    attributes: *const libc::pthread_attr_t,
    start: Start,
    argument: *mut c_void,
) -> c_int {
    if THREADS_LEFT.load(Ordering::SeqCst) >= 0 && THREADS_LEFT.fetch_sub(1, Ordering::SeqCst) == 0
    {
        THREADS_LEFT.store(0, Ordering::SeqCst);
        return libc::EAGAIN;
    }
    // SAFETY: the next function of this name is libc's, of this type.
    unsafe {
        let next = libc::dlsym(libc::RTLD_NEXT, c"pthread_create".as_ptr());
        assert!(!next.is_null());
        let create: Create = std::mem::transmute(next);
        create(thread, attributes, start, argument)
    }
}
