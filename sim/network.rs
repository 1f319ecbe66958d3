//! Links between members: delay, loss, late duplicates, and cuts in one or both directions.

use std::collections::BTreeSet;

use norn_raft::{Message, MessageKind};

use crate::options::Options;
use crate::rng::Rng;

pub struct Network {
    /// (from, to) between which nothing gets through.
    cut: BTreeSet<(usize, usize)>,
    rng: Rng,
    latency_us: u64,
    loss_permille: u64,
    duplicate_permille: u64,
    tail_permille: u64,
    late_reply_permille: u64,
    election_us: u64,
    duplicates_proposals: bool,
}

impl Network {
    pub fn new(options: &Options, rng: Rng) -> Network {
        Network {
            cut: BTreeSet::new(),
            rng,
            latency_us: options.latency_us,
            loss_permille: options.loss_permille,
            duplicate_permille: options.duplicate_permille,
            tail_permille: options.tail_permille,
            late_reply_permille: options.late_reply_permille,
            election_us: options.election_us(),
            duplicates_proposals: options.bug == Some(crate::options::Bug::ProposalTwice),
        }
    }

    pub fn is_cut(&self, from: usize, to: usize) -> bool {
        self.cut.contains(&(from, to))
    }

    pub fn cut(&mut self, links: impl IntoIterator<Item = (usize, usize)>) {
        self.cut.extend(links);
    }

    /// All links whole; loss and tails stay.
    pub fn mend(&mut self) {
        self.cut.clear();
    }

    /// From here on a good network.
    pub fn heal(&mut self) {
        self.mend();
        self.loss_permille = 0;
        self.duplicate_permille = 0;
        self.tail_permille = 0;
        self.late_reply_permille = 0;
    }

    /// After how long each copy of the message arrives; none: lost.
    pub fn delays(&mut self, message: &Message) -> Vec<u64> {
        let mut delays = Vec::new();
        if !self.rng.permille(self.loss_permille) {
            delays.push(self.delay());
        }
        // A proposal that arrives twice is two proposals: streams never do that, and etcd counts on it.
        let is_proposal = message.kind == MessageKind::Prop;
        if self.rng.permille(self.duplicate_permille) && !is_proposal {
            delays.push(self.rng.between(0, 2_000_000));
        }
        if self.late_reply_permille > 0
            && message.kind.is_response()
            && self.rng.permille(self.late_reply_permille)
        {
            // (Later ones keep a leader up that nobody follows any more, and what it says of leases is not proved.)
            let is_vote = matches!(message.kind, MessageKind::VoteResp | MessageKind::PreVoteResp);
            let late_us = if is_vote { 2_000_000 } else { self.election_us / 2 };
            delays.push(self.rng.between(0, late_us));
        }
        if is_proposal && self.duplicates_proposals {
            delays.push(self.delay());
        }
        delays
    }

    pub fn delay(&mut self) -> u64 {
        let tail = if self.rng.permille(self.tail_permille) { self.rng.heavy(200_000) } else { 0 };
        10 + self.rng.between(self.latency_us / 2, self.latency_us * 2) + tail
    }

    /// A partition of `nodes` members, drawn; `leader` is whom it would hurt most.
    pub fn draw_partition(
        rng: &mut Rng,
        nodes: usize,
        leader: Option<usize>,
    ) -> Vec<(usize, usize)> {
        let one = rng.below(nodes as u64) as usize;
        let victim = leader.unwrap_or(one);
        let all = || (0..nodes).flat_map(move |a| (0..nodes).map(move |b| (a, b)));
        match rng.below(7) {
            0 => all().filter(|(a, b)| (*a == victim) != (*b == victim)).collect(),
            1 => all().filter(|(a, b)| (*a == one) != (*b == one)).collect(),
            // One direction only: heard by nobody, or hearing nobody.
            2 => all().filter(|(a, b)| *a == victim && *b != victim).collect(),
            3 => all().filter(|(a, b)| *b == victim && *a != victim).collect(),
            4 => {
                let side: Vec<bool> = (0..nodes).map(|_| rng.permille(500)).collect();
                all().filter(|(a, b)| side[*a] != side[*b]).collect()
            }
            // A bridge: two sides, and one member that sees both.
            5 => {
                let side: Vec<bool> = (0..nodes).map(|_| rng.permille(500)).collect();
                all().filter(|(a, b)| side[*a] != side[*b] && *a != one && *b != one).collect()
            }
            _ => all().filter(|(a, b)| a != b && rng.permille(300)).collect(),
        }
    }
}
