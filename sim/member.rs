//! One member: its disk, its clock, and, while it runs, its node.

use bytes::Bytes;
use norn_node::{Config, Error, Host, Input, NodeEvent, Ports, StreamId, Time, Token};
use norn_raft::Message;

use crate::disk::SimDisk;

pub struct Member {
    /// 0: not known yet.
    pub id: u64,
    /// It was there from the beginning; others join.
    pub is_founder: bool,
    /// Its disk holds a member.
    pub was_open: bool,
    /// The cluster counts it.
    pub is_member: bool,
    /// It was removed, and is not switched off yet.
    pub is_leaving: bool,
    /// It was removed, and never comes back.
    pub is_retired: bool,
    pub config: Config,
    /// Of its program, as others see it.
    pub version: (u64, u64),
    pub disk: SimDisk,
    pub clock: Clock,
    pub host: Option<Host<SimDisk, SimDisk>>,
    /// Grows with every start and every end.
    pub incarnation: u64,
    /// When it is to be woken, at the latest.
    pub wake_at: u64,
    /// Whether a completion is on its way, per disk queue.
    pub disk_armed: [bool; 2],
    /// Inputs that wait while the process stands still.
    pub inbox: Vec<Input>,
    pub paused_until: u64,
    /// When it goes on, calls come before everything else.
    pub calls_first: bool,
    /// It is being told what came meanwhile.
    pub is_waking: bool,
    /// A bit of its disk was flipped: it may refuse to open, and stop, and is replaced then. It must not tell what is not so.
    pub is_rotten: bool,
    pub is_replaced: bool,
    /// Disk batches until it crashes, and how.
    pub crash_in: Option<CrashPoint>,
    /// The next start is to be cut short after this many syncs.
    pub boot_syncs: u64,
    /// Of the reads with which it opens next, the one that fails; 0: none.
    pub boot_read: u64,
    /// It may fail: a sync was made to.
    pub may_fail: bool,
}

#[derive(Clone, Copy, Debug)]
pub struct CrashPoint {
    pub batches: u64,
    pub power: bool,
    pub sends: bool,
    pub down_us: u64,
}

/// A clock that is off and runs at a rate of its own.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    pub offset_ms: u64,
    pub ppm: i64,
}

impl Clock {
    pub fn at(self, now_us: u64) -> Time {
        let rate = (1_000_000 + self.ppm).cast_unsigned();
        Time::from_ms(self.offset_ms + now_us * rate / 1_000_000_000)
    }

    /// The first moment at which the clock shows `time`.
    pub fn when(self, time: Time) -> u64 {
        let rate = (1_000_000 + self.ppm).cast_unsigned();
        (time.ms.saturating_sub(self.offset_ms) * 1_000_000_000).div_ceil(rate)
    }
}

/// What came out of one turn.
#[derive(Default)]
pub struct Seen {
    pub sent: Vec<Message>,
    pub replies: Vec<(Token, Result<Bytes, Error>)>,
    pub watch: Vec<(StreamId, Bytes)>,
    pub events: Vec<NodeEvent>,
}

impl Ports for Seen {
    fn send(&mut self, messages: Vec<Message>) {
        self.sent.extend(messages);
    }

    fn reply(&mut self, token: Token, result: Result<Bytes, Error>) {
        self.replies.push((token, result));
    }

    fn watch(&mut self, stream: StreamId, response: Bytes) {
        self.watch.push((stream, response));
    }

    fn event(&mut self, event: NodeEvent) {
        self.events.push(event);
    }
}
