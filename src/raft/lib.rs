//! Raft: agreement on one log of opaque bytes, without any input or output of its own.
//!
//! A [`RawNode`] changes only when it is called: it is told when time passes ([`RawNode::tick`]), what
//! arrived ([`RawNode::step`]) and what to propose, and it answers with a [`Ready`] full of work. It knows no
//! clock, no thread, no file and no socket, and all of its randomness comes from the seed in [`Config`]:
//! same calls, same answers. The behaviour, down to the messages, is that of etcd's raft library 3.7.
//!
//! # The order of calls
//!
//! ```text
//!   tick, step, propose, read_index ...   any number, any time
//!             |
//!          ready()                        what is to be done
//!             |
//!   sync:   persist (hard_state, entries, snapshot; fsync if must_sync)  ->  storage_mut()
//!           send messages                 after persisting; a leader may send MsgApp before
//!           apply snapshot, committed_entries (apply_conf_change for accepted changes)
//!           advance()                     before the next ready()
//!
//!   async:  send messages; those to LOCAL_APPEND_THREAD and LOCAL_APPLY_THREAD are work orders:
//!             StorageAppend   persist, then put into storage_mut(), then deliver its responses
//!             StorageApply    apply, then deliver its response
//!           each thread in order, each response exactly once and not before the work is done
//!           (a StorageAppend without responses may stay unsynced); no advance()
//!             Vote            send when the StorageAppend of the same Ready is done, as if it were one of
//!                             its responses
//! ```
//!
//! In sync mode a node restarted after a crash is as good as one that was slow. In async mode the same holds
//! because the promises (votes, append acknowledgements, own ones included) are the *responses* of the write
//! that makes them true. To ask for votes is a promise, too: never to be a candidate of that term with another log.
//! (etcd's library does not say so. A candidate that asks, forgets the term in a crash, and is a candidate of it
//! again with a shorter log is elected by votes that were cast for the longer.)
//!
//! # A group of one
//!
//! ```
//! use bytes::Bytes;
//! use norn_raft::{Config, EntryKind, MemStorage, NodeId, Peer, RawNode, codec};
//!
//! let config = Config::new(NodeId(1), 42);
//! let mut node = RawNode::new(config, MemStorage::new()).unwrap();
//! node.bootstrap(vec![Peer { id: NodeId(1), context: Bytes::new() }]).unwrap();
//! let mut applied = Vec::new();
//! let mut proposed = false;
//! while applied.is_empty() {
//!     node.tick();
//!     if node.is_leader() && !proposed {
//!         node.propose(Bytes::from_static(b"hello")).unwrap();
//!         proposed = true;
//!     }
//!     while node.has_ready() {
//!         let ready = node.ready();
//!         // Here a real application writes to its disk.
//!         let storage = node.storage_mut();
//!         if let Some(hard_state) = ready.hard_state {
//!             storage.set_hard_state(hard_state);
//!         }
//!         storage.append(ready.entries);
//!         // Here it sends `ready.messages`; a group of one has none.
//!         for entry in ready.committed_entries {
//!             match entry.kind {
//!                 EntryKind::Normal if entry.data.is_empty() => {} // a new leader's first entry
//!                 EntryKind::Normal => applied.push(entry.data),
//!                 EntryKind::ConfChange => {
//!                     let change = codec::decode_conf_change(entry.data).unwrap();
//!                     node.apply_conf_change(&change.to_v2()).unwrap();
//!                 }
//!                 EntryKind::ConfChangeV2 => {
//!                     let change = codec::decode_conf_change_v2(entry.data).unwrap();
//!                     node.apply_conf_change(&change).unwrap();
//!                 }
//!             }
//!         }
//!         node.advance();
//!     }
//! }
//! assert_eq!(applied, [Bytes::from_static(b"hello")]);
//! ```

#![forbid(unsafe_code)]

mod blocks;
pub mod codec;
pub mod confchange;
mod config;
mod election;
mod error;
mod inflights;
mod log;
mod member;
mod message;
mod progress;
pub mod quorum;
mod raft;
mod raw_node;
mod read;
mod ready;
mod replicate;
mod rng;
mod sink;
mod storage;
mod types;
mod unstable;

pub use config::{Config, ConfigError, ReadOnly};
pub use error::{DropReason, ProposeError, StepError};
pub use inflights::Inflights;
pub use message::{Message, MessageKind};
pub use progress::{Membership, Progress, ProgressState, Tracker};
pub use raw_node::{RawNode, Status};
pub use ready::Ready;
pub use sink::{LogLevel, LogLine};
pub use storage::{MemStorage, StorageError};
pub use types::{
    AnyConfChange, ConfChange, ConfChangeKind, ConfChangeSingle, ConfChangeTransition,
    ConfChangeV2, ConfState, Entry, EntryKind, HardState, Index, NodeId, Peer, ReadState, Role,
    Snapshot, SoftState, Term,
};
