//! One seed from beginning to end: a phase of faults, a phase of recovery, and the verdict.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::Duration;

use norn_server::runtime::simulated::{self as world, Clock};

use super::fate::Norns;
use super::fault::{self, Strike};
use super::state::{Event, State};
use super::{clients, members, prober, watchers};
use crate::check::convergence::{self, Standing};
use crate::check::linearizable::Effort;
use crate::check::{lease, watch};
use crate::history::Failure;
use crate::options::{Options, Profile};
use crate::panics;
use crate::rng::Rng;
use crate::run::LEASES_END_US;
use crate::verdict::{self, Record};

/// How long a healed cluster may take until every member serves and all are equal.
const CONVERGENCE_US: u64 = 60_000_000;
/// What comes after it, to see that nothing else happens.
const QUIET_US: u64 = 1_500_000;
/// The wall clocks begin here (2023-11-14), in seconds since 1970.
const WALL: u64 = 1_700_000_000;

pub struct Report {
    pub state: Rc<State>,
    pub effort: Effort,
    pub simulated_us: u64,
}

/// Runs a seed, in a process that ran none before.
pub fn run(options: Options, keeps_records: bool) -> Report {
    let seed = options.seed;
    let state = State::begin(options, keeps_records);
    let runtime = madsim::runtime::Runtime::with_seed_and_config(seed, madsim::Config::default());
    let (inner, mut effort, mut simulated_us) = (Rc::clone(&state), Effort::default(), 0);
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        panics::watched(|| {
            runtime.block_on(async {
                live(&inner).await;
                State::now_us()
            })
        })
    }));
    match outcome {
        Ok(at) => simulated_us = at,
        Err(_) => state.fail(Failure::new("A member never panics.", panics::take())),
    }
    // (What the panic or the end left behind must not run.)
    std::mem::forget(runtime);
    if !state.has_failed() {
        let recovers = state.options.profile != Profile::Ruin;
        let open: Vec<usize> = state.open.borrow().iter().copied().flatten().collect();
        let record = Record {
            ops: &state.ops.borrow(),
            spans: &state.spans.borrow(),
            open: &open,
            raft: &state.raft.borrow(),
            times: &state.times.borrow(),
            // (Where clocks have rates of their own, they also jump.)
            drift_ppm: (state.options.drift_ppm == 0).then_some(0),
            quiet_revision: recovers.then(|| state.quiet_revision.get()),
        };
        if let Err(failure) = verdict::judge(&record, &mut effort) {
            state.fail(failure);
        }
    }
    Report { state, effort, simulated_us }
}

async fn live(state: &Rc<State>) {
    let options = &state.options;
    let mut rng = Rng::new(options.seed ^ 0x436c_7573_7465);
    let norns = Norns::new(Rc::clone(state), &mut rng);
    world::begin(Box::new(norns));
    let mut clocks = rng.fork(3);
    let (strikes, drawn) = fault::draw(options, &mut rng.fork(1), &mut rng.fork(2));
    state.counts.borrow_mut().faults = drawn;
    let machines = options.machines() + options.clients + options.watchers + 1;
    for host in 0..machines {
        let ppm =
            clocks.below(2 * options.drift_ppm + 1).cast_signed() - options.drift_ppm.cast_signed();
        let shown = Duration::from_millis(1 + clocks.below(3_600_000));
        let wall = Duration::from_secs(WALL);
        // (Clients keep true time: what they were promised is judged by it.)
        let ppm = if host < options.machines() { ppm } else { 0 };
        world::add_machine(Clock::new(shown, ppm, wall));
    }
    for host in 0..options.nodes {
        members::start(state, host);
    }
    let mut host = options.machines();
    for number in 0..options.clients {
        let rng = rng.fork(4);
        if options.less.keeps_client(number) {
            clients::start(host, number, rng);
        }
        host += 1;
    }
    for number in 0..options.watchers {
        let rng = rng.fork(5);
        if options.less.keeps_watcher(number) {
            watchers::start(host, number, rng);
        }
        host += 1;
    }
    let mut crashes = rng.fork(6);
    prober::start(host, rng.fork(7));
    safety(state, &mut crashes, strikes).await;
    if !state.has_failed() && state.options.profile != Profile::Ruin {
        recover(state, &mut crashes).await;
    }
}

/// Faults, until their time is over.
async fn safety(state: &Rc<State>, rng: &mut Rng, strikes: Vec<(u64, Strike)>) {
    for (at, strike) in strikes {
        pass(state, rng, at).await;
        if state.has_failed() {
            return;
        }
        members::strike(state, rng, strike);
    }
    pass(state, rng, state.options.safety_us).await;
}

/// Lets time pass until a moment or a failure, and does what the machines ask for meanwhile.
async fn pass(state: &Rc<State>, rng: &mut Rng, until_us: u64) {
    loop {
        let events = std::mem::take(&mut *state.events.borrow_mut());
        for event in events {
            match event {
                Event::Ended { host, incarnation, how } => {
                    if state.members.borrow()[host].incarnation == incarnation
                        && world::is_running(host)
                    {
                        members::ended(state, rng, host, how);
                    }
                }
                Event::CrashPoint { host, point } => members::crash_point(state, rng, host, point),
                Event::Elected { host } => members::elected(state, host),
                Event::Joined { host } => members::start_later(host, 100_000),
                Event::Moment { fault } => members::moment(state, rng, fault),
            }
        }
        // (It forgets the tasks that are over, too.)
        let _ = madsim::runtime::Handle::current().metrics().num_tasks();
        let now = State::now_us();
        if state.has_failed() || now >= until_us {
            return;
        }
        let left = Duration::from_micros((until_us - now).min(1_000_000));
        tokio::select! {
            biased;
            () = state.bell.notified() => {}
            () = madsim::time::sleep(left) => {}
        }
    }
}

async fn recover(state: &Rc<State>, rng: &mut Rng) {
    let from = State::now_us();
    members::heal(state, rng);
    loop {
        pass(state, rng, State::now_us() + 500_000).await;
        if state.has_failed() {
            return;
        }
        let members = state.members.borrow();
        let standing = Standing {
            waited_us: State::now_us() - from,
            // (A learner serves no writes.)
            members: members
                .iter()
                .filter(|m| m.is_member)
                .map(|m| (m.served || m.is_learner, m.place))
                .collect(),
        };
        drop(members);
        if standing.is_converged() {
            break;
        }
        if let Err(failure) = convergence::check(&standing, CONVERGENCE_US) {
            return state.fail(failure);
        }
    }
    leases_end(state, rng).await;
    state.quiet_revision.set(state.raft.borrow().model.revision);
    // Watchers get what is left of the bound; the verdict says what one of them still misses then. (One whose machine went without a
    // word knew everything, asks in the quiet, and begins anew.)
    let has_time = || State::now_us() < from + CONVERGENCE_US && !state.has_failed();
    loop {
        while !are_told(state) && has_time() {
            pass(state, rng, State::now_us() + 500_000).await;
        }
        pass(state, rng, State::now_us() + QUIET_US).await;
        if are_told(state) || !has_time() {
            return;
        }
    }
}

/// Nobody renews a lease any more: all of them run out.
async fn leases_end(state: &Rc<State>, rng: &mut Rng) {
    let from = State::now_us();
    while has_leases(state) && !state.has_failed() {
        let waited_us = State::now_us() - from;
        if waited_us >= LEASES_END_US
            && let Err(failure) = lease::all_gone(&state.raft.borrow().model.lives, waited_us)
        {
            return state.fail(failure);
        }
        pass(state, rng, State::now_us() + 1_000_000).await;
    }
}

fn has_leases(state: &State) -> bool {
    let raft = state.raft.borrow();
    raft.lost_at.is_none() && !raft.model.leases.is_empty()
}

/// Whether every watcher that there is knows everything.
fn are_told(state: &State) -> bool {
    let (raft, spans) = (state.raft.borrow(), state.spans.borrow());
    let until = Some(state.quiet_revision.get());
    let mut open = state.open.borrow().clone().into_iter();
    raft.lost_at.is_some()
        || open
            .all(|span| span.is_some_and(|at| watch::check(&spans[at], &raft.model, until).is_ok()))
}
