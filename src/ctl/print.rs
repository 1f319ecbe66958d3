//! Replies as text: one printer per output format, byte for byte what etcdctl prints.
//!
//! Printers are pure functions from a [`Reply`] to bytes, so that tests need no server.

mod fields;
mod json;
mod proto;
mod simple;
mod table;

use std::io::Write as _;
use std::time::Duration;

use norn_proto::{etcdserverpb as pb, mvccpb};

use crate::exit::{self, Exit, Outcome};
use crate::go;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    Fields,
    Json,
    Protobuf,
    Simple,
    Table,
}

/// Health of one endpoint, made up by the client.
#[derive(Debug, Clone)]
pub struct Health {
    pub endpoint: String,
    pub healthy: bool,
    pub took: Duration,
    pub error: String,
}

/// Everything a command may have to print.
#[derive(Debug)]
pub enum Reply<'a> {
    Get(&'a pb::RangeResponse),
    Put(&'a pb::PutResponse),
    Delete(&'a pb::DeleteRangeResponse),
    Txn(&'a pb::TxnResponse),
    Watch(&'a pb::WatchResponse),
    LeaseGrant(&'a pb::LeaseGrantResponse),
    LeaseRevoke(i64, &'a pb::LeaseRevokeResponse),
    /// With the keys asked for or not.
    TimeToLive(&'a pb::LeaseTimeToLiveResponse, bool),
    KeepAlive(&'a pb::LeaseKeepAliveResponse),
    Leases(&'a pb::LeaseLeasesResponse),
    Alarm(&'a pb::AlarmResponse),
    MemberAdd(&'a pb::MemberAddResponse),
    MemberRemove(u64, &'a pb::MemberRemoveResponse),
    MemberUpdate(u64, &'a pb::MemberUpdateResponse),
    MemberPromote(u64, &'a pb::MemberPromoteResponse),
    MemberList(&'a pb::MemberListResponse),
    Health(&'a [Health]),
    Status(&'a [(String, pb::StatusResponse)]),
    HashKv(&'a [(String, pb::HashKvResponse)]),
    /// From whom, to whom.
    MoveLeader(u64, u64, &'a pb::MoveLeaderResponse),
    Downgrade(&'static str, &'a pb::DowngradeResponse),
    AuthStatus(&'a pb::AuthStatusResponse),
    RoleAdd(&'a str, &'a pb::AuthRoleAddResponse),
    RoleGet(&'a str, &'a pb::AuthRoleGetResponse),
    RoleDelete(&'a str, &'a pb::AuthRoleDeleteResponse),
    RoleList(&'a pb::AuthRoleListResponse),
    RoleGrant(&'a str, &'a pb::AuthRoleGrantPermissionResponse),
    /// Role, key, end.
    RoleRevoke(&'a str, &'a [u8], &'a [u8], &'a pb::AuthRoleRevokePermissionResponse),
    UserAdd(&'a str, &'a pb::AuthUserAddResponse),
    UserGet(&'a str, &'a pb::AuthUserGetResponse),
    UserList(&'a pb::AuthUserListResponse),
    UserDelete(&'a str, &'a pb::AuthUserDeleteResponse),
    UserPassword(&'a pb::AuthUserChangePasswordResponse),
    UserGrant(&'a str, &'a str, &'a pb::AuthUserGrantRoleResponse),
    UserRevoke(&'a str, &'a str, &'a pb::AuthUserRevokeRoleResponse),
}

/// The format cannot show this reply.
#[derive(Debug, PartialEq, Eq)]
pub struct Unsupported;

#[derive(Debug, Clone, Copy)]
pub struct Printer {
    pub format: Format,
    pub hex: bool,
    /// `get --print-value-only`.
    pub values_only: bool,
}

impl Printer {
    pub fn new(format: &str, hex: bool) -> Outcome<Self> {
        let format = match format {
            "fields" => Format::Fields,
            "json" => Format::Json,
            "protobuf" => Format::Protobuf,
            "simple" => Format::Simple,
            "table" => Format::Table,
            _ => return Err(Exit::new(exit::BAD_FEATURE, "unsupported output format")),
        };
        Ok(Self { format, hex, values_only: false })
    }

    pub fn render(&self, reply: &Reply<'_>) -> Result<Vec<u8>, Unsupported> {
        let mut out = Vec::new();
        match self.format {
            Format::Simple => simple::render(&mut out, reply, self),
            Format::Fields => fields::render(&mut out, reply, self.hex)?,
            Format::Json => json::render(&mut out, reply, self.hex),
            Format::Protobuf => proto::render(&mut out, reply)?,
            Format::Table => table::render(&mut out, reply)?,
        }
        Ok(out)
    }

    pub fn print(&self, reply: &Reply<'_>) -> Outcome {
        let out = self.render(reply).map_err(|Unsupported| {
            let name = match self.format {
                Format::Fields => "fields",
                Format::Json => "json",
                Format::Protobuf => "protobuf",
                Format::Simple => "simple",
                Format::Table => "table",
            };
            Exit::new(exit::BAD_FEATURE, format!("{name} not supported as output format"))
        })?;
        let mut stdout = std::io::stdout().lock();
        // A closed pipe is the reader's wish, not an error of the command.
        let _ = stdout.write_all(&out).and_then(|()| stdout.flush());
        Ok(())
    }
}

/// The rows of `member list`, shared by the simple and the table form.
fn member_rows(reply: &pb::MemberListResponse) -> Vec<Vec<String>> {
    reply
        .members
        .iter()
        .map(|m| {
            let status = if m.name.is_empty() { "unstarted" } else { "started" };
            vec![
                format!("{:x}", m.id),
                status.into(),
                m.name.clone(),
                m.peer_ur_ls.join(","),
                m.client_ur_ls.join(","),
                m.is_learner.to_string(),
            ]
        })
        .collect()
}

fn status_rows(statuses: &[(String, pb::StatusResponse)]) -> Vec<Vec<String>> {
    statuses
        .iter()
        .map(|(endpoint, s)| {
            let header = s.header.unwrap_or_default();
            let unused = if s.db_size > 0 {
                (((s.db_size - s.db_size_in_use) as f64 / s.db_size as f64) * 100.0) as i64
            } else {
                0
            };
            let downgrade = s.downgrade_info.clone().unwrap_or_default();
            vec![
                endpoint.clone(),
                format!("{:x}", header.member_id),
                s.version.clone(),
                s.storage_version.clone(),
                go::size(s.db_size as u64),
                go::size(s.db_size_in_use as u64),
                format!("{unused}%"),
                go::size(s.db_size_quota as u64),
                (s.leader == header.member_id).to_string(),
                s.is_learner.to_string(),
                s.raft_term.to_string(),
                s.raft_index.to_string(),
                s.raft_applied_index.to_string(),
                s.errors.join(", "),
                downgrade.target_version.clone(),
                downgrade.enabled.to_string(),
            ]
        })
        .collect()
}

fn hash_rows(hashes: &[(String, pb::HashKvResponse)]) -> Vec<Vec<String>> {
    hashes
        .iter()
        .map(|(endpoint, h)| {
            vec![endpoint.clone(), h.hash.to_string(), h.hash_revision.to_string()]
        })
        .collect()
}

/// The end of the range of all keys that start with `prefix`; `\0` when there is no such end.
pub fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return end;
        }
    }
    vec![0]
}

fn is_put(event: &mvccpb::Event) -> bool {
    event.r#type == mvccpb::event::EventType::Put as i32
}

#[cfg(test)]
mod tests;
