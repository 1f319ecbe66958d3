//! What is asked of a run.

use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Random keys.
    Put,
    /// One key, again and again.
    Overwrite,
    Range,
    /// Many keys in one answer.
    List,
    /// Many keys in the pieces of `RangeStream`.
    Stream,
    Txn,
    /// Three linearizable ranges to a put.
    Mixed,
    /// What kube-apiserver does all day.
    Kube,
    Grant,
    KeepAlive,
    Watch,
}

#[derive(Clone, Debug)]
pub struct Options {
    pub kind: Kind,
    pub endpoints: Vec<String>,
    pub tls: Option<Arc<ClientConfig>>,
    pub clients: usize,
    pub conns: usize,
    pub key_bytes: usize,
    pub value_bytes: usize,
    pub keys: u64,
    pub limit: i64,
    pub serializable: bool,
    pub count_only: bool,
    pub keys_only: bool,
    pub duration: Duration,
    pub warmup: Duration,
    /// Calls per second; 0: as fast as answers come.
    pub rate: u64,
    pub seed: u64,
    pub pids: Vec<u32>,
    pub watchers: usize,
    pub streams: usize,
    /// Watchers are spread over so many keys.
    pub watched_keys: u64,
    /// Seconds, of granted leases.
    pub ttl: i64,
}
