//! The limits of each address: how many connections it may have open, and how
//! many it may open in a second. A server has one count, over all its threads
//! and services; a server without these limits has none.
//!
//! One address is all that shares a prefix of it. Each is in one shard, whose
//! lock a connection takes once when it is judged and once when it ends.

#![forbid(unsafe_code)]

use std::collections::hash_map::RandomState;
use std::collections::{HashMap, TryReserveError};
use std::hash::BuildHasher;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex};

use crate::address::Peer;
use crate::clock::{self, Deadline};
use crate::config::Config;
use crate::error::{Error, Status};
use crate::service::Origin;
use crate::sync::lock;
use crate::sys;

/// The parts that have locks of their own.
const SHARDS: usize = 64;
/// The most addresses whose rate is kept, in one shard: 65,536 in all.
const RATES: usize = 65_536 / SHARDS;
/// The part of them that is forgotten where there is no room: the work of that
/// is spread over as many new addresses.
const FORGOTTEN: usize = RATES / 8;
/// The time between two reports of refusals, in ms.
const REPORT_EVERY_MS: u64 = 1000;

/// The limit that refuses a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Limit {
    Open,
    Rate,
    /// There is no memory to count the connection.
    Memory,
}

impl Limit {
    /// Returns the name of the setting, or what else the reason is.
    fn name(self) -> &'static str {
        match self {
            Limit::Open => "max_per_address",
            Limit::Rate => "accept_rate_per_address",
            Limit::Memory => "out of memory",
        }
    }
}

pub(crate) struct Admission {
    /// 0 is no bound.
    max_open: u32,
    rate: Option<Rate>,
    ipv4_prefix: u32,
    ipv6_prefix: u32,
    /// Clients choose their addresses, and must not choose a shard.
    hasher: RandomState,
    shards: Box<[Mutex<Shard>]>,
    refusals: Mutex<Refusals>,
}

#[derive(Default)]
struct Shard {
    /// The open connections of each address that has any.
    open: HashMap<u128, u32>,
    /// When the bucket of each address is full again, in ns: a smaller number is
    /// that of an address that was used less.
    full_at: HashMap<u128, u64>,
}

/// A bucket of tokens, as one moment: when it is full again. Each connection
/// moves this moment by the time of one token (the generic cell rate algorithm,
/// ITU-T I.371, A.1).
struct Rate {
    /// The time of one token, in ns.
    token: u64,
    /// The time of all tokens but one, in ns.
    rest: u64,
}

#[derive(Default)]
struct Refusals {
    count: u64,
    last: Option<(Peer, Limit)>,
    reported_at: Option<u64>,
}

impl Admission {
    /// Returns `None` where no address has a limit.
    pub fn of(config: &Config) -> Option<Arc<Admission>> {
        let rate = Rate::of(config.accept_rate_per_address, config.accept_burst_per_address);
        if config.max_per_address == 0 && rate.is_none() {
            return None;
        }
        Some(Arc::new(Admission {
            max_open: config.max_per_address,
            rate,
            ipv4_prefix: config.ipv4_prefix,
            ipv6_prefix: config.ipv6_prefix,
            hasher: RandomState::new(),
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            refusals: Mutex::default(),
        }))
    }

    /// Judges a new connection of `peer`, a client with an IP address; others
    /// have no limits. A connection that comes in is counted until
    /// [`Admission::leave`], and `origin` notes that it is. One whose PROXY header is
    /// to come is judged after that.
    pub fn admit(&self, peer: Peer, origin: &mut Origin) -> Result<(), Limit> {
        if origin.awaits_proxy() {
            return Ok(());
        }
        let Some(address) = peer.prefix(self.ipv4_prefix, self.ipv6_prefix) else { return Ok(()) };
        let now = self.rate.as_ref().map_or(0, |_| sys::monotonic_nanos());
        let mut shard = lock(self.shard(address));
        let open = shard.open.get(&address).copied().unwrap_or(0);
        if self.max_open != 0 && open >= self.max_open {
            return Err(Limit::Open);
        }
        if self.max_open != 0 {
            shard.open.try_reserve(1).map_err(|_| Limit::Memory)?;
        }
        if let Some(rate) = &self.rate {
            let full_at = rate.take(shard.full_at.get(&address).copied(), now);
            shard.note_rate(address, full_at.ok_or(Limit::Rate)?).map_err(|_| Limit::Memory)?;
        }
        if self.max_open != 0 {
            shard.open.insert(address, open + 1);
            *origin = origin.counted();
        }
        Ok(())
    }

    /// Takes a connection that [`Admission::admit`] has counted off the count.
    pub fn leave(&self, peer: Peer, origin: &mut Origin) {
        if !origin.is_counted() {
            return;
        }
        *origin = origin.uncounted();
        let Some(address) = peer.prefix(self.ipv4_prefix, self.ipv6_prefix) else { return };
        let mut shard = lock(self.shard(address));
        let Some(open) = shard.open.get_mut(&address) else { return };
        *open -= 1;
        if *open == 0 {
            shard.open.remove(&address);
            // What once was open costs nothing later.
            if shard.open.capacity() > 4 * shard.open.len() + 64 {
                let room = 2 * shard.open.len();
                shard.open.shrink_to(room);
            }
        }
    }

    fn shard(&self, address: u128) -> &Mutex<Shard> {
        &self.shards[self.hasher.hash_one(address) as usize % SHARDS]
    }

    /// Counts a connection that was refused.
    pub fn note_refusal(&self, peer: Peer, limit: Limit) {
        let mut refusals = lock(&self.refusals);
        refusals.count += 1;
        refusals.last = Some((peer, limit));
    }

    /// Returns when the refusals are to be reported that were not yet:
    /// [`Deadline::NEVER`] where there are none.
    pub fn report_at(&self) -> Deadline {
        lock(&self.refusals).report_at()
    }

    /// Returns the error that reports the refusals, if it is due, or `in_any_case`.
    pub fn report(&self, in_any_case: bool) -> Option<Error> {
        let mut refusals = lock(&self.refusals);
        if refusals.count == 0 || !(in_any_case || refusals.report_at().is_due()) {
            return None;
        }
        let (count, last) = (refusals.count, refusals.last);
        *refusals = Refusals { reported_at: Some(clock::now()), ..Refusals::default() };
        drop(refusals);
        let noun = if count == 1 { "connection" } else { "connections" };
        let last = last.map_or(String::new(), |(peer, limit)| {
            let address = peer.address().map_or(String::new(), |a| a.ip().to_string());
            format!(" (the last: {address}, {})", limit.name())
        });
        let text = format!("refused {count} {noun} beyond the limits of an address{last}");
        Some(Error::new(Status::Limit, text))
    }
}

/// Returns the line of the log for a connection that was refused.
pub(crate) fn describe_refusal(peer: Peer, limit: Limit) -> String {
    let address = peer.address().map_or(String::new(), |address| address.to_string());
    format!("{address}: refused: {}", limit.name())
}

/// Closes a connection that was refused, by a reset: so nothing of it stays with
/// the kernel.
pub(crate) fn turn_away(fd: OwnedFd) {
    sys::disconnect(fd.as_raw_fd());
}

impl Shard {
    fn note_rate(&mut self, address: u128, full_at: u64) -> Result<(), TryReserveError> {
        if self.full_at.len() >= RATES && !self.full_at.contains_key(&address) {
            let mut moments = Vec::new();
            moments.try_reserve_exact(self.full_at.len())?;
            moments.extend(self.full_at.values().copied());
            let (_, least, _) = moments.select_nth_unstable(FORGOTTEN);
            self.full_at.retain(|_, full_at| *full_at > *least);
        }
        self.full_at.try_reserve(1)?;
        self.full_at.insert(address, full_at);
        Ok(())
    }
}

impl Rate {
    /// Returns `None` for a `rate` of 0. A `burst` of 0 is as many as `rate`.
    fn of(rate: u32, burst: u32) -> Option<Rate> {
        let token = 1_000_000_000_u64.checked_div(rate.into())?;
        let burst = if burst == 0 { rate } else { burst };
        Some(Rate { token, rest: token * u64::from(burst - 1) })
    }

    /// Takes a token of a bucket at the time `now`. Returns when the bucket is
    /// full again; `None` where it has no token.
    fn take(&self, full_at: Option<u64>, now: u64) -> Option<u64> {
        let full_at = full_at.unwrap_or(0).max(now);
        (full_at - now <= self.rest).then(|| full_at + self.token)
    }
}

impl Refusals {
    fn report_at(&self) -> Deadline {
        match (self.count, self.reported_at) {
            (0, _) => Deadline::NEVER,
            (_, None) => Deadline::NOW,
            (_, Some(at)) => Deadline::since(at, REPORT_EVERY_MS),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddr;

    fn peer(address: &str) -> Peer {
        let address: SocketAddr = address.parse().unwrap();
        Peer::new(&address.into())
    }

    fn of(config: Config) -> Arc<Admission> {
        Admission::of(&config).unwrap()
    }

    #[test]
    fn one_count_for_each_prefix() {
        let admission = of(Config::new().max_per_address(2));
        let enter = |address| {
            let mut origin = Origin::new(0, false, false);
            admission.admit(peer(address), &mut origin).map(|()| origin)
        };
        let mut first = enter("192.0.2.1:1").unwrap();
        enter("[::ffff:192.0.2.1]:2").unwrap();
        assert_eq!(enter("192.0.2.1:3").unwrap_err(), Limit::Open);
        enter("192.0.2.2:1").unwrap();
        enter("[2001:db8::1]:1").unwrap();
        enter("[2001:db8::ffff:0:0:1]:1").unwrap();
        assert!(enter("[2001:db8::2]:1").is_err());
        enter("[2001:db8:0:1::1]:1").unwrap();
        assert!(first.is_counted());
        admission.leave(peer("192.0.2.1:1"), &mut first);
        // A second time does nothing.
        admission.leave(peer("192.0.2.1:1"), &mut first);
        enter("192.0.2.1:4").unwrap();
        assert!(enter("192.0.2.1:5").is_err());
    }

    #[test]
    fn nothing_stays_of_addresses_that_have_left() {
        let admission = of(Config::new().max_per_address(1));
        let peers: Vec<_> =
            (0..20_000_u32).map(|n| peer(&format!("{}:1", std::net::Ipv4Addr::from(n)))).collect();
        let mut origins = vec![Origin::new(0, false, false); peers.len()];
        for (peer, origin) in peers.iter().zip(&mut origins) {
            admission.admit(*peer, origin).unwrap();
        }
        for (peer, origin) in peers.iter().zip(&mut origins) {
            admission.leave(*peer, origin);
        }
        for shard in &admission.shards {
            let shard = lock(shard);
            assert!(shard.open.is_empty() && shard.open.capacity() <= 128);
        }
    }

    #[test]
    fn a_bucket_refills_and_is_never_fuller_than_its_burst() {
        let rate = Rate::of(10, 3).unwrap();
        let second = 1_000_000_000;
        let mut full_at = None;
        let mut take = |now| {
            let taken = rate.take(full_at, now);
            full_at = taken.or(full_at);
            taken.is_some()
        };
        assert_eq!([5, 5, 5, 5].map(|s| take(s * second)), [true, true, true, false]);
        assert!(!take(5 * second + second / 10 - 1));
        assert!(take(5 * second + second / 10));
        assert!(!take(5 * second + second / 10));
        assert_eq!([9, 9, 9, 9].map(|s| take(s * second)), [true, true, true, false]);
        assert!(Rate::of(0, 3).is_none());
        assert_eq!(Rate::of(7, 0).unwrap().rest, 6 * (second / 7));
    }

    #[test]
    fn the_least_used_addresses_are_forgotten() {
        let mut shard = Shard::default();
        for n in 0..10 * RATES as u64 {
            // The first is used again and again.
            shard.note_rate(0, 1_000_000 + n).unwrap();
            shard.note_rate(1 + u128::from(n), n).unwrap();
            assert!(shard.full_at.len() <= RATES);
        }
        assert!(shard.full_at.contains_key(&0));
        assert!(shard.full_at.len() > RATES / 2);
    }

    #[test]
    fn refusals_are_reported_once_a_second_with_their_number() {
        let admission = of(Config::new().max_per_address(1));
        assert_eq!(admission.report_at(), Deadline::NEVER);
        let client = peer("192.0.2.1:1");
        admission.note_refusal(client, Limit::Open);
        let first = admission.report(false).unwrap();
        assert_eq!(first.status(), Status::Limit);
        assert!(first.message().starts_with("refused 1 connection beyond"), "{first}");
        admission.note_refusal(client, Limit::Open);
        admission.note_refusal(client, Limit::Rate);
        assert!(admission.report(false).is_none());
        let at = admission.report_at();
        assert!(at != Deadline::NEVER && at.ms_left() > 0);
        let rest = admission.report(true).unwrap();
        assert!(rest.message().contains("refused 2 connections"), "{rest}");
        assert!(rest.message().contains("192.0.2.1, accept_rate_per_address"), "{rest}");
        assert!(admission.report(true).is_none());
    }
}
