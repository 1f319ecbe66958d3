//! What kube-apiserver asks of its store all day, in its shapes: nodes renew their leases, pods change, somebody lists; caches
//! watch; one compacts.

use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use norn_proto::etcdserverpb as pb;
use norn_proto::etcdserverpb::compare::CompareResult;
use norn_proto::etcdserverpb::response_op::Response;
use prost::Message as _;

use crate::calls::{self, COMPACT, RANGE, TXN, WATCH};
use crate::shared::Shared;
use crate::unary::call;
use crate::wire::{Event, Wire};

/// Bytes of a node's lease object; a pod has `--value-bytes`.
const LEASE_BYTES: usize = 400;
/// As the caches ask for them.
const PAGE: i64 = 500;
const COMPACT_EVERY: Duration = Duration::from_secs(5);
const PODS: &str = "/registry/pods/";
const LEASES: &str = "/registry/leases/";

/// What a client does next, of 100.
#[derive(Clone, Copy)]
enum Step {
    /// 70: its node's lease.
    Renew,
    /// 20: one of its pods.
    Update,
    /// 7
    Get,
    /// 3
    List,
}

/// One client of a connection: its own objects, so that nobody else's write refuses its own.
struct Client {
    name: String,
    /// Of the lease and of the pod; 0 when it is not there.
    revisions: [i64; 2],
    stream: u32,
    step: Step,
    start: Instant,
}

/// All clients of one connection, and a cache that watches what they do.
pub async fn connection(shared: Rc<Shared>, index: usize, clients: usize) -> io::Result<()> {
    let mut wire = shared.connect(index).await?;
    wire.keeps_messages = true;
    let watches: Vec<u32> = [PODS, LEASES].map(|prefix| open_watch(&mut wire, prefix)).to_vec();
    let lease_value = shared.letters(LEASE_BYTES);
    let mut all: Vec<Client> = Vec::new();
    for n in 0..clients {
        let name = format!("node-{index}-{n}");
        let start = Instant::now();
        let mut client = Client { name, revisions: [0; 2], stream: 0, step: Step::Renew, start };
        client.next(&shared, &mut wire, &lease_value);
        all.push(client);
    }
    let mut events = Vec::new();
    while !shared.stop.get() {
        wire.turn(&mut events).await?;
        let now = Instant::now();
        for event in events.drain(..) {
            match event {
                Event::Messages { stream, count, .. } if watches.contains(&stream) => {
                    shared.heard(u64::from(count));
                }
                Event::Messages { stream, count, last } if count > 0 => {
                    if let Some(client) = all.iter_mut().find(|client| client.stream == stream) {
                        client.learn(&last);
                    }
                }
                Event::Messages { .. } => {}
                Event::End { stream, outcome } => {
                    let Some(client) = all.iter_mut().find(|client| client.stream == stream) else {
                        continue;
                    };
                    match outcome {
                        Ok(()) => shared.done(now.duration_since(client.start)),
                        Err(failure) => shared.fail(failure),
                    }
                    client.next(&shared, &mut wire, &lease_value);
                }
            }
        }
    }
    Ok(())
}

impl Client {
    fn next(&mut self, shared: &Shared, wire: &mut Wire, lease_value: &[u8]) {
        self.step = match shared.random() % 100 {
            0..70 => Step::Renew,
            70..90 => Step::Update,
            90..97 => Step::Get,
            _ => Step::List,
        };
        let mut message = Vec::new();
        let path = match self.step {
            Step::Renew => {
                let key = format!("{LEASES}{}", self.name);
                calls::encode(&mut message, &update(&key, self.revisions[0], lease_value));
                TXN
            }
            Step::Update => {
                let key = format!("{PODS}{}", self.name);
                calls::encode(&mut message, &update(&key, self.revisions[1], &shared.value));
                TXN
            }
            Step::Get => {
                let key = format!("{PODS}{}", self.name).into();
                calls::encode(&mut message, &pb::RangeRequest { key, ..Default::default() });
                RANGE
            }
            Step::List => {
                let (key, range_end) = prefix(PODS);
                let list = pb::RangeRequest { key, range_end, limit: PAGE, ..Default::default() };
                calls::encode(&mut message, &list);
                RANGE
            }
        };
        self.start = Instant::now();
        self.stream = wire.open(path, &message, true);
    }

    /// Where the object stands now.
    fn learn(&mut self, answer: &[u8]) {
        let revision = match self.step {
            Step::Renew => &mut self.revisions[0],
            Step::Update => &mut self.revisions[1],
            Step::Get | Step::List => return,
        };
        let Ok(answer) = pb::TxnResponse::decode(answer) else { return };
        if answer.succeeded {
            *revision = answer.header.map_or(0, |header| header.revision);
        } else if let Some(Response::ResponseRange(found)) =
            answer.responses.first().and_then(|op| op.response.as_ref())
        {
            *revision = found.kvs.first().map_or(0, |kv| kv.mod_revision);
        }
    }
}

/// The shape of every update: if nobody was faster; else what is there now.
fn update(key: &str, revision: i64, value: &[u8]) -> pb::TxnRequest {
    let key = key.as_bytes();
    pb::TxnRequest {
        compare: vec![calls::compare_mod(key, CompareResult::Equal, revision)],
        success: vec![calls::op_put(key, value)],
        failure: vec![calls::op_get(key)],
    }
}

fn prefix(name: &str) -> (bytes::Bytes, bytes::Bytes) {
    // (The byte behind the slash.)
    let end = format!("{}0", name.trim_end_matches('/'));
    (name.to_owned().into(), end.into())
}

fn open_watch(wire: &mut Wire, name: &str) -> u32 {
    let (key, range_end) = prefix(name);
    let message = calls::watch(pb::WatchCreateRequest {
        key,
        range_end,
        prev_kv: true,
        progress_notify: true,
        ..Default::default()
    });
    wire.open(WATCH, &message, false)
}

/// What was new one interval ago goes.
pub async fn compact(shared: Rc<Shared>) -> io::Result<()> {
    let mut wire = shared.connect(0).await?;
    wire.keeps_messages = true;
    let mut before = 0;
    let mut message = Vec::new();
    while !shared.stop.get() {
        tokio::time::sleep(COMPACT_EVERY).await;
        if before > 0 {
            let compact = pb::CompactionRequest { revision: before, physical: false };
            calls::encode(&mut message, &compact);
            if let Err(failure) = call(&mut wire, COMPACT, &message).await? {
                shared.fail(failure);
            }
        }
        let look = pb::RangeRequest { key: "compact_rev_key".into(), ..Default::default() };
        calls::encode(&mut message, &look);
        if let Ok(answer) = call(&mut wire, RANGE, &message).await? {
            let answer = pb::RangeResponse::decode(&*answer).unwrap_or_default();
            before = answer.header.map_or(0, |header| header.revision);
        }
    }
    Ok(())
}
