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

mod catalogue;

use std::sync::atomic::{AtomicU16, Ordering};

pub use catalogue::{Bug, Hunt};

/// False, but where this bug was planted on purpose.
#[macro_export]
macro_rules! planted {
    ($bug:ident) => {
        cfg!(norn_planted) && $crate::is_on($crate::Bug::$bug)
    };
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
            assert!(!bug.origin().is_empty(), "{}", bug.name());
        }
    }
}
