//! What all connections of a run share.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::time::Duration;

use crate::calls::key;
use crate::histogram::Histogram;
use crate::options::Options;
use crate::status::Failure;
use crate::wire::Wire;

pub struct Shared {
    pub options: Options,
    pub value: Vec<u8>,
    random: Cell<u64>,
    pub measuring: Cell<bool>,
    pub stop: Cell<bool>,
    pub latency: RefCell<Histogram>,
    pub operations: Cell<u64>,
    /// Events that came to watches beside what is counted as operations.
    pub events: Cell<u64>,
    /// Calls that were sent and have no answer yet.
    pub open: Cell<u64>,
    pub errors: RefCell<BTreeMap<String, u64>>,
    pub leases: RefCell<Vec<i64>>,
}

impl Shared {
    pub fn new(options: &Options) -> Shared {
        let mut shared = Shared {
            value: Vec::new(),
            random: Cell::new(options.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            measuring: Cell::new(false),
            stop: Cell::new(false),
            latency: RefCell::default(),
            operations: Cell::new(0),
            events: Cell::new(0),
            open: Cell::new(0),
            errors: RefCell::default(),
            leases: RefCell::default(),
            options: options.clone(),
        };
        shared.value = shared.letters(options.value_bytes);
        shared
    }

    /// Letters, so that values survive any printing.
    pub fn letters(&self, len: usize) -> Vec<u8> {
        (0..len).map(|_| b'a' + (self.random() % 26) as u8).collect()
    }

    /// xorshift64*: cheap, seeded, good enough to pick keys.
    pub fn random(&self) -> u64 {
        let mut x = self.random.get();
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        self.random.set(x);
        x.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn fail(&self, failure: Failure) {
        if self.measuring.get() {
            *self.errors.borrow_mut().entry(failure.0).or_default() += 1;
        }
    }

    pub fn done(&self, latency: Duration) {
        self.done_at_once(1, latency);
    }

    /// `count` operations that one wait was for.
    pub fn done_at_once(&self, count: u64, latency: Duration) {
        if self.measuring.get() {
            self.latency.borrow_mut().record(latency);
            self.operations.set(self.operations.get() + count);
        }
    }

    pub fn heard(&self, events: u64) {
        if self.measuring.get() {
            self.events.set(self.events.get() + events);
        }
    }

    pub fn key(&self, index: u64) -> Vec<u8> {
        key(index, self.options.key_bytes)
    }

    /// To the endpoint whose turn it is.
    pub async fn connect(&self, index: usize) -> std::io::Result<Wire> {
        let endpoints = &self.options.endpoints;
        Wire::connect(&endpoints[index % endpoints.len()], self.options.tls.as_ref()).await
    }
}
