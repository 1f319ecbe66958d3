//! What the application must do next, and what happens once it has.

use crate::message::{Message, MessageKind};
use crate::types::{Entry, HardState, Index, NodeId, ReadState, Snapshot, SoftState};

/// Work for the application, taken with [`crate::RawNode::ready`].
///
/// *Sync mode*: make `hard_state`, `entries` and `snapshot` durable (fsync if `must_sync`), put them into
/// the storage, then send `messages`, apply `snapshot` and `committed_entries`, and call `advance`.
///
/// *Async mode*: send `messages`; those to the storage threads carry the same entries and say what to
/// deliver when the work is done. The other fields only inform.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ready {
    /// Present if changed since the previous Ready.
    pub soft_state: Option<SoftState>,
    /// Present if changed since the previous Ready.
    pub hard_state: Option<HardState>,
    /// Reads that may be served as soon as their index is applied.
    pub read_states: Vec<ReadState>,
    /// To be appended to the stable log.
    pub entries: Vec<Entry>,
    /// To replace the stable log and the state machine.
    pub snapshot: Option<Snapshot>,
    /// To be applied, in order.
    pub committed_entries: Vec<Entry>,
    pub messages: Vec<Message>,
    /// Whether the write must reach the disk: entries, or a changed term or vote. A commit index alone
    /// may be lost.
    pub must_sync: bool,
}

impl Ready {
    pub fn is_empty(&self) -> bool {
        *self == Ready::default()
    }
}

/// What `advance` has to do for the one Ready that is out (sync mode).
#[derive(Debug, Default)]
pub(crate) struct Outstanding {
    /// Own votes and own append acknowledgements: true only now that they are durable.
    pub(crate) self_messages: Vec<Message>,
    pub(crate) append_response: Option<Message>,
    pub(crate) applied: Option<AppliedBatch>,
}

/// A batch of committed entries, without the entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AppliedBatch {
    pub(crate) last: Index,
    /// Counts against `committed_bytes_max`.
    pub(crate) encoded_bytes: u64,
    /// Counts against `uncommitted_bytes_max`.
    pub(crate) payload_bytes: u64,
}

impl AppliedBatch {
    /// `None` without entries.
    pub(crate) fn of(entries: &[Entry]) -> Option<AppliedBatch> {
        let last = entries.last()?.index;
        let encoded_bytes = entries.iter().map(|e| crate::codec::entry_len(e) as u64).sum();
        let payload_bytes = payload_bytes(entries);
        Some(AppliedBatch { last, encoded_bytes, payload_bytes })
    }
}

pub(crate) fn payload_bytes(entries: &[Entry]) -> u64 {
    entries.iter().map(|entry| entry.data.len() as u64).sum()
}

/// The work order for the apply thread.
pub(crate) fn storage_apply(id: NodeId, entries: &[Entry]) -> Message {
    let done = Message {
        kind: MessageKind::StorageApplyResp,
        to: id,
        from: NodeId::LOCAL_APPLY_THREAD,
        entries: entries.to_vec(),
        ..Message::default()
    };
    Message {
        kind: MessageKind::StorageApply,
        to: NodeId::LOCAL_APPLY_THREAD,
        from: id,
        entries: entries.to_vec(),
        responses: vec![done],
        ..Message::default()
    }
}
