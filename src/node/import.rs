//! A bbolt database becomes the state: a snapshot from a leader, or the data directory of an etcd.
//!
//! The revision log is written from nothing. Until its last batch, which carries the applied index, it claims to
//! have applied nothing; so an import that was interrupted is seen as such and done again.

use std::ops::ControlFlow;

use bytes::Bytes;
use norn_mvcc::Revision;
use norn_planted::planted;
use norn_proto::mvccpb;
use norn_storage::bbolt::{BoltError, BoltReader, FileSource};
use norn_storage::revlog::{
    Batch, RevLogOptions, RevisionLog, RevisionRecord, Table, TableRecord, VALUE_BYTES_MAX,
};
use norn_storage::{Disk, DiskOp, FileName};
use prost::Message as _;

use crate::Reader;
use crate::boot::BootError;
use crate::export::{KEY_BUCKET, TABLES, bucket_name};

/// Revisions per batch, and bytes of their values: bounds memory to little and one value, and is half a millisecond of work, after which
/// the thread may rest.
const BATCH_RECORDS: usize = 256;
const BATCH_BYTES: usize = 128 << 10;

/// The highest revision and version that is believed: a million writes a second do not get there in a hundred thousand years, and one
/// more is a number still.
const REVISION_MAX: i64 = 1 << 62;

impl From<BoltError> for BootError {
    fn from(error: BoltError) -> BootError {
        BootError(format!("database: {error}"))
    }
}

/// The applied index that a database claims.
pub(crate) fn consistent_index<R: Reader>(reader: &R, file: &FileName) -> Result<u64, BootError> {
    let db = BoltReader::open(FileSource { disk: reader, file: file.clone() })?;
    let Some(meta) = db.bucket(bucket_name(Table::Meta).as_bytes())? else { return Ok(0) };
    Ok(number(db.value(&meta, b"consistent_index")?))
}

/// Replaces whatever is in `dir` by the content of the database `file`.
pub(crate) fn import<D: Disk, R: Reader>(
    disk: &mut D,
    reader: &R,
    dir: &FileName,
    options: RevLogOptions,
    file: &FileName,
) -> Result<RevisionLog<R>, BootError> {
    if !planted!(ImportOverLeftovers) {
        wipe(disk, dir)?;
    }
    let (mut log, _) = RevisionLog::open(disk, reader.clone(), dir.clone(), options)?;
    let db = BoltReader::open(FileSource { disk: reader, file: file.clone() })?;
    let mut tables = Vec::new();
    let (mut index, mut term) = (0, 0);
    for table in TABLES {
        let Some(bucket) = db.bucket(bucket_name(table).as_bytes())? else { continue };
        let mut no_key = false;
        db.scan(&bucket, &[], &mut |key, value| {
            match (table, &key[..]) {
                // (bbolt writes none, nor could we.)
                (_, b"") => no_key = true,
                (Table::Meta, b"consistent_index") => index = number(Some(value.clone())),
                (Table::Meta, b"term") => term = number(Some(value.clone())),
                (Table::Meta, b"confState") => {}
                _ => {
                    tables.push(TableRecord {
                        table,
                        key: key.clone(),
                        value: Some(value.clone()),
                    });
                }
            }
            ControlFlow::Continue(())
        })?;
        if no_key {
            return Err(BootError(format!("{file}: {}: a key of 0 bytes", bucket_name(table))));
        }
    }
    let mut revisions: Vec<RevisionRecord> = Vec::new();
    let mut failed = None;
    if let Some(bucket) = db.bucket(KEY_BUCKET.as_bytes())? {
        let (mut last, mut bytes) = ((0, -1), 0);
        db.scan(&bucket, &[], &mut |key, value| {
            let record = match record(key, value, last) {
                Ok(record) => record,
                Err(what) => {
                    failed = Some(BootError(format!("{file}: {what}")));
                    return ControlFlow::Break(());
                }
            };
            last = (record.main, record.sub);
            bytes += record.value.len();
            revisions.push(record);
            if revisions.len() >= BATCH_RECORDS || bytes >= BATCH_BYTES {
                let batch = Batch { applied_index: 0, term: 0, revisions: &revisions, tables: &[] };
                if let Err(error) = write(disk, &mut log, &batch) {
                    failed = Some(error);
                    return ControlFlow::Break(());
                }
                revisions.clear();
                bytes = 0;
            }
            ControlFlow::Continue(())
        })?;
    }
    if let Some(error) = failed {
        return Err(error);
    }
    let batch = Batch { applied_index: index, term, revisions: &revisions, tables: &tables };
    write(disk, &mut log, &batch)?;
    let mut ops = Vec::new();
    let ticket = log.checkpoint(&mut ops).ok_or(BootError("checkpoint under way".into()))?;
    run(disk, &ops)?;
    log.checkpointed(ticket, true);
    Ok(log)
}

/// An element of the key bucket behind the revision `last`, or what is wrong with it.
fn record(key: &[u8], value: &[u8], last: (i64, i64)) -> Result<RevisionRecord, String> {
    // (As a slice it would keep a whole page of the database in memory.)
    let value = Bytes::copy_from_slice(value);
    let (revision, tombstone) = Revision::from_bytes(key)
        .ok_or_else(|| format!("a revision key of {} bytes", key.len()))?;
    let (main, sub) = (revision.main, revision.sub);
    let is_number = (0..=REVISION_MAX).contains(&main) && (0..=i64::from(u32::MAX)).contains(&sub);
    if !is_number || (main, sub) <= last {
        return Err(format!("revision {main}.{sub} after {}.{}", last.0, last.1));
    }
    // (Strictly: it goes to clients as it is.)
    let kv = mvccpb::KeyValue::decode(value.clone())
        .map_err(|error| format!("revision {main}.{sub}: {error}"))?;
    // (A revision that etcd's restore has made up, to begin behind it, is empty.)
    let is_sound = (0..=main).contains(&kv.create_revision)
        && (0..=REVISION_MAX).contains(&kv.version)
        && value.len() <= VALUE_BYTES_MAX;
    if !is_sound {
        return Err(format!("revision {main}.{sub}: {} bytes that no server wrote", value.len()));
    }
    Ok(RevisionRecord { main, sub, tombstone, value })
}

fn write<D: Disk, R: Reader>(
    disk: &mut D,
    log: &mut RevisionLog<R>,
    batch: &Batch<'_>,
) -> Result<(), BootError> {
    let mut ops = Vec::new();
    let id = log.append(batch, &mut ops);
    run(disk, &ops)?;
    log.written(id);
    Ok(())
}

pub(crate) fn run<D: Disk>(disk: &mut D, ops: &[DiskOp]) -> Result<(), BootError> {
    for op in ops {
        disk.execute(op)?;
    }
    Ok(())
}

pub(crate) fn wipe<D: Disk>(disk: &mut D, dir: &FileName) -> Result<(), BootError> {
    for name in disk.list(dir)? {
        disk.execute(&DiskOp::Remove { file: FileName::new(format!("{dir}/{name}")) })?;
    }
    Ok(())
}

fn number(value: Option<Bytes>) -> u64 {
    let bytes = value.unwrap_or_default();
    bytes[..].try_into().map_or(0, u64::from_be_bytes)
}
