//! `"Name" : value` lines.

use norn_proto::etcdserverpb as pb;
use norn_proto::{authpb, mvccpb};
use pb::response_op::Response;

use super::simple::alarm_name;
use super::{Reply, Unsupported, is_put};
use crate::go;

struct Lines<'a> {
    out: &'a mut Vec<u8>,
    hex: bool,
}

impl Lines<'_> {
    fn field(&mut self, name: &str, value: impl std::fmt::Display) {
        self.out.extend_from_slice(format!("\"{name}\" : {value}\n").as_bytes());
    }

    fn quoted(&mut self, name: &str, value: &[u8]) {
        self.field(name, go::quote(value));
    }

    fn id(&mut self, name: &str, value: u64) {
        if self.hex { self.field(name, format!("{value:x}")) } else { self.field(name, value) }
    }

    fn lease(&mut self, name: &str, value: i64) {
        if self.hex { self.field(name, format!("{value:016x}")) } else { self.field(name, value) }
    }

    fn header(&mut self, header: &Option<pb::ResponseHeader>) {
        let h = header.unwrap_or_default();
        self.id("ClusterID", h.cluster_id);
        self.id("MemberID", h.member_id);
        if h.revision > 0 {
            self.field("Revision", h.revision);
        }
        self.field("RaftTerm", h.raft_term);
    }

    fn pair(&mut self, prefix: &str, kv: &mvccpb::KeyValue) {
        self.quoted(&format!("{prefix}Key"), &kv.key);
        self.field(&format!("{prefix}CreateRevision"), kv.create_revision);
        self.field(&format!("{prefix}ModRevision"), kv.mod_revision);
        self.field(&format!("{prefix}Version"), kv.version);
        self.quoted(&format!("{prefix}Value"), &kv.value);
        self.lease(&format!("{prefix}Lease"), kv.lease);
    }

    fn blank(&mut self) {
        self.out.push(b'\n');
    }

    fn reply(&mut self, reply: &Reply<'_>) -> Result<(), Unsupported> {
        match reply {
            Reply::Get(r) => {
                self.header(&r.header);
                r.kvs.iter().for_each(|kv| self.pair("", kv));
                self.field("More", r.more);
                self.field("Count", r.count);
            }
            Reply::Put(r) => {
                self.header(&r.header);
                r.prev_kv.iter().for_each(|kv| self.pair("Prev", kv));
            }
            Reply::Delete(r) => {
                self.header(&r.header);
                self.field("Deleted", r.deleted);
                r.prev_kvs.iter().for_each(|kv| self.pair("Prev", kv));
            }
            Reply::Txn(r) => {
                self.header(&r.header);
                self.field("Succeeded", r.succeeded);
                for op in &r.responses {
                    match &op.response {
                        Some(Response::ResponseRange(r)) => self.reply(&Reply::Get(r))?,
                        Some(Response::ResponsePut(r)) => self.reply(&Reply::Put(r))?,
                        Some(Response::ResponseDeleteRange(r)) => self.reply(&Reply::Delete(r))?,
                        other => self.field("Unknown", go::quote(format!("{other:?}").as_bytes())),
                    }
                }
            }
            Reply::Watch(r) => {
                self.header(&r.header);
                for event in &r.events {
                    self.field("Type", if is_put(event) { "PUT" } else { "DELETE" });
                    event.prev_kv.iter().for_each(|kv| self.pair("Prev", kv));
                    self.pair("", &event.kv.clone().unwrap_or_default());
                }
            }
            Reply::LeaseGrant(r) => {
                self.header(&r.header);
                self.lease_id(r.id);
                self.field("TTL", r.ttl);
            }
            Reply::KeepAlive(r) => {
                self.header(&r.header);
                self.lease_id(r.id);
                self.field("TTL", r.ttl);
            }
            Reply::TimeToLive(r, _) => {
                self.header(&r.header);
                self.lease_id(r.id);
                self.field("TTL", r.ttl);
                self.field("GrantedTTL", r.granted_ttl);
                r.keys.iter().for_each(|key| self.quoted("Key", key));
            }
            Reply::Leases(r) => {
                self.header(&r.header);
                r.leases.iter().for_each(|l| self.lease_id(l.id));
            }
            Reply::Alarm(r) => {
                self.header(&r.header);
                for a in &r.alarms {
                    self.id("MemberID", a.member_id);
                    self.field("AlarmType", alarm_name(a.alarm));
                    self.blank();
                }
            }
            Reply::MemberList(r) => {
                self.header(&r.header);
                for m in &r.members {
                    self.id("ID", m.id);
                    self.quoted("Name", m.name.as_bytes());
                    m.peer_ur_ls.iter().for_each(|u| self.quoted("PeerURL", u.as_bytes()));
                    m.client_ur_ls.iter().for_each(|u| self.quoted("ClientURL", u.as_bytes()));
                    self.field("IsLearner", m.is_learner);
                    self.blank();
                }
            }
            Reply::Health(all) => {
                for h in *all {
                    self.quoted("Endpoint", h.endpoint.as_bytes());
                    self.field("Health", h.healthy);
                    self.field("Took", go::duration(h.took));
                    self.field("Error", &h.error);
                    self.blank();
                }
            }
            Reply::Status(all) => all.iter().for_each(|(endpoint, s)| self.status(endpoint, s)),
            Reply::HashKv(all) => {
                for (endpoint, h) in *all {
                    self.header(&h.header);
                    self.quoted("Endpoint", endpoint.as_bytes());
                    self.field("Hash", h.hash);
                    self.field("HashRevision", h.hash_revision);
                    self.blank();
                }
            }
            Reply::RoleGet(_, r) => {
                self.header(&r.header);
                for p in &r.perm {
                    let kind = authpb::permission::Type::try_from(p.perm_type)
                        .map_or_else(|_| p.perm_type.to_string(), |t| t.as_str_name().to_owned());
                    self.field("PermType", format!(" {kind}"));
                    self.quoted("Key", &p.key);
                    self.quoted("RangeEnd", &p.range_end);
                }
            }
            Reply::RoleList(r) => {
                self.header(&r.header);
                let roles: String =
                    r.roles.iter().map(|s| format!(" {}", go::quote(s.as_bytes()))).collect();
                self.out.extend_from_slice(format!("\"Roles\" :{roles}\n").as_bytes());
            }
            Reply::LeaseRevoke(_, r) => self.header(&r.header),
            Reply::RoleAdd(_, r) => self.header(&r.header),
            Reply::RoleDelete(_, r) => self.header(&r.header),
            Reply::RoleGrant(_, r) => self.header(&r.header),
            Reply::RoleRevoke(_, _, _, r) => self.header(&r.header),
            Reply::UserAdd(_, r) => self.header(&r.header),
            Reply::UserDelete(_, r) => self.header(&r.header),
            Reply::UserPassword(r) => self.header(&r.header),
            Reply::UserGrant(_, _, r) => self.header(&r.header),
            Reply::UserRevoke(_, _, r) => self.header(&r.header),
            Reply::MemberAdd(_)
            | Reply::MemberRemove(..)
            | Reply::MemberUpdate(..)
            | Reply::MemberPromote(..)
            | Reply::MoveLeader(..)
            | Reply::Downgrade(..)
            | Reply::AuthStatus(_)
            | Reply::UserGet(..)
            | Reply::UserList(_) => return Err(Unsupported),
        }
        Ok(())
    }

    fn lease_id(&mut self, id: i64) {
        self.lease("ID", id);
    }

    fn status(&mut self, endpoint: &str, s: &pb::StatusResponse) {
        let downgrade = s.downgrade_info.clone().unwrap_or_default();
        self.header(&s.header);
        self.quoted("Version", s.version.as_bytes());
        self.quoted("StorageVersion", s.storage_version.as_bytes());
        self.field("DBSize", s.db_size);
        self.field("DBSizeInUse", s.db_size_in_use);
        self.field("DBSizeQuota", s.db_size_quota);
        self.field("Leader", s.leader);
        self.field("IsLearner", s.is_learner);
        self.field("RaftIndex", s.raft_index);
        self.field("RaftTerm", s.raft_term);
        self.field("RaftAppliedIndex", s.raft_applied_index);
        self.field("Errors", format!("[{}]", s.errors.join(" ")));
        self.quoted("Endpoint", endpoint.as_bytes());
        self.quoted("DowngradeTargetVersion", downgrade.target_version.as_bytes());
        self.field("DowngradeEnabled", downgrade.enabled);
        self.blank();
    }
}

pub(super) fn render(out: &mut Vec<u8>, reply: &Reply<'_>, hex: bool) -> Result<(), Unsupported> {
    Lines { out, hex }.reply(reply)
}
