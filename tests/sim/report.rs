//! What happened how often.

use std::collections::BTreeMap;

#[derive(Default)]
pub struct Report {
    pub calls: BTreeMap<(&'static str, i32), u64>,
    pub counts: BTreeMap<&'static str, u64>,
    pub reasons: BTreeMap<String, u64>,
    pub statuses: BTreeMap<String, u64>,
    /// What each callback returned.
    pub returns: BTreeMap<(&'static str, &'static str), u64>,
    /// In which phase connections ended, and how.
    pub ends: BTreeMap<(&'static str, String), u64>,
}

impl Report {
    pub fn call(&mut self, name: &'static str, error: i32) {
        *self.calls.entry((name, error)).or_default() += 1;
    }

    pub fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    /// All that is counted, each under one name.
    pub fn names(&self) -> BTreeMap<String, u64> {
        let mut all = BTreeMap::new();
        for ((name, error), count) in &self.calls {
            let result = match error {
                0 => "ok".to_owned(),
                error => crate::calls::error_name(*error),
            };
            all.insert(format!("{name} {result}"), *count);
        }
        all.extend(self.counts.iter().map(|(name, count)| (name.to_string(), *count)));
        all.extend(self.statuses.iter().map(|(name, count)| (format!("status {name}"), *count)));
        let returns = self.returns.iter();
        all.extend(returns.map(|((name, result), count)| (format!("{name} {result}"), *count)));
        let ends = self.ends.iter();
        all.extend(ends.map(|((phase, way), count)| (format!("{phase}: {way}"), *count)));
        all
    }

    pub fn add(&mut self, other: Report) {
        for (key, count) in other.calls {
            *self.calls.entry(key).or_default() += count;
        }
        for (key, count) in other.counts {
            *self.counts.entry(key).or_default() += count;
        }
        for (key, count) in other.reasons {
            *self.reasons.entry(key).or_default() += count;
        }
        for (key, count) in other.statuses {
            *self.statuses.entry(key).or_default() += count;
        }
        for (key, count) in other.returns {
            *self.returns.entry(key).or_default() += count;
        }
        for (key, count) in other.ends {
            *self.ends.entry(key).or_default() += count;
        }
    }

    pub fn print(&self) {
        let mut line = String::new();
        let mut last = "";
        for ((name, error), count) in &self.calls {
            if *name != last {
                last = name;
                line += &format!("\n  {name}");
            }
            line += &match error {
                0 => format!(" ok {count}"),
                error => format!(", {} {count}", crate::calls::error_name(*error)),
            };
        }
        println!("calls:{line}");
        let list = |all: Vec<(String, u64)>| {
            all.iter().map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>().join(", ")
        };
        let names = |map: &BTreeMap<String, u64>| list(map.clone().into_iter().collect());
        println!("close reasons: {}", names(&self.reasons));
        println!("statuses: {}", names(&self.statuses));
        let returns =
            |(pair, count): (&(&str, &str), &u64)| (format!("{} {}", pair.0, pair.1), *count);
        println!("callbacks: {}", list(self.returns.iter().map(returns).collect()));
        let mut line = String::new();
        let mut last = "";
        for ((phase, way), count) in &self.ends {
            if *phase != last {
                last = phase;
                line += &format!("\n  {phase}:");
            }
            line += &format!(" {way} {count}");
        }
        println!("ends by phase:{line}");
        let counts = self.counts.iter().map(|(name, count)| (name.to_string(), *count)).collect();
        println!("other: {}", list(counts));
    }
}
