//! One segment's frames: any bytes, and one flipped bit in good ones. Not for several files or for repairs: `wal_replay`.

use bytes::Bytes;
use norn_storage::wal::{
    Record, RecordKind, Save, Wal, WalEntry, WalError, WalOptions, WalSnapshot, WalState,
};
use norn_storage::{DiskOp, MemDisk};

use crate::choices::Choices;
use crate::memory;
use crate::wal_twin::{self, TwinRecord};

const OPTS: WalOptions = WalOptions { segment_bytes: 4096, spare_pieces: 1 };

/// The first byte says whether the rest is a segment as it is or decisions that write one.
pub fn body(bytes: &[u8]) {
    let mut choices = Choices::new(bytes);
    if choices.bool() {
        written(&mut choices);
    } else {
        any_bytes(choices.rest());
    }
}

/// Reading gives exactly the records whose checksums hold, and where it stops it says why, at that byte.
fn any_bytes(bytes: &[u8]) {
    let mut disk = wal_twin::disk(true);
    let file = wal_twin::segment(0, 0);
    wal_twin::put_file(&mut disk, &file, bytes);
    let (found, end) = read(&disk, bytes.len());
    let (expected, stops) = wal_twin::records(bytes, &mut 0);
    same(&found, &expected);
    if let Err(error) = end {
        let WalError::Corrupt { file: named, offset, .. } = &error else { panic!("{error:?}") };
        assert_eq!((named, *offset), (&file, stops), "{error}");
    }
}

/// What was written is read again; after one flipped bit, only a beginning of it.
fn written(choices: &mut Choices<'_>) {
    let (disk, mut expected, len) = write(choices);
    let (found, end) = read(&disk, OPTS.segment_bytes as usize);
    end.expect("nothing was damaged");
    same(&found, &expected);

    let (at, bit) = (u64::from(choices.word()) % len, choices.byte() % 8);
    let file = wal_twin::segment(0, 0);
    let before = wal_twin::file(&disk, &file);
    // The whole file is zeroed ahead: there is a byte to flip.
    assert!(disk.flip_bit(&file, at, bit), "{at} of {}", before.len());
    let (found, end) = read(&disk, OPTS.segment_bytes as usize);
    let hit = expected.iter().rposition(|record| record.offset <= at).expect("the first is at 0");
    // Checksums do not cover a record's type: of that one record it may be another one now.
    if let (Some(hit_record), Some(read)) = (expected.get_mut(hit), found.get(hit)) {
        hit_record.kind = read.kind as u64;
    }
    assert!(found.len() >= hit, "a record before the damage at {at} is missing");
    same(&found, &expected[..found.len().min(expected.len())]);
    if found.len() < expected.len().saturating_sub(1) {
        // Records follow: this is no torn tail.
        let error =
            end.expect_err(&format!("bit {bit} of byte {at}: unnoticed before a good record"));
        let WalError::Corrupt { file: named, offset, .. } = &error else { panic!("{error:?}") };
        assert!(
            *named == file && (*offset <= at || found.len() > hit),
            "{error}, the bit is at {at}"
        );
    }
    // The twin sees the same: the damage is in the bytes, not in the reader.
    let after = wal_twin::file(&disk, &file);
    assert_eq!(wal_twin::records(&after, &mut 0).0.len(), found.len());
}

/// A segment written by the real writer, the records it should hold, and where they end. No data ends in a zero and none holds a sector
/// of them, so that damage cannot look like a write cut short.
fn write(choices: &mut Choices<'_>) -> (MemDisk, Vec<TwinRecord>, u64) {
    let mut disk = wal_twin::disk(false);
    let metadata = Bytes::from(nonzero(choices.bytes(40)));
    let mut wal = Wal::create(&mut disk, wal_twin::dir(), metadata, OPTS).expect("a healthy disk");
    let mut index = 0;
    for _ in 0..choices.below(12) {
        let mut ops = Vec::new();
        let mut entries: Vec<WalEntry> = Vec::new();
        for _ in 0..choices.below(3) {
            index += 1;
            entries.push(wal_twin::entry(1, index, &nonzero(choices.bytes(60))));
        }
        let state =
            WalState { term: 1 + choices.long() % 1000, vote: choices.long(), commit: index + 1 };
        let conf_state = Bytes::from(nonzero(choices.bytes(8)));
        let snapshot = WalSnapshot { index: index + 1, term: 1, conf_state };
        let save = Save {
            entries: &entries,
            state: choices.bool().then_some(state),
            snapshot: choices.one_in(4).then_some(snapshot),
            sync: true,
        };
        wal.append(&save, &mut ops);
        let cut = ops.iter().any(|op| matches!(op, DiskOp::Rename { .. }));
        wal_twin::run(&mut disk, &ops);
        if cut {
            break;
        }
    }
    // Only the first file is looked at.
    let file = wal_twin::segment(0, 0);
    let mut only = wal_twin::disk(true);
    let bytes = wal_twin::file(&disk, &file);
    wal_twin::put_file(&mut only, &file, &bytes);
    let (expected, stops) = wal_twin::records(&bytes, &mut 0);
    assert!(expected.len() >= 3, "crc, metadata and the empty snapshot: {expected:?}");
    (only, expected, stops)
}

/// The same bytes with a one at the end and no zeros.
fn nonzero(bytes: &[u8]) -> Vec<u8> {
    let mut bytes: Vec<u8> = bytes.iter().map(|byte| (*byte).max(1)).collect();
    bytes.push(1);
    bytes
}

fn read(disk: &MemDisk, len: usize) -> (Vec<Record>, Result<(), WalError>) {
    memory::bounded(len, 40, 16 << 10, || {
        let mut found = Vec::new();
        let end = Wal::records(disk, &wal_twin::dir(), &mut |record| {
            found.push(record);
            Ok(())
        });
        (found, end)
    })
}

fn same(found: &[Record], expected: &[TwinRecord]) {
    let twin = |record: &Record| TwinRecord {
        kind: match record.kind {
            RecordKind::Metadata => 1,
            RecordKind::Entry => 2,
            RecordKind::State => 3,
            RecordKind::Crc => 4,
            RecordKind::Snapshot => 5,
        },
        offset: record.offset,
        data: record.data.to_vec(),
    };
    let found: Vec<_> = found.iter().map(twin).collect();
    assert_eq!(found, expected);
}
