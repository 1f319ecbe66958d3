//! Watchers, who resume where they were cut off.

use bytes::Bytes;
use norn_node::{Input, StreamId};
use norn_proto::etcdserverpb as pb;
use prost::Message as _;

use super::{Event, Watcher, World};
use crate::check::watch::Span;
use crate::options::Bug;
use crate::record::What;
use crate::rng::mix;
use crate::workload;

/// The slowest that a watcher takes what it was sent: it must be done with all of it when everything is judged.
const DRAIN_MAX_US: u64 = 1_000_000;

impl World {
    pub(super) fn open_watch(&mut self, watcher: usize) {
        if self.watchers[watcher].on.is_some() {
            return;
        }
        let node = self.rng.below(self.members.len() as u64) as usize;
        if self.members[node].host.is_none() {
            let delay = self.rng.heavy(100_000);
            return self.after(delay, Event::Watch { watcher });
        }
        // (No draw of the world's, so that what is drawn after it stays what it was.)
        let spice = mix(self.options.seed ^ self.spans.len() as u64);
        let (mut key, mut start) = match self.watchers[watcher].span {
            Some(span) => (self.spans[span].key.clone(), self.spans[span].next()),
            None => {
                let number = self.rng.below(self.options.keys);
                let key = self.rng.permille(500).then(|| Bytes::from(format!("k{number}")));
                (key, *self.rng.pick(&[0, 1, 1, 5]))
            }
        };
        let (mut no_put, mut no_delete) = (false, false);
        if let Some(before) = self.watchers[watcher].span.map(|span| &self.spans[span]) {
            (no_put, no_delete) = (before.no_put, before.no_delete);
        }
        // Now and then one gives up its place, for a special one: where the history begins, or where it has not come to.
        let model = &self.raft.model;
        let fresh = match spice % 8 {
            0 => Some(model.compacted.max(1)),
            1 => Some(model.revision + 1 + (spice >> 8).cast_signed().rem_euclid(60)),
            _ => None,
        };
        if let Some(fresh) = fresh {
            start = fresh;
            key = key.filter(|_| spice & 64 == 0);
            (no_put, no_delete) = (spice & 0x300 == 0x100, spice & 0x300 == 0x200);
        }
        self.next_token += 1;
        let stream = StreamId(self.next_token);
        self.by_stream.insert(stream, watcher);
        let span = self.spans.len();
        let incarnation = self.members[node].incarnation;
        let (responses, moments) = (Vec::new(), Vec::new());
        let wish = Span { node, incarnation, key, start, no_put, no_delete, responses, moments };
        let body = workload::watch(&wish, self.rng.permille(500));
        self.spans.push(wish);
        self.trace.note(self.now, What::Watch { watcher, node, start });
        self.watchers[watcher] =
            Watcher { stream, on: Some((node, incarnation)), span: Some(span) };
        let inputs = vec![Input::WatchOpen { stream }, Input::WatchRequest { stream, body }];
        self.turns(node, inputs);
    }

    pub(super) fn watched(&mut self, node: usize, stream: StreamId, response: Bytes) {
        let response = pb::WatchResponse::decode(response).expect("a watch response");
        let Some(&watcher) = self.by_stream.get(&stream) else { return };
        let w = &self.watchers[watcher];
        let (Some((_, incarnation)), Some(span), true) = (w.on, w.span, w.stream == stream) else {
            return;
        };
        let mut drain = 100;
        if self.rng.permille(self.options.slow_watcher_permille) && !self.is_healed {
            drain = self.rng.heavy(400_000).min(DRAIN_MAX_US);
        }
        let input = Input::WatchDrained { stream, count: 1 };
        self.after(drain, Event::Input { node, incarnation, input });
        if !response.events.is_empty() && self.rng.permille(100) {
            let input = Input::WatchRequest { stream, body: workload::watch_progress() };
            self.after(drain, Event::Input { node, incarnation, input });
        }
        if self.options.bug == Some(Bug::WatchResponseLost) && self.rng.permille(20) {
            return;
        }
        let revision = response.header.as_ref().map_or(0, |header| header.revision);
        let told = What::Told { watcher, node, revision, events: response.events.len() };
        self.trace.tell(self.now, told, || format!("{response:?}"));
        let is_over = response.canceled;
        self.number += 1;
        self.spans[span].tell((self.now, self.number), response);
        if is_over {
            self.trace.note(self.now, What::Unwatch { watcher });
            self.watchers[watcher].on = None;
            self.after(10_000, Event::Watch { watcher });
        }
    }

    /// Spans whose watcher is still there.
    pub fn open_spans(&self) -> Vec<usize> {
        self.watchers.iter().filter(|w| w.on.is_some()).filter_map(|w| w.span).collect()
    }
}
