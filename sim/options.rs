//! What a seed stands for: topology, sizes, workload and fault mix. Everything is drawn here and printed.

use norn_node::Limits;

use crate::hardships::Hardships;
use crate::less::Less;
use crate::rng::Rng;

/// A mistake put in by hand, to see whether the checks notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// Disks that report a sync as done and do nothing.
    SyncIgnored,
    /// A write that ran into its deadline counts as acknowledged.
    LostWriteAcked,
    /// A crashed node comes back with an empty disk and its old identity.
    DiskForgotten,
    /// A linearizable read is answered from the member's own state.
    StaleRead,
    /// Now and then a watch response goes missing on its way.
    WatchResponseLost,
    /// Forwarded proposals arrive twice.
    ProposalTwice,
}

pub const BUGS: [(&str, Bug); 6] = [
    ("sync-ignored", Bug::SyncIgnored),
    ("lost-write-acked", Bug::LostWriteAcked),
    ("disk-forgotten", Bug::DiskForgotten),
    ("stale-read", Bug::StaleRead),
    ("watch-response-lost", Bug::WatchResponseLost),
    ("proposal-twice", Bug::ProposalTwice),
];

const SPARE_MACHINES: usize = 4;

/// How hard a seed tries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Profile {
    /// A draw of everything.
    #[default]
    Swarm,
    /// No faults at all: what fails here is no matter of luck.
    Calm,
    /// Every kind of fault, always.
    Storm,
    /// Every kind of fault, and more of them than a cluster survives: disks that rot in all members, who may not come back, cuts that
    /// stay. Nobody must recover; what is said meanwhile must be true.
    Ruin,
    /// No faults, and clients that never think: how fast the simulator is when nothing waits.
    Busy,
}

impl Profile {
    pub fn is_calm(self) -> bool {
        matches!(self, Profile::Calm | Profile::Busy)
    }

    /// Every kind of fault, always.
    pub fn is_stormy(self) -> bool {
        matches!(self, Profile::Storm | Profile::Ruin)
    }
}

/// Times in microseconds unless the name says otherwise; chances in a thousand.
#[derive(Clone, Debug)]
pub struct Options {
    pub seed: u64,
    pub profile: Profile,
    pub bug: Option<Bug>,
    pub nodes: usize,
    pub safety_us: u64,

    pub tick_ms: u64,
    pub election_ticks: u32,
    pub pre_vote: bool,
    pub snapshot_count: u64,
    pub catch_up_entries: u64,
    pub wal_segment_bytes: u64,
    pub wal_spare_pieces: u64,
    pub revlog_segment_bytes: u64,
    pub cache_bytes: usize,
    pub lease_checkpoint: bool,
    pub watch_progress_ms: u64,

    pub clients: usize,
    pub keys: u64,
    pub value_bytes: u64,
    pub think_us: u64,
    /// Operations after which clients slow down: many short histories find more than a few long ones.
    pub ops_max: usize,
    pub deadline_us: u64,
    /// Of put, get, delete, compare-and-put, range, lease calls, compaction, serializable read.
    pub weights: [u64; 8],
    /// Of single keys, transactions, bank, append, pods, locks, elections.
    pub stories: [u64; 7],
    pub watchers: usize,
    pub slow_watcher_permille: u64,

    pub latency_us: u64,
    pub loss_permille: u64,
    pub duplicate_permille: u64,
    pub tail_permille: u64,
    pub disk_us: u64,
    pub slow_disk_permille: u64,
    pub drift_ppm: u64,
    /// Mean time between two faults of the kind; 0: never.
    pub crash_every_us: u64,
    pub power_off_permille: u64,
    pub crash_point_permille: u64,
    pub boot_crash_permille: u64,
    pub partition_every_us: u64,
    pub pause_every_us: u64,
    pub sync_failure_every_us: u64,
    pub blackout_every_us: u64,
    pub transfer_every_us: u64,
    /// Between two steps of the operator who changes the membership; 0: there is none.
    pub member_every_us: u64,
    /// Whether members refuse changes that a member not yet started could block.
    pub strict_reconfig: bool,
    /// What members may store; 0: more than they ever will.
    pub quota_bytes: u64,
    /// Between two disks that get full; 0: none does.
    pub full_every_us: u64,
    /// Between two disks that lose power and come back with a bit flipped; 0: none does.
    pub rot_every_us: u64,
    /// Between two disks of which something cannot be read; 0: none.
    pub unreadable_every_us: u64,
    /// Between two writes that land elsewhere; 0: none does.
    pub stray_every_us: u64,
    /// Members differ in what they are told at their start, and some are of an older version for a while.
    pub is_mixed: bool,
    /// Messages between members that arrive damaged, and are refused.
    pub garble_permille: u64,
    /// Smallest debt that makes an index image; the largest means never.
    pub image_debt_bytes: u64,
    pub image_step_bytes: usize,
    /// Of a compaction in pieces, and the pause between them.
    pub compact_records: usize,
    pub compact_pause_ms: u64,
    /// Between two pieces of other work that nobody waits for.
    pub work_pause_ms: u64,

    /// Mean time between two faults that wait for an election, and two pauses of a leader.
    pub election_fault_every_us: u64,
    pub leader_pause_every_us: u64,
    /// A received snapshot is followed by a crash.
    pub snapshot_crash_permille: u64,
    /// Answers of members arrive again, late.
    pub late_reply_permille: u64,
    /// Of a message between members: small ones carry an entry each.
    pub message_bytes: u64,
    /// The answer to a snapshot is lost: it is taken, and counts as not sent.
    pub lost_answer_permille: u64,
    /// What small numbers make common: logs that end before what a follower needs, watchers that fall behind.
    pub memory_entries: u64,
    pub watch_responses: usize,
    pub watch_revisions: usize,
    /// What members hold for others.
    pub limits: Limits,
    /// Of the cluster tier.
    pub hardships: Hardships,
    /// What is left out of all this.
    pub less: Less,
}

/// Milliseconds. Those that are to take checkpoints often do not rest between them; so there are members that do and members that do not.
pub(crate) fn rest_between_checkpoints(snapshot_count: u64) -> u64 {
    if snapshot_count < 200 { 0 } else { 1_000 }
}

impl Options {
    pub fn draw(seed: u64, profile: Profile, bug: Option<Bug>) -> Options {
        let mut rng = Rng::new(seed);
        let r = &mut rng;
        let calm = profile.is_calm();
        let storm = profile.is_stormy();
        let snapshot_count = *r.pick(&[10, 25, 60, 200, 2000]);
        let mut fault = |low: u64, high: u64, permille: u64| {
            let (value, on) = (r.between(low, high), r.permille(permille));
            if !calm && (on || storm) { value } else { 0 }
        };
        let seconds = 1_000_000;
        let loss_permille = fault(1, 250, 400);
        let duplicate_permille = fault(1, 60, 500);
        let tail_permille = fault(1, 60, 500);
        let slow_disk_permille = fault(1, 30, 400);
        let drift_ppm = fault(50, 50_000, 400);
        let crash_every_us = fault(seconds / 2, 8 * seconds, 700);
        let partition_every_us = fault(seconds / 2, 8 * seconds, 600);
        let pause_every_us = fault(seconds, 8 * seconds, 300);
        let sync_failure_every_us = fault(seconds, 10 * seconds, 250);
        let blackout_every_us = fault(4 * seconds, 15 * seconds, 250);
        let transfer_every_us = fault(seconds, 8 * seconds, 250);
        let boot_crash_permille = fault(50, 500, 400);
        let mut options = Options {
            seed,
            profile,
            bug,
            nodes: *r.pick(&[1, 3, 3, 3, 5]),
            safety_us: r.between(4, 18) * seconds,
            tick_ms: *r.pick(&[10, 30, 100]),
            election_ticks: *r.pick(&[5, 10, 10]) as u32,
            pre_vote: r.permille(750),
            snapshot_count,
            catch_up_entries: *r.pick(&[10, 20, 100, 1000]),
            wal_segment_bytes: *r.pick(&[4096, 16 << 10, 256 << 10]),
            wal_spare_pieces: 1,
            revlog_segment_bytes: *r.pick(&[4096, 32 << 10, 1 << 20]),
            cache_bytes: *r.pick(&[0, 4096, 1 << 20]) as usize,
            lease_checkpoint: r.permille(300),
            watch_progress_ms: *r.pick(&[200, 2_000, 600_000]),
            clients: r.between(2, 8) as usize,
            keys: r.between(1, 12),
            value_bytes: *r.pick(&[8, 8, 100, 3000]),
            ops_max: *r.pick(&[500, 1000, 2000]) as usize,
            think_us: *r.pick(&[1_000, 10_000, 60_000]),
            deadline_us: *r.pick(&[300_000, 1_000_000, 4_000_000]),
            weights: [
                r.between(2, 20),
                r.between(2, 20),
                r.between(0, 8),
                r.between(0, 12),
                r.between(0, 6),
                r.between(0, 8),
                r.between(0, 2),
                r.between(0, 8),
            ],
            stories: [0; 7],
            watchers: r.between(0, 6) as usize,
            slow_watcher_permille: *r.pick(&[0, 0, 300]),
            latency_us: *r.pick(&[100, 1_000, 8_000]),
            loss_permille,
            duplicate_permille,
            tail_permille,
            disk_us: *r.pick(&[50, 1_000, 6_000]),
            slow_disk_permille,
            drift_ppm,
            crash_every_us,
            power_off_permille: *r.pick(&[500, 900, 1000]),
            crash_point_permille: *r.pick(&[0, 500, 900]),
            boot_crash_permille,
            partition_every_us,
            pause_every_us,
            sync_failure_every_us,
            blackout_every_us,
            transfer_every_us,
            member_every_us: 0,
            quota_bytes: 0,
            full_every_us: 0,
            rot_every_us: 0,
            unreadable_every_us: 0,
            is_mixed: false,
            garble_permille: 0,
            stray_every_us: 0,
            strict_reconfig: false,
            image_debt_bytes: *r.pick(&[1, 500, 5000, u64::MAX]),
            image_step_bytes: *r.pick(&[1, 60, 4096]) as usize,
            compact_records: 0,
            compact_pause_ms: 0,
            work_pause_ms: 0,
            election_fault_every_us: 0,
            leader_pause_every_us: 0,
            snapshot_crash_permille: 0,
            late_reply_permille: 0,
            message_bytes: 0,
            lost_answer_permille: 0,
            memory_entries: 0,
            watch_responses: 0,
            watch_revisions: 0,
            limits: Limits::default(),
            hardships: Hardships::draw(profile, &mut Rng::new(seed ^ 0x4861_7264_7368)),
            less: Less::default(),
        };
        options.draw_windows(&mut Rng::new(seed ^ 0x5769_6e64_6f77));
        options.draw_members(&mut Rng::new(seed ^ 0x4f70_6572_6174));
        options.draw_room(&mut Rng::new(seed ^ 0x0052_6f6f_6d73));
        options.draw_stories(&mut Rng::new(seed ^ 0x5374_6f72_6965));
        options.draw_disks(&mut Rng::new(seed ^ 0x0044_6973_6b73));
        options.is_mixed = Rng::new(seed ^ 0x004d_6978_6564).permille(300);
        options.draw_garbling(&mut Rng::new(seed ^ 0x4761_7262_6c65));
        options.draw_elections(&mut Rng::new(seed ^ 0x456c_6563_7473));
        let mut r = Rng::new(seed ^ 0x0050_6965_6365);
        options.compact_records = *r.pick(&[1_000, 1_000, 30, 3]) as usize;
        options.compact_pause_ms = *r.pick(&[10, 10, 100, 0]);
        let mut r = Rng::new(seed ^ 0x5061_7573_6573);
        options.wal_spare_pieces = *r.pick(&[1, 3, 16]);
        options.work_pause_ms = *r.pick(&[0, 0, 1, 5]);
        options.draw_limits(&mut Rng::new(seed ^ 0x004c_696d_6974));
        if profile == Profile::Busy {
            options.saturate();
        }
        options
    }

    /// Faults that wait for their moment. (From a source of their own, too.)
    fn draw_windows(&mut self, r: &mut Rng) {
        let (calm, storm) = (self.profile.is_calm(), self.profile.is_stormy());
        let mut fault = |low: u64, high: u64, permille: u64| {
            let (value, on) = (r.between(low, high), r.permille(permille));
            if !calm && (on || storm) { value } else { 0 }
        };
        self.election_fault_every_us = fault(300_000, 4_000_000, 250);
        self.leader_pause_every_us = fault(500_000, 4_000_000, 250);
        self.snapshot_crash_permille = fault(50, 500, 250);
        self.late_reply_permille = fault(10, 600, 250);
        self.lost_answer_permille = fault(50, 500, 250);
        self.message_bytes = *r.pick(&[1 << 20, 1 << 20, 1 << 20, 200, 1]);
        self.memory_entries = *r.pick(&[100, 100, 20, 5]);
        self.watch_responses = *r.pick(&[128, 128, 4, 1]) as usize;
        self.watch_revisions = *r.pick(&[1000, 1000, 10, 1]) as usize;
    }

    /// Three members with the sizes that servers have by default, on a good network and good disks, and enough clients to keep them busy
    /// until the end.
    fn saturate(&mut self) {
        (self.nodes, self.safety_us, self.clients, self.ops_max) = (3, 5_000_000, 32, usize::MAX);
        self.is_mixed = false;
        // (Not none: whoever finds nobody there asks again, and time must pass.)
        self.think_us = 4;
        (self.tick_ms, self.election_ticks, self.deadline_us) = (100, 10, 4_000_000);
        (self.latency_us, self.disk_us) = (100, 1_000);
        (self.keys, self.value_bytes) = (64, 100);
        (self.snapshot_count, self.catch_up_entries, self.memory_entries) = (10_000, 5_000, 100);
        (self.wal_segment_bytes, self.revlog_segment_bytes) = (64_000_000, 64 << 20);
        (self.image_debt_bytes, self.image_step_bytes) = (32 << 20, 64 << 10);
        (self.compact_records, self.compact_pause_ms) = (1_000, 10);
        (self.wal_spare_pieces, self.work_pause_ms) = (64, 5);
        (self.cache_bytes, self.message_bytes) = (64 << 20, 1 << 20);
        (self.watch_responses, self.watch_revisions) = (128, 1000);
        self.slow_watcher_permille = 0;
    }

    /// Machines of the cluster tier that are, or may become, members.
    pub fn machines(&self) -> usize {
        let needs_spares = self.member_every_us > 0 || self.rot_every_us > 0;
        self.nodes + if needs_spares { SPARE_MACHINES } else { 0 }
    }

    fn draw_members(&mut self, rng: &mut Rng) {
        let (every, is_on) = (rng.between(300_000, 3_000_000), rng.permille(350));
        if self.profile.is_stormy() || (self.profile == Profile::Swarm && is_on) {
            self.member_every_us = every;
        }
        self.strict_reconfig = rng.permille(200);
    }

    fn draw_room(&mut self, rng: &mut Rng) {
        let (quota, has_quota) = (rng.between(20_000, 300_000), rng.permille(150));
        let (every, gets_full) = (rng.between(1_000_000, 8_000_000), rng.permille(200));
        let (flips, rots) = (rng.between(1_000_000, 8_000_000), rng.permille(200));
        // (Whoever replaces a member with a bad disk changes nothing else meanwhile.)
        let rots = if self.profile.is_stormy() { rng.permille(500) } else { rots };
        if !self.profile.is_calm() && rots {
            self.rot_every_us = flips;
            self.member_every_us = 0;
        }
        if !self.profile.is_calm() && has_quota {
            self.quota_bytes = quota;
        }
        if self.profile.is_stormy() || (self.profile == Profile::Swarm && gets_full) {
            self.full_every_us = every;
        }
    }

    /// Disks that do not give back what was written.
    fn draw_disks(&mut self, rng: &mut Rng) {
        let storm = self.profile.is_stormy();
        let (reads, fails_reads) = (rng.between(1_000_000, 8_000_000), rng.permille(200));
        let (writes, misdirects) = (rng.between(1_000_000, 8_000_000), rng.permille(200));
        if self.profile.is_calm() {
            return;
        }
        if fails_reads || storm {
            self.unreadable_every_us = reads;
        }
        // (As with flipped bits: whoever replaces the member changes nothing else meanwhile.)
        if (misdirects || storm) && self.member_every_us == 0 {
            self.stray_every_us = writes;
        }
    }

    /// (From a source of its own: what was drawn before there were stories remains what it was.)
    fn draw_stories(&mut self, rng: &mut Rng) {
        self.stories[0] = 10;
        for weight in &mut self.stories[1..6] {
            *weight = if rng.permille(400) { rng.between(1, 12) } else { 0 };
        }
    }

    fn draw_garbling(&mut self, rng: &mut Rng) {
        let (permille, is_on) = (rng.between(1, 30), rng.permille(200));
        if self.profile.is_stormy() || (self.profile == Profile::Swarm && is_on) {
            self.garble_permille = permille;
        }
    }

    /// (From a source of its own, like everything that came later.)
    fn draw_elections(&mut self, rng: &mut Rng) {
        let (weight, is_on) = (rng.between(1, 12), rng.permille(300));
        self.stories[6] = if is_on { weight } else { 0 };
    }

    /// Limits that are reached. (In a quarter of the runs: they keep much else from happening.)
    fn draw_limits(&mut self, rng: &mut Rng) {
        if !rng.permille(250) || self.profile.is_calm() {
            return;
        }
        let many = Limits::default();
        self.limits = Limits {
            held_proposals: *rng.pick(&[many.held_proposals as u64, 4]) as usize,
            apply_gap: *rng.pick(&[many.apply_gap, 20]),
            unwritten_bytes: *rng.pick(&[many.unwritten_bytes as u64, 20_000, 500]) as usize,
            unapplied_bytes: *rng.pick(&[many.unapplied_bytes, 20_000, 2_000]),
            uncommitted_bytes: *rng.pick(&[many.uncommitted_bytes, 20_000, 2_000]),
            inflight_messages: *rng.pick(&[many.inflight_messages as u64, 8, 2]) as usize,
            reads: *rng.pick(&[many.reads as u64, 8, 2]) as usize,
            log_bytes: *rng.pick(&[many.log_bytes as u64, 20_000, 2_000]) as usize,
            inflight_bytes: *rng.pick(&[many.inflight_bytes, 5_000, 500]),
            turn_bytes: *rng.pick(&[many.turn_bytes, 5_000, 500]),
            ..many
        };
        // (With another one and not by a draw of its own: the seeds that are kept stay what they are.)
        self.limits.export_unsynced_bytes = self.limits.inflight_bytes;
    }

    /// The shortest time after which a member that hears of no leader looks for another one.
    pub fn election_us(&self) -> u64 {
        self.tick_ms * 1000 * u64::from(self.election_ticks)
    }

    /// As the seed has it: what is left out changes no draw.
    pub fn drawn(&self) -> Options {
        if self.less == Less::default() {
            return self.clone();
        }
        Options::draw(self.seed, self.profile, self.bug)
    }

    /// The line that runs this again.
    pub fn replay(&self) -> String {
        let mut line = format!("cargo sim run --seed {}", self.seed);
        if self.profile != Profile::Swarm {
            line += &format!(" --profile {}", format!("{:?}", self.profile).to_lowercase());
        }
        if let Some((name, _)) = BUGS.iter().find(|(_, bug)| Some(*bug) == self.bug) {
            line += &format!(" --bug {name}");
        }
        if self.less != Less::default() {
            line += &format!(" --less {}", self.less);
        }
        line
    }
}
