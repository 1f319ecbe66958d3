//! Servers side by side, in turn: the rows of the project's budgets, with ratios and spread.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::options::{Kind, Options};
use crate::process::{Servers, rss_sum};
use crate::run::{Report, block_on, workload};
use crate::table::{Budget, Table};
use crate::{lease, whole};

pub struct Plan {
    /// The last is the one that the others are measured by.
    pub binaries: Vec<(String, PathBuf)>,
    pub rounds: usize,
    pub nodes: usize,
    pub big_keys: u64,
    pub base: Options,
}

/// What a run costs, and how quickly it went.
pub struct Figures {
    pub costs: Table,
    pub paces: Table,
}

/// Of the leases that run out together.
const EXPIRING: u64 = 5_000;
const EXPIRING_TTL_SECONDS: i64 = 10;
/// After a large fill, before memory is looked at.
const SETTLE: Duration = Duration::from_secs(2);

const PUT: &str = "put";
const PUT_MANY: &str = "put, 1000 clients on 100 connections";
const PUT_ONE: &str = "put, one client: p50";
const PUT_THREE: &str = "put, three nodes, sum";
const RANGE: &str = "range of one key, linearizable";
const RANGE_LOCAL: &str = "range of one key, serializable";
const LIST: &str = "range, limit 1000 of 10 k keys";
const LIST_BIG: &str = "range, limit 1000 of all keys";
const TXN: &str = "txn, one compare and one put";
const KEEP_ALIVE: &str = "lease keepalive on a stream";
const FAN_OUT: &str = "one key watched 1000 times on 10 streams, per event";
const RESIDENT: &str = "resident with all keys";
const RESTART: &str = "restart with all keys, to the first read";
const DEFRAGMENT: &str = "longest wait of a put during defragmentation";

/// The rows of the design that are measured here: etcd 3.7.1 there, the must and the goal.
pub fn budget(row: &str) -> Option<Budget> {
    let (etcd, must, goal) = match row {
        PUT => (48.0, 10.0, 3.0),
        PUT_MANY => (45.0, 8.0, 2.0),
        PUT_THREE => (117.0, 30.0, 10.0),
        PUT_ONE => (232.0, 150.0, 110.0),
        RANGE => (29.0, 7.0, 1.5),
        RANGE_LOCAL => (24.0, 6.0, 1.5),
        LIST => (2400.0, 250.0, 80.0),
        LIST_BIG => (33_000.0, 300.0, 100.0),
        TXN => (55.0, 12.0, 4.0),
        KEEP_ALIVE => (5.25, 2.0, 0.5),
        FAN_OUT => (0.85, 0.25, 0.1),
        RESIDENT => (511.0, 300.0, 130.0),
        RESTART => (4.4, 1.5, 0.3),
        DEFRAGMENT => (6400.0, 50.0, 1.0),
        _ => return None,
    };
    Some(Budget { etcd, must, goal })
}

pub fn run(plan: &Plan) -> Result<Figures, String> {
    let names: Vec<String> = plan.binaries.iter().map(|(name, _)| name.clone()).collect();
    let mut figures = Figures { costs: Table::new(names.clone()), paces: Table::new(names) };
    for round in 0..plan.rounds {
        for (server, (name, binary)) in plan.binaries.iter().enumerate() {
            eprintln!("round {} of {}: {name}", round + 1, plan.rounds);
            let dir = format!("nornbench-{}-{round}-{server}", std::process::id());
            let dir = std::env::temp_dir().join(dir);
            let mut side = Side { figures: &mut figures, server, base: &plan.base };
            side.small(binary, &dir)?;
            if plan.big_keys > 0 {
                side.big(binary, &dir, plan.big_keys)?;
            }
            if plan.nodes > 1 {
                side.cluster(binary, &dir, plan.nodes)?;
            }
        }
    }
    Ok(figures)
}

/// One server in one round.
struct Side<'a> {
    figures: &'a mut Figures,
    server: usize,
    base: &'a Options,
}

impl Side<'_> {
    fn cost(&mut self, name: &str, unit: &'static str, value: f64) {
        self.figures.costs.add(self.server, name, unit, value);
    }

    fn measure(&mut self, name: &str, options: &Options) -> Result<Report, String> {
        let report = block_on(workload(options))?;
        let (p50, p99) = (report.latency.micros(0.5), report.latency.micros(0.99));
        eprintln!(
            "  {name}: {:.0}/s, server {:.2} us, loader {:.2} us, p50 {p50:.0} us, p99 {p99:.0} us, errors {:?}",
            report.per_second(),
            report.server_micros(),
            report.own_micros(),
            report.errors
        );
        // (An older server may not have it: its row stays empty.)
        let is_unknown = |error: &String| error.starts_with("Unimplemented");
        let lacks = !report.errors.is_empty() && report.errors.keys().all(is_unknown);
        if report.operations == 0 && lacks {
            return Ok(report);
        }
        if report.operations == 0 {
            return Err(format!("{name}: nothing succeeded: {:?}", report.errors));
        }
        let paces = &mut self.figures.paces;
        paces.add(self.server, &format!("{name}: rate"), "op/s", report.per_second());
        paces.add(self.server, &format!("{name}: p50"), "us", p50);
        paces.add(self.server, &format!("{name}: p99"), "us", p99);
        self.figures.costs.add(self.server, name, "us", report.server_micros());
        Ok(report)
    }

    /// What rows have in common that say nothing else.
    fn options(&self, servers: &Servers) -> Options {
        Options {
            endpoints: servers.endpoints(),
            pids: servers.pids(),
            keys: 10_000,
            clients: 100,
            conns: 10,
            ..self.base.clone()
        }
    }

    /// One node with 10,000 keys.
    fn small(&mut self, binary: &Path, dir: &Path) -> Result<(), String> {
        let servers = Servers::start(binary, dir, 1)?;
        let base = self.options(&servers);
        block_on(whole::fill(&base))?;
        let of = |kind| Options { kind, ..base.clone() };
        let list = Options { limit: 1000, clients: 10, ..of(Kind::List) };
        let few = Options { clients: 10, ..of(Kind::Watch) };

        let one = Options { clients: 1, conns: 1, ..of(Kind::Put) };
        let one = self.measure("put, one client", &one)?;
        self.cost(PUT_ONE, "us", one.latency.micros(0.5));
        self.measure(PUT, &of(Kind::Put))?;
        self.measure(PUT_MANY, &Options { clients: 1000, conns: 100, ..of(Kind::Put) })?;
        self.measure("overwrite of one key", &of(Kind::Overwrite))?;
        self.measure(RANGE, &of(Kind::Range))?;
        self.measure(RANGE_LOCAL, &Options { serializable: true, ..of(Kind::Range) })?;
        self.measure(LIST, &list)?;
        self.measure(
            "RangeStream, limit 1000 of 10 k keys",
            &Options { kind: Kind::Stream, ..list.clone() },
        )?;
        self.measure("count of 10 k keys", &Options { count_only: true, ..list.clone() })?;
        self.measure("keys only, limit 1000 of 10 k keys", &Options { keys_only: true, ..list })?;
        self.measure(TXN, &of(Kind::Txn))?;
        self.measure("as kube-apiserver, with its watches", &of(Kind::Kube))?;
        self.measure(KEEP_ALIVE, &of(Kind::KeepAlive))?;
        self.measure("lease grant", &Options { ttl: 3600, ..of(Kind::Grant) })?;
        self.measure(FAN_OUT, &Options { watchers: 1000, streams: 10, ..few.clone() })?;
        let own = Options { watchers: 1000, streams: 10, watched_keys: 1000, ..few };
        self.measure("1000 keys watched once each, per event", &own)?;

        let expiring = Options { ttl: EXPIRING_TTL_SECONDS, ..base };
        let expired = block_on(lease::expire(&expiring, EXPIRING))?;
        let micros = expired.server_cpu.as_secs_f64() * 1e6 / EXPIRING as f64;
        self.cost("lease with a key that runs out (beside 1000 puts/s)", "us", micros);
        self.cost("longest wait of a put meanwhile", "ms", expired.puts.micros(1.0) / 1e3);
        Ok(())
    }

    /// One node with very many keys.
    fn big(&mut self, binary: &Path, dir: &Path, keys: u64) -> Result<(), String> {
        let mut servers = Servers::start(binary, dir, 1)?;
        let big = Options {
            endpoints: servers.endpoints(),
            pids: servers.pids(),
            keys,
            clients: 10,
            conns: 10,
            ..self.base.clone()
        };
        let took = block_on(whole::fill(&big))?;
        self.cost("fill with all keys", "s", took.as_secs_f64());
        std::thread::sleep(SETTLE);
        self.cost(RESIDENT, "MB", rss_sum(&big.pids) as f64 / 1e6);
        self.measure(LIST_BIG, &Options { kind: Kind::List, limit: 1000, ..big.clone() })?;
        let saved = block_on(whole::snapshot(&big))?;
        let megabytes = saved.bytes as f64 / 1e6;
        self.cost("snapshot of all keys", "s", saved.took.as_secs_f64());
        let cpu = saved.server_cpu.as_secs_f64() * 1e3 / megabytes;
        self.cost("snapshot, per MB", "ms", cpu);
        let puts = block_on(whole::defragment(&big))?;
        self.cost(DEFRAGMENT, "ms", puts.micros(1.0) / 1e3);
        servers.stop();
        let start = Instant::now();
        servers.run()?;
        block_on(whole::first_read(&big))?;
        self.cost(RESTART, "s", start.elapsed().as_secs_f64());
        self.cost("resident after the restart", "MB", rss_sum(&servers.pids()) as f64 / 1e6);
        Ok(())
    }

    fn cluster(&mut self, binary: &Path, dir: &Path, nodes: usize) -> Result<(), String> {
        let servers = Servers::start(binary, dir, nodes)?;
        let base = self.options(&servers);
        block_on(whole::first_read(&base))?;
        self.measure(PUT_THREE, &Options { kind: Kind::Put, ..base.clone() })?;
        let range = Options { kind: Kind::Range, ..base.clone() };
        self.measure("range of one key, three nodes, sum", &range)?;
        self.measure("as kube-apiserver, three nodes, sum", &Options { kind: Kind::Kube, ..base })?;
        Ok(())
    }
}
