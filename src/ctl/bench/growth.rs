//! How costs grow: with the number of keys, and with the number of revisions of a key.

use std::path::PathBuf;
use std::time::Instant;

use crate::chart::Curve;
use crate::options::{Kind, Options};
use crate::process::{Servers, rss_sum};
use crate::run::{block_on, workload};
use crate::whole;

pub struct Plan {
    pub binaries: Vec<(String, PathBuf)>,
    pub keys: Vec<u64>,
    /// Of each of [`REVISED_KEYS`] keys.
    pub revisions: Vec<u64>,
    pub base: Options,
}

/// Few, so that many revisions of each fit a disk.
const REVISED_KEYS: u64 = 100;

/// A picture: what grows, and one curve per server.
pub struct Growth {
    pub title: &'static str,
    pub file: &'static str,
    pub x_name: &'static str,
    pub unit: &'static str,
    pub curves: Vec<Curve>,
}

const BY_KEYS: [(&str, &str, &str); 5] = [
    ("CPU of a put", "put-by-keys", "us"),
    ("CPU of a range of one key", "range-by-keys", "us"),
    ("CPU of a range, limit 1000", "list-by-keys", "us"),
    ("Resident bytes per key", "memory-by-keys", "B"),
    ("Restart to the first read", "restart-by-keys", "s"),
];
const BY_REVISIONS: [(&str, &str, &str); 2] = [
    ("CPU of a put, by revisions that its key has", "put-by-revisions", "us"),
    ("CPU of a range of one key, by revisions that it has", "range-by-revisions", "us"),
];

pub fn run(plan: &Plan) -> Result<Vec<Growth>, String> {
    let mut all: Vec<Growth> = Vec::new();
    for (x_name, titles) in [("keys", &BY_KEYS[..]), ("revisions of each key", &BY_REVISIONS)] {
        for (title, file, unit) in titles {
            let curve =
                |(name, _): &(String, PathBuf)| Curve { name: name.clone(), points: Vec::new() };
            let curves = plan.binaries.iter().map(curve).collect();
            all.push(Growth { title, file, x_name, unit, curves });
        }
    }
    for (server, (name, binary)) in plan.binaries.iter().enumerate() {
        let mut add = |file: &str, x: u64, y: f64| {
            eprintln!("  {name}: {file} {x}: {y:.2}");
            let growth = all.iter_mut().find(|growth| growth.file == file);
            growth.expect("one of the titles").curves[server].points.push((x as f64, y));
        };
        for (n, keys) in plan.keys.iter().enumerate() {
            let dir = format!("nornbench-{}-keys-{server}-{n}", std::process::id());
            let mut servers = Servers::start(binary, &std::env::temp_dir().join(dir), 1)?;
            let base = options(plan, &servers, *keys);
            block_on(whole::fill(&base))?;
            add("memory-by-keys", *keys, rss_sum(&base.pids) as f64 / *keys as f64);
            for (file, kind, clients) in [
                ("put-by-keys", Kind::Put, 100),
                ("range-by-keys", Kind::Range, 100),
                ("list-by-keys", Kind::List, 10),
            ] {
                let report = block_on(workload(&Options { kind, clients, ..base.clone() }))?;
                add(file, *keys, report.server_micros());
            }
            servers.stop();
            let start = Instant::now();
            servers.run()?;
            block_on(whole::first_read(&base))?;
            add("restart-by-keys", *keys, start.elapsed().as_secs_f64());
        }
        for (n, revisions) in plan.revisions.iter().enumerate() {
            let dir = format!("nornbench-{}-revisions-{server}-{n}", std::process::id());
            let servers = Servers::start(binary, &std::env::temp_dir().join(dir), 1)?;
            let base = options(plan, &servers, REVISED_KEYS);
            for _ in 0..*revisions {
                block_on(whole::fill(&base))?;
            }
            // (Reads first: puts add revisions.)
            for (file, kind) in
                [("range-by-revisions", Kind::Range), ("put-by-revisions", Kind::Put)]
            {
                let report = block_on(workload(&Options { kind, ..base.clone() }))?;
                add(file, *revisions, report.server_micros());
            }
        }
    }
    Ok(all)
}

fn options(plan: &Plan, servers: &Servers, keys: u64) -> Options {
    Options {
        endpoints: servers.endpoints(),
        pids: servers.pids(),
        keys,
        limit: 1000,
        clients: 100,
        conns: 10,
        ..plan.base.clone()
    }
}
