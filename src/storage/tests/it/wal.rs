//! The WAL against a twin in memory, through crashes of every kind.

use bytes::Bytes;
use norn_storage::wal::{
    RecordKind, Replay, Save, Wal, WalEntry, WalError, WalOptions, WalPosition, WalSnapshot,
    WalState,
};
use norn_storage::{BatchId, Disk, DiskBatch, DiskOp, DiskQueue, DiskRead, FileName, MemDisk};
use proptest::prelude::*;

use crate::support::{Dice, name, run};

const OPTS: WalOptions = WalOptions { segment_bytes: 2048 };
const START: WalPosition = WalPosition { index: 0, term: 0 };

fn dir() -> FileName {
    name("member/wal")
}

fn first_file() -> FileName {
    name("member/wal/0000000000000000-0000000000000000.wal")
}

fn fresh() -> MemDisk {
    let mut disk = MemDisk::new();
    let ops = [DiskOp::MakeDir { dir: name("member") }, DiskOp::SyncDir { dir: name("") }];
    run(&mut disk, &ops).unwrap();
    disk
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// As raft writes that of a new leader.
fn empty_entry(term: u64, index: u64) -> WalEntry {
    let with_data = entry(term, index, b"");
    let data = with_data.data.slice(..with_data.data.len() - 2);
    WalEntry { data, ..with_data }
}

pub(crate) fn entry(term: u64, index: u64, payload: &[u8]) -> WalEntry {
    let mut data = vec![0x08, 0x00, 0x10];
    varint(&mut data, term);
    data.push(0x18);
    varint(&mut data, index);
    data.push(0x22);
    varint(&mut data, payload.len() as u64);
    data.extend_from_slice(payload);
    WalEntry { term, index, data: Bytes::from(data) }
}

/// One record, as the twin sees it.
#[derive(Clone, Debug)]
enum Change {
    Snapshot(WalSnapshot),
    Entry(WalEntry),
    State(WalState),
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Twin {
    entries: Vec<WalEntry>,
    state: Option<WalState>,
    snapshots: Vec<WalSnapshot>,
}

impl Twin {
    fn apply(&mut self, change: &Change) {
        match change {
            Change::Snapshot(snapshot) => self.snapshots.push(snapshot.clone()),
            Change::State(state) => self.state = Some(*state),
            Change::Entry(entry) => {
                self.entries.truncate(entry.index as usize - 1);
                self.entries.push(entry.clone());
            }
        }
    }

    fn agrees(&self, start: WalPosition, replay: &Replay) -> bool {
        let from = (start.index as usize).min(self.entries.len());
        replay.state == self.state && replay.entries == self.entries[from..]
    }
}

/// A node's use of its WAL, and what it was promised.
struct Workload {
    disk: MemDisk,
    wal: Wal,
    dice: Dice,
    /// What a completed sync covers, and the records after it.
    promised: Twin,
    unsynced: Vec<Change>,
    start: WalPosition,
    /// Files that a completed purge may have removed do not hold records before this index.
    term: u64,
    last: u64,
    commit: u64,
    /// Segments that a purge has kept to become spares, and spares made from them.
    recycled: usize,
    reused: usize,
}

impl Workload {
    fn new(disk: MemDisk, seed: u64) -> Result<Workload, WalError> {
        let mut disk = disk;
        let wal = Wal::create(&mut disk, dir(), Bytes::from_static(b"meta"), OPTS)?;
        let promised = Twin::default();
        Ok(Workload {
            disk,
            wal,
            dice: Dice(seed),
            promised,
            unsynced: Vec::new(),
            start: START,
            term: 1,
            last: 0,
            commit: 0,
            recycled: 0,
            reused: 0,
        })
    }

    /// One step; an error when the disk stopped.
    fn step(&mut self) -> Result<(), WalError> {
        let mut ops = Vec::new();
        match self.dice.below(10) {
            0 => {
                let ready = self.wal.prepare(&mut ops);
                self.reused += usize::from(matches!(ops.first(), Some(DiskOp::SetLen { .. })));
                run(&mut self.disk, &ops)?;
                if ready {
                    self.wal.prepared(true);
                }
                return Ok(());
            }
            1 => return self.snapshot(),
            2 => {
                self.commit += self.dice.below(self.last - self.commit + 1);
                let state = WalState { term: self.term, vote: 1, commit: self.commit };
                self.unsynced.push(Change::State(state));
                let save = Save { state: Some(state), ..Save::default() };
                self.wal.append(&save, &mut ops);
                let synced = ops.iter().any(|op| matches!(op, DiskOp::Sync { .. }));
                run(&mut self.disk, &ops)?;
                if synced {
                    self.acknowledge();
                }
                return Ok(());
            }
            _ => {}
        }
        // A new leader may replace the end of the log, but nothing that is committed.
        let is_new = self.dice.one_in(6);
        if is_new {
            self.term += 1;
            self.last -= self.dice.below(3).min(self.last - self.commit);
        }
        let mut entries = Vec::new();
        for _ in 0..=self.dice.below(4) {
            self.last += 1;
            entries.push(entry(self.term, self.last, &self.dice.bytes(300)));
        }
        let state = WalState { term: self.term, vote: 2, commit: self.commit };
        let state = (self.dice.one_in(2) || is_new).then_some(state);
        self.unsynced.extend(entries.iter().cloned().map(Change::Entry));
        self.unsynced.extend(state.map(Change::State));
        self.wal.append(&Save { entries: &entries, state, snapshot: None, sync: true }, &mut ops);
        run(&mut self.disk, &ops)?;
        self.acknowledge();
        Ok(())
    }

    fn snapshot(&mut self) -> Result<(), WalError> {
        if self.last == self.start.index {
            return Ok(());
        }
        let mut ops = Vec::new();
        let conf_state = Bytes::from_static(&[8, 1, 8, 2]);
        let snapshot = WalSnapshot { index: self.last, term: self.term, conf_state };
        self.commit = self.last;
        let state = WalState { term: self.term, vote: 1, commit: self.commit };
        self.unsynced.push(Change::Snapshot(snapshot.clone()));
        self.unsynced.push(Change::State(state));
        let start = WalPosition { index: snapshot.index, term: snapshot.term };
        let save = Save { entries: &[], state: Some(state), snapshot: Some(snapshot), sync: true };
        self.wal.append(&save, &mut ops);
        run(&mut self.disk, &ops)?;
        self.acknowledge();
        self.start = start;
        self.wal.release_to(start.index);
        ops.clear();
        self.wal.purge(2, &mut ops);
        self.recycled += ops.iter().filter(|op| matches!(op, DiskOp::Rename { .. })).count();
        run(&mut self.disk, &ops)?;
        Ok(())
    }

    fn acknowledge(&mut self) {
        for change in self.unsynced.drain(..) {
            self.promised.apply(&change);
        }
    }

    /// Opens what a crash left, and checks that it holds everything promised and nothing else than a beginning of
    /// what was not. Returns what was found.
    fn check(&self, disk: &mut MemDisk, at: &str) -> (Wal, Twin) {
        let opened = Wal::open(disk, dir(), self.start, OPTS);
        let (wal, replay) = opened.unwrap_or_else(|error| panic!("{at}: {error}"));
        assert_eq!(replay.metadata, &b"meta"[..], "{at}");
        assert!(replay.snapshot_found, "{at}");
        let mut twin = self.promised.clone();
        let mut unsynced = self.unsynced.iter();
        while !twin.agrees(self.start, &replay) {
            let Some(change) = unsynced.next() else {
                panic!(
                    "{at}: found {replay:?}\npromised {:?}\nunsynced {:?}",
                    self.promised, self.unsynced
                );
            };
            twin.apply(change);
        }
        (wal, twin)
    }
}

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

#[test]
fn every_sync_point_and_every_torn_last_write() {
    for k in 1.. {
        let disk = fresh();
        disk.freeze_at_sync(k);
        let Ok(mut load) = Workload::new(disk.clone(), 7) else {
            for mut image in disk.crash_images() {
                if Wal::exists(&image, &dir()).unwrap() {
                    Wal::open(&mut image, dir(), START, OPTS).unwrap();
                } else {
                    Wal::create(&mut image, dir(), Bytes::from_static(b"meta"), OPTS).unwrap();
                }
            }
            continue;
        };
        let mut steps = 0;
        while steps < 120 && load.step().is_ok() {
            steps += 1;
        }
        if !disk.is_frozen() {
            assert!(k > 60, "the workload must sync");
            assert!(load.reused > 2, "the workload must recycle, not {} times", load.reused);
            return;
        }
        for (at, mut image) in disk.crash_images().into_iter().enumerate() {
            let at = format!("sync {k}, image {at}");
            let (mut wal, twin) = load.check(&mut image, &at);
            // What opening found stays found, and the log goes on.
            let next = twin.entries.len() as u64 + 1;
            let more = entry(99, next.max(load.start.index + 1), b"more");
            let commit = twin.state.map_or(0, |state| state.commit);
            let state = Some(WalState { term: 99, vote: 1, commit });
            let save =
                Save { entries: std::slice::from_ref(&more), state, sync: true, ..Save::default() };
            let mut ops = Vec::new();
            wal.append(&save, &mut ops);
            run(&mut image, &ops).unwrap();
            let mut after = image.crash_images().swap_remove(0);
            let (_, replay) = Wal::open(&mut after, dir(), load.start, OPTS).unwrap();
            let mut expected =
                twin.entries[(load.start.index as usize).min(twin.entries.len())..].to_vec();
            expected.push(more);
            assert_eq!(replay.entries, expected, "{at}");
            assert_eq!(replay.repaired, None, "{at}");
        }
    }
}

#[test]
fn random_crashes_keep_what_was_promised() {
    for seed in 0..400 {
        let mut load = Workload::new(fresh(), seed).unwrap();
        for round in 0..3 {
            for _ in 0..load.dice.below(25) {
                load.step().unwrap();
            }
            let mut disk = load.disk.clone();
            // What a killed process left unsynced and the next one has read must survive a power loss after that.
            if load.dice.one_in(3) {
                disk.kill(0);
            } else {
                disk.crash(load.dice.draw());
            }
            // The power may go again while the log is opened, and is set right.
            if load.dice.one_in(2) {
                disk.freeze_at_sync(1 + load.dice.below(4));
                let _ = Wal::open(&mut disk, dir(), load.start, OPTS);
                disk = disk.snapshot_image();
                disk.crash(load.dice.draw());
            }
            let (wal, twin) = load.check(&mut disk, &format!("seed {seed} round {round}"));
            load.last = twin.entries.len() as u64;
            load.commit = twin.state.map_or(0, |state| state.commit);
            load.wal = wal;
            load.promised = twin;
            load.unsynced.clear();
            load.disk = disk;
        }
    }
}

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

#[test]
fn damage_before_the_last_file_is_never_a_torn_tail() {
    let mut load = Workload::new(fresh(), 3).unwrap();
    while load.wal.segment_count() < 3 {
        load.step().unwrap();
    }
    let names = load.disk.list(&dir()).unwrap();
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

/// What is zeroed over a torn tail may be torn in its turn. (Simulation, storm 9407580: half a frame header was left, and passed for
/// damage.)
#[test]
fn an_opening_cut_short_leaves_a_log_that_opens() {
    let mut disk = fresh();
    let mut wal = Wal::create(&mut disk, dir(), Bytes::from_static(b"meta"), OPTS).unwrap();
    let room = OPTS.segment_bytes as usize - disk_bytes(&disk) - 60;
    let mut ops = Vec::new();
    for (index, len, sync) in [(1, room, true), (2, 100, false)] {
        let more = entry(1, index, &vec![7; len]);
        wal.append(
            &Save { entries: std::slice::from_ref(&more), sync, ..Save::default() },
            &mut ops,
        );
    }
    // All but what ends the segment: the second entry is written, and may be torn.
    let written = ops.iter().rposition(|op| matches!(op, DiskOp::SetLen { .. })).unwrap();
    run(&mut disk, &ops[..written]).unwrap();
    let mut cut_short = 0;
    for torn in disk.crash_images() {
        for sync in 1.. {
            let mut opening = torn.snapshot_image();
            opening.freeze_at_sync(sync);
            if Wal::open(&mut opening, dir(), START, OPTS).is_ok() {
                break;
            }
            for mut image in opening.crash_images() {
                let (_, replay) = Wal::open(&mut image, dir(), START, OPTS).unwrap();
                assert!(!replay.entries.is_empty());
                cut_short += 1;
            }
        }
    }
    assert!(cut_short > 1000, "{cut_short}");
}

/// Where the records end.
fn disk_bytes(disk: &MemDisk) -> usize {
    let bytes = disk.read_at(&first_file(), 0, OPTS.segment_bytes as usize).unwrap();
    bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1
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

/// Only its first share is zeroed through; when that is used and a spare is there, the log moves on.
#[test]
fn the_first_segment_is_left_for_a_spare_as_soon_as_its_zeroed_share_is_used() {
    let mut disk = fresh();
    let opts = WalOptions { segment_bytes: 16 << 10 };
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

/// Several saves in flight: of those whose completion was not polled, any beginning may be found.
#[test]
fn saves_in_flight_are_whole_or_absent() {
    for seed in 0..200 {
        let mut load = Workload::new(fresh(), seed).unwrap();
        let mut disk = load.disk.clone();
        disk.defer(true);
        let mut saved = Vec::new();
        let (mut submitted, mut index) = (0, 0);
        for _ in 0..load.dice.below(30) {
            match load.dice.below(6) {
                0..=2 => {
                    let mut ops = Vec::new();
                    index += 1;
                    let more = entry(1, index, &load.dice.bytes(600));
                    let save = Save {
                        entries: std::slice::from_ref(&more),
                        sync: true,
                        ..Save::default()
                    };
                    load.wal.append(&save, &mut ops);
                    submitted += 1;
                    disk.submit(DiskBatch { id: BatchId(submitted), queue: DiskQueue::Log, ops });
                    saved.push((submitted, Change::Entry(more)));
                }
                3 => {
                    let mut ops = Vec::new();
                    if load.wal.prepare(&mut ops) {
                        // Completions of this queue have numbers of their own.
                        disk.submit(DiskBatch {
                            id: BatchId(1 << 32),
                            queue: DiskQueue::Bulk,
                            ops,
                        });
                    }
                }
                4 => {
                    disk.step(DiskQueue::Bulk);
                    disk.step(DiskQueue::Log);
                }
                _ => {
                    disk.complete_next(DiskQueue::Log);
                }
            }
            while let Some(done) = disk.poll() {
                done.result.unwrap();
                if done.id.0 == 1 << 32 {
                    load.wal.prepared(true);
                    continue;
                }
                let (id, change) = saved.remove(0);
                assert_eq!(id, done.id.0, "completions come in order");
                load.promised.apply(&change);
            }
        }
        load.unsynced = saved.into_iter().map(|(_, change)| change).collect();
        if load.dice.one_in(2) {
            disk.crash(seed);
        } else {
            disk.kill(seed);
        }
        load.check(&mut disk, &format!("seed {seed}"));
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
