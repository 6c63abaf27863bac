//! `event/handle.rs`, the mailbox and the inbox with their flag `awake`: no mail
//! and no bytes wait in a loop that sleeps.

use loom::thread;

use crate::conn::Message;
use crate::event::{Loop, Mail};
use crate::{model, Model};

pub const MODELS: &[Model] = &[
    ("no mail is lost", no_mail_is_lost),
    ("the mail of one thread keeps its order", the_mail_of_one_thread_keeps_its_order),
    ("no bytes by id are lost", no_bytes_by_id_are_lost),
    ("bytes wake a loop that has mail", bytes_wake_a_loop_that_has_mail),
];

fn no_mail_is_lost() {
    model(|| {
        let mut at = Loop::new();
        for n in 0..2 {
            let handle = at.handle.clone();
            thread::spawn(move || handle.post(Mail::Close(n)));
        }
        at.run_until(|at| at.mail.len() == 2);
    });
}

fn the_mail_of_one_thread_keeps_its_order() {
    model(|| {
        let mut at = Loop::new();
        let handle = at.handle.clone();
        thread::spawn(move || (0..3).for_each(|n| handle.post(Mail::Close(n))));
        at.run_until(|at| at.mail.len() == 3);
        let numbers: Vec<_> = at.mail.iter().map(|Mail::Close(n)| *n).collect();
        assert_eq!(numbers, [0, 1, 2]);
    });
}

fn no_bytes_by_id_are_lost() {
    model(|| {
        let mut at = Loop::new();
        let ids = [at.open(), at.open()];
        for id in ids {
            let handle = at.handle.clone();
            thread::spawn(move || handle.send(id, &Message::new(b"x")).unwrap());
        }
        at.run_until(|at| at.bytes.len() == 2);
    });
}

fn bytes_wake_a_loop_that_has_mail() {
    model(|| {
        let mut at = Loop::new();
        let id = at.open();
        let (one, other) = (at.handle.clone(), at.handle.clone());
        thread::spawn(move || one.post(Mail::Close(0)));
        thread::spawn(move || other.send(id, &Message::new(b"x")).unwrap());
        at.run_until(|at| at.mail.len() == 1 && at.bytes.len() == 1);
    });
}
