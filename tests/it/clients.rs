//! Stock etcdctl and etcdutl against the server. Skipped, loudly, where they are not at hand.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use norn_tests::command::{Output, etcdctl, etcdutl, finish, run};
use norn_tests::poll::until;
use norn_tests::{Cluster, Server};

const LIMIT: Duration = Duration::from_secs(30);

struct Ctl {
    path: PathBuf,
    endpoints: String,
}

impl Ctl {
    fn of(server: &Server) -> Option<Self> {
        Some(Self { path: etcdctl()?, endpoints: server.client_address() })
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.path);
        command.arg("--endpoints").arg(&self.endpoints).args(words);
        command
    }

    fn run(&self, words: &[&str]) -> Output {
        run(&mut self.command(words), LIMIT)
    }

    /// Standard output of a command that must succeed.
    fn ok(&self, words: &[&str]) -> String {
        self.run(words).ok()
    }

    /// With text on standard input.
    fn feed(&self, words: &[&str], input: &str) -> Output {
        use std::io::Write;
        let mut child = self
            .command(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("etcdctl starts");
        let mut stdin = child.stdin.take().expect("stdin is piped");
        stdin.write_all(input.as_bytes()).expect("etcdctl reads");
        drop(stdin);
        finish(child, LIMIT, "etcdctl")
    }
}

/// A server, and etcdctl for it.
macro_rules! start {
    () => {{
        let server = Server::start();
        let Some(ctl) = Ctl::of(&server) else { return };
        (server, ctl)
    }};
}

#[test]
fn etcdctl_puts_gets_and_deletes() {
    let (_server, ctl) = start!();
    assert_eq!(ctl.ok(&["put", "foo", "bar"]), "OK\n");
    assert_eq!(ctl.ok(&["put", "foo2", "bar2"]), "OK\n");
    assert_eq!(ctl.ok(&["get", "foo"]), "foo\nbar\n");
    assert_eq!(ctl.ok(&["get", "--prefix", "foo", "--keys-only"]), "foo\n\nfoo2\n\n");
    assert_eq!(ctl.ok(&["get", "--prefix", "", "--order=DESCEND", "--limit=1"]), "foo2\nbar2\n");
    assert_eq!(ctl.ok(&["put", "foo", "new", "--prev-kv"]), "OK\nfoo\nbar\n");
    assert_eq!(ctl.ok(&["get", "foo", "--rev=2", "--print-value-only"]), "bar\n");
    assert_eq!(
        ctl.ok(&["get", "--prefix", "foo", "--stream", "--print-value-only"]),
        "new\nbar2\n"
    );
    assert_eq!(ctl.ok(&["del", "--prefix", "foo", "--prev-kv"]), "2\nfoo\nnew\nfoo2\nbar2\n");
    assert_eq!(ctl.ok(&["get", "foo"]), "");
}

#[test]
fn etcdctl_runs_transactions() {
    let (_server, ctl) = start!();
    ctl.ok(&["put", "a", "1"]);
    let text = "value(\"a\") = \"1\"\n\nput b 2\nget a\n\nput b 3\n\n";
    assert_eq!(ctl.feed(&["txn"], text).ok(), "SUCCESS\n\nOK\n\na\n1\n");
    let text = "version(\"a\") > \"5\"\n\nput b 2\n\nget b\n\n";
    assert_eq!(ctl.feed(&["txn"], text).ok(), "FAILURE\n\nb\n2\n");
}

#[test]
fn etcdctl_watches() {
    let (_server, ctl) = start!();
    ctl.ok(&["put", "a", "1"]);
    ctl.ok(&["put", "a", "2"]);
    ctl.ok(&["del", "a"]);
    let mut command = ctl.command(&["watch", "a", "--rev=2", "--prev-kv"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut stdout = std::io::BufReader::new(child.stdout.take().unwrap());
    let mut lines = Vec::new();
    let expected = ["PUT", "a", "1", "PUT", "a", "1", "a", "2", "DELETE", "a", "2", "a", ""];
    while lines.len() < expected.len() {
        let mut line = String::new();
        assert_ne!(std::io::BufRead::read_line(&mut stdout, &mut line).unwrap(), 0, "{lines:?}");
        // Without a previous value nothing is printed in its place.
        lines.push(line.trim_end().to_owned());
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(lines, expected);
}

#[test]
fn etcdctl_handles_leases() {
    let (_server, ctl) = start!();
    let granted = ctl.ok(&["lease", "grant", "600"]);
    let id = granted.split(' ').nth(1).unwrap().to_owned();
    assert_eq!(granted, format!("lease {id} granted with TTL(600s)\n"));
    ctl.ok(&["put", "a", "1", &format!("--lease={id}")]);
    let left = ctl.ok(&["lease", "timetolive", &id, "--keys"]);
    let start = format!("lease {id} granted with TTL(600s), remaining(");
    assert!(left.starts_with(&start) && left.ends_with("attached keys([a])\n"), "{left}");
    let kept = ctl.ok(&["lease", "keep-alive", "--once", &id]);
    assert_eq!(kept, format!("lease {id} keepalived with TTL(600)\n"));
    assert_eq!(ctl.ok(&["lease", "list"]), format!("found 1 leases\n{id}\n"));
    assert_eq!(ctl.ok(&["lease", "revoke", &id]), format!("lease {id} revoked\n"));
    assert_eq!(ctl.ok(&["get", "a"]), "");
    let gone = ctl.ok(&["lease", "timetolive", &id]);
    assert_eq!(gone, format!("lease {id} already expired\n"));
}

#[test]
fn etcdctl_shows_members_and_endpoints() {
    let mut server = Server::start();
    let Some(ctl) = Ctl::of(&server) else { return };
    let list = ctl.ok(&["member", "list"]);
    let fields: Vec<&str> = list.trim_end().split(", ").collect();
    let (peer, client) = (server.peer_port.url(), server.client_url());
    assert_eq!(fields[1..], ["started", "n1", &peer, &client, "false"]);
    let health = ctl.ok(&["endpoint", "health"]);
    let start = format!("{} is healthy: successfully committed proposal: took = ", ctl.endpoints);
    assert!(health.starts_with(&start), "{health}");
    let status = ctl.ok(&["endpoint", "status"]);
    let fields: Vec<&str> = status.trim_end().split(", ").collect();
    assert_eq!((fields[0], fields[2]), (ctl.endpoints.as_str(), "3.7.1"), "{status}");
    assert_eq!(fields[8..10], ["true", "false"], "{status}");
    let hash = ctl.ok(&["endpoint", "hashkv"]);
    assert_eq!(hash, format!("{}, 1084519789, 1\n", ctl.endpoints));
    server.assert_alive();
}

#[test]
fn etcdctl_compacts_and_defragments() {
    let (_server, ctl) = start!();
    for value in ["1", "2", "3"] {
        ctl.ok(&["put", "a", value]);
    }
    assert_eq!(ctl.ok(&["compaction", "3"]), "compacted revision 3\n");
    let again = ctl.run(&["compaction", "3"]);
    assert_eq!(again.status.code(), Some(1));
    let text = "Error: etcdserver: mvcc: required revision has been compacted";
    assert!(again.stderr.contains(text), "{}", again.stderr);
    let old = ctl.run(&["get", "a", "--rev=2"]);
    assert!(old.stderr.contains(text), "{}", old.stderr);
    let done = ctl.ok(&["defrag"]);
    assert!(done.starts_with("Finished defragmenting etcd member["), "{done}");
}

#[test]
fn etcdctl_lists_and_disarms_alarms() {
    let (_server, ctl) = start!();
    assert_eq!(ctl.ok(&["alarm", "list"]), "");
    assert_eq!(ctl.ok(&["alarm", "disarm"]), "");
}

#[test]
fn etcdctl_saves_a_snapshot_that_etcdutl_reads_and_restores() {
    let (server, ctl) = start!();
    let Some(utl) = etcdutl() else { return };
    for i in 0..50 {
        ctl.ok(&["put", &format!("k{i}"), &"v".repeat(1000)]);
    }
    let file = server.dir().join("backup.db");
    let file = file.to_str().unwrap();
    let saved = ctl.ok(&["snapshot", "save", file]);
    assert!(saved.starts_with(&format!("Snapshot saved at {file}\n")), "{saved}");
    assert_eq!(std::fs::metadata(file).unwrap().len() % 512, 32);
    let status =
        run(Command::new(&utl).args(["snapshot", "status", file, "-w", "json"]), LIMIT).ok();
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    assert_eq!((&status["revision"], &status["totalKey"]), (&51.into(), &50.into()), "{status}");
    let restored = server.dir().join("restored");
    let restored = restored.to_str().unwrap();
    run(Command::new(&utl).args(["snapshot", "restore", file, "--data-dir", restored]), LIMIT).ok();
    assert!(std::path::Path::new(restored).join("member/snap/db").exists());
}

#[test]
fn etcdctl_snapshots_hold_what_the_hash_says() {
    // The restored database is served by a real etcd, when there is one: same keys, same hash.
    let (server, ctl) = start!();
    let (Some(utl), Some(etcd)) = (etcdutl(), norn_tests::command::tool("NORN_TEST_ETCD", "etcd"))
    else {
        return;
    };
    let lease = ctl.ok(&["lease", "grant", "6000"]);
    let lease = format!("--lease={}", lease.split(' ').nth(1).unwrap());
    for i in 0..20 {
        ctl.ok(&["put", &format!("k{}", i % 7), &format!("v{i}"), &lease]);
    }
    ctl.ok(&["del", "k3"]);
    ctl.ok(&["compaction", "--physical", "10"]);
    ctl.ok(&["put", "after", "compaction"]);
    let hash = |ctl: &Ctl| ctl.ok(&["endpoint", "hashkv"]).split_once(", ").unwrap().1.to_owned();
    let before = hash(&ctl);
    let file = server.dir().join("backup.db");
    ctl.ok(&["snapshot", "save", file.to_str().unwrap()]);

    let mut other =
        Server::prepare(norn_tests::Setup { binary: etcd, ..norn_tests::Setup::quick() });
    let mut restore = Command::new(&utl);
    restore.args(["snapshot", "restore", file.to_str().unwrap(), "--name=n1"]);
    restore.arg(format!("--data-dir={}", other.data_dir().display()));
    restore.arg(format!("--initial-cluster=n1={}", other.peer_port.url()));
    restore.arg(format!("--initial-advertise-peer-urls={}", other.peer_port.url()));
    run(&mut restore, LIMIT).ok();
    other.launch();
    other.wait_ready();
    let other_ctl = Ctl::of(&other).unwrap();
    assert_eq!(hash(&other_ctl), before);
    let all = ["get", "--prefix", ""];
    assert_eq!(other_ctl.ok(&all), ctl.ok(&all));
    assert!(other_ctl.ok(&["lease", "list"]).starts_with("found 1 leases"));
}

#[test]
fn etcdctl_locks_run_a_command_and_exclude_each_other() {
    let (server, ctl) = start!();
    let marker = server.dir().join("held");
    let script = format!(
        "test ! -e {0} && touch {0} && test -n \"$ETCD_LOCK_KEY\" && rm {0}",
        marker.display()
    );
    let children: Vec<_> = (0..4)
        .map(|_| {
            let mut command = ctl.command(&["lock", "l", "--", "sh", "-c", &script]);
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    for child in children {
        finish(child, LIMIT, "etcdctl lock").ok();
    }
    let code = ctl.run(&["lock", "l", "--", "sh", "-c", "exit 7"]).status.code();
    assert_eq!(code, Some(7));
    assert_eq!(ctl.ok(&["get", "--prefix", "l"]), "");
}

#[test]
fn etcdctl_elects_one_candidate_after_another() {
    let (_server, ctl) = start!();
    let campaign = |proposal: &str| {
        let mut command = ctl.command(&["elect", "e", proposal]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let leader = || {
        let text =
            ctl.ok(&["get", "--prefix", "e/", "--sort-by=CREATE", "--order=ASCEND", "--limit=1"]);
        text.lines().nth(1).map(str::to_owned)
    };
    let first = campaign("one");
    until("the first to lead", LIMIT, || (leader()? == "one").then_some(()));
    let second = campaign("two");
    until("the second to wait", LIMIT, || {
        (ctl.ok(&["get", "--prefix", "e/", "--keys-only"]).lines().count() == 4).then_some(())
    });
    assert_eq!(leader().as_deref(), Some("one"));
    let pid = rustix::process::Pid::from_child(&first);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    finish(first, LIMIT, "etcdctl elect");
    until("the second to lead", LIMIT, || (leader()? == "two").then_some(()));
    let pid = rustix::process::Pid::from_child(&second);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    finish(second, LIMIT, "etcdctl elect");
}

#[test]
fn etcdctl_moves_the_leader_and_sees_the_whole_cluster() {
    if etcdctl().is_none() {
        return;
    }
    let mut cluster = Cluster::start(3);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let leader = runtime.block_on(cluster.leader());
    let target = (leader + 1) % 3;
    let urls = cluster.urls().join(",");
    let ctl = Ctl { endpoints: urls, path: etcdctl().unwrap() };
    let health = ctl.ok(&["endpoint", "health"]);
    assert_eq!(health.matches("is healthy").count(), 3, "{health}");
    let list = ctl.ok(&["member", "list"]);
    let name = &cluster.servers[target].setup.name;
    let line = list.lines().find(|l| l.contains(&format!(", {name}, "))).unwrap();
    let id = line.split(',').next().unwrap();
    let moved = ctl.ok(&["move-leader", id]);
    assert!(moved.starts_with("Leadership transferred from "), "{moved}");
    assert!(moved.trim_end().ends_with(id), "{moved}");
    assert_eq!(runtime.block_on(cluster.leader()), target);
}
