//! What is done to the two servers, drawn from a seed. Revisions are relative to what the run has reached, so that a list
//! stays meaningful when pieces of it are left out.
//!
//! Left out on purpose:
//!   - puts together with a from-key delete in one transaction. With ignore_value or ignore_lease etcd dies at apply. A key that is deleted
//!     and put again is lost by a compaction at that revision, and etcd dies of the next range that wants it (found by seed 1000);
//!   - sorts by other fields than the key over more than 12 keys: etcd's sort is not stable there;
//!   - voters that are added, and the removal of the only one: the cluster would stand still;
//!   - leases short enough to expire during a run, except granted and revoked in one step.

use std::fmt;

use norn_tests::rng::Rng;

use crate::members::Change;

/// Bytes, shown as text and not in full.
#[derive(Clone, PartialEq)]
pub struct Text(pub Vec<u8>);

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0[..] {
            all if all.len() <= 24 => write!(f, "\"{}\"", all.escape_ascii()),
            long => write!(f, "\"{}...\"({} bytes)", long[..8].escape_ascii(), long.len()),
        }
    }
}

impl AsRef<[u8]> for Text {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// A revision, resolved when it is used.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rev {
    Exactly(i64),
    /// The newest revision seen, plus this.
    Now(i64),
    /// The last compaction, plus this.
    Compacted(i64),
}

#[derive(Clone)]
pub struct Range {
    pub key: Text,
    pub end: Text,
    pub revision: Rev,
    pub limit: i64,
    pub order: i32,
    pub target: i32,
    pub serializable: bool,
    pub keys_only: bool,
    pub count_only: bool,
    /// min_mod, max_mod, min_create, max_create
    pub filters: [Rev; 4],
}

/// Only what is not the default: a difference is read by people.
impl fmt::Debug for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Range({:?}..{:?}", self.key, self.end)?;
        if self.revision != Rev::Exactly(0) {
            write!(f, " revision {:?}", self.revision)?;
        }
        for (name, value) in
            [("limit", self.limit), ("order", self.order.into()), ("target", self.target.into())]
        {
            if value != 0 {
                write!(f, " {name} {value}")?;
            }
        }
        for (name, value) in [
            ("serializable", self.serializable),
            ("keys_only", self.keys_only),
            ("count_only", self.count_only),
        ] {
            if value {
                write!(f, " {name}")?;
            }
        }
        if self.filters != [Rev::Exactly(0); 4] {
            write!(f, " mod and create filters {:?}", self.filters)?;
        }
        write!(f, ")")
    }
}

#[derive(Clone, Debug)]
pub struct Put {
    pub key: Text,
    pub value: Text,
    pub lease: i64,
    pub prev_kv: bool,
    pub ignore_value: bool,
    pub ignore_lease: bool,
}

#[derive(Clone, Debug)]
pub struct Delete {
    pub key: Text,
    pub end: Text,
    pub prev_kv: bool,
}

#[derive(Clone, Debug)]
pub enum Wanted {
    Version(i64),
    Create(Rev),
    Mod(Rev),
    Value(Text),
    Lease(i64),
    Missing,
}

#[derive(Clone, Debug)]
pub struct Compare {
    pub key: Text,
    pub end: Text,
    pub result: i32,
    pub target: i32,
    pub wanted: Wanted,
}

#[derive(Clone, Debug)]
pub struct Txn {
    pub compares: Vec<Compare>,
    pub success: Vec<TxnOp>,
    pub failure: Vec<TxnOp>,
}

#[derive(Clone, Debug)]
pub enum TxnOp {
    Range(Range),
    Put(Put),
    Delete(Delete),
    Txn(Box<Txn>),
    Nothing,
}

#[derive(Clone, Debug)]
pub struct Watch {
    pub stream: usize,
    pub key: Text,
    pub end: Text,
    pub start: Rev,
    pub id: i64,
    pub prev_kv: bool,
    pub filters: Vec<i32>,
    pub fragment: bool,
}

#[derive(Clone, Debug)]
pub enum Op {
    Put(Put),
    Range(Range),
    RangeStream(Range),
    Delete(Delete),
    Txn(Txn),
    Compact {
        revision: Rev,
        physical: bool,
    },
    Grant {
        id: i64,
        ttl: i64,
    },
    /// A lease of any length, revoked at once.
    GrantAndRevoke {
        id: i64,
        ttl: i64,
    },
    Revoke(i64),
    TimeToLive {
        id: i64,
        keys: bool,
    },
    KeepAlive(i64),
    Leases,
    HashKv(Rev),
    Alarm {
        action: i32,
        member: u64,
        alarm: i32,
    },
    Status,
    Members,
    Member(Change),
    Defragment,
    Watch(Watch),
    CancelWatch {
        stream: usize,
        id: i64,
    },
    Progress {
        stream: usize,
    },
}

impl Op {
    /// The same operation with one piece less, in every way there is. Only transactions have pieces.
    pub fn smaller(&self) -> Vec<Self> {
        match self {
            Self::Txn(txn) => txn.smaller().into_iter().map(Self::Txn).collect(),
            _ => Vec::new(),
        }
    }
}

impl Txn {
    fn smaller(&self) -> Vec<Self> {
        let mut all = Vec::new();
        // Long lists are halved first.
        for part in [Self::compares_without, Self::success_without, Self::failure_without] {
            for (from, to) in [(0, 64), (64, 129), (1, 129)] {
                all.extend(part(self, from, to));
            }
            for at in 0..8 {
                all.extend(part(self, at, at + 1));
            }
        }
        for (at, op) in self.success.iter().enumerate().take(8) {
            let TxnOp::Txn(inner) = op else { continue };
            all.push(*inner.clone());
            for inner in inner.smaller() {
                let mut txn = self.clone();
                txn.success[at] = TxnOp::Txn(Box::new(inner));
                all.push(txn);
            }
        }
        for (at, op) in self.failure.iter().enumerate().take(8) {
            let TxnOp::Txn(inner) = op else { continue };
            all.push(*inner.clone());
            for inner in inner.smaller() {
                let mut txn = self.clone();
                txn.failure[at] = TxnOp::Txn(Box::new(inner));
                all.push(txn);
            }
        }
        all
    }

    fn compares_without(&self, from: usize, to: usize) -> Option<Self> {
        let compares = without(&self.compares, from, to)?;
        Some(Self { compares, ..self.clone() })
    }

    fn success_without(&self, from: usize, to: usize) -> Option<Self> {
        let success = without(&self.success, from, to)?;
        Some(Self { success, ..self.clone() })
    }

    fn failure_without(&self, from: usize, to: usize) -> Option<Self> {
        let failure = without(&self.failure, from, to)?;
        Some(Self { failure, ..self.clone() })
    }
}

/// The list without `from..to`; `None` when that would leave out nothing.
fn without<T: Clone>(list: &[T], from: usize, to: usize) -> Option<Vec<T>> {
    let to = to.min(list.len());
    (from < to).then(|| [&list[..from], &list[to..]].concat())
}

pub const STREAMS: usize = 3;
const KEYS: u64 = 16;
const LEASES: i64 = 6;

pub fn generate(seed: u64, count: usize) -> Vec<Op> {
    let mut draw = Draw { rng: Rng::new(seed), alarm: None };
    (0..count).map(|_| draw.op()).collect()
}

struct Draw {
    rng: Rng,
    /// The alarm switched on last; it does not stay for long, as it refuses nearly everything.
    alarm: Option<(u64, i32)>,
}

impl Draw {
    fn op(&mut self) -> Op {
        if let Some((member, alarm)) = self.alarm
            && self.rng.chance(25)
        {
            self.alarm = None;
            return Op::Alarm { action: 2, member, alarm };
        }
        match self.rng.below(1000) {
            0..260 => Op::Put(self.put()),
            260..430 => Op::Range(self.range()),
            430..480 => Op::RangeStream(self.range()),
            480..560 => Op::Delete(self.delete()),
            560..740 => Op::Txn(self.txn(0)),
            740..765 => Op::Compact { revision: self.revision(), physical: self.rng.chance(50) },
            765..795 => Op::Grant { id: self.lease(), ttl: self.rng.between(600, 9000) },
            795..805 => {
                let ttl = *self.rng.pick(&[-1, 0, 1, 2, 5, 9_000_000_000, 9_000_000_001]);
                Op::GrantAndRevoke { id: 77, ttl }
            }
            805..820 => Op::Revoke(self.lease()),
            820..835 => Op::TimeToLive { id: self.lease(), keys: self.rng.chance(70) },
            835..845 => Op::KeepAlive(self.lease()),
            845..850 => Op::Leases,
            850..880 => Op::HashKv(self.revision()),
            880..890 => self.alarm(),
            890..895 => Op::Status,
            895..899 => Op::Members,
            899..908 => Op::Member(Change::draw(&mut self.rng)),
            908 => Op::Defragment,
            909..960 => Op::Watch(self.watch()),
            960..980 => Op::CancelWatch {
                stream: self.stream(),
                id: *self.rng.pick(&[0, 0, 1, 2, 3, 9, -4, 50]),
            },
            _ => Op::Progress { stream: self.stream() },
        }
    }

    fn key(&mut self) -> Text {
        if self.rng.chance(1) {
            return Text(Vec::new());
        }
        Text(format!("k{:02}", self.rng.below(KEYS)).into_bytes())
    }

    /// A key and the end of a range from it.
    fn span(&mut self) -> (Text, Text) {
        let key = self.key();
        match self.rng.below(10) {
            0..4 => (key, Text(Vec::new())),
            4..7 => {
                let width = self.rng.between(-1, 9);
                let n = self.rng.below(KEYS) as i64;
                let to = |n: i64| Text(format!("k{:02}", n.max(0)).into_bytes());
                (to(n), to(n + width))
            }
            7 => (Text(b"k".to_vec()), Text(b"l".to_vec())),
            8 => (key, Text(vec![0])),
            _ => (Text(vec![0]), Text(vec![0])),
        }
    }

    fn value(&mut self) -> Text {
        Text(match self.rng.below(20) {
            0 => Vec::new(),
            1 => vec![b'x'; self.rng.below(3000) as usize],
            2 => (0..=255).collect(),
            // Around the limit of a request.
            3 if self.rng.chance(1) => vec![b'y'; 1_572_700 + self.rng.below(200) as usize],
            n => format!("v{n}-{}", self.rng.below(4)).into_bytes(),
        })
    }

    fn lease(&mut self) -> i64 {
        self.rng.between(-1, LEASES)
    }

    fn stream(&mut self) -> usize {
        self.rng.below(STREAMS as u64) as usize
    }

    fn revision(&mut self) -> Rev {
        match self.rng.below(20) {
            0 => Rev::Exactly(0),
            1 => Rev::Exactly(-1),
            2 => Rev::Exactly(1),
            3 => Rev::Now(1),
            4 => Rev::Now(self.rng.between(0, 3)),
            5 => Rev::Compacted(-1),
            6 | 7 => Rev::Compacted(0),
            8 => Rev::Compacted(1),
            9 => Rev::Now(0),
            _ => Rev::Now(-self.rng.between(0, 25)),
        }
    }

    /// Mostly none.
    fn maybe_revision(&mut self, percent: u64) -> Rev {
        if self.rng.chance(percent) { self.revision() } else { Rev::Exactly(0) }
    }

    fn range(&mut self) -> Range {
        let (key, end) = self.span();
        let mut range = Range {
            key,
            end,
            revision: self.maybe_revision(30),
            limit: if self.rng.chance(40) { self.rng.between(-1, 8) } else { 0 },
            order: 0,
            target: 0,
            serializable: self.rng.chance(20),
            keys_only: self.rng.chance(15),
            count_only: self.rng.chance(10),
            filters: [Rev::Exactly(0); 4],
        };
        if self.rng.chance(30) {
            range.order = self.rng.between(0, 2) as i32;
            // Other targets only over few keys: the sort of the original is not stable over many.
            let few = range.end.0.is_empty() || (range.end.0.len() == 3 && range.key.0.len() == 3);
            if few {
                range.target = self.rng.between(0, 4) as i32;
            }
            if self.rng.chance(5) {
                range.order = *self.rng.pick(&[3, -1]);
            } else if self.rng.chance(5) {
                range.target = *self.rng.pick(&[5, -1]);
            }
        }
        if self.rng.chance(15) {
            let which = self.rng.below(4) as usize;
            range.filters[which] = self.revision();
            if self.rng.chance(30) {
                let which = self.rng.below(4) as usize;
                range.filters[which] = self.revision();
            }
        }
        range
    }

    fn put(&mut self) -> Put {
        let mut put = Put {
            key: self.key(),
            value: self.value(),
            lease: if self.rng.chance(25) { self.lease() } else { 0 },
            prev_kv: self.rng.chance(30),
            ignore_value: self.rng.chance(10),
            ignore_lease: self.rng.chance(10),
        };
        if put.ignore_value && self.rng.chance(80) {
            put.value.0.clear();
        }
        if put.ignore_lease && self.rng.chance(80) {
            put.lease = 0;
        }
        put
    }

    fn delete(&mut self) -> Delete {
        let (key, end) = self.span();
        Delete { key, end, prev_kv: self.rng.chance(40) }
    }

    fn compare(&mut self) -> Compare {
        let (key, end) =
            if self.rng.chance(30) { self.span() } else { (self.key(), Text(Vec::new())) };
        let target = self.rng.between(0, 4) as i32;
        let mut wanted = match target {
            0 => Wanted::Version(self.rng.between(-1, 4)),
            1 => Wanted::Create(self.revision()),
            2 => Wanted::Mod(self.revision()),
            3 => Wanted::Value(self.value()),
            _ => Wanted::Lease(self.lease()),
        };
        if self.rng.chance(4) {
            wanted = Wanted::Missing;
        } else if self.rng.chance(4) {
            wanted = Wanted::Version(1);
        }
        let result = if self.rng.chance(2) { 7 } else { self.rng.between(0, 3) as i32 };
        Compare { key, end, result, target: if self.rng.chance(2) { 9 } else { target }, wanted }
    }

    fn txn(&mut self, depth: u64) -> Txn {
        // See the head of this file: the two do not meet in one tree.
        let puts = self.rng.chance(75);
        self.txn_tree(depth, puts)
    }

    fn txn_tree(&mut self, depth: u64, puts: bool) -> Txn {
        let count = if self.rng.chance(2) { 129 } else { self.rng.below(3) };
        let compares = (0..count).map(|_| self.compare()).collect();
        let read_only = self.rng.chance(15);
        let mut branch = || {
            let count = if self.rng.chance(1) { 129 } else { self.rng.below(5) };
            (0..count).map(|_| self.txn_op(depth, puts, read_only)).collect()
        };
        let (success, failure) = (branch(), branch());
        Txn { compares, success, failure }
    }

    fn txn_op(&mut self, depth: u64, puts: bool, read_only: bool) -> TxnOp {
        if read_only {
            return TxnOp::Range(self.range());
        }
        match self.rng.below(100) {
            0 if self.rng.chance(30) => TxnOp::Nothing,
            0..45 if puts => TxnOp::Put(self.put()),
            0..75 => TxnOp::Range(self.range()),
            75..90 => {
                let mut delete = self.delete();
                if puts && delete.end.0 == [0] {
                    delete.end = Text(b"l".to_vec());
                }
                TxnOp::Delete(delete)
            }
            _ if depth < 3 => TxnOp::Txn(Box::new(self.txn_tree(depth + 1, puts))),
            _ => TxnOp::Range(self.range()),
        }
    }

    fn alarm(&mut self) -> Op {
        let member = *self.rng.pick(&[0, 1, 7]);
        let alarm = self.rng.between(0, 2) as i32;
        let action = self.rng.between(0, 2) as i32;
        if action == 1 && alarm != 0 {
            if let Some((member, alarm)) = self.alarm.take() {
                return Op::Alarm { action: 2, member, alarm };
            }
            self.alarm = Some((member, alarm));
        }
        Op::Alarm { action, member, alarm }
    }

    fn watch(&mut self) -> Watch {
        let (key, end) = self.span();
        let start = if self.rng.chance(40) { Rev::Exactly(0) } else { self.revision() };
        let filters = match self.rng.below(10) {
            0 => vec![0],
            1 => vec![1],
            2 => vec![0, 1],
            3 => vec![5],
            _ => vec![],
        };
        Watch {
            stream: self.stream(),
            key,
            end,
            start,
            id: *self.rng.pick(&[0, 0, 0, 0, 0, 3, -4, 50]),
            prev_kv: self.rng.chance(50),
            filters,
            fragment: self.rng.chance(20),
        }
    }
}
