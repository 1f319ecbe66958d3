//! Asynchronous storage writes, where a write can be overtaken by what replaces it.

mod sim;

use norn_raft::{Config, Entry, Index, Message, MessageKind, Term};
use sim::{Sim, id, plain};

fn follower() -> Sim {
    Sim::of(5, Config { async_storage_writes: true, ..plain() })
}

/// Steps an append from `from` into host 3: after (`prev`, `prev_term`), entries of the given terms.
fn append(sim: &mut Sim, from: u64, term: u64, prev: (u64, u64), terms: &[u64]) {
    let entries = (prev.0 + 1..)
        .zip(terms)
        .map(|(index, &term)| Entry { index: Index(index), term: Term(term), ..Entry::default() })
        .collect();
    let message = Message {
        kind: MessageKind::App,
        to: id(3),
        from: id(from),
        term: Term(term),
        index: Index(prev.0),
        log_term: Term(prev.1),
        entries,
        ..Message::default()
    };
    sim.raw(3).step(message).unwrap();
    sim.work(3);
}

/// Index and term of each entry in the write order at `position`.
fn written(sim: &mut Sim, position: usize) -> Vec<(u64, u64)> {
    let order = &sim.host(3).append_work[position];
    order.entries.iter().map(|entry| (entry.index.0, entry.term.0)).collect()
}

#[test]
fn what_replaces_a_write_in_progress_is_written_again() {
    let mut sim = follower();
    append(&mut sim, 1, 2, (1, 1), &[2, 2]);
    append(&mut sim, 2, 3, (2, 2), &[3]);
    assert_eq!(written(&mut sim, 0), [(2, 2), (3, 2)]);
    assert_eq!(written(&mut sim, 1), [(3, 3)]);
    sim.append_thread(3);
    sim.append_thread(3);
    let stored = sim.raw(3).storage().term(Index(3));
    assert_eq!(stored, Ok(Term(3)));
}

#[test]
fn the_end_of_an_overwritten_write_does_not_vouch_for_its_double() {
    let mut sim = follower();
    // 1. Leader 1 sends an entry of term 2.     2. Leader 2 replaces it by one of term 3.
    // 3. Leader 1, back in term 4, puts its old entry there again. All three writes are under way.
    append(&mut sim, 1, 2, (1, 1), &[2]);
    append(&mut sim, 2, 3, (1, 1), &[3]);
    append(&mut sim, 1, 4, (1, 1), &[2, 4]);
    // 4. The first write ends. Same index, same term as what is there now; but another write, of something
    //    else, is still to come.
    sim.append_thread(3);
    sim.append_thread(3);
    assert_eq!(sim.raw(3).storage().term(Index(2)), Ok(Term(3)), "the second write is on disk");
    assert_eq!(sim.raw(3).term_at(Index(2)), Some(Term(2)), "and the log must not show it");
    sim.append_thread(3);
    assert_eq!(sim.terms(3), [2, 4]);
    assert_eq!(sim.raw(3).storage().term(Index(2)), Ok(Term(2)));
}

#[test]
fn nothing_is_applied_before_it_is_stored_here() {
    let mut sim = follower();
    append(&mut sim, 1, 2, (1, 1), &[2]);
    let commit = Message {
        kind: MessageKind::App,
        to: id(3),
        from: id(1),
        term: Term(2),
        index: Index(2),
        log_term: Term(2),
        commit: Index(2),
        ..Message::default()
    };
    sim.raw(3).step(commit).unwrap();
    sim.work(3);
    assert_eq!(sim.raw(3).committed(), Index(2));
    assert!(sim.host(3).apply_work.is_empty());
    sim.append_thread(3);
    sim.work(3);
    assert_eq!(sim.host(3).apply_work.len(), 1);
}
