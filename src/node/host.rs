//! The one driver: obeys a node's Ready in the one legal order. The server and the simulator differ only in what is
//! behind the ports.

use bytes::Bytes;
use norn_raft::Message;
use norn_storage::Disk;

use crate::input::{Input, NodeEvent, Token};
use crate::watchers::StreamId;
use crate::{Error, Node, Reader, Time};

/// Where a node's output goes, beside the disk. None of these may block.
pub trait Ports {
    /// To other members. Order between messages to one member should be kept; loss is allowed.
    fn send(&mut self, messages: Vec<Message>);
    fn reply(&mut self, token: Token, result: Result<Bytes, Error>);
    /// The next response of a watch stream.
    fn watch(&mut self, stream: StreamId, response: Bytes);
    fn event(&mut self, event: NodeEvent);
}

pub struct Host<D, R> {
    node: Node<R>,
    disk: D,
    install: fn(&mut Node<R>, &mut D),
}

impl<D: Disk, R: Reader> Host<D, R> {
    pub fn new(node: Node<R>, disk: D) -> Host<D, R> {
        Host { node, disk, install: Node::install }
    }

    /// Who calls [`Node::install`], and on which thread.
    #[must_use]
    pub fn installed_by(mut self, install: fn(&mut Node<R>, &mut D)) -> Host<D, R> {
        self.install = install;
        self
    }

    pub fn node(&self) -> &Node<R> {
        &self.node
    }

    pub fn disk_mut(&mut self) -> &mut D {
        &mut self.disk
    }

    /// One turn: all inputs, then everything that follows from them. Returns when the next turn is due at the latest
    /// (`now`: as soon as others had their turn).
    pub fn turn(
        &mut self,
        now: Time,
        inputs: impl IntoIterator<Item = Input>,
        ports: &mut impl Ports,
    ) -> Time {
        self.node.step(now, Input::Wake);
        for input in inputs {
            self.node.step(now, input);
        }
        loop {
            while let Some(completion) = self.disk.poll() {
                self.node.step(now, Input::Disk(completion));
            }
            if let Some((ready, ticket)) = self.node.ready() {
                // The disk first: the sooner a sync starts, the sooner it ends.
                for batch in ready.disk {
                    self.disk.submit(batch);
                }
                if !ready.messages.is_empty() {
                    ports.send(ready.messages);
                }
                for (token, result) in ready.replies {
                    ports.reply(token, result);
                }
                for (stream, response) in ready.watch {
                    ports.watch(stream, response);
                }
                for event in ready.events {
                    ports.event(event);
                }
                self.node.advance(ticket);
            } else if self.node.wants_install() {
                (self.install)(&mut self.node, &mut self.disk);
            } else {
                return self.node.deadline();
            }
        }
    }
}
