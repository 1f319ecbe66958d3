//! Who belongs to the cluster: ids, URLs, learners, and the rules for changing that.
//!
//! Two sources agree on every member: log entries (`ConfChange` with a JSON context) and the tables of the revision
//! log, which hold the same JSON. Ids of removed members never come back.

use std::collections::{BTreeMap, BTreeSet};

use norn_raft::{ConfChangeKind, ConfState, NodeId};
use serde::{Deserialize, Serialize};
use sha1::{Digest, Sha1};

use crate::Error;

/// One member, in the field order of etcd's JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    pub id: u64,
    #[serde(rename = "peerURLs", deserialize_with = "nullable")]
    pub peer_urls: Vec<String>,
    #[serde(rename = "isLearner", default, skip_serializing_if = "is_false")]
    pub is_learner: bool,
    /// Empty until the member started and published itself.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(
        rename = "clientURLs",
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "nullable"
    )]
    pub client_urls: Vec<String>,
}

/// The context of a membership entry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeContext {
    #[serde(flatten)]
    pub member: Member,
    #[serde(rename = "isPromote", default)]
    pub is_promote: bool,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // the signature serde asks for
fn is_false(flag: &bool) -> bool {
    !*flag
}

/// Go writes an absent list as `null`.
fn nullable<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

impl Member {
    /// A member with the id that its URLs, the cluster's token and (for one added later) the time give it.
    pub fn new(
        name: &str,
        mut peer_urls: Vec<String>,
        token: &str,
        added_unix_seconds: Option<u64>,
    ) -> Member {
        peer_urls.sort();
        let mut hash = Sha1::new();
        for url in &peer_urls {
            hash.update(url);
        }
        hash.update(token);
        if let Some(seconds) = added_unix_seconds {
            hash.update(seconds.to_string());
        }
        let id = first_eight(&hash.finalize());
        Member { id, peer_urls, name: name.to_owned(), ..Member::default() }
    }

    pub fn to_json(&self) -> String {
        go_json(self)
    }

    pub fn from_json(json: &[u8]) -> Result<Member, serde_json::Error> {
        serde_json::from_slice(json)
    }

    /// Known by name means: it ran once.
    pub fn is_started(&self) -> bool {
        !self.name.is_empty()
    }
}

impl ChangeContext {
    pub fn to_json(&self) -> String {
        go_json(self)
    }
}

/// JSON with the three escapes that Go adds.
fn go_json<T: Serialize>(value: &T) -> String {
    let json = serde_json::to_string(value).expect("plain data has a JSON form");
    json.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026")
}

fn first_eight(digest: &[u8]) -> u64 {
    u64::from_be_bytes(digest[..8].try_into().expect("a digest is longer than eight bytes"))
}

/// SHA-1 over the member ids in ascending order.
pub fn cluster_id(members: impl IntoIterator<Item = u64>) -> u64 {
    let ids: BTreeSet<u64> = members.into_iter().collect();
    let mut hash = Sha1::new();
    for id in ids {
        hash.update(id.to_be_bytes());
    }
    first_eight(&hash.finalize())
}

/// All members now, and all that ever left.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    members: BTreeMap<u64, Member>,
    removed: BTreeSet<u64>,
}

impl Members {
    pub fn new(members: impl IntoIterator<Item = Member>, removed: BTreeSet<u64>) -> Members {
        Members { members: members.into_iter().map(|m| (m.id, m)).collect(), removed }
    }

    /// Ascending by id.
    pub fn iter(&self) -> impl Iterator<Item = &Member> {
        self.members.values()
    }

    pub fn len(&self) -> usize {
        self.members.len()
    }

    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    pub fn member(&self, id: u64) -> Option<&Member> {
        self.members.get(&id)
    }

    pub fn is_removed(&self, id: u64) -> bool {
        self.removed.contains(&id)
    }

    pub fn removed(&self) -> impl Iterator<Item = u64> + '_ {
        self.removed.iter().copied()
    }

    pub fn voters(&self) -> impl Iterator<Item = &Member> {
        self.members.values().filter(|m| !m.is_learner)
    }

    pub fn conf_state(&self) -> ConfState {
        let ids = |learner: bool| {
            let members = self.members.values().filter(move |m| m.is_learner == learner);
            members.map(|m| NodeId(m.id)).collect()
        };
        ConfState { voters: ids(false), learners: ids(true), ..ConfState::default() }
    }

    /// Whether a committed change may take effect; the answer is the same on every member.
    pub fn check(
        &self,
        kind: ConfChangeKind,
        id: u64,
        change: &ChangeContext,
        learners_max: usize,
    ) -> Result<(), Error> {
        if self.removed.contains(&id) {
            return Err(Error::MemberNotFound);
        }
        let used = |by: Option<u64>| {
            let others = self.members.values().filter(|m| Some(m.id) != by);
            let mut urls = others.flat_map(|m| &m.peer_urls);
            urls.any(|url| change.member.peer_urls.contains(url))
        };
        match kind {
            ConfChangeKind::AddNode if change.is_promote => match self.members.get(&id) {
                None => Err(Error::MemberNotFound),
                Some(member) if !member.is_learner => Err(Error::MemberNotLearner),
                Some(_) => Ok(()),
            },
            ConfChangeKind::AddNode | ConfChangeKind::AddLearnerNode => {
                if self.members.contains_key(&id) {
                    return Err(Error::MemberExists);
                }
                if used(None) {
                    return Err(Error::PeerUrlExists);
                }
                let learners = self.members.values().filter(|m| m.is_learner).count();
                if change.member.is_learner && learners >= learners_max {
                    return Err(Error::TooManyLearners);
                }
                Ok(())
            }
            ConfChangeKind::RemoveNode => match self.members.contains_key(&id) {
                true => Ok(()),
                false => Err(Error::MemberNotFound),
            },
            ConfChangeKind::UpdateNode => {
                if !self.members.contains_key(&id) {
                    return Err(Error::MemberNotFound);
                }
                if used(Some(id)) {
                    return Err(Error::PeerUrlExists);
                }
                Ok(())
            }
        }
    }

    /// Makes a checked change. Returns the member as it is now (`None` when removed).
    pub fn apply(
        &mut self,
        kind: ConfChangeKind,
        id: u64,
        change: &ChangeContext,
    ) -> Option<&Member> {
        match kind {
            ConfChangeKind::AddNode if change.is_promote => {
                let member = self.members.get_mut(&id)?;
                member.is_learner = false;
            }
            ConfChangeKind::AddNode | ConfChangeKind::AddLearnerNode => {
                self.members.insert(id, change.member.clone());
            }
            ConfChangeKind::RemoveNode => {
                self.members.remove(&id);
                self.removed.insert(id);
            }
            ConfChangeKind::UpdateNode => {
                let member = self.members.get_mut(&id)?;
                member.peer_urls.clone_from(&change.member.peer_urls);
            }
        }
        self.members.get(&id)
    }

    /// What a member says of itself. Returns it, unless it is no member (any more).
    pub fn set_attributes(
        &mut self,
        id: u64,
        name: String,
        client_urls: Vec<String>,
    ) -> Option<&Member> {
        let member = self.members.get_mut(&id)?;
        member.name = name;
        member.client_urls = client_urls;
        Some(member)
    }

    fn started_voters(&self) -> usize {
        self.voters().filter(|m| m.is_started()).count()
    }

    /// Strict check: may a voter be added without losing the quorum at once?
    pub fn can_add_voter(&self) -> bool {
        let (started, voters) = (self.started_voters(), self.voters().count());
        (started == 1 && voters == 1) || started >= quorum(voters + 1)
    }

    /// Strict check: does a quorum of started voters remain without this voter?
    pub fn can_remove_voter(&self, id: u64) -> bool {
        let left: Vec<&Member> = self.voters().filter(|m| m.id != id).collect();
        let started = left.iter().filter(|m| m.is_started()).count();
        !left.is_empty() && started >= quorum(left.len())
    }

    /// Strict check: as for adding, with the learner counted as started.
    pub fn can_promote(&self) -> bool {
        self.started_voters() + 1 >= quorum(self.voters().count() + 1)
    }

    /// The tree that etcd 3.6 keeps its members in, as JSON: it travels in `.snap` files and snapshot messages.
    pub fn v2_store_json(&self, cluster_version: Option<&str>) -> String {
        let leaf = |path: String, value: String| {
            serde_json::json!({
                "Path": path, "CreatedIndex": 0, "ModifiedIndex": 0,
                "ExpireTime": "0001-01-01T00:00:00Z", "Value": value, "Children": null,
            })
        };
        let dir = |path: String, children: serde_json::Map<String, serde_json::Value>| {
            serde_json::json!({
                "Path": path, "CreatedIndex": 0, "ModifiedIndex": 0,
                "ExpireTime": "0001-01-01T00:00:00Z", "Value": "", "Children": children,
            })
        };
        let mut members = serde_json::Map::new();
        for member in self.members.values() {
            let path = format!("/0/members/{:x}", member.id);
            let mut raft = serde_json::Map::new();
            raft.insert("peerURLs".into(), member.peer_urls.clone().into());
            if member.is_learner {
                raft.insert("isLearner".into(), true.into());
            }
            let raft = serde_json::Value::Object(raft).to_string();
            let mut children = serde_json::Map::new();
            children.insert("raftAttributes".into(), leaf(format!("{path}/raftAttributes"), raft));
            if !member.client_urls.is_empty() {
                let attributes = serde_json::json!({
                    "name": member.name, "clientURLs": member.client_urls,
                });
                children.insert(
                    "attributes".into(),
                    leaf(format!("{path}/attributes"), attributes.to_string()),
                );
            }
            members.insert(format!("{:x}", member.id), dir(path, children));
        }
        let mut removed = serde_json::Map::new();
        for id in &self.removed {
            let path = format!("/0/removed_members/{id:x}");
            removed.insert(format!("{id:x}"), leaf(path, String::new()));
        }
        let mut cluster = serde_json::Map::new();
        cluster.insert("members".into(), dir("/0/members".into(), members));
        cluster.insert("removed_members".into(), dir("/0/removed_members".into(), removed));
        if let Some(version) = cluster_version {
            cluster.insert("version".into(), leaf("/0/version".into(), version.into()));
        }
        let mut root = serde_json::Map::new();
        root.insert("0".into(), dir("/0".into(), cluster));
        root.insert("1".into(), dir("/1".into(), serde_json::Map::new()));
        serde_json::json!({
            "Root": dir("/".into(), root), "CurrentIndex": 0, "CurrentVersion": 2,
        })
        .to_string()
    }
}

/// Smallest majority.
pub fn quorum(voters: usize) -> usize {
    voters / 2 + 1
}

/// `http://10.0.0.1:2380` and the like: a scheme that peers can speak, host and port, nothing behind.
pub fn is_peer_url(url: &str) -> bool {
    let Some((scheme, rest)) = url.split_once("://") else { return false };
    match scheme {
        "unix" | "unixs" => !rest.is_empty(),
        "http" | "https" => match rest.rsplit_once(':') {
            Some((_, port)) => port.parse::<u16>().is_ok(),
            None => false,
        },
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_etcds() {
        let member = Member::new("m", vec!["http://localhost:2380".into()], "etcd-cluster", None);
        assert_eq!(member.id, 0x8e9e_05c5_2164_694d);
        assert_eq!(cluster_id([member.id]), 0xcdf8_1819_4e3a_8c32);
    }

    #[test]
    fn json_is_etcds() {
        let mut member =
            Member::new("", vec!["http://b:1".into(), "http://a:1".into()], "t", Some(5));
        member.id = 7;
        assert_eq!(member.to_json(), r#"{"id":7,"peerURLs":["http://a:1","http://b:1"]}"#);
        member.is_learner = true;
        member.name = "n<1>".into();
        let json = member.to_json();
        let want = r#"{"id":7,"peerURLs":["http://a:1","http://b:1"],"isLearner":true,"name":"n\u003c1\u003e"}"#;
        assert_eq!(json, want);
        assert_eq!(Member::from_json(json.as_bytes()).unwrap(), member);
        let promote: ChangeContext =
            serde_json::from_str(r#"{"id":9,"peerURLs":null,"isPromote":true}"#).unwrap();
        assert!(promote.is_promote && promote.member.peer_urls.is_empty());
    }

    #[test]
    fn refused_changes() {
        let a = Member::new("a", vec!["http://a:1".into()], "t", None);
        let mut b = Member::new("b", vec!["http://b:1".into()], "t", None);
        b.is_learner = true;
        let mut members = Members::new([a.clone(), b.clone()], BTreeSet::new());
        let with = |member: &Member| ChangeContext { member: member.clone(), is_promote: false };
        let promote = ChangeContext { is_promote: true, ..ChangeContext::default() };
        let add = ConfChangeKind::AddNode;
        assert_eq!(members.check(add, a.id, &with(&a), 1), Err(Error::MemberExists));
        assert_eq!(members.check(add, 99, &with(&a), 1), Err(Error::PeerUrlExists));
        assert_eq!(members.check(add, a.id, &promote, 1), Err(Error::MemberNotLearner));
        assert_eq!(members.check(add, 99, &promote, 1), Err(Error::MemberNotFound));
        let mut c = Member::new("c", vec!["http://c:1".into()], "t", None);
        c.is_learner = true;
        let learner = ConfChangeKind::AddLearnerNode;
        assert_eq!(members.check(learner, c.id, &with(&c), 1), Err(Error::TooManyLearners));
        assert_eq!(members.check(add, b.id, &promote, 1), Ok(()));
        members.apply(add, b.id, &promote);
        assert_eq!(members.conf_state().voters.len(), 2);
        members.apply(ConfChangeKind::RemoveNode, b.id, &ChangeContext::default());
        assert_eq!(members.check(add, b.id, &with(&b), 1), Err(Error::MemberNotFound));
    }

    #[test]
    fn strict_checks() {
        let named =
            |name: &str, port: u16| Member::new(name, vec![format!("http://h:{port}")], "t", None);
        let one = Members::new([named("a", 1)], BTreeSet::new());
        assert!(one.can_add_voter() && !one.can_remove_voter(named("a", 1).id));
        let half = Members::new([named("a", 1), named("", 2)], BTreeSet::new());
        assert!(!half.can_add_voter());
        assert!(half.can_remove_voter(named("", 2).id));
        let full = Members::new([named("a", 1), named("b", 2)], BTreeSet::new());
        assert!(full.can_add_voter() && full.can_promote());
    }
}
