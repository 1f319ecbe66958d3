//! The misfortunes of a cluster: those of the core tier, and what only whole machines have.

use crate::fault::{self, Fault, Kind};
use crate::less::Less;
use crate::options::Options;
use crate::rng::Rng;

#[derive(Clone, Copy, Debug)]
pub enum Strike {
    Shared(Fault),
    /// All connections between two machines are reset.
    Sever {
        a: usize,
        b: usize,
    },
    /// The links of a client to some members are cut, in one direction or both.
    Deaf {
        client: usize,
        draw: u64,
        for_us: u64,
    },
    /// A clock jumps forward.
    Jump {
        node: usize,
        by_us: u64,
    },
    /// From here on it runs at another rate.
    Drift {
        node: usize,
        ppm: i64,
    },
    /// What one member sends another makes no sense, once.
    Nonsense {
        from: usize,
        to: usize,
        draw: u64,
    },
    /// All members are told to end and started again, one after the other.
    Rolling {
        rest_us: u64,
    },
    LongPause {
        node: usize,
        for_us: u64,
    },
    /// The links of a partition, but what they carry does arrive.
    SlowLinks {
        draw: u64,
        by_us: u64,
        for_us: u64,
    },
}

impl Strike {
    pub fn kind(&self) -> Kind {
        match self {
            Strike::Shared(fault) => fault.kind(),
            Strike::Sever { .. } => Kind::Sever,
            Strike::Deaf { .. } => Kind::Deaf,
            Strike::Jump { .. } => Kind::Jump,
            Strike::Drift { .. } => Kind::Drift,
            Strike::Nonsense { .. } => Kind::Nonsense,
            Strike::Rolling { .. } => Kind::Rolling,
            Strike::LongPause { .. } => Kind::LongPause,
            Strike::SlowLinks { .. } => Kind::SlowLinks,
        }
    }

    /// The member it strikes, if it is one.
    pub fn node(&self) -> Option<usize> {
        match *self {
            Strike::Shared(fault) => fault.node(),
            Strike::Sever { a, .. } => Some(a),
            Strike::Deaf { .. } | Strike::Rolling { .. } | Strike::SlowLinks { .. } => None,
            Strike::Nonsense { from, .. } => Some(from),
            Strike::Jump { node, .. }
            | Strike::Drift { node, .. }
            | Strike::LongPause { node, .. } => Some(node),
        }
    }
}

/// An explicit list, drawn before the run, in the order of time; and how many were drawn.
pub fn draw(options: &Options, shared: &mut Rng, own: &mut Rng) -> (Vec<(u64, Strike)>, usize) {
    let whole = options.drawn();
    let mut list = all(&whole, shared, own);
    for (_, strike) in &mut list {
        // (Clients' machines come after the members'.)
        if let Strike::Sever { b, .. } = strike
            && *b >= whole.nodes
        {
            *b = *b - whole.nodes + options.nodes;
        }
    }
    let count = list.len();
    (Less::kept(options, list, Strike::node), count)
}

fn all(options: &Options, shared: &mut Rng, own: &mut Rng) -> Vec<(u64, Strike)> {
    // (Of bad disks there is one kind here, and one program to run.)
    let drawn = fault::draw(options, shared).into_iter();
    let drawn = drawn.filter(|(_, fault)| fault.kind().is_of(true));
    let mut list: Vec<_> = drawn.map(|(at, fault)| (at, Strike::Shared(fault))).collect();
    let (nodes, clients) = (options.nodes as u64, options.clients as u64);
    let is_calm = options.partition_every_us == 0 && options.loss_permille == 0;
    let mut every = |mean: u64, rng: &mut Rng, make: &mut dyn FnMut(&mut Rng) -> Strike| {
        if mean == 0 {
            return;
        }
        let mut at = 0;
        loop {
            at += rng.between(mean / 4, mean * 7 / 4);
            if at >= options.safety_us {
                break;
            }
            list.push((at, make(rng)));
        }
    };
    // Streams lose nothing but themselves: what is a loss rate of messages there is a rate of resets here.
    let sever = 200_000_000_u64.checked_div(options.loss_permille).unwrap_or(0);
    every(sever.min(8_000_000), own, &mut |rng| Strike::Sever {
        a: rng.below(nodes) as usize,
        b: rng.below(nodes + clients) as usize,
    });
    let deaf = if is_calm { 0 } else { 3_000_000 };
    every(deaf, own, &mut |rng| Strike::Deaf {
        client: rng.below(clients) as usize,
        draw: rng.next(),
        for_us: rng.heavy(700_000),
    });
    let off = if options.drift_ppm == 0 { 0 } else { 4_000_000 };
    every(off, own, &mut |rng| Strike::Jump {
        node: rng.below(nodes) as usize,
        by_us: rng.heavy(500_000),
    });
    every(off, own, &mut |rng| Strike::Drift {
        node: rng.below(nodes) as usize,
        ppm: rng.below(2 * options.drift_ppm + 1).cast_signed() - options.drift_ppm.cast_signed(),
    });
    hardships(options, &mut every);
    list.sort_by_key(|(at, _)| *at);
    list
}

type Every<'a> = &'a mut dyn FnMut(u64, &mut Rng, &mut dyn FnMut(&mut Rng) -> Strike);

/// (From a source of their own: what was drawn before there were these remains what it was.)
fn hardships(options: &Options, every: Every<'_>) {
    let (hardships, nodes) = (&options.hardships, options.nodes as u64);
    let mut rng = Rng::new(options.seed ^ 0x4e6f_6e73_656e);
    every(hardships.nonsense_every_us, &mut rng, &mut |rng| {
        let from = rng.below(nodes);
        let to = (from + rng.between(1, nodes.max(2) - 1)) % nodes;
        Strike::Nonsense { from: from as usize, to: to as usize, draw: rng.next() }
    });
    every(hardships.rolling_every_us, &mut rng, &mut |rng| Strike::Rolling {
        rest_us: rng.between(10_000, 800_000),
    });
    every(hardships.long_pause_every_us, &mut rng, &mut |rng| Strike::LongPause {
        node: rng.below(nodes) as usize,
        for_us: rng.between(2_000_000, 12_000_000),
    });
    every(hardships.slow_links_every_us, &mut rng, &mut |rng| Strike::SlowLinks {
        draw: rng.next(),
        by_us: rng.between(20_000, 600_000),
        for_us: rng.heavy(1_500_000),
    });
}
