//! Every body over its corpus and over random bytes; and the lists of targets agree with each other.

use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use norn_fuzz::{TARGETS, Target};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

fn fuzz_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("bodies lies in fuzz").to_owned()
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let names = entries.map(|entry| entry.expect("an entry").file_name());
    let mut names: Vec<_> = names.map(|name| name.into_string().expect("UTF-8")).collect();
    names.sort();
    names
}

/// Random inputs, always the same ones; a failure prints the smallest input it finds.
fn random(target: &Target) {
    let config = Config { cases: target.cases, failure_persistence: None, ..Config::default() };
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let inputs = proptest::collection::vec(any::<u8>(), 0..target.bytes_max);
    let result = runner.run(&inputs, |bytes| {
        (target.body)(&bytes);
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{}: {error}", target.name));
}

fn corpus(target: &Target) {
    let dir = fuzz_dir().join("corpus").join(target.name);
    let names = names(&dir);
    assert!(!names.is_empty(), "{}: an empty corpus", target.name);
    for name in names {
        let bytes = fs::read(dir.join(&name)).expect("a corpus file");
        assert!(bytes.len() <= 4096, "{}/{name}: {} bytes are too many", target.name, bytes.len());
        let passed = catch_unwind(|| (target.body)(&bytes));
        assert!(passed.is_ok(), "{}/{name} fails", target.name);
    }
}

macro_rules! targets {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            let target = TARGETS.iter().find(|target| target.name == stringify!($name));
            let target = target.expect("a target of this name");
            corpus(target);
            random(target);
        })*

        const TESTED: &[&str] = &[$(stringify!($name)),*];
    };
}

targets! {
    wal_frame
    wal_replay
    raft_log
    raft_cluster
    revision_log
    bbolt
    snapshot_file
    mvcc_ops
    node_ops
    peer_stream
    grpc_convert
    flags
    gateway_json
    config
}

#[test]
fn the_canary_sings() {
    let canary = &TARGETS[0];
    assert_eq!(canary.name, "canary");
    (canary.body)(b"another bird");
    assert!(catch_unwind(|| (canary.body)(b"norn")).is_err());
}

#[test]
fn every_target_is_tested_and_has_its_fuzzer() {
    let tested: Vec<_> = ["canary"].iter().chain(TESTED).copied().collect();
    let listed: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
    assert_eq!(tested, listed);
    let mut files: Vec<_> = listed.iter().map(|name| format!("{name}.rs")).collect();
    files.sort();
    assert_eq!(names(&fuzz_dir().join("targets")), files);
    let manifest = fs::read_to_string(fuzz_dir().join("Cargo.toml")).expect("fuzz/Cargo.toml");
    for name in listed {
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name} is not in the manifest");
    }
}
