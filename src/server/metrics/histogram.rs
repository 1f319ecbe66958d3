//! Amounts, mostly of time, in buckets.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Counts by upper bound. Any thread may observe.
#[derive(Debug)]
pub struct Histogram {
    bounds: Vec<f64>,
    /// Below its bound and above the one before.
    counts: Vec<AtomicU64>,
    /// Everything, what is above all bounds too.
    count: AtomicU64,
    sum_ns: AtomicU64,
}

/// What a histogram held at one time.
pub struct Reading {
    pub counts: Vec<u64>,
    pub count: u64,
    pub sum: f64,
}

impl Histogram {
    /// `count` bounds, each `factor` times the one before. (In this order of multiplications Go's last digits come out.)
    pub fn exponential(start: f64, factor: f64, count: usize) -> Histogram {
        let bounds = std::iter::successors(Some(start), |bound| Some(bound * factor));
        Histogram::new(bounds.take(count).collect())
    }

    pub fn new(bounds: Vec<f64>) -> Histogram {
        let counts = bounds.iter().map(|_| AtomicU64::new(0)).collect();
        Histogram { bounds, counts, count: AtomicU64::new(0), sum_ns: AtomicU64::new(0) }
    }

    /// From a millisecond to eight seconds, as etcd has it for its disk.
    pub fn disk() -> Histogram {
        Histogram::exponential(0.001, 2.0, 14)
    }

    pub fn bounds(&self) -> &[f64] {
        &self.bounds
    }

    /// In seconds.
    pub fn observe(&self, took: Duration) {
        self.observe_many(took, 1);
    }

    /// In milliseconds.
    pub fn observe_ms(&self, took: Duration) {
        self.observe(took.saturating_mul(1_000));
    }

    /// So many that took so long each.
    pub fn observe_many(&self, each: Duration, count: u64) {
        let ns = u64::try_from(each.as_nanos()).unwrap_or(u64::MAX);
        self.sum_ns.fetch_add(ns.saturating_mul(count), Ordering::Relaxed);
        self.count.fetch_add(count, Ordering::Relaxed);
        let seconds = each.as_secs_f64();
        if let Some(at) = self.bounds.iter().position(|bound| seconds <= *bound) {
            self.counts[at].fetch_add(count, Ordering::Relaxed);
        }
    }

    /// Sets what was counted elsewhere; `counts` has what is above all bounds at its end.
    pub fn fill(&self, counts: &[u64], sum: u64) {
        for (counter, count) in self.counts.iter().zip(counts) {
            counter.store(*count, Ordering::Relaxed);
        }
        self.count.store(counts.iter().sum(), Ordering::Relaxed);
        self.sum_ns.store(sum.saturating_mul(1_000_000_000), Ordering::Relaxed);
    }

    pub fn read(&self) -> Reading {
        Reading {
            counts: self.counts.iter().map(|count| count.load(Ordering::Relaxed)).collect(),
            count: self.count.load(Ordering::Relaxed),
            sum: self.sum_ns.load(Ordering::Relaxed) as f64 / 1e9,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_belongs_to_its_bucket() {
        let histogram = Histogram::exponential(0.001, 2.0, 3);
        for ms in [1, 2, 3, 9] {
            histogram.observe(Duration::from_millis(ms));
        }
        let read = histogram.read();
        assert_eq!((read.counts, read.count, read.sum), (vec![1, 1, 1], 4, 0.015));
    }
}
