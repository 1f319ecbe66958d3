//! The log on disk: encoding a batch (protobuf, checksum, frame), and what the disk in memory adds by writing and syncing it.

use std::hint::black_box;
use std::time::Duration;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use norn_storage::wal::{Save, Wal, WalEntry, WalOptions, WalState};
use norn_storage::{Disk, DiskOp, FileName, MemDisk};

const ENTRY_BYTES: usize = 300;
/// Small, because all of it is in memory: cutting a segment is part of the figures, as often as this says.
const SEGMENT_BYTES: u64 = 4 << 20;
const SEGMENTS_MAX: usize = 2;

struct Log {
    disk: MemDisk,
    wal: Wal,
    ops: Vec<DiskOp>,
    entries: Vec<WalEntry>,
}

impl Log {
    fn new(count: u64) -> Log {
        let mut disk = MemDisk::new();
        let opts = WalOptions { segment_bytes: SEGMENT_BYTES, spare_pieces: 1 };
        let wal = Wal::create(&mut disk, FileName::new("wal"), Bytes::new(), opts)
            .expect("an empty disk");
        let data = Bytes::from(vec![7; ENTRY_BYTES]);
        let entries = (1..=count).map(|index| WalEntry { term: 1, index, data: data.clone() });
        Log { disk, wal, ops: Vec::new(), entries: entries.collect() }
    }

    /// Encodes the next batch, and removes what became old.
    fn append(&mut self) {
        let commit = self.wal.last_index();
        for (entry, index) in self.entries.iter_mut().zip(commit + 1..) {
            entry.index = index;
        }
        let state = WalState { term: 1, vote: 1, commit };
        let save = Save { entries: &self.entries, state: Some(state), snapshot: None, sync: true };
        self.wal.append(&save, &mut self.ops);
        if self.wal.segment_count() > SEGMENTS_MAX {
            self.wal.release_to(commit);
            self.wal.purge(SEGMENTS_MAX, &mut self.ops);
        }
    }

    fn run(&mut self) {
        for op in self.ops.drain(..) {
            self.disk.execute(&op).expect("a disk without faults");
        }
    }
}

fn append(c: &mut Criterion) {
    let mut group = c.benchmark_group("wal");
    for count in [1, 10, 100] {
        group.throughput(Throughput::Elements(count));
        let mut log = Log::new(count);
        group.bench_function(format!("encode/entries_{count}"), |b| {
            b.iter(|| {
                log.append();
                black_box(&log.ops);
                log.ops.clear();
            });
        });
        let mut log = Log::new(count);
        group.bench_function(format!("append_and_sync/entries_{count}"), |b| {
            b.iter(|| {
                log.append();
                log.run();
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().measurement_time(Duration::from_secs(3));
    targets = append
}
criterion_main!(benches);
