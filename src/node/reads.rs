//! Linearizable reads: wait until the leader confirmed that it still leads, then until what it had committed by then
//! is applied here.
//!
//! One round serves every read registered before it began; later ones form the next round.

use std::collections::BTreeMap;

use bytes::Bytes;
use norn_proto::etcdserverpb as pb;

use crate::Time;
use crate::downgrade::Downgrade;
use crate::input::Token;

/// An unanswered round is asked again after this long, with a new id.
const RETRY_MS: u64 = 500;

/// As long waits a leader that is asked about a lease for its own application of what is committed.
const APPLY_WAIT_MS: u64 = 1_000;

/// A read and what it will do when released.
#[derive(Clone, Debug)]
pub(crate) struct Read {
    pub(crate) token: Token,
    pub(crate) started: Time,
    pub(crate) kind: ReadKind,
}

#[derive(Clone, Debug)]
pub(crate) enum ReadKind {
    Range(norn_mvcc::RangeRequest),
    Txn(norn_mvcc::TxnRequest),
    MemberList,
    /// Renew this lease, once leadership is proved.
    LeaseRenew(i64),
    /// Renew this lease, which was unknown before what is committed was applied.
    LeaseRenewApplied(i64),
    LeaseTimeToLive(pb::LeaseTimeToLiveRequest),
    Downgrade(Downgrade),
    Barrier,
}

#[derive(Debug)]
struct Round {
    /// Every id it was asked with; any answer will do.
    contexts: Vec<Bytes>,
    started: Time,
    ask_again_at: Time,
    reads: Vec<Read>,
}

#[derive(Debug, Default)]
pub(crate) struct Reads {
    waiting: Vec<Read>,
    round: Option<Round>,
    /// Confirmed at an index that is not applied yet.
    confirmed: BTreeMap<u64, Vec<Read>>,
    /// On the leader, without a round: until this index, committed already, is applied.
    behind: BTreeMap<u64, Vec<Read>>,
}

impl Reads {
    pub(crate) fn len(&self) -> usize {
        let indexed = self.confirmed.values().chain(self.behind.values());
        let asked = self.round.as_ref().map_or(0, |round| round.reads.len());
        self.waiting.len() + asked + indexed.map(Vec::len).sum::<usize>()
    }

    pub(crate) fn add(&mut self, read: Read) {
        self.waiting.push(read);
    }

    /// Whether a round is due: a new one, or the current one again. The caller makes up a context for it.
    pub(crate) fn wants_round(&self, now: Time) -> bool {
        match &self.round {
            Some(round) => now >= round.ask_again_at,
            None => !self.waiting.is_empty(),
        }
    }

    pub(crate) fn asked(&mut self, context: Bytes, now: Time) {
        let ask_again_at = now + RETRY_MS;
        match &mut self.round {
            Some(round) => {
                round.contexts.push(context);
                round.ask_again_at = ask_again_at;
            }
            None => {
                self.round = Some(Round {
                    contexts: vec![context],
                    started: now,
                    ask_again_at,
                    reads: std::mem::take(&mut self.waiting),
                });
            }
        }
    }

    /// Ask again at once: an entry of a new term was committed, so an answer is now possible.
    pub(crate) fn ask_again(&mut self) {
        if let Some(round) = &mut self.round {
            round.ask_again_at = Time::default();
        }
    }

    pub(crate) fn confirmed(&mut self, context: &Bytes, index: u64) {
        if self.round.as_ref().is_some_and(|round| round.contexts.contains(context)) {
            let round = self.round.take().expect("checked above");
            self.confirmed.entry(index).or_default().extend(round.reads);
        }
    }

    /// A read of what is committed at `index`, which nobody needs to confirm.
    pub(crate) fn wait_applied(&mut self, index: u64, read: Read) {
        self.behind.entry(index).or_default().push(read);
    }

    /// Reads whose index is applied.
    pub(crate) fn take_released(&mut self, applied: u64) -> Vec<Read> {
        let mut released = Vec::new();
        for reads in [&mut self.confirmed, &mut self.behind] {
            while let Some(entry) = reads.first_entry() {
                if *entry.key() > applied {
                    break;
                }
                released.extend(entry.remove());
            }
        }
        released
    }

    /// Reads that waited too long for what is committed.
    pub(crate) fn take_behind(&mut self, now: Time) -> Vec<Token> {
        let is_late = |read: &mut Read| now.since(read.started) >= APPLY_WAIT_MS;
        let late = self.behind.values_mut().flat_map(|reads| reads.extract_if(.., is_late));
        let late = late.map(|read| read.token).collect();
        self.behind.retain(|_, reads| !reads.is_empty());
        late
    }

    /// The round under way can no longer be trusted.
    pub(crate) fn leader_changed(&mut self) -> Vec<Token> {
        let round = self.round.take();
        round.into_iter().flat_map(|round| round.reads).map(|read| read.token).collect()
    }

    /// Reads of a round that took too long.
    pub(crate) fn take_expired(&mut self, now: Time, timeout_ms: u64) -> Vec<Token> {
        if self.round.as_ref().is_none_or(|round| now.since(round.started) < timeout_ms) {
            return Vec::new();
        }
        self.leader_changed()
    }

    pub(crate) fn forget(&mut self, token: Token) {
        let round = self.round.iter_mut().map(|round| &mut round.reads);
        let waiting = std::iter::once(&mut self.waiting);
        let indexed = self.confirmed.values_mut().chain(self.behind.values_mut());
        for reads in round.chain(waiting).chain(indexed) {
            reads.retain(|read| read.token != token);
        }
    }

    /// Started longest ago.
    pub(crate) fn oldest(&self) -> Option<Time> {
        let round = self.round.iter().flat_map(|round| &round.reads);
        round.chain(&self.waiting).map(|read| read.started).min()
    }
}
