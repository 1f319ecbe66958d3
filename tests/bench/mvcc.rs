//! The key space without a log or disk: puts, reads, transactions, compaction, and its index alone.

use std::hint::black_box;
use std::time::Duration;

use bytes::Bytes;
use criterion::{
    BatchSize, BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main,
    measurement::WallTime,
};
use norn_mvcc::{
    CompactProgress, Compare, CompareOp, CompareTarget, KeyIndex, KeyRange, Op, PutRequest,
    RangeRequest, Revision, Store, TxnRequest,
};
use norn_tests::rng::Rng;

use crate::records::{Records, key, store, value};

mod records;

/// Keys drawn before anything is measured; enough that the processor's cache does not know them all.
const DRAWN: u64 = 100_000;
const SIZES: [(u64, &str); 2] = [(10_000, "10k"), (1_000_000, "1M")];
/// As the server does it, a step between two requests.
const COMPACT_RECORDS: usize = 1000;
/// What is put stays in memory.
const CHANGES_TIME: Duration = Duration::from_secs(1);

/// Keys that exist.
fn drawn(keys: u64) -> Vec<Bytes> {
    let mut rng = Rng::new(keys);
    (0..DRAWN).map(|_| key(rng.below(keys))).collect()
}

/// One after the other, round and round.
fn next<'a, T>(drawn: &'a [T], at: &mut usize) -> &'a T {
    *at = (*at + 1) % drawn.len();
    &drawn[*at]
}

/// Changes are made in place: the blocks of a copied index are shared, and the first change of each would copy it. So
/// histories grow, for a short time, and reads come first.
fn stores(c: &mut Criterion) {
    for (keys, size) in SIZES {
        let (mut store, records) = store(keys, 1);
        let mut group = c.benchmark_group(format!("mvcc/{size}"));
        ranges(&mut group, &store, &records, keys);
        let drawn = drawn(keys);
        let mut at = 0;
        group.warm_up_time(CHANGES_TIME).measurement_time(CHANGES_TIME);
        group.bench_function("put", |b| {
            b.iter(|| {
                let mut txn = store.write();
                txn.put(next(&drawn, &mut at).clone(), value(), 0);
                txn.finish()
            });
        });
        let txns: Vec<TxnRequest> = drawn.iter().map(compare_and_put).collect();
        group.bench_function("txn_compare_put", |b| {
            b.iter(|| {
                let done = next(&txns, &mut at).apply(&mut store, &records, &|_| true, true);
                done.expect("nothing to refuse")
            });
        });
        group.finish();
    }
}

fn ranges(group: &mut BenchmarkGroup<'_, WallTime>, store: &Store, records: &Records, keys: u64) {
    let drawn = drawn(keys);
    let mut at = 0;
    group.bench_function("range_one", |b| {
        b.iter(|| {
            let request = RangeRequest::all_of(KeyRange::Key(next(&drawn, &mut at).clone()));
            black_box(store.range(records, &request))
        });
    });
    // Low enough that there always are a thousand more.
    let mut rng = Rng::new(1);
    let starts: Vec<Bytes> = (0..DRAWN).map(|_| key(rng.below(keys - 1000))).collect();
    group.bench_function("range_limit_1000", |b| {
        b.iter(|| {
            let range = KeyRange::From(next(&starts, &mut at).clone());
            let request = RangeRequest { limit: 1000, ..RangeRequest::all_of(range) };
            let result = store.range(records, &request).expect("a revision that is kept");
            assert_eq!(result.kvs.len(), 1000);
            result
        });
    });
}

/// If the key is there, put it; it always is.
fn compare_and_put(key: &Bytes) -> TxnRequest {
    let compare = Compare {
        range: KeyRange::Key(key.clone()),
        op: CompareOp::Greater,
        target: CompareTarget::Version(0),
    };
    let put = PutRequest { key: key.clone(), value: value(), ..PutRequest::default() };
    TxnRequest { compare: vec![compare], success: vec![Op::Put(put)], failure: Vec::new() }
}

fn compact(c: &mut Criterion) {
    const KEYS: u64 = 10_000;
    let mut group = c.benchmark_group("mvcc/10k");
    group.sample_size(10).measurement_time(CHANGES_TIME);
    group.throughput(Throughput::Elements(KEYS));
    group.bench_function("compact_10k_overwritten", |b| {
        b.iter_batched_ref(
            || store(KEYS, 2),
            |(store, records)| {
                store.compact(store.current()).expect("a revision that exists");
                let mut dead = 0;
                loop {
                    let step = store.compact_step(records, COMPACT_RECORDS, &mut |_| dead += 1);
                    if let CompactProgress::Finished(_) = step.expect("values that are there") {
                        break;
                    }
                }
                assert_eq!(dead, KEYS);
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

fn index(c: &mut Criterion) {
    for (keys, size) in SIZES {
        let mut index = KeyIndex::new();
        for n in 0..keys {
            index.put(&key(n), Revision::new(2 + n as i64, 0));
        }
        let drawn = drawn(keys);
        let mut at = 0;
        let mut group = c.benchmark_group(format!("index/{size}"));
        group.bench_function("get", |b| {
            b.iter(|| black_box(index.live(next::<Bytes>(&drawn, &mut at))));
        });
        let mut rng = Rng::new(2);
        let ranges: Vec<KeyRange> = (0..DRAWN)
            .map(|_| (rng.below(keys), rng.below(keys)))
            .map(|(a, b)| KeyRange::Between(key(a.min(b)), key(a.max(b))))
            .collect();
        group.bench_function("count", |b| {
            b.iter(|| black_box(index.count_live(next(&ranges, &mut at))));
        });
        group.warm_up_time(CHANGES_TIME).measurement_time(CHANGES_TIME);
        let mut main = 2 + keys as i64;
        group.bench_function("put", |b| {
            b.iter(|| {
                main += 1;
                index.put(next::<Bytes>(&drawn, &mut at), Revision::new(main, 0))
            });
        });
        group.finish();
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().measurement_time(Duration::from_secs(3));
    targets = stores, compact, index
}
criterion_main!(benches);
