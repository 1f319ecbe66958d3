//! The state as a bbolt file, for `snapshot save` and for members that are too far behind: written next to the
//! snapshots in bounded steps, while the node goes on serving.
//!
//! An export shows the state at the index at which it began: the tables are copied then, and history up to the
//! revision of then is read as it goes. Nothing may be compacted away meanwhile.

use std::collections::{BTreeMap, VecDeque};
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use norn_mvcc::{Revision, Values};
use norn_raft::{ConfState, Message};
use norn_storage::bbolt::{BoltError, BoltWriter, PageSink};
use norn_storage::revlog::Table;
use norn_storage::{DiskOp, FileName};

use crate::disk_work::BulkPart;
use crate::input::{NodeEvent, Token};
use crate::pace::Pace;
use crate::{Error, Node, Reader, Time};

/// Exports asked for and not begun. A member that finds no place is sent its snapshot when raft tries again.
pub(crate) const QUEUE_MAX: usize = 16;
/// Revisions written per step, and bytes of them (a record may be a megabyte alone): half a millisecond.
const STEP_RECORDS: usize = 1_024;
const STEP_BYTES: usize = 256 << 10;
/// How much of a large export is synced at a time.
const SYNC_BYTES: usize = 1 << 20;
const PAGE_BYTES: u32 = 4096;

pub(crate) const TABLES: [Table; 9] = [
    Table::Alarm,
    Table::Auth,
    Table::AuthRoles,
    Table::AuthUsers,
    Table::Cluster,
    Table::Lease,
    Table::Members,
    Table::MembersRemoved,
    Table::Meta,
];

/// The bucket of etcd's database that this table is.
pub(crate) fn bucket_name(table: Table) -> &'static str {
    match table {
        Table::Alarm => "alarm",
        Table::Auth => "auth",
        Table::AuthRoles => "authRoles",
        Table::AuthUsers => "authUsers",
        Table::Cluster => "cluster",
        Table::Lease => "lease",
        Table::Members => "members",
        Table::MembersRemoved => "members_removed",
        Table::Meta => "meta",
    }
}

pub(crate) const KEY_BUCKET: &str = "key";

#[derive(Debug)]
enum Purpose {
    Client(Token),
    /// The snapshot message for a member; its database is being written.
    Member(Message),
}

#[derive(Default)]
pub(crate) struct Exports {
    queue: VecDeque<Purpose>,
    job: Option<Job>,
    files: u64,
    pace: Pace,
}

struct Job {
    purpose: Purpose,
    file: FileName,
    writer: Option<BoltWriter<OpsSink>>,
    ops: Arc<Mutex<Vec<DiskOp>>>,
    next: Revision,
    to_main: i64,
    /// It is synced as it is written, and how much of it is not: see [`Limits::export_unsynced_bytes`](crate::Limits).
    is_large: bool,
    unsynced: usize,
    /// A step is on its way to the disk.
    is_writing: bool,
    is_complete: bool,
}

/// Turns pages into disk operations.
struct OpsSink {
    file: FileName,
    ops: Arc<Mutex<Vec<DiskOp>>>,
}

impl PageSink for OpsSink {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<(), BoltError> {
        let data = Bytes::copy_from_slice(bytes);
        let op = DiskOp::Write { file: self.file.clone(), offset, data };
        self.ops.lock().expect("no holder of this lock panics").push(op);
        Ok(())
    }
}

impl Exports {
    /// History must not lose anything now.
    pub(crate) fn is_busy(&self) -> bool {
        self.job.as_ref().is_some_and(|job| !job.is_complete)
    }

    pub(crate) fn len(&self) -> usize {
        self.queue.len() + usize::from(self.job.is_some())
    }

    fn can_step(&self) -> bool {
        match &self.job {
            Some(job) => !job.is_writing,
            None => !self.queue.is_empty(),
        }
    }
}

impl<R: Reader> Node<R> {
    pub(crate) fn export_for(&mut self, token: Token) {
        if self.exports.queue.len() >= QUEUE_MAX {
            return self.reply(token, Err(Error::TooManyRequests));
        }
        self.exports.queue.push_back(Purpose::Client(token));
    }

    /// raft wants this member to get a snapshot. What it gets is the state when its turn comes.
    pub(crate) fn start_snapshot(&mut self, message: Message) {
        let to = message.to;
        if self.exports.queue.len() >= QUEUE_MAX {
            return self.raft.report_snapshot(to, false);
        }
        self.house.sending += 1;
        self.exports.queue.push_back(Purpose::Member(message));
    }

    /// When the next piece may be written, if there is one. (They follow each other faster than other such work: whoever waits for an export
    /// falls behind meanwhile.)
    pub(crate) fn export_due(&self) -> Option<Time> {
        let can_step = !self.is_failed && self.exports.can_step();
        can_step.then(|| self.due(self.exports.pace, self.config.work_pause_ms / 2))
    }

    pub(crate) fn export_some(&mut self) {
        if self.export_due().is_none_or(|due| due > self.now) {
            return;
        }
        self.exports.pace.stepped(self.now);
        if self.exports.job.is_none() && !self.begin_export() {
            return;
        }
        let Some(mut job) = self.exports.job.take() else { return };
        if !job.is_writing {
            if job.is_complete {
                self.finish_export(job);
                return;
            }
            if let Err(reason) = self.step_export(&mut job) {
                return self.fail(&reason);
            }
            let mut ops = std::mem::take(&mut *job.ops.lock().expect("no holder panics"));
            job.unsynced += ops.iter().map(DiskOp::data_len).sum::<usize>();
            if job.is_large && job.unsynced >= SYNC_BYTES {
                job.unsynced = 0;
                ops.push(DiskOp::Sync { file: job.file.clone() });
            }
            if job.is_complete {
                ops.push(DiskOp::Close { file: job.file.clone() });
            }
            self.work.bulk_ops.append(&mut ops);
            self.work.bulk_parts.push(BulkPart::ExportStep);
            job.is_writing = true;
        }
        self.exports.job = Some(job);
    }

    pub(crate) fn export_written(&mut self) {
        if let Some(job) = &mut self.exports.job {
            job.is_writing = false;
        }
    }

    /// The state was replaced: an export that was under way begins anew.
    pub(crate) fn restart_export(&mut self) {
        if let Some(job) = self.exports.job.take_if(|job| !job.is_complete || job.is_writing) {
            self.export_done(&job.file);
            self.exports.queue.push_front(job.purpose);
        }
    }

    pub(crate) fn export_done(&mut self, file: &FileName) {
        self.work.bulk_ops.push(DiskOp::Remove { file: file.clone() });
        self.work.bulk_parts.push(BulkPart::Other);
    }

    fn begin_export(&mut self) -> bool {
        let Some(mut purpose) = self.exports.queue.pop_front() else { return false };
        self.commit_applied();
        let conf_state = self.members.conf_state();
        if let Purpose::Member(message) = &mut purpose {
            // The newest state, not the one that raft had when it asked.
            message.snapshot = Some(Box::new(self.snapshot_at(conf_state.clone())));
        }
        self.exports.files += 1;
        let name = format!("{}/tmp-export-{}", self.config.snap_dir, self.exports.files);
        let file = FileName::new(name);
        let ops = Arc::new(Mutex::new(vec![DiskOp::Create { file: file.clone() }]));
        let sink = OpsSink { file: file.clone(), ops: Arc::clone(&ops) };
        let mut writer = BoltWriter::new(sink, PAGE_BYTES, self.applied.max(1));
        if let Err(error) = self.export_tables(&mut writer, &conf_state) {
            self.fail(&format!("export: {error:?}"));
            return false;
        }
        self.exports.job = Some(Job {
            purpose,
            file,
            writer: Some(writer),
            ops,
            next: Revision::default(),
            to_main: self.store.current(),
            is_large: self.backend.log.size_in_use() >= self.config.limits.export_unsynced_bytes,
            unsynced: 0,
            is_writing: false,
            is_complete: false,
        });
        true
    }

    fn export_tables(
        &self,
        writer: &mut BoltWriter<OpsSink>,
        conf_state: &ConfState,
    ) -> Result<(), BoltError> {
        for table in TABLES {
            writer.bucket(bucket_name(table).as_bytes())?;
            let mut rows: BTreeMap<Bytes, Bytes> = self.backend.log.table(table).iter().collect();
            if table == Table::Meta {
                let index = self.applied.to_be_bytes().to_vec();
                rows.insert(Bytes::from_static(b"consistent_index"), index.into());
                let term = self.applied_term.to_be_bytes().to_vec();
                rows.insert(Bytes::from_static(b"term"), term.into());
                let json = conf_state_json(conf_state);
                rows.insert(Bytes::from_static(b"confState"), json.into());
            }
            if table == Table::Auth {
                // A real etcd writes the first one at its first start.
                let first = 1u64.to_be_bytes().to_vec();
                rows.entry(Bytes::from_static(b"authRevision")).or_insert(first.into());
            }
            for (key, value) in rows {
                writer.put(&key, &value)?;
            }
        }
        writer.bucket(KEY_BUCKET.as_bytes())
    }

    fn step_export(&self, job: &mut Job) -> Result<(), String> {
        let writer = job.writer.as_mut().ok_or("an export goes on after its end")?;
        let (mut count, mut bytes) = (0, 0);
        let mut failed = None;
        let mut next = None;
        self.backend
            .scan(job.next, job.to_main, &mut |revision, tombstone, record| {
                if count == STEP_RECORDS || bytes >= STEP_BYTES {
                    next = Some(revision);
                    return ControlFlow::Break(());
                }
                (count, bytes) = (count + 1, bytes + record.len());
                let (key, len) = revision.to_bytes(tombstone);
                if let Err(error) = writer.put(&key[..len], record) {
                    failed = Some(error);
                    return ControlFlow::Break(());
                }
                ControlFlow::Continue(())
            })
            .map_err(|error| error.to_string())?;
        if let Some(error) = failed {
            return Err(format!("export: {error:?}"));
        }
        match next {
            Some(next) => job.next = next,
            None => {
                let writer = job.writer.take().ok_or("an export ends once")?;
                writer.finish().map_err(|error| format!("export: {error:?}"))?;
                job.is_complete = true;
            }
        }
        Ok(())
    }

    fn finish_export(&mut self, job: Job) {
        match job.purpose {
            Purpose::Client(token) => {
                self.reply(token, Ok(Bytes::copy_from_slice(job.file.as_str().as_bytes())));
            }
            Purpose::Member(message) => {
                self.out.events.push(NodeEvent::SendSnapshot { message, file: job.file });
            }
        }
    }
}

/// raftpb.ConfState as Go's JSON has it.
fn conf_state_json(conf_state: &ConfState) -> String {
    let ids = |ids: &[norn_raft::NodeId]| -> String {
        let ids: Vec<String> = ids.iter().map(|id| id.0.to_string()).collect();
        ids.join(",")
    };
    let mut json = String::from("{");
    if !conf_state.voters.is_empty() {
        json.push_str(&format!("\"voters\":[{}],", ids(&conf_state.voters)));
    }
    if !conf_state.learners.is_empty() {
        json.push_str(&format!("\"learners\":[{}],", ids(&conf_state.learners)));
    }
    json.push_str("\"auto_leave\":false}");
    json
}
