//! One JSON object per reply, in the order and with the omissions of Go's `encoding/json` over etcd's structs.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use norn_proto::etcdserverpb as pb;
use norn_proto::mvccpb;
use pb::response_op::Response;

use super::{Health, Reply};
use crate::go;

/// An object under construction. `x` fields are left out when zero, `x_always` never.
struct Object {
    text: String,
    /// Ids as hex strings (`--hex`, member commands only).
    hex: bool,
}

impl Object {
    fn new() -> Self {
        Self { text: "{".into(), hex: false }
    }

    fn raw(mut self, name: &str, json: &str) -> Self {
        if self.text.len() > 1 {
            self.text.push(',');
        }
        self.text.push('"');
        self.text.push_str(name);
        self.text.push_str("\":");
        self.text.push_str(json);
        self
    }

    fn number(self, name: &str, value: impl Into<i128>) -> Self {
        match value.into() {
            0 => self,
            value => self.raw(name, &value.to_string()),
        }
    }

    fn number_always(self, name: &str, value: impl Into<i128>) -> Self {
        self.raw(name, &value.into().to_string())
    }

    fn id(self, name: &str, value: u64) -> Self {
        match self.hex {
            true => self.raw(name, &format!("\"{value:x}\"")),
            false => self.number(name, value),
        }
    }

    fn bool(self, name: &str, value: bool) -> Self {
        if value { self.raw(name, "true") } else { self }
    }

    fn string(self, name: &str, value: &str) -> Self {
        if value.is_empty() { self } else { self.raw(name, &go::json_string(value)) }
    }

    fn bytes(self, name: &str, value: &[u8]) -> Self {
        if value.is_empty() { self } else { self.raw(name, &base64(value)) }
    }

    fn object(self, name: &str, value: Option<String>) -> Self {
        match value {
            Some(json) => self.raw(name, &json),
            None => self,
        }
    }

    fn list(self, name: &str, items: Vec<String>) -> Self {
        if items.is_empty() { self } else { self.raw(name, &array(items)) }
    }

    fn strings(self, name: &str, items: &[String]) -> Self {
        self.list(name, items.iter().map(|s| go::json_string(s)).collect())
    }

    fn header(self, header: &Option<pb::ResponseHeader>) -> Self {
        let hex = self.hex;
        let text = header.map(|h| {
            Object { hex, ..Object::new() }
                .id("cluster_id", h.cluster_id)
                .id("member_id", h.member_id)
                .number("revision", h.revision)
                .number("raft_term", h.raft_term)
                .end()
        });
        self.object("header", text)
    }

    /// The header's fields as the object's own, as lease replies have them.
    fn inline_header(self, header: &Option<pb::ResponseHeader>) -> Self {
        let h = header.unwrap_or_default();
        self.number("cluster_id", h.cluster_id)
            .number("member_id", h.member_id)
            .number("revision", h.revision)
            .number("raft_term", h.raft_term)
    }

    fn end(mut self) -> String {
        self.text.push('}');
        self.text
    }
}

fn base64(bytes: &[u8]) -> String {
    format!("\"{}\"", STANDARD.encode(bytes))
}

fn array(items: Vec<String>) -> String {
    format!("[{}]", items.join(","))
}

fn pair(kv: &mvccpb::KeyValue) -> String {
    Object::new()
        .bytes("key", &kv.key)
        .number("create_revision", kv.create_revision)
        .number("mod_revision", kv.mod_revision)
        .number("version", kv.version)
        .bytes("value", &kv.value)
        .number("lease", kv.lease)
        .end()
}

fn range(r: &pb::RangeResponse) -> String {
    Object::new()
        .header(&r.header)
        .list("kvs", r.kvs.iter().map(pair).collect())
        .bool("more", r.more)
        .number("count", r.count)
        .end()
}

fn put(r: &pb::PutResponse) -> String {
    Object::new().header(&r.header).object("prev_kv", r.prev_kv.as_ref().map(pair)).end()
}

fn delete(r: &pb::DeleteRangeResponse) -> String {
    Object::new()
        .header(&r.header)
        .number("deleted", r.deleted)
        .list("prev_kvs", r.prev_kvs.iter().map(pair).collect())
        .end()
}

fn txn(r: &pb::TxnResponse) -> String {
    let responses = r.responses.iter().map(|op| {
        let inner = match &op.response {
            Some(Response::ResponseRange(r)) => {
                Object::new().raw("response_range", &range(r)).end()
            }
            Some(Response::ResponsePut(r)) => Object::new().raw("response_put", &put(r)).end(),
            Some(Response::ResponseDeleteRange(r)) => {
                Object::new().raw("response_delete_range", &delete(r)).end()
            }
            Some(Response::ResponseTxn(r)) => Object::new().raw("response_txn", &txn(r)).end(),
            None => "null".into(),
        };
        Object::new().raw("Response", &inner).end()
    });
    Object::new()
        .header(&r.header)
        .bool("succeeded", r.succeeded)
        .list("responses", responses.collect())
        .end()
}

fn watch(r: &pb::WatchResponse) -> String {
    let events: Vec<String> = r
        .events
        .iter()
        .map(|e| {
            Object::new()
                .number("type", e.r#type)
                .object("kv", e.kv.as_ref().map(pair))
                .object("prev_kv", e.prev_kv.as_ref().map(pair))
                .end()
        })
        .collect();
    let header = Object::new().inline_header(&r.header).end();
    Object::new()
        .raw("Header", &header)
        .raw("Events", &array(events))
        .number_always("CompactRevision", r.compact_revision)
        .raw("Canceled", &r.canceled.to_string())
        .raw("Created", &r.created.to_string())
        .raw("CancelReason", &go::json_string(&r.cancel_reason))
        .end()
}

fn member(m: &pb::Member, hex: bool) -> String {
    Object { hex, ..Object::new() }
        .id("ID", m.id)
        .string("name", &m.name)
        .strings("peerURLs", &m.peer_ur_ls)
        .strings("clientURLs", &m.client_ur_ls)
        .bool("isLearner", m.is_learner)
        .end()
}

fn members(header: &Option<pb::ResponseHeader>, all: &[pb::Member], hex: bool) -> String {
    let list = all.iter().map(|m| member(m, hex)).collect();
    Object { hex, ..Object::new() }.header(header).list("members", list).end()
}

fn health(h: &Health) -> String {
    Object::new()
        .raw("endpoint", &go::json_string(&h.endpoint))
        .raw("health", &h.healthy.to_string())
        .raw("took", &go::json_string(&go::duration(h.took)))
        .string("error", &h.error)
        .end()
}

fn status(endpoint: &str, s: &pb::StatusResponse) -> String {
    let downgrade = s.downgrade_info.as_ref().map(|d| {
        Object::new().bool("enabled", d.enabled).string("targetVersion", &d.target_version).end()
    });
    let inner = Object::new()
        .header(&s.header)
        .string("version", &s.version)
        .number("dbSize", s.db_size)
        .number("leader", s.leader)
        .number("raftIndex", s.raft_index)
        .number("raftTerm", s.raft_term)
        .number("raftAppliedIndex", s.raft_applied_index)
        .strings("errors", &s.errors)
        .number("dbSizeInUse", s.db_size_in_use)
        .bool("isLearner", s.is_learner)
        .string("storageVersion", &s.storage_version)
        .number("dbSizeQuota", s.db_size_quota)
        .object("downgradeInfo", downgrade)
        .end();
    Object::new().raw("Endpoint", &go::json_string(endpoint)).raw("Status", &inner).end()
}

fn hash_kv(endpoint: &str, h: &pb::HashKvResponse) -> String {
    let inner = Object::new()
        .header(&h.header)
        .number("hash", h.hash)
        .number("compact_revision", h.compact_revision)
        .number("hash_revision", h.hash_revision)
        .end();
    Object::new().raw("Endpoint", &go::json_string(endpoint)).raw("HashKV", &inner).end()
}

/// A list that Go would have built by `append`: `null` while it is empty.
fn nullable(items: Vec<String>) -> String {
    if items.is_empty() { "null".into() } else { array(items) }
}

fn with_header(header: &Option<pb::ResponseHeader>) -> String {
    Object::new().header(header).end()
}

pub(super) fn render(out: &mut Vec<u8>, reply: &Reply<'_>, hex: bool) {
    let text = match reply {
        Reply::Get(r) => range(r),
        Reply::Put(r) => put(r),
        Reply::Delete(r) => delete(r),
        Reply::Txn(r) => txn(r),
        Reply::Watch(r) => watch(r),
        Reply::LeaseGrant(r) => Object::new()
            .inline_header(&r.header)
            .number_always("ID", r.id)
            .number_always("TTL", r.ttl)
            .raw("Error", &go::json_string(&r.error))
            .end(),
        Reply::KeepAlive(r) => Object::new()
            .inline_header(&r.header)
            .number_always("ID", r.id)
            .number_always("TTL", r.ttl)
            .end(),
        Reply::TimeToLive(r, _) => Object::new()
            .inline_header(&r.header)
            .number_always("id", r.id)
            .number_always("ttl", r.ttl)
            .number_always("granted-ttl", r.granted_ttl)
            .raw("keys", &nullable(r.keys.iter().map(|k| base64(k)).collect()))
            .end(),
        Reply::Leases(r) => Object::new()
            .inline_header(&r.header)
            .raw(
                "leases",
                &array(
                    r.leases
                        .iter()
                        .map(|l| Object::new().number_always("id", l.id).end())
                        .collect(),
                ),
            )
            .end(),
        Reply::LeaseRevoke(_, r) => with_header(&r.header),
        Reply::Alarm(r) => Object::new()
            .header(&r.header)
            .list(
                "alarms",
                r.alarms
                    .iter()
                    .map(|a| {
                        Object::new().number("memberID", a.member_id).number("alarm", a.alarm).end()
                    })
                    .collect(),
            )
            .end(),
        Reply::MemberAdd(r) => Object { hex, ..Object::new() }
            .header(&r.header)
            .object("member", r.member.as_ref().map(|m| member(m, hex)))
            .list("members", r.members.iter().map(|m| member(m, hex)).collect())
            .end(),
        Reply::MemberRemove(_, r) => members(&r.header, &r.members, hex),
        Reply::MemberUpdate(_, r) => members(&r.header, &r.members, hex),
        Reply::MemberPromote(_, r) => members(&r.header, &r.members, hex),
        Reply::MemberList(r) => members(&r.header, &r.members, hex),
        Reply::Health(all) => nullable(all.iter().map(health).collect()),
        Reply::Status(all) => nullable(all.iter().map(|(e, s)| status(e, s)).collect()),
        Reply::HashKv(all) => nullable(all.iter().map(|(e, h)| hash_kv(e, h)).collect()),
        Reply::MoveLeader(_, _, r) => with_header(&r.header),
        Reply::Downgrade(_, r) => {
            Object::new().header(&r.header).string("version", &r.version).end()
        }
        Reply::AuthStatus(r) => Object::new()
            .header(&r.header)
            .bool("enabled", r.enabled)
            .number("authRevision", r.auth_revision)
            .end(),
        Reply::RoleGet(_, r) => {
            let perm = r.perm.iter().map(|p| {
                Object::new()
                    .number("permType", p.perm_type)
                    .bytes("key", &p.key)
                    .bytes("range_end", &p.range_end)
                    .end()
            });
            Object::new().header(&r.header).list("perm", perm.collect()).end()
        }
        Reply::RoleList(r) => Object::new().header(&r.header).strings("roles", &r.roles).end(),
        Reply::UserGet(_, r) => Object::new().header(&r.header).strings("roles", &r.roles).end(),
        Reply::UserList(r) => Object::new().header(&r.header).strings("users", &r.users).end(),
        Reply::RoleAdd(_, r) => with_header(&r.header),
        Reply::RoleDelete(_, r) => with_header(&r.header),
        Reply::RoleGrant(_, r) => with_header(&r.header),
        Reply::RoleRevoke(_, _, _, r) => with_header(&r.header),
        Reply::UserAdd(_, r) => with_header(&r.header),
        Reply::UserDelete(_, r) => with_header(&r.header),
        Reply::UserPassword(r) => with_header(&r.header),
        Reply::UserGrant(_, _, r) => with_header(&r.header),
        Reply::UserRevoke(_, _, r) => with_header(&r.header),
    };
    out.extend_from_slice(text.as_bytes());
    out.push(b'\n');
}
