//! Workloads: closed loops (or a fixed rate) of calls over a few connections, all on one thread.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::{Duration, Instant};

use norn_proto::etcdserverpb as pb;
use prost::Message as _;

use crate::histogram::Histogram;
use crate::process;
use crate::wire::{Event, Wire};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Put,
    Range,
    List,
    Txn,
    /// Three linearizable ranges to a put.
    Mixed,
    KeepAlive,
    Watch,
}

#[derive(Clone, Debug)]
pub struct Options {
    pub kind: Kind,
    pub endpoints: Vec<String>,
    pub clients: usize,
    pub conns: usize,
    pub key_bytes: usize,
    pub value_bytes: usize,
    pub keys: u64,
    pub limit: i64,
    pub serializable: bool,
    pub duration: Duration,
    pub warmup: Duration,
    /// Calls per second; 0: as fast as answers come.
    pub rate: u64,
    pub seed: u64,
    pub pids: Vec<u32>,
    pub watchers: usize,
    pub streams: usize,
}

pub struct Report {
    pub latency: Histogram,
    /// Operations: calls, or events of a watch.
    pub operations: u64,
    pub elapsed: Duration,
    pub errors: BTreeMap<String, u64>,
    pub server_cpu: Duration,
    pub own_cpu: Duration,
    pub rss_bytes: u64,
}

impl Report {
    pub fn per_second(&self) -> f64 {
        self.operations as f64 / self.elapsed.as_secs_f64()
    }

    /// Microseconds of the servers' CPU time per operation.
    pub fn server_micros(&self) -> f64 {
        self.server_cpu.as_secs_f64() * 1e6 / self.operations.max(1) as f64
    }

    pub fn own_micros(&self) -> f64 {
        self.own_cpu.as_secs_f64() * 1e6 / self.operations.max(1) as f64
    }
}

/// What all connections of a run share.
struct Shared {
    options: Options,
    value: Vec<u8>,
    random: Cell<u64>,
    measuring: Cell<bool>,
    stop: Cell<bool>,
    latency: RefCell<Histogram>,
    operations: Cell<u64>,
    errors: RefCell<BTreeMap<String, u64>>,
    leases: RefCell<Vec<i64>>,
}

impl Shared {
    /// xorshift64*: cheap, seeded, good enough to pick keys.
    fn random(&self) -> u64 {
        let mut x = self.random.get();
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        self.random.set(x);
        x.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn fail(&self, what: &[u8]) {
        let text: String = what
            .iter()
            .filter(|b| b.is_ascii_graphic() || **b == b' ')
            .map(|&b| b as char)
            .collect();
        let text = if text.is_empty() { "failed".to_owned() } else { text };
        *self.errors.borrow_mut().entry(text).or_default() += 1;
    }

    fn done(&self, latency: Duration) {
        if self.measuring.get() {
            self.latency.borrow_mut().record(latency);
            self.operations.set(self.operations.get() + 1);
        }
    }

    fn key(&self, index: u64) -> Vec<u8> {
        key(index, self.options.key_bytes)
    }

    /// The next call: path and message.
    fn call(&self, message: &mut Vec<u8>) -> &'static str {
        let o = &self.options;
        message.clear();
        let key = self.key(self.random() % o.keys.max(1));
        let kind = match o.kind {
            Kind::Mixed if self.random().is_multiple_of(4) => Kind::Put,
            Kind::Mixed => Kind::Range,
            kind => kind,
        };
        match kind {
            Kind::Put => {
                field(message, 1, &key);
                field(message, 2, &self.value);
                PUT
            }
            Kind::Txn => {
                // mod(key) > -1 holds always; then one put.
                let compare = pb::Compare {
                    result: pb::compare::CompareResult::Greater as i32,
                    target: pb::compare::CompareTarget::Mod as i32,
                    key: key.clone().into(),
                    target_union: Some(pb::compare::TargetUnion::ModRevision(-1)),
                    ..Default::default()
                };
                let put = pb::PutRequest {
                    key: key.into(),
                    value: self.value.clone().into(),
                    ..Default::default()
                };
                let request = pb::TxnRequest {
                    compare: vec![compare],
                    success: vec![pb::RequestOp {
                        request: Some(pb::request_op::Request::RequestPut(put)),
                    }],
                    failure: Vec::new(),
                };
                request.encode(message).expect("a Vec grows");
                TXN
            }
            Kind::List => {
                let start = self.random() % o.keys.saturating_sub(o.limit as u64).max(1);
                let request = pb::RangeRequest {
                    key: self.key(start).into(),
                    range_end: vec![0].into(),
                    limit: o.limit,
                    serializable: o.serializable,
                    ..Default::default()
                };
                request.encode(message).expect("a Vec grows");
                RANGE
            }
            _ => {
                field(message, 1, &key);
                if o.serializable {
                    message.extend_from_slice(&[7 << 3, 1]);
                }
                RANGE
            }
        }
    }
}

const PUT: &str = "/etcdserverpb.KV/Put";
const RANGE: &str = "/etcdserverpb.KV/Range";
const TXN: &str = "/etcdserverpb.KV/Txn";
const GRANT: &str = "/etcdserverpb.Lease/LeaseGrant";
const KEEP_ALIVE: &str = "/etcdserverpb.Lease/LeaseKeepAlive";
const WATCH: &str = "/etcdserverpb.Watch/Watch";

/// `k` and the number, padded with zeros: order of keys is order of numbers.
pub fn key(index: u64, bytes: usize) -> Vec<u8> {
    format!("k{index:0width$}", width = bytes.saturating_sub(1)).into_bytes()
}

/// A bytes field of a protobuf message.
fn field(out: &mut Vec<u8>, number: u8, bytes: &[u8]) {
    out.push(number << 3 | 2);
    prost::encoding::encode_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

fn shared(options: &Options) -> Rc<Shared> {
    let shared = Shared {
        value: Vec::new(),
        random: Cell::new(options.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
        measuring: Cell::new(false),
        stop: Cell::new(false),
        latency: RefCell::default(),
        operations: Cell::new(0),
        errors: RefCell::default(),
        leases: RefCell::default(),
        options: options.clone(),
    };
    // Letters, so that values survive any printing.
    let value = (0..options.value_bytes).map(|_| b'a' + (shared.random() % 26) as u8).collect();
    Rc::new(Shared { value, ..shared })
}

/// Runs a workload to its end on a runtime of its own.
pub fn run(options: &Options) -> Result<Report, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| e.to_string())?;
    tokio::task::LocalSet::new().block_on(&runtime, drive(options))
}

async fn drive(options: &Options) -> Result<Report, String> {
    let shared = shared(options);
    if options.kind == Kind::KeepAlive {
        let grant = pb::LeaseGrantRequest { ttl: 3600, id: 0 }.encode_to_vec();
        let mut wire = Wire::connect(&options.endpoints[0]).await.map_err(|e| e.to_string())?;
        // Ids of our own choice spare us the replies; a lease that exists already will do as well.
        for i in 0..options.clients as i64 {
            let id = 0x6e6f_726e_0000_0000 + i;
            shared.leases.borrow_mut().push(id);
            let mut message = grant.clone();
            message.push(2 << 3);
            prost::encoding::encode_varint(id as u64, &mut message);
            unary(&mut wire, GRANT, &message).await.map_err(|e| e.to_string())?;
        }
    }
    let mut tasks = Vec::new();
    if options.kind == Kind::Watch {
        tasks.push(tokio::task::spawn_local(fan_out(Rc::clone(&shared))));
    } else {
        for i in 0..options.conns {
            let clients =
                options.clients / options.conns + usize::from(i < options.clients % options.conns);
            tasks.push(tokio::task::spawn_local(connection(Rc::clone(&shared), i, clients)));
        }
    }
    let pids = &options.pids;
    tokio::time::sleep(options.warmup).await;
    let own = [std::process::id()];
    let (start, server, loader) = (Instant::now(), process::cpu_sum(pids), process::cpu_sum(&own));
    shared.measuring.set(true);
    tokio::time::sleep(options.duration).await;
    shared.measuring.set(false);
    let report = Report {
        latency: shared.latency.borrow().clone(),
        operations: shared.operations.get(),
        elapsed: start.elapsed(),
        errors: BTreeMap::new(),
        server_cpu: process::cpu_sum(pids) - server,
        own_cpu: process::cpu_sum(&own) - loader,
        rss_bytes: process::rss_sum(pids),
    };
    shared.stop.set(true);
    for task in tasks {
        match tokio::time::timeout(Duration::from_secs(5), task).await {
            Ok(Ok(Err(e))) => return Err(format!("connection: {e}")),
            Ok(Err(e)) => return Err(e.to_string()),
            _ => {}
        }
    }
    Ok(Report { errors: shared.errors.borrow().clone(), ..report })
}

async fn unary(wire: &mut Wire, path: &'static str, message: &[u8]) -> std::io::Result<bool> {
    wire.open(path, message, true);
    let mut events = Vec::new();
    let mut answered = false;
    loop {
        wire.turn(&mut events).await?;
        for event in events.drain(..) {
            match event {
                Event::Messages { count, .. } => answered |= count > 0,
                Event::End { .. } => return Ok(answered),
            }
        }
    }
}

struct Flight {
    stream: u32,
    start: Instant,
    answered: bool,
    over: bool,
}

/// All clients of one connection.
async fn connection(shared: Rc<Shared>, index: usize, clients: usize) -> std::io::Result<()> {
    let o = &shared.options;
    let mut wire = Wire::connect(&o.endpoints[index % o.endpoints.len()]).await?;
    if o.kind == Kind::KeepAlive {
        return keep_alive(&shared, wire, index, clients).await;
    }
    let mut flights: VecDeque<Flight> = VecDeque::new();
    let mut in_flight = 0;
    let mut events = Vec::new();
    let mut message = Vec::new();
    let begin = Instant::now();
    let per_second = o.rate as f64 / o.conns as f64;
    let mut started = 0u64;
    loop {
        let mut now = Instant::now();
        while in_flight < clients && !shared.stop.get() {
            let due = per_second * now.duration_since(begin).as_secs_f64();
            if o.rate > 0 && started as f64 >= due {
                break;
            }
            if !wire.has_window(o.value_bytes + o.key_bytes * 4 + 128) {
                break;
            }
            let path = shared.call(&mut message);
            let stream = wire.open(path, &message, true);
            flights.push_back(Flight { stream, start: now, answered: false, over: false });
            in_flight += 1;
            started += 1;
        }
        if in_flight == 0 && shared.stop.get() {
            return Ok(());
        }
        if o.rate > 0 {
            wire.flush().await?;
            // Reading can be given up at any time once everything is sent.
            let _ = tokio::time::timeout(Duration::from_millis(1), wire.turn(&mut events))
                .await
                .unwrap_or(Ok(()));
        } else {
            wire.turn(&mut events).await?;
        }
        now = Instant::now();
        for event in events.drain(..) {
            let (Event::Messages { stream, .. } | Event::End { stream, .. }) = event;
            let Ok(i) = flights.binary_search_by_key(&stream, |f| f.stream) else { continue };
            match event {
                Event::Messages { .. } => flights[i].answered = true,
                Event::End { trailer, .. } => {
                    flights[i].over = true;
                    in_flight -= 1;
                    if flights[i].answered {
                        shared.done(now.duration_since(flights[i].start));
                    } else {
                        shared.fail(&trailer);
                    }
                }
            }
        }
        while flights.front().is_some_and(|f| f.over) {
            flights.pop_front();
        }
    }
}

/// One stream per client; each renews its lease as soon as the last renewal is answered.
async fn keep_alive(
    shared: &Shared,
    mut wire: Wire,
    index: usize,
    clients: usize,
) -> std::io::Result<()> {
    let leases = shared.leases.borrow().clone();
    let message = |client: usize| {
        let id = leases[(index * clients + client) % leases.len()];
        pb::LeaseKeepAliveRequest { id }.encode_to_vec()
    };
    let mut flights: Vec<(u32, Instant, Vec<u8>)> = (0..clients)
        .map(|i| {
            let message = message(i);
            (wire.open(KEEP_ALIVE, &message, false), Instant::now(), message)
        })
        .collect();
    let mut events = Vec::new();
    while !shared.stop.get() {
        wire.turn(&mut events).await?;
        let now = Instant::now();
        for event in events.drain(..) {
            match event {
                Event::Messages { stream, count } if count > 0 => {
                    let Some(f) = flights.iter_mut().find(|f| f.0 == stream) else { continue };
                    shared.done(now.duration_since(f.1));
                    f.1 = now;
                    wire.send(stream, &f.2, false);
                }
                Event::End { trailer, .. } => shared.fail(&trailer),
                Event::Messages { .. } => {}
            }
        }
    }
    Ok(())
}

/// One key, many watchers: a put, then all its events; the latency is from the put to the last event.
async fn fan_out(shared: Rc<Shared>) -> std::io::Result<()> {
    let o = &shared.options;
    let received = Rc::new(Cell::new(0u64));
    let wake = Rc::new(tokio::sync::Notify::new());
    let key = shared.key(0);
    let mut readers = Vec::new();
    for conn in 0..o.conns {
        let mut wire = Wire::connect(&o.endpoints[conn % o.endpoints.len()]).await?;
        for s in (0..o.streams).filter(|s| s % o.conns == conn) {
            let watchers = o.watchers / o.streams + usize::from(s < o.watchers % o.streams);
            let create = pb::WatchCreateRequest { key: key.clone().into(), ..Default::default() };
            let request = pb::WatchRequest {
                request_union: Some(pb::watch_request::RequestUnion::CreateRequest(create)),
            };
            let message = request.encode_to_vec();
            let stream = wire.open(WATCH, &message, false);
            for _ in 1..watchers {
                wire.send(stream, &message, false);
            }
        }
        let (received, wake, shared) = (Rc::clone(&received), Rc::clone(&wake), Rc::clone(&shared));
        readers.push(tokio::task::spawn_local(async move {
            let mut events = Vec::new();
            while wire.turn(&mut events).await.is_ok() {
                for event in events.drain(..) {
                    match event {
                        Event::Messages { count, .. } => {
                            received.set(received.get() + u64::from(count));
                        }
                        Event::End { trailer, .. } => shared.fail(&trailer),
                    }
                }
                wake.notify_one();
            }
        }));
    }
    let mut writer = Wire::connect(&o.endpoints[0]).await?;
    let mut message = Vec::new();
    field(&mut message, 1, &key);
    field(&mut message, 2, &shared.value);
    // First the answers to the creations.
    let mut expected = o.watchers as u64;
    while received.get() < expected {
        wake.notified().await;
    }
    while !shared.stop.get() {
        let start = Instant::now();
        if !unary(&mut writer, PUT, &message).await? {
            shared.fail(b"put failed");
            continue;
        }
        expected += o.watchers as u64;
        while received.get() < expected {
            wake.notified().await;
        }
        if shared.measuring.get() {
            shared.latency.borrow_mut().record(start.elapsed());
            shared.operations.set(shared.operations.get() + o.watchers as u64);
        }
    }
    readers.iter().for_each(|r| r.abort());
    Ok(())
}

/// Writes keys `0..keys` in txns of up to 100 puts, a few in flight.
pub fn fill(options: &Options) -> Result<Duration, String> {
    // A whole transaction fits the 64 KiB a server takes at first.
    let puts = (48_000 / (options.key_bytes + options.value_bytes + 32) as u64).clamp(1, 100);
    const IN_FLIGHT: usize = 4;
    let shared = shared(options);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| e.to_string())?;
    runtime.block_on(async {
        let begin = Instant::now();
        let mut wire = Wire::connect(&options.endpoints[0]).await.map_err(|e| e.to_string())?;
        let mut next = 0;
        let mut in_flight = BTreeMap::new();
        let mut events = Vec::new();
        let mut message: Option<(u64, Vec<u8>)> = None;
        loop {
            while in_flight.len() < IN_FLIGHT {
                if message.is_none() && next < options.keys {
                    let end = (next + puts).min(options.keys);
                    let success = (next..end).map(|i| {
                        let put = pb::PutRequest {
                            key: shared.key(i).into(),
                            value: shared.value.clone().into(),
                            ..Default::default()
                        };
                        pb::RequestOp { request: Some(pb::request_op::Request::RequestPut(put)) }
                    });
                    let request =
                        pb::TxnRequest { success: success.collect(), ..Default::default() };
                    message = Some((next, request.encode_to_vec()));
                    next = end;
                }
                match &message {
                    Some((_, m)) if wire.has_window(m.len() + 5) => {}
                    _ => break,
                }
                let Some((first, m)) = message.take() else { break };
                in_flight.insert(wire.open(TXN, &m, true), (first, false));
            }
            if in_flight.is_empty() && message.is_none() {
                return Ok(begin.elapsed());
            }
            wire.turn(&mut events).await.map_err(|e| e.to_string())?;
            for event in events.drain(..) {
                match event {
                    Event::Messages { stream, .. } => {
                        if let Some(f) = in_flight.get_mut(&stream) {
                            f.1 = true;
                        }
                    }
                    Event::End { stream, trailer } => {
                        let Some((first, answered)) = in_flight.remove(&stream) else { continue };
                        if !answered {
                            let why = String::from_utf8_lossy(&trailer).into_owned();
                            return Err(format!("txn of keys from {first}: {why}"));
                        }
                    }
                }
            }
        }
    })
}

/// Until a linearizable read of one key succeeds.
pub fn first_read(endpoint: &str) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| e.to_string())?;
    runtime.block_on(async {
        for _ in 0..6000 {
            if let Ok(mut wire) = Wire::connect(endpoint).await {
                let mut message = Vec::new();
                field(&mut message, 1, b"k");
                let answer =
                    tokio::time::timeout(Duration::from_secs(1), unary(&mut wire, RANGE, &message));
                if matches!(answer.await, Ok(Ok(true))) {
                    return Ok(());
                }
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Err("no linearizable read within a minute".to_owned())
    })
}
