//! Disks that do not keep what was written, and what an operator does about a member that noticed.
//!
//! As in the core tier: one in a run, of at least three voters, and only what lies still is flipped.

use std::rc::Rc;
use std::time::Duration;

use norn_node::Method;
use norn_proto::etcdserverpb as pb;
use norn_server::runtime::simulated::{self as world, Death};
use norn_storage::DiskRead;
use prost::Message;

use super::grpc::Channel;
use super::members::crash;
use super::operator::peer_url;
use super::state::{State, state};
use crate::disk::still;
use crate::options::Profile;
use crate::record::What;
use crate::rng::Rng;

/// Between two tries to have a member replaced, and how long each may take.
const REPLACE_EVERY: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(3);
const VOTERS_MIN: usize = 3;

/// Power is lost, and a bit of what lay on the disk is another one afterwards.
pub fn strike(state: &Rc<State>, rng: &mut Rng, node: usize, draw: u64, down_us: u64) {
    let node = state.member(node);
    let members = state.members.borrow();
    let voters = members.iter().filter(|member| member.is_member && !member.is_learner).count();
    let is_first = !members.iter().any(|member| member.is_rotten);
    drop(members);
    let may_rot = (voters >= VOTERS_MIN && is_first) || state.options.profile == Profile::Ruin;
    if !may_rot || !world::is_running(node) {
        return;
    }
    crash(state, rng, node, Death::Power, down_us);
    let (mut rng, disk) = (Rng::new(draw), world::disk_of(node));
    let files = still(&disk);
    if files.is_empty() {
        return;
    }
    let file = rng.pick(&files);
    let len = disk.len(file).ok().flatten().unwrap_or(0);
    if len == 0 {
        return;
    }
    let (offset, bit) = (rng.below(len), rng.below(8) as u8);
    disk.flip_bit(file, offset, bit);
    state.members.borrow_mut()[node].is_rotten = true;
    state.counts.borrow_mut().flipped_bits += 1;
    let text = || format!("flipped bit {bit} of byte {offset} of {file}");
    state.tell(What::Log { node }, text);
}

/// A member whose disk is not what it was is removed, and a new one is added, as the error of such a member advises.
pub async fn replace(host: usize) {
    let state = state();
    let is_spare = |host: &usize| {
        let member = &state.members.borrow()[*host];
        !member.is_member && !member.is_retired
    };
    let Some(spare) = (0..state.options.machines()).find(is_spare) else { return };
    let mut turn = 0;
    while !state.has_failed() {
        let has_spare = state.members.borrow()[spare].is_member;
        let old = state.membership.borrow().on(host).map(|member| member.id);
        let (method, body) = match old {
            Some(id) => (Method::MemberRemove, pb::MemberRemoveRequest { id }.encode_to_vec()),
            None if has_spare => {
                state.counts.borrow_mut().replaced += 1;
                return;
            }
            None => {
                let peer_ur_ls = vec![peer_url(spare)];
                let add = pb::MemberAddRequest { peer_ur_ls, is_learner: false };
                (Method::MemberAdd, add.encode_to_vec())
            }
        };
        turn += 1;
        let node = state.member(turn);
        if node != host {
            state.tell(What::Operate { node }, || format!("{method:?}"));
            if let Ok(channel) = Channel::open(node, PATIENCE).await {
                // (What became of it shows in the membership.)
                let _ = channel.call(method, body.into(), PATIENCE, false).await;
            }
        }
        madsim::time::sleep(REPLACE_EVERY).await;
    }
}
