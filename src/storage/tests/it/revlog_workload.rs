//! A node's use of the revision log beside a twin in memory. The fuzzer's body `revision_log` uses it too.

// Each user uses a part.
#![allow(dead_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use bytes::Bytes;
use norn_storage::revlog::{
    AppendId, Batch, CollectProgress, Recovered, RevLogError, RevLogOptions, RevisionLog,
    RevisionRecord, Table, TableRecord,
};
use norn_storage::{DiskOp, FileName, MemDisk};

use crate::support::{Dice, name, run};

pub(crate) const OPTS: RevLogOptions = RevLogOptions { segment_bytes: 2000, cache_bytes: 5 * 8192 };

pub(crate) fn dir() -> FileName {
    name("member/norn")
}

pub(crate) fn open(disk: &mut MemDisk) -> Result<(RevisionLog<MemDisk>, Recovered), RevLogError> {
    let reader = disk.clone();
    RevisionLog::open(disk, reader, dir(), OPTS)
}

pub(crate) fn fresh() -> MemDisk {
    let mut disk = MemDisk::new();
    run(&mut disk, &[DiskOp::MakeDir { dir: name("member") }, DiskOp::SyncDir { dir: name("") }])
        .unwrap();
    disk
}

pub(crate) type Revisions = BTreeMap<(i64, i64), (bool, Bytes)>;
pub(crate) type Tables = BTreeMap<(Table, Bytes), Bytes>;

/// What the log should hold.
#[derive(Clone, Default)]
pub(crate) struct Twin {
    /// With the applied index of the batch it came in; dead ones too.
    pub(crate) revisions: BTreeMap<(i64, i64), (u64, bool, Bytes)>,
    pub(crate) dead: BTreeSet<(i64, i64)>,
    /// Tables after each applied index.
    pub(crate) tables: BTreeMap<u64, Tables>,
    pub(crate) applied: u64,
    pub(crate) main: i64,
}

impl Twin {
    pub(crate) fn live(&self, applied: u64, dead: &BTreeSet<(i64, i64)>) -> Revisions {
        let there = self
            .revisions
            .iter()
            .filter(|(revision, (at, ..))| *at <= applied && !dead.contains(revision));
        there
            .map(|(revision, (_, tombstone, value))| (*revision, (*tombstone, value.clone())))
            .collect()
    }
}

pub(crate) fn scan(
    log: &RevisionLog<MemDisk>,
    from: (i64, i64),
    to: i64,
) -> Result<Revisions, RevLogError> {
    let mut found = Revisions::new();
    let mut last = (-1, -1);
    log.scan(from, to, &mut |main, sub, tombstone, value| {
        assert!((main, sub) > last, "scan out of order");
        last = (main, sub);
        found.insert((main, sub), (tombstone, Bytes::copy_from_slice(value)));
        ControlFlow::Continue(())
    })?;
    Ok(found)
}

pub(crate) fn tables(log: &RevisionLog<MemDisk>) -> Tables {
    let all = Table::ALL
        .into_iter()
        .flat_map(|table| log.table(table).iter().map(move |(k, v)| (table, k, v)));
    all.map(|(table, key, value)| ((table, key), value)).collect()
}

pub(crate) fn save_index(log: &mut RevisionLog<MemDisk>, image: Vec<Bytes>, ops: &mut Vec<DiskOp>) {
    let mut writer = log.begin_index(ops);
    image.into_iter().for_each(|part| writer.write(part, ops));
    log.finish_index(writer, ops);
}

pub(crate) struct Workload {
    pub(crate) disk: MemDisk,
    pub(crate) log: RevisionLog<MemDisk>,
    pub(crate) dice: Dice,
    pub(crate) twin: Twin,
    pub(crate) durable_applied: u64,
    pub(crate) durable_dead: BTreeSet<(i64, i64)>,
    /// Deaths in a checkpoint that was emitted and not acknowledged.
    pub(crate) pending_dead: Option<BTreeSet<(i64, i64)>>,
    pub(crate) appended: Option<AppendId>,
    pub(crate) collected: u64,
}

impl Workload {
    pub(crate) fn new(mut disk: MemDisk, dice: Dice) -> Result<Workload, RevLogError> {
        let (log, recovered) = open(&mut disk)?;
        assert_eq!(recovered, Recovered::default());
        let mut twin = Twin::default();
        twin.tables.insert(0, Tables::new());
        Ok(Workload {
            disk,
            log,
            dice,
            twin,
            durable_applied: 0,
            durable_dead: BTreeSet::new(),
            pending_dead: None,
            appended: None,
            collected: 0,
        })
    }

    pub(crate) fn step(&mut self) -> Result<(), RevLogError> {
        match self.dice.below(20) {
            0..=10 => self.append(),
            11 => {
                if let Some(id) = self.appended.take() {
                    self.log.written(id);
                }
                Ok(())
            }
            12 => {
                self.compact();
                Ok(())
            }
            13..=14 => self.checkpoint(),
            _ => (0..3).try_for_each(|_| self.collect()),
        }?;
        // (Without a draw, so that what was found by certain bytes is found by them still.)
        if self.twin.applied.is_multiple_of(3) { self.save_some() } else { Ok(()) }
    }

    /// Says a little of what the next checkpoint must say, whatever comes in between.
    fn save_some(&mut self) -> Result<(), RevLogError> {
        let mut ops = Vec::new();
        let bytes = 20 * (self.twin.main as usize % 4);
        self.log.save_some(bytes, &mut ops);
        run(&mut self.disk, &ops)?;
        Ok(())
    }

    pub(crate) fn append(&mut self) -> Result<(), RevLogError> {
        let twin = &mut self.twin;
        twin.applied += 1 + self.dice.below(3);
        let mut revisions = Vec::new();
        for _ in 0..self.dice.below(3) {
            twin.main += 1 + self.dice.below(2) as i64;
            for sub in 0..=self.dice.below(3) as i64 {
                let (tombstone, value) = (self.dice.one_in(4), self.dice.bytes(150));
                twin.revisions.insert((twin.main, sub), (twin.applied, tombstone, value.clone()));
                revisions.push(RevisionRecord { main: twin.main, sub, tombstone, value });
            }
        }
        let mut state = twin.tables.values().next_back().expect("there is one").clone();
        let mut changes = Vec::new();
        for _ in 0..self.dice.below(3) {
            let table = Table::ALL[self.dice.below(9) as usize];
            let key = Bytes::from(vec![self.dice.below(4) as u8]);
            let value = (!self.dice.one_in(3)).then(|| self.dice.bytes(20));
            match &value {
                Some(value) => state.insert((table, key.clone()), value.clone()),
                None => state.remove(&(table, key.clone())),
            };
            changes.push(TableRecord { table, key, value });
        }
        twin.tables.insert(twin.applied, state);
        let batch =
            Batch { applied_index: twin.applied, term: 1, revisions: &revisions, tables: &changes };
        let mut ops = Vec::new();
        self.appended = Some(self.log.append(&batch, &mut ops));
        run(&mut self.disk, &ops)?;
        Ok(())
    }

    /// Kills a share of everything up to some revision.
    pub(crate) fn compact(&mut self) {
        let to = self.dice.below(self.twin.main as u64 + 1) as i64;
        let share = 1 + self.dice.below(4);
        let there: Vec<_> =
            self.twin.revisions.range(..(to, 0)).map(|(revision, _)| *revision).collect();
        for revision in there {
            if self.dice.below(4) < share {
                let died = self.log.mark_dead(revision.0, revision.1);
                assert_eq!(died, self.twin.dead.insert(revision), "{revision:?}");
            }
        }
    }

    pub(crate) fn checkpoint(&mut self) -> Result<(), RevLogError> {
        let mut ops = Vec::new();
        if self.dice.one_in(2) {
            let image = self.image();
            save_index(&mut self.log, image, &mut ops);
        }
        let ticket = self.log.checkpoint(&mut ops).expect("steps are acknowledged at once");
        self.pending_dead = Some(self.twin.dead.clone());
        run(&mut self.disk, &ops)?;
        let durable = self.log.checkpointed(ticket, true);
        assert_eq!(durable, self.twin.applied);
        self.durable_applied = durable;
        self.durable_dead = self.pending_dead.take().expect("just set");
        Ok(())
    }

    pub(crate) fn image(&self) -> Vec<Bytes> {
        let deaths = self.twin.dead.len() as u64;
        vec![Bytes::from_static(b"deaths "), Bytes::from(deaths.to_string())]
    }

    pub(crate) fn collect(&mut self) -> Result<(), RevLogError> {
        const BUDGET: usize = 100;
        let mut ops = Vec::new();
        if let CollectProgress::Step(ticket) = self.log.collect(BUDGET as u64, &mut ops)? {
            // (One record more than it may, and what files begin with.)
            let longest = self.twin.revisions.values().map(|(_, _, value)| value.len()).max();
            let bytes: usize = ops.iter().map(DiskOp::data_len).sum();
            assert!(bytes < BUDGET + longest.unwrap_or(0) + 150, "a step of {bytes} bytes");
            run(&mut self.disk, &ops)?;
            self.log.collected(ticket, true);
            self.collected += 1;
        }
        Ok(())
    }

    /// Everything the running log says is what the twin says.
    pub(crate) fn compare(&mut self) {
        let live = self.twin.live(self.twin.applied, &self.twin.dead);
        assert_eq!(scan(&self.log, (0, 0), i64::MAX).unwrap(), live);
        assert_eq!(tables(&self.log), self.twin.tables[&self.twin.applied]);
        assert_eq!(self.log.live_revisions(), live.len() as u64);
        for _ in 0..20 {
            let revision =
                (self.dice.below(self.twin.main as u64 + 2) as i64, self.dice.below(4) as i64);
            let found = self.log.read(revision.0, revision.1).unwrap();
            let expected =
                live.get(&revision).map(|(tombstone, value)| (value.clone(), *tombstone));
            assert_eq!(found, expected, "{revision:?}");
        }
        let some = live.iter().filter(|_| self.dice.below(3) > 0);
        let (revisions, values): (Vec<_>, Vec<_>) = some.map(|(r, (_, v))| (*r, v.clone())).unzip();
        let mut found = Vec::new();
        assert_eq!(self.log.read_all(revisions, &mut found).unwrap(), None);
        assert_eq!(found, values);
        let from = self.dice.below(self.twin.main as u64 + 2) as i64;
        let to = from + self.dice.below(5) as i64;
        let range: Revisions =
            live.range((from, 1)..(to + 1, 0)).map(|(r, v)| (*r, v.clone())).collect();
        assert_eq!(scan(&self.log, (from, 1), to).unwrap(), range);
    }

    /// Opens what a crash left, and checks that it is what was promised. Returns the log and the twin of it.
    pub(crate) fn check(&self, disk: &mut MemDisk, at: &str) -> (RevisionLog<MemDisk>, Twin) {
        let (log, recovered) = open(disk).unwrap_or_else(|error| panic!("{at}: {error}"));
        let applied = recovered.applied_index;
        assert!(
            applied >= self.durable_applied,
            "{at}: {recovered:?}, durable {}",
            self.durable_applied
        );
        let tables_then =
            self.twin.tables.get(&applied).unwrap_or_else(|| panic!("{at}: no batch {applied}"));
        assert_eq!(&tables(&log), tables_then, "{at}");
        let found = scan(&log, (0, 0), i64::MAX).unwrap_or_else(|error| panic!("{at}: {error}"));
        let deaths = std::iter::once(&self.durable_dead).chain(&self.pending_dead);
        // A revision that died before its batch was durable cannot be: deaths come with a later checkpoint.
        let dead = deaths.clone().find(|dead| self.twin.live(applied, dead) == found);
        let dead = dead.unwrap_or_else(|| panic!("{at}: wrong live revisions at {applied}"));
        let there = self.twin.revisions.iter().filter(|(_, (at, ..))| *at <= applied);
        let last = there.map(|(revision, _)| revision.0).max().unwrap_or(0);
        assert_eq!(recovered.last_main, last, "{at}");
        if let Some((main, image)) = &recovered.index_image {
            assert!(*main <= last, "{at}");
            let expected: Vec<String> =
                deaths.map(|dead| format!("deaths {}", dead.len())).collect();
            assert!(expected.iter().any(|text| text.as_bytes() == &image[..]), "{at}: {image:?}");
        }
        let mut twin = self.twin.clone();
        twin.revisions.retain(|_, (at, ..)| *at <= applied);
        twin.tables.retain(|at, _| *at <= applied);
        twin.dead = dead.clone();
        (twin.applied, twin.main) = (applied, last);
        (log, twin)
    }

    /// Goes on from what a crash left.
    pub(crate) fn restart(&mut self, mut disk: MemDisk, at: &str) {
        let (log, twin) = self.check(&mut disk, at);
        self.durable_dead = twin.dead.clone();
        self.pending_dead = None;
        self.appended = None;
        (self.disk, self.log, self.twin) = (disk, log, twin);
    }
}
