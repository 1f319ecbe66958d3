//! Everything that happens, as a running hash and as counts, and as records if somebody wants to read them.

use crate::record::{Place, Record, What};
use crate::rng::mix;
use crate::tally::Tally;

pub struct Trace {
    pub hash: u64,
    pub tally: Tally,
    pub records: Option<Vec<Record>>,
    /// Where each member was last.
    places: Vec<Place>,
}

impl Trace {
    pub fn new(keeps_records: bool) -> Trace {
        let records = keeps_records.then(Vec::new);
        Trace { hash: 0, tally: Tally::default(), records, places: Vec::new() }
    }

    pub fn note(&mut self, at: u64, what: What) {
        self.tell(at, what, String::new);
    }

    /// With more words, for whoever reads it: they are not made if nobody does, and are no part of the hash.
    pub fn tell(&mut self, at: u64, what: What, more: impl FnOnce() -> String) {
        // (Each word by a factor of its own: which of them it was that changed must show, too.)
        let [a, b, c, d] = what.words();
        let words = a.wrapping_mul(0x9fb2_1c65_1e98_df25)
            ^ b.wrapping_mul(0xd6e8_feb8_6659_fd93).rotate_left(23)
            ^ c.wrapping_mul(0xa076_1d64_78bd_642f).rotate_left(41)
            ^ d.wrapping_mul(0xe703_7ed1_a0b4_28db).rotate_left(11);
        self.fold(words.wrapping_add(at.wrapping_mul(0x8ebc_6af0_9c88_c6e3)));
        self.tally.count(&what);
        if let Some(records) = &mut self.records {
            records.push(Record { at, what, more: more() });
        }
    }

    fn fold(&mut self, word: u64) {
        self.hash = mix(self.hash.wrapping_add(0x9e37_79b9_7f4a_7c15) ^ word);
    }

    /// Where a member is after a turn: worth a record if it moved. The turn itself is part of the hash in any case.
    pub fn place(&mut self, at: u64, node: usize, place: Place) {
        if self.places.len() <= node {
            self.places.resize(node + 1, Place::default());
        }
        let before = std::mem::replace(&mut self.places[node], place);
        if before != place {
            if before.role != place.role || before.id == 0 {
                self.tally.roles[usize::from(place.role)] += 1;
            }
            self.note(at, What::Place { node, place });
        } else {
            self.fold(at ^ (node as u64) << 56);
        }
    }
}
