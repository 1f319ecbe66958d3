//! A disk that does not give back what was written: bits that flip at rest, sectors that cannot be read, and a write that lands
//! somewhere else.

use crate::disk::{DiskError, DiskOp, FileName};

use super::{MemDisk, io, pages::Pages, tree::Tree};

const SECTOR: u64 = 512;

/// A write that will land elsewhere.
#[derive(Clone, Debug)]
pub struct Stray {
    /// Of the writes to files of the directory: 1 is the next one.
    pub nth: u64,
    pub dir: FileName,
    /// Where it lands, in sectors, as far as there are so many; in the file that it was for if this one is gone.
    pub to: FileName,
    pub sector: u64,
}

#[derive(Default)]
pub(super) struct Damage {
    reads: u64,
    fail_read_at: Option<u64>,
    unreadable: Option<FileName>,
    stray: Option<Stray>,
    strayed: Option<String>,
}

impl Damage {
    /// A new machine, or a new life: what was not read, or did not happen, does not matter any more.
    pub(super) fn forget(&mut self) {
        *self = Damage { reads: self.reads, strayed: self.strayed.take(), ..Damage::default() };
    }

    pub(super) fn read(&mut self, file: &FileName) -> Result<(), DiskError> {
        self.reads += 1;
        if self.fail_read_at == Some(self.reads) {
            self.unreadable = Some(file.clone());
        }
        if self.unreadable.as_ref() == Some(file) { Err(io(file, "read")) } else { Ok(()) }
    }

    /// What the disk does instead of this operation.
    pub(super) fn misdirect(&mut self, op: &DiskOp, tree: &Tree) -> Option<DiskOp> {
        let DiskOp::Write { file, offset, data } = op else { return None };
        let stray = self.stray.as_mut().filter(|stray| {
            file.as_str().strip_prefix(stray.dir.as_str()).is_some_and(|rest| rest.starts_with('/'))
        })?;
        stray.nth -= 1;
        if stray.nth > 0 {
            return None;
        }
        let stray = self.stray.take()?;
        let to = if tree.bytes(&stray.to).is_some() { stray.to } else { file.clone() };
        let sectors = tree.bytes(&to).map_or(0, Pages::len).div_ceil(SECTOR).max(1);
        let mut sector = stray.sector % sectors;
        if to == *file && sector == offset / SECTOR {
            sector += 1;
        }
        let at = sector * SECTOR + offset % SECTOR;
        let len = data.len();
        self.strayed = Some(format!("{len} bytes for {file} at {offset} went to {to} at {at}"));
        Some(DiskOp::Write { file: to, offset: at, data: data.clone() })
    }
}

impl MemDisk {
    /// Flips a bit on the medium, whatever was or was not synced; false if the file is not that long.
    pub fn flip_bit(&self, file: &FileName, offset: u64, bit: u8) -> bool {
        self.state().tree.flip_bit(file, offset, bit)
    }

    /// Lets the n-th read from now fail (1 is the next one), and from then on every read of the same file, until the disk crashes or
    /// is killed.
    pub fn fail_read(&self, nth: u64) {
        let damage = &mut self.state().damage;
        damage.fail_read_at = Some(damage.reads + nth);
    }

    /// The file that could not be read.
    pub fn unreadable(&self) -> Option<FileName> {
        self.state().damage.unreadable.clone()
    }

    /// One write will go astray, and count as done: what was there before stays there.
    pub fn stray(&self, stray: Stray) {
        assert!(stray.nth > 0, "writes are counted from one");
        self.state().damage.stray = Some(stray);
    }

    /// What a write that went astray did, told once.
    pub fn take_strayed(&self) -> Option<String> {
        self.state().damage.strayed.take()
    }

    /// Everything can be read again, and no write will go astray.
    pub fn mend(&self) {
        self.state().damage.forget();
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::disk::{Disk, DiskRead};

    fn disk() -> (MemDisk, FileName, FileName) {
        let mut disk = MemDisk::new();
        let (a, b) = (FileName::new("d/a"), FileName::new("b"));
        disk.execute(&DiskOp::MakeDir { dir: FileName::new("d") }).unwrap();
        for file in [&a, &b] {
            disk.execute(&DiskOp::Create { file: file.clone() }).unwrap();
            let data = Bytes::from(vec![b'.'; 2 * SECTOR as usize]);
            disk.execute(&DiskOp::Write { file: file.clone(), offset: 0, data }).unwrap();
        }
        (disk, a, b)
    }

    #[test]
    fn a_file_stays_unreadable_until_the_disk_is_another() {
        let (mut disk, a, b) = disk();
        disk.fail_read(2);
        assert!(disk.read_at(&a, 0, 1).is_ok());
        let error = disk.read_at(&a, 0, 1).unwrap_err();
        assert_eq!(error.to_string(), "read d/a: injected");
        assert!(disk.read_at(&a, 7, 1).is_err());
        assert!(disk.read_at(&b, 0, 1).is_ok());
        assert_eq!(disk.unreadable(), Some(a.clone()));
        disk.kill(1);
        assert!(disk.read_at(&a, 0, 1).is_ok());
    }

    #[test]
    fn one_write_goes_astray() {
        let (mut disk, a, b) = disk();
        let dir = FileName::new("d");
        disk.stray(Stray { nth: 2, dir, to: b.clone(), sector: 3 });
        let write = |file: &FileName, data: &'static [u8]| {
            let data = Bytes::from_static(data);
            DiskOp::Write { file: file.clone(), offset: 2, data }
        };
        for op in [write(&b, b"0"), write(&a, b"1"), write(&a, b"2"), write(&a, b"3")] {
            disk.execute(&op).unwrap();
        }
        let went = "1 bytes for d/a at 2 went to b at 514";
        assert_eq!(disk.take_strayed().as_deref(), Some(went));
        assert_eq!(&disk.read_at(&a, 2, 1).unwrap()[..], b"3");
        assert_eq!(&disk.read_at(&b, 514, 1).unwrap()[..], b"2");
        assert_eq!(&disk.read_at(&b, 2, 1).unwrap()[..], b"0");
    }
}
