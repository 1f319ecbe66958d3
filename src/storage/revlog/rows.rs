//! The rows of one of the small tables, kept as a checkpoint writes them.
//!
//! Small is what most are; of leases there may be a million. A checkpoint of them must not hold the server up, so rows are kept encoded,
//! some four kilobytes of neighbours in a piece: taking all that there is now means counting one reference more of each piece.
//! To change a row is to write its piece anew.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::{Bytes, BytesMut};

use super::Table;
use super::record::{TABLE_HEADER_BYTES, decode_table_record, encode_table_record};

/// A longer piece is divided, if it has two rows.
const PIECE_BYTES: usize = 4096;

#[derive(Clone, Debug)]
pub struct Rows {
    table: Table,
    /// By a key that is not greater than any in the piece, and greater than all in those before. The first stands under the empty one.
    pieces: BTreeMap<Bytes, Bytes>,
    len: usize,
    /// Of keys and values.
    bytes: u64,
}

/// Where a row stands in its piece, or would.
struct Place {
    start: usize,
    /// Behind it; where it starts, if it is not there.
    end: usize,
    value: Option<std::ops::Range<usize>>,
}

impl Rows {
    pub(super) fn new(table: Table) -> Rows {
        Rows { table, pieces: BTreeMap::new(), len: 0, bytes: 0 }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn get(&self, key: &[u8]) -> Option<Bytes> {
        let (_, piece) = self.pieces.range::<[u8], _>(up_to(key)).next_back()?;
        Some(piece.slice(find(piece, key).value?))
    }

    /// Keys and values, in the order of keys.
    pub fn iter(&self) -> impl Iterator<Item = (Bytes, Bytes)> {
        let mut pieces = self.pieces.values();
        let mut piece = Bytes::new();
        std::iter::from_fn(move || {
            while piece.is_empty() {
                piece = pieces.next()?.clone();
            }
            let row = decode_table_record(&mut piece).expect("rows are encoded here");
            Some((row.key, row.value?))
        })
    }

    /// As a checkpoint has them: records one behind another.
    pub(super) fn encoded(&self) -> impl Iterator<Item = &Bytes> {
        self.pieces.values()
    }

    /// Of keys and values.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Sets a row, or removes it.
    pub(super) fn change(&mut self, key: &Bytes, value: Option<&Bytes>) {
        if self.pieces.is_empty() {
            self.pieces.insert(Bytes::new(), Bytes::new());
        }
        let mut around = self.pieces.range_mut::<[u8], _>(up_to(key));
        let (fence, piece) = around.next_back().expect("the first is not greater than any key");
        let place = find(piece, key);
        if let Some(value) = &place.value {
            self.len -= 1;
            self.bytes -= (key.len() + value.len()) as u64;
        } else if value.is_none() {
            return;
        }
        let added = value.map_or(0, |value| TABLE_HEADER_BYTES + key.len() + value.len());
        let mut new = BytesMut::with_capacity(piece.len() + added - (place.end - place.start));
        new.extend_from_slice(&piece[..place.start]);
        if let Some(value) = value {
            encode_table_record(self.table, key, Some(value), &mut new);
            self.len += 1;
            self.bytes += (key.len() + value.len()) as u64;
        }
        new.extend_from_slice(&piece[place.end..]);
        *piece = new.freeze();
        if piece.is_empty() && !fence.is_empty() {
            let fence = fence.clone();
            self.pieces.remove(&fence);
        } else if piece.len() > PIECE_BYTES
            && let Some(middle) = middle(piece)
        {
            // (Copies, so that neither half keeps the whole.)
            let upper = Bytes::copy_from_slice(&piece[middle..]);
            *piece = Bytes::copy_from_slice(&piece[..middle]);
            let fence = Bytes::copy_from_slice(row(&upper, 0).0);
            self.pieces.insert(fence, upper);
        }
    }
}

fn up_to(key: &[u8]) -> (Bound<&[u8]>, Bound<&[u8]>) {
    (Bound::Unbounded, Bound::Included(key))
}

/// Key, value and end of the row that starts here.
fn row(piece: &[u8], start: usize) -> (&[u8], std::ops::Range<usize>) {
    let word = |at: usize| {
        let word = piece[start + at..start + at + 4].try_into().expect("four bytes");
        u32::from_le_bytes(word) as usize
    };
    let key = start + TABLE_HEADER_BYTES;
    let value = key + word(4);
    (&piece[key..value], value..value + word(8))
}

fn find(piece: &[u8], key: &[u8]) -> Place {
    let mut start = 0;
    while start < piece.len() {
        let (found, value) = row(piece, start);
        match found.cmp(key) {
            std::cmp::Ordering::Less => start = value.end,
            std::cmp::Ordering::Equal => {
                return Place { start, end: value.end, value: Some(value) };
            }
            std::cmp::Ordering::Greater => break,
        }
    }
    Place { start, end: start, value: None }
}

/// Where the second half begins; `None` of a single row.
fn middle(piece: &[u8]) -> Option<usize> {
    let mut at = row(piece, 0).1.end;
    while at < piece.len() / 2 {
        at = row(piece, at).1.end;
    }
    (at < piece.len()).then_some(at)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes(len: std::ops::Range<usize>) -> impl Strategy<Value = Bytes> {
        proptest::collection::vec(0..5u8, len).prop_map(Bytes::from)
    }

    proptest! {
        #[test]
        fn equals_a_map(
            changes in proptest::collection::vec(
                (bytes(0..4), proptest::option::weighted(0.7, bytes(0..900))),
                0..200,
            ),
        ) {
            let mut rows = Rows::new(Table::Lease);
            let mut twin: BTreeMap<Bytes, Bytes> = BTreeMap::new();
            for (key, value) in changes {
                rows.change(&key, value.as_ref());
                match value {
                    Some(value) => drop(twin.insert(key.clone(), value)),
                    None => drop(twin.remove(&key)),
                }
                prop_assert_eq!(rows.get(&key), twin.get(&key).cloned());
                prop_assert_eq!(rows.len(), twin.len());
            }
            let all: Vec<_> = rows.iter().collect();
            let expected: Vec<_> = twin.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
            prop_assert_eq!(&all, &expected);
            let bytes = twin.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>();
            prop_assert_eq!(rows.bytes(), bytes as u64);
            for piece in rows.encoded() {
                prop_assert!(piece.len() <= PIECE_BYTES || middle(piece).is_none());
            }
            // What a checkpoint has is what there was.
            let mut again = Rows::new(Table::Lease);
            for piece in rows.encoded() {
                let mut piece = piece.clone();
                while !piece.is_empty() {
                    let record = decode_table_record(&mut piece).expect("encoded rows");
                    again.change(&record.key, record.value.as_ref());
                }
            }
            prop_assert_eq!(again.iter().collect::<Vec<_>>(), expected);
        }
    }
}
