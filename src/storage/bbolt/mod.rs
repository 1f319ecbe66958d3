//! etcd's `db` file: reading any that bbolt wrote, and writing one that bbolt accepts, in one sequential pass.
//!
//! # File (little endian)
//!
//! Pages of one size (4096, unless the file was made elsewhere); page `i` begins at `i * size`.
//!
//! | offset | bytes | page header |
//! |---|---|---|
//! | 0 | 8 | page number |
//! | 8 | 2 | kind: 0x01 branch, 0x02 leaf, 0x04 meta, 0x10 freelist |
//! | 10 | 2 | number of elements |
//! | 12 | 4 | overflow: how many pages more it takes |
//!
//! | offset | bytes | meta (pages 0 and 1; the valid one with the higher transaction counts) |
//! |---|---|---|
//! | 16 | 4 | magic 0xED0CDAED |
//! | 20 | 4 | version 2 |
//! | 24 | 4 | page size |
//! | 28 | 4 | 0 |
//! | 32 | 8 | root page of the bucket of buckets |
//! | 40 | 8 | its sequence |
//! | 48 | 8 | freelist page; all ones: not written |
//! | 56 | 8 | first page number never used |
//! | 64 | 8 | transaction |
//! | 72 | 8 | FNV-1a of bytes 16..72 |
//!
//! | bytes | branch element | | bytes | leaf element |
//! |---|---|---|---|---|
//! | 4 | key position, from this element | | 4 | 1: the value is a bucket |
//! | 4 | key length | | 4 | key position, from this element |
//! | 8 | child page | | 4 | key length |
//! | | | | 4 | value length; the value follows the key |
//!
//! | offset | bytes | bucket, as the value of a leaf element |
//! |---|---|---|
//! | 0 | 8 | root page; 0: the bucket is inline |
//! | 8 | 8 | sequence |
//! | 16 | | if inline: a leaf page |

mod reader;
mod writer;

use std::fmt;

use bytes::Bytes;

use crate::disk::{DiskError, DiskRead, FileName};

pub use reader::{BoltReader, Bucket};
pub use writer::BoltWriter;

const PAGE_HEADER_BYTES: usize = 16;
const META_BYTES: usize = 64;
const ELEMENT_BYTES: usize = 16;
const BUCKET_BYTES: usize = 16;

const KIND_BRANCH: u16 = 0x01;
const KIND_LEAF: u16 = 0x02;
const KIND_META: u16 = 0x04;

const MAGIC: u32 = 0xed0c_daed;
const VERSION: u32 = 2;
const NO_FREELIST: u64 = u64::MAX;
const LEAF_IS_BUCKET: u32 = 1;

/// Why a file cannot be read or written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BoltError {
    Disk(DiskError),
    /// The sink failed for a reason of its own.
    Sink(String),
    /// The bytes of this page are not what bbolt writes.
    Corrupt {
        page: u64,
        what: &'static str,
    },
    /// Neither meta page is valid.
    NotABoltFile,
}

impl fmt::Display for BoltError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BoltError::Disk(error) => error.fmt(f),
            BoltError::Sink(reason) => f.write_str(reason),
            BoltError::Corrupt { page, what } => {
                write!(f, "database page {page}: {what}; restore the file from a backup or a peer")
            }
            BoltError::NotABoltFile => f.write_str("not a bbolt database: no valid meta page"),
        }
    }
}

impl std::error::Error for BoltError {}

impl From<DiskError> for BoltError {
    fn from(error: DiskError) -> BoltError {
        BoltError::Disk(error)
    }
}

/// Where the reader gets its bytes. Implemented for `Bytes`, and for files of a disk by [`FileSource`].
pub trait PageSource {
    /// Length in bytes.
    fn length(&self) -> Result<u64, BoltError>;
    /// Up to `len` bytes; fewer only at the end.
    fn read_at(&self, offset: u64, len: usize) -> Result<Bytes, BoltError>;
}

impl PageSource for Bytes {
    fn length(&self) -> Result<u64, BoltError> {
        Ok(self.len() as u64)
    }

    fn read_at(&self, offset: u64, len: usize) -> Result<Bytes, BoltError> {
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(self.len());
        Ok(self.slice(from..from.saturating_add(len).min(self.len())))
    }
}

/// A file of a disk.
pub struct FileSource<'a, D> {
    pub disk: &'a D,
    pub file: FileName,
}

impl<D: DiskRead> PageSource for FileSource<'_, D> {
    fn length(&self) -> Result<u64, BoltError> {
        let missing = || DiskError::NotFound { file: self.file.clone() };
        Ok(self.disk.len(&self.file)?.ok_or_else(missing)?)
    }

    fn read_at(&self, offset: u64, len: usize) -> Result<Bytes, BoltError> {
        Ok(self.disk.read_at(&self.file, offset, len)?)
    }
}

/// Where the writer puts its bytes: at ascending offsets, but for the first two pages, which come last.
pub trait PageSink {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<(), BoltError>;
}

impl PageSink for Vec<u8> {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<(), BoltError> {
        let end = offset as usize + bytes.len();
        if self.len() < end {
            self.resize(end, 0);
        }
        self[offset as usize..end].copy_from_slice(bytes);
        Ok(())
    }
}

impl<K: PageSink> PageSink for &mut K {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<(), BoltError> {
        (**self).write_at(offset, bytes)
    }
}

fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().expect("two bytes"))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}
