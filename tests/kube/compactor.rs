//! kube-apiserver's compactor: whoever moves the counter on compacts what was new one interval ago.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use norn_tests::pb::compare::{CompareResult, TargetUnion};
use norn_tests::req::{compare, get, op_get, op_put, put, txn};

use crate::endpoints::{Endpoint, Shared};

const EVERY: Duration = Duration::from_secs(20);
const KEY: &str = "compact_rev_key";

/// How often it compacted.
pub async fn run(shared: Arc<Shared>) -> usize {
    let mut endpoint = Endpoint::new(&shared, 0);
    let (mut version, mut revision, mut done) = (0, 0, 0);
    let mut next = Instant::now() + EVERY;
    loop {
        while Instant::now() < next {
            if shared.stop_writing.load(Ordering::Relaxed) {
                return done;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let request = txn(
            vec![compare(KEY, CompareResult::Equal, TargetUnion::Version(version))],
            vec![op_put(put(KEY, &revision.to_string()))],
            vec![op_get(get(KEY))],
        );
        let Ok(answer) = endpoint.client().txn(request).await else {
            endpoint.fail().await;
            // Somebody may have moved it: ask, and try again at once (a fault every 20 seconds must not meet every attempt).
            if let Ok(answer) = endpoint.client().range(get(KEY)).await {
                version = answer.kvs.first().map_or(0, |kv| kv.version);
            }
            continue;
        };
        next += EVERY;
        version += 1;
        let now = answer.header.map_or(0, |header| header.revision);
        if revision > 0 && endpoint.client().compact_with(request_of(revision)).await.is_ok() {
            done += 1;
        }
        revision = now;
    }
}

fn request_of(revision: i64) -> norn_tests::pb::CompactionRequest {
    norn_tests::pb::CompactionRequest { revision, physical: false }
}
