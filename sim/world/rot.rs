//! Disks that do not keep what was written, and what an operator does about a member that noticed.
//!
//! One in a run, of at least three voters (but for the profile in which nobody must recover): the others have everything that was acknowledged. Only what lies still is flipped.
//! The end of a WAL cannot be told from a write that the power failure tore, so that a flip there takes away what was
//! acknowledged, and nobody can notice.

use bytes::Bytes;
use norn_node::Method;
use norn_proto::etcdserverpb as pb;
use norn_storage::{DiskRead, FileName, Stray};
use prost::Message as _;

use super::{CallFor, Event, World};
use crate::disk::still;
use crate::options::Profile;
use crate::record::What;
use crate::rng::Rng;

/// Until the operator tries again to have a member removed.
const REPLACE_AGAIN_US: u64 = 1_000_000;
const VOTERS_MIN: usize = 3;

impl World {
    pub(super) fn rot(&mut self, node: usize, draw: u64, down_us: u64) {
        let is_ruin = self.options.profile == Profile::Ruin && self.members[node].host.is_some();
        if !is_ruin && !self.may_rot(node) {
            return;
        }
        self.crash(node, true, down_us);
        let (mut rng, disk) = (Rng::new(draw), &self.members[node].disk);
        let files = still(disk);
        if files.is_empty() {
            return;
        }
        let file = rng.pick(&files).clone();
        let len = disk.len(&file).ok().flatten().unwrap_or(0);
        if len == 0 {
            return;
        }
        let (offset, bit) = (rng.below(len), rng.below(8) as u8);
        disk.inner.flip_bit(&file, offset, bit);
        self.members[node].is_rotten = true;
        self.counts.flipped_bits += 1;
        let text = || format!("flipped bit {bit} of byte {offset} of {file}");
        self.trace.tell(self.now, What::Log { node }, text);
    }

    /// A write to the revision log is to land elsewhere: where it was for, there is what was there before, and where it landed, nobody
    /// expects it. Not one to the WAL, and not into its last segment: like a flipped bit there, a hole in its end looks like one that
    /// the power failure left. (A hole in the end of the revision log is filled from the WAL.)
    pub(super) fn stray(&mut self, node: usize, nth: u64, draw: u64) {
        if !self.may_rot(node) {
            return;
        }
        let (mut rng, disk) = (Rng::new(draw), &self.members[node].disk);
        let files = still(disk);
        if files.is_empty() {
            return;
        }
        let (to, sector) = (rng.pick(&files).clone(), rng.next());
        disk.inner.stray(Stray { nth, dir: FileName::new("member/rev"), to, sector });
        self.members[node].is_rotten = true;
    }

    /// A write landed elsewhere.
    pub(super) fn tell_strayed(&mut self, node: usize) {
        if let Some(text) = self.members[node].disk.inner.take_strayed() {
            self.counts.strays += 1;
            self.trace.tell(self.now, What::Log { node }, || text);
        }
    }

    /// The others have everything, and nobody else's disk is as bad.
    fn may_rot(&self, node: usize) -> bool {
        let voters = self.counted().filter(|(_, votes)| *votes).count();
        let is_first = !self.members.iter().any(|member| member.is_rotten);
        voters >= VOTERS_MIN && is_first && self.members[node].host.is_some()
    }

    /// A member whose disk is not what it was is removed, and a new one is added, as the error of such a member advises.
    pub(super) fn replace(&mut self, node: usize) {
        if !self.members[node].is_member {
            return;
        }
        let id = self.members[node].id;
        let running = (0..self.members.len()).find(|other| self.members[*other].host.is_some());
        if let Some(at) = self.leader().or(running) {
            let remove = pb::MemberRemoveRequest { id }.encode_to_vec();
            self.call(at, CallFor::Change, Method::MemberRemove, Bytes::from(remove));
            if !self.members[node].is_replaced {
                self.members[node].is_replaced = true;
                let add = self.new_machine(false).encode_to_vec();
                self.call(at, CallFor::Change, Method::MemberAdd, Bytes::from(add));
            }
        }
        self.after(REPLACE_AGAIN_US, Event::Replace { node });
    }
}
