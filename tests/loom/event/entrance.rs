//! `event/handle.rs`, how connections of other threads enter a loop.

use std::os::fd::{BorrowedFd, RawFd};
use std::sync::Arc;

use loom::thread;

use crate::conn::Conn;
use crate::event::{Loop, LoopHandle, Mail};
use crate::kernel;
use crate::{model, Model};

pub const MODELS: &[Model] = &[
    ("a connection is there before its first event", a_connection_is_there_before_its_first_event),
    ("a connection is there before mail for it", a_connection_is_there_before_mail_for_it),
    (
        "a stop finds every connection that has entered",
        a_stop_finds_every_connection_that_has_entered,
    ),
];

fn lend(fd: &RawFd) -> Option<BorrowedFd<'_>> {
    // SAFETY: it stays open.
    Some(unsafe { BorrowedFd::borrow_raw(*fd) })
}

/// Puts a socket into the loop, as another thread does.
fn insert(handle: &LoopHandle) -> Option<u64> {
    handle.insert_remote(kernel::open(), lend, |_, id| Conn { id }).ok()
}

fn a_connection_is_there_before_its_first_event() {
    model(|| {
        let mut at = Loop::new();
        for _ in 0..2 {
            let handle = at.handle.clone();
            thread::spawn(move || insert(&handle).unwrap());
        }
        at.run_until(|at| at.events.len() == 2);
        assert_eq!(at.conns.len(), 2);
        assert_ne!(at.conns[0].id, at.conns[1].id);
    });
}

fn a_connection_is_there_before_mail_for_it() {
    model(|| {
        let mut at = Loop::new();
        let handle = at.handle.clone();
        thread::spawn(move || {
            let id = insert(&handle).unwrap();
            handle.post(Mail::Close(id));
        });
        at.run_until(|at| at.mail.len() == 1);
        at.install_arrivals();
        let Mail::Close(id) = at.mail[0];
        assert_eq!(at.conns.iter().map(|conn| conn.id).collect::<Vec<_>>(), [id]);
    });
}

fn a_stop_finds_every_connection_that_has_entered() {
    model(|| {
        let mut at = Loop::new();
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let handle: Arc<LoopHandle> = at.handle.clone();
                thread::spawn(move || insert(&handle).is_some())
            })
            .collect();
        at.install_arrivals();
        at.shut();
        let entered = threads.into_iter().map(|t| t.join().unwrap());
        assert_eq!(entered.filter(|entered| *entered).count(), at.conns.len());
    });
}
