//! Looks whether an episode goes on: a call of the library may not return.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

/// How much processor time an episode may take, in seconds. The longest takes some ten.
const MOST: u64 = 90;
/// For how many seconds of real time it may take next to none. A busy machine gives some.
const IDLE: u64 = 120;
const NEXT_TO_NONE: u64 = 20_000_000;

/// The processor time of this program, in ns. While an episode runs it is the episode's.
fn used() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the place is valid.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Waits for what an episode sends. `Err` says why it is given up.
pub fn wait_for<T>(outcome: &Receiver<T>) -> Result<Option<T>, String> {
    let most = std::env::var("NS_SIM_LONGEST").ok().and_then(|text| text.parse().ok());
    let most: u64 = most.unwrap_or(MOST);
    let began = used();
    let (mut idle, mut before) = (0, began);
    loop {
        match outcome.recv_timeout(Duration::from_secs(1)) {
            Ok(outcome) => return Ok(Some(outcome)),
            Err(RecvTimeoutError::Disconnected) => return Ok(None),
            Err(RecvTimeoutError::Timeout) => {}
        }
        let now = used();
        idle += 1;
        if now - before > NEXT_TO_NONE {
            (idle, before) = (0, now);
        }
        if now - began > most * 1_000_000_000 {
            return Err(format!("it does not end within {most} s of processor time"));
        }
        if idle > IDLE {
            return Err(format!("it does nothing for {IDLE} s"));
        }
    }
}
