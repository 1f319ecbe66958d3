//! Who a node is, and its raft: from its first start, or from its disk.

use bytes::Bytes;
use norn_planted::planted;
use norn_proto::etcdserverpb as pb;
use norn_raft::{
    Entry, EntryKind, HardState, Index, LogLevel, MemStorage, NodeId, Peer, RawNode, Snapshot,
    Term, codec,
};
use norn_storage::revlog::{Recovered, RevisionLog};
use norn_storage::wal::{Wal, WalPosition, WalState};
use norn_storage::{Disk, FileName};
use prost::Message;

use super::BootError;
use super::state::stored_members;
use crate::Reader;
use crate::config::{Config, Start};
use crate::import::{consistent_index, import};
use crate::members::{Member, cluster_id};

/// Who this node is, and its raft.
pub(super) struct Identity {
    pub(super) id: u64,
    pub(super) cluster_id: u64,
    pub(super) raft: RawNode,
    pub(super) wal: Wal,
    pub(super) saved: WalState,
}

/// First start: founding or joining.
pub(super) fn begin<D: Disk>(disk: &mut D, config: &Config) -> Result<Identity, BootError> {
    let (id, cluster_id, peers) = match &config.start {
        Start::New { members, .. } => {
            let own = members.iter().find(|m| m.name == config.name).ok_or_else(|| {
                let name = &config.name;
                BootError(format!(
                    "couldn't find local name \"{name}\" in the initial cluster configuration"
                ))
            })?;
            let mut members = members.clone();
            members.sort_by_key(|m| m.id);
            let peers = members
                .iter()
                .map(|m| {
                    // The name is published by the member itself.
                    let founded = Member { name: m.name.clone(), ..m.clone() };
                    Peer { id: NodeId(m.id), context: founded.to_json().into() }
                })
                .collect();
            (own.id, cluster_id(members.iter().map(|m| m.id)), peers)
        }
        Start::Join { cluster_id, member_id, .. } => (*member_id, *cluster_id, Vec::new()),
    };
    let metadata = wal_metadata(id, cluster_id);
    let wal = Wal::create(disk, config.wal_dir.clone(), metadata, config.wal_options())?;
    let mut raft = new_raft(config, id, 0, MemStorage::new())?;
    if !peers.is_empty() {
        raft.bootstrap(peers).map_err(|error| BootError(error.to_string()))?;
    }
    Ok(Identity { id, cluster_id, raft, wal, saved: WalState::default() })
}

pub(super) fn restart<D: Disk, R: Reader>(
    disk: &mut D,
    reader: &R,
    config: &Config,
) -> Result<(RevisionLog<R>, Recovered, Identity), BootError> {
    let snapshot = Wal::newest_snapshot(disk, &config.wal_dir)?;
    let start = snapshot
        .as_ref()
        .map_or(WalPosition::default(), |s| WalPosition { index: s.index, term: s.term });
    let (log, recovered) = open_log(disk, reader, config, start.index)?;
    let dir = config.wal_dir.clone();
    let (wal, replay) = Wal::open(disk, dir, start, config.wal_options())?;
    let (id, cluster_id) = parse_metadata(&replay.metadata)?;
    let applied = log.applied_index();
    let saved = replay.state.unwrap_or_default();
    let mut entries = Vec::with_capacity(replay.entries.len());
    for entry in replay.entries {
        let index = entry.index;
        entries.push(
            codec::decode_entry(entry.data)
                .map_err(|error| BootError(format!("write-ahead log entry {index}: {error}")))?,
        );
    }
    let last = entries.last().map_or(start.index, |e| e.index.0);
    if applied > last {
        return Err(BootError(format!(
            "the revision log has applied entry {applied}, the write-ahead log ends at {last}: \
             restore this member from a snapshot or let it join anew"
        )));
    }
    // (A commit index alone is not synced: the log may know better.)
    let saved_commit = if planted!(CommitForgotten) { 0 } else { saved.commit };
    // The first write has a term in it, behind its entries: without one it was cut short, and nobody heard of it.
    let is_unused = start.index == 0 && saved.term == 0 && applied == 0;
    if is_unused {
        entries.clear();
    }
    let commit = saved_commit.max(applied).max(start.index).max(proven_commit(&entries));
    let vote = NodeId(if planted!(VoteForgotten) { 0 } else { saved.vote });
    let hard_state = HardState { term: Term(saved.term), vote, commit: Index(commit) };
    let conf_state = stored_members(&log)?.conf_state();
    let snapshot = Snapshot {
        data: Bytes::new(),
        index: Index(start.index),
        term: Term(start.term),
        conf_state,
    };
    let storage = MemStorage::recovered(snapshot, hard_state, entries);
    let mut raft = new_raft(config, id, applied, storage)?;
    // (Whoever joined is none of the founders, whatever it is told at its next start: it waits for the leader.)
    if is_unused
        && let Start::New { members, .. } = &config.start
        && members.iter().any(|member| member.id == id)
    {
        // (With a part of the founding members it would know too few of them to ever be told the others.)
        let mut members = members.clone();
        members.sort_by_key(|m| m.id);
        let peers = members
            .iter()
            .map(|m| Peer { id: NodeId(m.id), context: m.to_json().into() })
            .collect();
        raft.bootstrap(peers).map_err(|error| BootError(error.to_string()))?;
    }
    Ok((log, recovered, Identity { id, cluster_id, raft, wal, saved }))
}

/// Up to where a log must be committed, by what it holds: up to the last change of the membership but one, since no leader proposes a
/// change before it has applied the one before.
///
/// The commit index says so, too, but stands behind the entries that came with it, and a crash can come between them. Without it
/// this member could be elected by a majority of the configuration before both changes, which need not meet one of that after them.
fn proven_commit(entries: &[Entry]) -> u64 {
    let mut changes = entries.iter().rev().filter(|entry| entry.kind != EntryKind::Normal);
    changes.nth(1).map_or(0, |entry| entry.index.0)
}

/// The revision log, from whatever holds the newest state: itself, a received snapshot, or an etcd's database.
fn open_log<D: Disk, R: Reader>(
    disk: &mut D,
    reader: &R,
    config: &Config,
    snapshot_index: u64,
) -> Result<(RevisionLog<R>, Recovered), BootError> {
    let (dir, options) = (&config.rev_dir, config.revlog_options());
    let is_new = disk.list(dir)?.is_empty();
    let etcd_db = FileName::new(format!("{}/db", config.snap_dir));
    let received = FileName::new(format!("{}/{snapshot_index:016x}.snap.db", config.snap_dir));
    if is_new && disk.len(&etcd_db)?.is_some() {
        let index = consistent_index(reader, &etcd_db)?;
        if index >= snapshot_index {
            let log = import(disk, reader, dir, options, &etcd_db)?;
            return Ok((log, Recovered::default()));
        }
    } else {
        let opened = RevisionLog::open(disk, reader.clone(), dir.clone(), options);
        let has_received = disk.len(&received)?.is_some();
        let index = match opened {
            Ok((log, recovered)) if recovered.applied_index >= snapshot_index => {
                return Ok((log, recovered));
            }
            Ok((_, recovered)) => recovered.applied_index,
            // An installation that was cut short leaves anything behind, and what it was made from.
            Err(_) if has_received => 0,
            Err(error) => return Err(error.into()),
        };
        let path = dir;
        if !has_received {
            return Err(BootError(format!(
                "database file ({path} index {index}) does not match with snapshot \
                 (index {snapshot_index}), and failed to find database snapshot file \
                 (snap: snapshot file doesn't exist)"
            )));
        }
    }
    if disk.len(&received)?.is_none() {
        return Err(BootError(
            "failed to find database snapshot file (snap: snapshot file doesn't exist)".into(),
        ));
    }
    Ok((import(disk, reader, dir, options, &received)?, Recovered::default()))
}

fn new_raft(
    config: &Config,
    id: u64,
    applied: u64,
    storage: MemStorage,
) -> Result<RawNode, BootError> {
    RawNode::with_log_level(config.raft(id, applied), storage, LogLevel::Info)
        .map_err(|error| BootError(error.to_string()))
}

fn wal_metadata(node_id: u64, cluster_id: u64) -> Bytes {
    let metadata = pb::Metadata { node_id: Some(node_id), cluster_id: Some(cluster_id) };
    metadata.encode_to_vec().into()
}

fn parse_metadata(bytes: &Bytes) -> Result<(u64, u64), BootError> {
    let metadata = pb::Metadata::decode(bytes.clone())
        .map_err(|error| BootError(format!("write-ahead log metadata: {error}")))?;
    Ok((metadata.node_id(), metadata.cluster_id()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_with_two_changes_of_the_membership_is_committed_up_to_the_first() {
        let log = |kinds: &[EntryKind]| -> Vec<Entry> {
            let entries = kinds.iter().zip(5..);
            let entry = |(kind, index): (&EntryKind, u64)| Entry {
                kind: *kind,
                term: Term(2),
                index: Index(index),
                data: Bytes::new(),
            };
            entries.map(entry).collect()
        };
        let (normal, change) = (EntryKind::Normal, EntryKind::ConfChange);
        assert_eq!(proven_commit(&log(&[])), 0);
        assert_eq!(proven_commit(&log(&[normal, change, normal])), 0);
        assert_eq!(proven_commit(&log(&[change, normal, change, normal])), 5);
        assert_eq!(proven_commit(&log(&[change, normal, change, EntryKind::ConfChangeV2])), 7);
    }
}
