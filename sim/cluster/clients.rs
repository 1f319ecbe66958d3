//! Clients: each on a machine of its own, one question at a time over real gRPC, like those of the core tier.

use std::collections::BTreeMap;
use std::time::Duration;

use norn_server::runtime::simulated as world;

use super::grpc::{Broken, Channel};
use super::state::{State, state};
use crate::history::{Op, Outcome};
use crate::record::What;
use crate::rng::Rng;
use crate::workload::{self, Client};

/// What a client thinks longer after its share of operations.
const SLOW_THINK_US: u64 = 400_000;

/// Who thinks less does not think at all: madsim's timers have steps of a millisecond.
const NO_THINK_US: u64 = 100;

/// Starts a client on its machine.
pub fn start(host: usize, number: usize, rng: Rng) {
    world::start(host, &format!("client {number}"), move || run(number, rng));
}

async fn pause(us: u64) {
    madsim::time::sleep(Duration::from_micros(us)).await;
}

/// To each member at most one connection, with the life of the member that it leads to.
type Channels = BTreeMap<usize, (Channel, u64)>;

async fn run(number: usize, mut rng: Rng) {
    let state = state();
    let options = &state.options;
    let mut client = Client::new(number, options, rng.fork(1));
    let mut channels = Channels::new();
    pause(rng.below(2_000_000)).await;
    while !state.is_healed.get() && !state.has_failed() {
        let node = state.member(client.choose_node(options.machines()));
        if state.options.less.is_enough(client.next_number(options)) {
            return;
        }
        let deadline = rng.between(options.deadline_us / 2, options.deadline_us);
        let within = Duration::from_micros(deadline);
        if let Some((channel, incarnation)) = reach(&state, &mut channels, node, within).await {
            let is_whole =
                ask(&state, (number, &mut client), &mut rng, (node, incarnation), &channel, within)
                    .await;
            if !is_whole {
                channels.remove(&node);
            }
        }
        let mut think = client.think_us(options);
        if state.ops.borrow().len() > options.ops_max {
            think += SLOW_THINK_US;
        }
        if think >= NO_THINK_US {
            pause(think).await;
        }
    }
}

async fn reach(
    state: &State,
    channels: &mut Channels,
    node: usize,
    within: Duration,
) -> Option<(Channel, u64)> {
    if let Some(reached) = channels.get(&node) {
        return Some(reached.clone());
    }
    let channel = Channel::open(node, within).await.ok()?;
    let incarnation = state.members.borrow()[node].incarnation;
    channels.insert(node, (channel.clone(), incarnation));
    Some((channel, incarnation))
}

/// Asks once; false if the connection is not worth keeping.
async fn ask(
    state: &State,
    (number, client): (usize, &mut Client),
    rng: &mut Rng,
    (node, incarnation): (usize, u64),
    channel: &Channel,
    within: Duration,
) -> bool {
    let ask_number = client.next_number(&state.options);
    let ask = client.next(&state.options);
    state.drew(ask_number);
    if !state.options.less.keeps_ask(ask_number) {
        return true;
    }
    let (method, body) = workload::encode(&ask);
    let called = state.moment();
    let at = state.ops.borrow().len();
    state.tell(What::Ask { op: at, client: number, node }, || format!("{ask:?}"));
    state.ops.borrow_mut().push(Op {
        client: number,
        node,
        incarnation,
        ask: ask.clone(),
        called,
        returned: None,
        outcome: Outcome::Unknown,
    });
    state.counts.borrow_mut().calls += 1;
    let answered = channel.call(method, body, within, rng.permille(500)).await;
    let is_whole = !matches!(answered, Err(Broken::Silence));
    let outcome = workload::outcome(&ask, answered.map_err(|broken| broken.error()));
    let (end, revision) = outcome.end();
    let answer = What::Answer { op: at, client: number, end, revision };
    state.tell(answer, || format!("{outcome:?}"));
    client.learn(&ask, &outcome);
    let op = &mut state.ops.borrow_mut()[at];
    op.outcome = outcome;
    op.returned = Some(state.moment());
    is_whole
}
