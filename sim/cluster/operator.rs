//! Membership: who belongs to the cluster, by whichever member has applied most, and an operator who adds members on spare machines,
//! promotes and removes them, over the same API as everybody.

use std::time::Duration;

use bytes::Bytes;
use norn_node::{Method, Node};
use norn_proto::etcdserverpb as pb;
use norn_server::runtime::disk::Reader;
use norn_server::runtime::net::address;
use prost::Message;

use super::grpc::{Broken, Channel};
use super::state::{Event, State, state};
use crate::fault::Kind;
use crate::record::What;
use crate::rng::Rng;

/// How long the operator waits for an answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// Between two looks for alarms.
const TIDY_EVERY: Duration = Duration::from_millis(700);
/// Below it nobody is removed: whoever leads a cluster of two and is removed ends before the other one can be told for sure.
const VOTERS_MIN: usize = 3;

#[derive(Default)]
pub struct Membership {
    applied: u64,
    pub members: Vec<norn_node::Member>,
}

pub fn peer_url(host: usize) -> String {
    format!("http://{}:2380", address(host))
}

impl Membership {
    pub fn has(&self, host: usize) -> bool {
        self.on(host).is_some()
    }

    pub fn on(&self, host: usize) -> Option<&norn_node::Member> {
        let url = peer_url(host);
        self.members.iter().find(|member| member.peer_urls.first() == Some(&url))
    }
}

/// After every turn of a member.
pub fn observe(state: &State, node: &Node<Reader>) {
    let mut known = state.membership.borrow_mut();
    if node.applied() <= known.applied {
        return;
    }
    known.applied = node.applied();
    let role = |member: &norn_node::Member| (member.id, member.is_learner);
    if node.members().iter().map(role).eq(known.members.iter().map(role)) {
        return;
    }
    known.members = node.members().iter().cloned().collect();
    let mut machines = state.members.borrow_mut();
    for (host, machine) in machines.iter_mut().enumerate() {
        let member = known.on(host);
        machine.is_learner = member.is_some_and(|member| member.is_learner);
        match (machine.is_member, member.is_some()) {
            (false, true) if !machine.is_retired => {
                machine.is_member = true;
                state.counts.borrow_mut().joins += 1;
                // (What a member's own turn starts would end with it.)
                state.happened(Event::Joined { host });
            }
            (true, false) => {
                (machine.is_member, machine.is_leaving, machine.is_retired) = (false, true, true);
                state.counts.borrow_mut().leaves += 1;
            }
            _ => {}
        }
    }
}

/// Changes something now and then, as long as there are faults.
pub async fn run(mut rng: Rng) {
    let state = state();
    let mean = state.options.member_every_us;
    while mean > 0 && !state.is_healed.get() && !state.has_failed() {
        let pause = rng.between(mean / 4, mean * 7 / 4);
        madsim::time::sleep(Duration::from_micros(pause)).await;
        let Some((method, body)) = choose(&state, &mut rng) else { continue };
        let node = state.member(rng.below(1 << 32) as usize);
        state.tell(What::Operate { node }, || format!("{method:?}"));
        if let Ok(channel) = Channel::open(node, PATIENCE).await {
            // (What became of it shows in the membership.)
            let _ = channel.call(method, body, PATIENCE, false).await;
        }
    }
}

/// Asks a member that has just become the leader for some change.
pub async fn change_at(host: usize, after_us: u64) {
    let state = state();
    madsim::time::sleep(Duration::from_micros(after_us)).await;
    let drawn = choose(&state, &mut Rng::new(state.options.seed ^ State::now_us()));
    let Some((method, body)) = drawn.filter(|_| !state.is_healed.get()) else { return };
    state.tell(What::Operate { node: host }, || format!("{method:?}"));
    if let Ok(channel) = Channel::open(host, PATIENCE).await {
        let _ = channel.call(method, body, PATIENCE, false).await;
    }
}

/// Calls off alarms, which come from disks that were full and from quotas, after making room.
pub async fn tidy_up() {
    let state = state();
    let has_limits = state.options.full_every_us > 0 || state.options.quota_bytes > 0;
    let mut turn = 0;
    while has_limits && !state.has_failed() {
        madsim::time::sleep(TIDY_EVERY).await;
        turn += 1;
        if let Ok(channel) = Channel::open(state.member(turn), PATIENCE).await {
            // (It will be tried again.)
            let _ = call_off(&state, &channel).await;
        }
    }
}

async fn call_off(state: &State, channel: &Channel) -> Result<(), Broken> {
    let get = pb::AlarmRequest::default().encode_to_vec().into();
    let listed = channel.call(Method::Alarm, get, PATIENCE, false).await?;
    let listed = pb::AlarmResponse::decode(listed).expect("a list of alarms");
    if state.options.quota_bytes > 0 && !listed.alarms.is_empty() {
        state.note(What::Fault { kind: Kind::Quota, node: None });
        let revision = listed.header.map_or(0, |header| header.revision);
        let compact = pb::CompactionRequest { revision, physical: true }.encode_to_vec().into();
        // (It may be compacted already.)
        let _ = channel.call(Method::Compact, compact, PATIENCE, false).await;
        let defragment = pb::DefragmentRequest::default().encode_to_vec().into();
        channel.call(Method::Defragment, defragment, PATIENCE, false).await?;
    }
    for alarm in listed.alarms {
        let action = pb::alarm_request::AlarmAction::Deactivate.into();
        let r = pb::AlarmRequest { action, member_id: alarm.member_id, alarm: alarm.alarm };
        channel.call(Method::Alarm, r.encode_to_vec().into(), PATIENCE, false).await?;
    }
    Ok(())
}

fn choose(state: &State, rng: &mut Rng) -> Option<(Method, Bytes)> {
    let known = state.membership.borrow();
    let learner = known.members.iter().find(|member| member.is_learner);
    let voters = known.members.iter().filter(|member| !member.is_learner).count();
    let (method, body) = match (rng.below(10), learner) {
        (0..4, _) => {
            let machines = state.members.borrow();
            let is_spare = |host: &usize| !machines[*host].is_member && !machines[*host].is_retired;
            let spare = (0..machines.len()).find(is_spare)?;
            let peer_ur_ls = vec![peer_url(spare)];
            let add = pb::MemberAddRequest { peer_ur_ls, is_learner: rng.permille(600) };
            (Method::MemberAdd, add.encode_to_vec())
        }
        (4..7, Some(learner)) => {
            let promote = pb::MemberPromoteRequest { id: learner.id };
            (Method::MemberPromote, promote.encode_to_vec())
        }
        (7.., _) if voters > 0 => {
            let member = rng.pick(&known.members);
            if !member.is_learner && voters <= VOTERS_MIN {
                return None;
            }
            let remove = pb::MemberRemoveRequest { id: member.id };
            (Method::MemberRemove, remove.encode_to_vec())
        }
        _ => return None,
    };
    Some((method, body.into()))
}
