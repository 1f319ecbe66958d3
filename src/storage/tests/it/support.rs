//! Dice and helpers shared by the tests.

use bytes::Bytes;
use norn_storage::{Disk, DiskError, DiskOp, FileName, MemDisk};

/// splitmix64.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.draw() % n
    }

    pub(crate) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// Bytes that are sometimes all zero, and often end in zeros.
    pub(crate) fn bytes(&mut self, most: u64) -> Bytes {
        let len = self.below(most + 1) as usize;
        let zeros = match self.below(4) {
            0 => 0,
            1 => len,
            _ => self.below(len as u64 + 1) as usize,
        };
        let mut bytes: Vec<u8> = (0..zeros).map(|_| self.draw() as u8).collect();
        bytes.resize(len, 0);
        Bytes::from(bytes)
    }
}

pub(crate) fn run(disk: &mut MemDisk, ops: &[DiskOp]) -> Result<(), DiskError> {
    ops.iter().try_for_each(|op| disk.execute(op))
}

pub(crate) fn name(path: &str) -> FileName {
    FileName::new(path)
}
