//! The store against a naive model, and against etcd's own hashes.

mod model;

use bytes::Bytes;
use model::{Action, Log, Pair};
use norn_mvcc::{CompactProgress, KeyRange, Store};
use proptest::prelude::*;

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        6 => prop::collection::vec((0u8..4, 0u8..14, 0u8..6), 1..4).prop_map(Action::Txn),
        5 => (0u8..14, 0u8..16, 0u8..8, 0u8..6, 0u8..3, 0u8..5, 0u8..8, 0u8..6).prop_map(
            |(a, b, back, limit, order, target, flags, bounds)| Action::Range {
                a, b, back, limit, order, target, flags, bounds
            }
        ),
        1 => (0u8..8, 0u8..9).prop_map(|(back, steps)| Action::Compact { back, steps }),
        1 => (0u8..14, 0u8..16, 0u8..12).prop_map(|(a, b, back)| Action::Events { a, b, back }),
        1 => (0u8..5).prop_map(|back| Action::Hash { back }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn store_equals_model(
        actions in prop::collection::vec(action(), 1..60),
        restart_at in 0usize..80,
    ) {
        let mut pair = Pair::new();
        for (i, action) in actions.iter().enumerate() {
            if i == restart_at {
                pair.restart();
            }
            pair.run(action);
        }
        pair.settle();
    }
}

fn put(store: &mut Store, log: &mut Log, key: &'static str, value: &'static str) {
    let mut txn = store.write();
    txn.put(Bytes::from_static(key.as_bytes()), Bytes::from_static(value.as_bytes()), 0);
    log.add(&txn.finish());
}

fn hash(store: &Store, log: &Log, main: i64) -> (u32, i64) {
    match store.hash::<String>(main).unwrap() {
        Ok(hash) => (hash.hash, hash.compact_revision),
        Err(scan) => {
            let hash = scan.run(store.index(), log).unwrap();
            (hash.hash, hash.compact_revision)
        }
    }
}

/// Else a piece of a hash over records of a megabyte would be a thousand megabytes.
#[test]
fn a_piece_of_a_hash_counts_long_records_by_their_length() {
    let (mut store, mut log) = (Store::new(), Log::default());
    for i in 0..10u8 {
        let mut txn = store.write();
        txn.put(Bytes::from(vec![i]), Bytes::from(vec![i; 20 << 10]), 0);
        log.add(&txn.finish());
    }
    let scan = || store.hash::<String>(0).unwrap().expect_err("nothing was compacted");
    let whole = scan().run(store.index(), &log).unwrap();
    let mut scan = scan();
    let mut pieces = 0;
    let hash = loop {
        pieces += 1;
        if let Some(hash) = scan.step(store.index(), &log, 40).unwrap() {
            break hash;
        }
    };
    assert_eq!((hash, pieces), (whole, 5));
}

/// The check values of etcd's HashKV.
#[test]
fn hashes_equal_etcds() {
    let (mut store, mut log) = (Store::new(), Log::default());
    assert_eq!(hash(&store, &log, 0), (1_084_519_789, -1));
    put(&mut store, &mut log, "foo", "bar");
    assert_eq!(hash(&store, &log, 0), (3_305_255_506, -1));
    put(&mut store, &mut log, "foo", "baz");
    assert_eq!(hash(&store, &log, 0), (2_020_292_994, -1));
    let mut txn = store.write();
    assert_eq!(txn.delete_range(&KeyRange::Key(Bytes::from_static(b"foo"))), 1);
    log.add(&txn.finish());
    assert_eq!(hash(&store, &log, 0), (3_153_096_970, -1));
    put(&mut store, &mut log, "a", "1");
    assert_eq!(hash(&store, &log, 0), (1_967_179_850, -1));
    store.compact(4).unwrap();
    let mut dead = Vec::new();
    while store.compact_step(&log, 2, &mut |r| dead.push(r)).unwrap() != CompactProgress::Idle {}
    for revision in dead {
        log.0.remove(&revision);
    }
    assert_eq!(hash(&store, &log, 4), (3_153_096_970, -1));
    assert_eq!(hash(&store, &log, 5), (2_007_788_419, 4));
    assert_eq!(hash(&store, &log, 0), (2_007_788_419, 4));
}
