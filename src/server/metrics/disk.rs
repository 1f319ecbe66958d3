//! What the disk's threads measure.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::histogram::Histogram;
use super::text::Page;

/// What a file is for, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FileKind {
    Log,
    Snapshot,
    Bulk,
}

impl FileKind {
    fn of(file: &str) -> FileKind {
        if file.ends_with(".wal") || file.contains("/wal/") {
            FileKind::Log
        } else if file.ends_with(".snap") || file.contains(".snap.") {
            FileKind::Snapshot
        } else {
            FileKind::Bulk
        }
    }
}

#[derive(Debug)]
pub struct DiskMetrics {
    log_sync: Histogram,
    log_write: Histogram,
    log_bytes: AtomicU64,
    bulk_sync: Histogram,
    bulk_write: Histogram,
    snapshot_sync: Histogram,
    snapshot_write: Histogram,
    /// Databases that another member sent: their syncs, and how long taking them took.
    pub received_sync: Histogram,
    pub received: Histogram,
    pub defragment: Histogram,
    /// Databases given to clients, from the question to the last byte.
    pub export: Histogram,
}

impl Default for DiskMetrics {
    fn default() -> DiskMetrics {
        DiskMetrics {
            log_sync: Histogram::disk(),
            log_write: Histogram::disk(),
            log_bytes: AtomicU64::new(0),
            bulk_sync: Histogram::disk(),
            bulk_write: Histogram::disk(),
            snapshot_sync: Histogram::disk(),
            snapshot_write: Histogram::disk(),
            received_sync: Histogram::disk(),
            received: Histogram::exponential(0.1, 2.0, 10),
            defragment: Histogram::exponential(0.1, 2.0, 13),
            export: Histogram::exponential(0.01, 2.0, 17),
        }
    }
}

impl DiskMetrics {
    pub fn wrote(&self, took: Duration, bytes: usize, file: &str) {
        match FileKind::of(file) {
            FileKind::Log => {
                self.log_write.observe(took);
                self.log_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
            }
            FileKind::Snapshot => self.snapshot_write.observe(took),
            FileKind::Bulk => self.bulk_write.observe(took),
        }
    }

    pub fn synced(&self, took: Duration, file: &str) {
        match FileKind::of(file) {
            FileKind::Log => &self.log_sync,
            FileKind::Snapshot => &self.snapshot_sync,
            FileKind::Bulk => &self.bulk_sync,
        }
        .observe(took);
    }

    /// A commit of the backend is here a sync of the revision log.
    pub(super) fn write(&self, page: &mut Page) {
        let mut show = |name, help, histogram| page.histogram(name, help, histogram);
        show(
            "etcd_disk_wal_fsync_duration_seconds",
            "The latency distributions of fsync called by WAL.",
            &self.log_sync,
        );
        show(
            "etcd_disk_wal_write_duration_seconds",
            "The latency distributions of write called by WAL.",
            &self.log_write,
        );
        show(
            "etcd_disk_backend_commit_duration_seconds",
            "The latency distributions of commit called by backend.",
            &self.bulk_sync,
        );
        show(
            "etcd_debugging_disk_backend_commit_write_duration_seconds",
            "The latency distributions of commit.write called by bboltdb backend.",
            &self.bulk_write,
        );
        show(
            "etcd_disk_backend_defrag_duration_seconds",
            "The latency distribution of backend defragmentation.",
            &self.defragment,
        );
        show(
            "etcd_disk_backend_snapshot_duration_seconds",
            "The latency distribution of backend snapshots.",
            &self.export,
        );
        show(
            "etcd_snap_fsync_duration_seconds",
            "The latency distributions of fsync called by snap.",
            &self.snapshot_sync,
        );
        show(
            "etcd_debugging_snap_save_total_duration_seconds",
            "The total latency distributions of save called by snapshot.",
            &self.snapshot_write,
        );
        show(
            "etcd_snap_db_fsync_duration_seconds",
            "The latency distributions of fsyncing .snap.db file",
            &self.received_sync,
        );
        show(
            "etcd_snap_db_save_total_duration_seconds",
            "The total latency distributions of v3 snapshot save",
            &self.received,
        );
        page.gauge(
            "etcd_disk_wal_write_bytes_total",
            "Total number of bytes written in WAL.",
            self.log_bytes.load(Ordering::Relaxed) as f64,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_what_a_file_is_for() {
        assert_eq!(FileKind::of("member/wal/0000000000000000-0000000000000000.wal"), FileKind::Log);
        assert_eq!(FileKind::of("member/wal/0.tmp"), FileKind::Log);
        assert_eq!(FileKind::of("member/snap/1-2.snap"), FileKind::Snapshot);
        assert_eq!(FileKind::of("member/rev/1.seg"), FileKind::Bulk);
    }
}
