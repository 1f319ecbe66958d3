//! Two servers side by side, A B A B: the table of the budgets, with ratios and spread.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::load::{self, Kind, Options};
use crate::process::{Servers, rss_sum};

pub struct Plan {
    pub binaries: [(&'static str, PathBuf); 2],
    pub rounds: usize,
    pub nodes: usize,
    pub big_keys: u64,
    pub base: Options,
}

/// One row: values of A and of B, one per round.
struct Row {
    name: String,
    unit: &'static str,
    values: [Vec<f64>; 2],
}

#[derive(Default)]
struct Table(Vec<Row>);

impl Table {
    fn add(&mut self, side: usize, name: &str, unit: &'static str, value: f64) {
        let row = match self.0.iter().position(|r| r.name == name) {
            Some(i) => &mut self.0[i],
            None => {
                self.0.push(Row { name: name.to_owned(), unit, values: Default::default() });
                self.0.last_mut().expect("just pushed")
            }
        };
        row.values[side].push(value);
    }

    fn markdown(&self, names: [&str; 2]) -> String {
        let [a, b] = names;
        let mut out = format!("| | unit | {a} | {b} | {b} / {a} |\n|---|---|---|---|---|\n");
        for row in &self.0 {
            let [x, y] = [&row.values[0], &row.values[1]];
            let ratio = if mean(x) > 0.0 { mean(y) / mean(x) } else { 0.0 };
            out += &format!(
                "| {} | {} | {} | {} | {ratio:.2} |\n",
                row.name,
                row.unit,
                cell(x),
                cell(y)
            );
        }
        out
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// The mean, and half the spread when there is more than one value.
fn cell(values: &[f64]) -> String {
    let (low, high) = values.iter().fold((f64::MAX, 0f64), |(l, h), &v| (l.min(v), h.max(v)));
    let digits = if mean(values) < 10.0 { 2 } else { 0 };
    match values.len() {
        0 => "-".into(),
        1 => format!("{:.digits$}", values[0]),
        _ => format!("{:.digits$} ±{:.digits$}", mean(values), (high - low) / 2.0),
    }
}

pub fn run(plan: &Plan) -> Result<String, String> {
    let mut table = Table::default();
    for round in 0..plan.rounds {
        for (side, (name, binary)) in plan.binaries.iter().enumerate() {
            eprintln!("round {} of {}: {name}", round + 1, plan.rounds);
            let dir = std::env::temp_dir()
                .join(format!("nornbench-{}-{round}-{side}", std::process::id()));
            one_node(plan, &mut table, side, binary, &dir)?;
            if plan.nodes > 1 {
                cluster(plan, &mut table, side, binary, &dir)?;
            }
        }
    }
    Ok(table.markdown([plan.binaries[0].0, plan.binaries[1].0]))
}

fn measure(table: &mut Table, side: usize, name: &str, options: &Options) -> Result<(), String> {
    let report = load::run(options)?;
    eprintln!(
        "  {name}: {:.0}/s, server {:.2} us, loader {:.2} us, p50 {:.0} us, p99 {:.0} us, errors {:?}",
        report.per_second(),
        report.server_micros(),
        report.own_micros(),
        report.latency.micros(0.5),
        report.latency.micros(0.99),
        report.errors
    );
    table.add(side, &format!("{name}: server CPU"), "us/op", report.server_micros());
    table.add(side, &format!("{name}: rate"), "op/s", report.per_second());
    table.add(side, &format!("{name}: p50"), "us", report.latency.micros(0.5));
    table.add(side, &format!("{name}: p99"), "us", report.latency.micros(0.99));
    Ok(())
}

fn one_node(
    plan: &Plan,
    table: &mut Table,
    side: usize,
    binary: &std::path::Path,
    dir: &std::path::Path,
) -> Result<(), String> {
    let mut servers = Servers::start(binary, dir, 1)?;
    let base = Options {
        endpoints: servers.endpoints(),
        pids: servers.pids(),
        keys: 10_000,
        clients: 100,
        conns: 10,
        ..plan.base.clone()
    };
    load::fill(&base)?;
    let rows = [
        ("put 1/1", Options { kind: Kind::Put, clients: 1, conns: 1, ..base.clone() }),
        ("put 100/10", Options { kind: Kind::Put, ..base.clone() }),
        ("put 1000/100", Options { kind: Kind::Put, clients: 1000, conns: 100, ..base.clone() }),
        ("range linearizable 100/10", Options { kind: Kind::Range, ..base.clone() }),
        (
            "range serializable 100/10",
            Options { kind: Kind::Range, serializable: true, ..base.clone() },
        ),
        (
            "list 1000 of 10 k keys 10/10",
            Options { kind: Kind::List, limit: 1000, clients: 10, ..base.clone() },
        ),
        ("txn 100/10", Options { kind: Kind::Txn, ..base.clone() }),
        ("lease keepalive 100/10", Options { kind: Kind::KeepAlive, ..base.clone() }),
        (
            "1000 watchers on 10 streams, per event",
            Options { kind: Kind::Watch, watchers: 1000, streams: 10, ..base.clone() },
        ),
    ];
    for (name, options) in &rows {
        measure(table, side, name, options)?;
    }
    drop(servers);
    if plan.big_keys == 0 {
        return Ok(());
    }
    servers = Servers::start(binary, dir, 1)?;
    let big = Options {
        endpoints: servers.endpoints(),
        pids: servers.pids(),
        keys: plan.big_keys,
        ..base
    };
    let name = |what: &str| format!("{} keys: {what}", plan.big_keys);
    let took = load::fill(&big)?;
    table.add(side, &name("fill"), "s", took.as_secs_f64());
    std::thread::sleep(Duration::from_secs(2));
    table.add(side, &name("resident after fill"), "MB", rss_sum(&big.pids) as f64 / 1e6);
    let list = Options { kind: Kind::List, limit: 1000, clients: 10, ..big.clone() };
    measure(table, side, &name("list 1000, 10/10"), &list)?;
    servers.stop();
    let start = Instant::now();
    servers.run()?;
    load::first_read(&servers.endpoints()[0])?;
    table.add(side, &name("restart to first read"), "s", start.elapsed().as_secs_f64());
    table.add(side, &name("resident after restart"), "MB", rss_sum(&servers.pids()) as f64 / 1e6);
    Ok(())
}

fn cluster(
    plan: &Plan,
    table: &mut Table,
    side: usize,
    binary: &std::path::Path,
    dir: &std::path::Path,
) -> Result<(), String> {
    let servers = Servers::start(binary, dir, plan.nodes)?;
    let base = Options {
        endpoints: servers.endpoints(),
        pids: servers.pids(),
        keys: 10_000,
        clients: 100,
        conns: 10,
        ..plan.base.clone()
    };
    load::first_read(&base.endpoints[0])?;
    let name = |what: &str| format!("{} nodes, {what} 100/10 (CPU: sum)", plan.nodes);
    measure(table, side, &name("put"), &Options { kind: Kind::Put, ..base.clone() })?;
    measure(table, side, &name("range linearizable"), &Options { kind: Kind::Range, ..base })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markdown() {
        let mut t = Table::default();
        t.add(0, "put", "us/op", 48.0);
        t.add(1, "put", "us/op", 3.0);
        t.add(1, "put", "us/op", 5.0);
        assert_eq!(
            t.markdown(["etcd", "norn"]),
            "| | unit | etcd | norn | norn / etcd |\n|---|---|---|---|---|\n| put | us/op | 48 | 4.00 ±1.00 | 0.08 |\n"
        );
    }
}
