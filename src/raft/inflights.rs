//! The window of appends that are under way to one follower.

use std::collections::VecDeque;

use crate::types::Index;

/// Appends sent and not acknowledged, oldest first, bounded by count and by payload bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inflights {
    /// Last index and payload bytes of each append.
    window: VecDeque<(Index, u64)>,
    bytes: u64,
    count_max: usize,
    /// 0: unlimited. One append may exceed it, else a large entry could never be sent.
    bytes_max: u64,
}

impl Inflights {
    pub fn new(count_max: usize, bytes_max: u64) -> Inflights {
        Inflights { window: VecDeque::new(), bytes: 0, count_max, bytes_max }
    }

    pub fn count(&self) -> usize {
        self.window.len()
    }

    /// Payload bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn is_full(&self) -> bool {
        self.window.len() >= self.count_max || (self.bytes_max != 0 && self.bytes >= self.bytes_max)
    }

    /// # Panics
    /// If full: the sender must ask first.
    pub(crate) fn add(&mut self, last: Index, bytes: u64) {
        assert!(!self.is_full(), "append up to {last} exceeds a full window of {}", self.count());
        self.window.push_back((last, bytes));
        self.bytes += bytes;
    }

    /// Forgets every append that ends at or before `acked`.
    pub(crate) fn free_to(&mut self, acked: Index) {
        while let Some(&(last, bytes)) = self.window.front() {
            if last > acked {
                break;
            }
            self.bytes -= bytes;
            self.window.pop_front();
        }
    }

    /// Forgets everything, the byte count included.
    pub(crate) fn reset(&mut self) {
        self.window.clear();
        self.bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_given_back_by_acks_and_by_reset() {
        let mut window = Inflights::new(3, 10);
        window.add(Index(1), 4);
        window.add(Index(2), 7);
        assert!(window.is_full());
        window.free_to(Index(1));
        assert!(!window.is_full());
        window.add(Index(3), 3);
        assert!(window.is_full());
        window.reset();
        for i in 4..6 {
            window.add(Index(i), 1);
            assert!(!window.is_full());
        }
        window.add(Index(6), 1);
        assert!(window.is_full(), "count");
        assert_eq!(window.count(), 3);
    }

    #[test]
    fn a_single_append_may_exceed_the_byte_limit() {
        let mut window = Inflights::new(3, 10);
        window.add(Index(1), 1000);
        assert!(window.is_full());
        window.free_to(Index(1));
        assert!(!window.is_full());
    }
}
