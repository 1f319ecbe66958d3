//! The profiles of a moment, beside that of CPU time: what holds the memory, and which threads there are.

use std::collections::BTreeMap;

use crate::core::Core;
use crate::profile_file::{Frame, Kind, ProfileFile};

/// What Go's runtime has under these names, as far as a process without that runtime has it: name and what it is here.
pub const MOMENTS: &[(&str, &str)] = &[
    ("allocs", "What holds the memory now, as heap: what was freed is not counted"),
    ("block", "Waits of threads for one another: not counted, the profile is empty"),
    ("goroutine", "The threads there are, by name"),
    ("heap", "What holds the memory now, by what it is for"),
    ("mutex", "Contended locks: not counted, the profile is empty"),
    ("threadcreate", "The threads there are, by name"),
];

/// Rows of one kind of value.
pub struct Moment {
    name: &'static str,
    kinds: &'static [Kind],
    rows: Vec<(String, i64)>,
}

impl Moment {
    /// `None`: there is none of this name.
    pub fn take(name: &str, core: &Core) -> Option<Moment> {
        let name = MOMENTS.iter().map(|(known, _)| *known).find(|known| *known == name)?;
        let (kinds, rows): (&[Kind], _) = match name {
            "heap" | "allocs" => (&[("inuse_space", "bytes")], memory(core)),
            "goroutine" => (&[("goroutine", "count")], threads()),
            "threadcreate" => (&[("threadcreate", "count")], threads()),
            _ => (&[("contentions", "count"), ("delay", "nanoseconds")], Vec::new()),
        };
        Some(Moment { name, kinds, rows })
    }

    /// As `go tool pprof` reads it.
    pub fn file(&self) -> Vec<u8> {
        let mut file = ProfileFile::new(self.kinds);
        for (row, value) in &self.rows {
            file.sample(&[vec![Frame::named(row)]], vec![*value], None);
        }
        file.encode()
    }

    /// As people do, who ask with `?debug=1`.
    pub fn text(&self) -> String {
        let total: i64 = self.rows.iter().map(|(_, value)| value).sum();
        let mut text = format!("{} profile: total {total}\n", self.name);
        for (row, value) in &self.rows {
            text.push_str(&format!("{value} @\n#\t{row}\n\n"));
        }
        text
    }
}

/// Bytes by what they are for; what the node does not count is one row.
fn memory(core: &Core) -> Vec<(String, i64)> {
    let held = core.with_node(|node| node.holdings());
    let mut rows: Vec<(String, i64)> = held
        .iter()
        .filter(|held| held.is_bytes)
        .map(|held| (held.what.to_owned(), i64::try_from(held.count).unwrap_or(i64::MAX)))
        .collect();
    let known: i64 = rows.iter().map(|(_, bytes)| bytes).sum();
    let own = i64::try_from(status_bytes("RssAnon:")).unwrap_or(i64::MAX);
    rows.push(("index of keys, and all else".to_owned(), own.saturating_sub(known).max(0)));
    rows
}

fn threads() -> Vec<(String, i64)> {
    let mut names: BTreeMap<String, i64> = BTreeMap::new();
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    for task in tasks {
        // (One that has just ended has no name any more.)
        if let Ok(name) = std::fs::read_to_string(task.path().join("comm")) {
            *names.entry(name.trim_end().to_owned()).or_default() += 1;
        }
    }
    names.into_iter().collect()
}

/// A line of what the system knows of this process; 0 where it says nothing.
pub fn status_bytes(key: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(key));
    let kb = line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    kb.unwrap_or(0) * 1024
}
