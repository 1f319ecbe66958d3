//! When work that nobody waits for goes on: a piece after the other, and while somebody asks for something a pause between them, so that
//! it is a small share of the thread, and of the disk, however much of it there is.

use norn_raft::MessageKind;

use crate::{Input, Node, Reader, Time};

/// Nobody asks who has not for so long. (Not since the last piece: clients that all wait for an answer ask for nothing, and within a turn
/// nobody can.)
const ASKED_MS: u64 = 100;

/// One kind of such work.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pace {
    /// When its last piece was done.
    stepped_at: Time,
}

impl Pace {
    pub(crate) fn stepped(&mut self, now: Time) {
        self.stepped_at = now;
    }
}

/// A client waits for it, on this member or on its leader.
pub(crate) fn asks(input: &Input) -> bool {
    match input {
        Input::Call { .. } => true,
        Input::Peer(message) => message.kind == MessageKind::App && !message.entries.is_empty(),
        _ => false,
    }
}

impl<R: Reader> Node<R> {
    /// When the next piece may be done.
    pub(crate) fn due(&self, pace: Pace, pause_ms: u64) -> Time {
        let pause_ms = if self.is_asked() { pause_ms } else { 0 };
        (pace.stepped_at + pause_ms).max(self.now)
    }

    /// Somebody asked for something a moment ago.
    pub(crate) fn is_asked(&self) -> bool {
        self.asked_at + ASKED_MS >= self.now
    }
}
