//! SKELETON: signatures, bodies follow.
use std::ops::ControlFlow;

use bytes::Bytes;

use crate::disk::DiskError;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BoltError {
    Disk(DiskError),
    /// The bytes at `page` are not what bbolt writes.
    Corrupt {
        page: u64,
        what: &'static str,
    },
    /// Neither meta page is valid.
    NotABoltFile,
}

/// Where the reader gets its bytes. Implemented for `Bytes`, and for files of a disk by [`DiskSource`].
pub trait PageSource {
    fn len(&self) -> Result<u64, BoltError>;
    /// Exactly `len` bytes, or an error.
    fn read_at(&self, offset: u64, len: usize) -> Result<Bytes, BoltError>;
}

/// Where the writer puts its bytes: ascending offsets, except that the first two pages come last.
pub trait PageSink {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<(), BoltError>;
}

/// A top-level bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bucket {
    root: u64,
    inline: Option<Bytes>,
    pub sequence: u64,
}

pub struct BoltReader<S> {
    _source: S,
}

#[allow(unused_variables)]
impl<S: PageSource> BoltReader<S> {
    pub fn open(source: S) -> Result<BoltReader<S>, BoltError> {
        unimplemented!()
    }
    pub fn page_bytes(&self) -> u32 {
        unimplemented!()
    }
    pub fn txid(&self) -> u64 {
        unimplemented!()
    }
    /// Names and buckets in byte order.
    pub fn buckets(&self) -> Result<Vec<(Bytes, Bucket)>, BoltError> {
        unimplemented!()
    }
    pub fn bucket(&self, name: &[u8]) -> Result<Option<Bucket>, BoltError> {
        unimplemented!()
    }
    /// Visits keys and values from the first key >= `from`, in byte order.
    pub fn scan(
        &self,
        bucket: &Bucket,
        from: &[u8],
        visit: &mut dyn FnMut(&Bytes, &Bytes) -> ControlFlow<()>,
    ) -> Result<(), BoltError> {
        unimplemented!()
    }
    pub fn value(&self, bucket: &Bucket, key: &[u8]) -> Result<Option<Bytes>, BoltError> {
        unimplemented!()
    }
}

pub struct BoltWriter<K> {
    _sink: K,
}

#[allow(unused_variables, clippy::needless_pass_by_ref_mut)]
impl<K: PageSink> BoltWriter<K> {
    /// `page_bytes`: 4096 unless there is a reason. `txid` >= 1.
    pub fn new(sink: K, page_bytes: u32, txid: u64) -> BoltWriter<K> {
        unimplemented!()
    }
    /// Ends the bucket before, if any. Buckets may come in any order.
    pub fn bucket(&mut self, name: &[u8]) -> Result<(), BoltError> {
        unimplemented!()
    }
    /// Keys of a bucket must ascend.
    pub fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), BoltError> {
        unimplemented!()
    }
    /// Writes the root and the metas; the sink and the length of the file in bytes.
    pub fn finish(self) -> Result<(K, u64), BoltError> {
        unimplemented!()
    }
}
