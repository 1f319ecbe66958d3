//! Files of etcd's own, and ours for etcd.
//!
//! `NORN_INTEROP_DIR=<dir> cargo test interop` leaves `ours.db` and `ours-wal` there, for programs around bbolt and
//! etcd's wal package to open. (Done for bbolt 1.4.3 and etcd 3.6.5: integrity check, read, append, read again.)

use std::path::{Path, PathBuf};

use bytes::Bytes;
use norn_storage::wal::{
    Replay, Save, Wal, WalEntry, WalOptions, WalPosition, WalSnapshot, WalState,
};
use norn_storage::{Disk, DiskOp, DiskRead, MemDisk};

use crate::bolt;
use crate::support::{name, run};
use crate::wal_workload::entry;

const OPTS: WalOptions = WalOptions { segment_bytes: 4096, spare_pieces: 1 };

fn load(from: &Path) -> MemDisk {
    let mut disk = MemDisk::new();
    disk.execute(&DiskOp::MakeDir { dir: name("wal") }).unwrap();
    for file in std::fs::read_dir(from).unwrap() {
        let path = file.unwrap().path();
        let file = name(&format!("wal/{}", path.file_name().unwrap().to_str().unwrap()));
        let data = Bytes::from(std::fs::read(path).unwrap());
        disk.execute(&DiskOp::Create { file: file.clone() }).unwrap();
        disk.execute(&DiskOp::Write { file, offset: 0, data }).unwrap();
    }
    disk
}

fn testdata() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/testdata")
}

/// Made by etcd 3.6.5's wal package: 60 entries of term 1 with 5, 10, 15 .. zero bytes, a commit with each, and a
/// snapshot record for index 30; segments of 4096 bytes.
#[test]
fn a_wal_of_etcds_own_is_read_and_continued() {
    let mut disk = load(&testdata().join("wal-3.6"));
    let check = |replay: &Replay, from: u64| {
        assert_eq!(replay.metadata, &b"meta"[..]);
        assert_eq!(replay.state, Some(WalState { term: 1, vote: 1, commit: 59 }));
        assert!(replay.snapshot_found && replay.repaired.is_none());
        let indexes: Vec<u64> = replay.entries.iter().map(|entry| entry.index).collect();
        assert_eq!(indexes, (from..=60).collect::<Vec<_>>());
        assert_eq!(replay.entries, (from..=60).map(|i| zeros(1, i)).collect::<Vec<_>>());
    };
    let snapshots = Wal::valid_snapshots(&disk, &name("wal")).unwrap();
    let conf_state = snapshots[1].conf_state.clone();
    assert_eq!(&conf_state[..2], [8, 1]);
    let empty = WalSnapshot { index: 0, term: 0, conf_state: Bytes::new() };
    assert_eq!(snapshots, [empty, WalSnapshot { index: 30, term: 1, conf_state }]);
    let start = WalPosition { index: 30, term: 1 };
    check(&Wal::read_only(&disk, &name("wal"), start).unwrap(), 31);
    let (mut wal, replay) =
        Wal::open(&mut disk, name("wal"), WalPosition::default(), OPTS).unwrap();
    check(&replay, 1);
    let more = [zeros(2, 61)];
    let mut ops = Vec::new();
    wal.append(&Save { entries: &more, sync: true, ..Save::default() }, &mut ops);
    run(&mut disk, &ops).unwrap();
    let (_, replay) = Wal::open(&mut disk, name("wal"), start, OPTS).unwrap();
    assert_eq!(replay.entries.last(), Some(&more[0]));
}

fn zeros(term: u64, index: u64) -> WalEntry {
    entry(term, index, &vec![0; index as usize * 5])
}

#[test]
fn interop_files_are_left_for_etcd() {
    let Some(out) = std::env::var_os("NORN_INTEROP_DIR").map(PathBuf::from) else {
        return;
    };
    std::fs::write(out.join("ours.db"), bolt::write(&bolt::large(), 4096)).unwrap();

    let mut disk = MemDisk::new();
    let mut wal = Wal::create(&mut disk, name("wal"), Bytes::from_static(b"meta"), OPTS).unwrap();
    for index in 1..=70 {
        let mut ops = Vec::new();
        let state = Some(WalState { term: 1, vote: 1, commit: index - 1 });
        let conf_state = Bytes::from_static(&[8, 1]);
        let snapshot = (index == 41).then_some(WalSnapshot { index: 40, term: 1, conf_state });
        let entries = [zeros(1, index)];
        wal.append(&Save { entries: &entries, state, snapshot, sync: true }, &mut ops);
        run(&mut disk, &ops).unwrap();
    }
    let dir = out.join("ours-wal");
    std::fs::create_dir_all(&dir).unwrap();
    for file in disk.list(&name("wal")).unwrap() {
        let bytes = disk.read_at(&name(&format!("wal/{file}")), 0, 1 << 20).unwrap();
        std::fs::write(dir.join(file), bytes).unwrap();
    }
}
