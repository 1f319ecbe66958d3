//! Accounts, and transfers between them by compare and put. An account that is not there holds nothing, and debts are allowed:
//! whatever happens, the sum of all accounts is zero.

use std::collections::BTreeMap;

use bytes::Bytes;
use norn_proto::etcdserverpb as pb;
use pb::request_op::Request;

use super::{Pen, shown, wire};
use crate::history::{Ask, Outcome};

const ACCOUNTS: u64 = 5;
/// Keys of accounts begin with it.
pub const PREFIX: &[u8] = b"b";
const END: &[u8] = b"c";

#[derive(Default)]
pub struct Bank {
    /// Balance and revision per account, as last seen.
    seen: BTreeMap<Bytes, (i64, i64)>,
}

/// What an account's value says.
pub fn balance(value: &[u8]) -> Option<i64> {
    std::str::from_utf8(value).ok()?.parse().ok()
}

fn everything() -> pb::RangeRequest {
    let (key, range_end) = (Bytes::from_static(PREFIX), Bytes::from_static(END));
    pb::RangeRequest { key, range_end, ..Default::default() }
}

impl Bank {
    pub(super) fn next(&self, pen: &mut Pen<'_>) -> Ask {
        if pen.rng.permille(300) {
            let serializable = pen.rng.permille(200);
            return Ask::Query(pb::RangeRequest { serializable, ..everything() });
        }
        let from = pen.rng.below(ACCOUNTS);
        let to = (from + pen.rng.between(1, ACCOUNTS - 1)) % ACCOUNTS;
        let amount = pen.rng.between(1, 9).cast_signed();
        let (mut compare, mut success) = (Vec::new(), Vec::new());
        for (account, change) in [(from, -amount), (to, amount)] {
            let key = Bytes::from(format!("b{account}"));
            let (balance, revision) = self.seen.get(&key).copied().unwrap_or_default();
            let value = Bytes::from((balance + change).to_string());
            compare.push(wire::unmodified(&key, revision));
            success.push(Request::RequestPut(wire::put(&key, &value, 0)));
        }
        Ask::Txn(wire::txn(compare, success, vec![Request::RequestRange(everything())]))
    }

    pub fn learn(&mut self, outcome: &Outcome) {
        let mut kvs = shown(outcome).peekable();
        if kvs.peek().is_some() {
            self.seen = kvs
                .filter_map(|kv| Some((kv.key.clone(), (balance(&kv.value)?, kv.mod_revision))))
                .collect();
        }
    }
}
