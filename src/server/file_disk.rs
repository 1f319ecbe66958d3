//! The Disk port on real files: one worker thread per queue, so that a sync never blocks the node's thread.
//!
//! Names are relative to the data directory, but for those below the WAL directory when that is elsewhere. A failed
//! sync or write latches: whatever comes after fails too, because what the failed one left behind is unknown. A full
//! disk does not latch.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::Instant;

use bytes::Bytes;
use norn_storage::{Completion, Disk, DiskBatch, DiskError, DiskOp, DiskQueue, DiskRead, FileName};

use crate::metrics::DiskMetrics;

/// Open read handles; above it the oldest are closed. Two per segment of a large store are plenty.
const READERS_MAX: usize = 256;
/// For a read of so much memory is taken without asking whether the file has as much: most reads are of one block of the cache.
const UNASKED_BYTES: usize = 64 << 10;
/// Large writes go in pieces of this size, those of the log aside that continue each other: each takes memory from the system, page by
/// page, and until a system call returns no other thread gets its core (with a kernel that preempts nobody there), the log's for one.
const PIECE_BYTES: usize = 64 << 10;
/// So much that was written to a file and not synced is synced though nobody asks for it: what the system has to bring to the disk at
/// once, the log's syncs wait for (a spare segment of the log is 64 MB of zeros).
const PACE_BYTES: u64 = 1 << 20;
/// So much of a removed file is given back at once.
const FREE_BYTES: u64 = 1 << 20;

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

/// Write handles of one thread.
#[derive(Debug)]
struct Writer {
    root: Arc<Root>,
    files: HashMap<FileName, Open>,
    /// [`Root::names`] when the handles were valid.
    names: u64,
}

#[derive(Debug)]
struct Open {
    file: File,
    /// Bytes written since it was synced or opened.
    unsynced: u64,
}

impl From<File> for Open {
    fn from(file: File) -> Open {
        Open { file, unsynced: 0 }
    }
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
        let mut start = |name: &str| {
            let (batches_in, batches) = mpsc::channel::<DiskBatch>();
            let (done, wake) = (done_in.clone(), wake.clone());
            let mut writer = Writer { root: Arc::clone(&root), files: HashMap::new(), names: 0 };
            let worker = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
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
        let log = Some(start("norn-log")?);
        let bulk = Some(start("norn-bulk")?);
        let writer = Writer { root: Arc::clone(&root), files: HashMap::new(), names: 0 };
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

/// Of a full disk, too: what the sync was to cover may be lost, and another one would not say so. It is nothing to wait for.
fn sync_failed(file: &FileName, error: &io::Error) -> DiskError {
    DiskError::Io { file: file.clone(), action: "sync", reason: error.to_string() }
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
        if !self.writer.files.is_empty() {
            self.writer.files.clear();
        }
        self.done.try_recv().ok()
    }
}

/// Pieces of one vectored write: what the kernel takes at most is 1024.
const PIECES_MAX: usize = 256;

/// How many of the first operations are writes of which each begins where the one before ends.
fn contiguous(ops: &[DiskOp], bytes_max: usize) -> usize {
    let mut end = None;
    let mut bytes = 0;
    ops.iter()
        .take(PIECES_MAX)
        .take_while(|op| {
            let DiskOp::Write { file, offset, data } = op else { return false };
            let begins = (file, *offset);
            let continues = end.is_none_or(|end| end == begins);
            end = Some((file, offset + data.len() as u64));
            bytes += data.len();
            continues && bytes <= bytes_max
        })
        .count()
}

/// Takes the name away, then the space in pieces: a file system that gives 64 MB back at once keeps the log's syncs waiting for as long as
/// that takes. (A crash in between leaves a file without a name, which the file system frees.)
fn remove_file(path: &Path) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(path);
    std::fs::remove_file(path)?;
    // (What this does not give back, closing it does.)
    let Ok(file) = file else { return Ok(()) };
    let Ok(metadata) = file.metadata() else { return Ok(()) };
    // Under another name it is somebody's backup.
    let is_gone = metadata.nlink() == 0;
    let mut len = metadata.len();
    while is_gone && len > FREE_BYTES {
        len -= FREE_BYTES;
        if file.set_len(len).is_err() {
            break;
        }
    }
    Ok(())
}

impl Writer {
    /// How many operations were run, and what became of the next one.
    fn run_batch(&mut self, batch: &DiskBatch) -> (usize, Result<(), DiskError>) {
        if self.root.latched.load(Ordering::Acquire) {
            return (0, Err(DiskError::Latched));
        }
        let bytes_max = match batch.queue {
            DiskQueue::Log => usize::MAX,
            DiskQueue::Bulk => PIECE_BYTES,
        };
        let mut ops = &batch.ops[..];
        while let Some(op) = ops.first() {
            let run = contiguous(ops, bytes_max);
            let result = if run > 1 { self.write_run(&ops[..run]) } else { self.run(op) };
            if let Err(error) = result {
                if !matches!(error, DiskError::NoSpace { .. }) {
                    self.root.latched.store(true, Ordering::Release);
                }
                return (batch.ops.len() - ops.len(), Err(error));
            }
            ops = &ops[run.max(1)..];
        }
        (batch.ops.len(), Ok(()))
    }

    /// Writes that continue each other, with one system call.
    fn write_run(&mut self, ops: &[DiskOp]) -> Result<(), DiskError> {
        let Some(DiskOp::Write { file, offset, .. }) = ops.first() else { return Ok(()) };
        self.look_for_names();
        let started = Instant::now();
        let slices: Vec<IoSlice<'_>> = ops
            .iter()
            .filter_map(|op| match op {
                DiskOp::Write { data, .. } => Some(IoSlice::new(data)),
                _ => None,
            })
            .collect();
        let handle = self.handle(file)?;
        let mut written = rustix::io::pwritev(handle, &slices, *offset)
            .map_err(|error| failed(file, "write", &error.into()))?;
        // (What the kernel did not take at once goes piece by piece.)
        let mut at = *offset;
        for slice in &slices {
            let done = written.min(slice.len());
            written -= done;
            if done < slice.len() {
                handle
                    .write_all_at(&slice[done..], at + done as u64)
                    .map_err(|error| failed(file, "write", &error))?;
            }
            at += slice.len() as u64;
        }
        let bytes = (at - *offset) as usize;
        self.root.metrics.wrote(started.elapsed(), bytes, file.as_str());
        self.pace(file, bytes as u64)
    }

    /// After bytes were written.
    fn pace(&mut self, file: &FileName, bytes: u64) -> Result<(), DiskError> {
        let no_sync = self.root.no_sync;
        let open = self.open(file)?;
        open.unsynced += bytes;
        if open.unsynced < PACE_BYTES || no_sync {
            return Ok(());
        }
        open.unsynced = 0;
        open.file.sync_data().map_err(|error| sync_failed(file, &error))
    }

    /// Drops handles that somebody else's renaming or removing may have made stale.
    fn look_for_names(&mut self) {
        let names = self.root.names.load(Ordering::Acquire);
        if names != self.names {
            self.files.clear();
            self.names = names;
        }
    }

    fn run(&mut self, op: &DiskOp) -> Result<(), DiskError> {
        self.look_for_names();
        let result = self.run_one(op);
        if matches!(op, DiskOp::Create { .. } | DiskOp::Rename { .. } | DiskOp::Remove { .. }) {
            // Our own change keeps our own handles valid, unless somebody else's came between.
            let before = self.root.names.fetch_add(1, Ordering::AcqRel);
            if before == self.names {
                self.names = before + 1;
            }
        }
        result
    }

    fn run_one(&mut self, op: &DiskOp) -> Result<(), DiskError> {
        match op {
            DiskOp::MakeDir { dir } => {
                let mut builder = std::fs::DirBuilder::new();
                builder.recursive(true).mode(0o700);
                builder.create(self.root.path(dir)).map_err(|error| failed(dir, "create", &error))
            }
            DiskOp::Create { file } => {
                self.root.forget(file);
                let handle = OpenOptions::new()
                    .create(true)
                    .truncate(true)
                    .write(true)
                    .mode(0o600)
                    .open(self.root.path(file))
                    .map_err(|error| failed(file, "create", &error))?;
                self.files.insert(file.clone(), handle.into());
                Ok(())
            }
            DiskOp::Write { file, offset, data } => {
                let started = Instant::now();
                let handle = self.handle(file)?;
                let mut at = *offset;
                let result = data.chunks(PIECE_BYTES).try_for_each(|piece| {
                    handle.write_all_at(piece, at)?;
                    at += piece.len() as u64;
                    Ok(())
                });
                self.root.metrics.wrote(started.elapsed(), data.len(), file.as_str());
                result.map_err(|error| failed(file, "write", &error))?;
                self.pace(file, data.len() as u64)
            }
            DiskOp::Zero { file, offset, len } => {
                let zeros = vec![0; PIECE_BYTES.min(*len as usize)];
                let mut at = 0;
                while at < *len {
                    let n = (*len - at).min(zeros.len() as u64) as usize;
                    self.handle(file)?
                        .write_all_at(&zeros[..n], offset + at)
                        .map_err(|error| failed(file, "zero", &error))?;
                    self.pace(file, n as u64)?;
                    at += n as u64;
                }
                Ok(())
            }
            DiskOp::SetLen { file, len } => {
                self.handle(file)?.set_len(*len).map_err(|error| failed(file, "cut", &error))
            }
            DiskOp::Reserve { file, len } => {
                let handle = self.handle(file)?;
                let flags = rustix::fs::FallocateFlags::empty();
                match rustix::fs::fallocate(handle, flags, 0, *len).map_err(io::Error::from) {
                    // Not every file system can; then the space is found when it is written.
                    Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                        let shorter = handle.metadata().is_ok_and(|file| file.len() < *len);
                        if shorter { handle.set_len(*len) } else { Ok(()) }
                    }
                    other => other,
                }
                .map_err(|error| failed(file, "reserve", &error))
            }
            DiskOp::Sync { file } => {
                if self.root.no_sync {
                    return Ok(());
                }
                let started = Instant::now();
                let open = self.open(file)?;
                open.unsynced = 0;
                let result = open.file.sync_data();
                self.root.metrics.synced(started.elapsed(), file.as_str());
                result.map_err(|error| sync_failed(file, &error))
            }
            DiskOp::Rename { from, to } => {
                let source = self.root.path(from);
                let target = self.root.path(to);
                // A directory in the making replaces an empty or stale one.
                if source.is_dir() && target.is_dir() {
                    std::fs::remove_dir_all(&target)
                        .map_err(|error| failed(to, "replace", &error))?;
                }
                match std::fs::rename(source, &target) {
                    // Done before, by a batch that is submitted again.
                    Err(error) if error.kind() == io::ErrorKind::NotFound && target.exists() => {}
                    result => result.map_err(|error| failed(from, "rename", &error))?,
                }
                self.renamed(from, to);
                Ok(())
            }
            DiskOp::Remove { file } => {
                self.files.remove(file);
                self.root.forget(file);
                let path = self.root.path(file);
                let removed =
                    if path.is_dir() { std::fs::remove_dir_all(path) } else { remove_file(&path) };
                match removed {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        Err(failed(file, "remove", &error))
                    }
                    _ => Ok(()),
                }
            }
            DiskOp::SyncDir { dir } => {
                if self.root.no_sync {
                    return Ok(());
                }
                let handle =
                    File::open(self.root.path(dir)).map_err(|error| failed(dir, "open", &error))?;
                handle.sync_all().map_err(|error| sync_failed(dir, &error))
            }
            DiskOp::Close { file } => {
                self.files.remove(file);
                Ok(())
            }
        }
    }

    /// Handles follow their file (or the directory it is in) to its new name.
    fn renamed(&mut self, from: &FileName, to: &FileName) {
        self.root.forget(from);
        self.root.forget(to);
        self.files.remove(to);
        if let Some(handle) = self.files.remove(from) {
            self.files.insert(to.clone(), handle);
        }
        let prefix = format!("{from}/");
        let inside: Vec<FileName> =
            self.files.keys().filter(|name| name.as_str().starts_with(&prefix)).cloned().collect();
        for name in inside {
            if let Some(handle) = self.files.remove(&name) {
                let rest = &name.as_str()[prefix.len()..];
                self.files.insert(FileName::new(format!("{to}/{rest}")), handle);
            }
        }
    }

    fn handle(&mut self, name: &FileName) -> Result<&File, DiskError> {
        self.open(name).map(|open| &open.file)
    }

    fn open(&mut self, name: &FileName) -> Result<&mut Open, DiskError> {
        if !self.files.contains_key(name) {
            let file = OpenOptions::new()
                .write(true)
                .open(self.root.path(name))
                .map_err(|error| failed(name, "open", &error))?;
            self.files.insert(name.clone(), file.into());
        }
        Ok(self.files.get_mut(name).expect("it was there, or is now"))
    }
}

#[cfg(test)]
mod tests {
    use norn_storage::BatchId;

    use super::*;

    fn name(text: &str) -> FileName {
        FileName::new(text)
    }

    #[test]
    fn writes_that_continue_each_other_are_one() {
        let write = |file: &str, offset, data: &'static [u8]| DiskOp::Write {
            file: name(file),
            offset,
            data: Bytes::from_static(data),
        };
        let ops = [write("a", 0, b"one"), write("a", 3, b"two"), write("a", 7, b"x")];
        assert_eq!(contiguous(&ops, usize::MAX), 2, "a gap");
        assert_eq!(
            (contiguous(&ops, 6), contiguous(&ops, 5)),
            (2, 1),
            "as many bytes as asked for"
        );
        assert_eq!(
            contiguous(&[write("a", 0, b"one"), write("b", 3, b"two")], usize::MAX),
            1,
            "another file"
        );
        assert_eq!(contiguous(&[DiskOp::Sync { file: name("a") }], usize::MAX), 0);

        let dir = tempfile::tempdir().unwrap();
        let mut disk = open(dir.path());
        disk.execute(&DiskOp::Create { file: name("a") }).unwrap();
        let ops = (0..600).map(|n| write("a", 3 * n, if n % 2 == 0 { b"one" } else { b"two" }));
        let batch = DiskBatch { id: BatchId(1), queue: DiskQueue::Bulk, ops: ops.collect() };
        assert_eq!(disk.writer.run_batch(&batch), (600, Ok(())));
        assert_eq!(
            &disk.read_at(&name("a"), 0, 2000).unwrap()[..],
            "onetwo".repeat(300).as_bytes()
        );
    }

    fn open(dir: &Path) -> FileDisk {
        FileDisk::open(dir, None, false, Arc::default(), || {}).unwrap()
    }

    fn wait(disk: &FileDisk) -> Completion {
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

    /// A snapshot replaces files that another thread has open.
    /// In pieces on the way, whole in the file.
    #[test]
    fn large_writes_and_zeros_are_whole() {
        let dir = tempfile::tempdir().unwrap();
        let mut disk = open(dir.path());
        let file = name("a");
        let len = 3 * PIECE_BYTES + 17;
        // (No two pieces of it are the same.)
        let mut content: Vec<u8> = (0..len as u32).flat_map(u32::to_le_bytes).take(len).collect();
        let (first, rest) = content.split_at(10);
        let (zeroed, zeros) = (1_000, 2 * PIECE_BYTES + 5);
        let write = |offset: u64, data: &[u8]| DiskOp::Write {
            file: file.clone(),
            offset,
            data: Bytes::copy_from_slice(data),
        };
        let ops = vec![
            DiskOp::Create { file: file.clone() },
            write(0, first),
            write(10, rest),
            DiskOp::Zero { file: file.clone(), offset: zeroed as u64, len: zeros as u64 },
        ];
        disk.submit(DiskBatch { id: BatchId(1), queue: DiskQueue::Bulk, ops });
        assert_eq!(wait(&disk).result, Ok(()));
        content[zeroed..zeroed + zeros].fill(0);
        assert!(disk.read_at(&file, 0, 2 * len).unwrap() == content);
    }

    #[test]
    fn a_replaced_file_is_written_under_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let mut disk = open(dir.path());
        let file = name("member/a");
        let write = |text: &'static [u8], offset| DiskOp::Write {
            file: file.clone(),
            offset,
            data: Bytes::from_static(text),
        };
        let create = DiskOp::Create { file: file.clone() };
        let ops = vec![create.clone(), write(b"old", 0)];
        disk.submit(DiskBatch { id: BatchId(1), queue: DiskQueue::Bulk, ops });
        assert_eq!(wait(&disk).result, Ok(()));
        disk.execute(&DiskOp::Remove { file: file.clone() }).unwrap();
        disk.execute(&create).unwrap();
        disk.execute(&write(b"new", 0)).unwrap();
        let ops = vec![write(b"er", 3)];
        disk.submit(DiskBatch { id: BatchId(2), queue: DiskQueue::Bulk, ops });
        assert_eq!(wait(&disk).result, Ok(()));
        assert_eq!(disk.read_at(&file, 0, 100).unwrap(), &b"newer"[..]);
    }

    #[test]
    fn a_removed_file_is_whole_under_its_other_name() {
        let dir = tempfile::tempdir().unwrap();
        let mut disk = open(dir.path());
        let file = name("member/a");
        let data = Bytes::from(vec![7; 3 * FREE_BYTES as usize]);
        disk.execute(&DiskOp::Create { file: file.clone() }).unwrap();
        disk.execute(&DiskOp::Write { file: file.clone(), offset: 0, data: data.clone() }).unwrap();
        let backup = dir.path().join("backup");
        std::fs::hard_link(dir.path().join("member/a"), &backup).unwrap();
        disk.execute(&DiskOp::Remove { file: file.clone() }).unwrap();
        assert_eq!(DiskRead::len(&disk, &file), Ok(None));
        assert!(std::fs::read(backup).unwrap() == data);
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
