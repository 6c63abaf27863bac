//! `conn/ids.rs` and `conn/inbox.rs`: the one word of a connection.

use std::net::Shutdown;
use std::sync::Arc;

use loom::thread;

use crate::conn::{context, IdTable, Message, Owner, ThreadContext, Total};
use crate::{model, Model};

pub const MODELS: &[Model] = &[
    ("a close finds all that was accepted", a_close_finds_all_that_was_accepted),
    ("bytes are not those of the next connection", bytes_are_not_those_of_the_next_connection),
    ("each request is made once", each_request_is_made_once),
    ("all together stay within the bounds", all_together_stay_within_the_bounds),
    ("what is written is no longer counted", what_is_written_is_no_longer_counted),
];

fn shared() -> (Arc<ThreadContext>, u64) {
    let context = Arc::new(context(Owner::Loop));
    context.ids.grow(0).unwrap();
    let id = context.ids.give(0, 0).unwrap();
    context.ids.open(id, true);
    (context, id)
}

/// Does what a close in the loop does: returns the bytes that were accepted.
fn close(context: &ThreadContext, id: u64) -> usize {
    context.ids.shut(id);
    match context.inbox.is_empty(&context.ids) {
        true => 0,
        false => context.inbox.take(id).map_or(0, |queue| queue.len()),
    }
}

fn a_close_finds_all_that_was_accepted() {
    model(|| {
        let (context, id) = shared();
        let other = context.clone();
        let sender = thread::spawn(move || {
            let put = |bytes| other.inbox.put(&other.ids, id, &Message::new(bytes)).is_ok();
            (put(b"x"), put(b"yz"))
        });
        let found = close(&context, id);
        let (first, second) = sender.join().unwrap();
        assert_eq!(found, usize::from(first) + 2 * usize::from(second));
        assert_eq!(context.ids.pending(id), found);
    });
}

fn bytes_are_not_those_of_the_next_connection() {
    model(|| {
        let (context, id) = shared();
        let other = context.clone();
        let sender =
            thread::spawn(move || other.inbox.put(&other.ids, id, &Message::new(b"x")).is_ok());
        let found = close(&context, id);
        context.ids.release(id);
        context.ids.grow(0).unwrap();
        let next = context.ids.give(0, 0).unwrap();
        context.ids.open(next, true);
        assert_eq!(sender.join().unwrap(), found == 1);
        assert_eq!(context.ids.pending(next), 0);
    });
}

fn each_request_is_made_once() {
    model(|| {
        let (context, id) = shared();
        let ask = |context: Arc<ThreadContext>| {
            move || {
                let ids = &context.ids;
                (ids.wake(id), ids.half_close(id, Shutdown::Write), ids.abort(id))
            }
        };
        let threads = [thread::spawn(ask(context.clone())), thread::spawn(ask(context.clone()))];
        let [first, second] = threads.map(|thread| thread.join().unwrap());
        // An abort ends the calls by id.
        let made = |a, b| usize::from(a == Ok(true)) + usize::from(b == Ok(true));
        assert_eq!(made(first.0, second.0), 1);
        assert_eq!(made(first.1, second.1), 1);
        assert_eq!(made(first.2, second.2), 1);
        assert_eq!(context.ids.release(id), (true, true));
    });
}

fn all_together_stay_within_the_bounds() {
    model(|| {
        let total = Total::of(100).unwrap();
        let tables = [0, 1].map(|index| {
            let mut table = IdTable::new(80);
            table.count_in(total.clone());
            table.grow(0).unwrap();
            let id = table.give(index, 0).unwrap();
            table.open(id, true);
            (Arc::new(table), id)
        });
        let threads = tables
            .clone()
            .map(|(table, id)| thread::spawn(move || usize::from(table.add(id, 60).is_ok())));
        let accepted: usize = threads.map(|thread| thread.join().unwrap()).iter().sum();
        assert!(accepted <= 1);
        for (table, id) in &tables {
            table.release(*id);
        }
        assert!(tables[0].0.total_has_room(100), "nothing stays counted");
    });
}

fn what_is_written_is_no_longer_counted() {
    model(|| {
        let (context, id) = shared();
        let other = context.clone();
        let sender = thread::spawn(move || {
            usize::from(other.inbox.put(&other.ids, id, &Message::new(b"x")).is_ok())
        });
        context.ids.count_queued(id, 10);
        context.ids.sub(id, 10);
        assert_eq!(sender.join().unwrap(), context.ids.pending(id));
    });
}
