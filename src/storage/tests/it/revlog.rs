//! The revision log against a twin in memory, through crashes of every kind.

use std::collections::VecDeque;

use bytes::Bytes;
use norn_storage::revlog::{
    Batch, CollectProgress, Recovered, RevLogError, RevisionLog, RevisionRecord,
};
use norn_storage::{BatchId, Disk, DiskBatch, DiskOp, DiskQueue, DiskRead, MemDisk};
use proptest::prelude::*;

use crate::revlog_workload::{Workload, dir, fresh, open, save_index, scan, tables};
use crate::support::{Dice, name, run};

#[test]
fn what_was_appended_is_read_before_and_after_everything() {
    for seed in 0..20 {
        let mut load = Workload::new(fresh(), Dice(seed)).unwrap();
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
        let Ok(mut load) = Workload::new(disk.clone(), Dice(5)) else {
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
        let mut load = Workload::new(fresh(), Dice(seed)).unwrap();
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
    shared(&Workload::new(fresh(), Dice(1)).unwrap().log);
}

#[test]
fn reads_see_what_is_submitted_and_not_yet_written() {
    let mut load = Workload::new(fresh(), Dice(3)).unwrap();
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
    let mut load = Workload::new(fresh(), Dice(8)).unwrap();
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
    let mut load = Workload::new(fresh(), Dice(8)).unwrap();
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
    let mut load = Workload::new(fresh(), Dice(21)).unwrap();
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
    let mut load = Workload::new(fresh(), Dice(31)).unwrap();
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
    let mut load = Workload::new(fresh(), Dice(9)).unwrap();
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
        let mut load = Workload::new(fresh(), Dice(2)).unwrap();
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
        let mut load = Workload::new(fresh(), Dice(seed)).unwrap();
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
        let mut load = Workload::new(fresh(), Dice(23)).unwrap();
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
