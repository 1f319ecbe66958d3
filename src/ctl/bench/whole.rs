//! What is done once, to a whole store: it is filled, read for the first time after a start, saved.

use std::time::{Duration, Instant};

use norn_proto::etcdserverpb as pb;
use prost::Message as _;

use crate::calls::{self, RANGE, SNAPSHOT, TXN};
use crate::histogram::Histogram;
use crate::options::Options;
use crate::process;
use crate::shared::Shared;
use crate::unary::{call, pipeline};
use crate::wire::{Event, Wire};

/// A whole transaction fits the 64 KiB a server takes at first.
const TXN_BYTES: usize = 48_000;
const TXN_PUTS_MAX: u64 = 100;
/// After a start.
const READ_WITHIN: Duration = Duration::from_secs(60);
const READ_STEP: Duration = Duration::from_millis(5);

/// Writes keys `0..keys`, in large transactions.
pub async fn fill(options: &Options) -> Result<Duration, String> {
    let puts = (TXN_BYTES / (options.key_bytes + options.value_bytes + 32)) as u64;
    let puts = puts.clamp(1, TXN_PUTS_MAX);
    let shared = Shared::new(options);
    let begin = Instant::now();
    let mut wire = shared.connect(0).await.map_err(|e| e.to_string())?;
    let txns = (0..options.keys).step_by(puts as usize).map(|first| {
        let keys = first..(first + puts).min(options.keys);
        let success = keys.map(|i| calls::op_put(&shared.key(i), &shared.value)).collect();
        (TXN, pb::TxnRequest { success, ..Default::default() }.encode_to_vec())
    });
    pipeline(&mut wire, txns).await?;
    Ok(begin.elapsed())
}

/// Until a linearizable read of one key succeeds.
pub async fn first_read(options: &Options) -> Result<(), String> {
    let start = Instant::now();
    let message = pb::RangeRequest { key: "k".into(), ..Default::default() }.encode_to_vec();
    let endpoint = &options.endpoints[0];
    while start.elapsed() < READ_WITHIN {
        if let Ok(mut wire) = Wire::connect(endpoint, options.tls.as_ref()).await {
            let answer = call(&mut wire, RANGE, &message);
            let answer = tokio::time::timeout(Duration::from_secs(1), answer).await;
            if matches!(answer, Ok(Ok(Ok(_)))) {
                return Ok(());
            }
        }
        tokio::time::sleep(READ_STEP).await;
    }
    Err("no linearizable read within a minute".to_owned())
}

/// Everything that is past.
pub async fn compact(options: &Options) -> Result<(), String> {
    let shared = Shared::new(options);
    let mut wire = shared.connect(0).await.map_err(|e| e.to_string())?;
    wire.keeps_messages = true;
    let look = pb::RangeRequest { key: "k".into(), ..Default::default() }.encode_to_vec();
    let answer = call(&mut wire, RANGE, &look).await.map_err(|e| e.to_string())?;
    let answer =
        pb::RangeResponse::decode(&*answer.map_err(|f| f.0)?).map_err(|e| e.to_string())?;
    let revision = answer.header.map_or(0, |header| header.revision);
    let compact = pb::CompactionRequest { revision, physical: false }.encode_to_vec();
    let compacted = call(&mut wire, calls::COMPACT, &compact).await.map_err(|e| e.to_string())?;
    compacted.map(|_| ()).map_err(|failure| failure.0)
}

/// Makes whoever will listen at `peer` a learner.
pub async fn add_learner(options: &Options, peer: &str) -> Result<(), String> {
    let shared = Shared::new(options);
    let mut wire = shared.connect(0).await.map_err(|e| e.to_string())?;
    let add = pb::MemberAddRequest { peer_ur_ls: vec![peer.to_owned()], is_learner: true };
    let added = call(&mut wire, calls::MEMBER_ADD, &add.encode_to_vec()).await;
    added.map_err(|e| e.to_string())?.map(|_| ()).map_err(|failure| failure.0)
}

pub struct Snapshot {
    pub bytes: u64,
    pub took: Duration,
    pub server_cpu: Duration,
}

/// The whole database over the wire, to nowhere.
pub async fn snapshot(options: &Options) -> Result<Snapshot, String> {
    let shared = Shared::new(options);
    let mut wire = shared.connect(0).await.map_err(|e| e.to_string())?;
    let (start, cpu) = (Instant::now(), process::cpu_sum(&options.pids));
    let before = wire.received_bytes();
    wire.open(SNAPSHOT, &[], true);
    let mut events = Vec::new();
    loop {
        wire.turn(&mut events).await.map_err(|e| e.to_string())?;
        for event in events.drain(..) {
            let Event::End { outcome, .. } = event else { continue };
            outcome.map_err(|failure| failure.0)?;
            let bytes = wire.received_bytes() - before;
            let server_cpu = process::cpu_sum(&options.pids) - cpu;
            return Ok(Snapshot { bytes, took: start.elapsed(), server_cpu });
        }
    }
}

/// Compacts everything that is past and defragments, while one client puts as fast as it can: how long it had to wait.
pub async fn defragment(options: &Options) -> Result<Histogram, String> {
    let shared = Shared::new(options);
    let (mut writer, mut other) = (
        shared.connect(0).await.map_err(|e| e.to_string())?,
        shared.connect(0).await.map_err(|e| e.to_string())?,
    );
    let mut puts = Histogram::default();
    let mut message = Vec::new();
    calls::put(&mut message, b"written meanwhile", &shared.value);
    let defragment = call(&mut other, calls::DEFRAGMENT, &[]);
    let mut defragment = std::pin::pin!(defragment);
    loop {
        let start = Instant::now();
        let put = call(&mut writer, calls::PUT, &message);
        let mut put = std::pin::pin!(put);
        tokio::select! {
            biased;
            answer = &mut put => answer.map_err(|e| e.to_string())?.map_err(|f| f.0)?,
            ended = &mut defragment => {
                ended.map_err(|e| e.to_string())?.map_err(|f| f.0)?;
                put.await.map_err(|e| e.to_string())?.map_err(|f| f.0)?;
                puts.record(start.elapsed());
                return Ok(puts);
            }
        };
        puts.record(start.elapsed());
    }
}
