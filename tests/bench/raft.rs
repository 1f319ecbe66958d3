//! What consensus costs without disk and network: an entry's way through `RawNode`, with sync writes that take no time.

use std::hint::black_box;
use std::time::Duration;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use norn_raft::{
    ConfState, Config, Entry, HardState, Index, MemStorage, Message, MessageKind, NodeId, RawNode,
    Ready, Snapshot, Term,
};

/// The stable log is cut when it has this many entries, so that a long run needs no more memory than a short one.
const LOG_ENTRIES_MAX: u64 = 10_000;
const PAYLOAD_BYTES: usize = 300;

/// Member `id` of `1..=voters`, all of which have applied a first entry at term 1.
fn member(id: u64, voters: u64) -> RawNode {
    let conf_state =
        ConfState { voters: (1..=voters).map(NodeId).collect(), ..ConfState::default() };
    let snapshot = Snapshot { index: Index(1), term: Term(1), data: Bytes::new(), conf_state };
    let hard_state = HardState { term: Term(1), commit: Index(1), ..HardState::default() };
    let storage = MemStorage::recovered(snapshot, hard_state, Vec::new());
    let config = Config { check_quorum: false, pre_vote: false, ..Config::new(NodeId(id), id) };
    RawNode::new(config, storage).expect("a valid configuration")
}

/// Does what a Ready asks for; what it was goes back to the caller.
fn persist(node: &mut RawNode) -> Ready {
    let mut ready = node.ready();
    let storage = node.storage_mut();
    if let Some(hard_state) = ready.hard_state {
        storage.set_hard_state(hard_state);
    }
    storage.append(std::mem::take(&mut ready.entries));
    node.advance();
    let applied = node.applied();
    let storage = node.storage_mut();
    if applied.0 >= storage.first_index().0 + LOG_ENTRIES_MAX {
        storage.compact(applied).expect("what is compacted is in the log");
    }
    ready
}

fn settle(node: &mut RawNode) {
    while node.has_ready() {
        black_box(persist(node));
    }
}

fn response(from: u64, to: &RawNode, kind: MessageKind, index: Index) -> Message {
    Message { kind, from: NodeId(from), to: to.id(), term: to.term(), index, ..Message::default() }
}

/// A leader whose first entry is committed.
fn leader(voters: u64) -> RawNode {
    let mut node = member(1, voters);
    node.campaign();
    settle(&mut node);
    if voters > 1 {
        let vote = response(2, &node, MessageKind::VoteResp, Index::ZERO);
        node.step(vote).expect("a member's vote");
        settle(&mut node);
        acknowledge(&mut node, voters);
    }
    assert!(node.is_leader());
    assert_eq!(node.applied(), node.last_index());
    node
}

/// All others have everything.
fn acknowledge(node: &mut RawNode, voters: u64) {
    let last = node.last_index();
    for from in 2..=voters {
        let ack = response(from, node, MessageKind::AppResp, last);
        node.step(ack).expect("a member's acknowledgement");
    }
    settle(node);
}

fn leaders(c: &mut Criterion) {
    let payload = Bytes::from(vec![7; PAYLOAD_BYTES]);
    let mut group = c.benchmark_group("raft/propose_to_commit");
    for voters in [1, 3] {
        for count in [1, 100] {
            let mut node = leader(voters);
            group.throughput(Throughput::Elements(count));
            group.bench_function(format!("voters_{voters}/entries_{count}"), |b| {
                b.iter(|| {
                    let batch = vec![payload.clone(); count as usize];
                    node.propose_batch(batch).expect("a leader takes proposals");
                    settle(&mut node);
                    acknowledge(&mut node, voters);
                });
            });
            assert_eq!(node.applied(), node.last_index());
        }
    }
    group.finish();
}

fn follower(c: &mut Criterion) {
    let mut group = c.benchmark_group("raft/follower_append");
    for count in [1, 100] {
        let mut node = member(2, 3);
        let entry =
            Entry { term: Term(2), data: vec![7; PAYLOAD_BYTES].into(), ..Entry::default() };
        group.throughput(Throughput::Elements(count));
        group.bench_function(format!("entries_{count}"), |b| {
            b.iter(|| {
                let last = node.last_index();
                let entries =
                    (1..=count).map(|i| Entry { index: Index(last.0 + i), ..entry.clone() });
                let append = Message {
                    kind: MessageKind::App,
                    from: NodeId(1),
                    to: NodeId(2),
                    term: Term(2),
                    log_term: if last == Index(1) { Term(1) } else { Term(2) },
                    index: last,
                    entries: entries.collect(),
                    commit: last,
                    ..Message::default()
                };
                node.step(append).expect("the leader's message");
                assert_eq!(node.last_index().0, last.0 + count);
                settle(&mut node);
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().measurement_time(Duration::from_secs(3));
    targets = leaders, follower
}
criterion_main!(benches);
