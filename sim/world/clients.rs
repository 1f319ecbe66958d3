//! Clients: what they ask, and what becomes of it.

use bytes::Bytes;
use norn_node::{Error, Input, Method, Token};

use super::{CallFor, Event, SLOW_THINK_US, Waiting, World};
use crate::history::{Ask, Op, Outcome};
use crate::options::Bug;
use crate::record::What;
use crate::workload;

impl World {
    pub fn call(&mut self, node: usize, waiting: CallFor, method: Method, body: Bytes) -> u64 {
        self.next_token += 1;
        let token = self.next_token;
        let waiting = match waiting {
            CallFor::Op(op) => Waiting::Op { op },
            CallFor::Aside(op) => Waiting::Aside { op },
            CallFor::Hash => Waiting::Hash,
            CallFor::Content => Waiting::Content,
            CallFor::Probe => Waiting::Probe,
            CallFor::Change => Waiting::Change,
        };
        self.waiting.insert(token, (node, waiting));
        self.turn(node, Input::Call { token: Token(token), method, body });
        token
    }

    pub(super) fn client_asks(&mut self, client: usize) {
        let number = self.clients[client].next_number(&self.options);
        if self.is_healed || self.options.less.is_enough(number) {
            return;
        }
        let node = self.clients[client].choose_node(self.members.len());
        if self.members[node].is_retired {
            self.clients[client].sticks_to = None;
        }
        if self.members[node].host.is_none() {
            let think = self.clients[client].think_us(&self.options);
            self.after(think, Event::Client { client });
            return;
        }
        let ask = self.clients[client].next(&self.options);
        self.drawn = self.drawn.max(number + 1);
        if !self.options.less.keeps_ask(number) {
            let think = self.clients[client].think_us(&self.options);
            self.after(think, Event::Client { client });
            return;
        }
        let (method, mut body) = workload::encode(&ask);
        if let (Some(Bug::StaleRead), Ask::Get { key, .. }) = (self.options.bug, &ask) {
            body = workload::encode(&Ask::Get { key: key.clone(), serializable: true }).1;
        }
        let op = self.ops.len();
        self.trace.tell(self.now, What::Ask { op, client, node }, || format!("{ask:?}"));
        self.asked(client, node, ask);
        let token = self.next_token + 1;
        let deadline = self.rng.between(self.options.deadline_us / 2, self.options.deadline_us);
        self.after(deadline, Event::Deadline { token });
        self.call(node, CallFor::Op(op), method, body);
    }

    pub(super) fn deadline(&mut self, token: u64) {
        let Some((node, Waiting::Op { op })) = self.waiting.remove(&token) else { return };
        let mut outcome = Outcome::Unknown;
        if self.options.bug == Some(Bug::LostWriteAcked) && self.ops[op].ask.is_write() {
            let revision = self.clients[self.ops[op].client].revision_seen + 1;
            outcome = Outcome::Ok { revision, answer: crate::history::Answer::Done };
        }
        self.answered(op, outcome);
        self.turn(node, Input::Forget { token: Token(token) });
    }

    pub(super) fn reply(&mut self, node: usize, token: Token, result: Result<Bytes, Error>) {
        let Some((_, waiting)) = self.waiting.remove(&token.0) else { return };
        match waiting {
            Waiting::Op { op } => {
                let outcome = workload::outcome(&self.ops[op].ask, result);
                self.answered(op, outcome);
            }
            Waiting::Aside { op } => {
                self.number += 1;
                self.ops[op].outcome = workload::outcome(&self.ops[op].ask, result);
                self.ops[op].returned = Some((self.now, self.number));
            }
            Waiting::Hash => self.hashed(node, result),
            Waiting::Content => self.shown(node, result),
            Waiting::Probe => self.served[node] |= result.is_ok(),
            // (What became of it shows in the membership.)
            Waiting::Change => {}
        }
    }

    pub(super) fn answered(&mut self, op: usize, outcome: Outcome) {
        let client = self.ops[op].client;
        let (end, revision) = outcome.end();
        let what = What::Answer { op, client, end, revision };
        self.trace.tell(self.now, what, || format!("{outcome:?}"));
        self.clients[client].learn(&self.ops[op].ask, &outcome);
        self.number += 1;
        self.ops[op].outcome = outcome;
        self.ops[op].returned = Some((self.now, self.number));
        let mut think = self.clients[client].think_us(&self.options);
        if self.ops.len() > self.options.ops_max {
            think += SLOW_THINK_US;
        }
        self.after(think, Event::Client { client });
    }

    /// Somebody who belongs to no client renews a lease at a member that has just gone on, and may not know that it leads no more.
    pub(super) fn renew_aside(&mut self, node: usize) {
        let leases: Vec<i64> = self.raft.model.leases.keys().copied().collect();
        if self.is_healed || leases.is_empty() || self.members[node].host.is_none() {
            return;
        }
        let ask = Ask::KeepAlive { id: *self.rng.pick(&leases) };
        let (method, body) = workload::encode(&ask);
        let op = self.ops.len();
        self.asked(self.clients.len(), node, ask);
        self.call(node, CallFor::Aside(op), method, body);
    }

    /// Somebody asks now. (The order of events tells what was before what: the call takes a number.)
    fn asked(&mut self, client: usize, node: usize, ask: Ask) {
        self.ops.push(Op {
            client,
            node,
            incarnation: self.members[node].incarnation,
            ask,
            called: (self.now, self.number),
            returned: None,
            outcome: Outcome::Unknown,
        });
        self.number += 1;
    }
}
