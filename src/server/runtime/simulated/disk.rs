//! The Disk port on a machine's `MemDisk`: batches take time, and so what runs during a sync is the next batch, as on
//! real disks.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use norn_storage::{
    BatchId, Completion, DiskBatch, DiskError, DiskOp, DiskQueue, DiskRead, FileName, MemDisk,
};
use tokio::sync::oneshot;

use super::{Host, here, with};
use crate::metrics::DiskMetrics;

pub type Reader = MemDisk;

/// Batches from this id on are not the node's.
const FOREIGN: u64 = 1 << 60;

type Waiting = BTreeMap<u64, oneshot::Sender<Result<(), DiskError>>>;

#[derive(Clone)]
pub struct Disk {
    host: Host,
    inner: MemDisk,
    wake: Rc<dyn Fn()>,
    /// Whether a queue is being worked on.
    is_busy: Rc<[Cell<bool>; 2]>,
    foreign: Rc<RefCell<Waiting>>,
    next_foreign: Rc<Cell<u64>>,
}

thread_local! {
    /// Open disks by machine, for the files that others send.
    static OPEN: RefCell<BTreeMap<Host, Disk>> = const { RefCell::new(BTreeMap::new()) };
}

impl Disk {
    /// Takes the machine's disk; the arguments are those of the real one.
    ///
    /// # Errors
    /// None here.
    ///
    /// # Panics
    /// Outside of a machine.
    pub fn open(
        _: &Path,
        _: Option<&Path>,
        _: bool,
        _: Arc<DiskMetrics>,
        wake: impl Fn() + Clone + Send + 'static,
    ) -> Result<Disk, DiskError> {
        let host = here().expect("disks belong to machines");
        let inner = with(|world| world.machines[host].disk.clone());
        inner.defer(true);
        let disk = Disk {
            host,
            inner,
            wake: Rc::new(wake),
            is_busy: Rc::default(),
            foreign: Rc::default(),
            next_foreign: Rc::new(Cell::new(FOREIGN)),
        };
        OPEN.with_borrow_mut(|open| open.insert(host, disk.clone()));
        Ok(disk)
    }

    pub fn reader(&self) -> Reader {
        self.inner.clone()
    }

    /// Lets it finish what it was given.
    pub fn close(&mut self) {
        self.inner.defer(false);
    }

    /// Works through a queue, one batch at a time.
    fn work(&self, queue: DiskQueue) {
        if self.is_busy[queue as usize].replace(true) {
            return;
        }
        let disk = self.clone();
        madsim::task::spawn_local(async move {
            while disk.inner.waiting(queue) > 0 {
                let delay = with(|world| world.fate.disk_delay(disk.host));
                madsim::time::sleep(delay).await;
                disk.inner.complete_next(queue);
                (disk.wake)();
            }
            disk.is_busy[queue as usize].set(false);
        });
    }

    fn take_foreign(&self, done: Completion) {
        if !matches!(done.result, Ok(()) | Err(DiskError::NoSpace { .. })) {
            with(|world| world.fate.disk_stopped(self.host));
        }
        if let Some(waiting) = self.foreign.borrow_mut().remove(&done.id.0) {
            // (Whoever sent the file may be gone.)
            let _ = waiting.send(done.result);
        }
    }
}

impl DiskRead for Disk {
    fn list(&self, dir: &FileName) -> Result<Vec<String>, DiskError> {
        self.inner.list(dir)
    }

    fn len(&self, file: &FileName) -> Result<Option<u64>, DiskError> {
        self.inner.len(file)
    }

    fn read_at(&self, file: &FileName, offset: u64, len: usize) -> Result<Bytes, DiskError> {
        self.inner.read_at(file, offset, len)
    }
}

impl norn_storage::Disk for Disk {
    fn execute(&mut self, op: &DiskOp) -> Result<(), DiskError> {
        // The node runs operations at once only when none of its batches is under way; others' go first.
        while !self.foreign.borrow().is_empty()
            && self.inner.complete_next(DiskQueue::Bulk).is_some()
        {
            while let Some(done) = norn_storage::Disk::poll(&mut self.inner) {
                assert!(done.id.0 >= FOREIGN, "execute beside a batch of the node: {:?}", done.id);
                self.take_foreign(done);
            }
        }
        self.inner.execute(op)
    }

    fn submit(&mut self, batch: DiskBatch) {
        let queue = batch.queue;
        self.inner.submit(batch);
        self.work(queue);
    }

    fn poll(&mut self) -> Option<Completion> {
        loop {
            let done = norn_storage::Disk::poll(&mut self.inner)?;
            if done.id.0 < FOREIGN {
                return Some(done);
            }
            self.take_foreign(done);
        }
    }
}

/// A database that another member sends: written aside, synced, and only then under its name.
pub struct Received {
    name: FileName,
    data: Vec<u8>,
}

impl Received {
    /// # Errors
    /// None here.
    pub fn create(_: &Path, name: &FileName) -> std::io::Result<Received> {
        Ok(Received { name: name.clone(), data: Vec::new() })
    }

    /// # Errors
    /// None here.
    #[allow(clippy::unused_async)] // As the real one.
    pub async fn write(&mut self, data: &[u8]) -> std::io::Result<()> {
        self.data.extend_from_slice(data);
        Ok(())
    }

    /// # Errors
    /// The disk's.
    pub async fn finish(self) -> Result<(), Box<dyn std::error::Error>> {
        let host = here().ok_or("not on a machine")?;
        let disk = OPEN.with_borrow(|open| open.get(&host).cloned()).ok_or("no disk is open")?;
        let number = disk.next_foreign.replace(disk.next_foreign.get() + 1);
        let (dir, base) = self.name.as_str().rsplit_once('/').unwrap_or(("", self.name.as_str()));
        let aside = FileName::new(format!("{dir}/tmp-received-{base}-{number:x}"));
        let ops = vec![
            DiskOp::Create { file: aside.clone() },
            DiskOp::Write { file: aside.clone(), offset: 0, data: self.data.into() },
            DiskOp::Sync { file: aside.clone() },
            DiskOp::Rename { from: aside, to: self.name.clone() },
            DiskOp::SyncDir { dir: FileName::new(dir) },
        ];
        let (done, waiting) = oneshot::channel();
        disk.foreign.borrow_mut().insert(number, done);
        let batch = DiskBatch { id: BatchId(number), queue: DiskQueue::Bulk, ops };
        norn_storage::Disk::submit(&mut disk.clone(), batch);
        Ok(waiting.await??)
    }
}
