//! The cluster as seen from one member: changing its members, publishing oneself, deciding its version.

use bytes::Bytes;
use norn_proto::{etcdserverpb as pb, membershippb};
use norn_raft::{ConfChange, ConfChangeKind, NodeId};
use norn_storage::revlog::Table;
use prost::Message;

use crate::command::Command;
use crate::config::{CLUSTER_VERSION, SERVER_VERSION};
use crate::input::{NodeEvent, Token};
use crate::members::{ChangeContext, Member, is_peer_url, quorum};
use crate::node::Publish;
use crate::{Error, Node, Reader};

/// A member counts as connected for a membership change when its connection is at least this old.
const CONNECTED_MS: u64 = 5_000;
/// How often the leader looks at the members' versions.
const VERSION_CHECK_MS: u64 = 4_000;
/// The first decision when some member cannot be asked.
const VERSION_UNSURE: &str = "3.0.0";

impl<R: Reader> Node<R> {
    pub(crate) fn member_add(
        &mut self,
        token: Token,
        r: pb::MemberAddRequest,
    ) -> Result<Option<Bytes>, Error> {
        if r.peer_ur_ls.is_empty() || !r.peer_ur_ls.iter().all(|url| is_peer_url(url)) {
            return Err(Error::MemberBadUrls);
        }
        let seconds = (self.config.unix_ms_at_zero + self.now.ms) / 1000;
        let mut member = Member::new("", r.peer_ur_ls, "", Some(seconds));
        member.is_learner = r.is_learner;
        if self.config.strict_reconfig_check {
            if !r.is_learner && !self.members.can_add_voter() {
                return Err(Error::MemberNotEnoughStarted);
            }
            let voters = self.members.voters().count();
            if voters > 1 && self.connected_count(None) < quorum(voters + 1) {
                return Err(Error::Unhealthy);
            }
        }
        let kind = match r.is_learner {
            true => ConfChangeKind::AddLearnerNode,
            false => ConfChangeKind::AddNode,
        };
        let id = member.id;
        self.propose_change(token, kind, id, &ChangeContext { member, is_promote: false })
    }

    pub(crate) fn member_remove(
        &mut self,
        token: Token,
        r: pb::MemberRemoveRequest,
    ) -> Result<Option<Bytes>, Error> {
        let member = self.members.member(r.id);
        if let (true, Some(member)) = (self.config.strict_reconfig_check, member)
            && !member.is_learner
        {
            if !self.members.can_remove_voter(r.id) {
                return Err(Error::MemberNotEnoughStarted);
            }
            let is_connected = r.id == self.id || self.is_connected(r.id, 0);
            let voters = self.members.voters().count();
            if is_connected && self.connected_count(Some(r.id)) < quorum(voters - 1) {
                return Err(Error::Unhealthy);
            }
        }
        let change = ConfChange {
            kind: ConfChangeKind::RemoveNode,
            node_id: NodeId(r.id),
            ..Default::default()
        };
        self.propose_raw_change(token, change)
    }

    pub(crate) fn member_update(
        &mut self,
        token: Token,
        r: pb::MemberUpdateRequest,
    ) -> Result<Option<Bytes>, Error> {
        let mut peer_urls = r.peer_ur_ls;
        peer_urls.sort();
        let member = Member { id: r.id, peer_urls, ..Member::default() };
        let context = ChangeContext { member, is_promote: false };
        self.propose_change(token, ConfChangeKind::UpdateNode, r.id, &context)
    }

    /// Only the leader knows how far a learner is; elsewhere the caller is sent on.
    pub(crate) fn member_promote(
        &mut self,
        token: Token,
        r: pb::MemberPromoteRequest,
    ) -> Result<Option<Bytes>, Error> {
        if !self.raft.is_leader() {
            return Err(Error::NotLeader);
        }
        let matched =
            |id: u64| self.raft.progress().find(|(node, _)| node.0 == id).map(|(_, p)| p.matched.0);
        let (Some(learner), Some(leader)) = (matched(r.id), matched(self.id)) else {
            return Err(Error::MemberNotFound);
        };
        // Within a tenth of the leader's log.
        if learner * 10 < leader * 9 {
            return Err(Error::LearnerNotReady);
        }
        if self.config.strict_reconfig_check && !self.members.can_promote() {
            return Err(Error::MemberNotEnoughStarted);
        }
        let member = Member { id: r.id, ..Member::default() };
        let context = ChangeContext { member, is_promote: true };
        self.propose_change(token, ConfChangeKind::AddNode, r.id, &context)
    }

    fn propose_change(
        &mut self,
        token: Token,
        kind: ConfChangeKind,
        id: u64,
        context: &ChangeContext,
    ) -> Result<Option<Bytes>, Error> {
        let context = Bytes::from(context.to_json());
        self.propose_raw_change(token, ConfChange { id: 0, kind, node_id: NodeId(id), context })
    }

    /// A change that raft refuses (another one is pending) becomes an empty entry: its caller waits in vain until its
    /// own deadline, as with etcd.
    fn propose_raw_change(
        &mut self,
        token: Token,
        mut change: ConfChange,
    ) -> Result<Option<Bytes>, Error> {
        change.id = self.ids.next();
        let id = change.id;
        match self.raft.propose_conf_change(change) {
            Ok(()) => {
                self.changes.insert(id, token);
                Ok(None)
            }
            Err(_) if !self.has_leader() => Err(Error::DeadlineExceeded),
            Err(_) => Err(Error::ProposalDropped),
        }
    }

    /// After a change was applied to raft: members, tables, and whoever must know.
    pub(crate) fn member_changed(&mut self, change: &ConfChange, context: &ChangeContext) {
        let id = change.node_id.0;
        let key = Bytes::from(format!("{id:x}"));
        match self.members.apply(change.kind, id, context) {
            Some(member) => {
                let json = member.to_json();
                self.backend.set(Table::Members, key, json);
            }
            None => {
                self.backend.unset(Table::Members, key.clone());
                self.backend.set(Table::MembersRemoved, key, Bytes::from_static(b"removed"));
                self.peers.remove(&id);
            }
        }
        self.out.events.push(NodeEvent::MembersChanged);
        let (text, is_self) = match change.kind {
            ConfChangeKind::RemoveNode => ("removed member", id == self.id),
            ConfChangeKind::UpdateNode => ("updated member", false),
            _ if context.is_promote => ("promoted a learner member", false),
            _ => ("added member", false),
        };
        self.info(
            text,
            vec![
                ("cluster-id", format!("{:x}", self.cluster_id)),
                ("local-member-id", format!("{:x}", self.id)),
                ("member-id", format!("{id:x}")),
            ],
        );
        if is_self {
            self.out.events.push(NodeEvent::Removed);
        }
    }

    /// `added`: the member that an addition made.
    pub(crate) fn member_change_reply(&self, added: Option<u64>) -> Bytes {
        let Some(member) = added.and_then(|id| self.members.member(id)) else {
            return self.member_list_reply();
        };
        let member = Some(to_proto(member));
        let (header, members) = (Some(self.member_header()), self.member_list());
        pb::MemberAddResponse { header, member, members }.encode_to_vec().into()
    }

    pub(crate) fn member_list_reply(&self) -> Bytes {
        let header = Some(self.member_header());
        pb::MemberListResponse { header, members: self.member_list() }.encode_to_vec().into()
    }

    /// Member calls never fill the revision.
    fn member_header(&self) -> pb::ResponseHeader {
        pb::ResponseHeader {
            cluster_id: self.cluster_id,
            member_id: self.id,
            revision: 0,
            raft_term: self.applied_term,
        }
    }

    fn member_list(&self) -> Vec<pb::Member> {
        self.members.iter().map(to_proto).collect()
    }

    fn is_connected(&self, id: u64, for_ms: u64) -> bool {
        let since = self.peers.get(&id).and_then(|peer| peer.active_since);
        since.is_some_and(|since| self.now.since(since) >= for_ms)
    }

    /// Voters with an old enough connection, this one included, one left out.
    fn connected_count(&self, without: Option<u64>) -> usize {
        let voters = self.members.voters().filter(|m| Some(m.id) != without);
        voters.filter(|m| m.id == self.id || self.is_connected(m.id, CONNECTED_MS)).count()
    }

    /// `is_own`: proposed by this node since it started. One from before its restart says nothing about whether it
    /// has caught up.
    pub(crate) fn apply_attributes(
        &mut self,
        id: u64,
        name: String,
        client_urls: Vec<String>,
        is_own: bool,
    ) {
        let member = self.members.set_attributes(id, name, client_urls);
        if let Some(member) = member {
            let json = member.to_json();
            self.backend.set(Table::Members, format!("{id:x}"), json);
        }
        if id == self.id && is_own && self.publish != Publish::Done {
            self.publish = Publish::Done;
            let attributes = format!(
                "{{Name:{} ClientURLs:[{}]}}",
                self.config.name,
                self.config.client_urls.join(" ")
            );
            self.info(
                "published local member to cluster through raft",
                vec![
                    ("local-member-id", format!("{:x}", self.id)),
                    ("local-member-attributes", attributes),
                    ("cluster-id", format!("{:x}", self.cluster_id)),
                    ("publish-timeout", format!("{}s", self.config.request_timeout_ms() / 1000)),
                ],
            );
            self.out.events.push(NodeEvent::Serving);
        }
        self.out.events.push(NodeEvent::MembersChanged);
    }

    /// Tells the cluster this member's name and URLs, until it is applied here.
    pub(crate) fn publish(&mut self) {
        if self.publish == Publish::Done {
            return;
        }
        let is_due = match self.publish {
            Publish::Wanted => true,
            Publish::Proposed { id, again_at } => {
                self.now >= again_at && !self.proposals.contains_key(&id)
            }
            Publish::Done => false,
        };
        if !is_due || !self.has_leader() || self.members.member(self.id).is_none() {
            return;
        }
        let attributes = membershippb::Attributes {
            name: self.config.name.clone(),
            client_urls: self.config.client_urls.clone(),
        };
        let request = membershippb::ClusterMemberAttrSetRequest {
            member_id: self.id,
            member_attributes: Some(attributes),
        };
        let id = self.propose_own(&Command::ClusterMemberAttrSet(request));
        let again_at = self.now + self.config.request_timeout_ms();
        self.publish = Publish::Proposed { id, again_at };
    }

    /// The leader decides the cluster's version: the lowest that any member runs.
    pub(crate) fn check_versions(&mut self) {
        if !self.raft.is_leader() || !self.lessor.is_primary() || self.now < self.next_version_check
        {
            return;
        }
        self.next_version_check = self.now + VERSION_CHECK_MS;
        let own = parse_version(SERVER_VERSION);
        let mut lowest = own;
        for member in self.members.iter().filter(|m| m.id != self.id) {
            let version = self.peers.get(&member.id).and_then(|peer| peer.version);
            lowest = lowest.zip(version).map(|(a, b)| a.min(b));
        }
        let known = self.cluster_version.as_deref().and_then(parse_version);
        let target = self.downgrade_target();
        let decided = match (known, lowest, target) {
            (None, None, _) => VERSION_UNSURE.to_owned(),
            (Some(_), None, _) => return,
            (Some(known), Some(lowest), Some(target)) => {
                match self.lowered(&target, known, lowest) {
                    Some((major, minor)) => format!("{major}.{minor}.0"),
                    None => return,
                }
            }
            (_, Some((major, minor)), None) if known < Some((major, minor)) => {
                format!("{major}.{minor}.0")
            }
            (None, Some((major, minor)), _) => format!("{major}.{minor}.0"),
            (Some(_), Some(_), None) => return,
        };
        let to = short_version(&decided).to_owned();
        match self.cluster_version.as_deref().map(|from| short_version(from).to_owned()) {
            None => self.info(
                "setting up initial cluster version using v3 API",
                vec![("cluster-version", to)],
            ),
            Some(from) => {
                self.info(
                    "updating cluster version using v3 API",
                    vec![("from", from), ("to", to)],
                );
            }
        }
        let set = membershippb::ClusterVersionSetRequest { ver: decided };
        self.propose_own(&Command::ClusterVersionSet(set));
    }

    pub(crate) fn apply_cluster_version(&mut self, version: &str) {
        if parse_version(version) > parse_version(CLUSTER_VERSION) {
            let reason = format!("cluster version {version} is above this server's");
            return self.fail(&reason);
        }
        let ids = || {
            let (cluster, local) = (format!("{:x}", self.cluster_id), format!("{:x}", self.id));
            vec![("cluster-id", cluster), ("local-member-id", local)]
        };
        let (mut fields, to) = (ids(), short_version(version).to_owned());
        let before = self.cluster_version.replace(version.to_owned());
        match before.as_deref().map(|from| short_version(from).to_owned()) {
            None => {
                fields.push(("cluster-version", to));
                self.info("set initial cluster version", fields);
            }
            Some(from) => {
                fields.extend([("from", from), ("to", to)]);
                self.info("updated cluster version", fields);
            }
        }
        let value = Bytes::copy_from_slice(version.as_bytes());
        self.backend.set(Table::Cluster, Bytes::from_static(b"clusterVersion"), value.clone());
        // The schema follows the cluster, not the binary.
        if parse_version(version) >= Some((3, 5)) {
            self.backend.set(Table::Meta, Bytes::from_static(b"storageVersion"), value);
        }
        if let Some(target) = self.downgrade_target() {
            let own = SERVER_VERSION.to_owned();
            let fields = vec![("target-version", target), ("server-version", own)];
            self.info("The server is ready to downgrade", fields);
        }
        self.out.events.push(NodeEvent::MembersChanged);
    }
}

/// `X.Y` of `X.Y.Z`.
pub fn short_version(version: &str) -> &str {
    version.rsplit_once('.').map_or(version, |(short, _)| short)
}

/// Major and minor of `X.Y.Z` or `X.Y`.
pub fn parse_version(text: &str) -> Option<(u64, u64)> {
    let mut parts = text.split('.');
    let major = parts.next()?.parse().ok()?;
    let minor = parts.next()?.parse().ok()?;
    Some((major, minor))
}

fn to_proto(member: &Member) -> pb::Member {
    pb::Member {
        id: member.id,
        name: member.name.clone(),
        peer_ur_ls: member.peer_urls.clone(),
        client_ur_ls: member.client_urls.clone(),
        is_learner: member.is_learner,
    }
}
