//! Watchers: each on a machine of its own, resuming at some member where the stream before was cut off.

use std::time::Duration;

use bytes::Bytes;
use norn_server::runtime::simulated as world;

use super::grpc::{Broken, Channel, Watch};
use super::state::{State, state};
use crate::check::watch::Span;
use crate::record::What;
use crate::rng::Rng;
use crate::workload;

/// How long a watcher waits for a connection, and for the answer to its creation.
const PATIENCE: Duration = Duration::from_secs(2);

pub fn start(host: usize, number: usize, rng: Rng) {
    world::start(host, &format!("watcher {number}"), move || run(number, rng));
}

async fn run(number: usize, mut rng: Rng) {
    let state = state();
    madsim::time::sleep(Duration::from_micros(rng.below(5_000_000))).await;
    let mut last = None;
    while !state.has_failed() {
        let node = state.member(rng.below(state.options.machines() as u64) as usize);
        if let Ok(channel) = Channel::open(node, PATIENCE).await {
            // (Why a stream ended matters to nobody: what was told on it does.)
            let _ = watch(&state, number, node, &channel, &mut last, &mut rng).await;
            state.note(What::Unwatch { watcher: number });
            state.open.borrow_mut()[number] = None;
        }
        madsim::time::sleep(Duration::from_micros(rng.heavy(50_000))).await;
    }
}

/// One stream from its creation to its end.
async fn watch(
    state: &State,
    number: usize,
    node: usize,
    channel: &Channel,
    last: &mut Option<usize>,
    rng: &mut Rng,
) -> Result<(), Broken> {
    let (key, start) = match *last {
        Some(span) => {
            let spans = state.spans.borrow();
            (spans[span].key.clone(), spans[span].next())
        }
        None => {
            let key = rng.below(state.options.keys);
            let key = rng.permille(500).then(|| Bytes::from(format!("k{key}")));
            (key, *rng.pick(&[0, 1, 1, 5]))
        }
    };
    let incarnation = state.members.borrow()[node].incarnation;
    let mut stream = channel.watch();
    let (responses, moments) = (Vec::new(), Vec::new());
    let (no_put, no_delete) = (false, false);
    let span = Span { node, incarnation, key, start, no_put, no_delete, responses, moments };
    stream.say(&workload::watch(&span, rng.permille(500)))?;
    state.note(What::Watch { watcher: number, node, start });
    let at = state.spans.borrow().len();
    state.spans.borrow_mut().push(span);
    *last = Some(at);
    state.open.borrow_mut()[number] = Some(at);
    loop {
        let is_over = hear(state, (number, at), &mut stream, rng).await?;
        if is_over || state.has_failed() {
            return Ok(());
        }
    }
}

async fn hear(
    state: &State,
    (number, at): (usize, usize),
    stream: &mut Watch,
    rng: &mut Rng,
) -> Result<bool, Broken> {
    let is_new = state.spans.borrow()[at].responses.is_empty();
    let quiet = Duration::from_micros(rng.between(1_000_000, 4_000_000));
    let heard = if is_new { None } else { madsim::time::timeout(quiet, stream.hear()).await.ok() };
    let heard = match heard {
        Some(heard) => heard?,
        // Quiet is no fault of a watch, but its machine may have gone without a word: it is asked.
        None => {
            if !is_new {
                stream.say(&workload::watch_progress())?;
            }
            let answered = madsim::time::timeout(PATIENCE, stream.hear()).await;
            answered.map_err(|_| Broken::Silence)??
        }
    };
    let Some(response) = heard else { return Ok(true) };
    let revision = response.header.as_ref().map_or(0, |header| header.revision);
    let (node, events) = (state.spans.borrow()[at].node, response.events.len());
    let told = What::Told { watcher: number, node, revision, events };
    state.tell(told, || format!("{response:?}"));
    let is_slow = !state.is_healed.get() && rng.permille(state.options.slow_watcher_permille);
    let asks_progress = !response.events.is_empty() && rng.permille(100);
    let is_over = response.canceled;
    let moment = state.moment();
    state.spans.borrow_mut()[at].tell(moment, response);
    if is_slow {
        madsim::time::sleep(Duration::from_micros(rng.heavy(400_000))).await;
    }
    if asks_progress {
        stream.say(&workload::watch_progress())?;
    }
    Ok(is_over)
}
