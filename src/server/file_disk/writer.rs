//! Operations on real files, as one thread runs them: large ones in pieces, so that whoever waits for the disk or for a core does not wait
//! for all of it.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use norn_storage::{DiskBatch, DiskError, DiskOp, DiskQueue, FileName};

use super::{Root, failed};
use crate::rest;

/// Large writes go in pieces of this size, those of the log aside that continue each other: each takes memory from the system, page by
/// page, and until a system call returns no other thread gets its core (with a kernel that preempts nobody there), the log's for one.
const PIECE_BYTES: usize = 64 << 10;
/// So much that was written to a file and not synced is synced though nobody asks for it: what the system has to bring to the disk at
/// once, the log's syncs wait for (a spare segment of the log is 64 MB of zeros). Temporary files aside: most of them are gone before the
/// system brings anything of them to the disk.
const PACE_BYTES: u64 = 1 << 20;
/// So much of a removed file is given back at once.
const FREE_BYTES: u64 = 1 << 20;
/// Pieces of one vectored write: what the kernel takes at most is 1024.
const PIECES_MAX: usize = 256;

/// Write handles of one thread.
#[derive(Debug)]
pub(super) struct Writer {
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

impl Writer {
    pub(super) fn new(root: Arc<Root>) -> Writer {
        Writer { root, files: HashMap::new(), names: 0 }
    }

    /// Lets go of all handles; they are opened again when they are needed.
    pub(super) fn close_all(&mut self) {
        if !self.files.is_empty() {
            self.files.clear();
        }
    }

    /// How many operations were run, and what became of the next one.
    pub(super) fn run_batch(&mut self, batch: &DiskBatch) -> (usize, Result<(), DiskError>) {
        if self.root.latched.load(Ordering::Acquire) {
            return (0, Err(DiskError::Latched));
        }
        let bytes_max = match batch.queue {
            DiskQueue::Log => usize::MAX,
            DiskQueue::Bulk => PIECE_BYTES,
        };
        let mut ops = &batch.ops[..];
        while let Some(op) = ops.first() {
            rest::if_due();
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
        let needs_none = self.root.no_sync || file.is_temporary();
        let open = self.open(file)?;
        open.unsynced += bytes;
        if open.unsynced < PACE_BYTES || needs_none {
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

    pub(super) fn run(&mut self, op: &DiskOp) -> Result<(), DiskError> {
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
                    rest::if_due();
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
                    rest::if_due();
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

/// Of a full disk, too: what the sync was to cover may be lost, and another one would not say so. It is nothing to wait for.
fn sync_failed(file: &FileName, error: &io::Error) -> DiskError {
    DiskError::Io { file: file.clone(), action: "sync", reason: error.to_string() }
}

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
        rest::if_due();
        len -= FREE_BYTES;
        if file.set_len(len).is_err() {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use norn_storage::{BatchId, Disk, DiskRead};

    use super::super::tests::{name, open, wait};
    use super::*;

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

    /// A snapshot replaces files that another thread has open.
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
}
