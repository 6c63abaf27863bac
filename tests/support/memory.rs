//! The allocator of the test programs. It fails on demand, on the threads of the library.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ptr;
use std::sync::atomic::{AtomicI64, Ordering};

struct Failing;

/// How many more allocations succeed before one fails; negative: none fails.
static LEFT: AtomicI64 = AtomicI64::new(-1);

thread_local! {
    /// The thread is the test's: its allocations succeed.
    static EXEMPT: Cell<bool> = const { Cell::new(false) };
}

fn must_fail() -> bool {
    LEFT.load(Ordering::Relaxed) >= 0 && !EXEMPT.get() && LEFT.fetch_sub(1, Ordering::SeqCst) == 0
}

// SAFETY: the system's allocator does the work.
unsafe impl GlobalAlloc for Failing {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match must_fail() {
            true => ptr::null_mut(),
            // SAFETY: the caller's contract.
            false => unsafe { System.alloc(layout) },
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        match must_fail() {
            true => ptr::null_mut(),
            // SAFETY: the caller's contract.
            false => unsafe { System.alloc_zeroed(layout) },
        }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        match must_fail() {
            true => ptr::null_mut(),
            // SAFETY: the caller's contract.
            false => unsafe { System.realloc(place, layout, size) },
        }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: the caller's contract.
        unsafe { System.dealloc(place, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Failing = Failing;

/// The allocation of this number, from 0, that other threads make during `body` fails; those after
/// it succeed. Returns whether they made so many.
pub fn fail_allocation(number: usize, body: impl FnOnce()) -> bool {
    EXEMPT.set(true);
    LEFT.store(number as i64, Ordering::SeqCst);
    body();
    let left = LEFT.swap(-1, Ordering::SeqCst);
    EXEMPT.set(false);
    left < 0
}
