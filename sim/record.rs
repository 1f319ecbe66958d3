//! The words of a trace: everything that can happen in a run, in both tiers.

use std::fmt;

use bincode::{Decode, Encode};
use norn_node::{Node, Reader};
use norn_raft::{MessageKind, Role};

use crate::fault::Kind;

/// Members, clients and watchers are numbered from 0, each among themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum What {
    Start {
        node: usize,
        life: u64,
    },
    /// A start met the end of power.
    StartCut {
        node: usize,
    },
    Crash {
        node: usize,
        power: bool,
    },
    /// The process ended by itself.
    End {
        node: usize,
    },
    /// It failed, as it must after a failed sync.
    Failed {
        node: usize,
    },
    Fault {
        kind: Kind,
        node: Option<usize>,
    },
    /// A link is cut, one way; in the cluster tier clients come after members.
    Cut {
        from: usize,
        to: usize,
    },
    /// All links are whole.
    Mend,
    Pause {
        node: usize,
        for_us: u64,
    },
    /// Faults are over.
    Heal,
    Place {
        node: usize,
        place: Place,
    },
    /// `copies`: how many will arrive, as far as nothing else goes wrong.
    Send {
        id: u64,
        from: usize,
        to: usize,
        kind: u8,
        term: u64,
        index: u64,
        entries: usize,
        copies: u8,
    },
    /// The link is cut, or nobody is there to take it.
    Drop {
        id: u64,
        is_cut: bool,
    },
    Arrive {
        id: u64,
        to: usize,
    },
    /// A snapshot's body arrived.
    Snapshot {
        node: usize,
        index: u64,
    },
    /// Bytes on a connection, by their length and checksum.
    Data {
        from: usize,
        to: usize,
        bytes: u64,
        sum: u64,
    },
    Ask {
        op: usize,
        client: usize,
        node: usize,
    },
    Answer {
        op: usize,
        client: usize,
        end: End,
        revision: i64,
    },
    /// A watcher begins a stream.
    Watch {
        watcher: usize,
        node: usize,
        start: i64,
    },
    Told {
        watcher: usize,
        node: usize,
        revision: i64,
        events: usize,
    },
    /// The watcher's stream is over.
    Unwatch {
        watcher: usize,
    },
    Served {
        node: usize,
    },
    Hash {
        node: usize,
        hash: u32,
    },
    Leader {
        node: usize,
    },
    /// The operator asks this member for something.
    Operate {
        node: usize,
    },
    /// The machine of a removed member is switched off.
    Retire {
        node: usize,
    },
    /// What a member tells of itself.
    Log {
        node: usize,
    },
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum End {
    Done,
    Refused,
    Unknown,
}

/// Where a member is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Place {
    pub id: u64,
    pub role: u8,
    pub term: u64,
    /// By its id; 0: none known.
    pub leader: u64,
    pub commit: u64,
    pub applied: u64,
    pub revision: i64,
}

impl Place {
    pub fn of<R: Reader>(node: &Node<R>) -> Place {
        let raft = node.raft();
        Place {
            id: node.id(),
            role: raft.role() as u8,
            term: raft.term().0,
            leader: raft.leader().0,
            commit: raft.committed().0,
            applied: node.applied(),
            revision: node.store().current(),
        }
    }

    pub fn role(&self) -> Role {
        const ROLES: [Role; 4] =
            [Role::Follower, Role::PreCandidate, Role::Candidate, Role::Leader];
        ROLES.get(usize::from(self.role)).copied().unwrap_or_default()
    }
}

/// Something that happened, when, and what else there is to say of it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Record {
    pub at: u64,
    pub what: What,
    pub more: String,
}

impl What {
    /// For the hash: which of them it is, and what of it.
    pub fn words(&self) -> [u64; 4] {
        let n = |n: usize| n as u64;
        match *self {
            What::Start { node, life } => [1, n(node), life, 0],
            What::StartCut { node } => [2, n(node), 0, 0],
            What::Crash { node, power } => [3, n(node), power.into(), 0],
            What::End { node } => [4, n(node), 0, 0],
            What::Failed { node } => [5, n(node), 0, 0],
            What::Fault { kind, node } => [6, kind as u64, node.map_or(u64::MAX, n), 0],
            What::Cut { from, to } => [7, n(from), n(to), 0],
            What::Mend => [8, 0, 0, 0],
            What::Pause { node, for_us } => [9, n(node), for_us, 0],
            What::Heal => [10, 0, 0, 0],
            What::Place { node, place: p } => [
                11 ^ p.leader ^ n(node) << 32,
                p.term ^ u64::from(p.role) << 56,
                p.commit ^ p.revision.cast_unsigned() << 32,
                p.applied,
            ],
            What::Send { id, from, to, kind, term, index, entries, copies } => [
                12 ^ n(from) << 16 ^ n(to) << 32 ^ u64::from(kind) << 48,
                id ^ u64::from(copies) << 56,
                term,
                index ^ n(entries) << 48,
            ],
            What::Drop { id, is_cut } => [13, id, is_cut.into(), 0],
            What::Arrive { id, to } => [14, id, n(to), 0],
            What::Snapshot { node, index } => [15, n(node), index, 0],
            What::Data { from, to, bytes, sum } => [16, n(from) << 32 ^ n(to), bytes, sum],
            What::Ask { op, client, node } => [17, n(op), n(client), n(node)],
            What::Answer { op, client, end, revision } => {
                [18, n(op), n(client) ^ (end as u64) << 32, revision.cast_unsigned()]
            }
            What::Watch { watcher, node, start } => {
                [19, n(watcher), n(node), start.cast_unsigned()]
            }
            What::Told { watcher, node, revision, events } => {
                [20, n(watcher) ^ n(node) << 32, revision.cast_unsigned(), n(events)]
            }
            What::Unwatch { watcher } => [21, n(watcher), 0, 0],
            What::Served { node } => [22, n(node), 0, 0],
            What::Hash { node, hash } => [23, n(node), hash.into(), 0],
            What::Leader { node } => [24, n(node), 0, 0],
            What::Log { node } => [25, n(node), 0, 0],
            What::Operate { node } => [26, n(node), 0, 0],
            What::Retire { node } => [27, n(node), 0, 0],
        }
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n = |node: usize| format!("n{}", node + 1);
        match *self {
            What::Start { node, life } => write!(f, "start     {} (life {life})", n(node)),
            What::StartCut { node } => write!(f, "start cut {}", n(node)),
            What::Crash { node, power: true } => write!(f, "power off {}", n(node)),
            What::Crash { node, .. } => write!(f, "killed    {}", n(node)),
            What::End { node } => write!(f, "ended     {}", n(node)),
            What::Failed { node } => write!(f, "failed    {}", n(node)),
            What::Fault { kind, .. } => write!(f, "fault     {}", kind.name()),
            What::Cut { from, to } => write!(f, "cut       {} -> {}", n(from), n(to)),
            What::Mend => write!(f, "mend"),
            What::Pause { node, for_us } => write!(f, "pause     {} for {for_us} us", n(node)),
            What::Heal => write!(f, "heal"),
            What::Place { node, place: p } => write!(
                f,
                "place     {} {:?} term {} leader {:x} commit {} applied {} revision {}",
                n(node),
                p.role(),
                p.term,
                p.leader,
                p.commit,
                p.applied,
                p.revision
            ),
            What::Send { id, from, to, kind, term, index, entries, copies } => {
                let name = MessageKind::from_number(kind.into()).unwrap_or_default().name();
                let (from, to) = (n(from), n(to));
                write!(f, "send      #{id} {from} -> {to} {name} term {term} index {index}")?;
                if entries > 0 {
                    write!(f, " entries {entries}")?;
                }
                if copies == 1 { Ok(()) } else { write!(f, " copies {copies}") }
            }
            What::Drop { id, is_cut: true } => write!(f, "drop      #{id}: link cut"),
            What::Drop { id, .. } => write!(f, "drop      #{id}: nobody there"),
            What::Arrive { id, to } => write!(f, "arrive    #{id} at {}", n(to)),
            What::Snapshot { node, index } => write!(f, "snapshot  {} index {index}", n(node)),
            What::Data { from, to, bytes, sum } => {
                write!(f, "data      {from} -> {to} {bytes} bytes, {sum:08x}")
            }
            What::Ask { op, client, node } => {
                write!(f, "ask       {op} c{client} -> {}", n(node))
            }
            What::Answer { op, client, end, revision } => {
                write!(f, "answer    {op} c{client} {end:?} revision {revision}")
            }
            What::Watch { watcher, node, start } => {
                write!(f, "watch     w{watcher} at {} from {start}", n(node))
            }
            What::Told { watcher, node, revision, events } => {
                write!(f, "told      w{watcher} by {} {events} to {revision}", n(node))
            }
            What::Unwatch { watcher } => write!(f, "unwatch   w{watcher}"),
            What::Served { node } => write!(f, "served    {}", n(node)),
            What::Hash { node, hash } => write!(f, "hash      {} {hash:08x}", n(node)),
            What::Leader { node } => write!(f, "leader    {}", n(node)),
            What::Operate { node } => write!(f, "operator  {}", n(node)),
            What::Retire { node } => write!(f, "retired   {}", n(node)),
            What::Log { node } => write!(f, "log       {}", n(node)),
        }
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (s, us) = (self.at / 1_000_000, self.at % 1_000_000);
        write!(f, "{s:3}.{us:06} {} {}", self.what, self.more)
    }
}
