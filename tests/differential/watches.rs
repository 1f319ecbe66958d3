//! The watch streams of one server, and what each of its watchers has received.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use norn_tests::Client;
use norn_tests::client::show_event;
use norn_tests::pb::watch_request::RequestUnion;
use norn_tests::pb::*;
use norn_tests::{WatchStream, req};
use tokio::sync::mpsc;

use crate::normal::Normal;

/// What has arrived, by watch id, in order. Answers that break a rule of the stream are noted under [`BROKEN`].
pub type Received = BTreeMap<i64, Vec<String>>;

const CANCELED: &str = "canceled";
pub const BROKEN: i64 = i64::MIN;

#[derive(Debug)]
pub struct Stream {
    requests: mpsc::Sender<RequestUnion>,
    pub received: Arc<Mutex<Received>>,
    created: mpsc::Receiver<WatchResponse>,
}

impl Stream {
    pub fn open(client: &Client) -> Self {
        let (requests, wanted) = mpsc::channel(64);
        let (created_to, created) = mpsc::channel(64);
        let received = Arc::new(Mutex::new(Received::new()));
        let collector = Collector {
            stream: client.open_watch(),
            received: Arc::clone(&received),
            created: created_to,
            last_event: BTreeMap::new(),
        };
        tokio::spawn(collector.run(wanted));
        Self { requests, received, created }
    }

    /// Creates a watcher and waits for the answer.
    pub async fn create(&mut self, request: WatchCreateRequest) -> String {
        self.send(RequestUnion::CreateRequest(request)).await;
        let wait = tokio::time::timeout(norn_tests::client::CALL_LIMIT, self.created.recv());
        match wait.await {
            Ok(Some(mut answer)) => {
                answer.header.normal();
                format!("{answer:?}")
            }
            Ok(None) => "the watch stream ended".to_owned(),
            Err(_) => "no answer to a watch create".to_owned(),
        }
    }

    pub async fn send(&self, request: RequestUnion) {
        // The collector ends with the stream; that it did shows in what was received.
        drop(self.requests.send(request).await);
    }

    /// Watchers that a compaction has canceled. Until the client cancels them, too, they hold back all progress of the
    /// stream.
    pub fn compacted(received: &Received) -> Vec<i64> {
        let last = |lines: &Vec<String>| {
            lines.last().is_some_and(|l| l.starts_with(CANCELED) && !l.contains("(0,"))
        };
        received.iter().filter(|(_, lines)| last(lines)).map(|(id, _)| *id).collect()
    }

    pub fn snapshot(&self) -> Received {
        self.received.lock().expect("no holder panics").clone()
    }
}

/// Owns the gRPC stream; sorts what arrives.
struct Collector {
    stream: WatchStream,
    received: Arc<Mutex<Received>>,
    created: mpsc::Sender<WatchResponse>,
    /// Revision of the last event of each watcher.
    last_event: BTreeMap<i64, i64>,
}

impl Collector {
    async fn run(mut self, mut wanted: mpsc::Receiver<RequestUnion>) {
        let step = std::time::Duration::from_secs(3600);
        loop {
            tokio::select! {
                request = wanted.recv() => match request {
                    Some(request) => self.stream.send(request).await,
                    None => return,
                },
                answer = self.stream.next_within(step) => match answer {
                    None => {}
                    Some(Ok(answer)) => self.take(answer).await,
                    Some(Err(status)) => {
                        self.note(BROKEN, format!("ended: {:?} {:?}", status.code(), status.message()));
                        return;
                    }
                },
            }
        }
    }

    async fn take(&mut self, answer: WatchResponse) {
        let id = answer.watch_id;
        let revision = answer.header.map_or(-1, |h| h.revision);
        if answer.created {
            self.last_event.remove(&id);
            self.note(id, "created".to_owned());
            if !answer.events.is_empty() {
                self.note(BROKEN, format!("a created answer with events: {answer:?}"));
            }
            drop(self.created.send(answer).await);
            return;
        }
        if answer.canceled {
            let reason = (answer.compact_revision, answer.cancel_reason);
            self.note(id, format!("{CANCELED} {reason:?} header {revision}"));
            return;
        }
        if answer.events.is_empty() {
            self.note(id, format!("progress {revision}"));
        }
        for (i, event) in answer.events.iter().enumerate() {
            let event_revision = event.kv.as_ref().map_or(0, |kv| kv.mod_revision);
            if i == 0 && self.last_event.get(&id) == Some(&event_revision) && !answer.fragment {
                self.note(
                    BROKEN,
                    format!("watch {id}: revision {event_revision} came in two answers"),
                );
            }
            if event_revision > revision {
                self.note(
                    BROKEN,
                    format!("watch {id}: header {revision} below event {event_revision}"),
                );
            }
            self.last_event.insert(id, event_revision);
            self.note(id, format!("{} {:?} prev {:?}", show_event(event), event.kv, event.prev_kv));
        }
    }

    fn note(&self, id: i64, line: String) {
        self.received.lock().expect("no holder panics").entry(id).or_default().push(line);
    }
}

/// Waits until every watcher of the server that was created before this call and has history to read has read it. A new watcher
/// with history on a stream of its own is caught up in the same or a later round, and only then is progress answered.
pub async fn catch_up(client: &Client, revision: i64) {
    let mut stream = client.open_watch();
    let create = WatchCreateRequest { start_revision: revision, ..req::watch("no such key") };
    stream.create(create).await;
    let limit = std::time::Duration::from_millis(20);
    for _ in 0..500 {
        stream.ask_progress().await;
        match stream.next_within(limit).await {
            Some(Ok(answer)) if answer.watch_id == -1 => return,
            _ => {}
        }
    }
    panic!("a watcher was never caught up");
}
