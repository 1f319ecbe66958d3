//! Why a read or compaction of the key space was refused.

use std::fmt;

/// `V` is the error of the [`crate::Values`] port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error<V> {
    /// The asked revision is below the compacted one (or, for a compaction, not above it).
    Compacted,
    /// The asked revision does not exist yet.
    Future,
    /// The value could not be read.
    Values(V),
    /// The value was read but is not a `KeyValue`.
    Damaged(crate::CodecError),
}

impl<V: fmt::Display> fmt::Display for Error<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Compacted => f.write_str("mvcc: required revision has been compacted"),
            Error::Future => f.write_str("mvcc: required revision is a future revision"),
            Error::Values(error) => write!(f, "{error}"),
            Error::Damaged(error) => write!(f, "stored value: {error}"),
        }
    }
}

impl<V: fmt::Debug + fmt::Display> std::error::Error for Error<V> {}
