//! The end: what the clients were told against what every member holds.

use std::collections::BTreeMap;

use norn_tests::Cluster;
use norn_tests::pb::WatchCreateRequest;
use norn_tests::req::{get, watch_prefix};

use crate::clients::Log;

#[derive(Debug, Default)]
pub struct History {
    pub revisions: usize,
    pub hash: u32,
}

/// (key, value) of every revision, from the watch of one member.
type Events = BTreeMap<i64, (String, u64)>;

pub async fn check(cluster: &Cluster, logs: &[Log]) -> (History, Vec<String>) {
    let mut problems: Vec<String> = logs.iter().flat_map(|l| l.problems.clone()).collect();
    let mut histories = Vec::new();
    let mut hashes = Vec::new();
    let clients = cluster.clients();
    // Linearizable on each member: afterwards it has everything that was acknowledged, and nothing new comes.
    let mut last = 0;
    for (client, server) in clients.iter().zip(&cluster.servers) {
        match client.range(get("c0/0")).await {
            Ok(answer) => last = last.max(answer.header.map_or(0, |h| h.revision)),
            Err(status) => {
                problems.push(format!("{}: the last read: {status:?}", server.setup.name));
            }
        }
    }
    if !problems.is_empty() {
        return (History::default(), problems);
    }
    for client in &clients {
        histories.push(history(client, last).await);
        let hash = client.hash_kv(last).await;
        hashes.push(hash.map(|h| (h.hash, h.compact_revision, h.hash_revision)));
    }
    let hash = match &hashes[0] {
        Ok(hash) => hash.0,
        Err(status) => {
            problems.push(format!("HashKV: {status:?}"));
            0
        }
    };
    let shown: Vec<String> = hashes.iter().map(|h| format!("{h:?}")).collect();
    if shown.iter().any(|h| *h != shown[0]) {
        problems.push(format!("hashes differ at revision {last}: {shown:?}"));
    }
    for (events, server) in histories.iter().zip(&cluster.servers) {
        compare(events, logs, &server.setup.name, &mut problems);
    }
    (History { revisions: histories[0].len(), hash }, problems)
}

/// All revisions up to `last`, which has come when its event has.
async fn history(client: &norn_tests::Client, last: i64) -> Events {
    let create = WatchCreateRequest { start_revision: 1, ..watch_prefix("c") };
    let mut watch = client.watch(create).await;
    let mut events = Events::new();
    while events.last_key_value().is_none_or(|(revision, _)| *revision < last) {
        for event in watch.next().await.events {
            let kv = event.kv.unwrap_or_default();
            let value = std::str::from_utf8(&kv.value).ok().and_then(|v| v.parse().ok());
            let key = String::from_utf8_lossy(&kv.key).into_owned();
            events.insert(kv.mod_revision, (key, value.unwrap_or(u64::MAX)));
        }
    }
    events
}

fn compare(events: &Events, logs: &[Log], member: &str, problems: &mut Vec<String>) {
    let mut by_write: BTreeMap<(&str, u64), i64> = BTreeMap::new();
    for (revision, (key, value)) in events {
        if let Some(before) = by_write.insert((key, *value), *revision) {
            problems.push(format!("{member}: {key}={value} twice, at {before} and {revision}"));
        }
    }
    for (key, writes) in logs.iter().flat_map(|l| &l.writes) {
        for write in writes {
            let found = by_write.remove(&(key.as_str(), write.value));
            if write.revision.is_some() && found != write.revision {
                let value = write.value;
                problems.push(format!(
                    "{member}: {key}={value} acknowledged at {:?}, found at {found:?}",
                    write.revision
                ));
            }
        }
    }
    for ((key, value), revision) in by_write {
        problems.push(format!("{member}: {key}={value} at {revision}: nobody wrote it"));
    }
}
