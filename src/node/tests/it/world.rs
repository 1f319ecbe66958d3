//! A few nodes, their disks, and a network that is a queue. Everything happens when the test says so.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use norn_node::{
    Config, Error, Host, Input, Member, Method, Node, NodeEvent, Ports, Start, StreamId, Time,
    Token,
};
use norn_proto::etcdserverpb as pb;
use norn_raft::Message;
use norn_storage::{DiskRead, FileName, MemDisk};
use prost::Message as _;

pub struct World {
    pub now: Time,
    pub nodes: BTreeMap<u64, Running>,
    pub disks: BTreeMap<u64, MemDisk>,
    pub configs: BTreeMap<u64, Config>,
    /// Pairs (from, to) between which nothing gets through.
    pub cut: BTreeSet<(u64, u64)>,
    /// Payload bytes that one turn sent from a member to another, the most of all turns.
    pub most_at_once: BTreeMap<(u64, u64), usize>,
    network: VecDeque<Message>,
    next_token: u64,
}

pub struct Running {
    pub host: Host<MemDisk, MemDisk>,
    pub seen: Seen,
}

/// What came out of a node.
#[derive(Default)]
pub struct Seen {
    sent: Vec<Message>,
    pub replies: BTreeMap<Token, Result<Bytes, Error>>,
    pub watch: Vec<(StreamId, pb::WatchResponse)>,
    pub events: Vec<NodeEvent>,
    /// Why it stopped, where a test wants it to.
    pub failed: Option<String>,
    pub may_fail: bool,
}

impl Ports for Seen {
    fn send(&mut self, messages: Vec<Message>) {
        self.sent.extend(messages);
    }

    fn reply(&mut self, token: Token, result: Result<Bytes, Error>) {
        assert!(self.replies.insert(token, result).is_none(), "{token:?} was answered twice");
    }

    fn watch(&mut self, stream: StreamId, response: Bytes) {
        self.watch.push((stream, pb::WatchResponse::decode(response).unwrap()));
    }

    fn event(&mut self, event: NodeEvent) {
        if let NodeEvent::Failed { reason } = &event {
            assert!(self.may_fail, "node failed: {reason}");
            self.failed = Some(reason.clone());
        }
        self.events.push(event);
    }
}

impl World {
    /// A cluster of `count` founding members, running.
    pub fn new(count: u64, tune: impl Fn(&mut Config)) -> World {
        let members: Vec<Member> = (1..=count)
            .map(|i| Member::new(&format!("n{i}"), vec![format!("http://n{i}:2380")], "t", None))
            .collect();
        let mut world = World {
            now: Time::from_ms(1),
            nodes: BTreeMap::new(),
            disks: BTreeMap::new(),
            configs: BTreeMap::new(),
            cut: BTreeSet::new(),
            most_at_once: BTreeMap::new(),
            network: VecDeque::new(),
            next_token: 0,
        };
        for member in &members {
            let mut config = Config::new(&member.name, &member.peer_urls[0]);
            config.start = Start::New { members: members.clone(), token: "t".into() };
            config.seed = member.id;
            config.unix_ms_at_zero = 1_700_000_000_000;
            tune(&mut config);
            world.add(member.id, config);
        }
        world
    }

    pub fn add(&mut self, id: u64, config: Config) {
        self.disks.insert(id, MemDisk::new());
        self.configs.insert(id, config);
        self.start(id);
    }

    pub fn start(&mut self, id: u64) {
        let mut disk = self.disks[&id].clone();
        let config = self.configs.get_mut(&id).unwrap();
        config.seed += 1 << 32;
        let config = config.clone();
        let node = Node::open(&mut disk, self.disks[&id].clone(), config, self.now).unwrap();
        assert_eq!(node.id(), id);
        let running = Running { host: Host::new(node, disk), seen: Seen::default() };
        self.nodes.insert(id, running);
    }

    /// Power off: what was not synced is up to the seed.
    pub fn crash(&mut self, id: u64, seed: u64) {
        self.nodes.remove(&id);
        self.disks.get_mut(&id).unwrap().crash(seed);
    }

    pub fn node(&self, id: u64) -> &Node<MemDisk> {
        self.nodes[&id].host.node()
    }

    pub fn input(&mut self, id: u64, input: Input) {
        let running = self.nodes.get_mut(&id).unwrap();
        running.host.turn(self.now, [input], &mut running.seen);
        self.collect(id);
    }

    fn collect(&mut self, id: u64) {
        let seen = &mut self.nodes.get_mut(&id).unwrap().seen;
        let mut sent: BTreeMap<_, usize> = BTreeMap::new();
        for message in &seen.sent {
            let bytes: usize = message.entries.iter().map(|entry| entry.data.len()).sum();
            *sent.entry((id, message.to.0)).or_default() += bytes;
        }
        for (pair, bytes) in sent {
            let most = self.most_at_once.entry(pair).or_default();
            *most = bytes.max(*most);
        }
        self.network.extend(seen.sent.drain(..));
        let snapshots: Vec<(Message, FileName)> = seen
            .events
            .extract_if(.., |e| matches!(e, NodeEvent::SendSnapshot { .. }))
            .map(|event| match event {
                NodeEvent::SendSnapshot { message, file } => (message, file),
                _ => unreachable!(),
            })
            .collect();
        for (message, file) in snapshots {
            self.carry_snapshot(id, message, file);
        }
    }

    fn carry_snapshot(&mut self, from: u64, message: Message, file: FileName) {
        let to = message.to.0;
        let index = message.snapshot.as_ref().unwrap().index;
        let body = self.disks[&from].read_at(&file, 0, usize::MAX).unwrap();
        let ok = self.nodes.contains_key(&to) && !self.cut.contains(&(from, to));
        if ok {
            use norn_storage::{Disk, DiskOp};
            let file = FileName::new(format!("member/snap/{:016x}.snap.db", index.0));
            let mut disk = self.disks[&to].clone();
            for op in [
                DiskOp::Create { file: file.clone() },
                DiskOp::Write { file: file.clone(), offset: 0, data: body },
                DiskOp::Sync { file: file.clone() },
                DiskOp::SyncDir { dir: FileName::new("member/snap") },
            ] {
                disk.execute(&op).unwrap();
            }
            self.input(to, Input::SnapshotReceived { message, file });
        }
        self.input(from, Input::ExportDone { file });
        self.input(from, Input::SnapshotSent { to, ok });
    }

    /// Delivers messages until there are none.
    pub fn settle(&mut self) {
        while self.deliver() {}
    }

    /// Delivers one message, or loses it; `false` if there is none.
    pub fn deliver(&mut self) -> bool {
        let Some(message) = self.network.pop_front() else { return false };
        let (from, to) = (message.from.0, message.to.0);
        if self.nodes.contains_key(&to) && !self.cut.contains(&(from, to)) {
            self.input(to, Input::Peer(message));
        }
        true
    }

    /// Lets time pass in steps of ten milliseconds.
    pub fn run(&mut self, ms: u64) {
        let until = self.now + ms;
        while self.now < until {
            self.now = self.now + 10;
            let ids: Vec<u64> = self.nodes.keys().copied().collect();
            for id in ids {
                self.input(id, Input::Wake);
            }
            self.settle();
        }
    }

    /// Runs until `done`, for at most a minute.
    pub fn run_until(&mut self, what: &str, done: impl Fn(&World) -> bool) {
        for _ in 0..6_000 {
            if done(self) {
                return;
            }
            self.run(10);
        }
        panic!("a minute passed without: {what}");
    }

    pub fn leader(&self) -> Option<u64> {
        self.nodes.keys().copied().find(|id| self.node(*id).is_leader())
    }

    /// Runs until every node knows the cluster and itself in it.
    pub fn until_serving(&mut self) -> u64 {
        self.run_until("all nodes serve", |w| {
            w.nodes
                .keys()
                .all(|id| w.node(*id).members().member(*id).is_some_and(|m| m.is_started()))
                && w.leader().is_some_and(|id| w.node(id).lessor().is_primary())
        });
        self.leader().unwrap()
    }

    pub fn start_call(&mut self, id: u64, method: Method, request: &impl prost::Message) -> Token {
        self.start_call_bytes(id, method, request.encode_to_vec().into())
    }

    pub fn start_call_bytes(&mut self, id: u64, method: Method, body: Bytes) -> Token {
        self.next_token += 1;
        let token = Token(self.next_token);
        self.input(id, Input::Call { token, method, body });
        token
    }

    pub fn finish<M: prost::Message + Default>(
        &mut self,
        id: u64,
        token: Token,
    ) -> Result<M, Error> {
        self.run_until("a reply", |w| w.nodes[&id].seen.replies.contains_key(&token));
        let reply = self.nodes.get_mut(&id).unwrap().seen.replies.remove(&token).unwrap();
        reply.map(|bytes| M::decode(bytes).unwrap())
    }

    pub fn call<M: prost::Message + Default>(
        &mut self,
        id: u64,
        method: Method,
        request: &impl prost::Message,
    ) -> Result<M, Error> {
        let token = self.start_call(id, method, request);
        self.finish(id, token)
    }

    pub fn put(&mut self, id: u64, key: &str, value: &str) -> i64 {
        let reply: pb::PutResponse = self.call(id, Method::Put, &put(key, value)).unwrap();
        reply.header.unwrap().revision
    }

    pub fn get(&mut self, id: u64, key: &str) -> Option<String> {
        let request = pb::RangeRequest { key: bytes(key), ..Default::default() };
        let reply: pb::RangeResponse = self.call(id, Method::Range, &request).unwrap();
        reply.kvs.first().map(|kv| String::from_utf8_lossy(&kv.value).into_owned())
    }

    /// Of what it has now. (Revision 0 would do, but for a compaction at 0: that leaves a hash which answers for it.)
    pub fn hash(&mut self, id: u64) -> (u32, i64) {
        let revision = self.nodes[&id].host.node().store().current();
        let request = pb::HashKvRequest { revision };
        let reply: pb::HashKvResponse = self.call(id, Method::HashKv, &request).unwrap();
        (reply.hash, reply.hash_revision)
    }

    pub fn responses(&mut self, id: u64) -> Vec<pb::WatchResponse> {
        let seen = &mut self.nodes.get_mut(&id).unwrap().seen;
        std::mem::take(&mut seen.watch).into_iter().map(|(_, response)| response).collect()
    }
}

pub fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

pub fn put(key: &str, value: &str) -> pb::PutRequest {
    pb::PutRequest { key: bytes(key), value: bytes(value), ..Default::default() }
}

pub fn watch(key: &str, end: &str, start: i64) -> Bytes {
    let create = pb::WatchCreateRequest {
        key: bytes(key),
        range_end: bytes(end),
        start_revision: start,
        prev_kv: true,
        ..Default::default()
    };
    let request = pb::WatchRequest {
        request_union: Some(pb::watch_request::RequestUnion::CreateRequest(create)),
    };
    request.encode_to_vec().into()
}
