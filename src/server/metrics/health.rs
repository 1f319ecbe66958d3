//! Questions after this member's health, and their answers.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use super::text::Page;

/// The last one, and how many failed and passed.
type Results = (bool, [u64; 2]);

#[derive(Debug, Default)]
pub struct HealthMetrics {
    successes: Cell<u64>,
    failures: Cell<u64>,
    /// By kind of probe and name.
    checks: RefCell<BTreeMap<(&'static str, &'static str), Results>>,
}

impl HealthMetrics {
    /// `/health` was answered.
    pub fn answered(&self, is_healthy: bool) {
        let count = if is_healthy { &self.successes } else { &self.failures };
        count.set(count.get() + 1);
    }

    /// A check of `/livez` or `/readyz`.
    pub fn checked(&self, kind: &'static str, check: &'static str, passed: bool) {
        let mut checks = self.checks.borrow_mut();
        let (last, counts) = checks.entry((kind, check)).or_default();
        *last = passed;
        counts[usize::from(passed)] += 1;
    }

    pub(super) fn write(&self, page: &mut Page) {
        page.counter(
            "etcd_server_health_success",
            "The total number of successful health checks",
            self.successes.get(),
        );
        page.counter(
            "etcd_server_health_failures",
            "The total number of failed health checks",
            self.failures.get(),
        );
        let checks = self.checks.borrow();
        let mut last =
            page.gauges("etcd_server_healthcheck", "The result of each kind of healthcheck.");
        for ((kind, name), (passed, _)) in checks.iter() {
            last.sample(&[("name", name), ("type", kind)], (*passed).into());
        }
        drop(last);
        let mut total = page.counters(
            "etcd_server_healthchecks_total",
            "The total number of each kind of healthcheck.",
        );
        for ((kind, name), (_, counts)) in checks.iter() {
            for (status, count) in ["error", "success"].into_iter().zip(counts) {
                if *count > 0 {
                    let labels = [("name", *name), ("status", status), ("type", *kind)];
                    total.sample(&labels, *count as f64);
                }
            }
        }
    }
}
