//! What the clients asked and what they were told, with the moments of both.

use bytes::Bytes;
use norn_proto::mvccpb;

use crate::record::End;

#[derive(Clone, Debug)]
pub enum Ask {
    Put {
        key: Bytes,
        value: Bytes,
        lease: i64,
    },
    Get {
        key: Bytes,
        serializable: bool,
    },
    Delete {
        key: Bytes,
    },
    /// Puts `value` if the key's value is `expect` (`None`: if there is no such key).
    Swap {
        key: Bytes,
        expect: Option<Bytes>,
        value: Bytes,
    },
    /// All keys, at a revision (0: now).
    Range {
        revision: i64,
        serializable: bool,
    },
    Grant {
        id: i64,
        ttl: i64,
    },
    KeepAlive {
        id: i64,
    },
    Revoke {
        id: i64,
    },
    Compact {
        revision: i64,
    },
}

impl Ask {
    pub fn is_write(&self) -> bool {
        !matches!(self, Ask::Get { .. } | Ask::Range { .. } | Ask::KeepAlive { .. })
    }

    pub fn is_serializable(&self) -> bool {
        matches!(self, Ask::Get { serializable: true, .. } | Ask::Range { serializable: true, .. })
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    Done,
    Found(Vec<mvccpb::KeyValue>),
    Deleted(i64),
    Swapped(bool),
    Ttl(i64),
}

#[derive(Clone, Debug)]
pub enum Outcome {
    /// No answer, or one that leaves open what happened.
    Unknown,
    /// Refused: it did not and will not happen.
    Refused(String),
    Ok {
        revision: i64,
        answer: Answer,
    },
}

impl Outcome {
    /// In the words of a trace, with the revision that was told.
    pub fn end(&self) -> (End, i64) {
        match self {
            Outcome::Unknown => (End::Unknown, 0),
            Outcome::Refused(_) => (End::Refused, 0),
            Outcome::Ok { revision, .. } => (End::Done, *revision),
        }
    }
}

#[derive(Clone, Debug)]
pub struct Op {
    pub client: usize,
    pub node: usize,
    pub incarnation: u64,
    pub ask: Ask,
    /// Moments in the order of events: (microseconds, event number).
    pub called: (u64, u64),
    pub returned: Option<(u64, u64)>,
    pub outcome: Outcome,
}

impl Op {
    pub fn revision(&self) -> Option<i64> {
        match self.outcome {
            Outcome::Ok { revision, .. } => Some(revision),
            _ => None,
        }
    }
}

/// A broken promise.
#[derive(Clone, Debug)]
pub struct Failure {
    /// One sentence.
    pub promise: &'static str,
    /// The smallest piece of history that shows it.
    pub detail: String,
    /// The calls that show it, by client and moment of calling, for a picture.
    pub calls: Vec<(usize, u64)>,
    /// The watch that shows it: member, first revision, and the revision of the response.
    pub watch: Option<(usize, i64, i64)>,
}

impl Failure {
    pub fn new(promise: &'static str, detail: impl Into<String>) -> Failure {
        Failure { promise, detail: detail.into(), calls: Vec::new(), watch: None }
    }

    pub fn shown_by(mut self, ops: &[&Op]) -> Failure {
        self.calls = ops.iter().map(|op| (op.client, op.called.0)).collect();
        self
    }
}

pub type Verdict = Result<(), Failure>;
