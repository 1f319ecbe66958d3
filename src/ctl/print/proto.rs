//! The raw protobuf message of a reply.

use prost::Message as _;

use super::{Reply, Unsupported};

pub(super) fn render(out: &mut Vec<u8>, reply: &Reply<'_>) -> Result<(), Unsupported> {
    let bytes = match reply {
        Reply::Get(r) => r.encode_to_vec(),
        Reply::Put(r) => r.encode_to_vec(),
        Reply::Delete(r) => r.encode_to_vec(),
        Reply::Txn(r) => r.encode_to_vec(),
        Reply::Watch(r) => r.encode_to_vec(),
        Reply::Alarm(r) => r.encode_to_vec(),
        Reply::MemberAdd(r) => r.encode_to_vec(),
        Reply::MemberRemove(_, r) => r.encode_to_vec(),
        Reply::MemberUpdate(_, r) => r.encode_to_vec(),
        Reply::MemberPromote(_, r) => r.encode_to_vec(),
        Reply::MemberList(r) => r.encode_to_vec(),
        Reply::MoveLeader(_, _, r) => r.encode_to_vec(),
        Reply::Downgrade(_, r) => r.encode_to_vec(),
        Reply::AuthStatus(r) => r.encode_to_vec(),
        Reply::RoleAdd(_, r) => r.encode_to_vec(),
        Reply::RoleGet(_, r) => r.encode_to_vec(),
        Reply::RoleDelete(_, r) => r.encode_to_vec(),
        Reply::RoleList(r) => r.encode_to_vec(),
        Reply::RoleGrant(_, r) => r.encode_to_vec(),
        Reply::RoleRevoke(_, _, _, r) => r.encode_to_vec(),
        Reply::UserAdd(_, r) => r.encode_to_vec(),
        Reply::UserGet(_, r) => r.encode_to_vec(),
        Reply::UserList(r) => r.encode_to_vec(),
        Reply::UserDelete(_, r) => r.encode_to_vec(),
        Reply::UserPassword(r) => r.encode_to_vec(),
        Reply::UserGrant(_, _, r) => r.encode_to_vec(),
        Reply::UserRevoke(_, _, r) => r.encode_to_vec(),
        // etcdctl's own structs around these embed the header, and that is what they marshal as.
        Reply::LeaseGrant(r) => r.header.unwrap_or_default().encode_to_vec(),
        Reply::TimeToLive(r, _) => r.header.unwrap_or_default().encode_to_vec(),
        Reply::KeepAlive(r) => r.header.unwrap_or_default().encode_to_vec(),
        Reply::Leases(r) => r.header.unwrap_or_default().encode_to_vec(),
        Reply::LeaseRevoke(..) | Reply::Health(_) | Reply::Status(_) | Reply::HashKv(_) => {
            return Err(Unsupported);
        }
    };
    out.extend_from_slice(&bytes);
    Ok(())
}
