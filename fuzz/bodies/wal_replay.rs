//! Opening a WAL: whatever the files hold, and after a power loss at any moment.

use bytes::Bytes;
use norn_storage::wal::{
    Replay, Save, Wal, WalEntry, WalError, WalOptions, WalPosition, WalSnapshot, WalState,
};
use norn_storage::{DiskOp, DiskRead, FileName, MemDisk};

use crate::choices::Choices;
use crate::memory;
use crate::wal_twin::{self, Value};

const OPTS: WalOptions = WalOptions { segment_bytes: 1024, spare_pieces: 3 };

/// The first byte says what the others are: files, damage to good files, or a life with power losses.
pub fn body(bytes: &[u8]) {
    let mut choices = Choices::new(bytes);
    match choices.byte() % 3 {
        0 => any_files(&mut choices),
        1 => damaged(&mut choices),
        _ => crashes(&mut choices),
    }
}

/// Up to three segments of any bytes.
fn any_files(choices: &mut Choices<'_>) {
    let mut disk = wal_twin::disk(true);
    let start = WalPosition { index: choices.below(4) as u64, term: choices.below(4) as u64 };
    let (mut sequence, mut index) = (0, 0);
    let mut len = 0;
    for _ in 0..=choices.below(3) {
        let more = choices.byte();
        let cut = choices.word() as usize;
        let bytes = if more & 1 == 1 { choices.take(cut % 1024) } else { choices.rest() };
        wal_twin::put_file(&mut disk, &wal_twin::segment(sequence, index), bytes);
        len += bytes.len();
        sequence += 1 + u64::from(more == 255);
        index += u64::from(more >> 1 & 3);
    }
    judge(disk, start, len);
}

/// Good files, of which some bytes are changed, one is cut short, or one is missing.
fn damaged(choices: &mut Choices<'_>) {
    let mut life = Life::new();
    for _ in 0..choices.below(10) {
        life.step(choices);
    }
    let mut disk = life.disk.snapshot_image();
    let files = segments(&disk);
    for _ in 0..choices.below(4) {
        let file = &files[choices.below(files.len())];
        let mut bytes = wal_twin::file(&disk, file);
        let at = choices.word() as usize % bytes.len().max(1);
        match choices.byte() % 4 {
            0 => bytes.truncate(at),
            1 if !bytes.is_empty() => bytes[at] ^= 1 << (choices.byte() % 8),
            2 => {
                let piece = choices.bytes(16);
                let end = (at + piece.len()).min(bytes.len());
                bytes[at..end].copy_from_slice(&piece[..end - at]);
            }
            _ => {
                let end = (at + 512).min(bytes.len());
                bytes[at..end].fill(0);
            }
        }
        wal_twin::put_file(&mut disk, file, &bytes);
    }
    let start = if choices.bool() { life.start } else { WalPosition::default() };
    judge(disk, start, 2048 * files.len());
}

fn segments(disk: &MemDisk) -> Vec<FileName> {
    let names = disk.list(&wal_twin::dir()).expect("a healthy disk");
    let segments = names.iter().filter(|name| name.ends_with(".wal"));
    segments.map(|name| FileName::new(format!("member/wal/{name}"))).collect()
}

/// What the twin makes of the files: entries after `start`, and file and offset at which the records end.
struct Reading {
    entries: Vec<(u64, u64, Vec<u8>)>,
    /// Data of every record with a good checksum.
    whole: Vec<Vec<u8>>,
    ends: Vec<(FileName, u64)>,
}

fn reading(disk: &MemDisk, start: WalPosition) -> Reading {
    let files = segments(disk);
    let index_of = |file: &FileName| {
        let name = file.base().strip_suffix(".wal").expect("a segment");
        u64::from_str_radix(&name[17..], 16).expect("hex digits")
    };
    let first = files.iter().rposition(|file| index_of(file) <= start.index).unwrap_or(0);
    let mut reading = Reading { entries: Vec::new(), whole: Vec::new(), ends: Vec::new() };
    let mut crc = 0;
    for file in &files[first..] {
        let (records, end) = wal_twin::records(&wal_twin::file(disk, file), &mut crc);
        for record in records {
            if record.kind == 2 {
                take_entry(&mut reading.entries, start, &record.data);
            }
            if record.kind == 5 {
                take_snapshot(&mut reading.entries, start, &record.data);
            }
            reading.whole.push(record.data);
        }
        reading.ends.push((file.clone(), end));
    }
    reading
}

/// A later entry replaces those from its index on.
fn take_entry(entries: &mut Vec<(u64, u64, Vec<u8>)>, start: WalPosition, data: &[u8]) {
    let (mut term, mut index) = (0, 0);
    for (number, value) in wal_twin::fields(data).unwrap_or_default() {
        match (number, value) {
            (2, Value::Varint(value)) => term = value,
            (3, Value::Varint(value)) => index = value,
            _ => {}
        }
    }
    entries.retain(|entry| entry.1 < index);
    if index > start.index {
        entries.push((term, index, data.to_vec()));
    }
}

/// A leader's snapshot at the start, of a later term than what follows it, has replaced that.
fn take_snapshot(entries: &mut Vec<(u64, u64, Vec<u8>)>, start: WalPosition, data: &[u8]) {
    let (mut index, mut term) = (0, 0);
    for (number, value) in wal_twin::fields(data).unwrap_or_default() {
        match (number, value) {
            (1, Value::Varint(value)) => index = value,
            (2, Value::Varint(value)) => term = value,
            _ => {}
        }
    }
    if index == start.index && entries.first().is_some_and(|entry| entry.0 < term) {
        entries.clear();
    }
}

/// Opens and looks at what comes of it: a replay of exactly what is whole, or a report that names the place, with
/// nothing changed.
fn judge(mut disk: MemDisk, start: WalPosition, len: usize) {
    let before = disk.snapshot_image();
    let reading = reading(&before, start);
    let peeked =
        memory::bounded(len, 64, 64 << 10, || Wal::read_only(&before, &wal_twin::dir(), start));
    match Wal::open(&mut disk, wal_twin::dir(), start, OPTS) {
        Ok((wal, replay)) => {
            assert_eq!(peeked.as_ref(), Ok(&replay), "reading and opening disagree");
            opened(&reading, start, &before, disk, wal, &replay);
        }
        Err(error) => {
            assert_eq!(peeked.as_ref(), Err(&error), "reading and opening disagree");
            named(&error, &reading, &before);
            for file in segments(&before) {
                let (was, is) = (wal_twin::file(&before, &file), wal_twin::file(&disk, &file));
                assert!(was == is, "{file} was changed by an opening that failed: {error}");
            }
        }
    }
}

fn opened(
    reading: &Reading,
    start: WalPosition,
    before: &MemDisk,
    mut disk: MemDisk,
    wal: Wal,
    replay: &Replay,
) {
    let found = replay.entries.iter().map(|entry| (entry.term, entry.index, entry.data.to_vec()));
    assert_eq!(found.collect::<Vec<_>>(), reading.entries, "not what the records say");
    for (at, entry) in replay.entries.iter().enumerate() {
        assert_eq!(entry.index, start.index + 1 + at as u64, "a gap");
        assert!(reading.whole.iter().any(|data| *data == entry.data), "never written: {entry:?}");
    }
    let (last, end) = reading.ends.last().expect("a segment");
    if let Some(repair) = &replay.repaired {
        assert_eq!((&repair.file, repair.offset), (last, *end), "{repair:?}");
        let (was, copy) = (wal_twin::file(before, last), wal_twin::file(&disk, &repair.copy));
        assert!(was == copy, "the copy of {last} differs");
    }
    // Once more: the same, and nothing left to repair.
    let whole = Replay { repaired: None, ..replay.clone() };
    assert_eq!(Wal::read_only(&disk, &wal_twin::dir(), start).as_ref(), Ok(&whole));
    // What is appended now follows it.
    let mut wal = wal;
    let index = replay.entries.last().map_or(start.index, |entry| entry.index).saturating_add(1);
    let term = replay.entries.last().map_or(start.term, |entry| entry.term).max(1);
    let entry = wal_twin::entry(term, index, b"after");
    let mut ops = Vec::new();
    wal.append(
        &Save { entries: std::slice::from_ref(&entry), sync: true, ..Save::default() },
        &mut ops,
    );
    wal_twin::run(&mut disk, &ops);
    let again = Wal::read_only(&disk, &wal_twin::dir(), start).expect("what was opened");
    let mut entries = whole.entries;
    entries.push(entry);
    assert_eq!(again.entries, entries);
}

/// Damage is reported where it is.
fn named(error: &WalError, reading: &Reading, disk: &MemDisk) {
    match error {
        WalError::Corrupt { file, offset, .. }
        | WalError::EntryGap { file, offset, .. }
        | WalError::SnapshotMismatch { file, offset, .. } => {
            let len = disk.len(file).expect("a healthy disk").expect("a file that is there");
            assert!(*offset <= len, "{error}: the file has {len} bytes");
            let end = reading.ends.iter().find(|(name, _)| name == file).map(|(_, end)| *end);
            assert!(
                end.is_some_and(|end| *offset <= end),
                "{error}: records are whole up to {end:?}"
            );
        }
        WalError::NotFound { .. } | WalError::Gap { .. } => {}
        other => panic!("{other:?}"),
    }
}

/// A node's use of its WAL, and what it was promised.
struct Life {
    disk: MemDisk,
    wal: Wal,
    promised: Promise,
    unsynced: Vec<Change>,
    start: WalPosition,
    term: u64,
    last: u64,
    /// Neither falls nor is replaced.
    commit: u64,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Promise {
    /// Entry `i` has index `i + 1`.
    entries: Vec<WalEntry>,
    state: Option<WalState>,
}

#[derive(Clone, Debug)]
enum Change {
    Entry(WalEntry),
    State(WalState),
}

impl Promise {
    fn apply(&mut self, change: &Change) {
        match change {
            Change::State(state) => self.state = Some(*state),
            Change::Entry(entry) => {
                self.entries.truncate(entry.index as usize - 1);
                self.entries.push(entry.clone());
            }
        }
    }

    fn agrees(&self, start: WalPosition, replay: &Replay) -> bool {
        replay.state == self.state
            && replay.entries == self.entries[(start.index as usize).min(self.entries.len())..]
    }
}

impl Life {
    fn new() -> Life {
        let mut disk = wal_twin::disk(false);
        let metadata = Bytes::from_static(b"meta");
        let wal = Wal::create(&mut disk, wal_twin::dir(), metadata, OPTS).expect("a healthy disk");
        Life {
            disk,
            wal,
            promised: Promise::default(),
            unsynced: Vec::new(),
            start: WalPosition::default(),
            term: 1,
            last: 0,
            commit: 0,
        }
    }

    /// One append, commit, snapshot or change of leader.
    fn step(&mut self, choices: &mut Choices<'_>) {
        match choices.byte() % 7 {
            0..=2 => self.append(choices),
            3 => self.commit(),
            4 => self.snapshot(),
            5 => {
                let mut ops = Vec::new();
                if self.wal.prepare(&mut ops) {
                    wal_twin::run(&mut self.disk, &ops);
                    self.wal.prepared(true);
                }
            }
            _ => {
                // A new leader replaces the end of the log, but nothing that is committed.
                self.term += 1;
                self.last -= (choices.below(4) as u64).min(self.last - self.commit);
                self.append(choices);
            }
        }
    }

    fn append(&mut self, choices: &mut Choices<'_>) {
        let mut entries = Vec::new();
        for _ in 0..=choices.below(3) {
            self.last += 1;
            // Zeros at the end, or all through, are what a torn write looks like.
            let mut payload = choices.bytes(40).to_vec();
            payload.resize(payload.len() + choices.below(200), 0);
            entries.push(wal_twin::entry(self.term, self.last, &payload));
        }
        let state = WalState { term: self.term, vote: 2, commit: self.commit };
        let state = choices.bool().then_some(state);
        self.unsynced.extend(entries.iter().cloned().map(Change::Entry));
        self.unsynced.extend(state.map(Change::State));
        self.save(&Save { entries: &entries, state, snapshot: None, sync: choices.byte() < 192 });
    }

    /// Without a sync, which a commit index does not need.
    fn commit(&mut self) {
        self.commit = self.last;
        let state = WalState { term: self.term, vote: 1, commit: self.commit };
        self.unsynced.push(Change::State(state));
        self.save(&Save { state: Some(state), ..Save::default() });
    }

    fn snapshot(&mut self) {
        if self.last == self.start.index {
            return;
        }
        self.commit = self.last;
        let state = WalState { term: self.term, vote: 1, commit: self.commit };
        let conf_state = Bytes::from_static(&[8, 1]);
        let snapshot = WalSnapshot { index: self.last, term: self.term, conf_state };
        self.unsynced.push(Change::State(state));
        let snapshot = Some(snapshot);
        self.save(&Save { entries: &[], state: Some(state), snapshot, sync: true });
        self.start = WalPosition { index: self.last, term: self.term };
        self.wal.release_to(self.last);
        let mut ops = Vec::new();
        self.wal.purge(2, &mut ops);
        wal_twin::run(&mut self.disk, &ops);
    }

    fn save(&mut self, save: &Save<'_>) {
        let mut ops = Vec::new();
        self.wal.append(save, &mut ops);
        wal_twin::run(&mut self.disk, &ops);
        if ops.iter().any(|op| matches!(op, DiskOp::Sync { .. })) {
            for change in self.unsynced.drain(..) {
                self.promised.apply(&change);
            }
        }
    }

    /// After a crash: everything promised is there, and of the rest a beginning.
    fn reopen(&mut self) {
        let opened = Wal::open(&mut self.disk, wal_twin::dir(), self.start, OPTS);
        let (wal, replay) = opened.unwrap_or_else(|error| panic!("{error}"));
        assert!(replay.snapshot_found && replay.metadata == b"meta"[..], "{replay:?}");
        let mut found = self.promised.clone();
        let mut rest = self.unsynced.drain(..);
        while !found.agrees(self.start, &replay) {
            let change = rest.next();
            let promised = &self.promised;
            let change = change.unwrap_or_else(|| panic!("{replay:?}\npromised {promised:?}"));
            found.apply(&change);
        }
        drop(rest);
        self.last = (found.entries.len() as u64).max(self.start.index);
        self.term = self.term.max(found.state.map_or(0, |state| state.term)) + 1;
        self.commit = found.state.map_or(0, |state| state.commit).max(self.start.index);
        self.promised = found;
        self.wal = wal;
    }
}

fn crashes(choices: &mut Choices<'_>) {
    let mut life = Life::new();
    let mut steps = 0;
    while !choices.is_done() && steps < 200 {
        steps += 1;
        if choices.one_in(8) {
            let seed = choices.long();
            if choices.bool() {
                life.disk.kill(seed);
            } else {
                life.disk.crash(seed);
            }
            life.reopen();
        } else {
            life.step(choices);
        }
    }
    life.disk.kill(0);
    life.reopen();
}
