//! What etcd wrote and Norn wrote, cut anywhere, opened by both: they recover the same, or both refuse. Skipped, loudly,
//! where etcd's programs are not there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use norn_tests::command::{etcdutl, run, server_path, tool};
use norn_tests::mvccpb::KeyValue;
use norn_tests::poll::until;
use norn_tests::req::*;
use norn_tests::rng::Rng;
use norn_tests::{Client, Server, Setup};

/// For either program to serve its clients, or to give up.
const LIMIT: Duration = Duration::from_secs(60);
const READY: &str = "ready to serve client requests";
/// Of each log: how often it is cut, and opened by both.
const CUTS: usize = 4;
const SECTOR_BYTES: usize = 512;

/// What a program makes of a directory.
#[derive(Debug, PartialEq)]
enum Outcome {
    Serves(Box<Content>),
    Refuses,
}

/// What a client can see.
#[derive(Debug, PartialEq)]
struct Content {
    revision: i64,
    compacted: i64,
    hash: u32,
    kvs: Vec<KeyValue>,
    leases: Vec<(i64, i64, usize)>,
    members: Vec<u64>,
}

async fn content(client: &Client) -> Content {
    let hash = client.hash_kv(0).await.unwrap();
    let mut leases = Vec::new();
    for lease in client.leases().await.unwrap().leases {
        let told = client.lease_ttl(lease.id, true).await.unwrap();
        leases.push((lease.id, told.granted_ttl, told.keys.len()));
    }
    leases.sort_unstable();
    Content {
        revision: hash.header.unwrap().revision,
        compacted: hash.compact_revision,
        hash: hash.hash,
        kvs: client.range(all()).await.unwrap().kvs,
        leases,
        members: client.member_list().await.unwrap().members.iter().map(|m| m.id).collect(),
    }
}

/// Keys with a past, leases that come and go, transactions, a compaction.
async fn fill(client: &Client, rng: &mut Rng, from: usize, count: usize) {
    for i in from..from + count {
        let key = format!("k{:02}", rng.below(40));
        match rng.below(12) {
            0 => drop(client.delete(del(&key)).await.unwrap()),
            1 => drop(client.lease_grant(1 + rng.below(5) as i64, 3600).await),
            2 => drop(client.lease_revoke(1 + rng.below(5) as i64).await),
            3 => drop(client.compact(i as i64 / 3).await),
            _ => {
                let mut request =
                    put(&key, &format!("{i}-{}", "v".repeat(rng.below(600) as usize)));
                request.lease = if rng.below(4) == 0 { 1 + rng.below(5) as i64 } else { 0 };
                drop(client.put(request).await);
            }
        }
    }
}

/// What `snapshot save` gets, without the digest behind it.
async fn database(client: &Client) -> Vec<u8> {
    let parts = client.snapshot().await.unwrap();
    let mut db: Vec<u8> = parts.iter().flat_map(|part| part.blob.to_vec()).collect();
    db.truncate(db.len() - 32);
    db
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &to),
            false => drop(fs::copy(entry.path(), to).unwrap()),
        }
    }
}

/// The newest segment of a log, and where its records end.
fn log_end(dir: &Path) -> (PathBuf, usize) {
    let entries = fs::read_dir(dir.join("member/wal")).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let newest = paths.filter(|path| path.extension().is_some_and(|e| e == "wal")).max().unwrap();
    let bytes = fs::read(&newest).unwrap();
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    (newest.strip_prefix(dir).unwrap().to_owned(), end)
}

/// Loses what is behind a byte. The file may keep its length.
fn shorten(path: &Path, at: usize, keeps_length: bool) {
    let file = fs::OpenOptions::new().write(true).open(path).unwrap();
    let whole = file.metadata().unwrap().len();
    file.set_len(at as u64).unwrap();
    if keeps_length {
        file.set_len(whole).unwrap();
    }
}

/// A stopped server whose directory is put back before each start: a log, and a database that is older than its end.
struct Case {
    server: Server,
    kept: PathBuf,
    name: String,
    /// Where the log ended when the database was made. (Without what the database knows of, both programs only wait.)
    db_end: usize,
}

impl Case {
    /// What a server writes in `first` operations, a backup, and `then` more. Also the hash at the backup.
    async fn new(
        mut server: Server,
        rng: &mut Rng,
        first: usize,
        then: usize,
        name: &str,
    ) -> (Case, u32) {
        let client = server.client();
        fill(&client, rng, 0, first).await;
        let hash = client.hash_kv(0).await.unwrap().hash;
        let db = database(&client).await;
        let (_, db_end) = log_end(&server.data_dir());
        fill(&client, rng, first, then).await;
        server.kill();
        let kept = server.dir().join("kept");
        fs::rename(server.data_dir(), &kept).unwrap();
        fs::write(kept.join("member/snap/db"), db).unwrap();
        let ours = kept.join("member/rev");
        if ours.exists() {
            fs::remove_dir_all(ours).unwrap();
        }
        (Case { server, kept, name: name.to_owned(), db_end }, hash)
    }

    /// Starts `program` on a copy, of which `change` has been made. Whether it serves.
    fn launch(&mut self, program: &Path, change: impl Fn(&Path)) -> bool {
        copy(&self.kept, &self.server.data_dir());
        change(&self.server.data_dir());
        self.server.setup.binary = program.to_owned();
        self.server.launch();
        until("the server to be ready, or to end", LIMIT, || {
            let is_ready = self.server.lines().iter().any(|line| line.contains(READY));
            (is_ready || !self.server.is_running()).then_some(is_ready)
        })
    }

    /// What `program` makes of a copy.
    async fn open(&mut self, program: &Path, change: impl Fn(&Path)) -> Outcome {
        let outcome = match self.launch(program, change) {
            true => Outcome::Serves(Box::new(content(&self.server.client()).await)),
            false => Outcome::Refuses,
        };
        self.server.kill();
        self.server.wipe();
        outcome
    }

    /// Both recover the same from any beginning of the newest segment: torn off, or with zeros from a sector on. With zeros from
    /// anywhere on, as from a write that was cut short in the page cache, Norn recovers what was whole; etcd refuses, mostly.
    async fn cut(&mut self, etcd: &Path, rng: &mut Rng) {
        let (segment, end) = log_end(&self.kept);
        let bytes = fs::read(self.kept.join(&segment)).unwrap();
        for _ in 0..CUTS {
            let at = self.db_end + rng.below((end - self.db_end) as u64) as usize;
            // (What ends in zeros is whole without them, if zeros follow.)
            let at = (at..end).find(|at| bytes[*at] != 0).unwrap_or(end - 1);
            let sector = at.next_multiple_of(SECTOR_BYTES);
            let torn = |dir: &Path| shorten(&dir.join(&segment), at, false);
            let zeros = |dir: &Path| shorten(&dir.join(&segment), at, true);
            let lost = |dir: &Path| shorten(&dir.join(&segment), sector, true);
            let what = format!("{}: cut at byte {at} of {end}", self.name);
            let theirs = self.open(etcd, torn).await;
            assert!(matches!(theirs, Outcome::Serves(_)), "{what}: {theirs:?}");
            assert_eq!(self.open(server_path(), torn).await, theirs, "{what}");
            assert_eq!(self.open(server_path(), zeros).await, theirs, "{what}, zeros");
            let theirs = self.open(etcd, lost).await;
            assert_eq!(self.open(server_path(), lost).await, theirs, "{what}, zeros from {sector}");
        }
    }

    /// Both make the same of it, whole and cut.
    async fn compare(&mut self, etcd: &Path, rng: &mut Rng) {
        let theirs = self.open(etcd, |_| ()).await;
        assert!(matches!(theirs, Outcome::Serves(_)), "{theirs:?}");
        assert_eq!(self.open(server_path(), |_| ()).await, theirs, "{}", self.name);
        self.cut(etcd, rng).await;
    }
}

/// What etcd wrote, with snapshots of its own and without.
#[tokio::test]
async fn a_log_of_etcd_cut_anywhere_recovers_as_in_etcd() {
    let Some(etcd) = tool("NORN_TEST_ETCD", "etcd") else { return };
    let mut rng = Rng::new(1);
    for (snapshot_count, first, then) in [(100_000, 50, 250), (100, 230, 50)] {
        let setup = Setup::of(etcd.clone()).quickly();
        let setup = setup.flag(format!("--snapshot-count={snapshot_count}"));
        let name = format!("etcd, a snapshot every {snapshot_count} entries");
        let server = Server::start_with(setup);
        let (mut case, _) = Case::new(server, &mut rng, first, then, &name).await;
        case.compare(&etcd, &mut rng).await;
    }
}

/// What Norn wrote: its log, behind a database that it exported on the way.
#[tokio::test]
async fn a_log_and_a_database_of_norn_recover_in_etcd() {
    let (Some(etcd), Some(utl)) = (tool("NORN_TEST_ETCD", "etcd"), etcdutl()) else { return };
    let mut rng = Rng::new(2);
    let (mut case, hash) = Case::new(Server::start(), &mut rng, 150, 150, "norn").await;
    let db = case.kept.join("member/snap/db");
    let told = run(Command::new(&utl).arg("hashkv").arg(db).args(["-w", "json"]), LIMIT).ok();
    assert!(told.contains(&format!("\"hash\":{hash},")), "{told} is not {hash}");
    case.compare(&etcd, &mut rng).await;
}

/// A backup that etcd's tool restores for clients who must not see old revisions again: it makes one up, far ahead.
#[tokio::test]
async fn a_backup_restored_behind_a_gap_of_revisions_is_the_same_in_both() {
    let (Some(etcd), Some(utl)) = (tool("NORN_TEST_ETCD", "etcd"), etcdutl()) else { return };
    let mut server = Server::start();
    let client = server.client();
    fill(&client, &mut Rng::new(3), 0, 100).await;
    let parts = client.snapshot().await.unwrap();
    let backup = server.dir().join("backup");
    let bytes: Vec<u8> = parts.iter().flat_map(|part| part.blob.to_vec()).collect();
    fs::write(&backup, bytes).unwrap();
    server.kill();
    server.wipe();
    let kept = server.dir().join("kept");
    let mut restore = Command::new(&utl);
    restore.args(["snapshot", "restore", "--bump-revision=1000000", "--mark-compacted"]);
    restore.arg(backup).arg(format!("--data-dir={}", kept.display())).arg("--name=n1");
    restore.arg(format!("--initial-cluster=n1={}", server.peer_port.url()));
    restore.arg(format!("--initial-advertise-peer-urls={}", server.peer_port.url()));
    run(&mut restore, LIMIT).ok();
    let mut case = Case { server, kept, name: "restored".to_owned(), db_end: 0 };
    let theirs = case.open(&etcd, |_| ()).await;
    let Outcome::Serves(content) = &theirs else { panic!("{theirs:?}") };
    assert!(content.revision > 1_000_000, "{content:?}");
    assert_eq!(case.open(server_path(), |_| ()).await, theirs);
}

/// A directory as etcd 3.7.1 left it when it was killed, for machines that cannot run etcd: after 85 puts, deletions, a compaction, and two
/// leases. (The log without most of the zeros at its end, the database as long as what is used of it.)
#[tokio::test]
async fn a_recorded_directory_of_etcd_serves_with_its_hash() {
    let mut server = Server::start();
    server.kill();
    server.wipe();
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/etcd-3.7.1");
    let mut case = Case { server, kept, name: "recorded".to_owned(), db_end: 0 };
    let opened = case.open(server_path(), |_| ()).await;
    let Outcome::Serves(content) = opened else { panic!("{opened:?}") };
    assert_eq!((content.revision, content.compacted, content.hash), (99, 40, 2_758_559_309));
    let (first, second) = (0x76c4_a201_b311_fe03, 0x76c4_a201_b311_fe05);
    assert_eq!(content.leases, [(first, 3600, 6), (second, 7200, 0)]);
    assert_eq!(content.members, [16_567_550_682_093_418_180]);
    let leased = content.kvs.iter().filter(|kv| kv.lease == first).count();
    assert_eq!((content.kvs.len(), leased), (19, 6));
}

/// The log entry by entry, and the database record by record: as in the database that etcd itself makes of it.
#[tokio::test]
async fn etcds_dump_tools_read_what_norn_wrote() {
    let etcd = tool("NORN_TEST_ETCD", "etcd");
    let logs = tool("NORN_TEST_ETCD_DUMP_LOGS", "etcd-dump-logs");
    let db = tool("NORN_TEST_ETCD_DUMP_DB", "etcd-dump-db");
    let (Some(etcd), Some(logs), Some(db)) = (etcd, logs, db) else { return };
    let (mut case, _) = Case::new(Server::start(), &mut Rng::new(4), 150, 0, "norn").await;
    let opened = case.open(server_path(), |_| ()).await;
    let Outcome::Serves(content) = opened else { panic!("{opened:?}") };

    let dump = run(Command::new(&logs).arg(&case.kept), LIMIT).ok();
    let puts: Vec<&str> = dump.lines().filter(|line| line.contains("put:{")).collect();
    for kv in &content.kvs {
        let (key, value) = (String::from_utf8_lossy(&kv.key), String::from_utf8_lossy(&kv.value));
        let wanted = [format!("key:\"{key}\""), format!("value:\"{value}\"")];
        let is_it = |line: &&&str| wanted.iter().all(|part| line.contains(part));
        assert!(puts.iter().find(is_it).is_some(), "{key}: {value} is not in\n{dump}");
    }

    let dir = case.server.dir().to_owned();
    let ours = case.kept.join("member/snap/db");
    // (What does not end in "db" is a data directory to it.)
    let theirs = dir.join("theirs.db");
    assert!(case.launch(&etcd, |_| ()));
    fs::write(&theirs, database(&case.server.client()).await).unwrap();
    case.server.kill();
    let read = |what: &[&str], file: &Path| {
        let (command, rest) = what.split_first().expect("a command");
        run(Command::new(&db).arg(command).arg(file).args(rest), LIMIT).ok()
    };
    assert_eq!(read(&["list-bucket"], &ours), read(&["list-bucket"], &theirs));
    for bucket in ["key", "lease", "alarm", "members"] {
        let what = ["iterate-bucket", bucket, "--decode"];
        assert_eq!(read(&what, &ours), read(&what, &theirs), "{bucket}");
    }
    let records = read(&["iterate-bucket", "key", "--decode"], &ours).lines().count();
    assert!(records > content.kvs.len(), "{records} records");
}
