//! Keys, and values by revision in memory: what the store is given in place of the revision log.

// Each bench uses a part.
#![allow(dead_code)]

use std::convert::Infallible;
use std::ops::ControlFlow;

use bytes::Bytes;
use norn_mvcc::{Change, Revision, Store, Values};

const VALUE_BYTES: usize = 100;
/// Main revision of the first change of a store.
const FIRST_MAIN: i64 = 2;

/// Records of transactions with one change each.
#[derive(Debug, Default)]
pub(crate) struct Records(Vec<Bytes>);

impl Records {
    pub(crate) fn push(&mut self, changes: Vec<Change>) {
        self.0.extend(changes.into_iter().map(|change| change.record));
    }
}

impl Values for Records {
    type Error = Infallible;

    fn read(&self, revision: Revision) -> Result<Bytes, Infallible> {
        Ok(self.0[(revision.main - FIRST_MAIN) as usize].clone())
    }

    fn scan(
        &self,
        from: Revision,
        to_main: i64,
        visit: &mut dyn FnMut(Revision, bool, &Bytes) -> ControlFlow<()>,
    ) -> Result<(), Infallible> {
        for main in from.main.max(FIRST_MAIN)..=to_main {
            let record = &self.0[(main - FIRST_MAIN) as usize];
            if visit(Revision::new(main, 0), false, record).is_break() {
                break;
            }
        }
        Ok(())
    }
}

/// Keys as Kubernetes makes them; 43 bytes, many with the same beginning.
pub(crate) fn key(n: u64) -> Bytes {
    format!("/registry/pods/namespace-{:04}/pod-{n:09}", n / 1000).into()
}

pub(crate) fn value() -> Bytes {
    Bytes::from_static(&[b'v'; VALUE_BYTES])
}

/// Every key put once a round.
pub(crate) fn store(keys: u64, rounds: u64) -> (Store, Records) {
    let (mut store, mut records) = (Store::new(), Records::default());
    for n in (0..rounds).flat_map(|_| 0..keys) {
        let mut txn = store.write();
        txn.put(key(n), value(), 0);
        records.push(txn.finish());
    }
    (store, records)
}
