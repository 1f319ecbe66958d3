//! A watch cache: a list, then everything that happens, and readers who wait until it is new enough.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use norn_tests::mvccpb::event::EventType;
use norn_tests::mvccpb::{Event, KeyValue};
use norn_tests::pb::watch_request::RequestUnion;
use norn_tests::pb::{
    RangeRequest, WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse,
};
use norn_tests::req::{bytes, prefix, watch_prefix};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataValue;
use tonic::{Request, Status, Streaming};

use crate::endpoints::{Endpoint, Shared};

/// A page of a list, as client libraries ask for it.
const PAGE: i64 = 500;
/// A reader comes so often, and asks for progress again after so long.
const READER_EVERY: Duration = Duration::from_millis(250);
const ASK_AGAIN: Duration = Duration::from_millis(100);
/// Between two comparisons of the cache with lists.
const COMPARE_EVERY: Duration = Duration::from_secs(5);
/// A stream that does not even say that it began.
const OPEN_LIMIT: Duration = Duration::from_secs(5);
/// What a client is told of history that is gone; kube-apiserver looks for these words.
const COMPACTED: &str = "mvcc: required revision has been compacted";

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    Put(String),
    Delete,
}

pub struct Log {
    pub name: String,
    pub resource: &'static str,
    pub events: BTreeMap<(i64, String), Heard>,
    /// Revisions of which it heard by lists only.
    listed: Vec<RangeInclusive<i64>>,
    pub problems: Vec<String>,
    /// How long readers waited while nothing was broken.
    pub waits: Vec<Duration>,
    /// Streams that broke.
    pub breaks: usize,
    /// Lists that were compared with the cache.
    pub compared: usize,
}

impl Log {
    pub fn was_listed_over(&self, revision: i64) -> bool {
        self.listed.iter().any(|range| range.contains(&revision))
    }
}

struct Cacher {
    prefix: String,
    shared: Arc<Shared>,
    endpoint: Endpoint,
    cache: BTreeMap<String, KeyValue>,
    /// It has heard of everything up to here.
    revision: i64,
    /// So it was told.
    promised: i64,
    lists: usize,
    log: Log,
}

/// Why a watch ended.
enum End {
    /// All is written and heard of.
    Finished,
    Broken,
    Compacted,
}

struct Reader {
    wants: i64,
    since: Instant,
    asked: Instant,
    /// Number of faults when it came.
    faults: u64,
}

pub async fn run(apiserver: usize, resource: &'static str, shared: Arc<Shared>) -> Log {
    let mut cacher = Cacher::new(apiserver, resource, shared);
    while !cacher.list().await {
        cacher.endpoint.fail().await;
    }
    loop {
        match cacher.watch().await {
            End::Finished => {
                cacher.compare(cacher.revision).await;
                return cacher.log;
            }
            End::Broken => {
                cacher.log.breaks += 1;
                cacher.endpoint.fail().await;
            }
            End::Compacted => {
                while !cacher.list().await {
                    cacher.endpoint.fail().await;
                }
            }
        }
    }
}

impl Cacher {
    fn new(apiserver: usize, resource: &'static str, shared: Arc<Shared>) -> Cacher {
        Cacher {
            prefix: format!("/registry/{resource}/"),
            endpoint: Endpoint::new(&shared, apiserver + 1),
            shared,
            cache: BTreeMap::new(),
            revision: 0,
            promised: 0,
            lists: apiserver,
            log: Log {
                name: format!("cache {apiserver} of {resource}"),
                resource,
                events: BTreeMap::new(),
                listed: Vec::new(),
                problems: Vec::new(),
                waits: Vec::new(),
                breaks: 0,
                compared: 0,
            },
        }
    }

    /// Fills the cache anew, streamed or in pages. Whether that worked.
    async fn list(&mut self) -> bool {
        self.lists += 1;
        let found = match self.lists % 2 {
            0 => self.streamed(0).await,
            _ => self.pages(0).await,
        };
        let (revision, kvs) = match found {
            Ok(found) => found,
            Err(_) => return false,
        };
        if revision < self.revision {
            // (An older member would be refused by a client that knows more.)
            self.problem(format!("a list at {revision}, after {}", self.revision));
            return true;
        }
        self.log.listed.push(self.revision + 1..=revision);
        self.cache = kvs.into_iter().map(|kv| (text(&kv.key), kv)).collect();
        self.revision = revision;
        true
    }

    /// All pages at one revision: that of the first, or the one given.
    async fn pages(&mut self, revision: i64) -> Result<(i64, Vec<KeyValue>), Status> {
        let mut all = Vec::new();
        let mut request = RangeRequest { limit: PAGE, revision, ..prefix(&self.prefix) };
        let mut at = revision;
        loop {
            let answer = self.endpoint.client().range(request.clone()).await?;
            if at == 0 {
                at = answer.header.map_or(0, |header| header.revision);
            }
            let has_more = (answer.kvs.len() as i64) < answer.count;
            if has_more != answer.more {
                self.problem(format!(
                    "a page of {} of {} says more: {}",
                    answer.kvs.len(),
                    answer.count,
                    answer.more
                ));
            }
            all.extend(answer.kvs);
            let Some(last) = all.last().filter(|_| has_more) else { return Ok((at, all)) };
            request.key = bytes([&last.key[..], b"\0"].concat());
            request.revision = at;
        }
    }

    async fn streamed(&mut self, revision: i64) -> Result<(i64, Vec<KeyValue>), Status> {
        let request = RangeRequest { revision, ..prefix(&self.prefix) };
        let (chunks, status) = self.endpoint.client().range_stream(request).await;
        if let Some(status) = status {
            return Err(status);
        }
        let count = chunks.len();
        let mut all = Vec::new();
        let mut told = (0, 0);
        for (i, chunk) in chunks.into_iter().enumerate() {
            let Some(part) = chunk.range_response else { continue };
            if i + 1 == count {
                told = (part.header.map_or(0, |header| header.revision), part.count);
            } else if part.header.is_some() || part.count != 0 {
                self.problem("a header before the last chunk".to_owned());
            }
            all.extend(part.kvs);
        }
        if told.1 != all.len() as i64 {
            self.problem(format!("a stream of {} keys that says {}", all.len(), told.1));
        }
        // Pinned, the header is of the moment it began.
        Ok((if revision == 0 { told.0 } else { revision }, all))
    }

    /// Listens until something breaks, or all has been heard.
    async fn watch(&mut self) -> End {
        let (requests, receiver) = mpsc::channel(16);
        let create = WatchCreateRequest {
            start_revision: self.revision + 1,
            prev_kv: true,
            progress_notify: true,
            ..watch_prefix(&self.prefix)
        };
        let create = RequestUnion::CreateRequest(create);
        let _ = requests.send(WatchRequest { request_union: Some(create) }).await;
        let mut request = Request::new(ReceiverStream::new(receiver));
        request.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
        let mut watch = self.endpoint.client().watch;
        let opened = tokio::time::timeout(OPEN_LIMIT, watch.watch(request)).await;
        let Ok(Ok(opened)) = opened else { return End::Broken };
        self.follow(opened.into_inner(), &requests).await
    }

    async fn follow(
        &mut self,
        mut answers: Streaming<WatchResponse>,
        requests: &mpsc::Sender<WatchRequest>,
    ) -> End {
        let mut reader: Option<Reader> = None;
        let mut next_reader = Instant::now();
        let mut next_compare = Instant::now() + COMPARE_EVERY;
        loop {
            let wake = match &reader {
                Some(reader) => reader.asked + ASK_AGAIN,
                None => next_reader,
            };
            tokio::select! {
                answer = answers.message() => {
                    let Ok(Some(answer)) = answer else { return End::Broken };
                    if answer.canceled {
                        let is_compacted = answer.compact_revision > 0;
                        if is_compacted && answer.cancel_reason != COMPACTED {
                            self.problem(format!("compacted, but not in these words: {answer:?}"));
                        }
                        return if is_compacted { End::Compacted } else { End::Broken };
                    }
                    self.take(answer);
                }
                () = tokio::time::sleep_until(wake.into()) => match &mut reader {
                    Some(reader) => {
                        reader.asked = Instant::now();
                        if !ask(requests).await {
                            return End::Broken;
                        }
                    }
                    None => {
                        reader = self.reader().await;
                        if reader.is_none() || !ask(requests).await {
                            return End::Broken;
                        }
                    }
                },
            }
            if let Some(done) = reader.take_if(|reader| reader.wants <= self.revision) {
                let faults = self.shared.faults.load(Ordering::SeqCst);
                if faults == done.faults && faults.is_multiple_of(2) {
                    self.log.waits.push(done.since.elapsed());
                }
                next_reader = Instant::now() + READER_EVERY;
                let last = self.shared.last_revision.load(Ordering::SeqCst);
                if last != 0 && self.revision >= last {
                    return End::Finished;
                }
            }
            if next_compare < Instant::now() {
                self.compare(self.revision).await;
                next_compare = Instant::now() + COMPARE_EVERY;
            }
        }
    }

    /// Somebody wants to read what is newest: as kube-apiserver, it asks for the revision first.
    async fn reader(&self) -> Option<Reader> {
        let request = RangeRequest { limit: 1, ..norn_tests::req::get(&self.prefix) };
        let answer = self.endpoint.client().range(request).await.ok()?;
        let now = Instant::now();
        let faults = self.shared.faults.load(Ordering::SeqCst);
        let wants = answer.header?.revision;
        Some(Reader { wants, since: now, asked: now, faults })
    }

    fn take(&mut self, answer: WatchResponse) {
        let header = answer.header.map_or(0, |header| header.revision);
        // (What it is told of the beginning may come from a member that lags behind.)
        let is_progress = answer.events.is_empty() && !answer.created;
        for event in answer.events {
            self.event(event);
        }
        if !answer.created && header < self.revision {
            self.problem(format!("an answer at {header}, after {}", self.revision));
        }
        // Of events the header is no promise that there are no more.
        if is_progress {
            self.promised = header;
            self.revision = self.revision.max(header);
        }
    }

    fn event(&mut self, event: Event) {
        let is_put = event.r#type() == EventType::Put;
        let Some(kv) = event.kv else { return self.problem("an event of nothing".to_owned()) };
        let (key, revision) = (text(&kv.key), kv.mod_revision);
        let before = self.cache.get(&key);
        if is_put && kv.create_revision == kv.mod_revision {
            if before.is_some() || event.prev_kv.is_some() {
                let text = format!("{key} was created at {revision}, and was there: {before:?}");
                self.problem(text);
            }
        } else if event.prev_kv.as_ref() != before {
            let text = format!("{key} at {revision}: {:?} before, not {before:?}", event.prev_kv);
            self.problem(text);
        }
        let heard = if is_put { Heard::Put(text(&kv.value)) } else { Heard::Delete };
        if revision <= self.promised {
            self.problem(format!("{key} at {revision}, after progress of {}", self.promised));
        }
        if self.log.events.range((revision + 1, String::new())..).next().is_some() {
            self.problem(format!("{key} at {revision}, after a later one"));
        }
        if self.log.was_listed_over(revision) {
            self.problem(format!("{key} at {revision} was known by the list already"));
        }
        if self.log.events.insert((revision, key.clone()), heard).is_some() {
            self.problem(format!("{key} at {revision} came twice"));
        }
        match is_put {
            true => self.cache.insert(key, kv),
            false => self.cache.remove(&key),
        };
        self.revision = self.revision.max(revision);
    }

    /// The consistency checker: what the store says of a revision, in pages and streamed, is what was in the cache.
    async fn compare(&mut self, revision: i64) {
        let cached: Vec<KeyValue> = self.cache.values().cloned().collect();
        for found in [self.pages(revision).await, self.streamed(revision).await] {
            match found {
                Ok((_, kvs)) if kvs == cached => self.log.compared += 1,
                Ok((_, kvs)) => {
                    let other = kvs.iter().find(|kv| !cached.contains(kv));
                    let missing = cached.iter().find(|kv| !kvs.contains(kv));
                    let text = format!(
                        "at {revision} the store has {} keys, the cache {}: {other:?} {missing:?}",
                        kvs.len(),
                        cached.len()
                    );
                    self.problem(text);
                }
                // (A member that fails, or a compaction.)
                Err(_) => {}
            }
        }
    }

    fn problem(&mut self, text: String) {
        // (One mistake shows in everything that follows.)
        if self.log.problems.len() < 5 {
            self.log.problems.push(text.chars().take(600).collect());
        }
    }
}

async fn ask(requests: &mpsc::Sender<WatchRequest>) -> bool {
    let ask = RequestUnion::ProgressRequest(WatchProgressRequest {});
    requests.send(WatchRequest { request_union: Some(ask) }).await.is_ok()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use norn_tests::pb::ResponseHeader;

    use super::*;
    use crate::truth::{Change, Truth, Written};

    fn key_value(key: &str, value: &str, created: i64, revision: i64) -> KeyValue {
        KeyValue {
            key: bytes(key),
            value: bytes(value),
            create_revision: created,
            mod_revision: revision,
            ..KeyValue::default()
        }
    }

    fn put(kv: KeyValue, prev_kv: Option<KeyValue>) -> Event {
        Event { r#type: EventType::Put.into(), kv: Some(kv), prev_kv }
    }

    fn answer(revision: i64, events: Vec<Event>) -> WatchResponse {
        let header = Some(ResponseHeader { revision, ..ResponseHeader::default() });
        WatchResponse { header, events, ..WatchResponse::default() }
    }

    /// What a cache says of these answers.
    async fn heard(answers: Vec<WatchResponse>) -> Log {
        let shared = Shared::new(vec!["http://127.0.0.1:1".to_owned()]);
        let mut cacher = Cacher::new(0, "pods", Arc::new(shared));
        answers.into_iter().for_each(|answer| cacher.take(answer));
        cacher.log
    }

    fn first() -> KeyValue {
        key_value("a", "1", 2, 2)
    }

    #[tokio::test]
    async fn a_good_history_is_no_problem() {
        let second = key_value("a", "2", 2, 3);
        let gone = Event {
            r#type: EventType::Delete.into(),
            kv: Some(key_value("a", "", 0, 4)),
            prev_kv: Some(second.clone()),
        };
        let log = heard(vec![
            answer(2, vec![put(first(), None)]),
            answer(4, vec![put(second, Some(first())), gone]),
            answer(4, vec![]),
        ])
        .await;
        assert_eq!(log.problems, Vec::<String>::new());
    }

    #[tokio::test]
    async fn what_breaks_an_apiserver_is_a_problem() {
        let begin = || answer(2, vec![put(first(), None)]);
        let second = || key_value("a", "2", 2, 3);
        for (what, bad) in [
            ("no previous value", answer(3, vec![put(second(), None)])),
            ("twice", begin()),
            ("a wrong previous value", answer(3, vec![put(second(), Some(second()))])),
            ("a create of what is there", answer(3, vec![put(key_value("a", "2", 3, 3), None)])),
            ("late", answer(2, vec![put(key_value("b", "1", 1, 1), None)])),
        ] {
            assert!(!heard(vec![begin(), bad]).await.problems.is_empty(), "{what}");
        }
        let late = answer(5, vec![put(second(), Some(first()))]);
        let log = heard(vec![begin(), answer(4, vec![]), late]).await;
        assert!(!log.problems.is_empty(), "after the progress that it belonged before");
    }

    #[tokio::test]
    async fn a_write_that_nobody_heard_of_is_a_problem() {
        let problems = |log: Log, revision: i64, change: Change| {
            let mut written = Written::new("pods");
            written.done(revision, "a", change);
            let mut truth = Truth::default();
            truth.take(written);
            let mut problems = Vec::new();
            truth.check(&[log], &mut problems);
            problems.len()
        };
        let begin = || heard(vec![answer(2, vec![put(first(), None)])]);
        assert_eq!(problems(begin().await, 2, Change::Put("1".to_owned())), 0);
        assert_ne!(problems(begin().await, 2, Change::Put("2".to_owned())), 0);
        assert_ne!(problems(begin().await, 3, Change::Put("1".to_owned())), 0);
        assert_ne!(problems(begin().await, 2, Change::Delete), 0);
    }
}
