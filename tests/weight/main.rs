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

use norn_tests::program::{self, Words};
use norn_tests::{Server, Setup};

struct Options {
    server: PathBuf,
    leases: usize,
}

const USAGE: &str = "usage: norn-weight [--server PATH] [--leases N]";

fn main() -> ExitCode {
    let options = program::options(USAGE, read);
    let mut problems = Vec::new();
    program::runtime().block_on(async {
        problems.extend(watchers::idle(&start(&options)).await);
        problems.extend(watchers::stalled(&start(&options)).await);
        problems.extend(leases::crowd(&start(&options), options.leases).await);
    });
    program::end(&problems)
}

fn start(options: &Options) -> Server {
    Server::start_with(Setup::of(&options.server).flag("--quota-backend-bytes=8589934592"))
}

fn read(words: &mut Words) -> Result<Options, String> {
    Ok(Options { leases: words.number("--leases", 20_000)?, server: words.server()? })
}
