//! `blocking/seat.rs` and `conn/context.rs`: how other threads end the connection
//! of a worker.

use std::sync::Arc;

use loom::thread;

use crate::conn::{context, ForcedEnd, Owner, Sending};
use crate::kernel::{self, Shutdown};
use crate::seat::Seat;
use crate::{model, Model};

pub const MODELS: &[Model] = &[
    ("no thread ends a connection that is closed", no_thread_ends_a_connection_that_is_closed),
    ("an end is not that of the next connection", an_end_is_not_that_of_the_next_connection),
    ("an end that was forced stays", an_end_that_was_forced_stays),
    ("the strongest end counts", the_strongest_end_counts),
    ("a worker that waits to send is ended", a_worker_that_waits_to_send_is_ended),
    ("no input is shut after the end was sent", no_input_is_shut_after_the_end_was_sent),
];

const ID: u64 = 5;

/// Returns a seat whose worker serves a connection.
fn served() -> (Arc<Seat>, i32) {
    let seat = Arc::new(Seat::new(context(Owner::Worker)));
    let fd = kernel::open();
    seat.context().note_sending(Sending::No);
    seat.publish(ID, fd);
    (seat, fd)
}

fn end(seat: &Arc<Seat>, how: ForcedEnd) -> thread::JoinHandle<bool> {
    let seat = seat.clone();
    thread::spawn(move || seat.force_end(ID, how))
}

fn no_thread_ends_a_connection_that_is_closed() {
    model(|| {
        let (seat, fd) = served();
        let threads = [end(&seat, ForcedEnd::Close), end(&seat, ForcedEnd::Abort)];
        seat.retract();
        kernel::close_fd(fd);
        threads.into_iter().for_each(|thread| assert!(thread.join().is_ok()));
    });
}

fn an_end_is_not_that_of_the_next_connection() {
    model(|| {
        let (seat, fd) = served();
        let thread = end(&seat, ForcedEnd::Abort);
        seat.forget_id();
        seat.retract();
        kernel::close_fd(fd);
        let next = kernel::open();
        seat.publish(ID + 1, next);
        thread.join().unwrap();
        assert_eq!(seat.context().forced_end(), ForcedEnd::None);
        assert_eq!(kernel::log(next), []);
    });
}

fn an_end_that_was_forced_stays() {
    model(|| {
        let seat = Arc::new(Seat::new(context(Owner::Worker)));
        let fd = kernel::open();
        let thread = end(&seat, ForcedEnd::Close);
        seat.publish(ID, fd);
        let was_ended = thread.join().unwrap();
        assert_eq!(was_ended, seat.context().forced_end() == ForcedEnd::Close);
    });
}

fn the_strongest_end_counts() {
    model(|| {
        let (seat, fd) = served();
        let threads = [end(&seat, ForcedEnd::Close), end(&seat, ForcedEnd::Abort)];
        threads.into_iter().for_each(|thread| assert!(thread.join().unwrap()));
        assert_eq!(seat.context().forced_end(), ForcedEnd::Abort);
        assert!(kernel::log(fd).contains(&Shutdown::Reset));
    });
}

/// The worker sees the end and does not wait, or the other thread sees that it
/// waits and resets the connection.
fn a_worker_that_waits_to_send_is_ended() {
    model(|| {
        let (seat, fd) = served();
        let thread = end(&seat, ForcedEnd::Close);
        let waits = seat.context().note_sending(Sending::Message) == ForcedEnd::None;
        thread.join().unwrap();
        let is_reset = kernel::log(fd).contains(&Shutdown::Reset);
        assert!(!waits || is_reset, "the worker waits for ever");
    });
}

/// The worker sees the end and leaves its own to the last step, or the other
/// thread sees that the worker has sent it and does not shut the input.
fn no_input_is_shut_after_the_end_was_sent() {
    model(|| {
        let (seat, fd) = served();
        let thread = end(&seat, ForcedEnd::Close);
        let sends_end = seat.context().note_fin();
        thread.join().unwrap();
        assert!(!sends_end || kernel::log(fd).is_empty(), "the kernel resets the connection");
    });
}
