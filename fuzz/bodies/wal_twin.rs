//! etcd's WAL format read once more, in the simplest words, to judge the real reader.

use bytes::Bytes;
use norn_storage::wal::WalEntry;
use norn_storage::{Disk, DiskOp, DiskRead, FileName, MemDisk};

/// A record whose frame is whole and whose checksum holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TwinRecord {
    pub kind: u64,
    pub offset: u64,
    pub data: Vec<u8>,
}

/// The records at the beginning of a file, up to the first that is not whole, and where that one stands.
/// `crc` is the running checksum, before and after.
pub fn records(file: &[u8], crc: &mut u32) -> (Vec<TwinRecord>, u64) {
    let (mut found, mut at) = (Vec::new(), 0usize);
    while let Some(header) = file.get(at..at + 8) {
        let header = u64::from_le_bytes(header.try_into().expect("eight bytes"));
        let len = header & 0x00ff_ffff_ffff_ffff;
        let padding = (8 - len % 8) % 8;
        let top = if padding == 0 { 0 } else { 0x80 | padding };
        if header == 0 || header >> 56 != top || len > file.len() as u64 {
            break;
        }
        let Some(body) = file.get(at + 8..at + 8 + len as usize + padding as usize) else { break };
        let Some((kind, sum, data)) = record(&body[..len as usize]) else { break };
        match kind {
            4 if at == 0 && (*crc == 0 || *crc == sum) => *crc = sum,
            1 | 2 | 3 | 5 if crc32c::crc32c_append(*crc, &data) == sum => *crc = sum,
            _ => break,
        }
        found.push(TwinRecord { kind, offset: at as u64, data });
        at += 8 + body.len();
    }
    (found, at as u64)
}

/// Type, checksum and data of a walpb.Record; the first two are always there.
fn record(bytes: &[u8]) -> Option<(u64, u32, Vec<u8>)> {
    let (mut kind, mut crc, mut data) = (None, None, Vec::new());
    for (number, value) in fields(bytes)? {
        match (number, value) {
            (1, Value::Varint(value)) => kind = Some(value),
            (2, Value::Varint(value)) => crc = Some(u32::try_from(value).ok()?),
            (3, Value::Bytes(value)) => data = value.to_vec(),
            _ => {}
        }
    }
    Some((kind?, crc?, data))
}

pub enum Value<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
    Fixed,
}

/// The fields of a protobuf message, `None` if it is none.
pub fn fields(mut bytes: &[u8]) -> Option<Vec<(u64, Value<'_>)>> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes)?;
        if key >> 3 == 0 || key >> 35 != 0 {
            return None;
        }
        let value = match key & 7 {
            0 => Value::Varint(varint(&mut bytes)?),
            1 => fixed(&mut bytes, 8)?,
            5 => fixed(&mut bytes, 4)?,
            2 => {
                let len = varint(&mut bytes)?;
                if len > bytes.len() as u64 {
                    return None;
                }
                let (piece, rest) = bytes.split_at(len as usize);
                bytes = rest;
                Value::Bytes(piece)
            }
            _ => return None,
        };
        found.push((key >> 3, value));
    }
    Some(found)
}

fn fixed<'a>(bytes: &mut &[u8], len: usize) -> Option<Value<'a>> {
    *bytes = bytes.get(len..)?;
    Some(Value::Fixed)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u128;
    for shift in (0..70).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u128::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return u64::try_from(value).ok();
        }
    }
    None
}

pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// An encoded raftpb.Entry with this place and payload.
pub fn entry(term: u64, index: u64, payload: &[u8]) -> WalEntry {
    let mut data = vec![0x08, 0x00, 0x10];
    put_varint(&mut data, term);
    data.push(0x18);
    put_varint(&mut data, index);
    data.push(0x22);
    put_varint(&mut data, payload.len() as u64);
    data.extend_from_slice(payload);
    WalEntry { term, index, data: Bytes::from(data) }
}

pub fn dir() -> FileName {
    FileName::new("member/wal")
}

pub fn segment(sequence: u64, index: u64) -> FileName {
    FileName::new(format!("member/wal/{sequence:016x}-{index:016x}.wal"))
}

/// A disk on which nothing happened but `member/wal`, or only `member`.
pub fn disk(with_wal: bool) -> MemDisk {
    let mut disk = MemDisk::new();
    let name = FileName::new(if with_wal { "member/wal" } else { "member" });
    run(&mut disk, &[DiskOp::MakeDir { dir: name }]);
    for dir in ["member", ""] {
        run(&mut disk, &[DiskOp::SyncDir { dir: FileName::new(dir) }]);
    }
    disk
}

/// Puts a file there, durably.
pub fn put_file(disk: &mut MemDisk, file: &FileName, bytes: &[u8]) {
    let dir = file.as_str().rsplit_once('/').map_or("", |(dir, _)| dir);
    let data = Bytes::copy_from_slice(bytes);
    run(
        disk,
        &[
            DiskOp::Create { file: file.clone() },
            DiskOp::Write { file: file.clone(), offset: 0, data },
            DiskOp::Sync { file: file.clone() },
            DiskOp::SyncDir { dir: FileName::new(dir) },
        ],
    );
}

pub fn run(disk: &mut MemDisk, ops: &[DiskOp]) {
    for op in ops {
        disk.execute(op).expect("a healthy disk");
    }
}

pub fn file(disk: &MemDisk, name: &FileName) -> Vec<u8> {
    let len = disk.len(name).expect("a healthy disk").unwrap_or(0);
    disk.read_at(name, 0, len as usize).expect("a healthy disk").to_vec()
}
