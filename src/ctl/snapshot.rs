//! snapshot save: the backend of one member, streamed to `PATH.part`, checked, synced and renamed.

use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use norn_proto::etcdserverpb as pb;
use sha2::{Digest as _, Sha256};

use crate::commands::Context;
use crate::connect::{Failure, log};
use crate::exit::{self, Exit, Outcome, bad_args};
use crate::go;

const HASH_BYTES: u64 = 32;

fn interrupted(e: impl std::fmt::Display) -> Exit {
    Exit::new(exit::INTERRUPTED, e)
}

pub async fn save(c: &Context) -> Outcome {
    let [path] = &c.line.args[..] else {
        return bad_args("snapshot save expects one argument <filename>");
    };
    let [endpoint] = &c.config.endpoints[..] else {
        return Err(interrupted(format!(
            "snapshot must be requested to one selected node, not multiple [{}]",
            c.config.endpoints.join(" ")
        )));
    };
    let start = Instant::now();
    let part = format!("{path}.part");
    let mut file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&part)
        .map_err(|e| interrupted(format!("could not open {part} ({e})")))?;
    log("info", "", "created temporary db file", &[("path", &part)]);
    let limit = match c.config.command_timeout_set {
        true => c.config.command_timeout,
        false => Duration::from_secs(u64::from(u32::MAX)),
    };
    let version = match tokio::time::timeout(limit, receive(c, &mut file)).await {
        Ok(result) => result,
        Err(_) => Err(interrupted("context deadline exceeded")),
    };
    let finish = version.and_then(|version| {
        let size = verify(&mut file).map_err(interrupted)?;
        file.sync_all().map_err(interrupted)?;
        std::fs::rename(&part, path)
            .map_err(|e| interrupted(format!("could not rename {part} to {path} ({e})")))?;
        sync_directory(path).map_err(interrupted)?;
        Ok((version, size))
    });
    let (version, size) = match finish {
        Ok(done) => done,
        Err(e) => {
            // Nothing half-written may look like a backup.
            let _ = std::fs::remove_file(&part);
            return Err(e);
        }
    };
    let (size, took) = (go::size(size), go::duration(start.elapsed()));
    log(
        "info",
        "",
        "fetched snapshot",
        &[("endpoint", endpoint), ("size", &size), ("took", &took), ("etcd-version", &version)],
    );
    log("info", "", "saved", &[("path", path)]);
    println!("Snapshot saved at {path}");
    if !version.is_empty() {
        println!("Server version {version}");
    }
    Ok(())
}

/// Writes the stream to the file; the server's version.
async fn receive(c: &Context, file: &mut std::fs::File) -> Outcome<String> {
    let client = c.client().await.map_err(|e| interrupted(e.message))?;
    let path = "/etcdserverpb.Maintenance/Snapshot";
    let mut stream = client
        .server_stream::<_, pb::SnapshotResponse>(path, pb::SnapshotRequest {})
        .await
        .map_err(interrupted)?;
    log("info", "client", "opened snapshot stream; downloading", &[]);
    log("info", "", "fetching snapshot", &[("endpoint", &c.config.endpoints[0])]);
    let mut version = String::new();
    while let Some(chunk) = stream.message().await.map_err(|e| interrupted(Failure(e)))? {
        file.write_all(&chunk.blob).map_err(interrupted)?;
        if !chunk.version.is_empty() {
            version = chunk.version;
        }
    }
    log("info", "client", "completed snapshot read; closing", &[]);
    Ok(version)
}

/// The file is a database in blocks of 512 bytes followed by its SHA-256. Returns the file's size.
fn verify(file: &mut std::fs::File) -> Result<u64, String> {
    let size = file.metadata().map_err(|e| e.to_string())?.len();
    if size % 512 != HASH_BYTES {
        return Err(format!("sha256 checksum not found [bytes: {size}]"));
    }
    file.rewind().map_err(|e| e.to_string())?;
    let mut left = size - HASH_BYTES;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    while left > 0 {
        let take = left.min(buffer.len() as u64) as usize;
        file.read_exact(&mut buffer[..take]).map_err(|e| e.to_string())?;
        hash.update(&buffer[..take]);
        left -= take as u64;
    }
    let mut expected = [0; HASH_BYTES as usize];
    file.read_exact(&mut expected).map_err(|e| e.to_string())?;
    if hash.finalize()[..] != expected {
        return Err("snapshot is damaged: its SHA-256 does not match".into());
    }
    Ok(size)
}

fn sync_directory(path: &str) -> std::io::Result<()> {
    let parent =
        Path::new(path).parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::File::open(parent)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_byte_is_noticed() {
        let mut file = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(std::env::temp_dir().join(format!("norn-ctl-snapshot-{}", std::process::id())))
            .unwrap();
        let mut bytes = vec![7u8; 1024];
        let hash = Sha256::digest(&bytes);
        bytes.extend_from_slice(&hash);
        file.write_all(&bytes).unwrap();
        assert_eq!(verify(&mut file), Ok(1056));
        file.seek(std::io::SeekFrom::Start(100)).unwrap();
        file.write_all(b"x").unwrap();
        assert!(verify(&mut file).is_err());
        file.set_len(1024).unwrap();
        assert_eq!(verify(&mut file), Err("sha256 checksum not found [bytes: 1024]".into()));
    }
}
