//! Turns on one mistake after the other, and counts seeds until it is noticed.

use super::commit;
use crate::args::Args;
use crate::case::{Case, Tier};
use crate::options::Profile;
use crate::report::Exit;
use crate::runner::Runner;

/// Seeds for each planted mistake.
const SEEDS: u64 = 100;

pub fn planted(args: &Args) -> Result<Exit, String> {
    let bugs = norn_planted::Bug::ALL;
    let case = |seed, bug| Case {
        tier: Tier::Cluster,
        profile: Profile::Storm,
        seed,
        plant: Some(bug),
        ..Case::default()
    };
    let runner = Runner::new(&[case(0, bugs[0])])?;
    println!("commit {}, {SEEDS} storms at most for each", commit());
    let mut caught = 0;
    for bug in bugs {
        let mut cpu_us = 0;
        let mut found = None;
        for seed in 0..SEEDS {
            let ran = runner.run(&case(seed, *bug))?;
            cpu_us += ran.stats.cpu_us;
            if ran.exit != Exit::Pass {
                found = Some((seed, ran.promise.unwrap_or_default()));
                break;
            }
        }
        let cpu = cpu_us as f64 / 1e6;
        match found {
            Some((seed, promise)) => {
                caught += 1;
                println!("{:16} seed {seed:3} after {cpu:5.1} CPU s: {promise}", bug.name());
            }
            None => {
                println!("{:16} NOT FOUND in {SEEDS} seeds, {cpu:.1} CPU s", bug.name());
            }
        }
        if !args.is_quiet {
            println!("{:16} ({})", "", bug.cause());
        }
    }
    println!("caught {caught} of {}", bugs.len());
    Ok(if caught == bugs.len() { Exit::Pass } else { Exit::Harness })
}
