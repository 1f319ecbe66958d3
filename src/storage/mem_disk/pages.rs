//! The bytes of a file, in pages: one that is all zeroes takes no room, and copies of a file share those that neither has changed.

use std::sync::Arc;

use bytes::Bytes;

const PAGE: usize = 4096;

type Page = [u8; PAGE];

#[derive(Clone, Debug, Default)]
pub(super) struct Pages {
    /// `None`: zeroes. As many as `len` needs; behind `len` there is nothing but zeroes.
    pages: Vec<Option<Arc<Page>>>,
    len: usize,
}

impl Pages {
    pub(super) fn len(&self) -> u64 {
        self.len as u64
    }

    /// Longer: with zeroes.
    pub(super) fn resize(&mut self, len: u64) {
        let len = usize::try_from(len).expect("a disk in memory has addresses for its bytes");
        if len < self.len {
            self.zero(len, self.len);
        }
        self.pages.resize(len.div_ceil(PAGE), None);
        self.len = len;
    }

    /// The file must reach that far.
    pub(super) fn write(&mut self, offset: u64, mut data: &[u8]) {
        let mut at = offset as usize;
        assert!(at + data.len() <= self.len, "a write beyond the end of the file");
        while !data.is_empty() {
            let (number, from) = (at / PAGE, at % PAGE);
            let (now, later) = data.split_at(data.len().min(PAGE - from));
            self.page(number)[from..from + now.len()].copy_from_slice(now);
            at += now.len();
            data = later;
        }
    }

    /// Zeroes within the file.
    pub(super) fn fill_zero(&mut self, from: u64, to: u64) {
        self.zero(from as usize, to as usize);
    }

    fn zero(&mut self, mut from: usize, to: usize) {
        assert!(to <= self.len, "zeroes beyond the end of the file");
        while from < to {
            let (number, start) = (from / PAGE, from % PAGE);
            let end = PAGE.min(start + (to - from));
            if end - start == PAGE {
                self.pages[number] = None;
            } else if self.pages[number].is_some() {
                self.page(number)[start..end].fill(0);
            }
            from += end - start;
        }
    }

    fn page(&mut self, number: usize) -> &mut Page {
        Arc::make_mut(self.pages[number].get_or_insert_with(|| Arc::new([0; PAGE])))
    }

    /// What there is of `len` bytes from `offset` on.
    pub(super) fn read(&self, offset: u64, len: usize) -> Bytes {
        let from = usize::try_from(offset).map_or(self.len, |offset| offset.min(self.len));
        let to = from.saturating_add(len).min(self.len);
        if let (Some(Some(page)), true) = (self.pages.get(from / PAGE), from / PAGE == to / PAGE) {
            return Bytes::copy_from_slice(&page[from % PAGE..to % PAGE]);
        }
        let mut bytes = Vec::with_capacity(to - from);
        while from + bytes.len() < to {
            let at = from + bytes.len();
            let start = at % PAGE;
            let end = PAGE.min(start + (to - at));
            match &self.pages[at / PAGE] {
                Some(page) => bytes.extend_from_slice(&page[start..end]),
                None => bytes.resize(bytes.len() + (end - start), 0),
            }
        }
        bytes.into()
    }

    /// False if the file is not that long.
    pub(super) fn flip_bit(&mut self, offset: u64, bit: u8) -> bool {
        let is_there = offset < self.len();
        if is_there {
            let at = offset as usize;
            self.page(at / PAGE)[at % PAGE] ^= 1 << (bit & 7);
        }
        is_there
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Act {
        Resize(usize),
        Write(usize, Vec<u8>),
        Zero(usize, usize),
        Flip(usize, u8),
        Copy,
    }

    fn acts() -> impl Strategy<Value = Vec<Act>> {
        let place = 0usize..3 * PAGE;
        let act = prop_oneof![
            place.clone().prop_map(Act::Resize),
            (place.clone(), prop::collection::vec(any::<u8>(), 0..2 * PAGE))
                .prop_map(|(at, data)| Act::Write(at, data)),
            (place.clone(), place.clone()).prop_map(|(a, b)| Act::Zero(a.min(b), a.max(b))),
            (place, any::<u8>()).prop_map(|(at, bit)| Act::Flip(at, bit)),
            Just(Act::Copy),
        ];
        prop::collection::vec(act, 1..20)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn pages_are_as_a_vector_is_and_copies_stay_what_they_were(
            acts in acts(),
            reads in prop::collection::vec((0u64..4 * PAGE as u64, 0usize..3 * PAGE), 1..10),
        ) {
            let (mut pages, mut twin) = (Pages::default(), Vec::<u8>::new());
            let mut copies = Vec::new();
            for act in acts {
                match act {
                    Act::Resize(len) => {
                        pages.resize(len as u64);
                        twin.resize(len, 0);
                    }
                    Act::Write(at, data) => {
                        let end = (at + data.len()).max(twin.len());
                        pages.resize(end as u64);
                        twin.resize(end, 0);
                        pages.write(at as u64, &data);
                        twin[at..at + data.len()].copy_from_slice(&data);
                    }
                    Act::Zero(from, to) => {
                        let (from, to) = (from.min(twin.len()), to.min(twin.len()));
                        pages.fill_zero(from as u64, to as u64);
                        twin[from..to].fill(0);
                    }
                    Act::Flip(at, bit) => {
                        prop_assert_eq!(pages.flip_bit(at as u64, bit), at < twin.len());
                        if let Some(byte) = twin.get_mut(at) {
                            *byte ^= 1 << (bit & 7);
                        }
                    }
                    Act::Copy => copies.push((pages.clone(), twin.clone())),
                }
            }
            copies.push((pages, twin));
            for (pages, twin) in copies {
                prop_assert_eq!(pages.len(), twin.len() as u64);
                prop_assert_eq!(&pages.read(0, twin.len() + 1)[..], &twin[..]);
                for (at, len) in &reads {
                    let from = (*at as usize).min(twin.len());
                    let to = (from + len).min(twin.len());
                    prop_assert_eq!(&pages.read(*at, *len)[..], &twin[from..to]);
                }
            }
        }
    }
}
