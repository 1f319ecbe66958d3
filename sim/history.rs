//! What the clients asked and what they were told, with the moments of both.

use bytes::Bytes;
use norn_proto::{etcdserverpb as pb, mvccpb};

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
    /// A range of any shape.
    Query(pb::RangeRequest),
    Txn(pb::TxnRequest),
    DeleteRange(pb::DeleteRangeRequest),
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
        !matches!(self, Ask::Get { .. } | Ask::Range { .. } | Ask::Query(_) | Ask::KeepAlive { .. })
    }

    pub fn is_serializable(&self) -> bool {
        match self {
            Ask::Get { serializable, .. } | Ask::Range { serializable, .. } => *serializable,
            Ask::Query(r) => r.serializable,
            Ask::Txn(r) => is_unconfirmed(r),
            _ => false,
        }
    }

    /// The values that it would write.
    pub fn values(&self) -> Vec<&Bytes> {
        let mut values = Vec::new();
        match self {
            Ask::Put { value, .. } | Ask::Swap { value, .. } => values.push(value),
            Ask::Txn(r) => values_of(r, &mut values),
            _ => {}
        }
        values
    }
}

/// A transaction that only compares is answered from local state, by etcd's rule.
fn is_unconfirmed(r: &pb::TxnRequest) -> bool {
    r.success.is_empty() && r.failure.is_empty()
}

fn values_of<'a>(r: &'a pb::TxnRequest, values: &mut Vec<&'a Bytes>) {
    for op in r.success.iter().chain(&r.failure) {
        match &op.request {
            Some(pb::request_op::Request::RequestPut(put)) => values.push(&put.value),
            Some(pb::request_op::Request::RequestTxn(inner)) => values_of(inner, values),
            _ => {}
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    Done,
    Found(Vec<mvccpb::KeyValue>),
    Deleted(i64),
    Swapped(bool),
    /// (These without their headers.)
    Listed(pb::RangeResponse),
    Txn(pb::TxnResponse),
    Gone(pb::DeleteRangeResponse),
    Ttl(i64),
}

impl Answer {
    /// Whether it says that something was written, by what was asked.
    pub fn wrote(&self, ask: &Ask) -> bool {
        match self {
            Answer::Done => matches!(ask, Ask::Put { .. }),
            Answer::Deleted(n) => *n > 0,
            Answer::Swapped(done) => *done,
            Answer::Gone(r) => r.deleted > 0,
            Answer::Txn(r) => txn_wrote(r),
            Answer::Found(_) | Answer::Listed(_) | Answer::Ttl(_) => false,
        }
    }
}

fn txn_wrote(r: &pb::TxnResponse) -> bool {
    use pb::response_op::Response;
    r.responses.iter().any(|op| match &op.response {
        Some(Response::ResponsePut(_)) => true,
        Some(Response::ResponseDeleteRange(r)) => r.deleted > 0,
        Some(Response::ResponseTxn(r)) => txn_wrote(r),
        Some(Response::ResponseRange(_)) | None => false,
    })
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
