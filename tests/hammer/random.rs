//! Random numbers that a seed repeats.

use std::cell::RefCell;

/// xorshift64* (Vigna, 2016).
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % n
    }
}

/// A callback's own numbers: each of the server's threads has its own.
pub fn random<T>(seed: u64, body: impl FnOnce(&mut Random) -> T) -> T {
    thread_local! {
        static OWN: RefCell<Option<Random>> = const { RefCell::new(None) };
    }
    // Taken out meanwhile: the body may panic on purpose.
    let thread = crate::support::thread_number() as u64;
    let own = OWN.take();
    let mut numbers = own.unwrap_or_else(|| Random::new(seed ^ thread << 20));
    // The next numbers must not depend on whether the body panics.
    let next = Random::new(numbers.below(usize::MAX >> 1) as u64);
    OWN.set(Some(next));
    body(&mut numbers)
}
