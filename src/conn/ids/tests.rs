//! Tests of the id words.

#![forbid(unsafe_code)]

use super::*;

fn give(table: &IdTable, index: usize, slot: u32) -> u64 {
    table.grow(slot).unwrap();
    table.give(index, slot).unwrap()
}

fn give_open(table: &IdTable, index: usize, slot: u32) -> u64 {
    let id = give(table, index, slot);
    table.open(id, true);
    id
}

#[test]
fn every_slot_has_one_place() {
    assert_eq!(IdTable::place(0), (0, 0));
    assert_eq!(IdTable::place(63), (0, 63));
    assert_eq!(IdTable::place(64), (1, 0));
    assert_eq!(IdTable::place(191), (1, 127));
    assert_eq!(IdTable::place(192), (2, 0));
    let last = IdTable::place(IdTable::SLOTS - 1);
    assert_eq!(last, (CHUNKS - 1, (FIRST_CHUNK << (CHUNKS - 1)) - 1));
    const { assert!(IdTable::SLOTS <= 1 << crate::conn::id::SLOT_BITS) };
}

#[test]
fn ids_are_never_used_again() {
    let table = IdTable::new(10);
    let first = give_open(&table, 7, 3);
    assert_eq!((ConnId::loop_index(first), ConnId::slot(first)), (7, 3));
    table.release(first);
    let second = give_open(&table, 7, 3);
    assert_ne!(first, second);
    assert_eq!(table.add(first, 1), Err(SendError::Gone));
    assert!(table.is_alive(second) && !table.is_alive(first));
}

#[test]
fn a_slot_whose_generations_are_used_up_is_retired() {
    let table = IdTable::new(10);
    let id = give_open(&table, 0, 0);
    table.release(id);
    let entry = table.entry(0).unwrap();
    entry.store((GENERATION_MAX - 1) << GENERATION_SHIFT, Ordering::Relaxed);
    let last = give_open(&table, 0, 0);
    table.release(last);
    assert_eq!(table.give(0, 0), None);
}

#[test]
fn pending_bytes_are_bounded_and_belong_to_one_connection() {
    let table = IdTable::new(10);
    let id = give_open(&table, 0, 0);
    assert_eq!(table.add(id, 10), Ok(()));
    assert_eq!(table.add(id, 1), Err(SendError::Full));
    table.sub(id, 4);
    assert_eq!(table.pending(id), 6);
    assert!(table.shut(id) && !table.shut(id));
    assert_eq!(table.add(id, 1), Err(SendError::Gone));
    assert!(table.is_alive(id));
    assert_eq!((table.abort(id), table.abort(id)), (Ok(true), Ok(false)));
    table.release(id);
    assert_eq!(table.abort(id), Err(SendError::Gone));
    let next = give_open(&table, 0, 0);
    assert_eq!(table.pending(next), 0);
}

#[test]
fn pending_bytes_never_reach_the_state() {
    let table = IdTable::new(i32::MAX as usize);
    let id = give_open(&table, 0, 0);
    assert_eq!(table.add(id, i32::MAX as usize), Ok(()));
    table.count_queued(id, usize::MAX);
    assert_eq!(table.pending(id), i32::MAX as usize);
    assert_eq!(table.wake(id), Ok(true));
    table.sub(id, usize::MAX);
    assert_eq!(table.pending(id), 0);
    assert_eq!(table.wake(id), Ok(false));
}

#[test]
fn a_half_closed_connection_takes_wakes_and_a_close() {
    let table = IdTable::new(10);
    let id = give_open(&table, 0, 0);
    table.shut_sending(id);
    assert_eq!(table.add(id, 1), Err(SendError::Gone));
    assert_eq!((table.wake(id), table.open_ids(0).len()), (Ok(true), 1));
    assert!(table.shut(id));
}

#[test]
fn a_connection_takes_nothing_before_it_is_open() {
    let table = IdTable::new(10);
    let id = give(&table, 0, 0);
    assert!(table.is_alive(id) && table.open_ids(0).is_empty());
    assert_eq!(table.add(id, 1), Err(SendError::Gone));
    assert_eq!(table.wake(id), Err(SendError::Gone));
    table.open(id, true);
    assert_eq!((table.add(id, 1), table.open_ids(0).len()), (Ok(()), 1));
}

#[test]
fn wakes_are_given_once() {
    let table = IdTable::new(10);
    let id = give_open(&table, 0, 0);
    assert_eq!(table.wake(id), Ok(true));
    assert_eq!(table.wake(id), Ok(false));
    table.clear_wake(id);
    assert_eq!(table.wake(id), Ok(true));
}

#[test]
fn an_entry_notes_that_pending_bytes_were_seen() {
    let table = IdTable::new(10);
    let id = give_open(&table, 0, 0);
    assert_eq!((table.queued(id), table.add(id, 11)), (Ok(0), Err(SendError::Full)));
    table.note_seen(id);
    table.add(id, 6).unwrap();
    assert!(!table.sub(id, 1));
    assert_eq!(table.queued(id), Ok(5));
    assert!(table.sub(id, 1) && !table.sub(id, 1));
    assert_eq!(table.add(id, 8), Err(SendError::Full));
    assert!(table.sub(id, 3) && !table.sub(id, 0));
    assert_eq!((table.queued(id), table.add(id, 10)), (Ok(0), Ok(())));
}

#[test]
fn a_suspended_id_says_what_was_asked_for() {
    let table = IdTable::new(10);
    let id = give(&table, 0, 0);
    table.begin(id);
    assert_eq!(table.half_close(id, Shutdown::Read), Ok(true));
    assert_eq!(table.half_close(id, Shutdown::Both), Ok(true));
    assert_eq!(table.half_close(id, Shutdown::Write), Ok(false));
    assert!(table.open_ids(0).is_empty());
    let asked = table.suspend(id).unwrap();
    assert!(asked.ends_sending() && asked.ends_receiving());
    assert!(table.suspend(id).is_none());
    assert_eq!(table.half_close(id, Shutdown::Both), Err(SendError::Gone));
    table.resume(id, &asked, true);
    assert_eq!((table.add(id, 1), table.wake(id)), (Err(SendError::Gone), Ok(true)));
    assert!(table.open_ids(0).is_empty());
}

#[test]
fn a_connection_is_listed_after_its_first_callback() {
    let table = IdTable::new(10);
    let id = give(&table, 0, 0);
    table.begin(id);
    assert_eq!((table.add(id, 1), table.wake(id)), (Ok(()), Ok(true)));
    assert!(table.open_ids(0).is_empty());
    table.list(id);
    assert_eq!(table.open_ids(0).len(), 1);
    assert!(table.shut(id));
    table.list(id);
    assert!(table.open_ids(0).is_empty());
}
