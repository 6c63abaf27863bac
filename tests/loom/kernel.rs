//! Descriptors, an epoll and a channel, as the models need them. An eventfd is a
//! counter; a channel is a queue with a lock.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::sync::Arc;

use loom::cell::UnsafeCell;
use loom::sync::{Condvar, Mutex};

pub const EFD_CLOEXEC: i32 = 0;
pub const EFD_NONBLOCK: i32 = 0;
pub const EBADF: i32 = 9;
pub const EEXIST: i32 = 17;

/// The first descriptor. It is no descriptor of this process.
const FIRST: RawFd = 1_000_000;

/// loom reports a use that is not ordered before the close.
struct Descriptor {
    life: UnsafeCell<bool>,
    watchers: Mutex<Vec<(Poller, u64)>>,
    log: Mutex<Vec<Shutdown>>,
}

// All threads of a model share one thread of the process.
thread_local! {
    static TABLE: RefCell<Vec<Arc<Descriptor>>> = const { RefCell::new(Vec::new()) };
    static ERRNO: RefCell<i32> = const { RefCell::new(0) };
}

fn descriptor(fd: RawFd) -> Arc<Descriptor> {
    TABLE.with_borrow(|table| table[(fd - FIRST) as usize].clone())
}

/// Makes an open descriptor.
pub fn open() -> RawFd {
    let descriptor = Descriptor {
        life: UnsafeCell::new(true),
        watchers: Mutex::new(Vec::new()),
        log: Mutex::new(Vec::new()),
    };
    TABLE.with_borrow_mut(|table| {
        table.push(Arc::new(descriptor));
        FIRST + table.len() as RawFd - 1
    })
}

/// A call that uses the descriptor.
fn touch(fd: RawFd) -> Arc<Descriptor> {
    let descriptor = descriptor(fd);
    // SAFETY: loom sees to it that no close runs meanwhile.
    descriptor.life.with(|open| assert!(unsafe { *open }, "the descriptor is closed"));
    descriptor
}

pub fn close_fd(fd: RawFd) {
    // SAFETY: loom sees to it that nobody uses it meanwhile.
    descriptor(fd).life.with_mut(|open| unsafe {
        assert!(*open, "closed twice");
        *open = false;
    });
}

/// Forgets the descriptors of the order before.
pub fn begin() {
    TABLE.take();
}

/// # Safety
/// None is needed; the file that calls it has an unsafe call here.
pub unsafe fn eventfd(_: u32, _: i32) -> RawFd {
    open()
}

/// # Safety
/// None is needed, as above.
pub unsafe fn __errno_location() -> *mut i32 {
    ERRNO.with(RefCell::as_ptr)
}

pub mod io {
    use super::*;

    pub fn write(fd: BorrowedFd<'_>, _: &[u8]) -> std::io::Result<usize> {
        for (poller, token) in &*touch(fd.as_raw_fd()).watchers.lock().unwrap() {
            poller.push(*token);
        }
        Ok(8)
    }

    /// # Safety
    /// None is needed, as above.
    pub unsafe fn close(fd: RawFd) {
        close_fd(fd);
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Shutdown {
    Read,
    /// A reset.
    Reset,
}

pub fn shutdown(fd: RawFd, how: Shutdown) {
    touch(fd).log.lock().unwrap().push(how);
}

pub fn reset_on_close(fd: RawFd) {
    touch(fd);
}

pub fn disconnect(fd: RawFd) {
    shutdown(fd, Shutdown::Reset);
}

/// Returns what other threads have done to the descriptor.
pub fn log(fd: RawFd) -> Vec<Shutdown> {
    descriptor(fd).log.lock().unwrap().clone()
}

#[derive(Clone, Copy)]
pub struct Bits;
pub const INPUT: Bits = Bits;
pub const BOTH: Bits = Bits;

/// Edge-triggered: each signal of an eventfd makes an event, and so does the
/// registration of a socket, which can be written.
#[derive(Clone)]
pub struct Poller(Arc<(Mutex<VecDeque<u64>>, Condvar)>);

impl Poller {
    pub fn new() -> Poller {
        Poller(Arc::new((Mutex::new(VecDeque::new()), Condvar::new())))
    }

    pub fn add(&self, fd: BorrowedFd<'_>, token: u64, _: Bits) -> std::io::Result<()> {
        touch(fd.as_raw_fd()).watchers.lock().unwrap().push((self.clone(), token));
        if token != u64::MAX {
            self.push(token);
        }
        Ok(())
    }

    fn push(&self, token: u64) {
        self.0 .0.lock().unwrap().push_back(token);
        self.0 .1.notify_all();
    }

    pub fn wait(&self) -> Vec<u64> {
        let mut events = self.0 .0.lock().unwrap();
        while events.is_empty() {
            events = self.0 .1.wait(events).unwrap();
        }
        events.drain(..).collect()
    }
}

pub struct Sender<T>(Arc<Mutex<VecDeque<T>>>);
pub struct Receiver<T>(Arc<Mutex<VecDeque<T>>>);

pub fn unbounded<T>() -> (Sender<T>, Receiver<T>) {
    let queue = Arc::new(Mutex::new(VecDeque::new()));
    (Sender(queue.clone()), Receiver(queue))
}

impl<T> Sender<T> {
    pub fn send(&self, value: T) -> Result<(), ()> {
        self.0.lock().unwrap().push_back(value);
        Ok(())
    }
}

impl<T> Receiver<T> {
    pub fn try_recv(&self) -> Result<T, ()> {
        self.0.lock().unwrap().pop_front().ok_or(())
    }
}
