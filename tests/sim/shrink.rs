//! Makes an episode with a finding smaller: without some of its clients, of the program's acts and
//! of the kinds of faults, as long as the same rule is broken.

use std::collections::BTreeSet;
use std::time::Instant;

use crate::episode::{self, Options, Tells};
use crate::world::World;

/// The kinds of faults: see `episode::rates`.
pub const FAULTS: [&str; 10] = [
    "short sends",
    "full buffers",
    "EINTR",
    "errors of accept",
    "exhaustion",
    "spurious events",
    "single events",
    "no memory",
    "pauses",
    "unreadable files",
];

/// What an episode leaves out. Clients and acts have numbers, in their order.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Without {
    pub clients: BTreeSet<u32>,
    pub acts: BTreeSet<u32>,
    pub faults: BTreeSet<u32>,
}

impl Without {
    /// As [`Without::text`] writes it.
    pub fn parse(text: &str) -> Without {
        let mut parts = text.split(';').map(|part| {
            let ranges = part.split(',').filter(|range| !range.is_empty());
            let numbers = ranges.flat_map(|range| {
                let (low, high) = range.split_once('-').unwrap_or((range, range));
                let number = |text: &str| text.parse::<u32>().expect("WITHOUT: a number");
                number(low)..=number(high)
            });
            numbers.collect::<BTreeSet<u32>>()
        });
        let mut next = || parts.next().unwrap_or_default();
        Without { clients: next(), acts: next(), faults: next() }
    }

    pub fn text(&self) -> String {
        let parts = [&self.clients, &self.acts, &self.faults].map(|numbers| {
            let mut ranges: Vec<(u32, u32)> = Vec::new();
            for number in numbers {
                match ranges.last_mut() {
                    Some((_, high)) if *high + 1 == *number => *high = *number,
                    _ => ranges.push((*number, *number)),
                }
            }
            let range = |(low, high): &(u32, u32)| match low == high {
                true => low.to_string(),
                false => format!("{low}-{high}"),
            };
            ranges.iter().map(range).collect::<Vec<_>>().join(",")
        });
        parts.join(";")
    }
}

/// The rule that a finding says is broken, whichever connection breaks it, and when.
fn rule(finding: &str) -> String {
    let text = finding.split_once(": ").map_or(finding, |(_, text)| text);
    let text = match text.strip_prefix("link ").and_then(|rest| rest.split_once(": ")) {
        Some((_, rest)) => rest,
        None => text,
    };
    text.chars().filter(|c| !c.is_ascii_digit()).take(40).collect()
}

/// How long it may take, in seconds.
const MOST: u64 = 60;

struct Shrinker {
    seed: u64,
    options: Options,
    rule: String,
    begun: Instant,
    runs: u32,
    kept: Without,
}

impl Shrinker {
    fn fails(&mut self, without: &Without) -> bool {
        self.runs += 1;
        let outcome =
            episode::run(self.seed, Options { without: without.clone(), ..self.options.clone() });
        outcome.findings.iter().any(|finding| rule(finding) == self.rule)
    }

    /// Delta debugging: leaves out parts of `all`, first halves, then smaller ones.
    fn reduce(&mut self, all: u32, place: impl Fn(&mut Without) -> &mut BTreeSet<u32>) {
        let mut size = all.div_ceil(2).max(1);
        loop {
            let left: Vec<u32> = {
                let gone = place(&mut self.kept).clone();
                (0..all).filter(|number| !gone.contains(number)).collect()
            };
            for part in left.chunks(size as usize) {
                if self.begun.elapsed().as_secs() >= MOST {
                    return;
                }
                let mut without = self.kept.clone();
                place(&mut without).extend(part);
                if self.fails(&without) {
                    self.kept = without;
                }
            }
            if size == 1 {
                return;
            }
            size = size.div_ceil(2);
        }
    }
}

/// Shrinks a finding, and prints what happens in the episode that is left.
pub fn shrink(seed: u64, options: &Options, finding: &str) {
    let run = |without: &Without, tells| {
        episode::run(seed, Options { tells, without: without.clone(), ..options.clone() })
    };
    let begun = Instant::now();
    let whole = run(&Without::default(), Tells::Nothing);
    let (clients, acts) = (whole.clients, whole.acts);
    let kept = Without::default();
    let mut shrinker =
        Shrinker { seed, options: options.clone(), rule: rule(finding), begun, runs: 0, kept };
    for _ in 0..2 {
        shrinker.reduce(FAULTS.len() as u32, |without| &mut without.faults);
        shrinker.reduce(clients, |without| &mut without.clients);
        shrinker.reduce(acts, |without| &mut without.acts);
    }
    let Shrinker { kept, runs, .. } = shrinker;
    println!("shrunk in {runs} runs: what is left of {} steps:", whole.steps);
    let rest = run(&kept, Tells::Nothing);
    let found = rest.findings.first().and_then(|finding| finding.split_once("link "));
    let link = found.and_then(|(_, text)| text.split(|c: char| !c.is_ascii_digit()).next());
    let link = link.and_then(|number| number.parse().ok());
    let outcome = run(&kept, Tells::Story(link));
    let faults = FAULTS.iter().zip(0..).filter(|(_, number)| !kept.faults.contains(number));
    println!(
        "{} steps, {} of {clients} clients, {} of {acts} acts, faults: {:?}",
        outcome.steps,
        clients as usize - kept.clients.len(),
        acts as usize - kept.acts.len(),
        faults.map(|(name, _)| *name).collect::<Vec<_>>(),
    );
    println!("{}", Options { without: kept, ..options.clone() }.again(seed));
}

impl World {
    /// An act of the program begins: it has random numbers of its own, so that leaving it out
    /// changes nothing else. Returns whether it is done.
    pub fn begin_act(&mut self) -> bool {
        self.acts += 1;
        if self.without.acts.contains(&(self.acts - 1)) {
            return false;
        }
        let own = self.stream((1 << 32) | u64::from(self.acts));
        self.streams.push(std::mem::replace(&mut self.random, own));
        true
    }

    pub fn end_act(&mut self) {
        if let Some(former) = self.streams.pop() {
            self.random = former;
        }
    }
}
