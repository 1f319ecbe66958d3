//! The Disk port on real files: one worker thread per queue, so that a sync never blocks the node's thread.
//!
//! Names are relative to the data directory, but for those below the WAL directory when that is elsewhere. A failed
//! sync or write latches: whatever comes after fails too, because what the failed one left behind is unknown. A full
//! disk does not latch.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;

use bytes::Bytes;
use norn_storage::{Completion, Disk, DiskBatch, DiskError, DiskOp, DiskQueue, DiskRead, FileName};

use self::writer::Writer;
use crate::metrics::DiskMetrics;
use crate::rest;

mod writer;

/// Open read handles; above it the oldest are closed. Two per segment of a large store are plenty.
const READERS_MAX: usize = 256;
/// For a read of so much memory is taken without asking whether the file has as much: most reads are of one block of the cache.
const UNASKED_BYTES: usize = 64 << 10;

/// Shared by all handles.
#[derive(Debug)]
struct Root {
    dir: PathBuf,
    /// Where names below `member/wal` are, if not below `dir`.
    wal_dir: Option<PathBuf>,
    no_sync: bool,
    readers: Mutex<HashMap<FileName, Arc<File>>>,
    latched: AtomicBool,
    /// Counts names that were created, renamed or removed. A write handle from before may lead to a file that no
    /// longer has its name, so a thread that sees another number drops its handles.
    names: AtomicU64,
    metrics: Arc<DiskMetrics>,
}

/// Reads only; can be had many times.
#[derive(Clone, Debug)]
pub struct FileReader {
    root: Arc<Root>,
}

/// The one writer.
#[derive(Debug)]
pub struct FileDisk {
    root: Arc<Root>,
    writer: Writer,
    log: Option<mpsc::Sender<DiskBatch>>,
    bulk: Option<mpsc::Sender<DiskBatch>>,
    done: mpsc::Receiver<Completion>,
    workers: Vec<JoinHandle<()>>,
    /// Held for the life of the process: nobody else may write here.
    _lock: File,
}

impl FileDisk {
    /// Takes the data directory. `wake` is called after each completion, from another thread.
    pub fn open(
        dir: &Path,
        wal_dir: Option<&Path>,
        no_sync: bool,
        metrics: Arc<DiskMetrics>,
        wake: impl Fn() + Clone + Send + 'static,
    ) -> Result<FileDisk, DiskError> {
        let name = FileName::new("");
        let member = dir.join("member");
        let mut builder = std::fs::DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder.create(&member).map_err(|error| failed(&name, "create", &error))?;
        if let Some(wal_dir) = wal_dir {
            builder.create(wal_dir).map_err(|error| failed(&name, "create", &error))?;
        }
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(member.join(".lock"))
            .map_err(|error| failed(&name, "open", &error))?;
        lock.try_lock().map_err(|_| DiskError::Locked { file: FileName::new("member/.lock") })?;
        let root = Arc::new(Root {
            dir: dir.to_owned(),
            wal_dir: wal_dir.map(Path::to_owned),
            no_sync,
            readers: Mutex::new(HashMap::new()),
            latched: AtomicBool::new(false),
            names: AtomicU64::new(0),
            metrics,
        });
        let (done_in, done) = mpsc::channel();
        let mut workers = Vec::new();
        let mut start = |name: &str, rests: bool| {
            let (batches_in, batches) = mpsc::channel::<DiskBatch>();
            let (done, wake) = (done_in.clone(), wake.clone());
            let mut writer = Writer::new(Arc::clone(&root));
            let worker = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
                if rests {
                    rest::begin();
                }
                for batch in batches {
                    let (ran, result) = writer.run_batch(&batch);
                    if done.send(Completion { id: batch.id, ran, result }).is_err() {
                        return;
                    }
                    wake();
                }
            });
            workers.push(worker.map_err(|error| failed(&FileName::new(name), "spawn", &error))?);
            Ok::<_, DiskError>(batches_in)
        };
        let log = Some(start("norn-log", false)?);
        let bulk = Some(start("norn-bulk", true)?);
        let writer = Writer::new(Arc::clone(&root));
        Ok(FileDisk { root, writer, log, bulk, done, workers, _lock: lock })
    }

    pub fn reader(&self) -> FileReader {
        FileReader { root: Arc::clone(&self.root) }
    }

    /// Lets the workers finish what was submitted, and ends them.
    pub fn close(&mut self) {
        self.log = None;
        self.bulk = None;
        for worker in self.workers.drain(..) {
            // (A worker that panicked has said so.)
            let _ = worker.join();
        }
    }
}

impl Drop for FileDisk {
    fn drop(&mut self) {
        self.close();
    }
}

impl Root {
    fn path(&self, name: &FileName) -> PathBuf {
        if let Some(wal_dir) = &self.wal_dir
            && let Some(rest) = name.as_str().strip_prefix("member/wal")
            && (rest.is_empty() || rest.starts_with('/'))
        {
            return wal_dir.join(rest.trim_start_matches('/'));
        }
        self.dir.join(name.as_str())
    }

    fn forget(&self, name: &FileName) {
        if let Ok(mut readers) = self.readers.lock() {
            readers.remove(name);
        }
    }

    fn reader(&self, name: &FileName) -> Result<Arc<File>, DiskError> {
        let mut readers = self.readers.lock().map_err(|_| DiskError::Latched)?;
        if let Some(file) = readers.get(name) {
            return Ok(Arc::clone(file));
        }
        let file = File::open(self.path(name)).map_err(|error| failed(name, "open", &error))?;
        let file = Arc::new(file);
        if readers.len() >= READERS_MAX {
            readers.clear();
        }
        readers.insert(name.clone(), Arc::clone(&file));
        Ok(file)
    }
}

fn failed(file: &FileName, action: &'static str, error: &io::Error) -> DiskError {
    match error.kind() {
        io::ErrorKind::NotFound => DiskError::NotFound { file: file.clone() },
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            DiskError::NoSpace { file: file.clone() }
        }
        _ => DiskError::Io { file: file.clone(), action, reason: error.to_string() },
    }
}

impl DiskRead for FileReader {
    fn list(&self, dir: &FileName) -> Result<Vec<String>, DiskError> {
        let entries = match std::fs::read_dir(self.root.path(dir)) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(dir, "list", &error)),
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|error| failed(dir, "list", &error))?;
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    }

    fn len(&self, file: &FileName) -> Result<Option<u64>, DiskError> {
        match std::fs::metadata(self.root.path(file)) {
            Ok(metadata) => Ok(Some(metadata.len())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed(file, "stat", &error)),
        }
    }

    fn read_at(&self, file: &FileName, offset: u64, len: usize) -> Result<Bytes, DiskError> {
        rest::if_due();
        let handle = self.root.reader(file)?;
        let mut len = len;
        if len > UNASKED_BYTES {
            let end = handle.metadata().map_err(|error| failed(file, "stat", &error))?.len();
            len = len.min(usize::try_from(end.saturating_sub(offset)).unwrap_or(usize::MAX));
        }
        let mut buffer = vec![0; len];
        let mut filled = 0;
        while filled < len {
            match handle.read_at(&mut buffer[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed(file, "read", &error)),
            }
        }
        buffer.truncate(filled);
        Ok(Bytes::from(buffer))
    }
}

impl DiskRead for FileDisk {
    fn list(&self, dir: &FileName) -> Result<Vec<String>, DiskError> {
        self.reader().list(dir)
    }

    fn len(&self, file: &FileName) -> Result<Option<u64>, DiskError> {
        self.reader().len(file)
    }

    fn read_at(&self, file: &FileName, offset: u64, len: usize) -> Result<Bytes, DiskError> {
        self.reader().read_at(file, offset, len)
    }
}

impl Disk for FileDisk {
    fn execute(&mut self, op: &DiskOp) -> Result<(), DiskError> {
        rest::if_due();
        self.writer.run(op)
    }

    fn submit(&mut self, batch: DiskBatch) {
        let queue = match batch.queue {
            DiskQueue::Log => &self.log,
            DiskQueue::Bulk => &self.bulk,
        };
        // (After close nothing is submitted; a worker that panicked ends the process by its latch.)
        if let Some(queue) = queue {
            let _ = queue.send(batch);
        }
    }

    fn poll(&mut self) -> Option<Completion> {
        // Handles opened while booting are not needed any more.
        self.writer.close_all();
        self.done.try_recv().ok()
    }
}

#[cfg(test)]
mod tests {
    use norn_storage::BatchId;

    use super::*;

    pub(super) fn name(text: &str) -> FileName {
        FileName::new(text)
    }

    pub(super) fn open(dir: &Path) -> FileDisk {
        FileDisk::open(dir, None, false, Arc::default(), || {}).unwrap()
    }

    pub(super) fn wait(disk: &FileDisk) -> Completion {
        disk.done.recv().unwrap()
    }

    #[test]
    fn batches_do_what_they_say() {
        let dir = tempfile::tempdir().unwrap();
        let mut disk = open(dir.path());
        let file = name("member/a");
        let ops = vec![
            DiskOp::Create { file: file.clone() },
            DiskOp::Write { file: file.clone(), offset: 2, data: Bytes::from_static(b"xyz") },
            DiskOp::Sync { file: file.clone() },
            DiskOp::Rename { from: file.clone(), to: name("member/b") },
            DiskOp::Write { file: name("member/b"), offset: 0, data: Bytes::from_static(b"ab") },
            DiskOp::SyncDir { dir: name("member") },
        ];
        disk.submit(DiskBatch { id: BatchId(7), queue: DiskQueue::Bulk, ops });
        assert_eq!(wait(&disk), Completion { id: BatchId(7), ran: 6, result: Ok(()) });
        let reader = disk.reader();
        assert_eq!(reader.read_at(&name("member/b"), 0, 100).unwrap(), &b"abxyz"[..]);
        assert_eq!(reader.len(&file), Ok(None));
        assert_eq!(reader.list(&name("member")).unwrap(), [".lock", "b"]);
    }

    #[test]
    fn a_failure_latches() {
        let dir = tempfile::tempdir().unwrap();
        let mut disk = open(dir.path());
        let missing = DiskOp::Sync { file: name("member/none") };
        for id in 0..2 {
            let ops = vec![missing.clone()];
            disk.submit(DiskBatch { id: BatchId(id), queue: DiskQueue::Log, ops });
        }
        let file = name("member/none");
        assert_eq!(wait(&disk).result, Err(DiskError::NotFound { file }));
        assert_eq!(wait(&disk).result, Err(DiskError::Latched));
    }

    #[test]
    fn one_process_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let _first = open(dir.path());
        let second = FileDisk::open(dir.path(), None, false, Arc::default(), || {});
        assert!(matches!(second, Err(DiskError::Locked { .. })));
    }
}
