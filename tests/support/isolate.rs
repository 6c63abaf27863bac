//! One process for each test: exact accounts of threads and descriptors, its own limits and
//! signals, and a hang or a crash that ends nothing else.

use super::process::Inventory;
use super::{comes_true, SOON};
use std::ffi::OsStr;
use std::io::Write;
use std::process::Command;

const CHILD: &str = "NS_TEST_CHILD";
/// A test that runs longer hangs.
const LIMIT_SECONDS: u32 = 180;

/// Runs `body` in a process of its own (this test binary again, with this test alone) and checks
/// that afterwards its threads and descriptors are what they were. To be called from the test
/// function itself: the closure's type has the name of the test.
#[track_caller]
pub fn isolated<F: FnOnce()>(body: F) {
    isolated_for(LIMIT_SECONDS, body);
}

#[track_caller]
pub fn isolated_for<F: FnOnce()>(limit_seconds: u32, body: F) {
    // "the_binary::suite::ids::order_holds::{{closure}}"
    let name = std::any::type_name::<F>().trim_end_matches("::{{closure}}");
    let (_, name) = name.split_once("::").expect("a path");
    let excluded = |(excluded, _): &&(&str, &str)| name == format!("suite::{excluded}");
    if let Some((_, reason)) = crate::api::EXCLUDED.iter().find(excluded) {
        // Not `eprintln`, which the test harness keeps to itself.
        let _ = writeln!(std::io::stderr(), "excluded from this run: {name}: {reason}");
        return;
    }
    if std::env::var_os(CHILD).is_some() {
        run(limit_seconds, body);
    } else {
        run_in_child(name);
    }
}

fn run(limit_seconds: u32, body: impl FnOnce()) {
    // SAFETY: `alarm` takes a number. Its signal ends the process when the test hangs.
    unsafe { libc::alarm(limit_seconds) };
    let before = Inventory::take();
    body();
    before.assert_restored();
}

#[track_caller]
fn run_in_child(name: &str) {
    // A program of another machine needs one that runs it: scripts/test-cross.
    let runner = std::env::var("NS_TEST_RUNNER").unwrap_or_default();
    let program = std::env::current_exe().unwrap();
    let mut words = runner.split_whitespace().map(OsStr::new).chain([program.as_os_str()]);
    let output = Command::new(words.next().unwrap())
        .args(words)
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env(CHILD, "1")
        .env("RUST_BACKTRACE", "0")
        .output()
        .expect("run the test binary");
    let stdout = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() || !stdout.contains("1 passed") {
        let stderr = String::from_utf8_lossy(&output.stderr);
        panic!("{name}: {}\n{stdout}\n{stderr}", output.status);
    }
}
