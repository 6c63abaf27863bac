#![no_main]

#[path = "../../tests/fuzzing/calls.rs"]
mod calls;

libfuzzer_sys::fuzz_target!(|data: &[u8]| calls::target(data));
