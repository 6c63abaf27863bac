//! Looks at this process: threads, descriptors, signals, limits, time used.

use socket2::SockRef;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::path::PathBuf;
use std::time::Duration;

use super::{comes_true, SOON};

/// How many threads there are, and how many descriptors of each kind.
#[derive(Debug, PartialEq)]
pub struct Inventory {
    threads: usize,
    descriptors: BTreeMap<String, usize>,
}

impl Inventory {
    pub fn take() -> Inventory {
        let mut descriptors = BTreeMap::new();
        for (_, kind) in descriptors_with_kind() {
            *descriptors.entry(kind).or_insert(0) += 1;
        }
        Inventory { threads: threads().count(), descriptors }
    }

    /// Nothing was left behind since then.
    #[track_caller]
    pub fn assert_restored(&self) {
        let restored = comes_true(SOON, || Inventory::take() == *self);
        assert!(restored, "left behind: before {self:?}, after {:?}", Inventory::take());
    }
}

/// The flag of a thread that exits, of include/linux/sched.h.
const PF_EXITING: u32 = 4;

/// The threads of this process, without those that exit: a thread that has been joined stands in
/// /proc a moment longer, for the kernel reports its end before it takes it off the list.
fn threads() -> impl Iterator<Item = PathBuf> {
    let all = fs::read_dir("/proc/self/task").unwrap().flatten();
    all.map(|entry| entry.path()).filter(|thread| {
        // "number (name) state ppid pgrp session tty_nr tpgid flags ...", of proc_pid_stat(5).
        let Ok(stat) = fs::read_to_string(thread.join("stat")) else { return false };
        let (_, fields) = stat.rsplit_once(") ").expect("a name");
        let flags: u32 = fields.split(' ').nth(6).expect("flags").parse().unwrap();
        flags & PF_EXITING == 0
    })
}

/// Whether each thread but this one waits for something that has not come.
pub fn others_sleep() -> bool {
    // SAFETY: it has no argument.
    let own = unsafe { libc::gettid() }.to_string();
    threads().filter(|thread| !thread.ends_with(&own)).all(|thread| {
        let Ok(stat) = fs::read_to_string(thread.join("stat")) else { return false };
        stat.rsplit_once(") ").is_some_and(|(_, fields)| fields.starts_with('S'))
    })
}

fn descriptors_with_kind() -> Vec<(RawFd, String)> {
    let kind = |target: String| match target.split_once(":[") {
        Some((kind, _)) if kind != "anon_inode" => kind.to_owned(),
        _ => target,
    };
    let mut all = Vec::new();
    for entry in fs::read_dir("/proc/self/fd").unwrap().flatten() {
        // The directory's own descriptor is gone by the time its link is read.
        if let Ok(target) = fs::read_link(entry.path()) {
            let target = target.to_string_lossy().into_owned();
            if !target.ends_with("/fd") {
                let number = entry.file_name().to_string_lossy().parse().unwrap();
                all.push((number, kind(target)));
            }
        }
    }
    all
}

pub fn descriptors() -> Vec<RawFd> {
    descriptors_with_kind().into_iter().map(|(fd, _)| fd).collect()
}

fn sockets() -> impl Iterator<Item = RawFd> {
    let all = descriptors_with_kind().into_iter();
    all.filter(|(_, kind)| kind == "socket").map(|(fd, _)| fd)
}

pub fn count_sockets() -> usize {
    sockets().count()
}

/// Whether a descriptor is closed when another program is executed.
pub fn is_close_on_exec(fd: RawFd) -> bool {
    // SAFETY: F_GETFD only reads a flag.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFD) };
    flags < 0 || flags & libc::FD_CLOEXEC != 0
}

/// The library's threads: their numbers and names.
pub fn library_threads() -> Vec<(String, String)> {
    let mut named = Vec::new();
    for thread in threads() {
        if let Ok(name) = fs::read_to_string(thread.join("comm")) {
            let name = name.trim_end().to_owned();
            if name.starts_with("ns-") {
                let number = thread.file_name().expect("a number").to_string_lossy();
                named.push((number.into_owned(), name));
            }
        }
    }
    named
}

pub fn count_threads_named(prefix: &str) -> usize {
    library_threads().iter().filter(|(_, name)| name.starts_with(prefix)).count()
}

/// How often the library's threads of a name waited so far.
pub fn context_switches(prefix: &str) -> u64 {
    let threads = library_threads().into_iter().filter(|(_, name)| name.starts_with(prefix));
    let count = |(thread, _)| {
        let text = fs::read_to_string(format!("/proc/self/task/{thread}/status")).unwrap();
        let line = text.lines().find(|line| line.starts_with("voluntary_ctxt")).unwrap();
        line.rsplit('\t').next().unwrap().trim().parse::<u64>().unwrap()
    };
    threads.map(count).sum()
}

/// The set of blocked signals of a thread; bit n-1 is signal n.
pub fn blocked_signals(thread: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/self/task/{thread}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("SigBlk:")).unwrap();
    u64::from_str_radix(line["SigBlk:".len()..].trim(), 16).unwrap()
}

/// The number of this thread, as the kernel has it.
pub fn thread_number() -> i32 {
    // SAFETY: takes nothing, cannot fail.
    unsafe { libc::gettid() }
}

/// Processor time that this process has used.
pub fn processor_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is valid for writing.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// How long this process' threads, all together, were ready to run and had no processor.
pub fn waited_for_processor() -> Duration {
    // "time_on_processor time_in_run_queue timeslices", in ns.
    let delay = |thread: PathBuf| {
        let text = fs::read_to_string(thread.join("schedstat")).ok()?;
        text.split(' ').nth(1)?.parse::<u64>().ok()
    };
    Duration::from_nanos(threads().filter_map(delay).sum())
}

/// Resident memory of this process in KiB.
pub fn resident_kib() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// The limit on descriptors: (soft, hard).
pub fn descriptor_limit() -> (libc::rlim_t, libc::rlim_t) {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is valid for writing.
    unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) };
    (limit.rlim_cur, limit.rlim_max)
}

pub fn set_descriptor_limit(soft: libc::rlim_t) {
    let limit = libc::rlimit { rlim_cur: soft, rlim_max: descriptor_limit().1 };
    // SAFETY: `limit` is valid for reading.
    let result = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) };
    assert_eq!(result, 0, "setrlimit");
}

/// Leaves this process with `left` free descriptors, until the limit is put back and the result
/// dropped.
pub fn fill_descriptors(left: usize) -> Vec<File> {
    let mut fillers: Vec<File> = Vec::new();
    let highest = descriptors().into_iter().max().unwrap_or(2) as libc::rlim_t;
    loop {
        let file = File::open("/dev/null").expect("open");
        if file.as_raw_fd() as libc::rlim_t > highest {
            break;
        }
        fillers.push(file);
    }
    set_descriptor_limit(highest + 1 + left as libc::rlim_t);
    fillers
}

/// An integer socket option.
pub fn socket_option(fd: RawFd, level: i32, option: i32) -> i32 {
    socket_option_if_open(fd, level, option).expect("getsockopt")
}

/// The same of a descriptor that may be closed meanwhile.
fn socket_option_if_open(fd: RawFd, level: i32, option: i32) -> Option<i32> {
    let mut value = 0i32;
    let mut size = size_of::<i32>() as libc::socklen_t;
    // SAFETY: `value` and `size` are valid for writing.
    let result = unsafe { libc::getsockopt(fd, level, option, (&raw mut value).cast(), &mut size) };
    (result == 0).then_some(value)
}

/// How many bytes wait in a socket's receive buffer.
pub fn bytes_waiting(fd: RawFd) -> usize {
    let mut count = 0i32;
    // SAFETY: FIONREAD writes one int.
    let result = unsafe { libc::ioctl(fd, libc::FIONREAD, &mut count) };
    assert_eq!(result, 0, "FIONREAD");
    count as usize
}

/// How many bytes that were sent on a socket have not reached the other end.
pub fn bytes_under_way(fd: RawFd) -> usize {
    let mut count = 0i32;
    // SAFETY: TIOCOUTQ writes one int.
    let result = unsafe { libc::ioctl(fd, libc::TIOCOUTQ, &mut count) };
    assert_eq!(result, 0, "TIOCOUTQ");
    count as usize
}

/// Whether the server, in this process too, has read all that was sent on this connection.
pub fn was_read(client: &impl AsFd) -> bool {
    let client = SockRef::from(client);
    let address = client.local_addr().unwrap().as_socket();
    let is_other_end = |fd: &RawFd| {
        // SAFETY: at worst it is closed meanwhile, and has no address then.
        let socket = unsafe { BorrowedFd::borrow_raw(*fd) };
        let peer = SockRef::from(&socket).peer_addr();
        peer.is_ok_and(|peer| peer.as_socket() == address)
    };
    let mut others = sockets().filter(is_other_end);
    bytes_under_way(client.as_raw_fd()) == 0 && others.any(|fd| bytes_waiting(fd) == 0)
}

/// The kernel's report about a TCP socket.
pub fn tcp_info(fd: RawFd) -> libc::tcp_info {
    // SAFETY: a plain structure of numbers.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut size = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: `info` and `size` are valid for writing.
    let result = unsafe {
        libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, (&raw mut info).cast(), &mut size)
    };
    assert_eq!(result, 0, "TCP_INFO");
    info
}

/// The listening sockets of this process.
pub fn listening_sockets() -> Vec<RawFd> {
    let listens =
        |fd: &RawFd| socket_option_if_open(*fd, libc::SOL_SOCKET, libc::SO_ACCEPTCONN) == Some(1);
    sockets().filter(listens).collect()
}
