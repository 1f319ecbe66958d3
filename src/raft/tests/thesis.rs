//! One test for each section of the Raft thesis (Ongaro, 2014) that makes a promise.

mod sim;

use norn_raft::{
    ConfChange, ConfChangeKind, ConfChangeSingle, ConfChangeTransition, ConfChangeV2, Config,
    Entry, HardState, Index, MemStorage, Message, MessageKind, NodeId, RawNode, Role, Snapshot,
    Term,
};
use sim::{Sim, id, plain};

fn change(kind: ConfChangeKind, n: u64) -> ConfChange {
    ConfChange { kind, node_id: id(n), ..ConfChange::default() }
}

#[test]
fn section_3_4_elections_are_won_by_majorities_and_randomised_timeouts_end_splits() {
    let mut sim = Sim::of(5, plain());
    assert!(!sim.elect(1, &[1, 2]), "two of five are no majority");
    assert!(sim.elect(3, &[3, 4, 5]), "three of five are");

    // Without a leader, and with every node ticking at the same pace, somebody wins before long: the
    // timeouts differ. A fixed timeout would split the vote for ever.
    let mut sim = Sim::of(5, plain());
    let all = sim.everyone();
    for _ in 0..100 {
        for &n in &all {
            sim.tick(n, 1);
        }
        sim.settle(&all);
        if sim.hosts.iter().any(|host| host.raw.is_leader()) {
            return;
        }
    }
    panic!("no leader after ten election timeouts");
}

#[test]
fn section_3_4_a_vote_is_cast_once_per_term_and_survives_a_crash() {
    let mut sim = Sim::of(3, plain());
    sim.raw(1).campaign();
    sim.work(1);
    let to_2 = sim.network.iter().position(|m| m.to == id(2)).unwrap();
    sim.deliver(to_2);
    sim.work(2);
    sim.network.clear();
    sim.crash(2);
    assert_eq!(sim.raw(2).status().hard_state.vote, id(1));
    // 3 asks for the same term.
    sim.raw(3).campaign();
    sim.work(3);
    let to_2 = sim.network.iter().position(|m| m.to == id(2)).unwrap();
    sim.deliver(to_2);
    sim.work(2);
    let answer = sim.network.iter().find(|m| m.kind == MessageKind::VoteResp).unwrap();
    assert!(answer.reject);
}

#[test]
fn section_3_5_a_diverged_log_is_repaired_to_the_leaders() {
    let mut sim = Sim::of(3, plain());
    assert!(sim.elect(1, &[1, 2, 3]));
    // 1 goes on alone, then 2 and 3 do without it, twice.
    for text in ["lost-a", "lost-b", "lost-c"] {
        assert!(sim.propose(1, text));
    }
    sim.settle(&[1]);
    assert!(sim.elect(2, &[2, 3]));
    assert!(sim.propose(2, "kept"));
    sim.settle(&[2, 3]);
    assert_eq!(sim.terms(1).len(), 4);
    // A heartbeat is enough to find out.
    sim.tick(2, 1);
    sim.settle(&[1, 2, 3]);
    assert_eq!(sim.terms(1), sim.terms(2));
    assert_eq!(sim.payloads(1), ["kept"]);
    sim.check_log_matching();
}

#[test]
fn section_3_6_1_only_a_complete_log_wins() {
    let mut sim = Sim::of(3, plain());
    assert!(sim.elect(1, &[1, 2, 3]));
    assert!(sim.propose(1, "committed"));
    sim.settle(&[1, 2]);
    assert!(!sim.elect(3, &[1, 2, 3]), "3 lacks a committed entry");
    assert!(sim.elect(2, &[2, 3]), "2 has it");
    assert_eq!(sim.payloads(3), ["committed"]);
}

#[test]
fn section_3_6_2_entries_of_older_terms_are_not_committed_by_counting() {
    // The five servers of figure 3.7, one entry per message.
    let mut sim = Sim::of(5, Config { message_bytes_max: 0, ..plain() });
    let old = Index(2);
    // (a) S1 leads term 2 and gets its entry to S2 only.
    sim.raw(1).campaign();
    sim.work(1);
    sim.settle_votes(1, &[2, 3]);
    assert!(sim.raw(1).is_leader());
    sim.work(1);
    sim.deliver_only(2);
    sim.work(2);
    sim.network.clear();
    // (b) S5 leads term 3 by the votes of S3 and S4, and gets its entry to nobody.
    for _ in 0..2 {
        sim.raw(5).campaign();
        sim.work(5);
        sim.settle_votes(5, &[3, 4]);
    }
    assert!(sim.raw(5).is_leader());
    sim.work(5);
    sim.network.clear();
    assert_eq!(sim.raw(5).term_at(old), Some(Term(3)));
    // (c) S1 restarts, leads term 4, and brings its old entry onto a majority: S1, S2, S3.
    sim.crash(1);
    sim.crash(5);
    for _ in 0..2 {
        sim.raw(1).campaign();
        sim.work(1);
        sim.settle_votes(1, &[2, 3]);
    }
    assert!(sim.raw(1).is_leader());
    sim.work(1);
    for _ in 0..2 {
        // The probe is refused; then the old entry goes out alone, and is acknowledged.
        sim.deliver_only(3);
        sim.work(3);
        sim.deliver_only(1);
        sim.work(1);
    }
    assert_eq!(sim.raw(3).term_at(old), Some(Term(2)));
    let term = sim.raw(1).term();
    sim.raw(1)
        .step(Message {
            kind: MessageKind::AppResp,
            to: id(1),
            from: id(2),
            term,
            index: old,
            ..Message::default()
        })
        .unwrap();
    let matched = sim.raw(1).progress().filter(|(_, progress)| progress.matched >= old).count();
    assert_eq!(matched, 3, "the old entry is on a majority");
    assert!(sim.raw(1).committed() < old, "and must not be committed by counting that");
    // (d) For S5 can still be elected, and overwrite it.
    sim.network.clear();
    for _ in 0..2 {
        sim.elect(5, &[2, 3, 4, 5]);
    }
    assert!(sim.raw(5).is_leader());
    sim.tick(5, 1);
    sim.settle(&[1, 2, 3, 4, 5]);
    for n in 1..=5 {
        assert_eq!(sim.raw(n).term_at(old), Some(Term(3)));
        assert!(sim.raw(n).committed() >= old);
    }
    sim.check_log_matching();
}

#[test]
fn section_3_10_leadership_moves_to_a_follower_that_lags_after_it_caught_up() {
    let mut sim = Sim::of(3, plain());
    assert!(sim.elect(1, &[1, 2, 3]));
    assert!(sim.propose(1, "missed by 3"));
    sim.settle(&[1, 2]);
    sim.raw(1).transfer_leader(id(3));
    assert!(!sim.propose(1, "refused"), "no proposals while handing over");
    sim.tick(1, 1);
    sim.settle(&[1, 2, 3]);
    assert!(sim.raw(3).is_leader());
    assert_eq!(sim.payloads(3), ["missed by 3"]);

    // A target that is gone does not block proposals for longer than an election timeout.
    sim.raw(3).transfer_leader(id(2));
    sim.settle(&[1, 3]);
    assert!(!sim.propose(3, "refused"));
    sim.tick(3, 10);
    assert!(sim.propose(3, "accepted"));
}

#[test]
fn section_3_8_a_crash_loses_nothing_that_was_promised() {
    for async_storage_writes in [false, true] {
        let mut sim = Sim::of(3, Config { async_storage_writes, ..plain() });
        assert!(sim.elect(1, &[1, 2, 3]));
        assert!(sim.propose(1, "kept"));
        sim.settle(&[1, 2, 3]);
        for n in 1..=3 {
            sim.crash(n);
        }
        assert!(sim.elect(3, &[2, 3]));
        assert_eq!(sim.payloads(2), ["kept"]);
        assert_eq!(sim.payloads(3), ["kept"]);
    }
}

#[test]
fn a_leader_does_not_count_itself_before_its_own_write_is_durable() {
    let mut sim = Sim::of(1, Config { async_storage_writes: true, ..plain() });
    assert!(sim.elect(1, &[1]));
    let committed = sim.raw(1).committed();
    assert!(sim.propose(1, "x"));
    sim.work(1);
    assert_eq!(sim.raw(1).committed(), committed, "committed before it is durable");
    sim.append_thread(1);
    assert_eq!(sim.raw(1).committed(), committed.next());
}

#[test]
fn section_4_1_members_are_added_and_removed_one_at_a_time() {
    let mut sim = Sim::new(4, &[1, 2, 3], plain());
    assert!(sim.elect(1, &[1, 2, 3]));
    let all = sim.everyone();
    sim.raw(1).propose_conf_change(change(ConfChangeKind::AddNode, 4)).unwrap();
    // A second one before the first is applied becomes an empty entry.
    sim.raw(1).propose_conf_change(change(ConfChangeKind::RemoveNode, 2)).unwrap();
    sim.settle(&all);
    let voters = sim.raw(4).conf_state().voters;
    assert_eq!(voters, [1, 2, 3, 4].map(NodeId));
    // Now it takes three: 1 and 4 alone commit nothing.
    assert!(sim.propose(1, "x"));
    let before = sim.raw(1).committed();
    sim.settle(&[1, 4]);
    assert_eq!(sim.raw(1).committed(), before);
    sim.tick(1, 1);
    sim.settle(&all);
    assert!(sim.raw(1).committed() > before);
    sim.raw(1).propose_conf_change(change(ConfChangeKind::RemoveNode, 2)).unwrap();
    sim.settle(&all);
    assert_eq!(sim.raw(4).conf_state().voters, [1, 3, 4].map(NodeId));
    assert!(!sim.elect(2, &all), "a removed member that knows it does not campaign");
}

#[test]
fn section_4_2_1_a_learner_catches_up_without_counting() {
    let mut sim = Sim::new(2, &[1], plain());
    assert!(sim.elect(1, &[1]));
    sim.raw(1).propose_conf_change(change(ConfChangeKind::AddLearnerNode, 2)).unwrap();
    sim.settle(&[1]);
    assert!(sim.propose(1, "alone"));
    sim.settle(&[1]);
    assert_eq!(sim.payloads(1), ["alone"], "a learner does not hold up the commit");
    sim.tick(1, 1);
    sim.settle(&[1, 2]);
    assert!(sim.raw(2).is_learner());
    let committed = sim.raw(1).committed();
    assert_eq!(sim.host(2).applied, committed);
    assert!(!sim.elect(2, &[1, 2]), "a learner does not campaign");
    assert!(sim.raw(1).is_leader());
}

#[test]
fn section_4_2_2_a_removed_leader_leads_on_until_others_know_unless_told_to_step_down() {
    for step_down_on_removal in [false, true] {
        let mut sim = Sim::of(3, Config { step_down_on_removal, ..plain() });
        assert!(sim.elect(1, &[1, 2, 3]));
        sim.raw(1).propose_conf_change(change(ConfChangeKind::RemoveNode, 1)).unwrap();
        sim.settle(&[1, 2, 3]);
        assert_eq!(sim.raw(1).is_leader(), !step_down_on_removal);
        assert!(!sim.propose(1, "x"), "a removed leader accepts nothing");
        assert!(sim.elect(2, &[2, 3]));
    }
}

#[test]
fn section_4_2_2_of_two_the_one_that_stays_learns_that_the_other_whose_log_is_longer_has_no_vote() {
    for kind in [ConfChangeKind::RemoveNode, ConfChangeKind::AddLearnerNode] {
        let mut sim = Sim::of(2, plain());
        assert!(sim.elect(1, &[1, 2]));
        sim.raw(1).propose_conf_change(change(kind, 1)).unwrap();
        sim.work(1);
        assert!(sim.propose(1, "never committed"));
        sim.work(1);
        // 2 is sent the change, and nothing that came after; 1 hears that 2 has it, and 2 not that it is committed.
        sim.network.truncate(1);
        sim.deliver(0);
        sim.work(2);
        sim.deliver(0);
        sim.settle(&[1]);
        assert_eq!(sim.raw(1).conf_state().voters, [id(2)]);
        assert!(sim.raw(1).last_index() > sim.raw(2).last_index());
        // 2 does not know, and asks.
        sim.network.clear();
        assert!(!sim.elect(2, &[1, 2]), "a vote is for whoever has all of the voter's log");
        assert!(sim.elect(2, &[1, 2]), "the refusal said what is committed");
        assert_eq!(sim.raw(2).conf_state().voters, [id(2)]);
        assert!(sim.propose(2, "alone"));
        sim.settle(&[2]);
        assert_eq!(sim.payloads(2), ["alone"]);
    }
}

#[test]
fn section_4_3_a_joint_configuration_needs_both_majorities() {
    let mut sim = Sim::new(5, &[1, 2, 3], plain());
    assert!(sim.elect(1, &[1, 2, 3]));
    let all = sim.everyone();
    let single = |kind, n| ConfChangeSingle { kind, node_id: id(n) };
    let swap = ConfChangeV2 {
        transition: ConfChangeTransition::JointExplicit,
        changes: vec![
            single(ConfChangeKind::RemoveNode, 2),
            single(ConfChangeKind::RemoveNode, 3),
            single(ConfChangeKind::AddNode, 4),
            single(ConfChangeKind::AddNode, 5),
        ],
        ..ConfChangeV2::default()
    };
    sim.raw(1).propose_conf_change(swap).unwrap();
    sim.settle(&all);
    assert!(sim.raw(1).membership().voters.is_joint());
    for (side, others) in [([1, 2, 3], "new"), ([1, 4, 5], "old")] {
        let before = sim.raw(1).committed();
        assert!(sim.propose(1, "x"));
        sim.settle(&side);
        assert_eq!(sim.raw(1).committed(), before, "without the {others} majority");
        sim.tick(1, 1);
        sim.settle(&all);
        assert!(sim.raw(1).committed() > before);
    }
    sim.raw(1).propose_conf_change(ConfChangeV2::default()).unwrap();
    sim.settle(&all);
    assert_eq!(sim.raw(5).conf_state().voters, [1, 4, 5].map(NodeId));
    assert!(!sim.raw(5).membership().voters.is_joint());
}

#[test]
fn section_5_a_follower_behind_the_log_gets_a_snapshot() {
    for async_storage_writes in [false, true] {
        let mut sim = Sim::of(3, Config { async_storage_writes, ..plain() });
        assert!(sim.elect(1, &[1, 2, 3]));
        for n in 0..20 {
            assert!(sim.propose(1, &format!("entry {n}")));
            sim.settle(&[1, 2]);
        }
        sim.host(1).compact();
        sim.tick(1, 1);
        sim.settle(&[1, 2, 3]);
        let [first, _, third] = &sim.hosts[..] else { panic!("three hosts") };
        assert_eq!((first.applied, first.digest), (third.applied, third.digest));
        assert!(sim.payloads(3).len() < 20, "it came as a snapshot, not as entries");
        // And goes on from there.
        assert!(sim.propose(1, "after"));
        sim.settle(&[1, 3]);
        assert_eq!(sim.payloads(3).last().unwrap(), "after");
    }
}

#[test]
fn section_6_2_followers_of_a_live_leader_do_not_vote_and_a_cut_off_leader_steps_down() {
    let mut sim = Sim::of(3, Config { check_quorum: true, ..plain() });
    assert!(sim.elect(1, &[1, 2, 3]));
    let term = sim.raw(1).term();
    assert!(!sim.elect(2, &[2, 3]), "3 has heard from its leader");
    assert_eq!(sim.raw(3).term(), term);
    sim.tick(1, 20);
    assert_eq!(sim.raw(1).role(), Role::Follower, "nobody answered for two election timeouts");
}

#[test]
fn section_6_4_a_deposed_leader_answers_no_reads() {
    let mut sim = Sim::of(3, plain());
    assert!(sim.elect(1, &[1, 2, 3]));
    assert!(sim.elect(2, &[2, 3]));
    assert!(sim.propose(2, "newer"));
    sim.settle(&[2, 3]);
    assert!(sim.raw(1).is_leader(), "it does not know yet");
    sim.read(1, "stale");
    sim.settle(&[1]);
    assert!(sim.host(1).reads.is_empty());
    sim.tick(1, 1);
    sim.settle(&[1, 2, 3]);
    assert!(sim.host(1).reads.is_empty(), "lost with the leadership");
    // Asked again, it is forwarded, and current.
    sim.tick(2, 1);
    sim.settle(&[1, 2, 3]);
    sim.read(1, "current");
    sim.settle(&[1, 2, 3]);
    let committed = sim.raw(2).committed();
    assert_eq!(sim.host(1).reads, [("current".into(), committed)]);
}

#[test]
fn section_6_4_a_new_leader_answers_reads_only_after_its_first_commit() {
    // Even alone: the commit index on disk may trail what was acknowledged before a crash.
    let mut sim = Sim::of(1, plain());
    assert!(sim.elect(1, &[1]));
    assert!(sim.propose(1, "acknowledged"));
    sim.settle(&[1]);
    let acknowledged = sim.raw(1).committed();
    let mut hard = sim.raw(1).storage().hard_state();
    hard.commit = Index(1);
    sim.raw(1).storage_mut().set_hard_state(hard);
    sim.crash(1);
    sim.raw(1).campaign();
    sim.work(1);
    assert!(sim.raw(1).is_leader());
    sim.raw(1).read_index("read".into());
    sim.settle(&[1]);
    let [(_, index)] = sim.host(1).reads[..] else { panic!("one answer") };
    assert!(index >= acknowledged, "a read at {index} misses what was acknowledged");
}

#[test]
fn a_late_echo_does_not_vouch_for_a_newer_read_with_the_same_context() {
    let mut sim = Sim::of(3, plain());
    assert!(sim.elect(1, &[1, 2, 3]));
    sim.raw(1).read_index("same".into());
    sim.work(1);
    // Both echo, but only that of 2 arrives; the other one is kept.
    let echoes: Vec<_> = std::mem::take(&mut sim.network);
    for message in echoes {
        let to = message.to.0;
        sim.raw(to).step(message).unwrap();
        sim.work(to);
    }
    let late = sim.network.pop().unwrap();
    let again = sim.network[0].clone();
    sim.deliver(0);
    sim.work(1);
    assert_eq!(sim.host(1).reads.len(), 1);
    sim.raw(1).read_index("same".into());
    for echo in [late, again.clone(), again] {
        sim.raw(1).step(echo).unwrap();
    }
    sim.work(1);
    assert_eq!(sim.host(1).reads.len(), 1, "the echo is older than the read");
}

#[test]
fn section_9_6_pre_votes_keep_a_returning_server_from_disturbing() {
    let mut sim = Sim::of(3, Config { pre_vote: true, ..plain() });
    assert!(sim.elect(1, &[1, 2, 3]));
    let term = sim.raw(1).term();
    assert!(sim.propose(1, "news"));
    sim.settle(&[1, 2]);
    for _ in 0..5 {
        sim.tick(3, 20);
        sim.settle(&[3]);
    }
    assert_eq!(sim.raw(3).term(), term, "its term does not grow while it is alone");
    sim.raw(3).campaign();
    sim.settle(&[1, 2, 3]);
    assert!(sim.raw(1).is_leader());
    assert_eq!(sim.raw(1).term(), term);
    // Without a leader it can still be done.
    assert!(sim.elect(2, &[2, 3]));
    assert_eq!(sim.raw(2).term(), Term(term.0 + 1));
}

#[test]
fn what_is_on_disk_decides_where_a_node_begins() {
    let snapshot = Snapshot { index: Index(5), term: Term(1), ..Snapshot::default() };
    let start = |commit, applied| {
        let hard = HardState { term: Term(1), commit: Index(commit), ..HardState::default() };
        let entry = Entry { index: Index(6), term: Term(1), ..Entry::default() };
        let storage = MemStorage::recovered(snapshot.clone(), hard, vec![entry]);
        RawNode::new(Config { applied: Index(applied), ..plain() }, storage)
            .map(|raw| (raw.committed(), raw.applied()))
            .ok()
    };
    assert_eq!(start(5, 0), Some((Index(5), Index(5))));
    assert_eq!(start(6, 0), Some((Index(6), Index(5))));
    assert_eq!(start(6, 6), Some((Index(6), Index(6))));
    // A commit index that is not synced may trail; what was saved or applied was committed.
    assert_eq!(start(4, 0), Some((Index(5), Index(5))));
    assert_eq!(start(5, 6), Some((Index(6), Index(6))));
    // But nothing may be beyond the log.
    assert_eq!(start(7, 0), None);
    assert_eq!(start(6, 7), None);
    assert_eq!(start(6, 4), None);
}

#[test]
fn same_seed_same_elections() {
    let run = || {
        let mut sim = Sim::of(3, plain());
        let all = sim.everyone();
        let mut trace = Vec::new();
        for _ in 0..60 {
            for &n in &all {
                sim.tick(n, 1);
            }
            sim.settle(&all);
            trace.extend(sim.hosts.iter().map(|host| (host.raw.term(), host.raw.role())));
        }
        trace
    };
    assert_eq!(run(), run());
}

impl Sim {
    /// Delivers what is for `n` and loses the rest.
    fn deliver_only(&mut self, n: u64) {
        self.network.retain(|m| m.to == id(n));
        while !self.network.is_empty() {
            self.deliver(0);
        }
    }

    /// Delivers only vote requests to, and votes from, `voters`.
    fn settle_votes(&mut self, candidate: u64, voters: &[u64]) {
        self.network.retain(|m| m.from == id(candidate) && voters.contains(&m.to.0));
        while !self.network.is_empty() {
            self.deliver(0);
        }
        for &n in voters {
            self.work(n);
        }
        self.network.retain(|m| m.to == id(candidate) && m.kind == MessageKind::VoteResp);
        while !self.network.is_empty() {
            self.deliver(0);
        }
    }
}
