//! A few hundred seeds, the same seed twice, past failures, and mistakes put in by hand that must be noticed.

#[path = "it/failures.rs"]
mod failures;

use norn_sim::case::{Tier, cases};
use norn_sim::{BUGS, Bug, Options, Profile, Report, run};

fn seed(seed: u64, profile: Profile, bug: Option<Bug>) -> Report {
    run(Options::draw(seed, profile, bug), false)
}

fn must_hold(report: &Report) {
    if let Some(failure) = &report.failure {
        let (promise, detail) = (failure.promise, &failure.detail);
        panic!("{promise}\n{detail}\nreplay: {}", report.options.replay());
    }
}

#[test]
fn seeds_hold() {
    for n in 0..200 {
        must_hold(&seed(n, Profile::Swarm, None));
    }
}

#[test]
fn stormy_seeds_hold() {
    for n in 0..100 {
        must_hold(&seed(n, Profile::Storm, None));
    }
}

#[test]
fn what_ruined_clusters_say_holds() {
    for n in 0..100 {
        must_hold(&seed(n, Profile::Ruin, None));
    }
}

#[test]
fn calm_seeds_hold() {
    for n in 0..30 {
        must_hold(&seed(n, Profile::Calm, None));
    }
}

#[test]
fn past_failures_hold() {
    // (Those of the cluster tier are for `cargo sim bugs`.)
    let cases = cases(include_str!("../seeds.txt")).expect("seeds");
    for case in cases.into_iter().filter(|case| case.tier == Tier::Core) {
        must_hold(&seed(case.seed, case.profile, None));
    }
}

#[test]
fn the_same_seed_is_the_same_run() {
    for n in [3, 7, 10, 21, 34] {
        let (a, b) = (seed(n, Profile::Storm, None), seed(n, Profile::Storm, None));
        assert_eq!(a.trace_hash, b.trace_hash, "seed {n}");
        assert_ne!(a.trace_hash, seed(n + 1, Profile::Storm, None).trace_hash);
    }
}

/// Each within ten seeds; a checker is trusted when it has caught something.
#[test]
fn planted_bugs_are_caught() {
    for (name, bug) in BUGS {
        let caught = (0..10).find(|n| seed(*n, Profile::Swarm, Some(bug)).failure.is_some());
        assert!(caught.is_some(), "{name} went unnoticed");
    }
}
