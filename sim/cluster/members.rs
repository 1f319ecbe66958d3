//! The members' machines: what is started on them, how they die, and what else happens to them.

use std::rc::Rc;
use std::time::Duration;

use madsim::task::spawn_local;
use norn_server::config::ServerConfig;
use norn_server::flags;
use norn_server::log::Log;
use norn_server::runtime::simulated::{self as world, Death, Nonsense};
use norn_server::serve::{self, End};

use super::fault::Strike;
use super::state::{Event, State, state};
use super::{command_line, operator, rot};
use crate::fault::{Act, Fault};
use crate::history::Failure;
use crate::member::CrashPoint;
use crate::network::Network;
use crate::record::What;
use crate::rng::Rng;

/// What `nornd` does, from its command line on.
async fn nornd(args: Vec<String>) -> Result<End, String> {
    let values = flags::parse(&args, []).map_err(|refusal| format!("{refusal:?}"))?;
    let log = Log::new(values.text("log-level"), "json", "default")?;
    let config = ServerConfig::new(&values)?;
    Ok(serve::serve(Rc::new(config), Rc::new(log)).await)
}

pub fn start(state: &State, host: usize) {
    let mut members = state.members.borrow_mut();
    let member = &mut members[host];
    let belongs = member.is_member || (member.is_leaving && member.was_open);
    if world::is_running(host) || state.has_failed() || !belongs || member.is_replaced {
        return;
    }
    member.incarnation += 1;
    member.place = None;
    let incarnation = member.incarnation;
    let boot_syncs = std::mem::take(&mut member.boot_syncs);
    if boot_syncs > 0 && !state.is_healed.get() {
        world::disk_of(host).freeze_at_sync(boot_syncs);
        member.may_end = true;
    }
    drop(members);
    state.raft.borrow_mut().host_restarted(host);
    state.note(What::Start { node: host, life: incarnation });
    let args = command_line::of(state, host);
    world::start(host, &format!("n{}", host + 1), move || async move {
        let how = match nornd(args).await {
            Ok(how) => how,
            Err(error) => panic!("the harness' command line was refused: {error}"),
        };
        self::state().happened(Event::Ended { host, incarnation, how });
    });
}

pub fn start_later(host: usize, after_us: u64) {
    let state = state();
    spawn_local(async move {
        madsim::time::sleep(Duration::from_micros(after_us)).await;
        start(&state, host);
    });
}

/// Ends the process, and starts it again after a while.
pub fn crash(state: &Rc<State>, rng: &mut Rng, host: usize, death: Death, down_us: u64) {
    let mut members = state.members.borrow_mut();
    let death = if std::mem::take(&mut members[host].is_lossy) { Death::Power } else { death };
    state.note(What::Crash { node: host, power: matches!(death, Death::Power) });
    members[host].crash_in = None;
    members[host].may_end = false;
    members[host].place = None;
    drop(members);
    state.counts.borrow_mut().crashes += 1;
    world::kill(host, death, rng.next());
    start_later(host, down_us);
}

/// A process ended by itself.
pub fn ended(state: &Rc<State>, rng: &mut Rng, host: usize, how: End) {
    let is_frozen = world::disk_of(host).is_frozen();
    let what = match is_frozen {
        true => What::StartCut { node: host },
        false => What::End { node: host },
    };
    state.tell(what, || format!("{how:?}"));
    let mut counts = state.counts.borrow_mut();
    counts.ends += 1;
    counts.boot_crashes += u64::from(is_frozen);
    drop(counts);
    let mut members = state.members.borrow_mut();
    // A removed member ends for good; one that is to join ends when it cannot ask the others, and is started again.
    if members[host].is_leaving {
        members[host].is_leaving = false;
        drop(members);
        return world::kill(host, Death::Power, rng.next());
    }
    // What noticed that its disk is not what it was is replaced.
    if members[host].is_rotten {
        members[host].is_replaced = true;
        members[host].place = None;
        drop(members);
        world::kill(host, Death::Power, rng.next());
        spawn_local(rot::replace(host));
        return;
    }
    let is_joining = host >= state.options.nodes && !members[host].was_open;
    let has_no_room = world::disk_of(host).is_limited();
    let may_end = members[host].may_end || is_frozen || is_joining || has_no_room;
    let last = members[host].log.iter().rev().take(5).rev().cloned().collect::<Vec<_>>();
    drop(members);
    if may_end {
        let death = if how == End::Signal(15) { Death::Process } else { Death::Power };
        return crash(state, rng, host, death, 100_000);
    }
    let detail = format!("n{}: {how:?}\n{}", host + 1, last.join("\n"));
    state.fail(Failure::new(
        "A member opens after every crash, and does not end by itself.",
        detail,
    ));
}

/// Cuts links, and makes them whole after a while if nobody cut others since.
fn cut(state: &Rc<State>, links: Vec<(usize, usize)>, for_us: u64) {
    for (from, to) in &links {
        state.note(What::Cut { from: *from, to: *to });
    }
    world::cut(links);
    state.counts.borrow_mut().partitions += 1;
    let count = state.counts.borrow().partitions;
    let state = Rc::clone(state);
    spawn_local(async move {
        madsim::time::sleep(Duration::from_micros(for_us)).await;
        if state.counts.borrow().partitions == count {
            state.note(What::Mend);
            world::mend();
        }
    });
}

pub fn strike(state: &Rc<State>, rng: &mut Rng, strike: Strike) {
    let what = What::Fault { kind: strike.kind(), node: strike.node() };
    state.tell(what, || format!("{strike:?}"));
    let nodes = state.options.machines();
    match strike {
        Strike::Shared(fault) => shared(state, rng, fault),
        Strike::Sever { a, b } => {
            state.counts.borrow_mut().severed += 1;
            world::sever(a, b);
        }
        Strike::Deaf { client, draw, for_us } => {
            let mut rng = Rng::new(draw);
            let client = state.options.machines() + client;
            let both = (0..nodes).flat_map(|node| [(client, node), (node, client)]);
            let links = both.filter(|_| rng.permille(600)).collect();
            cut(state, links, for_us);
        }
        Strike::Jump { node, by_us } => {
            let node = state.member(node);
            state.counts.borrow_mut().jumps += 1;
            world::jump(node, Duration::from_micros(by_us));
        }
        Strike::Drift { node, ppm } => world::set_rate(state.member(node), ppm),
        Strike::Nonsense { from, to, draw } => {
            world::spoil(state.member(from), state.member(to), Some(Nonsense::new(draw)));
        }
        Strike::Rolling { rest_us } => {
            spawn_local(roll(Rc::clone(state), rest_us));
        }
        Strike::LongPause { node, for_us } => shared(state, rng, Fault::Pause { node, for_us }),
        Strike::SlowLinks { draw, by_us, for_us } => {
            let links = Network::draw_partition(&mut Rng::new(draw), nodes, state.leader());
            let until = State::now_us() + for_us;
            let links = links.into_iter().map(|link| (link, (by_us, until)));
            state.slow_links.borrow_mut().extend(links);
        }
    }
}

fn death(power: bool) -> Death {
    if power { Death::Power } else { Death::Process }
}

fn shared(state: &Rc<State>, rng: &mut Rng, fault: Fault) {
    match fault {
        Fault::Crash { node, power, in_batches, sends, down_us, boot_syncs } => {
            let node = state.member(node);
            if !world::is_running(node) {
                return;
            }
            state.members.borrow_mut()[node].boot_syncs = boot_syncs;
            if in_batches == 0 {
                crash(state, rng, node, death(power), down_us);
            } else {
                let point = CrashPoint { batches: in_batches, power, sends, down_us };
                state.members.borrow_mut()[node].crash_in = Some(point);
            }
        }
        Fault::Blackout { power, down_us } => {
            for node in 0..state.options.machines() {
                if world::is_running(node) {
                    crash(state, rng, node, death(power), down_us + node as u64 * 1_000);
                }
            }
        }
        Fault::Partition { draw, for_us } => {
            let leader = state.leader();
            let links =
                Network::draw_partition(&mut Rng::new(draw), state.options.machines(), leader);
            cut(state, links, for_us);
        }
        Fault::Pause { node, for_us } => {
            let node = state.member(node);
            state.note(What::Pause { node, for_us });
            world::pause(node);
            spawn_local(async move {
                madsim::time::sleep(Duration::from_micros(for_us)).await;
                world::resume(node);
            });
        }
        Fault::FailSync { node, nth } => {
            let node = state.member(node);
            if world::is_running(node) {
                world::disk_of(node).fail_sync(nth);
                let member = &mut state.members.borrow_mut()[node];
                member.may_end = true;
                member.is_lossy = true;
            }
        }
        Fault::PauseLeader { for_us } => upon_leader(state, rng, Act::Pause, for_us),
        Fault::AtElection { act, after_us, for_us } => {
            *state.at_election.borrow_mut() = Some((act, after_us, for_us));
        }
        Fault::Upon { node, act, for_us } => match act {
            Act::Pause => shared(state, rng, Fault::Pause { node, for_us }),
            Act::Crash if world::is_running(node) => {
                crash(state, rng, node, Death::Power, for_us);
            }
            Act::Crash => {}
            Act::Isolate(way) => cut(state, way.links(node, state.options.machines()), for_us),
        },
        Fault::Full { node, room_bytes, for_us } => {
            let disk = world::disk_of(state.member(node));
            disk.limit_bytes(Some(disk.used_bytes() + room_bytes));
            spawn_local(async move {
                madsim::time::sleep(Duration::from_micros(for_us)).await;
                disk.limit_bytes(None);
            });
        }
        Fault::Rot { node, draw, down_us } => rot::strike(state, rng, node, draw, down_us),
        // (Not of this tier.)
        Fault::Unreadable { .. } | Fault::Stray { .. } | Fault::Upgrade { .. } => {}
        // Asked to end, a leader hands over.
        Fault::Transfer { node } => {
            let node = state.member(node);
            if world::is_running(node) {
                state.members.borrow_mut()[node].may_end = true;
                world::terminate(node);
            }
        }
    }
}

/// A leader was elected: the moment that some faults wait for.
pub fn elected(state: &Rc<State>, host: usize) {
    let Some((act, after_us, for_us)) = state.at_election.borrow_mut().take() else { return };
    if state.options.member_every_us > 0 {
        // (What the leader before left unfinished may be a change, too.)
        spawn_local(operator::change_at(host, after_us / 2));
    }
    let state = Rc::clone(state);
    spawn_local(async move {
        madsim::time::sleep(Duration::from_micros(after_us)).await;
        let fault = Fault::Upon { node: host, act, for_us };
        state.happened(Event::Moment { fault });
    });
}

/// The moment has come.
pub fn moment(state: &Rc<State>, rng: &mut Rng, fault: Fault) {
    if !state.is_healed.get() {
        shared(state, rng, fault);
    }
}

/// Between two looks whether a member is back.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// So often it is looked for; then it is the next one's turn all the same.
const LOOKS: usize = 60;

/// Restarts one member after the other.
async fn roll(state: Rc<State>, rest_us: u64) {
    for host in 0..state.options.machines() {
        if state.is_healed.get() || state.has_failed() {
            return;
        }
        if !world::is_running(host) || !state.members.borrow()[host].is_member {
            continue;
        }
        let life = state.members.borrow()[host].incarnation;
        state.members.borrow_mut()[host].may_end = true;
        world::terminate(host);
        for _ in 0..LOOKS {
            madsim::time::sleep(LOOK_EVERY).await;
            let member = &state.members.borrow()[host];
            if member.incarnation > life && member.place.is_some() {
                break;
            }
        }
        madsim::time::sleep(Duration::from_micros(rest_us)).await;
    }
}

fn upon_leader(state: &Rc<State>, rng: &mut Rng, act: Act, for_us: u64) {
    if let Some(node) = state.leader() {
        shared(state, rng, Fault::Upon { node, act, for_us });
    }
}

pub fn crash_point(state: &Rc<State>, rng: &mut Rng, host: usize, point: CrashPoint) {
    if world::is_running(host) {
        crash(state, rng, host, death(point.power), point.down_us);
    }
}

/// The end of all faults.
pub fn heal(state: &Rc<State>, rng: &mut Rng) {
    state.is_healed.set(true);
    state.note(What::Heal);
    state.note(What::Mend);
    world::mend();
    for host in 0..state.options.machines() {
        world::disk_of(host).limit_bytes(None);
        state.members.borrow_mut()[host].crash_in = None;
        world::resume(host);
        for other in 0..state.options.machines() {
            world::spoil(host, other, None);
        }
        start(state, host);
        // (A larger quota takes a restart.)
        if state.options.quota_bytes > 0 && world::is_running(host) {
            crash(state, rng, host, Death::Process, 1_000);
        }
    }
}
