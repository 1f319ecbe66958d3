//! The members' machines: what is started on them, how they die, and what else happens to them.

use std::rc::Rc;
use std::time::Duration;

use madsim::task::spawn_local;
use norn_server::config::ServerConfig;
use norn_server::flags;
use norn_server::log::Log;
use norn_server::runtime::net::address;
use norn_server::runtime::simulated::{self as world, Death};
use norn_server::serve::{self, End};

use super::fault::Strike;
use super::state::{Event, State, state};
use crate::fault::{Act, Fault};
use crate::history::Failure;
use crate::member::CrashPoint;
use crate::network::Network;
use crate::record::What;
use crate::rng::Rng;

/// The command line of a member.
fn args(state: &State, host: usize) -> Vec<String> {
    let options = &state.options;
    let url = |host: usize, port: u16| format!("http://{}:{port}", address(host));
    let is_founder = host < options.nodes;
    let known = state.membership.borrow();
    let belongs = |n: &usize| if is_founder { *n < options.nodes } else { known.has(*n) };
    let members = (0..options.machines()).filter(belongs);
    let members = members.map(|n| format!("n{}={}", n + 1, url(n, 2380)));
    let flags = [
        ("name", format!("n{}", host + 1)),
        ("data-dir", format!("n{}.norn", host + 1)),
        ("listen-peer-urls", url(host, 2380)),
        ("initial-advertise-peer-urls", url(host, 2380)),
        ("listen-client-urls", url(host, 2379)),
        ("advertise-client-urls", url(host, 2379)),
        ("initial-cluster", members.collect::<Vec<_>>().join(",")),
        ("initial-cluster-token", "sim".to_owned()),
        ("initial-cluster-state", if is_founder { "new" } else { "existing" }.to_owned()),
        ("heartbeat-interval", options.tick_ms.to_string()),
        ("election-timeout", (options.tick_ms * u64::from(options.election_ticks)).to_string()),
        ("pre-vote", options.pre_vote.to_string()),
        ("snapshot-count", options.snapshot_count.to_string()),
        ("snapshot-catchup-entries", options.catch_up_entries.to_string()),
        ("watch-progress-notify-interval", format!("{}ms", options.watch_progress_ms)),
        ("strict-reconfig-check", options.strict_reconfig.to_string()),
        ("feature-gates", format!("LeaseCheckpoint={}", options.lease_checkpoint)),
    ];
    flags.map(|(name, value)| format!("--{name}={value}")).into()
}

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
    if world::is_running(host) || state.has_failed() || !belongs {
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
    let args = args(state, host);
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
        Fault::AtElection { act, for_us, .. } => upon_leader(state, rng, act, for_us),
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
        // (The core tier's: whoever replaces a member that noticed is not here yet.)
        Fault::Rot { .. } | Fault::Unreadable { .. } | Fault::Stray { .. } => {}
        // (There is one program to run.)
        Fault::Upgrade { .. } => {}
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
pub fn heal(state: &Rc<State>) {
    state.is_healed.set(true);
    state.note(What::Heal);
    state.note(What::Mend);
    world::mend();
    for host in 0..state.options.machines() {
        world::disk_of(host).limit_bytes(None);
        state.members.borrow_mut()[host].crash_in = None;
        world::resume(host);
        start(state, host);
    }
}
