//! Failures of the operating system on demand. These functions stand before those of libc of the
//! same names, in this binary; each test that uses them has the process for itself.

use std::collections::VecDeque;
use std::ffi::{c_char, c_int, c_void, CStr};
use std::sync::atomic::{AtomicBool, AtomicIsize, Ordering};
use std::sync::Mutex;

/// The errors that accept(2) will give next.
static ACCEPT_ERRORS: Mutex<VecDeque<i32>> = Mutex::new(VecDeque::new());
/// Sockets cannot be made dual-stack.
static NO_DUAL_STACK: AtomicBool = AtomicBool::new(false);
/// The errors that bind(2) will give next, each for an address of this family.
static BIND_ERRORS: Mutex<VecDeque<(c_int, i32)>> = Mutex::new(VecDeque::new());
/// What statx(2) will give next: 0 for what the kernel says, or an error.
static STATX_ERRORS: Mutex<VecDeque<i32>> = Mutex::new(VecDeque::new());
/// "localhost" has an IPv6 address and an IPv4 one, whatever hosts(5) says.
static TWO_ADDRESSES: AtomicBool = AtomicBool::new(false);
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

pub fn fail_bind(family: c_int, errors: &[i32]) {
    BIND_ERRORS.lock().unwrap().extend(errors.iter().map(|error| (family, *error)));
}

pub fn bind_failures_left() -> usize {
    BIND_ERRORS.lock().unwrap().len()
}

pub fn fail_statx(errors: &[i32]) {
    STATX_ERRORS.lock().unwrap().extend(errors);
}

pub fn statx_failures_left() -> usize {
    STATX_ERRORS.lock().unwrap().len()
}

pub fn give_localhost_two_addresses() {
    TWO_ADDRESSES.store(true, Ordering::SeqCst);
}

pub fn limit_threads(count: Option<usize>) {
    THREADS_LEFT.store(count.map_or(-1, |count| count as isize), Ordering::SeqCst);
}

/// From now on this thread, and those that it starts, cannot make the system call `number` with
/// `value` as its argument `at`: it fails with `errno`.
pub fn refuse_call(number: libc::c_long, at: u32, value: c_int, errno: i32) {
    use libc::{sock_filter, BPF_ABS, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W};
    let step = |code, jt, jf, k| sock_filter { code: code as u16, jt, jf, k };
    // Of struct seccomp_data: the number of the system call, and its arguments of 8 bytes.
    let (number_at, argument_at) = (0, 16 + 8 * at);
    let mut program = [
        step(BPF_LD | BPF_W | BPF_ABS, 0, 0, number_at),
        step(BPF_JMP | BPF_JEQ | BPF_K, 0, 3, number as u32),
        step(BPF_LD | BPF_W | BPF_ABS, 0, 0, argument_at),
        step(BPF_JMP | BPF_JEQ | BPF_K, 0, 1, value as u32),
        step(BPF_RET | BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | errno as u32),
        step(BPF_RET | BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: the filter is valid during the call, which copies it.
    let installed = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &filter) == 0
    };
    assert!(installed, "{}", std::io::Error::last_os_error());
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

/// # Safety
/// As bind(2).
#[no_mangle]
unsafe extern "C" fn bind(
    fd: c_int,
    address: *const libc::sockaddr,
    len: libc::socklen_t,
) -> c_int {
    // SAFETY: every address begins with its family.
    let family = unsafe { (*address).sa_family }.into();
    let mut errors = BIND_ERRORS.lock().unwrap();
    if errors.front().is_some_and(|(of, _)| *of == family) {
        return failed(errors.pop_front().expect("there is one").1);
    }
    drop(errors);
    // SAFETY: the caller's promise.
    unsafe { libc::syscall(libc::SYS_bind, fd, address, len) as c_int }
}

/// # Safety
/// As statx(2).
#[no_mangle]
unsafe extern "C" fn statx(
    folder: c_int,
    path: *const c_char,
    flags: c_int,
    mask: libc::c_uint,
    found: *mut libc::statx,
) -> c_int {
    match STATX_ERRORS.lock().unwrap().pop_front() {
        Some(error) if error != 0 => failed(error),
        // SAFETY: the caller's promise.
        _ => unsafe { libc::syscall(libc::SYS_statx, folder, path, flags, mask, found) as c_int },
    }
}

type Resolve = unsafe extern "C" fn(
    *const c_char,
    *const c_char,
    *const libc::addrinfo,
    *mut *mut libc::addrinfo,
) -> c_int;

/// # Safety
/// As getaddrinfo(3).
#[no_mangle]
unsafe extern "C" fn getaddrinfo(
    host: *const c_char,
    service: *const c_char,
    hints: *const libc::addrinfo,
    list: *mut *mut libc::addrinfo,
) -> c_int {
    // SAFETY: the next function of this name is libc's, of this type; host is NULL or text. The
    // entries of a list are freed one by one, so two lists may be joined.
    unsafe {
        let next = libc::dlsym(libc::RTLD_NEXT, c"getaddrinfo".as_ptr());
        assert!(!next.is_null());
        let resolve: Resolve = std::mem::transmute(next);
        let localhost = !host.is_null() && CStr::from_ptr(host) == c"localhost";
        if !localhost || !TWO_ADDRESSES.load(Ordering::SeqCst) {
            return resolve(host, service, hints, list);
        }
        let mut four = std::ptr::null_mut();
        let status = resolve(c"::1".as_ptr(), service, hints, list)
            + resolve(c"127.0.0.1".as_ptr(), service, hints, &mut four);
        assert_eq!(status, 0);
        (**list).ai_next = four;
        0
    }
}

type Start = extern "C" fn(*mut c_void) -> *mut c_void;
type Create = unsafe extern "C" fn(
    *mut libc::pthread_t,
    *const libc::pthread_attr_t,
    Start,
    *mut c_void,
) -> c_int;

/// # Safety
/// As pthread_create(3). AddressSanitizer and ThreadSanitizer have their own.
#[cfg(not(under_asan))]
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
