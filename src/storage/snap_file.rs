//! `.snap` files in etcd's format: the membership at a snapshot, kept for etcd's own tools and for a way back.
//!
//! Name `<term>-<index>.snap`, 16 hex digits each (the other way round than WAL names). Body (protobuf):
//!
//! | # | field | |
//! |---|---|---|
//! | 1 | crc | CRC-32C of data |
//! | 2 | data | raftpb.Snapshot, opaque here |
//!
//! There is no temporary name: a torn file fails its checksum, is renamed to `.broken`, and the one before it serves.
//! That is enough because the WAL's snapshot record, without which a file does not count, is written after it.

use std::fmt;

use bytes::Bytes;
use norn_planted::planted;

use crate::disk::{Disk, DiskError, DiskOp, DiskRead, FileName};
use crate::wire::{self, Field, Fields};

/// Name of a `.snap` file; the order of names is that of (term, index).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SnapName {
    pub term: u64,
    pub index: u64,
}

impl SnapName {
    pub fn parse(name: &str) -> Option<SnapName> {
        let (term, index) = name.strip_suffix(".snap")?.split_once('-')?;
        let hex = |digits: &str| {
            let plain = digits.len() == 16 && digits.bytes().all(|b| b.is_ascii_hexdigit());
            plain.then(|| u64::from_str_radix(digits, 16).ok()).flatten()
        };
        Some(SnapName { term: hex(term)?, index: hex(index)? })
    }

    pub fn file(self, dir: &FileName) -> FileName {
        FileName::new(format!("{dir}/{self}"))
    }
}

impl fmt::Display for SnapName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{:016x}.snap", self.term, self.index)
    }
}

/// Why a `.snap` file cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SnapError {
    Disk(DiskError),
    Corrupt { file: FileName, what: &'static str },
}

impl fmt::Display for SnapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SnapError::Disk(error) => error.fmt(f),
            SnapError::Corrupt { file, what } => {
                write!(f, "{file}: {what}; an older snapshot can serve")
            }
        }
    }
}

impl std::error::Error for SnapError {}

impl From<DiskError> for SnapError {
    fn from(error: DiskError) -> SnapError {
        SnapError::Disk(error)
    }
}

/// The body of a `.snap` file around an encoded raftpb.Snapshot.
pub fn encode(snapshot: &[u8]) -> Bytes {
    let mut body = Vec::with_capacity(snapshot.len() + 16);
    wire::put_varint_field(&mut body, 1, u64::from(crc32c::crc32c(snapshot)));
    wire::put_bytes_field(&mut body, 2, snapshot);
    Bytes::from(body)
}

/// The encoded raftpb.Snapshot inside.
pub fn decode(file: &FileName, body: &Bytes) -> Result<Bytes, SnapError> {
    let corrupt = |what| SnapError::Corrupt { file: file.clone(), what };
    let (mut crc, mut data) = (0, Bytes::new());
    let mut fields = Fields::of(body.clone());
    while let Some(field) = fields.next().map_err(|_| corrupt("not a snapshot file"))? {
        match field {
            Field::Varint(1, value) => {
                crc = u32::try_from(value).map_err(|_| corrupt("checksum out of range"))?;
            }
            Field::Bytes(2, value) => data = value,
            _ => {}
        }
    }
    if crc == 0 || data.is_empty() {
        return Err(corrupt("empty snapshot file"));
    }
    if crc32c::crc32c(&data) != crc && !planted!(SnapChecksumUnread) {
        return Err(corrupt("checksum mismatch"));
    }
    Ok(data)
}

/// Emits the write and sync of a snapshot file. They must have completed before the WAL gets the snapshot's record.
pub fn save(dir: &FileName, name: SnapName, snapshot: &[u8], ops: &mut Vec<DiskOp>) {
    let file = name.file(dir);
    ops.push(DiskOp::Create { file: file.clone() });
    ops.push(DiskOp::Write { file: file.clone(), offset: 0, data: encode(snapshot) });
    ops.push(DiskOp::Sync { file: file.clone() });
    ops.push(DiskOp::SyncDir { dir: dir.clone() });
    ops.push(DiskOp::Close { file });
}

/// The newest readable file that `accept`s (say, because the WAL has its record). Unreadable ones are renamed to
/// `<name>.broken`; `db.tmp*`, left by a defragmentation that etcd did not finish, is removed.
pub fn load_newest(
    disk: &mut impl Disk,
    dir: &FileName,
    accept: &mut dyn FnMut(SnapName) -> bool,
) -> Result<Option<(SnapName, Bytes)>, SnapError> {
    let names = disk.list(dir)?;
    for name in names.iter().filter(|name| name.starts_with("db.tmp")) {
        disk.execute(&DiskOp::Remove { file: FileName::new(format!("{dir}/{name}")) })?;
    }
    let mut snaps: Vec<_> = names.iter().filter_map(|name| SnapName::parse(name)).collect();
    snaps.sort_unstable();
    for name in snaps.into_iter().rev().filter(|name| accept(*name)) {
        let file = name.file(dir);
        let len = disk.len(&file)?.unwrap_or(0);
        let body = disk.read_at(&file, 0, usize::try_from(len).unwrap_or(usize::MAX))?;
        match decode(&file, &body) {
            Ok(snapshot) => return Ok(Some((name, snapshot))),
            Err(SnapError::Disk(error)) => return Err(error.into()),
            Err(SnapError::Corrupt { .. }) => {
                let to = FileName::new(format!("{file}.broken"));
                disk.execute(&DiskOp::Rename { from: file, to })?;
            }
        }
    }
    Ok(None)
}

/// Emits the removal of all but the newest `max` files of suffix `.snap` and, separately, `.snap.db`, but for those that somebody
/// wants. 0: keep all.
pub fn purge(
    disk: &impl DiskRead,
    dir: &FileName,
    max: usize,
    is_wanted: &dyn Fn(&FileName) -> bool,
    ops: &mut Vec<DiskOp>,
) -> Result<(), DiskError> {
    if max == 0 {
        return Ok(());
    }
    let names = disk.list(dir)?;
    for suffix in [".snap", ".snap.db"] {
        let mut with: Vec<_> = names.iter().filter(|name| name.ends_with(suffix)).collect();
        with.sort_unstable();
        let old = with.len().saturating_sub(max);
        let files = with[..old].iter().map(|name| FileName::new(format!("{dir}/{name}")));
        ops.extend(files.filter(|file| !is_wanted(file)).map(|file| DiskOp::Remove { file }));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mem_disk::MemDisk;

    fn dir() -> FileName {
        FileName::new("snap")
    }

    fn disk_with(names: &[(u64, u64)]) -> MemDisk {
        let mut disk = MemDisk::new();
        let mut ops = vec![DiskOp::MakeDir { dir: dir() }];
        for (term, index) in names {
            save(
                &dir(),
                SnapName { term: *term, index: *index },
                format!("{term}.{index}").as_bytes(),
                &mut ops,
            );
        }
        ops.iter().for_each(|op| disk.execute(op).unwrap());
        disk
    }

    #[test]
    fn the_newest_accepted_readable_file_is_loaded_and_broken_ones_are_set_aside() {
        let mut disk = disk_with(&[(1, 5), (2, 9), (2, 0x1f), (3, 40)]);
        let damaged = SnapName { term: 2, index: 0x1f };
        assert!(disk.flip_bit(&damaged.file(&dir()), 9, 1));
        let loaded = load_newest(&mut disk, &dir(), &mut |name| name.term < 3).unwrap().unwrap();
        assert_eq!(loaded, (SnapName { term: 2, index: 9 }, Bytes::from_static(b"2.9")));
        let names = disk.list(&dir()).unwrap();
        assert!(
            names.contains(&"0000000000000002-000000000000001f.snap.broken".to_string()),
            "{names:?}"
        );
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let body = encode(b"some snapshot");
        let file = FileName::new("f");
        assert_eq!(decode(&file, &body).as_deref(), Ok(&b"some snapshot"[..]));
        for at in 0..body.len() * 8 {
            let mut bad = body.to_vec();
            bad[at / 8] ^= 1 << (at % 8);
            assert!(decode(&file, &Bytes::from(bad)).is_err(), "bit {at}");
        }
        for len in 0..body.len() {
            assert!(decode(&file, &body.slice(..len)).is_err());
        }
    }

    #[test]
    fn purge_keeps_the_newest_of_each_kind_and_what_is_wanted() {
        let mut disk = disk_with(&[(1, 5), (2, 9), (2, 10)]);
        let wanted = "0000000000000004.snap.db";
        for name in [wanted, "0000000000000005.snap.db", "0000000000000009.snap.db"] {
            disk.execute(&DiskOp::Create { file: FileName::new(format!("snap/{name}")) }).unwrap();
        }
        let mut ops = Vec::new();
        let is_wanted = |file: &FileName| file.base() == wanted;
        purge(&disk, &dir(), 1, &is_wanted, &mut ops).unwrap();
        ops.iter().for_each(|op| disk.execute(op).unwrap());
        assert_eq!(
            disk.list(&dir()).unwrap(),
            ["0000000000000002-000000000000000a.snap", wanted, "0000000000000009.snap.db"]
        );
    }
}
