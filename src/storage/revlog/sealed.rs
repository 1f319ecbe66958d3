//! Small files written whole: magic, length, checksum, body.

use bytes::{BufMut, Bytes, BytesMut};

use crate::disk::{DiskOp, DiskRead, FileName};

use super::RevLogError;

pub(super) const HEADER_BYTES: usize = 24;

/// Header of a sealed file with this body.
pub(super) fn header<'a>(magic: [u8; 8], parts: impl Iterator<Item = &'a Bytes>) -> Bytes {
    let (mut len, mut crc) = (0, 0);
    for part in parts {
        len += part.len() as u64;
        crc = crc32c::crc32c_append(crc, part);
    }
    header_of(magic, len, crc)
}

/// Header of a sealed file whose body has this length and checksum.
fn header_of(magic: [u8; 8], len: u64, crc: u32) -> Bytes {
    let mut header = BytesMut::with_capacity(HEADER_BYTES);
    header.put_slice(&magic);
    header.put_u64_le(len);
    header.put_u32_le(crc);
    header.put_u32_le(crc32c::crc32c(&header));
    header.freeze()
}

/// Emits the making of a sealed file under this very name, synced. The parts are written one by one.
pub(super) fn write(
    file: &FileName,
    magic: [u8; 8],
    parts: Vec<Bytes>,
    ops: &mut Vec<DiskOp>,
) -> u64 {
    let header = header(magic, parts.iter());
    ops.push(DiskOp::Create { file: file.clone() });
    let mut offset = 0;
    for data in std::iter::once(header).chain(parts) {
        let len = data.len() as u64;
        ops.push(DiskOp::Write { file: file.clone(), offset, data });
        offset += len;
    }
    ops.push(DiskOp::Sync { file: file.clone() });
    ops.push(DiskOp::Close { file: file.clone() });
    offset
}

/// A sealed file that is written a piece at a time, its header last.
#[derive(Debug)]
pub(super) struct Pieces {
    file: FileName,
    /// Of the body.
    bytes: u64,
    crc: u32,
}

impl Pieces {
    /// Emits the file's making.
    pub(super) fn create(file: FileName, ops: &mut Vec<DiskOp>) -> Pieces {
        ops.push(DiskOp::Create { file: file.clone() });
        Pieces { file, bytes: 0, crc: 0 }
    }

    /// Emits the write of the next piece.
    pub(super) fn write(&mut self, data: Bytes, ops: &mut Vec<DiskOp>) {
        let offset = HEADER_BYTES as u64 + self.bytes;
        self.bytes += data.len() as u64;
        self.crc = crc32c::crc32c_append(self.crc, &data);
        ops.push(DiskOp::Write { file: self.file.clone(), offset, data });
    }

    /// Emits what makes it whole, and its sync. Returns its name and length.
    pub(super) fn finish(self, magic: [u8; 8], ops: &mut Vec<DiskOp>) -> (FileName, u64) {
        let data = header_of(magic, self.bytes, self.crc);
        ops.push(DiskOp::Write { file: self.file.clone(), offset: 0, data });
        ops.push(DiskOp::Sync { file: self.file.clone() });
        ops.push(DiskOp::Close { file: self.file.clone() });
        (self.file, self.bytes + HEADER_BYTES as u64)
    }

    /// Emits its end as it is, and returns its name: to be removed.
    pub(super) fn give_up(self, ops: &mut Vec<DiskOp>) -> FileName {
        ops.push(DiskOp::Close { file: self.file.clone() });
        self.file
    }
}

/// The body of a sealed file.
pub(super) fn read(
    disk: &impl DiskRead,
    file: &FileName,
    magic: [u8; 8],
) -> Result<Bytes, RevLogError> {
    let corrupt = |offset, what| RevLogError::Corrupt { file: file.clone(), offset, what };
    let Some(len) = disk.len(file)? else {
        return Err(RevLogError::Missing { file: file.clone() });
    };
    let len = usize::try_from(len).map_err(|_| corrupt(0, "the file is too long"))?;
    let whole = disk.read_at(file, 0, len)?;
    if whole.len() < HEADER_BYTES {
        return Err(corrupt(0, "the file is too short"));
    }
    let word = |at: usize| u32::from_le_bytes(whole[at..at + 4].try_into().expect("four bytes"));
    if whole[..8] != magic || word(20) != crc32c::crc32c(&whole[..20]) {
        return Err(corrupt(0, "damaged header"));
    }
    let body_len = u64::from(word(8)) | u64::from(word(12)) << 32;
    let body = whole.slice(HEADER_BYTES..);
    if body.len() as u64 != body_len {
        return Err(corrupt(8, "the file does not have its length"));
    }
    if crc32c::crc32c(&body) != word(16) {
        return Err(corrupt(HEADER_BYTES as u64, "checksum mismatch"));
    }
    Ok(body)
}
