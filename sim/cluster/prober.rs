//! Whoever looks in from outside: does every member serve, and do all show the same?

use std::time::Duration;

use bytes::Bytes;
use madsim::task::spawn_local;
use norn_node::Method;
use norn_proto::etcdserverpb as pb;
use norn_server::runtime::simulated as world;
use prost::Message;

use super::grpc::{Broken, Channel};
use super::operator;
use super::state::{State, state};
use crate::check::hash::HashCheck;
use crate::history::{Ask, Failure};
use crate::record::What;
use crate::rng::Rng;
use crate::workload;

const PATIENCE: Duration = Duration::from_secs(2);
/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(700);

pub fn start(host: usize, rng: Rng) {
    world::start(host, "prober", || async {
        let state = state();
        spawn_local(operator::run(rng));
        spawn_local(operator::tidy_up());
        for node in 0..state.options.machines() {
            spawn_local(look(node));
        }
        std::future::pending::<()>().await;
    });
}

async fn look(node: usize) {
    let state = state();
    let mut probes = 0;
    while !state.has_failed() {
        madsim::time::sleep(LOOK_EVERY).await;
        let Ok(channel) = Channel::open(node, PATIENCE).await else { continue };
        loop {
            if is_probed(&state, node) {
                probes += 1;
                if probe(&state, &channel, node, probes).await.is_err() {
                    break;
                }
            }
            if compare(&state, &channel, node).await.is_err() || state.has_failed() {
                break;
            }
            madsim::time::sleep(LOOK_EVERY).await;
        }
    }
}

/// Whether it has to show that it serves writes, which a learner does not.
fn is_probed(state: &State, node: usize) -> bool {
    let member = &state.members.borrow()[node];
    state.is_healed.get() && member.is_member && !member.is_learner && !member.served
}

async fn probe(state: &State, channel: &Channel, node: usize, number: u64) -> Result<(), Broken> {
    let value = Bytes::from(format!("probe-{node}-{number}"));
    let body = workload::put(&Bytes::from_static(b"probe"), &value, 0).encode_to_vec();
    channel.call(Method::Put, body.into(), PATIENCE, true).await?;
    state.members.borrow_mut()[node].served = true;
    state.note(What::Served { node });
    Ok(())
}

/// Hash and content of the member's own state.
async fn compare(state: &State, channel: &Channel, node: usize) -> Result<(), Broken> {
    let body = pb::HashKvRequest { revision: 0 }.encode_to_vec().into();
    let hashed = channel.call(Method::HashKv, body, PATIENCE, false).await?;
    let r = pb::HashKvResponse::decode(hashed).expect("a hash");
    state.tell(What::Hash { node, hash: r.hash }, || format!("{r:?}"));
    // (At the revision of a compaction etcd's hash depends on whether the compaction left it.)
    if r.hash_revision > r.compact_revision {
        let hashed = (r.hash_revision, r.compact_revision, false);
        let verdict = state.hashes.borrow_mut().hash(node, hashed, r.hash);
        if let Err(failure) = verdict {
            state.fail(failure);
        }
    }
    let (method, body) = workload::encode(&Ask::Range { revision: 0, serializable: true });
    let shown = channel.call(method, body, PATIENCE, false).await?;
    let r = pb::RangeResponse::decode(shown).expect("a range");
    let revision = r.header.map_or(0, |header| header.revision);
    let raft = state.raft.borrow();
    if raft.lost_at.is_none() {
        let verdict: Result<(), Failure> = HashCheck::content(node, revision, &r.kvs, &raft.model);
        drop(raft);
        if let Err(failure) = verdict {
            state.fail(failure);
        }
    }
    Ok(())
}
