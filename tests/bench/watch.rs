//! Fan-out: what it costs to tell watchers of a transaction, and to bring one up to date from history.

use std::hint::black_box;
use std::time::Duration;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use norn_mvcc::{Event, KeyValue, Revision, Store};
use norn_node::{Header, StreamId, Time, WatchLimits, Watchers};
use norn_proto::etcdserverpb as pb;

use crate::records::{Records, key, store, value};

mod records;

const WATCHERS: u64 = 1000;
const FRAGMENT_BYTES: usize = 2 << 20;
const PROGRESS_MS: u64 = 600_000;

fn header(revision: i64) -> Header {
    Header { cluster_id: 1 << 60, member_id: 1 << 61, revision, raft_term: 2 }
}

/// Watchers, each on a stream of its own, of what `request` says. Nothing ever fills up.
fn watchers(request: impl Fn(u64) -> pb::WatchCreateRequest) -> Watchers {
    let limits = WatchLimits {
        responses_in_flight: usize::MAX,
        bytes_in_flight: usize::MAX,
        ..WatchLimits::default()
    };
    let mut watchers = Watchers::new(FRAGMENT_BYTES, PROGRESS_MS, limits);
    for n in 0..WATCHERS {
        watchers.open(StreamId(n), Time::from_ms(0), 0);
        watchers.create(StreamId(n), &request(n), &header(1));
    }
    watchers.take_out();
    watchers
}

fn watch_key(key: Bytes) -> pb::WatchCreateRequest {
    pb::WatchCreateRequest { key, ..Default::default() }
}

/// The events of one transaction that puts all of `keys`.
fn events(keys: &[Bytes], main: i64) -> Vec<Event> {
    let event = |(sub, key): (usize, &Bytes)| {
        let stored = KeyValue {
            key: key.clone(),
            create_revision: 2,
            mod_revision: main,
            version: main,
            value: value(),
            lease: 0,
        };
        Event {
            revision: Revision::new(main, sub as i64),
            tombstone: false,
            is_create: false,
            key: key.clone(),
            kv: stored.encode(),
        }
    };
    keys.iter().enumerate().map(event).collect()
}

fn fan_out(c: &mut Criterion) {
    let keys: Vec<Bytes> = (0..WATCHERS).map(key).collect();
    let one = |_| watch_key(keys[500].clone());
    let each = |n: u64| watch_key(keys[n as usize].clone());
    // Prefixes that overlap with nothing: looking through them is what this is about.
    let ranges = |n: u64| {
        let (start, mut end) = (key(n), key(n).to_vec());
        end.push(0);
        pb::WatchCreateRequest { key: start, range_end: end.into(), ..Default::default() }
    };
    let request: [(&str, Watchers, &[Bytes], u64); 4] = [
        ("1000_watchers_of_one_key/put", watchers(one), &keys[500..501], WATCHERS),
        ("1000_keys_with_a_watcher/put", watchers(each), &keys[500..501], 1),
        ("1000_keys_with_a_watcher/txn_of_all", watchers(each), &keys, WATCHERS),
        ("1000_ranges_with_a_watcher/put", watchers(ranges), &keys[500..501], 1),
    ];
    let (store, records) = (Store::new(), Records::default());
    let mut group = c.benchmark_group("watch");
    for (name, mut watchers, changed, responses) in request {
        // A watcher is told of no revision twice.
        let mut main = 1;
        group.throughput(Throughput::Elements(responses));
        group.bench_function(name, |b| {
            b.iter_batched(
                || {
                    main += 1;
                    (events(changed, main), header(main))
                },
                |(events, header)| {
                    let told = watchers.notify(events, &header, &store, &records);
                    told.expect("values that are there");
                    let out = watchers.take_out();
                    assert_eq!(out.len() as u64, responses);
                    out
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

/// A watcher that begins a thousand revisions ago, alone.
fn catch_up(c: &mut Criterion) {
    let (store, records) = store(1000, 1);
    let header = header(store.current());
    let mut watchers = watchers(|n| watch_key(key(n)));
    let everything = pb::WatchCreateRequest {
        key: Bytes::from_static(&[0]),
        range_end: Bytes::from_static(&[0]),
        start_revision: 2,
        watch_id: 7,
        ..Default::default()
    };
    let mut group = c.benchmark_group("watch");
    group.throughput(Throughput::Elements(1000));
    group.bench_function("catch_up_1000_revisions", |b| {
        b.iter(|| {
            watchers.create(StreamId(0), &everything, &header);
            while watchers.catch_up(&header, &store, &records).expect("values that are there") {}
            assert_eq!(watchers.catching_up_count(), 0);
            watchers.cancel(StreamId(0), everything.watch_id, &header);
            black_box(watchers.take_out())
        });
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().measurement_time(Duration::from_secs(3));
    targets = fan_out, catch_up
}
criterion_main!(benches);
