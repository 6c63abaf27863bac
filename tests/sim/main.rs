//! A server on a simulated kernel. The library makes its system calls through functions of the C
//! library, which this program has in its own place (`calls.rs`). So one thread is all there is: the
//! library's turns, the clients and the network, in an order that a seed decides, and in virtual
//! time. The same seed gives the same run.
//!
//! `make sim` builds it with `--cfg rustix_use_libc` and runs it. docs/RELIABILITY.md says more.

mod acts;
mod bring;
mod calls;
mod client;
mod coverage;
mod dial;
mod episode;
mod files;
mod handler;
mod hang;
mod judge;
mod kernel;
mod listen;
mod local;
mod program;
mod proxy;
mod quiesce;
mod random;
mod real;
mod report;
mod same;
mod secure;
mod sendfile;
mod shrink;
mod story;
mod tcp;
mod threads;
mod watches;
mod wire;
mod world;

use std::time::Instant;

use episode::{Options, Tells};
use report::Report;
use shrink::Without;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn main() {
    std::panic::set_hook(Box::new(|panic| {
        if panic.payload().downcast_ref::<&str>() != Some(&"a panic of the program") {
            eprintln!("{panic}");
        }
    }));
    if !cfg!(rustix_use_libc) {
        println!("sim: it needs --cfg rustix_use_libc: make sim");
        return;
    }
    let tells = if number("NS_SIM_TRACE").is_some() { Tells::All } else { Tells::Nothing };
    let without = std::env::var("NS_SIM_WITHOUT").unwrap_or_default();
    let tls = number("NS_SIM_TLS").map(|number| number > 0);
    let options = Options { tells, tls, without: Without::parse(&without) };
    let first = number("NS_SIM_SEED").unwrap_or(1);
    if let Some(scripts) = number("NS_SIM_EPOLL") {
        std::process::exit(i32::from(!same::compare(first, scripts)));
    }
    let seconds = number("NS_SIM_SECONDS").unwrap_or(10);
    let episodes = number("NS_SIM_EPISODES").unwrap_or(u64::MAX);
    let begun = Instant::now();
    let (mut report, mut steps, mut time, mut hash, mut count) = (Report::default(), 0, 0, 0u64, 0);
    let mut failed = false;
    println!("sim: from seed {first} on");
    let mut told = 0;
    while count < episodes && (count == 0 || begun.elapsed().as_secs() < seconds) {
        let seed = first.wrapping_add(count);
        if begun.elapsed().as_secs() / 10 > told {
            told = begun.elapsed().as_secs() / 10;
            println!("{} of {seconds} s, {count} episodes", told * 10);
        }
        let outcome = episode::run(seed, options.clone());
        // Some are run again: the same seed gives the same run.
        if count % 64 == 0 {
            let again = episode::run(seed, options.clone());
            if (again.hash, again.steps) != (outcome.hash, outcome.steps) {
                failed = true;
                println!(
                    "seed {seed}: not the same run again: {} and {} steps",
                    outcome.steps, again.steps
                );
            }
        }
        count += 1;
        steps += outcome.steps;
        time += outcome.virtual_time;
        hash = hash.rotate_left(1) ^ outcome.hash;
        report.add(outcome.report);
        for finding in &outcome.findings {
            println!("seed {seed}: {finding}");
        }
        if !outcome.findings.is_empty() {
            println!("{}", options.again(seed));
            failed = true;
            if tells == Tells::Nothing && number("NS_SIM_SHRINK") != Some(0) {
                shrink::shrink(seed, &options, &outcome.findings[0]);
            }
            if number("NS_SIM_GO_ON").is_none() {
                break;
            }
        }
    }
    let took = begun.elapsed().as_secs_f64();
    report.print();
    let missed = coverage::missed(&report);
    if !missed.is_empty() {
        let is_fault = count >= coverage::ENOUGH && tls.is_none();
        let note = if is_fault { "" } else { " (which so few episodes, or a part of them, may)" };
        println!("missed{note}: {}", missed.join(", "));
        failed |= is_fault;
    }
    println!(
        "sim: seeds {first} to {}, {count} episodes, {steps} events, {:.0} a second, {} virtual \
         seconds, hash {hash:016x}",
        first + count - 1,
        steps as f64 / took,
        time / world::SECOND,
    );
    println!("sim: {}", if failed { "failed" } else { "clean" });
    if failed {
        std::process::exit(1);
    }
}
