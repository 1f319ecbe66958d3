//! The revision log as the state machine sees it: values by revision, and everything one turn applied as one batch.

use std::ops::ControlFlow;

use bytes::Bytes;
use norn_mvcc::{Change, Revision, Values};
use norn_planted::planted;
use norn_storage::DiskOp;
use norn_storage::revlog::{
    AppendId, Batch, RevLogError, RevisionLog, RevisionRecord, Table, TableRecord,
};

use crate::Reader;

pub(crate) struct Backend<R> {
    pub(crate) log: RevisionLog<R>,
    reader: R,
    /// Applied in this turn, not appended yet. Readable.
    revisions: Vec<RevisionRecord>,
    tables: Vec<TableRecord>,
    /// Of those revisions.
    bytes: usize,
}

/// Why a value is not to be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackendError {
    Log(RevLogError),
    /// The index knows a revision that the log has not.
    Missing(Revision),
}

impl std::fmt::Display for BackendError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            BackendError::Log(error) => write!(f, "{error}"),
            BackendError::Missing(revision) => {
                write!(f, "revision {revision} is in the index but not in the revision log")
            }
        }
    }
}

impl std::error::Error for BackendError {}

impl<R: Reader> Backend<R> {
    pub(crate) fn new(log: RevisionLog<R>, reader: R) -> Backend<R> {
        Backend { log, reader, revisions: Vec::new(), tables: Vec::new(), bytes: 0 }
    }

    pub(crate) fn reader(&self) -> &R {
        &self.reader
    }

    /// What was applied and is not on the disk of the revision log.
    pub(crate) fn unwritten_bytes(&self) -> usize {
        self.bytes + self.log.unwritten_bytes()
    }

    pub(crate) fn add_changes(&mut self, changes: &[Change]) {
        self.bytes += changes.iter().map(|change| change.record.len()).sum::<usize>();
        self.revisions.extend(changes.iter().map(|change| RevisionRecord {
            main: change.revision.main,
            sub: change.revision.sub,
            tombstone: change.tombstone,
            value: change.record.clone(),
        }));
    }

    pub(crate) fn set(&mut self, table: Table, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        let value = Some(value.into());
        self.tables.push(TableRecord { table, key: key.into(), value });
    }

    pub(crate) fn unset(&mut self, table: Table, key: impl Into<Bytes>) {
        self.tables.push(TableRecord { table, key: key.into(), value: None });
    }

    /// Appends what was applied since the last call, with the index of the entry that came last.
    pub(crate) fn commit(&mut self, index: u64, term: u64, ops: &mut Vec<DiskOp>) -> AppendId {
        if planted!(AppliedAhead) {
            self.log
                .append(&Batch { applied_index: index, term, revisions: &[], tables: &[] }, ops);
        }
        let index = index - u64::from(planted!(AppliedBehind) && index > self.log.applied_index());
        let batch =
            Batch { applied_index: index, term, revisions: &self.revisions, tables: &self.tables };
        let id = self.log.append(&batch, ops);
        self.revisions.clear();
        self.tables.clear();
        self.bytes = 0;
        id
    }
}

impl<R: Reader> Values for Backend<R> {
    type Error = BackendError;

    fn read(&self, revision: Revision) -> Result<Bytes, BackendError> {
        if let Some(first) = self.revisions.first()
            && (first.main, first.sub) <= (revision.main, revision.sub)
        {
            let at = self
                .revisions
                .binary_search_by_key(&(revision.main, revision.sub), |r| (r.main, r.sub))
                .map_err(|_| BackendError::Missing(revision))?;
            return Ok(self.revisions[at].value.clone());
        }
        match self.log.read(revision.main, revision.sub).map_err(BackendError::Log)? {
            Some((value, _)) => Ok(value),
            None => Err(BackendError::Missing(revision)),
        }
    }

    fn read_all(&self, revisions: &[Revision], out: &mut Vec<Bytes>) -> Result<(), BackendError> {
        if self.revisions.is_empty() {
            let pairs = revisions.iter().map(|revision| (revision.main, revision.sub));
            let missing = self.log.read_all(pairs, out).map_err(BackendError::Log)?;
            return match missing {
                Some((main, sub)) => Err(BackendError::Missing(Revision::new(main, sub))),
                None => Ok(()),
            };
        }
        for revision in revisions {
            out.push(self.read(*revision)?);
        }
        Ok(())
    }

    fn scan(
        &self,
        from: Revision,
        to_main: i64,
        visit: &mut dyn FnMut(Revision, bool, &Bytes) -> ControlFlow<()>,
    ) -> Result<(), BackendError> {
        assert!(self.revisions.is_empty(), "history is read between turns, when all is appended");
        self.log
            .scan((from.main, from.sub), to_main, &mut |main, sub, tombstone, value| {
                visit(Revision::new(main, sub), tombstone, value)
            })
            .map_err(BackendError::Log)
    }
}
