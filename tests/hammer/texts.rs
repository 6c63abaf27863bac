//! What the metrics and the log of a server say while everything happens.

use std::collections::HashMap;

/// The counters of the texts so far.
#[derive(Default)]
pub struct Metrics(HashMap<String, u64>);

impl Metrics {
    /// MT1, MT2: Reads a text; what is wrong with it.
    pub fn read(&mut self, text: &str) -> Option<String> {
        let mut threads = 0;
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((name, number)) = line.rsplit_once(' ') else {
                return Some(format!("no metric: {line:?}"));
            };
            let family = name.split('{').next().unwrap_or_default();
            if family == "netserver_thread_open_connections" {
                threads += number.parse::<u64>().unwrap_or_default();
            }
            let is_counter = family.ends_with("_total");
            if !is_counter && family != "netserver_open_connections" {
                continue;
            }
            let Ok(number) = number.parse() else { return Some(format!("no number: {line:?}")) };
            let before = self.0.insert(name.into(), number).unwrap_or(0);
            if is_counter && number < before {
                return Some(format!("{name} goes back from {before} to {number}"));
            }
        }
        match self.0.get("netserver_open_connections") {
            None => Some("no open connections in the text".into()),
            // A text before the start and after the stop has no threads, or none open.
            Some(open) if *open != threads => {
                Some(format!("{open} connections are open, {threads} of the threads"))
            }
            Some(_) => None,
        }
    }
}

/// LG8: What is wrong with a line of the log.
pub fn unfit(line: &str) -> Option<String> {
    let is_fit = !line.is_empty() && !line.chars().any(char::is_control);
    (!is_fit).then(|| format!("no line for a log: {line:?}"))
}
