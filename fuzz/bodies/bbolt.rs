//! etcd's database file: ours round trip, and any bytes are read or refused, in bounded memory and time.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use bytes::Bytes;
use norn_storage::bbolt::{BoltError, BoltReader, BoltWriter};

use crate::choices::Choices;
use crate::memory;

pub(crate) type Pairs = BTreeMap<Vec<u8>, Vec<u8>>;
pub(crate) type Contents = BTreeMap<Vec<u8>, Pairs>;

const PAGE_BYTES: usize = 1024;

/// The first byte says whether the rest is a file or what to write, and where to damage it.
pub fn body(bytes: &[u8]) {
    let mut choices = Choices::new(bytes);
    if choices.one_in(4) {
        let _ = read(&Bytes::copy_from_slice(choices.rest()));
        return;
    }
    let edits = Edits::read(&mut choices);
    let contents = contents(&mut choices);
    let mut file = write(&contents);
    let whole = Bytes::from(file.clone());
    assert_eq!(read(&whole).as_ref(), Ok(&contents), "not what was written");
    find(&whole, &contents);
    if edits.make(&mut file) {
        let _ = read(&Bytes::from(file));
    }
}

/// Bytes to change, and what to.
pub(crate) struct Edits(Vec<(u16, u8)>);

impl Edits {
    pub(crate) fn read(choices: &mut Choices<'_>) -> Edits {
        Edits((0..choices.below(6)).map(|_| (choices.word(), choices.byte())).collect())
    }

    /// Whether there are any.
    pub(crate) fn make(&self, file: &mut [u8]) -> bool {
        for (at, value) in &self.0 {
            let at = usize::from(*at) % file.len();
            file[at] = *value;
        }
        // A checksum is no obstacle to whoever made the file.
        seal(file, 0);
        seal(file, 1);
        !self.0.is_empty()
    }
}

fn contents(choices: &mut Choices<'_>) -> Contents {
    let mut contents = Contents::new();
    for _ in 0..choices.below(4) {
        let mut pairs = Pairs::new();
        for _ in 0..choices.below(30) {
            let mut key = choices.bytes(6).to_vec();
            key.push(b'k');
            let (len, fill) = (usize::from(choices.word()) % 2500, choices.byte());
            // Few are long.
            let len = if choices.one_in(8) { len } else { len % 100 };
            pairs.insert(key, vec![fill; len]);
        }
        let name = [&b"key"[..], b"meta", b"lease", b"members"][choices.below(4)];
        contents.insert(name.to_vec(), pairs);
    }
    contents
}

pub(crate) fn write(contents: &Contents) -> Vec<u8> {
    let mut writer = BoltWriter::new(Vec::new(), PAGE_BYTES as u32, 7);
    for (bucket, pairs) in contents {
        writer.bucket(bucket).expect("a new bucket");
        for (key, value) in pairs {
            writer.put(key, value).expect("memory does not fail");
        }
    }
    let (bytes, len) = writer.finish().expect("memory does not fail");
    assert_eq!(bytes.len() as u64, len);
    bytes
}

/// Everything in the file. What is copied is bounded by its length: no two elements share bytes.
fn read(file: &Bytes) -> Result<Contents, BoltError> {
    let copied = &mut 0usize;
    memory::bounded(file.len(), 48, 256 << 10, || {
        let reader = BoltReader::open(file.clone())?;
        let mut contents = Contents::new();
        for (name, bucket) in reader.buckets()? {
            let mut pairs = Pairs::new();
            let before = *copied;
            reader.scan(&bucket, &[], &mut |key, value| {
                *copied += key.len() + value.len();
                pairs.insert(key.to_vec(), value.to_vec());
                ControlFlow::Continue(())
            })?;
            let found = *copied - before;
            assert!(found <= file.len(), "{found} bytes in a file of {}", file.len());
            contents.insert(name.to_vec(), pairs);
        }
        Ok(contents)
    })
}

/// Keys, and the places between them, are found by seeking.
fn find(file: &Bytes, contents: &Contents) {
    let reader = BoltReader::open(file.clone()).expect("our own file");
    for (name, pairs) in contents {
        let bucket = reader.bucket(name).expect("our own file").expect("a bucket that was written");
        for (key, value) in pairs {
            assert_eq!(
                reader.value(&bucket, key).expect("our own file").as_ref(),
                Some(&Bytes::from(value.clone()))
            );
            let mut after = key.clone();
            after.push(0);
            let mut next = None;
            let found = reader.scan(&bucket, &after, &mut |key, _| {
                next = Some(key.to_vec());
                ControlFlow::Break(())
            });
            found.expect("our own file");
            assert_eq!(next.as_ref(), pairs.range(after..).next().map(|(key, _)| key));
        }
    }
}

/// Makes the checksum of a meta page right.
fn seal(file: &mut [u8], page: usize) {
    let from = page * PAGE_BYTES + 16;
    let Some(meta) = file.get_mut(from..from + 64) else { return };
    let sum = meta[..56].iter().fold(0xcbf2_9ce4_8422_2325u64, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
    });
    meta[56..].copy_from_slice(&sum.to_le_bytes());
}
