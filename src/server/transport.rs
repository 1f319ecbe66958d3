//! Sending to other members, as etcd's rafthttp does: each member opens two streams to every other one and reads raft
//! messages from them; what has no stream yet goes as single posts; snapshots go as posts with a database behind.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;
use http_body_util::{BodyExt, Full};
use norn_node::{Input, Member, SERVER_VERSION, parse_version};
use norn_planted::planted;
use norn_raft::{Message, MessageKind, NodeId, codec};
use norn_storage::{DiskRead, FileName};

use crate::body::{Body, Part};
use crate::client;
use crate::core::Core;
use crate::log::Value;
use crate::metrics::NetworkMetrics;
use crate::peer_codec::{Decoder, Encoder, Pieces, StreamKind};
use crate::runtime::sync::mpsc;
use crate::runtime::task::JoinHandle;
use crate::runtime::time::Instant;
use crate::runtime::{self, task, time};

/// Pieces (one per turn and stream, more only of many entries) that wait for a connection. Beyond it messages are dropped: raft repairs that.
pub const QUEUE_MAX: usize = 4096;
/// Posts on their way to one member.
const POSTS_MAX: usize = 64;
/// Senders that are remembered although they are no members yet: more join at once nowhere.
const STRANGERS_MAX: usize = 16;
/// A stream that is silent this long is dead.
const READ_TIMEOUT: Duration = Duration::from_secs(5);
/// Three keep-alives in a read timeout.
const KEEP_ALIVE_EVERY: Duration = Duration::from_millis(1_667);
/// Between two tries to open a stream.
const REDIAL_AFTER: Duration = Duration::from_millis(100);
const VERSIONS_EVERY: Duration = Duration::from_secs(4);
/// A second less than a silent stream may live, as in etcd.
const PROBE_EVERY: Duration = Duration::from_secs(4);
/// A snapshot is read and sent in pieces of this size.
const SNAPSHOT_PIECE: usize = 256 << 10;
/// Between two of them: 200 MB/s at most, a small share of what the thread that serves clients can do.
const SNAPSHOT_PAUSE: Duration = Duration::from_millis(1);
/// A snapshot of which nothing more is taken, and which nobody answers, is given up after this long: the machine that it
/// goes to may have lost its power, and then says nothing for ever.
const SNAPSHOT_STALL: Duration = Duration::from_secs(20);
/// The oldest cluster that may talk to us.
const MIN_CLUSTER_VERSION: &str = "3.0.0";

/// A stream that another member opened and reads from.
struct Writer {
    parts: mpsc::Sender<Part>,
    encoder: Encoder,
}

struct Peer {
    urls: Vec<String>,
    writers: BTreeMap<StreamKind, Writer>,
    /// What reads its streams, and what asks whether it is there.
    readers: Vec<JoinHandle<()>>,
    /// Streams that we read from now.
    live_streams: Rc<Cell<usize>>,
    posts: Rc<Cell<usize>>,
}

impl Drop for Peer {
    fn drop(&mut self) {
        for reader in &self.readers {
            reader.abort();
        }
    }
}

pub struct Transport {
    pub metrics: NetworkMetrics,
    id: Cell<u64>,
    cluster_id: Cell<u64>,
    /// Ours, told to others so that they can reach us.
    urls: Vec<String>,
    peers: RefCell<BTreeMap<u64, Peer>>,
    /// Members of the cluster being joined, until the log tells who they are.
    remotes: RefCell<BTreeMap<u64, Vec<String>>>,
    removed: RefCell<BTreeSet<u64>>,
    /// Who asked something of this member, belongs to the cluster and is not known to it yet: it was down when they joined.
    /// One of them may lead, and has to be answered, or this member would never learn of them.
    strangers: RefCell<BTreeMap<u64, Stranger>>,
}

struct Stranger {
    urls: Vec<String>,
    posts: Rc<Cell<usize>>,
}

impl Transport {
    pub fn new(urls: Vec<String>) -> Rc<Transport> {
        Rc::new(Transport {
            metrics: NetworkMetrics::default(),
            id: Cell::new(0),
            cluster_id: Cell::new(0),
            urls,
            peers: RefCell::default(),
            remotes: RefCell::default(),
            removed: RefCell::default(),
            strangers: RefCell::default(),
        })
    }

    pub fn set_identity(&self, id: u64, cluster_id: u64, remotes: &[Member]) {
        self.id.set(id);
        self.cluster_id.set(cluster_id);
        let others = remotes.iter().filter(|m| m.id != id);
        self.remotes.borrow_mut().extend(others.map(|m| (m.id, m.peer_urls.clone())));
    }

    pub fn id(&self) -> u64 {
        self.id.get()
    }

    pub fn cluster_id(&self) -> u64 {
        self.cluster_id.get()
    }

    pub fn is_removed(&self, id: u64) -> bool {
        self.removed.borrow().contains(&id)
    }

    pub fn knows(&self, id: u64) -> bool {
        self.peers.borrow().contains_key(&id)
    }

    pub fn set_members(self: &Rc<Self>, core: &Rc<Core>, members: Vec<Member>, removed: Vec<u64>) {
        self.removed.borrow_mut().extend(removed);
        let mut wanted: BTreeMap<u64, Vec<String>> = self.remotes.borrow().clone();
        wanted.extend(members.into_iter().map(|m| (m.id, m.peer_urls)));
        wanted.retain(|id, _| *id != self.id() && !self.is_removed(*id));
        let mut peers = self.peers.borrow_mut();
        self.strangers
            .borrow_mut()
            .retain(|id, _| !wanted.contains_key(id) && !self.is_removed(*id));
        peers.retain(|id, peer| wanted.get(id) == Some(&peer.urls));
        for (id, urls) in wanted {
            if peers.contains_key(&id) {
                continue;
            }
            let live_streams = Rc::new(Cell::new(0));
            let readers = [StreamKind::MsgApp, StreamKind::Message].map(|kind| {
                let reader = Reader {
                    transport: Rc::clone(self),
                    core: Rc::clone(core),
                    peer: id,
                    urls: urls.clone(),
                    kind,
                    live_streams: Rc::clone(&live_streams),
                };
                task::spawn_local(reader.run())
            });
            let posts = Rc::default();
            let prober = Rc::clone(self).probe(id, urls.clone());
            let readers: Vec<_> = readers.into_iter().chain([task::spawn_local(prober)]).collect();
            let writers = BTreeMap::new();
            peers.insert(id, Peer { urls, writers, readers, live_streams, posts });
        }
    }

    /// The sender of a request says who it is, and where it is found.
    pub fn meet(&self, from: u64, urls: &str) {
        let is_known = self.peers.borrow().contains_key(&from) || from == self.id();
        let mut strangers = self.strangers.borrow_mut();
        if is_known || self.is_removed(from) || strangers.len() >= STRANGERS_MAX {
            return;
        }
        let urls = urls.split(',').map(str::to_owned).collect();
        strangers.entry(from).or_insert_with(|| Stranger { urls, posts: Rc::default() });
    }

    /// Another member opened a stream and will read from it.
    pub fn attach(&self, peer: u64, kind: StreamKind) -> Option<mpsc::Receiver<Part>> {
        let mut peers = self.peers.borrow_mut();
        let peer = peers.get_mut(&peer)?;
        let (parts, receiver) = mpsc::channel(QUEUE_MAX);
        let mut encoder = Encoder::new(kind);
        if planted!(StreamGoesOn)
            && let Some(before) = peer.writers.remove(&kind)
        {
            encoder = before.encoder;
        }
        peer.writers.insert(kind, Writer { parts, encoder });
        Some(receiver)
    }

    /// Sends the messages of one turn.
    pub fn send(self: &Rc<Self>, core: &Rc<Core>, messages: Vec<Message>) {
        let mut pieces: BTreeMap<(u64, StreamKind), Pieces> = BTreeMap::new();
        let mut peers = self.peers.borrow_mut();
        for message in messages {
            let to = message.to.0;
            let Some(peer) = peers.get_mut(&to) else {
                if let Some(stranger) = self.strangers.borrow().get(&to) {
                    self.post(core, &stranger.urls, &stranger.posts, message);
                }
                continue;
            };
            let is_append = message.kind == MessageKind::App;
            let kind = match is_append && peer.writers.contains_key(&StreamKind::MsgApp) {
                true => StreamKind::MsgApp,
                false => StreamKind::Message,
            };
            match peer.writers.get_mut(&kind) {
                Some(writer) => {
                    writer.encoder.encode(&message, pieces.entry((to, kind)).or_default());
                }
                None => self.post(core, &peer.urls, &peer.posts, message),
            }
        }
        for ((to, kind), pieces) in pieces {
            let Some(peer) = peers.get_mut(&to) else { continue };
            let Some(writer) = peer.writers.get_mut(&kind) else { continue };
            let pieces = pieces.into_whole();
            let len = pieces.iter().map(Bytes::len).sum();
            let mut pieces = pieces.into_iter();
            if pieces.all(|piece| writer.parts.try_send(Part::Raw(piece)).is_ok()) {
                self.metrics.sent(to, len);
            } else {
                // Full or closed: what the other side knows of the encoder's position is lost with it.
                peer.writers.remove(&kind);
                self.metrics.send_failed(to);
                core.input(Input::Unreachable { id: to });
            }
        }
    }

    fn post(
        self: &Rc<Self>,
        core: &Rc<Core>,
        urls: &[String],
        posts: &Rc<Cell<usize>>,
        message: Message,
    ) {
        if posts.get() >= POSTS_MAX {
            self.metrics.send_failed(message.to.0);
            return core.input(Input::Unreachable { id: message.to.0 });
        }
        let posts = Rc::clone(posts);
        posts.set(posts.get() + 1);
        let (transport, core, urls) = (Rc::clone(self), Rc::clone(core), urls.to_vec());
        task::spawn_local(async move {
            let mut body = Vec::new();
            codec::encode_message_into(&message, &mut body);
            let len = body.len();
            let is_sent = transport.try_post(&urls, body.into()).await;
            posts.set(posts.get() - 1);
            if is_sent {
                transport.metrics.sent(message.to.0, len);
            } else {
                transport.metrics.send_failed(message.to.0);
                core.input(Input::Unreachable { id: message.to.0 });
            }
        });
    }

    async fn try_post(&self, urls: &[String], body: Bytes) -> bool {
        for url in urls {
            let sent = async {
                let mut sender = client::connect(url).await?;
                let request = self
                    .sign(client::request("POST", url, "/raft"))
                    .header("Content-Type", "application/protobuf")
                    .body(Full::new(body.clone()))?;
                let response = sender.send_request(request).await?;
                Ok::<_, client::Failure>(response.status().as_u16())
            };
            if let Ok(Ok(204)) = time::timeout(READ_TIMEOUT, sent).await {
                return true;
            }
        }
        false
    }

    /// The headers that every request between members carries.
    fn sign(&self, request: http::request::Builder) -> http::request::Builder {
        request
            .header("X-Server-From", format!("{:x}", self.id()))
            .header("X-Server-Version", SERVER_VERSION)
            .header("X-Min-Cluster-Version", MIN_CLUSTER_VERSION)
            .header("X-Etcd-Cluster-ID", format!("{:x}", self.cluster_id()))
            .header("X-PeerURLs", self.urls.join(","))
    }

    pub fn send_snapshot(self: &Rc<Self>, core: &Rc<Core>, message: Message, file: FileName) {
        let to = message.to.0;
        let urls = self.peers.borrow().get(&to).map(|peer| peer.urls.clone()).unwrap_or_default();
        let (transport, core) = (Rc::clone(self), Rc::clone(core));
        task::spawn_local(async move {
            let len = core.reader().len(&file).ok().flatten().unwrap_or(0);
            let fields = [
                ("snapshot-index", Value::Number(snapshot_index(&message).cast_signed())),
                ("remote-peer-id", Value::Text(&format!("{to:x}"))),
                ("bytes", Value::Number(len.cast_signed())),
            ];
            core.log.info("sending database snapshot", &fields);
            transport.metrics.snapshot_begins(to);
            let began = Instant::now();
            let mut ok = false;
            for url in &urls {
                if transport.try_snapshot(&core, url, &message, &file).await.is_ok() {
                    ok = true;
                    core.log.info("sent database snapshot", &fields);
                    break;
                }
            }
            if !ok {
                core.log.warn("failed to send database snapshot", &fields);
            }
            transport.metrics.snapshot_sent(to, began.elapsed(), ok);
            match ok {
                true => transport.metrics.sent(to, usize::try_from(len).unwrap_or(usize::MAX)),
                false => transport.metrics.send_failed(to),
            }
            core.input(Input::SnapshotSent { to, ok });
            core.input(Input::ExportDone { file });
        });
    }

    async fn try_snapshot(
        &self,
        core: &Rc<Core>,
        url: &str,
        message: &Message,
        file: &FileName,
    ) -> Result<(), client::Failure> {
        let (parts, body) = mpsc::channel(4);
        let mut sender = client::connect::<Body>(url).await?;
        let mut head = Vec::new();
        codec::encode_message_into(message, &mut head);
        let mut first = (head.len() as u64).to_be_bytes().to_vec();
        first.extend_from_slice(&head);
        let reader = core.reader();
        // (With its length told, half of it is never taken for the whole.)
        let len = first.len() as u64 + reader.len(file)?.unwrap_or(0);
        let request = self
            .sign(client::request("POST", url, "/raft/snapshot"))
            .header("Content-Type", "application/octet-stream")
            .header("Content-Length", len)
            .body(Body::Stream(body))?;
        let taken = Rc::new(Cell::new(0));
        let count = Rc::clone(&taken);
        let file = file.clone();
        let feed = task::spawn_local(async move {
            if parts.send(Part::Raw(first.into())).await.is_err() {
                return;
            }
            let mut at = 0;
            while let Ok(piece) = reader.read_at(&file, at, SNAPSHOT_PIECE) {
                at += piece.len() as u64;
                if piece.is_empty() || parts.send(Part::Raw(piece)).await.is_err() {
                    return;
                }
                count.set(at);
                time::sleep(SNAPSHOT_PAUSE).await;
            }
        });
        let stalled = async {
            let mut before = None;
            while before != Some(taken.get()) {
                before = Some(taken.get());
                time::sleep(SNAPSHOT_STALL).await;
            }
        };
        let response = runtime::select! {
            response = sender.send_request(request) => response,
            () = stalled => {
                feed.abort();
                return Err("no progress".into());
            }
        };
        feed.abort();
        match response?.status().as_u16() {
            204 => Ok(()),
            status => Err(format!("status {status}").into()),
        }
    }

    /// Keeps idle streams alive.
    pub async fn keep_alive(self: Rc<Self>) {
        loop {
            time::sleep(KEEP_ALIVE_EVERY).await;
            for peer in self.peers.borrow_mut().values_mut() {
                peer.writers.retain(|kind, writer| {
                    writer.parts.try_send(Part::Raw(kind.keep_alive())).is_ok()
                });
            }
        }
    }

    /// Asks a member again and again whether it is there, for how long that takes.
    async fn probe(self: Rc<Self>, peer: u64, urls: Vec<String>) {
        for url in urls.iter().cycle() {
            time::sleep(PROBE_EVERY).await;
            let began = Instant::now();
            if let Ok((200, _)) = client::get(url, "/raft/probing").await {
                self.metrics.answered(peer, began.elapsed());
            }
        }
    }

    /// Asks the others for their versions: the leader decides the cluster's by them.
    pub async fn watch_versions(self: Rc<Self>, core: Rc<Core>) {
        loop {
            let peers: Vec<(u64, Vec<String>)> =
                self.peers.borrow().iter().map(|(id, peer)| (*id, peer.urls.clone())).collect();
            for (id, urls) in peers {
                let mut version = None;
                for url in urls {
                    if let Ok((200, body)) = client::get(&url, "/version").await {
                        version = server_version(&body);
                        break;
                    }
                }
                core.input(Input::PeerVersion { id, version });
            }
            let pause = if core.with_node(|node| node.cluster_version().is_none()) {
                REDIAL_AFTER
            } else {
                VERSIONS_EVERY
            };
            time::sleep(pause).await;
        }
    }

    pub fn active_peers(&self) -> usize {
        self.peers.borrow().values().filter(|peer| peer.live_streams.get() > 0).count()
    }
}

pub fn snapshot_index(message: &Message) -> u64 {
    message.snapshot.as_ref().map_or(0, |snapshot| snapshot.index.0)
}

pub fn server_version(body: &[u8]) -> Option<(u64, u64)> {
    let json: serde_json::Value = serde_json::from_slice(body).ok()?;
    parse_version(json.get("etcdserver")?.as_str()?)
}

/// Opens one kind of stream to one member, and again whenever it breaks.
struct Reader {
    transport: Rc<Transport>,
    core: Rc<Core>,
    peer: u64,
    urls: Vec<String>,
    kind: StreamKind,
    live_streams: Rc<Cell<usize>>,
}

impl Reader {
    async fn run(self) {
        let mut turn = 0;
        loop {
            if let Some(url) = self.urls.get(turn % self.urls.len().max(1)) {
                // (Broken streams are normal: the other side restarts.)
                let _ = self.read_from(url).await;
            }
            turn += 1;
            time::sleep(REDIAL_AFTER).await;
        }
    }

    async fn read_from(&self, url: &str) -> Result<(), client::Failure> {
        let mut sender = client::connect::<Full<Bytes>>(url).await?;
        let path = format!("/raft/stream/{}/{:x}", self.kind.path(), self.transport.id());
        let request = self
            .transport
            .sign(client::request("GET", url, &path))
            .header("X-Raft-To", format!("{:x}", self.peer))
            .body(Full::default())?;
        let asked = time::timeout(READ_TIMEOUT, sender.send_request(request)).await?;
        let response = asked?;
        match response.status().as_u16() {
            200 => {}
            410 => {
                self.core.removed();
                return Err("removed member".into());
            }
            status => return Err(format!("status {status}").into()),
        }
        let version = response.headers().get("X-Server-Version").and_then(|v| v.to_str().ok());
        if version.and_then(parse_version).is_none() {
            return Err("no version".into());
        }
        let live = Live::new(self);
        let mut decoder = Decoder::new(self.kind, self.peer, self.transport.id());
        let mut body = response.into_body();
        loop {
            let frame = time::timeout(READ_TIMEOUT, body.frame()).await?;
            let Some(frame) = frame else { return Ok(()) };
            let Ok(data) = frame?.into_data() else { continue };
            decoder.push(&data);
            self.transport.metrics.received(self.peer, data.len());
            while let Some(message) = decoder.next_message().map_err(|bad| {
                self.transport.metrics.receive_failed(self.peer);
                bad.0
            })? {
                // A stream speaks for one member only, and to this one.
                if message.from == NodeId(self.peer)
                    || message.kind == MessageKind::Prop
                    || message.kind == MessageKind::ReadIndex
                {
                    live.reader.core.input(Input::Peer(message));
                }
            }
        }
    }
}

/// Counts a stream for as long as it is read.
struct Live<'a> {
    reader: &'a Reader,
}

impl<'a> Live<'a> {
    fn new(reader: &'a Reader) -> Live<'a> {
        let count = reader.live_streams.get();
        reader.live_streams.set(count + 1);
        if count == 0 {
            let id = reader.peer;
            reader.transport.metrics.active(id, true);
            reader.core.input(Input::PeerActive { id, active: true });
            let text = format!("{id:x}");
            reader.core.log.info("peer became active", &[("peer-id", Value::Text(&text))]);
        }
        Live { reader }
    }
}

impl Drop for Live<'_> {
    fn drop(&mut self) {
        let count = self.reader.live_streams.get() - 1;
        self.reader.live_streams.set(count);
        if count == 0 {
            let id = self.reader.peer;
            self.reader.transport.metrics.active(id, false);
            self.reader.core.input(Input::PeerActive { id, active: false });
            let text = format!("{id:x}");
            self.reader.core.log.warn(
                "peer became inactive (message send to peer failed)",
                &[("peer-id", Value::Text(&text))],
            );
        }
    }
}

pub fn hex_header(id: u64) -> HeaderValue {
    HeaderValue::from_str(&format!("{id:x}")).expect("hex digits are a header value")
}
