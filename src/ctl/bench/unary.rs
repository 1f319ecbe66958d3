//! Calls with one question, one after the other per client.

use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::calls;
use crate::shared::Shared;
use crate::status::Failure;
use crate::wire::{Event, Wire};

struct Flight {
    stream: u32,
    /// When it was sent; or, at a fixed rate, when it was due, if calls without an answer kept it from being sent: a server that stands
    /// still is charged with those it kept waiting. (That the loader's own timer is late is no fault of the server.)
    start: Instant,
    over: bool,
}

/// All clients of one connection, until the run ends.
pub async fn connection(shared: Rc<Shared>, index: usize, clients: usize) -> io::Result<()> {
    let o = &shared.options;
    let mut wire = shared.connect(index).await?;
    let mut flights: VecDeque<Flight> = VecDeque::new();
    let mut in_flight = 0;
    let mut events = Vec::new();
    let mut message = Vec::new();
    let begin = Instant::now();
    let per_second = o.rate as f64 / o.conns as f64;
    let mut started = 0u64;
    let mut is_held = false;
    loop {
        let mut now = Instant::now();
        while !shared.stop.get() {
            let mut start = now;
            if o.rate > 0 {
                let due = begin + Duration::from_secs_f64(started as f64 / per_second);
                if due > now {
                    is_held = false;
                    break;
                }
                if is_held {
                    start = due;
                }
            }
            if in_flight == clients || !wire.has_window(o.value_bytes + o.key_bytes * 4 + 128) {
                is_held = true;
                break;
            }
            let path = calls::next(&shared, &mut message);
            let stream = wire.open(path, &message, true);
            flights.push_back(Flight { stream, start, over: false });
            shared.open.set(shared.open.get() + 1);
            in_flight += 1;
            started += 1;
        }
        if in_flight == 0 && shared.stop.get() {
            return Ok(());
        }
        if o.rate > 0 {
            wire.flush().await?;
            // Reading can be given up at any time once everything is sent.
            let _ = tokio::time::timeout(Duration::from_millis(1), wire.turn(&mut events))
                .await
                .unwrap_or(Ok(()));
        } else {
            wire.turn(&mut events).await?;
        }
        now = Instant::now();
        for event in events.drain(..) {
            let Event::End { stream, outcome } = event else { continue };
            let Ok(i) = flights.binary_search_by_key(&stream, |f| f.stream) else { continue };
            flights[i].over = true;
            shared.open.set(shared.open.get() - 1);
            in_flight -= 1;
            match outcome {
                Ok(()) => shared.done(now.duration_since(flights[i].start)),
                Err(failure) => shared.fail(failure),
            }
        }
        while flights.front().is_some_and(|f| f.over) {
            flights.pop_front();
        }
    }
}

/// One call to its end; the last message of the answer, if the wire keeps messages.
pub async fn call(
    wire: &mut Wire,
    path: &'static str,
    message: &[u8],
) -> io::Result<Result<Vec<u8>, Failure>> {
    let ours = wire.open(path, message, true);
    let (mut events, mut answer) = (Vec::new(), Vec::new());
    loop {
        wire.turn(&mut events).await?;
        for event in events.drain(..) {
            match event {
                Event::Messages { stream, count, last } if stream == ours && count > 0 => {
                    answer = last;
                }
                Event::End { stream, outcome } if stream == ours => {
                    return Ok(outcome.map(|()| answer));
                }
                _ => {}
            }
        }
    }
}

/// Of calls that set something up.
const IN_FLIGHT: usize = 16;

/// Makes all calls, a few at a time.
pub async fn pipeline(
    wire: &mut Wire,
    calls: impl Iterator<Item = (&'static str, Vec<u8>)>,
) -> Result<(), String> {
    let mut calls = calls.peekable();
    let mut in_flight = 0;
    let mut events = Vec::new();
    loop {
        while in_flight < IN_FLIGHT
            && let Some((path, message)) = calls.next_if(|(_, m)| wire.has_window(m.len() + 5))
        {
            wire.open(path, &message, true);
            in_flight += 1;
        }
        if in_flight == 0 && calls.peek().is_none() {
            return Ok(());
        }
        wire.turn(&mut events).await.map_err(|e| e.to_string())?;
        for event in events.drain(..) {
            if let Event::End { outcome, .. } = event {
                outcome.map_err(|failure| failure.0)?;
                in_flight -= 1;
            }
        }
    }
}
