//! Watchers: who wants to hear of which keys, and how far each has been told.
//!
//! A watcher is *synced* when it was told everything up to the current revision; it then gets events as they are
//! applied. Otherwise it *catches up*: it is nothing but a cursor, and is fed from history in bounded steps while its
//! stream has room. A slow client therefore costs a cursor: when its stream is full, its watchers fall back to
//! catching up, and apply never waits.
//!
//! Promises: per watcher, events in order of revision, none twice, none left out, all of one revision in one
//! response (unless fragmented); a progress answer at revision R only after everything up to R.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use norn_mvcc::{Event, KeyRange, Store, Values};
use norn_planted::planted;
use norn_proto::etcdserverpb as pb;

use crate::told::{Told, history};
use crate::watched::Watched;
use crate::wire::{Header, Writer};
use crate::{Error, Time};

/// Responses of one stream that were handed out and not yet taken by its connection. Past it the stream's watchers
/// fall back to history.
pub const RESPONSES_IN_FLIGHT_MAX: usize = 128;
/// Watchers fed in one step of catching up.
const CATCH_UP_WATCHERS: usize = 512;

/// What a slow watcher may hold up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WatchLimits {
    /// Responses of one stream, as [`RESPONSES_IN_FLIGHT_MAX`].
    pub responses_in_flight: usize,
    /// Bytes of them (passed by the last one). etcd has no limit; here it is what a client that reads no more costs beside its connection,
    /// and 80 MB/s over a round trip of 200 ms.
    pub bytes_in_flight: usize,
    /// Distinct revisions in one response of catching up.
    pub catch_up_revisions: usize,
    /// Bytes of history read in one step of catching up (passed by the last transaction). etcd has no limit, and its clients may count on
    /// ten values of a megabyte in one response.
    pub catch_up_bytes: usize,
}

impl Default for WatchLimits {
    fn default() -> WatchLimits {
        // (A thousand revisions, as in etcd.)
        WatchLimits {
            responses_in_flight: RESPONSES_IN_FLIGHT_MAX,
            bytes_in_flight: 16 << 20,
            catch_up_revisions: 1000,
            catch_up_bytes: 16 << 20,
        }
    }
}

/// One gRPC stream of watchers; chosen by the server, never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u64);

/// A watcher: its stream, and its id there.
type WatcherId = (StreamId, i64);

#[derive(Debug)]
struct Watcher {
    range: KeyRange,
    /// What the client said; 0: from now on. Before this revision it hears nothing, not even of progress.
    start: i64,
    /// The next main revision it wants to hear of.
    next: i64,
    is_synced: bool,
    /// Told that its revisions are gone; stays registered, silent, until the client cancels it.
    is_dead: bool,
    no_put: bool,
    no_delete: bool,
    prev_kv: bool,
    fragment: bool,
    progress_notify: bool,
    /// Since the last progress tick.
    had_events: bool,
}

#[derive(Debug)]
struct Stream {
    watchers: BTreeMap<i64, Watcher>,
    /// Automatic ids only grow.
    next_id: i64,
    /// Lengths of the responses that its connection has not taken, oldest first.
    in_flight: VecDeque<usize>,
    /// Their sum.
    in_flight_bytes: usize,
    progress_due: Time,
    progress_every_ms: u64,
}

impl Stream {
    fn has_room(&self, limits: &WatchLimits) -> bool {
        let fits = self.in_flight.len() < limits.responses_in_flight
            && self.in_flight_bytes < limits.bytes_in_flight;
        fits || planted!(WatchRoomUnread)
    }

    fn sent(&mut self, len: usize) {
        self.in_flight.push_back(len);
        self.in_flight_bytes += len;
    }

    fn taken(&mut self, count: usize) {
        let count = count.min(self.in_flight.len());
        self.in_flight_bytes -= self.in_flight.drain(..count).sum::<usize>();
    }
}

/// Everything about watching. Output: encoded `WatchResponse`s, in order per stream.
#[derive(Debug)]
pub struct Watchers {
    streams: BTreeMap<StreamId, Stream>,
    /// Synced watchers by what they watch.
    watched: Watched<WatcherId>,
    catching_up: BTreeSet<WatcherId>,
    out: Vec<(StreamId, Bytes)>,
    /// Encoded bytes from which a response is split, if its watcher asked for that.
    fragment_bytes: usize,
    progress_interval_ms: u64,
    limits: WatchLimits,
    event_count: u64,
}

impl Watchers {
    pub fn new(fragment_bytes: usize, progress_interval_ms: u64, limits: WatchLimits) -> Watchers {
        Watchers {
            streams: BTreeMap::new(),
            watched: Watched::default(),
            catching_up: BTreeSet::new(),
            out: Vec::new(),
            fragment_bytes,
            progress_interval_ms,
            limits,
            event_count: 0,
        }
    }

    /// `jitter` in 0..1000 spreads the progress ticks of many streams.
    pub fn open(&mut self, stream: StreamId, now: Time, jitter: u64) {
        let every = self.progress_interval_ms + self.progress_interval_ms * jitter / 10_000;
        let fresh = Stream {
            watchers: BTreeMap::new(),
            next_id: 0,
            in_flight: VecDeque::new(),
            in_flight_bytes: 0,
            progress_due: now + every,
            progress_every_ms: every,
        };
        self.streams.insert(stream, fresh);
    }

    pub fn close(&mut self, stream: StreamId) {
        let Some(closed) = self.streams.remove(&stream) else { return };
        for (id, watcher) in closed.watchers {
            self.unlist(&watcher.range, (stream, id));
        }
    }

    /// The connection took this many responses.
    pub fn drained(&mut self, stream: StreamId, count: usize) {
        if let Some(stream) = self.streams.get_mut(&stream) {
            stream.taken(count);
        }
    }

    /// Responses on their way of the stream that has most of them, and bytes of the one that has most of those.
    pub fn fullest(&self) -> (usize, usize) {
        let responses = self.streams.values().map(|stream| stream.in_flight.len()).max();
        let bytes = self.streams.values().map(|stream| stream.in_flight_bytes).max();
        (responses.unwrap_or(0), bytes.unwrap_or(0))
    }

    pub fn limits(&self) -> &WatchLimits {
        &self.limits
    }

    pub fn stream_count(&self) -> usize {
        self.streams.len()
    }

    pub fn watcher_count(&self) -> usize {
        self.streams.values().map(|s| s.watchers.len()).sum()
    }

    pub fn catching_up_count(&self) -> usize {
        self.catching_up.len()
    }

    pub fn event_count(&self) -> u64 {
        self.event_count
    }

    /// Responses since the last call.
    pub fn take_out(&mut self) -> Vec<(StreamId, Bytes)> {
        std::mem::take(&mut self.out)
    }

    pub fn create(&mut self, stream: StreamId, r: &pb::WatchCreateRequest, header: &Header) {
        let Some(state) = self.streams.get_mut(&stream) else { return };
        let key = if r.key.is_empty() { Bytes::from_static(&[0]) } else { r.key.clone() };
        let range = KeyRange::new(key, r.range_end.clone());
        let refused = if r.start_revision < 0 {
            Some("etcdserver: mvcc: required revision has been compacted")
        } else if range.is_empty() {
            Some("mvcc: watcher range is empty")
        } else if r.watch_id != 0 && state.watchers.contains_key(&r.watch_id) {
            Some("mvcc: duplicate watch ID provided on the WatchStream")
        } else {
            None
        };
        if let Some(reason) = refused {
            let response = respond(header, -1, |w| {
                w.bool(3, true);
                w.bool(4, true);
                w.bytes(6, reason.as_bytes());
            });
            self.send(stream, response);
            return;
        }
        let mut id = r.watch_id;
        if id == 0 {
            while state.watchers.contains_key(&state.next_id) {
                state.next_id += 1;
            }
            id = state.next_id;
            state.next_id += 1;
        }
        let filters = |filter| r.filters.contains(&i32::from(filter));
        let current = header.revision;
        let next = if r.start_revision == 0 { current + 1 } else { r.start_revision };
        let next = next + i64::from(planted!(WatchSkips) && next <= current);
        let watcher = Watcher {
            range: range.clone(),
            start: r.start_revision,
            next,
            is_synced: next > current,
            is_dead: false,
            no_put: filters(pb::watch_create_request::FilterType::Noput),
            no_delete: filters(pb::watch_create_request::FilterType::Nodelete),
            prev_kv: r.prev_kv,
            fragment: r.fragment,
            progress_notify: r.progress_notify,
            had_events: false,
        };
        let is_synced = watcher.is_synced;
        state.watchers.insert(id, watcher);
        if is_synced {
            self.watched.insert(range, (stream, id));
        } else {
            self.catching_up.insert((stream, id));
        }
        let response = respond(header, id, |w| w.bool(3, true));
        self.send(stream, response);
    }

    pub fn cancel(&mut self, stream: StreamId, id: i64, header: &Header) {
        let Some(state) = self.streams.get_mut(&stream) else { return };
        let Some(watcher) = state.watchers.remove(&id) else { return };
        self.unlist(&watcher.range, (stream, id));
        let response = respond(header, id, |w| w.bool(4, true));
        self.send(stream, response);
    }

    /// A client asks how far its stream is. Answered only if all of it is up to date; otherwise forgotten.
    pub fn request_progress(&mut self, stream: StreamId, header: &Header) {
        let Some(state) = self.streams.get(&stream) else { return };
        let current = header.revision;
        let told = |w: &Watcher| w.is_synced && !w.is_dead && w.start <= current;
        let all_told = state.watchers.values().all(told) || planted!(ProgressUnsynced);
        if !state.watchers.is_empty() && all_told && state.has_room(&self.limits) {
            let response = respond(header, -1, |_| {});
            self.send(stream, response);
        }
    }

    /// Sends the empty responses of watchers that asked for them and heard nothing for a while.
    pub fn tick(&mut self, now: Time, header: &Header) {
        let mut quiet = Vec::new();
        for (stream, state) in &mut self.streams {
            if now < state.progress_due {
                continue;
            }
            state.progress_due = now + state.progress_every_ms;
            let has_room = state.has_room(&self.limits);
            for (id, watcher) in &mut state.watchers {
                let had_events = std::mem::take(&mut watcher.had_events);
                let current = header.revision;
                if watcher.progress_notify
                    && !had_events
                    && has_room
                    && watcher.is_synced
                    && !watcher.is_dead
                    && watcher.start <= current
                {
                    quiet.push((*stream, *id));
                }
            }
        }
        for (stream, id) in quiet {
            let response = respond(header, id, |_| {});
            self.send(stream, response);
        }
    }

    /// Tells the synced watchers what one transaction changed.
    pub fn notify<V: Values>(
        &mut self,
        events: Vec<Event>,
        header: &Header,
        store: &Store,
        values: &V,
    ) -> Result<(), Error>
    where
        V::Error: std::fmt::Display,
    {
        let Some(main) = events.first().map(|event| event.revision.main) else { return Ok(()) };
        if self.watched.is_empty() {
            return Ok(());
        }
        let mut told: Vec<Told> = events.into_iter().map(Told::new).collect();
        // Who wants which events, by watcher and then in order. (No watcher has two ranges, so none stands here twice for an event.)
        let mut wanted: Vec<(WatcherId, usize)> = Vec::new();
        for (i, told) in told.iter().enumerate() {
            self.watched.each(&told.event.key, &mut |watcher| wanted.push((*watcher, i)));
        }
        wanted.sort_unstable();
        let mut encoded = Vec::new();
        for wanted in wanted.chunk_by(|a, b| a.0 == b.0) {
            let id = wanted[0].0;
            let state = self.streams.get_mut(&id.0).expect("a listed watcher has a stream");
            let has_room = state.has_room(&self.limits);
            let watcher = state.watchers.get_mut(&id.1).expect("a listed watcher exists");
            if main < watcher.next {
                continue;
            }
            if !has_room {
                watcher.is_synced = false;
                watcher.next = main;
                let range = watcher.range.clone();
                self.unlist(&range, id);
                self.catching_up.insert(id);
                continue;
            }
            if !planted!(CursorLeftBehind) {
                watcher.next = main + 1;
            }
            let indexes = wanted.iter().map(|(_, i)| *i);
            encode(watcher, &mut told, indexes, store, values, &mut encoded)?;
            self.send_events(id, &encoded, header);
        }
        Ok(())
    }

    /// Feeds watchers that are behind; a bounded amount of work. True when there is more to do at once.
    pub fn catch_up<V: Values>(
        &mut self,
        header: &Header,
        store: &Store,
        values: &V,
    ) -> Result<bool, Error>
    where
        V::Error: std::fmt::Display,
    {
        let (current, compacted) = (store.current(), store.compacted());
        let mut batch: Vec<WatcherId> = Vec::new();
        let mut from = i64::MAX;
        let mut doomed = Vec::new();
        for id in &self.catching_up {
            let state = &self.streams[&id.0];
            if !state.has_room(&self.limits) {
                continue;
            }
            let next = state.watchers[&id.1].next;
            if next < compacted && !planted!(CancelSkipped) {
                doomed.push(*id);
            } else if batch.len() < CATCH_UP_WATCHERS {
                from = from.min(next);
                batch.push(*id);
            }
        }
        for id in doomed {
            let state = self.streams.get_mut(&id.0).expect("checked above");
            if !state.has_room(&self.limits) {
                // Those told before it have filled its stream.
                continue;
            }
            self.catching_up.remove(&id);
            let watcher = state.watchers.get_mut(&id.1).expect("checked above");
            watcher.is_dead = true;
            let header = Header { revision: 0, ..*header };
            let response = respond(&header, id.1, |w| {
                w.bool(4, true);
                w.int(5, compacted);
            });
            self.send(id.0, response);
        }
        if batch.is_empty() {
            return Ok(false);
        }
        let (mut told, upto) = history(values, from, current, &self.limits)?;
        let mut encoded = Vec::new();
        for id in batch {
            let state = self.streams.get_mut(&id.0).expect("checked above");
            if !state.has_room(&self.limits) {
                continue;
            }
            let watcher = state.watchers.get_mut(&id.1).expect("checked above");
            if planted!(FutureLowered) {
                watcher.next = watcher.next.min(current + 1);
            }
            if watcher.next <= upto {
                let matching = |t: &Told| {
                    t.event.revision.main >= watcher.next && watcher.range.contains(&t.event.key)
                };
                let indexes: Vec<usize> = (0..told.len()).filter(|i| matching(&told[*i])).collect();
                // (Of one revision alone the mistake would make no progress, and fill the memory.)
                let overlaps = planted!(CatchUpOverlaps) && watcher.next < upto;
                watcher.next = upto + i64::from(!overlaps);
                encode(watcher, &mut told, indexes.into_iter(), store, values, &mut encoded)?;
                self.send_events(id, &encoded, header);
            }
            if upto >= current {
                let state = self.streams.get_mut(&id.0).expect("checked above");
                let watcher = state.watchers.get_mut(&id.1).expect("checked above");
                watcher.is_synced = true;
                let range = watcher.range.clone();
                self.catching_up.remove(&id);
                self.watched.insert(range, id);
            }
        }
        let room = |id: &WatcherId| self.streams[&id.0].has_room(&self.limits);
        Ok(self.catching_up.iter().any(room))
    }

    /// The state was replaced by a snapshot: what was synced must read history again.
    pub fn reset(&mut self) {
        for (stream, state) in &mut self.streams {
            for (id, watcher) in &mut state.watchers {
                if watcher.is_synced && !watcher.is_dead {
                    watcher.is_synced = false;
                    self.catching_up.insert((*stream, *id));
                }
            }
        }
        self.watched = Watched::default();
    }

    fn send_events(&mut self, id: WatcherId, events: &[Bytes], header: &Header) {
        if events.is_empty() {
            return;
        }
        self.event_count += events.len() as u64;
        let state = self.streams.get_mut(&id.0).expect("a watcher has a stream");
        let watcher = state.watchers.get_mut(&id.1).expect("a watcher that is fed exists");
        watcher.had_events = true;
        let fragment_bytes = if watcher.fragment { self.fragment_bytes } else { usize::MAX };
        let size = |events: &[Bytes]| events.iter().map(|e| e.len() + 6).sum::<usize>() + 48;
        let mut rest = events;
        loop {
            let mut take = rest.len();
            if rest.len() > 1 && size(rest) >= fragment_bytes {
                take = 1;
                while take < rest.len() && size(&rest[..=take]) < fragment_bytes {
                    take += 1;
                }
            }
            let (piece, left) = rest.split_at(take);
            let response = respond_with(size(piece), header, id.1, |w| {
                w.bool(7, !left.is_empty());
                for event in piece {
                    w.message(11, event);
                }
            });
            self.send(id.0, response);
            rest = left;
            if rest.is_empty() {
                return;
            }
        }
    }

    fn send(&mut self, stream: StreamId, response: Bytes) {
        if let Some(state) = self.streams.get_mut(&stream) {
            state.sent(response.len());
            self.out.push((stream, response));
        }
    }

    fn unlist(&mut self, range: &KeyRange, id: WatcherId) {
        self.catching_up.remove(&id);
        self.watched.remove(range, &id);
    }
}

/// A `WatchResponse`; `rest` writes the fields from 3 on.
fn respond(header: &Header, id: i64, rest: impl FnOnce(&mut Writer)) -> Bytes {
    respond_with(64, header, id, rest)
}

/// The same, of about `len` bytes.
fn respond_with(len: usize, header: &Header, id: i64, rest: impl FnOnce(&mut Writer)) -> Bytes {
    let mut w = Writer::with_capacity(len);
    w.header(header);
    w.int(2, id);
    rest(&mut w);
    w.finish()
}

/// The encoded events that this watcher wants out of `indexes`, in place of what is in `encoded`.
fn encode<V: Values>(
    watcher: &Watcher,
    told: &mut [Told],
    indexes: impl Iterator<Item = usize>,
    store: &Store,
    values: &V,
    encoded: &mut Vec<Bytes>,
) -> Result<(), Error>
where
    V::Error: std::fmt::Display,
{
    encoded.clear();
    for i in indexes {
        let told = &mut told[i];
        let is_unwanted = if told.event.tombstone { watcher.no_delete } else { watcher.no_put };
        if !is_unwanted {
            encoded.push(told.encoded(watcher.prev_kv, store, values)?);
        }
    }
    Ok(())
}
