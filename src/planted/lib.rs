//! Mistakes put in by hand, so that whoever looks for mistakes can be examined.
//!
//! A site asks `planted!(SomeBug)`. In every ordinary build that is the constant `false`, and the compiler removes the site.
//! Only a build with `RUSTFLAGS="--cfg norn_planted"` has the switch, and there too all bugs are off until [`only`] turns one
//! on. A site is one short line, so that the code stays readable:
//!
//! ```
//! # use norn_planted::planted;
//! # let (mut synced, fresh) = (1, 2);
//! if !planted!(SyncIgnored) {
//!     synced = fresh;
//! }
//! # assert_eq!(synced, 2);
//! ```

use std::sync::atomic::{AtomicU16, Ordering};

/// False, but where this bug was planted on purpose.
#[macro_export]
macro_rules! planted {
    ($bug:ident) => {
        cfg!(norn_planted) && $crate::is_on($crate::Bug::$bug)
    };
}

macro_rules! catalogue {
    ($($(#[doc = $cause:literal])+ $bug:ident,)*) => {
        /// The catalogue. The text is what would be wrong.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Bug {
            $($(#[doc = $cause])+ $bug,)*
        }

        impl Bug {
            pub const ALL: &[Bug] = &[$(Bug::$bug),*];

            pub fn name(self) -> &'static str {
                match self { $(Bug::$bug => stringify!($bug),)* }
            }

            /// What is wrong, in one line.
            pub fn cause(self) -> &'static str {
                match self { $(Bug::$bug => concat!($($cause),+).trim_ascii(),)* }
            }
        }
    };
}

catalogue! {
    /// Entries and votes count as saved when they were written, without a sync.
    SyncIgnored,
    /// A linearizable read is answered without asking whether the leader still leads.
    ReadUnconfirmed,
    /// A watch that resumes at a revision begins with the one after it.
    WatchSkips,
    /// A new stream of appends to a member goes on with the positions of the one before.
    StreamGoesOn,

    // What the fuzz targets are examined with, one each.
    /// The WAL reader takes a record whose checksum does not hold.
    WalChecksumUnread,
    /// A torn tail of the WAL is reported and left in the file.
    WalTailUnrepaired,
    /// A write that was acknowledged counts for whatever entry has that index now.
    LogStableWithoutTerm,
    /// A node votes for whoever asks, also twice in a term.
    VoteTwice,
    /// The revision log takes a batch that does not continue the chain.
    RevlogChainUnread,
    /// Elements of a bbolt page are not checked to end within it.
    BoltElementUnchecked,
    /// A snapshot file is taken whatever its checksum says.
    SnapChecksumUnread,
    /// Compaction at the revision of a deletion drops the tombstone.
    TombstoneDropped,
    /// A proposal that was lost is never answered.
    ProposalNeverExpires,
    /// A stream decoder forgets where the last append ended.
    AppendPositionKept,
    /// The length of a field is believed, although the request ends before.
    RequestLengthBelieved,
    /// A duration without a unit means seconds.
    DurationWithoutUnit,
}

/// Of the bug that is on: its place in the catalogue, counted from one.
static ON: AtomicU16 = AtomicU16::new(0);

/// This build can turn them on.
pub const fn is_switchable() -> bool {
    cfg!(norn_planted)
}

/// Turns this bug on, in the whole process, and every other one off.
///
/// # Panics
/// In a build without the switch: an examination there would show nothing.
pub fn only(bug: Option<Bug>) {
    assert!(is_switchable(), "planted bugs need a build with RUSTFLAGS=\"--cfg norn_planted\"");
    ON.store(bug.map_or(0, |bug| bug as u16 + 1), Ordering::SeqCst);
}

/// For [`planted!`].
#[inline]
pub fn is_on(bug: Bug) -> bool {
    ON.load(Ordering::Relaxed) == bug as u16 + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn off_unless_built_and_turned_on() {
        assert!(!planted!(SyncIgnored));
        if cfg!(norn_planted) {
            only(Some(Bug::SyncIgnored));
            assert!(planted!(SyncIgnored));
            only(None);
            assert!(!planted!(SyncIgnored));
        }
    }

    #[test]
    fn every_bug_says_what_is_wrong() {
        for bug in Bug::ALL {
            assert!(bug.cause().ends_with('.'), "{}", bug.name());
        }
    }
}
