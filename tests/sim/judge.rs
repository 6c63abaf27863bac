//! Compares what both sides said, heard and did with the rules of docs/BEHAVIOUR.md.

use std::collections::VecDeque;
use std::net::SocketAddr;

use net_server::{CloseReason, Error, Server, Status};

use crate::client::{End, Ending, Reads};
use crate::story::Story;
use crate::wire::Heard;
use crate::world::{World, MILLI, NEVER, SECOND};

/// The longest record with close_notify.
const CLOSE_NOTIFY: usize = 31;

pub fn on_close(w: &mut World, link: u32, reason: CloseReason) {
    let now = w.now;
    *w.report.reasons.entry(format!("{reason:?}")).or_default() += 1;
    let (times, stops, no_memory) = (w.times, w.stop_at.is_some(), w.rates.no_memory > 0);
    let client = w.links[link as usize].client as usize;
    let is_secure = w.clients[client].wire.as_ref().is_some_and(|wire| wire.is_tls());
    let side = w.side(link, 0);
    // The close itself sends close_notify.
    let active_at = match side.last_send {
        (0..=CLOSE_NOTIFY, before) if is_secure => before,
        _ => side.last_activity(),
    };
    let progress_at = side.progress_at;
    let Heard { bytes: arrived, has_end, is_broken, .. } = w.heard(link);
    let story = &mut w.stories[link as usize];
    story.closed = Some((reason as i32, now));
    story.ended_before_close = has_end;
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
        CloseReason::Handshake if story.clear_down.is_none() => "C9: there is no handshake".into(),
        CloseReason::Stop | CloseReason::Cut if !stops => "C9: there is no stop".into(),
        CloseReason::Reset if !is_broken && !no_memory => "C9: nobody has reset it".into(),
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

/// A connection begins: PP2, PP5.
pub fn on_open(w: &mut World, link: u32, peer: Option<SocketAddr>) {
    let client = w.links[link as usize].client;
    let wire = w.clients[client as usize].wire.as_ref();
    let Some(header) = wire.and_then(|wire| wire.header.as_ref()) else { return };
    let announced = header.client.map(|client| client.to_string());
    let is_right = announced.is_none() || announced == peer.map(|peer| peer.to_string());
    if header.is_bad || !is_right {
        let what = if header.is_bad { "PP5: its header is bad" } else { "PP2: another address" };
        w.find(format!("link {link}: on_open: {what}"));
    }
}

/// A connection has failed before it was one of the handler's.
pub fn on_failure(w: &mut World, link: u32, error: &Error) {
    if !w.has_wire(link) {
        return;
    }
    let (now, limit) = (w.now, w.times.handshake);
    let others_wait = (1..10).contains(&w.times.places);
    let Heard { is_broken, .. } = w.heard(link);
    let came_at = w.links[link as usize].accepted_at;
    let side = w.side(link, 0);
    let (read_at, is_dead) = (side.read_at.max(came_at), side.is_dead);
    let header = w.proxies.map(|proxies| proxies.time);
    w.step(70, link.into(), error.status() as i64 as u64);
    let story = &mut w.stories[link as usize];
    let again = std::mem::replace(&mut story.has_no_start, true) || story.opened;
    let text = match error.status() {
        _ if again => "K5: it had begun, or failed, before".to_owned(),
        // A8.3.
        Status::Timeout if others_wait && now + MILLI >= read_at + 2 * SECOND => return,
        // ETIMEDOUT of the kernel has this status as well.
        Status::Timeout if is_dead => return,
        Status::Timeout if now < came_at + limit => {
            format!("K4: after {} us: {error}", (now - came_at) / 1000)
        }
        Status::Proxy if is_broken => return,
        // PP6.
        Status::Proxy if header.is_some_and(|time| now >= came_at + time) => return,
        Status::Handshake if !is_broken => format!("K5: {error}"),
        Status::Timeout | Status::Handshake => return,
        _ => format!("K5: {error}"),
    };
    w.find(format!("link {link}: {text}"));
}

/// Looks for connections that have neither begun nor failed in time (T1).
fn look_for_late_starts(w: &mut World) {
    let late = |time: u64| time + time / 100 + 100 * MILLI;
    let header = w.proxies.map_or(0, |proxies| late(proxies.time));
    let late = header + w.secure.as_ref().map_or(0, |_| late(w.times.handshake));
    let now = w.now;
    for link in 0..w.links.len() {
        let story = &w.stories[link];
        let is_there = w.links[link].file.is_some() && w.has_wire(link as u32);
        let hangs = is_there && !story.opened && !story.has_no_start;
        let latest = w.links[link].accepted_at + late + w.longest_pause;
        if hangs && now > latest {
            w.find(format!("link {link}: K4, PP6: it neither begins nor fails"));
        }
    }
}

/// Looks for a whole first record that waits although a place among the handshakes is free (A8.1).
fn look_for_free_places(w: &mut World) {
    let (now, patience) = (w.now, PATIENCE + w.longest_pause);
    let places = w.times.places;
    let has_no_end = |w: &World, at: usize| {
        let (story, link) = (&w.stories[at], &w.links[at]);
        w.has_wire(at as u32) && link.file.is_some() && !story.opened && !story.has_no_start
    };
    let (mut taken, mut waiting) = (0, Vec::new());
    for at in (0..w.links.len()).filter(|at| has_no_end(w, *at)) {
        let client = &w.clients[w.links[at].client as usize];
        let header = client.wire.as_ref().map_or(0, |wire| wire.header_len());
        let side = &w.links[at].sides[0];
        match side.arrived - side.input.len() as u64 {
            read if read > header => taken += 1,
            read if read == header && has_record(&side.input) => waiting.push(at),
            _ => {}
        }
    }
    let is_free = places == 0 || taken < places;
    for at in 0..w.links.len() {
        let waits = is_free && waiting.contains(&at);
        let since = note_since(&mut w.stories[at].place_stuck, waits, now);
        if since.is_some_and(|since| now - since > patience) {
            w.find(format!("link {at}: A8.1: it waits, and {taken} of {places} places are taken"));
        }
    }
}

/// The first record has come whole.
fn has_record(input: &VecDeque<u8>) -> bool {
    let length = |at: usize| input.get(at).map_or(usize::MAX >> 16, |byte| usize::from(*byte));
    input.len() >= 5 + (length(3) << 8 | length(4))
}

/// How long something may be left to do, beyond the longest pause.
const PATIENCE: u64 = SECOND;

/// Looks for connections whose input or queue nobody moves.
pub fn look_for_stuck(w: &mut World, queued: &[(u32, usize)]) {
    let (now, high) = (w.now, w.times.high_water);
    let patience = PATIENCE + w.longest_pause;
    let stops = w.stop_at.is_some();
    if !stops && (w.secure.is_some() || w.proxies.is_some()) {
        look_for_late_starts(w);
    }
    if !stops && w.secure.is_some() {
        look_for_free_places(w);
    }
    for (link, queued) in queued {
        let Heard { bytes, has_end, is_broken, is_bad, .. } = w.heard(*link);
        let side = w.side(*link, 0);
        let has_input = !side.input.is_empty() || has_end || is_broken;
        let has_room = side.is_writable() && !side.is_dead;
        let (arrived, arrived_at) = (bytes, side.arrived_at.max(side.used_at));
        let progress_at = side.progress_at;
        let story = &mut w.stories[*link as usize];
        let serves = !story.is_paused
            && !is_bad
            && !story.saw_end
            && !story.saw_error
            && !story.shut_read
            && story.left_at != Some(arrived);
        // Its handshake may wait for a place.
        let clear = w.clients[w.links[*link as usize].client as usize].wire.as_ref();
        let clear = clear.map_or(0, |wire| wire.clear());
        let upgrades = clear > 0 && story.clear_down.is_some() && story.delivered == clear;
        let serves = serves && !upgrades;
        let serves = serves && (*queued as u64) < high / 2;
        let has_input = has_input || story.delivered < bytes;
        let input_stuck = has_input && serves && is_untouched(story) && !stops;
        let output_stuck = *queued > 0 && has_room && is_untouched(story) && !upgrades;
        let since = note_since(&mut story.input_stuck, input_stuck, now);
        let input = since.is_some_and(|since| now - since.max(arrived_at) > patience);
        let since = note_since(&mut story.output_stuck, output_stuck, now);
        let output = since.is_some_and(|since| now - since.max(progress_at) > patience);
        let drain_stuck = story.wants_drain && *queued == 0 && has_room && is_untouched(story);
        let since = note_since(&mut story.drain_stuck, drain_stuck && !upgrades && !stops, now);
        let drain = since.is_some_and(|since| now - since.max(progress_at) > patience);
        let story = &w.stories[*link as usize];
        let overdue = story.timer.is_some_and(|(_, latest)| now > latest + patience);
        if overdue && is_untouched(story) && !stops {
            w.find(format!("link {link}: T4: the timer does not fire"));
        }
        if input {
            w.find(format!("link {link}: A1, N9: input is not delivered ({queued} are queued)"));
        }
        if drain {
            w.find(format!("link {link}: Q10: on_drain does not come"));
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
        // Y8, also where the program drops a socket that it owns.
        let is_forced = w.links[at].sides[0].is_local
            && story.closed.is_none_or(|(reason, _)| {
                let ordered = [CloseReason::Handler, CloseReason::Peer, CloseReason::Stop];
                !ordered.iter().any(|ordered| *ordered as i32 == reason)
            });
        // A2.2.
        if end == End::Fin && received != accepted && !story.is_unknown && !is_forced {
            w.find(format!("link {at}: A2: the client saw the end after {received} of {accepted}"));
            continue;
        }
        // A6.3.
        // U9: a close before the handshake is over ends it.
        let has_failed = story.clear_down.is_some() && (story.failed || !story.has_tls);
        let client_fails = client.is_cut() || story.saw_error || story.is_unknown || has_failed;
        if end == End::Cut && story.opened && !client_fails && !is_forced {
            w.find(format!("link {at}: A6.3: the client saw no close_notify before the end"));
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
