//! Bytes to values and back: requests and replies, what the log holds, and what goes between members.

use std::hint::black_box;
use std::time::Duration;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use norn_mvcc::KeyValue;
use norn_node::{Command, CommandHeader, Header, Writer};
use norn_proto::etcdserverpb as pb;
use norn_raft::{Entry, Index, Message, MessageKind, NodeId, Term, codec};
use norn_server::peer_codec::{Decoder, Encoder, Pieces, StreamKind};
use norn_storage::revlog::{Batch, RevLogOptions, RevisionLog, RevisionRecord};
use norn_storage::{FileName, MemDisk};
use prost::Message as _;

const VALUE_BYTES: usize = 256;
/// Keys of a list.
const KEYS: u64 = 1000;
/// Entries of a full append.
const ENTRIES: u64 = 64;

fn key() -> Bytes {
    Bytes::from_static(b"/registry/pods/namespace-0007/pod-000007042")
}

fn put_request() -> pb::PutRequest {
    let value = Bytes::from(vec![b'v'; VALUE_BYTES]);
    pb::PutRequest { key: key(), value, ..Default::default() }
}

/// A client's usual update: if the key is as it was, put it, else read it.
fn txn_request() -> pb::TxnRequest {
    use pb::compare::{CompareTarget, TargetUnion};
    use pb::request_op::Request;
    let op = |request| pb::RequestOp { request: Some(request) };
    let compare = pb::Compare {
        target: CompareTarget::Mod.into(),
        key: key(),
        target_union: Some(TargetUnion::ModRevision(1 << 40)),
        ..Default::default()
    };
    let read = pb::RangeRequest { key: key(), ..Default::default() };
    pb::TxnRequest {
        compare: vec![compare],
        success: vec![op(Request::RequestPut(put_request()))],
        failure: vec![op(Request::RequestRange(read))],
    }
}

fn key_value() -> KeyValue {
    KeyValue {
        key: key(),
        create_revision: 1 << 20,
        mod_revision: 1 << 40,
        version: 7,
        value: put_request().value,
        lease: 0,
    }
}

fn command_header() -> CommandHeader {
    CommandHeader { id: 1 << 60, username: String::new(), auth_revision: 0 }
}

fn requests(c: &mut Criterion) {
    let mut group = c.benchmark_group("codec/request_decode");
    let put = Bytes::from(put_request().encode_to_vec());
    group.bench_function("put", |b| {
        b.iter(|| black_box(pb::PutRequest::decode(black_box(put.clone()))));
    });
    let txn = Bytes::from(txn_request().encode_to_vec());
    group.bench_function("txn", |b| {
        b.iter(|| black_box(pb::TxnRequest::decode(black_box(txn.clone()))));
    });
    group.finish();
}

/// As the node writes its replies: without a message in between, stored key-values copied in as they are.
fn replies(c: &mut Criterion) {
    let header =
        Header { cluster_id: 1 << 62, member_id: 1 << 61, revision: 1 << 40, raft_term: 9 };
    let mut group = c.benchmark_group("codec/reply_encode");
    group.bench_function("put", |b| {
        b.iter(|| {
            let mut w = Writer::with_capacity(64);
            w.header(black_box(&header));
            w.finish()
        });
    });
    let kvs: Vec<Bytes> = (0..KEYS).map(|_| key_value().encode()).collect();
    let bytes = kvs.iter().map(|kv| kv.len() + 8).sum::<usize>();
    group.throughput(Throughput::Elements(KEYS));
    group.bench_function("range_of_1000", |b| {
        b.iter(|| {
            let mut w = Writer::with_capacity(bytes + 64);
            w.header(&header);
            for kv in black_box(&kvs) {
                w.message(2, kv);
            }
            w.int(4, KEYS as i64);
            w.finish()
        });
    });
    group.finish();
}

/// What a put leaves: a command in an entry of the log, a key-value in the revision log.
fn logged(c: &mut Criterion) {
    let mut group = c.benchmark_group("codec/log");
    let (command, head) = (Command::Put(put_request()), command_header());
    group.bench_function("command_encode", |b| b.iter(|| black_box(&command).encode(&head)));
    let encoded = command.encode(&head);
    group.bench_function("command_decode", |b| {
        b.iter(|| black_box(Command::decode(black_box(encoded.clone()))));
    });
    let entry = entry(7, encoded);
    group.bench_function("entry_encode", |b| b.iter(|| codec::encode_entry(black_box(&entry))));
    let encoded = codec::encode_entry(&entry);
    group.bench_function("entry_decode", |b| {
        b.iter(|| black_box(codec::decode_entry(black_box(encoded.clone()))));
    });
    let kv = key_value();
    group.bench_function("key_value_encode", |b| b.iter(|| black_box(&kv).encode()));
    let encoded = kv.encode();
    group.bench_function("key_value_decode", |b| {
        b.iter(|| black_box(KeyValue::decode(black_box(&encoded))));
    });
    group.finish();
}

/// Batches of the revision log; segments are cut, and nothing of them is kept.
fn revlog(c: &mut Criterion) {
    let mut group = c.benchmark_group("codec/revlog_batch_encode");
    let value = key_value().encode();
    for count in [1, 100] {
        let mut disk = MemDisk::new();
        let reader = disk.clone();
        let dir = FileName::new("revlog");
        let (mut log, _) = RevisionLog::open(&mut disk, reader, dir, RevLogOptions::default())
            .expect("an empty disk");
        let (mut index, mut ops) = (1, Vec::new());
        let mut records: Vec<RevisionRecord> = (0..count)
            .map(|_| RevisionRecord { main: 0, sub: 0, tombstone: false, value: value.clone() })
            .collect();
        group.throughput(Throughput::Elements(count));
        group.bench_function(format!("records_{count}"), |b| {
            b.iter(|| {
                for (record, main) in records.iter_mut().zip(index as i64 + 1..) {
                    record.main = main;
                }
                index += count;
                let batch =
                    Batch { applied_index: index, term: 1, revisions: &records, tables: &[] };
                let append = log.append(&batch, &mut ops);
                black_box(&ops);
                ops.clear();
                log.written(append);
            });
        });
    }
    group.finish();
}

fn entry(index: u64, data: Bytes) -> Entry {
    Entry { term: Term(3), index: Index(index), data, ..Entry::default() }
}

fn append(after: u64, count: u64, data: &Bytes) -> Message {
    Message {
        kind: MessageKind::App,
        from: NodeId(1),
        to: NodeId(2),
        term: Term(3),
        log_term: Term(3),
        index: Index(after),
        entries: (1..=count).map(|i| entry(after + i, data.clone())).collect(),
        commit: Index(after),
        ..Message::default()
    }
}

/// As one turn sends it.
fn encoded(encoder: &mut Encoder, message: &Message) -> Vec<Bytes> {
    let mut pieces = Pieces::default();
    encoder.encode(message, &mut pieces);
    pieces.into_whole()
}

fn peers(c: &mut Criterion) {
    let mut group = c.benchmark_group("codec/peer_stream");
    let data = Command::Put(put_request()).encode(&command_header());
    for count in [1, ENTRIES] {
        // The first append says where it stands; those that go on from there are the usual ones.
        let mut encoder = Encoder::new(StreamKind::MsgApp);
        let mut message = append(7, count, &data);
        let first = encoded(&mut encoder, &message).concat();
        message.index.0 += count;
        let out = encoded(&mut encoder, &message).concat();
        assert_eq!(out[0], 1, "the short form");
        group.throughput(Throughput::Elements(count));
        group.bench_function(format!("append_encode/entries_{count}"), |b| {
            b.iter(|| {
                message.index.0 += count;
                encoded(&mut encoder, &message)
            });
        });
        let mut decoder = Decoder::new(StreamKind::MsgApp, 1, 2);
        decoder.push(&first);
        decoder.next_message().expect("what was encoded");
        group.bench_function(format!("append_decode/entries_{count}"), |b| {
            b.iter(|| {
                decoder.push(&out);
                let message = decoder.next_message().expect("what was encoded");
                assert!(message.is_some());
                message
            });
        });
    }
    let answer = Message {
        kind: MessageKind::AppResp,
        entries: Vec::new(),
        ..append(1 << 30, 0, &Bytes::new())
    };
    group.throughput(Throughput::Elements(1));
    let mut encoder = Encoder::new(StreamKind::Message);
    let out = encoded(&mut encoder, &answer).concat();
    group.bench_function("answer_encode", |b| {
        b.iter(|| encoded(&mut encoder, black_box(&answer)));
    });
    let mut decoder = Decoder::new(StreamKind::Message, 1, 2);
    group.bench_function("answer_decode", |b| {
        b.iter(|| {
            decoder.push(&out);
            decoder.next_message().expect("what was encoded")
        });
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().measurement_time(Duration::from_secs(3));
    targets = requests, replies, logged, revlog, peers
}
criterion_main!(benches);
