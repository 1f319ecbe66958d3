//! What only whole servers meet, beside what both tiers do. Drawn from a source of its own.

use crate::options::Profile;
use crate::rng::Rng;

/// Times in microseconds: means between two faults of the kind; 0: never.
#[derive(Clone, Debug, Default)]
pub struct Hardships {
    /// Bytes between members that make no sense.
    pub nonsense_every_us: u64,
    /// All members are told to end and started again, one after the other.
    pub rolling_every_us: u64,
    /// A process stands still for longer than anybody waits for it.
    pub long_pause_every_us: u64,
    /// Some links become slow for a while.
    pub slow_links_every_us: u64,
    /// Members differ in those flags that may, and in other ones after every start.
    pub has_mixed_flags: bool,
}

impl Hardships {
    pub fn draw(profile: Profile, rng: &mut Rng) -> Hardships {
        let mut fault = |low: u64, high: u64, permille: u64| {
            let (value, on) = (rng.between(low, high), rng.permille(permille));
            if !profile.is_calm() && (on || profile.is_stormy()) { value } else { 0 }
        };
        let seconds = 1_000_000;
        Hardships {
            nonsense_every_us: fault(seconds / 4, 6 * seconds, 300),
            rolling_every_us: fault(3 * seconds, 12 * seconds, 250),
            long_pause_every_us: fault(3 * seconds, 15 * seconds, 200),
            slow_links_every_us: fault(seconds, 8 * seconds, 300),
            has_mixed_flags: rng.permille(300) && !profile.is_calm(),
        }
    }
}
