//! A bbolt database becomes the state: a snapshot from a leader, or the data directory of an etcd.
//!
//! The revision log is written from nothing. Until its last batch, which carries the applied index, it claims to
//! have applied nothing; so an import that was interrupted is seen as such and done again.

use std::ops::ControlFlow;

use bytes::Bytes;
use norn_mvcc::Revision;
use norn_planted::planted;
use norn_storage::bbolt::{BoltError, BoltReader, FileSource};
use norn_storage::revlog::{Batch, RevLogOptions, RevisionLog, RevisionRecord, Table, TableRecord};
use norn_storage::{Disk, DiskOp, FileName};

use crate::Reader;
use crate::boot::BootError;
use crate::export::{KEY_BUCKET, TABLES, bucket_name};

/// Revisions per batch: bounds memory to a few megabytes.
const BATCH_RECORDS: usize = 8_192;

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
        db.scan(&bucket, &[], &mut |key, value| {
            match (table, &key[..]) {
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
    }
    let mut revisions: Vec<RevisionRecord> = Vec::new();
    let mut failed = None;
    if let Some(bucket) = db.bucket(KEY_BUCKET.as_bytes())? {
        db.scan(&bucket, &[], &mut |key, value| {
            let Some((revision, tombstone)) = Revision::from_bytes(key) else {
                failed = Some(BootError(format!("{file}: a revision key of {} bytes", key.len())));
                return ControlFlow::Break(());
            };
            revisions.push(RevisionRecord {
                main: revision.main,
                sub: revision.sub,
                tombstone,
                value: Bytes::copy_from_slice(value),
            });
            if revisions.len() >= BATCH_RECORDS {
                let batch = Batch { applied_index: 0, term: 0, revisions: &revisions, tables: &[] };
                if let Err(error) = write(disk, &mut log, &batch) {
                    failed = Some(error);
                    return ControlFlow::Break(());
                }
                revisions.clear();
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
