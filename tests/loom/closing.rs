//! `sys/waker.rs`: nobody uses the descriptor when `close` closes it.

use std::sync::Arc;

use loom::thread;

use crate::sys::{Poller, Waker};
use crate::{model, Model};

pub const MODELS: &[Model] = &[
    ("a close waits for those who signal", a_close_waits_for_those_who_signal),
    ("a close waits for those who watch", a_close_waits_for_those_who_watch),
    ("two closes close once", two_closes_close_once),
];

const TOKEN: u64 = 7;

fn a_close_waits_for_those_who_signal() {
    model(|| {
        let waker = Arc::new(Waker::new().unwrap());
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let waker = waker.clone();
                thread::spawn(move || waker.signal())
            })
            .collect();
        waker.close();
        waker.signal();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
}

fn a_close_waits_for_those_who_watch() {
    model(|| {
        let waker = Arc::new(Waker::new().unwrap());
        let other = waker.clone();
        let thread = thread::spawn(move || drop(other.watch(&Poller::new(), TOKEN)));
        waker.close();
        assert!(waker.watch(&Poller::new(), TOKEN).is_err());
        thread.join().unwrap();
    });
}

fn two_closes_close_once() {
    model(|| {
        let waker = Arc::new(Waker::new().unwrap());
        let other = waker.clone();
        let thread = thread::spawn(move || other.close());
        waker.close();
        thread.join().unwrap();
    });
}
