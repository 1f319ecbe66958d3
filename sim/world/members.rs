//! Members: their starts, turns, disks and ends.

use std::panic::{AssertUnwindSafe, catch_unwind};

use norn_node::{Config, Host, Input, Node, NodeEvent, Start, WatchLimits};
use norn_storage::{DiskRead, FileName};

use super::{Event, QUEUES, Waiting, World};
use crate::check::bounds;
use crate::disk::SimDisk;
use crate::history::{Failure, Outcome};
use crate::member::{Clock, CrashPoint, Member, Seen};
use crate::options::{Bug, Options, rest_between_checkpoints};
use crate::panics;
use crate::record::{Place, What};
use crate::rng::{Rng, mix};

/// A member that learns of its removal serves on for so long.
const REMOVED_STOPS_US: u64 = 1_000_000;

impl World {
    pub(super) fn start(&mut self, node: usize) {
        let member = &mut self.members[node];
        if member.host.is_some() || !(member.is_member || member.is_leaving) {
            return;
        }
        if !member.is_founder {
            match self.membership.join(member.id) {
                Some(start) => member.config.start = start,
                None if member.was_open => {}
                // It was removed before it ever began: it must not found a cluster of its own.
                None => return,
            }
        }
        let boot_syncs = std::mem::take(&mut member.boot_syncs);
        if boot_syncs > 0 && !self.is_healed {
            member.disk.inner.freeze_at_sync(boot_syncs);
            member.may_fail = true;
        }
        let boot_read = std::mem::take(&mut member.boot_read);
        if boot_read > 0 && !self.is_healed {
            member.disk.inner.fail_read(boot_read);
        }
        member.disk.inner.defer(false);
        let mut disk = member.disk.clone();
        let (config, clock) = (member.config.clone(), member.clock);
        let (reader, now) = (disk.clone(), clock.at(self.now));
        let opened = catch_unwind(AssertUnwindSafe(|| {
            panics::watched(|| Node::open(&mut disk, reader, config, now))
        }));
        match opened {
            Err(_) => return self.panicked(node, "while it opened"),
            Ok(Err(error)) if member.disk.inner.is_frozen() => {
                self.counts.boot_crashes += 1;
                self.trace.tell(self.now, What::StartCut { node }, || error.to_string());
                return self.crash(node, true, 100_000);
            }
            Ok(Err(error)) if member.is_rotten => {
                self.counts.refused += 1;
                self.trace.tell(self.now, What::StartCut { node }, || error.to_string());
                return self.replace(node);
            }
            Ok(Err(error)) if member.disk.inner.unreadable().is_some() => {
                self.trace.tell(self.now, What::StartCut { node }, || error.to_string());
                return self.unread(node, &error.to_string());
            }
            // No room to repair what a crash left: the operator makes some, and tries again.
            Ok(Err(error)) if member.disk.inner.is_limited() => {
                self.counts.boot_crashes += 1;
                self.trace.tell(self.now, What::StartCut { node }, || error.to_string());
                return self.after(500_000, Event::Start { node });
            }
            Ok(Err(error)) => {
                let disk = &member.disk;
                let files = ["member/wal", "member/snap", "member/rev"]
                    .map(|dir| (dir, disk.list(&FileName::new(dir)).unwrap_or_default()));
                return self.fail(Failure::new(
                    "A member opens after every crash.",
                    format!("n{}: {error}\non its disk: {files:?}", node + 1),
                ));
            }
            Ok(Ok(opened)) => {
                member.disk.inner.defer(true);
                member.was_open = true;
                member.incarnation += 1;
                member.disk_armed = [false; 2];
                member.inbox.clear();
                member.paused_until = 0;
                member.wake_at = u64::MAX;
                member.host = Some(Host::new(opened, disk));
            }
        }
        self.raft.restarted(self.members[node].id);
        let life = self.members[node].incarnation;
        self.trace.note(self.now, What::Start { node, life });
        let mut inputs = vec![Input::Wake];
        inputs.extend(self.introduce(node));
        self.turns(node, inputs);
    }

    pub(super) fn tell_later(&mut self, node: usize, input: Input) {
        let delay = self.network.delay();
        let incarnation = self.members[node].incarnation;
        self.after(delay, Event::Input { node, incarnation, input });
    }

    pub fn crash(&mut self, node: usize, power: bool, down_us: u64) {
        let seed = self.rng.next();
        let member = &mut self.members[node];
        // (A sync that fails while the process dies leaves a page cache that lies: the machine starts anew.)
        let power = power || member.may_fail;
        if self.options.bug == Some(Bug::DiskForgotten) {
            member.disk = SimDisk::new(false);
        } else if power {
            member.disk.inner.crash(seed);
        } else {
            member.disk.inner.kill(seed);
        }
        member.disk.forget_foreign();
        self.counts.crashes += 1;
        self.trace.note(self.now, What::Crash { node, power });
        self.gone(node);
        self.after(down_us, Event::Start { node });
    }

    /// A process ends by itself. (What it had submitted is not for whoever opens the disk next.)
    fn stop(&mut self, node: usize) {
        let disk = &mut self.members[node].disk;
        disk.inner.kill(mix(self.now));
        disk.forget_foreign();
        self.gone(node);
    }

    /// A process is no more: its callers, watchers and peers notice.
    pub(super) fn gone(&mut self, node: usize) {
        let member = &mut self.members[node];
        member.host = None;
        member.incarnation += 1;
        member.crash_in = None;
        member.may_fail = false;
        let lost: Vec<u64> = self
            .waiting
            .iter()
            .filter(|(_, (on, _))| *on == node)
            .map(|(token, _)| *token)
            .collect();
        for token in lost {
            if let Some((_, Waiting::Op { op })) = self.waiting.remove(&token) {
                self.answered(op, Outcome::Unknown);
            }
        }
        for watcher in 0..self.watchers.len() {
            if self.watchers[watcher].on.is_some_and(|(on, _)| on == node) {
                self.watchers[watcher].on = None;
                self.trace.note(self.now, What::Unwatch { watcher });
                let delay = self.rng.heavy(200_000);
                self.after(delay, Event::Watch { watcher });
            }
        }
        let cut: Vec<u64> =
            self.transfers.iter().filter(|(_, t)| t.to == node).map(|(n, _)| *n).collect();
        for number in cut {
            self.transfer_ends(number, false);
        }
        let id = self.members[node].id;
        for other in (0..self.members.len()).filter(|other| *other != node) {
            self.tell_later(other, Input::PeerActive { id, active: false });
        }
    }

    pub(super) fn turn(&mut self, node: usize, input: Input) {
        self.turns(node, vec![input]);
    }

    pub(super) fn turns(&mut self, node: usize, inputs: Vec<Input>) {
        let member = &mut self.members[node];
        let Some(host) = &mut member.host else { return };
        if member.paused_until > self.now {
            member.inbox.extend(inputs);
            return;
        }
        let now = member.clock.at(self.now);
        let queued = |disk: &SimDisk| QUEUES.iter().map(|q| disk.inner.waiting(*q)).sum::<usize>();
        let before = queued(&member.disk);
        let could_read = member.disk.inner.unreadable().is_none();
        let mut seen = Seen::default();
        let result = catch_unwind(AssertUnwindSafe(|| {
            panics::watched(|| host.turn(now, inputs, &mut seen))
        }));
        let Ok(deadline) = result else {
            return self.panicked(node, "in a turn");
        };
        let has_failed = host.node().has_failed();
        if let (true, false, Some(file)) = (could_read, has_failed, member.disk.inner.unreadable())
        {
            let detail = format!("n{} could not read {file}, and goes on", node + 1);
            return self.fail(Failure::new("Who cannot read its disk stops.", detail));
        }
        // (Whoever stopped answers nobody; whoever wakes up may not have heard who is gone.)
        let calls = || self.waiting.values().filter(|(at, _)| *at == node).count();
        let is_excused = has_failed || member.is_waking || !member.inbox.is_empty();
        let waiting = if is_excused { Ok(()) } else { bounds::waiting(host.node(), calls) };
        if let Err(failure) = waiting.and_then(|()| self.raft.observe(host.node())) {
            self.fail(failure);
            return;
        }
        self.times.observe(self.now, self.raft.model.applied);
        self.trace.place(self.now, node, Place::of(host.node()));
        let stored = member.disk.stored();
        let submitted = queued(&member.disk).saturating_sub(before) as u64;
        let incarnation = member.incarnation;
        let wake_at = member.clock.when(deadline).max(self.now + 60);
        if wake_at < member.wake_at || member.wake_at <= self.now {
            member.wake_at = wake_at;
            self.after(wake_at - self.now, Event::Wake { node, incarnation, at: wake_at });
        }
        for (number, result) in stored {
            self.after(0, Event::Stored { number, result });
        }
        let crash = self.crash_point(node, submitted);
        if crash.is_none_or(|point| point.sends) {
            self.obey(node, seen);
        }
        if self.members[node].incarnation != incarnation || self.failure.is_some() {
            return;
        }
        if let Some(point) = crash {
            return self.crash(node, point.power, point.down_us);
        }
        self.arm_disk(node);
    }

    pub(super) fn crash_point(&mut self, node: usize, submitted: u64) -> Option<CrashPoint> {
        let point = self.members[node].crash_in.as_mut()?;
        if point.batches > submitted {
            point.batches -= submitted;
            return None;
        }
        self.members[node].crash_in.take()
    }

    pub(super) fn arm_disk(&mut self, node: usize) {
        for (at, queue) in QUEUES.iter().enumerate() {
            let member = &self.members[node];
            if member.disk_armed[at] || member.disk.inner.waiting(*queue) == 0 {
                continue;
            }
            let mut delay = self.rng.between(self.options.disk_us / 4, self.options.disk_us * 2);
            if self.rng.permille(self.options.slow_disk_permille) && !self.is_healed {
                delay += self.rng.heavy(300_000);
            }
            self.members[node].disk_armed[at] = true;
            let incarnation = self.members[node].incarnation;
            self.after(delay, Event::DiskDone { node, incarnation, queue: at });
        }
    }

    pub(super) fn disk_done(&mut self, node: usize, incarnation: u64, queue: usize) {
        let member = &mut self.members[node];
        if member.incarnation != incarnation {
            return;
        }
        member.disk_armed[queue] = false;
        member.disk.inner.complete_next(QUEUES[queue]);
        self.tell_strayed(node);
        self.turn(node, Input::Wake);
        if self.members[node].incarnation == incarnation {
            self.arm_disk(node);
        }
    }

    /// What a node puts out, in order.
    pub(super) fn obey(&mut self, node: usize, seen: Seen) {
        for message in seen.sent {
            self.send(node, message);
        }
        for (token, result) in seen.replies {
            self.reply(node, token, result);
        }
        for (stream, response) in seen.watch {
            self.watched(node, stream, response);
        }
        for event in seen.events {
            self.event(node, event);
        }
    }

    pub(super) fn event(&mut self, node: usize, event: NodeEvent) {
        match event {
            NodeEvent::Raft(line) => {
                self.trace.tell(self.now, What::Log { node }, || line.text.clone());
            }
            NodeEvent::Log { text, fields, .. } => {
                self.trace.tell(self.now, What::Log { node }, || format!("{text} {fields:?}"));
            }
            NodeEvent::Proposed { .. } => {}
            NodeEvent::LeaderChanged { leader } => {
                self.trace.tell(self.now, What::Leader { node }, || format!("{:x}", leader.0));
                if leader.0 == self.members[node].id {
                    self.elected(node);
                }
            }
            NodeEvent::Serving => {}
            NodeEvent::MembersChanged => self.members_changed(node),
            NodeEvent::SendSnapshot { message, file } => self.send_snapshot(node, message, file),
            NodeEvent::Removed if !self.membership.has(self.members[node].id) => {
                self.after(REMOVED_STOPS_US, Event::Retire { node });
            }
            NodeEvent::Removed => {
                let detail = format!("n{}", node + 1);
                self.fail(Failure::new("Nobody is removed unasked.", detail));
            }
            NodeEvent::Failed { reason } => {
                self.trace.tell(self.now, What::Failed { node }, || reason.clone());
                let member = &self.members[node];
                // (Without room for the state that a leader sent, a member stops.)
                if member.is_rotten {
                    self.stop(node);
                    self.replace(node);
                } else if member.disk.inner.unreadable().is_some() {
                    self.unread(node, &reason);
                } else if member.may_fail || member.disk.inner.is_limited() {
                    self.counts.failed_syncs += 1;
                    self.crash(node, true, 100_000);
                } else {
                    let detail = format!("n{}: {reason}", node + 1);
                    self.fail(Failure::new("A node does not fail on a working disk.", detail));
                }
            }
        }
    }

    pub(super) fn panicked(&mut self, node: usize, when: &str) {
        // What is left of the host must not run again.
        std::mem::forget(self.members[node].host.take());
        let detail = format!("n{} {when}: {}", node + 1, panics::take());
        self.fail(Failure::new("A node never panics.", detail));
    }

    pub fn fail(&mut self, failure: Failure) {
        self.failure.get_or_insert(failure);
    }
}

/// The version that members are of in the end, and the one that some are of before.
pub(super) const NEWEST: (u64, u64) = (3, 7);
pub(super) const OLDER: (u64, u64) = (3, 6);

/// What members of one cluster may be told differently.
fn differ(config: &mut Config, rng: &mut Rng) {
    config.pre_vote = rng.permille(500);
    config.lease_checkpoint = rng.permille(500);
    config.snapshot_count = *rng.pick(&[10, 25, 60, 200, 2000]);
    config.checkpoint_interval_ms = rest_between_checkpoints(config.snapshot_count);
    config.catch_up_entries = *rng.pick(&[10, 20, 100, 1000]);
    config.memory_entries = *rng.pick(&[100, 20, 5]);
    config.message_bytes_max = *rng.pick(&[1 << 20, 200, 1]);
    config.wal_segment_bytes = *rng.pick(&[4096, 16 << 10, 256 << 10]);
    config.revlog_segment_bytes = *rng.pick(&[4096, 32 << 10, 1 << 20]);
    config.cache_bytes = *rng.pick(&[0, 4096, 1 << 20]) as usize;
    config.image_debt_bytes = *rng.pick(&[1, 500, 5000, u64::MAX]);
    config.image_step_bytes = *rng.pick(&[1, 60, 4096]) as usize;
    let (responses, revisions) = (*rng.pick(&[128, 4, 1]), *rng.pick(&[1000, 10, 1]));
    config.watch_limits = watch_limits(responses as usize, revisions as usize);
    config.watch_progress_interval_ms = *rng.pick(&[200, 2_000, 600_000]);
}

/// Those of bytes are reached where the others are small, but not as small as can be: there they would never be.
fn watch_limits(responses: usize, revisions: usize) -> WatchLimits {
    let limits = WatchLimits {
        responses_in_flight: responses,
        catch_up_revisions: revisions,
        ..WatchLimits::default()
    };
    WatchLimits {
        bytes_in_flight: if responses == 4 { 300 } else { limits.bytes_in_flight },
        catch_up_bytes: if revisions == 10 { 300 } else { limits.catch_up_bytes },
        ..limits
    }
}

/// Where the n-th machine is found.
pub(super) fn url(number: usize) -> String {
    format!("http://n{}:2380", number + 1)
}

/// The founding members, none of them running yet.
pub(super) fn found(options: &Options, rng: &mut Rng) -> Vec<Member> {
    let name = |i: usize| format!("n{}", i + 1);
    let founders: Vec<norn_node::Member> = (0..options.nodes)
        .map(|i| norn_node::Member::new(&name(i), vec![url(i)], "sim", None))
        .collect();
    let member = |(number, founder): (usize, &norn_node::Member)| {
        let mut member = machine(options, number, rng);
        (member.id, member.is_founder, member.is_member) = (founder.id, true, true);
        member.config.start = Start::New { members: founders.clone(), token: "sim".into() };
        member
    };
    founders.iter().enumerate().map(member).collect()
}

/// A machine with an empty disk.
pub(super) fn machine(options: &Options, number: usize, rng: &mut Rng) -> Member {
    let mut config = Config::new(&format!("n{}", number + 1), &url(number));
    config.seed = rng.next();
    config.unix_ms_at_zero = 1_700_000_000_000;
    config.tick_ms = options.tick_ms;
    config.election_ticks = options.election_ticks;
    config.pre_vote = options.pre_vote;
    config.strict_reconfig_check = options.strict_reconfig;
    config.snapshot_count = options.snapshot_count;
    config.checkpoint_interval_ms =
        crate::options::rest_between_checkpoints(options.snapshot_count);
    config.catch_up_entries = options.catch_up_entries;
    config.wal_segment_bytes = options.wal_segment_bytes;
    config.wal_spare_pieces = options.wal_spare_pieces;
    config.revlog_segment_bytes = options.revlog_segment_bytes;
    config.image_debt_bytes = options.image_debt_bytes;
    config.image_step_bytes = options.image_step_bytes;
    config.compact_records = options.compact_records;
    config.compact_pause_ms = options.compact_pause_ms;
    config.work_pause_ms = options.work_pause_ms;
    config.quota_bytes = options.quota_bytes.cast_signed();
    config.cache_bytes = options.cache_bytes;
    config.message_bytes_max = options.message_bytes;
    config.memory_entries = options.memory_entries;
    config.watch_limits = watch_limits(options.watch_responses, options.watch_revisions);
    config.limits = options.limits;
    config.lease_checkpoint = options.lease_checkpoint;
    config.watch_progress_interval_ms = options.watch_progress_ms;
    if options.is_mixed {
        differ(&mut config, &mut Rng::new(options.seed ^ (number as u64 + 1) << 32));
    }
    let ppm = rng.below(2 * options.drift_ppm + 1).cast_signed() - options.drift_ppm.cast_signed();
    Member {
        id: 0,
        is_founder: false,
        is_member: false,
        was_open: false,
        is_rotten: false,
        is_replaced: false,
        is_leaving: false,
        is_retired: false,
        config,
        version: NEWEST,
        disk: SimDisk::new(options.bug == Some(Bug::SyncIgnored)),
        clock: Clock { offset_ms: 1 + rng.below(3_600_000), ppm },
        host: None,
        incarnation: 0,
        wake_at: u64::MAX,
        disk_armed: [false; 2],
        inbox: Vec::new(),
        paused_until: 0,
        calls_first: false,
        is_waking: false,
        crash_in: None,
        boot_syncs: 0,
        boot_read: 0,
        may_fail: false,
    }
}
