//! A group of nodes with a network, disks and state machines that move only when a script says so.

use std::collections::VecDeque;

use bytes::Bytes;
use norn_raft::{
    ConfChangeV2, ConfState, Config, Entry, EntryKind, HardState, LogLevel, MemStorage, Message,
    MessageKind, NodeId, RawNode, ReadOnly, Snapshot, codec,
};

use super::print;

/// What the scripts' `log-level` can be; a line is shown if its level is at least that.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Debug,
    Info,
    Warn,
    Error,
    Fatal,
    /// Hides everything but errors.
    None,
}

impl Level {
    pub fn parse(text: &str) -> Result<Level, String> {
        Ok(match text.to_ascii_uppercase().as_str() {
            "DEBUG" => Level::Debug,
            "INFO" => Level::Info,
            "WARN" => Level::Warn,
            "ERROR" => Level::Error,
            "FATAL" => Level::Fatal,
            "NONE" => Level::None,
            _ => {
                return Err(
                    "log levels must be either of [DEBUG INFO WARN ERROR FATAL NONE]".to_owned()
                );
            }
        })
    }

    fn of(level: LogLevel) -> Level {
        match level {
            LogLevel::Debug => Level::Debug,
            LogLevel::Info => Level::Info,
            LogLevel::Warn => Level::Warn,
            LogLevel::Error | LogLevel::Off => Level::Error,
        }
    }
}

pub struct Member {
    pub raw: RawNode,
    /// The state machine after each applied entry, the first one being that at the start.
    pub history: Vec<Snapshot>,
    pub append_work: VecDeque<Message>,
    pub apply_work: VecDeque<Message>,
}

/// How the nodes of one `add-nodes` begin.
pub struct Start {
    pub config: Config,
    pub snapshot: Snapshot,
}

impl Start {
    /// The defaults of the script language.
    pub fn new() -> Start {
        let config = Config {
            election_ticks: 3,
            message_bytes_max: u64::MAX,
            inflight_messages_max: i32::MAX as usize,
            check_quorum: false,
            pre_vote: false,
            read_only: ReadOnly::Safe,
            ..Config::new(NodeId(1), 0)
        };
        Start { config, snapshot: Snapshot::default() }
    }
}

/// Nodes 1, 2, 3 ... and the messages between them.
pub struct Cluster {
    pub members: Vec<Member>,
    pub messages: Vec<Message>,
    pub level: Level,
    pub out: String,
}

impl Cluster {
    pub fn new() -> Cluster {
        Cluster {
            members: Vec::new(),
            messages: Vec::new(),
            level: Level::Debug,
            out: String::new(),
        }
    }

    pub fn write(&mut self, text: &str) {
        if self.level != Level::None {
            self.out += text;
        }
    }

    /// Runs `action` with all of its output two spaces to the right.
    pub fn indented(
        &mut self,
        action: impl FnOnce(&mut Cluster) -> Result<(), String>,
    ) -> Result<(), String> {
        let outer = std::mem::take(&mut self.out);
        let result = action(self);
        let inner = std::mem::replace(&mut self.out, outer);
        for line in inner.lines() {
            self.out += &format!("  {line}\n");
        }
        result
    }

    /// Calls into node `at` and prints what it logs.
    pub fn call<T>(&mut self, at: usize, action: impl FnOnce(&mut RawNode) -> T) -> T {
        let raw = &mut self.members[at].raw;
        let result = action(raw);
        for line in raw.drain_log() {
            if Level::of(line.level) >= self.level {
                self.out += &format!("{} {}\n", line.level.name(), line.text);
            }
        }
        result
    }

    fn apply_change(&mut self, at: usize, change: &ConfChangeV2) -> Result<ConfState, String> {
        self.call(at, |raw| raw.apply_conf_change(change)).map_err(|error| error.to_string())
    }

    pub fn add_node(&mut self, start: &Start) -> Result<(), String> {
        let id = NodeId(self.members.len() as u64 + 1);
        let snapshot = start.snapshot.clone();
        let config = Config { id, seed: id.0, applied: snapshot.index, ..start.config.clone() };
        let storage = MemStorage::from_snapshot(snapshot.clone());
        let raw = RawNode::with_log_level(config, storage, LogLevel::Debug)
            .map_err(|error| error.to_string())?;
        self.members.push(Member {
            raw,
            history: vec![snapshot],
            append_work: VecDeque::new(),
            apply_work: VecDeque::new(),
        });
        self.call(self.members.len() - 1, |_| ());
        Ok(())
    }

    /// Does what the next Ready of node `at` says.
    pub fn process_ready(&mut self, at: usize) -> Result<(), String> {
        let ready = self.call(at, RawNode::ready);
        self.write(&print::ready(&ready));
        let is_async = self.members[at].raw.config().async_storage_writes;
        if !is_async {
            let hard_state = ready.hard_state.unwrap_or_default();
            self.persist(at, hard_state, ready.entries, ready.snapshot)?;
            self.apply(at, ready.committed_entries)?;
        }
        for message in ready.messages {
            match message.to {
                NodeId::LOCAL_APPEND_THREAD => self.members[at].append_work.push_back(message),
                NodeId::LOCAL_APPLY_THREAD => self.members[at].apply_work.push_back(message),
                _ => self.messages.push(message),
            }
        }
        if !is_async {
            self.call(at, RawNode::advance);
        }
        Ok(())
    }

    fn persist(
        &mut self,
        at: usize,
        hard_state: HardState,
        entries: Vec<Entry>,
        snapshot: Option<Snapshot>,
    ) -> Result<(), String> {
        let storage = self.members[at].raw.storage_mut();
        if !hard_state.is_empty() {
            storage.set_hard_state(hard_state);
        }
        if let Some(snapshot) = snapshot {
            if !entries.is_empty() {
                return Err("can't apply snapshot and entries at same time".to_owned());
            }
            return storage.apply_snapshot(snapshot).map_err(|error| error.to_string());
        }
        storage.append(entries);
        Ok(())
    }

    fn apply(&mut self, at: usize, entries: Vec<Entry>) -> Result<(), String> {
        for entry in entries {
            let mut conf_state: Option<ConfState> = None;
            let payload = match entry.kind {
                EntryKind::Normal => entry.data,
                EntryKind::ConfChange => {
                    let change =
                        codec::decode_conf_change(entry.data).map_err(|e| e.to_string())?;
                    conf_state = Some(self.apply_change(at, &change.to_v2())?);
                    change.context
                }
                EntryKind::ConfChangeV2 => {
                    let change =
                        codec::decode_conf_change_v2(entry.data).map_err(|e| e.to_string())?;
                    conf_state = Some(self.apply_change(at, &change)?);
                    change.context
                }
            };
            let member = &mut self.members[at];
            let before = member.history.last().expect("the history begins with the start");
            let snapshot = Snapshot {
                data: Bytes::from([before.data.as_ref(), &payload].concat()),
                index: entry.index,
                term: entry.term,
                conf_state: conf_state.unwrap_or_else(|| before.conf_state.clone()),
            };
            member.raw.storage_mut().offer_snapshot(snapshot.clone());
            member.history.push(snapshot);
        }
        Ok(())
    }

    /// Lets a storage thread of node `at` do one piece of work.
    pub fn process_thread(&mut self, at: usize, thread: NodeId) -> Result<(), String> {
        let member = &mut self.members[at];
        let (work, name) = if thread == NodeId::LOCAL_APPEND_THREAD {
            (member.append_work.pop_front(), "append")
        } else {
            (member.apply_work.pop_front(), "apply")
        };
        let Some(mut message) = work else {
            self.write(&format!("no {name} work to perform"));
            return Ok(());
        };
        let responses = std::mem::take(&mut message.responses);
        self.write(&format!("Processing:\n{}\n", print::message(&message)));
        if thread == NodeId::LOCAL_APPEND_THREAD {
            let Message { term, vote, commit, entries, snapshot, .. } = message;
            let hard_state = HardState { term, vote, commit };
            self.persist(at, hard_state, entries, snapshot.map(|snapshot| *snapshot))?;
        } else {
            self.apply(at, message.entries)?;
        }
        self.write("Responses:\n");
        for response in &responses {
            self.write(&format!("{}\n", print::message(response)));
        }
        self.messages.extend(responses);
        Ok(())
    }

    fn is_deliverable(
        message: &Message,
        to: NodeId,
        kind: Option<MessageKind>,
        is_dropped: bool,
    ) -> bool {
        message.to == to
            && kind.is_none_or(|kind| kind == message.kind)
            && !(is_dropped && message.is_local_delivery())
    }

    pub fn has_messages(&self, at: usize) -> bool {
        let to = self.members[at].raw.id();
        self.messages.iter().any(|message| message.to == to)
    }

    /// Hands over, or loses, what is under way to `to`. How many messages that were.
    pub fn deliver(&mut self, to: NodeId, kind: Option<MessageKind>, is_dropped: bool) -> usize {
        let (taken, left): (Vec<Message>, Vec<Message>) = std::mem::take(&mut self.messages)
            .into_iter()
            .partition(|message| Self::is_deliverable(message, to, kind, is_dropped));
        self.messages = left;
        let count = taken.len();
        for message in taken {
            let prefix = if is_dropped { "dropped: " } else { "" };
            self.write(&format!("{prefix}{}\n", print::message(&message)));
            if is_dropped {
                continue;
            }
            let Some(at) = self.position(to) else {
                continue;
            };
            if let Err(error) = self.call(at, |raw| raw.step(message)) {
                self.write(&format!("{error}\n"));
            }
        }
        count
    }

    fn position(&self, id: NodeId) -> Option<usize> {
        self.members.iter().position(|member| member.raw.id() == id)
    }

    /// Works until nothing is left to do for the nodes at `positions`.
    pub fn stabilize(&mut self, positions: &[usize]) -> Result<(), String> {
        let threads =
            [(NodeId::LOCAL_APPEND_THREAD, "append"), (NodeId::LOCAL_APPLY_THREAD, "apply")];
        loop {
            let mut is_done = true;
            for &at in positions {
                if self.members[at].raw.has_ready() {
                    is_done = false;
                    self.write(&format!("> {} handling Ready\n", at + 1));
                    self.indented(|cluster| cluster.process_ready(at))?;
                }
            }
            for &at in positions {
                if self.has_messages(at) {
                    is_done = false;
                    self.write(&format!("> {} receiving messages\n", at + 1));
                    let to = self.members[at].raw.id();
                    self.indented(|cluster| {
                        cluster.deliver(to, None, false);
                        Ok(())
                    })?;
                }
            }
            for (thread, name) in threads {
                for &at in positions {
                    if self.work_count(at, thread) == 0 {
                        continue;
                    }
                    is_done = false;
                    self.write(&format!("> {} processing {name} thread\n", at + 1));
                    while self.work_count(at, thread) > 0 {
                        self.indented(|cluster| cluster.process_thread(at, thread))?;
                    }
                }
            }
            if is_done {
                return Ok(());
            }
        }
    }

    fn work_count(&self, at: usize, thread: NodeId) -> usize {
        let member = &self.members[at];
        if thread == NodeId::LOCAL_APPEND_THREAD {
            member.append_work.len()
        } else {
            member.apply_work.len()
        }
    }
}
