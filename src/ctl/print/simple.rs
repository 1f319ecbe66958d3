//! The default output: short lines for people and shell scripts.

use norn_proto::etcdserverpb as pb;
use norn_proto::{authpb, mvccpb};
use pb::response_op::Response;

use super::{Printer, Reply, hash_rows, is_put, member_rows, prefix_end, status_rows};
use crate::go;

pub(super) fn render(out: &mut Vec<u8>, reply: &Reply<'_>, printer: &Printer) {
    let mut line = |text: String| {
        out.extend_from_slice(text.as_bytes());
        out.push(b'\n');
    };
    match reply {
        Reply::Get(r) => {
            for kv in &r.kvs {
                pair(out, kv, printer);
            }
        }
        Reply::Put(r) => {
            line("OK".into());
            if let Some(kv) = &r.prev_kv {
                pair(out, kv, printer);
            }
        }
        Reply::Delete(r) => {
            line(r.deleted.to_string());
            for kv in &r.prev_kvs {
                pair(out, kv, printer);
            }
        }
        Reply::Txn(r) => {
            line(if r.succeeded { "SUCCESS" } else { "FAILURE" }.into());
            for op in &r.responses {
                out.push(b'\n');
                match &op.response {
                    Some(Response::ResponseRange(r)) => render(out, &Reply::Get(r), printer),
                    Some(Response::ResponsePut(r)) => render(out, &Reply::Put(r), printer),
                    Some(Response::ResponseDeleteRange(r)) => {
                        render(out, &Reply::Delete(r), printer);
                    }
                    other => {
                        out.extend_from_slice(
                            format!("unexpected response {other:?}\n").as_bytes(),
                        );
                    }
                }
            }
        }
        Reply::Watch(r) => {
            if r.events.is_empty() && !r.canceled && !r.created {
                line(format!("progress notify: {}", r.header.unwrap_or_default().revision));
            }
            for event in &r.events {
                out.extend_from_slice(if is_put(event) { b"PUT\n" } else { b"DELETE\n" });
                if let Some(kv) = &event.prev_kv {
                    pair(out, kv, printer);
                }
                pair(out, &event.kv.clone().unwrap_or_default(), printer);
            }
        }
        Reply::LeaseGrant(r) => line(format!("lease {:016x} granted with TTL({}s)", r.id, r.ttl)),
        Reply::LeaseRevoke(id, _) => line(format!("lease {id:016x} revoked")),
        Reply::KeepAlive(r) => line(format!("lease {:016x} keepalived with TTL({})", r.id, r.ttl)),
        Reply::TimeToLive(r, with_keys) => {
            if r.granted_ttl == 0 && r.ttl == -1 {
                return line(format!("lease {:016x} already expired", r.id));
            }
            let mut text = format!(
                "lease {:016x} granted with TTL({}s), remaining({}s)",
                r.id, r.granted_ttl, r.ttl
            );
            out.append(&mut std::mem::take(&mut text).into_bytes());
            if *with_keys {
                out.extend_from_slice(b", attached keys([");
                out.extend_from_slice(&r.keys.join(&b' '));
                out.extend_from_slice(b"])");
            }
            out.push(b'\n');
        }
        Reply::Leases(r) => {
            line(format!("found {} leases", r.leases.len()));
            r.leases.iter().for_each(|l| line(format!("{:016x}", l.id)));
        }
        Reply::Alarm(r) => {
            for a in &r.alarms {
                line(
                    format!("memberID:{} alarm:{} ", a.member_id, alarm_name(a.alarm))
                        .trim_end()
                        .into(),
                );
            }
        }
        Reply::MemberAdd(r) => {
            let member = r.member.clone().unwrap_or_default();
            let how = if member.is_learner { " as learner" } else { "" };
            let cluster = r.header.unwrap_or_default().cluster_id;
            line(format!("Member {:>16x} added{how} to cluster {cluster:>16x}", member.id));
        }
        Reply::MemberRemove(id, r) => member_line(out, *id, "removed from", r.header),
        Reply::MemberUpdate(id, r) => member_line(out, *id, "updated in", r.header),
        Reply::MemberPromote(id, r) => member_line(out, *id, "promoted in", r.header),
        Reply::MemberList(r) => member_rows(r).iter().for_each(|row| line(row.join(", "))),
        Reply::Health(all) => {
            for h in all.iter().filter(|h| h.healthy) {
                line(format!(
                    "{} is healthy: successfully committed proposal: took = {}",
                    h.endpoint,
                    go::duration(h.took)
                ));
            }
        }
        Reply::Status(all) => status_rows(all).iter().for_each(|row| line(row.join(", "))),
        Reply::HashKv(all) => hash_rows(all).iter().for_each(|row| line(row.join(", "))),
        Reply::MoveLeader(from, to, _) => {
            line(format!("Leadership transferred from {from:x} to {to:x}"));
        }
        Reply::Downgrade(action, r) => {
            line(format!("Downgrade {action} success, cluster version {}", r.version));
        }
        Reply::AuthStatus(r) => {
            line(format!("Authentication Status: {}", r.enabled));
            line(format!("AuthRevision: {}", r.auth_revision));
        }
        Reply::RoleAdd(role, _) => line(format!("Role {role} created")),
        Reply::RoleGet(role, r) => role_text(out, role, &r.perm),
        Reply::RoleDelete(role, _) => line(format!("Role {role} deleted")),
        Reply::RoleList(r) => r.roles.iter().for_each(|role| line(role.clone())),
        Reply::RoleGrant(role, _) => line(format!("Role {role} updated")),
        Reply::RoleRevoke(role, key, end, _) => {
            let key = String::from_utf8_lossy(key);
            line(match *end {
                b"" => format!("Permission of key {key} is revoked from role {role}"),
                b"\0" => {
                    format!("Permission of range [{key}, <open ended> is revoked from role {role}")
                }
                end => format!(
                    "Permission of range [{key}, {}) is revoked from role {role}",
                    String::from_utf8_lossy(end)
                ),
            });
        }
        Reply::UserAdd(user, _) => line(format!("User {user} created")),
        Reply::UserGet(user, r) => {
            line(format!("User: {user}"));
            let roles: String = r.roles.iter().map(|role| format!(" {role}")).collect();
            line(format!("Roles:{roles}"));
        }
        Reply::UserList(r) => r.users.iter().for_each(|user| line(user.clone())),
        Reply::UserDelete(user, _) => line(format!("User {user} deleted")),
        Reply::UserPassword(_) => line("Password updated".into()),
        Reply::UserGrant(user, role, _) => line(format!("Role {role} is granted to user {user}")),
        Reply::UserRevoke(user, role, _) => {
            line(format!("Role {role} is revoked from user {user}"));
        }
    }
}

pub(super) fn alarm_name(alarm: i32) -> String {
    pb::AlarmType::try_from(alarm)
        .map_or_else(|_| alarm.to_string(), |a| a.as_str_name().to_owned())
}

fn member_line(out: &mut Vec<u8>, id: u64, what: &str, header: Option<pb::ResponseHeader>) {
    let cluster = header.unwrap_or_default().cluster_id;
    out.extend_from_slice(format!("Member {id:>16x} {what} cluster {cluster:>16x}\n").as_bytes());
}

fn pair(out: &mut Vec<u8>, kv: &mvccpb::KeyValue, printer: &Printer) {
    if !printer.values_only {
        bytes_line(out, &kv.key, printer.hex);
    }
    bytes_line(out, &kv.value, printer.hex);
}

fn bytes_line(out: &mut Vec<u8>, bytes: &[u8], hex: bool) {
    if hex {
        for b in bytes {
            out.extend_from_slice(format!("\\x{b:02x}").as_bytes());
        }
    } else {
        out.extend_from_slice(bytes);
    }
    out.push(b'\n');
}

fn role_text(out: &mut Vec<u8>, role: &str, permissions: &[authpb::Permission]) {
    use authpb::permission::Type::{Read, Readwrite, Write};
    let mut section = |title: &str, kinds: [authpb::permission::Type; 2]| {
        out.extend_from_slice(title.as_bytes());
        out.push(b'\n');
        if role == "root" && permissions.is_empty() {
            out.extend_from_slice(b"\t[, <open ended>\n");
        }
        for p in permissions.iter().filter(|p| kinds.iter().any(|k| *k as i32 == p.perm_type)) {
            let (key, end) = (String::from_utf8_lossy(&p.key), &p.range_end[..]);
            let text = match end {
                b"" => format!("\t{key}\n"),
                b"\0" => format!("\t[{key}, <open ended>\n"),
                _ => {
                    let prefix = if end == prefix_end(&p.key) {
                        format!(" (prefix {key})")
                    } else {
                        String::new()
                    };
                    format!("\t[{key}, {}){prefix}\n", String::from_utf8_lossy(end))
                }
            };
            out.extend_from_slice(text.as_bytes());
        }
    };
    section(&format!("Role {role}\nKV Read:"), [Read, Readwrite]);
    section("KV Write:", [Write, Readwrite]);
}
