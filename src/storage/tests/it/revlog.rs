//! The revision log against a twin in memory, through crashes of every kind.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::ControlFlow;

use bytes::Bytes;
use norn_storage::revlog::{
    AppendId, Batch, CollectProgress, Recovered, RevLogError, RevLogOptions, RevisionLog,
    RevisionRecord, Table, TableRecord,
};
use norn_storage::{BatchId, Disk, DiskBatch, DiskOp, DiskQueue, DiskRead, FileName, MemDisk};
use proptest::prelude::*;

use crate::support::{Dice, name, run};

const OPTS: RevLogOptions = RevLogOptions { segment_bytes: 2000, cache_bytes: 5 * 8192 };

fn dir() -> FileName {
    name("member/norn")
}

fn open(disk: &mut MemDisk) -> Result<(RevisionLog<MemDisk>, Recovered), RevLogError> {
    let reader = disk.clone();
    RevisionLog::open(disk, reader, dir(), OPTS)
}

fn fresh() -> MemDisk {
    let mut disk = MemDisk::new();
    run(&mut disk, &[DiskOp::MakeDir { dir: name("member") }, DiskOp::SyncDir { dir: name("") }])
        .unwrap();
    disk
}

type Revisions = BTreeMap<(i64, i64), (bool, Bytes)>;
type Tables = BTreeMap<(Table, Bytes), Bytes>;

/// What the log should hold.
#[derive(Clone, Default)]
struct Twin {
    /// With the applied index of the batch it came in; dead ones too.
    revisions: BTreeMap<(i64, i64), (u64, bool, Bytes)>,
    dead: BTreeSet<(i64, i64)>,
    /// Tables after each applied index.
    tables: BTreeMap<u64, Tables>,
    applied: u64,
    main: i64,
}

impl Twin {
    fn live(&self, applied: u64, dead: &BTreeSet<(i64, i64)>) -> Revisions {
        let there = self
            .revisions
            .iter()
            .filter(|(revision, (at, ..))| *at <= applied && !dead.contains(revision));
        there
            .map(|(revision, (_, tombstone, value))| (*revision, (*tombstone, value.clone())))
            .collect()
    }
}

fn scan(log: &RevisionLog<MemDisk>, from: (i64, i64), to: i64) -> Result<Revisions, RevLogError> {
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

fn tables(log: &RevisionLog<MemDisk>) -> Tables {
    let all = Table::ALL
        .into_iter()
        .flat_map(|table| log.table(table).iter().map(move |(k, v)| (table, k, v)));
    all.map(|(table, key, value)| ((table, key.clone()), value.clone())).collect()
}

fn save_index(log: &mut RevisionLog<MemDisk>, image: Vec<Bytes>, ops: &mut Vec<DiskOp>) {
    let mut writer = log.begin_index(ops);
    image.into_iter().for_each(|part| writer.write(part, ops));
    log.finish_index(writer, ops);
}

struct Workload {
    disk: MemDisk,
    log: RevisionLog<MemDisk>,
    dice: Dice,
    twin: Twin,
    durable_applied: u64,
    durable_dead: BTreeSet<(i64, i64)>,
    /// Deaths in a checkpoint that was emitted and not acknowledged.
    pending_dead: Option<BTreeSet<(i64, i64)>>,
    appended: Option<AppendId>,
    collected: u64,
}

impl Workload {
    fn new(mut disk: MemDisk, seed: u64) -> Result<Workload, RevLogError> {
        let (log, recovered) = open(&mut disk)?;
        assert_eq!(recovered, Recovered::default());
        let mut twin = Twin::default();
        twin.tables.insert(0, Tables::new());
        Ok(Workload {
            disk,
            log,
            dice: Dice(seed),
            twin,
            durable_applied: 0,
            durable_dead: BTreeSet::new(),
            pending_dead: None,
            appended: None,
            collected: 0,
        })
    }

    fn step(&mut self) -> Result<(), RevLogError> {
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
        }
    }

    fn append(&mut self) -> Result<(), RevLogError> {
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
    fn compact(&mut self) {
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

    fn checkpoint(&mut self) -> Result<(), RevLogError> {
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

    fn image(&self) -> Vec<Bytes> {
        let deaths = self.twin.dead.len() as u64;
        vec![Bytes::from_static(b"deaths "), Bytes::from(deaths.to_string())]
    }

    fn collect(&mut self) -> Result<(), RevLogError> {
        let mut ops = Vec::new();
        if let CollectProgress::Step(ticket) = self.log.collect(400, &mut ops)? {
            run(&mut self.disk, &ops)?;
            self.log.collected(ticket, true);
            self.collected += 1;
        }
        Ok(())
    }

    /// Everything the running log says is what the twin says.
    fn compare(&mut self) {
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
    fn check(&self, disk: &mut MemDisk, at: &str) -> (RevisionLog<MemDisk>, Twin) {
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
    fn restart(&mut self, mut disk: MemDisk, at: &str) {
        let (log, twin) = self.check(&mut disk, at);
        self.durable_dead = twin.dead.clone();
        self.pending_dead = None;
        self.appended = None;
        (self.disk, self.log, self.twin) = (disk, log, twin);
    }
}

#[test]
fn what_was_appended_is_read_before_and_after_everything() {
    for seed in 0..20 {
        let mut load = Workload::new(fresh(), seed).unwrap();
        for step in 0..300 {
            load.step().unwrap();
            if step % 10 == 0 {
                load.compare();
            }
        }
        assert!(load.collected > 5, "{}", load.collected);
        load.restart(load.disk.snapshot_image(), "clean");
        load.compare();
        for _ in 0..50 {
            load.step().unwrap();
        }
        load.compare();
    }
}

#[test]
fn every_sync_point_and_every_torn_last_write() {
    for k in 1.. {
        let disk = fresh();
        disk.freeze_at_sync(k);
        let Ok(mut load) = Workload::new(disk.clone(), 5) else {
            for mut image in disk.crash_images() {
                let (_, recovered) = open(&mut image).unwrap();
                assert_eq!(recovered, Recovered::default());
            }
            continue;
        };
        let mut steps = 0;
        while steps < 220 && load.step().is_ok() {
            steps += 1;
        }
        if !disk.is_frozen() {
            assert!(k > 80 && load.collected > 5, "{k} syncs, {} collector steps", load.collected);
            return;
        }
        for (at, mut image) in disk.crash_images().into_iter().enumerate() {
            let at = format!("sync {k}, image {at}");
            let (mut log, twin) = load.check(&mut image, &at);
            // It goes on: append, checkpoint, and find it after another crash.
            let value = Bytes::from_static(b"more");
            let more = [RevisionRecord { main: twin.main + 1, sub: 0, tombstone: false, value }];
            let mut ops = Vec::new();
            let batch =
                Batch { applied_index: twin.applied + 1, term: 9, revisions: &more, tables: &[] };
            log.append(&batch, &mut ops);
            let ticket = log.checkpoint(&mut ops).unwrap();
            run(&mut image, &ops).unwrap();
            log.checkpointed(ticket, true);
            let mut after = image.crash_images().swap_remove(0);
            let (log, recovered) = open(&mut after).unwrap();
            assert_eq!((recovered.applied_index, recovered.term), (twin.applied + 1, 9), "{at}");
            let found = log.read(twin.main + 1, 0).unwrap();
            assert_eq!(found, Some((Bytes::from_static(b"more"), false)), "{at}");
            assert_eq!(
                scan(&log, (0, 0), twin.main).unwrap(),
                twin.live(twin.applied, &twin.dead),
                "{at}"
            );
        }
    }
}

#[test]
fn random_crashes_keep_what_was_promised() {
    for seed in 0..300 {
        let mut load = Workload::new(fresh(), seed).unwrap();
        for round in 0..4 {
            for _ in 0..load.dice.below(60) {
                load.step().unwrap();
            }
            let mut disk = load.disk.clone();
            if load.dice.one_in(5) {
                disk.kill(1);
            } else {
                disk.crash(load.dice.draw());
            }
            load.restart(disk, &format!("seed {seed} round {round}"));
            load.compare();
        }
    }
}

#[test]
fn reads_may_run_on_several_threads() {
    fn shared<T: Send + Sync>(_: &T) {}
    shared(&Workload::new(fresh(), 1).unwrap().log);
}

#[test]
fn reads_see_what_is_submitted_and_not_yet_written() {
    let mut load = Workload::new(fresh(), 3).unwrap();
    let revisions: Vec<_> = (1..=30)
        .map(|main| RevisionRecord { main, sub: 0, tombstone: false, value: load.dice.bytes(200) })
        .collect();
    let mut waiting = Vec::new();
    for (at, revision) in revisions.chunks(3).enumerate() {
        let mut ops = Vec::new();
        let batch =
            Batch { applied_index: at as u64 + 1, term: 1, revisions: revision, tables: &[] };
        waiting.push((load.log.append(&batch, &mut ops), ops));
    }
    let check = |log: &RevisionLog<MemDisk>| {
        for revision in &revisions {
            let found = log.read(revision.main, 0).unwrap();
            assert_eq!(found, Some((revision.value.clone(), false)));
        }
        assert_eq!(scan(log, (0, 0), i64::MAX).unwrap().len(), 30);
    };
    check(&load.log);
    for (id, ops) in waiting {
        run(&mut load.disk, &ops).unwrap();
        check(&load.log);
        load.log.written(id);
        check(&load.log);
    }
}

#[test]
fn a_flipped_bit_is_never_served() {
    let mut load = Workload::new(fresh(), 8).unwrap();
    for _ in 0..120 {
        load.step().unwrap();
    }
    load.checkpoint().unwrap();
    let live = load.twin.live(load.twin.applied, &load.twin.dead);
    let (mut refused, mut served) = (0, 0);
    for file in load.disk.list(&dir()).unwrap() {
        let file = name(&format!("{}/{file}", dir()));
        let bits = load.disk.len(&file).unwrap().unwrap() * 8;
        for bit in (0..bits).step_by(5) {
            let mut image = load.disk.snapshot_image();
            assert!(image.flip_bit(&file, bit / 8, (bit % 8) as u8));
            let at = format!("{file} bit {bit}");
            let named = |error: RevLogError| match error {
                RevLogError::Corrupt { file: found, offset, .. } => {
                    assert!(found == file && offset <= bit / 8, "{at}: {found} at {offset}");
                }
                error => panic!("{at}: {error}"),
            };
            let (log, recovered) = match open(&mut image) {
                Ok(opened) => opened,
                Err(error) => {
                    refused += 1;
                    named(error);
                    continue;
                }
            };
            served += 1;
            assert_eq!(recovered.applied_index, load.twin.applied, "{at}");
            assert_eq!(tables(&log), load.twin.tables[&load.twin.applied], "{at}");
            for (revision, (tombstone, value)) in &live {
                match log.read(revision.0, revision.1) {
                    Ok(found) => assert_eq!(found, Some((value.clone(), *tombstone)), "{at}"),
                    Err(error) => named(error),
                }
            }
        }
    }
    assert!(refused > 100 && served > 100, "refused {refused}, opened {served}");
}

#[test]
fn a_missing_file_is_named() {
    let mut load = Workload::new(fresh(), 8).unwrap();
    for _ in 0..120 {
        load.step().unwrap();
    }
    load.checkpoint().unwrap();
    for file in load.disk.list(&dir()).unwrap() {
        let mut image = load.disk.snapshot_image();
        let file = name(&format!("{}/{file}", dir()));
        run(&mut image, &[DiskOp::Remove { file: file.clone() }]).unwrap();
        match open(&mut image) {
            Err(RevLogError::Missing { file: found }) => assert_eq!(found, file),
            Err(error) => panic!("{file}: {error}"),
            // An image can be made anew, and a segment without live records may have been collected.
            Ok((log, _)) => {
                let live = load.twin.live(load.twin.applied, &load.twin.dead);
                assert_eq!(scan(&log, (0, 0), i64::MAX), Ok(live), "{file}");
            }
        }
    }
}

#[test]
fn no_space_is_survived_by_submitting_again() {
    let mut load = Workload::new(fresh(), 21).unwrap();
    let mut failures = 0;
    for step in 0..120 {
        load.disk.limit_bytes(Some(load.disk.used_bytes() + load.dice.below(300)));
        let mut ops = Vec::new();
        match step % 6 {
            4 => {
                load.compact();
                let ticket = load.log.checkpoint(&mut ops).unwrap();
                // A checkpoint may simply be given up.
                let ok = run(&mut load.disk, &ops).is_ok();
                failures += u32::from(!ok);
                load.log.checkpointed(ticket, ok);
                if ok {
                    load.durable_applied = load.twin.applied;
                    load.durable_dead = load.twin.dead.clone();
                }
            }
            5 => {
                if let CollectProgress::Step(ticket) = load.log.collect(5000, &mut ops).unwrap() {
                    let ok = run(&mut load.disk, &ops).is_ok();
                    failures += u32::from(!ok);
                    load.log.collected(ticket, ok);
                }
            }
            _ => {
                load.twin.applied += 1;
                load.twin.main += 1;
                let (main, value) = (load.twin.main, load.dice.bytes(200));
                let put = (load.twin.applied, false, value.clone());
                load.twin.revisions.insert((main, 0), put);
                let tables = load.twin.tables.values().next_back().unwrap().clone();
                load.twin.tables.insert(load.twin.applied, tables);
                let revisions = [RevisionRecord { main, sub: 0, tombstone: false, value }];
                let applied_index = load.twin.applied;
                let batch = Batch { applied_index, term: 1, revisions: &revisions, tables: &[] };
                let id = load.log.append(&batch, &mut ops);
                if run(&mut load.disk, &ops).is_err() {
                    failures += 1;
                    load.compare();
                    load.disk.limit_bytes(None);
                    run(&mut load.disk, &ops).unwrap();
                }
                load.log.written(id);
            }
        }
        load.disk.limit_bytes(None);
    }
    assert!(failures > 10, "{failures}");
    load.compare();
    load.checkpoint().unwrap();
    load.restart(load.disk.snapshot_image(), "after no space");
    load.compare();
}

#[test]
fn the_collector_gives_space_back_and_joins_small_segments() {
    let mut load = Workload::new(fresh(), 31).unwrap();
    for _ in 0..400 {
        load.append().unwrap();
    }
    load.checkpoint().unwrap();
    let full = load.log.size_on_disk();
    let all: Vec<_> = load.twin.revisions.keys().copied().collect();
    for (at, revision) in all.iter().enumerate().filter(|(at, _)| at % 20 != 0) {
        assert!(load.log.mark_dead(revision.0, revision.1), "{at}");
        load.twin.dead.insert(*revision);
    }
    let mut ops = Vec::new();
    assert_eq!(
        load.log.collect(1000, &mut ops),
        Ok(CollectProgress::Idle),
        "deaths are not durable yet"
    );
    load.checkpoint().unwrap();
    loop {
        let before = load.collected;
        load.collect().unwrap();
        load.compare();
        if load.collected == before {
            break;
        }
    }
    assert!(load.log.size_on_disk() < full / 5, "{} of {full}", load.log.size_on_disk());
    let used: u64 = load.disk.used_bytes();
    assert!(used < full / 4, "{used} of {full}");
    let segments =
        load.disk.list(&dir()).unwrap().iter().filter(|name| name.ends_with(".seg")).count();
    assert!(segments < 8, "{segments} segments");
    load.restart(load.disk.snapshot_image(), "after collecting");
    load.compare();
}

#[test]
fn an_index_image_counts_only_with_the_deaths_it_knew() {
    let mut load = Workload::new(fresh(), 9).unwrap();
    for _ in 0..40 {
        load.append().unwrap();
    }
    let reopen = |load: &Workload| open(&mut load.disk.snapshot_image()).unwrap().1.index_image;
    let save = |load: &mut Workload| {
        let mut ops = Vec::new();
        let image = load.image();
        save_index(&mut load.log, image, &mut ops);
        run(&mut load.disk, &ops).unwrap();
    };
    let checkpoint = |load: &mut Workload| {
        let mut ops = Vec::new();
        let ticket = load.log.checkpoint(&mut ops).unwrap();
        run(&mut load.disk, &ops).unwrap();
        load.log.checkpointed(ticket, true);
    };
    save(&mut load);
    let main = load.twin.main;
    assert_eq!(reopen(&load), Some((main, Bytes::from_static(b"deaths 0"))));
    load.append().unwrap();
    checkpoint(&mut load);
    assert_eq!(reopen(&load).map(|(main, _)| main), Some(main), "older than the log, and good");
    let first = *load.twin.revisions.keys().next().unwrap();
    assert!(load.log.mark_dead(first.0, first.1));
    load.twin.dead.insert(first);
    assert!(reopen(&load).is_some(), "deaths that are not durable do not matter");
    checkpoint(&mut load);
    assert_eq!(reopen(&load), None);
    save(&mut load);
    checkpoint(&mut load);
    assert_eq!(reopen(&load), Some((load.twin.main, Bytes::from_static(b"deaths 1"))));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn mutated_files_are_read_or_refused(
        which in any::<u16>(),
        edits in proptest::collection::vec((any::<u16>(), any::<u8>()), 1..8),
        cut in proptest::option::of(any::<u16>()),
    ) {
        let mut load = Workload::new(fresh(), 2).unwrap();
        for _ in 0..40 {
            load.step().unwrap();
        }
        let files = load.disk.list(&dir()).unwrap();
        let file = name(&format!("{}/{}", dir(), files[which as usize % files.len()]));
        let len = load.disk.len(&file).unwrap().unwrap();
        for (at, value) in edits {
            let write = DiskOp::Write {
                file: file.clone(),
                offset: u64::from(at) % len,
                data: Bytes::copy_from_slice(&[value]),
            };
            run(&mut load.disk, &[write]).unwrap();
        }
        if let Some(cut) = cut {
            run(&mut load.disk, &[DiskOp::SetLen { file, len: u64::from(cut) % (2 * len) }]).unwrap();
        }
        if let Ok((log, _)) = open(&mut load.disk) {
            let _ = scan(&log, (0, 0), i64::MAX);
        }
    }
}

/// Appends and checkpoints in flight on a slow disk, which runs them one operation at a time: reads are right
/// meanwhile, and a crash finds a beginning of what was submitted.
#[test]
fn appends_in_flight_are_read_and_found_in_whole_batches() {
    for seed in 0..150 {
        let mut load = Workload::new(fresh(), seed).unwrap();
        let mut disk = load.disk.clone();
        disk.defer(true);
        let mut submitted = 0;
        let mut appends = VecDeque::new();
        let mut checkpoint = None;
        for _ in 0..load.dice.below(60) {
            let mut ops = Vec::new();
            submitted += 1;
            match load.dice.below(8) {
                0..=3 => {
                    let twin = &mut load.twin;
                    twin.applied += 1;
                    twin.main += 1;
                    let value = load.dice.bytes(400);
                    twin.revisions.insert((twin.main, 0), (twin.applied, false, value.clone()));
                    let tables = twin.tables.values().next_back().unwrap().clone();
                    twin.tables.insert(twin.applied, tables);
                    let put = [RevisionRecord { main: twin.main, sub: 0, tombstone: false, value }];
                    let applied_index = twin.applied;
                    let batch = Batch { applied_index, term: 1, revisions: &put, tables: &[] };
                    appends.push_back((submitted, load.log.append(&batch, &mut ops)));
                }
                4 => load.compact(),
                5 if checkpoint.is_none() => {
                    let ticket = load.log.checkpoint(&mut ops).expect("none is under way");
                    load.pending_dead = Some(load.twin.dead.clone());
                    checkpoint = Some((submitted, ticket));
                }
                _ => {
                    for _ in 0..load.dice.below(20) {
                        disk.step(DiskQueue::Bulk);
                    }
                }
            }
            if !ops.is_empty() {
                disk.submit(DiskBatch { id: BatchId(submitted), queue: DiskQueue::Bulk, ops });
            }
            while let Some(done) = disk.poll() {
                done.result.unwrap();
                if let Some((_, id)) = appends.pop_front_if(|(batch, _)| *batch == done.id.0) {
                    load.log.written(id);
                } else if let Some((_, ticket)) =
                    checkpoint.take_if(|(batch, _)| *batch == done.id.0)
                {
                    load.durable_applied = load.log.checkpointed(ticket, true);
                    load.durable_dead = load.pending_dead.take().unwrap();
                }
            }
            load.compare();
        }
        if load.dice.one_in(2) {
            disk.crash(seed);
        } else {
            disk.kill(seed);
        }
        load.restart(disk, &format!("seed {seed}"));
        load.compare();
    }
}

#[test]
fn the_same_calls_give_the_same_bytes() {
    let contents = || {
        let mut load = Workload::new(fresh(), 23).unwrap();
        (0..200).for_each(|_| load.step().unwrap());
        let names = load.disk.list(&dir()).unwrap();
        let read = |file: &String| {
            load.disk.read_at(&name(&format!("{}/{file}", dir())), 0, 1 << 20).unwrap()
        };
        let files: Vec<_> = names.iter().map(|file| (file.clone(), read(file))).collect();
        (files, load.disk.ops(), load.disk.syncs())
    };
    assert_eq!(contents(), contents());
}
