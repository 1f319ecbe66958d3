//! A database that another member sends: written aside, synced, and only then under its name.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use norn_storage::FileName;

/// So much is synced at a time, before more is taken: the sender waits, and the disk is not flooded with what the log's syncs would wait
/// behind.
const SYNC_BYTES: usize = 1 << 20;

#[derive(Debug)]
pub struct Received {
    file: Arc<File>,
    unsynced: usize,
    temporary: PathBuf,
    target: PathBuf,
}

impl Received {
    /// `name` is relative to the data directory, as the node knows it.
    ///
    /// # Errors
    /// The file system's.
    pub fn create(data_dir: &Path, name: &FileName) -> std::io::Result<Received> {
        let target = data_dir.join(name.as_str());
        // (Names that begin with tmp are swept at the next start.)
        let temporary = target.with_file_name(format!("tmp-received-{}", name.base()));
        let file = Arc::new(File::create(&temporary)?);
        Ok(Received { file, unsynced: 0, temporary, target })
    }

    /// # Errors
    /// The file system's.
    pub async fn write(&mut self, data: &[u8]) -> std::io::Result<()> {
        (&*self.file).write_all(data)?;
        self.unsynced += data.len();
        if self.unsynced >= SYNC_BYTES {
            self.unsynced = 0;
            let file = Arc::clone(&self.file);
            tokio::task::spawn_blocking(move || file.sync_data()).await??;
        }
        Ok(())
    }

    /// # Errors
    /// The file system's.
    pub async fn finish(self) -> Result<(), Box<dyn std::error::Error>> {
        tokio::task::spawn_blocking(move || {
            self.file.sync_all()?;
            std::fs::rename(&self.temporary, &self.target)?;
            let dir = self.target.parent().unwrap_or(Path::new("."));
            File::open(dir)?.sync_all()
        })
        .await??;
        Ok(())
    }
}
