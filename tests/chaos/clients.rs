//! The load: each client writes its own keys, every value once, and keeps a log of what it was told.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use norn_tests::req::{get, put};
use norn_tests::rng::Rng;
use norn_tests::{Client, pb};
use tokio::time::timeout;

const KEYS_PER_CLIENT: u64 = 4;
/// A call without an answer by then has an unknown outcome.
const CALL_LIMIT: Duration = Duration::from_secs(2);
/// Reads among 100 calls.
const READS: u64 = 10;

/// One write: the value is the key's counter.
#[derive(Debug, Clone, Copy)]
pub struct Write {
    pub value: u64,
    /// The revision it was acknowledged with; `None` when there was no answer.
    pub revision: Option<i64>,
}

#[derive(Debug, Default)]
pub struct Log {
    pub writes: BTreeMap<String, Vec<Write>>,
    pub reads: usize,
    /// What was wrong already while it happened.
    pub problems: Vec<String>,
}

impl Log {
    pub fn acknowledged(&self) -> usize {
        self.writes.values().flatten().filter(|w| w.revision.is_some()).count()
    }

    pub fn unknown(&self) -> usize {
        self.writes.values().flatten().filter(|w| w.revision.is_none()).count()
    }
}

pub async fn run(number: usize, urls: Vec<String>, stop: Arc<AtomicBool>) -> Log {
    // A few connections per process, as real clients have.
    let clients: Vec<Client> = urls.iter().map(|u| Client::with_limit(u, CALL_LIMIT)).collect();
    let mut rng = Rng::new(number as u64);
    let mut log = Log::default();
    let mut at = number % clients.len();
    let mut last_revision = 0;
    while !stop.load(Ordering::Relaxed) {
        let key = format!("c{number}/{}", rng.below(KEYS_PER_CLIENT));
        let failed = if rng.chance(READS) {
            read(&clients[at], &key, &mut last_revision, &mut log).await
        } else {
            write(&clients[at], &key, &mut last_revision, &mut log).await
        };
        if failed {
            at = (at + 1) % clients.len();
            // Not a wait for anything: three refusing members must not be asked in a hot loop.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    log
}

/// True when the call failed.
async fn write(client: &Client, key: &str, last_revision: &mut i64, log: &mut Log) -> bool {
    let writes = log.writes.entry(key.to_owned()).or_default();
    let value = writes.len() as u64 + 1;
    let answer = timeout(CALL_LIMIT, client.put(put(key, &value.to_string()))).await;
    let revision = match answer {
        Ok(Ok(answer)) => Some(answer.header.map_or(0, |h| h.revision)),
        _ => None,
    };
    writes.push(Write { value, revision });
    let Some(revision) = revision else { return true };
    if revision <= *last_revision {
        log.problems.push(format!("put {key}={value}: revision {revision} after {last_revision}"));
    }
    *last_revision = revision;
    false
}

async fn read(client: &Client, key: &str, last_revision: &mut i64, log: &mut Log) -> bool {
    let Ok(Ok(answer)) = timeout(CALL_LIMIT, client.range(get(key))).await else { return true };
    log.reads += 1;
    let revision = answer.header.map_or(0, |h: pb::ResponseHeader| h.revision);
    if revision < *last_revision {
        log.problems.push(format!("get {key}: revision {revision} after {last_revision}"));
    }
    *last_revision = revision;
    let writes = log.writes.get(key).map_or(&[][..], Vec::as_slice);
    let acknowledged = writes.iter().rev().find(|w| w.revision.is_some());
    let (value, mod_revision) = answer.kvs.first().map_or((0, 0), |kv| {
        let value = std::str::from_utf8(&kv.value).ok().and_then(|v| v.parse().ok());
        (value.unwrap_or(u64::MAX), kv.mod_revision)
    });
    let problem = match (writes.iter().find(|w| w.value == value), acknowledged) {
        (None, None) => (value != 0).then_some("a value nobody wrote"),
        (None, Some(_)) => Some("lost or a value nobody wrote"),
        (Some(w), Some(a)) if w.value == a.value => {
            (a.revision != Some(mod_revision)).then_some("another revision than acknowledged")
        }
        // Then it must have come after the acknowledged one.
        (Some(w), Some(a)) => (w.revision.is_some() || mod_revision < a.revision.unwrap_or(0))
            .then_some("older than the last acknowledged write"),
        (Some(_), None) => None,
    };
    if let Some(problem) = problem {
        let acknowledged = acknowledged.copied();
        log.problems
            .push(format!("get {key}: {value}@{mod_revision}: {problem}: {acknowledged:?}"));
    }
    false
}
