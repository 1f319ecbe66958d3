//! Writes of one resource by one apiserver: create, update and delete, each a transaction on the revision that it knows.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use norn_tests::pb::compare::{CompareResult, TargetUnion};
use norn_tests::pb::response_op::Response;
use norn_tests::pb::{PutRequest, TxnRequest};
use norn_tests::req::{compare, del, get, op_del, op_get, op_put, put, txn};
use norn_tests::rng::Rng;

use crate::endpoints::{Endpoint, Shared};
use crate::truth::{Change, Written};

/// Objects of one writer.
const OBJECTS: u64 = 200;
/// Length of a value: a lease object, about.
const VALUE_BYTES: usize = 800;
/// Shared by so many objects, as kube-apiserver does with events.
const OBJECTS_PER_LEASE: usize = 100;
const LEASE_TTL_SECONDS: i64 = 30;

struct Writer {
    prefix: String,
    endpoint: Endpoint,
    rng: Rng,
    serial: u64,
    /// What it believes to be there: a revision, or that it has to look.
    known: BTreeMap<String, i64>,
    /// A lease, and how many objects have it.
    lease: (i64, usize),
    /// Whether objects have leases.
    expires: bool,
    written: Written,
}

pub async fn run(
    apiserver: usize,
    resource: &'static str,
    seed: u64,
    pace: Duration,
    shared: Arc<Shared>,
) -> Written {
    let mut writer = Writer {
        prefix: format!("/registry/{resource}/ns{apiserver}"),
        endpoint: Endpoint::new(&shared, apiserver),
        rng: Rng::new(seed),
        serial: 0,
        known: BTreeMap::new(),
        lease: (0, 0),
        expires: resource == "events",
        written: Written::new(resource),
    };
    let mut beat = tokio::time::interval(pace);
    while !shared.stop_writing.load(Ordering::Relaxed) {
        beat.tick().await;
        writer.step().await;
    }
    writer.written
}

impl Writer {
    async fn step(&mut self) {
        let object = self.rng.below(OBJECTS);
        let key = format!("{}/object-{object}", self.prefix);
        match self.known.get(&key).copied() {
            None => self.look(&key).await,
            Some(0) => {
                // A create does not ask what is there instead.
                self.lease().await;
                let value = self.value(&key);
                let put = PutRequest { lease: self.lease.0, ..put(&key, &value) };
                let request = txn(self.unchanged(&key, 0), vec![op_put(put)], vec![]);
                self.send(&key, request, Change::Put(value)).await;
            }
            Some(revision) if self.rng.chance(20) => {
                let request = txn(
                    self.unchanged(&key, revision),
                    vec![op_del(del(&key))],
                    vec![op_get(get(&key))],
                );
                self.send(&key, request, Change::Delete).await;
            }
            Some(revision) => {
                self.lease().await;
                let value = self.value(&key);
                let put = PutRequest { lease: self.lease.0, ..put(&key, &value) };
                let request =
                    txn(self.unchanged(&key, revision), vec![op_put(put)], vec![op_get(get(&key))]);
                self.send(&key, request, Change::Put(value)).await;
            }
        }
    }

    fn unchanged(&self, key: &str, revision: i64) -> Vec<norn_tests::pb::Compare> {
        vec![compare(key, CompareResult::Equal, TargetUnion::ModRevision(revision))]
    }

    /// Every value is there once.
    fn value(&mut self, key: &str) -> String {
        self.serial += 1;
        let mut value = format!("{key} {} ", self.serial);
        value.extend(std::iter::repeat_n('x', VALUE_BYTES));
        value
    }

    async fn look(&mut self, key: &str) {
        let request = norn_tests::pb::RangeRequest { limit: 1, ..get(key) };
        match self.endpoint.client().range(request).await {
            Ok(answer) => {
                let revision = answer.kvs.first().map_or(0, |kv| kv.mod_revision);
                self.known.insert(key.to_owned(), revision);
            }
            Err(_) => self.endpoint.fail().await,
        }
    }

    async fn lease(&mut self) {
        if !self.expires || (self.lease.0 != 0 && self.lease.1 < OBJECTS_PER_LEASE) {
            self.lease.1 += 1;
            return;
        }
        match self.endpoint.client().lease_grant(0, LEASE_TTL_SECONDS).await {
            Ok(answer) => self.lease = (answer.id, 1),
            Err(_) => self.lease = (0, 0),
        }
    }

    async fn send(&mut self, key: &str, request: TxnRequest, change: Change) {
        let answer = match self.endpoint.client().txn(request).await {
            Ok(answer) => answer,
            Err(status) => {
                // (Its lease has run out: nothing was done.)
                if status.message().contains("requested lease not found") {
                    self.lease = (0, 0);
                    return;
                }
                self.written.unknown(key, change);
                self.known.remove(key);
                self.endpoint.fail().await;
                return;
            }
        };
        let revision = answer.header.map_or(0, |header| header.revision);
        if answer.succeeded {
            let is_delete = matches!(change, Change::Delete);
            self.known.insert(key.to_owned(), if is_delete { 0 } else { revision });
            self.written.done(revision, key, change);
            return;
        }
        // Only a lease, or a write without an answer, comes between: this writer has its objects for itself.
        match answer.responses.first().and_then(|response| response.response.as_ref()) {
            Some(Response::ResponseRange(range)) => {
                let revision = range.kvs.first().map_or(0, |kv| kv.mod_revision);
                self.known.insert(key.to_owned(), revision);
            }
            _ => {
                self.known.remove(key);
            }
        }
    }
}
