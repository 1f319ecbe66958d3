//! `.snap` files, choosing the newest that can be read, and the databases that come with them.

use bytes::Bytes;
use norn_storage::snap_file::{self, SnapError, SnapName};
use norn_storage::{DiskRead, FileName, MemDisk};

use crate::choices::Choices;
use crate::database;
use crate::memory;
use crate::wal_twin::{self, Value};

/// The first byte says whether the rest is one file, what a directory of them is like, or what is in a database.
pub fn body(bytes: &[u8]) {
    let mut choices = Choices::new(bytes);
    match choices.byte() & 3 {
        1 | 3 => return directory(&mut choices),
        2 => {
            database::body(&mut choices);
            return;
        }
        _ => {}
    }
    let file = FileName::new("a.snap");
    let body = Bytes::copy_from_slice(choices.rest());
    let found = memory::bounded(body.len(), 1, 1 << 10, || snap_file::decode(&file, &body));
    match (found, twin(&body)) {
        (Ok(found), Some(expected)) => {
            assert_eq!(found, expected);
            // Saved again, it is read again.
            let again = snap_file::encode(&found);
            assert_eq!(snap_file::decode(&file, &again), Ok(found));
        }
        (Err(SnapError::Corrupt { file: named, .. }), None) => assert_eq!(named, file),
        (found, expected) => panic!("{found:?} instead of {expected:?}"),
    }
}

/// The data whose checksum holds.
fn twin(body: &[u8]) -> Option<Vec<u8>> {
    let (mut crc, mut data) = (0, Vec::new());
    for (number, value) in wal_twin::fields(body)? {
        match (number, value) {
            (1, Value::Varint(value)) => crc = u32::try_from(value).ok()?,
            (2, Value::Bytes(value)) => data = value.to_vec(),
            _ => {}
        }
    }
    (crc != 0 && !data.is_empty() && crc32c::crc32c(&data) == crc).then_some(data)
}

/// Good files and damaged ones: the newest good one serves, and damaged newer ones are set aside.
fn directory(choices: &mut Choices<'_>) {
    let dir = FileName::new("member/snap");
    let mut disk = wal_twin::disk(false);
    wal_twin::run(&mut disk, &[norn_storage::DiskOp::MakeDir { dir: dir.clone() }]);
    let mut good = Vec::new();
    let mut bad = Vec::new();
    for _ in 0..choices.below(6) {
        let name = SnapName { term: choices.below(4) as u64, index: choices.below(300) as u64 };
        good.retain(|(known, _)| *known != name);
        bad.retain(|known| *known != name);
        let mut data = choices.bytes(80).to_vec();
        data.push(7);
        let mut ops = Vec::new();
        snap_file::save(&dir, name, &data, &mut ops);
        wal_twin::run(&mut disk, &ops);
        if choices.byte() % 4 != 3 {
            good.push((name, data));
            continue;
        }
        // Cut short or with a flipped bit.
        let file = name.file(&dir);
        let mut bytes = wal_twin::file(&disk, &file);
        let at = usize::from(choices.byte()) % bytes.len();
        if choices.bool() {
            bytes.truncate(at);
        } else {
            bytes[at] ^= 1 << (choices.byte() % 8);
        }
        wal_twin::put_file(&mut disk, &file, &bytes);
        match twin(&bytes) {
            // A flip in what a reader skips, or in a field's number, can leave it whole.
            Some(data) => good.push((name, data)),
            None => bad.push(name),
        }
    }
    let least = SnapName { term: choices.below(3) as u64, index: 0 };
    good.sort();
    let expected = good.iter().rev().find(|(name, _)| *name >= least);
    let found = snap_file::load_newest(&mut disk, &dir, &mut |name| name >= least);
    let found = found.expect("damage is no failure");
    let found = found.map(|(name, data)| (name, data.to_vec()));
    assert_eq!(found.as_ref(), expected);
    aside(&disk, &dir, &bad, least, expected.map(|(name, _)| *name));
}

fn aside(
    disk: &MemDisk,
    dir: &FileName,
    bad: &[SnapName],
    least: SnapName,
    found: Option<SnapName>,
) {
    for name in bad {
        let tried = *name >= least && found.is_none_or(|found| *name > found);
        let broken = FileName::new(format!("{}.broken", name.file(dir)));
        let there = |file: &FileName| disk.len(file).expect("a healthy disk").is_some();
        assert_eq!((there(&broken), there(&name.file(dir))), (tried, !tried), "{name}");
    }
}
