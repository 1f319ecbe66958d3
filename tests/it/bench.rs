//! The load generator: every workload against a server, and what it makes of refusals.

use std::process::Command;
use std::time::Duration;

use norn_tests::command::{nornbench_path, run};
use norn_tests::{Server, Setup};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(60);

fn nornbench(server: &Server, words: &[&str]) -> Command {
    let mut command = Command::new(nornbench_path());
    let (name, own) = words.split_first().expect("a workload");
    command.args([name, "--endpoints", &server.client_url()]);
    command.args(["--pid", &server.pid().to_string()]);
    // (Long enough for a machine that has other things to do.)
    command.args(["--keys=500", "--duration=1s", "--warmup=100ms"]);
    command.args(own);
    command
}

/// What it says as JSON; without any call that succeeded it ends with 1.
fn report(server: &Server, words: &[&str]) -> Value {
    let said = run(nornbench(server, words).arg("--json"), LIMIT);
    let report = serde_json::from_str(&said.stdout);
    report.unwrap_or_else(|e| panic!("{e}: {said:?}"))
}

#[test]
fn every_workload_does_what_it_counts() {
    let server = Server::start();
    let filled = run(&mut nornbench(&server, &["fill"]), LIMIT).ok();
    assert!(filled.starts_with("500 keys in "), "{filled}");
    let workloads: &[&[&str]] = &[
        &["put"],
        &["overwrite"],
        &["range"],
        &["range", "--serializable"],
        &["list", "--limit=100"],
        &["list", "--count-only"],
        &["list", "--keys-only"],
        &["stream", "--limit=100"],
        &["txn"],
        &["mixed"],
        &["kube"],
        &["grant"],
        &["keepalive"],
        &["watch", "--watchers=50", "--conns=2"],
        &["watch", "--watchers=50", "--conns=2", "--watched-keys=10"],
    ];
    for words in workloads {
        let report = report(&server, words);
        assert!(report["operations"].as_u64() > Some(0), "{words:?}: {report}");
        assert_eq!(report["errors"], serde_json::json!({}), "{words:?}: {report}");
        assert_eq!(report["events"].as_u64() > Some(0), words[0] == "kube", "{words:?}: {report}");
    }
}

#[test]
fn what_is_done_once_is_told_once() {
    let server = Server::start();
    run(&mut nornbench(&server, &["fill"]), LIMIT).ok();
    let saved = run(&mut nornbench(&server, &["snapshot"]), LIMIT).ok();
    assert!(saved.contains(" MB in "), "{saved}");
    let defragmented = run(&mut nornbench(&server, &["defrag"]), LIMIT).ok();
    assert!(defragmented.contains(" puts meanwhile: p50 "), "{defragmented}");
    let expire = ["expire", "--leases=200", "--ttl=3"];
    let expired = run(&mut nornbench(&server, &expire), LIMIT).ok();
    assert!(expired.starts_with("200 leases ended "), "{expired}");
}

#[test]
fn a_refusal_is_counted_by_its_code_and_text() {
    let server = Server::start_with(Setup::quick().flag("--max-request-bytes=100"));
    let report = report(&server, &["put"]);
    let errors = report["errors"].as_object().expect("errors by name");
    let names: Vec<&String> = errors.keys().collect();
    assert_eq!(names, ["InvalidArgument: etcdserver: request is too large"]);
    assert_eq!(report["operations"], 0);
}

#[test]
fn a_fixed_rate_is_kept() {
    let server = Server::start();
    let report = report(&server, &["range", "--rate=200", "--duration=3s"]);
    let pace = report["per_second"].as_f64().expect("a number");
    assert!((100.0..=250.0).contains(&pace), "{report}");
}
