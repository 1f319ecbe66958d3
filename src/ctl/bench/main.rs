//! `nornbench`: loads any etcd-compatible endpoint at a fraction of a server's cost, and says what the server paid.

mod calls;
mod chart;
mod compare;
mod fan_out;
mod growth;
mod histogram;
mod kube;
mod lease;
mod machine;
mod options;
mod process;
mod publish;
mod report;
mod run;
mod shared;
mod status;
mod strain;
mod table;
mod unary;
mod whole;
mod wire;

use std::path::{Path, PathBuf};

use norn_ctl::exit::{Exit, Outcome, bad_args, failed};
use norn_ctl::flags::Kind::{Bool, Int, List, Text, Time};
use norn_ctl::flags::{Flag, Grammar, Line, Parsed, Spec, flag};
use norn_ctl::tls;
use options::{Kind, Options};
use run::block_on;

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
    flag("endpoints", List, "127.0.0.1:2379", "endpoints; connections are spread over them"),
    flag(
        "cacert",
        Text,
        "",
        "CA bundle that server certificates of https endpoints must be signed by",
    ),
    flag("cert", Text, "", "client certificate"),
    flag("key", Text, "", "key of the client certificate"),
    flag("insecure-skip-tls-verify", Bool, "false", "do not look at server certificates"),
    flag("clients", Int, "100", "calls in flight"),
    flag("conns", Int, "10", "connections"),
    flag("key-bytes", Int, "16", "length of keys"),
    flag("value-bytes", Int, "256", "length of values"),
    flag("keys", Int, "10000", "number of different keys"),
    flag("duration", Time, "10s", "how long to measure"),
    flag("warmup", Time, "2s", "how long to load before that"),
    flag(
        "rate",
        Int,
        "0",
        "calls per second (0: closed loop); latency counts from when a call was due",
    ),
    flag("seed", Int, "1", "seed of keys and values"),
    flag("pid", List, "", "server processes whose cost is reported (repeatable)"),
    flag("json", Bool, "false", "one JSON object instead of a table"),
];

const SERIALIZABLE: Flag = flag("serializable", Bool, "false", "read from the member itself");
const LIMIT: Flag = flag("limit", Int, "1000", "keys per range");
const COUNT_ONLY: Flag = flag("count-only", Bool, "false", "only the number of keys");
const KEYS_ONLY: Flag = flag("keys-only", Bool, "false", "keys without values");
const NORN: Flag = flag("norn", Text, "", "path of nornd");
const ETCD: Flag = flag("etcd", List, "", "path of etcd, or of several");
const REPORT: Flag =
    flag("report", Text, "", "folder that gets the report and its pictures (else: printed)");

static COMMANDS: &[Spec] = &[
    spec(
        OTHER,
        "compare",
        "Starts servers in turn and prints a table of ratios",
        &[
            NORN,
            ETCD,
            REPORT,
            flag("rounds", Int, "2", "how often each has its turn"),
            flag("nodes", Int, "1", "3: also rows for a cluster of three"),
            flag("big-keys", Int, "1000000", "keys for memory and restart (0: leave out)"),
        ],
    ),
    spec(LOAD, "defrag", "Defragments while one client writes, and says how long it waited", &[]),
    spec(
        LOAD,
        "expire",
        "Lets leases with a key each run out together",
        &[
            flag("leases", Int, "10000", "how many"),
            flag("ttl", Int, "10", "seconds that each lives; they must be granted by then"),
        ],
    ),
    spec(OTHER, "fill", "Writes all keys once, in large transactions", &[]),
    spec(LOAD, "grant", "Grants leases", &[flag("ttl", Int, "3600", "seconds that each lives")]),
    spec(
        OTHER,
        "growth",
        "Starts servers in turn and measures how costs grow with keys and revisions",
        &[
            NORN,
            ETCD,
            REPORT,
            flag("key-counts", List, "10000,100000,1000000,5000000", "numbers of keys"),
            flag("revision-counts", List, "1,100,10000", "revisions of each of 100 keys"),
        ],
    ),
    spec(LOAD, "keepalive", "Renews leases on one stream per client", &[]),
    spec(LOAD, "kube", "What kube-apiserver asks, with its watches and compactions", &[]),
    spec(LOAD, "list", "Reads ranges of many keys", &[SERIALIZABLE, LIMIT, COUNT_ONLY, KEYS_ONLY]),
    spec(LOAD, "mixed", "Three reads of a key to one put", &[SERIALIZABLE]),
    spec(LOAD, "overwrite", "Writes one key again and again", &[]),
    spec(LOAD, "put", "Writes random keys", &[]),
    spec(LOAD, "range", "Reads random keys, one by one", &[SERIALIZABLE]),
    spec(LOAD, "snapshot", "Fetches the whole database once", &[]),
    spec(LOAD, "stream", "Reads ranges of many keys in pieces (RangeStream)", &[LIMIT]),
    spec(
        OTHER,
        "strain",
        "Starts servers in turn: waits at half of what they can, and what happens at twice of it",
        &[
            NORN,
            ETCD,
            REPORT,
            flag("overload", Time, "60s", "how long they get more than they can"),
        ],
    ),
    spec(LOAD, "txn", "One comparison and one put", &[]),
    spec(
        LOAD,
        "watch",
        "Keys watched many times; counts events",
        &[
            flag("watchers", Int, "1000", "watches"),
            flag("streams", Int, "10", "streams they are spread over"),
            flag("watched-keys", Int, "1", "keys they are spread over"),
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
    let text = |name: &str| line.text(name).to_owned();
    let pids: Result<Vec<u32>, _> = given(line, "pid").iter().map(|p| p.parse()).collect();
    let files = tls::Files {
        cert: text("cert"),
        key: text("key"),
        cacert: text("cacert"),
        skip_verify: line.bool("insecure-skip-tls-verify"),
    };
    let endpoints = line.list("endpoints");
    let is_tls = endpoints.iter().any(|endpoint| endpoint.starts_with("https://"));
    let options = Options {
        kind,
        endpoints,
        tls: if is_tls { Some(files.config().or_else(bad_args)?) } else { None },
        clients: count("clients").max(1),
        conns: count("conns").max(1),
        key_bytes: count("key-bytes"),
        value_bytes: count("value-bytes"),
        keys: count("keys").max(1) as u64,
        limit: line.int("limit"),
        serializable: line.bool("serializable"),
        count_only: line.bool("count-only"),
        keys_only: line.bool("keys-only"),
        duration: line.time("duration"),
        warmup: line.time("warmup"),
        rate: count("rate") as u64,
        seed: line.int("seed") as u64,
        pids: pids.or_else(|e| bad_args(format!("bad --pid: {e}")))?,
        watchers: count("watchers").max(1),
        streams: count("streams").max(1),
        watched_keys: count("watched-keys").max(1) as u64,
        ttl: line.int("ttl"),
    };
    // A stream's first window is 64 KiB, and larger messages would need more than this loader knows.
    if options.key_bytes + options.value_bytes > 60_000 {
        return bad_args("keys and values may be 60000 bytes at most");
    }
    Ok(options)
}

/// The elements of a list that are not empty.
fn given(line: &Line, name: &str) -> Vec<String> {
    line.list(name).into_iter().filter(|element| !element.is_empty()).collect()
}

/// The servers of a comparison: Norn is the last.
fn binaries(line: &Line) -> Outcome<Vec<(String, PathBuf)>> {
    let mut all: Vec<(String, PathBuf)> = Vec::new();
    for path in given(line, "etcd") {
        all.push((machine::name("etcd", Path::new(&path)), path.into()));
    }
    match line.text("norn") {
        "" => return bad_args("--norn is needed"),
        path => all.push(("Norn".to_owned(), path.into())),
    }
    Ok(all)
}

fn numbers(line: &Line, name: &str) -> Outcome<Vec<u64>> {
    let all: Result<Vec<u64>, _> = given(line, name).iter().map(|text| text.parse()).collect();
    all.or_else(|e| bad_args(format!("bad --{name}: {e}")))
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
        "overwrite" => Kind::Overwrite,
        "list" => Kind::List,
        "stream" => Kind::Stream,
        "range" => Kind::Range,
        "txn" => Kind::Txn,
        "mixed" => Kind::Mixed,
        "kube" => Kind::Kube,
        "grant" => Kind::Grant,
        "keepalive" => Kind::KeepAlive,
        "watch" => Kind::Watch,
        _ => Kind::Put,
    };
    let options = options(&line, kind)?;
    match name {
        "compare" | "growth" | "strain" => side_by_side(name, &line, words, options),
        "fill" | "snapshot" | "defrag" | "expire" => {
            let text = block_on(once(name, &line, &options)).map_err(fail)?;
            print!("{text}");
            Ok(())
        }
        _ => {
            let report = block_on(run::workload(&options)).map_err(fail)?;
            if line.bool("json") {
                println!("{}", report::json(name, &options, &report));
            } else {
                print!("{}", report::text(&report, !options.pids.is_empty()));
            }
            match report.latency.count() {
                0 => failed("no call succeeded"),
                _ => Ok(()),
            }
        }
    }
}

fn fail(problem: String) -> Exit {
    Exit::new(norn_ctl::exit::ERROR, problem)
}

/// What has an end of its own.
async fn once(name: &str, line: &Line, options: &Options) -> Result<String, String> {
    Ok(match name {
        "fill" => {
            let took = whole::fill(options).await?.as_secs_f64();
            let rate = options.keys as f64 / took;
            format!("{} keys in {took:.2} s, {rate:.0} keys/s\n", options.keys)
        }
        "snapshot" => {
            let saved = whole::snapshot(options).await?;
            let (megabytes, took) = (saved.bytes as f64 / 1e6, saved.took.as_secs_f64());
            let cpu = saved.server_cpu.as_secs_f64() * 1e3 / megabytes;
            format!("{megabytes:.1} MB in {took:.2} s, server CPU {cpu:.2} ms per MB\n")
        }
        "defrag" => {
            let puts = whole::defragment(options).await?;
            let (count, p50, max) = (puts.count(), puts.micros(0.5), puts.micros(1.0));
            format!("{count} puts meanwhile: p50 {p50:.0} us, max {max:.0} us\n")
        }
        _ => {
            let leases = line.int("leases").max(1) as u64;
            let expired = lease::expire(options, leases).await?;
            let cpu = expired.server_cpu.as_secs_f64() * 1e6 / leases as f64;
            let (p99, max) = (expired.puts.micros(0.99), expired.puts.micros(1.0));
            format!(
                "{leases} leases ended {:.2} s after they were due, server CPU {cpu:.1} us each; puts meanwhile: p99 {p99:.0} us, \
                 max {max:.0} us\n",
                expired.took.as_secs_f64()
            )
        }
    })
}

fn side_by_side(name: &str, line: &Line, words: &[String], base: Options) -> Outcome {
    let binaries = binaries(line)?;
    if binaries.len() < 2 && name == "compare" {
        return bad_args("--etcd is needed");
    }
    let pages = match name {
        "compare" => {
            let plan = compare::Plan {
                binaries,
                rounds: line.int("rounds").max(1) as usize,
                nodes: line.int("nodes").max(1) as usize,
                big_keys: line.int("big-keys").max(0) as u64,
                base,
            };
            publish::comparison(&compare::run(&plan).map_err(fail)?, words)
        }
        "growth" => {
            let plan = growth::Plan {
                binaries,
                keys: numbers(line, "key-counts")?,
                revisions: numbers(line, "revision-counts")?,
                base,
            };
            publish::growth(&growth::run(&plan).map_err(fail)?, words)
        }
        _ => {
            let plan =
                strain::Plan { binaries, keys: base.keys, overload: line.time("overload"), base };
            publish::strain(&strain::run(&plan).map_err(fail)?, words)
        }
    };
    match line.text("report") {
        "" => print!("{}", pages.text),
        folder => pages.write(Path::new(folder)).map_err(|e| fail(format!("{folder}: {e}")))?,
    }
    Ok(())
}
