//! A whole turn of the node: everything between an encoded request and its encoded reply but connections and a real disk.

use std::time::Duration;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use norn_node::{
    Config, Error, Host, Input, Member, Method, Node, NodeEvent, Ports, Start, StreamId, Time,
    Token,
};
use norn_proto::etcdserverpb as pb;
use norn_raft::Message;
use norn_storage::MemDisk;
use norn_tests::rng::Rng;
use prost::Message as _;

use crate::records::{key, value};

mod records;

const KEYS: u64 = 10_000;
/// Requests in one turn, as under load.
const BATCH: u64 = 64;
/// The log is purged up to a snapshot: so many entries stay in the memory that is its disk.
const SNAPSHOT_COUNT: u64 = 10_000;

/// Takes replies, counts them, forgets them.
#[derive(Default)]
struct Sink {
    replies: u64,
}

impl Ports for Sink {
    fn send(&mut self, _: Vec<Message>) {}

    fn reply(&mut self, _: Token, result: Result<Bytes, Error>) {
        result.expect("an accepted request");
        self.replies += 1;
    }

    fn watch(&mut self, _: StreamId, _: Bytes) {}

    fn event(&mut self, event: NodeEvent) {
        assert!(!matches!(event, NodeEvent::Failed { .. }), "{event:?}");
    }
}

struct Single {
    host: Host<MemDisk, MemDisk>,
    sink: Sink,
    now: Time,
    token: u64,
}

impl Single {
    /// A cluster of one that leads, with `KEYS` keys.
    fn new() -> Single {
        let url = "http://n1:2380";
        let member = Member::new("n1", vec![url.into()], "t", None);
        let mut config = Config::new("n1", url);
        config.start = Start::New { members: vec![member], token: "t".into() };
        config.snapshot_count = SNAPSHOT_COUNT;
        let mut disk = MemDisk::new();
        let reader = disk.clone();
        let now = Time::from_ms(1);
        let node = Node::open(&mut disk, reader, config, now).expect("an empty disk");
        let mut single =
            Single { host: Host::new(node, disk), sink: Sink::default(), now, token: 0 };
        while !single.host.node().lessor().is_primary() {
            single.now = single.now + 10;
            single.host.turn(single.now, [Input::Wake], &mut single.sink);
        }
        for n in 0..KEYS {
            single.calls(Method::Put, [put(n)]);
        }
        single
    }

    /// One turn with these requests; all are answered in it, since this disk needs no time.
    fn calls(&mut self, method: Method, bodies: impl IntoIterator<Item = Bytes>) {
        let token = &mut self.token;
        let inputs = bodies.into_iter().map(|body| {
            *token += 1;
            Input::Call { token: Token(*token), method, body }
        });
        self.host.turn(self.now, inputs, &mut self.sink);
        assert_eq!(self.sink.replies, self.token);
    }
}

fn put(n: u64) -> Bytes {
    pb::PutRequest { key: key(n), value: value(), ..Default::default() }.encode_to_vec().into()
}

fn range(n: u64, end: u64) -> Bytes {
    let range_end = if end == 0 { Bytes::new() } else { key(end) };
    let request = pb::RangeRequest { key: key(n), range_end, ..Default::default() };
    request.encode_to_vec().into()
}

fn turns(c: &mut Criterion) {
    let mut single = Single::new();
    let mut rng = Rng::new(7);
    let drawn: Vec<u64> = (0..KEYS).map(|_| rng.below(KEYS)).collect();
    let puts: Vec<Bytes> = drawn.iter().map(|n| put(*n)).collect();
    let gets: Vec<Bytes> = drawn.iter().map(|n| range(*n, 0)).collect();
    let lists: Vec<Bytes> =
        (0..100).map(|_| rng.below(KEYS - 1000)).map(|n| range(n, n + 1000)).collect();
    let mut group = c.benchmark_group("node");
    for (name, method, bodies, batch) in [
        ("get/1", Method::Range, &gets, 1),
        ("get/64", Method::Range, &gets, BATCH),
        ("range_of_1000", Method::Range, &lists, 1),
        ("put/1", Method::Put, &puts, 1),
        ("put/64", Method::Put, &puts, BATCH),
    ] {
        let mut at = 0;
        group.throughput(Throughput::Elements(batch));
        group.bench_function(name, |b| {
            b.iter(|| {
                let requests = (0..batch).map(|_| {
                    at = (at + 1) % bodies.len();
                    bodies[at].clone()
                });
                single.calls(method, requests);
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    // Short: nothing compacts, and what is put stays in memory.
    config = Criterion::default()
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(2));
    targets = turns
}
criterion_main!(benches);
