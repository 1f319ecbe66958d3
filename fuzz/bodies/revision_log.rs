//! Opening the revision log: whatever its files hold, with damage, and after power losses while it collects.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use bytes::Bytes;
use norn_storage::revlog::{RevLogError, RevLogOptions, RevisionLog};
use norn_storage::{DiskOp, DiskRead, FileName, MemDisk};

use crate::choices::Choices;
use crate::support::Dice;
use crate::{memory, wal_twin};
use revlog_workload::{Workload, dir, fresh, scan, tables};

#[path = "../../src/storage/tests/it/revlog_workload.rs"]
mod revlog_workload;

/// No cache to speak of: what it holds is not the input's cost.
const OPTS: RevLogOptions = RevLogOptions { segment_bytes: 2000, cache_bytes: 0 };

/// The first byte says what the others are: files, damage to a good log, or a life with power losses.
pub fn body(bytes: &[u8]) {
    let mut choices = Choices::new(bytes);
    match choices.byte() % 3 {
        0 => any_files(&mut choices),
        1 => damaged(&mut choices),
        _ => crashes(&mut choices),
    }
}

/// Files of the right names and any bytes.
fn any_files(choices: &mut Choices<'_>) {
    let mut disk = fresh();
    wal_twin::run(&mut disk, &[DiskOp::MakeDir { dir: dir() }]);
    let mut len = 0;
    for _ in 0..=choices.below(4) {
        let base = match choices.byte() % 6 {
            0 => "checkpoint".to_owned(),
            1 => format!("{:016x}-{:016x}-{:08x}.seg", 0, 0, 0),
            2 => format!("{:016x}-{:016x}-{:08x}.seg", choices.below(4), choices.below(4), 1),
            3 => format!(
                "{:016x}-{:016x}-{:08x}.{:08x}.live",
                0,
                choices.below(3),
                0,
                choices.below(3)
            ),
            4 => format!("index-{:016x}.idx", choices.below(9)),
            _ => "x.tmp".to_owned(),
        };
        let size = choices.word() as usize % 600;
        let bytes = choices.take(size);
        len += bytes.len();
        wal_twin::put_file(&mut disk, &FileName::new(format!("{}/{base}", dir())), bytes);
    }
    judge(&disk, len, &mut |_, _, _, _| {});
}

/// Is given every revision that is read: main, sub, whether it is a tombstone, and the record.
type Seen<'a> = &'a mut dyn FnMut(i64, i64, bool, &[u8]);

/// What opens is read through; what is refused names a file that is there. Both are the same the second time.
fn judge(disk: &MemDisk, len: usize, seen: Seen<'_>) {
    let mut first = disk.snapshot_image();
    let reader = first.clone();
    let opened =
        memory::bounded(len, 64, 64 << 10, || RevisionLog::open(&mut first, reader, dir(), OPTS));
    let (log, recovered) = match opened {
        Ok(opened) => opened,
        Err(error) => return named(&error, disk),
    };
    assert!(recovered.applied_index >= recovered.checkpoint_index, "{recovered:?}");
    let mut last = (-1, -1);
    let read = log.scan((0, 0), i64::MAX, &mut |main, sub, tombstone, value| {
        assert!((main, sub) > last, "{main}.{sub} after {last:?}");
        last = (main, sub);
        seen(main, sub, tombstone, value);
        ControlFlow::Continue(())
    });
    if let Err(error) = read {
        return named(&error, disk);
    }
    let reader = first.clone();
    let (_, again) =
        RevisionLog::open(&mut first, reader, dir(), OPTS).expect("what was opened once");
    assert_eq!(again.cut, None, "cut twice");
    assert_eq!(
        (again.applied_index, again.last_main),
        (recovered.applied_index, recovered.last_main)
    );
}

fn named(error: &RevLogError, disk: &MemDisk) {
    match error {
        RevLogError::Corrupt { file, offset, .. } => {
            let len = disk.len(file).expect("a healthy disk");
            assert!(len.is_some_and(|len| *offset <= len), "{error}: {len:?}");
        }
        RevLogError::Missing { file } => assert_eq!(disk.len(file), Ok(None), "{error}"),
        RevLogError::Disk(error) => panic!("{error}"),
    }
}

/// A good log with bytes changed in one file: nothing that is served was not written.
fn damaged(choices: &mut Choices<'_>) {
    let steps = choices.below(40);
    let (at, bit, pick) = (choices.word() as usize, choices.byte() % 8, choices.byte() as usize);
    let zeros = choices.bool();
    let mut load = Workload::new(fresh(), Dice::new(choices)).expect("a healthy disk");
    for _ in 0..steps {
        load.step().expect("a healthy disk");
    }
    let disk = load.disk.snapshot_image();
    let files = disk.list(&dir()).expect("a healthy disk");
    let Some(base) = files.get(pick % files.len().max(1)) else { return };
    let file = FileName::new(format!("{}/{base}", dir()));
    let mut bytes = wal_twin::file(&disk, &file);
    if bytes.is_empty() {
        return;
    }
    let at = at % bytes.len();
    let before = bytes[at];
    bytes[at] = if zeros { 0 } else { before ^ 1 << bit };
    let mut disk = disk;
    wal_twin::put_file(&mut disk, &file, &bytes);
    let written: BTreeMap<(i64, i64), (bool, Bytes)> = load
        .twin
        .revisions
        .iter()
        .map(|(revision, (_, tombstone, value))| (*revision, (*tombstone, value.clone())))
        .collect();
    judge(&disk, 4096 * files.len(), &mut |main, sub, tombstone, value| {
        let (was_tombstone, was) = &written[&(main, sub)];
        assert!(
            *was_tombstone == tombstone && was == value,
            "{main}.{sub} is not what was written"
        );
    });
}

fn crashes(choices: &mut Choices<'_>) {
    let mut load = Workload::new(fresh(), Dice::new(choices)).expect("a healthy disk");
    let mut steps = 0;
    while !load.dice.is_done() && steps < 150 {
        steps += 1;
        if load.dice.one_in(12) {
            let mut disk = load.disk.clone();
            if load.dice.one_in(4) {
                disk.kill(load.dice.draw());
            } else {
                disk.crash(load.dice.draw());
            }
            load.restart(disk, "after a crash");
        } else {
            load.step().expect("a healthy disk");
        }
    }
    load.compare();
    load.restart(load.disk.snapshot_image(), "at the end");
    let live = load.twin.live(load.twin.applied, &load.twin.dead);
    assert_eq!(scan(&load.log, (0, 0), i64::MAX), Ok(live));
    assert_eq!(tables(&load.log), load.twin.tables[&load.twin.applied]);
}
