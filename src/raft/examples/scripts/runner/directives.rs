//! The directives of interaction scripts: arguments in, output out.

use bytes::Bytes;
use norn_raft::{
    ConfChange, ConfChangeTransition, ConfChangeV2, Index, Message, MessageKind, NodeId, RawNode,
    ReadOnly, Term,
};

use super::Machine;
use super::cluster::{Cluster, Level, Start};
use super::confchange::parse_changes;
use super::print;
use super::script::Block;

type Outcome = Result<(), String>;

impl Machine for Cluster {
    fn run(&mut self, block: &Block) -> String {
        self.out.clear();
        if let Err(error) = self.dispatch(block) {
            if self.level == Level::None {
                return error;
            }
            self.out += &error;
        }
        if self.out.is_empty() { "ok".to_owned() } else { std::mem::take(&mut self.out) }
    }
}

impl Cluster {
    fn dispatch(&mut self, block: &Block) -> Outcome {
        match block.command.as_str() {
            "_breakpoint" => Ok(()),
            "add-nodes" => self.add_nodes(block),
            "campaign" => self.on_node(block, RawNode::campaign),
            "compact" => self.compact(block),
            "deliver-msgs" => self.deliver_messages(block),
            "process-ready" => {
                self.on_each(block, "handling Ready", |cluster, at| cluster.process_ready(at))
            }
            "process-append-thread" => {
                self.on_each(block, "processing append thread", |cluster, at| {
                    cluster.process_thread(at, NodeId::LOCAL_APPEND_THREAD)
                })
            }
            "process-apply-thread" => {
                self.on_each(block, "processing apply thread", |cluster, at| {
                    cluster.process_thread(at, NodeId::LOCAL_APPLY_THREAD)
                })
            }
            "log-level" => {
                self.level = Level::parse(argument(block, 0)?)?;
                Ok(())
            }
            "raft-log" => {
                let at = self.node(block, 0)?;
                self.print_log(at);
                Ok(())
            }
            "raft-state" => self.raft_state(),
            "set-randomized-election-timeout" => {
                let ticks = block.value("timeout")?.ok_or("timeout is missing")?;
                self.on_node(block, |raw| raw.set_randomized_election_timeout(ticks))
            }
            "stabilize" => self.run_stabilize(block),
            "status" => self.status(block),
            "tick-election" => self.ticks(block, |raw| raw.config().election_ticks),
            "tick-heartbeat" => self.ticks(block, |raw| raw.config().heartbeat_ticks),
            "transfer-leadership" => self.transfer(block),
            "forget-leader" => self.on_node(block, RawNode::forget_leader),
            "send-snapshot" => self.send_snapshot(block),
            "propose" => {
                let at = self.node(block, 0)?;
                let data = Bytes::copy_from_slice(argument(block, 1)?.as_bytes());
                self.call(at, |raw| raw.propose(data)).map_err(|error| error.to_string())
            }
            "propose-conf-change" => self.propose_conf_change(block),
            "report-unreachable" => {
                let (at, peer) = (self.node(block, 0)?, id(argument(block, 1)?)?);
                self.call(at, |raw| raw.report_unreachable(peer));
                Ok(())
            }
            // Ours, to reach what the others cannot.
            "report-snapshot" => {
                let (at, peer) = (self.node(block, 0)?, id(argument(block, 1)?)?);
                let ok = block.value("ok")?.unwrap_or(true);
                self.call(at, |raw| raw.report_snapshot(peer, ok));
                Ok(())
            }
            "read-index" => {
                let at = self.node(block, 0)?;
                let context = Bytes::copy_from_slice(argument(block, 1)?.as_bytes());
                self.call(at, |raw| raw.read_index(context));
                Ok(())
            }
            _ => Err("unknown command".to_owned()),
        }
    }

    fn node(&self, block: &Block, position: usize) -> Result<usize, String> {
        self.node_named(argument(block, position)?)
    }

    fn node_named(&self, name: &str) -> Result<usize, String> {
        let id = id(name)?;
        let at = (id.0 as usize).wrapping_sub(1);
        if at < self.members.len() { Ok(at) } else { Err(format!("there is no node {name}")) }
    }

    fn nodes(&self, block: &Block) -> Result<Vec<usize>, String> {
        block.plain().into_iter().map(|name| self.node_named(name)).collect()
    }

    fn on_node(&mut self, block: &Block, action: impl FnOnce(&mut RawNode)) -> Outcome {
        let at = self.node(block, 0)?;
        self.call(at, action);
        Ok(())
    }

    /// One node: its output bare. Several: each under a heading.
    fn on_each(
        &mut self,
        block: &Block,
        heading: &str,
        action: impl Fn(&mut Cluster, usize) -> Outcome,
    ) -> Outcome {
        let nodes = self.nodes(block)?;
        if let [at] = nodes[..] {
            return action(self, at);
        }
        for at in nodes {
            self.write(&format!("> {} {heading}\n", at + 1));
            self.indented(|cluster| action(cluster, at))?;
        }
        Ok(())
    }

    fn add_nodes(&mut self, block: &Block) -> Outcome {
        let count: usize = argument(block, 0)?.parse().map_err(|_| "a count is missing")?;
        let mut start = Start::new();
        let mut has_snapshot = false;
        for argument in &block.arguments[1..] {
            let key = argument.key.as_str();
            let config = &mut start.config;
            match key {
                "voters" | "learners" => {
                    has_snapshot = true;
                    let ids = argument.values.iter().map(|v| id(v)).collect::<Result<_, _>>()?;
                    let state = &mut start.snapshot.conf_state;
                    if key == "voters" {
                        state.voters = ids;
                    } else {
                        state.learners = ids;
                    }
                }
                "index" => {
                    has_snapshot = true;
                    start.snapshot.index = Index(block.value(key)?.unwrap_or_default());
                }
                "content" => {
                    has_snapshot = true;
                    let text: String = block.value(key)?.unwrap_or_default();
                    start.snapshot.data = Bytes::from(text);
                }
                "inflight" => {
                    config.inflight_messages_max = block.value(key)?.unwrap_or_default();
                }
                "async-storage-writes" => config.async_storage_writes = block.flag(key)?,
                "prevote" => config.pre_vote = block.flag(key)?,
                "checkquorum" => config.check_quorum = block.flag(key)?,
                "max-committed-size-per-ready" => {
                    config.committed_bytes_max = block.value(key)?.unwrap_or_default();
                }
                "disable-conf-change-validation" => {
                    config.disable_conf_change_validation = block.flag(key)?;
                }
                "step-down-on-removal" => config.step_down_on_removal = block.flag(key)?,
                "read-only" => {
                    config.read_only = match argument.values.first().map(String::as_str) {
                        Some("safe") => ReadOnly::Safe,
                        Some("lease-based") => ReadOnly::LeaseBased,
                        other => return Err(format!("invalid read-only option {other:?}")),
                    }
                }
                // Ours.
                "max-size-per-msg" => {
                    config.message_bytes_max = block.value(key)?.unwrap_or_default();
                }
                "max-uncommitted-size" => {
                    config.uncommitted_bytes_max = block.value(key)?.unwrap_or_default();
                }
                "disable-proposal-forwarding" => {
                    config.disable_proposal_forwarding = block.flag(key)?;
                }
                _ => return Err(format!("unknown argument {key}")),
            }
        }
        if has_snapshot {
            if start.snapshot.index <= Index(1) {
                return Err("index must be specified as > 1 due to bootstrap".to_owned());
            }
            start.snapshot.term = Term(1);
        }
        for _ in 0..count {
            self.add_node(&start)?;
        }
        Ok(())
    }

    fn compact(&mut self, block: &Block) -> Outcome {
        let at = self.node(block, 0)?;
        let index: u64 = argument(block, 1)?.parse().map_err(|_| "bad index")?;
        let storage = self.members[at].raw.storage_mut();
        storage.compact(Index(index)).map_err(|error| error.to_string())?;
        self.print_log(at);
        Ok(())
    }

    fn print_log(&mut self, at: usize) {
        let storage = self.members[at].raw.storage();
        let (first, last) = (storage.first_index(), storage.last_index());
        if last < first {
            self.write(&format!("log is empty: first index={first}, last index={last}"));
            return;
        }
        let entries = storage.entries(first, last.next(), u64::MAX).expect("all of the log");
        self.write(&print::entries(&entries));
    }

    fn deliver_messages(&mut self, block: &Block) -> Outcome {
        let mut kind = None;
        let mut recipients = Vec::new();
        for argument in &block.arguments {
            match (argument.key.as_str(), argument.values.as_slice()) {
                (name, []) => recipients.push((id(name)?, false)),
                ("drop", ids) => {
                    for name in ids {
                        let id = id(name)?;
                        if recipients.iter().any(|(other, _)| *other == id) {
                            return Err(format!("can't both deliver and drop msgs to {id}"));
                        }
                        recipients.push((id, true));
                    }
                }
                ("type", [name]) => {
                    let found = MessageKind::ALL.into_iter().find(|kind| kind.name() == name);
                    kind = Some(found.ok_or(format!("unknown message type {name}"))?);
                }
                (key, _) => return Err(format!("unknown argument {key}")),
            }
        }
        let mut count = 0;
        for (to, is_dropped) in recipients {
            count += self.deliver(to, kind, is_dropped);
        }
        if count == 0 {
            self.write("no messages\n");
        }
        Ok(())
    }

    fn raft_state(&mut self) -> Outcome {
        for at in 0..self.members.len() {
            let raw = &self.members[at].raw;
            let is_voter = raw.membership().voters.contains(raw.id());
            let line = format!(
                "{}: {} ({}) Term:{} Lead:{}\n",
                raw.id().0,
                raw.role().name(),
                if is_voter { "Voter" } else { "Non-Voter" },
                raw.term(),
                raw.leader().0
            );
            self.write(&line);
        }
        Ok(())
    }

    fn run_stabilize(&mut self, block: &Block) -> Outcome {
        let level = self.level;
        if let Some(name) = block.value::<String>("log-level")? {
            self.level = Level::parse(&name)?;
        }
        let mut nodes = self.nodes(block)?;
        if nodes.is_empty() {
            nodes = (0..self.members.len()).collect();
        }
        let result = self.stabilize(&nodes);
        self.level = level;
        result
    }

    fn status(&mut self, block: &Block) -> Outcome {
        let at = self.node(block, 0)?;
        let raw = &self.members[at].raw;
        let mut lines = String::new();
        if raw.is_leader() {
            for (id, progress) in raw.progress() {
                lines += &format!("{}: {progress}\n", id.0);
            }
        }
        self.write(&lines);
        Ok(())
    }

    fn ticks(&mut self, block: &Block, count: impl FnOnce(&RawNode) -> u32) -> Outcome {
        let at = self.node(block, 0)?;
        for _ in 0..count(&self.members[at].raw) {
            self.call(at, RawNode::tick);
        }
        Ok(())
    }

    fn transfer(&mut self, block: &Block) -> Outcome {
        let from: String = block.value("from")?.ok_or("from is missing")?;
        let to: String = block.value("to")?.ok_or("to is missing")?;
        let (at, to) = (self.node_named(&from)?, id(&to)?);
        self.call(at, |raw| raw.transfer_leader(to));
        Ok(())
    }

    fn send_snapshot(&mut self, block: &Block) -> Outcome {
        let at = self.node(block, 0)?;
        let to = id(argument(block, 1)?)?;
        let member = &self.members[at];
        let snapshot = member.history.last().expect("the history begins with the start").clone();
        let message = Message {
            kind: MessageKind::Snap,
            to,
            from: member.raw.id(),
            term: member.raw.term(),
            snapshot: Some(Box::new(snapshot)),
            ..Message::default()
        };
        self.write(&print::message(&message));
        self.messages.push(message);
        Ok(())
    }

    fn propose_conf_change(&mut self, block: &Block) -> Outcome {
        let at = self.node(block, 0)?;
        let changes = parse_changes(&block.input)?;
        let transition = match block.value::<String>("transition")?.as_deref() {
            None | Some("auto") => ConfChangeTransition::Auto,
            Some("implicit") => ConfChangeTransition::JointImplicit,
            Some("explicit") => ConfChangeTransition::JointExplicit,
            Some(other) => return Err(format!("unknown transition {other}")),
        };
        let result = if block.flag("v1")? {
            let (ConfChangeTransition::Auto, [change]) = (transition, &changes[..]) else {
                return Err("v1 conf change can only have one operation and no transition".into());
            };
            let (kind, node_id) = (change.kind, change.node_id);
            let change = ConfChange { kind, node_id, ..ConfChange::default() };
            self.call(at, |raw| raw.propose_conf_change(change))
        } else {
            let change = ConfChangeV2 { transition, changes, context: Bytes::new() };
            self.call(at, |raw| raw.propose_conf_change(change))
        };
        result.map_err(|error| error.to_string())
    }
}

fn argument(block: &Block, position: usize) -> Result<&str, String> {
    let argument = block.arguments.get(position).ok_or("an argument is missing")?;
    Ok(&argument.key)
}

fn id(text: &str) -> Result<NodeId, String> {
    text.parse().map(NodeId).map_err(|_| format!("{text} is not an id"))
}
