//! What was written, and whether the caches have heard of it.

use std::collections::{BTreeMap, BTreeSet};

use crate::cacher::{Heard, Log};

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    Put(String),
    Delete,
}

/// Of one writer.
pub struct Written {
    resource: &'static str,
    done: Vec<(i64, String, Change)>,
    unknown: Vec<(String, Change)>,
}

impl Written {
    pub fn new(resource: &'static str) -> Written {
        Written { resource, done: Vec::new(), unknown: Vec::new() }
    }

    pub fn done(&mut self, revision: i64, key: &str, change: Change) {
        self.done.push((revision, key.to_owned(), change));
    }

    pub fn unknown(&mut self, key: &str, change: Change) {
        self.unknown.push((key.to_owned(), change));
    }
}

#[derive(Default)]
pub struct Truth {
    /// By resource and revision: a writer changes one key at a time.
    done: BTreeMap<&'static str, BTreeMap<i64, (String, Change)>>,
    values: BTreeSet<String>,
    pub unknown: usize,
    problems: Vec<String>,
}

impl Truth {
    pub fn take(&mut self, written: Written) {
        let of_resource = self.done.entry(written.resource).or_default();
        for (revision, key, change) in written.done {
            if let Change::Put(value) = &change {
                self.values.insert(value.clone());
            }
            if let Some(other) = of_resource.insert(revision, (key.clone(), change)) {
                self.problems.push(format!("revision {revision} is of {key} and of {}", other.0));
            }
        }
        for (_, change) in written.unknown {
            self.unknown += 1;
            if let Change::Put(value) = change {
                self.values.insert(value);
            }
        }
    }

    pub fn written(&self) -> usize {
        self.done.values().map(BTreeMap::len).sum()
    }

    pub fn check(&self, logs: &[Log], problems: &mut Vec<String>) {
        problems.extend(self.problems.iter().cloned());
        for log in logs {
            problems.extend(log.problems.iter().map(|problem| format!("{}: {problem}", log.name)));
            self.all_heard(log, problems);
        }
        // Caches of one resource heard the same, wherever both listened.
        for resource in crate::RESOURCES {
            let mut of_resource = logs.iter().filter(|log| log.resource == resource);
            let Some(first) = of_resource.next() else { continue };
            for other in of_resource {
                for (a, b) in [(first, other), (other, first)] {
                    let missing = a.events.iter().find(|(at, heard)| {
                        !b.was_listed_over(at.0) && b.events.get(*at) != Some(*heard)
                    });
                    if let Some((at, heard)) = missing {
                        let text = format!("{} heard {at:?} {heard:?}, {} not", a.name, b.name);
                        problems.push(text);
                    }
                }
            }
        }
    }

    /// Every acknowledged write was heard of, unless a list came instead; every value heard was written.
    fn all_heard(&self, log: &Log, problems: &mut Vec<String>) {
        let Some(done) = self.done.get(log.resource) else { return };
        for (revision, (key, change)) in done {
            if log.was_listed_over(*revision) {
                continue;
            }
            let heard = log.events.get(&(*revision, key.clone()));
            let is_same = match (heard, change) {
                (Some(Heard::Put(heard)), Change::Put(value)) => heard == value,
                (Some(Heard::Delete), Change::Delete) => true,
                _ => false,
            };
            if !is_same {
                problems.push(format!("{}: {key} at {revision}: heard {heard:?}", log.name));
                return;
            }
        }
        for ((revision, key), heard) in &log.events {
            if let Heard::Put(value) = heard
                && !self.values.contains(value)
            {
                problems.push(format!("{}: nobody wrote {key} at {revision}", log.name));
                return;
            }
        }
    }
}
