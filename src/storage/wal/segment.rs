//! Names of segments, and which of them to read.

use crate::disk::{DiskRead, FileName};

use super::WalError;

/// `<sequence>-<index>.wal`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SegmentName {
    pub(super) sequence: u64,
    /// First raft index that may be in the file.
    pub(super) index: u64,
}

impl SegmentName {
    fn parse(name: &str) -> Option<SegmentName> {
        let (sequence, index) = name.strip_suffix(".wal")?.split_once('-')?;
        let hex = |digits: &str| {
            let plain = digits.len() == 16 && digits.bytes().all(|b| b.is_ascii_hexdigit());
            plain.then(|| u64::from_str_radix(digits, 16).ok()).flatten()
        };
        Some(SegmentName { sequence: hex(sequence)?, index: hex(index)? })
    }

    pub(super) fn file(self, dir: &FileName) -> FileName {
        FileName::new(format!("{dir}/{:016x}-{:016x}.wal", self.sequence, self.index))
    }
}

/// All segments of a directory, by sequence; checked to be consecutive from the one that covers `index` on.
pub(super) fn list(disk: &impl DiskRead, dir: &FileName) -> Result<Vec<SegmentName>, WalError> {
    let mut names: Vec<_> =
        disk.list(dir)?.iter().filter_map(|name| SegmentName::parse(name)).collect();
    names.sort_unstable();
    Ok(names)
}

/// Where to begin reading for entries after `index`: the last file that may hold its successor.
pub(super) fn covering(
    names: &[SegmentName],
    dir: &FileName,
    index: u64,
) -> Result<usize, WalError> {
    let at = names.iter().rposition(|name| name.index <= index);
    let at = at.ok_or_else(|| WalError::NotFound { dir: dir.clone(), index })?;
    for pair in names[at..].windows(2) {
        if pair[1].sequence != pair[0].sequence.wrapping_add(1) {
            let (before, after) = (pair[0].sequence, pair[1].sequence);
            return Err(WalError::Gap { dir: dir.clone(), before, after });
        }
    }
    Ok(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_etcds() {
        let name = SegmentName { sequence: 10, index: 0x1234 };
        let file = name.file(&FileName::new("member/wal"));
        assert_eq!(file.as_str(), "member/wal/000000000000000a-0000000000001234.wal");
        assert_eq!(SegmentName::parse(file.base()), Some(name));
        for other in [
            "0.tmp",
            "a-b.wal",
            "000000000000000a-0000000000001234.wal.broken",
            "+00000000000000a-0000000000001234.wal",
        ] {
            assert_eq!(SegmentName::parse(other), None, "{other}");
        }
    }
}
