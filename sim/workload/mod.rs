//! What clients ask for: single keys, transactions, and whole stories with a memory.

pub mod append;
pub mod bank;
pub mod election;
pub mod lock;
mod pods;
mod queue;
mod register;
mod txns;
mod wire;

use bytes::Bytes;
use norn_proto::mvccpb::KeyValue;

use crate::history::{Answer, Ask, Outcome};
use crate::options::Options;
use crate::rng::Rng;
pub use wire::{encode, outcome, put, watch, watch_progress};

/// What a client is at. Each has keys of its own, so that one does not disturb what another one counts on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Story {
    Register,
    Txns,
    Bank,
    Append,
    Pods,
    Lock,
    Election,
}

/// In the order of `Options::stories`.
const STORIES: [Story; 7] = [
    Story::Register,
    Story::Txns,
    Story::Bank,
    Story::Append,
    Story::Pods,
    Story::Lock,
    Story::Election,
];

/// One client: asks, waits for the answer or the deadline, thinks, asks again.
pub struct Client {
    rng: Rng,
    number: usize,
    asked: u64,
    /// The member it prefers; `None`: any.
    pub sticks_to: Option<usize>,
    pub revision_seen: i64,
    story: Story,
    register: register::Register,
    bank: bank::Bank,
    append: append::Append,
    pods: pods::Pods,
    lock: lock::Lock,
    election: election::Election,
}

/// What a story may draw from and refer to.
struct Pen<'a> {
    rng: &'a mut Rng,
    options: &'a Options,
    client: usize,
    /// Different for every question of this client.
    asked: u64,
    revision_seen: i64,
}

impl Pen<'_> {
    /// Text that nobody else writes.
    fn mark(&self) -> String {
        format!("c{}-{}", self.client, self.asked)
    }

    /// The same, of some length.
    fn value(&mut self) -> Bytes {
        self.nth_value(0)
    }

    /// For requests with several values.
    fn nth_value(&mut self, nth: usize) -> Bytes {
        let mut value = self.mark().into_bytes();
        if nth > 0 {
            value.extend_from_slice(format!("/{nth}").as_bytes());
        }
        let pad = self.rng.below(self.options.value_bytes) as usize;
        value.resize(value.len() + pad, b'.');
        Bytes::from(value)
    }

    fn lease_id(&self) -> i64 {
        (self.client as u64 * 1_000_000 + self.asked + 1).cast_signed()
    }
}

impl Client {
    pub fn new(number: usize, options: &Options, mut rng: Rng) -> Client {
        let node = rng.below(options.nodes as u64) as usize;
        let sticks_to = rng.permille(500).then_some(node);
        Client {
            rng,
            number,
            asked: 0,
            sticks_to,
            revision_seen: 1,
            story: Story::Register,
            register: register::Register::new(options),
            bank: bank::Bank::default(),
            append: append::Append::default(),
            pods: pods::Pods::default(),
            lock: lock::Lock::default(),
            election: election::Election::default(),
        }
    }

    pub fn think_us(&mut self, options: &Options) -> u64 {
        self.rng.between(options.think_us / 4, options.think_us * 2)
    }

    pub fn choose_node(&mut self, machines: usize) -> usize {
        let any = self.rng.below(machines as u64) as usize;
        self.sticks_to.unwrap_or(any)
    }

    /// The next question's number among those of all clients: whatever is left out of the others, it remains the same.
    pub fn next_number(&self, options: &Options) -> usize {
        self.asked as usize * options.clients + self.number
    }

    pub fn next(&mut self, options: &Options) -> Ask {
        self.asked += 1;
        self.story = STORIES[weighted(&mut self.rng, &options.stories)];
        let mut pen = Pen {
            rng: &mut self.rng,
            options,
            client: self.number,
            asked: self.asked,
            revision_seen: self.revision_seen,
        };
        match self.story {
            Story::Register => self.register.next(&mut pen),
            Story::Txns => txns::next(&mut pen),
            Story::Bank => self.bank.next(&mut pen),
            Story::Append => self.append.next(&mut pen),
            Story::Pods => self.pods.next(&mut pen),
            Story::Lock => self.lock.next(&mut pen),
            Story::Election => self.election.next(&mut pen),
        }
    }

    /// What the answer teaches the client.
    pub fn learn(&mut self, ask: &Ask, outcome: &Outcome) {
        if let Outcome::Ok { revision, .. } = outcome {
            self.revision_seen = self.revision_seen.max(*revision);
        }
        match self.story {
            Story::Register => self.register.learn(ask, outcome),
            Story::Txns => {}
            Story::Bank => self.bank.learn(outcome),
            Story::Append => self.append.learn(ask, outcome),
            Story::Pods => self.pods.learn(ask, outcome),
            Story::Lock => self.lock.learn(ask, outcome),
            Story::Election => self.election.learn(ask, outcome),
        }
    }
}

/// An index, as often as its weight says.
fn weighted(rng: &mut Rng, weights: &[u64]) -> usize {
    let mut at = rng.below(weights.iter().sum());
    let mut kind = 0;
    while at >= weights[kind] {
        at -= weights[kind];
        kind += 1;
    }
    kind
}

/// What an answer shows of keys: those of a range, alone or in a transaction.
fn shown(outcome: &Outcome) -> impl Iterator<Item = &KeyValue> {
    use norn_proto::etcdserverpb::response_op::Response;
    let answer = match outcome {
        Outcome::Ok { answer, .. } => Some(answer),
        _ => None,
    };
    let alone = answer.and_then(|answer| match answer {
        Answer::Listed(r) => Some(&r.kvs),
        _ => None,
    });
    let inside = answer.and_then(|answer| match answer {
        Answer::Txn(r) => Some(&r.responses),
        _ => None,
    });
    let inside = inside.into_iter().flatten().filter_map(|op| match &op.response {
        Some(Response::ResponseRange(r)) => Some(&r.kvs),
        _ => None,
    });
    alone.into_iter().chain(inside).flatten()
}

/// Whether a transaction went the way of its compares.
fn succeeded(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Ok { answer: Answer::Txn(r), .. } if r.succeeded)
}
