//! Models of what the library's threads share. loom runs each model in every
//! order of its threads' steps, with at most `LOOM_MAX_PREEMPTIONS` that a thread
//! does not make by itself, and with every value that a load may see.
//!
//! The files of the library are compiled here as they are. What they use and what
//! is no part of a model is in `parts.rs`: it does the least that they need. The
//! kernel (descriptors, an epoll) and the channel are in `kernel.rs`.

#![cfg(loom)]
// The library uses the rest of its files.
#![allow(dead_code, unused_imports)]

// The files name these crates: here they are this one.
extern crate self as crossbeam_channel;
extern crate self as libc;
extern crate self as rustix;

mod closing;
mod conn;
mod event;
mod kernel;
mod parts;
mod seats;
mod sys;

#[path = "../../src/clock.rs"]
mod clock;
#[path = "../../src/blocking/seat.rs"]
mod seat;
#[path = "../../src/sync.rs"]
mod sync;

use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

pub use kernel::{
    __errno_location, eventfd, io, unbounded, Receiver, Sender, EBADF, EEXIST, EFD_CLOEXEC,
    EFD_NONBLOCK,
};
use parts::{config, error, fork, outbuf, stats};

/// What the model shows, and the model.
type Model = (&'static str, fn());

/// How many orders the model has had.
static ORDERS: AtomicUsize = AtomicUsize::new(0);

/// Runs a model in every order.
fn model(body: impl Fn() + Send + Sync + 'static) {
    loom::model(move || {
        ORDERS.fetch_add(1, Ordering::Relaxed);
        kernel::begin();
        body();
    });
}

/// Runs all models.
fn main() {
    let groups = [
        ("waker", closing::MODELS),
        ("ids", conn::words::MODELS),
        ("mailbox", event::mailbox::MODELS),
        ("entrance", event::entrance::MODELS),
        ("seats", seats::MODELS),
    ];
    let models = groups.iter().flat_map(|(group, models)| models.iter().map(move |m| (group, m)));
    let mut count = 0;
    for (group, (name, run)) in models {
        // A finding is a panic: this is what was not so.
        print!("{group}: {name}");
        let _ = std::io::stdout().flush();
        let (before, begin) = (ORDERS.load(Ordering::Relaxed), Instant::now());
        run();
        let orders = ORDERS.load(Ordering::Relaxed) - before;
        println!(": {orders} orders in {} ms", begin.elapsed().as_millis());
        count += 1;
    }
    println!("{count} models hold, in {} orders", ORDERS.load(Ordering::Relaxed));
}
