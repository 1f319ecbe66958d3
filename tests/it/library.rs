//! Client libraries: programs of ours that do with the official Go client (`tests/golang`) and with the Rust crate
//! `etcd-client` (`tests/etcd-client`) what programs do. Skipped, loudly, where they were not built.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use norn_tests::command::tool;
use norn_tests::{Cluster, Setup};

#[test]
fn the_go_client_works_with_one_member() {
    go_client(1, &Setup::quick());
}

#[test]
fn the_go_client_works_with_three_members() {
    go_client(3, &Setup::default());
}

#[test]
fn the_rust_client_works_with_one_member() {
    rust_client(1, &Setup::quick());
}

#[test]
fn the_rust_client_works_with_three_members() {
    rust_client(3, &Setup::default());
}

fn go_client(count: usize, setup: &Setup) {
    let Some(program) = tool("NORN_TEST_GOLANG", "norn-golang") else { return };
    run(Command::new(program), count, setup, 12);
}

fn rust_client(count: usize, setup: &Setup) {
    let Some(program) = tool("NORN_TEST_ETCD_CLIENT", "norn-etcd-client") else { return };
    run(Command::new(program), count, setup, 9);
}

/// Runs it to its last part, and does what it asks for: it limits its own time, so no line stays away for ever.
fn run(mut program: Command, count: usize, setup: &Setup, parts_wanted: usize) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _entered = runtime.enter();
    let mut cluster = Cluster::start_with(count, setup);
    runtime.block_on(cluster.leader());
    let mut child = program
        .arg(cluster.urls().join(","))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut answers = child.stdin.take().unwrap();
    let (mut parts, mut killed) = (Vec::new(), None);
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        match line.as_str() {
            "please crash" => {
                let leader = runtime.block_on(cluster.leader());
                cluster.servers[leader].kill();
                killed = Some(leader);
            }
            "please revive" => {
                let server = &mut cluster.servers[killed.take().expect("one was killed")];
                server.launch();
                server.wait_ready();
            }
            _ => {
                parts.push(line.strip_prefix("passed: ").expect("a part that passed").to_owned());
                continue;
            }
        }
        writeln!(answers, "done").unwrap();
    }
    let output = child.wait_with_output().unwrap();
    let problem = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "passed: {parts:?}, then: {problem}");
    assert_eq!(parts.len(), parts_wanted, "{parts:?}");
    for server in &mut cluster.servers {
        server.assert_alive();
    }
    runtime.block_on(cluster.assert_same_hash());
}
