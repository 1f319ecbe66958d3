//! The faults of a run: an explicit list, drawn before it starts.

use bincode::{Decode, Encode};

use crate::options::{Options, Profile};
use crate::rng::Rng;

#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// Now, or (`in_batches` > 0) in the middle of the turn that submits the n-th batch from now.
    Crash {
        node: usize,
        power: bool,
        in_batches: u64,
        sends: bool,
        down_us: u64,
        boot_syncs: u64,
    },
    /// All members at once.
    Blackout {
        power: bool,
        down_us: u64,
    },
    Partition {
        draw: u64,
        for_us: u64,
    },
    Pause {
        node: usize,
        for_us: u64,
    },
    FailSync {
        node: usize,
        nth: u64,
    },
    Transfer {
        node: usize,
    },
    /// Whoever is elected next, shortly afterwards.
    AtElection {
        act: Act,
        after_us: u64,
        for_us: u64,
    },
    /// This member, and no other.
    Upon {
        node: usize,
        act: Act,
        for_us: u64,
    },
    /// The leader stands still, for longer than an election takes.
    PauseLeader {
        for_us: u64,
    },
    /// Power is lost, and a bit of what lay on the disk is another one afterwards.
    Rot {
        node: usize,
        draw: u64,
        down_us: u64,
    },
    /// The n-th read from now fails, and all of that file after it, until the member is started anew. `at_start`: after a crash, of
    /// those with which it opens.
    Unreadable {
        node: usize,
        nth: u64,
        at_start: bool,
        down_us: u64,
    },
    /// The n-th write to the revision log from now lands somewhere else.
    Stray {
        node: usize,
        nth: u64,
        draw: u64,
    },
    /// A member of an older version ends, and goes on as one of the present.
    Upgrade {
        node: usize,
        down_us: u64,
    },
    /// A disk takes so many bytes more, and no others.
    Full {
        node: usize,
        room_bytes: u64,
        for_us: u64,
    },
}

/// What befalls a new leader.
#[derive(Clone, Copy, Debug)]
pub enum Act {
    Crash,
    Pause,
    Isolate(Way),
}

/// What does not get through any more.
#[derive(Clone, Copy, Debug)]
pub enum Way {
    Both,
    /// What it sends.
    Out,
    /// What it is sent.
    In,
}

/// Of the profile in which nobody must recover: these faults last until after its end.
const ENDLESS_PERMILLE: u64 = 60;
const ENDLESS_US: u64 = 3_600_000_000;

impl Fault {
    fn for_ever(&mut self) {
        match self {
            Fault::Crash { down_us: us, .. }
            | Fault::Blackout { down_us: us, .. }
            | Fault::Rot { down_us: us, .. }
            | Fault::Unreadable { down_us: us, .. }
            | Fault::Upgrade { down_us: us, .. }
            | Fault::Partition { for_us: us, .. }
            | Fault::Pause { for_us: us, .. }
            | Fault::AtElection { for_us: us, .. }
            | Fault::Upon { for_us: us, .. }
            | Fault::PauseLeader { for_us: us }
            | Fault::Full { for_us: us, .. } => *us = ENDLESS_US,
            Fault::FailSync { .. } | Fault::Transfer { .. } | Fault::Stray { .. } => {}
        }
    }
}

impl Way {
    /// The links between a member and all others that this cuts.
    pub fn links(self, node: usize, machines: usize) -> Vec<(usize, usize)> {
        let others = (0..machines).filter(|other| *other != node);
        let links = others.flat_map(|other| match self {
            Way::Both => vec![(node, other), (other, node)],
            Way::Out => vec![(node, other)],
            Way::In => vec![(other, node)],
        });
        links.collect()
    }
}

/// Kinds of faults, in both tiers, to name and to count them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Kind {
    Kill,
    PowerLoss,
    KillInBatch,
    PowerLossInBatch,
    CrashAndCutStart,
    Blackout,
    Partition,
    Pause,
    FailSync,
    Transfer,
    AtElection,
    PauseLeader,
    Rot,
    Full,
    Unreadable,
    Stray,
    Upgrade,
    Garble,
    Sever,
    Deaf,
    Jump,
    Drift,
    Nonsense,
    Rolling,
    LongPause,
    SlowLinks,
    Quota,
}

impl Kind {
    pub const ALL: [Kind; 27] = [
        Kind::Kill,
        Kind::PowerLoss,
        Kind::KillInBatch,
        Kind::PowerLossInBatch,
        Kind::CrashAndCutStart,
        Kind::Blackout,
        Kind::Partition,
        Kind::Pause,
        Kind::FailSync,
        Kind::Transfer,
        Kind::AtElection,
        Kind::PauseLeader,
        Kind::Rot,
        Kind::Full,
        Kind::Unreadable,
        Kind::Stray,
        Kind::Upgrade,
        Kind::Garble,
        Kind::Sever,
        Kind::Deaf,
        Kind::Jump,
        Kind::Drift,
        Kind::Nonsense,
        Kind::Rolling,
        Kind::LongPause,
        Kind::SlowLinks,
        Kind::Quota,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Kind::Kill => "kill",
            Kind::PowerLoss => "power loss",
            Kind::KillInBatch => "kill in a batch",
            Kind::PowerLossInBatch => "power loss in a batch",
            Kind::CrashAndCutStart => "crash, also while opening",
            Kind::Blackout => "blackout",
            Kind::Partition => "partition",
            Kind::Pause => "pause",
            Kind::FailSync => "failed sync",
            Kind::Transfer => "transfer",
            Kind::AtElection => "upon an election",
            Kind::PauseLeader => "pause of a leader",
            Kind::Rot => "flipped bit",
            Kind::Full => "full disk",
            Kind::Sever => "reset connections",
            Kind::Deaf => "client cut off",
            Kind::Jump => "clock jump",
            Kind::Drift => "clock rate",
            Kind::Unreadable => "failed read",
            Kind::Stray => "misdirected write",
            Kind::Upgrade => "upgrade",
            Kind::Garble => "damaged message",
            Kind::Nonsense => "nonsense between members",
            Kind::Rolling => "rolling restart",
            Kind::LongPause => "long pause",
            Kind::SlowLinks => "slow links",
            Kind::Quota => "quota used up",
        }
    }

    /// Whether a tier has it.
    pub fn is_of(self, is_cluster: bool) -> bool {
        match self {
            Kind::Unreadable | Kind::Stray | Kind::Upgrade | Kind::Garble => !is_cluster,
            _ => is_cluster || (self as usize) < Kind::Sever as usize,
        }
    }
}

impl Fault {
    pub fn kind(&self) -> Kind {
        match *self {
            Fault::Crash { boot_syncs, .. } if boot_syncs > 0 => Kind::CrashAndCutStart,
            Fault::Crash { power: true, in_batches, .. } if in_batches > 0 => {
                Kind::PowerLossInBatch
            }
            Fault::Crash { in_batches, .. } if in_batches > 0 => Kind::KillInBatch,
            Fault::Crash { power: true, .. } => Kind::PowerLoss,
            Fault::Crash { .. } => Kind::Kill,
            Fault::Blackout { .. } => Kind::Blackout,
            Fault::Partition { .. } => Kind::Partition,
            Fault::Pause { .. } => Kind::Pause,
            Fault::FailSync { .. } => Kind::FailSync,
            Fault::Transfer { .. } => Kind::Transfer,
            Fault::AtElection { .. } | Fault::Upon { .. } => Kind::AtElection,
            Fault::PauseLeader { .. } => Kind::PauseLeader,
            Fault::Rot { .. } => Kind::Rot,
            Fault::Full { .. } => Kind::Full,
            Fault::Unreadable { .. } => Kind::Unreadable,
            Fault::Stray { .. } => Kind::Stray,
            Fault::Upgrade { .. } => Kind::Upgrade,
        }
    }

    /// The member it strikes, if it is one.
    pub fn node(&self) -> Option<usize> {
        match *self {
            Fault::Crash { node, .. }
            | Fault::Pause { node, .. }
            | Fault::FailSync { node, .. }
            | Fault::Upon { node, .. }
            | Fault::Rot { node, .. }
            | Fault::Full { node, .. }
            | Fault::Unreadable { node, .. }
            | Fault::Stray { node, .. }
            | Fault::Upgrade { node, .. }
            | Fault::Transfer { node } => Some(node),
            Fault::Blackout { .. }
            | Fault::Partition { .. }
            | Fault::AtElection { .. }
            | Fault::PauseLeader { .. } => None,
        }
    }
}

pub fn draw(options: &Options, rng: &mut Rng) -> Vec<(u64, Fault)> {
    let mut list = Vec::new();
    let nodes = options.nodes as u64;
    let mut every = |mean: u64, rng: &mut Rng, make: &mut dyn FnMut(&mut Rng) -> Fault| {
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
    every(options.crash_every_us, rng, &mut |rng| Fault::Crash {
        node: rng.below(nodes) as usize,
        power: rng.permille(options.power_off_permille),
        in_batches: if rng.permille(options.crash_point_permille) { rng.between(1, 6) } else { 0 },
        sends: rng.permille(500),
        down_us: rng.heavy(300_000),
        boot_syncs: if rng.permille(options.boot_crash_permille) { rng.between(1, 8) } else { 0 },
    });
    every(options.blackout_every_us, rng, &mut |rng| Fault::Blackout {
        power: rng.permille(options.power_off_permille),
        down_us: rng.heavy(200_000),
    });
    every(options.partition_every_us, rng, &mut |rng| Fault::Partition {
        draw: rng.next(),
        for_us: rng.heavy(700_000),
    });
    every(options.pause_every_us, rng, &mut |rng| Fault::Pause {
        node: rng.below(nodes) as usize,
        for_us: rng.heavy(400_000),
    });
    every(options.sync_failure_every_us, rng, &mut |rng| Fault::FailSync {
        node: rng.below(nodes) as usize,
        nth: rng.between(1, 20),
    });
    every(options.transfer_every_us, rng, &mut |rng| Fault::Transfer {
        node: rng.below(nodes) as usize,
    });
    let election_us = options.election_us();
    every(options.election_fault_every_us, rng, &mut |rng| Fault::AtElection {
        act: *rng.pick(&[
            Act::Crash,
            Act::Pause,
            Act::Isolate(Way::Both),
            Act::Isolate(Way::Out),
            Act::Isolate(Way::In),
        ]),
        after_us: rng.below(3 * (options.latency_us + options.disk_us)),
        for_us: rng.between(election_us / 2, election_us * 4),
    });
    every(options.leader_pause_every_us, rng, &mut |rng| Fault::PauseLeader {
        for_us: rng.between(election_us, election_us * 5),
    });
    every(options.full_every_us, rng, &mut |rng| Fault::Full {
        node: rng.below(nodes) as usize,
        room_bytes: rng.heavy(2_000),
        for_us: rng.heavy(500_000),
    });
    every(options.rot_every_us, rng, &mut |rng| Fault::Rot {
        node: rng.below(nodes) as usize,
        draw: rng.next(),
        down_us: rng.heavy(300_000),
    });
    every(options.unreadable_every_us, rng, &mut |rng| Fault::Unreadable {
        node: rng.below(nodes) as usize,
        nth: rng.between(1, 12),
        at_start: rng.permille(600),
        down_us: rng.heavy(300_000),
    });
    every(options.stray_every_us, rng, &mut |rng| Fault::Stray {
        node: rng.below(nodes) as usize,
        nth: rng.between(1, 20),
        draw: rng.next(),
    });
    for node in 0..options.nodes {
        let (at, is_old) = (rng.below(options.safety_us), rng.permille(500));
        let down_us = rng.heavy(200_000);
        if options.is_mixed && options.profile != Profile::Calm && is_old {
            list.push((at, Fault::Upgrade { node, down_us }));
        }
    }
    if options.profile == Profile::Ruin {
        list.iter_mut().filter(|_| rng.permille(ENDLESS_PERMILLE)).for_each(|(_, f)| f.for_ever());
    }
    list
}
