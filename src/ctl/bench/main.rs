//! `nornbench`: loads any etcd-compatible endpoint at a fraction of a server's cost, and says what the server paid.

mod compare;
mod histogram;
mod load;
mod process;
mod wire;

use std::path::PathBuf;

use load::{Kind, Options, Report};
use norn_ctl::exit::{Exit, Outcome, bad_args, failed};
use norn_ctl::flags::Kind::{Bool, Int, List, Text, Time};
use norn_ctl::flags::{Flag, Grammar, Line, Parsed, Spec, flag};

const LOAD: &str = "Workloads";
const OTHER: &str = "Other commands";

const fn spec(
    group: &'static str,
    name: &'static str,
    about: &'static str,
    flags: &'static [Flag],
) -> Spec {
    Spec { name, usage: "", about, group, flags, subs: &[] }
}

static GLOBALS: &[Flag] = &[
    flag(
        "endpoints",
        List,
        "127.0.0.1:2379",
        "endpoints, without TLS; connections are spread over them",
    ),
    flag("clients", Int, "100", "calls in flight"),
    flag("conns", Int, "10", "connections"),
    flag("key-bytes", Int, "16", "length of keys"),
    flag("value-bytes", Int, "256", "length of values"),
    flag("keys", Int, "10000", "number of different keys"),
    flag("duration", Time, "10s", "how long to measure"),
    flag("warmup", Time, "2s", "how long to load before that"),
    flag("rate", Int, "0", "calls per second (0: closed loop)"),
    flag("seed", Int, "1", "seed of keys and values"),
    flag("pid", List, "", "server processes whose CPU time and memory are reported (repeatable)"),
    flag("json", Bool, "false", "one JSON object instead of a table"),
];

const SERIALIZABLE: Flag = flag("serializable", Bool, "false", "read from the member itself");

static COMMANDS: &[Spec] = &[
    spec(
        OTHER,
        "compare",
        "Starts two servers in turn and prints a table of ratios",
        &[
            flag("norn", Text, "", "path of nornd"),
            flag("etcd", Text, "", "path of etcd"),
            flag("rounds", Int, "2", "how often A and B take turns"),
            flag("nodes", Int, "1", "3: also rows for a cluster of three"),
            flag("big-keys", Int, "1000000", "keys for memory and restart (0: leave out)"),
        ],
    ),
    spec(OTHER, "fill", "Writes all keys once, in large transactions", &[]),
    spec(LOAD, "keepalive", "Renews leases on one stream per client", &[]),
    spec(
        LOAD,
        "list",
        "Reads ranges of many keys",
        &[SERIALIZABLE, flag("limit", Int, "1000", "keys per range")],
    ),
    spec(LOAD, "mixed", "Three reads of a key to one put", &[SERIALIZABLE]),
    spec(LOAD, "put", "Writes random keys", &[]),
    spec(LOAD, "range", "Reads random keys, one by one", &[SERIALIZABLE]),
    spec(LOAD, "txn", "One comparison and one put", &[]),
    spec(
        LOAD,
        "watch",
        "One key watched many times; counts events",
        &[
            flag("watchers", Int, "1000", "watches on the key"),
            flag("streams", Int, "10", "streams they are spread over"),
        ],
    ),
];

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let Err(e) = start(&words) {
        eprintln!("Error: {}\n{}", e.message, e.after);
        std::process::exit(e.code);
    }
}

fn options(line: &Line, kind: Kind) -> Outcome<Options> {
    let count = |name: &str| usize::try_from(line.int(name)).unwrap_or(0);
    let pids: Result<Vec<u32>, _> =
        line.list("pid").iter().filter(|p| !p.is_empty()).map(|p| p.parse()).collect();
    let options = Options {
        kind,
        endpoints: line.list("endpoints"),
        clients: count("clients").max(1),
        conns: count("conns").max(1),
        key_bytes: count("key-bytes"),
        value_bytes: count("value-bytes"),
        keys: count("keys").max(1) as u64,
        limit: line.int("limit"),
        serializable: line.bool("serializable"),
        duration: line.time("duration"),
        warmup: line.time("warmup"),
        rate: count("rate") as u64,
        seed: line.int("seed") as u64,
        pids: pids.or_else(|e| bad_args(format!("bad --pid: {e}")))?,
        watchers: count("watchers").max(1),
        streams: count("streams").max(1),
    };
    // A stream's first window is 64 KiB, and larger messages would need more than this loader knows.
    if options.key_bytes + options.value_bytes > 60_000 {
        return bad_args("keys and values may be 60000 bytes at most");
    }
    Ok(options)
}

fn start(words: &[String]) -> Outcome {
    let grammar = Grammar {
        program: "nornbench".into(),
        commands: COMMANDS,
        globals: GLOBALS,
        env_prefix: "NORNBENCH_",
        groups: &[LOAD, OTHER],
    };
    let line = match grammar.parse(words, &[])? {
        Parsed::Help(text) => {
            print!("{text}\n{}", grammar.options());
            return Ok(());
        }
        Parsed::Run(line) => line,
    };
    let name = line.path[0];
    let kind = match name {
        "list" => Kind::List,
        "range" => Kind::Range,
        "txn" => Kind::Txn,
        "mixed" => Kind::Mixed,
        "keepalive" => Kind::KeepAlive,
        "watch" => Kind::Watch,
        _ => Kind::Put,
    };
    let options = options(&line, kind)?;
    let fail = |e: String| Exit::new(norn_ctl::exit::ERROR, e);
    match name {
        "fill" => {
            let took = load::fill(&options).map_err(fail)?;
            let rate = options.keys as f64 / took.as_secs_f64();
            println!("{} keys in {:.2} s, {rate:.0} keys/s", options.keys, took.as_secs_f64());
            let rss = process::rss_sum(&options.pids);
            if rss > 0 {
                println!("server resident: {:.0} MB", rss as f64 / 1e6);
            }
            Ok(())
        }
        "compare" => {
            let binary = |name: &str| match line.text(name) {
                "" => bad_args(format!("--{name} is needed")),
                path => Ok(PathBuf::from(path)),
            };
            let plan = compare::Plan {
                binaries: [("etcd", binary("etcd")?), ("norn", binary("norn")?)],
                rounds: line.int("rounds").max(1) as usize,
                nodes: line.int("nodes").max(1) as usize,
                big_keys: line.int("big-keys").max(0) as u64,
                base: options,
            };
            print!("{}", compare::run(&plan).map_err(fail)?);
            Ok(())
        }
        _ => {
            let report = load::run(&options).map_err(fail)?;
            if line.bool("json") {
                println!("{}", json(name, &options, &report));
            } else {
                print!("{}", text(&report, !options.pids.is_empty()));
            }
            match report.latency.count() {
                0 => failed("no call succeeded"),
                _ => Ok(()),
            }
        }
    }
}

const QUANTILES: [(&str, f64); 5] =
    [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0)];

fn text(r: &Report, with_server: bool) -> String {
    let mut out = String::new();
    let mut row = |name: &str, value: String| out += &format!("{name:<18} {value:>14}\n");
    row("operations", r.operations.to_string());
    row("operations/s", format!("{:.0}", r.per_second()));
    for (name, quantile) in QUANTILES {
        row(&format!("latency {name}"), format!("{:.1} us", r.latency.micros(quantile)));
    }
    for (error, count) in &r.errors {
        row("errors", format!("{count} {error}"));
    }
    if with_server {
        row("server CPU/op", format!("{:.2} us", r.server_micros()));
        row("server resident", format!("{:.1} MB", r.rss_bytes as f64 / 1e6));
    }
    row("loader CPU/op", format!("{:.2} us", r.own_micros()));
    out
}

fn json(name: &str, o: &Options, r: &Report) -> serde_json::Value {
    let latency: serde_json::Map<String, serde_json::Value> =
        QUANTILES.iter().map(|(n, q)| ((*n).to_owned(), r.latency.micros(*q).into())).collect();
    serde_json::json!({
        "workload": name,
        "clients": o.clients,
        "conns": o.conns,
        "operations": r.operations,
        "per_second": r.per_second(),
        "latency_us": latency,
        "errors": r.errors,
        "server_cpu_us_per_op": r.server_micros(),
        "server_rss_bytes": r.rss_bytes,
        "loader_cpu_us_per_op": r.own_micros(),
    })
}
