//! Messages with entries on their way out of a leader: a queue for each member, and when how much of it leaves.
//!
//! A member that was away, or has just taken in a snapshot, may be sent megabytes as soon as it answers. Done in one turn, that keeps every
//! client waiting for as long as it takes to encode them, and the member's own disk and thread for longer. So a turn sends a member
//! so much and no more; what is left has the next turns, between which clients have theirs.
//!
//! Learners are sent even less, and later: their acknowledgements count in no quorum, so nobody waits for them. A busy leader has thousands
//! of turns a second, with a few entries each. A message, a write, a sync and an acknowledgement for every one of them would cost a learner
//! as much as they cost a voter, and the leader and the disk as well. So what they are sent waits for company. And one that catches up does it
//! twice as fast as the log grows, not as fast as it can: that would take a core, and perhaps the machine has other members.

use std::collections::{BTreeMap, VecDeque};

use norn_raft::{Message, MessageKind, Role};

use crate::{Node, Reader, Time};

/// So long at most: what a learner is behind. It would take it a hundred times as long to think that its leader is gone.
const WAIT_MS: u64 = 5;
/// Of entries so much is company enough.
const COMPANY_BYTES: u64 = 64 << 10;
/// Between two times that a learner which catches up is sent something, while somebody asks.
const PAUSE_MS: u64 = 2;
/// What it is allowed each time is twice what the log has grown by, or so much more than that: 8 MB/s.
const MORE_BYTES_MIN: u64 = 16 << 10;
/// All that it is allowed each time: no log grows by 250 MB/s for long.
const LEARNER_BYTES_MAX: u64 = 1 << 20;

/// What waits for one member.
#[derive(Debug, Default)]
struct Queue {
    messages: VecDeque<Message>,
    /// Payload of them.
    bytes: u64,
    /// The last one, which says all that those before it said.
    heartbeat: Option<Message>,
    /// Since when something waits.
    since: Option<Time>,
    sent_at: Time,
    /// Payload of this turn.
    sent_in_turn: u64,
    /// What the log had grown to when something was sent last, or nothing waited.
    grown_before: u64,
    /// What a learner was sent beyond what it was allowed, a message being sent whole or not at all.
    ahead: u64,
}

impl Queue {
    fn add(&mut self, message: Message, now: Time) {
        self.bytes += payload_bytes(&message);
        self.since.get_or_insert(now);
        self.messages.push_back(message);
    }

    /// Whether a later commit index could be said by a message that waits anyway, and is.
    fn told(&mut self, message: &Message) -> bool {
        let Some(last) = self.messages.back_mut().filter(|_| message.entries.is_empty()) else {
            return false;
        };
        let ends_at = last.entries.last().map_or(last.index, |entry| entry.index);
        let is_next = (last.term, ends_at) == (message.term, message.index);
        if is_next {
            last.commit = last.commit.max(message.commit);
        }
        is_next
    }

    /// Messages until they have so many bytes. What they have is returned.
    fn send(&mut self, bytes: u64, now: Time, out: &mut Vec<Message>) -> u64 {
        let mut sent = 0;
        while sent < bytes
            && let Some(message) = self.messages.pop_front()
        {
            sent += payload_bytes(&message);
            out.push(message);
        }
        out.extend(self.heartbeat.take());
        self.bytes -= sent;
        self.sent_in_turn += sent;
        self.sent_at = now;
        self.since = (!self.messages.is_empty()).then_some(now);
        sent
    }
}

/// A queue for each member that was ever sent anything.
#[derive(Debug, Default)]
pub(crate) struct Mail {
    queues: BTreeMap<u64, Queue>,
    /// Payload of all entries that this member added to its log in this life.
    grown: u64,
}

impl Mail {
    /// The log has so much more.
    pub(crate) fn grows(&mut self, append: &Message) {
        self.grown += payload_bytes(append);
    }

    /// Another turn, with room for as much again.
    pub(crate) fn turn_begins(&mut self) {
        for queue in self.queues.values_mut() {
            queue.sent_in_turn = 0;
        }
    }

    /// What waits for a member need not wait any longer: raft takes it for lost.
    pub(crate) fn forget(&mut self, member: u64) {
        self.queues.remove(&member);
    }

    /// Payload bytes of the longest queue.
    pub(crate) fn bytes(&self) -> u64 {
        self.queues.values().map(|queue| queue.bytes).max().unwrap_or(0)
    }
}

impl<R: Reader> Node<R> {
    /// Sends a message to another member, when it is time.
    pub(crate) fn post(&mut self, message: Message) {
        let is_learner = self.learns(message.to.0);
        let waits = match message.kind {
            MessageKind::App => true,
            MessageKind::Heartbeat => is_learner,
            _ => false,
        };
        if !waits {
            return self.out.messages.push(message);
        }
        let grown = self.mail.grown;
        let queue = self.mail.queues.entry(message.to.0).or_default();
        if queue.since.is_none() {
            (queue.grown_before, queue.ahead) = (grown, 0);
        }
        if message.kind == MessageKind::Heartbeat {
            queue.since.get_or_insert(self.now);
            queue.heartbeat = Some(message);
        } else if queue.bytes >= self.config.inflight_bytes() {
            // As if it were lost. (There should be no more than raft counts as on its way; but it starts to count anew when it has doubts.)
        } else if !is_learner || !queue.told(&message) {
            queue.add(message, self.now);
        }
    }

    /// When something is to be sent. Until then nothing is.
    pub(crate) fn mail_due(&self) -> Option<Time> {
        // (Of a node that failed nothing is sent any more.)
        let queues = self.mail.queues.iter().filter(|_| !self.is_failed);
        queues.filter_map(|(id, queue)| self.queue_due(*id, queue)).min()
    }

    fn queue_due(&self, member: u64, queue: &Queue) -> Option<Time> {
        let since = queue.since?;
        if !self.learns(member) {
            return Some(since);
        }
        let due = if queue.bytes >= COMPANY_BYTES { since } else { since + WAIT_MS };
        let pause_ms = if self.is_asked() { PAUSE_MS } else { 0 };
        Some(due.max(queue.sent_at + pause_ms))
    }

    /// Sends what is due, as far as this turn may.
    pub(crate) fn post_what_is_due(&mut self) {
        if self.mail.queues.values().all(|queue| queue.since.is_none()) {
            return;
        }
        let mut queues = std::mem::take(&mut self.mail.queues);
        queues.retain(|member, _| !self.members.is_removed(*member));
        let turn_bytes = self.config.limits.turn_bytes;
        for (member, queue) in &mut queues {
            let is_due = self.queue_due(*member, queue).is_some_and(|due| due <= self.now);
            if !is_due || queue.sent_in_turn >= turn_bytes {
                continue;
            }
            if !self.learns(*member) || !self.is_asked() {
                let bytes = turn_bytes - queue.sent_in_turn;
                queue.send(bytes, self.now, &mut self.out.messages);
                continue;
            }
            let growth = self.mail.grown - queue.grown_before;
            let allowed = (growth + MORE_BYTES_MIN.max(growth)).min(LEARNER_BYTES_MAX);
            let sent =
                queue.send(allowed.saturating_sub(queue.ahead), self.now, &mut self.out.messages);
            queue.ahead = (queue.ahead + sent).saturating_sub(allowed);
            queue.grown_before = self.mail.grown;
        }
        self.mail.queues = queues;
    }

    /// What a leader had to say is not worth sending once it leads no more.
    pub(crate) fn drop_mail(&mut self, role: Role) {
        if role != Role::Leader {
            self.mail.queues.clear();
        }
    }

    fn learns(&self, member: u64) -> bool {
        self.raft.membership().learners.contains(&norn_raft::NodeId(member))
    }
}

fn payload_bytes(message: &Message) -> u64 {
    message.entries.iter().map(|entry| entry.data.len() as u64).sum()
}
