//! The address of one change: a main revision (a transaction) and a sub revision (its change number).

use std::fmt;

/// `main` counts transactions that changed something, from 2 (1 is the empty store); `sub` counts the changes within
/// one transaction, from 0. Ordered by time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision {
    pub main: i64,
    pub sub: i64,
}

impl Revision {
    pub const fn new(main: i64, sub: i64) -> Revision {
        Revision { main, sub }
    }

    /// The key under which etcd stores this change: `main` and `sub` big-endian with `_` between, and a trailing `t`
    /// for a tombstone. HashKV covers these bytes.
    pub fn to_bytes(self, tombstone: bool) -> ([u8; 18], usize) {
        let mut bytes = [0; 18];
        bytes[..8].copy_from_slice(&self.main.to_be_bytes());
        bytes[8] = b'_';
        bytes[9..17].copy_from_slice(&self.sub.to_be_bytes());
        bytes[17] = b't';
        (bytes, if tombstone { 18 } else { 17 })
    }

    /// The inverse of [`Revision::to_bytes`]; `None` for anything else.
    pub fn from_bytes(bytes: &[u8]) -> Option<(Revision, bool)> {
        let tombstone = match bytes.len() {
            17 => false,
            18 if bytes[17] == b't' => true,
            _ => return None,
        };
        if bytes[8] != b'_' {
            return None;
        }
        let main = i64::from_be_bytes(bytes[..8].try_into().ok()?);
        let sub = i64::from_be_bytes(bytes[9..17].try_into().ok()?);
        Some((Revision { main, sub }, tombstone))
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.main, self.sub)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_round_trip_and_sort_like_revisions() {
        let revisions = [(1, 0), (1, 1), (2, 0), (256, 3), (i64::MAX, 0)];
        let mut last = Vec::new();
        for (main, sub) in revisions {
            for tombstone in [false, true] {
                let (bytes, n) = Revision::new(main, sub).to_bytes(tombstone);
                assert!(last.as_slice() < &bytes[..n]);
                last = bytes[..n].to_vec();
                let back = Revision::from_bytes(&bytes[..n]);
                assert_eq!(back, Some((Revision::new(main, sub), tombstone)));
            }
        }
        assert_eq!(Revision::from_bytes(b"short"), None);
    }
}
