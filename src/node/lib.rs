//! The whole server as one state machine: raft, apply, leases, members, alarms, reads and watchers.
//!
//! ```text
//!            inputs                                             Ready
//!   calls ─────────────┐                          ┌──> disk batches (submit first)
//!   peer messages ─────┤                          ├──> messages to members
//!   disk completions ──┼──> step ... ready() ─────┼──> replies
//!   watch requests ────┤      ^          │        ├──> watch responses
//!   time ──────────────┘      │          v        └──> events for adapters and operators
//!                             └──── advance(ticket)
//! ```
//!
//! Calling order: [`Node::step`] any number of times, [`Node::ready`], obey the [`Ready`] from top to bottom,
//! [`Node::advance`] with its ticket. Anything else asserts. [`Host`] is that loop.
//!
//! Durable before visible: an acknowledgement, vote or reply that promises something leaves the node only after the
//! completion of the disk batch that makes it so has come back as an input. Whatever a Ready lists may leave at once.
//!
//! What the node is not told it does not know: there is no clock, thread, socket, file or random source below this
//! crate. Same inputs, same outputs.

mod apply;
mod backend;
mod boot;
mod calls;
mod cluster;
mod command;
mod compaction;
mod compactor;
mod config;
mod convert;
mod counters;
mod disk_work;
mod downgrade;
mod error;
mod export;
mod host;
mod house;
mod image;
mod import;
mod input;
mod inspect;

mod lease;
mod limits;
mod mail;
mod members;
mod node;
mod pace;
mod range_stream;
mod reads;
mod received;
mod request_ids;
mod time;
mod told;
mod watched;
mod watchers;
mod wire;

pub use backend::BackendError;
pub use boot::BootError;
pub use cluster::{parse_version, short_version};
pub use command::{Command, CommandError, CommandHeader, OPS};
pub use config::{AutoCompaction, CLUSTER_VERSION, Config, SERVER_VERSION, Start};
pub use counters::{Counters, LEASE_TTL_BOUNDS};
pub use error::{Code, Error};
pub use host::{Host, Ports};
pub use input::{Input, Method, NodeEvent, Ready, Severity, Token};
pub use lease::{LeaseTime, Lessor};
pub use limits::{Holding, Limits};
pub use members::{ChangeContext, Member, Members, cluster_id, is_peer_url, quorum};
pub use node::{Node, Ticket};
pub use range_stream::RangeStream;
pub use time::Time;
pub use watchers::{RESPONSES_IN_FLIGHT_MAX, StreamId, WatchLimits, Watchers};
pub use wire::{Header, Writer};

/// A read handle of the disk that can be had more than once.
pub trait Reader: norn_storage::DiskRead + Clone {}

impl<T: norn_storage::DiskRead + Clone> Reader for T {}
