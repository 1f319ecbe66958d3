//! What is known about a run: to the machines' fate, to the clients and to whoever judges.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use norn_server::runtime::simulated as world;
use tokio::sync::Notify;

use super::operator::Membership;
use crate::check::convergence::Place;
use crate::check::hash::HashCheck;
use crate::check::lease::Times;
use crate::check::raft::RaftCheck;
use crate::check::watch::Span;
use crate::fault::{Act, Fault};
use crate::history::{Failure, Op};
use crate::member::CrashPoint;
use crate::options::Options;
use crate::record::What;
use crate::trace::Trace;

/// Lines of a member's log that are kept for a report.
const LOG_LINES: usize = 40;

#[derive(Default)]
pub struct Member {
    /// Where it was after its last turn.
    pub place: Option<Place>,
    /// Grows with every start.
    pub incarnation: u64,
    pub served: bool,
    /// The cluster counts it.
    pub is_member: bool,
    pub is_learner: bool,
    /// It was removed, and does not know it yet.
    pub is_leaving: bool,
    /// It was removed, and never comes back.
    pub is_retired: bool,
    /// It has come so far as to take a turn.
    pub was_open: bool,
    /// A sync was made to fail, or it was told to end: its process may end by itself.
    pub may_end: bool,
    /// Its disk may have lost what the machine still shows: only a new start of the machine is a way out.
    pub is_lossy: bool,
    /// A bit of its disk was flipped: it may refuse to open, and stop, and is replaced then. It must not tell what is not so.
    pub is_rotten: bool,
    /// It is not started again.
    pub is_replaced: bool,
    /// Disk batches until it crashes, and how.
    pub crash_in: Option<CrashPoint>,
    /// The next start is to be cut short after this many syncs.
    pub boot_syncs: u64,
    pub log: Vec<String>,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub turns: u64,
    /// Drawn, whether or not they struck.
    pub faults: usize,
    /// Beyond the number of every operation that a client drew, asked or not.
    pub drawn: usize,
    pub crashes: u64,
    pub boot_crashes: u64,
    pub ends: u64,
    pub partitions: u64,
    pub severed: u64,
    pub jumps: u64,
    pub pieces: u64,
    pub bytes: u64,
    pub calls: u64,
    pub joins: u64,
    pub leaves: u64,
    pub flipped_bits: u64,
    pub replaced: u64,
    /// Pieces of nonsense that were sent.
    pub spoilt: u64,
}

/// Something a machine asks of whoever holds its fate.
#[derive(Clone, Debug)]
pub enum Event {
    /// Its process ended by itself.
    Ended { host: usize, incarnation: u64, how: norn_server::serve::End },
    /// It is in the middle of a disk batch, where it was to crash.
    CrashPoint { host: usize, point: CrashPoint },
    /// It leads a term that nobody led before.
    Elected { host: usize },
    /// It became a member.
    Joined { host: usize },
    /// What waited for its moment.
    Moment { fault: Fault },
}

pub struct State {
    pub options: Options,
    pub members: RefCell<Vec<Member>>,
    pub ops: RefCell<Vec<Op>>,
    pub spans: RefCell<Vec<Span>>,
    /// Per watcher: its span, while it is open.
    pub open: RefCell<Vec<Option<usize>>>,
    pub membership: RefCell<Membership>,
    pub raft: RefCell<RaftCheck>,
    pub times: RefCell<Times>,
    pub hashes: RefCell<HashCheck>,
    pub trace: RefCell<Trace>,
    pub counts: RefCell<Counts>,
    pub failure: RefCell<Option<Failure>>,
    pub events: RefCell<Vec<Event>>,
    /// There is an event, or a failure.
    pub bell: Notify,
    pub is_healed: Cell<bool>,
    /// What befalls the next leader: after how long, and for how long.
    pub at_election: RefCell<Option<(Act, u64, u64)>>,
    /// By how much links are slower, and until when.
    pub slow_links: RefCell<BTreeMap<(usize, usize), (u64, u64)>>,
    /// The revision when the cluster had converged.
    pub quiet_revision: Cell<i64>,
    /// The number of the last moment: moments at the same time have an order.
    number: Cell<u64>,
}

thread_local! {
    /// Programs of machines start with nothing but their number; here they find the rest.
    static STATE: RefCell<Option<Rc<State>>> = const { RefCell::new(None) };
}

/// # Panics
/// Outside of a run.
pub fn state() -> Rc<State> {
    STATE.with_borrow(|state| Rc::clone(state.as_ref().expect("a run is under way")))
}

impl State {
    pub fn begin(options: Options, keeps_records: bool) -> Rc<State> {
        let members = (0..options.machines())
            .map(|host| Member { is_member: host < options.nodes, ..Member::default() })
            .collect();
        let state = Rc::new(State {
            members: RefCell::new(members),
            ops: RefCell::default(),
            spans: RefCell::default(),
            open: RefCell::new(vec![None; options.watchers]),
            membership: RefCell::default(),
            raft: RefCell::new(RaftCheck::new()),
            times: RefCell::default(),
            hashes: RefCell::default(),
            trace: RefCell::new(Trace::new(keeps_records)),
            counts: RefCell::default(),
            failure: RefCell::default(),
            events: RefCell::default(),
            bell: Notify::new(),
            is_healed: Cell::new(false),
            at_election: RefCell::default(),
            slow_links: RefCell::default(),
            quiet_revision: Cell::new(0),
            number: Cell::new(0),
            options,
        });
        STATE.set(Some(Rc::clone(&state)));
        state
    }

    /// True time, in microseconds.
    pub fn now_us() -> u64 {
        world::now().as_micros() as u64
    }

    /// This moment, later than all before.
    pub fn moment(&self) -> (u64, u64) {
        self.number.set(self.number.get() + 1);
        (State::now_us(), self.number.get())
    }

    pub fn note(&self, what: What) {
        self.trace.borrow_mut().note(State::now_us(), what);
    }

    pub fn tell(&self, what: What, more: impl FnOnce() -> String) {
        self.trace.borrow_mut().tell(State::now_us(), what, more);
    }

    pub fn fail(&self, failure: Failure) {
        self.failure.borrow_mut().get_or_insert(failure);
        self.bell.notify_one();
    }

    pub fn has_failed(&self) -> bool {
        self.failure.borrow().is_some()
    }

    pub fn happened(&self, event: Event) {
        self.events.borrow_mut().push(event);
        self.bell.notify_one();
    }

    pub fn said(&self, host: usize, line: &str) {
        let mut members = self.members.borrow_mut();
        let Some(member) = members.get_mut(host) else { return };
        if member.log.len() == LOG_LINES {
            member.log.remove(0);
        }
        member.log.push(line.to_owned());
    }

    /// A member, for a number drawn.
    pub fn member(&self, drawn: usize) -> usize {
        let members = self.members.borrow();
        let hosts: Vec<usize> =
            (0..members.len()).filter(|host| members[*host].is_member).collect();
        if hosts.is_empty() { 0 } else { hosts[drawn % hosts.len()] }
    }

    /// A client drew the operation of this number, asked or not.
    pub fn drew(&self, number: usize) {
        let mut counts = self.counts.borrow_mut();
        counts.drawn = counts.drawn.max(number + 1);
    }

    /// Who leads, as far as its members know.
    pub fn leader(&self) -> Option<usize> {
        let members = self.members.borrow();
        let (_, term, _) =
            members.iter().filter_map(|m| m.place).max_by_key(|(_, term, _)| *term)?;
        self.raft.borrow().leader_of(term)
    }
}
