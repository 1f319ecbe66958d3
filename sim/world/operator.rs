//! Membership: an operator who adds, promotes and removes members, and the machines that come and go with them.

use bytes::Bytes;
use norn_node::{Input, Method, Start};
use norn_proto::etcdserverpb as pb;
use prost::Message as _;

use super::{CallFor, Event, World, members};
use crate::record::What;
use crate::rng::Rng;

/// Members that a cluster grows to.
const MEMBERS_MAX: usize = 6;
/// Additions in one run: each has a machine.
const ADDED_MAX: usize = 12;

/// Until it is asked again whether a machine may be switched off.
const RETIRE_AGAIN_US: u64 = 500_000;

/// Who belongs to the cluster, by whoever has applied most.
pub(super) struct Membership {
    rng: Rng,
    applied: u64,
    cluster_id: u64,
    members: Vec<norn_node::Member>,
    added: usize,
}

impl Membership {
    pub fn new(rng: Rng) -> Membership {
        Membership { rng, applied: 0, cluster_id: 0, members: Vec::new(), added: 0 }
    }

    pub fn has(&self, id: u64) -> bool {
        self.members.iter().any(|member| member.id == id)
    }

    pub fn is_learner(&self, id: u64) -> bool {
        self.members.iter().any(|member| member.id == id && member.is_learner)
    }

    /// How a machine begins that has nothing on its disk, if it still belongs to the cluster.
    pub fn join(&self, id: u64) -> Option<Start> {
        let (cluster_id, members) = (self.cluster_id, self.members.clone());
        self.has(id).then_some(Start::Join { cluster_id, member_id: id, members })
    }
}

impl World {
    /// One step of the operator, who does not wait for the answer to the one before.
    pub(super) fn operate(&mut self) {
        if self.is_healed {
            return;
        }
        let mean = self.options.member_every_us;
        let after = self.membership.rng.between(mean / 4, mean * 7 / 4);
        self.after(after, Event::Operator);
        let running: Vec<usize> =
            (0..self.members.len()).filter(|node| self.members[*node].host.is_some()).collect();
        if running.is_empty() {
            return;
        }
        let node = *self.membership.rng.pick(&running);
        self.change_members(node);
    }

    /// Asks a member for some change.
    pub(super) fn change_members(&mut self, mut node: usize) {
        let membership = &mut self.membership;
        let size = membership.members.len();
        let learner = membership.members.iter().find(|m| m.is_learner).map(|m| m.id);
        let (method, body) = match (membership.rng.below(10), learner) {
            (0..4, _) if size < MEMBERS_MAX && membership.added < ADDED_MAX => {
                let is_learner = membership.rng.permille(600);
                (Method::MemberAdd, self.new_machine(is_learner).encode_to_vec())
            }
            (4..7, Some(id)) => {
                // (A server sends the caller on to the leader.)
                node = self.leader().unwrap_or(node);
                (Method::MemberPromote, pb::MemberPromoteRequest { id }.encode_to_vec())
            }
            (7.., _) if size > 1 => {
                let at = membership.rng.below(size as u64) as usize;
                let id = membership.members[at].id;
                let voters = membership.members.iter().filter(|m| !m.is_learner).count();
                if voters == 1 && !membership.members[at].is_learner {
                    return;
                }
                (Method::MemberRemove, pb::MemberRemoveRequest { id }.encode_to_vec())
            }
            _ => return,
        };
        self.trace.tell(self.now, What::Operate { node }, || format!("{method:?}"));
        self.call(node, CallFor::Change, method, Bytes::from(body));
    }

    /// A machine that nobody knows yet: it starts when the cluster does.
    pub(super) fn new_machine(&mut self, is_learner: bool) -> pb::MemberAddRequest {
        self.membership.added += 1;
        let number = self.members.len();
        let rng = &mut self.membership.rng;
        self.members.push(members::machine(&self.options, number, rng));
        self.served.push(false);
        pb::MemberAddRequest { peer_ur_ls: vec![members::url(number)], is_learner }
    }

    /// A member applied a change of the membership.
    pub(super) fn members_changed(&mut self, node: usize) {
        let Some(host) = &self.members[node].host else { return };
        let (applied, known) = (host.node().applied(), &mut self.membership);
        if applied <= known.applied {
            return;
        }
        (known.applied, known.cluster_id) = (applied, host.node().cluster_id());
        known.members = host.node().members().iter().cloned().collect();
        for member in known.members.clone() {
            let url = member.peer_urls.first().cloned().unwrap_or_default();
            let Some(slot) = (0..self.members.len()).find(|slot| members::url(*slot) == url) else {
                continue;
            };
            if !self.members[slot].is_member && !self.members[slot].is_retired {
                (self.members[slot].id, self.members[slot].is_member) = (member.id, true);
                self.by_id.insert(member.id, slot);
                self.counts.joins += 1;
                let after = self.membership.rng.heavy(200_000);
                self.after(after, Event::Start { node: slot });
            }
        }
        for slot in 0..self.members.len() {
            if self.members[slot].is_member && !self.membership.has(self.members[slot].id) {
                self.members[slot].is_member = false;
                self.members[slot].is_retired = true;
                self.members[slot].is_leaving = true;
                self.counts.leaves += 1;
                let after = self.membership.rng.heavy(400_000);
                self.after(after, Event::Retire { node: slot });
            }
        }
    }

    /// The machine of a removed member is switched off for good. Not before most of the others have applied its removal for good: if it
    /// led, nobody else might know that there is nothing left to wait for (etcd hopes that a second is enough).
    pub(super) fn retire(&mut self, node: usize) {
        if !self.members[node].is_leaving {
            return;
        }
        let knows = |other: usize| {
            let host = self.members[other].host.as_ref();
            host.is_some_and(|host| {
                let id = self.members[node].id;
                host.node().members().is_removed(id) && host.node().is_membership_durable()
            })
        };
        let voters: Vec<usize> =
            self.counted().filter(|(_, votes)| *votes).map(|(other, _)| other).collect();
        if voters.iter().filter(|other| knows(**other)).count() <= voters.len() / 2 {
            return self.after(RETIRE_AGAIN_US, Event::Retire { node });
        }
        self.members[node].is_leaving = false;
        if self.members[node].host.is_some() {
            self.trace.note(self.now, What::Retire { node });
            self.gone(node);
        }
        self.by_id.remove(&self.members[node].id);
    }

    /// Who leads, as far as a member believes.
    pub(super) fn leader(&self) -> Option<usize> {
        let leads = |member: &crate::member::Member| {
            member.host.as_ref().is_some_and(|host| host.node().is_leader())
        };
        self.members.iter().position(leads)
    }

    /// A message from a removed member is refused, and the refusal tells it so.
    pub(super) fn refuses(&mut self, from: usize, to: usize) -> bool {
        let id = self.members[from].id;
        let knows = |node: &norn_node::Node<_>| node.members().is_removed(id);
        let refused = self.members[to].host.as_ref().is_some_and(|host| knows(host.node()));
        if refused && self.members[from].is_retired {
            self.after(1_000, Event::Retire { node: from });
        }
        refused
    }

    /// A member in place of whichever machine the fault was drawn for.
    pub(super) fn victim(&self, drawn: usize) -> usize {
        let members: Vec<usize> =
            (0..self.members.len()).filter(|slot| self.members[*slot].is_member).collect();
        if members.is_empty() { drawn } else { members[drawn % members.len()] }
    }

    /// Everybody knows of a connection to a new life of a member.
    pub(super) fn introduce(&mut self, node: usize) -> Vec<Input> {
        let own = self.members[node].id;
        let mut inputs = Vec::new();
        for other in (0..self.members.len()).filter(|other| *other != node) {
            if !self.members[other].is_member {
                continue;
            }
            let id = self.members[other].id;
            inputs.push(Input::PeerVersion { id, version: Some(self.members[other].version) });
            if self.members[other].host.is_some() && !self.network.is_cut(node, other) {
                inputs.push(Input::PeerActive { id, active: true });
                self.tell_later(other, Input::PeerActive { id: own, active: true });
                if !self.members[node].is_founder || self.options.is_mixed {
                    let version = Some(self.members[node].version);
                    self.tell_later(other, Input::PeerVersion { id: own, version });
                }
            }
        }
        inputs
    }
}
