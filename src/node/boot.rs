//! How a node comes to be: founding a cluster, joining one, or going on where the disk says it stopped.

mod identity;
mod state;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;

use norn_planted::planted;
use norn_raft::{Config as RaftConfig, Index, NodeId};
use norn_storage::revlog::{Recovered, RevLogError, RevLogOptions, RevisionLog};
use norn_storage::wal::{Wal, WalError, WalOptions};
use norn_storage::{Disk, DiskError, DiskOp, FileName};

use self::identity::{Identity, begin, restart};
use self::state::State;
use crate::backend::Backend;
use crate::compactor::Compactor;
use crate::config::Config;
use crate::counters::Counters;
use crate::disk_work::DiskWork;
use crate::export::Exports;
use crate::house::House;
use crate::image::Images;
use crate::import::{import, wipe};
use crate::input::{NodeEvent, Ready};
use crate::mail::Mail;
use crate::node::Publish;
use crate::pace::Pace;
use crate::reads::Reads;
use crate::received::Received;
use crate::request_ids::RequestIds;
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

impl Config {
    fn revlog_options(&self) -> RevLogOptions {
        RevLogOptions { segment_bytes: self.revlog_segment_bytes, cache_bytes: self.cache_bytes }
    }

    fn wal_options(&self) -> WalOptions {
        WalOptions { segment_bytes: self.wal_segment_bytes, spare_pieces: self.wal_spare_pieces }
    }

    /// (One message must fit.)
    pub(crate) fn inflight_bytes(&self) -> u64 {
        self.limits.inflight_bytes.max(self.message_bytes_max)
    }

    fn raft(&self, id: u64, applied: u64) -> RaftConfig {
        let mut raft = RaftConfig::new(NodeId(id), self.seed ^ id);
        raft.election_ticks = self.election_ticks;
        raft.heartbeat_ticks = 1;
        raft.applied = Index(applied);
        raft.message_bytes_max = self.message_bytes_max;
        raft.uncommitted_bytes_max = self.limits.uncommitted_bytes;
        raft.inflight_messages_max = self.limits.inflight_messages;
        raft.inflight_bytes_max = self.inflight_bytes();
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
        let work = DiskWork::new(saved, applied);
        let house = House::new(log.durable_index(), applied);
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
            house,
            compaction: Pace::default(),
            asked_at: Time::default(),
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
            mail: Mail::default(),
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
        self.house.checkpoint_index = self.applied;
        self.house.checkpoint_appended = log.appended_bytes();
        self.house.is_saving = false;
        self.house.memory_index = self.applied;
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
