//! All members compared with each other and with the log.

use bytes::Bytes;
use norn_node::{Error, Method};
use norn_proto::etcdserverpb as pb;
use prost::Message as _;

use super::{CallFor, World};
use crate::check::hash::HashCheck;
use crate::history::Ask;
use crate::workload;

impl World {
    /// All members, asked for hash and content of their own state.
    pub fn compare(&mut self) {
        let revisions = self.members.iter().filter_map(|m| m.host.as_ref());
        let lowest = revisions.map(|host| host.node().store().current()).min().unwrap_or(0);
        for node in 0..self.members.len() {
            if self.members[node].host.is_none() || self.members[node].paused_until > self.now {
                continue;
            }
            for revision in [0, lowest] {
                let body = pb::HashKvRequest { revision }.encode_to_vec().into();
                self.call(node, CallFor::Hash, Method::HashKv, body);
            }
            let (method, body) = workload::encode(&Ask::Range { revision: 0, serializable: true });
            self.call(node, CallFor::Content, method, body);
        }
    }

    pub(super) fn hashed(&mut self, node: usize, result: Result<Bytes, Error>) {
        let Ok(Ok(r)) = result.map(pb::HashKvResponse::decode) else { return };
        // As in etcd, the hash that a compaction at this very revision left counts a tombstone that a scan leaves out.
        let host = self.members[node].host.as_ref();
        let kept = host.and_then(|host| host.node().store().compaction_hash(r.hash_revision));
        let from = (r.hash_revision, r.compact_revision, kept.is_some());
        let verdict = self.hashes.hash(node, from, r.hash);
        if let Err(failure) = verdict {
            self.fail(failure);
        }
    }

    pub(super) fn shown(&mut self, node: usize, result: Result<Bytes, Error>) {
        let Ok(Ok(r)) = result.map(pb::RangeResponse::decode) else { return };
        let revision = r.header.map_or(0, |h| h.revision);
        if self.raft.lost_at.is_none()
            && let Err(failure) = HashCheck::content(node, revision, &r.kvs, &self.raft.model)
        {
            self.fail(failure);
        }
    }
}
