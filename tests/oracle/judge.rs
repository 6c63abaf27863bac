//! The properties that every connection must have, whatever happened to it and whenever.

use super::story::{Ending, Fate, Ledger, Sent, Sight, Stage, Story, Told};
use super::wire::Received;
use crate::api::{CloseReason, Status};
use crate::support::ms;
use std::collections::HashMap;
use std::time::Duration;

/// A close that is in order and is followed by a reset within this has destroyed a reply: the
/// servers of the oracle linger for longer.
pub const LINGERS: Duration = ms(700);

pub fn judge(story: &Story) {
    let breaches = story.with(|ledger| {
        let mut breaches = Vec::new();
        input(ledger, &mut breaches);
        if !ledger.secured && ledger.reason == Some(CloseReason::Reset) && ledger.os_error == 0 {
            let kind = "on_close for a reset without an errno".to_owned();
            breaches.push(("an error comes with its number", kind, String::new()));
        }
        output(ledger, &mut breaches);
        lifecycle(ledger, &mut breaches);
        let why = story.header.as_ref().and_then(|header| header.refused);
        if let Some(why) = why.filter(|_| ledger.opened > 0) {
            breaches.push((
                "a bad header is refused",
                format!("on_open in spite of {why}"),
                String::new(),
            ));
        }
        breaches
    });
    story.world.count("connections judged");
    if breaches.is_empty() {
        return;
    }
    let tale = story.tell();
    for (property, kind, detail) in breaches {
        story.world.found(property, &kind, Some(&format!("{detail}\n{tale}")));
    }
}

/// Which property, which kind of breach (equal ones are counted together), and the particulars.
type Breach = (&'static str, String, String);

/// A1.1, A1.3, A4: What the handlers received of what the client sent.
fn input(ledger: &Ledger, breaches: &mut Vec<Breach>) {
    if let Some(wrong) = &ledger.wrong_input {
        breaches.push((
            "input is a prefix",
            "bytes that the client did not send there".into(),
            wrong.clone(),
        ));
    }
    if ledger.delivered > ledger.client_sent {
        let detail = format!("{} of {}", ledger.delivered, ledger.client_sent);
        breaches.push(("input is a prefix", "more than the client sent".into(), detail));
    }
    let (sent, arrived) = (ledger.client_sent, ledger.client_arrived);
    match ledger.told {
        Some((Told::End, at)) => {
            if ledger.client_ending != Some(Ending::Clean) {
                let kind =
                    format!("an end that the client did not make ({:?})", ledger.client_ending);
                breaches.push(("an end is the peer's", kind, format!("told after {at} of {sent}")));
            } else if at < sent {
                let kind = "an end before all that the client sent".to_owned();
                breaches.push((
                    "what arrived is delivered",
                    kind,
                    format!("told after {at} of {sent}"),
                ));
            }
        }
        Some((Told::Error(status, os), at)) if ends_input(status) => {
            if at < arrived && !ledger.skipped {
                let kind = format!("an error ({}) before what had arrived", status.name());
                let detail =
                    format!("errno {os}, told after {at}, {arrived} of {sent} had arrived");
                breaches.push(("what arrived is delivered", kind, detail));
            }
        }
        _ => {
            let by_peer = matches!(ledger.reason, Some(CloseReason::Reset | CloseReason::Peer));
            let lost = ledger.delivered < arrived;
            if by_peer && lost && ledger.refused.is_none() && !ledger.skipped {
                let kind = format!("closed ({:?}) before what had arrived", ledger.reason.unwrap());
                let detail =
                    format!("{} delivered, {arrived} of {sent} had arrived", ledger.delivered);
                breaches.push(("what arrived is delivered", kind, detail));
            }
        }
    }
}

/// The errors of a `recv` that are the transport's.
fn ends_input(status: Status) -> bool {
    matches!(status, Status::Reset | Status::Io | Status::Truncated)
}

/// A2.2, A2.5, A3.1, A6.3: What the client received of what the server's threads sent.
fn output(ledger: &Ledger, breaches: &mut Vec<Breach>) {
    if let Sight::Broken(how) = &ledger.sight {
        breaches.push(("output is a prefix", "bytes that nobody sent there".into(), how.clone()));
        return;
    }
    let mut places: HashMap<u16, usize> = HashMap::new();
    for (i, frame) in ledger.received.iter().enumerate() {
        let last = i + 1 == ledger.received.len();
        if let Some((kind, detail)) = misplaced(ledger, &mut places, frame, last) {
            breaches.push(("output is a prefix", kind.to_owned(), detail));
            return;
        }
    }
    let missing = missing(ledger, &places);
    let Some(missing) = missing else {
        // None can be sent before the handshake is over.
        let shaken = ledger.stage == Stage::Settled;
        if ledger.sight == Sight::Truncated && in_order(ledger) && shaken {
            let kind = format!("FIN without close_notify ({:?})", ledger.reason.unwrap());
            breaches.push(("TLS ends with close_notify", kind, String::new()));
        }
        needless_reset(ledger, breaches);
        return;
    };
    match ledger.sight {
        Sight::Clean | Sight::Truncated => {
            let how =
                if ledger.sight == Sight::Clean { "clean end" } else { "FIN without close_notify" };
            let kind = format!("{how} ({:?}) before all that was accepted", ledger.reason);
            breaches.push(("what was accepted leaves", kind, missing));
        }
        Sight::Reset
            if ledger.reason == Some(CloseReason::Stop)
                && ledger.client_ending != Some(Ending::Abrupt) =>
        {
            let kind = "closed by a stop, \"nothing was lost\", and lost".to_owned();
            breaches.push(("what was accepted leaves", kind, missing));
        }
        _ => needless_reset(ledger, breaches),
    }
}

/// Whether a received frame is none of those that may come next from its thread.
fn misplaced(
    ledger: &Ledger,
    places: &mut HashMap<u16, usize>,
    frame: &Received,
    last: bool,
) -> Option<(&'static str, String)> {
    let name = frame.name;
    let Some(sent) = ledger.sent.get(&name.sender) else {
        return Some(("a frame of a thread that sent none", format!("{name:?}")));
    };
    let place = places.entry(name.sender).or_insert(0);
    let is_it = |sent: &Sent| sent.number == name.number;
    let Some(found) = sent[*place..].iter().position(is_it).map(|after| *place + after) else {
        let kind = match sent.iter().any(is_it) {
            true => "a frame once too often, or after a later one",
            false => "a frame that was not sent",
        };
        return Some((kind, format!("{name:?}")));
    };
    if let Some(lost) = sent[*place..found].iter().find(|sent| sent.fate == Fate::Accepted) {
        let kind = "a frame before an earlier one of the same thread";
        return Some((kind, format!("{name:?} before number {}", lost.number)));
    }
    *place = found + 1;
    match sent[found].fate {
        Fate::Refused => Some(("a frame that was refused", format!("{name:?}"))),
        Fate::Accepted if !frame.whole && !last => Some(("a frame in part", format!("{name:?}"))),
        _ => None,
    }
}

/// The first frame that was accepted and not received whole.
fn missing(ledger: &Ledger, places: &HashMap<u16, usize>) -> Option<String> {
    if let Some(last) = ledger.received.last().filter(|frame| !frame.whole) {
        let sent = ledger.sent[&last.name.sender].iter();
        let mut same = sent.filter(|sent| sent.number == last.name.number);
        if same.any(|sent| sent.fate == Fate::Accepted) {
            return Some(format!("{:?} in part", last.name));
        }
    }
    for (sender, sent) in &ledger.sent {
        let place = places.get(sender).copied().unwrap_or(0);
        let rest: Vec<_> =
            sent[place..].iter().filter(|sent| sent.fate == Fate::Accepted).collect();
        if let Some(first) = rest.first() {
            let (count, number) = (rest.len(), first.number);
            return Some(format!("{count} frames of sender {sender} from number {number} on"));
        }
    }
    None
}

/// A5.1: A client that reads all and sends nothing is reset soon after a close in order.
fn needless_reset(ledger: &Ledger, breaches: &mut Vec<Breach>) {
    if ledger.sight != Sight::Reset || !ledger.attentive || !in_order(ledger) {
        return;
    }
    let (Some(closed), Some(seen)) = (ledger.closed_at, ledger.seen_at) else { return };
    let took = seen.saturating_duration_since(closed);
    if took < LINGERS {
        let kind = format!("a reset after a close in order ({:?})", ledger.reason.unwrap());
        breaches.push(("a reply is not destroyed", kind, format!("{took:?} after the close")));
    }
}

/// The server's side closed it as a program does that has said all: not in the middle of a `send`.
fn in_order(ledger: &Ledger) -> bool {
    !ledger.forced
        && !ledger.is_cut_short()
        && matches!(ledger.reason, Some(CloseReason::Handler | CloseReason::Peer))
}

/// A12.2: `on_open`, `on_close` and the drop function.
fn lifecycle(ledger: &Ledger, breaches: &mut Vec<Breach>) {
    let mut once = |holds: bool, kind: &str, detail: String| {
        if !holds {
            breaches.push(("callbacks once", kind.to_owned(), detail));
        }
    };
    once(ledger.opened <= 1, "on_open more than once", ledger.opened.to_string());
    once(ledger.closed <= 1, "on_close more than once", ledger.closed.to_string());
    once(ledger.dropped == ledger.given, "user data not dropped once", ledger.dropped.to_string());
    let closes = ledger.opened == 1 && !ledger.detached;
    once(!closes || ledger.closed == 1, "on_close missing", String::new());
    once(ledger.opened == 1 || ledger.closed == 0, "on_close without on_open", String::new());
    if let Some(what) = ledger.after_close {
        once(false, &format!("{what} after on_close"), String::new());
    }
}
