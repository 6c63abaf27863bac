//! The C library's functions by which the library, and the standard library, make system calls. The
//! linker takes these in place of the C library's. What belongs to the simulated kernel is answered
//! by `kernel.rs`; all else goes on to the C library.

use std::ffi::{c_char, c_int, c_long, c_void, CStr};
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::files::FIRST;
use crate::local::{FOLDER, PATH};
use crate::world::{self, World};

/// The C library's own function.
macro_rules! real {
    ($name:ident($($value:expr),*) -> $result:ty) => {{
        static PLACE: AtomicUsize = AtomicUsize::new(0);
        let name = concat!(stringify!($name), "\0");
        let place = find(&PLACE, name);
        // SAFETY: the C library has a function of this name and these parameters. Those that take
        // a variable number of them are called in the same way on x86-64 and AArch64.
        let call = unsafe { std::mem::transmute::<usize, call_type!($result, $($value),*)>(place) };
        // SAFETY: the caller's arguments go on unchanged.
        unsafe { call($($value as usize),*) }
    }};
}

/// All arguments of these functions are integers or pointers: each is passed as a register's width.
macro_rules! call_type {
    ($result:ty, $($value:expr),*) => { unsafe extern "C" fn($(call_type!(@ $value)),*) -> $result };
    (@ $value:expr) => { usize };
}

fn find(place: &AtomicUsize, name: &str) -> usize {
    match place.load(Ordering::Relaxed) {
        0 => {
            // SAFETY: the name ends with a zero byte.
            let found = unsafe { libc::dlsym(libc::RTLD_NEXT, name.as_ptr().cast()) } as usize;
            assert!(found != 0, "the C library has no {name}");
            place.store(found, Ordering::Relaxed);
            found
        }
        found => found,
    }
}

fn set_errno(error: i32) {
    // SAFETY: errno belongs to the thread.
    unsafe { *libc::__errno_location() = error };
}

/// Answers a call from the simulated kernel, if there is one.
fn simulate(
    name: &'static str,
    answer: impl FnOnce(&mut World) -> Result<i64, i32>,
) -> Option<i64> {
    let result = world::enter(|world| {
        world.tick();
        let result = answer(world);
        world.note_call(name, result);
        result
    })?;
    Some(result.unwrap_or_else(|error| {
        set_errno(error);
        -1
    }))
}

fn is_ours(fd: c_int) -> bool {
    fd >= FIRST
}

/// A function whose first argument is a descriptor: `sim` answers for a simulated one.
macro_rules! on_descriptor {
    ($name:ident($fd:ident $(, $arg:ident: $type:ty)*) -> $result:ty, $sim:expr) => {
        /// # Safety
        /// As of the C library's function.
        #[no_mangle]
        pub unsafe extern "C" fn $name($fd: c_int $(, $arg: $type)*) -> $result {
            if is_ours($fd) {
                if let Some(result) = simulate(stringify!($name), $sim) {
                    return result as $result;
                }
                set_errno(libc::EBADF);
                return -1;
            }
            real!($name($fd $(, $arg)*) -> $result)
        }
    };
}

/// A function that makes a descriptor, or has none: `sim` answers on a thread with a world.
macro_rules! on_thread {
    ($name:ident($($arg:ident: $type:ty),*) -> $result:ty, $sim:expr) => {
        /// # Safety
        /// As of the C library's function.
        #[no_mangle]
        pub unsafe extern "C" fn $name($($arg: $type),*) -> $result {
            match simulate(stringify!($name), $sim) {
                Some(result) => result as $result,
                None => real!($name($($arg),*) -> $result),
            }
        }
    };
}

/// The bytes that a caller gave.
///
/// # Safety
/// They are valid for reading, unless there are none.
unsafe fn bytes<'a>(start: *const c_void, len: usize) -> &'a [u8] {
    match len {
        0 => &[],
        // SAFETY: the caller's.
        _ => unsafe { std::slice::from_raw_parts(start.cast(), len) },
    }
}

/// # Safety
/// As of [`bytes`], for writing.
unsafe fn room<'a>(start: *mut c_void, len: usize) -> &'a mut [u8] {
    match len {
        0 => &mut [],
        // SAFETY: the caller's.
        _ => unsafe { std::slice::from_raw_parts_mut(start.cast(), len) },
    }
}

/// Fills what getsockopt(2) and its relatives return with a length.
///
/// # Safety
/// Both pointers are valid; the length says how much room there is.
unsafe fn fill(value: &[u8], place: *mut c_void, len: *mut libc::socklen_t) {
    // SAFETY: the caller's.
    let place = unsafe { room(place, (*len as usize).min(value.len())) };
    place.copy_from_slice(&value[..place.len()]);
    // SAFETY: the caller's.
    unsafe { *len = place.len() as u32 };
}

type Len = *mut libc::socklen_t;

on_thread!(socket(domain: c_int, kind: c_int, protocol: c_int) -> c_int, |w| w.socket(domain, kind));
on_thread!(epoll_create1(flags: c_int) -> c_int, |w| w.new_epoll());
on_thread!(eventfd(first: u32, flags: c_int) -> c_int, |w| w.new_counter(first, flags));
on_thread!(timerfd_create(clock: c_int, flags: c_int) -> c_int, |w| w.new_timer(flags));

on_descriptor!(bind(fd, address: *const c_void, len: u32) -> c_int,
    // SAFETY: the caller's address is valid.
    |w| w.bind(fd, unsafe { bytes(address, len as usize) }));
on_descriptor!(listen(fd, backlog: c_int) -> c_int, |w| w.listen(fd, backlog));
on_descriptor!(accept4(fd, address: *mut c_void, len: Len, flags: c_int) -> c_int, |w| {
    let (new, from) = w.accept4(fd, flags)?;
    if !address.is_null() {
        // SAFETY: the caller's pointers are valid.
        unsafe { fill(&from, address, len) };
    }
    Ok(new)
});
on_descriptor!(connect(fd, address: *const c_void, len: u32) -> c_int,
    // SAFETY: the caller's address is valid.
    |w| w.connect(fd, unsafe { bytes(address, len as usize) }));
on_descriptor!(recv(fd, buffer: *mut c_void, len: usize, flags: c_int) -> isize,
    // SAFETY: the caller's buffer is valid.
    |w| w.recv(fd, unsafe { room(buffer, len) }, flags));
on_descriptor!(read(fd, buffer: *mut c_void, len: usize) -> isize,
    // SAFETY: the caller's buffer is valid.
    |w| w.read(fd, unsafe { room(buffer, len) }));
on_descriptor!(send(fd, buffer: *const c_void, len: usize, flags: c_int) -> isize,
    // SAFETY: the caller's buffer is valid.
    |w| w.send(fd, &[unsafe { bytes(buffer, len) }], flags));
on_descriptor!(write(fd, buffer: *const c_void, len: usize) -> isize,
    // SAFETY: the caller's buffer is valid.
    |w| w.write(fd, unsafe { bytes(buffer, len) }));
on_descriptor!(sendmsg(fd, message: *const libc::msghdr, flags: c_int) -> isize, |w| {
    // SAFETY: the caller's message and its pieces are valid.
    let pieces: Vec<&[u8]> = unsafe {
        let message = &*message;
        (0..message.msg_iovlen)
            .map(|at| &*message.msg_iov.add(at))
            .map(|piece| bytes(piece.iov_base, piece.iov_len))
            .collect()
    };
    w.send(fd, &pieces, flags)
});
on_descriptor!(sendfile64(fd, file: c_int, offset: *mut i64, count: usize) -> isize, |w| {
    // SAFETY: the caller's pointer is valid.
    let place = unsafe { &mut *offset };
    let sent = w.send_file(fd, file, *place, count)?;
    *place += sent;
    Ok(sent)
});
on_descriptor!(shutdown(fd, how: c_int) -> c_int, |w| w.shutdown(fd, how));
on_descriptor!(close(fd) -> c_int, |w| w.close(fd));
on_descriptor!(getsockname(fd, address: *mut c_void, len: Len) -> c_int, |w| {
    // SAFETY: the caller's pointers are valid.
    unsafe { fill(&w.name(fd, 0)?, address, len) };
    Ok(0)
});
on_descriptor!(getpeername(fd, address: *mut c_void, len: Len) -> c_int, |w| {
    // SAFETY: the caller's pointers are valid.
    unsafe { fill(&w.name(fd, 1)?, address, len) };
    Ok(0)
});
on_descriptor!(getsockopt(fd, level: c_int, name: c_int, value: *mut c_void, len: Len) -> c_int, |w| {
    if (level, name) == (libc::SOL_SOCKET, libc::SO_PEERCRED) {
        let who: Vec<u8> = w.credentials(fd)?.iter().flat_map(|part| part.to_ne_bytes()).collect();
        // SAFETY: the caller's pointers are valid.
        unsafe { fill(&who, value, len) };
        return Ok(0);
    }
    let result = w.option(fd, level, name)?;
    // SAFETY: the caller's pointers are valid.
    unsafe { fill(&result.to_ne_bytes(), value, len) };
    Ok(0)
});
on_descriptor!(setsockopt(fd, level: c_int, name: c_int, value: *const c_void, len: u32) -> c_int,
    // SAFETY: the caller's value is valid.
    |w| w.set_option(fd, level, name, unsafe { bytes(value, len as usize) }));
on_descriptor!(ioctl(fd, request: libc::c_ulong, place: *mut c_int) -> c_int, |w| {
    // SAFETY: each request that is known takes an int.
    w.ioctl(fd, request, unsafe { &mut *place })
});
on_descriptor!(fcntl(fd, command: c_int, value: usize) -> c_int, |w| w.fcntl(fd, command, value));
on_descriptor!(epoll_ctl(fd, op: c_int, other: c_int, event: *const libc::epoll_event) -> c_int, |w| {
    // SAFETY: the caller's event is valid, where there is one.
    let wanted = (!event.is_null()).then(|| unsafe { ((*event).events, (*event).u64) });
    w.epoll_ctl(fd, op, other, wanted)
});
on_descriptor!(timerfd_settime(fd, flags: c_int, new: *const libc::itimerspec, old: *mut c_void) -> c_int,
    // SAFETY: the caller's value is valid.
    |w| w.set_timer(fd, nanos(unsafe { &(*new).it_value })));

/// # Safety
/// As of the C library's function.
#[no_mangle]
pub unsafe extern "C" fn pread64(file: c_int, buffer: *mut c_void, len: usize, at: i64) -> isize {
    if world::enter(|w| w.file_of_program == Some(file)) == Some(true) {
        // SAFETY: the caller's buffer is valid.
        let answer = |w: &mut World| w.read_file(file, unsafe { room(buffer, len) }, at);
        if let Some(result) = simulate("pread64", answer) {
            return result as isize;
        }
    }
    real!(pread64(file, buffer, len, at) -> isize)
}

/// pread(2) of the real kernel.
pub fn read_file(file: c_int, buffer: &mut [u8], at: i64) -> Result<usize, i32> {
    let (start, len) = (buffer.as_mut_ptr(), buffer.len());
    match real!(pread64(file, start, len, at) -> isize) {
        // SAFETY: errno belongs to the thread.
        -1 => Err(unsafe { *libc::__errno_location() }),
        n => Ok(n as usize),
    }
}

fn nanos(time: &libc::timespec) -> u64 {
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// A function whose argument is a path: `sim` answers for a simulated one.
macro_rules! on_path {
    ($name:ident($($arg:ident: $type:ty),*), $path:ident == $ours:expr, $sim:expr) => {
        /// # Safety
        /// As of the C library's function.
        #[no_mangle]
        pub unsafe extern "C" fn $name($($arg: $type),*) -> c_int {
            // SAFETY: the caller's path ends with a zero byte.
            let is_ours = unsafe { CStr::from_ptr($path) }.to_bytes() == $ours;
            match is_ours.then(|| simulate(stringify!($name), $sim)).flatten() {
                Some(result) => result as c_int,
                None => real!($name($($arg),*) -> c_int),
            }
        }
    };
}

on_path!(unlink(path: *const c_char), path == PATH, |w| w.unlink_path());
on_path!(chmod(path: *const c_char, mode: u32), path == PATH, |w| w.chmod_path(mode));
on_path!(fchmodat(folder: c_int, path: *const c_char, mode: u32, flags: c_int), path == PATH,
    |w| w.chmod_path(mode));
on_path!(open64(path: *const c_char, flags: c_int, mode: u32), path == FOLDER, |w| w.open_folder());
on_descriptor!(flock(fd, operation: c_int) -> c_int, |w| w.lock_folder(fd, operation));
on_path!(statx(folder: c_int, path: *const c_char, flags: c_int, mask: u32, place: *mut libc::statx),
    path == PATH, |w| {
    let (kind, number) = w.stat_path()?;
    // SAFETY: all zeros are a value of it.
    let mut found: libc::statx = unsafe { std::mem::zeroed() };
    (found.stx_mask, found.stx_mode, found.stx_ino) = (mask, kind as u16, number);
    // SAFETY: the caller's pointer is valid.
    unsafe { place.write(found) };
    Ok(0)
});

/// # Safety
/// As of the C library's function.
#[no_mangle]
pub unsafe extern "C" fn ppoll(
    entries: *mut libc::pollfd,
    count: usize,
    timeout: *const libc::timespec,
    mask: *const c_void,
) -> c_int {
    let first = match count {
        0 => -1,
        // SAFETY: there are `count` entries.
        _ => unsafe { (*entries).fd },
    };
    if is_ours(first) {
        let result = simulate("ppoll", |w| {
            // SAFETY: the caller's pointers are valid; there is a time or none.
            let (entries, time) = unsafe {
                let entries = std::slice::from_raw_parts_mut(entries, count);
                (entries, timeout.as_ref().map(nanos))
            };
            w.poll(entries, time)
        });
        return result.unwrap_or(-1) as c_int;
    }
    real!(ppoll(entries, count, timeout, mask) -> c_int)
}

/// # Safety
/// As of the C library's function.
#[no_mangle]
pub unsafe extern "C" fn poll(entries: *mut libc::pollfd, count: usize, millis: c_int) -> c_int {
    let time = libc::timespec {
        tv_sec: (millis.max(0) / 1000).into(),
        tv_nsec: (millis.max(0) % 1000 * 1_000_000).into(),
    };
    let place = if millis < 0 { std::ptr::null() } else { std::ptr::from_ref(&time) };
    // SAFETY: the caller's arguments.
    unsafe { ppoll(entries, count, place, std::ptr::null()) }
}

/// # Safety
/// As of the C library's function.
#[no_mangle]
pub unsafe extern "C" fn clock_gettime(clock: c_int, place: *mut libc::timespec) -> c_int {
    match world::enter(World::look_at_clock) {
        Some(now) => {
            let time = libc::timespec {
                tv_sec: (now / 1_000_000_000) as i64,
                tv_nsec: (now % 1_000_000_000) as i64,
            };
            // SAFETY: the caller's place is valid.
            unsafe { *place = time };
            0
        }
        None => real!(clock_gettime(clock, place) -> c_int),
    }
}

/// # Safety
/// As of the C library's function.
#[no_mangle]
pub unsafe extern "C" fn getrandom(buffer: *mut c_void, len: usize, flags: u32) -> isize {
    // SAFETY: the caller's buffer is valid.
    match world::enter(|w| w.fill_random(unsafe { room(buffer, len) })) {
        Some(()) => len as isize,
        None => real!(getrandom(buffer, len, flags) -> isize),
    }
}

/// # Safety
/// As of the C library's function.
#[no_mangle]
pub unsafe extern "C" fn clock_nanosleep(
    clock: c_int,
    flags: c_int,
    time: *const libc::timespec,
    left: *mut libc::timespec,
) -> c_int {
    let slept = world::enter(|w| {
        // SAFETY: the caller's pointer is valid.
        let until = w.now + nanos(unsafe { &*time });
        while w.advance(until) {}
    });
    match slept {
        Some(()) => 0,
        None => real!(clock_nanosleep(clock, flags, time, left) -> c_int),
    }
}

/// # Safety
/// As of the C library's function.
#[no_mangle]
pub unsafe extern "C" fn syscall(
    number: c_long,
    a: usize,
    b: usize,
    c: usize,
    d: usize,
    e: usize,
    f: usize,
) -> c_long {
    if number == libc::SYS_getrandom {
        // SAFETY: the caller's arguments.
        return unsafe { getrandom(a as *mut c_void, b, c as u32) } as c_long;
    }
    if number == libc::SYS_epoll_pwait && is_ours(a as c_int) {
        let (start, max, timeout) = (b as *mut libc::epoll_event, c as c_int as usize, d as c_int);
        if timeout != 0 {
            world::let_others_run();
        }
        let result = simulate("epoll_pwait", |w| {
            let found = w.epoll_wait(a as c_int, max, timeout)?;
            for (at, (data, bits)) in found.iter().enumerate() {
                let event = libc::epoll_event { events: *bits, u64: *data };
                // SAFETY: the caller has room for `max` events.
                unsafe { start.add(at).write_unaligned(event) };
            }
            Ok(found.len() as i64)
        });
        return result.unwrap_or(-1);
    }
    real!(syscall(number, a, b, c, d, e, f) -> c_long)
}

pub fn error_name(error: i32) -> String {
    let name = match error {
        libc::EAGAIN => "EAGAIN",
        libc::EINTR => "EINTR",
        libc::EIO => "EIO",
        libc::EPIPE => "EPIPE",
        libc::ECONNRESET => "ECONNRESET",
        libc::ETIMEDOUT => "ETIMEDOUT",
        libc::ENOTCONN => "ENOTCONN",
        libc::EMFILE => "EMFILE",
        libc::ENFILE => "ENFILE",
        libc::ENOMEM => "ENOMEM",
        libc::ENOBUFS => "ENOBUFS",
        libc::ENOSPC => "ENOSPC",
        libc::EPERM => "EPERM",
        libc::ECONNABORTED => "ECONNABORTED",
        libc::EPROTO => "EPROTO",
        libc::EINVAL => "EINVAL",
        libc::EBADF => "EBADF",
        libc::ENOENT => "ENOENT",
        libc::ENETUNREACH => "ENETUNREACH",
        libc::EADDRINUSE => "EADDRINUSE",
        libc::EINPROGRESS => "EINPROGRESS",
        _ => return format!("errno {error}"),
    };
    name.to_owned()
}
