//! A node's use of its WAL beside a twin in memory.

use bytes::Bytes;
use norn_storage::wal::{
    Replay, Save, Wal, WalEntry, WalError, WalOptions, WalPosition, WalSnapshot, WalState,
};
use norn_storage::{DiskOp, FileName, MemDisk};

use crate::support::{Dice, name, run};

pub(crate) const OPTS: WalOptions = WalOptions { segment_bytes: 2048, spare_pieces: 1 };
pub(crate) const START: WalPosition = WalPosition { index: 0, term: 0 };

pub(crate) fn dir() -> FileName {
    name("member/wal")
}

pub(crate) fn first_file() -> FileName {
    name("member/wal/0000000000000000-0000000000000000.wal")
}

pub(crate) fn fresh() -> MemDisk {
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
pub(crate) fn empty_entry(term: u64, index: u64) -> WalEntry {
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
pub(crate) enum Change {
    Snapshot(WalSnapshot),
    Entry(WalEntry),
    State(WalState),
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Twin {
    pub(crate) entries: Vec<WalEntry>,
    pub(crate) state: Option<WalState>,
    pub(crate) snapshots: Vec<WalSnapshot>,
}

impl Twin {
    pub(crate) fn apply(&mut self, change: &Change) {
        match change {
            Change::Snapshot(snapshot) => self.snapshots.push(snapshot.clone()),
            Change::State(state) => self.state = Some(*state),
            Change::Entry(entry) => {
                self.entries.truncate(entry.index as usize - 1);
                self.entries.push(entry.clone());
            }
        }
    }

    pub(crate) fn agrees(&self, start: WalPosition, replay: &Replay) -> bool {
        let from = (start.index as usize).min(self.entries.len());
        replay.state == self.state && replay.entries == self.entries[from..]
    }
}

/// A node's use of its WAL, and what it was promised.
pub(crate) struct Workload {
    pub(crate) disk: MemDisk,
    pub(crate) wal: Wal,
    pub(crate) dice: Dice,
    /// What a completed sync covers, and the records after it.
    pub(crate) promised: Twin,
    pub(crate) unsynced: Vec<Change>,
    pub(crate) start: WalPosition,
    /// Files that a completed purge may have removed do not hold records before this index.
    pub(crate) term: u64,
    pub(crate) last: u64,
    pub(crate) commit: u64,
    /// Segments that a purge has kept to become spares, and spares made from them.
    pub(crate) recycled: usize,
    pub(crate) reused: usize,
}

impl Workload {
    pub(crate) fn new(disk: MemDisk, seed: u64) -> Result<Workload, WalError> {
        Workload::with(disk, seed, OPTS)
    }

    pub(crate) fn with(
        mut disk: MemDisk,
        seed: u64,
        opts: WalOptions,
    ) -> Result<Workload, WalError> {
        let wal = Wal::create(&mut disk, dir(), Bytes::from_static(b"meta"), opts)?;
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
    pub(crate) fn step(&mut self) -> Result<(), WalError> {
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

    pub(crate) fn acknowledge(&mut self) {
        for change in self.unsynced.drain(..) {
            self.promised.apply(&change);
        }
    }

    /// Opens what a crash left, and checks that it holds everything promised and nothing else than a beginning of
    /// what was not. Returns what was found.
    pub(crate) fn check(&self, disk: &mut MemDisk, at: &str) -> (Wal, Twin) {
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
