//! What is kept in memory, as the revision log tells it.

use std::collections::BTreeSet;

use bytes::Bytes;
use norn_mvcc::{KeyIndex, KeyValue, Revision, Store};
use norn_planted::planted;
use norn_proto::{etcdserverpb as pb, leasepb};
use norn_storage::revlog::{Recovered, RevisionLog, Table};
use prost::Message;

use super::BootError;
use crate::Reader;
use crate::cluster::parse_version;
use crate::config::{CLUSTER_VERSION, Config};
use crate::image;
use crate::lease::Lessor;
use crate::members::{Member, Members};

/// The parts that come from the revision log.
pub(super) struct State {
    pub(super) store: Store,
    pub(super) lessor: Lessor,
    pub(super) members: Members,
    pub(super) alarms: BTreeSet<(u64, i32)>,
    pub(super) cluster_version: Option<String>,
    /// Revision of the image that the index comes from, and bytes read behind it.
    pub(super) image: Option<i64>,
    pub(super) scanned_bytes: u64,
    /// Why an image that was there is not what the index comes from.
    pub(super) image_refused: Option<String>,
}

impl State {
    /// Rebuilds everything kept in memory from the log: leases before keys, keys before their leases' lists.
    pub(super) fn read<R: Reader>(
        log: &RevisionLog<R>,
        recovered: Recovered,
        config: &Config,
    ) -> Result<State, BootError> {
        let auth_enabled = log.table(Table::Auth).get(&b"authEnabled"[..]);
        if auth_enabled.is_some_and(|value| value[..] == [1]) {
            let text = "authentication is enabled in this data, which this version cannot enforce";
            return Err(BootError(text.into()));
        }
        let mut lessor = Lessor::new(config.lease_ttl_min());
        for (_, value) in log.table(Table::Lease).iter() {
            let lease = leasepb::Lease::decode(value)
                .map_err(|error| BootError(format!("stored lease: {error}")))?;
            lessor.restore(lease.id, lease.ttl, lease.remaining_ttl);
        }
        let mut image_refused = recovered.index_damage.map(|error| error.to_string());
        let mut image = None;
        let mut index = KeyIndex::new();
        if let Some((main, bytes)) = recovered.index_image {
            match image::decode(&bytes, log.last_main().max(1), &mut lessor) {
                Ok(decoded) => (image, index) = (Some(main), decoded),
                Err(reason) => {
                    lessor.detach_all();
                    image_refused = Some(format!("image of revision {main}: {reason}"));
                }
            }
        }
        let (last, scanned_bytes) = read_on(log, image, &mut index, &mut lessor)?;
        let meta = log.table(Table::Meta);
        let revision = |key: &[u8]| {
            meta.get(key).and_then(|value| Revision::from_bytes(&value)).map_or(-1, |(r, _)| r.main)
        };
        let (finished, scheduled) =
            (revision(b"finishedCompactRev"), revision(b"scheduledCompactRev"));
        let store = Store::restore(index, last, finished, scheduled);
        let mut alarms = BTreeSet::new();
        for (key, _) in log.table(Table::Alarm).iter() {
            let alarm = pb::AlarmMember::decode(key)
                .map_err(|error| BootError(format!("stored alarm: {error}")))?;
            alarms.insert((alarm.member_id, alarm.alarm));
        }
        let version = log.table(Table::Cluster).get(&b"clusterVersion"[..]);
        let cluster_version = version.map(|v| String::from_utf8_lossy(&v).into_owned());
        if let Some(version) = &cluster_version
            && parse_version(version) > parse_version(CLUSTER_VERSION)
        {
            return Err(BootError(format!(
                "invalid downgrade; server version is lower than determined cluster version: \
                 {CLUSTER_VERSION} < {version}"
            )));
        }
        Ok(State {
            store,
            lessor,
            members: stored_members(log)?,
            alarms,
            cluster_version,
            image,
            scanned_bytes,
            image_refused,
        })
    }
}

pub(super) fn stored_members<R: Reader>(log: &RevisionLog<R>) -> Result<Members, BootError> {
    let mut members = Vec::new();
    for (_, json) in log.table(Table::Members).iter() {
        let member = Member::from_json(&json)
            .map_err(|error| BootError(format!("stored member: {error}")))?;
        members.push(member);
    }
    let removed = log.table(Table::MembersRemoved).iter();
    let removed = removed
        .filter_map(|(key, _)| u64::from_str_radix(std::str::from_utf8(&key).ok()?, 16).ok())
        .collect();
    Ok(Members::new(members, removed))
}

/// Brings an index up to date by reading the log behind it. Returns the last revision, and how many bytes were read.
fn read_on<R: Reader>(
    log: &RevisionLog<R>,
    behind: Option<i64>,
    index: &mut KeyIndex,
    lessor: &mut Lessor,
) -> Result<(i64, u64), BootError> {
    let mut last = behind.unwrap_or(1);
    let mut bytes = 0;
    let mut failed = None;
    log.scan((behind.map_or(0, |main| main + 1), 0), i64::MAX, &mut |main, sub, dead, record| {
        let kv = match KeyValue::decode(record) {
            Ok(kv) => kv,
            Err(error) => {
                failed = Some(BootError(format!("revision {main}.{sub}: {error}")));
                return std::ops::ControlFlow::Break(());
            }
        };
        let revision = Revision::new(main, sub);
        index.restore(&kv.key, revision, dead, kv.create_revision, kv.version);
        if dead {
            lessor.detach(&kv.key);
        } else {
            // The lease may be gone: then the key was put without it, or is about to be deleted.
            lessor.attach(&Bytes::copy_from_slice(&kv.key), kv.lease);
        }
        last = if planted!(RevisionOfSurvivors) && dead { last } else { main };
        bytes += record.len() as u64;
        std::ops::ControlFlow::Continue(())
    })?;
    match failed {
        Some(error) => Err(error),
        None if planted!(RevisionOfSurvivors) => Ok((last, bytes)),
        None => Ok((last.max(log.last_main()), bytes)),
    }
}
