//! What the crates' own workloads expect beside them: dice, here read from the fuzzer's bytes, and a way to run operations.

use bytes::Bytes;
use norn_storage::{Disk, DiskError, DiskOp, FileName, MemDisk};

use crate::choices::Choices;

/// As `Dice` of the storage tests, but every throw comes from the input; when that is used up, all are zero.
pub(crate) struct Dice {
    bytes: std::vec::IntoIter<u8>,
}

impl Dice {
    pub(crate) fn new(choices: &mut Choices<'_>) -> Dice {
        Dice { bytes: choices.rest().to_vec().into_iter() }
    }

    pub(crate) fn is_done(&self) -> bool {
        self.bytes.len() == 0
    }

    fn byte(&mut self) -> u64 {
        self.bytes.next().map_or(0, u64::from)
    }

    pub(crate) fn draw(&mut self) -> u64 {
        (0..8).fold(0, |value, _| value << 8 | self.byte())
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        (if n <= 256 { self.byte() } else { self.byte() | self.byte() << 8 }) % n
    }

    pub(crate) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == n - 1
    }

    /// Short data costs no input; its bytes tell one from another.
    pub(crate) fn bytes(&mut self, most: u64) -> Bytes {
        let (len, fill) = (self.below(most + 1) as usize, self.byte() as u8);
        Bytes::from((0..len).map(|at| fill.wrapping_add((at % 7) as u8)).collect::<Vec<_>>())
    }
}

pub(crate) fn run(disk: &mut MemDisk, ops: &[DiskOp]) -> Result<(), DiskError> {
    ops.iter().try_for_each(|op| disk.execute(op))
}

pub(crate) fn name(path: &str) -> FileName {
    FileName::new(path)
}
