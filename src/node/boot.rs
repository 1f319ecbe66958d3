//! How a node comes to be: founding a cluster, joining one, or going on where the disk says it stopped.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;

use bytes::Bytes;
use norn_mvcc::{KeyIndex, KeyValue, Revision, Store};
use norn_planted::planted;
use norn_proto::{etcdserverpb as pb, leasepb};
use norn_raft::{
    Config as RaftConfig, Entry, EntryKind, HardState, Index, LogLevel, MemStorage, NodeId, Peer,
    RawNode, Snapshot, Term, codec,
};
use norn_storage::revlog::{Recovered, RevLogError, RevLogOptions, RevisionLog, Table};
use norn_storage::wal::{Wal, WalError, WalOptions, WalPosition, WalState};
use norn_storage::{Disk, DiskError, DiskOp, FileName};
use prost::Message;

use crate::backend::Backend;
use crate::cluster::parse_version;
use crate::compactor::Compactor;
use crate::config::{CLUSTER_VERSION, Config, Start};
use crate::counters::Counters;
use crate::disk_work::DiskWork;
use crate::export::Exports;
use crate::image::{self, Images};
use crate::import::{consistent_index, import, wipe};
use crate::input::{NodeEvent, Ready};
use crate::lease::Lessor;
use crate::members::{Member, Members, cluster_id};
use crate::node::{Publish, RequestIds};
use crate::reads::Reads;
use crate::received::Received;
use crate::watchers::Watchers;
use crate::{Node, Reader, Time};

/// Why a node could not be opened, for the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootError(pub String);

impl fmt::Display for BootError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BootError {}

impl From<DiskError> for BootError {
    fn from(error: DiskError) -> BootError {
        BootError(error.to_string())
    }
}

impl From<WalError> for BootError {
    fn from(error: WalError) -> BootError {
        BootError(error.to_string())
    }
}

impl From<RevLogError> for BootError {
    fn from(error: RevLogError) -> BootError {
        BootError(error.to_string())
    }
}

/// The parts that come from the revision log.
struct State {
    store: Store,
    lessor: Lessor,
    members: Members,
    alarms: BTreeSet<(u64, i32)>,
    cluster_version: Option<String>,
    /// Revision of the image that the index comes from, and bytes read behind it.
    image: Option<i64>,
    scanned_bytes: u64,
    /// Why an image that was there is not what the index comes from.
    image_refused: Option<String>,
}

/// Who this node is, and its raft.
struct Identity {
    id: u64,
    cluster_id: u64,
    raft: RawNode,
    wal: Wal,
    saved: WalState,
}

impl Config {
    fn revlog_options(&self) -> RevLogOptions {
        RevLogOptions { segment_bytes: self.revlog_segment_bytes, cache_bytes: self.cache_bytes }
    }

    fn wal_options(&self) -> WalOptions {
        WalOptions { segment_bytes: self.wal_segment_bytes }
    }

    fn raft(&self, id: u64, applied: u64) -> RaftConfig {
        let mut raft = RaftConfig::new(NodeId(id), self.seed ^ id);
        raft.election_ticks = self.election_ticks;
        raft.heartbeat_ticks = 1;
        raft.applied = Index(applied);
        raft.message_bytes_max = self.message_bytes_max;
        raft.uncommitted_bytes_max = self.limits.uncommitted_bytes;
        raft.inflight_messages_max = self.limits.inflight_messages;
        raft.reads_max = self.limits.reads;
        raft.check_quorum = true;
        raft.pre_vote = self.pre_vote;
        raft.async_storage_writes = true;
        raft
    }
}

impl<R: Reader> Node<R> {
    /// Opens a node on a disk. `reader` is a second handle of the same disk, kept for reads.
    ///
    /// # Errors
    /// Whatever keeps it from starting, with file and offset where bytes are at fault.
    pub fn open<D: Disk>(
        disk: &mut D,
        reader: R,
        config: Config,
        now: Time,
    ) -> Result<Node<R>, BootError> {
        for dir in [&config.snap_dir, &config.rev_dir] {
            make_dir(disk, dir)?;
        }
        for name in disk.list(&config.snap_dir)? {
            if name.starts_with("tmp") {
                let file = FileName::new(format!("{}/{name}", config.snap_dir));
                disk.execute(&DiskOp::Remove { file })?;
            }
        }
        let (log, recovered, identity) = if Wal::exists(disk, &config.wal_dir)? {
            restart(disk, &reader, &config)?
        } else {
            // A log without a WAL is left over from a start that did not get far.
            wipe(disk, &config.rev_dir)?;
            let dir = config.rev_dir.clone();
            let (log, recovered) =
                RevisionLog::open(disk, reader.clone(), dir, config.revlog_options())?;
            (log, recovered, begin(disk, &config)?)
        };
        Node::assemble(config, log, recovered, reader, identity, now)
    }

    fn assemble(
        config: Config,
        log: RevisionLog<R>,
        recovered: Recovered,
        reader: R,
        identity: Identity,
        now: Time,
    ) -> Result<Node<R>, BootError> {
        let (applied, applied_term) = (log.applied_index(), log.term());
        let state = State::read(&log, recovered, &config)?;
        let Identity { id, cluster_id, raft, wal, saved } = identity;
        let unix_ms = config.unix_ms_at_zero + now.ms;
        let fragment_bytes = config.request_bytes_max + (512 << 10);
        let work = DiskWork::new(saved, log.durable_index(), applied);
        let mut node = Node {
            id,
            cluster_id,
            now,
            next_tick: now + config.tick_ms,
            last_tick: now,
            doubt: None,
            raft,
            wal,
            work,
            backend: Backend::new(log, reader),
            store: state.store,
            lessor: state.lessor,
            members: state.members,
            alarms: state.alarms,
            alarm_counts: BTreeMap::new(),
            applied,
            applied_term,
            cluster_version: state.cluster_version,
            ids: RequestIds::new(id, unix_ms, config.seed),
            proposals: BTreeMap::new(),
            proposal_deadlines: VecDeque::new(),
            to_propose: Vec::new(),
            changes: BTreeMap::new(),
            reads: Reads::default(),
            received: Received::default(),
            transfers: Vec::new(),
            lease_waits: BTreeMap::new(),
            compact_waits: Vec::new(),
            peers: BTreeMap::new(),
            watchers: Watchers::new(
                fragment_bytes,
                config.watch_progress_interval_ms,
                config.watch_limits,
            ),
            compactor: Compactor::new(config.auto_compaction, now),
            exports: Exports::default(),
            images: Images::new(state.scanned_bytes, state.image),
            publish: Publish::Wanted,
            next_lease_scan: now,
            next_version_check: now,
            next_downgrade_check: now + config.downgrade_check_ms.unwrap_or(0),
            last_leader: NodeId::NONE,
            leader_elected_at: None,
            is_failed: false,
            alarm_proposed: None,
            out: Ready::default(),
            is_out: false,
            counters: Counters::default(),
            ticks_advanced: false,
            config,
        };
        node.out.events.push(NodeEvent::MembersChanged);
        if let Some(reason) = state.image_refused {
            node.warn(
                "index image not used; the index comes from the log",
                vec![("error", reason)],
            );
        }
        node.info(
            "key index is ready",
            vec![
                ("keys", node.store.index().key_count().to_string()),
                ("image-revision", state.image.unwrap_or(0).to_string()),
                ("scanned-bytes", state.scanned_bytes.to_string()),
            ],
        );
        if node.config.tick_advance && node.raft.conf_state().voters.len() == 1 {
            node.info(
                "started as single-node; fast-forwarding election ticks",
                vec![
                    ("local-member-id", format!("{id:x}")),
                    ("forward-ticks", (node.config.election_ticks - 1).to_string()),
                    ("election-ticks", node.config.election_ticks.to_string()),
                ],
            );
            node.advance_ticks(1);
        }
        Ok(node)
    }

    /// Lets a fresh start be short: all ticks of an election timeout but `left`.
    pub(crate) fn advance_ticks(&mut self, left: u32) {
        if !std::mem::replace(&mut self.ticks_advanced, true) && self.config.tick_advance {
            for _ in left..self.config.election_ticks {
                self.raft.tick();
            }
        }
    }

    /// Whether the host must call [`Node::install`] before anything else.
    pub fn wants_install(&self) -> bool {
        let is_idle = self.disk_is_idle() || planted!(InstallBesideWrites);
        self.work.install.is_some() && is_idle && !self.is_failed
    }

    /// Replaces the state by a received snapshot. Blocks for as long as reading the database takes.
    pub fn install<D: Disk>(&mut self, disk: &mut D) {
        assert!(self.wants_install(), "nothing to install, or the disk is busy");
        if let Err(error) = self.try_install(disk) {
            self.fail(&format!("snapshot: {error}"));
        }
    }

    fn try_install<D: Disk>(&mut self, disk: &mut D) -> Result<(), BootError> {
        let Some(install) = self.work.install.take() else { return Ok(()) };
        let reader = self.backend.reader().clone();
        let (dir, options) = (&self.config.rev_dir, self.config.revlog_options());
        let log = import(disk, &reader, dir, options, &install.file)?;
        if log.applied_index() != install.snapshot.index.0 {
            return Err(BootError(format!(
                "database ({} index {}) does not match with snapshot (index {})",
                install.file,
                log.applied_index(),
                install.snapshot.index
            )));
        }
        let state = State::read(&log, Recovered::default(), &self.config)?;
        self.applied = log.applied_index();
        self.applied_term = log.term();
        self.work.checkpoint_index = self.applied;
        self.work.checkpoint_appended = log.appended_bytes();
        self.work.memory_index = self.applied;
        self.work.has_applied = false;
        // What was appended to the old log is part of nothing any more.
        self.received.forget_removals(&self.work.bulk_parts);
        self.work.forget_bulk();
        self.restart_export();
        self.images = Images::new(log.appended_bytes() + state.scanned_bytes, None);
        self.backend = Backend::new(log, reader);
        self.store = state.store;
        if !planted!(LeasesKept) {
            self.lessor = state.lessor;
        }
        self.members = state.members;
        self.alarms = state.alarms;
        self.cluster_version = state.cluster_version;
        self.watchers.reset();
        self.received.waiting.remove(&install.snapshot.index.0);
        self.out.events.push(NodeEvent::MembersChanged);
        self.info(
            "applied snapshot",
            vec![
                ("snapshot-index", install.snapshot.index.to_string()),
                ("snapshot-term", install.snapshot.term.to_string()),
            ],
        );
        // (Refused only when the log already is beyond it.)
        let _ = self.raft.storage_mut().apply_snapshot(install.snapshot);
        self.appended(install.append);
        Ok(())
    }
}

impl State {
    /// Rebuilds everything kept in memory from the log: leases before keys, keys before their leases' lists.
    fn read<R: Reader>(
        log: &RevisionLog<R>,
        recovered: Recovered,
        config: &Config,
    ) -> Result<State, BootError> {
        let auth_enabled = log.table(Table::Auth).get(&b"authEnabled"[..]);
        if auth_enabled.is_some_and(|value| value[..] == [1]) {
            let text = "authentication is enabled in this data, which this version cannot enforce";
            return Err(BootError(text.into()));
        }
        let mut lessor = Lessor::new(config.lease_ttl_min());
        for value in log.table(Table::Lease).values() {
            let lease = leasepb::Lease::decode(value.clone())
                .map_err(|error| BootError(format!("stored lease: {error}")))?;
            lessor.restore(lease.id, lease.ttl, lease.remaining_ttl);
        }
        let mut image_refused = recovered.index_damage.map(|error| error.to_string());
        let mut image = None;
        let mut index = KeyIndex::new();
        if let Some((main, bytes)) = recovered.index_image {
            match image::decode(&bytes, log.last_main().max(1), &mut lessor) {
                Ok(decoded) => (image, index) = (Some(main), decoded),
                Err(reason) => {
                    lessor.detach_all();
                    image_refused = Some(format!("image of revision {main}: {reason}"));
                }
            }
        }
        let (last, scanned_bytes) = read_on(log, image, &mut index, &mut lessor)?;
        let meta = log.table(Table::Meta);
        let revision = |key: &[u8]| {
            meta.get(key).and_then(|value| Revision::from_bytes(value)).map_or(-1, |(r, _)| r.main)
        };
        let (finished, scheduled) =
            (revision(b"finishedCompactRev"), revision(b"scheduledCompactRev"));
        let store = Store::restore(index, last, finished, scheduled);
        let mut alarms = BTreeSet::new();
        for key in log.table(Table::Alarm).keys() {
            let alarm = pb::AlarmMember::decode(key.clone())
                .map_err(|error| BootError(format!("stored alarm: {error}")))?;
            alarms.insert((alarm.member_id, alarm.alarm));
        }
        let version = log.table(Table::Cluster).get(&b"clusterVersion"[..]);
        let cluster_version = version.map(|v| String::from_utf8_lossy(v).into_owned());
        if let Some(version) = &cluster_version
            && parse_version(version) > parse_version(CLUSTER_VERSION)
        {
            return Err(BootError(format!(
                "invalid downgrade; server version is lower than determined cluster version: \
                 {CLUSTER_VERSION} < {version}"
            )));
        }
        Ok(State {
            store,
            lessor,
            members: stored_members(log)?,
            alarms,
            cluster_version,
            image,
            scanned_bytes,
            image_refused,
        })
    }
}

fn stored_members<R: Reader>(log: &RevisionLog<R>) -> Result<Members, BootError> {
    let mut members = Vec::new();
    for json in log.table(Table::Members).values() {
        let member = Member::from_json(json)
            .map_err(|error| BootError(format!("stored member: {error}")))?;
        members.push(member);
    }
    let removed = log.table(Table::MembersRemoved).keys();
    let removed = removed
        .filter_map(|key| u64::from_str_radix(std::str::from_utf8(key).ok()?, 16).ok())
        .collect();
    Ok(Members::new(members, removed))
}

/// Brings an index up to date by reading the log behind it. Returns the last revision, and how many bytes were read.
fn read_on<R: Reader>(
    log: &RevisionLog<R>,
    behind: Option<i64>,
    index: &mut KeyIndex,
    lessor: &mut Lessor,
) -> Result<(i64, u64), BootError> {
    let mut last = behind.unwrap_or(1);
    let mut bytes = 0;
    let mut failed = None;
    log.scan((behind.map_or(0, |main| main + 1), 0), i64::MAX, &mut |main, sub, dead, record| {
        let kv = match KeyValue::decode(record) {
            Ok(kv) => kv,
            Err(error) => {
                failed = Some(BootError(format!("revision {main}.{sub}: {error}")));
                return std::ops::ControlFlow::Break(());
            }
        };
        let revision = Revision::new(main, sub);
        index.restore(&kv.key, revision, dead, kv.create_revision, kv.version);
        if dead {
            lessor.detach(&kv.key);
        } else {
            // The lease may be gone: then the key was put without it, or is about to be deleted.
            lessor.attach(&Bytes::copy_from_slice(&kv.key), kv.lease);
        }
        last = if planted!(RevisionOfSurvivors) && dead { last } else { main };
        bytes += record.len() as u64;
        std::ops::ControlFlow::Continue(())
    })?;
    match failed {
        Some(error) => Err(error),
        None if planted!(RevisionOfSurvivors) => Ok((last, bytes)),
        None => Ok((last.max(log.last_main()), bytes)),
    }
}

/// Makes a directory whose name survives a crash, and so do those of its parents.
fn make_dir<D: Disk>(disk: &mut D, dir: &FileName) -> Result<(), BootError> {
    disk.execute(&DiskOp::MakeDir { dir: dir.clone() })?;
    let mut path = dir.as_str();
    while let Some((parent, _)) = path.rsplit_once('/') {
        disk.execute(&DiskOp::SyncDir { dir: FileName::new(parent) })?;
        path = parent;
    }
    disk.execute(&DiskOp::SyncDir { dir: FileName::new("") })?;
    Ok(())
}

/// First start: founding or joining.
fn begin<D: Disk>(disk: &mut D, config: &Config) -> Result<Identity, BootError> {
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

fn restart<D: Disk, R: Reader>(
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
