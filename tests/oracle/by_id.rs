//! Calls by id, from any thread, and whether they answer as the rules say.

use super::sides::NOW;
use super::story::{fate, Fate, Story};
use super::wire::{frame, Kind};
use super::world::{next_name, World};
use super::Random;
use crate::api::{ConnId, Error, Server, Status};
use crate::support::comes_true;
use std::net::Shutdown;
use std::sync::Arc;

/// Sends a frame; whether it was accepted.
pub fn send_by_id(
    world: &Arc<World>,
    server: &Server,
    id: ConnId,
    story: &Arc<Story>,
    len: usize,
    how: &'static str,
) -> bool {
    let has_ended = story.has_ended_sending();
    let (name, bytes) = story.frame(Kind::Data, len);
    let result = world.call("send by id", NOW, story, || server.send(id, &bytes));
    story.answers("send by id", &result, &[Status::Closed, Status::BufferFull]);
    let fate = fate(&result, false);
    let refused = "send by id refused";
    story.settle(name, &[fate], if fate == Fate::Accepted { how } else { refused }, bytes.len());
    check_end(story, has_ended, fate);
    fate == Fate::Accepted
}

/// A3.2: What comes after an end is refused.
fn check_end(story: &Story, had_ended: bool, fate: Fate) {
    if had_ended && fate == Fate::Accepted {
        story.found("what comes after an end is refused", "bytes by id are accepted");
    }
}

pub fn close_by_id(world: &Arc<World>, server: &Server, id: ConnId, story: &Arc<Story>) {
    story.closing("close by id", false);
    let result = world.call("close by id", NOW, story, || server.close(id));
    story.answers("close by id", &result, &[Status::Closed]);
    story.with(|ledger| ledger.sending_ended |= result.is_ok());
}

pub fn abort_by_id(world: &Arc<World>, server: &Server, id: ConnId, story: &Arc<Story>) {
    story.closing("abort by id", true);
    let result = world.call("abort by id", NOW, story, || server.abort(id));
    story.answers("abort by id", &result, &[Status::Closed]);
}

/// Ends sending, receiving or both.
pub fn half_close_by_id(
    world: &Arc<World>,
    server: &Server,
    id: ConnId,
    story: &Arc<Story>,
    how: usize,
) {
    let how = [Shutdown::Write, Shutdown::Both, Shutdown::Read][how];
    if how != Shutdown::Write && world.non_blocking {
        story.refuse("shutdown of receiving by id");
    }
    let result = world.call("shutdown by id", NOW, story, || server.shutdown(id, how));
    if world.is_for_loops(&result) {
        return;
    }
    story.answers("shutdown by id", &result, &[Status::Closed]);
    if result.is_ok() {
        story.act("half-close by id");
        story.with(|ledger| ledger.half_closes(how != Shutdown::Read));
        if story.below(2) == 0 {
            // Nobody else ends it before the client has seen the end.
            world.leave_alone(id);
        }
    }
}

/// B12: Asks how much is queued.
pub fn ask_queued(world: &Arc<World>, server: &Server, id: ConnId, story: &Arc<Story>) {
    let result = world.call("queued", NOW, story, || server.queued(id));
    if world.is_for_loops(&result) {
        return;
    }
    story.answers("queued by id", &result, &[Status::Closed]);
    world.count(if result.is_ok_and(|n| n > 0) { "queued, some" } else { "queued, none" });
    // The loop may be between its write and its count.
    let holds = || story.queued_too_many(|| server.queued(id).unwrap_or(0)).is_none();
    if !comes_true(NOW, holds) {
        story.found_queued(server.queued(id).unwrap_or(0));
    }
}

/// Sends one frame to several connections, to some of them twice.
pub fn broadcast(world: &Arc<World>, server: &Server, random: &mut Random) {
    let mut chosen: Vec<_> = (0..1 + random.below(8)).filter_map(|_| world.any(random)).collect();
    if random.below(3) == 0 {
        chosen.extend_from_within(..chosen.len().min(1));
    }
    let Some((_, first)) = chosen.first() else { return };
    let name = next_name();
    let bytes = frame(Kind::Shared, 0, name, [2000, 30_000][random.below(2)]);
    let mut ids = Vec::new();
    let mut had_ended = Vec::new();
    for (id, story) in &chosen {
        had_ended.push(story.has_ended_sending());
        story.promise(name, bytes.len());
        ids.push(*id);
    }
    let fates = match random.below(2) {
        0 => {
            let result = world.call("broadcast", NOW, first, || server.broadcast(&ids, &bytes));
            first.answers("broadcast", &result, &[Status::Closed]);
            // The call does not say which of them.
            let fate = match result {
                Ok(accepted) if accepted == ids.len() => Fate::Accepted,
                Ok(1..) => Fate::Unknown,
                Ok(0) | Err(_) => Fate::Refused,
            };
            vec![fate; ids.len()]
        }
        _ => {
            let each = || server.broadcast_each(&ids, &bytes);
            let result = world.call("broadcast_each", NOW, first, each);
            first.answers("broadcast_each", &result, &[Status::Closed]);
            let statuses = result.unwrap_or_else(|_| vec![Err(Status::Closed); ids.len()]);
            for ((_, story), result) in chosen.iter().zip(&statuses) {
                world.count(if result.is_ok() { "each accepted" } else { "each refused" });
                let result = result.map_err(Error::from);
                story.answers("broadcast_each", &result, &[Status::Closed, Status::BufferFull]);
            }
            let fate = |result: &Result<_, _>| match result {
                Ok(()) => Fate::Accepted,
                Err(_) => Fate::Refused,
            };
            statuses.iter().map(fate).collect()
        }
    };
    // A connection that was attached again has more than one id.
    let is_same = |i: usize, j: usize| Arc::ptr_eq(&chosen[i].1, &chosen[j].1);
    for (i, (_, story)) in chosen.iter().enumerate() {
        check_end(story, had_ended[i], fates[i]);
        if !(0..i).any(|j| is_same(i, j)) {
            let copies = (i..chosen.len()).filter(|j| is_same(i, *j)).map(|j| fates[j]);
            story.settle(name, &copies.collect::<Vec<_>>(), "broadcast", bytes.len());
        }
    }
}
