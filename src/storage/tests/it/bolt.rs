//! bbolt files: ours read back, one of bbolt's own, and bytes that are neither.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use bytes::Bytes;
use norn_storage::bbolt::{BoltError, BoltReader, BoltWriter, FileSource, PageSource};
use norn_storage::{Disk, DiskOp, MemDisk};
use proptest::prelude::*;

use crate::support::{Dice, name};

pub(crate) type Contents = BTreeMap<Vec<u8>, BTreeMap<Vec<u8>, Vec<u8>>>;

pub(crate) fn write(contents: &Contents, page_bytes: u32) -> Vec<u8> {
    let mut writer = BoltWriter::new(Vec::new(), page_bytes, 7);
    // The order of buckets does not matter.
    for (bucket, pairs) in contents.iter().rev() {
        writer.bucket(bucket).unwrap();
        for (key, value) in pairs {
            writer.put(key, value).unwrap();
        }
    }
    let (bytes, len) = writer.finish().unwrap();
    assert_eq!(bytes.len() as u64, len);
    bytes
}

pub(crate) fn read<S: PageSource>(source: S) -> Result<Contents, BoltError> {
    let reader = BoltReader::open(source)?;
    let mut contents = Contents::new();
    for (bucket_name, bucket) in reader.buckets()? {
        let mut pairs = BTreeMap::new();
        reader.scan(&bucket, &[], &mut |key, value| {
            pairs.insert(key.to_vec(), value.to_vec());
            ControlFlow::Continue(())
        })?;
        contents.insert(bucket_name.to_vec(), pairs);
    }
    Ok(contents)
}

/// 5000 keys of 17 bytes, some values over several pages, an empty bucket and a small one.
pub(crate) fn large() -> Contents {
    let mut dice = Dice(4);
    let mut contents = Contents::new();
    contents.insert(b"alarm".to_vec(), BTreeMap::new());
    contents.insert(b"meta".to_vec(), BTreeMap::from([(b"term".to_vec(), vec![1])]));
    let mut main = 1u64;
    let keys = (0..5000).map(|at| {
        main += 1 + dice.below(3);
        let mut key = main.to_be_bytes().to_vec();
        key.push(b'_');
        key.extend_from_slice(&dice.below(9).to_be_bytes());
        let value = if at % 500 == 3 { dice.bytes(20_000) } else { dice.bytes(300) };
        (key, value.to_vec())
    });
    contents.insert(b"key".to_vec(), keys.collect());
    contents
}

#[test]
fn what_was_written_is_read_and_found() {
    let contents = large();
    for page_bytes in [1024, 4096, 65536] {
        let bytes = Bytes::from(write(&contents, page_bytes));
        assert_eq!(read(bytes.clone()).unwrap(), contents);
        let reader = BoltReader::open(bytes).unwrap();
        assert_eq!((reader.page_bytes(), reader.txid()), (page_bytes, 7));
        let bucket = reader.bucket(b"key").unwrap().unwrap();
        assert!(
            reader.bucket(b"kez").unwrap().is_none() && reader.bucket(b"ke").unwrap().is_none()
        );
        let pairs = &contents[&b"key"[..]];
        for (key, value) in pairs.iter().step_by(7) {
            assert_eq!(reader.value(&bucket, key).unwrap().as_deref(), Some(&value[..]));
            let mut absent = key.clone();
            absent.push(0);
            assert_eq!(reader.value(&bucket, &absent), Ok(None));
            let mut after = Vec::new();
            reader
                .scan(&bucket, &absent, &mut |key, _| {
                    after.push(key.to_vec());
                    if after.len() < 3 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
                })
                .unwrap();
            let expected: Vec<_> =
                pairs.range(absent..).take(3).map(|(key, _)| key.clone()).collect();
            assert_eq!(after, expected);
        }
    }
}

#[test]
fn nothing_makes_a_valid_file() {
    let bytes = Bytes::from(write(&Contents::new(), 4096));
    assert_eq!(bytes.len(), 3 * 4096);
    assert_eq!(read(bytes).unwrap(), Contents::new());
}

/// Made by bbolt 1.4.3 with pages of 1024 bytes: inline buckets, an overflow page, a deleted key, a freed page.
#[test]
fn a_file_of_bbolts_own_is_read() {
    let mut key: BTreeMap<_, _> = (0..100)
        .map(|i| (format!("k{i:05}").into_bytes(), format!("v{}", i * 7).into_bytes()))
        .collect();
    key.remove(&b"k00007"[..]);
    key.insert(b"k00050x".to_vec(), vec![0xab; 1500]);
    let meta = BTreeMap::from([(b"consistent_index".to_vec(), vec![0, 0, 0, 0, 0, 0, 0, 9])]);
    let expected = Contents::from([
        (b"alarm".to_vec(), BTreeMap::new()),
        (b"key".to_vec(), key),
        (b"meta".to_vec(), meta),
    ]);
    let bytes = Bytes::from_static(include_bytes!("../testdata/bbolt-1.4.3.db"));
    assert_eq!(read(bytes.clone()).unwrap(), expected);

    // The same through a disk, and with either meta page destroyed.
    let mut disk = MemDisk::new();
    let file = name("db");
    disk.execute(&DiskOp::Create { file: file.clone() }).unwrap();
    disk.execute(&DiskOp::Write { file: file.clone(), offset: 0, data: bytes }).unwrap();
    assert_eq!(read(FileSource { disk: &disk, file: file.clone() }).unwrap(), expected);
    for meta in 0..2 {
        let image = disk.snapshot_image();
        assert!(image.flip_bit(&file, meta * 1024 + 60, 3));
        let found = read(FileSource { disk: &image, file: file.clone() }).unwrap();
        assert!(
            found == expected || found[&b"key"[..]].contains_key(&b"k00007"[..]),
            "meta {meta}"
        );
        assert!(image.flip_bit(&file, (1 - meta) * 1024 + 60, 3));
        let neither = read(FileSource { disk: &image, file: file.clone() });
        assert_eq!(neither, Err(BoltError::NotABoltFile));
    }
}

fn small() -> Vec<u8> {
    let mut contents = large();
    let key = contents.get_mut(&b"key"[..]).unwrap();
    *key = std::mem::take(key).into_iter().take(60).collect();
    write(&contents, 1024)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn pairs_round_trip(
        contents in proptest::collection::btree_map(
            proptest::collection::vec(any::<u8>(), 1..10),
            proptest::collection::btree_map(
                proptest::collection::vec(any::<u8>(), 1..40),
                proptest::collection::vec(any::<u8>(), 0..200),
                0..60,
            ),
            0..6,
        ),
        large in proptest::option::of(1usize..10_000),
    ) {
        let mut contents = contents;
        if let (Some(large), Some(pairs)) = (large, contents.values_mut().next()) {
            pairs.insert(vec![7], vec![1; large]);
        }
        prop_assert_eq!(read(Bytes::from(write(&contents, 1024))).unwrap(), contents);
    }

    #[test]
    fn damaged_files_are_read_or_refused(
        edits in proptest::collection::vec((any::<u32>(), any::<u8>()), 1..20),
        cut in proptest::option::of(any::<u32>()),
    ) {
        let mut bytes = small();
        for (at, value) in edits {
            // Never both meta pages: behind them is what is to be tried.
            let at = 1024 + at as usize % (bytes.len() - 1024);
            bytes[at] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut as usize % bytes.len());
        }
        let _ = read(Bytes::from(bytes));
    }

    #[test]
    fn arbitrary_bytes_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(read(Bytes::from(bytes)).is_err());
    }
}
