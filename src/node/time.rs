//! Time as an input: milliseconds since some moment before the node started, never going back.

use std::ops::{Add, Sub};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time {
    pub ms: u64,
}

impl Time {
    pub const fn from_ms(ms: u64) -> Time {
        Time { ms }
    }

    /// Milliseconds from `earlier` to here; 0 if that is later.
    pub fn since(self, earlier: Time) -> u64 {
        self.ms.saturating_sub(earlier.ms)
    }
}

impl Add<u64> for Time {
    type Output = Time;

    fn add(self, ms: u64) -> Time {
        Time { ms: self.ms.saturating_add(ms) }
    }
}

impl Sub<u64> for Time {
    type Output = Time;

    fn sub(self, ms: u64) -> Time {
        Time { ms: self.ms.saturating_sub(ms) }
    }
}
