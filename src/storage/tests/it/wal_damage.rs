//! What is damaged is reported, what is torn is set right.

use bytes::Bytes;
use norn_storage::wal::{RecordKind, Save, Wal, WalError, WalPosition, WalState};
use norn_storage::{DiskOp, DiskRead, FileName, MemDisk};
use proptest::prelude::*;

use crate::support::{name, run};
use crate::wal_workload::{OPTS, START, Workload, dir, empty_entry, entry, first_file, fresh};

/// Bits of synced records never pass unnoticed, but for the record type: the format's checksums cover data only, and
/// an entry and a state can be read as each other.
#[test]
fn a_flipped_bit_is_reported_with_file_and_offset() {
    let mut disk = fresh();
    let mut wal = Wal::create(&mut disk, dir(), Bytes::from_static(b"meta"), OPTS).unwrap();
    let entries: Vec<_> =
        (1..=6).map(|i| entry(1, i, b"a value that does not end in zero")).collect();
    let mut ops = Vec::new();
    let state = Some(WalState { term: 1, vote: 1, commit: 6 });
    wal.append(&Save { entries: &entries, state, snapshot: None, sync: true }, &mut ops);
    let written = ops.iter().find_map(|op| match op {
        DiskOp::Write { offset, data, .. } => Some(offset + data.len() as u64),
        _ => None,
    });
    run(&mut disk, &ops).unwrap();
    let (mut reported, mut silent) = (0, Vec::new());
    let bytes = disk.read_at(&first_file(), 0, 4096).unwrap();
    for at in 0..written.unwrap() * 8 {
        let (byte, is_type) = (at / 8, at / 8 % 8 == 1 && bytes[at as usize / 8 - 1] == 0x08);
        if is_type && matches!(bytes[byte as usize], 2 | 3) {
            continue;
        }
        let mut image = disk.snapshot_image();
        assert!(image.flip_bit(&first_file(), at / 8, (at % 8) as u8));
        match Wal::open(&mut image, dir(), START, OPTS) {
            Err(error @ WalError::Corrupt { .. }) => {
                let WalError::Corrupt { file, offset, .. } = &error else { unreachable!() };
                assert_eq!(*file, first_file());
                assert!(
                    *offset <= at / 8 + 16 && at / 8 < offset + 128,
                    "bit {at} reported at {offset}"
                );
                assert!(error.to_string().contains("remove the member"), "{error}");
                reported += 1;
            }
            Err(WalError::EntryGap { .. } | WalError::SnapshotMismatch { .. }) => reported += 1,
            Err(error) => panic!("bit {at}: {error}"),
            // Padding and the upper half of protobuf numbers that readers ignore.
            Ok((_, replay)) if replay.entries == entries && replay.state == state => {}
            Ok((_, r)) => silent.push((at, r.repaired.map(|r| (r.offset, r.reason)))),
        }
    }
    assert!(reported > 2000, "{reported}");
    assert!(silent.is_empty(), "flips that lost records without a word: {silent:?}");
}

/// Where a record reaches a byte into its last sector, one bit makes zeros of it: what a lost sector would look like, but for what
/// follows.
#[test]
fn a_zero_at_the_end_of_a_record_is_no_torn_tail_if_another_follows() {
    for bytes in 300..=600 {
        let mut disk = fresh();
        let mut wal = Wal::create(&mut disk, dir(), Bytes::from_static(b"meta"), OPTS).unwrap();
        let mut ops = Vec::new();
        let entries = [entry(1, 1, &vec![1; bytes]), entry(1, 2, b"behind")];
        wal.append(&Save { entries: &entries, sync: true, ..Save::default() }, &mut ops);
        run(&mut disk, &ops).unwrap();
        let mut offsets = Vec::new();
        let mut note = |record: norn_storage::wal::Record| {
            offsets.push((record.offset, record.data.len() as u64));
            Ok(())
        };
        Wal::records(&disk, &dir(), &mut note).unwrap();
        let ((offset, _), (next, _)) = (offsets[offsets.len() - 2], offsets[offsets.len() - 1]);
        let image = disk.read_at(&first_file(), offset, (next - offset) as usize).unwrap();
        let last = offset + image.iter().rposition(|byte| *byte != 0).unwrap() as u64;
        assert!(disk.flip_bit(&first_file(), last, 0));
        match Wal::open(&mut disk, dir(), START, OPTS) {
            Err(WalError::Corrupt { file, offset: at, .. }) => {
                assert_eq!((file, at), (first_file(), offset));
            }
            other => panic!("{bytes}: {:?}", other.map(|(_, replay)| replay)),
        }
    }
}

/// An entry without data has the fields of a state. What follows tells them apart.
#[test]
fn an_entry_read_as_a_state_and_a_state_read_as_an_entry_are_reported() {
    let mut disk = fresh();
    let mut wal = Wal::create(&mut disk, dir(), Bytes::from_static(b"meta"), OPTS).unwrap();
    let mut ops = Vec::new();
    for term in 1..=5u64 {
        // (Votes are ids, zero where there was none.)
        let vote = if term.is_multiple_of(2) { 0 } else { 0x8a39_58d1_7982_0ab0 };
        let state = Some(WalState { term, vote, commit: term - 1 });
        let entries = [empty_entry(term, term)];
        wal.append(&Save { entries: &entries, state, snapshot: None, sync: true }, &mut ops);
    }
    run(&mut disk, &ops).unwrap();
    let mut records = Vec::new();
    Wal::records(&disk, &dir(), &mut |record| {
        records.push((record.offset, record.kind));
        Ok(())
    })
    .unwrap();
    let is_one = |kind| matches!(kind, RecordKind::Entry | RecordKind::State);
    records.retain(|(_, kind)| is_one(*kind));
    assert_eq!(records.len(), 10);
    // (The last entry and the last state have nothing behind them.)
    for (offset, kind) in &records[..8] {
        let mut image = disk.snapshot_image();
        // Behind the frame's length and the field's tag.
        assert!(image.flip_bit(&first_file(), offset + 9, 0));
        let opened = Wal::open(&mut image, dir(), START, OPTS);
        assert!(opened.is_err(), "{kind:?} at {offset}: {:?}", opened.map(|(_, replay)| replay));
    }
}

/// Before the first checksum any would do. One bit ends the metadata early, and its last bytes say: a checksum record, 1.
#[test]
fn a_checksum_record_within_a_file_is_refused() {
    const METADATA: &[u8] = b"thirty-five bytes of metadata, then\x08\x04\x10\x01";
    let mut disk = fresh();
    Wal::create(&mut disk, dir(), Bytes::from_static(METADATA), OPTS).unwrap();
    let bytes = disk.read_at(&first_file(), 0, 4096).unwrap();
    let at = bytes.windows(METADATA.len()).position(|window| window == METADATA).unwrap() - 1;
    assert_eq!((usize::from(bytes[at]), METADATA.len() ^ 4), (39, 35));
    assert!(disk.flip_bit(&first_file(), at as u64, 2));
    match Wal::open(&mut disk, dir(), START, OPTS) {
        Err(WalError::Corrupt { offset: 16, .. }) => {}
        other => panic!("{:?}", other.map(|(_, replay)| replay)),
    }
}

#[test]
fn damage_before_the_last_file_is_never_a_torn_tail() {
    let mut load = Workload::new(fresh(), 3).unwrap();
    while load.wal.segment_count() < 3 {
        load.step().unwrap();
    }
    let mut names = load.disk.list(&dir()).unwrap();
    names.retain(|name| name.ends_with(".wal"));
    let file = name(&format!("{}/{}", dir(), names[names.len() - 2]));
    let mut disk = load.disk.snapshot_image();
    let len = disk.len(&file).unwrap().unwrap();
    run(&mut disk, &[DiskOp::SetLen { file: file.clone(), len: len - 8 }]).unwrap();
    let start = WalPosition { index: load.start.index, term: load.start.term };
    match Wal::open(&mut disk, dir(), start, OPTS) {
        Err(WalError::Corrupt { file: found, .. }) => assert_eq!(found, file),
        other => panic!("{:?}", other.map(|(_, replay)| replay)),
    }
}

#[test]
fn a_missing_segment_is_named() {
    let mut load = Workload::new(fresh(), 5).unwrap();
    let mut ops = Vec::new();
    for index in 1..40 {
        let more = entry(1, index, &[7; 200]);
        let save = Save { entries: std::slice::from_ref(&more), sync: true, ..Save::default() };
        load.wal.append(&save, &mut ops);
    }
    run(&mut load.disk, &ops).unwrap();
    let names = load.disk.list(&dir()).unwrap();
    assert!(names.len() >= 4, "{names:?}");
    let file = name(&format!("{}/{}", dir(), names[1]));
    run(&mut load.disk, &[DiskOp::Remove { file }]).unwrap();
    let opened = Wal::open(&mut load.disk, dir(), START, OPTS);
    assert_eq!(opened.err(), Some(WalError::Gap { dir: dir(), before: 0, after: 2 }));
}

#[test]
fn a_torn_tail_is_set_aside_and_cut() {
    let mut disk = fresh();
    let mut wal = Wal::create(&mut disk, dir(), Bytes::from_static(b"meta"), OPTS).unwrap();
    let mut ops = Vec::new();
    for index in 1..=2 {
        let more = entry(1, index, &[7; 400]);
        let save = Save { entries: std::slice::from_ref(&more), sync: true, ..Save::default() };
        wal.append(&save, &mut ops);
    }
    run(&mut disk, &ops).unwrap();
    let file = first_file();
    run(&mut disk, &[DiskOp::Zero { file: file.clone(), offset: 700, len: 400 }]).unwrap();
    let read = Wal::read_only(&disk, &dir(), START).unwrap();
    assert_eq!(read.entries.len(), 1);
    let (_, replay) = Wal::open(&mut disk, dir(), START, OPTS).unwrap();
    let repair = replay.repaired.unwrap();
    assert_eq!((replay.entries.len(), &repair.file), (1, &file));
    assert_eq!(disk.len(&repair.copy), Ok(Some(2048)));
    assert_eq!(disk.len(&file), Ok(Some(2048)));
    let (_, again) = Wal::open(&mut disk, dir(), START, OPTS).unwrap();
    assert_eq!((again.entries.len(), again.repaired), (1, None));
}

fn disk_with(file: &FileName, bytes: Vec<u8>) -> MemDisk {
    let mut disk = fresh();
    let ops = [
        DiskOp::MakeDir { dir: dir() },
        DiskOp::Create { file: file.clone() },
        DiskOp::Write { file: file.clone(), offset: 0, data: Bytes::from(bytes) },
    ];
    run(&mut disk, &ops).unwrap();
    disk
}

fn real_bytes() -> Vec<u8> {
    let mut load = Workload::new(fresh(), 17).unwrap();
    for _ in 0..4 {
        load.step().unwrap();
    }
    load.disk.read_at(&first_file(), 0, 1 << 20).unwrap().to_vec()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn arbitrary_bytes_are_replayed_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let mut disk = disk_with(&first_file(), bytes);
        let _ = Wal::valid_snapshots(&disk, &dir());
        let _ = Wal::open(&mut disk, dir(), START, OPTS);
    }

    #[test]
    fn mutated_logs_are_replayed_or_refused(
        edits in proptest::collection::vec((any::<u16>(), any::<u8>()), 1..6),
        cut in any::<u16>(),
    ) {
        let mut bytes = real_bytes();
        for (at, value) in edits {
            let at = at as usize % bytes.len();
            bytes[at] = value;
        }
        bytes.truncate(1 + cut as usize % (2 * bytes.len()));
        let mut disk = disk_with(&first_file(), bytes);
        if let Ok((_, replay)) = Wal::open(&mut disk, dir(), START, OPTS) {
            // Opened once, it opens again, to the same.
            let (_, again) = Wal::open(&mut disk, dir(), START, OPTS).unwrap();
            prop_assert_eq!(again.entries, replay.entries);
            prop_assert_eq!(again.repaired, None);
        }
    }
}
