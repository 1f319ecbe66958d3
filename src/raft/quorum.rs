//! Arithmetic of majorities, single and joint (thesis section 4.3).
//!
//! In a joint configuration everything needs a majority of both halves. A half without voters agrees to
//! everything, so that a plain configuration is a joint one whose outgoing half is empty.

use crate::types::{Index, NodeId};
use norn_planted::planted;

/// The voters: incoming half, and outgoing half while joint. Both sorted, without duplicates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Voters {
    pub incoming: Vec<NodeId>,
    pub outgoing: Vec<NodeId>,
}

/// What is known about a ballot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VoteResult {
    /// Either outcome is still possible.
    Pending,
    Lost,
    Won,
}

impl VoteResult {
    /// Name as etcd prints it.
    pub fn name(self) -> &'static str {
        match self {
            VoteResult::Pending => "VotePending",
            VoteResult::Lost => "VoteLost",
            VoteResult::Won => "VoteWon",
        }
    }
}

/// "As far as you like": the answer of a half without voters.
pub const UNBOUNDED: Index = Index(u64::MAX);

impl Voters {
    pub fn is_joint(&self) -> bool {
        !self.outgoing.is_empty()
    }

    pub fn contains(&self, id: NodeId) -> bool {
        self.incoming.binary_search(&id).is_ok() || self.outgoing.binary_search(&id).is_ok()
    }

    /// Voters of either half, ascending, each once.
    pub fn ids(&self) -> Vec<NodeId> {
        let mut ids = [self.incoming.as_slice(), &self.outgoing].concat();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// The highest index that a quorum has acknowledged. `None` from `acked` counts as nothing.
    pub fn committed(&self, acked: impl Fn(NodeId) -> Option<Index>) -> Index {
        majority_committed(&self.incoming, &acked).min(majority_committed(&self.outgoing, &acked))
    }

    /// The outcome of a ballot. `None` from `votes` stands for "not voted yet".
    pub fn vote(&self, votes: impl Fn(NodeId) -> Option<bool>) -> VoteResult {
        use VoteResult::*;
        match (majority_vote(&self.incoming, &votes), majority_vote(&self.outgoing, &votes)) {
            (Lost, _) | (_, Lost) => Lost,
            (Won, Won) => Won,
            _ => Pending,
        }
    }
}

/// Groups up to this size are counted without an allocation.
const STACK_VOTERS: usize = 8;

fn majority_committed(voters: &[NodeId], acked: impl Fn(NodeId) -> Option<Index>) -> Index {
    let count = voters.len();
    if count == 0 {
        return UNBOUNDED;
    }
    let mut stack = [Index::ZERO; STACK_VOTERS];
    let mut heap = Vec::new();
    let indexes = if count <= STACK_VOTERS {
        &mut stack[..count]
    } else {
        heap.resize(count, Index::ZERO);
        &mut heap[..]
    };
    for (slot, &voter) in indexes.iter_mut().zip(voters) {
        *slot = acked(voter).unwrap_or(Index::ZERO);
    }
    indexes.sort_unstable();
    // The smallest of the `count / 2 + 1` highest.
    let at = count - (count / 2 + 1);
    indexes[(at + usize::from(planted!(QuorumOffByOne))).min(count - 1)]
}

fn majority_vote(voters: &[NodeId], votes: impl Fn(NodeId) -> Option<bool>) -> VoteResult {
    if voters.is_empty() {
        return VoteResult::Won;
    }
    let needed = voters.len() / 2 + 1;
    let (mut yes, mut open) = (0, 0);
    for &voter in voters {
        match votes(voter) {
            Some(true) => yes += 1,
            Some(false) => {}
            None => open += 1,
        }
    }
    if yes >= needed {
        VoteResult::Won
    } else if yes + open >= needed {
        VoteResult::Pending
    } else {
        VoteResult::Lost
    }
}
