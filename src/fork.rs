//! What fork(2) means for a server: it stays with the process that made it. The
//! child has a copy of the memory, which other threads of the parent may have
//! been changing, and none of those threads; and it shares the parent's sockets,
//! pollers and events. So the child uses none of them.

#![forbid(unsafe_code)]

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use crate::callback;
use crate::error::{Error, Status};
use crate::sys;

/// How many forks lie between the process that loaded the library and this one.
static GENERATION: AtomicU32 = AtomicU32::new(0);

/// Whether this process may have children, which have its descriptors until they
/// call execve(2).
static HAS_CHILDREN: AtomicBool = AtomicBool::new(false);

/// The process in which something was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Process(u32);

impl Process {
    #[inline(always)]
    pub fn current() -> Process {
        Process(GENERATION.load(Ordering::Relaxed))
    }

    /// Returns `false` in a child of that process.
    #[inline(always)]
    pub fn is_current(self) -> bool {
        self == Process::current()
    }

    /// Returns whether a fork has made this process since the library was
    /// loaded.
    #[inline(always)]
    pub fn is_forked() -> bool {
        Process::current() != Process(0)
    }
}

/// Makes forks count from now on. Only fork(3) of the C library does: a child of
/// vfork(2), or of a bare system call, must call execve(2).
pub(crate) fn watch() -> io::Result<()> {
    static WATCHED: AtomicBool = AtomicBool::new(false);
    if !WATCHED.load(Ordering::Acquire) {
        // A second thread that comes here too does no harm: each fork counts
        // twice then.
        sys::at_fork(before, in_child)?;
        WATCHED.store(true, Ordering::Release);
    }
    Ok(())
}

/// Returns whether a child may have copies of this process's descriptors: to
/// close one then ends nothing for the peer.
#[inline]
pub(crate) fn has_children() -> bool {
    HAS_CHILDREN.load(Ordering::Relaxed)
}

/// Runs before each fork.
extern "C" fn before() {
    HAS_CHILDREN.store(true, Ordering::Relaxed);
}

/// Runs in each child, on its only thread, before fork(3) returns.
extern "C" fn in_child() {
    GENERATION.fetch_add(1, Ordering::Relaxed);
    HAS_CHILDREN.store(false, Ordering::Relaxed);
    callback::orphan();
}

/// The error of every call for a server of the parent.
pub(crate) fn error() -> Error {
    Error::new(Status::State, "the server belongs to the parent process")
}
