//! Servers under strain: at half of what they can, while things happen that might hold a put up; and at twice of it.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::options::{Kind, Options};
use crate::process::Servers;
use crate::run::{Report, block_on, workload};
use crate::table::Table;
use crate::{machine, process, whole};

pub struct Plan {
    /// The last is the one that the others are measured by.
    pub binaries: Vec<(String, PathBuf)>,
    /// Of the store that all this happens to.
    pub keys: u64,
    /// Of the overload.
    pub overload: Duration,
    pub base: Options,
}

const NODES: [(usize, &str); 2] = [(1, "one node"), (3, "three nodes")];
/// While it is compacted: everything that is past, each time.
const COMPACT_EVERY: Duration = Duration::from_secs(2);
/// So many may wait at half of what a server can. (With the hundred that are as fast as answers come, those in line before the loader's own
/// clients, and not before the server, were most of every wait beyond 4 ms: 10 ms with this, 100 with those.)
const WAITING_CLIENTS: usize = 1000;
const OVERLOAD_CLIENTS: usize = 5000;
const OVERLOAD_CONNS: usize = 100;
/// How long the machine itself is looked at.
const MACHINE: Duration = Duration::from_secs(5);
/// Of the metrics that say whether members heard each other in time.
const MISSED: [&str; 2] =
    ["etcd_server_leader_changes_seen_total", "etcd_server_heartbeat_send_failures_total"];

pub fn run(plan: &Plan) -> Result<Table, String> {
    let mut table = Table::new(plan.binaries.iter().map(|(name, _)| name.clone()).collect());
    for (nodes, title) in NODES {
        for (server, (name, binary)) in plan.binaries.iter().enumerate() {
            eprintln!("{name}, {title}");
            let dir = format!("nornbench-{}-strain-{nodes}-{server}", std::process::id());
            let dir = std::env::temp_dir().join(dir);
            let mut side = Side { table: &mut table, server, title };
            side.run(plan, binary, &dir, nodes)?;
        }
    }
    Ok(table)
}

struct Side<'a> {
    table: &'a mut Table,
    server: usize,
    title: &'static str,
}

impl Side<'_> {
    fn add(&mut self, name: &str, unit: &'static str, value: f64) {
        eprintln!("  {name}: {value:.2} {unit}");
        self.table.add(self.server, &format!("{}: {name}", self.title), unit, value);
    }

    fn waits(&mut self, when: &str, report: &Report) {
        for (name, quantile) in [("p99", 0.99), ("longest", 1.0)] {
            let name = format!("put at half of that rate, {when}: {name}");
            self.add(&name, "ms", report.latency.micros(quantile) / 1e3);
        }
        if !report.errors.is_empty() {
            eprintln!("  errors: {:?}", report.errors);
        }
    }

    fn run(&mut self, plan: &Plan, binary: &Path, dir: &Path, nodes: usize) -> Result<(), String> {
        let held = machine::held(MACHINE);
        let watchers = "before it, threads that only look at the clock, one per core: held up";
        self.add(&format!("{watchers}, of their time"), "%", 100.0 * held.share);
        self.add(&format!("{watchers}, longest"), "ms", held.longest.as_secs_f64() * 1e3);
        let mut servers = Servers::start(binary, dir, nodes)?;
        let base = Options {
            kind: Kind::Put,
            endpoints: servers.endpoints(),
            pids: servers.pids(),
            keys: plan.keys,
            clients: 100,
            conns: 10,
            ..plan.base.clone()
        };
        block_on(whole::fill(&base))?;
        let full = block_on(workload(&base))?.per_second();
        self.add("puts of 100 clients, as fast as answers come", "op/s", full);

        let half = Options { clients: WAITING_CLIENTS, rate: (full / 2.0) as u64, ..base.clone() };
        self.waits("nothing else", &block_on(workload(&half))?);
        self.waits("while it is compacted", &beside(&half, |over| compactions(&base, over))?);
        // (A learner: the others need not wait for it.)
        let joins = beside(&half, |_| {
            std::thread::sleep(half.warmup);
            servers.join("joining", |peer| block_on(whole::add_learner(&base, peer)))
        });
        self.waits("while a member joins", &joins?);
        // (What of that is for a member more on the machine, and not for its joining.)
        self.waits("beside the member that joined", &block_on(workload(&half))?);

        let overload = Options {
            clients: OVERLOAD_CLIENTS,
            conns: OVERLOAD_CONNS,
            rate: (full * 2.0) as u64,
            duration: plan.overload,
            ..base.clone()
        };
        let before = missed(&base)?;
        let report = block_on(workload(&overload))?;
        let after = missed(&base)?;
        let refused: u64 = report.errors.values().sum();
        self.add("5000 clients at twice that rate: succeeded", "op/s", report.per_second());
        self.add("5000 clients: of what 100 clients got", "%", 100.0 * report.per_second() / full);
        self.add("5000 clients: p99", "ms", report.latency.micros(0.99) / 1e3);
        self.add("5000 clients: refused", "calls", refused as f64);
        self.add("5000 clients: never answered", "calls", report.unanswered as f64);
        let resident = report.rss_max_bytes as f64 / 1e6 / nodes as f64;
        self.add("5000 clients: most memory of a member", "MB", resident);
        self.add("5000 clients: leaders lost, heartbeats that failed", "", after - before);
        Ok(())
    }
}

/// A load, and something that happens beside it on another thread. It is told when the load is over.
fn beside<T: Send>(
    load: &Options,
    happens: impl FnOnce(&AtomicBool) -> Result<T, String> + Send,
) -> Result<Report, String> {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| happens(&over));
        let report = block_on(workload(load));
        over.store(true, Ordering::Relaxed);
        let happened = thread.join().map_err(|_| "a thread of the loader panicked".to_owned())?;
        happened?;
        report
    })
}

fn compactions(base: &Options, over: &AtomicBool) -> Result<(), String> {
    while !over.load(Ordering::Relaxed) {
        block_on(whole::compact(base))?;
        std::thread::sleep(COMPACT_EVERY);
    }
    Ok(())
}

/// How often members missed each other.
fn missed(base: &Options) -> Result<f64, String> {
    let mut sum = 0.0;
    for endpoint in &base.endpoints {
        let page = process::metrics(endpoint).map_err(|e| format!("{endpoint}: {e}"))?;
        let values = page.lines().filter_map(|line| line.split_once(' '));
        let missed = values.filter(|(name, _)| MISSED.contains(name));
        sum += missed.filter_map(|(_, value)| value.parse::<f64>().ok()).sum::<f64>();
    }
    Ok(sum)
}
