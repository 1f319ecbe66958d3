//! Any protobuf bytes as requests: as commands of the log, there and back, and as calls to a running node.

use bytes::Bytes;
use norn_node::{Command, CommandError, Config, Method};
use norn_proto::etcdserverpb as pb;
use prost::Message;

use crate::choices::Choices;
use crate::memory;
use crate::world::World;

/// The first byte says whether the rest is a command of the log or calls.
pub fn body(bytes: &[u8]) {
    let mut choices = Choices::new(bytes);
    if !choices.one_in(4) {
        command(choices.rest());
    } else {
        calls(&mut choices);
    }
}

/// What is understood says the same to the generated message, and survives encoding.
fn command(bytes: &[u8]) {
    let body = Bytes::copy_from_slice(bytes);
    // An empty field of two bytes can become a struct of a few hundred.
    let decoded = memory::bounded(bytes.len(), 512, 16 << 10, || Command::decode(body.clone()));
    let whole = pb::InternalRaftRequest::decode(body);
    match decoded {
        Ok((header, command)) => {
            let again = command.encode(&header);
            assert_eq!(Command::decode(again.clone()), Ok((header.clone(), command.clone())));
            let message = pb::InternalRaftRequest::decode(again).expect("our own encoding");
            let head = message.header.clone().unwrap_or_default();
            assert_eq!((head.id, head.auth_revision), (header.id, header.auth_revision));
            same_field(&command, &message);
        }
        Err(CommandError::Empty) => {
            // Nothing that we know is in it, whatever else is.
            if let Ok(whole) = whole {
                assert!(whole.put.is_none() && whole.txn.is_none() && whole.alarm.is_none());
            }
        }
        Err(CommandError::Malformed(_)) => {}
    }
}

fn same_field(command: &Command, message: &pb::InternalRaftRequest) {
    match command {
        Command::Range(m) => assert_eq!(message.range.as_ref(), Some(m)),
        Command::Put(m) => assert_eq!(message.put.as_ref(), Some(m)),
        Command::DeleteRange(m) => assert_eq!(message.delete_range.as_ref(), Some(m)),
        Command::Txn(m) => assert_eq!(message.txn.as_ref(), Some(m)),
        Command::Compaction(m) => assert_eq!(message.compaction.as_ref(), Some(m)),
        Command::LeaseGrant(m) => assert_eq!(message.lease_grant.as_ref(), Some(m)),
        Command::LeaseRevoke(m) => assert_eq!(message.lease_revoke.as_ref(), Some(m)),
        Command::Alarm(m) => assert_eq!(message.alarm.as_ref(), Some(m)),
        Command::LeaseCheckpoint(m) => assert_eq!(message.lease_checkpoint.as_ref(), Some(m)),
        _ => {}
    }
}

/// A node of one answers every call, in its own encoding, and goes on; what was refused changed nothing.
fn calls(choices: &mut Choices<'_>) {
    let mut world = World::new(1, small);
    let id = world.until_serving();
    let mut count = 0;
    while !choices.is_done() && count < 12 {
        count += 1;
        let (method, request) = call(choices);
        let before = world.node(id).store().current();
        match method {
            Method::Range => {
                check(&mut world, id, method, request, |r: pb::RangeResponse| r.header, before);
            }
            Method::Put => {
                check(&mut world, id, method, request, |r: pb::PutResponse| r.header, before);
            }
            Method::DeleteRange => {
                check(
                    &mut world,
                    id,
                    method,
                    request,
                    |r: pb::DeleteRangeResponse| r.header,
                    before,
                );
            }
            Method::Txn => {
                check(&mut world, id, method, request, |r: pb::TxnResponse| r.header, before);
            }
            Method::Compact => {
                check(
                    &mut world,
                    id,
                    method,
                    request,
                    |r: pb::CompactionResponse| r.header,
                    before,
                );
            }
            Method::LeaseGrant => {
                check(
                    &mut world,
                    id,
                    method,
                    request,
                    |r: pb::LeaseGrantResponse| r.header,
                    before,
                );
            }
            Method::LeaseTimeToLive => {
                check(
                    &mut world,
                    id,
                    method,
                    request,
                    |r: pb::LeaseTimeToLiveResponse| r.header,
                    before,
                );
            }
            Method::HashKv => {
                check(&mut world, id, method, request, |r: pb::HashKvResponse| r.header, before);
            }
            _ => {
                check(&mut world, id, method, request, |r: pb::AlarmResponse| r.header, before);
            }
        }
    }
    // An alarm that somebody raised refuses writes.
    if world.node(id).alarms().next().is_none() {
        world.put(id, "still", "here");
        assert_eq!(world.get(id, "still").as_deref(), Some("here"));
    }
}

fn check<M: Message + Default>(
    world: &mut World,
    id: u64,
    method: Method,
    request: Bytes,
    header: impl Fn(M) -> Option<pb::ResponseHeader>,
    before: i64,
) {
    let token = world.start_call_bytes(id, method, request);
    let reply = world.finish::<M>(id, token);
    let after = world.node(id).store().current();
    match reply {
        Ok(reply) => {
            let header = header(reply).expect("every reply has a header");
            assert_eq!(header.member_id, id);
            assert!(
                before <= header.revision && header.revision <= after,
                "{method:?}: {header:?}"
            );
        }
        Err(error) => {
            assert!(!error.to_string().is_empty());
            assert_eq!(before, after, "{method:?} was refused ({error}) and changed something");
        }
    }
}

/// A method, and bytes for it: any, or a request with fields from the input.
fn call(choices: &mut Choices<'_>) -> (Method, Bytes) {
    const METHODS: [Method; 9] = [
        Method::Range,
        Method::Put,
        Method::DeleteRange,
        Method::Txn,
        Method::Compact,
        Method::LeaseGrant,
        Method::LeaseTimeToLive,
        Method::HashKv,
        Method::Alarm,
    ];
    let method = METHODS[choices.below(METHODS.len())];
    if choices.bool() {
        return (method, Bytes::copy_from_slice(choices.bytes(120)));
    }
    let bytes = match method {
        Method::Range => range(choices).encode_to_vec(),
        Method::Put => put(choices).encode_to_vec(),
        Method::DeleteRange => delete(choices).encode_to_vec(),
        Method::Txn => txn(choices, 0).encode_to_vec(),
        Method::Compact => {
            let revision = i64::from(choices.byte()) - 4;
            pb::CompactionRequest { revision, physical: choices.bool() }.encode_to_vec()
        }
        Method::LeaseGrant => {
            let (ttl, id) = (choices.long() as i64 >> (choices.byte() % 64), number(choices));
            pb::LeaseGrantRequest { ttl, id }.encode_to_vec()
        }
        Method::LeaseTimeToLive => {
            pb::LeaseTimeToLiveRequest { id: number(choices), keys: choices.bool() }.encode_to_vec()
        }
        Method::HashKv => pb::HashKvRequest { revision: number(choices) }.encode_to_vec(),
        _ => pb::AlarmRequest {
            action: i32::from(choices.byte() % 4),
            member_id: choices.long() % 2,
            alarm: i32::from(choices.byte() % 4),
        }
        .encode_to_vec(),
    };
    (method, Bytes::from(bytes))
}

/// Mostly small, sometimes any.
fn number(choices: &mut Choices<'_>) -> i64 {
    match choices.byte() {
        255 => i64::MIN,
        254 => i64::MAX,
        253 => choices.long() as i64,
        small => i64::from(small) - 2,
    }
}

fn key(choices: &mut Choices<'_>) -> Bytes {
    Bytes::copy_from_slice(choices.bytes(3))
}

fn range(choices: &mut Choices<'_>) -> pb::RangeRequest {
    pb::RangeRequest {
        key: key(choices),
        range_end: key(choices),
        limit: number(choices),
        revision: number(choices),
        sort_order: i32::from(choices.byte() % 5) - 1,
        sort_target: i32::from(choices.byte() % 7) - 1,
        serializable: choices.bool(),
        keys_only: choices.bool(),
        count_only: choices.bool(),
        min_mod_revision: number(choices),
        max_mod_revision: number(choices),
        min_create_revision: number(choices),
        max_create_revision: number(choices),
    }
}

fn put(choices: &mut Choices<'_>) -> pb::PutRequest {
    pb::PutRequest {
        key: key(choices),
        value: Bytes::copy_from_slice(choices.bytes(20)),
        lease: number(choices),
        prev_kv: choices.bool(),
        ignore_value: choices.one_in(8),
        ignore_lease: choices.one_in(8),
    }
}

fn delete(choices: &mut Choices<'_>) -> pb::DeleteRangeRequest {
    pb::DeleteRangeRequest { key: key(choices), range_end: key(choices), prev_kv: choices.bool() }
}

fn txn(choices: &mut Choices<'_>, depth: u32) -> pb::TxnRequest {
    use pb::compare::TargetUnion;
    use pb::request_op::Request;
    let mut request = pb::TxnRequest::default();
    for _ in 0..choices.below(3) {
        let value = number(choices);
        request.compare.push(pb::Compare {
            result: i32::from(choices.byte() % 5),
            target: i32::from(choices.byte() % 6),
            key: key(choices),
            target_union: [
                None,
                Some(TargetUnion::Version(value)),
                Some(TargetUnion::CreateRevision(value)),
                Some(TargetUnion::ModRevision(value)),
                Some(TargetUnion::Value(key(choices))),
                Some(TargetUnion::Lease(value)),
            ][choices.below(6)]
            .clone(),
            range_end: key(choices),
        });
    }
    for _ in 0..choices.below(4) {
        let op = match choices.byte() % 5 {
            0 => Some(Request::RequestRange(range(choices))),
            1 => Some(Request::RequestPut(put(choices))),
            2 => Some(Request::RequestDeleteRange(delete(choices))),
            3 if depth < 3 => Some(Request::RequestTxn(txn(choices, depth + 1))),
            _ => None,
        };
        let op = pb::RequestOp { request: op };
        if choices.bool() { request.success.push(op) } else { request.failure.push(op) }
    }
    request
}

/// Small files: a fresh node must cost little.
pub(crate) fn small(config: &mut Config) {
    config.wal_segment_bytes = 16 << 10;
    config.revlog_segment_bytes = 4 << 10;
    config.cache_bytes = 64 << 10;
    config.snapshot_count = 40;
    config.catch_up_entries = 10;
    config.image_debt_bytes = 512;
    config.image_step_bytes = 256;
}
