//! The revisioned key space: every change makes a new revision, and until compacted, any revision can be read.
//!
//! ```text
//!   revision   1        2           3            4            5 (txn)
//!   change     empty    put a=1     put b=1      delete a     put a=2 (5.0), put c=1 (5.1)
//! ```
//!
//! A [`Store`] holds the *key index* (for every key its revisions, in generations: lives between a put and a delete)
//! and the current and compacted revision. The values are elsewhere, behind the [`Values`] port, addressed by
//! [`Revision`]; their stored form is etcd's `mvccpb.KeyValue`, which is also their form on the wire, so a list is
//! copied from the log into the reply without being decoded.
//!
//! Invariants
//! - A pure function of its inputs: no clock, no thread, no file; the same operations give the same revisions,
//!   sub-revisions and hash on every member.
//! - The main revision grows by one for each transaction that changes something, the sub revision by one for each
//!   change within it.
//! - A key appears in the index exactly while some revision of it is kept.
//! - Reading below the compacted revision is an error, reading at it is not.
//!
//! Source followed: etcd's observable behaviour (reference: revision model, compaction, HashKV, transactions).

mod block;
mod branch;
mod error;
mod hash;
mod history;
mod image;
mod index;
mod key_value;
mod range;
mod revision;
mod store;
mod txn;
mod watch;

pub use error::Error;
pub use hash::{HashScan, KvHash};
pub use history::{KeyAt, KeyHistory, Tombstones};
pub use image::IndexEncoder;
pub use index::KeyIndex;
pub use key_value::{CodecError, KeyValue};
pub use range::{Bounds, KeyRange, RangeRequest, RangeResult, SortOrder, SortTarget};
pub use revision::Revision;
pub use store::{COMPACTION_HASHES_MAX, Change, CompactProgress, Store, Values, WriteTxn};
pub use txn::{
    ApplyError, CheckError, Compare, CompareOp, CompareTarget, DeleteRequest, DeleteResult, Op,
    OpResult, PutRequest, PutResult, TxnRequest, TxnResult, check_txn,
};
pub use watch::{Event, events_between};
