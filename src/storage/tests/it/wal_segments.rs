//! The WAL's segments and their spares: prepared, taken, purged, and on a disk that is full.

use bytes::Bytes;
use norn_storage::wal::{Save, Wal, WalOptions};
use norn_storage::{DiskOp, DiskRead, MemDisk};

use crate::support::{name, run};
use crate::wal_workload::{Change, START, Workload, dir, entry, first_file, fresh};

#[test]
fn no_space_is_survived_by_submitting_again() {
    let mut load = Workload::new(fresh(), 11).unwrap();
    let mut failures = 0;
    for step in 0..40u64 {
        let more = entry(1, step + 1, &[9; 500]);
        let save = Save { entries: std::slice::from_ref(&more), sync: true, ..Save::default() };
        let mut ops = Vec::new();
        load.wal.append(&save, &mut ops);
        load.unsynced.push(Change::Entry(more));
        load.disk.limit_bytes(Some(load.disk.used_bytes() + load.dice.below(600)));
        if run(&mut load.disk, &ops).is_err() {
            failures += 1;
            load.disk.limit_bytes(None);
            run(&mut load.disk, &ops).unwrap();
        }
        load.acknowledge();
        if step % 3 == 0 {
            ops.clear();
            load.disk.limit_bytes(Some(load.disk.used_bytes() + 100));
            if load.wal.prepare(&mut ops) {
                let ok = run(&mut load.disk, &ops).is_ok();
                load.wal.prepared(ok);
            }
            load.disk.limit_bytes(None);
        }
    }
    assert!(failures > 5, "{failures}");
    let mut image = load.disk.snapshot_image();
    load.check(&mut image, "after no space");
}

#[test]
fn a_prepared_segment_is_taken_at_the_cut() {
    let mut load = Workload::new(fresh(), 13).unwrap();
    let mut ops = Vec::new();
    assert!(load.wal.prepare(&mut ops));
    assert!(!load.wal.prepare(&mut ops));
    run(&mut load.disk, &ops).unwrap();
    load.wal.prepared(true);
    let more = entry(1, 1, &[9; 2100]);
    ops.clear();
    let save = Save { entries: std::slice::from_ref(&more), sync: true, ..Save::default() };
    load.wal.append(&save, &mut ops);
    run(&mut load.disk, &ops).unwrap();
    assert!(!ops.iter().any(|op| matches!(op, DiskOp::Create { .. })), "{ops:?}");
    let second = name("member/wal/0000000000000001-0000000000000002.wal");
    assert_eq!(load.disk.len(&second), Ok(Some(2048)));
}

/// Zeros are written hardly faster than the log grows: at once, they would hold up its syncs.
#[test]
fn a_spare_is_made_in_pieces_while_four_fifths_of_the_tail_are_filled() {
    let mut disk = fresh();
    let opts = WalOptions { segment_bytes: 64 << 10, spare_pieces: 8 };
    let mut wal = Wal::create(&mut disk, dir(), Bytes::from_static(b"meta"), opts).unwrap();
    let mut pieces = Vec::new();
    for index in 1..=70 {
        let more = entry(1, index, &[9; 1000]);
        let save = Save { entries: std::slice::from_ref(&more), sync: true, ..Save::default() };
        let mut ops = Vec::new();
        wal.append(&save, &mut ops);
        run(&mut disk, &ops).unwrap();
        ops.clear();
        let mut count = 0;
        while wal.prepare(&mut ops) {
            assert!(!wal.prepare(&mut ops), "one is on its way");
            run(&mut disk, &ops).unwrap();
            wal.prepared(true);
            count += 1;
        }
        pieces.push(count);
    }
    // The first segment has 4 kB of zeros: what is behind them costs more to sync, so its spare comes quickly.
    assert_eq!(pieces[..4].iter().sum::<usize>(), 8 + 1, "{pieces:?}");
    assert_eq!(wal.segment_count(), 3, "{pieces:?}");
    // (52 kB of 64 kB; the eighth is written when seven tenths are filled.)
    let second = &pieces[4..4 + 52];
    assert_eq!(second.iter().sum::<usize>(), 7, "{pieces:?}");
    assert_eq!(second[..40].iter().sum::<usize>(), 6, "{pieces:?}");
    assert!(second.iter().all(|count| *count <= 1), "{pieces:?}");
    let (_, replay) = Wal::open(&mut disk, dir(), START, opts).unwrap();
    assert_eq!(replay.entries.len(), 70);
}

/// Only its first share is zeroed through; when that is used and a spare is there, the log moves on.
#[test]
fn the_first_segment_is_left_for_a_spare_as_soon_as_its_zeroed_share_is_used() {
    let mut disk = fresh();
    let opts = WalOptions { segment_bytes: 16 << 10, spare_pieces: 1 };
    let mut wal = Wal::create(&mut disk, dir(), Bytes::from_static(b"meta"), opts).unwrap();
    assert_eq!(disk.len(&first_file()), Ok(Some(16 << 10)));
    let append = |wal: &mut Wal, disk: &mut MemDisk, index| {
        let more = entry(1, index, &[9; 1000]);
        let save = Save { entries: std::slice::from_ref(&more), sync: true, ..Save::default() };
        let mut ops = Vec::new();
        wal.append(&save, &mut ops);
        run(disk, &ops).unwrap();
        wal.segment_count()
    };
    assert_eq!(append(&mut wal, &mut disk, 1), 1, "no spare yet");
    let mut ops = Vec::new();
    assert!(wal.prepare(&mut ops));
    run(&mut disk, &ops).unwrap();
    assert_eq!(append(&mut wal, &mut disk, 2), 1, "not known to be there");
    wal.prepared(true);
    assert_eq!(append(&mut wal, &mut disk, 3), 2);
    ops.clear();
    assert!(wal.prepare(&mut ops));
    run(&mut disk, &ops).unwrap();
    wal.prepared(true);
    let counts: Vec<_> = (4..=19).map(|index| append(&mut wal, &mut disk, index)).collect();
    assert_eq!(counts[..14], [2; 14], "the others are filled");
    assert_eq!(counts.last(), Some(&3));
    let (_, replay) = Wal::open(&mut disk, dir(), START, opts).unwrap();
    assert_eq!(replay.entries.len(), 19);
}

/// A purged segment full of good records becomes a spare: not one byte of them may be left, and on a disk that is full
/// it is the only space there is.
#[test]
fn a_purged_segment_becomes_a_spare_without_a_byte_of_what_it_held() {
    let mut load = Workload::new(fresh(), 29).unwrap();
    // (The first segment was left early: it is shorter than a spare.)
    while load.recycled < 2 {
        load.step().unwrap();
    }
    load.disk.limit_bytes(Some(load.disk.used_bytes()));
    let mut ops = Vec::new();
    while !load.wal.prepare(&mut ops) {
        // There is a spare: used up first.
        load.disk.limit_bytes(None);
        load.step().unwrap();
        load.disk.limit_bytes(Some(load.disk.used_bytes()));
    }
    let Some(DiskOp::SetLen { file, len: 2048 }) = ops.first().cloned() else { panic!("{ops:?}") };
    let before = load.disk.read_at(&file, 0, 4096).unwrap();
    assert!(before.iter().any(|byte| *byte != 0), "it held records");
    run(&mut load.disk, &ops).unwrap();
    assert_eq!(load.disk.read_at(&file, 0, 4096).unwrap(), vec![0; 2048]);
    // (As a disk that was full after it asks: everything once more.)
    run(&mut load.disk, &ops).unwrap();
    for mut image in load.disk.crash_images() {
        load.check(&mut image, "a spare is ready");
        assert!(image.list(&dir()).unwrap().iter().all(|name| name.ends_with(".wal")));
    }
}
