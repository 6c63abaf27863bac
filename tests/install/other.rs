//! Another Rust archive in the same program: with a standard library, panics and locals of its own.

use std::cell::RefCell;
use std::collections::HashMap;

thread_local! {
    static SEEN: RefCell<HashMap<u32, String>> = RefCell::default();
}

/// Panics, catches it, and returns what the panic said as a number.
#[no_mangle]
pub extern "C" fn other_catches(number: u32) -> u32 {
    let caught = std::panic::catch_unwind(|| {
        SEEN.with_borrow_mut(|seen| seen.insert(number, number.to_string()));
        std::panic::resume_unwind(Box::new(number));
    });
    let number = *caught.unwrap_err().downcast::<u32>().unwrap();
    SEEN.with_borrow(|seen| seen[&number].parse().unwrap())
}
