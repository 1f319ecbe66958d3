//! norn-httpdiff: the same HTTP requests to a real etcd and to nornd; status, headers and pages compared. At the end, the
//! names of their metrics.
//!
//! ```text
//! norn-httpdiff --etcd /path/to/etcd --norn /path/to/nornd --seeds 1..5 --requests 400
//! ```
//!
//! A seed is a list of requests ([`requests`]): the recorded ones, then generated ones, sent one after the other to two fresh
//! servers. What must differ is made equal ([`normal`]). With etcd on both sides there must be no difference. What Norn's
//! metrics lack ([`metrics`]) is printed; with `--metrics` it counts as a difference, too.

mod metrics;
mod normal;
mod pieces;
mod requests;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use norn_tests::http::{Answer, exchange_with, get};
use norn_tests::poll::until;
use norn_tests::program::{self, Words};
use norn_tests::rng::Rng;
use norn_tests::{Server, Setup};

use crate::requests::Ask;

struct Options {
    etcd: PathBuf,
    norn: PathBuf,
    seeds: std::ops::Range<u64>,
    requests: usize,
    metrics: bool,
}

const USAGE: &str =
    "usage: norn-httpdiff --etcd PATH --norn PATH [--seeds A..B] [--requests N] [--metrics]";
const VERSIONS_LIMIT: Duration = Duration::from_secs(60);
/// More than these are counted, not printed.
const PRINTED_MAX: usize = 40;

fn main() -> ExitCode {
    let options = program::options(USAGE, read);
    let (mut sent, mut differing) = (0, 0);
    let mut lacking = Vec::new();
    for seed in options.seeds.clone() {
        let (etcd, norn) = (start(&options.etcd), start(&options.norn));
        let mut rng = Rng::new(seed);
        let generated = (0..options.requests).map(|_| requests::generated(&mut rng));
        let recorded = requests::recorded().into_iter();
        for (at, ask) in recorded.chain(generated.collect::<Vec<_>>()).enumerate() {
            sent += 1;
            let sides = [&etcd, &norn].map(|server| normal::shown(&ask, &send(server, &ask)));
            if sides[0] != sides[1] {
                differing += 1;
                if differing <= PRINTED_MAX {
                    println!("seed {seed}: request {at}: {ask}");
                    println!("  etcd: {}\n  norn: {}", sides[0], sides[1]);
                }
            }
        }
        lacking = metrics::lacking(&etcd.client_address(), &norn.client_address());
    }
    for name in &lacking {
        println!("norn has no metric {name}");
    }
    println!(
        "norn-httpdiff: {sent} requests, {differing} answered differently, {} metrics lacking",
        lacking.len()
    );
    program::verdict(differing == 0 && (lacking.is_empty() || !options.metrics))
}

/// A fresh server whose cluster has decided its versions, which it does a while after its start.
fn start(binary: &Path) -> Server {
    let server = Server::start_with(Setup { binary: binary.to_owned(), ..Setup::quick() });
    until("the versions", VERSIONS_LIMIT, || {
        let version = get(&server.client_address(), "/version").json();
        (version["etcdcluster"] == "3.7.0" && version["storage"] == "3.7.0").then_some(())
    });
    server
}

fn send(server: &Server, ask: &Ask) -> Answer {
    let headers: Vec<(&str, &str)> = ask.headers.iter().map(|(n, v)| (*n, v.as_str())).collect();
    exchange_with(&server.client_address(), ask.method, &ask.path, &headers, &ask.body)
}

fn read(words: &mut Words) -> Result<Options, String> {
    Ok(Options {
        etcd: words.path("--etcd")?,
        norn: words.path("--norn")?,
        seeds: words.seeds(1..4)?,
        requests: words.number("--requests", 300)?,
        metrics: words.has("--metrics"),
    })
}
