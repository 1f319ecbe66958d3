//! What goes through the log: proposed, and failed when its time is over.

use bytes::Bytes;
use norn_planted::planted;
use norn_raft::ProposeError;

use crate::command::{Command, CommandHeader};
use crate::input::Token;
use crate::node::Proposal;
use crate::{Error, Node, Reader};

/// Payload bytes handed to raft in one proposal message; a follower forwards each as one message to its leader.
pub(crate) const PROPOSAL_BYTES: usize = 1 << 20;

impl<R: Reader> Node<R> {
    /// Sends a request through the log; its reply comes when it is applied here.
    pub(crate) fn propose(
        &mut self,
        token: Token,
        command: &Command,
    ) -> Result<Option<Bytes>, Error> {
        let gap = self.raft.committed().0.saturating_sub(self.applied);
        if gap > self.config.limits.apply_gap || self.is_swamped() {
            return Err(Error::TooManyRequests);
        }
        if self.to_propose.len() >= self.config.limits.held_proposals {
            return Err(Error::TooManyRequests);
        }
        let id = self.ids.next();
        let data = command.encode(&CommandHeader { id, ..CommandHeader::default() });
        if data.len() > self.config.request_bytes_max {
            return Err(Error::RequestTooLarge);
        }
        let is_physical = matches!(command, Command::Compaction(r) if r.physical);
        self.track(id, Proposal { token: Some(token), started: self.now, is_physical });
        self.to_propose.push((id, data));
        Ok(None)
    }

    /// A request of the node's own.
    pub(crate) fn propose_own(&mut self, command: &Command) -> u64 {
        let id = self.ids.next();
        let data = command.encode(&CommandHeader { id, ..CommandHeader::default() });
        self.track(id, Proposal { token: None, started: self.now, is_physical: false });
        self.to_propose.push((id, data));
        id
    }

    fn track(&mut self, id: u64, proposal: Proposal) {
        let deadline = self.now + self.config.request_timeout_ms();
        self.proposals.insert(id, proposal);
        self.proposal_deadlines.push_back((deadline, id));
    }

    /// Hands the turn's proposals to raft. Without a leader they wait for one.
    pub(crate) fn propose_all(&mut self) {
        if self.to_propose.is_empty() || !self.has_leader() {
            return;
        }
        let all = std::mem::take(&mut self.to_propose);
        let mut rest = all.into_iter().peekable();
        while rest.peek().is_some() {
            let (mut ids, mut batch, mut bytes) = (Vec::new(), Vec::new(), 0);
            while let Some((id, data)) =
                rest.next_if(|(_, data)| batch.is_empty() || bytes + data.len() <= PROPOSAL_BYTES)
            {
                bytes += data.len();
                ids.push(id);
                batch.push(data);
            }
            if let Err(ProposeError(_)) = self.raft.propose_batch(batch) {
                for id in ids {
                    self.counters.proposals_failed += 1;
                    self.fail_proposal(id, Error::ProposalDropped);
                }
            }
        }
    }

    fn fail_proposal(&mut self, id: u64, error: Error) {
        if let Some(proposal) = self.proposals.remove(&id)
            && let Some(token) = proposal.token
        {
            self.reply(token, Err(error));
        }
    }

    pub(crate) fn expire_proposals(&mut self) {
        while let Some((deadline, id)) = self.proposal_deadlines.front().copied() {
            let waits = deadline > self.now || planted!(ProposalNeverExpires);
            if waits && self.proposals.contains_key(&id) {
                break;
            }
            self.proposal_deadlines.pop_front();
            let Some(proposal) = self.proposals.get(&id) else { continue };
            self.counters.proposals_failed += 1;
            // One that never met a leader was never accepted, and will not be now.
            let held = self.to_propose.len();
            self.to_propose.retain(|(other, _)| *other != id);
            let error = if self.to_propose.len() < held {
                Error::DeadlineExceeded
            } else {
                self.timeout_cause(proposal.started)
            };
            self.fail_proposal(id, error);
        }
    }

    fn timeout_cause(&self, started: crate::Time) -> Error {
        let window = 2 * self.config.election_ms();
        if let Some(elected) = self.leader_elected_at
            && started < elected
            && elected.since(started) < window
        {
            return Error::TimeoutDueToLeaderFail;
        }
        let connected = |id: u64| {
            self.peers.get(&id).and_then(|p| p.active_since).is_some_and(|since| since <= started)
        };
        let leader = self.raft.leader().0;
        let is_cut_off = if leader == self.id {
            let voters = self.members.voters();
            let reached = voters.filter(|m| m.id == self.id || connected(m.id)).count();
            reached < crate::members::quorum(self.members.voters().count())
        } else {
            leader != 0 && !connected(leader)
        };
        if is_cut_off { Error::TimeoutDueToConnectionLost } else { Error::Timeout }
    }
}
