//! Latencies in log-linear buckets: 64 steps per power of two, so that every value is within 1.6 % of the truth.

use std::time::Duration;

const STEPS_LOG2: u32 = 6;
const STEPS: u64 = 1 << STEPS_LOG2;

#[derive(Clone)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
    max_nanos: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        let buckets = (64 - STEPS_LOG2 as usize + 1) * STEPS as usize;
        Self { counts: vec![0; buckets], total: 0, max_nanos: 0 }
    }
}

fn bucket(nanos: u64) -> usize {
    if nanos < STEPS {
        return nanos as usize;
    }
    let shift = nanos.ilog2() - STEPS_LOG2;
    ((u64::from(shift) + 1) * STEPS + (nanos >> shift) - STEPS) as usize
}

/// The largest value of a bucket.
fn upper(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < STEPS {
        return bucket;
    }
    let (shift, step) = (bucket / STEPS - 1, bucket % STEPS);
    ((STEPS + step + 1) << shift) - 1
}

impl Histogram {
    pub fn record(&mut self, latency: Duration) {
        let nanos = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX >> 1);
        self.counts[bucket(nanos)] += 1;
        self.total += 1;
        self.max_nanos = self.max_nanos.max(nanos);
    }

    pub fn count(&self) -> u64 {
        self.total
    }

    /// `quantile` in 0..=1, in microseconds.
    pub fn micros(&self, quantile: f64) -> f64 {
        let rank = ((self.total as f64 * quantile).ceil() as u64).max(1);
        let mut seen = 0;
        for (i, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return upper(i).min(self.max_nanos) as f64 / 1e3;
            }
        }
        self.max_nanos as f64 / 1e3
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_contiguous_and_narrow() {
        for nanos in (0..100_000).chain([1 << 40, (1 << 40) + 12_345]) {
            let top = upper(bucket(nanos));
            assert!(top >= nanos && (top - nanos) as f64 <= nanos as f64 / 60.0, "{nanos} {top}");
            assert_eq!(bucket(top), bucket(nanos));
            assert_eq!(bucket(top + 1), bucket(nanos) + 1);
        }
    }

    #[test]
    fn quantiles() {
        let mut h = Histogram::default();
        (1..=1000).for_each(|i| h.record(Duration::from_micros(i)));
        assert!((h.micros(0.5) - 500.0).abs() < 10.0);
        assert_eq!(h.micros(1.0), 1000.0);
    }
}
