//! A database that another member sends: written aside, synced, and only then under its name.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use norn_storage::FileName;

#[derive(Debug)]
pub struct Received {
    file: File,
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
        Ok(Received { file: File::create(&temporary)?, temporary, target })
    }

    /// # Errors
    /// The file system's.
    pub fn write(&mut self, data: &[u8]) -> std::io::Result<()> {
        self.file.write_all(data)
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
