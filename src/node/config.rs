//! What a node is told at its start. Checked by whoever parses flags; inside it is taken as given.

use norn_storage::FileName;

use crate::limits::Limits;
use crate::members::Member;
use crate::watchers::WatchLimits;

/// Version that clients and members are told: features are detected by it.
pub const SERVER_VERSION: &str = "3.7.1";
/// Highest cluster version this server takes part in.
pub const CLUSTER_VERSION: &str = "3.7.0";

#[derive(Clone, Debug)]
pub struct Config {
    pub name: String,
    /// Where the WAL, the snapshot files and the revision log are, relative to the root of the disk.
    pub wal_dir: FileName,
    pub snap_dir: FileName,
    pub rev_dir: FileName,
    pub start: Start,
    /// Published to the cluster at every start.
    pub client_urls: Vec<String>,
    /// Milliseconds between heartbeats: one tick.
    pub tick_ms: u64,
    pub election_ticks: u32,
    /// Let a fresh node wait less for its first election.
    pub tick_advance: bool,
    pub pre_vote: bool,
    pub strict_reconfig_check: bool,
    pub learners_max: usize,
    /// 0: 2 GiB. Below 0: no limit.
    pub quota_bytes: i64,
    pub request_bytes_max: usize,
    pub txn_ops_max: usize,
    /// Entries' bytes in one message to a member.
    pub message_bytes_max: u64,
    /// Applied entries between two durable checkpoints: as few, unless that would come too often or cost more than what it is for.
    pub snapshot_count: u64,
    /// Time between two checkpoints, as long as there are not ten times as many entries.
    pub checkpoint_interval_ms: u64,
    /// Entries kept in memory for slow followers.
    pub catch_up_entries: u64,
    /// Applied entries between two compactions of the log in memory.
    pub memory_entries: u64,
    pub wals_max: usize,
    pub snapshots_max: usize,
    pub wal_segment_bytes: u64,
    /// In how many pieces the next segment is prepared.
    pub wal_spare_pieces: u64,
    pub revlog_segment_bytes: u64,
    pub cache_bytes: usize,
    /// Bytes appended to the revision log that make a new index image worth its write, at the least: a restart that finds no image
    /// reads them in a tenth of a second.
    pub image_debt_bytes: u64,
    /// Bytes of an index image, or of what a checkpoint says about deaths, encoded per turn at most: a fraction of a millisecond of work.
    pub image_step_bytes: usize,
    pub auto_compaction: AutoCompaction,
    /// Records that a compaction looks at in one piece, about: a thousand are two milliseconds, where keys have long pasts.
    pub compact_records: usize,
    /// Pause between two pieces, unless nobody asks for anything meanwhile: without it, half of the thread is the compaction's.
    pub compact_pause_ms: u64,
    /// The same between two pieces of an export, an index image, the collector.
    pub work_pause_ms: u64,
    pub watch_progress_interval_ms: u64,
    pub watch_limits: WatchLimits,
    pub limits: Limits,
    pub lease_checkpoint: bool,
    /// How often the leader looks whether a downgrade is complete; `None`: it goes on until it is canceled.
    pub downgrade_check_ms: Option<u64>,
    /// Everything random in the node comes from here, and what must differ from one start to the next: another one each time.
    pub seed: u64,
    /// Wall clock at [`crate::Time`] 0, in milliseconds since 1970: for ids only.
    pub unix_ms_at_zero: u64,
}

/// What to do when there is no WAL yet. With one, it is a restart and this is ignored.
#[derive(Clone, Debug)]
pub enum Start {
    /// Found a cluster of these members, this one (found by name) among them.
    New { members: Vec<Member>, token: String },
    /// Join a cluster that already counts this node as a member.
    Join { cluster_id: u64, member_id: u64, members: Vec<Member> },
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AutoCompaction {
    #[default]
    Off,
    /// Keep this many milliseconds of history.
    Periodic { retention_ms: u64 },
    /// Keep this many revisions.
    Revision { retention: i64 },
}

impl Config {
    /// etcd's defaults, for a cluster of one.
    pub fn new(name: &str, peer_url: &str) -> Config {
        let token = "etcd-cluster".to_owned();
        let member = Member::new(name, vec![peer_url.to_owned()], &token, None);
        Config {
            name: name.to_owned(),
            wal_dir: FileName::new("member/wal"),
            snap_dir: FileName::new("member/snap"),
            rev_dir: FileName::new("member/rev"),
            start: Start::New { members: vec![member], token },
            client_urls: vec!["http://localhost:2379".to_owned()],
            tick_ms: 100,
            election_ticks: 10,
            tick_advance: true,
            pre_vote: true,
            strict_reconfig_check: true,
            learners_max: 1,
            quota_bytes: 0,
            request_bytes_max: 1_572_864,
            txn_ops_max: 128,
            message_bytes_max: 64 << 10,
            snapshot_count: 10_000,
            checkpoint_interval_ms: 1_000,
            catch_up_entries: 5_000,
            memory_entries: 100,
            wals_max: 5,
            snapshots_max: 5,
            wal_segment_bytes: 64_000_000,
            wal_spare_pieces: 64,
            revlog_segment_bytes: 64 << 20,
            cache_bytes: 64 << 20,
            image_debt_bytes: 32 << 20,
            image_step_bytes: 64 << 10,
            auto_compaction: AutoCompaction::Off,
            compact_records: 1_000,
            compact_pause_ms: 10,
            work_pause_ms: 5,
            watch_progress_interval_ms: 600_000,
            watch_limits: WatchLimits::default(),
            limits: Limits::default(),
            lease_checkpoint: false,
            downgrade_check_ms: Some(5_000),
            seed: 1,
            unix_ms_at_zero: 0,
        }
    }

    pub fn election_ms(&self) -> u64 {
        self.tick_ms * u64::from(self.election_ticks)
    }

    /// How long a proposal or a read-index round may take.
    pub fn request_timeout_ms(&self) -> u64 {
        5_000 + 2 * self.election_ms()
    }

    /// Shortest lease, in seconds: one and a half election timeouts, rounded up.
    pub fn lease_ttl_min(&self) -> i64 {
        let ticks = u64::from(self.election_ticks) * 3 / 2;
        (ticks * self.tick_ms).div_ceil(1000).cast_signed()
    }

    pub fn quota(&self) -> Option<u64> {
        match self.quota_bytes {
            0 => Some(2 << 30),
            n if n < 0 => None,
            n => Some(n.unsigned_abs()),
        }
    }
}
