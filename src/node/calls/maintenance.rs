//! What a member says of itself: its status and its hashes.

use bytes::Bytes;
use norn_proto::etcdserverpb as pb;
use norn_storage::revlog::Table;
use prost::Message;

use super::decode;
use crate::wire::Writer;
use crate::{Error, Node, Reader};

impl<R: Reader> Node<R> {
    pub(super) fn status_reply(&self) -> Bytes {
        let (db_bytes, used_bytes) = self.db_bytes();
        let mut errors = Vec::new();
        if !self.has_leader() {
            errors.push(Error::NoLeader.to_string());
        }
        // (In protobuf's text format, which leaves zeros out.)
        for (member, kind) in &self.alarms {
            let mut fields = Vec::new();
            if *member != 0 {
                fields.push(format!("memberID:{member}"));
            }
            match pb::AlarmType::try_from(*kind) {
                Ok(pb::AlarmType::None) => {}
                Ok(kind) => fields.push(format!("alarm:{}", kind.as_str_name())),
                Err(_) => fields.push(format!("alarm:{kind}")),
            }
            errors.push(fields.join(" "));
        }
        let quota = match self.config.quota_bytes {
            0 => 2 << 30,
            bytes => bytes,
        };
        let downgrade = self.downgrade_target();
        let header = self.header();
        pb::StatusResponse {
            header: Some(pb::ResponseHeader {
                cluster_id: header.cluster_id,
                member_id: header.member_id,
                revision: header.revision,
                raft_term: header.raft_term,
            }),
            version: crate::config::SERVER_VERSION.to_owned(),
            db_size: db_bytes.cast_signed(),
            leader: self.raft.leader().0,
            raft_index: self.raft.committed().0,
            raft_term: self.applied_term,
            raft_applied_index: self.applied,
            errors,
            db_size_in_use: used_bytes.cast_signed(),
            is_learner: self.is_learner(),
            storage_version: self.storage_version().unwrap_or_default(),
            db_size_quota: quota,
            downgrade_info: Some(pb::DowngradeInfo {
                enabled: downgrade.is_some(),
                target_version: downgrade.unwrap_or_default(),
            }),
        }
        .encode_to_vec()
        .into()
    }

    /// CRC-32C over every bucket, in name order: name, then keys and values, but for what differs between members.
    pub(super) fn hash_reply(&self) -> Result<Bytes, Error> {
        let mut crc = 0;
        let mut add = |bytes: &[u8]| crc = crc32c::crc32c_append(crc, bytes);
        let skipped = [&b"term"[..], b"consistent_index", b"storageVersion"];
        let before =
            [Table::Alarm, Table::Auth, Table::AuthRoles, Table::AuthUsers, Table::Cluster];
        let after = [Table::Lease, Table::Members, Table::MembersRemoved, Table::Meta];
        for table in before {
            add(crate::export::bucket_name(table).as_bytes());
            for (key, value) in self.backend.log.table(table).iter() {
                add(&key);
                add(&value);
            }
        }
        add(b"key");
        let all = norn_mvcc::Revision::default();
        norn_mvcc::Values::scan(&self.backend, all, i64::MAX, &mut |revision, tombstone, value| {
            let (key, len) = revision.to_bytes(tombstone);
            add(&key[..len]);
            add(value);
            std::ops::ControlFlow::Continue(())
        })
        .map_err(|error| Error::Storage(error.to_string()))?;
        for table in after {
            add(crate::export::bucket_name(table).as_bytes());
            for (key, value) in self.backend.log.table(table).iter() {
                if table != Table::Meta || !skipped.contains(&&key[..]) {
                    add(&key);
                    add(&value);
                }
            }
        }
        let mut w = Writer::default();
        w.header(&self.header());
        w.uint(2, u64::from(crc));
        Ok(w.finish())
    }

    pub(super) fn hash_kv_reply(&self, body: Bytes) -> Result<Bytes, Error> {
        let r: pb::HashKvRequest = decode(body)?;
        let hash = match self.store.hash(r.revision).map_err(Error::from_infallible)? {
            Ok(hash) => hash,
            Err(scan) => scan.run(self.store.index(), &self.backend)?,
        };
        let mut w = Writer::default();
        w.header(&self.header());
        w.uint(2, u64::from(hash.hash));
        w.int(3, hash.compact_revision);
        w.int(4, hash.hash_revision);
        Ok(w.finish())
    }
}
