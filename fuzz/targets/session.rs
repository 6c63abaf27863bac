#![no_main]

/// libFuzzer's hook aborts at each panic. One of rustls is known, and the session contains it: see
/// `check_rustls` in src/fuzzing/session.rs, which judges whether it may come.
fn let_known_panic_pass() {
    let abort = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !panic.to_string().contains("assertion failed: !self.sent_fatal_alert") {
            abort(panic);
        }
    }));
}

libfuzzer_sys::fuzz_target!(
    init: let_known_panic_pass(),
    |data: &[u8]| net_server::fuzzing::session(data)
);
