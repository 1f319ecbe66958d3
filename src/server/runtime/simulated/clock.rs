//! The clock of one machine: off, running at its own rate, and jumping forward now and then.

use std::time::Duration;

#[derive(Clone, Copy, Debug, Default)]
pub struct Clock {
    /// True time at which the rate last changed, and what the clock showed then.
    from: Duration,
    shown: Duration,
    /// Parts per million too fast.
    ppm: i64,
    /// What the wall clock shows beyond it, since 1970.
    wall: Duration,
}

const MILLION: u128 = 1_000_000;

impl Clock {
    pub fn new(shown: Duration, ppm: i64, wall: Duration) -> Clock {
        Clock { from: Duration::ZERO, shown, ppm, wall }
    }

    fn rate(&self) -> u128 {
        MILLION.saturating_add_signed(self.ppm.into())
    }

    /// What it shows at a true time.
    pub fn at(&self, now: Duration) -> Duration {
        let since = now.saturating_sub(self.from).as_nanos();
        self.shown + nanos(since * self.rate() / MILLION)
    }

    /// The first true time at which it shows this, if it does not jump before.
    pub fn when(&self, shown: Duration) -> Duration {
        let left = shown.saturating_sub(self.shown).as_nanos();
        self.from + nanos((left * MILLION).div_ceil(self.rate().max(1)))
    }

    pub fn wall_at(&self, now: Duration) -> Duration {
        self.wall + self.at(now)
    }

    pub fn set_rate(&mut self, now: Duration, ppm: i64) {
        self.shown = self.at(now);
        self.from = now;
        self.ppm = ppm;
    }

    pub fn jump(&mut self, now: Duration, by: Duration) {
        self.set_rate(now, self.ppm);
        self.shown += by;
    }
}

fn nanos(count: u128) -> Duration {
    Duration::from_nanos(u64::try_from(count).unwrap_or(u64::MAX))
}
