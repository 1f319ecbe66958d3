//! The clever arithmetic of majorities against a dumb one.

use std::collections::BTreeMap;

use norn_raft::quorum::{UNBOUNDED, VoteResult, Voters};
use norn_raft::{Index, NodeId};
use proptest::prelude::*;

/// Tries every index: the highest that more than half have reached.
fn dumb_committed(voters: &[NodeId], acked: &BTreeMap<NodeId, Index>) -> Index {
    let reached = |index| {
        voters.iter().filter(|id| acked.get(id).copied().unwrap_or_default() >= index).count()
    };
    let agreed = |index: &Index| reached(*index) * 2 > voters.len();
    if voters.is_empty() {
        return UNBOUNDED;
    }
    (0..=30).rev().map(Index).find(agreed).unwrap_or_default()
}

/// Lets the missing voters vote in every possible way.
fn dumb_vote(voters: &[NodeId], votes: &BTreeMap<NodeId, bool>) -> VoteResult {
    let missing: Vec<_> = voters.iter().filter(|id| !votes.contains_key(id)).collect();
    let mut outcomes = Vec::new();
    for ballot in 0..1u32 << missing.len() {
        let yes = voters.iter().filter(|id| votes.get(id) == Some(&true)).count()
            + ballot.count_ones() as usize;
        outcomes.push(voters.is_empty() || yes * 2 > voters.len());
    }
    match (outcomes.contains(&true), outcomes.contains(&false)) {
        (true, false) => VoteResult::Won,
        (false, true) => VoteResult::Lost,
        _ => VoteResult::Pending,
    }
}

fn ids(max: usize) -> impl Strategy<Value = Vec<NodeId>> {
    prop::collection::btree_set(1u64..14, 0..=max)
        .prop_map(|ids| ids.into_iter().map(NodeId).collect())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn committed_is_what_counting_says(
        incoming in ids(12),
        outgoing in ids(9),
        acked in prop::collection::btree_map((1u64..14).prop_map(NodeId), (0u64..30).prop_map(Index), 0..14),
    ) {
        let dumb = dumb_committed(&incoming, &acked).min(dumb_committed(&outgoing, &acked));
        let voters = Voters { incoming, outgoing };
        prop_assert_eq!(voters.committed(|id| acked.get(&id).copied()), dumb);
    }

    #[test]
    fn a_vote_is_what_all_its_futures_say(
        incoming in ids(7),
        outgoing in ids(7),
        votes in prop::collection::btree_map((1u64..14).prop_map(NodeId), any::<bool>(), 0..14),
    ) {
        use VoteResult::*;
        let halves = (dumb_vote(&incoming, &votes), dumb_vote(&outgoing, &votes));
        let dumb = match halves {
            (Won, Won) => Won,
            (Lost, _) | (_, Lost) => Lost,
            _ => Pending,
        };
        let voters = Voters { incoming, outgoing };
        prop_assert_eq!(voters.vote(|id| votes.get(&id).copied()), dumb);
    }
}
