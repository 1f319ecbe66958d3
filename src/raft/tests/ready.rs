//! What a Ready says, and what single messages do to a single node.

mod sim;

use bytes::Bytes;
use norn_raft::{
    ConfChange, ConfChangeKind, ConfState, Config, Entry, Index, Message, MessageKind, NodeId,
    ProgressState, Snapshot, Term,
};
use sim::{Sim, id, plain};

fn message(kind: MessageKind, from: u64, to: u64, term: u64) -> Message {
    Message { kind, from: id(from), to: id(to), term: Term(term), ..Message::default() }
}

#[test]
fn a_vote_alone_must_be_synced_and_a_commit_index_alone_need_not() {
    let mut sim = Sim::of(3, plain());
    // 2 learns of term 5 without voting.
    sim.raw(2).step(message(MessageKind::Heartbeat, 1, 2, 5)).unwrap();
    let ready = sim.raw(2).ready();
    assert!(ready.must_sync, "the term has changed");
    sim.raw(2).advance();
    sim.raw(2).forget_leader();
    let (index, log_term) = (Index(1), Term(1));
    let request = message(MessageKind::Vote, 3, 2, 5);
    sim.raw(2).step(Message { index, log_term, ..request }).unwrap();
    let ready = sim.raw(2).ready();
    assert_eq!(ready.hard_state.unwrap().vote, id(3));
    assert!(ready.must_sync, "the vote has changed");
    let storage = sim.raw(2).storage_mut();
    storage.set_hard_state(ready.hard_state.unwrap());
    sim.raw(2).advance();

    let entry = Entry { index: Index(2), term: Term(5), ..Entry::default() };
    let append = Message { index, log_term, ..message(MessageKind::App, 3, 2, 5) };
    sim.raw(2).step(Message { entries: vec![entry], ..append.clone() }).unwrap();
    assert!(sim.raw(2).has_ready());
    sim.work(2);
    let commit = Message { index: Index(2), log_term: Term(5), commit: Index(2), ..append };
    sim.raw(2).step(commit).unwrap();
    let ready = sim.raw(2).ready();
    assert_eq!(ready.hard_state.unwrap().commit, Index(2));
    assert!(!ready.must_sync);
}

#[test]
fn the_limit_on_unacknowledged_entries_is_not_passed_by_starting_another_batch() {
    let settings = Config { async_storage_writes: true, committed_bytes_max: 100, ..plain() };
    let mut sim = Sim::of(1, settings);
    assert!(sim.elect(1, &[1]));
    for len in [60, 60, 1] {
        sim.raw(1).propose(Bytes::from(vec![b'x'; len])).unwrap();
    }
    sim.work(1);
    sim.append_thread(1);
    sim.work(1);
    // The second would exceed the limit, so it has to wait until the first is applied, although a batch
    // always holds at least one entry.
    sim.work(1);
    assert_eq!(sim.host(1).apply_work.len(), 1);
    assert_eq!(sim.host(1).apply_work[0].entries.len(), 1);
    sim.apply_thread(1);
    sim.work(1);
    assert_eq!(sim.host(1).apply_work[0].entries.len(), 2);
}

#[test]
fn a_late_refusal_does_not_disturb_a_follower_that_is_being_fed() {
    let mut sim = Sim::of(3, plain());
    assert!(sim.elect(1, &[1, 2, 3]));
    let term = sim.raw(1).term().0;
    let refusal = message(MessageKind::AppResp, 2, 1, term);
    sim.raw(1).step(Message { reject: true, index: Index(1), ..refusal }).unwrap();
    let (_, progress) = sim.raw(1).progress().find(|(member, _)| *member == id(2)).unwrap();
    assert_eq!(progress.state, ProgressState::Replicate);
    assert_eq!(progress.next, Index(3));
}

#[test]
fn a_snapshot_is_for_outgoing_voters_too_and_not_for_strangers() {
    for (outgoing, is_taken) in [(vec![id(2), id(4)], true), (vec![id(4)], false)] {
        let mut sim = Sim::of(3, plain());
        let conf_state = ConfState {
            voters: vec![id(1), id(3)],
            voters_outgoing: outgoing,
            ..ConfState::default()
        };
        let snapshot = Snapshot {
            index: Index(9),
            term: Term(2),
            data: Bytes::from(vec![0; 8]),
            conf_state: conf_state.clone(),
        };
        let carrier = message(MessageKind::Snap, 1, 2, 2);
        sim.raw(2).step(Message { snapshot: Some(Box::new(snapshot)), ..carrier }).unwrap();
        assert_eq!(sim.raw(2).last_index() == Index(9), is_taken);
        assert_eq!(sim.raw(2).conf_state() == conf_state, is_taken);
    }
}

#[test]
fn nonsense_from_the_network_is_refused_or_ignored() {
    let mut sim = Sim::of(3, plain());
    assert!(sim.elect(1, &[1, 2, 3]));
    let term = sim.raw(1).term().0;
    let before = sim.raw(2).status();
    // Local kinds, answers of strangers, keep-alives, and appends with a gap.
    assert!(sim.raw(2).step(message(MessageKind::Hup, 1, 2, 0)).is_err());
    assert!(sim.raw(1).step(message(MessageKind::AppResp, 9, 1, term)).is_err());
    sim.raw(2).step(message(MessageKind::Heartbeat, 0, 0, 0)).unwrap();
    let entry = Entry { index: Index(9), term: Term(term), ..Entry::default() };
    let append = message(MessageKind::App, 1, 2, term);
    let (index, log_term) = (Index(2), Term(term));
    sim.raw(2).step(Message { index, log_term, entries: vec![entry], ..append }).unwrap();
    assert!(!sim.raw(2).has_ready());
    assert_eq!(sim.raw(2).status(), before);
    // An acknowledgement of what we do not have.
    let ack = message(MessageKind::AppResp, 2, 1, term);
    sim.raw(1).step(Message { index: Index(99), ..ack }).unwrap();
    assert_eq!(sim.raw(1).committed(), Index(2));
    assert_eq!(sim.raw(1).leader(), NodeId(1));
}

#[test]
#[should_panic(expected = "a second Ready while one is out")]
fn a_second_ready_without_advance_is_a_mistake() {
    let mut sim = Sim::of(1, plain());
    sim.raw(1).campaign();
    let _ = sim.raw(1).ready();
    let _ = sim.raw(1).ready();
}

/// One of a membership that this node lags behind, or one that was removed: either has nobody else to hear of the term from.
#[test]
fn a_stranger_that_asks_for_a_vote_of_a_lower_term_is_told_the_term() {
    let mut sim = Sim::of(2, plain());
    sim.raw(2).step(message(MessageKind::Heartbeat, 1, 2, 7)).unwrap();
    sim.work(2);
    let asked = |from| Message {
        index: Index(9),
        log_term: Term(6),
        ..message(MessageKind::Vote, from, 2, 6)
    };
    sim.raw(2).step(asked(1)).unwrap();
    assert!(!sim.raw(2).has_ready(), "members hear of the term when they are asked for a vote");
    sim.raw(2).step(asked(3)).unwrap();
    let answers = sim.raw(2).ready().messages;
    sim.raw(2).advance();
    let expected = Message { reject: true, ..message(MessageKind::VoteResp, 2, 3, 7) };
    assert_eq!(answers, [expected]);
}

/// It may have been promoted where we lag behind, and need the vote that only we can give.
#[test]
fn a_learner_that_asks_for_a_vote_of_a_lower_term_is_told_the_term() {
    let mut sim = Sim::new(3, &[1, 2], plain());
    assert!(sim.elect(1, &[1, 2]));
    let change = ConfChange {
        kind: ConfChangeKind::AddLearnerNode,
        node_id: id(3),
        ..ConfChange::default()
    };
    sim.raw(1).propose_conf_change(change).unwrap();
    sim.settle(&[1, 2, 3]);
    let last = sim.raw(2).last_index();
    sim.raw(2).step(message(MessageKind::Heartbeat, 1, 2, 7)).unwrap();
    sim.work(2);
    let asked = message(MessageKind::Vote, 3, 2, 6);
    sim.raw(2).step(Message { index: last, log_term: Term(6), ..asked }).unwrap();
    let answers = sim.raw(2).ready().messages;
    sim.raw(2).advance();
    let expected = Message { reject: true, ..message(MessageKind::VoteResp, 2, 3, 7) };
    assert_eq!(answers, [expected]);
}

/// It may have been elected by a membership that we lag behind; without checks of its quorum it would lead on without our vote, for
/// ever.
#[test]
fn a_leader_of_a_lower_term_that_is_no_voter_here_is_told_the_term() {
    for kind in [MessageKind::Heartbeat, MessageKind::App] {
        let mut sim = Sim::of(2, plain());
        sim.raw(2).step(message(MessageKind::Heartbeat, 1, 2, 7)).unwrap();
        sim.work(2);
        sim.raw(2).step(message(kind, 1, 2, 6)).unwrap();
        assert!(!sim.raw(2).has_ready(), "voters hear of the term when they are asked for a vote");
        sim.raw(2).step(message(kind, 3, 2, 6)).unwrap();
        let answers = sim.raw(2).ready().messages;
        sim.raw(2).advance();
        assert_eq!(answers, [message(MessageKind::AppResp, 2, 3, 7)]);
    }
}
