//! What a leader sends learners waits for company: their acknowledgements count in no quorum, so nobody waits for them.
//!
//! A busy leader has thousands of turns a second, with a few entries each. A message, a write, a sync and an acknowledgement for every one of
//! them would cost a learner as much as they cost a voter, and the leader and the disk as well, and nobody would be answered the sooner.

use norn_raft::{Message, MessageKind};

use crate::{Node, Reader, Time};

/// So long at most: what a learner is behind. It would take it a hundred times as long to think that its leader is gone.
const WAIT_MS: u64 = 5;
/// Of entries so much is company enough: a learner that catches up is sent more at once.
const BYTES: u64 = 64 << 10;

/// Messages to learners that wait, in order.
#[derive(Debug, Default)]
pub(crate) struct LearnerMail {
    messages: Vec<Message>,
    bytes: u64,
    /// Since when the first of them waits.
    since: Option<Time>,
}

impl LearnerMail {
    fn add(&mut self, message: Message, now: Time) {
        self.bytes += message.entries.iter().map(|entry| entry.data.len() as u64).sum::<u64>();
        self.since.get_or_insert(now);
        self.messages.push(message);
    }

    pub(crate) fn due(&self) -> Option<Time> {
        self.since.map(|since| if self.bytes < BYTES { since + WAIT_MS } else { since })
    }
}

impl<R: Reader> Node<R> {
    /// Sends a message to another member, at once or with others.
    pub(crate) fn post(&mut self, message: Message) {
        // (Behind messages that tell of entries heartbeats wait, too: they have the later commit index.)
        let may_wait = matches!(message.kind, MessageKind::App | MessageKind::Heartbeat);
        if may_wait && self.raft.membership().learners.contains(&message.to) {
            self.learner_mail.add(message, self.now);
        } else {
            self.out.messages.push(message);
        }
    }

    /// Sends learners what waits, if it is time.
    pub(crate) fn post_what_is_due(&mut self) {
        if self.learner_mail.due().is_some_and(|due| due <= self.now) {
            self.post_what_waits();
        }
    }

    /// Sends learners what waits. (Before the membership changes: what a voter is sent at once must not overtake what it was sent as a
    /// learner, which would look as if entries were lost.)
    pub(crate) fn post_what_waits(&mut self) {
        let mail = std::mem::take(&mut self.learner_mail);
        let members = &self.members;
        let sent = mail.messages.into_iter().filter(|message| !members.is_removed(message.to.0));
        self.out.messages.extend(sent);
    }
}
