//! norn-weight: what clients that do nothing cost, and what a crowd of leases does to those who write.
//!
//! ```text
//! norn-weight --server /path/to/nornd [--leases 1000000]
//! ```
//!
//!   - 10,000 watchers on 1,000 streams that hear nothing: under 2 KB each;
//!   - a watcher that stops reading while 200 MB of events are written: its bound, and the others do not notice;
//!   - leases that run out together: no put waits over 100 ms meanwhile. (A thousand of them end per second, as in etcd: a million takes
//!     a quarter of an hour.)

mod leases;
mod watchers;

use std::path::PathBuf;
use std::process::ExitCode;

use norn_tests::{Server, Setup};

struct Options {
    server: PathBuf,
    leases: usize,
}

const USAGE: &str = "usage: norn-weight [--server PATH] [--leases N]";

fn main() -> ExitCode {
    let options = match parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(problem) => {
            eprintln!("{problem}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let mut problems = Vec::new();
    runtime.block_on(async {
        problems.extend(watchers::idle(&start(&options)).await);
        problems.extend(watchers::stalled(&start(&options)).await);
        problems.extend(leases::crowd(&start(&options), options.leases).await);
    });
    for problem in &problems {
        println!("PROBLEM: {problem}");
    }
    if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn start(options: &Options) -> Server {
    Server::start_with(Setup::of(&options.server).flag("--quota-backend-bytes=8589934592"))
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Options, String> {
    let (mut server, mut leases) = (None, 20_000);
    while let Some(word) = words.next() {
        let value = words.next().ok_or_else(|| format!("{word} needs a value"))?;
        match word.as_str() {
            "--server" => server = Some(PathBuf::from(&value)),
            "--leases" => {
                leases = value.parse().map_err(|_| format!("{word}: cannot read {value:?}"))?;
            }
            _ => return Err(format!("unknown option {word}")),
        }
    }
    let server = server.unwrap_or_else(|| norn_tests::command::server_path().to_owned());
    Ok(Options { server, leases })
}
