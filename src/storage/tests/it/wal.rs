//! The WAL's bytes, and that they are read as they were written.

use bytes::Bytes;
use norn_storage::DiskRead;
use norn_storage::wal::{Save, Wal, WalOptions, WalPosition, WalSnapshot};
use proptest::prelude::*;

use crate::support::{name, run};
use crate::wal_workload::{OPTS, START, Workload, dir, entry, first_file, fresh};

#[test]
fn a_new_wal_has_the_golden_bytes() {
    let mut disk = fresh();
    let opts = WalOptions::default();
    Wal::create(&mut disk, dir(), Bytes::from_static(b"somedata"), opts).unwrap();
    let golden = "0400000000000084080410000000000012000000000000860801108\
                  5d4fda0071a08736f6d656461746100000000000\
                  00e000000000000820805108 0db81c1011a0408001000 0000";
    let golden: String = golden.split_whitespace().collect();
    let bytes = disk.read_at(&first_file(), 0, 80).unwrap();
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, format!("{golden}{}", "0".repeat(16)));
    assert_eq!(disk.len(&first_file()), Ok(Some(64_000_000)));
    assert_eq!(disk.list(&name("member")).unwrap(), ["wal"]);
}

#[test]
fn what_was_written_is_read_again() {
    let mut load = Workload::new(fresh(), 1).unwrap();
    for _ in 0..300 {
        load.step().unwrap();
    }
    load.acknowledge();
    assert!(load.wal.segment_count() <= 4, "purge leaves few segments");
    let mut image = load.disk.snapshot_image();
    let (_, twin) = load.check(&mut image, "clean");
    assert_eq!(twin, load.promised);
    let replay = Wal::read_only(&load.disk, &dir(), load.start).unwrap();
    assert!(load.promised.agrees(load.start, &replay) && replay.repaired.is_none());
    let valid = Wal::valid_snapshots(&load.disk, &dir()).unwrap();
    assert_eq!(valid.last(), load.promised.snapshots.last());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn entries_round_trip(
        payloads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..700), 1..12),
    ) {
        let mut disk = fresh();
        let mut wal = Wal::create(&mut disk, dir(), Bytes::from_static(b"meta"), OPTS).unwrap();
        let entries: Vec<_> = payloads.iter().zip(1..).map(|(bytes, i)| entry(3, i, bytes)).collect();
        for chunk in entries.chunks(3) {
            let mut ops = Vec::new();
            wal.append(&Save { entries: chunk, sync: true, ..Save::default() }, &mut ops);
            run(&mut disk, &ops).unwrap();
        }
        let (_, replay) = Wal::open(&mut disk, dir(), START, OPTS).unwrap();
        prop_assert_eq!(replay.entries, entries);
        prop_assert_eq!(replay.repaired, None);
    }
}

#[test]
fn the_same_calls_give_the_same_bytes() {
    let contents = || {
        let mut load = Workload::new(fresh(), 23).unwrap();
        (0..100).for_each(|_| load.step().unwrap());
        let names = load.disk.list(&dir()).unwrap();
        let read = |file: &String| {
            load.disk.read_at(&name(&format!("{}/{file}", dir())), 0, 1 << 20).unwrap()
        };
        let files: Vec<_> = names.iter().map(|file| (file.clone(), read(file))).collect();
        (files, load.disk.ops(), load.disk.syncs())
    };
    assert_eq!(contents(), contents());
}

/// Found by seed 330 of `random_crashes_keep_what_was_promised`.
#[test]
fn entries_behind_a_replaced_one_do_not_come_back() {
    let mut disk = fresh();
    let mut wal = Wal::create(&mut disk, dir(), Bytes::from_static(b"meta"), OPTS).unwrap();
    let mut ops = Vec::new();
    for entries in
        [vec![entry(1, 1, b"a"), entry(1, 2, b"b"), entry(1, 3, b"stale")], vec![entry(2, 2, b"c")]]
    {
        wal.append(&Save { entries: &entries, sync: true, ..Save::default() }, &mut ops);
    }
    run(&mut disk, &ops).unwrap();
    let without = Wal::read_only(&disk, &dir(), WalPosition { index: 2, term: 2 }).unwrap();
    assert_eq!((without.entries, without.snapshot_found), (vec![], false));
    let snapshot = Some(WalSnapshot { index: 2, term: 2, conf_state: Bytes::new() });
    ops.clear();
    wal.append(&Save { snapshot, sync: true, ..Save::default() }, &mut ops);
    run(&mut disk, &ops).unwrap();
    let with = Wal::read_only(&disk, &dir(), WalPosition { index: 2, term: 2 }).unwrap();
    assert_eq!((with.entries, with.snapshot_found), (vec![], true));
}
