//! Compares what both sides said, heard and did with the rules of docs/BEHAVIOUR.md.

use net_server::{CloseReason, Server};

use crate::client::{End, Ending, Reads};
use crate::story::Story;
use crate::world::{World, NEVER, SECOND};

pub fn on_close(w: &mut World, link: u32, reason: CloseReason) {
    let now = w.now;
    *w.report.reasons.entry(format!("{reason:?}")).or_default() += 1;
    let (times, stops, no_memory) = (w.times, w.stop_at.is_some(), w.rates.no_memory > 0);
    let side = w.side(link, 0);
    // When the last acknowledgement came is not known where nothing is left to acknowledge.
    let active_at = if side.used() > 0 { side.active_at } else { side.used_at };
    let (arrived, is_dead, fin_came) = (side.arrived, side.is_dead, side.fin_came);
    let progress_at = side.progress_at;
    let story = &mut w.stories[link as usize];
    story.closed = Some((reason as i32, now));
    story.ended_before_close = fin_came;
    let asked = story.asked_close || story.asked_abort || story.failed;
    let may_lose = asked || story.shut_read || story.read_less || stops || no_memory;
    let delivered = story.delivered;
    let text = match reason {
        CloseReason::Abort if !story.asked_abort => "C9: nobody has aborted it".to_owned(),
        CloseReason::Handler | CloseReason::Peer if !asked => "C9: nobody has closed it".into(),
        CloseReason::Idle if now < active_at.saturating_add(times.idle) => {
            format!("T2: idle, but active {} us ago", (now - active_at) / 1000)
        }
        CloseReason::WriteTimeout if now < progress_at.saturating_add(times.write) => {
            format!("T9: it made progress {} us ago", (now - progress_at) / 1000)
        }
        CloseReason::Stop | CloseReason::Cut if !stops => "C9: there is no stop".into(),
        CloseReason::Reset if !is_dead && !no_memory => "C9: nobody has reset it".into(),
        CloseReason::Reset if delivered < arrived && !may_lose => {
            format!("A1.1: closed after {delivered} of {arrived} bytes")
        }
        CloseReason::Rejected | CloseReason::Error if !asked && !story.saw_error => {
            "C9: it has not failed".into()
        }
        _ => return,
    };
    w.find(format!("link {link}: on_close({reason:?}): {text}"));
}

/// How long something may be left to do, beyond the longest pause.
const PATIENCE: u64 = SECOND;

/// Looks for connections whose input or queue nobody moves.
pub fn look_for_stuck(w: &mut World, queued: &[(u32, usize)]) {
    let (now, high) = (w.now, w.times.high_water);
    let patience = PATIENCE + w.longest_pause;
    let stops = w.stop_at.is_some();
    for (link, queued) in queued {
        let side = w.side(*link, 0);
        let has_input = !side.input.is_empty() || side.fin_came || side.is_dead;
        let has_room = side.is_writable() && !side.is_dead;
        let (arrived, arrived_at) = (side.arrived, side.arrived_at.max(side.used_at));
        let progress_at = side.progress_at;
        let story = &mut w.stories[*link as usize];
        let serves = !story.is_paused
            && !story.saw_end
            && !story.saw_error
            && !story.shut_read
            && story.left_at != Some(arrived);
        let serves = serves && (*queued as u64) < high / 2;
        let input_stuck = has_input && serves && is_untouched(story) && !stops;
        let output_stuck = *queued > 0 && has_room && is_untouched(story);
        let since = note_since(&mut story.input_stuck, input_stuck, now);
        let input = since.is_some_and(|since| now - since.max(arrived_at) > patience);
        let since = note_since(&mut story.output_stuck, output_stuck, now);
        let output = since.is_some_and(|since| now - since.max(progress_at) > patience);
        let story = &w.stories[*link as usize];
        let overdue = story.timer.is_some_and(|(_, latest)| now > latest + patience);
        if overdue && is_untouched(story) && !stops {
            w.find(format!("link {link}: T4: the timer does not fire"));
        }
        if input {
            w.find(format!("link {link}: A1, N9: input is not delivered ({queued} are queued)"));
        }
        if output {
            w.find(format!("link {link}: Q1: {queued} bytes do not leave"));
        }
    }
}

fn is_untouched(story: &Story) -> bool {
    !story.asked_close && !story.asked_abort && !story.failed
}

fn note_since(place: &mut Option<u64>, holds: bool, now: u64) -> Option<u64> {
    *place = if holds { place.or(Some(now)) } else { None };
    *place
}

/// After the stop: J5.
pub fn balance(w: &mut World, server: &Server) {
    let stats = server.stats();
    let came = stats.accepted + stats.attached + stats.adopted;
    let went = stats.closed_total() + stats.detached + stats.open + stats.waiting;
    if came != went || stats.open != 0 {
        w.find(format!("J5: {came} came, {went} went, {} are open", stats.open));
    }
}

/// When all is over, and the server is gone.
pub fn at_end(w: &mut World) {
    let files = w.files.count();
    if files > 0 {
        w.find(format!("L14: {files} descriptors are left"));
    }
    for at in 0..w.stories.len() {
        crate::bring::at_end(w, at as u32);
        let story = &w.stories[at];
        let client = &w.clients[w.links[at].client as usize];
        let accepted = story.accepted;
        let (end, received) = (client.end, client.received);
        if story.opened && story.closed.is_none() && !story.is_detached {
            w.find(format!("link {at}: A12.2: no on_close"));
            continue;
        }
        // A2.2.
        if end == End::Fin && received != accepted && !story.is_unknown {
            w.find(format!("link {at}: A2: the client saw the end after {received} of {accepted}"));
            continue;
        }
        let in_order = story.closed.is_some_and(|(reason, _)| {
            reason == CloseReason::Handler as i32 || reason == CloseReason::Peer as i32
        });
        let says_no_more = client.ending == Ending::Fin && client.has_ended;
        let listens = client.reads == Reads::Eagerly && says_no_more && story.ended_before_close;
        let harmless = in_order && !story.asked_abort && !story.failed && !story.was_detached;
        // A5.1.
        if matches!(end, End::Error(_)) && listens && harmless && w.times.linger > 0 {
            w.find(format!("link {at}: A5: a client was reset after a close in order"));
        }
        if w.links[at].is_accepted && !w.stories[at].opened {
            w.report.count("accepted, never opened");
        }
    }
    if w.clients.iter().any(|client| !client.is_over) && w.next_event() == NEVER {
        w.find("A7: a client waits for ever".into());
    }
}
